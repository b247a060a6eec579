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

#: What the largest value of an activation becomes. Float8 has all its bits of mantissa down to a 512th of that.
_LARGEST_ACTIVATION = 8.0

#: What a convolution of such activations may add up to: TensorRT 10.6 keeps its sums in float16 before they get their
#: scales, which ends at 65504. The rest is for activations that calibration has not seen.
_LARGEST_SUM = 32768.0

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

    Scales take ranges to a part of float8's: a floating-point number is as precise there, and sums stay within float16.
    They are such as float16 has exactly: weights mean the same with scales in float16. None is below ``least_scale``,
    since float8 has exponents enough for a range that does not reach as far.

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
    for name in {node.input[2] for node in added}:
        tensors[name].CopyFrom(_tensor(np.zeros(tuple(tensors[name].dims), np.float32), name))
    weights = {
        name: _array(exact[name.removesuffix(_QUANTIZED)]) for node in added if (name := node.input[0]) in tensors
    }
    convolved = {node.input[1] for node in quantized.graph.node if node.op_type == "Conv"}
    for node in {node.input[1]: node for node in added}.values():
        scale = tensors[node.input[1]]
        if node.input[0] in weights:
            wanted = _weight_scale(weights[node.input[0]], scale, node, is_convolved=node.output[0] in convolved)
        else:
            wanted = _array(scale) * np.float32(_LARGEST_INTEGER / _LARGEST_ACTIVATION)
        scale.CopyFrom(numpy_helper.from_array(_in_float16(wanted, least_scale), scale.name))
    for name, node in {node.input[0]: node for node in added if node.input[0] in weights}.items():
        _store_rounded(quantized.graph, tensors[name], weights[name], _array(tensors[node.input[1]]), node)
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
    axis = _axis(dequantizer)
    divisor = _along(scale, axis, weight.ndim)
    rounded = _array(_tensor(weight / divisor, stored.name)) * divisor
    name = stored.name
    stored.CopyFrom(numpy_helper.from_array(rounded.astype(np.float32), name.removesuffix(_QUANTIZED) + _ROUNDED))
    inputs = [stored.name, *dequantizer.input[1:]]
    quantizer = helper.make_node("QuantizeLinear", inputs, [name], f"{name}_QuantizeLinear")
    quantizer.attribute.extend(dequantizer.attribute)
    graph.node.insert(0, quantizer)


def _weight_scale(
    weight: npt.NDArray[np.float32], scale: TensorProto, dequantizer: NodeProto, *, is_convolved: bool
) -> npt.NDArray[np.float32]:
    """The scale of each channel of a weight, or of all of it, like the one for integers in shape."""
    ndim, axis = weight.ndim, _axis(dequantizer) % weight.ndim
    others = tuple(dim for dim in range(ndim) if dim != axis)
    wanted = np.abs(weight).max(axis=others) / _LARGEST
    if is_convolved:
        wanted = np.maximum(wanted, np.abs(weight).sum(axis=others) * (_LARGEST_ACTIVATION / _LARGEST_SUM))
    by_channel: npt.NDArray[np.float32] = wanted.astype(np.float32)
    return by_channel if scale.dims and scale.dims[0] > 1 else by_channel.max().reshape(tuple(scale.dims))


def _axis(node: NodeProto) -> int:
    """Of a pair's node: the dimension with the channels that scales are for."""
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)


def _array(tensor: TensorProto) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = numpy_helper.to_array(tensor).astype(np.float32)
    return array


def _in_float16(scale: npt.NDArray[np.float32], least: float) -> npt.NDArray[np.float32]:
    wanted = np.maximum(scale, np.float32(least))
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
