"""8-bit parts of ONNX models: where they go, their ranges, and what they round."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

pytest.importorskip("onnxruntime")

from torch_trt_ext.config import Config
from torch_trt_ext.optimizer.engine_builder import TensorRTBuilder
from torch_trt_ext.optimizer.quantization import (
    CalibrationMethod,
    calibrate,
    missing_for_quantization,
    quantizable_nodes,
    to_8_bit,
)


def _model(*, constants_are_nodes: bool = False, rows: int | str = "n") -> onnx.ModelProto:
    """x [rows, 8] through a product with a constant, one of two activations, and a Gemm with a bias."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(size=(8, 8)).astype(np.float32),
        "w2": rng.normal(size=(8, 4)).astype(np.float32),
        "b2": rng.normal(size=4).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], "first"),
        helper.make_node("Transpose", ["a"], ["at"], "turn", perm=[1, 0]),
        helper.make_node("MatMul", ["a", "at"], ["square"], "of activations"),
        helper.make_node("MatMul", ["square", "a"], ["again"], "of activations again"),
        helper.make_node("Gemm", ["again", "w2", "b2"], ["y"], "last"),
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    if constants_are_nodes:
        nodes = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in tensors] + nodes
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, 4])],
        [] if constants_are_nodes else tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _calls(count: int = 4, *, outlier: float = 0.0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    calls = [{"x": rng.uniform(-1, 1, size=(64, 8)).astype(np.float32)} for _ in range(count)]
    if outlier:
        calls[-1]["x"][0, 0] = outlier
    return calls


def _run(model: onnx.ModelProto, x: Any) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def _scale_of_x(model: onnx.ModelProto) -> float:
    (node,) = (node for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "x")
    (scale,) = (tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
    return float(numpy_helper.to_array(scale))


@pytest.mark.parametrize("constants_are_nodes", [False, True])
def test_only_products_with_constants_are_in_8_bits(constants_are_nodes: bool) -> None:
    model = _model(constants_are_nodes=constants_are_nodes)
    assert quantizable_nodes(model) == ["first", "last"]
    before = model.SerializeToString()
    quantized = to_8_bit(model, calibrate(model, _calls(), "max"))
    assert model.SerializeToString() == before
    onnx.checker.check_model(quantized, full_check=True)
    kinds = Counter(node.op_type for node in quantized.graph.node)
    # One pair for each input; weights are stored in 8 bits and only read.
    assert kinds["QuantizeLinear"] == 2
    assert kinds["DequantizeLinear"] == 4
    stored = [tensor for tensor in quantized.graph.initializer if tensor.data_type == TensorProto.INT8 and tensor.dims]
    assert sorted(tuple(tensor.dims) for tensor in stored if len(tensor.dims) == 2) == [(8, 4), (8, 8)]
    x = _calls()[1]["x"]
    exact, rounded = _run(model, x), _run(quantized, x)
    error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    assert 1e-4 < error < 0.03


def _prepare(model: onnx.ModelProto, sensitive: dict[str, str]) -> tuple[onnx.ModelProto, dict[str, str]]:
    prepared, kept = TensorRTBuilder(Config())._prepare(model, "int8", sensitive)
    onnx.checker.check_model(prepared, full_check=True)
    return prepared, kept


def _types(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in inferred.initializer}


def _before(model: onnx.ModelProto, name: str) -> list[onnx.NodeProto]:
    """What makes the inputs of the node of a name."""
    makers = {node.output[0]: node for node in model.graph.node}
    (node,) = [node for node in model.graph.node if node.name == name]
    return [makers[value] for value in node.input if value in makers]


def test_tensorrt_gets_pairs_and_products_in_float16() -> None:
    model = _model()
    quantized = to_8_bit(model, calibrate(model, _calls(), "max"))
    prepared, kept = _prepare(quantized, {"turn": "of the test"})
    assert kept["turn"] == "of the test"
    assert not {"first", "last"} & kept.keys()
    types = _types(prepared)
    for node in prepared.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert types[node.input[1]] == TensorProto.FLOAT16
    for name, values in {"first": 2, "last": 2}.items():
        pairs = [node for node in _before(prepared, name) if node.op_type == "DequantizeLinear"]
        assert len(pairs) == values
        assert {types[pair.output[0]] for pair in pairs} == {TensorProto.FLOAT16}
    # ONNX Runtime's kernel of QuantizeLinear in float16 cuts where it should round; this is ONNX's own.
    x = _calls()[1]["x"]
    (answer,) = ReferenceEvaluator(prepared).run(None, {"x": x})
    expected = _run(quantized, x)
    assert np.linalg.norm(answer - expected) < 0.02 * np.linalg.norm(expected)


@pytest.mark.parametrize("why", ["sensitive", "rough"])
def test_tensorrt_gets_a_product_that_float16_does_not_suit_in_float32(why: str) -> None:
    model = _model()
    if why == "rough":
        (first,) = [tensor for tensor in model.graph.initializer if tensor.name == "w1"]
        weights = numpy_helper.to_array(first).copy()
        weights[:, 3] *= 1e-5
        first.CopyFrom(numpy_helper.from_array(weights, "w1"))
    quantized = to_8_bit(model, calibrate(model, _calls(), "max"))
    prepared, kept = _prepare(quantized, {"first": "of the test"} if why == "sensitive" else {})
    assert kept["first"].startswith("of the test" if why == "sensitive" else "a scale of ")
    assert "last" not in kept
    types = _types(prepared)
    before = _before(prepared, "first")
    assert [node.op_type for node in before] == ["DequantizeLinear", "DequantizeLinear"]
    assert {types[node.output[0]] for node in before} == {TensorProto.FLOAT}
    assert {types[node.output[0]] for node in _before(prepared, "last")} == {TensorProto.FLOAT16}


def test_nodes_that_are_kept_stay_as_they_are() -> None:
    model = _model()
    calibration = calibrate(model, _calls(), "max")
    kinds = Counter(node.op_type for node in to_8_bit(model, calibration, keep={"first"}).graph.node)
    assert (kinds["QuantizeLinear"], kinds["DequantizeLinear"]) == (1, 2)
    untouched = to_8_bit(model, calibration, keep={"first", "last"})
    assert "QuantizeLinear" not in {node.op_type for node in untouched.graph.node}


def test_weight_that_a_kept_node_shares_is_rounded_for_the_others_alone() -> None:
    model = _model()
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "w1")
    model.graph.node[2].op_type, model.graph.node[2].name = "MatMul", "shared"
    model.graph.node[2].input[:] = ["a", "w1"]
    model.graph.node[3].input[:] = ["square", "w1"]
    quantized = to_8_bit(model, calibrate(model, _calls(), "max"), keep={"shared"})
    nodes = {node.name: node for node in quantized.graph.node}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer if tensor.dims}
    np.testing.assert_array_equal(constants[nodes["shared"].input[1]], numpy_helper.to_array(weight))
    rounded = {nodes["first"].input[1], nodes["of activations again"].input[1]}
    assert len(rounded) == 1
    assert not rounded & constants.keys()


