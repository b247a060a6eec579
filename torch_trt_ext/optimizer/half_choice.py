"""Which nodes of an ONNX graph shall compute in 16 bits, and why the others not."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
import torch
from onnx import NodeProto, TensorProto, defs, numpy_helper

from torch_trt_ext.optimizer.minimum_cut import FLOAT, HALF, fewest_crossings
from torch_trt_ext.optimizer.onnx_names import names_within, subgraphs
from torch_trt_ext.optimizer.onnx_outline import outline_of
from torch_trt_ext.optimizer.plugin_operators import PLUGIN_DOMAIN

HalfType = Literal["float16", "bfloat16"]

#: The 16-bit types in torch's terms.
TORCH_TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}

#: Operators whose answers are values of their inputs. Movers and lookers take the precision that needs the fewest
#: casts around them.
_MOVERS = frozenset(
    {
        "Reshape",
        "Transpose",
        "Concat",
        "Slice",
        "Gather",
        "GatherElements",
        "GatherND",
        "Squeeze",
        "Unsqueeze",
        "Expand",
        "Split",
        "Flatten",
        "Identity",
        "Pad",
        "Where",
        "Tile",
        "DepthToSpace",
        "SpaceToDepth",
        "ReverseSequence",
        "Compress",
        "Trilu",
        "CenterCropPad",
        "ScatterElements",
        "ScatterND",
        "Cast",
        "CastLike",
        "ConstantOfShape",
        "TopK",
    }
)
#: Operators that look at values and answer with others.
_LOOKERS = frozenset(
    {
        "Shape",
        "Size",
        "NonZero",
        "ArgMax",
        "ArgMin",
        "Equal",
        "Less",
        "LessOrEqual",
        "Greater",
        "GreaterOrEqual",
        "IsNaN",
        "IsInf",
    }
)

#: Operands that stay float32 although ONNX has them in 16 bits. Resize reads coordinates from its second input; the
#: others are statistics, whose type LayerNormalization's stash_type says.
_FLOAT32_INPUTS = {"Resize": {1}}
_FLOAT32_OUTPUTS = {"LayerNormalization": {1, 2}}

#: The attribute that names the type of an operator's output.
TYPE_ATTRIBUTES = {
    "Cast": "to",
    "Bernoulli": "dtype",
    "EyeLike": "dtype",
    "RandomNormal": "dtype",
    "RandomNormalLike": "dtype",
    "RandomUniform": "dtype",
    "RandomUniformLike": "dtype",
    "BlackmanWindow": "output_datatype",
    "HammingWindow": "output_datatype",
    "HannWindow": "output_datatype",
    "MelWeightMatrix": "output_datatype",
}
#: Operators that take a shape and answer with data.
_DATA_FROM_SHAPES = frozenset(
    {
        "ConstantOfShape",
        "Expand",
        "Tile",
        "EyeLike",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)

_NOT_A_TENSOR = -1
#: Elements of the largest tensor whose values shape inference gets to see.
_LARGEST_READ = 1024
_FOLLOWS_NONE = "it only moves or looks at values, between float32 nodes"


def node_title(node: NodeProto) -> str:
    """What a report calls a node: its name, or that of its first output."""
    return node.name or next((name for name in node.output if name), node.op_type)


def _value_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element types of the outer graph's values, ``_NOT_A_TENSOR`` for sequences and the like."""
    outline, _ = outline_of(model)
    for tensor in outline.graph.initializer:
        # Inference reads small tensors, which may be sizes or scales. Weights only make it slow.
        if tensor.data_type == TensorProto.FLOAT and math.prod(tensor.dims) > _LARGEST_READ:
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
    graph = onnx.shape_inference.infer_shapes(outline, check_type=False, strict_mode=False, data_prop=True).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        if value.type.HasField("tensor_type"):
            types[value.name] = value.type.tensor_type.elem_type
        elif value.type.WhichOneof("value") is not None:
            types[value.name] = _NOT_A_TENSOR
    return {name: data_type for name, data_type in types.items() if data_type != TensorProto.UNDEFINED}


