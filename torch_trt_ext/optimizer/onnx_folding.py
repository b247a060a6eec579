"""Arithmetic on shapes that are known, computed before an engine is built; and what does nothing for these, dropped."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from torch_trt_ext.builders.onnx_inputs import declared_shape
from torch_trt_ext.optimizer.onnx_names import names_read, subgraphs
from torch_trt_ext.optimizer.onnx_outline import MAX_SHAPE_ELEMENTS, is_small, outline_of, put_weights, value_of

#: What exporters compute shapes with.
_SHAPE_OPERATORS = {
    "Add",
    "Cast",
    "Concat",
    "ConstantOfShape",
    "Div",
    "Equal",
    "Floor",
    "Gather",
    "Greater",
    "Identity",
    "Less",
    "Max",
    "Min",
    "Mod",
    "Mul",
    "Neg",
    "Range",
    "ReduceProd",
    "Reshape",
    "Slice",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Transpose",
    "Unsqueeze",
    "Where",
}


def fold_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replaces ``Shape`` of values whose shape is fixed, and what is computed from such shapes alone, by constants.

    Nodes that do nothing for these shapes are dropped: padding by nothing, slices of everything, empty parts of a
    concatenation.

    Args:
        model: it is not changed. Where its shapes cannot be inferred, nothing is folded.

    Returns:
        A model with the same inputs, outputs and answers.
    """
    outline, weights = outline_of(model)
    while True:
        try:
            inferred = onnx.shape_inference.infer_shapes(outline)
        except Exception:  # operators that onnx does not know
            break
        shapes = _fixed_shapes(inferred.graph)
        known: dict[str, NDArray[Any]] = {}
        folded = _folded(outline, shapes, known)
        dropped = _drop_idle(folded, shapes, known)
        outline = _without_unused(folded)
        # What a padding by nothing gives has a shape that is known now.
        if not dropped:
            break
    return put_weights(outline, weights)


def _folded(model: onnx.ModelProto, shapes: dict[str, list[int]], known: dict[str, NDArray[Any]]) -> onnx.ModelProto:
    """The model with constants in the place of what can be computed; ``known`` gets their values."""
    outputs = {output.name for output in model.graph.output}
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    del folded.graph.node[:]
    for node in model.graph.node:
        values = _evaluate(node, known, shapes, model)
        if values is None or any(name in outputs for name in node.output):
            folded.graph.node.append(node)
            if node.op_type == "Constant" and values is not None:
                known[node.output[0]] = values[0]
            continue
        for name, value in zip(node.output, values, strict=True):
            known[name] = value
            if node.op_type == "Constant":
                folded.graph.node.append(node)
            else:
                constant = helper.make_node(
                    "Constant", [], [name], name=node.name, value=numpy_helper.from_array(value)
                )
                folded.graph.node.append(constant)
    return folded


def _drop_idle(model: onnx.ModelProto, shapes: dict[str, list[int]], known: dict[str, NDArray[Any]]) -> int:
    """Takes out nodes that do nothing; how many."""
    outputs = {output.name for output in model.graph.output}
    replaced: dict[str, str] = {}
    kept = []
    for node in model.graph.node:
        _rename(node, replaced)
        if node.op_type == "Concat" and not node.domain:
            _drop_empty_parts(node, shapes)
        if not node.domain and node.output[0] not in outputs and _is_idle(node, shapes, known):
            replaced[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return len(replaced)


def _rename(node: onnx.NodeProto, names: dict[str, str]) -> None:
    """Gives a node, and the graphs in it, other inputs."""
    for position, name in enumerate(node.input):
        node.input[position] = names.get(name, name)
    for graph in subgraphs(node):
        for inner in graph.node:
            _rename(inner, names)
        for output in graph.output:
            output.name = names.get(output.name, output.name)


def _drop_empty_parts(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> None:
    """Leaves the inputs of a concatenation that add to it; one, if none does."""
    (axis,) = [attribute.i for attribute in node.attribute if attribute.name == "axis"]
    parts = [name for name in node.input if name not in shapes or shapes[name][axis]] or [node.input[0]]
    del node.input[:]
    node.input.extend(parts)


def _is_idle(node: onnx.NodeProto, shapes: dict[str, list[int]], known: dict[str, NDArray[Any]]) -> bool:
    """Whether a node gives its first input."""
    if node.op_type == "Concat":
        return len(node.input) == 1
    if node.op_type == "Pad" and len(node.input) > 1:
        return node.input[1] in known and not known[node.input[1]].any()
    if node.op_type != "Slice" or len(node.input) < 3 or node.input[0] not in shapes:
        return False
    given = [known.get(name) for name in node.input[1:] if name]
    if len(given) != len(node.input) - 1 or any(value is None for value in given):
        return False
    starts, ends, *others = [value.tolist() for value in given if value is not None]
    axes = others[0] if others else range(len(starts))
    steps = others[1] if len(others) > 1 else [1] * len(starts)
    sizes = shapes[node.input[0]]
    return all(
        step == 1 and (start == 0 or start <= -sizes[axis]) and end >= sizes[axis]
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True)
    )


def value_shapes(graph: onnx.GraphProto) -> dict[str, tuple[int | None, ...]]:
    """The shapes of a graph's values, as far as they are known, by name; None for dimensions that are open."""
    shapes = {
        value.name: declared_shape(value.type.tensor_type) for value in [*graph.input, *graph.value_info, *graph.output]
    }
    return {name: shape for name, shape in shapes.items() if shape is not None}


def _fixed_shapes(graph: onnx.GraphProto) -> dict[str, list[int]]:
    fixed = {}
    for name, shape in value_shapes(graph).items():
        sizes = [size for size in shape if size is not None]
        if len(sizes) == len(shape):
            fixed[name] = sizes
    return fixed


def _evaluate(
    node: onnx.NodeProto, known: dict[str, NDArray[Any]], shapes: dict[str, list[int]], model: onnx.ModelProto
) -> list[NDArray[Any]] | None:
    """What a node gives, if it is known and small."""
    if node.op_type == "Constant":
        constant = value_of(node)
        return None if constant is None or not is_small(constant) else [numpy_helper.to_array(constant)]
    if node.op_type == "Shape" and not node.attribute and node.input[0] in shapes:
        return [np.array(shapes[node.input[0]], dtype=np.int64)]
    if node.op_type not in _SHAPE_OPERATORS or not node.input or not all(name in known for name in node.input if name):
        return None
    given = {name: known[name] for name in node.input if name}
    graph = helper.make_graph(
        [node],
        "folded",
        [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for n, v in given.items()],
        [onnx.ValueInfoProto(name=name) for name in node.output],
    )
    single = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = [np.asarray(value) for value in ReferenceEvaluator(single).run(None, given)]
    except Exception:  # what the reference cannot compute stays in the graph
        return None
    # The engine library folds larger ones itself.
    return results if all(result.size <= MAX_SHAPE_ELEMENTS for result in results) else None


def _without_unused(model: onnx.ModelProto) -> onnx.ModelProto:
    read = {output.name for output in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if any(name in read for name in node.output):
            kept.append(node)
            read.update(names_read(node))
    del model.graph.node[:]
    model.graph.node.extend(reversed(kept))
    return model
