"""The two kinds of engines behind one interface: what optimize() asks of TensorRT and of OpenVINO."""

from __future__ import annotations

import abc
import contextlib
import functools
import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import onnx
import torch

from torch_trt_ext.builders.onnx_inputs import ShapeRanges
from torch_trt_ext.builders.tensorrt_build import keep_builders
from torch_trt_ext.config import EIGHT_BIT, Config
from torch_trt_ext.engine import OpenVINOEngineExtension, TRTEngineExtension
from torch_trt_ext.engine_plan import EnginePlan
from torch_trt_ext.optimizer.engine_cache import EngineCache, TimingCache, model_bytes_for_key
from torch_trt_ext.optimizer.half_precision import to_half_precision
from torch_trt_ext.optimizer.onnx_names import names_read
from torch_trt_ext.optimizer.plugin_operators import PluginOperator, operators_of, registered_plugin_operators
from torch_trt_ext.optimizer.quantization import float32_pairs, with_half_scales
from torch_trt_ext.optimizer.report import DeviceType, software_versions
from torch_trt_ext.runtime import library_path

#: What an engine computes in. "tf32" is float32 whose products round their factors to the 10 bits of mantissa that
#: float16 has, as PyTorch's convolutions do on GPUs unless they are told not to.
#: "int8" is an engine of 16 bits whose convolutions and products with constant matrices compute on 8-bit integers, and
#: "float8" one where they do in E4M3.
Precision = Literal["float32", "tf32", "float16", "bfloat16", "int8", "float8"]

#: optimize()'s levels.
Level = Literal["o1", "o2"]

_SHORT = {"float32": "Fp32", "tf32": "Tf32", "float16": "Fp16", "bfloat16": "Bf16", "int8": "Int8", "float8": "Fp8"}

#: Where OpenVINO's messages name a node, and what they say of it.
_REFUSED_BY_OPENVINO = re.compile(
    r"ONNX node '<Node\([^)]*\): (?P<name>[^>]+)>'(?P<words>.*?)(?=^-- |^Summary:|\Z)", re.DOTALL | re.MULTILINE
)

#: The compute capability of the first GPUs with float8, Ada's.
_FLOAT8_CAPABILITY = (8, 9)


@dataclass(frozen=True)
class Refusal:
    """An ONNX node that an engine cannot have.

    Attributes:
        name: of the node; empty where only its type is known.
        op_type: its operator type.
        reason: in the engine library's words.
    """

    name: str
    op_type: str
    reason: str


@dataclass(frozen=True)
class BuiltEngine:
    """An engine that was built or found in the cache.

    Attributes:
        plan: the engine.
        from_cache: whether it was found.
        kept_float32: nodes of a 16-bit engine that compute in float32, with the reason.
    """

    plan: EnginePlan
    from_cache: bool
    kept_float32: dict[str, str]


