"""Builds the native libraries with CMake and ninja and puts them into the package."""

from __future__ import annotations

import importlib.metadata
import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCE_FOLDER = Path(__file__).parent.resolve()

#: What the installed package has beside _C: libraries without Python, their header, their CMake package.
NATIVE_FOLDERS = ("lib", "include", "share")


class CMakeBuild(build_ext):
    """Configures, builds and installs the CMake project.

    Environment: ``TORCH_CUDA_ARCH_LIST`` (torch's spelling), ``CUDA_HOME``, ``TENSORRT_ROOT``, ``MAX_JOBS``, and
    ``TORCH_TRT_EXT_CMAKE_ARGS`` for more arguments to CMake. ``TORCH_TRT_EXT_BUILT_PACKAGE`` names a folder
    ``torch_trt_ext`` that was built from the same sources for the same torch: what knows no Python is taken from there,
    and ``_C`` too if it has the one for this Python.
    """

    def run(self) -> None:
        package_folder = (SOURCE_FOLDER if self.inplace else Path(self.build_lib).resolve()) / "torch_trt_ext"
        built = os.environ.get("TORCH_TRT_EXT_BUILT_PACKAGE")
        if not built:
            self._cmake(package_folder)
            return
        for name in NATIVE_FOLDERS:
            shutil.copytree(Path(built) / name, package_folder / name, dirs_exist_ok=True)
        extension = f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
        if (Path(built) / extension).exists():
            shutil.copy2(Path(built) / extension, package_folder / extension)
        else:
            self._cmake(package_folder, extension)

    def _cmake(self, package_folder: Path, extension: str = "") -> None:
        """Builds and installs all, or only the one library that needs Python."""
        build_folder = Path(self.build_temp).resolve() / "cmake"
        configure = ["cmake", "-G", "Ninja", "-S", str(SOURCE_FOLDER), "-B", str(build_folder)]
        configure += [f"-DPython_EXECUTABLE={sys.executable}", "-DCMAKE_BUILD_TYPE=Release"]
        configure += os.environ.get("TORCH_TRT_EXT_CMAKE_ARGS", "").split()
        build = ["cmake", "--build", str(build_folder)]
        if "MAX_JOBS" in os.environ:
            build += ["--parallel", os.environ["MAX_JOBS"]]
        if extension:
            configure += ["-DTORCH_TRT_EXT_CUDA=OFF", "-DTORCH_TRT_EXT_OPENVINO=OFF", "-DTORCH_TRT_EXT_PYTHON=ON"]
            configure += ["-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON"]
            self._run(configure, [*build, "--target", "torch_trt_ext_passes"])
            shutil.copy2(build_folder / "lib" / extension, package_folder / extension)
        else:
            self._run(configure, build, ["cmake", "--install", str(build_folder), "--prefix", str(package_folder)])

    @staticmethod
    def _run(*commands: list[str]) -> None:
        # cmake and ninja are next to the interpreter when they came with pip.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        for command in commands:
            subprocess.run(command, check=True, env={**os.environ, "PATH": path})

    def get_outputs(self) -> list[str]:
        return []

    def get_output_mapping(self) -> dict[str, str]:
        return {}


def version_and_torch() -> tuple[str, str]:
    """The version, and the torch that is needed.

    torch's C++ interface changes with each minor version, so what is built goes with one, and says so in its version:
    0.1.0+torch2.11. The source archive goes with all.
    """
    version: str = runpy.run_path(str(SOURCE_FOLDER / "torch_trt_ext" / "version.py"))["__version__"]
    if not {"bdist_wheel", "dist_info", "editable_wheel"} & set(sys.argv):
        return version, "torch>=2.9"
    try:
        major, minor = map(int, importlib.metadata.version("torch").split(".")[:2])
    except importlib.metadata.PackageNotFoundError as error:
        raise SystemExit(
            "error: building torch_trt_ext needs the torch that it shall run with, found none; pip install torch, or "
            "leave out --no-build-isolation"
        ) from error
    return f"{version}+torch{major}.{minor}", f"torch>={major}.{minor},<{major}.{minor + 1}"


VERSION, TORCH = version_and_torch()
setup(
    version=VERSION,
    install_requires=[TORCH, "numpy", "onnx", "tqdm"],
    ext_modules=[Extension("torch_trt_ext.lib", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
