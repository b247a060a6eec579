"""The ``config.pbtxt`` of a model that Triton's PyTorch backend serves, as data and as text.

Field names and types are those of Triton's ``ModelConfig`` message; what the backend makes of them is in
``docs/how-to/triton.md``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

__all__ = ["TRITON_TYPES", "ServedModel", "ServedTensor"]

#: What the backend knows of torch's dtypes; Triton's bfloat16, unsigned and string types have none there.
TRITON_TYPES = {
    torch.bool: "TYPE_BOOL",
    torch.uint8: "TYPE_UINT8",
    torch.int8: "TYPE_INT8",
    torch.int16: "TYPE_INT16",
    torch.int32: "TYPE_INT32",
    torch.int64: "TYPE_INT64",
    torch.float16: "TYPE_FP16",
    torch.float32: "TYPE_FP32",
    torch.float64: "TYPE_FP64",
}

#: Calls of a warm-up: torch's executor settles in two, and an engine's CUDA graph is recorded in the third.
_WARMUP_CALLS = 3

#: Fields whose values are names of an enumeration.
_ENUMERATIONS = {"data_type", "kind"}


@dataclass(frozen=True)
class ServedTensor:
    """An input or output as the model itself takes or gives it.

    Attributes:
        name: in requests and responses.
        dtype: one of :data:`TRITON_TYPES`.
        shape: all sizes, the batch's included; -1 where they vary.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    def fields(self, batched: bool) -> dict[str, Any]:
        """The fields of ``ModelInput`` and ``ModelOutput``.

        Args:
            batched: whether the first dimension is the batch's, which Triton keeps to itself.
        """
        dims = list(self.shape[1:] if batched else self.shape)
        fields: dict[str, Any] = {"name": self.name, "data_type": TRITON_TYPES[self.dtype], "dims": dims or [1]}
        # Triton knows no tensor without dimensions.
        return fields if dims else {**fields, "reshape": {"shape": []}}


@dataclass(frozen=True)
class ServedModel:
    """What ``config.pbtxt`` says.

    Attributes:
        name: of the model and its folder.
        inputs: in the order of ``forward``.
        outputs: in the order in which the model gives them.
        example_shapes: shapes of the inputs in one call, to warm up with.
        max_batch_size: the largest batch that Triton makes; 0 where it makes none.
        preferred_batch_sizes: those it tries to make.
        max_queue_delay_us: how long a request may wait for others, in microseconds.
        kind: whether instances run on GPUs or on the CPU.
        instances: how many there are, on each GPU.
        gpus: which ones; empty for all.
        parameters: of the backend.
        warmup: whether the server calls the model before its first request.
    """

    name: str
    inputs: tuple[ServedTensor, ...]
    outputs: tuple[ServedTensor, ...]
    example_shapes: tuple[tuple[int, ...], ...]
    max_batch_size: int = 0
    preferred_batch_sizes: tuple[int, ...] = ()
    max_queue_delay_us: int = 100
    kind: Literal["gpu", "cpu"] = "gpu"
    instances: int = 1
    gpus: tuple[int, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    warmup: bool = True

    def fields(self) -> dict[str, Any]:
        """The fields of ``ModelConfig``."""
        batched = self.max_batch_size > 0
        group: dict[str, Any] = {"count": self.instances, "kind": f"KIND_{self.kind.upper()}"}
        if self.gpus:
            group["gpus"] = list(self.gpus)
        fields: dict[str, Any] = {
            "name": self.name,
            "backend": "pytorch",
            "platform": "pytorch_libtorch",
            "max_batch_size": self.max_batch_size,
            "input": [tensor.fields(batched) for tensor in self.inputs],
            "output": [tensor.fields(batched) for tensor in self.outputs],
            "instance_group": [group],
            "parameters": [
                {"key": key, "value": {"string_value": value}} for key, value in sorted(self.parameters.items())
            ],
        }
        if batched:
            fields["dynamic_batching"] = {
                "preferred_batch_size": list(self.preferred_batch_sizes),
                "max_queue_delay_microseconds": self.max_queue_delay_us,
            }
        if self.warmup:
            sizes = sorted({1, *self.preferred_batch_sizes, self.max_batch_size}) if batched else [0]
            fields["model_warmup"] = [self._warmup(size) for size in sizes]
        return fields

    def _warmup(self, batch_size: int) -> dict[str, Any]:
        inputs = []
        for tensor, shape in zip(self.inputs, self.example_shapes, strict=True):
            dims = list(shape[1:] if self.max_batch_size else shape)
            value = {"data_type": TRITON_TYPES[tensor.dtype], "dims": dims or [1], "zero_data": True}
            inputs.append({"key": tensor.name, "value": value})
        name = f"batch of {batch_size}" if batch_size else "one request"
        return {"name": name, "batch_size": batch_size, "inputs": inputs, "count": _WARMUP_CALLS}

    def text(self) -> str:
        """The file."""
        return "".join(_lines(name, value, "") for name, value in self.fields().items())


def _lines(name: str, value: Any, indent: str) -> str:
    """A field in protobuf's text format."""
    if isinstance(value, Mapping):
        return f"{indent}{name} {_message(value, indent)}\n"
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        inside = indent + "  "
        messages = ",\n".join(inside + _message(element, inside) for element in value)
        return f"{indent}{name} [\n{messages}\n{indent}]\n"
    return f"{indent}{name}: {_scalar(name, value)}\n"


def _message(fields: Mapping[str, Any], indent: str) -> str:
    return "{\n" + "".join(_lines(name, value, indent + "  ") for name, value in fields.items()) + indent + "}"


def _scalar(name: str, value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(str(element) for element in value)}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # JSON's escapes are protobuf's, but for those of characters beyond ASCII, which need none.
        return value if name in _ENUMERATIONS else json.dumps(value, ensure_ascii=False)
    return str(value)
