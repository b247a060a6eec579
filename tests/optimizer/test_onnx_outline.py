"""Models without their weights, and with them again."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from torch_trt_ext.optimizer.onnx_folding import fold_shapes, value_shapes
from torch_trt_ext.optimizer.onnx_outline import outline_of, put_weights

FLOAT = onnx.TensorProto.FLOAT

RANDOM = np.random.default_rng(0)
WEIGHTS = {
    "weight": RANDOM.normal(size=(16, 8)).astype(np.float32),
    "bias": RANDOM.normal(size=8).astype(np.float32),
    "unread": RANDOM.normal(size=(16, 16)).astype(np.float32),
    "given": RANDOM.normal(size=(10, 10)).astype(np.float32),
}


def constant(name: str, value: NDArray[np.generic]) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], name=name, value=numpy_helper.from_array(value))


def layer() -> onnx.ModelProto:
    """A linear layer, a slice of everything, a shape that is computed, a constant that is given, and one for nobody."""
    nodes = [
        *(constant(name, value) for name, value in WEIGHTS.items()),
        constant("zero", np.array([0])),
        constant("all", np.array([2**62])),
        constant("axis", np.array([0])),
        helper.make_node("MatMul", ["x", "weight"], ["product"]),
        helper.make_node("Slice", ["weight", "zero", "all", "axis"], ["whole"]),
        helper.make_node("Shape", ["whole"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["rows"]),
        helper.make_node("Add", ["product", "bias"], ["y"]),
        helper.make_node("ReduceSum", ["whole"], ["sum"]),
        helper.make_node("Mul", ["rows", "rows"], ["z"]),
    ]
    outputs = [helper.make_tensor_value_info("given", FLOAT, [10, 10])]
    outputs += [
        helper.make_tensor_value_info("y", FLOAT, ["n", 8]),
        helper.make_tensor_value_info("sum", FLOAT, [1, 1]),
    ]
    outputs += [helper.make_tensor_value_info("z", onnx.TensorProto.INT64, [1])]
    inputs = [helper.make_tensor_value_info("x", FLOAT, ["n", 16])]
    graph = helper.make_graph(nodes, "layer", inputs, outputs, doc_string="a layer")
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="tests", doc_string="all"
    )


def check_same(model: onnx.ModelProto, other: onnx.ModelProto) -> None:
    x = RANDOM.normal(size=(3, 16)).astype(np.float32)
    results = [ReferenceEvaluator(each).run(None, {"x": x}) for each in (model, other)]
    for expected, got in zip(*results, strict=True):
        np.testing.assert_array_equal(got, expected)
    assert [value.name for value in other.graph.input] == ["x"]


def test_outline_has_inputs_for_weights() -> None:
    model = layer()
    before = model.SerializeToString()
    outline, weights = outline_of(model)
    assert model.SerializeToString() == before
    assert [node.output[0] for node in weights] == ["weight", "unread"]
    assert [value.name for value in outline.graph.input] == ["x", "weight", "unread"]
    # What is given stays: nobody may take an input for an output. So does what may be a shape.
    assert outline.ByteSize() < model.ByteSize() - sum(WEIGHTS[name].nbytes for name in ("weight", "unread"))
    assert {node.output[0] for node in outline.graph.node} >= {"given", "bias", "zero"}
    assert (outline.producer_name, outline.doc_string, outline.graph.doc_string) == ("tests", "all", "a layer")
    assert outline.opset_import == model.opset_import

    def shapes(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
        return value_shapes(onnx.shape_inference.infer_shapes(model).graph)

    of_outline, of_model = shapes(outline), shapes(model)
    assert of_outline["product"] == of_model["product"] == (None, 8)
    assert {name: of_outline[name] for name in of_model} == of_model


def test_weights_are_put_back() -> None:
    model = layer()
    outline, weights = outline_of(model)
    whole = put_weights(outline, weights)
    check_same(model, whole)
    onnx.checker.check_model(whole)
    assert "unread" not in {name for node in whole.graph.node for name in node.output}


def test_folding_goes_around_weights() -> None:
    model = layer()
    folded = fold_shapes(model)
    check_same(model, folded)
    kinds = {node.op_type for node in folded.graph.node}
    assert kinds == {"Constant", "MatMul", "Add", "ReduceSum", "Mul"}
    # It is the weight's own sum, without a slice of everything.
    (total,) = [node for node in folded.graph.node if node.op_type == "ReduceSum"]
    assert list(total.input) == ["weight"]
