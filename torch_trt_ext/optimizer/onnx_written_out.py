"""Operators that torch's exporter has no ONNX form for, or none that engines get right, in simpler operators."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

#: ``aten::_native_multi_head_attention`` without a mask, in operators that have an ONNX form.
_ATTENTION = """
graph(%query : Tensor, %key : Tensor, %value : Tensor, %embed_dim : int, %num_heads : int, %qkv_weight : Tensor,
      %qkv_bias : Tensor, %proj_weight : Tensor, %proj_bias : Tensor, %mask : Tensor?, %need_weights : bool,
      %average : bool, %mask_type : int?):
  %none : NoneType = prim::Constant()
  %zero : int = prim::Constant[value=0]()
  %one : int = prim::Constant[value=1]()
  %two : int = prim::Constant[value=2]()
  %three : int = prim::Constant[value=3]()
  %four : int = prim::Constant[value=4]()
  %rate : float = prim::Constant[value=0.]()
  %exponent : float = prim::Constant[value=-0.5]()
  %false : bool = prim::Constant[value=0]()
  %packed : Tensor = aten::linear(%query, %qkv_weight, %qkv_bias)
  %batch : int = aten::size(%query, %zero)
  %length : int = aten::size(%query, %one)
  %head : int = aten::floordiv(%embed_dim, %num_heads)
  %scale : float = aten::pow(%head, %exponent)
  %shape : int[] = prim::ListConstruct(%batch, %length, %three, %num_heads, %head)
  %parts : Tensor = aten::view(%packed, %shape)
  %order : int[] = prim::ListConstruct(%two, %zero, %three, %one, %four)
  %turned : Tensor = aten::permute(%parts, %order)
  %q : Tensor = aten::select(%turned, %zero, %zero)
  %k : Tensor = aten::select(%turned, %zero, %one)
  %v : Tensor = aten::select(%turned, %zero, %two)
  %attended : Tensor = aten::scaled_dot_product_attention(%q, %k, %v, %none, %rate, %false, %scale, %false)
  %back : Tensor = aten::transpose(%attended, %one, %two)
  %flat_shape : int[] = prim::ListConstruct(%batch, %length, %embed_dim)
  %flat : Tensor = aten::reshape(%back, %flat_shape)
  %output : Tensor = aten::linear(%flat, %proj_weight, %proj_bias)
  return (%output)"""


#: Where a slice ends that goes on to the end.
_END = torch.iinfo(torch.int64).max

#: Of an embedding's weight that is an input while the exporter runs.
_LARGE_BYTES = 1 << 26


class NotWrittenOut(Exception):
    """A node is not of the kind that is written out here, and has no other ONNX form."""


def take_weights(graph: Any) -> list[Tensor]:
    """Makes further inputs of weights that the exporter would write more than once.

    It writes a constant for each use of a weight, and large ones twice on its way: a model whose layers share weights,
    or with a large vocabulary, may come to more than the 2 GB that ONNX files can have. Linear layers with one weight
    become products with one input, and large embeddings get theirs from one.

    Args:
        graph: a ``torch.Graph``; it is changed.

    Returns:
        The further inputs: weights of linear layers, transposed, ``Tensor[in, out]``, and of embeddings,
        ``Tensor[words, size]``.
    """
    return _take_shared_weights(graph) + _take_embeddings(graph)


def _take_embeddings(graph: Any) -> list[Tensor]:
    weights = []
    taken: dict[int, Any] = {}
    for node in graph.findAllNodes("aten::embedding"):
        weight = _constant(node.inputsAt(0))
        if weight is None or weight.dtype == torch.bfloat16 or weight.nbytes < _LARGE_BYTES:
            continue
        number = node.inputsAt(0).unique()
        if number not in taken:
            weights.append(weight)
            taken[number] = graph.addInput()
            taken[number].setType(torch._C.TensorType.create_from_tensor(weight))
        node.replaceInput(0, taken[number])
    return weights


def _take_shared_weights(graph: Any) -> list[Tensor]:
    weights = []
    layers: dict[int, list[Any]] = {}
    for node in graph.findAllNodes("aten::linear"):
        weight = _constant(node.inputsAt(1))
        # numpy, and so what makes ONNX's constants, has no bfloat16.
        if weight is not None and weight.dtype != torch.bfloat16 and len(_sizes(node.inputsAt(0))) > 1:
            layers.setdefault(node.inputsAt(1).unique(), []).append(node)
    for nodes in layers.values():
        weight = nodes[0].inputsAt(1)
        if len(nodes) == 1:
            continue
        weights.append(weight.toIValue().t().contiguous())
        transposed = graph.addInput()
        transposed.setType(torch._C.TensorType.create_from_tensor(weights[-1]))
        for node in nodes:
            with graph.insert_point_guard(node):
                result = _insert(graph, "aten::matmul", [node.inputsAt(0), transposed], node.output().type())
                result.node().copyMetadata(node)
                if not _is_none(node.inputsAt(2)):
                    summands = [node.inputsAt(2), result, graph.insertConstant(1)]
                    result = _insert(graph, "aten::add", summands, node.output().type())
                    result.node().copyMetadata(node)
            node.output().replaceAllUsesWith(result)
            node.destroy()
    return weights


def _multi_head_attention(graph: Any, node: Any) -> Any:
    if node.outputsAt(1).uses():
        raise NotWrittenOut("attention whose weights are asked for is not written out")
    if not _is_none(node.inputsAt(9)):
        raise NotWrittenOut("attention with a mask is not written out")
    return graph.insertGraph(torch._C.parse_ir(_ATTENTION), list(node.inputs()))[0]


def _scaled_dot_product_attention(graph: Any, node: Any) -> Any | None:
    """Softmax of the scaled products of queries and keys, times the values.

    The exporter multiplies queries and keys by the root of the scale each, for which TensorRT 10.6 and 10.7 give wrong
    answers, also in float32 (https://github.com/NVIDIA/TensorRT/issues/4333). Here the queries take the whole scale.

    Returns:
        None where something is not known that this needs; the exporter's own form is used then.
    """
    query, key, value, mask, dropout, causal, scale, grouped = node.inputs()
    head_size = (_sizes(query) or [None])[-1]
    factor = _constant(scale)
    if _is_none(scale) and head_size:
        factor = head_size**-0.5
    if factor is None or [_constant(value) for value in (dropout, causal, grouped)] != [0.0, False, False]:
        return None
    mask_type = mask.type().dtype() if isinstance(mask.type(), torch.TensorType) else None
    if not _is_none(mask) and mask_type is None:
        return None
    tensor = torch.TensorType.get()
    scaled = _insert(graph, "aten::mul", [query, graph.insertConstant(float(factor))], tensor)
    turned = _insert(graph, "aten::transpose", [key, graph.insertConstant(-2), graph.insertConstant(-1)], tensor)
    scores = _insert(graph, "aten::matmul", [scaled, turned], tensor)
    if mask_type == torch.bool:
        hidden = _insert(graph, "aten::logical_not", [mask], tensor)
        scores = _insert(graph, "aten::masked_fill", [scores, hidden, graph.insertConstant(-math.inf)], tensor)
    elif mask_type is not None:
        scores = _insert(graph, "aten::add", [scores, mask, graph.insertConstant(1)], tensor)
    last, same_dtype = graph.insertConstant(-1), graph.insertConstant(None)
    weights = _insert(graph, "aten::softmax", [scores, last, same_dtype], tensor)
    return _insert(graph, "aten::matmul", [weights, value], node.output().type())


def _unflatten(graph: Any, node: Any) -> Any:
    """As a reshape, where the rank of the input is known."""
    tensor, dim, parts = node.inputs()
    known = isinstance(tensor.type(), torch.TensorType) and tensor.type().varyingSizes()
    if not known or not _is_constant(dim):
        raise NotWrittenOut("unflatten of a tensor whose rank is not known is not written out")
    sizes = [
        graph.insertConstant(size)
        if size is not None
        else _insert(graph, "aten::size", [tensor, graph.insertConstant(index)], torch._C.IntType.get())
        for index, size in enumerate(known)
    ]
    if _is_constant(parts):
        middle = [graph.insertConstant(size) for size in parts.toIValue()]
    elif parts.node().kind() == "prim::ListConstruct":
        middle = list(parts.node().inputs())
    else:
        raise NotWrittenOut("unflatten into a list of unknown length is not written out")
    position = dim.toIValue() % len(known)
    shape = sizes[:position] + middle + sizes[position + 1 :]
    shape_list = _insert(graph, "prim::ListConstruct", shape, torch._C.ListType.ofInts())
    return _insert(graph, "aten::reshape", [tensor, shape_list], node.output().type())


#: Operators that give or read part of a tensor that was made of numbers.
_ON_PARTS = {"aten::slice", "aten::select", "aten::slice_scatter", "aten::select_scatter"} | {
    f"aten::{name}" for name in ("copy", "fill", "zero")
}


def _filled(kind: str) -> Callable[[Any, Any], Any | None]:
    """``new_zeros`` and its like without the tensor, whose data they do not need.

    With known sizes it is a constant then, and so is what is made of it by writing numbers to its parts.
    """

    def write(graph: Any, node: Any) -> Any | None:
        _, sizes, *others = node.inputs()
        is_written = any(use.user.kind() in _ON_PARTS for use in node.output().uses())
        made = node.output().type()
        if not is_written or not _is_constant(sizes) or made.dtype() is None or made.device() is None:
            return None
        dtype, device = graph.insertConstant(made.dtype()), graph.insertConstant(made.device())
        return _insert(graph, kind, [sizes, *others[:-4], dtype, others[-3], device, others[-1]], made)

    return write


def _copy(graph: Any, node: Any) -> Any:
    """As many copies of the source as there is room for, in the other tensor's dtype."""
    tensor, *sources = node.inputs()
    dtype = tensor.type().dtype() if isinstance(tensor.type(), torch.TensorType) else None
    if dtype is None:
        raise NotWrittenOut("a copy of a list, or into a tensor whose dtype is not known, is not written out")
    no = graph.insertConstant(False)
    tensor_type = torch.TensorType.get()
    options = [graph.insertConstant(dtype), no, no, graph.insertConstant(None)]
    cast = _insert(graph, "aten::to", [sources[0], *options], tensor_type)
    return _insert(graph, "aten::expand_as", [cast, tensor], node.output().type())


def _slice_scatter(graph: Any, node: Any) -> Any:
    """The source between what is before and behind it, where all places are known, or behind what is before it."""
    tensor, source, dim, start, end, step = node.inputs()
    sizes = _sizes(tensor)
    known = _is_constant(dim) and all(_is_constant(value) for value in (start, end)) and _constant(step) == 1
    size = sizes[dim.toIValue()] if sizes and known else None
    if size is not None:
        first, behind, _ = slice(start.toIValue(), end.toIValue()).indices(size)
        return _put(graph, tensor, source, dim, first, behind, size) if first < behind else tensor
    first = start.toIValue() or 0 if known else -1
    if first < 0 or (end.toIValue() is not None and end.toIValue() < _END):
        raise NotWrittenOut("slice_scatter whose place is not known, or with a step, is not written out")
    return _put(graph, tensor, source, dim, first, _END, _END)


def _select_scatter(graph: Any, node: Any) -> Any:
    tensor, source, dim, index = node.inputs()
    sizes = _sizes(tensor)
    size = sizes[dim.toIValue()] if sizes and _is_constant(dim) and _is_constant(index) else None
    if size is None:
        raise NotWrittenOut("select_scatter whose place is not known is not written out")
    first = index.toIValue() % size
    source = _insert(graph, "aten::unsqueeze", [source, dim], torch.TensorType.get())
    return _put(graph, tensor, source, dim, first, first + 1, size)


def _put(graph: Any, tensor: Any, source: Any, dim: Any, first: int, behind: int, size: int) -> Any:
    """A tensor with another one in place of its part from ``first`` to ``behind``."""
    parts = [source]
    for place, (begin, stop) in enumerate(((0, first), (behind, size))):
        if begin < stop:
            bounds = [graph.insertConstant(number) for number in (begin, stop, 1)]
            part = _insert(graph, "aten::slice", [tensor, dim, *bounds], torch.TensorType.get())
            parts.insert(place * len(parts), part)
    listed = _insert(graph, "prim::ListConstruct", parts, torch._C.ListType.ofTensors())
    return _insert(graph, "aten::cat", [listed, dim], tensor.type())


def _tensor_split(graph: Any, node: Any) -> Any | None:
    """As slices, where the places are known."""
    tensor, places, dim = node.inputs()
    if not _is_constant(dim) or not isinstance(_constant(places), list):
        return None
    bounds = [0, *places.toIValue(), _END]
    parts = [
        _insert(graph, "aten::slice", [tensor, dim, *map(graph.insertConstant, (*part, 1))], torch.TensorType.get())
        for part in pairwise(bounds)
    ]
    return _insert(graph, "prim::ListConstruct", parts, torch._C.ListType.ofTensors())


def _diff(graph: Any, node: Any) -> Any:
    """As differences of what comes later and what comes before it."""
    tensor, times, dim, prepend, append = node.inputs()
    parts = [part for part in (prepend, tensor, append) if not _is_none(part)]
    dtypes = {part.type().dtype() if isinstance(part.type(), torch.TensorType) else None for part in parts}
    if len(dtypes) != 1 or None in dtypes or not _is_constant(times) or not _is_constant(dim):
        raise NotWrittenOut("diff of tensors whose dtypes differ or are not known is not written out")
    unknown = torch.TensorType.get()
    result = tensor
    if len(parts) > 1:
        joined = _insert(graph, "prim::ListConstruct", parts, torch._C.ListType.ofTensors())
        result = _insert(graph, "aten::cat", [joined, dim], unknown.with_dtype(tensor.type().dtype()))
    zero, one, last, end = (graph.insertConstant(value) for value in (0, 1, -1, _END))
    for _ in range(times.toIValue()):
        later = _insert(graph, "aten::slice", [result, dim, one, end, one], unknown)
        before = _insert(graph, "aten::slice", [result, dim, zero, last, one], unknown)
        if tensor.type().dtype() == torch.bool:
            result = _insert(graph, "aten::logical_xor", [later, before], unknown)
        else:
            result = _insert(graph, "aten::sub", [later, before, one], unknown)
    return result


def _of_bits(kind: str, *, bool_only: bool = False) -> Callable[[Any, Any], Any]:
    """``&``, ``|`` and ``^`` of tensors under names that the exporter knows."""

    def write(graph: Any, node: Any) -> Any:
        inputs = list(node.inputs())
        if not all(isinstance(value.type(), torch.TensorType) for value in inputs):
            raise NotWrittenOut("an operator on the bits of a number is not written out")
        if bool_only and not all(value.type().dtype() == torch.bool for value in inputs):
            raise NotWrittenOut("this operator on bits is written out for bool alone")
        return _insert(graph, kind, inputs, node.output().type())

    return write


def _is_constant(value: Any) -> bool:
    return bool(value.node().kind() == "prim::Constant")


def _constant(value: Any) -> Any | None:
    return value.toIValue() if _is_constant(value) else None


def _is_none(value: Any) -> bool:
    return bool(value.type().kind() == "NoneType" or value.node().mustBeNone())


def _sizes(value: Any) -> list[int | None]:
    """What is known of a tensor's shape; empty when not even its rank is."""
    return list((value.type().varyingSizes() if isinstance(value.type(), torch.TensorType) else None) or [])


def _insert(graph: Any, kind: str, inputs: list[Any], result_type: Any) -> Any:
    """Adds a node with one output at the insertion point."""
    node = graph.insertNode(graph.create(kind, inputs, 1))
    node.output().setType(result_type)
    return node.output()


#: What writes out the operators of a kind: it adds nodes at the insertion point and returns what takes the place of the
#: first output, or None to leave the node to the exporter. An entry may make nodes of kinds that come after it.
WRITTEN_OUT: dict[str, Callable[[Any, Any], Any | None]] = {
    "aten::_native_multi_head_attention": _multi_head_attention,
    "aten::scaled_dot_product_attention": _scaled_dot_product_attention,
    "aten::unflatten": _unflatten,
    "aten::tensor_split": _tensor_split,
    "aten::diff": _diff,
    "aten::__and__": _of_bits("aten::bitwise_and"),
    "aten::__or__": _of_bits("aten::bitwise_or"),
    "aten::__xor__": _of_bits("aten::logical_xor", bool_only=True),
    "aten::new_zeros": _filled("aten::zeros"),
    "aten::new_ones": _filled("aten::ones"),
    "aten::new_full": _filled("aten::full"),
    "aten::copy": _copy,
    "aten::select_scatter": _select_scatter,
    "aten::slice_scatter": _slice_scatter,
}
