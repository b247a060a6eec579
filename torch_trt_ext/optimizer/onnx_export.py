"""TorchScript graphs to ONNX. The only module that knows torch's exporter, so that another can take its place."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import onnx
import torch
from torch import Tensor

#: The newest operator set that torch's TorchScript exporter writes, TensorRT 10 reads and OpenVINO reads.
OPSET = 18

#: Names of the exported model's inputs and outputs are these and a number.
INPUT_PREFIX = "input_"
OUTPUT_PREFIX = "output_"

_NODE_NAME = re.compile(r"(?:^|[^\w])n(\d+)/")

#: Operators that have no ONNX counterpart of their own, written with operators that have: pattern and replacement.
_DECOMPOSITIONS = {
    "aten::_native_multi_head_attention": (
        """
graph(%query, %key, %value, %embed_dim, %num_heads, %qkv_weight, %qkv_bias, %proj_weight, %proj_bias, %mask, %need,
      %average, %mask_type):
  %output : Tensor, %weights : Tensor = aten::_native_multi_head_attention(%query, %key, %value, %embed_dim, %num_heads,
      %qkv_weight, %qkv_bias, %proj_weight, %proj_bias, %mask, %need, %average, %mask_type)
  return (%output, %weights)""",
        """
graph(%query, %key, %value, %embed_dim : int, %num_heads : int, %qkv_weight, %qkv_bias, %proj_weight, %proj_bias, %mask,
      %need, %average, %mask_type):
  %none : NoneType = prim::Constant()
  %zero : int = prim::Constant[value=0]()
  %one : int = prim::Constant[value=1]()
  %two : int = prim::Constant[value=2]()
  %three : int = prim::Constant[value=3]()
  %last : int = prim::Constant[value=-1]()
  %rate : float = prim::Constant[value=0.]()
  %false : bool = prim::Constant[value=0]()
  %packed : Tensor = aten::linear(%query, %qkv_weight, %qkv_bias)
  %batch : int = aten::size(%query, %zero)
  %length : int = aten::size(%query, %one)
  %head : int = aten::floordiv(%embed_dim, %num_heads)
  %shape : int[] = prim::ListConstruct(%batch, %length, %three, %num_heads, %head)
  %parts : Tensor = aten::view(%packed, %shape)
  %order : int[] = prim::ListConstruct(%two, %zero, %three, %one, %four)
  %turned : Tensor = aten::permute(%parts, %order)
  %q : Tensor = aten::select(%turned, %zero, %zero)
  %k : Tensor = aten::select(%turned, %zero, %one)
  %v : Tensor = aten::select(%turned, %zero, %two)
  %attended : Tensor = aten::scaled_dot_product_attention(%q, %k, %v, %none, %rate, %false, %none, %false)
  %back : Tensor = aten::transpose(%attended, %one, %two)
  %flat_shape : int[] = prim::ListConstruct(%batch, %length, %embed_dim)
  %flat : Tensor = aten::reshape(%back, %flat_shape)
  %output : Tensor = aten::linear(%flat, %proj_weight, %proj_bias)
  return (%output, %output)""".replace(
            "  %last : int = prim::Constant[value=-1]()\n", "  %four : int = prim::Constant[value=4]()\n"
        ),
    ),
}


class ExportError(Exception):
    """A subgraph has no ONNX form.

    Attributes:
        operator: the operator to blame, as ``aten::frac``, if the exporter named one.
    """

    def __init__(self, message: str, operator: str = "") -> None:
        super().__init__(message)
        self.operator = operator


def has_onnx_form(kind: str) -> bool:
    """Whether the exporter knows an operator (``aten::conv2d``) at all."""
    from torch.onnx._internal.torchscript_exporter.registration import registry

    return kind in _DECOMPOSITIONS or bool(registry.is_registered_op(kind, OPSET))


def node_of(name: str) -> int | None:
    """The number of the TorchScript node that an ONNX node, or a message with its name in it, comes from."""
    found = _NODE_NAME.search(name)
    return int(found.group(1)) if found else None


def export(graph: Any, inputs: Sequence[Tensor], dynamic_dims: Sequence[Sequence[int]]) -> onnx.ModelProto:
    """Exports a graph of tensors to tensors.

    Args:
        graph: a ``torch.Graph`` as ``PreparedModel.engine_graph`` makes it; it is changed.
        inputs: one tensor for each of its inputs, to take shapes and types from.
        dynamic_dims: which dimensions of each input vary.

    Returns:
        The model. Inputs are called ``input_0``, ``input_1``, ... and outputs ``output_0``, ...; inputs that nothing
        reads are left out. Nodes are called after the scopes of the graph's nodes, see :func:`node_of`.

    Raises:
        ExportError: the exporter cannot.
    """
    for pattern, replacement in _DECOMPOSITIONS.values():
        torch._C._jit_pass_custom_pattern_based_rewrite_graph(pattern, replacement, graph)
    _keep_scopes(graph)
    names = [f"{INPUT_PREFIX}{index}" for index in range(len(inputs))]
    result = next(iter(graph.outputs()))
    count = len(list(result.node().inputs())) if result.node().kind() == "prim::TupleConstruct" else 1
    outputs = [f"{OUTPUT_PREFIX}{index}" for index in range(count)]
    dynamic = {name: {dim: f"{name}_{dim}" for dim in dims} for name, dims in zip(names, dynamic_dims, strict=True)}
    function = torch._C._create_function_from_graph("subgraph", graph)
    buffer = io.BytesIO()
    try:
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                function,
                tuple(inputs),
                buffer,  # type: ignore[arg-type]
                dynamo=False,
                opset_version=OPSET,
                input_names=names,
                output_names=outputs,
                dynamic_axes={name: dims for name, dims in dynamic.items() if dims},
                do_constant_folding=True,
            )
    except Exception as error:  # the exporter's symbolic functions raise anything
        raise ExportError(_last_line(error), _operator_in(str(error))) from error
    model = onnx.load_from_string(buffer.getvalue())
    return _tidied(model)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # Deprecations and tracer remarks are for those who call the exporter themselves.
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _keep_scopes(graph: Any) -> None:
    """Gives nodes that a rewrite made the scope of the node before them, so that all of them have one."""
    last = None
    for node in graph.nodes():
        if node.scopeName():
            last = node
        elif last is not None:
            node.copyMetadata(last)


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:400] if lines else type(error).__name__


def _operator_in(message: str) -> str:
    found = re.search(r"operator '?([a-z_]+::\w+)'?", message)
    return found.group(1) if found else ""


def _tidied(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drops inputs that nothing reads, and puts an Identity where an output is an input or another output."""
    graph = model.graph
    read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                read |= {name for inner in attribute.g.node for name in inner.input}
    unread = [value for value in graph.input if value.name not in read]
    for value in unread:
        graph.input.remove(value)
    inputs = {value.name for value in graph.input}
    seen: set[str] = set()
    for index, output in enumerate(graph.output):
        if output.name in inputs or output.name in seen:
            name = f"{OUTPUT_PREFIX}{index}"
            graph.node.append(onnx.helper.make_node("Identity", [output.name], [name], name=f"Identity_{name}"))
            output.name = name
        seen.add(output.name)
    return model
