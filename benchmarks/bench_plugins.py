"""Measures LeakyReLU and GroupNorm against a copy of the same bytes on the device, in one process and in turn.

    python -m benchmarks.bench_plugins --out results.json

Every answer is checked against torch's before it is timed. Times are of the device: CUDA events around the replay of a
CUDA graph, after a write that pushes everything out of the caches.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.results import Results, header, measure_all
from torch_trt_ext import TRTEngineExtension
from torch_trt_ext.builders.tensorrt_build import PluginField, build_plan, create_plugin, float_field, int_field
from torch_trt_ext.runtime import load_plugins

__all__ = ["DeviceTime", "Replay", "device_times", "plugin_engine"]

Call = Callable[[], object]
#: More than any cache holds, and enough to write that the host gets ahead of the device.
_FLUSHED_BYTES = 512 << 20

_WORDS = {torch.float32: "Float", torch.float16: "Half", torch.int32: "Int"}
_TENSORRT_NAMES = {torch.float32: "float32", torch.float16: "float16", torch.int32: "int32"}

#: Relative error of normalized numbers: float32 sums in another order, and one rounding to float16.
_TOLERANCES = {torch.float32: 1e-4, torch.float16: 2e-3}


@dataclass(frozen=True)
class DeviceTime:
    """Microseconds on the device from the first to the last of a call's work: median and deciles over ``runs``."""

    median_us: float
    p10_us: float
    p90_us: float
    runs: int

    def as_dict(self) -> dict[str, float | int]:
        """For JSON."""
        rounded = {name: round(getattr(self, name), 2) for name in ("median_us", "p10_us", "p90_us")}
        return {**rounded, "runs": self.runs}


class Replay:
    """A call captured in a CUDA graph; calling it replays the graph. ``outputs`` is what each replay writes."""

    def __init__(self, call: Call) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            # An engine must have run a shape on the stream before it can be captured.
            call()
        stream.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=stream):
            self.outputs = call()
        self._call = call

    def __call__(self) -> None:
        self._graph.replay()


def device_times(calls: Mapping[str, Call], *, warmup: int = 10, runs: int = 100) -> dict[str, DeviceTime]:
    """Times calls in turn, each with nothing of its own in the caches.

    Args:
        calls: what to time, by name; on the current stream.
        warmup: calls of each before the clock starts.
        runs: calls of each that are timed.
    """
    flush = torch.empty(_FLUSHED_BYTES, dtype=torch.uint8, device="cuda")
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(warmup):
            call()
    torch.cuda.synchronize()
    for number in range(runs):
        for name in list(calls) if number % 2 == 0 else reversed(list(calls)):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            flush.fill_(number % 256)
            start.record()
            calls[name]()
            end.record()
            torch.cuda.synchronize()
            times[name].append(start.elapsed_time(end) * 1000)
    return {
        name: DeviceTime(
            median_us=statistics.median(measured),
            p10_us=statistics.quantiles(measured, n=10)[0],
            p90_us=statistics.quantiles(measured, n=10)[-1],
            runs=runs,
        )
        for name, measured in times.items()
    }


def plugin_engine(
    make_plugin: Callable[[], Any],
    inputs: Mapping[str, Tensor],
    outputs: Mapping[str, torch.dtype],
) -> Any:
    """An engine of one plugin for inputs of one shape.

    Args:
        make_plugin: called when TensorRT is there; returns an ``IPluginV3``, or an ``IPluginV2`` of TensorRT's own.
        inputs: tensors of the shapes and dtypes to build for, by name, in the plugin's order.
        outputs: names and dtypes of its outputs, in order.

    Returns:
        An object of the engine class, whose ``forward`` takes the inputs as a list.
    """

    def define(trt: Any, network: Any) -> list[Any]:
        tensors = [
            network.add_input(name, getattr(trt, _TENSORRT_NAMES[tensor.dtype]), tuple(tensor.shape))
            for name, tensor in inputs.items()
        ]
        plugin = make_plugin()
        layer = (
            network.add_plugin_v2(tensors, plugin)
            if isinstance(plugin, trt.IPluginV2)
            else network.add_plugin_v3(tensors, [], plugin)
        )
        if layer is None:
            raise RuntimeError(f"TensorRT refused the plugin on {[tuple(it.shape) for it in inputs.values()]}")
        for index, name in enumerate(outputs):
            layer.get_output(index).name = name
            network.mark_output(layer.get_output(index))
        return []

    io_spec = (
        list(inputs),
        list(outputs),
        [_WORDS[tensor.dtype] for tensor in inputs.values()],
        [_WORDS[dtype] for dtype in outputs.values()],
    )
    return TRTEngineExtension(build_plan("a network of one plugin", define), io_spec)


