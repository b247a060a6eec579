"""Engines for the CPU from ONNX models: shapes, names, types, answers, and what is refused."""

from __future__ import annotations

import io
import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.optimizer.tiny_models import assert_close, optimize
from torch_trt_ext import Config, OpenVINOEngineExtension
from torch_trt_ext.engine_plan import EnginePlan

ov = pytest.importorskip("openvino")
onnx = pytest.importorskip("onnx")
from onnx import parser  # noqa: E402

from torch_trt_ext.builders.onnx_openvino import build_openvino_from_onnx, native_precision  # noqa: E402
from torch_trt_ext.optimizer.engine_builder import OpenVINOBuilder  # noqa: E402
from torch_trt_ext.optimizer.half_precision import to_half_precision  # noqa: E402

#: Sums of at most a few hundred float32 products, in another order than torch's.
FLOAT32_TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
#: Weights with the 11 bits of float16.
FLOAT16_TOLERANCE = {"rtol": 1e-2, "atol": 1e-2}

#: A batch of any size.
ROWS = {"x": ((1, 3), (2, 3), (8, 3))}


class ConvolutionNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(x)
        return x, x.mean((2, 3))


@pytest.fixture(scope="module")
def net() -> ConvolutionNet:
    torch.manual_seed(0)
    return ConvolutionNet().eval()