class EngineBuilder(abc.ABC):
    """Turns ONNX models into engines for one kind of device."""

    device_type: DeviceType
    #: Whether several engines may be built at once.
    parallel: bool
    #: Whether single nodes of a 16-bit engine can stay in float32.
    mixes_precisions: bool

    def __init__(self, config: Config) -> None:
        self.config = config
        cache = config.cache
        self.cache = EngineCache(cache.resolved_folder(), cache.max_bytes) if cache.enabled else None
        #: Operators that its engines have plugins for, by name.
        self.plugin_operators: Mapping[str, PluginOperator] = {}

    def at_work(self) -> contextlib.AbstractContextManager[None]:
        """Around all that is asked of the builder for one model; keeps what would be made again and again."""
        return contextlib.nullcontext()

    @abc.abstractmethod
    def precisions(self) -> list[Precision]:
        """What to try above 8 bits, in order; float32 comes last."""

    def ladder(self, level: Level) -> list[Precision]:
        """What to try at a level, in order; float32 comes last."""
        first = [cast(Precision, self.config.precision.eight_bit)] if level == "o2" else []
        return [*first, *self.precisions()]

    @abc.abstractmethod
    def check_eight_bit(self) -> None:
        """Checks that its engines can have the 8-bit parts that the configuration asks for.

        Raises:
            ValueError: the engine library has none such.
            RuntimeError: the device has not.
        """

    @abc.abstractmethod
    def pass_name(self, precision: Precision) -> str:
        """What the report calls the pass."""

    @abc.abstractmethod
    def refusals(self, model: onnx.ModelProto) -> list[Refusal]:
        """Which nodes of a float32 model the engine library does not take; empty when it takes all."""

    @abc.abstractmethod
    def load(self, plan: EnginePlan) -> Any:
        """Makes an engine object, for TorchScript, from a plan."""

    def build(
        self, model: onnx.ModelProto, ranges: ShapeRanges, precision: Precision, sensitive: Mapping[str, str], what: str
    ) -> BuiltEngine:
        """Builds an engine, or takes it from the cache.

        Args:
            model: in float32, quantized where the precision is of 8 bits; it is not changed.
            ranges: shapes of every input, one mapping a profile.
            precision: what to compute in.
            sensitive: names of nodes that 16 bits do not suffice for, with the reason.
            what: the model in a few words, for messages.

        Raises:
            RuntimeError: the library cannot build it.
            ValueError: the model or the ranges do not suit it.
        """
        prepared, kept = self._prepare(model, precision, sensitive)
        if self.cache is not None:
            facts = [f"{name}={version}" for name, version in sorted(software_versions(self.device_type).items())]
            facts += [self._hardware(), precision, repr(_plain(ranges)), *self._settings(), *self._libraries(model)]
            key = self.cache.key(model_bytes_for_key(prepared), *facts)
            plan = self.cache.get(key)
            if plan is not None:
                return BuiltEngine(plan, True, kept)
        plan = self._build(prepared, ranges, precision, what)
        if self.cache is not None:
            self.cache.put(key, plan)
        return BuiltEngine(plan, False, kept)

    @abc.abstractmethod
    def _prepare(
        self, model: onnx.ModelProto, precision: Precision, sensitive: Mapping[str, str]
    ) -> tuple[onnx.ModelProto, dict[str, str]]: ...

    @abc.abstractmethod
    def _build(self, model: onnx.ModelProto, ranges: ShapeRanges, precision: Precision, what: str) -> EnginePlan: ...

    @abc.abstractmethod
    def _hardware(self) -> str: ...

    @abc.abstractmethod
    def _settings(self) -> list[str]: ...

    def _libraries(self, model: onnx.ModelProto) -> list[str]:
        """What the plugins of a model come from."""
        operators = self.plugin_operators.values()
        used = [known for node in model.graph.node for known in operators_of(node, operators)]
        paths = sorted({Path(known.library or library_path("plugins")) for known in used})
        return [f"{path.name}={_content(path, path.stat().st_mtime_ns)}" for path in paths if path.exists()]


