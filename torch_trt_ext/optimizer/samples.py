"""What a model is run on while it is optimized: the user's test data, or tensors made from shapes and ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from torch_trt_ext.optimizer.sample_texts import DEFAULT_RANGE, Range, Shape, parse_ranges, parse_shapes
from torch_trt_ext.optimizer.structures import (
    describe,
    detach_clone,
    dtype_name,
    flatten_tensors,
    join_path,
    map_tensors,
)

#: Seed of what is generated: the same shapes and ranges give the same tensors everywhere.
_SEED = 0

_DATA_EXAMPLE = "write {name}=[(images,)], a list of tuples, each with the arguments of one call"

_Signature = tuple[tuple[Shape, torch.dtype], ...]


ShapeVariation = Literal["undefined", "static", "dynamic"]


def variation_of(items: Sequence[Any]) -> ShapeVariation:
    """Whether shapes differ between items: "static" or "dynamic"; "undefined" for fewer than two."""
    if len(items) < 2:
        return "undefined"
    shapes = {tuple(shape for shape, _ in _signature(item)) for item in items}
    return "static" if len(shapes) == 1 else "dynamic"


def tensor_lines(items: Sequence[Any]) -> str:
    """The tensors as PAI-Blade's report lists them, a line each: ``0 shape: (1, 3, 480, 640) data type: float32``.

    The numbers count the tensors of an item. Other shapes that a tensor has in further items follow as lines with its
    number.
    """
    lines: dict[str, None] = {}
    for item in items:
        for number, (shape, dtype) in enumerate(_signature(item)):
            lines[f"{number} shape: {shape} data type: {dtype_name(dtype)}"] = None
    return "\n".join(lines)


@dataclass(frozen=True)
class Samples:
    """What to run a model on.

    Attributes:
        items: the positional arguments of one call each; no memory is shared with the user's tensors or between items.
        source: "user provided" or "generated", as in PAI-Blade's report.
        message: what a reader of the report should know about them; may be empty.
        origins: where each item comes from, for messages: ``test_data[0]``.
        argument_names: what ``forward`` calls its arguments, in order, without ``self``.
    """

    items: list[tuple[Any, ...]]
    source: Literal["user provided", "generated"]
    message: str
    origins: list[str]
    argument_names: list[str]

    @property
    def shape_variation(self) -> ShapeVariation:
        """Whether shapes differ between items: "static" or "dynamic"; "undefined" where there is only one item."""
        return variation_of(self.items)

    def within(
        self, profile: Mapping[str, Sequence[Sequence[int]]], *, exactly_optimal: bool = False
    ) -> list[tuple[Any, ...]]:
        """The items whose shapes are in a profile's range.

        Args:
            profile: from a name or path of a tensor to its smallest, optimal and largest shape.
            exactly_optimal: whether only the optimal shapes count.
        """

        def fits(item: tuple[Any, ...]) -> bool:
            tensors = _tensors_by_path(item, self.argument_names)
            for name, (smallest, optimal, largest) in profile.items():
                low, high = (optimal, optimal) if exactly_optimal else (smallest, largest)
                shape = tensors[name].shape if name in tensors else ()
                if len(shape) != len(low) or not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
                    return False
            return True

        return [item for item in self.items if fits(item)]


def make_samples(
    *,
    test_data: Sequence[tuple[Any, ...]] | None,
    input_shapes: Sequence[Any] | None = None,
    input_ranges: Sequence[Any] | None = None,
    inputs: Sequence[str] | None = None,
    argument_names: Sequence[str],
    device: torch.device | str,
    profiles: Sequence[Mapping[str, Sequence[Sequence[int]]]] = (),
) -> Samples:
    """Collects what to run the model on.

    Test data come first. Where there are none, each set of ``input_shapes`` makes one item; where there are, each set
    makes the first item anew in other shapes. Then every profile adds the first item at its smallest, its optimal and
    its largest shapes. A resized item whose shapes another item has already is left out.

    Args:
        test_data: a list of tuples, each with the positional arguments of one call. They are copied.
        input_shapes: alternative sets of shapes, each a list with one shape per tensor, a string as ``"1*3*224*224"``
            or a list of ints: ``[["1*3*224*224", "1*512"], ["4*3*224*224", "4*512"]]``. A single set needs no outer
            list, and a single list of ints is a single shape.
        input_ranges: for generated tensors, nested like ``input_shapes``; a single set holds for all of them.
            ``"[0.1, 0.4]"`` is float32, uniform; ``"[0, 255]"``, both ends without a dot, is int64, both ends included;
            ``"{0,1,2}"`` is a choice of int64. Another dtype follows: ``"[0, 255] uint8"``, ``"[0.0, 1.0] float16"``.
            Without ranges, float32 in [0, 1).
        inputs: names of the arguments (with test data, also paths as ``images.0``) that the shapes are for, in their
            order. Without them the shapes are for the first arguments (with test data, for all tensors).
        argument_names: what ``forward`` calls its arguments, in order, without ``self``.
        device: where the tensors go; "gpu" is the current CUDA device.
        profiles: as ``Config.shapes.profiles`` holds and has checked them: each from a name or path of a tensor to its
            smallest, optimal and largest shape. Tensors that it does not name stay as they are.

    Raises:
        TypeError: an argument is of the wrong kind, as a tensor where a tuple of arguments belongs.
        ValueError: neither data nor shapes; or names, shapes or ranges that cannot be read, or do not fit together.
    """
    target = torch.device("cuda" if device == "gpu" else device)
    data = check_items(test_data, "test_data")
    _check_inputs(inputs, argument_names)
    sets = parse_shapes(input_shapes)
    ranges = parse_ranges(input_ranges)
    if not data and not sets:
        raise ValueError(
            "optimize() needs something to run the model on: give test_data=[(images,)], a list of tuples of "
            'arguments, or input_shapes=[["1*3*224*224"]], one string for each input tensor'
        )
    if not data:
        items = _generate(sets, ranges, inputs, argument_names)
        source: Literal["user provided", "generated"] = "generated"
        message = "Inputs were generated from input_shapes; real test_data makes accuracy and speed more telling."
        resized_items: list[tuple[tuple[Any, ...], str]] = []
    else:
        items = data
        source = "user provided"
        message = "input_ranges was not used: values come from test_data." if ranges else ""
        resized_items = [
            (_at_set(items[0], shapes, f"input_shapes[{number}]", inputs, argument_names), f"input_shapes[{number}]")
            for number, shapes in enumerate(sets)
        ]
    origins = [f"{'test_data' if data else 'input_shapes'}[{number}]" for number in range(len(items))]
    for number, profile in enumerate(profiles):
        sizes = [f"shape profile {number} at its {which} shapes" for which in ("smallest", "optimal", "largest")]
        at = _at_profile(items[0], profile, f"shape profile {number}", argument_names)
        resized_items += zip(at, sizes, strict=True)
    seen = {_signature(item) for item in items}
    for item, origin in resized_items:
        if _signature(item) not in seen:
            seen.add(_signature(item))
            items.append(item)
            origins.append(origin)
    return Samples([detach_clone(item, target) for item in items], source, message, origins, list(argument_names))


def resized(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """A tensor cropped, or repeated by starting again at index 0, along each dimension; its values stay real ones.

    Args:
        tensor: any dtype and device.
        shape: as many dimensions as the tensor has.

    Returns:
        A new contiguous tensor.

    Raises:
        ValueError: another number of dimensions, a negative size, or nothing to repeat.
    """
    target = tuple(shape)
    if len(target) != tensor.dim() or any(size < 0 for size in target):
        raise ValueError(
            f"a tensor of shape {tuple(tensor.shape)} needs a new shape of {tensor.dim()} dimensions, none negative, "
            f"got {target}"
        )
    for dim, (old, new) in enumerate(zip(tensor.shape, target, strict=True)):
        if old == 0 and new > 0:
            raise ValueError(
                f"a tensor of shape {tuple(tensor.shape)} has nothing to repeat along dimension {dim}, so it cannot "
                f"take shape {target}; give test_data with elements there"
            )
        if new <= old:
            tensor = tensor.narrow(dim, 0, new)
    for dim, new in enumerate(target):
        if new > tensor.shape[dim]:
            tensor = tensor.index_select(dim, torch.arange(new, device=tensor.device) % tensor.shape[dim])
    return tensor.clone(memory_format=torch.contiguous_format)


def _signature(item: Any) -> _Signature:
    return tuple((tuple(tensor.shape), tensor.dtype) for _, tensor in flatten_tensors(item))


def check_items(data: object, name: str) -> list[tuple[Any, ...]]:
    """The items of an argument that takes a list of tuples of arguments; none for None.

    Args:
        data: what was given.
        name: of the argument, for messages.

    Raises:
        TypeError: it is something else.
    """
    if data is None:
        return []
    if not isinstance(data, list):
        raise TypeError(f"{name} must be a list of tuples, got {_kind(data)}; {_DATA_EXAMPLE.format(name=name)}")
    for number, item in enumerate(data):
        if not isinstance(item, tuple):
            wrap = "[(images,)]" if isinstance(item, Tensor) else f"[({describe(item)},)] if that is one argument"
            raise TypeError(
                f"{name}[{number}] must be a tuple of arguments, got {_kind(item)}; wrap it in a tuple: {wrap}"
            )
    return list(data)


def _kind(value: object) -> str:
    return f"a tensor, {describe(value)}" if isinstance(value, Tensor) else f"{type(value).__name__}, {describe(value)}"


def _check_inputs(inputs: Sequence[str] | None, argument_names: Sequence[str]) -> None:
    if inputs is None:
        return
    if isinstance(inputs, str) or not all(isinstance(name, str) for name in inputs):
        raise TypeError(f"inputs must be a list of names, got {inputs!r}; the model has {list(argument_names)}")
    if len(set(inputs)) < len(inputs):
        raise ValueError(f"inputs must name each input once, got {list(inputs)}")
    unknown = [name for name in inputs if name.partition(".")[0] not in argument_names]
    if unknown:
        raise ValueError(f"inputs names {unknown}, which forward does not take; it takes {list(argument_names)}")


def _generate(
    sets: list[list[Shape]],
    ranges: list[list[Range]],
    inputs: Sequence[str] | None,
    argument_names: Sequence[str],
) -> list[tuple[Any, ...]]:
    """One item for each set of shapes, in the order of forward's arguments."""
    if len(ranges) not in (0, 1, len(sets)):
        raise ValueError(
            f"input_ranges must have one set, or as many as input_shapes, which has {len(sets)}, got {len(ranges)}"
        )
    generator = torch.Generator().manual_seed(_SEED)
    items = []
    for number, shapes in enumerate(sets):
        if inputs is None and len(shapes) > len(argument_names):
            raise ValueError(
                f"input_shapes[{number}] must have one shape for each of forward's arguments {list(argument_names)} "
                f"at most, got {len(shapes)}; for nested arguments give test_data"
            )
        names = list(inputs) if inputs is not None else list(argument_names[: len(shapes)])
        if len(names) != len(shapes):
            raise ValueError(
                f"input_shapes[{number}] must have one shape for each of inputs {names}, got {len(shapes)}"
            )
        if set(names) != set(argument_names[: len(names)]):
            raise ValueError(
                f"inputs must name the first arguments of forward, which takes {list(argument_names)}, got {names}; "
                "give test_data to leave one out or to reach into nested arguments"
            )
        drawn = ranges[number % len(ranges)] if ranges else [DEFAULT_RANGE] * len(shapes)
        if len(drawn) != len(shapes):
            raise ValueError(
                f"input_ranges[{number % len(ranges)}] must have one range for each of the {len(shapes)} shapes of "
                f"input_shapes[{number}], got {len(drawn)}"
            )
        tensors = {
            name: values.draw(shape, generator) for name, shape, values in zip(names, shapes, drawn, strict=True)
        }
        items.append(tuple(tensors[name] for name in argument_names[: len(names)]))
    return items


