"""What engines need on this machine: what is there, where, in which version, and what mends what is missing."""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import os
import platform
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch

from torch_trt_ext import runtime
from torch_trt_ext.builders.openvino_model import OPENVINO_REQUIREMENT
from torch_trt_ext.builders.tensorrt_build import import_tensorrt
from torch_trt_ext.optimizer.messages import first_line
from torch_trt_ext.optimizer.quantization import INSTALL_ONNX_RUNTIME, missing_for_quantization
from torch_trt_ext.optimizer.report import DeviceType, device_name
from torch_trt_ext.version import __version__

__all__ = ["Check", "Health", "examine", "usual_device"]

#: The major version that the runtime was compiled for, which is part of the library's name.
_TENSORRT_LIBRARY = "libnvinfer.so.10"

_INSTALL_TENSORRT = "pip install 'tensorrt-cu12>=10,<11'"
_INSTALL_DRIVER = "sudo ubuntu-drivers install"
_BUILD_AGAIN = "pip install --no-build-isolation -e ."


@dataclass(frozen=True)
class Check:
    """One thing that engines may need.

    Attributes:
        name: what it is.
        found: its version or name; empty where it is missing.
        where: path of what was found; may be empty.
        problem: what is wrong with it; empty where nothing is.
        remedy: the command that mends it; empty where nothing is wrong.
        needed_for: kinds of device whose engines need it.
        purpose: what else needs it; empty where nothing does.
    """

    name: str
    found: str
    where: str = ""
    problem: str = ""
    remedy: str = ""
    needed_for: tuple[DeviceType, ...] = ("gpu", "cpu")
    purpose: str = ""


@dataclass(frozen=True)
class Health:
    """What :func:`examine` found.

    Attributes:
        device_type: "gpu" or "cpu", whose engines shall run here.
        checks: in an order in which they can be mended.
    """

    device_type: DeviceType
    checks: list[Check] = field(default_factory=list)

    @property
    def missing(self) -> list[Check]:
        """What engines for the device need and do not have."""
        return [check for check in self.checks if check.problem and self.device_type in check.needed_for]


