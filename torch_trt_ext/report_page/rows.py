"""What the page, its Markdown and the picture say alike: rows of figures, and each engine's colour."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch_trt_ext.report_page.facts import Facts, Figure
from torch_trt_ext.report_page.style import ENGINE_COLOURS

#: Pairs of percentiles, the widest first, and how opaque what lies between is drawn.
BANDS = (("p5_ms", "p95_ms", 0.22), ("p10_ms", "p90_ms", 0.35), ("p25_ms", "p75_ms", 0.75))

#: Columns of a table of outputs, after the output's name and before its note.
OUTPUT_COLUMNS = ("type", "shape", "relative error", "largest", "mean", "cosine", "differ")


def latency_rows(report: Facts) -> list[tuple[str, Facts, Figure]]:
    """What to draw of a call's time: "before" or "after", its distribution, and its median as the report has it.

    Rows whose median was not measured are left out.
    """
    rows = []
    for name, key, total in (("before", "original", "baseline"), ("after", "optimized", "optimized")):
        part, median = report["latency"][key], report["overall"][total].words()
        if not math.isfinite(median.number):
            median = part["median_ms"].milliseconds()
        if math.isfinite(median.number) and (name == "before" or report["engines"]):
            rows.append((name, part, median))
    return rows


def output_figures(output: Facts) -> Sequence[Figure]:
    """An output's figures in the order of :data:`OUTPUT_COLUMNS`."""
    return (
        output["dtype"].words(),
        output["shape"].shape(),
        output["relative"].error(),
        output["max_abs"].error(),
        output["mean_abs"].error(),
        output["cosine"].quantity(),
        output["mismatched"].percent(),
    )


def reasons(report: Facts) -> list[tuple[str, list[Facts]]]:
    """The entries of ``left_in_torch`` by reason, those of most nodes first."""
    by_reason: dict[str, list[Facts]] = {}
    for entry in report["left_in_torch"].items():
        by_reason.setdefault(entry["reason"].text(), []).append(entry)
    return sorted(by_reason.items(), key=lambda found: -len(found[1]))


def engine_colours(report: Facts) -> dict[str, int]:
    """Which of :data:`ENGINE_COLOURS` each engine has, by name."""
    return {
        engine["name"].text(): number % len(ENGINE_COLOURS) for number, engine in enumerate(report["engines"].items())
    }
