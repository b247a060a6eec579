"""What can be asked of a TensorRT engine: its layers and their times, its name in profiles, its log."""

from __future__ import annotations

import copy
import json
import logging
from typing import Any

import pytest
import torch

from tests.gpu.networks import (
    CONVOLUTION_TOLERANCE,
    FEATURES,
    ConvolutionTwin,
    ProductTwin,
    convolution_plan,
    streaming_plan,
)
from tests.gpu.test_tensorrt_engine import AFFINE_IO, image
from torch_trt_ext import TRTEngineExtension, runtime


@pytest.fixture
def engine() -> Any:
    return TRTEngineExtension(convolution_plan(), AFFINE_IO)


def layer_names(engine: Any) -> list[str]:
    layers = json.loads(engine.layer_info())["Layers"]
    return [layer if isinstance(layer, str) else layer["Name"] for layer in layers]


def test_layer_info(engine: Any) -> None:
    assert len(layer_names(engine)) >= 3
    assert all(layer_names(engine))


@torch.no_grad()
def test_profile_adds_up_over_calls_and_shapes(engine: Any) -> None:
    twin = ConvolutionTwin().cuda()
    engine.set_cuda_graphs(True)
    inputs = [image(2, 3, 16, 16), image(8, 3, 64, 64)]

    def run() -> None:
        for x in inputs:
            torch.testing.assert_close(
                engine.forward([x])[0], twin(x), atol=CONVOLUTION_TOLERANCE, rtol=CONVOLUTION_TOLERANCE
            )

    run()
    assert engine.profile() == []
    engine.set_profiling(True)
    for _ in range(5):
        run()
    rows = engine.profile()
    assert {name for name, _, _ in rows} <= set(layer_names(engine))
    assert {calls for _, calls, _ in rows} == {10}
    assert 0 < sum(milliseconds for _, _, milliseconds in rows) < 1000
    engine.set_profiling(False)
    replays = engine.counters()["graph_replays"]
    for _ in range(5):
        run()
    assert engine.profile() == rows
    assert engine.counters()["graph_replays"] > replays


@torch.no_grad()
def test_capture_wants_a_call_that_was_not_profiled(engine: Any) -> None:
    x = image(2, 3, 16, 16)
    engine.set_profiling(True)
    engine.forward([x])
    engine.set_profiling(False)
    with (
        pytest.raises(RuntimeError, match=r"an engine must have run these shapes before .* not profiled"),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        engine.forward([x])
    expected = engine.forward([x])[0]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = engine.forward([x])[0]
    graph.replay()
    torch.testing.assert_close(captured, expected)
    assert {calls for _, calls, _ in engine.profile()} == {1}


@torch.no_grad()
def test_weight_budget() -> None:
    engine = TRTEngineExtension(streaming_plan(), AFFINE_IO)
    streamable = engine.streamable_weight_bytes()
    assert streamable > 0
    twin, x = ProductTwin().cuda(), torch.rand(4, FEATURES, device="cuda")
    for budget in (streamable, 0, streamable // 2, 2**40):
        engine.set_weight_budget(budget)
        for _ in range(2):
            torch.testing.assert_close(
                engine.forward([x])[0], twin(x), atol=CONVOLUTION_TOLERANCE, rtol=CONVOLUTION_TOLERANCE
            )
    with pytest.raises(ValueError, match="the budget for weights must be 0 bytes or more, got -1"):
        engine.set_weight_budget(-1)
    engine.set_weight_budget(0)
    again = copy.deepcopy(engine)
    assert again._get_method("__getstate__")()[2]["weight_budget"] == ["0"]
    torch.testing.assert_close(again.forward([x])[0], engine.forward([x])[0])
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        engine.forward([x])
    with pytest.raises(RuntimeError, match="the engine must not be in a CUDA graph now"):
        engine.set_weight_budget(0)


@torch.no_grad()
@pytest.mark.parametrize("graphs", [False, True], ids=["enqueue", "graphs"])
@pytest.mark.parametrize("side", [8, 64])
def test_inputs_may_be_overwritten_after_waiting(graphs: bool, side: int, engine: Any) -> None:
    engine.set_cuda_graphs(graphs)
    engine.set_input_tracking(True)
    twin = ConvolutionTwin().cuda()
    values = [image(4, 3, side, side) for _ in range(60)]
    expected = [twin(value) for value in values]
    x = torch.empty_like(values[0])
    writer = torch.cuda.Stream()
    torch.cuda.synchronize()
    outputs = []
    for value in values:
        with torch.cuda.stream(writer):
            engine.wait_for_inputs()
            x.copy_(value)
        torch.cuda.current_stream().wait_stream(writer)
        # All are kept, so that no address comes back and graphs are staged.
        outputs.append(engine.forward([x])[0])
    for output, wanted in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, wanted, atol=CONVOLUTION_TOLERANCE, rtol=CONVOLUTION_TOLERANCE)


def test_engine_without_weight_streaming_has_no_budget(engine: Any) -> None:
    assert engine.streamable_weight_bytes() == 0
    with pytest.raises(ValueError, match="an engine must be built with weight streaming to have a budget for weights"):
        engine.set_weight_budget(0)


def test_name_is_in_torchs_profiler(engine: Any) -> None:
    x = image(2, 3, 16, 16)
    engine.set_name("backbone")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        engine.forward([x])
    assert "torch_trt_ext::backbone" in {event.key for event in profile.key_averages()}


def test_log_goes_to_pythons_logging(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="torch_trt_ext")
    runtime.set_log_level("DEBUG")
    try:
        TRTEngineExtension(convolution_plan(), AFFINE_IO).forward([image(2, 3, 16, 16)])
    finally:
        runtime.set_log_level(logging.WARNING)
    assert [record for record in caplog.records if record.name == "torch_trt_ext.tensorrt"]
