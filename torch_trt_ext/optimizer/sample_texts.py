"""The shapes and ranges that PAI-Blade's callers write as texts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from torch_trt_ext.optimizer.structures import describe, dtype_name

_SHAPE_EXAMPLE = 'write dimensions separated by "*", as in input_shapes=[["1*3*224*224", "1*512"]]'
_RANGE_EXAMPLE = (
    'write "[0.1, 0.4]" for float32, "[0, 255]" for int64, "{0,1,2}" for a choice of int64, or "[0, 255] uint8" for '
    'another dtype, as in input_ranges=[["[0.0, 1.0]", "[0, 255]"]]'
)

_NUMBER = r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*"
_INTERVAL = re.compile(rf"\[{_NUMBER},{_NUMBER}\]")
_CHOICE = re.compile(r"\{(\s*[-+]?\d+\s*(?:,\s*[-+]?\d+\s*)*)\}")
_INTEGER = re.compile(r"[-+]?\d+")
_WITH_DTYPE = re.compile(r"(.*[\]}])\s*([a-z]+\d*)")

#: What a range may be followed by.
DTYPES = {
    dtype_name(dtype): dtype
    for dtype in (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    )
}
_INT64 = torch.iinfo(torch.int64)

Shape = tuple[int, ...]


def parse_shapes(value: object) -> list[list[Shape]]:
    """Reads ``input_shapes``: alternative sets, each with one shape a tensor.

    Raises:
        TypeError: it is no list, or holds what is no shape.
        ValueError: a shape cannot be read.
    """
    return _parse_sets(value, "input_shapes", _is_shape, _parse_shape)


def parse_ranges(value: object) -> list[list[Range]]:
    """Reads ``input_ranges``: alternative sets, each with one range a tensor.

    Raises:
        TypeError: it is no list, or holds what is no text.
        ValueError: a range cannot be read.
    """
    return _parse_sets(value, "input_ranges", _is_range, _parse_range)


def _parse_sets(
    value: object, subject: str, is_one: Callable[[object], bool], parse: Callable[[object, str], Any]
) -> list[list[Any]]:
    """Reads alternative sets; what is plainly a single entry or a single set is put into the lists that it lacks."""
    if value is None:
        return []
    if is_one(value):
        value = [[value]]
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{subject} must be a list of lists, got {describe(value)}")
    if value and all(is_one(element) for element in value):
        value = [value]
    sets = []
    for number, entries in enumerate(value):
        where = f"{subject}[{number}]"
        if not isinstance(entries, (list, tuple)):
            raise TypeError(f"{where} must be a list with one entry for each input tensor, got {describe(entries)}")
        if not entries:
            raise ValueError(f"{where} must have one entry for each input tensor, got none")
        sets.append([parse(entry, f"{where}[{index}]") for index, entry in enumerate(entries)])
    return sets


def _is_shape(value: object) -> bool:
    """Whether a value is one shape wherever it stands; an empty list is one only inside a set."""
    if isinstance(value, str):
        return True
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(size, int) for size in value)


def _parse_shape(value: object, where: str) -> Shape:
    if isinstance(value, str):
        sizes = value.split("*")
        if not all(_INTEGER.fullmatch(size.strip()) for size in sizes):
            raise ValueError(f"{where} must be a shape, got {value!r}; {_SHAPE_EXAMPLE}")
        shape = tuple(int(size) for size in sizes)
    elif isinstance(value, (list, tuple)) and all(isinstance(size, int) for size in value):
        shape = tuple(value)
    else:
        raise TypeError(f"{where} must be a string or a list of ints, got {describe(value)}; {_SHAPE_EXAMPLE}")
    if any(size < 1 for size in shape):
        raise ValueError(
            f"{where} must have sizes of 1 or more, got {value!r}; sizes that vary are several sets, "
            'as [["1*3*224*224"], ["8*3*224*224"]]'
        )
    return shape


@dataclass(frozen=True)
class Range:
    """Values to draw from.

    Attributes:
        low: smallest value.
        high: largest value.
        choice: all values, where they are listed.
        whole: whether the values are whole numbers.
        dtype: of the tensor; None is int64 for whole numbers, else float32.
    """

    low: float
    high: float
    choice: tuple[int, ...] = ()
    whole: bool = False
    dtype: torch.dtype | None = None

    def draw(self, shape: Shape, generator: torch.Generator) -> Tensor:
        """A tensor of such values."""
        drawn = self._draw(shape, generator)
        return drawn if self.dtype is None else drawn.to(self.dtype)

    def _draw(self, shape: Shape, generator: torch.Generator) -> Tensor:
        if self.choice:
            values = torch.tensor(self.choice, dtype=torch.int64)
            return values[torch.randint(len(self.choice), shape, generator=generator)]
        if self.whole:
            return torch.randint(int(self.low), int(self.high) + 1, shape, generator=generator)
        uniform = torch.rand(shape, generator=generator, dtype=torch.float32)
        # Rounding to float32 may pass the upper end.
        return (self.low + uniform * (self.high - self.low)).clamp_(self.low, self.high)


#: Where none is given.
DEFAULT_RANGE = Range(0.0, 1.0)


def _is_range(value: object) -> bool:
    return isinstance(value, str)


def _parse_range(value: object, where: str) -> Range:
    if not isinstance(value, str):
        raise TypeError(f"{where} must be a string, got {describe(value)}; {_RANGE_EXAMPLE}")
    text, dtype = value.strip(), None
    if (match := _WITH_DTYPE.fullmatch(text)) and match[2] in DTYPES:
        text, dtype = match[1], DTYPES[match[2]]
    if match := _CHOICE.fullmatch(text):
        choice = tuple(int(number) for number in match[1].split(","))
        parsed = Range(min(choice), max(choice), choice, whole=True)
    elif match := _INTERVAL.fullmatch(text):
        if all(_INTEGER.fullmatch(end) for end in match.groups()):
            parsed = Range(int(match[1]), int(match[2]), whole=True)
        else:
            parsed = Range(float(match[1]), float(match[2]))
    else:
        raise ValueError(f"{where} must be a range, got {value!r}; {_RANGE_EXAMPLE}")
    if parsed.low > parsed.high:
        raise ValueError(f"{where} must go from the smaller to the larger end, got {value!r}")
    # One less than the largest int64, since randint excludes its upper end; half of float32's, so that a width fits.
    limit = _INT64.max - 1 if parsed.whole else torch.finfo(torch.float32).max / 2
    if max(-parsed.low, parsed.high) > limit:
        raise ValueError(f"{where} must stay within {limit} of 0, got {value!r}")
    if dtype is None:
        return parsed
    least, most = _limits(dtype)
    if not (least <= parsed.low and parsed.high <= most):
        raise ValueError(f"{where} must stay within {dtype_name(dtype)}'s {least} and {most}, got {value!r}")
    return replace(parsed, dtype=dtype)


def _limits(dtype: torch.dtype) -> tuple[float, float]:
    if dtype is torch.bool:
        return 0, 1
    limits = torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
    return limits.min, limits.max
