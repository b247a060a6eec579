"""Which nodes of a model TensorRT refuses, by what its parser says of them."""

from __future__ import annotations

from onnx import parser

from torch_trt_ext.builders.onnx_tensorrt import refused_among

MODEL = parser.parse_model(
    """<ir_version: 8, opset_import: ["": 17]> model (float[4] x) => (float[4] y) {
        a = Relu (x)
        b = Sin (a)
        c = Relu (b)
        y = Relu (c)
    }"""
)
UNKNOWN = "the parser does not support it"


def test_only_what_was_complained_of_is_refused() -> None:
    # The parser calls all that is connected with a refused node unsupported.
    assert refused_among(MODEL, [("b", "Sin", "no sine")], [[0, 1, 2]]) == [("b", "Sin", "no sine")]


def test_parts_without_a_complaint_are_refused_as_they_are() -> None:
    refused = refused_among(MODEL, [("b", "Sin", "no sine")], [[1], [2, 3]])
    assert refused == [("b", "Sin", "no sine"), ("c", "Relu", UNKNOWN), ("y", "Relu", UNKNOWN)]
    assert refused_among(MODEL, [], [[0]]) == [("a", "Relu", UNKNOWN)]


def test_a_complaint_of_no_node_refuses_the_part() -> None:
    assert refused_among(MODEL, [("", "", "no memory")], [[3]]) == [("", "", "no memory"), ("y", "Relu", UNKNOWN)]
