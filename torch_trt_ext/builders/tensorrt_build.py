"""What every network that is built with TensorRT's Python module needs: the module, a logger, plugins, a build."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from torch_trt_ext.runtime import available_backends, load_plugins

#: Shapes of an input that a profile allows: smallest, the one to tune for, largest.
ShapeRange = tuple[Sequence[int], Sequence[int], Sequence[int]]

#: The range of every input.
Profile = Mapping[str, ShapeRange]


class TimingStore(Protocol):
    """Where timings of kernels outlive a build, so that the next one of similar layers is quicker."""

    def load(self) -> bytes:
        """The last saved bytes, empty when there are none."""

    def save(self, data: bytes) -> None:
        """Keeps ``data``."""


class PluginField(NamedTuple):
    """One attribute of a plugin, as TensorRT's ``PluginField`` takes it.

    Attributes:
        name: what the plugin calls it.
        data: its values, one-dimensional. A string is an int8 array of its bytes.
        type: name of the ``tensorrt.PluginFieldType``.
    """

    name: str
    data: NDArray[Any]
    type: Literal["INT32", "FLOAT32", "CHAR"]


def int_field(name: str, *values: int) -> PluginField:
    """A field of int32 numbers."""
    return PluginField(name, np.array(values, dtype=np.int32), "INT32")


def float_field(name: str, *values: float) -> PluginField:
    """A field of float32 numbers."""
    return PluginField(name, np.array(values, dtype=np.float32), "FLOAT32")


def string_field(name: str, value: str) -> PluginField:
    """A field of characters."""
    return PluginField(name, np.frombuffer(value.encode(), dtype=np.int8), "CHAR")


def import_tensorrt() -> Any:
    """The ``tensorrt`` module, or ``tensorrt_bindings``, the module that it wraps, where that is all there is.

    Raises:
        RuntimeError: neither can be imported.
    """
    failures = []
    for name in ("tensorrt", "tensorrt_bindings"):
        try:
            return importlib.import_module(name)
        except (ImportError, OSError) as error:
            failures.append(str(error))
    raise RuntimeError(
        "building a TensorRT engine needs the Python module 'tensorrt' (10 or newer), but importing it failed: "
        f"{'; '.join(failures)}. Install it (pip install tensorrt), and see that libnvinfer.so is where the dynamic "
        "linker looks (LD_LIBRARY_PATH)"
    )


def missing_for_building() -> str:
    """Why engines cannot be built in this process, or an empty string."""
    missing = available_backends()["tensorrt"]
    if missing:
        return missing
    try:
        import_tensorrt()
    except RuntimeError as error:
        return str(error)
    return ""


@functools.cache
def build_logger() -> Any:
    """The process's logger for builders: TensorRT's own, which writes warnings and errors to stderr.

    TensorRT keeps the first logger of a process for everything, engines that run included. One written in Python would
    be called in the middle of their calls, where taking the interpreter's lock, or a garbage collection that destroys
    another engine, is not expected.
    """
    trt = import_tensorrt()
    return trt.Logger(trt.Logger.WARNING)


@functools.cache
def _error_recorder() -> Any:
    """The process's error recorder for builders, whose ``last_error`` is TensorRT's last complaint."""
    trt: Any = import_tensorrt()

    class ErrorRecorder(trt.IErrorRecorder):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IErrorRecorder.__init__(self)
            self.errors: list[tuple[Any, str]] = []

        @property
        def last_error(self) -> str:
            return self.errors[-1][1] if self.errors else ""

        def num_errors(self) -> int:
            return len(self.errors)

        def get_error_code(self, index: int) -> Any:
            return self.errors[index][0]

        def get_error_desc(self, index: int) -> str:
            return self.errors[index][1]

        def has_overflowed(self) -> bool:
            return False

        def clear(self) -> None:
            self.errors.clear()

        def report_error(self, code: Any, description: str) -> bool:
            self.errors.append((code, description))
            return False

    return ErrorRecorder()


def _last_words() -> str:
    return _error_recorder().last_error or "nothing beyond what it wrote to stderr"


def _plugin_last_words(library: str | None) -> str:
    """Why a plugin of ``library`` could not be made. TensorRT's logger may be another than ours, so ask the library."""
    if library is not None:
        try:
            last_error = ctypes.CDLL(library).torch_trt_ext_plugins_last_error
        except (AttributeError, OSError):
            return _last_words()
        last_error.restype = ctypes.c_char_p
        words: bytes = last_error()
        return words.decode() or _last_words()
    return _last_words()


