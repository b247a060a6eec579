"""What ``optimize`` and ``retarget`` print of a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch_trt_ext.cli.answer import Answer, count, size, table

#: Reasons why nodes stay in PyTorch that are printed; ``--json`` has all.
_LISTED_REASONS = 5


def report_answer(target: Path, report: dict[str, Any]) -> Answer:
    """The answer of a command that wrote an optimized model."""
    engines, overall = report["engines"], report["overall"]
    message = report["diagnosis"]["message"]
    if not engines:
        return Answer(report, f"{target}: no engines, {message}")
    lines = [
        f"{target}: {count(len(engines), 'engine')}, a call takes {overall['optimized']} instead of "
        f"{overall['baseline']}, {overall['speedup']} times as fast",
        table(
            ["engine", "precision", "operators", "relative error", "PyTorch ms", "engine ms", "plan"],
            [_engine_row(engine) for engine in engines],
        ),
    ]
    if message:
        lines.append(f"note: {message}")
    left = report["left_in_torch"]
    lines += [f"left in PyTorch: {entry['node']} {entry['reason']}" for entry in left[:_LISTED_REASONS]]
    if len(left) > _LISTED_REASONS:
        lines.append(f"left in PyTorch: {len(left) - _LISTED_REASONS} more, see --json")
    return Answer(report, "\n".join(lines))


def _engine_row(engine: dict[str, Any]) -> list[str]:
    latency, error = engine["latency"], engine["error"]["relative"]
    return [
        engine["name"],
        engine["precision"],
        str(engine["operators"]),
        f"{float(error):.1e}",
        f"{latency['torch']['median_ms']:.3f}" if latency else "",
        f"{latency['engine']['median_ms']:.3f}" if latency else "",
        size(engine["plan_bytes"]),
    ]
