"""Thousands of damaged states and files: each is refused in words, or what comes out answers as it did before.

``tests/state_fuzz.py`` has the damage. It runs in processes of its own, so that a crash is a failed test that names the
case; ``python -m tests.state_fuzz KIND CASE 1 /dev/null`` runs that case alone.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("openvino")

from tests.fresh_process import ROOT

_SECONDS = 300

#: One process of each row: what is damaged, the first case, how many, and how many must at least be refused, as nearly
#: all damage must; what is left hit nothing that counts.
_PLAN = [
    ("states", 0, 3000, 0.85),
    ("states", 3000, 3000, 0.85),
    ("resaved", 0, 2000, 0.7),
    ("resaved", 2000, 2000, 0.7),
    ("files", 0, 2000, 0.7),
    ("files", 2000, 2000, 0.7),
]

#: A process with torch, OpenVINO and one small engine takes about 550; sizes that a damaged state announces take more.
_MAX_PEAK_MIB = 900


@dataclass(frozen=True)
class _Result:
    kind: str
    refused: int
    right: int
    peak_mib: int


def _run(kind: str, first: int, count: int, progress: Path) -> _Result:
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.state_fuzz", kind, str(first), str(count)]
    done = subprocess.run(
        [*command, str(progress)],
        cwd=ROOT,
        # States of TensorRT engines are read where there is no GPU, so that their plans are never tried.
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=_SECONDS,
    )
    case = progress.read_text().strip() if progress.exists() else "none"
    assert done.returncode == 0, f"{kind}, case {case}: exit {done.returncode}\n{done.stdout}\n{done.stderr[-6000:]}"
    said = json.loads(done.stdout.splitlines()[-1])
    return _Result(kind, said["outcomes"].get("refused", 0), said["outcomes"].get("right", 0), said["peak_mib"])


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[_Result]:
    folder = tmp_path_factory.mktemp("fuzz")
    with concurrent.futures.ThreadPoolExecutor(max(2, (os.cpu_count() or 2) // 2)) as pool:
        jobs = [pool.submit(_run, kind, first, count, folder / f"{kind}-{first}") for kind, first, count, _ in _PLAN]
        return [job.result() for job in jobs]


def test_ten_thousand_cases_are_refused_or_right(results: list[_Result]) -> None:
    for result, (kind, _, count, share) in zip(results, _PLAN, strict=True):
        assert result.refused + result.right == count
        assert result.refused > share * count, result
        # Some damage hits nothing that counts: that the cases can pass shows that the rest is looked at.
        assert result.right > 0, kind
    assert sum(result.refused + result.right for result in results) >= 10_000


def test_announced_sizes_take_no_memory(results: list[_Result]) -> None:
    for result in results:
        assert result.peak_mib < _MAX_PEAK_MIB, result


def test_a_crash_names_its_case(tmp_path: Path) -> None:
    progress = tmp_path / "progress"
    progress.write_text("         123")
    with pytest.raises(AssertionError, match="nonsense, case 123: exit 1"):
        _run("nonsense", 0, 1, progress)
