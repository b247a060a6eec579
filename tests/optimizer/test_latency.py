"""Timing: how many calls are made, in which order, and that slower is slower. No test relies on exact times."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
import torch

from benchmarks import timing
from torch_trt_ext.optimizer.latency import (
    MIN_RUNS,
    CallTimes,
    Latency,
    calls_per_second,
    compare_latency,
    measure,
    time_calls,
)

SHORT_S = 0.002
LONG_S = 5 * SHORT_S


def _recorder(log: list[str], name: str) -> Callable[[], None]:
    return lambda: log.append(name)


def test_measure_makes_the_calls_it_says() -> None:
    log: list[str] = []
    latency = measure(_recorder(log, "a"), device="cpu", warmup=4, runs=6)
    assert len(log) == 4 + 6
    assert latency.runs == 6
    assert latency.device_ms is None
    assert 0 < latency.p10_ms <= latency.median_ms <= latency.p90_ms


def test_one_run_is_enough() -> None:
    latency = measure(lambda: None, device="cpu", warmup=0, runs=1)
    assert latency.p10_ms == latency.median_ms == latency.p90_ms


def test_slower_call_measures_slower() -> None:
    measured = compare_latency(
        {"slow": lambda: time.sleep(LONG_S), "fast": lambda: time.sleep(SHORT_S)},
        device="cpu",
        warmup=1,
        runs=8,
        rounds=4,
    )
    assert list(measured) == ["slow", "fast"]
    assert measured["fast"].median_ms < measured["slow"].median_ms


def test_rounds_alternate_and_share_the_runs() -> None:
    log: list[str] = []
    calls = {name: _recorder(log, name) for name in "ab"}
    measured = compare_latency(calls, device="cpu", warmup=2, runs=5, rounds=2)
    # Warm-up; then blocks of 3 and 2 timed calls, one more before each, the second round backwards.
    assert "".join(log) == "aabb" + "aaaa" + "bbbb" + "bbb" + "aaa"
    assert {name: latency.runs for name, latency in measured.items()} == {"a": 5, "b": 5}


def test_times_of_every_call() -> None:
    times = time_calls({"a": lambda: None, "b": lambda: time.sleep(SHORT_S)}, device="cpu", warmup=1, runs=7)
    assert {name: len(measured.wall_ms) for name, measured in times.items()} == {"a": 7, "b": 7}
    assert min(times["b"].wall_ms) >= SHORT_S * 1000
    assert times["a"].enqueue_ms == times["a"].device_ms == []


def test_throughput() -> None:
    log: list[str] = []

    def call() -> None:
        log.append("a")
        time.sleep(SHORT_S)

    assert 0 < calls_per_second(call, device="cpu", runs=5) <= 1 / SHORT_S
    assert len(log) == 5


def test_more_rounds_than_runs() -> None:
    measured = compare_latency({"a": lambda: None}, device="cpu", warmup=0, runs=3, rounds=50)
    assert measured["a"].runs == 3


def test_no_gradients_while_timing() -> None:
    modes: list[tuple[bool, bool]] = []
    call = lambda: modes.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))  # noqa: E731
    measure(call, device="cpu", warmup=1, runs=2)
    assert set(modes) == {(False, False)}


def test_time_limit_cuts_the_runs() -> None:
    started = time.perf_counter()
    latency = measure(lambda: time.sleep(SHORT_S), device="cpu", warmup=10_000, runs=20_000, max_seconds=0.2)
    # Without the limit it takes a minute.
    assert time.perf_counter() - started < 30
    assert MIN_RUNS <= latency.runs < 200


def test_time_limit_leaves_a_few_runs_of_a_slow_call() -> None:
    latency = measure(lambda: time.sleep(LONG_S), device="cpu", warmup=100, runs=200, max_seconds=SHORT_S)
    assert latency.runs == MIN_RUNS


def test_time_limit_that_is_not_reached_changes_nothing() -> None:
    log: list[str] = []
    latency = measure(_recorder(log, "a"), device="cpu", warmup=10, runs=20, max_seconds=600)
    assert latency.runs == 20
    assert len(log) == 10 + 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"runs": 0}, "runs must be at least 1, got 0"),
        ({"warmup": -1}, "warmup must be at least 0, got -1"),
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"max_seconds": 0.0}, "max_seconds must be more than 0"),
    ],
)
def test_numbers_out_of_range_fail(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare_latency({"a": lambda: None}, device="cpu", **arguments)  # type: ignore[arg-type]


def test_latency_goes_into_json_in_microseconds() -> None:
    latency = Latency(median_ms=1.23456, p10_ms=1.0, p90_ms=2.0, device_ms=None, runs=3)
    assert json.loads(json.dumps(latency.as_dict())) == {
        "median_ms": 1.235,
        "p10_ms": 1.0,
        "p90_ms": 2.0,
        "device_ms": None,
        "runs": 3,
    }


def test_benchmarks_measure_with_the_same_loop() -> None:
    assert timing.measure is measure
    assert timing.Latency is Latency
    assert (timing.WARMUP_RUNS, timing.TIMED_RUNS) == (100, 200)


def test_distribution() -> None:
    latency = CallTimes(wall_ms=[float(milliseconds) for milliseconds in range(101, 0, -1)]).latency()
    spread = latency.distribution()
    assert [spread[key] for key in ("min_ms", "p5_ms", "p25_ms", "median_ms", "p99_ms", "max_ms", "runs")] == [
        *(1.0, 6.0, 26.0, 51.0, 100.0, 101.0),
        101,
    ]
    assert list(latency.as_dict()) == ["median_ms", "p10_ms", "p90_ms", "device_ms", "runs"]
    once = CallTimes(wall_ms=[2.5]).latency().distribution()
    assert {value for key, value in once.items() if key.endswith("_ms") and key != "device_ms"} == {2.5}