def _constant_of(node: NodeProto) -> TensorProto | None:
    """The tensor of a ``Constant`` node, or None for other nodes and for what is no tensor of numbers."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    for attribute in node.attribute:
        if attribute.name == "value":
            tensor: TensorProto = attribute.t
            return tensor
        if attribute.name == "value_float":
            return numpy_helper.from_array(np.array(attribute.f, dtype=np.float32))
        if attribute.name == "value_floats":
            return numpy_helper.from_array(np.array(attribute.floats, dtype=np.float32))
        if attribute.name == "value_int":
            return numpy_helper.from_array(np.array(attribute.i, dtype=np.int64))
        if attribute.name == "value_ints":
            return numpy_helper.from_array(np.array(attribute.ints, dtype=np.int64))
    return None


class GraphFacts:
    """What is known of a model's outer graph before anything is decided."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.types = _value_types(model)
        self.opsets = {opset.domain or "ai.onnx": opset.version for opset in model.opset_import}
        # An initializer that is also an input is a default that the caller may replace.
        inputs = {value.name for value in model.graph.input}
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name not in inputs}
        for node in self.nodes:
            constant = _constant_of(node)
            if constant is not None:
                self.constants[node.output[0]] = constant
            elif node.op_type == "Identity" and node.input[0] in self.constants:
                # torch exports equal weights once, and an Identity for each other use.
                self.constants[node.output[0]] = self.constants[node.input[0]]
        self.captured = {name for node in self.nodes for subgraph in subgraphs(node) for name in names_within(subgraph)}
        self.outputs = {value.name for value in model.graph.output}

    def is_float32(self, name: str) -> bool:
        return self.types.get(name) == TensorProto.FLOAT

    def is_constant(self, node: NodeProto) -> bool:
        """Whether the node only makes a constant."""
        return len(node.output) > 0 and node.output[0] in self.constants

    def needs_float32(self, name: str) -> bool:
        """Whether something that is no node of the outer graph reads the value."""
        return name in self.outputs or name in self.captured


@dataclass(frozen=True)
class Slots:
    """Which operands of a node change their type when the node does."""

    inputs: tuple[bool, ...]
    outputs: tuple[bool, ...]


class _Unable(Exception):
    """Why a node cannot be in half."""


def _find_plugin_slots(node: NodeProto, facts: GraphFacts) -> Slots:
    slots = Slots(tuple(map(facts.is_float32, node.input)), tuple(map(facts.is_float32, node.output)))
    if any(slots.outputs) and not any(slots.inputs):
        raise _Unable("the type of its output does not follow from its inputs")
    return slots


def _find_slots(node: NodeProto, facts: GraphFacts, half: HalfType) -> Slots:
    if node.domain == PLUGIN_DOMAIN:
        return _find_plugin_slots(node, facts)
    domain = node.domain or "ai.onnx"
    try:
        schema = defs.get_schema(node.op_type, facts.opsets.get(domain, 0), "" if domain == "ai.onnx" else domain)
    except defs.SchemaError:
        raise _Unable(f"ONNX has no definition of {domain}.{node.op_type}") from None
    allowed = {rule.type_param_str: rule.allowed_type_strs for rule in schema.type_constraints}

    def find(names: Iterable[str], formals: list[defs.OpSchema.FormalParameter], fixed: set[int]) -> tuple[bool, ...]:
        slots = []
        for index, name in enumerate(names):
            variable = formals[min(index, len(formals) - 1)].type_str
            changes = index not in fixed and facts.is_float32(name) and variable in allowed
            if changes and f"tensor({half})" not in allowed[variable]:
                raise _Unable(f"ONNX has no {node.op_type} in {half} (opset {schema.since_version})")
            slots.append(changes)
        return tuple(slots)

    inputs = find(node.input, list(schema.inputs), _FLOAT32_INPUTS.get(node.op_type, set()))
    outputs = find(node.output, list(schema.outputs), _FLOAT32_OUTPUTS.get(node.op_type, set()))
    if not any(inputs) and not any(outputs):
        raise _Unable(f"ONNX has {node.op_type} in float32 only")
    if node.op_type not in TYPE_ATTRIBUTES and node.op_type != "ConstantOfShape":
        bound = {
            schema.inputs[min(index, len(schema.inputs) - 1)].type_str for index, slot in enumerate(inputs) if slot
        }
        for index, slot in enumerate(outputs):
            if slot and schema.outputs[min(index, len(schema.outputs) - 1)].type_str not in bound:
                raise _Unable("the type of its output does not follow from its inputs")
    return Slots(inputs, outputs)


def _range_trouble(tensor: TensorProto, half: HalfType, title: str) -> str:
    """Why the values must not become ``half``, or an empty string."""
    if tensor.data_type == TensorProto.STRING:
        return ""
    sizes = torch.from_numpy(np.array(numpy_helper.to_array(tensor).astype(np.float32))).abs()
    largest = sizes.max().item() if sizes.numel() else 0.0
    if not math.isfinite(largest):
        finite = sizes[sizes.isfinite()]
        largest = finite.max().item() if finite.numel() else 0.0
    if largest == 0:
        return ""
    limit = torch.finfo(TORCH_TYPES[half]).max
    if largest > limit:
        return f"its constant '{title}' has {largest:g}, beyond {half}'s {limit:g}"
    if torch.tensor(largest).to(TORCH_TYPES[half]).item() == 0:
        return f"its constant '{title}' would become zero in {half}, its largest value is {largest:g}"
    return ""


