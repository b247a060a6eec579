"""``torch-trt-ext bench``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import torch

from torch_trt_ext.cli.answer import Answer, answers, table
from torch_trt_ext.cli.model_inputs import ModelInputs, input_options
from torch_trt_ext.cli.options import loading_options, run_device_option, torch_device
from torch_trt_ext.figures import Distribution, Figures, bench_models
from torch_trt_ext.optimizer.latency import TIMED_RUNS, WARMUP_RUNS
from torch_trt_ext.optimizer.model_input import read_model
from torch_trt_ext.optimizer.report import DeviceType, device_name, software_versions
from torch_trt_ext.optimizer.structures import describe

_STATISTICS = ("min", "mean", "median", "p90", "p95", "p99", "max")


@click.command()
@click.argument("models", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="MODEL...")
@run_device_option
@input_options
@click.option("--warmup", default=WARMUP_RUNS, show_default=True, help="Calls of each model before the clock starts.")
@click.option("--runs", default=TIMED_RUNS, show_default=True, help="Calls of each model that are timed.")
@click.option("--seconds", default=60.0, show_default=True, help="Time for all of them; fewer calls then.")
@loading_options
@answers
def bench(
    models: Sequence[Path],
    device_type: str | None,
    model_inputs: ModelInputs,
    warmup: int,
    runs: int,
    seconds: float,
) -> Answer:
    """Time saved models on the same inputs, side by side.

    Each MODEL is a TorchScript file. Throughput is of calls that do not wait for each other; latency is from the
    call to the end of its work; enqueue is the host's time until the call returned; GPU compute is between CUDA events.
    """
    device = torch_device(device_type)
    kind: DeviceType = "gpu" if device.type == "cuda" else "cpu"
    scripts = {name: read_model(path, device, None, "script").script for name, path in _names(models).items()}
    items = model_inputs.items(next(iter(scripts.values())), device)
    document: dict[str, Any] = {
        "device_type": kind,
        "device": device_name(kind),
        "versions": software_versions(kind),
        "threads": torch.get_num_threads(),
        "results": [],
    }
    texts = [f"on {document['device']}"]
    for item in items:
        figures = bench_models(
            scripts,
            item,
            device=device,
            warmup=warmup,
            runs=runs,
            max_seconds=seconds,
            show_progress=sys.stderr.isatty(),
        )
        results = {name: of_model.as_dict() for name, of_model in figures.items()}
        document["results"].append({"inputs": describe(item), "models": results})
        texts.append(f"\ninputs {describe(item)}\n{_table(figures)}")
    return Answer(document, "\n".join(texts))


def _names(paths: Sequence[Path]) -> dict[str, Path]:
    """Short names where they differ, else the paths."""
    if len(set(paths)) < len(paths):
        raise click.UsageError(f"each MODEL must be given once, got {', '.join(map(str, paths))}")
    short = {path.name: path for path in paths}
    return short if len(short) == len(paths) else {str(path): path for path in paths}


def _table(figures: dict[str, Figures]) -> str:
    first = next(iter(figures.values()))
    all_figures = list(figures.values())

    def row(name: str, text: Callable[[Figures], str]) -> list[str]:
        return [name, *map(text, all_figures)]

    rows = [row("throughput (calls/s)", lambda of_model: f"{of_model.throughput:.1f}")]
    rows += _distribution_rows("latency", [of_model.latency for of_model in all_figures])
    rows += _distribution_rows("enqueue", [of_model.enqueue for of_model in all_figures])
    rows += _distribution_rows("GPU compute", [of_model.gpu for of_model in all_figures])
    rows.append(row("timed calls", lambda of_model: str(of_model.runs)))
    if any(of_model.engine_calls + of_model.fallbacks for of_model in all_figures):
        rows.append(row("engines in a call", lambda of_model: str(of_model.engine_calls)))
        rows.append(row("fallbacks in a call", lambda of_model: str(of_model.fallbacks)))
    if len(figures) > 1:
        median = first.latency.median_ms
        rows.append(row("times as fast as the first", lambda of_model: f"{median / of_model.latency.median_ms:.2f}"))
        rows.append(row("relative error to the first", lambda of_model: f"{of_model.difference:.1e}"))
    return table(["", *figures], rows)


def _distribution_rows(name: str, distributions: Sequence[Distribution | None]) -> list[list[str]]:
    known = [distribution for distribution in distributions if distribution is not None]
    return [
        [f"{name} {statistic} (ms)", *(f"{getattr(distribution, f'{statistic}_ms'):.3f}" for distribution in known)]
        for statistic in _STATISTICS
        if known
    ]
