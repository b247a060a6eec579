"""Operators that torch's exporter has no ONNX form for, or none that engines get right, in simpler operators."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

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


class NotWrittenOut(Exception):
    """A node is not of the kind that is written out here, and has no other ONNX form."""


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
    "aten::__and__": _of_bits("aten::bitwise_and"),
    "aten::__or__": _of_bits("aten::bitwise_or"),
    "aten::__xor__": _of_bits("aten::logical_xor", bool_only=True),
}
