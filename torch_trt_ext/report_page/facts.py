"""Reads a report's dict for its pages: what may be missing, and figures as they are shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: What stands where nothing was measured.
NOT_MEASURED = "not measured"

_MISSING = "\N{EN DASH}"

_TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class Figure:
    """A value of the report, where it is, and how it is shown.

    Attributes:
        pointer: its place in the report, a JSON pointer (RFC 6901).
        value: as the report has it; None where it has none.
        text: for people.
    """

    pointer: str
    value: Any
    text: str

    @property
    def number(self) -> float:
        """The value as a number; NaN where it is none."""
        return number_of(self.value)


class Facts:
    """A part of a report.

    Args:
        value: the part: a dict, a list or a single value.
        pointer: where it is in the report.
    """

    def __init__(self, value: Any, pointer: str = "") -> None:
        self.value = value
        self.pointer = pointer

    def __getitem__(self, key: str | int) -> Facts:
        """A part of it, also where there is none."""
        part = None
        if (isinstance(self.value, Mapping) and key in self.value) or (
            isinstance(self.value, list) and isinstance(key, int) and key < len(self.value)
        ):
            part = self.value[key]  # type: ignore[index]
        return Facts(part, f"{self.pointer}/{str(key).replace('~', '~0').replace('/', '~1')}")

    def __bool__(self) -> bool:
        return self.value is not None and self.value not in ({}, [], "")

    def items(self) -> list[Facts]:
        """The entries of a list; none if it is not one."""
        return [self[index] for index in range(len(self.value))] if isinstance(self.value, list) else []

    def entries(self) -> list[tuple[str, Facts]]:
        """The entries of a dict; none if it is not one."""
        return [(str(key), self[key]) for key in self.value] if isinstance(self.value, Mapping) else []

    def text(self) -> str:
        """As text; empty where there is nothing."""
        return "" if self.value is None else str(self.value)

    def number(self) -> float:
        """As a number; NaN where it is none."""
        return number_of(self.value)

    def words(self) -> Figure:
        """As it is: a name, a count, a latency that the report has with its unit."""
        if self.value is None or self.value == "":
            return Figure(self.pointer, self.value, _MISSING)
        if isinstance(self.value, str) and self.value.split(" ")[0] == "nan":
            return Figure(self.pointer, self.value, NOT_MEASURED)
        return Figure(self.pointer, self.value, str(self.value))

    def speedup(self) -> Figure:
        """How many times as fast."""
        known = math.isfinite(self.number())
        return Figure(self.pointer, self.value, f"{self.value}{_TIMES}" if known else NOT_MEASURED)

    def milliseconds(self) -> Figure:
        """A number of milliseconds, with the unit."""
        return self._shown(f"{self._millisecond_form()} ms")

    def in_milliseconds(self) -> Figure:
        """A number of milliseconds, without it."""
        return self._shown(self._millisecond_form())

    def _millisecond_form(self) -> str:
        number = self.number()
        return "{:.3f}" if number < 10 else "{:.2f}" if number < 100 else "{:.1f}"

    def seconds(self) -> Figure:
        """A number of seconds."""
        return self._shown("{:.3g} s")

    def error(self) -> Figure:
        """An error: three digits, whatever its size."""
        return self._shown("{:.2e}", zero="0")

    def percent(self) -> Figure:
        """A fraction as percent."""
        number = self.number()
        digits = 0 if number in (0.0, 1.0) else 2 if number < 0.1 else 1
        return self._shown("{:." + str(digits) + "%}")

    def quantity(self) -> Figure:
        """Any other number."""
        return self._shown("{:.6g}")

    def byte_size(self) -> Figure:
        """Bytes, as "12.0 KiB"."""
        amount = self.number()
        if math.isnan(amount):
            return Figure(self.pointer, self.value, _MISSING)
        for unit in ("bytes", "KiB", "MiB"):
            if amount < 1024:
                return Figure(self.pointer, self.value, f"{amount:.4g} {unit}")
            amount /= 1024
        return Figure(self.pointer, self.value, f"{amount:.4g} GiB")

    def shape(self) -> Figure:
        """A shape: its sizes, or "scalar"."""
        if not isinstance(self.value, Sequence) or isinstance(self.value, str):
            return Figure(self.pointer, self.value, _MISSING)
        return Figure(self.pointer, self.value, f" {_TIMES} ".join(map(str, self.value)) or "scalar")

    def _shown(self, form: str, zero: str | None = None) -> Figure:
        number = self.number()
        if self.value is None:
            return Figure(self.pointer, self.value, _MISSING)
        if math.isnan(number):
            return Figure(self.pointer, self.value, NOT_MEASURED)
        if math.isinf(number):
            return Figure(self.pointer, self.value, "∞" if number > 0 else "-∞")
        return Figure(self.pointer, self.value, zero if zero is not None and number == 0 else form.format(number))


def number_of(value: Any) -> float:
    """A number, or the one that a text such as "9.28 ms", "4.32", "nan" or "inf" begins with; NaN for all else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return math.nan
    if isinstance(value, str):
        value = value.partition(" ")[0]
    try:
        return float(value)
    except ValueError:
        return math.nan
