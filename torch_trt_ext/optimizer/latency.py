"""How this project measures time: one loop for a call, and interleaved rounds for several that are compared."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from tqdm import tqdm

#: The protocol of PAI-Blade's tutorial.
WARMUP_RUNS = 100
TIMED_RUNS = 200

#: Calls that are timed however little time there is: fewer have no median worth the name.
MIN_RUNS = 3

#: Calls that tell how long one takes. The fastest counts, because the first ones compile and allocate.
_ESTIMATE_RUNS = 3


@dataclass(frozen=True)
class Latency:
    """Milliseconds a call, over ``runs`` calls.

    Attributes:
        median_ms: wall clock from the call to the end of its device work, median.
        p10_ms: likewise, the tenth percentile.
        p90_ms: likewise, the ninetieth.
        device_ms: CUDA events around each call, median; None on the CPU.
        runs: calls that were timed, after the warm-up.
        quantiles: of the wall clock, by name, for :meth:`distribution`.
    """

    median_ms: float
    p10_ms: float
    p90_ms: float
    device_ms: float | None
    runs: int
    quantiles: Mapping[str, float] = field(default_factory=dict, repr=False, compare=False)

    def as_dict(self) -> dict[str, float | int | None]:
        """For JSON, rounded to microseconds."""
        return _rounded({name: value for name, value in vars(self).items() if name != "quantiles"})

    def distribution(self) -> dict[str, float | int | None]:
        """For JSON, rounded to microseconds: :meth:`as_dict` with more of how the calls are spread."""
        return _rounded({**self.quantiles, "device_ms": self.device_ms, "runs": self.runs})


def _rounded(values: Mapping[str, float | int | None]) -> dict[str, float | int | None]:
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in values.items()}


def measure(
    call: Callable[[], object],
    *,
    device: torch.device | str,
    warmup: int = WARMUP_RUNS,
    runs: int = TIMED_RUNS,
    max_seconds: float | None = None,
) -> Latency:
    """Times a call, one after the other, each waited for, without gradients.

    Args:
        call: what to time; its answers are checked elsewhere, before.
        device: where its work runs.
        warmup: calls before the clock starts.
        runs: calls that are timed.
        max_seconds: time for all of it. Where the first calls (up to three, which count as warm-up) say that it would
            take longer, warm-up and timed calls are cut in proportion, the timed ones to :data:`MIN_RUNS` at least.

    Raises:
        ValueError: a number is out of range.
    """
    return compare_latency({"": call}, device=device, warmup=warmup, runs=runs, max_seconds=max_seconds, rounds=1)[""]


def compare_latency(
    calls: Mapping[str, Callable[[], object]],
    *,
    device: torch.device | str,
    warmup: int = WARMUP_RUNS,
    runs: int = TIMED_RUNS,
    max_seconds: float | None = None,
    rounds: int = 10,
) -> dict[str, Latency]:
    """Times several calls in turn, so that a machine whose speed drifts treats all alike.

    The timed calls are spread over rounds. In each round every call has its share in one block, after one call that
    is not timed and refills the caches; every other round goes through the calls backwards.

    Args:
        calls: what to time, by name.
        device: where their work runs.
        warmup: calls of each before the clock starts.
        runs: calls of each that are timed.
        max_seconds: as for :func:`measure`, for all calls together.
        rounds: how often to change from one call to the next; no more than timed calls are used.

    Returns:
        A latency over all rounds for each name, in the order given.

    Raises:
        ValueError: a number is out of range.
    """
    times = time_calls(calls, device=device, warmup=warmup, runs=runs, max_seconds=max_seconds, rounds=rounds)
    return {name: measured.latency() for name, measured in times.items()}


def time_calls(
    calls: Mapping[str, Callable[[], object]],
    *,
    device: torch.device | str,
    warmup: int = WARMUP_RUNS,
    runs: int = TIMED_RUNS,
    max_seconds: float | None = None,
    rounds: int = 10,
    show_progress: bool = False,
) -> dict[str, CallTimes]:
    """:func:`compare_latency` with the times of every single call.

    Args:
        calls: as for :func:`compare_latency`.
        device: likewise.
        warmup: likewise.
        runs: likewise.
        max_seconds: likewise.
        rounds: likewise.
        show_progress: whether a bar on stderr counts the rounds.

    Returns:
        The times of each call, by name, in the order given.

    Raises:
        ValueError: a number is out of range.
    """
    for name, value, least in (("warmup", warmup, 0), ("runs", runs, 1), ("rounds", rounds, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if max_seconds is not None and not max_seconds > 0:
        raise ValueError(f"max_seconds must be more than 0, got {max_seconds}; pass None for no limit")
    clock = _Clock(torch.device(device))
    with torch.no_grad():
        if max_seconds is not None:
            warmup, runs = _fit(calls, clock, warmup, runs, max_seconds)
        for call in calls.values():
            for _ in range(warmup):
                call()
            # The next one may use the same memory on another stream.
            clock.wait()
        rounds = min(rounds, runs)
        times = {name: CallTimes() for name in calls}
        for number in tqdm(range(rounds), "timing", disable=not show_progress, leave=False):
            share = runs // rounds + (number < runs % rounds)
            for name in list(calls) if number % 2 == 0 else reversed(list(calls)):
                if rounds > 1:
                    calls[name]()
                clock.wait()
                for _ in range(share):
                    clock.time(calls[name], times[name])
    return times


def calls_per_second(call: Callable[[], object], *, device: torch.device | str, runs: int) -> float:
    """Throughput of calls that do not wait for each other's device work, without gradients.

    Args:
        call: what to time; it is warm.
        device: where its work runs.
        runs: how many calls, at least 1.
    """
    clock = _Clock(torch.device(device))
    with torch.no_grad():
        clock.wait()
        start = time.perf_counter()
        for _ in range(runs):
            call()
        clock.wait()
        return runs / (time.perf_counter() - start)


@dataclass
class CallTimes:
    """Milliseconds of each timed call, in the order in which they were made.

    Attributes:
        wall_ms: wall clock from the call to the end of its device work.
        enqueue_ms: wall clock until the call returned; empty on the CPU, where that is the same.
        device_ms: CUDA events around the call; empty on the CPU.
    """

    wall_ms: list[float] = field(default_factory=list)
    enqueue_ms: list[float] = field(default_factory=list)
    device_ms: list[float] = field(default_factory=list)

    def latency(self) -> Latency:
        """The figures that comparisons need."""
        # Deciles need two values.
        deciles = statistics.quantiles(self.wall_ms, n=10) if len(self.wall_ms) > 1 else self.wall_ms
        median, least, most = statistics.median(self.wall_ms), min(self.wall_ms), max(self.wall_ms)
        # Between the values that were seen: few calls do not say how far beyond these others are.
        percentiles = statistics.quantiles(self.wall_ms, n=100, method="inclusive") if least < most else [least] * 99
        return Latency(
            median_ms=median,
            p10_ms=deciles[0],
            p90_ms=deciles[-1],
            device_ms=statistics.median(self.device_ms) if self.device_ms else None,
            runs=len(self.wall_ms),
            quantiles={
                "min_ms": least,
                "p5_ms": percentiles[4],
                "p10_ms": percentiles[9],
                "p25_ms": percentiles[24],
                "median_ms": median,
                "p75_ms": percentiles[74],
                "p90_ms": percentiles[89],
                "p95_ms": percentiles[94],
                "p99_ms": percentiles[98],
                "max_ms": most,
            },
        )


class _Clock:
    """Times single calls on a device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._on_gpu = device.type == "cuda"

    def wait(self) -> None:
        """Returns when the device has nothing left to do."""
        if self._on_gpu:
            torch.cuda.synchronize(self._device)

    def time(self, call: Callable[[], object], times: CallTimes) -> None:
        """Adds one call's times; the device must be idle."""
        if self._on_gpu:
            stream = torch.cuda.current_stream(self._device)
            start_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start_event.record(stream)
        start = time.perf_counter()
        call()
        if self._on_gpu:
            returned = time.perf_counter()
            end_event.record(stream)
            self.wait()
            times.enqueue_ms.append((returned - start) * 1000)
            times.device_ms.append(start_event.elapsed_time(end_event))
        times.wall_ms.append((time.perf_counter() - start) * 1000)


def _fit(
    calls: Mapping[str, Callable[[], object]], clock: _Clock, warmup: int, runs: int, max_seconds: float
) -> tuple[int, int]:
    """How many warm-up and timed calls of each fit into a time, after the ones made here to find out."""
    started = time.perf_counter()
    seconds_a_turn = 0.0
    for call in calls.values():
        times = CallTimes()
        clock.wait()
        for _ in range(_ESTIMATE_RUNS):
            clock.time(call, times)
            if time.perf_counter() - started > max_seconds / 2:
                break
        seconds_a_turn += min(times.wall_ms) / 1000
    left = max(0.0, max_seconds - (time.perf_counter() - started))
    wanted = seconds_a_turn * (warmup + runs)
    if wanted <= left:
        return max(0, warmup - _ESTIMATE_RUNS), runs
    share = left / wanted
    return math.floor(warmup * share), max(min(MIN_RUNS, runs), math.floor(runs * share))
