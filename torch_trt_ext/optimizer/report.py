"""The report of ``optimize()``: PAI-Blade's keys and formats, and what this package adds after them."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from torch_trt_ext.builders.tensorrt_build import import_tensorrt
from torch_trt_ext.config import Config
from torch_trt_ext.optimizer.samples import ShapeVariation, tensor_lines, variation_of
from torch_trt_ext.optimizer.structures import dtype_name
from torch_trt_ext.version import __version__

__all__ = [
    "NO_INPUT_INFORMATION",
    "DeviceType",
    "Overall",
    "PassResult",
    "Report",
    "build_report",
    "device_name",
    "json_values",
    "software_versions",
]

DeviceType = Literal["gpu", "cpu"]
PassStatus = Literal["effective", "not effective", "failed"]
InputFormat = Literal["torch_script", "torch_module"]
TestDataSource = Literal["user provided", "generated"]

#: PAI-Blade's message where the test data does not tell whether shapes vary.
NO_INPUT_INFORMATION = "Unable to deduce model inputs information (data type, shape, value range, etc.)"

_LEFT_KEYS = ("node", "source", "reason")

#: Keys of long lists whose entries are printed on a line each.
_TABLES = ("modules", "slowest")

_CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class PassResult:
    """What one pass did to the model.

    Attributes:
        name: e.g. "PtTrtPassFp16".
        status: "effective", "not effective" (what it did was taken back), or "failed".
        pre_run_ms: latency of the model before the pass, in milliseconds; NaN where it was not measured.
        post_run_ms: the same after it.

    Raises:
        ValueError: the status is none of the three, or a latency is negative.
    """

    name: str
    status: PassStatus
    pre_run_ms: float = math.nan
    post_run_ms: float = math.nan

    def __post_init__(self) -> None:
        if self.status not in get_args(PassStatus):
            raise ValueError(
                f"status of pass {self.name!r} must be one of {', '.join(map(repr, get_args(PassStatus)))}, "
                f"got {self.status!r}"
            )
        _check_latency(f"pre_run_ms of pass {self.name!r}", self.pre_run_ms)
        _check_latency(f"post_run_ms of pass {self.name!r}", self.post_run_ms)

    @property
    def speedup(self) -> float:
        """How many times as fast the model is after the pass."""
        return _ratio(self.pre_run_ms, self.post_run_ms)


@dataclass(frozen=True)
class Overall:
    """Latency of the whole model before and after, in milliseconds; NaN where it was not measured.

    Raises:
        ValueError: a latency is negative.
    """

    baseline_ms: float = math.nan
    optimized_ms: float = math.nan

    def __post_init__(self) -> None:
        _check_latency("baseline_ms", self.baseline_ms)
        _check_latency("optimized_ms", self.optimized_ms)

    @property
    def speedup(self) -> float:
        """How many times as fast the optimized model is."""
        return _ratio(self.baseline_ms, self.optimized_ms)


class Report(dict[str, Any]):
    """What ``optimize()`` did, as a dict of JSON values; ``str()``, ``format()`` and ``print()`` give indented JSON."""

    def to_json(self, indent: int | None = 2) -> str:
        """The report as JSON that strict parsers read: NaN and infinities are the strings "nan", "inf" and "-inf".

        Args:
            indent: spaces a level; None writes one line.

        Raises:
            TypeError: a value was added that JSON cannot hold.
        """
        values = json_values("report", self)
        return json.dumps(values, allow_nan=False) if indent is None else _indented(values, " " * indent, "\n")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the report for people, as its name ends: ``.html`` (one page that needs nothing else), ``.md``
        (Markdown), ``.png`` (a picture, which needs matplotlib), or ``.json``.

        Args:
            path: the file to write.

        Raises:
            ValueError: the name ends otherwise.
            ModuleNotFoundError: a picture is wanted and matplotlib is not installed.
            OSError: the file cannot be written.
        """
        # Only those who want a page load what makes it.
        from torch_trt_ext.report_page import save

        save(self, path)

    def __str__(self) -> str:
        return self.to_json()