@pytest.fixture(scope="module")
def net_model(net: ConvolutionNet) -> Any:
    file = io.BytesIO()
    axes = {"images": {0: "batch", 2: "height", 3: "width"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            (torch.zeros(1, 3, 8, 8),),
            file,
            dynamo=False,
            input_names=["images"],
            output_names=["map", "a_mean"],
            dynamic_axes=axes,
        )
    return onnx.load_from_string(file.getvalue())


def parse(body: str) -> Any:
    return parser.parse_model(f'<ir_version: 9, opset_import: ["": 18, "mine": 1]> g {body}')


def engine_of(plan: EnginePlan) -> Any:
    return OpenVINOEngineExtension(bytes(plan), plan.io_spec)


def shapes(low: tuple[int, ...], high: tuple[int, ...]) -> dict[str, Any]:
    return {"images": (low, low, high)}


def test_one_shape_makes_a_static_engine(net: ConvolutionNet, net_model: Any) -> None:
    plan = build_openvino_from_onnx(net_model, [shapes((2, 3, 8, 8), (2, 3, 8, 8))], "f32")
    engine = engine_of(plan)
    assert engine.io_names() == (["images"], ["map", "a_mean"], ["Float"], ["Float", "Float"])
    assert engine.input_shapes() == [[2, 3, 8, 8]]
    assert engine.output_shapes() == [[2, 4, 6, 6], [2, 4]]
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(engine.forward([x]), list(net(x)), **FLOAT32_TOLERANCE)
    assert not engine.can_run_with([torch.randn(1, 3, 8, 8)])


def test_several_profiles_make_one_range(net: ConvolutionNet, net_model: Any) -> None:
    before = net_model.SerializeToString()
    profiles = [shapes((1, 3, 8, 8), (4, 3, 16, 8)), shapes((2, 3, 12, 8), (8, 3, 12, 8))]
    engine = engine_of(build_openvino_from_onnx(net_model, profiles, "f32"))
    assert net_model.SerializeToString() == before
    assert engine.input_shapes() == [[-1, 3, -1, 8]]
    smallest, _, largest = engine.profiles()[0][0]
    assert (smallest, largest) == ([1, 3, 8, 8], [8, 3, 16, 8])
    for shape in [(1, 3, 8, 8), (8, 3, 16, 8), (3, 3, 11, 8)]:
        x = torch.randn(shape)
        with torch.no_grad():
            torch.testing.assert_close(engine.forward([x]), list(net(x)), **FLOAT32_TOLERANCE)
    assert not engine.can_run_with([torch.randn(9, 3, 8, 8)])


def test_a_half_model_runs(net: ConvolutionNet, net_model: Any) -> None:
    half = to_half_precision(net_model, keep_float32_ops=["ReduceMean"])
    assert half.half_nodes > 0
    plan = build_openvino_from_onnx(half.model, [shapes((1, 3, 8, 8), (2, 3, 8, 8))], "f32")
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(engine_of(plan).forward([x]), list(net(x)), **FLOAT16_TOLERANCE)


def test_inference_precision_is_in_the_plan(net_model: Any) -> None:
    ranges = [shapes((1, 3, 8, 8), (1, 3, 8, 8))]
    assert build_openvino_from_onnx(net_model, ranges, "f32") != build_openvino_from_onnx(net_model, ranges, "bf16")
    with pytest.raises(ValueError, match=r"inference_precision must be one of .*, got 'f8'"):
        build_openvino_from_onnx(net_model, ranges, "f8")  # type: ignore[arg-type]


def test_order_and_types_are_the_graphs() -> None:
    model = parse(
        """(int64[N,3] x, bool[2] flags, float16[N,3] z, int64[4] unused) => (bool[2] no, int64[N,3] a, float16[N,3] b)
        { b = Add(z, z) a = Mul(x, x) no = Not(flags) }"""
    )
    plan = build_openvino_from_onnx(model, [{**ROWS, "z": ROWS["x"]}], "f32")
    assert plan.io_spec == (
        ["x", "flags", "z", "unused"],
        ["no", "a", "b"],
        ["Long", "Bool", "Half", "Long"],
        ["Bool", "Long", "Half"],
    )
    x, flags, z = torch.tensor([[1, -2, 3]]), torch.tensor([True, False]), torch.ones(1, 3).half()
    no, a, b = engine_of(plan).forward([x, flags, z, torch.zeros(4).long()])
    assert torch.equal(no, ~flags)
    assert torch.equal(a, x * x)
    assert torch.equal(b, z + z)


def test_outputs_that_are_the_same_value_or_constant() -> None:
    model = parse(
        """(float[N,3] x) => (float[N,3] z, float[N,3] a, float[N,3] y, float[N,3] i, float[2] c) {
            a = Relu(x) y = Identity(a) z = Identity(a) i = Identity(x) c = Constant<value_floats=[1.0, 2.0]>()
        }"""
    )
    plan = build_openvino_from_onnx(model, [ROWS], "f32")
    assert plan.output_names == ("z", "a", "y", "i", "c")
    x = torch.randn(2, 3)
    z, a, y, i, c = engine_of(plan).forward([x])
    for output in (z, a, y):
        assert torch.equal(output, x.relu())
    assert torch.equal(i, x)
    assert c.tolist() == [1.0, 2.0]


def test_outputs_that_are_inputs_or_twice_there_fail() -> None:
    passed_on = parse("(float[N,3] x) => (float[N,3] y, float[N,3] x) { y = Relu(x) }")
    with pytest.raises(ValueError, match="output 'x' of the ONNX graph must be computed by a node, but it is an input"):
        build_openvino_from_onnx(passed_on, [ROWS], "f32")
    twice = parse("(float[N,3] x) => (float[N,3] y, float[N,3] y) { y = Relu(x) }")
    with pytest.raises(ValueError, match="output 'y' of the ONNX graph must be there once, got 2 times"):
        build_openvino_from_onnx(twice, [ROWS], "f32")


def test_scalars_and_fixed_inputs_need_no_range() -> None:
    model = parse("(float x, float[2,2] y) => (float[2,2] z) { z = Mul(x, y) }")
    engine = engine_of(build_openvino_from_onnx(model, [], "f32"))
    assert engine.input_shapes() == [[], [2, 2]]
    assert engine.forward([torch.tensor(3.0), torch.ones(2, 2)])[0].tolist() == [[3.0, 3.0], [3.0, 3.0]]


@pytest.mark.parametrize(
    ("profiles", "message"),
    [
        ([], "input 'x' must have a range of shapes in every profile, got 0 ranges in 0 profiles"),
        ([ROWS, {}], "input 'x' must have a range of shapes in every profile, got 1 ranges in 2 profiles"),
        ([{**ROWS, "w": ROWS["x"]}], r"profile 0 must name inputs of the ONNX graph \(\['x'\]\), got \['w'\]"),
        ([{"x": ((1,), (2,), (3,))}], r"input 'x' must have shapes .* got \(1,\), \(2,\), \(3,\)"),
        ([{"x": ((1, 3), (2,), (3, 3))}], "input 'x' must have shapes that grow"),
        ([{"x": ((3, 3), (2, 3), (4, 3))}], "input 'x' must have shapes that grow"),
        ([{"x": ((-1, 3), (2, 3), (4, 3))}], "input 'x' must have shapes that grow"),
        ([{"x": ((1, 3), (2, 3), (4, 4))}], "dimension 1 of input 'x' must be 3, as the ONNX graph fixes it, got 3 to"),
    ],
)
def test_ranges_that_do_not_fit_fail(profiles: Any, message: str) -> None:
    model = parse("(float[N,3] x) => (float[N,3] y) { y = Relu(x) }")
    with pytest.raises(ValueError, match=message):
        build_openvino_from_onnx(model, profiles, "f32")


def test_operators_that_openvino_lacks_are_named() -> None:
    model = parse("(float[N,3] x) => (float[N,3] y) { a = mine.Own(x) y = mine.Other(a) }")
    with pytest.raises(RuntimeError, match=r"OpenVINO \S+ cannot take mine\.Other, mine\.Own; it said: --") as caught:
        build_openvino_from_onnx(model, [ROWS], "f32")
    assert "src/" not in str(caught.value)


def test_operators_that_openvino_refuses_are_named() -> None:
    model = parse("(float[2,3] x) => (float[2,3] y) { [product] y = MatMul(x, x) }")
    with pytest.raises(RuntimeError, match=r"cannot take MatMul 'product', .*Incompatible MatMul matrix dimension"):
        build_openvino_from_onnx(model, [], "f32")


def test_shapes_that_openvino_refuses_name_the_operator() -> None:
    model = parse("(float[A,B] x, float[C,D] y) => (float[A,D] z) { z = MatMul(x, y) }")
    ranges = {"x": ((2, 3),) * 3, "y": ((4, 5),) * 3}
    with pytest.raises(RuntimeError, match=r"cannot take MatMul; it said: .*Incompatible MatMul matrix dimension"):
        build_openvino_from_onnx(model, [ranges], "f32")


def test_every_refused_node_is_named_but_none_that_only_follows() -> None:
    # OpenVINO's message has one node of each type.
    model = parse(
        "(float[2,3] x) => (float[2,3] y, float[2,3] z, float[2,3] w, float[2,3] u) {"
        " [a] y = MatMul(x, x) [b] z = MatMul(x, x) [c] v = Concat<axis=9>(x, x) [d] w = MatMul(v, y) [e] u = Relu(x) }"
    )
    refusals = OpenVINOBuilder(Config()).refusals(model)
    assert sorted((refusal.name, refusal.op_type) for refusal in refusals) == [
        ("a", "MatMul"),
        ("b", "MatMul"),
        ("c", "Concat"),
    ]
    reasons = {refusal.name: refusal.reason for refusal in refusals}
    assert reasons["a"].startswith("Incompatible MatMul matrix dimension")
    assert reasons["c"] == "Axis 9 out of the tensor rank range [-2, 1]."


class FloatSizes(nn.Module):
    """A size that goes through float arithmetic, which is no size in ONNX where it varies: ``Tensor[N, C, H, W]``."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.exp(torch.relu(x) + 1)
        y = y.reshape(x.shape[0] * x.shape[1], math.ceil(x.shape[2] / 2), 2, -1).transpose(1, 2)
        return torch.tanh(torch.exp(y) * 0.01)


def test_node_that_takes_a_refused_number_is_left_alone() -> None:
    items = [(torch.randn(2, 3, 4, 6),), (torch.randn(2, 3, 8, 6),)]
    optimized, _, report = optimize(FloatSizes().eval(), items)
    assert [(entry["node"], entry["reason"]) for entry in report["left_in_torch"]] == [
        ("aten::reshape@0", "is refused as Concat: Argument element types are inconsistent.")
    ]
    assert len(report["engines"]) == 2
    for (x,) in items:
        assert_close(optimized(x), FloatSizes()(x))


def test_inputs_that_are_no_tensors_fail() -> None:
    model = parse("(float[3] x) => (float[3] y) { y = Relu(x) }")
    model.graph.input[0].type.CopyFrom(onnx.helper.make_sequence_type_proto(model.graph.input[0].type))
    with pytest.raises(ValueError, match="input 'x' of the ONNX graph must be a tensor, got sequence_type"):
        build_openvino_from_onnx(model, [], "f32")


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [(["FP32", "FP16", "BF16"], "bf16"), (["FP32", "FP16", "INT8"], "f16"), (["FP32", "INT8"], "f32")],
)
def test_native_precision(monkeypatch: pytest.MonkeyPatch, capabilities: list[str], precision: str) -> None:
    class Core:
        def get_property(self, device: str, name: str) -> list[str]:
            assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
            return capabilities

    monkeypatch.setattr(ov, "Core", Core)
    native_precision.cache_clear()
    try:
        assert native_precision() == precision
    finally:
        native_precision.cache_clear()
