"""The pages of the documentation, as its tests read them: blocks of code, links, tables that are made."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>```+)(?P<info>.*)$")

#: What stands on the line before a block, as ``<!-- needs: gpu -->``.
_NOTE = re.compile(r"^ *<!-- (?P<name>[a-z]+): (?P<value>.*) -->$")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: where it is.
        line: of its first line of text, from 1.
        language: the first word after the fence; may be empty.
        text: what is in it, without the indentation of the fence.
        notes: comments right before it, as ``{"needs": "gpu"}``.
    """

    page: Path
    line: int
    language: str
    text: str
    notes: dict[str, str]

    @property
    def place(self) -> str:
        """For messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """Every page, in the order of their names."""
    return sorted(DOCS.rglob("*.md"))


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found: list[Block] = []
    notes: dict[str, str] = {}
    lines = iter(enumerate(page.read_text(encoding="utf-8").splitlines(), start=1))
    for number, line in lines:
        opening = _FENCE.match(line)
        note = _NOTE.match(line)
        if note:
            notes[note["name"]] = note["value"]
        elif opening:
            language = opening["info"].strip().partition(" ")[0]
            text = "\n".join(_until_end(lines, opening["fence"], opening["indent"]))
            found.append(Block(page, number + 1, language, text, notes))
            notes = {}
        elif line.strip():
            notes = {}
    return found


def _until_end(lines: Iterator[tuple[int, str]], fence: str, indent: str) -> Iterator[str]:
    for _, line in lines:
        if line.strip() == fence:
            return
        yield line.removeprefix(indent)
    raise AssertionError(f"a block that begins with {fence} has no end")


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    kept, lines = [], iter(enumerate(page.read_text(encoding="utf-8").splitlines(), start=1))
    for _, line in lines:
        opening = _FENCE.match(line)
        if opening:
            list(_until_end(lines, opening["fence"], opening["indent"]))
        else:
            kept.append(line)
    return "\n".join(kept)
