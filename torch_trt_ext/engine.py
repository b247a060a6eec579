"""The engine classes as Python sees them, and what reads an engine off a plan."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from typing import Any, List  # noqa: UP035  (what TorchScript reads)

import torch
from torch import Tensor

from torch_trt_ext import runtime as _runtime  # noqa: F401  (registers the classes)

IoNames = tuple[Sequence[str], Sequence[str], Sequence[str], Sequence[str]]

__all__ = ["EngineModule", "IoNames", "OpenVINOEngineExtension", "TRTEngineExtension", "engine_call"]


def _read_bytes(plan: str | os.PathLike[str] | bytes | bytearray | memoryview) -> bytes:
    if isinstance(plan, (bytes, bytearray, memoryview)):
        return bytes(plan)
    if isinstance(plan, (str, os.PathLike)):
        with open(plan, "rb") as file:
            return file.read()
    raise TypeError(f"plan must be a path or bytes, got {type(plan).__name__}; pass plan.serialize()'s bytes")


class _EngineExtension:
    _torch_name: str

    # Returns torch's object itself, so that it can be an attribute of a module that is scripted.
    def __new__(cls, engine: bytes, io_names: IoNames) -> Any:
        names = tuple(list(part) for part in io_names)
        return cls._torch_class()(bytes(engine), names)

    @classmethod
    def _torch_class(cls) -> Any:
        return getattr(torch.classes.torch_trt_ext, cls._torch_name)

    @classmethod
    def from_plan(cls, plan: str | os.PathLike[str] | bytes) -> Any:
        """Makes an engine from a plan, with the names and types that the plan itself declares.

        Args:
            plan: path of a file, as ``trtexec --saveEngine`` writes it, or its bytes.

        Returns:
            The engine; ``forward`` takes and returns tensors in the order in which the plan lists them, see
            ``io_names()``.

        Raises:
            ValueError: these are not the bytes of a whole plan.
            RuntimeError: the plan cannot run here; names can be read only where it can.
        """
        data = _read_bytes(plan)
        torch_class = cls._torch_class()
        return torch_class(data, torch_class.read_io_names(data))


class TRTEngineExtension(_EngineExtension):
    """A TensorRT engine: ``torch.classes.torch_trt_ext.TRTEngineExtension``.

    Args:
        engine: a serialized TensorRT engine (a plan).
        io_names: ``(input_names, output_names, input_types, output_types)``. The names give the order of ``forward``'s
            lists, whatever the order in the plan. Types are "Float", "Half", "BFloat16", "Double", "Int", "Long",
            "Short", "Char", "Byte", "Bool" or "Float8_e4m3fn"; one that differs from the engine's own is cast on the
            GPU, without a check of values (an int64 beyond int32 wraps when the engine's own type is int32).

    The object has these methods, in Python and in TorchScript:

    - ``forward(List[Tensor]) -> List[Tensor]``: inputs on the engine's GPU, of the declared dtypes, in the range of one
      profile. Runs in the order of the current stream, does not wait for the GPU, makes no autograd graph.
    - ``can_run() -> bool``, ``why_not() -> str``, ``can_run_with(List[Tensor]) -> bool``.
    - ``set_cuda_graphs(bool)``, ``cuda_graphs() -> bool``: whether calls whose shapes and addresses come back are
      recorded in CUDA graphs and replayed; off at first, kept when the model is saved.
    - ``io_names()``, ``input_shapes()``, ``output_shapes()`` (-1 where they vary), ``profiles()``; kept when saved, so
      that they are known where the engine cannot run.
    - ``plan() -> Tensor`` (uint8), ``made_on()``, ``plugin_libraries()``, ``counters()``.
    - ``set_name(str)``, ``name()``: the engine is ``torch_trt_ext::<name>`` in torch's profiler; kept when saved.
    - ``streamable_weight_bytes() -> int``, ``set_weight_budget(int)``: of an engine built with weight streaming, how
      many bytes of weights may stay on the GPU; the rest comes from the host in each call. Kept when saved.
    - ``set_input_tracking(bool)``, ``wait_for_inputs()``: while inputs are tracked, the second makes the current stream
      wait until all calls so far have read theirs, so that what it does next may write to them while the calls go on.
    - ``layer_info() -> str``: JSON, an object whose "Layers" lists the layers after fusion.
    - ``set_profiling(bool)``, ``profile() -> List[Tuple[str, int, float]]``: each layer's name, calls and milliseconds
      over all calls since profiling was turned on; calls wait for their work meanwhile.

    Raises:
        ValueError: no plan, a plan that is cut short, unknown type words, names that the plan does not have.
        RuntimeError: TensorRT refuses the plan (another version, another GPU, a plugin that is not registered). Where
            TensorRT or a GPU is missing the object is made all the same, ``can_run()`` is False and only ``forward``
            fails.
    """

    _torch_name = "TRTEngineExtension"


class OpenVINOEngineExtension(_EngineExtension):
    """An OpenVINO engine on the CPU: ``torch.classes.torch_trt_ext.OpenVINOEngineExtension``.

    Same arguments, methods and errors as :class:`TRTEngineExtension`; ``engine`` is what
    ``torch_trt_ext.builders.openvino_model.pack_model`` gives, and tensors live on the CPU.
    """

    _torch_name = "OpenVINOEngineExtension"


def engine_call(engine: Any) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """A quicker ``engine.forward`` for Python: without the microseconds that torch's own call of a method takes.

    Args:
        engine: what :class:`TRTEngineExtension` or :class:`OpenVINOEngineExtension` gives, or a loaded model has.

    Returns:
        A function of the engine's inputs, a list or tuple of tensors, which returns its outputs. It keeps the engine,
        and does and raises what ``forward`` does.

    Raises:
        TypeError: this is no engine.
    """
    from torch_trt_ext._C import EngineCall

    _check_engine(engine)
    return EngineCall(engine)


class EngineModule(torch.nn.Module):
    """An engine as a module: among other modules, in ``state_dict``, and where a model is scripted.

    ``forward(List[Tensor]) -> List[Tensor]`` is the engine's. The state dict holds the engine as ``torch.jit.save``
    writes it, ``Tensor[bytes]``, uint8; ``load_state_dict`` makes the engine of it, whether the module had one before
    or not, with the promises of ``torch.jit.load``: where it cannot run, ``module.engine.why_not()`` says why.

    Args:
        engine: what :class:`TRTEngineExtension` or :class:`OpenVINOEngineExtension` gives; None for a module that gets
            its engine from ``load_state_dict``.

    Raises:
        TypeError: this is no engine.
    """

    def __init__(self, engine: Any = None) -> None:
        super().__init__()
        if engine is not None:
            _check_engine(engine)
        self.engine: Any = engine

    def forward(self, inputs: List[Tensor]) -> List[Tensor]:  # noqa: UP006  (what TorchScript reads)
        """Runs the engine."""
        outputs: List[Tensor] = self.engine.forward(inputs)  # noqa: UP006
        return outputs

    @torch.jit.unused
    def get_extra_state(self) -> Tensor:
        """What the state dict has; empty without an engine."""
        buffer = io.BytesIO()
        if self.engine is not None:
            torch.jit.save(torch.jit.script(EngineModule(self.engine)), buffer)
        return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8) if buffer.tell() else torch.empty(0)

    @torch.jit.unused
    def set_extra_state(self, state: Tensor) -> None:
        """Takes the engine that a state dict has. Raises what ``torch.jit.load`` does where it is damaged."""
        if not state.numel():
            self.engine = None
            return
        buffer = io.BytesIO(state.cpu().numpy().tobytes())
        self.engine = torch.jit.load(buffer).engine  # type: ignore[no-untyped-call]


def _check_engine(engine: Any) -> None:
    kind: Any = engine._type() if isinstance(engine, torch.ScriptObject) else None
    name = kind.name() if kind else type(engine).__name__
    if name not in (TRTEngineExtension._torch_name, OpenVINOEngineExtension._torch_name):
        raise TypeError(
            f"engine must be a TRTEngineExtension or an OpenVINOEngineExtension, got {name}; "
            "pass the engine itself, as module.engine"
        )