def device_name(device_type: DeviceType) -> str:
    """Name of the hardware that engines run on here.

    Args:
        device_type: "gpu" for torch's current GPU, "cpu" for the processor.

    Returns:
        E.g. "NVIDIA H200", "Tesla T4", or "Intel(R) Xeon(R) Platinum 8480+".

    Raises:
        RuntimeError: there is no GPU, as torch puts it.
    """
    if device_type == "gpu":
        return torch.cuda.get_device_name()
    lines = _CPU_INFO.read_text(errors="replace").splitlines() if _CPU_INFO.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, names), platform.machine())


def software_versions(device_type: DeviceType) -> dict[str, str]:
    """Versions of what engines for a kind of device depend on.

    Returns:
        "torch"; on GPUs "cuda" where torch has it; "tensorrt" (GPU) or "openvino" (CPU) where Python has it;
        "torch_trt_ext"; in this order.
    """
    versions = {"torch": str(torch.__version__)}
    if device_type == "gpu":
        if torch.version.cuda:
            versions["cuda"] = torch.version.cuda
        with contextlib.suppress(RuntimeError):
            versions["tensorrt"] = str(import_tensorrt().__version__)
    else:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions["openvino"] = importlib.metadata.version("openvino")
    versions["torch_trt_ext"] = __version__
    return versions


def build_report(
    *,
    config: Config,
    device_type: DeviceType,
    input_format: InputFormat,
    test_data: Sequence[object],
    passes: Sequence[PassResult],
    overall: Overall,
    model_path: str | os.PathLike[str] | None = None,
    test_data_source: TestDataSource = "user provided",
    shape_variation: ShapeVariation | None = None,
    message: str | None = None,
    engines: Sequence[Mapping[str, object]] = (),
    left_in_torch: Sequence[Mapping[str, object]] = (),
    accuracy: Mapping[str, object] | None = None,
    coverage: Mapping[str, object] | None = None,
    latency: Mapping[str, object] | None = None,
) -> Report:
    """Makes the report of one run of ``optimize()`` on this machine.

    Values may be numpy or torch scalars; tuples become lists, dtypes and paths strings.

    Args:
        config: what was used; the report has the options that differ from their defaults.
        device_type: "gpu" or "cpu", what the model was optimized for.
        input_format: "torch_script", or "torch_module" for an ``nn.Module`` that was scripted or traced.
        test_data: the model's inputs, one item a call, with tensors at any depth of tuples, lists and dicts.
        passes: in the order in which they ran.
        overall: latency before and after.
        model_path: file of the model, of which the name is shown; None for a model that came as an object.
        test_data_source: "user provided" or "generated".
        shape_variation: whether inputs vary in shape; None reads it off ``test_data`` ("undefined" for fewer than two
            items).
        message: the diagnosis; None is :data:`NO_INPUT_INFORMATION` where the shape variation is "undefined", else "".
        engines: one dict an engine.
        left_in_torch: one dict a node that no engine runs, with the keys "node", "source" and "reason".
        accuracy: measured errors.
        coverage: how much of the model engines run.
        latency: how the calls that ``overall`` has the medians of are spread.

    Returns:
        A new dict of JSON values: PAI-Blade's keys in its order, then ``engines``, ``left_in_torch``, ``accuracy``,
        ``coverage`` and ``latency``. Latencies look like "9.28 ms", speedups like "4.37".

    Raises:
        TypeError: a value cannot be written as JSON.
        ValueError: an entry of ``left_in_torch`` has other keys.
        RuntimeError: ``device_type`` is "gpu" and there is none.
    """
    for index, entry in enumerate(left_in_torch):
        if set(entry) != set(_LEFT_KEYS):
            raise ValueError(
                f"left_in_torch[{index}] must have the keys {', '.join(_LEFT_KEYS)}, got {', '.join(map(str, entry))}"
            )
    # Marketing prefixes go, as PAI-Blade has it: "Tesla T4" is a T4.
    hardware = device_name(device_type).removeprefix("NVIDIA ").removeprefix("Tesla ")
    hardware_context = {"device_type": device_type, "microarchitecture": hardware}
    changed = config.changed()
    variation = shape_variation or variation_of(test_data)
    if message is None:
        message = NO_INPUT_INFORMATION if variation == "undefined" else ""
    report = {
        "software_context": _software_context(device_type),
        "hardware_context": hardware_context,
        "user_config": json.dumps(changed, separators=(",", ":"), allow_nan=False) if changed else "",
        "diagnosis": {
            "model": "unnamed.pt" if model_path is None else Path(model_path).name,
            "test_data_source": test_data_source,
            "shape_variation": variation,
            "message": message,
            "test_data_info": tensor_lines(test_data[:1]),
        },
        "optimizations": [
            {
                "name": result.name,
                "status": result.status,
                "speedup": f"{result.speedup:.2f}",
                "pre_run": f"{result.pre_run_ms:.2f} ms",
                "post_run": f"{result.post_run_ms:.2f} ms",
            }
            for result in passes
        ],
        "overall": {
            "baseline": f"{overall.baseline_ms:.2f} ms",
            "optimized": f"{overall.optimized_ms:.2f} ms",
            "speedup": f"{overall.speedup:.2f}",
        },
        "model_info": {"input_format": input_format},
        "compatibility_list": [hardware_context],
        "model_sdk": {},
        "engines": engines,
        "left_in_torch": [{key: entry[key] for key in _LEFT_KEYS} for entry in left_in_torch],
        "accuracy": accuracy or {},
        "coverage": coverage or {},
        "latency": latency or {},
    }
    return Report(json_values("report", report))


