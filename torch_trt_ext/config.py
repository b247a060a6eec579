"""Settings of ``optimize()``: typed, nested, checked when they are set, and current for a ``with`` block."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import re
import typing
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeVar, get_args

__all__ = [
    "KEEP_FLOAT32",
    "AccuracyConfig",
    "CacheConfig",
    "Config",
    "GpuConfig",
    "PartitionConfig",
    "PrecisionConfig",
    "ShapesConfig",
    "TensorRTConfig",
    "TimingConfig",
]

#: What engines have in their 8-bit parts.
EightBit = Literal["int8", "float8"]
EIGHT_BIT: tuple[EightBit, ...] = get_args(EightBit)

#: ONNX operator types that stay in float32 by default: sums over many values, and functions that leave float16's range.
KEEP_FLOAT32 = (
    "Softmax",
    "LogSoftmax",
    "Exp",
    "Log",
    "Pow",
    "Sqrt",
    "Reciprocal",
    "ReduceSum",
    "ReduceMean",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceSumSquare",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "CumSum",
    "LayerNormalization",
    "InstanceNormalization",
    "GroupNormalization",
    "LpNormalization",
    "MeanVarianceNormalization",
    "Softplus",
)

_Check = Callable[[str, Any], None]
_OptionsT = TypeVar("_OptionsT", bound="_Options")

_GIVE = {
    bool: "give True or False",
    int: "give a whole number, int(value) for another integer type",
    float: "give a number, float(value) for another number type",
    str: "give a string, str(value) for a path",
    list: "give a list",
    dict: "give a dict",
}

# ONNX operator types; graph operators, perhaps with an index; module paths. None of them has two readings.
_ONNX_TYPE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_GRAPH_OPERATOR = re.compile(r"[A-Za-z_]\w*::[A-Za-z_]\w*(@\d+)?")
_DOTTED_PATH = re.compile(r"\w+(\.\w+)*")


def _at_least(minimum: int) -> _Check:
    def check(subject: str, value: float) -> None:
        if not minimum <= value < math.inf:
            raise ValueError(f"{subject} must be finite and at least {minimum}, got {value}")

    return check


def _above(bound: int) -> _Check:
    def check(subject: str, value: float) -> None:
        if not bound < value < math.inf:
            raise ValueError(f"{subject} must be finite and greater than {bound}, got {value}")

    return check


def _between(minimum: int, maximum: int) -> _Check:
    def check(subject: str, value: float) -> None:
        if not minimum <= value <= maximum:
            raise ValueError(f"{subject} must be from {minimum} to {maximum}, got {value}")

    return check


def _one_of(*choices: str) -> _Check:
    def check(subject: str, value: str) -> None:
        if value not in choices:
            raise ValueError(f"{subject} must be one of {', '.join(map(repr, choices))}, got {value!r}")

    return check


def _check_onnx_types(subject: str, value: list[str]) -> None:
    for index, entry in enumerate(value):
        if not _ONNX_TYPE.fullmatch(entry):
            raise ValueError(f"{subject}[{index}] must be an ONNX operator type such as 'Softmax', got {entry!r}")


def _check_node_patterns(subject: str, value: list[str]) -> None:
    for index, entry in enumerate(value):
        if not (_GRAPH_OPERATOR.fullmatch(entry) or _DOTTED_PATH.fullmatch(entry)):
            raise ValueError(
                f"{subject}[{index}] must be an operator ('aten::softmax'; 'aten::softmax@3' is its fourth occurrence) "
                f"or a module path ('backbone.layer1'), got {entry!r}; overload names such as '.int' are left out"
            )


def _check_profiles(subject: str, value: list[dict[str, list[list[int]]]]) -> None:
    for index, profile in enumerate(value):
        if not profile:
            raise ValueError(f"{subject}[{index}] must name at least one input, got an empty dict; remove it")
        for name, shapes in profile.items():
            if not _DOTTED_PATH.fullmatch(name):
                raise ValueError(
                    f"{subject}[{index}] must name inputs like 'images', 'images.0' or 'batch.mask', got {name!r}"
                )
            _check_shape_range(f"{subject}[{index}][{name!r}]", shapes)


def _check_shape_range(subject: str, shapes: list[list[int]]) -> None:
    if len(shapes) != 3:
        raise ValueError(f"{subject} must be three shapes [min, opt, max], got {len(shapes)}: {shapes}")
    if len({len(shape) for shape in shapes}) != 1:
        raise ValueError(f"{subject} must be three shapes of equal rank, got {shapes}")
    for axis, (smallest, best, largest) in enumerate(zip(*shapes, strict=True)):
        if not 1 <= smallest <= best <= largest:
            raise ValueError(
                f"{subject} must have 1 <= min <= opt <= max on every axis, got {smallest}, {best}, {largest} on axis "
                f"{axis} of {shapes}"
            )


def _option(default: float | str, check: _Check) -> Any:
    """A dataclass field whose values pass ``check(subject, value)``."""
    return field(default=default, metadata={"check": check})


def _converted(subject: str, value: object, kind: Any) -> Any:
    """``value`` as ``kind`` (a type annotation) stores it: containers copied, int made float.

    Raises:
        TypeError: it is of another kind.
    """
    base = typing.get_origin(kind) or kind
    arguments = typing.get_args(kind)
    if isinstance(base, type) and issubclass(base, _Options):
        if isinstance(value, base):
            return value.copy()
        raise TypeError(f"{subject} must be {base.__name__}, got {type(value).__name__}; set its options one by one")
    if base is list and isinstance(value, (list, tuple)):
        return [_converted(f"{subject}[{index}]", item, arguments[0]) for index, item in enumerate(value)]
    if base is dict and isinstance(value, Mapping):
        return {
            _converted(f"a key of {subject}", key, arguments[0]): _converted(f"{subject}[{key!r}]", item, arguments[1])
            for key, item in value.items()
        }
    is_bool = isinstance(value, bool)
    if (base is bool and is_bool) or (base is str and isinstance(value, str)):
        return value
    if base is int and isinstance(value, int) and not is_bool:
        return int(value)
    if base is float and isinstance(value, (int, float)) and not is_bool:
        try:
            return float(value)
        except OverflowError as error:
            raise ValueError(f"{subject} must fit a float, got {value}") from error
    raise TypeError(f"{subject} must be {base.__name__}, got {type(value).__name__} {value!r}; {_GIVE[base]}")


class _Known(NamedTuple):
    kind: Any
    check: _Check | None


_known_options: dict[type, dict[str, _Known]] = {}


def _known(cls: type[_Options]) -> dict[str, _Known]:
    """Options of a class, in the order of their definition."""
    if cls not in _known_options:
        hints = typing.get_type_hints(cls)
        _known_options[cls] = {
            option.name: _Known(hints[option.name], option.metadata.get("check")) for option in dataclasses.fields(cls)
        }
    return _known_options[cls]


@dataclass(slots=True, repr=False)
class _Options:
    """A group of options: what is assigned is checked, copied, and compared by value."""

    #: How a user reaches the group, for messages.
    _path: ClassVar[str] = "config"

    # Hidden from type checkers, which else would let any name be assigned.
    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: object) -> None:
            object.__setattr__(self, name, self._checked(name, value))

        def __delattr__(self, name: str) -> None:
            raise AttributeError(f"{self._path}.{name} cannot be deleted; assign its default instead")

    def __repr__(self) -> str:
        lines = [f"{name}={getattr(self, name)!r},".replace("\n", "\n    ") for name in _known(type(self))]
        return f"{type(self).__name__}(\n    " + "\n    ".join(lines) + "\n)"

    def _checked(self, name: str, value: object) -> object:
        known = _known(type(self))
        if name not in known:
            raise AttributeError(f"{self._path} has no option {name!r}; its options are {', '.join(known)}")
        subject = f"{self._path}.{name}"
        kind, check = known[name]
        converted = _converted(subject, value, kind)
        if check:
            check(subject, converted)
        return converted

    def validate(self) -> None:
        """Checks every option again, since a list or dict that was changed in place was not checked then.

        Raises:
            TypeError: an option is of the wrong kind.
            ValueError: an option has a value that is not allowed.
        """
        for name in _known(type(self)):
            value = getattr(self, name)
            if isinstance(value, _Options):
                value.validate()
            else:
                setattr(self, name, value)

    def copy(self: _OptionsT) -> _OptionsT:
        """An equal object that shares nothing with this one."""
        return copy.deepcopy(self)

    def to_dict(self) -> dict[str, Any]:
        """All options as nested dicts, lists, strings and numbers, sharing nothing with this object."""
        values = {name: getattr(self, name) for name in _known(type(self))}
        return {
            name: value.to_dict() if isinstance(value, _Options) else copy.deepcopy(value)
            for name, value in values.items()
        }

    def changed(self) -> dict[str, Any]:
        """Like :meth:`to_dict`, but only the options that differ from their defaults; ``from_dict`` takes it."""
        return _difference(self.to_dict(), type(self)().to_dict())

    @classmethod
    def from_dict(cls: type[_OptionsT], options: Mapping[str, object]) -> _OptionsT:
        """Makes an object from what :meth:`to_dict` or :meth:`changed` gave.

        Args:
            options: nested dicts; what is missing keeps its default.

        Raises:
            TypeError: ``options`` is no mapping, or an option is of the wrong kind.
            ValueError: an option is unknown, or has a value that is not allowed.
        """
        if not isinstance(options, Mapping):
            raise TypeError(f"{cls._path} must be read from a dict of options, got {type(options).__name__}")
        result = cls()
        known = _known(cls)
        for name, value in options.items():
            if name not in known:
                raise ValueError(f"{cls._path} has no option {name!r}; its options are {', '.join(known)}")
            kind = known[name].kind
            is_group = isinstance(kind, type) and issubclass(kind, _Options)
            setattr(result, name, kind.from_dict(value) if is_group else value)
        return result

    def to_json(self, indent: int | None = 2) -> str:
        """All options as JSON.

        Args:
            indent: spaces a level; None writes one line.
        """
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    @classmethod
    def from_json(cls: type[_OptionsT], text: str) -> _OptionsT:
        """Makes an object from what :meth:`to_json` gave.

        Raises:
            TypeError: an option is of the wrong kind.
            ValueError: ``text`` is not JSON, an option is unknown, or has a value that is not allowed.
        """
        try:
            options = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{cls._path} must be read from JSON, as to_json() writes it: {error}") from error
        return cls.from_dict(options)


def _difference(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """What of ``values`` differs from ``defaults``; both are nested alike, since no option is a dict itself."""
    result = {}
    for name, value in values.items():
        if value != defaults[name]:
            result[name] = _difference(value, defaults[name]) if isinstance(value, dict) else value
    return result


@dataclass(slots=True, kw_only=True, repr=False)
class GpuConfig(_Options):
    """What PAI-Blade's scripts set for GPUs.

    Attributes:
        disable_fp16_accuracy_check: errors of 16-bit engines, and of the whole model with them, are measured and
            reported, but send nothing back to PyTorch; NaN and Inf still do. Default False.
    """

    _path: ClassVar[str] = "config.gpu_config"

    disable_fp16_accuracy_check: bool = False


@dataclass(slots=True, kw_only=True, repr=False)
class PartitionConfig(_Options):
    """Which parts of the graph become engines.

    An entry of ``allow`` and ``deny`` is an operator (``aten::softmax``), one occurrence of it in graph order, counted
    from 0 (``aten::softmax@3`` is the fourth), or a module path (``backbone.layer1``) with all that is below it.

    Attributes:
        min_block_size: operator nodes that an engine can run which a subgraph needs to become one; at least 1.
            Default 3.
        allow: if not empty, only these go to engines. Default [].
        deny: these stay in PyTorch, also where ``allow`` has them. Default [].
        max_subgraphs: number of engines at most; at least 1. Default 64.
    """

    _path: ClassVar[str] = "config.partition"

    min_block_size: int = _option(3, _at_least(1))
    allow: list[str] = field(default_factory=list, metadata={"check": _check_node_patterns})
    deny: list[str] = field(default_factory=list, metadata={"check": _check_node_patterns})
    max_subgraphs: int = _option(64, _at_least(1))


@dataclass(slots=True, kw_only=True, repr=False)
class PrecisionConfig(_Options):
    """What engines compute in.

    Attributes:
        engine_precision: "auto", "float32", "tf32", "float16" or "bfloat16". "auto" is float16 on GPUs; on CPUs
            bfloat16 where the processor computes in it, else float32. "tf32" is float32 on CPUs; on GPUs factors of
            products are rounded to float16's 10 bits of mantissa, with float32's range. What is not accurate is tried
            again with more bits. Default "auto".
        eight_bit: what level "o2" tries before that: "int8", or "float8" (E4M3), which GPUs of compute capability 8.9
            have, for products and convolutions that TensorRT has kernels for. Default "int8".
        keep_float32: ONNX operator types that stay in float32. Default :data:`KEEP_FLOAT32`.
        calibration: how the ranges of 8-bit values follow from the calibration data: "entropy" loses the least
            information, with ranges at least as wide as the first item's, "percentile" leaves the largest values out,
            "max" takes all in, which suits float8. Default "entropy".
        percentile: of absolute values, for "percentile"; from 1 to 100. Default 99.99.
    """

    _path: ClassVar[str] = "config.precision"

    engine_precision: str = _option("auto", _one_of("auto", "float32", "tf32", "float16", "bfloat16"))
    eight_bit: str = _option("int8", _one_of(*EIGHT_BIT))
    keep_float32: list[str] = field(default_factory=lambda: list(KEEP_FLOAT32), metadata={"check": _check_onnx_types})
    calibration: str = _option("entropy", _one_of("entropy", "percentile", "max"))
    percentile: float = _option(99.99, _between(1, 100))


@dataclass(slots=True, kw_only=True, repr=False)
class AccuracyConfig(_Options):
    """How far answers may be off before a subgraph goes back to PyTorch.

    A relative error is that of each output: the L2 norm of the difference over the L2 norm of the reference, no unit.

    Attributes:
        check: False measures and reports errors, but sends nothing back for them. Default True.
        max_relative_error: of one engine against its subgraph in float32; at least 0. Default 0.02.
        max_model_relative_error: of the whole model against the original; at least 0. Default 0.05.
        max_relative_error_8bit: of one engine with 8-bit parts; at least 0. Default 0.1.
        max_model_relative_error_8bit: of the whole model with such engines; at least 0. Default 0.1.
        max_metric_drop: how much less than the original the model may reach by ``optimize()``'s ``metric``, in its own
            unit; at least 0. Default 0.01.
    """

    _path: ClassVar[str] = "config.accuracy"

    check: bool = True
    max_relative_error: float = _option(0.02, _at_least(0))
    max_model_relative_error: float = _option(0.05, _at_least(0))
    max_relative_error_8bit: float = _option(0.1, _at_least(0))
    max_model_relative_error_8bit: float = _option(0.1, _at_least(0))
    max_metric_drop: float = _option(0.01, _at_least(0))

    def limit(self, precision: str) -> float:
        """The limit for an engine of a precision, as the report names it."""
        return self.max_relative_error_8bit if precision in EIGHT_BIT else self.max_relative_error

    def model_limit(self, precision: str) -> float:
        """The limit for a model whose engines are of a precision."""
        return self.max_model_relative_error_8bit if precision in EIGHT_BIT else self.max_model_relative_error


@dataclass(slots=True, kw_only=True, repr=False)
class TimingConfig(_Options):
    """How speed is measured, and what is fast enough.

    Attributes:
        warmup_runs: untimed runs of the whole model, at least 0. Default 100.
        timed_runs: timed runs of the whole model, at least 1. Default 200.
        subgraph_warmup_runs: untimed runs of a subgraph or its engine, at least 0. Default 5.
        subgraph_timed_runs: timed runs of a subgraph or its engine, at least 1. Default 20.
        max_seconds: no single measurement takes longer, in seconds; there are fewer runs then. Greater than 0.
            Default 60.0.
        min_speedup: an engine, or the whole model, that is not at least this many times as fast as before goes back.
            At least 0. Default 1.0.
        compare: False keeps every engine whatever its speed. Default True.
    """

    _path: ClassVar[str] = "config.timing"

    warmup_runs: int = _option(100, _at_least(0))
    timed_runs: int = _option(200, _at_least(1))
    subgraph_warmup_runs: int = _option(5, _at_least(0))
    subgraph_timed_runs: int = _option(20, _at_least(1))
    max_seconds: float = _option(60.0, _above(0))
    min_speedup: float = _option(1.0, _at_least(0))
    compare: bool = True


@dataclass(slots=True, kw_only=True, repr=False)
class ShapesConfig(_Options):
    """Which input shapes engines take.

    Attributes:
        profiles: each maps the name of an input (``forward``'s argument; for nested inputs ``images.0``,
            ``batch.mask``) to ``[min, opt, max]``, three shapes of equal rank with 1 <= min <= opt <= max on each axis,
            e.g. ``[{"images": [[1, 3, 224, 224], [8, 3, 224, 224], [16, 3, 512, 512]]}]``. Sizes are in elements.
            Default [].
    """

    _path: ClassVar[str] = "config.shapes"

    profiles: list[dict[str, list[list[int]]]] = field(default_factory=list, metadata={"check": _check_profiles})


@dataclass(slots=True, kw_only=True, repr=False)
class CacheConfig(_Options):
    """Where built engines are kept on disk.

    Attributes:
        enabled: False neither reads nor writes the cache. Default True.
        folder: empty means ``$TORCH_TRT_EXT_CACHE``, else ``$XDG_CACHE_HOME/torch_trt_ext``, else
            ``~/.cache/torch_trt_ext``. Default "".
        max_bytes: size of the folder at most, in bytes; at least 0. Default 8 GiB (8589934592).
    """

    _path: ClassVar[str] = "config.cache"

    enabled: bool = True
    folder: str = ""
    max_bytes: int = _option(8 * 2**30, _at_least(0))

    def resolved_folder(self) -> Path:
        """The folder that is meant: absolute, ``~`` expanded, perhaps not there yet."""
        folder = self.folder or os.environ.get("TORCH_TRT_EXT_CACHE", "")
        if folder:
            return Path(folder).expanduser().absolute()
        # The XDG specification has relative paths ignored.
        shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
        return (shared if shared.is_absolute() else Path.home() / ".cache") / "torch_trt_ext"


@dataclass(slots=True, kw_only=True, repr=False)
class TensorRTConfig(_Options):
    """How TensorRT builds engines, and how they are run.

    Attributes:
        workspace_bytes: GPU memory that a layer may use for temporaries, in bytes; 0 is TensorRT's own limit.
            Default 0.
        builder_optimization_level: 0 (builds fastest) to 5 (searches longest). Default 3.
        cuda_graphs: whether engines record their work in CUDA graphs and replay them, "on", "off", or "auto", where
            that is faster. Graphs pay where many small kernels wait for the host to launch them. Default "auto".
        weight_streaming: True builds engines whose weights need not all stay on the GPU; their ``set_weight_budget``
            says how much may. Default False.
    """

    _path: ClassVar[str] = "config.tensorrt"

    workspace_bytes: int = _option(0, _at_least(0))
    builder_optimization_level: int = _option(3, _between(0, 5))
    cuda_graphs: str = _option("auto", _one_of("auto", "on", "off"))
    weight_streaming: bool = False


@dataclass(slots=True, kw_only=True, repr=False)
class Config(_Options):
    """Settings of ``optimize()``, which takes them as an argument or from the ``with`` block around it.

    An option that does not exist is an AttributeError when it is set, a value of the wrong kind a TypeError, one that
    is not allowed a ValueError. What is assigned (lists, dicts, tuples, whole groups) is copied. A list or dict that is
    changed in place (``config.partition.deny.append(...)``) is not checked until ``optimize()`` calls
    :meth:`validate`. ::

        config = Config()
        config.gpu_config.disable_fp16_accuracy_check = True
        with config:
            optimized, opt_spec, report = torch_trt_ext.optimize(model, "o1", device_type="gpu", test_data=test_data)

    ``with`` blocks nest, also of one object in itself, and each restores what was current before. They hold for the
    thread or asyncio task that entered them; a thread that is started in one begins with the defaults.

    Attributes:
        gpu_config: see :class:`GpuConfig`.
        partition: see :class:`PartitionConfig`.
        precision: see :class:`PrecisionConfig`.
        accuracy: see :class:`AccuracyConfig`.
        timing: see :class:`TimingConfig`.
        shapes: see :class:`ShapesConfig`.
        cache: see :class:`CacheConfig`.
        tensorrt: see :class:`TensorRTConfig`.
        keep_fallback: keep the subgraph that an engine replaces, for inputs and machines that the engine does not
            fit; False makes the file smaller and a misfit an error. Default True.
        build_threads: engines built at once on the CPU, at least 0; 0 is one a processor. Default 0.
        progress: show a bar on stderr when that is a terminal. Default True.
        prefer: how an ``nn.Module`` becomes TorchScript, "script" or "trace"; the other is tried next.
            Default "script".
        check_model: compare the whole optimized model with the original; False leaves that run out. Default True.
    """

    gpu_config: GpuConfig = field(default_factory=GpuConfig)
    partition: PartitionConfig = field(default_factory=PartitionConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    accuracy: AccuracyConfig = field(default_factory=AccuracyConfig)
    timing: TimingConfig = field(default_factory=TimingConfig)
    shapes: ShapesConfig = field(default_factory=ShapesConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    tensorrt: TensorRTConfig = field(default_factory=TensorRTConfig)
    keep_fallback: bool = True
    build_threads: int = _option(0, _at_least(0))
    progress: bool = True
    prefer: str = _option("script", _one_of("script", "trace"))
    check_model: bool = True

    @classmethod
    def current(cls) -> Config:
        """The config of the innermost ``with`` block, itself and not a copy, or a new one with the defaults."""
        entered = _entered.get()
        return entered[-1] if entered else Config()

    def __enter__(self) -> Config:
        _entered.set((*_entered.get(), self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        entered = _entered.get()
        for index in reversed(range(len(entered))):
            if entered[index] is self:
                _entered.set(entered[:index] + entered[index + 1 :])
                return
        raise RuntimeError("a Config must be left in the thread or task that entered it, this one has not entered it")


_entered: ContextVar[tuple[Config, ...]] = ContextVar("torch_trt_ext_config", default=())