def _tensors_by_path(item: tuple[Any, ...], argument_names: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of an item, depth first. A path starts with the argument's name, a variadic's with its position."""
    found = {}
    for position, argument in enumerate(item):
        root = argument_names[position] if position < len(argument_names) else str(position)
        for path, tensor in flatten_tensors(argument):
            found[join_path(root, path) if path else root] = tensor
    return found


def _at_set(
    item: tuple[Any, ...],
    shapes: list[Shape],
    where: str,
    inputs: Sequence[str] | None,
    argument_names: Sequence[str],
) -> tuple[Any, ...]:
    """An item of the test data in the shapes of one set of ``input_shapes``."""
    tensors = _tensors_by_path(item, argument_names)
    names = list(inputs) if inputs is not None else list(tensors)
    if len(shapes) != len(names):
        raise ValueError(f"{where} must have one shape for each of {names}, got {len(shapes)}")
    for name, shape in zip(names, shapes, strict=True):
        _check_target(where, name, shape, tensors)
    return _with_shapes(item, dict(zip(names, shapes, strict=True)), argument_names)


def _at_profile(
    item: tuple[Any, ...],
    profile: Mapping[str, Sequence[Sequence[int]]],
    where: str,
    argument_names: Sequence[str],
) -> list[tuple[Any, ...]]:
    """An item at a profile's smallest, optimal and largest shapes."""
    tensors = _tensors_by_path(item, argument_names)
    at: list[dict[str, Shape]] = [{}, {}, {}]
    for name, triple in profile.items():
        for targets, shape in zip(at, triple, strict=True):
            targets[name] = tuple(shape)
            _check_target(where, name, targets[name], tensors)
    return [_with_shapes(item, targets, argument_names) for targets in at]


def _check_target(where: str, name: str, shape: Shape, tensors: Mapping[str, Tensor]) -> None:
    if name not in tensors:
        raise ValueError(
            f"{where} names {name!r}, which is no tensor of the first item; its tensors are {list(tensors)}"
        )
    if len(shape) != tensors[name].dim():
        raise ValueError(
            f"{where} must give {name!r} as many dimensions as its tensor in the first item has, "
            f"{describe(tensors[name])}, got {shape}"
        )


def _with_shapes(item: tuple[Any, ...], shapes: Mapping[str, Shape], argument_names: Sequence[str]) -> tuple[Any, ...]:
    """An item with the tensors at some paths resized."""
    paths = iter(_tensors_by_path(item, argument_names))

    def replace(tensor: Tensor) -> Tensor:
        shape = shapes.get(next(paths))
        return tensor if shape is None else resized(tensor, shape)

    rebuilt: tuple[Any, ...] = map_tensors(item, replace)
    return rebuilt
