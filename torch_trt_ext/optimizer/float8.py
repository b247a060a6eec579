"""float8 (E4M3: 4 bits of exponent, 3 of mantissa) in place of 8-bit integers in quantized ONNX models."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper

__all__ = ["suits_float8", "to_float8"]

#: The largest number of float8, and that of the symmetric 8-bit integers in its place.
_LARGEST = 448.0
_LARGEST_INTEGER = 127.0

#: The first version of the format with float8.
_IR_VERSION = 9

#: Limits of TensorRT's kernels: fewest channels or columns, most weights between two channels.
#: Source: NVIDIA's Model Optimizer, find_nodes_from_convs_to_exclude and find_nodes_from_matmul_to_exclude.
_FEWEST = 16
_LARGEST_FILTER = 32

#: What ONNX Runtime appends to the names of weights that it has quantized.
_QUANTIZED = "_quantized"

#: Likewise, of weights that are float8 in value and not in type.
_ROUNDED = "_rounded"

_PAIR = ("QuantizeLinear", "DequantizeLinear")


def suits_float8(node: NodeProto, weight: Sequence[int]) -> bool:
    """Whether TensorRT has kernels in float8 for a product with a constant.

    Args:
        node: a product that can compute on 8-bit integers.
        weight: shape of its weight.
    """
    if node.op_type in ("Gemm", "MatMul"):
        return len(weight) >= 2 and min(weight[-2:]) >= _FEWEST
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    return (
        node.op_type == "Conv"
        and groups == 1
        and min(weight[:2]) >= _FEWEST
        and math.prod(weight[2:]) <= _LARGEST_FILTER
    )


def to_float8(quantized: onnx.ModelProto, model: onnx.ModelProto, least_scale: float) -> None:
    """Puts, in place, float8 where a model has 8-bit integers: in the pairs and weights that quantization added.

    Weights get whole pairs, too, which TensorRT has kernels for.

    Scales take ranges to that of float8, as far as float16 has them exactly: weights mean the same with scales in
    float16. None is below ``least_scale``, since float8 has exponents enough for a range that does not reach as far.

    Args:
        quantized: symmetric, with weights stored in 8 bits, at an opset with float8.
        model: what it was made from, in float32 with constants as initializers.
        least_scale: the smallest scale, which float16 has exactly.
    """
    quantized.ir_version = max(quantized.ir_version, _IR_VERSION)
    tensors = {tensor.name: tensor for tensor in quantized.graph.initializer}
    exact = {tensor.name: tensor for tensor in model.graph.initializer}
    # Pairs that the model had before are its own affair.
    known = {name for node in model.graph.node for name in node.output}
    added = [node for node in quantized.graph.node if node.op_type in _PAIR and node.output[0] not in known]
    for name in {node.input[1] for node in added}:
        tensors[name].CopyFrom(numpy_helper.from_array(_scale(numpy_helper.to_array(tensors[name]), least_scale), name))
    for name in {node.input[2] for node in added}:
        tensors[name].CopyFrom(_tensor(np.zeros(tuple(tensors[name].dims), np.float32), name))
    for node in added:
        stored = tensors.get(node.input[0])
        # A weight that several products share is stored once.
        if stored is not None and stored.name == node.input[0]:
            weight = numpy_helper.to_array(exact[stored.name.removesuffix(_QUANTIZED)]).astype(np.float32)
            _store_rounded(quantized.graph, stored, weight, numpy_helper.to_array(tensors[node.input[1]]), node)
    eight_bit = {name for node in added for name in (node.output if node.op_type == _PAIR[0] else node.input[:1])}
    for info in quantized.graph.value_info:
        if info.name in eight_bit:
            info.type.tensor_type.elem_type = TensorProto.FLOAT8E4M3FN


def _store_rounded(
    graph: onnx.GraphProto,
    stored: TensorProto,
    weight: npt.NDArray[np.float32],
    scale: npt.NDArray[np.float32],
    dequantizer: NodeProto,
) -> None:
    """Puts a weight in place of its 8 bits: rounded to float8 already, and quantized by a node.

    TensorRT 10.6 takes weights in float8 themselves, too, but computes their convolutions in float16 then.
    """
    axes = {attribute.name: attribute.i for attribute in dequantizer.attribute if attribute.name == "axis"}
    divisor = _along(scale, axes.get("axis", 1), weight.ndim)
    rounded = numpy_helper.to_array(_tensor(weight / divisor, stored.name)).astype(np.float32) * divisor
    name = stored.name
    stored.CopyFrom(numpy_helper.from_array(rounded.astype(np.float32), name.removesuffix(_QUANTIZED) + _ROUNDED))
    inputs = [stored.name, *dequantizer.input[1:]]
    graph.node.insert(0, helper.make_node("QuantizeLinear", inputs, [name], f"{name}_QuantizeLinear", **axes))


def _scale(scale: npt.NDArray[np.float32], least: float) -> npt.NDArray[np.float32]:
    wanted = np.maximum(scale * np.float32(_LARGEST_INTEGER / _LARGEST), np.float32(least))
    with np.errstate(over="ignore"):
        rounded = wanted.astype(np.float16).astype(np.float32)
    # What is beyond float16 stays in float32 altogether.
    scales: npt.NDArray[np.float32] = np.where(np.isfinite(rounded), rounded, wanted)
    return scales


def _along(scale: npt.NDArray[np.float32], axis: int, ndim: int) -> npt.NDArray[np.float32]:
    """A scale by channel in the shape that divides a weight; one for all of a tensor as it is."""
    shape = [-1 if dim == axis % ndim else 1 for dim in range(ndim)] if scale.size > 1 else []
    return scale.reshape(shape)


def _tensor(values: npt.NDArray[np.float32], name: str) -> TensorProto:
    """Rounded to the nearest float8, ties to even; what is beyond the largest becomes that, and not NaN."""
    rounded = torch.from_numpy(values).clamp(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn)
    data = rounded.view(torch.uint8).numpy().tobytes()
    return TensorProto(name=name, data_type=TensorProto.FLOAT8E4M3FN, dims=values.shape, raw_data=data)
