"""A C++ program finds the installed CMake package, loads a saved model without Python, and runs it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch

from tests.cmake_program import build_program
from tests.fresh_process import ROOT
from tests.openvino_models import EngineModule, affine_engine


#: The second is what some toolchains do unasked; torch has a libstdc++ of its own.
@pytest.fixture(scope="module", params=["", "-static-libstdc++"])
def program(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    folder = tmp_path_factory.mktemp("cpp")
    return build_program(ROOT / "tests" / "cpp_program", folder, flags=request.param) / "run_model"


def _run(program: Path, model: Path, rows: int, columns: int) -> subprocess.CompletedProcess[str]:
    import openvino

    # OpenVINO's own libraries are found as any program's are.
    libraries = Path(openvino.__file__).parent / "libs"
    environment = {**os.environ, "LD_LIBRARY_PATH": f"{libraries}:{os.environ.get('LD_LIBRARY_PATH', '')}"}
    return subprocess.run(
        [str(program), str(model), str(rows), str(columns)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.pt"
    engine = affine_engine()
    torch.jit.save(torch.jit.script(EngineModule(engine)), str(path))
    return path


def test_program_runs_a_saved_model(program: Path, model: Path) -> None:
    result = _run(program, model, 4, 3)
    assert result.returncode == 0, result.stderr
    # 2 * 1 + 1 for each of 12 elements.
    assert float(result.stdout) == 36


def test_program_gets_errors_as_exceptions(program: Path, model: Path) -> None:
    result = _run(program, model, 9, 3)
    assert result.returncode == 1
    assert "input 'x' must have a shape in [1..8, 3], got [9, 3]" in result.stderr
