"""OpenVINOEngineExtension: every type and shape, several threads at once, and a real network against torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torch_trt_ext  # noqa: F401  registers the classes
from tests.threads import run_in_threads

ov = pytest.importorskip("openvino")
import numpy as np  # noqa: E402
from openvino import opset13  # noqa: E402

from torch_trt_ext.builders.openvino_model import plan_from_model  # noqa: E402

#: Sums of at most a few thousand float32 products, in another order than torch's.
FLOAT32_TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}

#: bfloat16 keeps 8 bits: a part in 256, and errors of a few layers add up.
BFLOAT16_TOLERANCE = {"rtol": 5e-2, "atol": 5e-2}

DTYPES = {
    torch.float32: ov.Type.f32,
    torch.float16: ov.Type.f16,
    torch.bfloat16: ov.Type.bf16,
    torch.float64: ov.Type.f64,
    torch.int8: ov.Type.i8,
    torch.uint8: ov.Type.u8,
    torch.int16: ov.Type.i16,
    torch.int32: ov.Type.i32,
    torch.int64: ov.Type.i64,
    torch.bool: ov.Type.boolean,
}


def _parameter(name: str, shape: Any, element_type: Any = ov.Type.f32) -> Any:
    node = opset13.parameter(ov.PartialShape(shape), element_type, name)
    node.output(0).get_tensor().set_names({name})
    return node


def _named(node: Any, name: str) -> Any:
    node.output(0).get_tensor().set_names({name})
    return node


def _engine(model: ov.Model, **options: Any) -> torch.ScriptObject:
    plan = plan_from_model(model, **options)
    return torch.classes.torch_trt_ext.OpenVINOEngineExtension(plan.data, plan.io_spec)


def _unary(function: Callable[[Any], Any], shape: Any, element_type: Any = ov.Type.f32) -> torch.ScriptObject:
    x = _parameter("x", shape, element_type)
    return _engine(ov.Model([opset13.result(_named(function(x), "y"))], [x], "unary"))


@pytest.mark.parametrize("dtype", list(DTYPES), ids=str)
@pytest.mark.parametrize(
    ("declared", "actual"),
    [
        ([2, 3], (2, 3)),
        ([-1, 3], (5, 3)),
        ([-1, 3], (0, 3)),
        ([0, 3], (0, 3)),
        ([], ()),
        ([2, 3, 4, 5], (2, 3, 4, 5)),
        ([1, -1, 1, -1, 3], (1, 2, 1, 3, 3)),
    ],
    ids=str,
)
def test_types_and_shapes(dtype: torch.dtype, declared: list[int], actual: tuple[int, ...]) -> None:
    is_bool = dtype == torch.bool
    engine = _unary(lambda x: opset13.logical_not(x) if is_bool else opset13.add(x, x), declared, DTYPES[dtype])
    count = int(np.prod(actual))
    x = (torch.arange(count) % 7).reshape(actual).to(dtype)
    kept = x.clone()
    (y,) = engine.forward([x])
    torch.testing.assert_close(y, ~kept if is_bool else kept + kept, rtol=0, atol=0)
    assert torch.equal(x, kept)


def test_inputs_are_not_written() -> None:
    for shape in ([4, 8], [-1, 8]):
        engine = _unary(lambda x: opset13.relu(opset13.relu(x)), shape)
        x = torch.randn(4, 8)
        kept = x.clone()
        (y,) = engine.forward([x])
        assert torch.equal(x, kept)
        assert torch.equal(y, kept.relu())


def test_outputs_are_fresh() -> None:
    for shape in ([4], [-1]):
        engine = _unary(opset13.relu, shape)
        (first,) = engine.forward([torch.full((4,), 1.0)])
        (second,) = engine.forward([torch.full((4,), 2.0)])
        assert first.tolist() == [1.0] * 4
        assert second.tolist() == [2.0] * 4


def test_non_contiguous_inputs() -> None:
    engine = _unary(opset13.relu, [-1, -1])
    base = torch.randn(6, 8)
    for x in (base.t(), base[::2, 1::3], base[:, 3:4], base[0].expand(5, 8)):
        torch.testing.assert_close(engine.forward([x])[0], x.relu(), rtol=0, atol=0)


def test_unaligned_input() -> None:
    engine = _unary(opset13.relu, [-1])
    x = torch.randn(101)[1:]
    torch.testing.assert_close(engine.forward([x])[0], x.relu(), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [[2, 3], [-1, 3]], ids=str)
def test_input_passed_on(shape: list[int]) -> None:
    x = _parameter("x", shape)
    passed_on = opset13.result(x)
    relu = _named(opset13.relu(x), "y")
    for model, expected in (
        (ov.Model([passed_on], [x], "identity"), lambda t: [t]),
        (ov.Model([opset13.result(x), opset13.result(relu)], [x], "both"), lambda t: [t, t.relu()]),
    ):
        engine = _engine(model)
        for _ in range(3):
            tensor = torch.randn(2, 3)
            outputs = engine.forward([tensor])
            for output, reference in zip(outputs, expected(tensor), strict=True):
                assert torch.equal(output, reference)
                assert output.data_ptr() != tensor.data_ptr()


@pytest.mark.parametrize("shape", [[2, 3], [-1, 3]], ids=str)
def test_outputs_that_openvino_merges(shape: list[int]) -> None:
    x = _parameter("x", shape)
    first = _named(opset13.relu(x), "first")
    same = _named(opset13.relu(x), "same")
    view = _named(opset13.reshape(first, np.array([-1]), False), "view")
    constant = _named(opset13.constant(np.ones((2, 2), np.float32)), "constant")
    results = [opset13.result(node) for node in (first, same, view, constant)]
    engine = _engine(ov.Model(results, [x], "merged"))
    tensor = torch.randn(2, 3)
    outputs = engine.forward([tensor])
    references = [tensor.relu(), tensor.relu(), tensor.relu().reshape(-1), torch.ones(2, 2)]
    for output, reference in zip(outputs, references, strict=True):
        assert torch.equal(output, reference)
    assert len({output.data_ptr() for output in outputs}) == 4


def test_data_dependent_output_shape() -> None:
    engine = _unary(lambda x: opset13.non_zero(x, "i64"), [-1])
    for values in ([0.0, 1.0, 2.0, 0.0], [0.0, 0.0], [3.0]):
        x = torch.tensor(values)
        assert torch.equal(engine.forward([x])[0], x.nonzero().t())


def test_profiles_are_the_models_intervals() -> None:
    engine = _unary(opset13.relu, [ov.Dimension(1, 4), -1, 3])
    assert engine.input_shapes() == [[-1, -1, 3]]
    assert engine.profiles() == [[[[1, 0, 3], [1, 0, 3], [4, 2**63 - 1, 3]]]]
    assert engine.forward([torch.ones(4, 7, 3)])[0].shape == (4, 7, 3)
    with pytest.raises(ValueError, match="input 'x' must have a shape in"):
        engine.forward([torch.ones(5, 7, 3)])


def test_int64_beyond_int32_fails() -> None:
    engine = _unary(lambda x: opset13.add(x, x), [-1], ov.Type.i64)
    assert engine.forward([torch.tensor([2**30 - 1, -(2**30)])])[0].tolist() == [2**31 - 2, -(2**31)]
    for value in (2**31, -(2**31) - 1, 2**40):
        with pytest.raises(ValueError, match="input 'x' must hold values of 32 bits"):
            engine.forward([torch.tensor([0, value])])


def test_error_while_running_fails_and_engine_survives() -> None:
    x = _parameter("x", [-1, -1])
    y = _parameter("y", [-1, -1])
    product = _named(opset13.matmul(x, y, False, False), "z")
    engine = _engine(ov.Model([opset13.result(product)], [x, y], "product"))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="OpenVINO failed to run the engine: "):
            engine.forward([torch.ones(2, 3), torch.ones(4, 5)])
        assert torch.equal(engine.forward([torch.ones(2, 3), torch.ones(3, 5)])[0], torch.full((2, 5), 3.0))
    assert engine.counters()["compilations"] == 3


def test_other_threads_survive_errors() -> None:
    x, y = _parameter("x", [-1, -1]), _parameter("y", [-1, -1])
    product = _named(opset13.matmul(x, y, False, False), "z")
    engine = _engine(ov.Model([opset13.result(product)], [x, y], "product"))

    def work(seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for call in range(60):
            left = torch.randn(2 + seed, 3, generator=generator)
            right = torch.randn(3, 5, generator=generator)
            if seed == 0 and call % 10 == 0:
                with pytest.raises(RuntimeError, match="OpenVINO failed"):
                    engine.forward([left, torch.ones(4, 5)])
            (result,) = engine.forward([left, right])
            assert torch.allclose(result, left @ right, **FLOAT32_TOLERANCE), f"thread {seed}, call {call}"

    run_in_threads(4, work)


def test_names_give_the_order() -> None:
    a, b = _parameter("a", [2]), _parameter("b", [2])
    difference = _named(opset13.subtract(a, b), "difference")
    total = _named(opset13.add(a, b), "total")
    plan = plan_from_model(ov.Model([opset13.result(difference), opset13.result(total)], [a, b], "two"))
    engine = torch.classes.torch_trt_ext.OpenVINOEngineExtension(
        plan.data, (["b", "a"], ["total", "difference"], ["Float"] * 2, ["Float"] * 2)
    )
    total_value, difference_value = engine.forward([torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0])])
    assert total_value.tolist() == [11.0, 22.0]
    assert difference_value.tolist() == [9.0, 18.0]


def test_threads_each_get_right_answers() -> None:
    num_threads, num_calls = 8, 200
    shapes = [(1, 16), (3, 16), (17, 16)]
    weights = torch.randn(16, 8)
    dynamic = _parameter("x", [-1, 16])
    product = _named(opset13.matmul(dynamic, opset13.constant(weights.numpy()), False, False), "y")
    fixed = _parameter("x", [3, 16])
    fixed_product = _named(opset13.matmul(fixed, opset13.constant(weights.numpy()), False, False), "y")
    engine = _engine(ov.Model([opset13.result(product)], [dynamic], "dynamic"))
    fixed_engine = _engine(ov.Model([opset13.result(fixed_product)], [fixed], "fixed"))

    def work(seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(num_calls):
            for shape in shapes:
                x = torch.randn(shape, generator=generator)
                called = fixed_engine if shape[0] == 3 and seed % 2 else engine
                torch.testing.assert_close(called.forward([x])[0], x @ weights, **FLOAT32_TOLERANCE)

    run_in_threads(num_threads, work)
    assert engine.counters()["compilations"] == 1


class _Block(nn.Module):
    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Conv2d(channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(self.conv1(x)).relu()
        return (self.norm2(self.conv2(y)) + self.shortcut(x)).relu()


class _SmallResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 7, 2, 3)
        self.blocks = nn.Sequential(_Block(16, 32, 2), _Block(32, 64, 2))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.stem(x).relu(), 3, 2, 1)
        return self.head(self.blocks(x).mean((2, 3)))


def _convert(network: nn.Module, shape: Any) -> ov.Model:
    model = ov.convert_model(
        network, example_input=torch.randn(1, 3, 64, 64), input=[(ov.PartialShape(shape), ov.Type.f32)]
    )
    model.inputs[0].get_tensor().set_names({"images"})
    model.outputs[0].get_tensor().set_names({"logits"})
    return model


@pytest.mark.parametrize("shape", [[2, 3, 64, 64], [-1, 3, -1, -1]], ids=["static", "dynamic"])
def test_network_matches_torch(shape: list[int]) -> None:
    torch.manual_seed(0)
    network = _SmallResNet().eval()
    engine = _engine(_convert(network, shape))
    batches = [(2, 3, 64, 64)] if shape[0] == 2 else [(1, 3, 64, 64), (5, 3, 33, 71), (2, 3, 96, 96)]
    with torch.no_grad():
        for batch in batches:
            images = torch.randn(batch)
            torch.testing.assert_close(engine.forward([images])[0], network(images), **FLOAT32_TOLERANCE)


def test_bfloat16_precision_is_near_torch() -> None:
    torch.manual_seed(0)
    network = _SmallResNet().eval()
    engine = _engine(_convert(network, [2, 3, 64, 64]), inference_precision="bf16")
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(engine.forward([images])[0], network(images), **BFLOAT16_TOLERANCE)


def test_environment_names_the_version() -> None:
    made_on = _unary(opset13.relu, [1]).made_on()
    assert made_on["openvino_version"][0].startswith(ov.__version__.split("-")[0])