def register_standard_plugins() -> None:
    """Registers TensorRT's own plugins and the package's, as the runtime does before it reads its first plan.

    A library that is not there is passed over: only a network that needs it fails.

    Raises:
        RuntimeError: TensorRT's Python module is missing.
    """
    # TensorRT first: our plugins register themselves with the copy that is loaded.
    trt = import_tensorrt()
    with contextlib.suppress(RuntimeError):
        trt.init_libnvinfer_plugins(build_logger(), "")
    with contextlib.suppress(RuntimeError):
        load_plugins()


def create_plugin(name: str, fields: Sequence[PluginField], *, version: str = "1", library: str | None = None) -> Any:
    """A plugin out of TensorRT's registry, for ``INetworkDefinition.add_plugin_v3``.

    Args:
        name: the plugin's name, in the namespace "".
        fields: its attributes.
        version: the plugin's version.
        library: path of the library that brings it, loaded when the registry does not have the plugin yet.

    Raises:
        RuntimeError: there is no such plugin, or it refuses its fields.
    """
    trt = import_tensorrt()
    _error_recorder().clear()
    registry = trt.get_plugin_registry()
    # Asked for what it has not, the registry logs an error.
    known = {(each.name, each.plugin_version, each.plugin_namespace) for each in registry.all_creators}
    if library is not None and (name, version, "") not in known:
        registry.load_library(library)
    creator = registry.get_creator(name, version, "")
    if creator is None:
        raise RuntimeError(
            f"TensorRT {trt.__version__} must have the plugin '{name}' version {version} in its registry, but it has "
            f"none; load the library that brings it (tried: {library}). TensorRT said: {_last_words()}"
        )
    collection = trt.PluginFieldCollection(
        [trt.PluginField(field.name, field.data, getattr(trt.PluginFieldType, field.type)) for field in fields]
    )
    plugin = creator.create_plugin(name, collection, trt.TensorRTPhase.BUILD)
    if plugin is None:
        raise RuntimeError(f"plugin '{name}' refused its fields; it said: {_plugin_last_words(library)}")
    return plugin


@contextlib.contextmanager
def keep_builders() -> Iterator[None]:
    """Keeps TensorRT's builders for the next network, within a ``with`` block.

    To make one takes seconds and to have one gigabytes, so that neither is right for good.
    """
    with _builders_lock:
        _builders.keepers += 1
    try:
        yield
    finally:
        with _builders_lock:
            _builders.keepers -= 1
            if _builders.keepers == 0:
                _builders.idle.clear()


@dataclass
class _Builders:
    """Builders that nobody uses now, with the GPU that each is for, and how many ``with`` blocks want them kept."""

    keepers: int = 0
    idle: list[tuple[int, Any]] = field(default_factory=list)


_builders = _Builders()
_builders_lock = threading.Lock()


def _take_builder(device: int) -> Any:
    with _builders_lock:
        for index, (of_device, builder) in enumerate(_builders.idle):
            if of_device == device:
                del _builders.idle[index]
                return builder
    return import_tensorrt().Builder(build_logger())


def _put_back(device: int, builder: Any) -> None:
    try:
        # Else the next network inherits it before it is parsed; see record_errors.
        builder.error_recorder = None
    except TypeError:
        return
    with _builders_lock:
        if _builders.keepers:
            _builders.idle.append((device, builder))


@contextlib.contextmanager
def new_network(what: str) -> Iterator[tuple[Any, Any]]:
    """A builder and an empty, strongly typed network, neither of which reports errors yet: see :func:`record_errors`.

    Args:
        what: the network in a few words, for messages.

    Raises:
        RuntimeError: TensorRT or a GPU is missing.
    """
    trt = import_tensorrt()
    # Without a GPU some versions of TensorRT crash the process in the Builder's constructor.
    if not torch.cuda.is_available():
        raise RuntimeError(
            f"building {what} with TensorRT needs an NVIDIA GPU, but torch.cuda.is_available() is False; "
            "build on a machine with the GPU that will run it"
        )
    device = torch.cuda.current_device()
    builder = _take_builder(device)
    # Newer major versions know strongly typed networks only and may drop the flag.
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    yield builder, builder.create_network(0 if strongly_typed is None else 1 << int(strongly_typed))
    # After a failure it is not known what state a builder is in.
    _put_back(device, builder)


