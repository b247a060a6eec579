"""Running a model on its test data and keeping what was seen."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from torch_trt_ext import _C
from torch_trt_ext.optimizer.structures import detach_clone


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
            run(torch.jit._recursive.wrap_cpp_module(model.observed(number)), [item])
        return _C.read_session(number)
