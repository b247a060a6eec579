"""What an optimized model is compared with: the same model run in every other way that a user could choose."""

from __future__ import annotations

import copy
import importlib
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from benchmarks.models import Case
from torch_trt_ext.builders.onnx_openvino import native_precision
from torch_trt_ext.builders.onnx_tensorrt import build_tensorrt_from_onnx, timing_cache_name
from torch_trt_ext.builders.openvino_model import import_openvino
from torch_trt_ext.builders.tensorrt_build import build_logger, import_tensorrt
from torch_trt_ext.config import KEEP_FLOAT32
from torch_trt_ext.optimizer.engine_cache import TimingCache
from torch_trt_ext.optimizer.half_precision import to_half_precision
from torch_trt_ext.optimizer.onnx_export import OPSET
from torch_trt_ext.optimizer.structures import flatten_tensors, map_tensors

Call = Callable[[], Any]

_OPENVINO_WORDS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


class Skipped(Exception):
    """A peer that cannot be compared here; the message says why."""


@dataclass(frozen=True)
class Setting:
    """What a peer is made for.

    Attributes:
        case: the model and its arguments, on the device.
        device: where it runs.
        precision: what the optimized model's engines compute in, "float32", "tf32", "float16" or "bfloat16".
        cache: folder where TensorRT's timings are kept, or None.
        shared: what one peer made and another uses too, by name.
    """

    case: Case
    device: torch.device
    precision: str
    cache: Path | None
    shared: dict[str, Any] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def half(self) -> torch.dtype:
        """The 16-bit type of peers that PyTorch runs: what the device is made for."""
        return torch.float16 if self.on_gpu else torch.bfloat16

    @property
    def is_detector(self) -> bool:
        """Whether the whole model has outputs whose shapes depend on data."""
        return self.case.postprocess is not None or not isinstance(self.case.arguments[0], Tensor)


def eager_float32(setting: Setting) -> Call:
    """PyTorch as it comes: convolutions may use TF32 on a GPU."""
    case = setting.case
    return lambda: case.plain(*case.arguments)


def _in_half(setting: Setting) -> tuple[nn.Module, tuple[Any, ...]]:
    if not setting.on_gpu and native_precision() != "bf16":
        raise Skipped("this processor does not compute in bfloat16")

    def to_half(tensor: Tensor) -> Tensor:
        tensor = tensor.to(setting.half)
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor

    model = copy.deepcopy(setting.case.plain).to(setting.half).to(memory_format=torch.channels_last)
    return model, map_tensors(setting.case.arguments, to_half)


def eager_half(setting: Setting) -> Call:
    """Weights and inputs in 16 bits and channels last, cast beforehand."""
    model, arguments = _in_half(setting)
    return lambda: model(*arguments)


def torch_compile(setting: Setting) -> Call:
    """``torch.compile`` of the 16-bit model, with CUDA graphs on a GPU."""
    if setting.is_detector:
        raise Skipped("detectors break into many graphs, of which each shape is compiled anew")
    model, arguments = _in_half(setting)
    torch._dynamo.reset()
    compiled = torch.compile(model, mode="reduce-overhead" if setting.on_gpu else "default")
    return lambda: compiled(*arguments)


def torch_tensorrt(setting: Setting) -> Call:
    """Torch-TensorRT's own compilation, float32 inputs, float16 where it chooses to."""
    if not setting.on_gpu:
        raise Skipped("is for GPUs")
    if setting.is_detector:
        raise Skipped("detectors have outputs whose shapes depend on data")
    try:
        library = importlib.import_module("torch_tensorrt")
    except ImportError:
        raise Skipped("not installed") from None
    arguments = list(setting.case.arguments)
    compiled = library.compile(
        copy.deepcopy(setting.case.plain), ir="dynamo", inputs=arguments, enabled_precisions={torch.float32, torch.half}
    )
    return lambda: compiled(*arguments)


def raw_engine(setting: Setting) -> Call:
    """The whole model as one engine, called through the engine library's own Python interface.

    Memory for inputs and outputs is bound once. Of a model with a post-processing engine, the part before is the
    engine, and that one follows.
    """
    raw = _raw(setting)
    return lambda: raw.named(raw.run())


def raw_engine_graph(setting: Setting) -> Call:
    """The raw engine's work recorded once in a CUDA graph and replayed."""
    if not setting.on_gpu:
        raise Skipped("is for GPUs")
    raw = _raw(setting)
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        answers = raw.enqueue(torch.cuda.current_stream())

    def run() -> Any:
        graph.replay()
        return raw.named(answers)

    return run


def _raw(setting: Setting) -> Any:
    """The raw engines of a setting, built once."""
    case = setting.case
    if setting.is_detector and case.trunk is None:
        raise Skipped("its post-processing has shapes that depend on data, so the whole is not one engine")
    if "raw" not in setting.shared:
        module = case.plain if case.trunk is None else case.trunk
        with torch.no_grad():
            example = module(*case.arguments)
        model = to_onnx(module, case.arguments, len(flatten_tensors(example)))
        setting.shared["raw"] = (_RawTensorRT if setting.on_gpu else _RawOpenVINO)(setting, model, example)
    return setting.shared["raw"]


class _Raw:
    """Answers in the form that the model gives them.

    Args:
        case: the model.
        example: its answers, or its trunk's where it has one.
    """

    def __init__(self, case: Case, example: Any) -> None:
        self._list = case.trunk is not None
        self._names = list(example) if isinstance(example, Mapping) else None

    def named(self, answers: Sequence[Tensor]) -> Any:
        if self._list:
            return answers
        return answers[0] if self._names is None else dict(zip(self._names, answers, strict=True))


