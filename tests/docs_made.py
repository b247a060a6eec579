"""Parts of pages that are made from something else: tables from the benchmarks' results, the command's help.

A part stands between ``<!-- made: NAME -->`` and ``<!-- end -->``. ``python -m tests.docs_made`` writes all of them
anew; the tests fail where one differs from what it is made from.
"""

from __future__ import annotations

import functools
import json
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks import sweep
from tests.docs_pages import DOCS, ROOT, pages

RESULTS = ROOT / "benchmarks" / "results"

_PART = re.compile(r"(<!-- made: (?P<name>[\w -]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_HELP_WIDTH = 92

_SPACE = "\N{NO-BREAK SPACE}"
_TIMES = "\N{MULTIPLICATION SIGN}"
_NONE = "\N{EN DASH}"

_MODELS = {
    "resnet50": "ResNet-50",
    "retinanet_with_engine": "RetinaNet-R50 with a post-processing engine",
    "retinanet_resnet50_fpn": "torchvision's RetinaNet-R50, scripted",
    "fasterrcnn_resnet50_fpn": "Faster R-CNN-R50, scripted",
    "digits_with_engine": "the demo's detector with its engine",
    "vit_b_16": "ViT-B/16",
    "fcn_resnet50": "FCN-R50",
    "resnet18": "ResNet-18",
    "mobilenet_v3_small": "MobileNet-V3-small",
}
_WAYS = (
    "eager float32",
    "eager 16-bit",
    "torch.compile",
    "Torch-TensorRT",
    "raw engine",
    "raw engine, CUDA graph",
    "ours",
)


@functools.cache
def result(name: str) -> Any:
    """A file of results."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _ms(value: float) -> str:
    """Three digits that count, and no more of what was kept."""
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def _machine(environment: Mapping[str, Any]) -> str:
    versions = {name: text for name, text in environment["versions"].items() if text and name != "torch_trt_ext"}
    software = ", ".join(f"{name} {text.split('-')[0]}" for name, text in versions.items())
    gpu = f"{environment['gpu']} (driver {environment['driver']}), " if environment["gpu"] else ""
    return f"{gpu}{environment['cpu_threads']} threads of an {environment['cpu']}, {software}"


def _note(name: str, text: str) -> str:
    """Where figures are from, in lines of a readable length."""
    note = f"*{text}: [`{name}.json`](../benchmarks/results/{name}.json).*"
    return textwrap.fill(note, 120, break_long_words=False, break_on_hyphens=False)


def _where(name: str, environment: Mapping[str, Any]) -> str:
    return _note(name, f"{_machine(environment)}, commit {environment['commit'][:7]}")


def demo() -> str:
    """The main job."""
    rows = []
    notes = []
    for name in ("demo_h200", "demo_cpu"):
        found = result(name)
        plain, mixed, agreement = found["plain"], found["mixed"], found["agreement"]
        rows.append(
            [
                f"{found['environment']['gpu'] or 'CPU'}, {found['engine']}",
                _ms(plain["latency"]["median_ms"]),
                _ms(mixed["latency"]["median_ms"]),
                f"{found['speedup']:.2f}{_SPACE}{_TIMES}",
                f"{plain['ap']['AP']:.4f}",
                f"{mixed['ap']['AP']:.4f}",
                f"{agreement['unmatched']} of {agreement['detections']}",
                f"{agreement['max_box_difference_px']:.1e}{_SPACE}px"
                if agreement["max_box_difference_px"]
                else "bit-equal",
            ]
        )
        notes.append(_where(name, found["environment"]))
    header = [
        "where",
        "PyTorch, ms",
        "with engine, ms",
        "gain",
        "PyTorch, AP",
        "with engine, AP",
        "detections that differ",
        "boxes",
    ]
    return _table(header, rows) + "\n\n" + "\n\n".join(notes)


def precision() -> str:
    """What bits cost the demo's detector."""
    return _precision("bench_precision_h200", "bench_precision_cpu")


def precision_r50() -> str:
    """What bits cost RetinaNet-R50."""
    return _precision("bench_precision_r50_h200")


def _precision(*files: str) -> str:
    names = {
        "eager": "PyTorch, eager",
        "float32": "engine in float32",
        "o1": 'level `"o1"`',
        "o2": 'level `"o2"`',
        "o2, float8": 'level `"o2"`, float8',
    }
    rows, notes = [], []
    for name in files:
        found = result(name)
        notes.append(_where(name, found["environment"]))
        rows += [
            [
                (found["environment"]["gpu"] or "CPU").removeprefix("NVIDIA "),
                names[row["precision"]],
                f"{row['ap']['AP']:.4f}",
                f"{row['ap']['AP50']:.4f}",
                _ms(row["latency_ms"]),
                ", ".join(sorted({engine["precision"] for engine in row.get("engines", [])})),
                f"{sum(engine['plan_bytes'] for engine in row['engines']) / 1e6:.1f}" if "engines" in row else "",
            ]
            for row in found["results"]
        ]
    header = ["where", "", "AP", "AP50", "one scene, ms", "precision", "engines, MB"]
    return "\n\n".join([_table(header, rows), *notes])


def eight_bits() -> str:
    """Level o2 beside level o1."""
    runs = result("bench_optimize_8_bit_h200")["runs"]
    rows = []
    for commit, measured in [(run["environment"]["commit"], found) for run in runs for found in run["results"]]:
        ways = measured["ways"]
        bits16, bits8 = (ways[way]["latency"]["median_ms"] for way in ("ours", "ours, 8 bits"))
        rows.append(
            [
                f"{_MODELS[measured['model']]}, {measured['batch']}",
                _ms(bits16),
                f"{_ms(bits8)} ({bits16 / bits8:.2f}{_SPACE}{_TIMES})",
                f"{ways['ours']['relative_error']:.1e}",
                f"{ways['ours, 8 bits']['relative_error']:.1e}",
                commit[:7],
            ]
        )
    header = ["model, batch", 'level `"o1"`, ms', 'level `"o2"`, ms', "relative error, `o1`", "relative error, `o2`"]
    machine = _note("bench_optimize_8_bit_h200", f"{_machine(runs[0]['environment'])}, in some runs other threads")
    return _table([*header, "commit"], rows) + "\n\n" + machine


def optimize() -> str:
    """All ways to run a model."""
    cpu, gpu = result("bench_optimize_cpu"), result("bench_optimize_h200")
    all_measured = [(run["environment"], measured) for run in (cpu, *gpu["runs"]) for measured in run["results"]]
    ways = [way for way in _WAYS if any("latency" in measured["ways"][way] for _, measured in all_measured)]
    rows: list[tuple[Any, list[str]]] = []
    for environment, measured in all_measured:
        cells = [_way(measured["ways"][way]) for way in ways]
        height, width = measured["inputs"][0][-2:]
        name = f"{_MODELS[measured['model']]}, {height}{_SPACE}{_TIMES}{_SPACE}{width}"
        where = (environment["gpu"] or "CPU").removeprefix("NVIDIA ")
        place = (where != "CPU", list(_MODELS).index(measured["model"]), measured["batch"])
        row = [name, str(measured["batch"]), where, *cells[:-1], f"**{cells[-1]}**", environment["commit"][:7]]
        rows.append((place, row))
    table = _table(["model", "batch", "where", *ways, "commit"], [row for _, row in sorted(rows)])
    notes = [
        _note("bench_optimize_cpu", f"CPU: {_machine(cpu['environment'])}"),
        _note("bench_optimize_h200", f"H200: {_machine(gpu['runs'][0]['environment'])}, in some runs other threads"),
    ]
    commands = [re.sub(r" --(out|cache) \S+", "", run["command"]) for run in (cpu, *gpu["runs"])]
    return "\n\n".join([table, *notes, "```sh\n" + "\n".join(commands) + "\n```"])


def _way(way: Mapping[str, Any]) -> str:
    if way["status"] == "measured":
        return _ms(way["latency"]["median_ms"])
    return _NONE if way["status"] == "skipped" else str(way["status"])


def host() -> str:
    """Host time of a call."""
    found = result("bench_runtime_h200")
    times, peer = found["host"], found["Torch-TensorRT"]

    def cell(name: str) -> str:
        return f"{times[name]:.1f}" if name in times else ""

    rows = [
        ["`enqueueV3` alone, all bound once", cell("raw execute_async_v3 from Python"), "", "", ""],
        ["the same in C++", "", "", cell("in C++: enqueueV3"), ""],
        ["eager PyTorch, two operators", cell("eager PyTorch, two operators"), "", "", ""],
        ["Torch-TensorRT's runtime", f"{peer['from Python, side stream']:.1f}", "", "", ""],
    ]
    for name, words in (
        ("naive torch class", "a torch class that binds all anew"),
        ("ours", "ours"),
        ("ours, CUDA graphs", "ours, CUDA graphs on"),
    ):
        ways = ("from Python", "engine_call from Python", "in a scripted loop")
        side = [cell(f"{name}, {way}, side stream") for way in ways]
        rows.append([words, *side, cell(f"{name}, from Python, default stream")])
    header = [
        "µs a call, side stream",
        "from Python",
        "`engine_call`",
        "in a scripted loop",
        "from Python, default stream",
    ]
    return _table(header, rows) + "\n\n" + _where("bench_runtime_h200", found["environment"])


def steps() -> str:
    """The steps of a call."""
    times = result("bench_runtime_h200")["host"]
    rows = [
        [name.removeprefix("in C++: "), f"{value:.1f}"] for name, value in times.items() if name.startswith("in C++")
    ]
    return _table(["step, repeated by itself in C++", "µs"], rows)


def latency() -> str:
    """Whole calls."""
    rows = []
    for name, streams in result("bench_runtime_h200")["latency"].items():
        for stream, ways in streams.items():
            cells = [ways["raw"], ways["ours"], ways["raw graph"], ways["ours with graphs"]]
            texts = [f"{cell['median_ms']:.3f}" for cell in cells]
            for index in (1, 3):
                texts[index] += f" ({cells[index]['times_raw']:.3f}{_SPACE}{_TIMES})"
            rows.append([name.replace("resnet50", "ResNet-50"), stream.removesuffix(" stream"), *texts])
    header = ["ms a call", "stream", "raw", "ours", "raw in a CUDA graph", "ours, CUDA graphs on"]
    return _table(header, rows)


def threads() -> str:
    """Several threads on one engine."""
    rows = []
    for name, found in result("bench_runtime_h200")["threads"].items():
        calls = sorted(found["calls a second"])
        rows.append([name, f"{calls[len(calls) // 2]:,.0f}", f"{found['device memory, MiB']:.0f}"])
    return _table(["eight threads, ResNet-50", "calls a second (median of three)", "device memory, MiB"], rows)


def memory() -> str:
    """Memory and loading."""
    found = result("bench_runtime_h200")
    loading = result("bench_runtime_load_h200")
    kept, load, shapes = found["memory"], loading["load"], found["shapes"]
    rows = [
        ["activations of the smaller engine, MiB", f"{kept['first alone, MiB']:.0f}"],
        ["activations of the larger engine, MiB", f"{kept['second alone, MiB']:.0f}"],
        ["activations of both in one model, MiB", f"{kept['both in one model, MiB']:.0f}"],
        ["reading and deserializing a plan, ms", f"{load['raw, ms']:.1f}"],
        [
            "`torch.jit.load` to the first answer, ms",
            f"{load['ours, ms']:.1f} ({load['times_raw']:.2f}{_SPACE}{_TIMES})",
        ],
        ["the plan, bytes", f"{load['plan, bytes']:,}"],
        ["the file, bytes", f"{load['file, bytes']:,}"],
        ["four shapes in turn with CUDA graphs, µs a call", f"{shapes['host microseconds a call']:.1f}"],
        [
            "the same with Torch-TensorRT, µs a call",
            f"{found['Torch-TensorRT']['four shapes in turn, CUDA graphs on']:.1f}",
        ],
    ]
    return _table(["one H200", ""], rows) + "\n\n" + _where("bench_runtime_load_h200", loading["environment"])


def serving() -> str:
    """The detector behind HTTP."""
    rows, notes = [], []
    for name in ("bench_serving_cpu", "bench_serving_h200"):
        found = result(name)
        notes.append(_where(name, found["environment"]))
        rows += [
            [
                (found["environment"]["gpu"] or "CPU").removeprefix("NVIDIA "),
                f"{row['phase']}, batches of {row['max_batch']} at most",
                *(f"{row[key]}" for key in ("sent", "right", "wrong", "refused_503")),
                f"{sum(row['lost'].values()) + sum(row['other_statuses'].values())}",
                f"{row['throughput_per_s']:.1f}",
                f"{row['p50_ms']:.0f}",
                f"{row['p99_ms']:.0f}",
            ]
            for row in found["results"]
            if "sent" in row
        ]
    header = ["where", "", "sent", "right", "wrong", "503", "otherwise", "right a second", "median, ms", "p99, ms"]
    return "\n\n".join([_table(header, rows), *notes])


def many() -> str:
    """Several models on a Ray cluster."""
    found = result("bench_optimize_many_h200")
    rows = [
        [job["job"], f"{job['seconds']:.1f}", f"{job['speedup']:.2f}", f"{job['relative_error']:.1e}"]
        for job in found["jobs"]
    ]
    together = f"together, on {found['gpus']} GPUs; {found['times']:.2f} times as fast as one after the other"
    rows.append([together, f"{found['seconds']:.1f}", "", ""])
    header = ["job", "seconds", "times faster than PyTorch", "relative error"]
    return _table(header, rows) + "\n\n" + _where("bench_optimize_many_h200", found["environment"])


def coverage() -> str:
    """What becomes of common architectures."""
    names = [name for name in ("sweep_cpu", "sweep_h200") if (RESULTS / f"{name}.json").exists()]
    if not names:
        return "Not measured yet."
    files = ", ".join(f"[`{name}.json`](../benchmarks/results/{name}.json)" for name in names)
    return f"{sweep.table([RESULTS / f'{name}.json' for name in names])}\n*{files}*"


def importing() -> str:
    """What an import takes."""
    found = result("bench_import_cpu")
    names = {"import torch": "`import torch` itself", "optimize": "`from torch_trt_ext import optimize`"}
    rows = [[names.get(name, f"`{name}`"), f"{1000 * times['median']:.0f}"] for name, times in found["seconds"].items()]
    return _table(["after `import torch`", "ms"], rows) + "\n\n" + _where("bench_import_cpu", found["environment"])


def tests() -> str:
    """The tests that need a GPU."""
    found = result("gpu_tests_h200")
    outcomes = ", ".join(f"{count} {name}" for name, count in found["outcomes"].items())
    return f"`{found['command']}`: {outcomes} ({'; '.join(found['notes'])}).\n\n" + _where(
        "gpu_tests_h200", found["environment"]
    )


def _help(name: str) -> str:
    import click

    from torch_trt_ext.cli.commands import commands as group

    parent = click.Context(group, info_name="torch-trt-ext", terminal_width=_HELP_WIDTH, **group.context_settings)
    context = click.Context(group.commands[name], info_name=name, parent=parent, terminal_width=_HELP_WIDTH)
    return f"```text\n{group.commands[name].get_help(context)}\n```"


_TABLES: dict[str, Callable[[], str]] = {
    made.__name__: made
    for made in (
        demo,
        precision,
        precision_r50,
        eight_bits,
        optimize,
        host,
        steps,
        latency,
        threads,
        memory,
        serving,
        many,
        coverage,
        importing,
        tests,
    )
}


def make(name: str) -> str:
    """The text of a part."""
    kind, _, of = name.partition(" ")
    return _help(of) if kind == "help" else _TABLES[name]()


def made_parts(text: str) -> list[str]:
    """Names of the parts of a page."""
    return [match["name"] for match in _PART.finditer(text)]


def made_anew(text: str) -> str:
    """A page with all its parts made."""
    return _PART.sub(lambda match: f"{match[1]}{make(match['name'])}\n{match[3]}", text)


def main() -> None:
    for page in pages():
        text = page.read_text(encoding="utf-8")
        new = made_anew(text)
        if new != text:
            page.write_text(new, encoding="utf-8")
            print(f"wrote {page.relative_to(DOCS)}")


if __name__ == "__main__":
    main()
