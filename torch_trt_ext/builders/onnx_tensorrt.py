"""Engines for the GPU from ONNX models, through TensorRT's own parser."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import onnx
import torch

from torch_trt_ext.builders.onnx_inputs import InputShape, ShapeRanges, check_boundary, given_inputs, input_shapes
from torch_trt_ext.builders.tensorrt_build import (
    Profile,
    TimingStore,
    build_logger,
    build_plan,
    import_tensorrt,
    new_network,
)
from torch_trt_ext.engine_plan import EnginePlan

#: TensorRT's names of element types, in the words of the engine classes.
_TYPE_WORDS = {
    "FLOAT": "Float",
    "HALF": "Half",
    "BF16": "BFloat16",
    "INT8": "Char",
    "UINT8": "Byte",
    "INT32": "Int",
    "INT64": "Long",
    "BOOL": "Bool",
    "FP8": "Float8_e4m3fn",
}


def timing_cache_name() -> str:
    """What kernels' timings hold for: this TensorRT on the current GPU.

    Raises:
        RuntimeError: TensorRT or a GPU is missing.
    """
    version = import_tensorrt().__version__
    if not torch.cuda.is_available():
        raise RuntimeError("timings are of a GPU, but torch.cuda.is_available() is False; build where the GPU is")
    return f"tensorrt-{version}-{torch.cuda.get_device_name()}"


def build_tensorrt_from_onnx(
    model: onnx.ModelProto,
    shape_ranges: ShapeRanges,
    *,
    timing_cache: TimingStore | None,
    workspace_bytes: int = 0,
    builder_optimization_level: int = 3,
    weight_streaming: bool = False,
    tf32: bool = True,
    what: str = "a subgraph",
) -> EnginePlan:
    """Turns an ONNX model into an engine for the current GPU, with the types that stand in its graph.

    Args:
        model: smaller than 2 GB; it is not changed.
        shape_ranges: one mapping an optimization profile, from an input's name to its smallest, tuned and largest
            shape. Inputs whose shape the graph fixes may be missing; dimensions that are the same everywhere are
            fixed.
        timing_cache: where timings of kernels are taken from and put back.
        workspace_bytes: most memory that a layer may take beside its tensors, 0 for all there is.
        builder_optimization_level: 0 (quick) to 5 (thorough).
        weight_streaming: whether weights need not all stay on the GPU.
        tf32: whether float32 layers may round their inputs to 10 bits of mantissa, which is what float16 has.
        what: the model in a few words, for messages.

    Raises:
        RuntimeError: TensorRT or a GPU is missing; the parser refuses a node, which the message names; an input
            decides a shape by its values; the build failed.
        ValueError: the ranges do not fit the graph, an output is an input or stands there twice, or a number is out
            of range.
    """
    check_boundary(model)
    shapes = input_shapes(model, shape_ranges)
    serialized = _with_fixed_shapes(model, shapes).SerializeToString()
    inputs: list[tuple[str, str]] = []
    outputs: list[tuple[str, str]] = []
    # The network's weights lie in the parser until the build is done.
    parsers: list[Any] = []

    def define(trt: Any, network: Any) -> Sequence[Profile]:
        parser = trt.OnnxParser(network, build_logger())
        parsers.append(parser)
        if not parser.parse(serialized):
            words = "; ".join(f"node '{name}' ({op}): {reason}" for name, op, reason in _errors(parser, model))
            raise RuntimeError(f"TensorRT {trt.__version__} cannot parse {what}: {words}")
        for tensor in _each(network.num_inputs, network.get_input):
            if tensor.is_shape_tensor:
                raise RuntimeError(
                    f"input '{tensor.name}' of {what} must not decide shapes by its values, but TensorRT wants it as "
                    "a shape tensor; keep the operations that read it in PyTorch"
                )
            inputs.append((tensor.name, _type_word(tensor)))
        outputs.extend((tensor.name, _type_word(tensor)) for tensor in _each(network.num_outputs, network.get_output))
        open_shapes = {shape.name for shape in shapes if not shape.is_static}
        profiles = [{name: profile[name] for name in open_shapes} for profile in shape_ranges]
        return profiles if open_shapes else []

    plan = build_plan(
        what,
        define,
        timing_store=timing_cache,
        workspace_bytes=workspace_bytes,
        builder_optimization_level=builder_optimization_level,
        weight_streaming=weight_streaming,
        parses=True,
        tf32=tf32,
    )
    return EnginePlan(
        data=plan,
        backend="tensorrt",
        input_names=tuple(name for name, _ in inputs),
        output_names=tuple(name for name, _ in outputs),
        input_types=tuple(word for _, word in inputs),
        output_types=tuple(word for _, word in outputs),
    )


def refused_nodes(model: onnx.ModelProto) -> list[tuple[str, str, str]]:
    """Which nodes of a model TensorRT's parser does not take; nothing is built.

    Returns:
        Name, operator type and reason of each. A node without a name goes by its first output. The parser need not
        find every one at once.

    Raises:
        RuntimeError: TensorRT or a GPU is missing.
    """
    trt = import_tensorrt()
    with new_network("a model to ask what is supported") as (_, network):
        parser = trt.OnnxParser(network, build_logger())
        if parser.supports_model_v2(model.SerializeToString()):
            return []
        unsupported = [
            parser.get_subgraph_nodes(index)
            for index in range(parser.num_subgraphs)
            if not parser.is_subgraph_supported(index)
        ]
        return refused_among(model, list(_errors(parser, model)), unsupported)


def refused_among(
    model: onnx.ModelProto, errors: Sequence[tuple[str, str, str]], unsupported: Iterable[Iterable[int]]
) -> list[tuple[str, str, str]]:
    """Which nodes of a model are refused, by what the parser said.

    Args:
        model: the model.
        errors: name, operator type and reason of each complaint.
        unsupported: the numbers of the nodes of each part that is not supported. One node that is refused makes all of
            its part so, perhaps the whole model: nodes of such a part that nobody complained of are not refused.
    """
    refused = {(name, op): reason for name, op, reason in errors}
    complained = set(refused)
    for part in unsupported:
        names = [(node.name or node.output[0], node.op_type) for node in map(model.graph.node.__getitem__, part)]
        if complained.isdisjoint(names):
            refused |= dict.fromkeys(names, "the parser does not support it")
    return [(name, op, reason) for (name, op), reason in refused.items()]


def _each(count: int, get: Callable[[int], Any]) -> Iterator[Any]:
    return (get(index) for index in range(count))


def _type_word(tensor: Any) -> str:
    if tensor.dtype.name not in _TYPE_WORDS:
        raise RuntimeError(f"'{tensor.name}' must have a type that torch has, but TensorRT made it {tensor.dtype.name}")
    return _TYPE_WORDS[tensor.dtype.name]


def _errors(parser: Any, model: onnx.ModelProto) -> Iterator[tuple[str, str, str]]:
    """Name, operator type and reason of every node that the parser complained of."""
    nodes = model.graph.node
    for error in _each(parser.num_errors, parser.get_error):
        name, op_type = error.node_name(), error.node_operator()
        # The number is that of a node within its own graph, which may be an inner one.
        if not name and 0 <= error.node() < len(nodes) and nodes[error.node()].op_type == op_type:
            name = nodes[error.node()].output[0]
        yield name, op_type, error.desc()


def _with_fixed_shapes(model: onnx.ModelProto, shapes: list[InputShape]) -> onnx.ModelProto:
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value, shape in zip(given_inputs(fixed), shapes, strict=True):
        tensor = value.type.tensor_type
        if not tensor.HasField("shape"):
            tensor.shape.dim.extend(onnx.TensorShapeProto.Dimension() for _ in shape.smallest)
        for dimension, low, high in zip(tensor.shape.dim, shape.smallest, shape.largest, strict=True):
            if low == high:
                dimension.dim_value = low
    return fixed