class HalfChoice:
    """Which nodes become half.

    Attributes:
        slots: of the nodes that become half, by the node's index.
        kept: reasons, as in :class:`HalfPrecisionResult`.
    """

    def __init__(self, facts: GraphFacts, half: HalfType, keep_ops: frozenset[str], keep_nodes: frozenset[str]) -> None:
        self.facts = facts
        self.half = half
        self._keep_ops = keep_ops
        self._keep_nodes = keep_nodes
        self.kept: dict[str, str] = {}
        #: What _range_trouble said of constants, and of values that movers make of them.
        self._troubles: dict[str, str] = {}
        self._from_shapes: set[str] = set()
        candidates: dict[int, Slots] = {}
        for index, node in enumerate(facts.nodes):
            if facts.is_constant(node):
                continue
            try:
                slots = self._examine(node)
            except _Unable as reason:
                self.kept[node_title(node)] = str(reason)
            else:
                if slots is not None:
                    candidates[index] = slots
            self._carry(node)
        followers = {index for index in candidates if self._follows(facts.nodes[index])}
        half_followers = fewest_crossings(self._values(candidates, followers))
        self.slots = {}
        for index, slots in candidates.items():
            if index in followers and index not in half_followers:
                self.kept[node_title(facts.nodes[index])] = _FOLLOWS_NONE
            else:
                self.slots[index] = slots

    def _examine(self, node: NodeProto) -> Slots | None:
        """The slots of a node that may be half, None for one without float32.

        Raises:
            _Unable: it must stay float32.
        """
        facts = self.facts
        if any(True for _ in subgraphs(node)):
            raise _Unable("it has subgraphs")
        names = [name for name in (*node.input, *node.output) if name]
        for name in names:
            if name not in facts.types:
                raise _Unable(f"the type of '{name}' is unknown")
            if facts.types[name] == _NOT_A_TENSOR:
                raise _Unable(f"'{name}' is no tensor")
        if not any(facts.is_float32(name) for name in names):
            return None
        if node.op_type in self._keep_ops:
            raise _Unable(f"{node.op_type} is to be kept")
        if node_title(node) in self._keep_nodes:
            raise _Unable("the node is to be kept")
        if self._computes_on_shapes(node):
            raise _Unable("it computes on shapes, where 16 bits lose whole numbers")
        slots = _find_slots(node, facts, self.half)
        to_float32 = node.op_type == "Cast" and facts.is_float32(node.output[0])
        for name, slot in zip(node.input, slots.inputs, strict=True):
            if (slot or to_float32) and self._trouble(name):
                raise _Unable(self._trouble(name))
        if node.op_type == "ConstantOfShape":
            for attribute in node.attribute:
                trouble = _range_trouble(attribute.t, self.half, node.output[0])
                if trouble:
                    self._troubles[node.output[0]] = trouble
                    raise _Unable(trouble)
        return slots

    def _computes_on_shapes(self, node: NodeProto) -> bool:
        """Whether the node's answer are numbers that come from shapes alone, which are wanted exactly."""
        if node.op_type in _DATA_FROM_SHAPES or any(True for _ in subgraphs(node)):
            return False
        constants = self.facts.constants
        # A look-up in a table of weights.
        if node.op_type in _MOVERS and node.input[0] in constants and self.facts.is_float32(node.input[0]):
            return False
        numbers = [
            name
            for name in node.input
            if name and name not in constants and self.facts.types.get(name) != TensorProto.BOOL
        ]
        return bool(numbers) and self._from_shapes.issuperset(numbers)

    def _trouble(self, name: str) -> str:
        if name not in self._troubles:
            constant = self.facts.constants.get(name)
            self._troubles[name] = "" if constant is None else _range_trouble(constant, self.half, name)
        return self._troubles[name]

    def _carry(self, node: NodeProto) -> None:
        """Hands on to a node's outputs what its inputs are."""
        if node.op_type in ("Shape", "Size") or self._computes_on_shapes(node):
            self._from_shapes.update(node.output)
        if node.op_type in _MOVERS:
            reason = self.kept.get(node_title(node), "")
            if any(reason and self._troubles.get(name) == reason for name in node.input):
                self._troubles.update((name, reason) for name in node.output if self.facts.is_float32(name))

    def _follows(self, node: NodeProto) -> bool:
        # With a reduction it computes.
        computes = any(attribute.name == "reduction" and attribute.s != b"none" for attribute in node.attribute)
        return node.op_type in _MOVERS | _LOOKERS and not computes

    def _values(self, candidates: dict[int, Slots], followers: set[int]) -> Iterator[tuple[int, set[int]]]:
        """Of every float32 value, who makes it and who reads it: a follower's index, or what is settled."""
        facts = self.facts

        def side(index: int, slot: bool) -> int:
            if index in followers and slot:
                return index
            return HALF if slot else FLOAT

        readers: dict[str, set[int]] = defaultdict(set)
        makers: dict[str, int] = {}
        for index, node in enumerate(facts.nodes):
            slots = candidates.get(index)
            for number, name in enumerate(node.input):
                readers[name].add(side(index, slots is not None and slots.inputs[number]))
            for number, name in enumerate(node.output):
                makers[name] = side(index, slots is not None and slots.outputs[number])
        for name in facts.types:
            # Of a constant there can be two copies, which are no casts.
            if facts.is_float32(name) and name not in facts.constants:
                extra = {FLOAT} if facts.needs_float32(name) else set()
                yield makers.get(name, FLOAT), readers[name] | extra
