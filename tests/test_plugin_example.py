"""The template for a plugin library of one's own builds outside this repository and checks its fields; needs no GPU."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fresh_process import ROOT

EXAMPLE = ROOT / "examples" / "plugin"


def _find_nvcc() -> str | None:
    """As the example's CMakeLists.txt looks for it."""
    named = [os.environ.get("CUDACXX")]
    named += [f"{os.environ[name]}/bin/nvcc" for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    named += [str(path) for folder in folders for path in sorted(folder.glob("cu[0-9]*/bin/nvcc"))]
    found = (shutil.which(name) for name in (*named, "nvcc", "/usr/local/cuda/bin/nvcc") if name)
    return next((path for path in found if path), None)


def _run(*command: str | Path) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    result = subprocess.run(
        [str(part) for part in command], env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result.stdout + result.stderr


def build_example(folder: Path, architectures: str) -> Path:
    """Builds a copy of the example for GPUs of some architectures, as CMake spells them, and returns the library."""
    if _find_nvcc() is None:
        pytest.skip("nvcc is missing; pip install nvidia-cuda-nvcc")
    # A copy: nothing of the repository around it may be needed.
    source, build = folder / "source", folder / "build"
    shutil.copytree(EXAMPLE, source)
    _run(
        "cmake",
        *("-G", "Ninja", "-S", source, "-B", build),
        f"-DCMAKE_CUDA_ARCHITECTURES={architectures}",
        f"-DPython_EXECUTABLE={sys.executable}",
        "-DCMAKE_CXX_FLAGS=-Werror",
    )
    _run("cmake", "--build", build)
    return build / "libbeta_swish.so"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_example(tmp_path_factory.mktemp("plugin"), "90-real")


def test_example_exports_its_creators(library: Path) -> None:
    opened = ctypes.CDLL(str(library))
    count = ctypes.c_int32()
    opened.getCreators.restype = ctypes.c_void_p
    assert opened.getCreators(ctypes.byref(count)) is not None
    assert count.value == 1
    assert hasattr(opened, "setLoggerFinder")


def test_example_checks_its_fields(library: Path) -> None:
    words = _run("ctest", "--test-dir", library.parent, "--verbose")
    assert "100% tests passed" in words
    assert "field 'beta' must be finite, got inf" in words
    assert "field 'gamma' is not one of 'beta'" in words
