"""The sweep over architectures: processes that optimize one model after the other."""

from __future__ import annotations

import argparse
import contextlib
import json
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
        os.write(2, b"it was \\xff the model\\n")
        os._exit(3)
    if name == "silent crash":
        os._exit(3)
    status = "failed" if name == "refused" else "optimized"
    print("a remark", file=sys.stderr, flush=True)
    print(json.dumps({"status": status, "process": os.getpid(), "number": number}), flush=True)
    if name == "crash afterwards":
        os._exit(3)
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
    [
        ("crash", "ended with status 3: it was \ufffd the model"),
        ("silent crash", "ended with status 3: nothing on stderr"),
        ("slow", "took longer than 5 s"),
        ("refused", None),
    ],
)
def test_after_a_failure_another_process_goes_on(worker: sweep._Worker, name: str, reason: str | None) -> None:
    before = worker.optimize("a")
    failed = worker.optimize(name)
    assert failed["status"] == "failed"
    assert failed.get("reason") == reason
    after = worker.optimize("b")
    assert (after["status"], after["number"]) == ("optimized", 0)
    assert after["process"] != before["process"]


def test_a_crash_after_the_answer_costs_the_next_model_nothing(worker: sweep._Worker) -> None:
    assert worker.optimize("crash afterwards")["status"] == "optimized"
    assert worker._process is not None
    worker._process.wait()
    assert worker.optimize("b")["number"] == 0


def test_table_says_which_models_are_of_another_commit(tmp_path: Path) -> None:
    model = {
        **{"status": "optimized", "engines": 1, "precisions": ["float16"], "compute": 1.0, "relative_error": 1e-3},
        **{"speedup": 2.0, "reasons": []},
    }
    environment = {"gpu": "a GPU", "cpu": "a CPU", "commit": "1234567890"}
    results = {"command": "sweep", "device": "gpu", "environment": environment}
    path = tmp_path / "results.json"
    path.write_text(json.dumps({**results, "models": {"a": model, "b": {**model, "engines": 4}}}))
    text = sweep.table([path])
    assert "## a GPU" in text
    assert "1 of 2 models have at most 3 engines with at least 98 % of the compute. `sweep`, commit 1234567." in text
    path.write_text(json.dumps({**results, "models": {"a": model, "b": {**model, "commit": "abcdefghij"}}}))
    assert "commits 1234567 for 1, abcdefg for 1." in sweep.table([path])


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
