"""The report as a picture, drawn by matplotlib, which is imported only here and only when a picture is wanted."""

from __future__ import annotations

import importlib.util
import math
import os
import textwrap
from collections.abc import Mapping
from typing import Any

from torch_trt_ext.report_page.facts import Facts, Figure
from torch_trt_ext.report_page.rows import BANDS, engine_colours, latency_rows, reasons
from torch_trt_ext.report_page.style import ENGINE_COLOURS, PYTORCH_COLOUR
from torch_trt_ext.report_page.tree import Row, module_tree, rows_of
from torch_trt_ext.report_page.verdicts import accuracy_verdict, headline, speed_verdict

__all__ = ["require_matplotlib", "save_picture"]

_DOTS_PER_INCH = 160
_WIDTH = 10.0

_CARDS_HEIGHT = 1.5
_LATENCY_HEIGHT = 1.7
_ROW_HEIGHT = 0.22
_LINE_HEIGHT = 0.2

_MAX_MODULES = 24
_MAX_REASONS = 6

_INK, _MUTED, _LINE, _BEFORE = "#151a22", "#5a6573", "#e2e6ec", "#98a2b1"
_VERDICT_COLOURS = {"good": "#0b7a4b", "bad": "#b42318", "": _INK}


def require_matplotlib() -> None:
    """Checks that pictures can be drawn.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError("a report as .png must have matplotlib to draw it; pip install matplotlib")


def save_picture(report: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Draws speed, accuracy, the tree of modules and what stays in PyTorch; the HTML page has more.

    Args:
        report: what ``optimize()`` returned, or the same read from JSON.
        path: the file to write.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    require_matplotlib()
    # Neither the user's figures nor a display are touched, as pyplot would.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Picture

    facts = Facts(report)
    root = module_tree(facts)
    rows = rows_of(root, _MAX_MODULES) if root else []
    left = _left_lines(facts)
    latency = latency_rows(facts)
    heights = [
        _CARDS_HEIGHT,
        _LATENCY_HEIGHT if latency else 0.0,
        0.6 + _ROW_HEIGHT * len(rows) if rows else 0.0,
        0.5 + _LINE_HEIGHT * len(left) if left else 0.0,
    ]
    picture = Picture(figsize=(_WIDTH, sum(heights) + 0.2), facecolor="white")
    FigureCanvasAgg(picture)
    total, top = sum(heights) + 0.2, 0.1
    areas = []
    for height in heights:
        area = None
        if height:
            area = picture.add_axes((0.04, 1 - (top + height) / total, 0.92, height / total))
            area.set_axis_off()
            area.set_xlim(0, 1)
            # Inches from the top.
            area.set_ylim(height, 0)
        areas.append(area)
        top += height
    _draw_cards(areas[0], facts)
    if latency:
        _draw_latency(areas[1], latency)
    if rows:
        colours = {name: ENGINE_COLOURS[number] for name, number in engine_colours(facts).items()}
        _draw_tree(areas[2], rows, colours)
    if left:
        _draw_left(areas[3], left)
    picture.savefig(path, dpi=_DOTS_PER_INCH, format="png", metadata={"Software": None})


def _write(area: Any, x: float, y: float, text: str | Figure, **options: Any) -> None:
    words = text.text if isinstance(text, Figure) else text
    # Names of a model may hold dollars, which matplotlib takes for formulas.
    options = {"fontsize": 9, "color": _INK, "va": "center", "parse_math": False, **options}
    area.text(x, y, "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in words), **options)


def _fitting(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _draw_cards(area: Any, report: Facts) -> None:
    title = report["diagnosis"]["model"].text() or "a model"
    below = "".join(part.text if isinstance(part, Figure) else part for part in headline(report))
    _write(area, 0, 0.2, _fitting(title, 80), fontsize=14, weight="bold")
    _write(area, 0, 0.45, _fitting(below, 130), color=_MUTED)
    overall, accuracy, coverage = report["overall"], report["accuracy"], report["coverage"]
    speed, accurate = speed_verdict(report), accuracy_verdict(report)
    known = report["engines"] and accuracy["model"] and not accuracy["metric"]
    timed, divided = math.isfinite(overall["baseline"].number()), bool(coverage["operators_total"])
    cards: list[tuple[str, str | Figure, str, str]] = [
        (
            "speed",
            speed.words or overall["speedup"].speedup(),
            " → ".join(overall[key].words().text for key in ("baseline", "optimized")) if timed else "",
            _VERDICT_COLOURS[speed.kind],
        ),
        (
            "largest relative error" if known else "accuracy",
            accuracy["model"]["relative"].percent() if known else accurate.words,
            f"{accurate.words}, {accuracy['max_model_relative_error'].percent().text}" if known else "",
            _VERDICT_COLOURS[accurate.kind],
        ),
        (
            "operators in engines",
            " of ".join(coverage[key].quantity().text for key in ("operators", "operators_total"))
            if divided
            else "none",
            f"{coverage['compute'].percent().text} of the arithmetic" if divided else "",
            _INK,
        ),
    ]
    for number, (what, big, more, colour) in enumerate(cards):
        x = number / 3
        _write(area, x, 0.78, what, color=_MUTED, weight="bold")
        words = big.text if isinstance(big, Figure) else big
        _write(area, x, 1.06, words, fontsize=20 if len(words) < 12 else 14, weight="bold", color=colour)
        _write(area, x, 1.33, more, color=_MUTED)


def _draw_latency(area: Any, rows: list[tuple[str, Facts, Figure]]) -> None:
    _write(area, 0, 0.2, "Latency, milliseconds a call", weight="bold", fontsize=11)
    numbers = [part[key].number() for _, part, _ in rows for key in ("p95_ms", "p99_ms")]
    most = max([number for number in numbers if math.isfinite(number)] + [median.number for *_, median in rows])
    scale = 0.72 / most if most > 0 else 0.0

    def x(milliseconds: float) -> float:
        return 0.1 + scale * min(milliseconds, most)

    for number, (name, part, median) in enumerate(rows):
        y = 0.62 + 0.55 * number
        colour = _BEFORE if name == "before" else ENGINE_COLOURS[0]
        _write(area, 0, y, name, weight="bold")
        area.barh(y, x(median.number) - x(0), 0.3, left=x(0), color=colour, alpha=0.3, linewidth=0)
        for low, high, opacity in BANDS:
            start, end = part[low].number(), part[high].number()
            if math.isfinite(start) and math.isfinite(end):
                area.barh(
                    y, max(x(end) - x(start), 0.001), 0.3, left=x(start), color=colour, alpha=opacity, linewidth=0
                )
        area.plot([x(median.number)] * 2, [y - 0.2, y + 0.2], color=colour, linewidth=2.5)
        _write(area, 1, y, median, weight="bold", fontsize=11, ha="right")


def _draw_tree(area: Any, rows: list[Row], colours: dict[str, str]) -> None:
    root = rows[0].module
    _write(area, 0, 0.2, "Where the model runs", weight="bold", fontsize=11)
    legend = [(name, colour) for name, colour in colours.items() if name in root.engines][:5]
    legend += [("PyTorch", PYTORCH_COLOUR)] if root.left else []
    for number, (name, colour) in enumerate(legend):
        start = 0.3 + 0.12 * number
        area.barh(0.2, 0.01, 0.1, left=start, color=colour, linewidth=0)
        _write(area, start + 0.015, 0.2, _fitting(name, 14), fontsize=8)
    centres = [0.5 + _ROW_HEIGHT * number for number in range(len(rows))]
    for row, y in zip(rows, centres, strict=True):
        x = 0.01 + 0.018 * row.depth
        module = row.module
        if row.parent is not None:
            corner = x - 0.018
            area.plot([corner, corner, x], [centres[row.parent], y, y], color=_LINE, linewidth=1, zorder=0)
        places = [(colours.get(name, ENGINE_COLOURS[0]), count) for name, count in module.engines.items()]
        places += [(PYTORCH_COLOUR, module.left)] if module.left else []
        dot = places[0][0] if len(places) == 1 else "white"
        area.plot([x], [y], "o", markersize=4.5, color=dot, markeredgecolor=_MUTED if len(places) != 1 else dot)
        name = f"{module.name or 'the model'}{' …' * row.is_folded}"
        _write(area, x + 0.012, y, _fitting(name, 44), fontsize=8, family="monospace")
        left = 0.5
        for colour, count in places:
            width = 0.36 * count / root.size if root.size else 0.0
            hatch = "////" if colour == PYTORCH_COLOUR else None
            area.barh(y, max(width, 0.002), 0.13, left=left, color=colour, hatch=hatch, edgecolor="white", linewidth=0)
            left += width
        counts = [f"{count.quantity().text}" for _, count in module.facts["engines"].entries()][:4]
        counts += [f"{module.facts['left'].quantity().text} in PyTorch"] if module.left else []
        _write(area, 1, y, " + ".join(counts), fontsize=8, ha="right")


def _left_lines(report: Facts) -> list[str]:
    found = reasons(report)
    lines = []
    for reason, entries in found[:_MAX_REASONS]:
        nodes = f"{len(entries)} node{'s' * (len(entries) != 1)}"
        lines += textwrap.wrap(f"{nodes}: {reason}", 135, subsequent_indent="    ")[:3]
    more = len(found) - _MAX_REASONS
    return [*lines, f"and {more} other reason{'s' * (more != 1)}"] if more > 0 else lines


def _draw_left(area: Any, lines: list[str]) -> None:
    _write(area, 0, 0.2, "What stays in PyTorch, and why", weight="bold", fontsize=11)
    for number, line in enumerate(lines):
        _write(area, 0, 0.46 + _LINE_HEIGHT * number, line)
