"""Constants that are the same for every item of a batch, written once: broadcasting repeats them.

Tracing with a batch writes positions, masks and queries as often as the batch has items. That is memory for nothing,
and TensorRT 10.6 gives wrong answers where several layers add such a constant before products with weights.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import helper, numpy_helper

from torch_trt_ext.optimizer.onnx_folding import value_shapes
from torch_trt_ext.optimizer.onnx_names import names_read
from torch_trt_ext.optimizer.onnx_outline import outline_of, value_of

#: Operators that repeat an input in whose dimensions of size 1 another one has more.
_BROADCASTING = {"Add", "And", "Div", "Equal", "Greater", "Less", "Max", "Min", "Mul", "Or", "Pow", "Sub", "Where"}

#: Where a batch may be: first, or second after a sequence.
_BATCH_AXES = (0, 1)


def cut_repeats(model: onnx.ModelProto) -> onnx.ModelProto:
    """Cuts constants that are the same along a batch's dimension, where broadcasting gives back what is gone.

    Args:
        model: it is not changed. Where its shapes cannot be inferred, it comes back as it is.

    Returns:
        A model with the same inputs, outputs and answers.
    """
    constants = {node.output[0]: value for node in model.graph.node if (value := value_of(node)) is not None}
    repeated = {
        name: axes for name in constants.keys() - _read_otherwise(model) if (axes := _repeated_axes(constants[name]))
    }
    if not repeated:
        return model
    try:
        shapes = value_shapes(onnx.shape_inference.infer_shapes(outline_of(model)[0]).graph)
    except Exception:  # operators that onnx does not know
        return model
    for node in model.graph.node:
        # A constant, which may be cut as well, gives nothing back.
        others = [shapes.get(name, ()) for name in node.input if name not in constants]
        for name in repeated.keys() & set(node.input):
            dims = list(constants[name].dims)
            repeated[name] = [
                axis
                for axis in repeated[name]
                if any(len(shape) == len(dims) and shape[axis] == dims[axis] for shape in others)
            ]
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    for node in cut.graph.node:
        if axes := repeated.get(node.output[0], []):
            (attribute,) = node.attribute
            values = numpy_helper.to_array(attribute.t)
            for axis in axes:
                values = values.take([0], axis)
            attribute.t.CopyFrom(numpy_helper.from_array(values, attribute.t.name))
    return cut


def _read_otherwise(model: onnx.ModelProto) -> Collection[str]:
    """Names of all that others read than operators that broadcast."""
    found = {output.name for output in model.graph.output}
    for node in model.graph.node:
        if node.domain or node.op_type not in _BROADCASTING:
            found.update(names_read(node))
    return found


def _repeated_axes(constant: onnx.TensorProto) -> list[int]:
    """Along which of a batch's dimensions, but the last, all items of a constant are the same, bit by bit."""
    axes = [axis for axis in _BATCH_AXES if axis + 1 < len(constant.dims) and constant.dims[axis] > 1]
    values = numpy_helper.to_array(constant) if axes else np.zeros(())
    # Older versions of onnx have float32 in the place of types that NumPy lacks.
    if not axes or helper.np_dtype_to_tensor_dtype(values.dtype) != constant.data_type:
        return []
    bits = values.view(f"u{values.itemsize}")
    found = [axis for axis in axes if (bits == bits.take([0], axis)).all()]
    # One number for each channel is a bias or a scale, which engine libraries look for by its shape.
    return [] if values.size == np.prod([values.shape[axis] for axis in found]) else found