@pytest.mark.parametrize(
    ("method", "least", "most"), [("max", 50.0, 50.0), ("percentile", 0.9, 1.1), ("entropy", 1.0, 10.0)]
)
def test_ranges_follow_the_method(method: CalibrationMethod, least: float, most: float) -> None:
    model = _model()
    calls = _calls(8, outlier=50.0)
    reach = 127 * _scale_of_x(to_8_bit(model, calibrate(model, calls, method, 99.9)))
    assert least * 0.99 <= reach <= most * 1.01


def test_ranges_are_symmetric_and_of_all_calls() -> None:
    model = _model()
    calls = [{"x": np.full((2, 8), value, dtype=np.float32)} for value in (0.25, -3.0, 1.0)]
    quantized = to_8_bit(model, calibrate(model, calls, "max"))
    assert 127 * _scale_of_x(quantized) == pytest.approx(3.0, rel=0.01)
    zero_points = [
        numpy_helper.to_array(tensor)
        for tensor in quantized.graph.initializer
        if "zero_point" in tensor.name and tensor.data_type == TensorProto.INT8
    ]
    assert zero_points
    assert all((points == 0).all() for points in zero_points)


def test_calibration_needs_calls() -> None:
    with pytest.raises(ValueError, match="calibration must have at least one call, got none; pass calib_data"):
        calibrate(_model(), [], "max")


def test_model_that_onnx_runtime_does_not_run_fails() -> None:
    with pytest.raises(RuntimeError, match="ONNX Runtime cannot calibrate the model: "):
        calibrate(_model(), [{"x": np.zeros((2, 9), dtype=np.float32)}], "max")


def test_calls_of_another_batch_calibrate() -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(6, 8)).astype(np.float32)
    pairs = [{"x": rows[first : first + 2]} for first in (0, 2, 4)]
    others = [{"x": rows[:1]}, {"x": rows[1:]}]
    model = _model(rows=2)
    scales = [_scale_of_x(to_8_bit(model, calibrate(model, calls, "max"))) for calls in (pairs, others)]
    assert scales[0] == pytest.approx(scales[1], rel=1e-6)
    quantized = to_8_bit(model, calibrate(model, others, "max"))
    assert [dim.dim_value for dim in quantized.graph.input[0].type.tensor_type.shape.dim] == [2, 8]


def test_call_whose_shape_nodes_refuse_is_said() -> None:
    fits = {"x": np.ones((2, 8), dtype=np.float32)}
    misfit = r"calib_data must have .*: x is \[2, 8\] with test_data, \[2, 9\] with calib_data"
    with pytest.raises(RuntimeError, match=misfit):
        calibrate(_model(rows=2), [fits, {"x": np.ones((2, 9), dtype=np.float32)}], "max")


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    model = _model()
    to_8_bit(model, calibrate(model, _calls(), "entropy"))
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_missing_onnx_runtime_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime.quantization", None)
    assert missing_for_quantization().startswith("8-bit engines need ONNX Runtime to quantize models")
    assert missing_for_quantization().endswith("pip install onnxruntime")
    with pytest.raises(RuntimeError, match="8-bit engines need ONNX Runtime"):
        calibrate(_model(), _calls(), "max")
