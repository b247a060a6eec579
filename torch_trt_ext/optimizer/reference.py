"""Answers that others are compared with: without TF32, with the same random numbers each time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from torch_trt_ext.optimizer.messages import what_failed
from torch_trt_ext.optimizer.observation import fuser_off
from torch_trt_ext.optimizer.structures import describe, detach_clone

#: Of the random numbers that a model draws, so that two models, or two forms of one, draw the same ones.
_SEED = 0


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """PyTorch makes no gradients, convolutions do not round to TF32, and TorchScript makes no kernels of its own."""
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False), fuser_off():
        yield


def answer(model: Any, item: tuple[Any, ...]) -> Any:
    """A copy of what a model gives for copies of the arguments of one call."""
    torch.manual_seed(_SEED)
    with exact():
        return detach_clone(model(*detach_clone(item)))


def checked_answer(model: Any, item: tuple[Any, ...], origin: str) -> Any:
    """:func:`answer`, where it is not known that the model takes the item.

    Args:
        model: what is called.
        item: its arguments.
        origin: where these come from, for the message.

    Raises:
        ValueError: the model raises an error.
    """
    try:
        return answer(model, item)
    except Exception as error:  # whatever the model's code raises
        raise ValueError(refusal(origin, item, error)) from error


def refusal(origin: str, item: tuple[Any, ...], error: Exception) -> str:
    """That a model does not take arguments.

    Args:
        origin: where these come from.
        item: the arguments.
        error: what the model raised.
    """
    return (
        f"{origin} must be arguments that the model takes, got {describe(item)}, and the model raised "
        f"{type(error).__name__}: {what_failed(error)}"
    )
