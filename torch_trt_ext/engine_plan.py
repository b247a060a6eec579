"""An engine that was built or read, before it is handed to an engine class."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

Backend = Literal["tensorrt", "openvino"]


@dataclass(frozen=True)
class EnginePlan:
    """A serialized engine with the names and types of its inputs and outputs.

    It also answers to the three calls that scripts written for ``tensorrt.ICudaEngine`` up to TensorRT 8 make
    (``num_bindings``, ``get_binding_name``, ``serialize``), so that such scripts run unchanged.

    Attributes:
        data: the serialized engine: a TensorRT plan, or an OpenVINO model in this package's container.
        backend: which engine class runs it.
        input_names: in the order in which ``forward`` takes the tensors.
        output_names: in the order in which ``forward`` returns them.
        input_types: type words ("Float", "Half", "Int", "Long", "Bool", ...), one an input.
        output_types: type words, one an output.
    """

    data: bytes
    backend: Backend
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    input_types: tuple[str, ...]
    output_types: tuple[str, ...]

    @property
    def io_spec(self) -> tuple[list[str], list[str], list[str], list[str]]:
        """The second argument of an engine class's constructor."""
        return (
            list(self.input_names),
            list(self.output_names),
            list(self.input_types),
            list(self.output_types),
        )

    @property
    def num_bindings(self) -> int:
        """Number of inputs and outputs together."""
        return len(self.input_names) + len(self.output_names)

    def get_binding_name(self, index: int) -> str:
        """Name of binding ``index``: inputs first, then outputs.

        Raises:
            IndexError: ``index`` is not in ``[0, num_bindings)``.
        """
        if not 0 <= index < self.num_bindings:
            raise IndexError(f"binding index must be in [0, {self.num_bindings}), got {index}")
        return (self.input_names + self.output_names)[index]

    def serialize(self) -> bytes:
        """The serialized engine, as ``TRTEngineExtension`` takes it."""
        return self.data

    def __bytes__(self) -> bytes:
        return self.data

    def __repr__(self) -> str:
        return (
            f"EnginePlan({self.backend}, {len(self.data)} bytes, inputs={list(self.input_names)}, "
            f"outputs={list(self.output_names)})"
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the serialized engine to ``path``."""
        with open(path, "wb") as file:
            file.write(self.data)
