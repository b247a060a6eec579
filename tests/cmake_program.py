"""A C++ program built against the package in this folder, as its users build theirs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from tests.fresh_process import ROOT


def build_program(source: Path, folder: Path, *, flags: str = "") -> Path:
    """Builds the CMake project in ``source`` with all warnings as errors; returns ``folder``, where it was built."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    configure = ["cmake", "-G", "Ninja", "-S", str(source), "-B", str(folder)]
    configure += [
        f"-DCMAKE_PREFIX_PATH={ROOT / 'torch_trt_ext'}",
        f"-DTORCH_ROOT={Path(torch.__file__).parent}",
        f"-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror {flags}",
    ]
    for command in (configure, ["cmake", "--build", str(folder)]):
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return folder