@dataclass(frozen=True)
class LayerCase:
    """One plugin on one input."""

    plugin: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    num_groups: int = 0

    @property
    def name(self) -> str:
        """For the table."""
        groups = f", {self.num_groups} groups" if self.num_groups else ""
        return f"{self.plugin} {_TENSORRT_NAMES[self.dtype]} {'x'.join(map(str, self.shape))}{groups}"

    def fields(self) -> list[PluginField]:
        """The plugin's fields."""
        if self.plugin == "LeakyReLU":
            return [float_field("neg_slope", 0.1)]
        return [float_field("eps", 1e-5), int_field("num_groups", self.num_groups)]

    def inputs(self) -> dict[str, Tensor]:
        """Random, on the GPU."""
        torch.manual_seed(0)
        inputs = {"x": torch.randn(self.shape, device="cuda").to(self.dtype)}
        if self.plugin == "GroupNorm":
            for name in ("scale", "bias"):
                inputs[name] = torch.randn(self.shape[1], device="cuda").to(self.dtype)
        return inputs

    def torch_call(self, x: Tensor, *affine: Tensor) -> Tensor:
        """The same in PyTorch."""
        if self.plugin == "LeakyReLU":
            return functional.leaky_relu(x, 0.1)
        return functional.group_norm(x, self.num_groups, *affine, eps=1e-5)


def _both(plugin: str, shape: tuple[int, ...], num_groups: int = 0) -> list[LayerCase]:
    return [LayerCase(plugin, shape, dtype, num_groups) for dtype in (torch.float32, torch.float16)]


CASES = (
    *_both("LeakyReLU", (32, 64, 160, 160)),
    *_both("LeakyReLU", (256, 64, 160, 160)),
    # No multiple of a 16-byte access.
    *_both("LeakyReLU", (52428797,)),
    *_both("GroupNorm", (64, 256, 32, 32), 32),
    *_both("GroupNorm", (32, 256, 64, 64), 32),
    *_both("GroupNorm", (8, 320, 64, 64), 32),
    # More than a block holds: read twice.
    *_both("GroupNorm", (8, 128, 256, 256), 32),
    # Groups that start anywhere.
    *_both("GroupNorm", (64, 96, 57, 57), 32),
)


def measure_case(case: LayerCase, runs: int) -> Results:
    """Checks and times one plugin, torch's operator and a copy."""
    inputs = case.inputs()
    x = inputs["x"]
    library = str(load_plugins())
    engine = plugin_engine(
        lambda: create_plugin(case.plugin, case.fields(), library=library), inputs, {"y": case.dtype}
    )
    ours = Replay(lambda: engine.forward(list(inputs.values()))[0])
    ours()
    tolerance = _TOLERANCES[case.dtype]
    want = case.torch_call(*(tensor.float() for tensor in inputs.values()))
    torch.testing.assert_close(ours.outputs.float(), want, rtol=tolerance, atol=4 * tolerance)
    del want
    target = torch.empty_like(x)
    times = device_times(
        {
            "ours": ours,
            "torch": Replay(lambda: case.torch_call(*inputs.values())),
            "copy": Replay(lambda: target.copy_(x)),
        },
        runs=runs,
    )
    moved_bytes = 2 * x.numel() * x.element_size()
    return {
        "bytes_moved": moved_bytes,
        "times": {name: time.as_dict() for name, time in times.items()},
        "terabytes_per_second": {name: round(moved_bytes / time.median_us * 1e-6, 3) for name, time in times.items()},
        "share_of_copy": round(times["copy"].median_us / times["ours"].median_us, 4),
    }


def table(measured: Sequence[Results]) -> str:
    """Markdown."""
    lines = ["| plugin | MB | ours, µs | torch, µs | copy, µs | share of the copy's speed |", "|---" * 6 + "|"]
    for result in measured:
        if "failed" in result:
            lines.append(f"| {result['case']} | failed: {result['failed']} |" + " |" * 4)
            continue
        cells = [f"{result['times'][name]['median_us']:.1f}" for name in ("ours", "torch", "copy")]
        megabytes = f"{result['bytes_moved'] / 1e6:.0f}"
        lines.append(f"| {result['case']} | {megabytes} | {' | '.join(cells)} | {result['share_of_copy']:.0%} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--runs", type=int, default=100, help="calls of each that are timed")
    args = parser.parse_args(arguments)
    facts = header("bench_plugins", arguments) | {
        "protocol": "CUDA events around a CUDA graph's replay with cold caches, all in turn; bytes are one read and "
        "one write of the input",
    }
    cases = (({"case": case.name}, functools.partial(measure_case, case, args.runs)) for case in CASES)
    measured = measure_all(args.out, facts, cases)
    print(table(measured))
    if any("failed" in result for result in measured):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
