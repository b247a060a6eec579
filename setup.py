"""Builds the native libraries with CMake and ninja and puts them into the package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCE_FOLDER = Path(__file__).parent.resolve()


class CMakeBuild(build_ext):
    """Configures, builds and installs the CMake project.

    Environment: ``TORCH_CUDA_ARCH_LIST`` (torch's spelling), ``CUDA_HOME``, ``TENSORRT_ROOT``, ``MAX_JOBS``, and
    ``TORCH_TRT_EXT_CMAKE_ARGS`` for more arguments to CMake.
    """

    def run(self) -> None:
        build_folder = Path(self.build_temp).resolve() / "cmake"
        package_folder = (SOURCE_FOLDER if self.inplace else Path(self.build_lib).resolve()) / "torch_trt_ext"
        configure = ["cmake", "-G", "Ninja", "-S", str(SOURCE_FOLDER), "-B", str(build_folder)]
        configure += [f"-DPython_EXECUTABLE={sys.executable}", "-DCMAKE_BUILD_TYPE=Release"]
        configure += os.environ.get("TORCH_TRT_EXT_CMAKE_ARGS", "").split()
        build = ["cmake", "--build", str(build_folder)]
        if "MAX_JOBS" in os.environ:
            build += ["--parallel", os.environ["MAX_JOBS"]]
        install = ["cmake", "--install", str(build_folder), "--prefix", str(package_folder)]
        # cmake and ninja are next to the interpreter when they came with pip.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        for command in (configure, build, install):
            subprocess.run(command, check=True, env={**os.environ, "PATH": path})

    def get_outputs(self) -> list[str]:
        return []

    def get_output_mapping(self) -> dict[str, str]:
        return {}


setup(
    ext_modules=[Extension("torch_trt_ext.lib", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
