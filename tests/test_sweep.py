"""The sweep over architectures: processes that optimize one model after the other."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import sweep

#: Does what a name says, in a process's place.
PROGRAM = """
import json, os, sys, time
for number, line in enumerate(sys.stdin):
    name = line.strip()
    if name == "slow":
        time.sleep(60)
    if name == "crash":
        print("it was the model", file=sys.stderr)
        os._exit(3)
    status = "failed" if name == "refused" else "optimized"
    print(json.dumps({"status": status, "process": os.getpid(), "number": number}), flush=True)
"""


def options(**changes: object) -> argparse.Namespace:
    given = {"jobs": 1, "device": "cpu", "max_seconds": 0.2, "limit": 60.0, "cache": None, "builder_level": None}
    return argparse.Namespace(**given | changes)


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sweep._Worker]:
    monkeypatch.setattr(sweep._Worker, "_command", lambda _: [sys.executable, "-c", PROGRAM])
    with contextlib.closing(sweep._Worker(0, tmp_path, options(limit=5.0))) as made:
        yield made


def test_a_process_goes_on_while_all_is_well(worker: sweep._Worker) -> None:
    first, second = worker.optimize("a"), worker.optimize("b")
    assert (first["number"], second["number"]) == (0, 1)
    assert first["process"] == second["process"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("crash", "ended with status 3: it was the model"), ("slow", "took longer than 5 s"), ("refused", None)],
)
def test_after_a_failure_another_process_goes_on(worker: sweep._Worker, name: str, reason: str | None) -> None:
    before = worker.optimize("a")
    failed = worker.optimize(name)
    assert failed["status"] == "failed"
    assert failed.get("reason") == reason
    after = worker.optimize("b")
    assert (after["status"], after["number"]) == ("optimized", 0)
    assert after["process"] != before["process"]


def test_models_are_optimized(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("torchvision")
    with contextlib.closing(sweep._Worker(0, tmp_path, options(limit=300.0))) as worker:
        unknown = worker.optimize("torchvision:none")
        assert unknown["status"] == "failed"
        assert unknown["reason"].startswith("ValueError: name must be one of benchmarks.zoo.names()")
        found = worker.optimize("torchvision:squeezenet1_1")
    assert found["status"] in ("optimized", "unchanged")
    assert found["operators_total"] > 50
    assert found["seconds"] > 0
    if found["status"] == "optimized":
        assert (found["engines"], found["compute"]) == (1, 1.0)
        assert found["relative_error"] < 0.05
