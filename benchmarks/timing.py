"""How this project measures: one timing loop, and the facts that make a figure worth keeping."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

#: The protocol of PAI-Blade's tutorial.
WARMUP_RUNS = 100
TIMED_RUNS = 200


@dataclass(frozen=True)
class Latency:
    """Milliseconds a call, over ``runs`` calls.

    Attributes:
        median_ms: wall clock from the call to the end of its device work, median.
        p10_ms: likewise, the tenth percentile.
        p90_ms: likewise, the ninetieth.
        device_ms: CUDA events around each call, median; None on the CPU.
        runs: calls that were timed, after the warm-up.
    """

    median_ms: float
    p10_ms: float
    p90_ms: float
    device_ms: float | None
    runs: int

    def as_dict(self) -> dict[str, float | int | None]:
        """For JSON, rounded to microseconds."""
        return {name: round(value, 3) if isinstance(value, float) else value for name, value in asdict(self).items()}


def measure(
    call: Callable[[], object],
    *,
    device: torch.device | str,
    warmup: int = WARMUP_RUNS,
    runs: int = TIMED_RUNS,
) -> Latency:
    """Times a call, one after the other, each waited for.

    Args:
        call: what to time; its answers are checked elsewhere, before.
        device: where its work runs.
        warmup: calls before the clock starts.
        runs: calls that are timed.
    """
    on_gpu = torch.device(device).type == "cuda"
    for _ in range(warmup):
        call()
    wall_ms = []
    device_ms = []
    if on_gpu:
        torch.cuda.synchronize()
    for _ in range(runs):
        if on_gpu:
            start_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start_event.record()
        start = time.perf_counter()
        call()
        if on_gpu:
            end_event.record()
            torch.cuda.synchronize()
            device_ms.append(start_event.elapsed_time(end_event))
        wall_ms.append((time.perf_counter() - start) * 1000)
    deciles = statistics.quantiles(wall_ms, n=10)
    return Latency(
        median_ms=statistics.median(wall_ms),
        p10_ms=deciles[0],
        p90_ms=deciles[-1],
        device_ms=statistics.median(device_ms) if device_ms else None,
        runs=runs,
    )


def _output_of(command: list[str]) -> str | None:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=30, cwd=Path(__file__).parent
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu_name() -> str:
    """What Linux calls the processor; its architecture elsewhere."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def environment() -> dict[str, Any]:
    """GPU, driver, versions and commit, for a results file. What is not there is None."""
    gpu = driver = None
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_name()
        driver = _output_of(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    versions: dict[str, str | None] = {"python": platform.python_version(), "torch": torch.__version__}
    for module in ("torchvision", "tensorrt", "openvino", "torch_trt_ext"):
        try:
            versions[module] = str(__import__(module).__version__)
        except ImportError:
            versions[module] = None
    # A source archive has no history; whoever unpacked it can say which commit it is.
    commit = _output_of(["git", "rev-parse", "HEAD"]) or os.environ.get("TORCH_TRT_EXT_COMMIT")
    changed = _output_of(["git", "status", "--porcelain", "--untracked-files=no"])
    return {
        "gpu": gpu,
        "driver": driver,
        "cuda": torch.version.cuda,
        "cpu": _cpu_name(),
        "cpu_threads": torch.get_num_threads(),
        "versions": versions,
        "commit": f"{commit}-dirty" if commit and changed else commit,
    }
