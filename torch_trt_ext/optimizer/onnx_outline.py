"""Models without their weights, for inferring shapes and rearranging nodes: what copies a model copies all of these."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import onnx
from onnx import NodeProto, TensorProto, helper

from torch_trt_ext.optimizer.onnx_names import names_read

#: Elements of the largest constant that is a shape, or part of one: larger ones are weights.
MAX_SHAPE_ELEMENTS = 64


def value_of(node: NodeProto) -> TensorProto | None:
    """The tensor that a ``Constant`` gives, where that is written as one."""
    if node.op_type != "Constant" or node.domain:
        return None
    return next((attribute.t for attribute in node.attribute if attribute.name == "value"), None)


def is_small(tensor: TensorProto) -> bool:
    return bool(math.prod(tensor.dims) <= MAX_SHAPE_ELEMENTS)


def outline_of(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[NodeProto]]:
    """A copy of a model that has inputs in the place of weights.

    Args:
        model: it is not changed.

    Returns:
        The copy, and the nodes that give the weights; these are the model's own.
    """
    outputs = {output.name for output in model.graph.output}
    outline = onnx.ModelProto()
    _copy_fields(model, outline, but="graph")
    _copy_fields(model.graph, outline.graph, but="node")
    weights = []
    for node in model.graph.node:
        value = value_of(node)
        if value is None or is_small(value) or node.output[0] in outputs:
            outline.graph.node.append(node)
        else:
            weights.append(node)
            outline.graph.input.append(helper.make_tensor_value_info(node.output[0], value.data_type, value.dims))
    return outline, weights


def put_weights(outline: onnx.ModelProto, weights: Sequence[NodeProto]) -> onnx.ModelProto:
    """Puts weights in the place of inputs; those that nothing reads any more are left out.

    Args:
        outline: as :func:`outline_of` made it; it is changed.
        weights: that it gave, too.

    Returns:
        ``outline``.
    """
    graph = outline.graph
    names = {node.output[0] for node in weights}
    read = {name for node in graph.node for name in names_read(node)}
    inputs = [value for value in graph.input if value.name not in names]
    nodes = [*(node for node in weights if node.output[0] in read), *graph.node]
    del graph.input[:], graph.node[:]
    graph.input.extend(inputs)
    graph.node.extend(nodes)
    return outline


def _copy_fields(source: Any, target: Any, but: str) -> None:
    for field, value in source.ListFields():
        if field.name == but:
            continue
        if hasattr(value, "extend"):
            getattr(target, field.name).extend(value)
        else:
            setattr(target, field.name, value)
