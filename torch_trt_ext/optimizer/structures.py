"""Nested arguments and results of a model: tuples, lists and dicts of tensors, and everything else as leaves."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

#: Longest list of elements that :func:`describe` writes out at one level.
_DESCRIBED_ELEMENTS = 8


def is_mapping(value: object) -> bool:
    """Whether a value is a dict of some kind, TorchScript's included."""
    return isinstance(value, (Mapping, torch.ScriptDict))


def is_sequence(value: object) -> bool:
    """Whether a value is a tuple (named ones included) or a list, TorchScript's included; a string is neither."""
    return isinstance(value, (tuple, list, torch.ScriptList))


def children(value: Any) -> list[tuple[str, Any]]:
    """What a container holds, with the word that names each in a path.

    Args:
        value: anything.

    Returns:
        Pairs in the container's order: keys of dicts, field names of named tuples, and positions otherwise. Empty for
        everything that is not a container.
    """
    if is_mapping(value):
        return [(str(key), element) for key, element in value.items()]
    if is_sequence(value):
        elements = list(value)
        names = getattr(value, "_fields", None) or range(len(elements))
        return [(str(name), element) for name, element in zip(names, elements, strict=True)]
    return []


def join_path(path: str, name: str) -> str:
    """The path of a container's element, as ``images.0``; the outermost container's path is empty."""
    return f"{path}.{name}" if path else name


def flatten_tensors(value: Any) -> list[tuple[str, Tensor]]:
    """Finds the tensors in a nested value.

    Args:
        value: a tensor, or tuples, lists and dicts of them, with leaves of any other kind, which are passed over.

    Returns:
        Each tensor with its path (``1.boxes``; empty when ``value`` is a tensor), depth first. A tensor that occurs
        twice is there twice.
    """
    found: list[tuple[str, Tensor]] = []

    def visit(path: str, element: Any) -> None:
        if isinstance(element, Tensor):
            found.append((path, element))
        for name, child in children(element):
            visit(join_path(path, name), child)

    visit("", value)
    return found


def map_tensors(value: Any, fn: Callable[[Tensor], Any]) -> Any:
    """Rebuilds a nested value with each tensor replaced.

    Args:
        value: as for :func:`flatten_tensors`.
        fn: called once for each occurrence of a tensor, in the order of :func:`flatten_tensors`.

    Returns:
        Containers of the same kinds, all new; leaves that are not tensors are the same objects.
    """
    if isinstance(value, Tensor):
        return fn(value)
    if is_mapping(value):
        mapped = {key: map_tensors(element, fn) for key, element in value.items()}
        if isinstance(value, torch.ScriptDict):
            return torch.ScriptDict(mapped)
        # A copy keeps what a subclass needs besides its entries, as defaultdict's factory.
        rebuilt = copy.copy(value)
        for key, element in mapped.items():
            rebuilt[key] = element
        return rebuilt
    if is_sequence(value):
        elements = [map_tensors(element, fn) for element in value]
        if isinstance(value, torch.ScriptList):
            return torch.ScriptList(elements)
        return type(value)(*elements) if hasattr(value, "_fields") else type(value)(elements)
    return value


def detach_clone(value: Any, device: torch.device | str | None = None) -> Any:
    """A copy that shares no memory with the original, so that a model that writes its inputs reaches only the copy.

    Args:
        value: as for :func:`flatten_tensors`.
        device: where the copy goes; None leaves each tensor where it is.

    Returns:
        The same structure; tensors without gradient history. A tensor object that occurs twice is one object in
        the copy too, so that a write is seen in both places as it would have been; two views of one storage become
        independent.
    """
    copies: dict[int, Tensor] = {}

    def clone(tensor: Tensor) -> Tensor:
        if id(tensor) not in copies:
            copies[id(tensor)] = tensor.detach().to(tensor.device if device is None else device, copy=True)
        return copies[id(tensor)]

    return map_tensors(value, clone)


def to_device(value: Any, device: torch.device | str) -> Any:
    """The same structure with its tensors on a device; tensors that are there already are not copied.

    Args:
        value: as for :func:`flatten_tensors`.
        device: where to.
    """
    return map_tensors(value, lambda tensor: tensor.to(device))


def describe(value: Any) -> str:
    """What a value is, on one line for messages: ``(float32[1, 3, 8, 8], {'boxes': float32[4, 4]}, 3)``."""
    if isinstance(value, Tensor):
        return f"{dtype_name(value.dtype)}{list(value.shape)}"
    if not is_mapping(value) and not is_sequence(value):
        return repr(value) if value is None or isinstance(value, (bool, int, float, str)) else type(value).__name__
    named = is_mapping(value) or hasattr(value, "_fields")
    parts = [f"{name!r}: {describe(element)}" if named else describe(element) for name, element in children(value)]
    if len(parts) > _DESCRIBED_ELEMENTS:
        parts[_DESCRIBED_ELEMENTS:] = [f"... {len(parts) - _DESCRIBED_ELEMENTS} more"]
    inside = ", ".join(parts)
    if is_mapping(value):
        return f"{{{inside}}}"
    if isinstance(value, tuple):
        return f"({inside},)" if len(parts) == 1 else f"({inside})"
    return f"[{inside}]"


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")
