"""A user's metric in place of the answers' errors."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

import torch_trt_ext
from tests.optimizer.tiny_models import Convolutions, engine_modules, quick_config
from torch_trt_ext import Config
from torch_trt_ext.optimizer.accuracy import compare
from torch_trt_ext.optimizer.metric import Metric

pytest.importorskip("openvino")
pytest.importorskip("onnxruntime")


def images(count: int) -> list[tuple[Tensor]]:
    return [(torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed)),) for seed in range(count)]


class Closeness:
    """1 for the answers of a model, less by how far off another's are; counts how often it is asked."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._data = images(3)
        with torch.no_grad():
            self._expected = [model(*item) for item in self._data]
        self.values: list[float] = []

    def __call__(self, model: torch.jit.ScriptModule) -> float:
        with torch.no_grad():
            answers = [model(*item) for item in self._data]
        self.values.append(1 - compare(self._expected, answers).relative)
        return self.values[-1]


def optimize(model: Any, metric: Any, level: str = "o1", **changes: float) -> tuple[torch.jit.ScriptModule, Any]:
    config: Config = quick_config()
    for name, value in changes.items():
        setattr(config.accuracy, name, value)
    found, _, report = torch_trt_ext.optimize(
        model, level, "cpu", config=config, test_data=images(1), calib_data=images(33), metric=metric
    )
    return found, report


@pytest.fixture
def model() -> Convolutions:
    torch.manual_seed(0)
    return Convolutions().eval()


@pytest.mark.parametrize("level", ["o1", "o2"])
def test_metric_decides_in_place_of_errors(model: Convolutions, level: str) -> None:
    strict = dict.fromkeys(
        (
            "max_relative_error",
            "max_relative_error_8bit",
            "max_model_relative_error",
            "max_model_relative_error_8bit",
        ),
        0.0,
    )
    metric = Closeness(model)
    optimized, report = optimize(model, metric, level, max_metric_drop=0.5, **strict)
    assert len(engine_modules(optimized)) == 1
    found = report["accuracy"]["metric"]
    assert found == {"original": 1.0, "optimized": metric.values[-1], "max_drop": 0.5}
    assert 0.5 < found["optimized"] < 1
    assert report["accuracy"]["model"]["relative"] > 0
    json.dumps(dict(report))
    # Once for the model, once for the engines.
    assert len(metric.values) == 2


def test_metric_that_falls_takes_engines_back(model: Convolutions) -> None:
    calls: list[int] = []

    def falls(_: torch.jit.ScriptModule) -> int:
        calls.append(len(calls))
        return -len(calls)

    optimized, report = optimize(model, falls)
    assert engine_modules(optimized) == []
    assert "the metric falls from -1 to " in report["diagnosis"]["message"]
    assert "more than accuracy.max_metric_drop 0.01" in report["diagnosis"]["message"]
    assert any("was taken back" in entry["reason"] for entry in report["left_in_torch"])


def test_metric_is_tried_with_more_bits(model: Convolutions) -> None:
    metric = Closeness(model)
    optimized, report = optimize(model, metric, max_metric_drop=1e-4)
    (engine,) = report["engines"]
    assert engine["precision"] == "float32"
    assert metric.values[-1] > 1 - 1e-4
    assert len(engine_modules(optimized)) == 1


def test_nodes_go_back_to_16_bits_until_the_metric_holds() -> None:
    torch.manual_seed(0)
    layers = [
        torch.nn.Sequential(torch.nn.Conv2d(3 if not i else 8, 8, 3, padding=1), torch.nn.ReLU()) for i in range(8)
    ]
    model = torch.nn.Sequential(*layers).eval()
    # One channel that reaches far leaves the others few of the 255 steps.
    with torch.no_grad():
        layers[3][0].weight[0] *= 300
        layers[3][0].bias[0] = 300
        layers[4][0].weight[:, 0] /= 300
    plain = Closeness(model)
    _, report = optimize(model, plain, "o2", max_metric_drop=10.0)
    in_8_bits = 1 - plain.values[-1]
    metric = Closeness(model)
    _, report = optimize(model, metric, "o2", max_metric_drop=in_8_bits / 2)
    (engine,) = report["engines"]
    assert metric.values[-1] >= 1 - in_8_bits / 2
    assert engine["precision"] == "int8"
    assert 0 < len(engine["kept_16bit"]) <= 4
    assert "with engines in int8 the metric falls from 1 to " in report["diagnosis"]["message"]
    assert "of its nodes went back to 16 bits" in report["diagnosis"]["message"]


def test_metric_of_the_model_is_kept_without_engines() -> None:
    _, report = optimize(torch.nn.Identity().eval(), lambda _: 0.25)
    assert report["engines"] == []
    assert report["accuracy"]["metric"] == {"original": 0.25, "optimized": None, "max_drop": 0.01}


@pytest.mark.parametrize(
    ("metric", "error", "message"),
    [
        (3, TypeError, "metric must be a function of a model that returns a number, the larger the better, got int"),
        (lambda _: "much", TypeError, "metric must return a number, got str"),
        (lambda _: None, TypeError, "metric must return a number, got NoneType"),
        (lambda _: float("nan"), ValueError, "metric must return a finite number, got nan"),
    ],
)
def test_wrong_metrics_fail(model: Convolutions, metric: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        optimize(model, metric)


def test_error_in_a_metric_is_the_users_own(model: Convolutions) -> None:
    def broken(_: torch.jit.ScriptModule) -> float:
        raise LookupError("no data")

    with pytest.raises(LookupError, match="no data"):
        optimize(model, broken)


def test_tensors_are_numbers(model: Convolutions) -> None:
    assert Metric.of_original(lambda _: torch.tensor(0.5), 0.01, torch.jit.script(model)).original == 0.5
