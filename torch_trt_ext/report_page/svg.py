"""The page's drawings: how calls are spread, and the tree of modules."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch_trt_ext.report_page.facts import Facts, Figure
from torch_trt_ext.report_page.markup import Content, Markup, element
from torch_trt_ext.report_page.rows import BANDS, latency_rows
from torch_trt_ext.report_page.tree import Module, Row, rows_of

_WIDTH = 1000

# Of the drawing of latencies.
_LABEL_WIDTH = 150
_FIGURE_WIDTH = 110
_BAR_ROW = 58

# Of the drawing of modules.
_TREE_ROW = 24
_INDENT = 20
_BAR_START, _BAR_WIDTH = 500, 230
_COUNT_START = _BAR_START + _BAR_WIDTH + 16
_CHARACTER = 7.4

#: Modules that are drawn, others are folded into theirs.
_MAX_ROWS = 36

#: Engines whose numbers of operators are written at a module.
_MAX_COUNTS = 4


def ticks(most: float, wanted: int = 6) -> list[float]:
    """Round numbers from 0 to beyond ``most``."""
    if not (math.isfinite(most) and most > 0):
        return [0.0, 1.0]
    rough = most / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    return [round(step * count, 12) for count in range(math.ceil(most / step) + 1)]


def latency_drawing(report: Facts) -> Markup | None:
    """Bars from 0 to the median, with bands between percentiles; None where nothing was measured."""
    rows = latency_rows(report)
    if not rows:
        return None
    numbers = [part[key].number() for _, part, _ in rows for key in ("p99_ms", "p95_ms")]
    most = max([number for number in numbers if math.isfinite(number)] + [median.number for *_, median in rows])
    marks = ticks(most)
    room = _WIDTH - _LABEL_WIDTH - _FIGURE_WIDTH
    bottom = 8 + _BAR_ROW * len(rows)

    def x(milliseconds: float) -> float:
        return round(_LABEL_WIDTH + room * min(milliseconds / marks[-1], 1.0), 2)

    parts: list[Content] = []
    for mark in marks:
        parts.append(element("line", class_="rule", x1=x(mark), x2=x(mark), y1=4, y2=bottom))
        label = f"{mark:g} ms" if mark == marks[-1] else f"{mark:g}"
        parts.append(_text(label, x(mark), bottom + 18, "dim", text_anchor="middle"))
    for number, (name, part, median) in enumerate(rows):
        top = 8 + _BAR_ROW * number
        parts.append(_latency_row(name, part, median, top, x))
    return _svg(bottom + 28, parts, "Milliseconds a call, before and after")


def _latency_row(name: str, part: Facts, median: Figure, top: float, x: Any) -> Markup:
    middle = top + _BAR_ROW / 2
    hint = ", ".join(f"{key} {value.text()}" for key, value in part.entries())
    drawn: list[Content] = [
        element("title", f"{name}: {hint or median.text}"),
        _text(name, 0, middle + 5, "strong"),
        element(
            "rect",
            class_=name,
            x=x(0.0),
            y=middle - 13,
            width=max(x(median.number) - x(0.0), 1),
            height=26,
            rx=4,
            fill_opacity=0.3,
            stroke="none",
        ),
    ]
    for low, high, opacity in BANDS:
        start, end = part[low].number(), part[high].number()
        if math.isfinite(start) and math.isfinite(end):
            width = max(x(end) - x(start), 1)
            drawn.append(
                element(
                    "rect",
                    class_=name,
                    x=x(start),
                    y=middle - 13,
                    width=width,
                    height=26,
                    fill_opacity=opacity,
                    stroke="none",
                )
            )
    least, most = part["min_ms"].number(), part["p99_ms"].number()
    if math.isfinite(least) and math.isfinite(most):
        drawn.append(element("line", class_=name, x1=x(least), x2=x(most), y1=middle, y2=middle, stroke_width=1.5))
    drawn.append(
        element(
            "line",
            class_=name,
            x1=x(median.number),
            x2=x(median.number),
            y1=middle - 18,
            y2=middle + 18,
            stroke_width=3,
        )
    )
    drawn.append(_figure(median, _WIDTH, middle + 5, "strong", text_anchor="end"))
    return element("g", drawn)


def tree_drawing(root: Module, colours: Mapping[str, str]) -> Markup:
    """The modules, one a row below the one they are in, with where their operators run.

    Args:
        root: the model.
        colours: class of each engine, by name.
    """
    rows = rows_of(root, _MAX_ROWS)
    has_times = any(row.module.facts["engine_ms"] for row in rows)
    parts: list[Content] = [
        element(
            "defs",
            element(
                "pattern",
                element("path", class_="hatch", d="M-1,7 L7,-1 M-1,1 L1,-1 M5,7 L7,5"),
                id="hatch",
                width=6,
                height=6,
                patternUnits="userSpaceOnUse",
            ),
        ),
        _text("module", 0, 14, "dim"),
        _text("its share of the operators, and where they run", _BAR_START, 14, "dim"),
        _text("ms in engines", _WIDTH, 14, "dim", text_anchor="end") if has_times else None,
    ]
    centres = [22 + _TREE_ROW * number + _TREE_ROW / 2 for number in range(len(rows))]
    for row, middle in zip(rows, centres, strict=True):
        if row.parent is not None:
            start, end = _dot(row.depth - 1), _dot(row.depth)
            way = f"M{start},{centres[row.parent] + 5} V{middle} H{end - 5}"
            parts.append(element("path", class_="link", d=way))
    for row, middle in zip(rows, centres, strict=True):
        parts.append(_tree_row(row, root.size, middle, colours))
    return _svg(22 + _TREE_ROW * len(rows) + 6, parts, "The modules of the model and where they run")


def _dot(depth: int) -> float:
    return 8 + _INDENT * min(depth, 14)


def _tree_row(row: Row, total: int, middle: float, colours: Mapping[str, str]) -> Markup:
    module = row.module
    places = [(colours.get(name, "c0"), count) for name, count in module.engines.items()]
    places += [("pytorch", module.left)] if module.left else []
    start = _dot(row.depth) + 12
    name = module.name or "the model"
    shown = f"{name} …" if row.is_folded else name
    kind = "mixed" if module.is_mixed or not places else places[0][0]
    drawn: list[Content] = [
        element("title", _in_words(module)),
        element("rect", x=0, y=middle - _TREE_ROW / 2, width=_WIDTH, height=_TREE_ROW, fill="transparent"),
        element("circle", class_=kind, cx=_dot(row.depth), cy=middle, r=4.5),
        _text(_fitting(shown, _BAR_START - 14 - start), start, middle + 4.5, "path"),
    ]
    left = float(_BAR_START)
    for place, count in places:
        width = _BAR_WIDTH * count / total if total else 0.0
        box = {"x": round(left, 2), "y": middle - 6, "width": round(max(width, 1.5), 2), "height": 12, "rx": 1.5}
        drawn.append(element("rect", class_=place, **box))
        if place == "pytorch":
            drawn.append(element("rect", fill="url(#hatch)", **box))
        left += width
    drawn.append(_counts(module, middle, colours))
    if module.facts["engine_ms"]:
        drawn.append(_figure(module.facts["engine_ms"].milliseconds(), _WIDTH, middle + 4.5, "", text_anchor="end"))
    return element("g", drawn)


def _counts(module: Module, middle: float, colours: Mapping[str, str]) -> Markup:
    pieces: list[Content] = []
    engines = module.facts["engines"].entries()
    for name, count in engines[:_MAX_COUNTS]:
        pieces.append(_tspan(count.quantity(), colours.get(name, "c0")))
    if len(engines) > _MAX_COUNTS:
        pieces.append(element("tspan", "…", class_="dim"))
    if module.left:
        pieces.append(_tspan(module.facts["left"].quantity(), "pytorch"))
    joined: list[Content] = []
    for piece in pieces:
        joined += [element("tspan", " + ", class_="dim"), piece] if joined else [piece]
    return element("text", joined, x=_COUNT_START, y=middle + 4.5)


def _in_words(module: Module) -> str:
    where = [f"{count} in {name}" for name, count in module.engines.items()]
    if module.left:
        own = [node.text() for node in module.facts["left_nodes"].items()]
        where.append(f"{module.left} in PyTorch" + (f" ({', '.join(own[:6])}{', …' * (len(own) > 6)})" if own else ""))
    return f"{module.path or 'the model'}: {', '.join(where) or 'nothing'}"


def _fitting(text: str, width: float) -> str:
    most = max(int(width / _CHARACTER), 4)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _svg(height: float, parts: Sequence[Content], label: str) -> Markup:
    box = f"0 0 {_WIDTH} {height:g}"
    drawing = element("svg", parts, viewBox=box, role="img", aria_label=label)
    return element("div", drawing, class_="scroll")


def _text(text: str, x: float, y: float, class_: str, **attributes: Any) -> Markup:
    return element("text", text, x=x, y=y, class_=class_ or None, **attributes)


def _figure(shown: Figure, x: float, y: float, class_: str, **attributes: Any) -> Markup:
    return _text(shown.text, x, y, class_, data_value=json.dumps(shown.value), data_from=shown.pointer, **attributes)


def _tspan(shown: Figure, class_: str) -> Markup:
    return element("tspan", shown.text, class_=class_, data_value=json.dumps(shown.value), data_from=shown.pointer)
