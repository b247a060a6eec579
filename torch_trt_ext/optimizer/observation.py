"""Running a model on its test data and keeping what was seen."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from torch_trt_ext import _C
from torch_trt_ext.optimizer.messages import what_failed
from torch_trt_ext.optimizer.script_module import wrap
from torch_trt_ext.optimizer.structures import detach_clone, flatten_tensors

T = TypeVar("T")

#: Makes a model in its initial state, sharing nothing that runs write to.
ModelMaker = Callable[[], Any]


@contextlib.contextmanager
def session(max_calls: int = 1) -> Iterator[int]:
    """Opens a session of recordings; its number is for ``PreparedModel.observed`` and recording modules.

    Args:
        max_calls: how many calls of one subgraph keep their inputs.
    """
    number = _C.open_session(max_calls)
    try:
        yield number
    finally:
        _C.close_session(number)


def run(module: Any, items: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Calls a module on copies of each item's arguments, without gradients, and returns copies of the outputs."""
    outputs = []
    with torch.no_grad():
        for item in items:
            outputs.append(detach_clone(module(*detach_clone(item))))
    return outputs


def observe(model: _C.PreparedModel, items: Sequence[tuple[Any, ...]]) -> _C.Session:
    """Runs the prepared model on all items and gives what was seen of its values and branches."""
    with session() as number:
        for item in items:
            # State that a run writes to starts anew for each item, as it does for the other runs on it.
            observed = wrap(model.observed(number))
            run(observed, [item])
        return _C.read_session(number)


def repeatable(make: ModelMaker, item: tuple[Any, ...]) -> Callable[[], object]:
    """A call of a model, to be timed: it finds arguments and buffers as the first one did.

    Putting back what the model wrote to is part of the call. The model runs once here.

    Args:
        make: makes the model.
        item: its arguments; they are copied.
    """
    with torch.no_grad():
        model, arguments = make(), detach_clone(item)
        tensors = _state(model, arguments)
        versions = [tensor._version for tensor in tensors]
        model(*arguments)
        written = [number for number, tensor in enumerate(tensors) if tensor._version != versions[number]]
        if not written:
            return lambda: model(*arguments)
        initial = _state(make(), detach_clone(item))
    pairs = [(tensors[number], initial[number]) for number in written]

    def call() -> object:
        for tensor, before in pairs:
            tensor.copy_(before)
        return model(*arguments)

    return call


def despite_fuser(measure: Callable[[], T]) -> tuple[T, str]:
    """What a function gives that calls a model again and again, if need be without TorchScript's fuser.

    On a GPU TorchScript makes kernels of its own after the first calls, and for some models, those among them that met
    an empty tensor first, this fails ("Global alloc not supported yet").

    Returns:
        What it gives, and what failed with the fuser; empty where nothing did.

    Raises:
        Exception: whatever the model's code raises without it, too.
    """
    try:
        return measure(), ""
    except Exception as error:  # whatever the model's code raises
        problem = what_failed(error)
    return without_fuser(measure), problem


def without_fuser(measure: Callable[[], T]) -> T:
    """What a function gives that calls a model again and again, without TorchScript's fuser.

    Raises:
        Exception: whatever the model's code raises.
    """
    with fuser_off():
        try:
            return measure()
        except Exception:  # what was compiled with the fuser before still has its kernels
            with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
                return measure()


@contextlib.contextmanager
def fuser_off() -> Iterator[None]:
    """Within it, code that runs the first times is not given to TorchScript's fuser.

    On a GPU that one compiles kernels, for large models for minutes (DenseNet-121: over 140 s).
    """
    before = torch._C._jit_texpr_fuser_enabled()
    torch._C._jit_set_texpr_fuser_enabled(False)
    try:
        yield
    finally:
        torch._C._jit_set_texpr_fuser_enabled(before)


def _state(model: Any, arguments: tuple[Any, ...]) -> list[Tensor]:
    return [*(tensor for _, tensor in flatten_tensors(arguments)), *model.buffers(), *model.parameters()]
