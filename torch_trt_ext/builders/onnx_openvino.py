"""Engines for the CPU from ONNX models."""

from __future__ import annotations

import functools
import re
from typing import Any

import onnx

from torch_trt_ext.builders.onnx_inputs import InputShape, ShapeRanges, check_boundary, given_inputs, input_shapes
from torch_trt_ext.builders.openvino_model import InferencePrecision, import_openvino, plan_from_model
from torch_trt_ext.engine_plan import EnginePlan

#: Lines of OpenVINO's messages that tell of its own source, or nothing.
_NOISE = re.compile(
    r"^\s*$|^Exception from src/|^Check 'false' failed at|^FrontEnd API failed with|^Summary:|^Model wasn't fully|"
    r"^To facilitate the conversion"
)
#: Where its messages name the operators that it means.
_OPERATORS = re.compile(
    r"No conversion rule found for operations: (?P<unknown>[^\n]+)"
    r"|ONNX node '<Node\((?P<onnx>[^)]*)\)(?:: (?P<title>[^>]*))?>'"
    r"|validating node '(?:\w+::)?(?P<own>\w+)"
)

#: ONNX's names of element types, in OpenVINO's words.
_TYPES = {
    "FLOAT": "f32",
    "FLOAT16": "f16",
    "BFLOAT16": "bf16",
    "DOUBLE": "f64",
    "INT8": "i8",
    "UINT8": "u8",
    "INT16": "i16",
    "INT32": "i32",
    "INT64": "i64",
    "BOOL": "boolean",
}


@functools.cache
def native_precision() -> InferencePrecision:
    """What this machine's CPU computes in fastest: "bf16", "f16", or "f32" where 16 bits bring nothing.

    Raises:
        RuntimeError: OpenVINO is missing.
    """
    capabilities = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" in capabilities:
        return "bf16"
    return "f16" if "FP16" in capabilities else "f32"


def build_openvino_from_onnx(
    model: onnx.ModelProto, shape_ranges: ShapeRanges, inference_precision: InferencePrecision
) -> EnginePlan:
    """Turns an ONNX model into an engine for the CPU.

    The engine's inputs and outputs have the names, types and order of the ONNX graph's. It takes every shape between
    the smallest and the largest of all profiles; dimensions that are the same in all are fixed.

    Args:
        model: smaller than 2 GB; it is not changed.
        shape_ranges: one mapping an optimization profile, from an input's name to its smallest, tuned and largest
            shape. Inputs whose shape the graph fixes may be missing.
        inference_precision: what the engine computes in.

    Raises:
        RuntimeError: OpenVINO is missing, or does not take the model; the message names the operator.
        ValueError: the ranges do not fit the graph, or an output is an input or stands there twice.
    """
    openvino = import_openvino()
    check_boundary(model)
    shapes = input_shapes(model, shape_ranges)
    try:
        network = openvino.Core().read_model(model.SerializeToString())
        network.reshape({shape.name: _partial_shape(openvino, shape) for shape in shapes if _find(network, shape.name)})
    except RuntimeError as error:
        raise RuntimeError(_explain(str(error))) from error
    network = _with_all_inputs(openvino, network, model, shapes)
    for port, value in zip(network.outputs, model.graph.output, strict=True):
        port.get_tensor().set_names({value.name})
    plan = plan_from_model(network, inference_precision)
    expected = (
        tuple(value.name for value in given_inputs(model)),
        tuple(value.name for value in model.graph.output),
    )
    if (plan.input_names, plan.output_names) != expected:
        raise RuntimeError(
            f"OpenVINO's network must have the ONNX graph's inputs and outputs {expected}, got "
            f"{(plan.input_names, plan.output_names)}; keep this part in PyTorch"
        )
    return plan


def _find(network: Any, name: str) -> Any:
    return next((port for port in network.inputs if name in port.get_names()), None)


def _partial_shape(openvino: Any, shape: InputShape) -> Any:
    return openvino.PartialShape(
        [openvino.Dimension(low, high) for low, high in zip(shape.smallest, shape.largest, strict=True)]
    )


def _with_all_inputs(openvino: Any, network: Any, model: onnx.ModelProto, shapes: list[InputShape]) -> Any:
    """The network with the ONNX graph's inputs in its order: OpenVINO drops those that nothing reads."""
    parameters = []
    for value, shape in zip(given_inputs(model), shapes, strict=True):
        port = _find(network, value.name)
        if port is None:
            parameter = openvino.op.Parameter(_element_type(openvino, value), _partial_shape(openvino, shape))
            parameter.output(0).set_names({value.name})
        else:
            parameter = port.get_node()
            port.get_tensor().set_names({value.name})
        parameters.append(parameter)
    return openvino.Model([port.get_node() for port in network.outputs], parameters, network.get_friendly_name())


def _element_type(openvino: Any, value: onnx.ValueInfoProto) -> Any:
    name = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
    if name not in _TYPES:
        raise ValueError(
            f"input '{value.name}' of the ONNX graph must have one of the types {list(_TYPES)}, got {name}"
        )
    return getattr(openvino.Type, _TYPES[name])


def _explain(message: str) -> str:
    operators: list[str] = []
    for match in _OPERATORS.finditer(message):
        if match["unknown"]:
            operators += match["unknown"].strip().split(", ")
        elif match["onnx"]:
            operators.append(match["onnx"] + (f" '{match['title']}'" if match["title"] else ""))
        else:
            operators.append(match["own"])
    words = " ".join(line.strip() for line in message.splitlines() if not _NOISE.match(line))
    which = ", ".join(dict.fromkeys(operators)) or "the model"
    return f"OpenVINO {import_openvino().get_version().split('-')[0]} cannot take {which}; it said: {words}"
