"""OpenVINO models as engines for the CPU."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from torch_trt_ext.engine_plan import EnginePlan

if TYPE_CHECKING:
    import openvino

#: The OpenVINO that this package is developed with.
OPENVINO_REQUIREMENT = "openvino==2026.4.1"

InferencePrecision = Literal["f32", "bf16", "f16"]

_MAGIC = b"TTE-OVIR"
_VERSION = 1
_HEADER = struct.Struct("<8sIIQQ")
_ALIGNMENT = 64

#: Where an engine looks up, in a model's rt_info, what it shall compute in.
_PRECISION_PATH = ["torch_trt_ext", "inference_precision"]

#: OpenVINO's names of element types, in the words of the engine classes.
_TYPE_WORDS = {
    "f32": "Float",
    "f16": "Half",
    "bf16": "BFloat16",
    "f64": "Double",
    "i8": "Char",
    "u8": "Byte",
    "i16": "Short",
    "i32": "Int",
    "i64": "Long",
    "boolean": "Bool",
}


def import_openvino() -> Any:
    """Imports OpenVINO.

    Returns:
        The module.

    Raises:
        RuntimeError: it is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise RuntimeError(
            f"engines for the CPU need OpenVINO, which cannot be imported ({error}); pip install {OPENVINO_REQUIREMENT}"
        ) from error
    return openvino


def pack_model(model: openvino.Model, inference_precision: InferencePrecision = "f32") -> bytes:
    """Serializes an OpenVINO model into one block of bytes, which ``OpenVINOEngineExtension`` takes.

    The layout, little-endian: 8 bytes ``TTE-OVIR``, u32 version, u32 zero, u64 size of the XML, u64 size of the
    weights, the XML, zeros up to a multiple of 64 bytes, the weights.

    Args:
        model: any model; it is not changed.
        inference_precision: what the engine computes in. "bf16" and "f16" are faster where the processor has them.

    Raises:
        RuntimeError: OpenVINO is missing or cannot serialize the model.
        ValueError: ``inference_precision`` is none of the three.
    """
    openvino = import_openvino()
    if inference_precision not in get_args(InferencePrecision):
        raise ValueError(
            f"inference_precision must be one of {get_args(InferencePrecision)}, got {inference_precision!r}"
        )
    if inference_precision != "f32":
        model = model.clone()
        model.set_rt_info(inference_precision, _PRECISION_PATH)
    with tempfile.TemporaryDirectory() as folder:
        xml_path = Path(folder) / "model.xml"
        openvino.serialize(model, xml_path)
        xml = xml_path.read_bytes()
        weights_path = xml_path.with_suffix(".bin")
        weights = weights_path.read_bytes() if weights_path.exists() else b""
    header = _HEADER.pack(_MAGIC, _VERSION, 0, len(xml), len(weights))
    padding = bytes(-(len(header) + len(xml)) % _ALIGNMENT)
    return b"".join((header, xml, padding, weights))


def _port_name(kind: str, index: int, port: Any) -> str:
    names: set[str] = port.get_names()
    if not names:
        raise ValueError(
            f"{kind} {index} of the OpenVINO model must have a name, got none; "
            "call port.get_tensor().set_names({...}) before packing the model"
        )
    return min(names)


def _type_word(kind: str, name: str, port: Any) -> str:
    type_name: str = port.get_element_type().to_string()
    if type_name not in _TYPE_WORDS:
        raise ValueError(
            f"{kind} {name!r} of the OpenVINO model must have a type that torch has, got {type_name}; "
            "convert it in the model"
        )
    return _TYPE_WORDS[type_name]


def plan_from_model(model: openvino.Model, inference_precision: InferencePrecision = "f32") -> EnginePlan:
    """Turns an OpenVINO model into an engine, with the model's own names and types in the model's order.

    Args:
        model: every input and output must have a name; of several, the alphabetically first is used.
        inference_precision: as in :func:`pack_model`.

    Raises:
        RuntimeError: OpenVINO is missing or cannot serialize the model.
        ValueError: a port has no name, or a type that torch lacks.
    """
    data = pack_model(model, inference_precision)
    inputs = [(_port_name("input", index, port), port) for index, port in enumerate(model.inputs)]
    outputs = [(_port_name("output", index, port), port) for index, port in enumerate(model.outputs)]
    return EnginePlan(
        data=data,
        backend="openvino",
        input_names=tuple(name for name, _ in inputs),
        output_names=tuple(name for name, _ in outputs),
        input_types=tuple(_type_word("input", name, port) for name, port in inputs),
        output_types=tuple(_type_word("output", name, port) for name, port in outputs),
    )
