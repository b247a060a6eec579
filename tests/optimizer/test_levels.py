"""optimize() at level "o2": 8 bits where they are accurate, more where they are not."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torch_trt_ext
from torch_trt_ext import Config
from torch_trt_ext.optimizer import candidates, quantization, subgraphs, trials, whole_model
from torch_trt_ext.optimizer.accuracy import compare

pytest.importorskip("openvino")
pytest.importorskip("onnxruntime")


class Network(nn.Module):
    def __init__(self, *, spread: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.last = nn.Linear(16, 8)
        # Multiplies one channel of what the second convolution takes; its weights undo that.
        self.register_buffer("spread", torch.ones(16, 1, 1))
        self.spread[0] = spread
        with torch.no_grad():
            self.second.weight[:, 0] /= spread

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu() * self.spread
        return self.last(self.second(x).relu().mean(dim=(2, 3)))


def images(count: int, *, reach: float = 1.0) -> list[tuple[Tensor]]:
    generator = torch.Generator().manual_seed(count)
    return [(torch.rand(2, 3, 24, 24, generator=generator) * reach,) for _ in range(count)]


def optimize(model: nn.Module, level: str = "o2", **arguments: Any) -> tuple[Any, Any]:
    config = arguments.pop("config", Config())
    config.timing.compare = config.cache.enabled = config.progress = False
    arguments = {"test_data": images(1), "calib_data": images(40)} | arguments
    optimized, _, report = torch_trt_ext.optimize(model.eval(), level, "cpu", config=config, **arguments)
    return optimized, report


def test_engine_is_in_8_bits_and_stays_so_when_saved() -> None:
    model = Network()
    optimized, report = optimize(model)
    (engine,) = report["engines"]
    assert engine["precision"] == "int8"
    assert engine["kept_16bit"] == {}
    assert engine["not_in"] == {}
    assert 1e-4 < engine["error"]["relative"] < 0.1
    assert "calib_data" not in report["diagnosis"]["message"]
    (x,) = images(1)[0]
    with torch.no_grad():
        answer = optimized(x)
        assert compare(model(x), answer).within(0.1)
        buffer = io.BytesIO()
        torch.jit.save(optimized, buffer)
        buffer.seek(0)
        assert torch.equal(torch.jit.load(buffer)(x), answer)
        # The engine is not used for shapes that it was not made for.
        assert torch.allclose(optimized(x[:1]), model(x[:1]), atol=1e-4)


def optimize_timed(monkeypatch: pytest.MonkeyPatch, few_ms: float, more_ms: float, **arguments: Any) -> Any:
    """The report on a network whose engines in 8 and in more bits take times that are made up."""
    real = candidates.compare_latency

    def compare_latency(calls: dict[str, Any], **options: Any) -> dict[str, Any]:
        if "few" not in calls:
            return real(calls, **options)
        for call in calls.values():
            call()
        return {"few": SimpleNamespace(median_ms=few_ms), "more": SimpleNamespace(median_ms=more_ms)}

    monkeypatch.setattr(candidates, "compare_latency", compare_latency)
    config = Config()
    config.precision.engine_precision = "float32"
    config.cache.enabled = config.progress = False
    # Whether they are faster than PyTorch is not the question.
    config.timing.min_speedup = 1e-6
    data = images(40)
    model = arguments.pop("model", None) or Network()
    _, _, report = torch_trt_ext.optimize(
        model.eval(), "o2", "cpu", config=config, test_data=data[:1], calib_data=data, **arguments
    )
    return report


@pytest.mark.parametrize(("more_ms", "precision"), [(3.0, "int8"), (2.0, "float32"), (1.0, "float32")])
def test_8_bits_have_to_be_faster_than_more(more_ms: float, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    report = optimize_timed(monkeypatch, 2.0, more_ms)
    (engine,) = report["engines"]
    assert engine["precision"] == precision
    why = f"its engine in int8 takes 2 ms a call, the one in float32 {more_ms:g}"
    assert engine["not_in"] == ({} if precision == "int8" else {"int8": why})
    # The report is that of what is kept, limits and all.
    int8, float32 = ("PtOpenVINOPassInt8", 0.1), ("PtOpenVINOPassFp32", 0.02)
    found = report["optimizations"][0]["name"], report["accuracy"]["max_relative_error"]
    assert found == (int8 if precision == "int8" else float32)


def test_8_bits_that_the_model_goes_back_in_have_to_be_faster_too(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[Any] = []
    real = whole_model.WholeModel.why_inaccurate

    def why_inaccurate(self: Any, optimized: Any) -> str:
        rounds.append(self._outcome.precision)
        return "not yet" if len(rounds) == 1 else real(self, optimized)

    monkeypatch.setattr(whole_model.WholeModel, "why_inaccurate", why_inaccurate)
    report = optimize_timed(monkeypatch, 2.0, 1.0)
    (engine,) = report["engines"]
    # The engine that nodes went back in, then the one with more bits.
    assert rounds == ["int8", "int8", "float32"]
    assert engine["precision"] == "float32"
    assert "of its nodes went back to 16 bits" in report["diagnosis"]["message"]


def test_8_bits_stay_where_the_model_needs_them_or_nothing_else_can_be_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[float] = []

    def metric(_: Any) -> float:
        # Of the original, of the engines in 8 bits, of those with more.
        measured.append([0.9, 0.895, 0.5][len(measured)])
        return measured[-1]

    report = optimize_timed(monkeypatch, 2.0, 1.0, metric=metric)
    (engine,) = report["engines"]
    assert (engine["precision"], engine["not_in"]) == ("int8", {})
    assert report["accuracy"]["metric"]["optimized"] == 0.895
    assert measured == [0.9, 0.895, 0.5]

    def fail(*_arguments: Any) -> str:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(trials, "why_no_gain", fail)
    assert optimize_timed(monkeypatch, 2.0, 1.0)["engines"][0]["precision"] == "int8"


def test_models_with_engines_in_more_bits_are_held_to_their_limit() -> None:
    config = Config()
    config.accuracy.max_relative_error_8bit = 1e-6
    config.accuracy.max_model_relative_error_8bit = 1.0
    config.accuracy.max_model_relative_error = 1e-9
    _, report = optimize(Network(), config=config)
    assert report["engines"] == []
    assert "more than the limit of 1.00e-09" in report["diagnosis"]["message"]


def test_weights_take_a_quarter() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 256))

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.body(x)
            return result

    data = [(torch.randn(4, 256, generator=torch.Generator().manual_seed(seed)),) for seed in range(33)]
    sizes = {
        level: optimize(Wide(), level, test_data=data[:1], calib_data=data[1:])[1]["engines"][0]["plan_bytes"]
        for level in ("o1", "o2")
    }
    assert sizes["o2"] < 0.35 * sizes["o1"]


def test_sensitive_nodes_stay_in_16_bits() -> None:
    # 255 steps for a channel that reaches a thousand times as far as the others leave nothing of these.
    model = Network(spread=1000.0)
    optimized, report = optimize(model)
    (engine,) = report["engines"]
    assert engine["precision"] == "int8"
    assert len(engine["kept_16bit"]) == 1
    (reason,) = engine["kept_16bit"].values()
    assert reason.startswith("rounding it alone changes the answers by ")
    (x,) = images(1)[0]
    with torch.no_grad():
        assert compare(model(x), optimized(x)).within(0.1)


def test_what_8_bits_never_suffice_for_is_in_16() -> None:
    config = Config()
    config.accuracy.max_relative_error_8bit = 1e-5
    _, report = optimize(Network(), config=config)
    (engine,) = report["engines"]
    assert engine["precision"] != "int8"
    assert engine["kept_16bit"] == {}
    assert list(engine["not_in"]) == ["int8"]
    assert engine["not_in"]["int8"].startswith("its engine in int8 is not accurate: ")


def test_what_cannot_be_calibrated_is_in_16_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("ONNX Runtime cannot calibrate the model: no kernel")

    monkeypatch.setattr(subgraphs, "calibrate", refuse)
    _, report = optimize(Network())
    (engine,) = report["engines"]
    assert engine["precision"] != "int8"
    reason = "its engine cannot be built: ONNX Runtime cannot calibrate the model: no kernel"
    assert engine["not_in"] == {"int8": reason}


def test_model_that_is_not_accurate_gets_more_bits() -> None:
    config = Config()
    config.accuracy.max_model_relative_error_8bit = 0.02
    model = Network(spread=1000.0)
    config.accuracy.max_relative_error_8bit = 1e6
    optimized, report = optimize(model, config=config)
    (engine,) = report["engines"]
    (x,) = images(1)[0]
    with torch.no_grad():
        assert compare(model(x), optimized(x)).within(0.02)
    assert engine["precision"] != "int8" or engine["kept_16bit"]
    assert "with engines in int8 the model is not accurate" in report["diagnosis"]["message"]


def test_slow_engine_in_8_bits_makes_way_for_16(monkeypatch: pytest.MonkeyPatch) -> None:
    def time_against_torch(candidate: Any, _config: Config, _device: torch.device) -> None:
        if candidate.precision == "int8":
            candidate.rejected = "its engine is 0.50 times as fast"

    monkeypatch.setattr(trials, "time_against_torch", time_against_torch)
    _, report = optimize(Network())
    (engine,) = report["engines"]
    assert engine["precision"] in ("bfloat16", "float16", "float32")
    assert engine["not_in"] == {"int8": "its engine is 0.50 times as fast"}


def test_slow_engine_in_16_bits_stays_out(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def time_against_torch(candidate: Any, _config: Config, _device: torch.device) -> None:
        tried.append(candidate.precision)
        candidate.rejected = "its engine is 0.50 times as fast"

    monkeypatch.setattr(trials, "time_against_torch", time_against_torch)
    _, report = optimize(Network(), "o1")
    assert report["engines"] == []
    assert len(tried) == 1


def test_model_without_products_is_not_in_8_bits() -> None:
    class Elementwise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.sigmoid() * x + 1).relu() * 2

    _, report = optimize(Elementwise())
    assert "int8" not in {engine["precision"] for engine in report["engines"]}
    assert [engine["not_in"] for engine in report["engines"]] == [{"int8": "none of its nodes can compute in 8 bits"}]
    _, in_16_bits = optimize(Elementwise(), "o1")
    precisions = [engine["precision"] for engine in in_16_bits["engines"]]
    assert len(precisions) == 1
    assert [engine["precision"] for engine in report["engines"]] == precisions


@pytest.mark.parametrize(
    ("calib_data", "message"),
    [
        ([], "there are no calib_data, so 8-bit ranges come from the test data alone"),
        (images(1), "calib_data has 1 item: ranges from fewer than 32 may miss values that the model will see"),
        (images(31), "calib_data has 31 items: ranges from fewer"),
        (images(40, reach=0.5), "the test data reach 2 times as far as calib_data at an input of engine_0"),
    ],
)
def test_poor_calibration_is_said(calib_data: list[tuple[Tensor]], message: str) -> None:
    _, report = optimize(Network(), calib_data=calib_data)
    assert message in report["diagnosis"]["message"]


def test_calibration_data_may_have_another_batch() -> None:
    single = [(image[:1],) for (image,) in images(40)]
    _, report = optimize(Network(), calib_data=single)
    assert [engine["precision"] for engine in report["engines"]] == ["int8"]


def test_calibration_data_of_a_batch_that_the_model_does_not_take_are_said() -> None:
    class FixedBatch(Network):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).reshape(2, 2, 4) * 2

    single = [(image[:1],) for (image,) in images(40)]
    with pytest.raises(ValueError, match=r"calib_data\[0\] must be arguments that the model takes, got .*1, 3, 24, 24"):
        optimize(FixedBatch(), calib_data=single)


def test_level_o1_does_not_look_at_calibration_data() -> None:
    _, report = optimize(Network(), "o1", calib_data="nothing that could be calibration data")
    assert "int8" not in {engine["precision"] for engine in report["engines"]}


@pytest.mark.parametrize(
    ("calib_data", "message"),
    [
        ([torch.ones(1)], r"calib_data\[0\] must be a tuple of arguments, got a tensor, .*; wrap it in a tuple"),
        ("images", "calib_data must be a list of tuples, got str, .*; write calib_data=\\[\\(images,\\)\\]"),
    ],
)
def test_wrong_calibration_data_fail(calib_data: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        optimize(Network(), calib_data=calib_data)


def test_missing_onnx_runtime_fails_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch_trt_ext.optimizer.optimize.missing_for_quantization", lambda: "no ONNX Runtime; get it")
    with pytest.raises(RuntimeError, match="no ONNX Runtime; get it"):
        torch_trt_ext.optimize("nowhere.pt", "o2", "cpu")


@pytest.mark.parametrize("method", ["entropy", "percentile", "max"])
def test_options_of_calibration(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def calibrate(model: Any, calls: Any, *options: Any) -> Any:
        seen.append((len(calls), *options))
        return quantization.calibrate(model, calls, *options)

    monkeypatch.setattr(subgraphs, "calibrate", calibrate)
    config = Config()
    config.precision.calibration = method
    config.precision.percentile = 99.9
    _, report = optimize(Network(), config=config)
    assert seen == [(40, method, 99.9)]
    assert [engine["precision"] for engine in report["engines"]] == ["int8"]
    assert report["accuracy"]["max_relative_error"] == config.accuracy.max_relative_error_8bit
    assert report["accuracy"]["max_model_relative_error"] == config.accuracy.max_model_relative_error_8bit


def test_engine_comes_from_the_cache(tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        config = Config()
        config.cache.folder = str(tmp_path)
        config.timing.compare = config.progress = False
        _, _, report = torch_trt_ext.optimize(
            Network().eval(), "o2", "cpu", config=config, test_data=images(1), calib_data=images(33)
        )
        found.append([engine["from_cache"] for engine in report["engines"]])
    assert found == [[False], [True]]
