"""The report as Markdown, for pull requests and terminals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch_trt_ext.report_page.facts import Facts, Figure
from torch_trt_ext.report_page.rows import OUTPUT_COLUMNS, latency_rows, output_figures, reasons
from torch_trt_ext.report_page.tree import Module, module_tree, rows_of
from torch_trt_ext.report_page.verdicts import accuracy_verdict, headline, speed_verdict

__all__ = ["markdown_page"]

_MAX_MODULES = 24

#: Nodes that are named for each reason why they stay.
_NAMED_NODES = 12

#: What Markdown, or the HTML in it, would take for something else.
_SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\`*_[]<>|#~$"} | {"&": "&amp;"})


def markdown_page(report: Mapping[str, Any]) -> str:
    """A document of tables, as GitHub writes them.

    Args:
        report: what ``optimize()`` returned, or the same read from JSON.
    """
    facts = Facts(report)
    name = facts["diagnosis"]["model"].text() or "a model"
    parts = [
        f"# {_text(name)}",
        _text("".join(part.text if isinstance(part, Figure) else part for part in headline(facts))),
        _summary(facts),
    ]
    message = facts["diagnosis"]["message"].text()
    parts += [f"> **Note:** {_text(message)}"] if message else []
    parts += [*_latency(facts), *_engines(facts), *_modules(facts), *_left(facts), *_accuracy(facts)]
    parts += _environment(facts)
    return "\n\n".join(parts) + "\n"


def _text(shown: str | Figure) -> str:
    text = shown.text if isinstance(shown, Figure) else shown
    return " ".join(text.split()).translate(_SPECIAL)


def _table(header: Iterable[str], rows: Iterable[Iterable[str | Figure]]) -> str:
    header = list(header)
    lines = [header, ["---"] * len(header), *([_text(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _summary(report: Facts) -> str:
    overall, accuracy, coverage = report["overall"], report["accuracy"], report["coverage"]
    verdict = speed_verdict(report)
    speed = _text(verdict.words or overall["speedup"].speedup())
    lines = [
        f"- **Speed: {speed}** (a call {_text(overall['baseline'].words())} → {_text(overall['optimized'].words())})",
        f"- **Accuracy: {accuracy_verdict(report).words}**",
    ]
    if not report["engines"]:
        pass
    elif accuracy["metric"]:
        metric = accuracy["metric"]
        lines[-1] += f" (metric {_text(metric['original'].quantity())} → {_text(metric['optimized'].quantity())})"
    elif accuracy["model"]:
        error, limit = accuracy["model"]["relative"].percent(), accuracy["max_model_relative_error"].percent()
        lines[-1] += f" (largest relative error of an output {_text(error)}, limit {_text(limit)})"
    if coverage:
        inside, total = (_text(coverage[key].quantity()) for key in ("operators", "operators_total"))
        lines.append(
            f"- **Engines: {_text(coverage['engines'].quantity())}**, with {inside} of {total} operators and "
            f"{_text(coverage['compute'].percent())} of the arithmetic"
        )
    return "\n".join(lines)


def _latency(report: Facts) -> list[str]:
    rows = [row for row in latency_rows(report) if row[1]]
    if not rows:
        return []
    keys = ("min_ms", "p10_ms", "p25_ms", "median_ms", "p75_ms", "p90_ms", "p99_ms", "max_ms")
    header = ["ms a call", *(key.removesuffix("_ms") for key in keys), "calls"]
    table = _table(
        header,
        [[name, *(part[key].in_milliseconds() for key in keys), part["runs"].quantity()] for name, part, _ in rows],
    )
    return ["## Latency", table]


def _engines(report: Facts) -> list[str]:
    rows = [
        [
            engine["name"].words(),
            engine["precision"].words(),
            engine["operators"].quantity(),
            engine["latency"]["torch"]["median_ms"].milliseconds(),
            engine["latency"]["engine"]["median_ms"].milliseconds(),
            engine["latency"]["speedup"].speedup(),
            engine["error"]["relative"].error(),
            engine["plan_bytes"].byte_size(),
        ]
        for engine in report["engines"].items()
    ]
    header = ["engine", "precision", "operators", "PyTorch", "engine", "speedup", "relative error", "plan"]
    parts = ["## Engines", _table(header, rows)] if rows else []
    refused = [
        f"- {_text(engine['name'].words())} is not in {_text(precision)}: {_text(reason.words())}"
        for engine in report["engines"].items()
        for precision, reason in engine["not_in"].entries()
    ]
    parts += ["\n".join(refused)] if refused else []
    for engine in report["engines"].items():
        layers = engine["layers"]
        if layers["slowest"]:
            listed = [
                [layer["name"].words(), layer["kind"].words(), layer["module"].words(), layer["ms"].in_milliseconds()]
                for layer in layers["slowest"].items()
            ]
            title = f"### Slowest layers of {_text(engine['name'].words())}"
            parts += [title, _table(["layer", "kind", "module", "ms"], listed)]
    return parts


def _modules(report: Facts) -> list[str]:
    root = module_tree(report)
    if root is None:
        return []
    rows = [
        f"{'  ' * row.depth}- `{_code(row.module.name) or 'the model'}`: {_where(row.module)}"
        for row in rows_of(root, _MAX_MODULES)
    ]
    return ["## Where the model runs", "\n".join(rows)]


def _code(name: str) -> str:
    return " ".join(name.replace("`", "'").split())


def _where(module: Module) -> str:
    where = [f"{_text(count.quantity())} in {_text(name)}" for name, count in module.facts["engines"].entries()]
    where += [f"**{_text(module.facts['left'].quantity())} in PyTorch**"] if module.left else []
    return ", ".join(where)


def _left(report: Facts) -> list[str]:
    lines = []
    for reason, entries in reasons(report):
        names = [_text(entry["node"].words()) for entry in entries[:_NAMED_NODES]]
        more = f" and {len(entries) - _NAMED_NODES} more" if len(entries) > _NAMED_NODES else ""
        lines.append(f"- {_text(reason)}: {', '.join(names)}{more}")
    return ["## What stays in PyTorch, and why", "\n".join(lines)] if lines else []


def _accuracy(report: Facts) -> list[str]:
    rows: list[list[str | Figure]] = [
        [
            output["path"].text() or "the output",
            *output_figures(output),
            output["note"].text(),
        ]
        for output in report["accuracy"]["model"]["outputs"].items()
    ]
    header = ["output", *OUTPUT_COLUMNS, "note"]
    return ["## Accuracy", _table(header, rows)] if rows else []


def _environment(report: Facts) -> list[str]:
    hardware = report["hardware_context"]
    rows: list[list[str | Figure]] = [["hardware", hardware["microarchitecture"].words()]]
    rows += [[entry["software"].words(), entry["version"].words()] for entry in report["software_context"].items()]
    rows.append(["test data", report["diagnosis"]["test_data_source"].words()])
    rows += [["input", line] for line in report["diagnosis"]["test_data_info"].text().splitlines()]
    rows += [["options", report["user_config"].words()]] if report["user_config"] else []
    return ["## Environment", _table(["", ""], rows)]
