"""What the examples' demos have in common: where to run, the fresh process, the summary, the verdict."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

import torch_trt_ext
from benchmarks.timing import environment
from torch_trt_ext.builders.tensorrt_build import missing_for_building
from torch_trt_ext.optimizer.report import Report

DeviceType = Literal["gpu", "cpu"]


@dataclass(frozen=True)
class Place:
    """Where an example runs.

    Attributes:
        device_type: "gpu" or "cpu", as ``optimize()`` takes it.
        engine: what its engines are.
        sentence: which, and why, in a line.
    """

    device_type: DeviceType
    engine: Literal["TensorRT", "OpenVINO"]
    sentence: str

    @property
    def device(self) -> torch.device:
        """The same in torch's words."""
        return torch.device("cuda" if self.device_type == "gpu" else "cpu")


@dataclass(frozen=True)
class Check:
    """A figure and what it must not exceed (or, with ``at_least``, fall below).

    Attributes:
        what: the figure in words.
        value: what was measured.
        limit: what is allowed.
        at_least: whether more is better.
    """

    what: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def passed(self) -> bool:
        """Whether the figure is allowed; NaN never is."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def choose_place(requested: str | None) -> Place:
    """Picks where to run.

    Args:
        requested: what the user gave as ``--device``: "cpu", or "gpu" or "cuda"; None for what is there.

    Raises:
        RuntimeError: a GPU was asked for and TensorRT engines cannot be built here, or no engine can run.
    """
    no_tensorrt = missing_for_building()
    if requested != "cpu" and not no_tensorrt:
        return Place("gpu", "TensorRT", f"Using TensorRT engines on {torch.cuda.get_device_name()}.")
    if requested in ("gpu", "cuda"):
        raise RuntimeError(f"--device {requested} needs TensorRT engines: {no_tensorrt}")
    no_openvino = torch_trt_ext.runtime.available_backends()["openvino"]
    if no_openvino:
        raise RuntimeError(f"neither engine can run here. TensorRT: {no_tensorrt}. OpenVINO: {no_openvino}")
    why = "as asked" if requested == "cpu" else no_tensorrt
    return Place("cpu", "OpenVINO", f"Using OpenVINO engines on the CPU ({why}).")


def parser_for(name: str, description: str | None) -> argparse.ArgumentParser:
    """A parser with the arguments that all examples take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["gpu", "cpu"], help="default: gpu where TensorRT can run")
    parser.add_argument("--out", type=Path, default=Path("out/examples") / name, help="folder for what is written")
    parser.add_argument("--small", action="store_true", help="a minute at most on two cores")
    return parser


def announcer(steps: int) -> Callable[[int, str], None]:
    """A function that says which of a program's steps begins."""

    def say(step: int, what: str) -> None:
        print(f"[{step}/{steps}] {what}", flush=True)

    return say


def use_one_thread() -> None:
    """Lets torch compute in one thread, here and in processes of :func:`run_module`.

    What is computed in networks this small is so little that threads mostly wait for each other.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def run_module(module: str, *arguments: object) -> None:
    """Runs a module of this repository in a process of its own.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    subprocess.run([sys.executable, "-m", module, *map(str, arguments)], check=True)


def run_on_file(module: str, file: Path, inputs: Any, *options: object) -> dict[str, Any]:
    """What a module of this repository finds, in a process of its own, when it runs a saved file on inputs.

    Args:
        module: takes the file, the inputs' file, the file for what it finds, and options.
        file: of a model or an engine; what the two processes give each other lies beside it meanwhile.
        inputs: what ``torch.save`` takes.
        options: further arguments.

    Raises:
        subprocess.CalledProcessError: the process failed.
    """
    inputs_path, outputs_path = file.with_suffix(".inputs.pt"), file.with_suffix(".outputs.pt")
    torch.save(inputs, inputs_path)
    run_module(module, file, inputs_path, outputs_path, *options)
    found: dict[str, Any] = torch.load(outputs_path, weights_only=True)
    inputs_path.unlink()
    outputs_path.unlink()
    return found


def save_optimized(optimized: torch.jit.ScriptModule, report: Report, path: Path) -> dict[str, Any]:
    """Saves a model with engines, and its report beside it.

    Returns:
        For the summary: the file's size, the engines, and how much of the model is in them.
    """
    torch.jit.save(optimized, str(path))
    path.with_suffix(".report.json").write_text(report.to_json() + "\n")
    return {
        "file_bytes": path.stat().st_size,
        "engines": [
            {key: engine[key] for key in ("name", "precision", "operators", "plan_bytes", "cuda_graphs")}
            for engine in report["engines"]
        ],
        "compute_in_engines": report["coverage"].get("compute", 0.0),
    }


def calls_of(engines: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How often engines ran in a process of :mod:`examples.run_saved`, and how often PyTorch did in their place."""
    counters = [engine["counters"] for engine in engines]
    return {key: sum(counter[key] for counter in counters) for key in ("calls", "fallbacks")}


def print_rows(rows: Sequence[Sequence[str]]) -> None:
    """Prints a table without lines."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def write_summary(
    out: Path, place: Place, summary: Mapping[str, Any], checks: Sequence[Check], *, finished: bool = False
) -> Path:
    """Writes ``summary.json``; an example that takes long does so after each part, before it has finished."""
    contents = {
        "device": place.device_type,
        "engine": place.engine,
        **summary,
        "checks": [{**vars(check), "passed": check.passed} for check in checks],
        "passed": finished and all(check.passed for check in checks),
        "environment": environment(),
    }
    path = out / "summary.json"
    path.write_text(json.dumps(contents, indent=2) + "\n")
    return path


def conclude(out: Path, place: Place, summary: Mapping[str, Any], checks: Sequence[Check]) -> int:
    """Writes ``summary.json``, says what failed.

    Returns:
        The process's exit status: 0 when every check passed.
    """
    path = write_summary(out, place, summary, checks, finished=True)
    for check in checks:
        if not check.passed:
            required = "at least" if check.at_least else "at most"
            print(f"FAILED: {check.what} must be {required} {check.limit:g}, got {check.value:g}", file=sys.stderr)
    print(f"\n{sum(check.passed for check in checks)} of {len(checks)} checks passed. Wrote {path}.")
    return 0 if all(check.passed for check in checks) else 1
