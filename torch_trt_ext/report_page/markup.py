"""HTML and SVG from Python: elements are always closed, and text is always escaped."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from typing import Any

from torch_trt_ext.report_page.facts import Figure

#: Elements of HTML that have no end.
_VOID = ("meta", "br", "hr")

#: What cannot stand in a document even when it is escaped: controls, lone surrogates, non-characters.
_FORBIDDEN = dict.fromkeys(
    (*range(9), 11, 12, *range(14, 32), *range(127, 160), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF),
    "\N{REPLACEMENT CHARACTER}",
)


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


#: What an element may hold: markup, text, a figure, lists of these; None is nothing.
Content = Markup | str | Figure | Iterable["Content"] | None


def escaped(text: str) -> Markup:
    """Text as HTML, also for attributes in quotes."""
    return Markup(html.escape(text.translate(_FORBIDDEN)))


def markup(*contents: Content) -> Markup:
    """Contents one after the other."""
    parts = []
    for content in contents:
        if content is None:
            continue
        if isinstance(content, Markup):
            parts.append(content)
        elif isinstance(content, str):
            parts.append(escaped(content))
        elif isinstance(content, Figure):
            parts.append(figure(content))
        else:
            parts.append(markup(*content))
    return Markup("".join(parts))


def element(name: str, /, *contents: Content, **attributes: Any) -> Markup:
    """An element.

    Args:
        name: e.g. "td".
        contents: what is in it.
        attributes: underscores stand for hyphens, one at the end for nothing (``class_``); None leaves one out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{written}>" + ("" if name in _VOID else f"{markup(*contents)}</{name}>"))


def figure(shown: Figure) -> Markup:
    """A figure with its place in the report and what stands there, so that each can be checked."""
    value = json.dumps(shown.value)
    return element("data", shown.text, value=value, data_from=shown.pointer)


def table(header: Iterable[Content] | None, rows: Iterable[Iterable[Content]], class_: str | None = None) -> Markup:
    """A table that scrolls sideways where it is too wide; None for one without a header."""
    head = None
    if header is not None:
        head = element("thead", element("tr", [element("th", cell, scope="col") for cell in header]))
    body = element("tbody", [element("tr", [element("td", cell) for cell in row]) for row in rows])
    return element("div", element("table", head, body, class_=class_), class_="scroll")


def json_script(value: Any, identifier: str) -> Markup:
    """A JSON document that scripts and tests can read, and that no text in it can end."""
    text = json.dumps(value).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return Markup(f'<script type="application/json" id="{escaped(identifier)}">{text}</script>')