def record_errors(builder: Any, network: Any) -> None:
    """Makes what goes wrong from now on readable for messages.

    With an ONNX parser, only after it has parsed: TensorRT 10.6's parser takes over the network's recorder and gives it
    back to the network when it is destroyed, which in Python is after the network, and crashes.
    """
    recorder = _error_recorder()
    recorder.clear()
    builder.error_recorder = recorder
    network.error_recorder = recorder


def _attach_timing_cache(config: Any, saved: bytes) -> Any:
    """Gives ``config`` a cache with the saved timings, or an empty one. It must live until the build is done."""
    attached = None
    # TensorRT refuses timings of another version or another GPU.
    for data in dict.fromkeys((saved, b"")):
        cache = config.create_timing_cache(data)
        if cache is not None and config.set_timing_cache(cache, False):
            attached = cache
            break
    _error_recorder().clear()
    return attached


def build_plan(
    what: str,
    define: Callable[[Any, Any], Profile | Sequence[Profile]],
    *,
    timing_store: TimingStore | None = None,
    workspace_bytes: int = 0,
    builder_optimization_level: int | None = None,
    weight_streaming: bool = False,
    parses: bool = False,
    tf32: bool = True,
) -> bytes:
    """Builds a strongly typed network into a plan for the current GPU.

    Args:
        what: the network in a few words, for messages.
        define: called with the ``tensorrt`` module and an empty network; it adds the layers and returns the range of
            each input's shape, or several such profiles.
        timing_store: timings are taken from there and put back, with those of this build.
        workspace_bytes: most memory that a layer may take beside its tensors, 0 for all there is.
        builder_optimization_level: 0 (quick) to 5 (thorough), None for TensorRT's default.
        weight_streaming: whether weights need not all stay on the GPU.
        parses: whether ``define`` uses an ONNX parser, see :func:`record_errors`.
        tf32: whether float32 layers may round their inputs to 10 bits of mantissa, which is what float16 has.

    Returns:
        The serialized engine.

    Raises:
        RuntimeError: TensorRT or a GPU is missing, or the build failed.
        ValueError: ``workspace_bytes`` or ``builder_optimization_level`` is out of range.
    """
    if workspace_bytes < 0:
        raise ValueError(f"workspace_bytes must be 0 or more, got {workspace_bytes}")
    if builder_optimization_level is not None and not 0 <= builder_optimization_level <= 5:
        raise ValueError(f"builder_optimization_level must be from 0 to 5, got {builder_optimization_level}")
    with new_network(what) as (builder, network):
        return _build(
            what,
            define,
            builder,
            network,
            timing_store=timing_store,
            workspace_bytes=workspace_bytes,
            builder_optimization_level=builder_optimization_level,
            weight_streaming=weight_streaming,
            parses=parses,
            tf32=tf32,
        )


def _build(
    what: str,
    define: Callable[[Any, Any], Profile | Sequence[Profile]],
    builder: Any,
    network: Any,
    *,
    timing_store: TimingStore | None,
    workspace_bytes: int,
    builder_optimization_level: int | None,
    weight_streaming: bool,
    parses: bool,
    tf32: bool,
) -> bytes:
    trt = import_tensorrt()
    config = builder.create_builder_config()
    if workspace_bytes:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    if builder_optimization_level is not None:
        config.builder_optimization_level = builder_optimization_level
    if weight_streaming:
        config.set_flag(trt.BuilderFlag.WEIGHT_STREAMING)
    if not tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    timings = None if timing_store is None else _attach_timing_cache(config, timing_store.load())
    if not parses:
        record_errors(builder, network)
    ranges = define(trt, network)
    if parses:
        record_errors(builder, network)
    for shapes in [ranges] if isinstance(ranges, Mapping) else ranges:
        profile = builder.create_optimization_profile()
        for name, (smallest, tuned, largest) in shapes.items():
            profile.set_shape(name, tuple(smallest), tuple(tuned), tuple(largest))
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RuntimeError(f"TensorRT {trt.__version__} could not build {what}; it said: {_last_words()}")
    if timing_store is not None and timings is not None:
        timing_store.save(bytes(timings.serialize()))
    return bytes(plan)
