"""Times of an engine's layers, and the modules they come from."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("openvino")

from tests.optimizer.tiny_models import Convolutions, counters, make, optimize
from torch_trt_ext.optimizer import layer_times
from torch_trt_ext.optimizer.layer_times import LayerTime, time_layers


def test_layers_come_from_modules() -> None:
    images = torch.rand(2, 3, 32, 32)
    optimized, _, report = optimize(make(Convolutions), [(images,)])
    (engine,) = report["engines"]
    slowest = engine["layers"]["slowest"]
    assert {"body.0", "body.2"} <= {layer["module"] for layer in slowest if layer["kind"] == "Convolution"}
    assert [layer["ms"] for layer in slowest] == sorted((layer["ms"] for layer in slowest), reverse=True)
    modules = {module["path"]: module for module in report["coverage"]["modules"]}
    assert 0 < modules["body.0"]["engine_ms"] < modules["body"]["engine_ms"] <= modules[""]["engine_ms"]
    # The model's own engine was not profiled.
    (before,) = counters(optimized)
    optimized(images)
    (after,) = counters(optimized)
    assert after["calls"] == before["calls"] + 1


class _Library:
    """Stands for an engine builder, its plan and its engine, with layers as TensorRT describes them."""

    data = b"plan"

    def __init__(self) -> None:
        self.calls = 0

    def load(self, plan: Any) -> Any:
        return self

    def set_profiling(self, enabled: bool) -> None:
        assert enabled

    def forward(self, inputs: Any) -> list[Any]:
        self.calls += 1
        return []

    def profile(self) -> list[tuple[str, int, float]]:
        # The first calls are slow.
        total = 100.0 + self.calls
        return [(name, self.calls, total) for name in ("n12/Conv + n13/Relu", "__myl_Fc_0", "plain", "conv12/x")]

    def layer_info(self) -> str:
        return """{"Layers": [
            {"Name": "n12/Conv + n13/Relu", "LayerType": "CaskConvolution"},
            {"Name": "__myl_Fc_0", "LayerType": "kgen", "Metadata": "[ONNX Layer: n7/MatMul]"},
            "plain"]}"""


def test_layers_as_tensorrt_names_them() -> None:
    times = time_layers(_Library(), _Library, [])
    assert times is not None
    assert times.layers == [
        LayerTime("n12/Conv + n13/Relu", "CaskConvolution", 12, 1.0),
        LayerTime("__myl_Fc_0", "kgen", 7, 1.0),
        LayerTime("plain", "", None, 1.0),
        LayerTime("conv12/x", "", None, 1.0),
    ]


def test_no_times_where_there_is_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any, inputs: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(_Library, "forward", refuse)
    assert time_layers(_Library(), _Library, []) is None
    monkeypatch.setattr(layer_times, "_MAX_PLAN_BYTES", 3)
    assert time_layers(None, _Library, []) is None
