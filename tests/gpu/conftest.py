"""Tests of this folder need a GPU with TensorRT. They skip without; under TORCH_TRT_EXT_REQUIRE_GPU=1 they fail.

With TORCH_TRT_EXT_RESULTS=file they write what passed, with the GPU and the versions, as JSON.
"""

from __future__ import annotations

import functools
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.timing import environment
from torch_trt_ext.builders.tensorrt_build import keep_builders, missing_for_building

_FOLDER = Path(__file__).parent
_outcomes: Counter[str] = Counter()
#: Why these tests cannot run, or an empty string; looked for once.
_missing = functools.cache(missing_for_building)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("TORCH_TRT_EXT_REQUIRE_GPU") == "1":
        return
    for item in items:
        if _FOLDER in item.path.parents and _missing():
            item.add_marker(pytest.mark.skip(reason=_missing()))


@pytest.fixture(autouse=True, scope="session")
def _gpu_is_there() -> None:
    if _missing():
        pytest.fail(f"TORCH_TRT_EXT_REQUIRE_GPU=1, but {_missing()}")


@pytest.fixture(autouse=True, scope="session")
def _one_builder() -> Iterator[None]:
    """To make one takes as long as many a test."""
    with keep_builders():
        yield


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or (report.when == "setup" and not report.passed):
        _outcomes[report.outcome] += 1


def pytest_sessionfinish() -> None:
    path = os.environ.get("TORCH_TRT_EXT_RESULTS")
    if path:
        results = {"command": "make test-gpu", "outcomes": dict(_outcomes), "environment": environment()}
        Path(path).write_text(json.dumps(results, indent=2) + "\n")
