"""Constants that are the same for every item of a batch, written once: broadcasting repeats them.

Tracing with a batch writes positions, masks and queries as often as the batch has items. That is memory for nothing,
and TensorRT 10.6 gives wrong answers where several layers add such a constant before products with weights.
"""

from __future__ import annotations

from collections import Counter

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
    try:
        shapes = fixed_shapes(onnx.shape_inference.infer_shapes(model).graph)
    except Exception:  # protobuf's limit of 2 GB, or operators that onnx does not know
        return model
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    constants = {
        node.output[0]: attribute.t
        for node in cut.graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    reads = Counter(name for node in cut.graph.node for name in names_read(node))
    reads.update(output.name for output in cut.graph.output)
    repeated: Counter[str] = Counter()
    for node in cut.graph.node:
        if node.op_type not in _BROADCASTING or node.domain:
            continue
        for name in set(node.input) & constants.keys():
            others = [shapes.get(other, []) for other in node.input if other not in constants]
            dims = list(constants[name].dims)
            if any(len(shape) == len(dims) > 1 and shape[0] == dims[0] > 1 for shape in others):
                repeated[name] += list(node.input).count(name)
    for name, count in repeated.items():
        values = numpy_helper.to_array(constants[name])
        # Who else reads it may want all of it.
        if count == reads[name] and _is_same(values):
            constants[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values[:1]), constants[name].name))
    return cut


def _is_same(values: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> bool:
    """Whether all that lies along the first dimension is the same, bit by bit."""
    first = values[:1].tobytes()
    return all(values[item : item + 1].tobytes() == first for item in range(1, len(values)))
