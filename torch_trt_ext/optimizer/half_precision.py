"""Lets an ONNX graph compute in 16 bits, with the precision of every value in the graph itself."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import onnx
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper

from torch_trt_ext.optimizer.half_choice import (
    TORCH_TYPES,
    TYPE_ATTRIBUTES,
    GraphFacts,
    HalfChoice,
    HalfType,
    Slots,
    node_title,
)
from torch_trt_ext.optimizer.onnx_names import names_within

__all__ = ["HalfPrecisionResult", "HalfType", "to_half_precision"]

_ONNX_TYPES = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}


@dataclass(frozen=True)
class HalfPrecisionResult:
    """What :func:`to_half_precision` made.

    Attributes:
        model: the new model.
        half_nodes: number of nodes that now take or give 16-bit values, without constants and inserted casts.
        kept: nodes that take or give float32 values and stayed so, with the reason. A node without a name goes by
            the name of its first output.
        casts_inserted: number of ``Cast`` nodes added.
    """

    model: onnx.ModelProto
    half_nodes: int
    kept: dict[str, str]
    casts_inserted: int


def to_half_precision(
    model: onnx.ModelProto,
    *,
    half: HalfType = "float16",
    keep_float32_ops: Collection[str],
    keep_float32_nodes: Collection[str] = (),
) -> HalfPrecisionResult:
    """Makes the float32 nodes of a model compute in 16 bits.

    Inputs and outputs of the graph keep their types. A ``Cast`` stands where a value crosses between float32 and
    ``half``, one a value and direction. Nodes that only move values (``Reshape``, ``Concat``, ...) get the precision
    with which there are the fewest casts. A float32 value keeps its name; its 16-bit twin gets ``_<half>`` appended.
    Plugins (nodes of ``PLUGIN_DOMAIN``) take and give ``half`` altogether; those that cannot are to be named.

    These stay float32: what ``keep_float32_ops`` and ``keep_float32_nodes`` say; nodes whose constants exceed the
    range of ``half`` or would all become zero; nodes with subgraphs, and everything inside; arithmetic on shapes;
    operators that ONNX, at the model's opset, does not have in ``half``; nodes with values whose type shape inference
    does not find.

    Args:
        model: a model whose weights are inside it; it is not changed.
        half: the 16-bit type.
        keep_float32_ops: operator types, such as "Softmax".
        keep_float32_nodes: names of nodes; a node without a name goes by its first output.

    Raises:
        TypeError: ``model`` is no ``ModelProto``, or a string came in place of a collection.
        ValueError: ``half`` is unknown, the graph has no node of a name to keep, weights lie in other files, or the IR
            version is below 4.
    """
    if not isinstance(model, onnx.ModelProto):
        raise TypeError(f"model must be an onnx.ModelProto, got {type(model).__name__}; use onnx.load")
    if half not in get_args(HalfType):
        raise ValueError(f"half must be one of {get_args(HalfType)}, got {half!r}")
    for what, names in (("keep_float32_ops", keep_float32_ops), ("keep_float32_nodes", keep_float32_nodes)):
        if isinstance(names, str):
            raise TypeError(f"{what} must be a collection of strings, got the string {names!r}; put it into a list")
    if model.ir_version < 4:
        raise ValueError(
            f"the model's IR version must be 4 or newer, where weights need not be inputs, got {model.ir_version}; "
            "export it with a newer opset"
        )
    present = {node_title(node) for node in model.graph.node}
    for name in keep_float32_nodes:
        if name not in present:
            raise ValueError(f"keep_float32_nodes must name nodes of the graph, got {name!r}, which it has not")
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            raise ValueError(
                f"the model's weights must be inside it, but '{tensor.name}' is in another file; use "
                "onnx.external_data_helper.load_external_data_for_model"
            )
    choice = HalfChoice(GraphFacts(model), half, frozenset(keep_float32_ops), frozenset(keep_float32_nodes))
    return _rewrite(choice)


def _to_half_tensor(tensor: TensorProto, half: HalfType, name: str) -> TensorProto:
    values = torch.from_numpy(np.array(numpy_helper.to_array(tensor))).to(TORCH_TYPES[half])
    # numpy has no bfloat16.
    data = values.view(torch.int16).numpy().tobytes()
    return TensorProto(name=name, data_type=_ONNX_TYPES[half], dims=tensor.dims, raw_data=data)


def _half_node(node: NodeProto, slots: Slots, half_names: dict[str, str], half: HalfType) -> NodeProto:
    changed = NodeProto()
    changed.CopyFrom(node)
    for number, slot in enumerate(slots.inputs):
        if slot:
            changed.input[number] = half_names[node.input[number]]
    for number, slot in enumerate(slots.outputs):
        if slot:
            changed.output[number] = half_names[node.output[number]]
    if not any(slots.outputs):
        return changed
    if node.op_type == "ConstantOfShape":
        old = next((attribute.t for attribute in node.attribute), numpy_helper.from_array(np.zeros(1, np.float32)))
        _set_attribute(changed, "value", _to_half_tensor(old, half, old.name))
    elif node.op_type in TYPE_ATTRIBUTES:
        _set_attribute(changed, TYPE_ATTRIBUTES[node.op_type], _ONNX_TYPES[half])
    return changed


def _set_attribute(node: NodeProto, name: str, value: int | TensorProto) -> None:
    others = [attribute for attribute in node.attribute if attribute.name != name]
    _replace(node.attribute, [*others, helper.make_attribute(name, value)])


def _replace(field: Any, messages: list[Any]) -> None:
    """Puts ``messages`` in place of what a repeated field has. Some of them may be in the field."""
    kept = []
    for message in messages:
        kept.append(type(message)())
        kept[-1].CopyFrom(message)
    del field[:]
    field.extend(kept)


def _rewrite(choice: HalfChoice) -> HalfPrecisionResult:
    facts, half = choice.facts, choice.half
    made_half: set[str] = set()
    read_half: set[str] = set()
    read_float: set[str] = {name for name in facts.types if facts.needs_float32(name)}
    for index, node in enumerate(facts.nodes):
        slots = choice.slots.get(index)
        if facts.is_constant(node):
            continue
        for number, name in enumerate(node.input):
            (read_half if slots is not None and slots.inputs[number] else read_float).add(name)
        if slots is not None:
            made_half.update(name for name, slot in zip(node.output, slots.outputs, strict=True) if slot)

    # A constant that is made of another is made only for those who read it as it is.
    for node in reversed(facts.nodes):
        if facts.is_constant(node) and (node.output[0] in read_float or node.output[0] not in read_half):
            read_float.update(node.input)

    taken = set(names_within(facts.model.graph)) | {node.name for node in facts.nodes}

    def unused(name: str) -> str:
        while name in taken:
            name += "_"
        taken.add(name)
        return name

    half_names: dict[str, str] = {}
    half_constants: dict[int, TensorProto] = {}
    for name in facts.types:
        constant = facts.constants.get(name)
        if name not in made_half and name not in read_half:
            continue
        if constant is None:
            half_names[name] = unused(f"{name}_{half}")
        else:
            if id(constant) not in half_constants:
                half_constants[id(constant)] = _to_half_tensor(constant, half, unused(f"{name}_{half}"))
            half_names[name] = half_constants[id(constant)].name

    def cast(name: str) -> list[NodeProto]:
        """The cast that a float32 value needs where it is made."""
        if name in made_half and name in read_float:
            source, target, data_type = half_names[name], name, TensorProto.FLOAT
        elif name not in made_half and name in read_half:
            source, target, data_type = name, half_names[name], _ONNX_TYPES[half]
        else:
            return []
        return [helper.make_node("Cast", [source], [target], name=unused(f"Cast_{target}"), to=data_type)]

    nodes: list[NodeProto] = []
    made = set(facts.constants).union(*(node.output for node in facts.nodes))
    for name in half_names:
        if name not in made:
            nodes += cast(name)
    casts = len(nodes)
    for index, node in enumerate(facts.nodes):
        if facts.is_constant(node):
            if node.output[0] in read_float or node.output[0] not in half_names:
                nodes.append(node)
            continue
        nodes.append(node)
        if index in choice.slots:
            nodes[-1] = _half_node(node, choice.slots[index], half_names, half)
        for name in node.output:
            inserted = cast(name)
            casts += len(inserted)
            nodes += inserted

    model = onnx.ModelProto()
    model.CopyFrom(facts.model)
    graph = model.graph
    gone = (half_names.keys() - read_float) & (made_half | facts.constants.keys())
    _replace(graph.node, nodes)
    kept = [tensor for tensor in facts.model.graph.initializer if tensor.name not in gone]
    _replace(graph.initializer, [*kept, *half_constants.values()])
    infos = [info for info in facts.model.graph.value_info if info.name not in gone]
    for info in facts.model.graph.value_info:
        if info.name in half_names and info.name not in facts.constants:
            twin = onnx.ValueInfoProto()
            twin.CopyFrom(info)
            twin.name = half_names[info.name]
            twin.type.tensor_type.elem_type = _ONNX_TYPES[half]
            infos.append(twin)
    _replace(graph.value_info, infos)
    return HalfPrecisionResult(model, len(choice.slots), choice.kept, casts)
