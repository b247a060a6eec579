"""Constants that are the same for every item of a batch, written once: broadcasting repeats them.

Tracing with a batch writes positions, masks and queries as often as the batch has items. That is memory for nothing,
and TensorRT 10.6 gives wrong answers where several layers add such a constant before products with weights.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from torch_trt_ext.optimizer.onnx_folding import fixed_shapes
from torch_trt_ext.optimizer.onnx_names import names_read

#: Operators that repeat an input whose first dimension is 1.
_BROADCASTING = {"Add", "And", "Div", "Equal", "Greater", "Less", "Max", "Min", "Mul", "Or", "Pow", "Sub", "Where"}


def cut_repeats(model: onnx.ModelProto) -> onnx.ModelProto:
    """Cuts constants that are the same along their first dimension, where broadcasting gives back what is gone.

    Args:
        model: it is not changed. Where its shapes cannot be inferred, it comes back as it is.

    Returns:
        A model with the same inputs, outputs and answers.
    """
    constants = {
        node.output[0]: attribute.t
        for node in model.graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    repeated = {name for name in constants.keys() - _read_otherwise(model) if _is_repeated(constants[name])}
    if not repeated:
        return model
    try:
        shapes = fixed_shapes(onnx.shape_inference.infer_shapes(model).graph)
    except Exception:  # protobuf's limit of 2 GB, or operators that onnx does not know
        return model
    for node in model.graph.node:
        # A constant that is cut as well gives nothing back.
        others = [shapes.get(name, []) for name in node.input if name not in constants]
        for name in repeated.intersection(node.input):
            dims = list(constants[name].dims)
            if not any(len(shape) == len(dims) and shape[0] == dims[0] for shape in others):
                repeated.discard(name)
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    for node in cut.graph.node:
        if node.output[0] in repeated:
            (attribute,) = node.attribute
            values = numpy_helper.to_array(attribute.t)
            attribute.t.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values[:1]), attribute.t.name))
    return cut


def _read_otherwise(model: onnx.ModelProto) -> set[str]:
    """Names of all that others read than operators that broadcast."""
    found = {output.name for output in model.graph.output}
    for node in model.graph.node:
        if node.domain or node.op_type not in _BROADCASTING:
            found.update(names_read(node))
    return found


def _is_repeated(constant: onnx.TensorProto) -> bool:
    """Whether all that lies along the first of several dimensions is the same, bit by bit."""
    if len(constant.dims) < 2 or constant.dims[0] < 2:
        return False
    first, *others = (item.tobytes() for item in numpy_helper.to_array(constant))
    return all(item == first for item in others)