def to_onnx(
    module: nn.Module, arguments: tuple[Any, ...], outputs: int, dynamic: Mapping[int, str] | None = None
) -> onnx.ModelProto:
    """One graph of the whole, as torch's own exporter traces it; ``dynamic`` dimensions of the first input vary."""
    buffer = io.BytesIO()
    fast_path = torch.backends.mha.get_fastpath_enabled()
    # The fused attention of PyTorch's fast path has no ONNX form.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                arguments,
                buffer,
                dynamo=False,
                opset_version=OPSET,
                input_names=["input_0"],
                output_names=[f"output_{index}" for index in range(outputs)],
                dynamic_axes={"input_0": dict(dynamic)} if dynamic else None,
            )
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return onnx.load_from_string(buffer.getvalue())


class TensorRTContext:
    """An engine's execution context with everything bound.

    Args:
        plan: the engine.
        inputs: by name; they are read at every call.
    """

    def __init__(self, plan: bytes, inputs: Mapping[str, Tensor]) -> None:
        trt = import_tensorrt()
        self._runtime = trt.Runtime(build_logger())
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise RuntimeError("TensorRT could not read the plan that it built; its messages are on stderr")
        self._context = self._engine.create_execution_context()
        self._inputs = {name: tensor.contiguous() for name, tensor in inputs.items()}
        for name, tensor in self._inputs.items():
            self._context.set_input_shape(name, tuple(tensor.shape))
            self._context.set_tensor_address(name, tensor.data_ptr())
        types = {trt.float32: torch.float32, trt.float16: torch.float16, trt.int32: torch.int32}
        self.outputs: dict[str, Tensor] = {}
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            if self._engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT:
                shape = tuple(self._context.get_tensor_shape(name))
                self.outputs[name] = torch.empty(shape, dtype=types[self._engine.get_tensor_dtype(name)], device="cuda")
                self._context.set_tensor_address(name, self.outputs[name].data_ptr())

    def enqueue(self, stream: torch.cuda.Stream) -> None:
        if not self._context.execute_async_v3(stream.cuda_stream):
            raise RuntimeError("TensorRT refused to run the engine; its messages are on stderr")


class _RawTensorRT(_Raw):
    """TensorRT's own contexts of the whole model, or of its trunk and its post-processing."""

    def __init__(self, setting: Setting, model: onnx.ModelProto, example: Any) -> None:
        case = setting.case
        super().__init__(case, example)
        if setting.precision in ("float16", "bfloat16"):
            model = to_half_precision(model, half=setting.precision, keep_float32_ops=KEEP_FLOAT32).model
        images = case.arguments[0]
        timings = TimingCache(setting.cache, timing_cache_name()) if setting.cache else None
        plan = build_tensorrt_from_onnx(
            model, [{"input_0": (tuple(images.shape),) * 3}], timing_cache=timings, what="the whole model"
        )
        self._contexts = [TensorRTContext(plan.data, {"input_0": images})]
        names = [f"output_{index}" for index in range(len(self._contexts[0].outputs))]
        if case.postprocess is not None:
            inputs, outputs, _, _ = case.postprocess.io_names()
            heads = {name: self._contexts[0].outputs[given] for name, given in zip(inputs, names, strict=True)}
            self._contexts.append(TensorRTContext(bytes(case.postprocess.plan().cpu().numpy()), heads))
            names = list(outputs)
        self._answers = [self._contexts[-1].outputs[name] for name in names]
        # TensorRT waits for the GPU on the default stream.
        self._stream = torch.cuda.Stream()
        # TensorRT leaves some of its work to the first enqueue, which a graph must not record.
        self.run()
        torch.cuda.synchronize()

    def enqueue(self, stream: torch.cuda.Stream) -> Sequence[Tensor]:
        for context in self._contexts:
            context.enqueue(stream)
        return self._answers

    def run(self) -> Sequence[Tensor]:
        return self.enqueue(self._stream)


class _OpenVINORequest:
    """An infer request with everything bound. OpenVINO does not hold the memory that it is given, so this does."""

    def __init__(self, model: onnx.ModelProto, images: Tensor, precision: str) -> None:
        openvino = import_openvino()
        core = openvino.Core()
        options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": _OPENVINO_WORDS[precision]}
        compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", options)
        self._request = compiled.create_infer_request()
        self._images = images.contiguous()
        self._request.set_input_tensor(openvino.Tensor(self._images.numpy(), shared_memory=True))
        self.outputs = [torch.empty(tuple(port.shape)) for port in compiled.outputs]
        for index, output in enumerate(self.outputs):
            self._request.set_output_tensor(index, openvino.Tensor(output.numpy(), shared_memory=True))

    def run(self) -> Sequence[Tensor]:
        self._request.infer()
        return self.outputs


class _RawOpenVINO(_Raw):
    """OpenVINO's own request of the whole model, or of its trunk before its post-processing."""

    def __init__(self, setting: Setting, model: onnx.ModelProto, example: Any) -> None:
        super().__init__(setting.case, example)
        self._request = _OpenVINORequest(model, setting.case.arguments[0], setting.precision)
        self._postprocess = setting.case.postprocess

    def run(self) -> Sequence[Tensor]:
        outputs = self._request.run()
        return outputs if self._postprocess is None else list(self._postprocess.forward(list(outputs)))


#: Peers by their names in results and tables.
PEERS: dict[str, Callable[[Setting], Call]] = {
    "eager float32": eager_float32,
    "eager 16-bit": eager_half,
    "torch.compile": torch_compile,
    "Torch-TensorRT": torch_tensorrt,
    "raw engine": raw_engine,
    "raw engine, CUDA graph": raw_engine_graph,
}
