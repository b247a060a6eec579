"""TorchScript graphs to ONNX. The only module that knows torch's exporter, so that another can take its place."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import onnx
import torch
from torch import Tensor

from torch_trt_ext.optimizer.messages import first_line
from torch_trt_ext.optimizer.onnx_folding import fold_shapes
from torch_trt_ext.optimizer.onnx_names import names_read
from torch_trt_ext.optimizer.onnx_written_out import WRITTEN_OUT, NotWrittenOut

#: The newest operator set that torch's TorchScript exporter writes, TensorRT 10 reads and OpenVINO reads.
OPSET = 18

#: Names of the exported model's inputs and outputs are these and a number.
INPUT_PREFIX = "input_"
OUTPUT_PREFIX = "output_"

_NODE_NAME = re.compile(r"(?:^|[^\w])n(\d+)/")


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
    return kind in WRITTEN_OUT or bool(_registry().is_registered_op(kind, OPSET))


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
    """Replaces operators by simpler ones, which get their scopes, and computes what is constant then."""
    for kind, write in WRITTEN_OUT.items():
        for node in graph.findAllNodes(kind):
            try:
                with graph.insert_point_guard(node):
                    result = write(graph, node)
            except NotWrittenOut as error:
                raise ExportError(str(error), kind) from error
            if result is None:
                continue
            for new in graph.nodes():
                if not new.scopeName():
                    new.copyMetadata(node)
            node.outputsAt(0).replaceAllUsesWith(result)
            node.destroy()
        torch._C._jit_pass_constant_propagation(graph)


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
