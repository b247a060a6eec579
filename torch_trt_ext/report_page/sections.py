"""The sections of the HTML page below its cards."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from torch_trt_ext.report_page.facts import Facts
from torch_trt_ext.report_page.markup import Content, Markup, element, markup, table
from torch_trt_ext.report_page.rows import OUTPUT_COLUMNS, output_figures, reasons
from torch_trt_ext.report_page.svg import latency_drawing, tree_drawing
from torch_trt_ext.report_page.tree import module_tree

#: Rows of a list that are not folded.
_OPEN_ROWS = 8

_QUANTILES = ("min_ms", "p5_ms", "p10_ms", "p25_ms", "median_ms", "p75_ms", "p90_ms", "p95_ms", "p99_ms", "max_ms")


def sections(report: Facts, colours: Mapping[str, str]) -> Markup:
    """All sections that the report has something for.

    Args:
        report: the whole of it.
        colours: class of each engine, by name.
    """
    return markup(
        _latency(report),
        _modules(report, colours),
        _left(report),
        _engines(report, colours),
        _accuracy(report),
        _environment(report),
    )


def _section(title: str, identifier: str, *contents: Content) -> Markup:
    return element("section", element("h2", title), contents, id=identifier)


def _latency(report: Facts) -> Markup | None:
    drawing = latency_drawing(report)
    passes = report["optimizations"].items()
    if drawing is None and not passes:
        return None
    parts: list[Content] = [drawing or element("p", "A call was not timed.", class_="muted")]
    measured = [(name, report["latency"][key]) for name, key in (("before", "original"), ("after", "optimized"))]
    measured = [(name, part) for name, part in measured if part]
    if measured:
        has_gpu = any(part["device_ms"] for _, part in measured)
        header = ["ms a call", *(key.removesuffix("_ms") for key in _QUANTILES), *["on the GPU"] * has_gpu, "calls"]
        rows: list[list[Content]] = [
            [
                name,
                *(part[key].in_milliseconds() for key in _QUANTILES),
                *[part["device_ms"].in_milliseconds()] * has_gpu,
                part["runs"].quantity(),
            ]
            for name, part in measured
        ]
        hint = (
            "Bars end at the median; bands hold the middle half, 80 % and 90 % of the calls; the line reaches from the "
        )
        parts += [
            element("p", f"{hint}fastest call to the 99th percentile.", class_="muted small"),
            table(header, rows),
        ]
    if passes:
        header = ["pass", "status", "before", "after", "speedup"]
        entries: list[list[Content]] = [
            [
                element("code", entry["name"].words()),
                element(
                    "span", entry["status"].words(), class_=f"badge {_status_kind(entry['status'].text())}".strip()
                ),
                entry["pre_run"].words(),
                entry["post_run"].words(),
                entry["speedup"].speedup(),
            ]
            for entry in passes
        ]
        parts += [element("h3", "Passes"), table(header, entries)]
    return _section("Latency", "latency", parts)


def _status_kind(status: str) -> str:
    return {"effective": "good", "failed": "bad"}.get(status, "")


def _chip(class_: str) -> Markup:
    return element("i", class_=f"chip {class_}")


def _modules(report: Facts, colours: Mapping[str, str]) -> Markup | None:
    root = module_tree(report)
    if root is None:
        return None
    named = [element("span", _chip(class_), name) for name, class_ in colours.items() if name in root.engines]
    if root.left:
        named.append(element("span", _chip("pytorch"), "stays in PyTorch"))
    legend = element("div", named, class_="legend")
    return _section("Where the model runs", "modules", legend, tree_drawing(root, colours))


def _left(report: Facts) -> Markup | None:
    found = reasons(report)
    if not found:
        return None
    return _section("What stays in PyTorch, and why", "left", [_reason(reason, entries) for reason, entries in found])


def _reason(reason: str, entries: list[Facts]) -> Markup:
    rows = [[element("code", entry["node"].words()), element("code", entry["source"].words())] for entry in entries]
    listed = table(["node", "source"], rows, "facts")
    count = f"{len(entries)} node{'s' * (len(entries) != 1)}"
    if len(entries) > _OPEN_ROWS:
        listed = element("details", element("summary", "show the nodes"), listed)
    title = element("p", element("strong", reason or "no reason given"), " ", element("span", count, class_="badge"))
    return element("div", title, listed, class_="reason")


def _engines(report: Facts, colours: Mapping[str, str]) -> Markup | None:
    engines = report["engines"].items()
    if not engines:
        return None
    return _section("Engines", "engines", [_engine(engine, colours[engine["name"].text()]) for engine in engines])


def _engine(engine: Facts, class_: str) -> Markup:
    latency = engine["latency"]
    flags = [element("span", engine["precision"].words(), class_="badge")]
    for key, words in (("cuda_graphs", "CUDA graphs"), ("from_cache", "from the cache")):
        flags += [element("span", words, class_="badge")] if engine[key].value is True else []
    pairs: list[tuple[str, Content]] = [
        ("times as fast as PyTorch", latency["speedup"].speedup()),
        ("a call, PyTorch", _call(latency["torch"])),
        ("a call, engine", _call(latency["engine"])),
        ("relative error", engine["error"]["relative"].error()),
        ("operators (nodes)", [engine["operators"].quantity(), " (", engine["nodes"].quantity(), ")"]),
        ("size of the plan", engine["plan_bytes"].byte_size()),
        ("built in", engine["build_seconds"].seconds()),
        ("library", engine["backend"].words()),
    ]
    shown = element(
        "dl", [element("div", element("dt", what), element("dd", value)) for what, value in pairs], class_="pairs"
    )
    return element(
        "div",
        element("h3", element("span", _chip(class_), engine["name"].words()), flags),
        _not_in(engine["not_in"]),
        shown,
        _tensors(engine),
        _layers(engine["layers"], class_),
        _kept("Nodes that stay in 32 bits", engine["kept_float32"]),
        _kept("Nodes that stay in 16 bits", engine["kept_16bit"]),
        class_="engine",
    )


def _not_in(refused: Facts) -> Content:
    return [
        element("p", "not in ", precision, ": ", reason.words(), class_="muted small")
        for precision, reason in refused.entries()
    ]


def _call(latency: Facts) -> Content:
    """The median, then where the middle 80 % of the calls are, and how many there were."""
    if not latency:
        return latency["median_ms"].milliseconds()
    spread: list[Content] = [
        *(latency["p10_ms"].in_milliseconds(), " to ", latency["p90_ms"].in_milliseconds()),
        *(", ", latency["runs"].quantity(), " calls"),
    ]
    if latency["device_ms"]:
        spread += [", on the GPU ", latency["device_ms"].in_milliseconds()]
    return [latency["median_ms"].milliseconds(), element("div", spread, class_="muted small")]


def _tensors(engine: Facts) -> Markup | None:
    rows: list[list[Content]] = []
    for tensor in engine["inputs"].items():
        shapes = []
        for profile in tensor["shapes"].items():
            same = profile["min"].value == profile["max"].value
            keys = ("opt",) if same else ("min", "opt", "max")
            shapes.append(element("div", [[profile[key].shape(), "" if key == keys[-1] else " … "] for key in keys]))
        rows.append(["in", element("code", tensor["name"].words()), tensor["dtype"].words(), shapes])
    for tensor in engine["outputs"].items():
        rows.append(["out", element("code", tensor["name"].words()), tensor["dtype"].words(), ""])
    if not rows:
        return None
    listed = table(["", "tensor", "type", "shapes it was built for"], rows)
    return element("details", element("summary", "Inputs and outputs"), listed)


def _layers(layers: Facts, class_: str) -> Markup | None:
    slowest = layers["slowest"].items()
    if not slowest:
        return None
    longest = max((layer["ms"].number() for layer in slowest if math.isfinite(layer["ms"].number())), default=0.0)
    rows: list[list[Content]] = []
    for layer in slowest:
        share = layer["ms"].number() / longest if longest > 0 else 0.0
        bar = element("span", class_=f"bar {class_}", style=f"width:{100 * share if share == share else 0:.1f}%")
        name = element("code", layer["name"].words())
        rows.append(
            [name, layer["kind"].words(), element("code", layer["module"].words()), layer["ms"].in_milliseconds(), bar]
        )
    summary: list[Content] = [
        "Time a layer: ",
        layers["total_ms"].milliseconds(),
        " in ",
        layers["count"].quantity(),
        " layers, the slowest first, means of ",
        layers["runs"].quantity(),
        " calls with the library's clock",
    ]
    listed = table(["layer", "kind", "module", "ms", ""], rows, "layers")
    return element("details", element("summary", summary), listed, open="")


def _kept(title: str, kept: Facts) -> Markup | None:
    entries = kept.entries()
    if not entries:
        return None
    rows: list[list[Content]] = [[element("code", name), reason.words()] for name, reason in entries]
    return element("details", element("summary", title), table(["node", "reason"], rows))


def _accuracy(report: Facts) -> Markup | None:
    accuracy = report["accuracy"]
    if not accuracy:
        return None
    metric = accuracy["metric"]
    limits: list[list[Content]] = [
        ["checked", "yes" if accuracy["checked"].value else "no"],
        ["limit for an engine", accuracy["max_relative_error"].percent()],
        ["limit for the model", accuracy["max_model_relative_error"].percent()],
    ]
    limits += [[f"metric, {name.replace('_', ' ')}", value.quantity()] for name, value in metric.entries()]
    parts: list[Content] = [table(None, limits, "facts")]
    outputs = accuracy["model"]["outputs"].items()
    if outputs:
        which = "the model" if report["engines"] else "the model with the engines that were tried last"
        parts += [element("h3", f"Outputs of {which}, against the original's"), _outputs(outputs)]
    for engine in report["engines"].items():
        of_engine = engine["error"]["outputs"].items()
        if of_engine:
            title = element("summary", "Outputs of ", engine["name"].words(), " against its subgraph in float32")
            parts.append(element("details", title, _outputs(of_engine)))
    return _section("Accuracy", "accuracy", parts)


def _outputs(outputs: list[Facts]) -> Markup:
    header = ["output", *OUTPUT_COLUMNS, "note"]
    rows: list[list[Content]] = [
        [
            element("code", output["path"].words()) if output["path"] else "the output",
            *output_figures(output),
            output["note"].text(),
        ]
        for output in outputs
    ]
    return table(header, rows)


def _environment(report: Facts) -> Markup:
    diagnosis, hardware = report["diagnosis"], report["hardware_context"]
    rows: list[list[Content]] = [
        ["hardware", [hardware["microarchitecture"].words(), " (", hardware["device_type"].words(), ")"]],
    ]
    rows += [[entry["software"].words(), entry["version"].words()] for entry in report["software_context"].items()]
    rows += [
        ["model", [diagnosis["model"].words(), ", ", report["model_info"]["input_format"].words()]],
        ["test data", [diagnosis["test_data_source"].words(), ", shapes ", diagnosis["shape_variation"].words()]],
        ["inputs", [element("div", line) for line in diagnosis["test_data_info"].text().splitlines()]],
        ["arithmetic", [report["coverage"]["gflops_total"].quantity(), " GFLOP a call"]],
        ["options", element("code", report["user_config"].words()) if report["user_config"] else "as they are"],
    ]
    whole = element("pre", json.dumps(report.value, indent=2))
    return _section(
        "Environment",
        "environment",
        table(None, rows, "facts"),
        element("details", element("summary", "The report as JSON"), whole),
    )