def _indented(values: Any, indent: str, newline: str) -> str:
    """As ``json.dumps`` with an indentation, but for tables, whose rows take a line each."""
    if not isinstance(values, (dict, list)) or not values:
        return json.dumps(values, allow_nan=False)
    inside = newline + indent
    if isinstance(values, list):
        return f"[{inside}{f',{inside}'.join(_indented(value, indent, inside) for value in values)}{newline}]"
    items = []
    for name, value in values.items():
        if name in _TABLES and isinstance(value, list) and value:
            rows = [json.dumps(row, allow_nan=False) for row in value]
            text = f"[{inside}{indent}{f',{inside}{indent}'.join(rows)}{inside}]"
        else:
            text = _indented(value, indent, inside)
        items.append(f"{json.dumps(name)}: {text}")
    return f"{{{inside}{f',{inside}'.join(items)}{newline}}}"


def _check_latency(subject: str, value: float) -> None:
    if value < 0:
        raise ValueError(f"{subject} must be at least 0 ms, got {value}")


def _ratio(before: float, after: float) -> float:
    if after == 0:
        return math.nan if before == 0 else before * math.inf
    return before / after


def _software_context(device_type: DeviceType) -> list[dict[str, str]]:
    names = {"torch": "pytorch"}
    return [
        {"software": names.get(software, software), "version": version}
        for software, version in software_versions(device_type).items()
    ]


def json_values(subject: str, value: object) -> Any:
    """``value`` as strict JSON can hold it: scalars of numpy and torch as numbers, NaN and infinities as strings.

    Args:
        subject: where it stands, for messages.
        value: dicts, lists and tuples of such scalars, dtypes, paths, strings and numbers.

    Raises:
        TypeError: JSON has nothing for it.
    """
    if isinstance(value, (np.generic, np.ndarray, torch.Tensor)):
        if math.prod(value.shape) != 1:
            raise TypeError(f"{subject} must be a JSON value, got an array of shape {tuple(value.shape)}; use tolist()")
        return json_values(subject, value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, torch.dtype):
        return dtype_name(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{subject} must have strings as keys, got {key!r}; use str()")
        return {key: json_values(f"{subject}[{key!r}]", item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_values(f"{subject}[{index}]", item) for index, item in enumerate(value)]
    raise TypeError(f"{subject} must be a JSON value, got {type(value).__name__}; convert it first")
