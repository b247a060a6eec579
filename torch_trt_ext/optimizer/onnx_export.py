"""TorchScript graphs to ONNX. The only module that knows torch's exporter, so that another can take its place."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import onnx
import torch
from torch import Tensor

from torch_trt_ext.optimizer.messages import first_line
from torch_trt_ext.optimizer.onnx_folding import fold_shapes
from torch_trt_ext.optimizer.onnx_names import names_read

#: The newest operator set that torch's TorchScript exporter writes, TensorRT 10 reads and OpenVINO reads.
OPSET = 18

#: Names of the exported model's inputs and outputs are these and a number.
INPUT_PREFIX = "input_"
OUTPUT_PREFIX = "output_"

_NODE_NAME = re.compile(r"(?:^|[^\w])n(\d+)/")

#: ``aten::_native_multi_head_attention`` without a mask, in operators that have an ONNX form.
_ATTENTION = """
graph(%query : Tensor, %key : Tensor, %value : Tensor, %embed_dim : int, %num_heads : int, %qkv_weight : Tensor,
      %qkv_bias : Tensor, %proj_weight : Tensor, %proj_bias : Tensor, %mask : Tensor?, %need_weights : bool,
      %average : bool, %mask_type : int?):
  %none : NoneType = prim::Constant()
  %zero : int = prim::Constant[value=0]()
  %one : int = prim::Constant[value=1]()
  %two : int = prim::Constant[value=2]()
  %three : int = prim::Constant[value=3]()
  %four : int = prim::Constant[value=4]()
  %rate : float = prim::Constant[value=0.]()
  %exponent : float = prim::Constant[value=-0.5]()
  %false : bool = prim::Constant[value=0]()
  %packed : Tensor = aten::linear(%query, %qkv_weight, %qkv_bias)
  %batch : int = aten::size(%query, %zero)
  %length : int = aten::size(%query, %one)
  %head : int = aten::floordiv(%embed_dim, %num_heads)
  %scale : float = aten::pow(%head, %exponent)
  %shape : int[] = prim::ListConstruct(%batch, %length, %three, %num_heads, %head)
  %parts : Tensor = aten::view(%packed, %shape)
  %order : int[] = prim::ListConstruct(%two, %zero, %three, %one, %four)
  %turned : Tensor = aten::permute(%parts, %order)
  %q : Tensor = aten::select(%turned, %zero, %zero)
  %k : Tensor = aten::select(%turned, %zero, %one)
  %v : Tensor = aten::select(%turned, %zero, %two)
  %attended : Tensor = aten::scaled_dot_product_attention(%q, %k, %v, %none, %rate, %false, %scale, %false)
  %back : Tensor = aten::transpose(%attended, %one, %two)
  %flat_shape : int[] = prim::ListConstruct(%batch, %length, %embed_dim)
  %flat : Tensor = aten::reshape(%back, %flat_shape)
  %output : Tensor = aten::linear(%flat, %proj_weight, %proj_bias)
  return (%output)"""


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
    return kind in _WRITTEN_OUT or bool(_registry().is_registered_op(kind, OPSET))


@functools.cache
def _registry() -> Any:
    """What the exporter knows; it registers some of it only when it is first used."""
    package = "torch.onnx._internal.torchscript_exporter"
    for opset in range(7, OPSET + 1):
        importlib.import_module(f"{package}.symbolic_opset{opset}")
    return importlib.import_module(f"{package}.registration").registry


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
    _write_out(graph)
    torch._C._jit_pass_constant_propagation(graph)
    _fix_attention_scales(graph)
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
        raise ExportError(first_line(error), _operator_in(str(error))) from error
    return fold_shapes(_tidied(onnx.load_from_string(buffer.getvalue())))


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


def _write_out(graph: Any) -> None:
    """Replaces operators that have no ONNX form by those that have, which get their scopes."""
    for kind, write in _WRITTEN_OUT.items():
        for node in graph.findAllNodes(kind):
            with graph.insert_point_guard(node):
                result = write(graph, node)
            for new in graph.nodes():
                if not new.scopeName():
                    new.copyMetadata(node)
            node.outputsAt(0).replaceAllUsesWith(result)
            node.destroy()


def _attention(graph: Any, node: Any) -> Any:
    if node.outputsAt(1).uses():
        raise ExportError("attention whose weights are asked for is not written out", node.kind())
    mask = node.inputsAt(9)
    if mask.type().kind() != "NoneType" and not mask.node().mustBeNone():
        raise ExportError("attention with a mask is not written out", node.kind())
    return graph.insertGraph(torch._C.parse_ir(_ATTENTION), list(node.inputs()))[0]


def _unflatten(graph: Any, node: Any) -> Any:
    """As a reshape, where the rank of the input is known."""
    tensor, dim, parts = node.inputs()
    known = isinstance(tensor.type(), torch.TensorType) and tensor.type().varyingSizes()
    if not known or dim.node().kind() != "prim::Constant":
        raise ExportError("unflatten of a tensor whose rank is not known is not written out", node.kind())
    sizes = [
        graph.insertConstant(size)
        if size is not None
        else _insert(graph, "aten::size", [tensor, graph.insertConstant(index)], torch._C.IntType.get())
        for index, size in enumerate(known)
    ]
    if parts.node().kind() == "prim::Constant":
        middle = [graph.insertConstant(size) for size in parts.toIValue()]
    elif parts.node().kind() == "prim::ListConstruct":
        middle = list(parts.node().inputs())
    else:
        raise ExportError("unflatten into a list of unknown length is not written out", node.kind())
    position = dim.toIValue() % len(known)
    shape = sizes[:position] + middle + sizes[position + 1 :]
    shape_list = _insert(graph, "prim::ListConstruct", shape, torch._C.ListType.ofInts())
    return _insert(graph, "aten::reshape", [tensor, shape_list], node.output().type())


def _insert(graph: Any, kind: str, inputs: list[Any], result_type: Any) -> Any:
    """Adds a node with one output at the insertion point."""
    node = graph.insertNode(graph.create(kind, inputs, 1))
    node.output().setType(result_type)
    return node.output()


#: Operators that have no ONNX counterpart, and what writes them out: it adds nodes at the insertion point and returns
#: what takes the place of the first output.
_WRITTEN_OUT: dict[str, Callable[[Any, Any], Any]] = {
    "aten::_native_multi_head_attention": _attention,
    "aten::unflatten": _unflatten,
}


def _fix_attention_scales(graph: Any) -> None:
    """Gives attention its scale as a number where the size of a head is known: the exporter reads it off a shape."""
    for node in graph.findAllNodes("aten::scaled_dot_product_attention"):
        arguments = list(node.inputs())
        sizes = arguments[0].type().varyingSizes() if isinstance(arguments[0].type(), torch.TensorType) else None
        if arguments[6].type().kind() == "NoneType" and sizes and sizes[-1]:
            with graph.insert_point_guard(node):
                node.replaceInput(6, graph.insertConstant(float(sizes[-1]) ** -0.5))


def _operator_in(message: str) -> str:
    found = re.search(r"operator '?([a-z_]+::\w+)'?", message)
    return found.group(1) if found else ""


def _tidied(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drops inputs that nothing reads, and puts an Identity where an output is an input or another output."""
    graph = model.graph
    read = {name for node in graph.node for name in names_read(node)} | {output.name for output in graph.output}
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
