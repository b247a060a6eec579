"""What the examples' demos have in common: where to run, the fresh process, the summary, the verdict."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

import torch_trt_ext
from benchmarks.timing import environment
from torch_trt_ext.builders.tensorrt_build import missing_for_building

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


def choose_place(requested: DeviceType | None) -> Place:
    """Picks where to run.

    Raises:
        RuntimeError: a GPU was asked for and TensorRT engines cannot be built here, or no engine can run.
    """
    no_tensorrt = missing_for_building()
    if requested != "cpu" and not no_tensorrt:
        return Place("gpu", "TensorRT", f"Using TensorRT engines on {torch.cuda.get_device_name()}.")
    if requested == "gpu":
        raise RuntimeError(f"--device gpu needs TensorRT engines: {no_tensorrt}")
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


def print_rows(rows: Sequence[Sequence[str]]) -> None:
    """Prints a table without lines."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def conclude(out: Path, place: Place, summary: Mapping[str, Any], checks: Sequence[Check]) -> int:
    """Writes ``summary.json``, says what failed.

    Returns:
        The process's exit status: 0 when every check passed.
    """
    passed = all(check.passed for check in checks)
    contents = {
        "device": place.device_type,
        "engine": place.engine,
        **summary,
        "checks": [{**vars(check), "passed": check.passed} for check in checks],
        "passed": passed,
        "environment": environment(),
    }
    path = out / "summary.json"
    path.write_text(json.dumps(contents, indent=2) + "\n")
    for check in checks:
        if not check.passed:
            required = "at least" if check.at_least else "at most"
            print(f"FAILED: {check.what} must be {required} {check.limit:g}, got {check.value:g}", file=sys.stderr)
    print(f"\n{sum(check.passed for check in checks)} of {len(checks)} checks passed. Wrote {path}.")
    return 0 if passed else 1
