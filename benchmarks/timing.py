"""How this project measures: the package's timing loop, and the facts that make a figure worth keeping."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from torch_trt_ext.optimizer.latency import TIMED_RUNS, WARMUP_RUNS, Latency, measure

__all__ = ["TIMED_RUNS", "WARMUP_RUNS", "Latency", "environment", "measure"]


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
        # One line a GPU, all the same.
        lines = _output_of(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
        driver = lines.splitlines()[0] if lines else None
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