@functools.lru_cache
def _content(path: Path, modified_ns: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _plain(ranges: ShapeRanges) -> list[dict[str, list[list[int]]]]:
    return [{name: [list(shape) for shape in shapes] for name, shapes in sorted(part.items())} for part in ranges]


class TensorRTBuilder(EngineBuilder):
    """Engines for the current GPU."""

    device_type: DeviceType = "gpu"
    parallel = False
    mixes_precisions = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.plugin_operators = registered_plugin_operators()

    def at_work(self) -> contextlib.AbstractContextManager[None]:
        """Keeps TensorRT's builder objects."""
        return keep_builders()

    def precisions(self) -> list[Precision]:
        """float16 unless the configuration says otherwise; what is not accurate then is tried in TF32 first."""
        wanted = self.config.precision.engine_precision
        return _ladder("float16" if wanted == "auto" else wanted, "tf32", "float32")

    def check_eight_bit(self) -> None:
        """Asks the GPU."""
        capability = torch.cuda.get_device_capability()
        if self.config.precision.eight_bit == "float8" and capability < _FLOAT8_CAPABILITY:
            least, found = (".".join(map(str, version)) for version in (_FLOAT8_CAPABILITY, capability))
            raise RuntimeError(
                f"config.precision.eight_bit 'float8' needs a GPU of compute capability {least} or newer, got "
                f"{torch.cuda.get_device_name()} of {found}; set it to 'int8'"
            )

    def pass_name(self, precision: Precision) -> str:
        """PAI-Blade's name for it."""
        return f"PtTrtPass{_SHORT[precision]}"

    def refusals(self, model: onnx.ModelProto) -> list[Refusal]:
        """Asks TensorRT's parser."""
        from torch_trt_ext.builders.onnx_tensorrt import refused_nodes

        return [Refusal(*refused) for refused in refused_nodes(model)]

    def load(self, plan: EnginePlan) -> Any:
        """A ``TRTEngineExtension``."""
        return TRTEngineExtension(plan.data, plan.io_spec)

    def _prepare(
        self, model: onnx.ModelProto, precision: Precision, sensitive: Mapping[str, str]
    ) -> tuple[onnx.ModelProto, dict[str, str]]:
        if precision == "float32" or precision == "tf32":
            return model, {}
        half: Literal["float16", "bfloat16"] = "bfloat16" if precision == "bfloat16" else "float16"
        if precision in EIGHT_BIT:
            # Pairs are in 16 bits as what is around them: TensorRT sees 8-bit arithmetic where what they give goes
            # straight into a product, and what the product gives, straight into the next pair.
            model = with_half_scales(model)
            sensitive = float32_pairs(model, sensitive) | dict(sensitive)
        result = to_half_precision(
            model, half=half, keep_float32_ops=self.config.precision.keep_float32, keep_float32_nodes=sensitive
        )
        return result.model, {name: sensitive.get(name, reason) for name, reason in result.kept.items()}

    def _build(self, model: onnx.ModelProto, ranges: ShapeRanges, precision: Precision, what: str) -> EnginePlan:
        from torch_trt_ext.builders.onnx_tensorrt import build_tensorrt_from_onnx, timing_cache_name

        cache = self.config.cache
        timings = TimingCache(cache.resolved_folder(), timing_cache_name()) if cache.enabled else None
        options = self.config.tensorrt
        return build_tensorrt_from_onnx(
            model,
            ranges,
            timing_cache=timings,
            workspace_bytes=options.workspace_bytes,
            builder_optimization_level=options.builder_optimization_level,
            weight_streaming=options.weight_streaming,
            tf32=precision != "float32",
            what=what,
        )

    def _hardware(self) -> str:
        major, minor = torch.cuda.get_device_capability()
        return f"{torch.cuda.get_device_name()} {major}.{minor}"

    def _settings(self) -> list[str]:
        options = self.config.tensorrt
        return [str(options.workspace_bytes), str(options.builder_optimization_level), str(options.weight_streaming)]


class OpenVINOBuilder(EngineBuilder):
    """Engines for the CPU."""

    device_type: DeviceType = "cpu"
    parallel = True
    mixes_precisions = False

    #: OpenVINO's words for what an engine computes in.
    _WORDS: Mapping[Precision, Literal["f32", "f16", "bf16"]] = {
        "float32": "f32",
        "float16": "f16",
        "bfloat16": "bf16",
    }

    def precisions(self) -> list[Precision]:
        """What the processor computes in natively, unless the configuration says otherwise."""
        from torch_trt_ext.builders.onnx_openvino import native_precision

        native = next(precision for precision, word in self._WORDS.items() if word == native_precision())
        wanted = self.config.precision.engine_precision
        # A processor has no TF32.
        return _ladder({"auto": native, "tf32": "float32"}.get(wanted, wanted), "float32")

    def check_eight_bit(self) -> None:
        """OpenVINO computes on 8-bit integers only."""
        if self.config.precision.eight_bit != "int8":
            raise ValueError(
                "config.precision.eight_bit must be 'int8' for device_type 'cpu', since OpenVINO's engines have no "
                f"other 8 bits, got {self.config.precision.eight_bit!r}; set it to 'int8' or give device_type='gpu'"
            )

    def pass_name(self, precision: Precision) -> str:
        """After PAI-Blade's names."""
        return f"PtOpenVINOPass{_SHORT[precision]}"

    def refusals(self, model: onnx.ModelProto) -> list[Refusal]:
        """Lets OpenVINO read the model, which is quick; again without the nodes that it named, if it did.

        It names one node of a type at a time.
        """
        found: list[Refusal] = []
        while model.graph.output:
            message = _why_unreadable(model)
            named = _named_by_openvino(message, model)
            if not named:
                return found or (_by_types(message, model) if message else [])
            found += named
            model = _without_nodes(model, {refusal.name for refusal in named})
        return found

    def load(self, plan: EnginePlan) -> Any:
        """An ``OpenVINOEngineExtension``."""
        return OpenVINOEngineExtension(plan.data, plan.io_spec)

    def _prepare(
        self, model: onnx.ModelProto, precision: Precision, sensitive: Mapping[str, str]
    ) -> tuple[onnx.ModelProto, dict[str, str]]:
        # The precision is a hint for the whole engine: OpenVINO decides by operator, and float32 islands in the graph
        # do not bind it.
        return model, {}

    def _build(self, model: onnx.ModelProto, ranges: ShapeRanges, precision: Precision, what: str) -> EnginePlan:
        from torch_trt_ext.builders.onnx_openvino import build_openvino_from_onnx

        # The graph itself says what is in 8 bits.
        words = self._WORDS[self.precisions()[0] if precision in EIGHT_BIT else precision]
        return build_openvino_from_onnx(model, ranges, words)

    def _hardware(self) -> str:
        # OpenVINO compiles for the processor when the engine is loaded.
        return "cpu"

    def _settings(self) -> list[str]:
        return []


def _why_unreadable(model: onnx.ModelProto) -> str:
    """OpenVINO's message about a model that it cannot read, else an empty string."""
    from torch_trt_ext.builders.openvino_model import import_openvino

    try:
        import_openvino().Core().read_model(model.SerializeToString(), b"")
    except RuntimeError as error:
        return str(error).strip() or "OpenVINO cannot read it"
    return ""


def _by_types(message: str, model: onnx.ModelProto) -> list[Refusal]:
    """All nodes of the types that OpenVINO's message has in it, or all nodes."""
    types = {node.op_type for node in model.graph.node}
    blamed = sorted(op for op in types if re.search(rf"(?<!\w){re.escape(op)}(?!\w)", message))
    reason = message.splitlines()[-1][:300]
    return [Refusal("", op, reason) for op in blamed] or [Refusal("", "", reason)]


def _named_by_openvino(message: str, model: onnx.ModelProto) -> list[Refusal]:
    """The nodes that OpenVINO's message names, but for those that take what others of them give."""
    reasons = {}
    for found in _REFUSED_BY_OPENVINO.finditer(message):
        lines = [line.strip() for line in found["words"].splitlines() if line.strip()]
        reasons[found["name"]] = lines[-1][:300] if lines else "OpenVINO cannot read it"
    refusals = []
    refused: set[str] = set()
    for node in model.graph.node:
        words = [reasons[name] for name in (node.name, *node.output) if name in reasons]
        if refused.intersection(names_read(node)):
            refused.update(node.output)
        elif words and node.name:
            refusals.append(Refusal(node.name, node.op_type, words[0]))
            refused.update(node.output)
    return refusals


def _without_nodes(model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """The model without nodes of these names and what is computed from them, to be read only."""
    kept = []
    gone: set[str] = set()
    for node in model.graph.node:
        if node.name in names or gone.intersection(names_read(node)):
            gone.update(node.output)
        else:
            kept.append(node)
    read = {name for node in kept for name in names_read(node)}
    ends = [name for node in kept for name in node.output if name and name not in read]
    part = onnx.ModelProto()
    part.CopyFrom(model)
    del part.graph.node[:], part.graph.output[:]
    part.graph.node.extend(kept)
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in ends)
    return part


def _ladder(first: str, *wider: Precision) -> list[Precision]:
    """``first``, then those of ``wider`` that come after it, or all where it is none of them."""
    place = wider.index(first) + 1 if first in wider else 0
    return [cast(Precision, first), *wider[place:]]


def make_builder(device_type: DeviceType, config: Config) -> EngineBuilder:
    """The builder for a kind of device.

    Raises:
        RuntimeError: what builds or runs its engines is missing here.
    """
    from torch_trt_ext.builders.tensorrt_build import missing_for_building
    from torch_trt_ext.runtime import available_backends

    missing = missing_for_building() if device_type == "gpu" else available_backends()["openvino"]
    if missing:
        other = "; device_type='cpu' makes engines for the CPU" if device_type == "gpu" else ""
        raise RuntimeError(f"optimize(device_type={device_type!r}) cannot build engines here: {missing}{other}")
    return TensorRTBuilder(config) if device_type == "gpu" else OpenVINOBuilder(config)
