"""Where the tensors of a model's result are, for Triton's PyTorch backend, which takes no containers in containers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torch_trt_ext.optimizer.structures import children, describe, is_mapping, is_sequence, join_path

__all__ = ["Structure", "declared_structure", "structure_of"]


@dataclass(frozen=True)
class Structure:
    """Where the tensors of a result are.

    Attributes:
        tensors: each with the positions that lead to it.
        lengths: positions of each list, and its length.
    """

    tensors: list[tuple[tuple[int, ...], Tensor]]
    lengths: list[tuple[tuple[int, ...], int]]


def structure_of(result: Any) -> Structure:
    """Lays a result flat.

    Raises:
        TypeError: it holds a dict, or what is no tensor.
    """
    found = Structure([], [])

    def visit(value: Any, positions: tuple[int, ...], path: str) -> None:
        if isinstance(value, Tensor):
            found.tensors.append((positions, value))
            return
        where = f"output {path!r}" if path else "the model's output"
        if is_mapping(value):
            entries = ", ".join(f"out[{name!r}]" for name, _ in children(value))
            raise TypeError(
                f"{where} must be a tensor, or a tuple or list of tensors, for Triton's PyTorch backend, got a dict "
                f"{describe(value)}; wrap the model in a module that returns ({entries}), and save that"
            )
        if not is_sequence(value):
            raise TypeError(
                f"{where} must be a tensor for Triton's PyTorch backend, got {describe(value)}; wrap the model in a "
                "module that returns tensors only, and save that"
            )
        if not isinstance(value, tuple):
            found.lengths.append((positions, len(value)))
        for index, (name, element) in enumerate(children(value)):
            visit(element, (*positions, index), join_path(path, name))

    visit(result, (), "")
    if not found.tensors:
        raise TypeError(f"the model's output must have a tensor for Triton's PyTorch backend, got {describe(result)}")
    return found


def declared_structure(script: torch.jit.ScriptModule, count: int) -> Structure:
    """What ``forward`` says of its result, where it cannot be run; the tensors are empty.

    Args:
        script: the model.
        count: how many outputs there are.

    Raises:
        ValueError: the result is something else.
    """
    module: Any = script._c
    kind: Any = module._get_method("forward").schema.returns[0].type
    tensor = torch.empty(0)
    elements = kind.elements() if kind.kind() == "TupleType" else []
    if kind.kind() == "TensorType" and count == 1:
        return Structure([((), tensor)], [])
    if elements and all(element.kind() == "TensorType" for element in elements) and len(elements) == count:
        return Structure([((index,), tensor) for index in range(count)], [])
    if kind.kind() == "ListType" and kind.getElementType().kind() == "TensorType":
        return Structure([((index,), tensor) for index in range(count)], [((), count)])
    raise ValueError(
        f"outputs must be given for what forward returns, {kind}, got {count}; give --output-shape once for each "
        "tensor of a tuple or list, or export where the model runs"
    )
