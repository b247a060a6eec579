"""CUDA graphs that an engine records and replays by itself."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.gpu.networks import (
    CONVOLUTION_TOLERANCE,
    ConvolutionTwin,
    convolution_plan,
    nonzero_plan,
    nonzero_sum_plan,
    two_profile_plan,
)
from tests.gpu.test_tensorrt_engine import AFFINE_IO, SPIN_CYCLES, EngineModule, image
from tests.threads import run_in_threads
from torch_trt_ext import TRTEngineExtension

#: Calls with the same shapes and addresses until one of them replays a graph: two are counted, the third captures.
CALLS_UNTIL_GRAPH = 3

#: Calls without a graph until addresses are not expected to come back.
MISSES_BEFORE_STAGING = 32


def with_graphs(plan: bytes, io: Any = AFFINE_IO) -> Any:
    engine = TRTEngineExtension(plan, io)
    engine.set_cuda_graphs(True)
    return engine


@pytest.fixture(autouse=True)
def _empty_cache() -> None:
    """Which addresses come back must not depend on what other tests left in torch's allocator."""
    gc.collect()
    torch.cuda.empty_cache()


@pytest.fixture
def engine() -> Any:
    return with_graphs(convolution_plan())


@pytest.fixture(scope="module")
def twin() -> Iterator[Any]:
    with torch.no_grad():
        yield ConvolutionTwin().cuda().requires_grad_(False)


def check(twin: Any, x: Tensor, y: Tensor) -> None:
    torch.testing.assert_close(y, twin(x), atol=CONVOLUTION_TOLERANCE, rtol=CONVOLUTION_TOLERANCE)


@pytest.mark.parametrize("side_stream", [False, True], ids=["default_stream", "side_stream"])
def test_replays_give_the_answers_of_the_engine(engine: Any, side_stream: bool) -> None:
    plain = TRTEngineExtension(convolution_plan(), AFFINE_IO)
    x = image(2, 3, 16, 16)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream() if side_stream else torch.cuda.default_stream()
    with torch.cuda.stream(stream):
        for _ in range(20):
            x.copy_(image(2, 3, 16, 16))
            (y,) = engine.forward([x])
            assert torch.equal(y, plain.forward([x])[0])
            del y
    counters = engine.counters()
    assert counters["calls"] == 20
    assert 20 - 2 * CALLS_UNTIL_GRAPH <= counters["graph_replays"] < 20
    assert counters["graph_captures"] >= 1
    assert plain.counters()["graph_captures"] == 0


def test_off_by_default_and_on_and_off_again() -> None:
    engine = TRTEngineExtension(convolution_plan(), AFFINE_IO)
    x = image(2, 3, 16, 16)
    assert not engine.cuda_graphs()
    for enabled, replays in [(False, 0), (True, 10 - CALLS_UNTIL_GRAPH + 1), (False, 0)]:
        engine.set_cuda_graphs(enabled)
        assert engine.cuda_graphs() == enabled
        before = engine.counters()["graph_replays"]
        for _ in range(10):
            engine.forward([x])
        assert engine.counters()["graph_replays"] - before == replays


def test_alternating_shapes_are_recorded_once(engine: Any, twin: Any) -> None:
    inputs = [image(*shape) for shape in [(1, 3, 8, 8), (2, 3, 16, 24), (4, 3, 32, 16), (8, 3, 64, 64)]]

    def turn() -> None:
        for x in inputs:
            x.copy_(image(*x.shape))
            check(twin, x, engine.forward([x])[0])

    # The same turns before and after: where torch puts outputs depends on all that was allocated and freed in between.
    for _ in range(CALLS_UNTIL_GRAPH + MISSES_BEFORE_STAGING):
        turn()
    warm = engine.counters()
    for _ in range(10):
        turn()
    counters = engine.counters()
    assert counters["graph_captures"] == warm["graph_captures"]
    assert counters["graph_replays"] - warm["graph_replays"] == 40
    assert counters["contexts"] == 4


def test_addresses_that_do_not_come_back_are_copied_to_one_graph(engine: Any, twin: Any) -> None:
    inputs = [image(2, 3, 16, 16) for _ in range(100)]
    outputs = [engine.forward([x])[0] for x in inputs[:MISSES_BEFORE_STAGING]]
    assert engine.counters()["graph_captures"] == 0
    outputs += [engine.forward([x])[0] for x in inputs[MISSES_BEFORE_STAGING:]]
    for x, y in zip(inputs, outputs, strict=True):
        check(twin, x, y)
    counters = engine.counters()
    assert counters["graph_captures"] == 1
    assert counters["graph_copies"] == counters["graph_replays"] == 100 - MISSES_BEFORE_STAGING
    # Other shapes have graphs of their own, and those that were have them still or again.
    for _ in range(3):
        for shape in [(1, 3, 8, 8), (2, 3, 16, 16)]:
            x = image(*shape)
            check(twin, x, engine.forward([x])[0])


def test_staged_graph_moves_between_streams_and_goes_while_it_runs(twin: Any) -> None:
    for _ in range(3):
        engine = with_graphs(convolution_plan())
        streams = [torch.cuda.Stream() for _ in range(3)]
        kept = []
        for call in range(150):
            with torch.cuda.stream(streams[call % 3]):
                x = image(2, 3, 16, 16)
                kept.append((x, engine.forward([x])[0]))
        assert engine.counters()["graph_copies"] > 0
        del engine
        torch.cuda.synchronize()
        for x, y in kept:
            check(twin, x, y)


