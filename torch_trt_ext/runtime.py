"""What a program needs to load and run models that hold engines: importing this registers the engine classes.

After the import, ``torch.jit.load`` knows ``torch.classes.torch_trt_ext.TRTEngineExtension``,
``torch.classes.torch_trt_ext.OpenVINOEngineExtension`` and ``torch.classes.torch_addons.TRTEngineExtension``.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib.util
import logging
import os
from pathlib import Path
from typing import Literal

import torch

__all__ = [
    "available_backends",
    "library_path",
    "load_plugin_library",
    "load_plugins",
    "package_folder",
    "set_log_level",
]

Library = Literal["runtime", "openvino", "plugins"]

_FILE_NAMES: dict[Library, str] = {
    "runtime": "libtorch_trt_ext.so",
    "openvino": "libtorch_trt_ext_openvino.so",
    "plugins": "libtorch_trt_ext_plugins.so",
}


def library_path(library: Library) -> Path:
    """Path of one of the package's native libraries, whether it was built or not.

    ``TORCH_TRT_EXT_LIBRARY_DIR`` names another folder than the package's own.
    """
    folder = os.environ.get("TORCH_TRT_EXT_LIBRARY_DIR")
    return (Path(folder) if folder else Path(__file__).parent / "lib") / _FILE_NAMES[library]


def package_folder(name: str) -> Path | None:
    """Folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _load_runtime() -> ctypes.CDLL:
    path = library_path("runtime")
    if not path.exists():
        raise ImportError(
            f"torch_trt_ext needs its native library, found none at {path}; build it with "
            "'pip install --no-build-isolation -e .' in the source folder"
        )
    try:
        torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise ImportError(
            f"torch_trt_ext's native library {path} could not be loaded: {error}. Likely causes: it was built against "
            f"another torch than {torch.__version__} (build it again), or a library it needs is missing"
        ) from error


def _load_openvino() -> str:
    """Loads the CPU engine; returns why that failed, or an empty string."""
    path = library_path("openvino")
    if not path.exists():
        return f"{path} was not built, since OpenVINO was missing then; pip install openvino and build again"
    folder = package_folder("openvino")
    try:
        # The loader finds what our library needs by name among the libraries that are loaded already.
        for library in sorted((folder / "libs").glob("libopenvino.so.*")) if folder else []:
            ctypes.CDLL(str(library))
        torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
    except OSError as error:
        return f"{path} could not be loaded: {error}; pip install the openvino it was built with"
    return ""


_runtime_library = _load_runtime()
_runtime_library.torch_trt_ext_open_plugin_library.argtypes = [ctypes.c_char_p]
_runtime_library.torch_trt_ext_open_plugin_library.restype = ctypes.c_char_p
_runtime_library.torch_trt_ext_missing_runtime.argtypes = [ctypes.c_char_p]
_runtime_library.torch_trt_ext_missing_runtime.restype = ctypes.c_char_p
_runtime_library.torch_trt_ext_add_library_folder.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
_runtime_library.torch_trt_ext_add_library_folder.restype = None
_LogFunction = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p)
_runtime_library.torch_trt_ext_set_log.argtypes = [ctypes.c_void_p, ctypes.c_int]
_runtime_library.torch_trt_ext_set_log.restype = None


def _log(level: int, source: bytes, message: bytes) -> None:
    logging.getLogger(f"torch_trt_ext.{source.decode()}").log(level, "%s", message.decode(errors="replace"))


_log_function = _LogFunction(_log)


def set_log_level(level: int | str) -> None:
    """Says from which level on messages of the engine libraries are made and given to Python's ``logging``.

    Their loggers are below ``torch_trt_ext``, as ``torch_trt_ext.tensorrt``. Less important messages are dropped where
    they arise, unformatted, whatever level the loggers have. At import the level is that of the logger
    ``torch_trt_ext``.

    Args:
        level: a level of ``logging``, ``logging.INFO`` or ``"INFO"``.

    Raises:
        ValueError: there is no such level.
    """
    number = logging.getLevelName(level) if isinstance(level, str) else level
    if not isinstance(number, int):
        raise ValueError(f"level must be one of logging's, such as 'WARNING' or logging.WARNING, got {level!r}")
    _runtime_library.torch_trt_ext_set_log(ctypes.cast(_log_function, ctypes.c_void_p), number)


# No message may come to an interpreter that is gone.
atexit.register(_runtime_library.torch_trt_ext_set_log, None, logging.ERROR)
set_log_level(logging.getLogger("torch_trt_ext").getEffectiveLevel())
_tensorrt_folder = package_folder("tensorrt_libs")
if _tensorrt_folder:
    _runtime_library.torch_trt_ext_add_library_folder(b"tensorrt", os.fsencode(_tensorrt_folder))
_openvino_failure = _load_openvino()


def available_backends() -> dict[str, str]:
    """Says for each kind of engine whether it can run here.

    Returns:
        ``{"tensorrt": "", "openvino": ""}`` where an empty string means yes, and any other is the reason why not.
    """

    def missing(kind: str) -> str:
        reason: bytes | None = _runtime_library.torch_trt_ext_missing_runtime(kind.encode())
        return reason.decode() if reason else ""

    return {"tensorrt": missing("tensorrt"), "openvino": _openvino_failure or missing("openvino")}


def load_plugin_library(path: str | os.PathLike[str]) -> None:
    """Opens a library of TensorRT plugins and registers them.

    Engines made from then on remember the library's file name; a process that loads them looks for that name among the
    libraries it opened and in the folders of ``TORCH_TRT_EXT_PLUGIN_PATH`` (colon-separated), and nowhere else.

    Args:
        path: the shared library. It registers its plugins when it is opened, or exports ``getCreators``.

    Raises:
        RuntimeError: the library cannot be opened, or TensorRT is missing.
    """
    error = _runtime_library.torch_trt_ext_open_plugin_library(os.fsencode(path))
    if error:
        raise RuntimeError(error.decode())


def load_plugins() -> Path:
    """Registers the package's own plugins with the TensorRT of this process, and returns their library's path.

    Engines need no such call: the runtime registers them before it reads the first plan. Building a network does.

    Raises:
        RuntimeError: the plugin library was not built, or could not be opened.
    """
    path = library_path("plugins")
    if not path.exists():
        raise RuntimeError(
            f"TensorRT plugins need {path}, which was not built, since torch has no CUDA or nvcc was missing then; "
            "pip install nvidia-cuda-nvcc (see constraints.txt) and build again"
        )
    try:
        ctypes.CDLL(str(path))
    except OSError as error:
        raise RuntimeError(f"plugin library {path} could not be opened: {error}") from error
    return path
