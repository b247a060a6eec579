"""TorchScript graphs to ONNX. The only module that knows torch's exporter, so that another can take its place."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import logging
import re
import string
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx
import torch
from torch import Tensor

from torch_trt_ext.optimizer.messages import first_line
from torch_trt_ext.optimizer.onnx_folding import fold_shapes
from torch_trt_ext.optimizer.onnx_names import names_read
from torch_trt_ext.optimizer.onnx_repeats import cut_repeats
from torch_trt_ext.optimizer.onnx_written_out import WRITTEN_OUT, NotWrittenOut, take_weights
from torch_trt_ext.optimizer.plugin_operators import PLUGIN_DOMAIN, NoPlugin, PluginNode, PluginOperator

#: The newest operator set that torch's TorchScript exporter writes, TensorRT 10 reads and OpenVINO reads.
OPSET = 18

#: Names of the exported model's inputs and outputs are these and a number.
INPUT_PREFIX = "input_"
OUTPUT_PREFIX = "output_"

_NODE_NAME = re.compile(r"(?:^|[^\w])n(\d+)/")

#: The attribute of a TorchScript node that says which of the plugin nodes it becomes.
_PLUGIN_MARK = "torch_trt_ext_plugin"


class ExportError(Exception):
    """A subgraph has no ONNX form.

    Attributes:
        operator: the operator to blame, as ``aten::frac``, if the exporter named one.
        reasons: what is wrong with single nodes, by their number, where that is known.
    """

    def __init__(self, message: str, operator: str = "", reasons: Mapping[int, str] | None = None) -> None:
        super().__init__(message)
        self.operator = operator
        self.reasons = dict(reasons or {})


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


def export(
    graph: Any,
    inputs: Sequence[Tensor],
    dynamic_dims: Sequence[Sequence[int]],
    plugin_operators: Mapping[str, PluginOperator] | None = None,
) -> onnx.ModelProto:
    """Exports a graph of tensors to tensors.

    Args:
        graph: a ``torch.Graph`` as ``PreparedModel.engine_graph`` makes it; it is changed.
        inputs: one tensor for each of its inputs, to take shapes and types from.
        dynamic_dims: which dimensions of each input vary.
        plugin_operators: operators that become nodes of ``PLUGIN_DOMAIN``, by name.

    Returns:
        The model. Inputs are called ``input_0``, ``input_1``, ... and outputs ``output_0``, ...; inputs that nothing
        reads are left out. Nodes are called after the scopes of the graph's nodes, see :func:`node_of`.

    Raises:
        ExportError: the exporter cannot.
    """
    plugins = plugin_operators or {}
    _write_out(graph, plugins)
    plugin_nodes = _mark_plugins(graph, plugins)
    weights = [] if plugins.keys() & {"aten::linear", "aten::embedding"} else take_weights(graph)
    weight_names = [f"weight_{index}" for index in range(len(weights))]
    names = [f"{INPUT_PREFIX}{index}" for index in range(len(inputs))]
    result = next(iter(graph.outputs()))
    count = len(list(result.node().inputs())) if result.node().kind() == "prim::TupleConstruct" else 1
    outputs = [f"{OUTPUT_PREFIX}{index}" for index in range(count)]
    dynamic = {name: {dim: f"{name}_{dim}" for dim in dims} for name, dims in zip(names, dynamic_dims, strict=True)}
    function = torch._C._create_function_from_graph("subgraph", graph)
    buffer = io.BytesIO()
    try:
        with _quiet(), torch.no_grad(), _plugins_known(plugins, plugin_nodes):
            torch.onnx.export(
                function,
                (*inputs, *weights),
                buffer,  # type: ignore[arg-type]
                dynamo=False,
                opset_version=OPSET,
                input_names=[*names, *weight_names],
                output_names=outputs,
                dynamic_axes={name: dims for name, dims in dynamic.items() if dims},
                do_constant_folding=True,
            )
    except Exception as error:  # the exporter's symbolic functions raise anything
        raise ExportError(first_line(error), _operator_in(str(error))) from error
    model = onnx.load_from_string(buffer.getvalue())
    _put_constants(model, dict(zip(weight_names, weights, strict=True)))
    return cut_repeats(fold_shapes(_tidied(model)))


def lower_case_equation(equation: str) -> str:
    """The same equation of Einsum in lower-case letters: TensorRT has no others.

    Where letters are replaced, what is given is written out; by itself it is in the order of the alphabet.
    """
    equation = equation.replace(" ", "")
    letters = sorted({letter for letter in equation if letter.isalpha()})
    if "".join(letters).islower() or len(letters) > len(string.ascii_lowercase):
        return equation
    if "->" not in equation:
        once = [letter for letter in letters if equation.count(letter) == 1]
        equation += "->" + "..." * ("..." in equation) + "".join(once)
    return equation.translate(str.maketrans("".join(letters), string.ascii_lowercase[: len(letters)]))


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


def _write_out(graph: Any, plugins: Mapping[str, PluginOperator]) -> None:
    """Replaces operators by simpler ones, which get their scopes, and computes what is constant then."""
    # First, since the exporter writes arithmetic on numbers as float32 tensors, which are no shapes then.
    torch._C._jit_pass_constant_propagation(graph)
    for kind, write in WRITTEN_OUT.items():
        nodes = graph.findAllNodes(kind) if kind not in plugins else ()
        for node in nodes:
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
        if nodes:
            torch._C._jit_pass_constant_propagation(graph)


def _mark_plugins(graph: Any, plugins: Mapping[str, PluginOperator]) -> list[PluginNode]:
    """Reads what becomes a plugin, and notes at each node which of the results is its own."""
    found: list[PluginNode] = []
    reasons = {}
    for kind, operator in plugins.items():
        for node in graph.findAllNodes(kind):
            try:
                plugin_node = operator.read(node)
            except NoPlugin as error:
                reason = f"cannot be the plugin '{operator.plugin}': {error}"
                number = node_of(f"{node.scopeName()}/")
                if number is None:
                    raise ExportError(reason, kind) from error
                reasons[number] = reason
            else:
                # Node attributes outlive the exporter's passes; what they were read from does not.
                node.i_(_PLUGIN_MARK, len(found))
                found.append(plugin_node)
    if reasons:
        raise ExportError("; ".join(sorted(set(reasons.values()))), reasons=reasons)
    return found


@contextlib.contextmanager
def _plugins_known(plugins: Mapping[str, PluginOperator], nodes: Sequence[PluginNode]) -> Iterator[None]:
    """The exporter writes marked nodes as plugins; afterwards it does with their operators what it did before."""
    registry = _registry()

    def function_of(kind: str) -> Any:
        group = registry.get_function_group(kind)
        return group and group.get(OPSET)

    before = {kind: function_of(kind) for kind in plugins} if nodes else {}
    for kind, function in before.items():
        registry.register(kind, OPSET, functools.partial(_plugin, nodes, function), custom=True)
    try:
        yield
    finally:
        for kind, function in before.items():
            registry.unregister(kind, OPSET)
            # What a user registered for the same operator set was overwritten.
            if function is not None and function_of(kind) is not function:
                registry.register(kind, OPSET, function, custom=True)


def _plugin(nodes: Sequence[PluginNode], otherwise: Any, context: Any, *inputs: Any, **attributes: Any) -> Any:
    """The exporter's function of operators that become plugins; ``otherwise`` is what it had before."""
    if _PLUGIN_MARK not in attributes:
        # One of the exporter's passes made the node.
        return otherwise(context, *inputs, **attributes)
    node = nodes[attributes[_PLUGIN_MARK]]
    tensors: list[Any] = []
    for position in node.inputs:
        producer = inputs[position].node()
        tensors += producer.inputs() if producer.kind() == "prim::ListConstruct" else [inputs[position]]
    count = len(node.output_types)
    made = context.op(f"{PLUGIN_DOMAIN}::{node.plugin}", *tensors, outputs=count, **node.attributes)
    results = []
    for value, known in zip([made] if count == 1 else made, node.output_types, strict=True):
        # Sizes that were seen may depend on the data, of which nobody but the plugin knows.
        open_type = known if known.dim() is None else known.with_sizes([None] * known.dim())
        if known.dtype() == torch.int64:
            # Most plugins have int32 where torch has int64. TensorRT takes the cast from either.
            value.setType(open_type.with_dtype(torch.int32))
            value = context.op("Cast", value, to_i=onnx.TensorProto.INT64)
        value.setType(open_type)
        results.append(value)
    return results[0] if count == 1 else tuple(results)


def _operator_in(message: str) -> str:
    found = re.search(r"operator '?([a-z_]+::\w+)'?", message)
    return found.group(1) if found else ""


def _put_constants(model: onnx.ModelProto, values: Mapping[str, Tensor]) -> None:
    """Puts constants in the place of inputs."""
    for value in [value for value in model.graph.input if value.name in values]:
        model.graph.input.remove(value)
    for name, tensor in values.items():
        constant = onnx.numpy_helper.from_array(tensor.detach().cpu().numpy())
        model.graph.node.insert(0, onnx.helper.make_node("Constant", [], [name], name=name, value=constant))


def _tidied(model: onnx.ModelProto) -> onnx.ModelProto:
    """What engine libraries take everywhere.

    Drops inputs that nothing reads, puts an Identity where an output is an input or another output, and has Einsum's
    equations in lower-case letters.
    """
    graph = model.graph
    for node in graph.node:
        for attribute in node.attribute if node.op_type == "Einsum" else ():
            attribute.s = lower_case_equation(attribute.s.decode()).encode()
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
