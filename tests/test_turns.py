"""Programs that share a GPU: while one takes a time, the others stand still."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.turns import FIRST_CALLS, take_turns, wake
from torch_trt_ext.optimizer import latency

BUSY = """
import sys, time
from pathlib import Path
from benchmarks.turns import take_turns
with take_turns(Path(sys.argv[1])):
    print("busy", flush=True)
    while True:
        time.sleep(0.01)
"""

TIMING = """
import sys, time
from pathlib import Path
from benchmarks.turns import FIRST_CALLS, take_turns
from torch_trt_ext.optimizer import latency
calls = []
def call():
    calls.append(1)
    if len(calls) > FIRST_CALLS:
        print("timing", flush=True)
        time.sleep(60)
with take_turns(Path(sys.argv[1])):
    latency.measure(call, device="cpu", warmup=0, runs=1)
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    started = []

    def run(program: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", program, str(tmp_path)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout is not None
        assert started[-1].stdout.readline()
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def _is_stopped(process: subprocess.Popen[str]) -> bool:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def _comes_true(fact: Callable[[], bool]) -> bool:
    for _ in range(500):
        if fact():
            return True
        time.sleep(0.02)
    return False


def test_others_stand_still_while_a_time_is_taken(
    tmp_path: Path, start: Callable[[str], subprocess.Popen[str]]
) -> None:
    other = start(BUSY)
    stopped = []
    with take_turns(tmp_path):
        measured = latency.compare_latency(
            {"call": lambda: stopped.append(_is_stopped(other))}, device="cpu", warmup=1, runs=3
        )
    # What is compiled first keeps nobody waiting.
    assert stopped[:FIRST_CALLS] == [False] * FIRST_CALLS
    assert set(stopped[FIRST_CALLS:]) == {True}
    assert measured["call"].runs == 3
    assert _comes_true(lambda: not _is_stopped(other))
    # Outside of it nobody is stopped.
    stopped.clear()
    latency.measure(lambda: stopped.append(_is_stopped(other)), device="cpu", warmup=0, runs=1)
    assert set(stopped) == {False}


def test_others_go_on_when_the_timing_one_is_killed(
    tmp_path: Path, start: Callable[[str], subprocess.Popen[str]]
) -> None:
    other, timing = start(BUSY), start(TIMING)
    assert _comes_true(lambda: _is_stopped(other))
    wake(tmp_path)
    assert _is_stopped(other)
    timing.kill()
    timing.wait()
    wake(tmp_path)
    assert _comes_true(lambda: not _is_stopped(other))
    assert [entry.stem for entry in tmp_path.glob("*.pid")] == [str(other.pid)]
