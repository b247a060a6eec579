"""What a command answers: a JSON document or text, on stdout, and an exit status."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import click

from torch_trt_ext.optimizer.report import json_values

#: Key of a context's ``meta``: whether errors show where they come from.
DEBUG = "torch_trt_ext.debug"

#: Exit status where what was looked for is wrong: answers that differ, something needed that is missing.
DIFFERENT = 3


@dataclass(frozen=True)
class Answer:
    """What a command prints.

    Attributes:
        document: for ``--json``; NaN and infinities become strings.
        text: for people; colours are taken out where stdout is no terminal.
        exit_status: of the process.
    """

    document: Any
    text: str
    exit_status: int = 0


def answers(command: Callable[..., Answer]) -> Callable[..., None]:
    """Gives a command the options ``--json`` and ``--debug``, and prints what it returns."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
    @click.option("--debug", is_flag=True, help="Show where an error comes from.")
    @functools.wraps(command)
    def run(*arguments: Any, as_json: bool, debug: bool, **options: Any) -> None:
        context = click.get_current_context()
        context.meta[DEBUG] = debug
        with _stdout_to_stderr() if as_json else contextlib.nullcontext():
            answer = command(*arguments, **options)
        if as_json:
            click.echo(json.dumps(json_values("answer", answer.document), indent=2, allow_nan=False))
        else:
            click.echo(answer.text)
        context.exit(answer.exit_status)

    return run


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Sends to stderr what models and libraries print meanwhile."""
    _flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        _flush()
        os.dup2(stdout, 1)
        os.close(stdout)


def _flush() -> None:
    sys.stdout.flush()
    ctypes.CDLL(None).fflush(None)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows in columns, the first one left-aligned, numbers right-aligned."""
    cells = [list(header), *map(list, rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    to_the_right = [all(_is_number(row[column]) for row in rows) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, to_the_right, strict=True)
        ]
        return "  ".join(padded).rstrip()

    return "\n".join([click.style(line(header), bold=True), *map(line, rows)])


def _is_number(cell: str) -> bool:
    return cell == "" or cell[0].isdigit() or cell in ("inf", "nan")


def count(number: int, noun: str) -> str:
    """ "1 engine", "2 engines"."""
    return f"{number} {noun}{'s' * (number != 1)}"


def size(number: int) -> str:
    """Bytes in words: "12.0 KiB"."""
    amount = float(number)
    for unit in ("bytes", "KiB", "MiB"):
        if amount < 1024:
            return f"{number} bytes" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.2f} GiB"