def usual_device() -> DeviceType:
    """The kind of device that engines are for on this machine: "gpu" where torch finds one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return "gpu" if torch.cuda.is_available() else "cpu"


def examine(device_type: DeviceType | None = None) -> Health:
    """Looks for all that building and running engines needs.

    Args:
        device_type: whose engines shall run here; None is "gpu" where there is an NVIDIA GPU, else "cpu".
    """
    if device_type is None:
        has_gpu = usual_device() == "gpu" or any(Path("/proc/driver/nvidia/gpus").glob("*"))
        device_type = "gpu" if has_gpu else "cpu"
    return Health(
        device_type,
        [
            Check("Python", platform.python_version(), sys.executable),
            Check("processor", device_name("cpu")),
            _torch(device_type),
            Check("torch_trt_ext", __version__, str(runtime.library_path("runtime"))),
            _passes(),
            _driver(),
            _gpu(),
            _tensorrt_library(),
            _tensorrt_module(),
            _plugins(),
            *_plugin_folders(),
            _openvino(),
            _onnx_runtime(),
        ],
    )


def _torch(device_type: DeviceType) -> Check:
    found = f"{torch.__version__} ({f'CUDA {torch.version.cuda}' if torch.version.cuda else 'without CUDA'})"
    without_cuda = device_type == "gpu" and not torch.version.cuda
    return Check(
        "PyTorch",
        found,
        str(Path(torch.__file__).parent),
        "is a build without CUDA" if without_cuda else "",
        "pip install --force-reinstall torch" if without_cuda else "",
    )


def _passes() -> Check:
    try:
        module = importlib.import_module("torch_trt_ext._C")
    except ImportError as error:
        return Check("graph passes of optimize()", "", problem=f"not built: {first_line(error)}", remedy=_BUILD_AGAIN)
    return Check("graph passes of optimize()", "built", str(module.__file__))


def _driver() -> Check:
    try:
        library = ctypes.CDLL("libcuda.so.1")
        version = ctypes.c_int(0)
        library.cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError) as error:
        return Check(
            "NVIDIA driver",
            "",
            problem=f"not found ({first_line(error)}); a container gets it from its host, with docker run --gpus all",
            remedy=_INSTALL_DRIVER,
            needed_for=("gpu",),
        )
    version_text = _first_line_of(Path("/sys/module/nvidia/version"))
    found = f"{version_text} (CUDA up to {version.value // 1000}.{version.value % 1000 // 10})".strip()
    return Check("NVIDIA driver", found, _loaded_from("libcuda.so"), needed_for=("gpu",))


def _gpu() -> Check:
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        why = f": {str(raised[0].message).splitlines()[0]}" if raised else ""
        return Check("GPU", "", problem=f"torch finds none{why}", remedy=_INSTALL_DRIVER, needed_for=("gpu",))
    found = []
    for index in range(count):
        properties = torch.cuda.get_device_properties(index)
        memory = f"{properties.total_memory / 2**30:.0f} GiB"
        found.append(f"{properties.name} ({properties.major}.{properties.minor}, {memory})")
    return Check("GPU", ", ".join(found), needed_for=("gpu",))


def _tensorrt_library() -> Check:
    """Looks where the runtime looks, in its order."""
    tried = []
    for path in _tensorrt_paths():
        try:
            library = ctypes.CDLL(path)
            number: int = library.getInferLibVersion()
        except (OSError, AttributeError) as error:
            tried.append(first_line(error))
            continue
        found = f"{number // 10000}.{number // 100 % 100}.{number % 100}"
        return Check("TensorRT", found, _loaded_from(_TENSORRT_LIBRARY), needed_for=("gpu",))
    return Check(
        "TensorRT",
        "",
        problem=f"{_TENSORRT_LIBRARY} was not found (tried: {'; '.join(tried)})",
        remedy=_INSTALL_TENSORRT,
        needed_for=("gpu",),
    )


def _tensorrt_paths() -> list[str]:
    root = os.environ.get("TENSORRT_ROOT")
    folders = [Path(root) / "lib", Path(root) / "lib64", Path(root)] if root else []
    pip_folder = runtime.package_folder("tensorrt_libs")
    if pip_folder:
        folders.append(pip_folder)
    loaded = _loaded_from(_TENSORRT_LIBRARY)
    return [*([loaded] if loaded else []), *(str(folder / _TENSORRT_LIBRARY) for folder in folders), _TENSORRT_LIBRARY]


def _tensorrt_module() -> Check:
    name = "TensorRT's Python module"
    try:
        module = import_tensorrt()
    except RuntimeError as error:
        return Check(name, "", problem=first_line(error), remedy=_INSTALL_TENSORRT, needed_for=("gpu",))
    return Check(name, str(module.__version__), str(module.__file__), needed_for=("gpu",))


def _plugins() -> Check:
    path = runtime.library_path("plugins")
    if not path.exists():
        return Check(
            "TensorRT plugins",
            "",
            problem=f"{path} was not built, since torch has no CUDA or nvcc was missing then",
            remedy=_BUILD_AGAIN,
            needed_for=("gpu",),
        )
    return Check("TensorRT plugins", "built", str(path), needed_for=("gpu",))


def _plugin_folders() -> list[Check]:
    """The folders from which plugin libraries of saved engines may be opened."""
    checks = []
    for folder in filter(None, os.environ.get("TORCH_TRT_EXT_PLUGIN_PATH", "").split(":")):
        there = Path(folder).is_dir()
        libraries = sorted(path.name for path in Path(folder).glob("*.so*")) if there else []
        problem = "" if there else f"TORCH_TRT_EXT_PLUGIN_PATH names {folder}, which is no folder"
        remedy = "" if there else "unset TORCH_TRT_EXT_PLUGIN_PATH"
        found = ", ".join(libraries) or ("no libraries" if there else "")
        checks.append(Check("plugin folder", found, folder, problem, remedy, needed_for=()))
    return checks


def _openvino() -> Check:
    folder = runtime.package_folder("openvino")
    try:
        version = importlib.metadata.version("openvino")
    except importlib.metadata.PackageNotFoundError:
        version = ""
    # The library of this package tells more than OpenVINO's own being there: it was linked with one version of it.
    problem = runtime.available_backends()["openvino"]
    install = f"pip install {OPENVINO_REQUIREMENT}"
    built = runtime.library_path("openvino").exists()
    return Check(
        "OpenVINO",
        version,
        str(folder) if folder else "",
        problem,
        (install if built else f"{install} && {_BUILD_AGAIN}") if problem else "",
        needed_for=("cpu",),
    )


def _onnx_runtime() -> Check:
    problem = missing_for_quantization()
    folder = runtime.package_folder("onnxruntime")
    return Check(
        "ONNX Runtime",
        "" if problem else importlib.metadata.version("onnxruntime"),
        str(folder) if folder else "",
        problem,
        INSTALL_ONNX_RUNTIME if problem else "",
        needed_for=(),
        purpose="for 8-bit engines",
    )


def _first_line_of(path: Path) -> str:
    try:
        return path.read_text().strip().splitlines()[0]
    except (OSError, IndexError):
        return ""


def _loaded_from(name: str) -> str:
    """Path of a library that this process has loaded; empty where it has not."""
    for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
        path = line.partition("/")[1] + line.partition("/")[2]
        if Path(path).name.startswith(name):
            return path
    return ""
