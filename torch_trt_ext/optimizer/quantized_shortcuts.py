"""Shortcuts around 8-bit products: what is added to a product's output is in 8 bits as well.

Engines compute a product, the addition after it and the activation after that in one kernel, which reads and writes
8-bit integers if the other summand is one too. The product's own output is not rounded, since the sum is. ONNX Runtime
has done it already where the other summand is in 8 bits for a product of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

__all__ = ["quantize_shortcuts"]

_ZERO_POINT = "shortcut_zero_point"

#: What engines compute in the kernel of a product.
_ACTIVATIONS = frozenset({"Clip", "Elu", "HardSigmoid", "HardSwish", "LeakyRelu", "Relu", "Sigmoid", "Tanh"})


def quantize_shortcuts(model: onnx.ModelProto, products: Collection[str], reach: Mapping[str, float]) -> int:
    """Puts, in place, a pair of ``QuantizeLinear`` and ``DequantizeLinear`` before what is added to products.

    Sums that nothing takes in 8 bits are left alone.

    Args:
        model: a quantized model.
        products: names of its nodes that compute on 8-bit integers.
        reach: how far from 0 tensors get, by name; those without one stay as they are.

    Returns:
        How many summands are in 8 bits now that were not.
    """
    graph = model.graph
    pairs = _pairs(graph)
    made: list[onnx.NodeProto] = []
    count = 0
    for addition, place in _shortcuts(graph, products):
        tensor = addition.input[place]
        if tensor not in pairs:
            if not reach.get(tensor, 0.0) > 0:
                continue
            pairs[tensor] = _make_pair(graph, tensor, reach[tensor], made)
        addition.input[place] = pairs[tensor]
        count += 1
    _insert(graph, made)
    return count


def _shortcuts(graph: onnx.GraphProto, products: Collection[str]) -> Iterator[tuple[onnx.NodeProto, int]]:
    """Additions to what only they take of a product, each with the place of the other summand."""
    makers = {name: node for node in graph.node for name in node.output}
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(value.name for value in graph.output)
    takers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            takers.setdefault(name, []).append(node)
    constants = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "Add" or node.domain or constants.intersection(node.input):
            continue
        alone = [name in makers and makers[name].name in products and uses[name] == 1 for name in node.input]
        if any(alone) and _is_quantized(node.output[0], takers):
            # Of two products, as where a shortcut has one of its own, the second is taken for the shortcut.
            yield node, 1 if alone[0] else 0


def _is_quantized(name: str, takers: Mapping[str, list[onnx.NodeProto]]) -> bool:
    """Whether something takes a tensor in 8 bits, by itself or after an activation."""
    return any(
        node.op_type == "QuantizeLinear" or (node.op_type in _ACTIVATIONS and _is_quantized(node.output[0], takers))
        for node in takers.get(name, ())
    )


def _pairs(graph: onnx.GraphProto) -> dict[str, str]:
    """Tensors that are quantized for others already, by name, with the names of what they are dequantized to."""
    makers = {node.output[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
    return {
        makers[node.input[0]].input[0]: node.output[0]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in makers
    }


def _make_pair(graph: onnx.GraphProto, tensor: str, reach: float, made: list[onnx.NodeProto]) -> str:
    scale, quantized, dequantized = (f"{tensor}_shortcut_{part}" for part in ("scale", "quantized", "dequantized"))
    graph.initializer.append(numpy_helper.from_array(np.array(reach / 127, np.float32), scale))
    if not any(known.name == _ZERO_POINT for known in graph.initializer):
        graph.initializer.append(numpy_helper.from_array(np.array(0, np.int8), _ZERO_POINT))
    made.append(helper.make_node("QuantizeLinear", [tensor, scale, _ZERO_POINT], [quantized], f"{tensor}_to_8_bit"))
    made.append(
        helper.make_node("DequantizeLinear", [quantized, scale, _ZERO_POINT], [dequantized], f"{tensor}_from_8_bit")
    )
    return dequantized


def _insert(graph: onnx.GraphProto, made: list[onnx.NodeProto]) -> None:
    """Puts nodes where what they take is there; ONNX wants graphs in an order that can be run."""
    by_input = {node.input[0]: node for node in made}
    nodes = list(graph.node)
    del graph.node[:]

    def add(node: onnx.NodeProto) -> None:
        graph.node.append(node)
        for name in node.output:
            if name in by_input:
                add(by_input.pop(name))

    for value in graph.input:
        if value.name in by_input:
            add(by_input.pop(value.name))
    for node in nodes:
        add(node)
