"""What an ONNX graph takes and gives, joined with the shapes that an engine shall take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import TypeProto

from torch_trt_ext.builders.tensorrt_build import ShapeRange

#: Ranges of the inputs' shapes, one mapping an optimization profile.
ShapeRanges = Sequence[Mapping[str, ShapeRange]]


@dataclass(frozen=True)
class InputShape:
    """Bounds of one input's shape over all profiles.

    Attributes:
        name: the input.
        smallest: least size of every dimension.
        largest: greatest size of every dimension.
    """

    name: str
    smallest: tuple[int, ...]
    largest: tuple[int, ...]

    @property
    def is_static(self) -> bool:
        """Whether there is one shape only."""
        return self.smallest == self.largest


def given_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The graph's inputs, without those that have their value in the model."""
    initializers = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in initializers]


def check_boundary(model: onnx.ModelProto) -> None:
    """Checks that every output is a value of its own.

    Raises:
        ValueError: an output is an input, or stands there twice.
    """
    inputs = {value.name for value in model.graph.input}
    counts = Counter(value.name for value in model.graph.output)
    for name, count in counts.items():
        if name in inputs:
            raise ValueError(
                f"output '{name}' of the ONNX graph must be computed by a node, but it is an input; put an Identity "
                "between, or leave it out of the graph"
            )
        if count > 1:
            raise ValueError(
                f"output '{name}' of the ONNX graph must be there once, got {count} times; take it from the engine "
                "once and use it several times"
            )


def input_shapes(model: onnx.ModelProto, shape_ranges: ShapeRanges) -> list[InputShape]:
    """Bounds of every input's shape, in the graph's order.

    Args:
        model: its inputs are tensors.
        shape_ranges: one mapping an optimization profile, from an input's name to its smallest, tuned and largest
            shape. Inputs whose shape the graph fixes may be missing.

    Raises:
        ValueError: the ranges contradict themselves, each other or the graph, or one is missing.
    """
    inputs = given_inputs(model)
    names = {value.name for value in inputs}
    for number, profile in enumerate(shape_ranges):
        if unknown := sorted(profile.keys() - names):
            raise ValueError(f"profile {number} must name inputs of the ONNX graph ({sorted(names)}), got {unknown}")
    return [_input_shape(value, shape_ranges) for value in inputs]


def _input_shape(value: onnx.ValueInfoProto, shape_ranges: ShapeRanges) -> InputShape:
    name = value.name
    if not value.type.HasField("tensor_type"):
        kind = value.type.WhichOneof("value")
        raise ValueError(f"input '{name}' of the ONNX graph must be a tensor, got {kind}; pass its tensors one by one")
    declared = declared_shape(value.type.tensor_type)
    given = [profile[name] for profile in shape_ranges if name in profile]
    if not given and declared is not None and None not in declared:
        fixed = tuple(size for size in declared if size is not None)
        return InputShape(name, fixed, fixed)
    if not given or len(given) < len(shape_ranges):
        raise ValueError(
            f"input '{name}' must have a range of shapes in every profile, got {len(given)} ranges in "
            f"{len(shape_ranges)} profiles; in the ONNX graph its shape is {declared}"
        )
    for smallest, tuned, largest in given:
        ranks = {len(smallest), len(tuned), len(largest), len(smallest if declared is None else declared)}
        triples = list(zip(smallest, tuned, largest, strict=False))
        if len(ranks) > 1 or not all(0 <= low <= middle <= high for low, middle, high in triples):
            raise ValueError(
                f"input '{name}' must have shapes that grow from smallest over tuned to largest, of the rank of "
                f"{declared}, got {tuple(smallest)}, {tuple(tuned)}, {tuple(largest)}"
            )
        for axis, size in enumerate(declared or ()):
            if size is not None and not smallest[axis] == largest[axis] == size:
                raise ValueError(
                    f"dimension {axis} of input '{name}' must be {size}, as the ONNX graph fixes it, got "
                    f"{smallest[axis]} to {largest[axis]}; export it as a dynamic axis"
                )
    return InputShape(
        name,
        tuple(min(sizes) for sizes in zip(*(smallest for smallest, _, _ in given), strict=True)),
        tuple(max(sizes) for sizes in zip(*(largest for _, _, largest in given), strict=True)),
    )


def declared_shape(tensor: TypeProto.Tensor) -> tuple[int | None, ...] | None:
    """The shape in the graph, None for what it leaves open."""
    if not tensor.HasField("shape"):
        return None
    return tuple(
        dimension.dim_value if dimension.WhichOneof("value") == "dim_value" else None for dimension in tensor.shape.dim
    )
