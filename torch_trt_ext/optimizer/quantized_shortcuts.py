"""Shortcuts around 8-bit products: what is added to a product's output is in 8 bits as well.

Engines compute a product, the addition after it and the activation after that in one kernel, which reads and writes
8-bit integers if the other summand is one too. The product's own output is not rounded, since the sum is. ONNX Runtime
has done it already where the other summand is in 8 bits for a product of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

__all__ = ["quantize_shortcuts", "summands"]

_ZERO_POINT = "shortcut_zero_point"

#: What engines compute in the kernel of a product.
_ACTIVATIONS = frozenset({"Clip", "Elu", "HardSigmoid", "HardSwish", "LeakyRelu", "Relu", "Sigmoid", "Tanh"})


def summands(graph: onnx.GraphProto, products: Collection[str]) -> set[str]:
    """Names of what is added to outputs of products, or is such an output and added to something."""
    outputs = {name for node in graph.node if node.name in products for name in node.output}
    additions = [node for node in graph.node if node.op_type == "Add" and not node.domain]
    return {name for node in additions if outputs.intersection(node.input) for name in node.input}


def quantize_shortcuts(graph: onnx.GraphProto, products: Collection[str], reach: Mapping[str, float]) -> int:
    """Puts, in place, a pair of ``QuantizeLinear`` and ``DequantizeLinear`` before what is added to products.

    Sums that nothing takes in 8 bits are left alone. New nodes come last: the graph has to be sorted.

    Args:
        graph: of a quantized model.
        products: names of its nodes that compute on 8-bit integers.
        reach: how far from 0 tensors get, by name; those without one stay as they are.

    Returns:
        How many summands are in 8 bits now that were not.
    """
    pairs = _pairs(graph)
    count = 0
    for addition, place in list(_shortcuts(graph, products)):
        tensor = addition.input[place]
        if tensor not in pairs:
            if not reach.get(tensor, 0.0) > 0:
                continue
            pairs[tensor] = _add_pair(graph, tensor, reach[tensor])
        addition.input[place] = pairs[tensor]
        count += 1
    return count


def _shortcuts(graph: onnx.GraphProto, products: Collection[str]) -> Iterator[tuple[onnx.NodeProto, int]]:
    """Additions to what only they take of a product, each with the place of the other summand."""
    makers = {name: node for node in graph.node for name in node.output}
    takers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            takers.setdefault(name, []).append(node)
    constants = {tensor.name for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}

    def is_products_alone(name: str) -> bool:
        return name in makers and makers[name].name in products and len(takers[name]) == 1 and name not in outputs

    for node in graph.node:
        if node.op_type != "Add" or node.domain or constants.intersection(node.input):
            continue
        alone = [is_products_alone(name) for name in node.input]
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


def _add_pair(graph: onnx.GraphProto, tensor: str, reach: float) -> str:
    scale, quantized, dequantized = (f"{tensor}_shortcut_{part}" for part in ("scale", "quantized", "dequantized"))
    graph.initializer.append(numpy_helper.from_array(np.array(reach / 127, np.float32), scale))
    if not any(known.name == _ZERO_POINT for known in graph.initializer):
        graph.initializer.append(numpy_helper.from_array(np.array(0, np.int8), _ZERO_POINT))
    graph.node.append(
        helper.make_node("QuantizeLinear", [tensor, scale, _ZERO_POINT], [quantized], f"{tensor}_to_8_bit")
    )
    graph.node.append(
        helper.make_node("DequantizeLinear", [quantized, scale, _ZERO_POINT], [dequantized], f"{tensor}_from_8_bit")
    )
    return dequantized