def test_outputs_that_are_kept_are_not_overwritten(engine: Any, twin: Any) -> None:
    x = image(2, 3, 16, 16)
    for _ in range(CALLS_UNTIL_GRAPH):
        engine.forward([x])
    kept = []
    for _ in range(20):
        x.copy_(image(2, 3, 16, 16))
        kept.append((x.clone(), engine.forward([x])[0]))
    for given, y in kept:
        check(twin, given, y)


@pytest.mark.parametrize("side_stream", [False, True], ids=["default_stream", "side_stream"])
def test_runs_in_the_order_of_the_current_stream_and_does_not_wait(engine: Any, twin: Any, side_stream: bool) -> None:
    stream = torch.cuda.Stream() if side_stream else torch.cuda.default_stream()
    with torch.cuda.stream(stream):
        x = image(4, 3, 32, 32)
        # Before the engine, so that memory comes to it as in the warm-up.
        expected = twin(torch.full_like(x, 7))
        for _ in range(CALLS_UNTIL_GRAPH + 1):
            engine.forward([x])
        stream.synchronize()
        before = engine.counters()["graph_replays"]
        torch.cuda._sleep(SPIN_CYCLES)
        x.fill_(7)
        (y,) = engine.forward([x])
        x.fill_(-1)
        total = y + 0
        assert not stream.query(), "forward must return while the stream is still busy"
    stream.synchronize()
    assert engine.counters()["graph_replays"] == before + 1
    torch.testing.assert_close(total, expected, atol=CONVOLUTION_TOLERANCE, rtol=CONVOLUTION_TOLERANCE)


def test_threads_get_right_answers(engine: Any, twin: Any) -> None:
    shapes = [(1, 3, 8, 8), (2, 3, 16, 24)]
    inputs = [[image(*shape) for shape in shapes] for _ in range(6)]
    expected = [[twin(x) for x in row] for row in inputs]
    torch.cuda.synchronize()

    def work(index: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream() if index % 2 else torch.cuda.default_stream()):
            for call in range(100):
                (y,) = engine.forward([inputs[index][call % 2]])
                error = (y - expected[index][call % 2]).abs().max().item()
                assert error < CONVOLUTION_TOLERANCE, f"thread {index}, call {call}"
                del y

    run_in_threads(6, work)
    assert engine.counters()["calls"] == 600
    assert engine.counters()["graph_replays"] > 0


def test_more_shapes_than_contexts(engine: Any, twin: Any) -> None:
    for _ in range(2):
        for side in range(4, 64, 2):
            x = image(1, 3, side, 16)
            for _ in range(CALLS_UNTIL_GRAPH + 1):
                (y,) = engine.forward([x])
                check(twin, x, y)
                del y
    assert engine.counters()["contexts"] <= 16


def test_several_profiles() -> None:
    engine = with_graphs(two_profile_plan())
    for _ in range(2 * CALLS_UNTIL_GRAPH):
        for rows in [2, 64, 33]:
            x = torch.full((rows, 4), float(rows), device="cuda")
            assert torch.equal(engine.forward([x])[0], 2 * x + 1)


def test_kept_when_copied_saved_and_loaded(engine: Any, twin: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "model.pt")
    torch.jit.save(torch.jit.script(EngineModule(engine)), path)
    x = image(2, 3, 16, 16)
    for other in (torch.jit.load(path).engine, copy.deepcopy(engine)):
        assert other.cuda_graphs()
        # As many as are enough wherever torch puts the outputs.
        for _ in range(MISSES_BEFORE_STAGING + CALLS_UNTIL_GRAPH):
            check(twin, x, other.forward([x])[0])
        assert other.counters()["graph_replays"] > 0


def test_engine_that_goes_while_a_graph_runs(twin: Any) -> None:
    x = image(8, 3, 64, 64)
    for _ in range(3):
        engine = with_graphs(convolution_plan())
        for _ in range(CALLS_UNTIL_GRAPH):
            engine.forward([x])
        torch.cuda._sleep(SPIN_CYCLES // 10)
        (y,) = engine.forward([x])
        assert engine.counters()["graph_replays"] > 0
        del engine
        check(twin, x, y)


def test_capture_of_the_callers(engine: Any, twin: Any) -> None:
    x = image(2, 3, 16, 16)
    for _ in range(CALLS_UNTIL_GRAPH + 1):
        engine.forward([x])
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        (y,) = engine.forward([x])
    for _ in range(3):
        x.copy_(image(2, 3, 16, 16))
        graph.replay()
        check(twin, x, y)
        check(twin, x, engine.forward([x])[0])


def test_output_shapes_that_only_the_run_tells_are_not_recorded() -> None:
    engine = with_graphs(nonzero_plan(), TRTEngineExtension.from_plan(nonzero_plan()).io_names())
    x = (image(5, 5) > 0.5).float()
    for _ in range(5):
        torch.testing.assert_close(engine.forward([x])[0].long(), x.nonzero().T)
    assert engine.counters()["graph_captures"] == 0


@pytest.mark.filterwarnings("ignore:this engine runs without CUDA graphs")
def test_engine_that_cannot_be_recorded_runs_without() -> None:
    engine = with_graphs(nonzero_sum_plan(), TRTEngineExtension.from_plan(nonzero_sum_plan()).io_names())
    x = (image(5, 5) > 0.5).float()
    for _ in range(6):
        torch.testing.assert_close(engine.forward([x])[0], x.nonzero().sum(0).float())
    assert engine.counters()["graph_replays"] == 0


def test_memory_is_given_back(engine: Any) -> None:
    x = image(8, 3, 64, 64)
    for _ in range(5):
        engine.forward([x])
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(50):
        engine.forward([x])
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before
