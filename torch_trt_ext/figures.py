"""trtexec's figures for whole models: throughput, latency, enqueue and GPU time, of several models side by side."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from torch_trt_ext.comparison import compare_models
from torch_trt_ext.optimizer.latency import TIMED_RUNS, WARMUP_RUNS, calls_per_second, time_calls
from torch_trt_ext.optimizer.script_module import find_engines
from torch_trt_ext.optimizer.structures import detach_clone

__all__ = ["Distribution", "Figures", "bench_models"]


@dataclass(frozen=True)
class Distribution:
    """Milliseconds of single calls; a percentile is the smallest time that so many of the calls do not exceed."""

    min_ms: float
    mean_ms: float
    median_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float

    @staticmethod
    def of(times_ms: Sequence[float]) -> Distribution:
        """The distribution of at least one time."""
        ordered = sorted(times_ms)

        def percentile(percent: int) -> float:
            return ordered[math.ceil(percent * len(ordered) / 100) - 1]

        return Distribution(
            min_ms=ordered[0],
            mean_ms=statistics.fmean(ordered),
            median_ms=statistics.median(ordered),
            p90_ms=percentile(90),
            p95_ms=percentile(95),
            p99_ms=percentile(99),
            max_ms=ordered[-1],
        )


@dataclass(frozen=True)
class Figures:
    """How fast a model is on one set of inputs.

    Attributes:
        throughput: calls a second that do not wait for each other's work on the GPU.
        latency: from the call to the end of its work.
        enqueue: host time until the call returned; None on the CPU, where that is the latency.
        gpu: between CUDA events around the call; None on the CPU.
        runs: calls that were timed.
        difference: relative error of the answers against the first model's; infinite where they cannot be compared.
        engine_calls: engines that ran in one call.
        fallbacks: subgraphs that ran in one call in an engine's place.
    """

    throughput: float
    latency: Distribution
    enqueue: Distribution | None
    gpu: Distribution | None
    runs: int
    difference: float
    engine_calls: int
    fallbacks: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON; ``difference`` may be infinite."""
        return asdict(self)


def bench_models(
    models: Mapping[str, torch.jit.ScriptModule],
    item: tuple[Any, ...],
    *,
    device: torch.device,
    warmup: int = WARMUP_RUNS,
    runs: int = TIMED_RUNS,
    max_seconds: float | None = None,
    show_progress: bool = False,
) -> dict[str, Figures]:
    """Times models on the same inputs, in turns, so that a machine whose speed drifts treats all alike.

    Args:
        models: what to time, by name; their answers are compared with the first one's, not judged.
        item: positional arguments of one call, on the device. Each model has a copy, which it may write to.
        device: where the models are.
        warmup: calls of each before the clock starts.
        runs: calls of each that are timed.
        max_seconds: time for all the timed calls of all models; there are fewer runs then.
        show_progress: whether a bar on stderr counts the rounds.

    Returns:
        The figures of each model, in the order given.

    Raises:
        ValueError: a number is out of range.
    """
    first = next(iter(models.values()))
    differences = {
        name: 0.0 if model is first else compare_models(first, model, [item])[0].relative
        for name, model in models.items()
    }
    calls = {name: functools.partial(model, *detach_clone(item)) for name, model in models.items()}
    times = time_calls(
        calls, device=device, warmup=warmup, runs=runs, max_seconds=max_seconds, show_progress=show_progress
    )
    figures = {}
    for name, measured in times.items():
        throughput = calls_per_second(calls[name], device=device, runs=len(measured.wall_ms))
        engine_calls, fallbacks = _engines_in_a_call(models[name], calls[name])
        figures[name] = Figures(
            throughput=throughput,
            latency=Distribution.of(measured.wall_ms),
            enqueue=Distribution.of(measured.enqueue_ms) if measured.enqueue_ms else None,
            gpu=Distribution.of(measured.device_ms) if measured.device_ms else None,
            runs=len(measured.wall_ms),
            difference=differences[name],
            engine_calls=engine_calls,
            fallbacks=fallbacks,
        )
    return figures


def _engines_in_a_call(model: torch.jit.ScriptModule, call: Callable[[], object]) -> tuple[int, int]:
    """How many engines run in a call, and how many subgraphs in their place."""
    engines = [found.engine for found in find_engines(model)]
    before = [engine.counters() for engine in engines]
    with torch.no_grad():
        call()
    after = [engine.counters() for engine in engines]
    calls, fallbacks = (
        sum(now[what] - earlier[what] for now, earlier in zip(after, before, strict=True))
        for what in ("calls", "fallbacks")
    )
    return calls, fallbacks
