"""TRTEngineExtension with TensorRT: values, order, streams, threads, memory, saving, and every kind of bad input."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, List  # noqa: UP035  (what TorchScript reads)

import pytest
import torch
from torch import Tensor

import torch_trt_ext
from tests.fresh_process import output_of_fresh, run_fresh
from tests.gpu.networks import (
    CONVOLUTION_TOLERANCE,
    ConvolutionTwin,
    affine_plan,
    convolution_plan,
    integer_plan,
    nonzero_plan,
    two_profile_plan,
    two_way_plan,
)
from tests.threads import run_in_threads
from torch_trt_ext import TRTEngineExtension, engine_call
from torch_trt_ext.builders.tensorrt_build import import_tensorrt

AFFINE_IO = (["x"], ["y"], ["Float"], ["Float"])
#: Long enough (about 0.1 s on today's GPUs) that a call which waited for it would be told from one which did not.
SPIN_CYCLES = 200_000_000


class EngineModule(torch.nn.Module):
    def __init__(self, engine: Any) -> None:
        super().__init__()
        self.engine = engine

    def forward(self, x: Tensor) -> Tensor:
        outputs: list[Tensor] = self.engine.forward([x])
        return outputs[0]


class HeadsModule(torch.nn.Module):
    def __init__(self, engine: Any) -> None:
        super().__init__()
        self.engine = engine

    def forward(self, heads: List[Tensor]) -> List[Tensor]:  # noqa: UP006
        return self.engine.forward(heads)


@pytest.fixture
def affine() -> Any:
    return TRTEngineExtension(affine_plan(), AFFINE_IO)


@pytest.fixture(scope="module")
def twin() -> ConvolutionTwin:
    return ConvolutionTwin().cuda()


def image(*shape: int) -> Tensor:
    return torch.randn(*shape, device="cuda")


def test_forward_matches_over_shapes(affine: Any) -> None:
    for shape in [(1, 3, 4, 4), (2, 3, 16, 16), (8, 3, 64, 64), (3, 3, 5, 63), (2, 3, 16, 16)]:
        x = image(*shape)
        (y,) = affine.forward([x])
        torch.testing.assert_close(y, 2 * x + 1)
        assert y.is_contiguous()
        assert not y.requires_grad


def test_both_torch_names_make_engines() -> None:
    x = image(2, 3, 8, 8)
    for namespace in (torch.classes.torch_trt_ext, torch.classes.torch_addons):
        engine = namespace.TRTEngineExtension(affine_plan(), AFFINE_IO)
        torch.testing.assert_close(engine.forward([x])[0], 2 * x + 1)


def test_names_give_the_order() -> None:
    a, b = image(2, 2), image(2).half()
    engine = TRTEngineExtension(two_way_plan(), (["a", "b"], ["first", "second"], ["Float", "Half"], ["Float", "Half"]))
    first, second = engine.forward([a, b])
    torch.testing.assert_close(first, 2 * a)
    torch.testing.assert_close(second, b + 1)
    turned = TRTEngineExtension(two_way_plan(), (["b", "a"], ["second"], ["Half", "Float"], ["Half"]))
    torch.testing.assert_close(turned.forward([b, a])[0], b + 1)
    assert len(turned.forward([b, a])) == 1


def test_other_types_are_cast_without_a_host_sync() -> None:
    engine = TRTEngineExtension(integer_plan(), (["x"], ["y"], ["Long"], ["Double"]))
    x = torch.arange(5, device="cuda")
    engine.forward([x])
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        (y,) = engine.forward([x])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert y.dtype == torch.float64
    torch.testing.assert_close(y, (x + 1).double())


@pytest.mark.parametrize("graphs", [False, True])
def test_engine_call_is_forward(affine: Any, graphs: bool) -> None:
    affine.set_cuda_graphs(graphs)
    call = engine_call(affine)
    x = image(2, 3, 4, 8)
    side = torch.cuda.Stream()
    for stream in (torch.cuda.default_stream(), side):
        with torch.cuda.stream(stream):
            # Enough for addresses to come back, whatever is free.
            for number in range(40):
                torch.cuda._sleep(SPIN_CYCLES // 100)
                x.fill_(float(number))
                (y,) = call([x])
                torch.testing.assert_close(y, torch.full_like(x, 2.0 * number + 1))
        stream.synchronize()
    assert (affine.counters()["graph_replays"] > 0) == graphs
    with pytest.raises(ValueError, match="input 'x' must be float32 on cuda:0, got float32 on cpu"):
        call([x.cpu()])


def test_non_contiguous_and_misaligned_inputs(affine: Any) -> None:
    x = image(2, 16, 3, 8).permute(0, 2, 1, 3)
    assert not x.is_contiguous()
    torch.testing.assert_close(affine.forward([x])[0], 2 * x + 1)
    buffer = image(1 + 3 * 4 * 5)
    view = buffer[1:].view(1, 3, 4, 5)
    assert view.data_ptr() % 256
    torch.testing.assert_close(affine.forward([view])[0], 2 * view + 1)


def test_temporaries_live_until_they_are_used(affine: Any) -> None:
    for _ in range(100):
        x = image(2, 64, 3, 32)
        (y,) = affine.forward([x.permute(0, 2, 1, 3)])
        # Takes the block of a temporary that was freed too early, and overwrites it.
        image(2, 3, 64, 32).fill_(float("nan"))
        torch.testing.assert_close(y, 2 * x.permute(0, 2, 1, 3) + 1)


@pytest.mark.parametrize("side_stream", [False, True], ids=["default_stream", "side_stream"])
def test_runs_in_the_order_of_the_current_stream_and_does_not_wait(affine: Any, side_stream: bool) -> None:
    stream = torch.cuda.Stream() if side_stream else torch.cuda.default_stream()
    with torch.cuda.stream(stream):
        x = image(4, 3, 32, 32)
        affine.forward([x])
        stream.synchronize()
        expected = 2 * torch.full_like(x, 7) + 1
        torch.cuda._sleep(SPIN_CYCLES)
        x.fill_(7)
        (y,) = affine.forward([x])
        x.fill_(-1)
        total = y + 0
        assert not stream.query(), "forward must return while the stream is still busy"
    stream.synchronize()
    torch.testing.assert_close(total, expected)


def test_alternating_streams(affine: Any) -> None:
    streams = [torch.cuda.default_stream(), torch.cuda.Stream(), torch.cuda.Stream()]
    results = []
    for call in range(100):
        with torch.cuda.stream(streams[call % 3]):
            x = torch.full((1 + call % 8, 3, 16, 16), float(call), device="cuda")
            results.append((call, affine.forward([x])[0]))
    torch.cuda.synchronize()
    for call, y in results:
        assert torch.equal(y, torch.full_like(y, 2 * call + 1))


def test_more_streams_than_contexts() -> None:
    engine = TRTEngineExtension(convolution_plan(), AFFINE_IO)
    twin = ConvolutionTwin().cuda()
    # torch hands out 32 pooled streams, more than the contexts an engine keeps.
    streams = [torch.cuda.Stream() for _ in range(32)]
    inputs = [image(1, 3, 4 + index % 61, 16) for index in range(64)]
    torch.cuda.synchronize()
    outputs = []
    for index, x in enumerate(inputs):
        with torch.cuda.stream(streams[index % 32]):
            outputs.append(engine.forward([x])[0])
    torch.cuda.synchronize()
    assert 2 <= engine.counters()["contexts"] <= 16
    for x, y in zip(inputs, outputs, strict=True):
        torch.testing.assert_close(y, twin(x), atol=CONVOLUTION_TOLERANCE, rtol=CONVOLUTION_TOLERANCE)


@pytest.mark.parametrize("own_streams", [True, False], ids=["own_streams", "shared_stream"])
def test_threads_get_right_answers(twin: ConvolutionTwin, own_streams: bool) -> None:
    engine = TRTEngineExtension(convolution_plan(), AFFINE_IO)
    shapes = [(1, 3, 8, 8), (2, 3, 16, 24), (4, 3, 32, 16)]
    inputs = [[image(*shape) for shape in shapes] for _ in range(8)]
    with torch.no_grad():
        expected = [[twin(x) for x in row] for row in inputs]
    torch.cuda.synchronize()

    def work(index: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream() if own_streams else torch.cuda.default_stream()):
            for call in range(60):
                (y,) = engine.forward([inputs[index][call % 3]])
                error = (y - expected[index][call % 3]).abs().max().item()
                assert error < CONVOLUTION_TOLERANCE, f"thread {index}, call {call}"

    run_in_threads(8, work)
    assert engine.counters()["calls"] == 480


def test_data_dependent_output() -> None:
    engine = TRTEngineExtension.from_plan(nonzero_plan())
    assert engine.output_shapes() == [[2, -1]]
    for rows, stream in [(3, torch.cuda.default_stream()), (64, torch.cuda.Stream()), (1, torch.cuda.Stream())]:
        with torch.cuda.stream(stream):
            x = (image(rows, 5) > 0.5).float()
            (indices,) = engine.forward([x])
            torch.testing.assert_close(indices.long(), x.nonzero().T)
            (empty,) = engine.forward([torch.zeros_like(x)])
            assert empty.shape == (2, 0)


def test_profile_that_fits_is_picked_in_any_order() -> None:
    engine = TRTEngineExtension(two_profile_plan(), AFFINE_IO)
    assert len(engine.profiles()) == 2
    for rows in [2, 64, 2, 1, 2, 2, 33]:
        x = image(rows, 4)
        torch.testing.assert_close(engine.forward([x])[0], 2 * x + 1)
    # One context a profile: shapes that alternate between profiles switch nothing.
    assert engine.counters()["contexts"] == 2


def test_activation_memory_is_given_back() -> None:
    engine = TRTEngineExtension(convolution_plan(), AFFINE_IO)
    x = image(8, 3, 64, 64)
    engine.forward([x])
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(50):
        engine.forward([x])
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before


def test_cuda_graph_capture(twin: ConvolutionTwin) -> None:
    engine = TRTEngineExtension(convolution_plan(), AFFINE_IO)
    x = image(2, 3, 16, 16)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        engine.forward([x])
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        (y,) = engine.forward([x])
    for _ in range(3):
        x.copy_(image(2, 3, 16, 16))
        graph.replay()
        torch.cuda.synchronize()
        torch.testing.assert_close(y, twin(x), atol=CONVOLUTION_TOLERANCE, rtol=CONVOLUTION_TOLERANCE)
        other = image(1, 3, 8, 8)
        torch.testing.assert_close(
            engine.forward([other])[0], twin(other), atol=CONVOLUTION_TOLERANCE, rtol=CONVOLUTION_TOLERANCE
        )


def test_several_calls_and_several_graphs_are_captured(twin: ConvolutionTwin) -> None:
    engine = TRTEngineExtension(convolution_plan(), AFFINE_IO)
    inputs = [image(2, 3, 16, 16) for _ in range(3)]
    graphs = []
    for _ in range(2):
        engine.forward([inputs[0]])
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = [engine.forward([x])[0] for x in inputs]
        graphs.append((graph, outputs))
    # Calls of one graph share a context, each graph has its own, and the pool made new ones in between.
    assert engine.counters()["contexts"] == 2
    for graph, outputs in graphs:
        for x in inputs:
            x.copy_(image(2, 3, 16, 16))
        graph.replay()
        torch.cuda.synchronize()
        for x, y in zip(inputs, outputs, strict=True):
            torch.testing.assert_close(y, twin(x), atol=CONVOLUTION_TOLERANCE, rtol=CONVOLUTION_TOLERANCE)


def test_capture_without_a_warm_up_fails() -> None:
    engine = TRTEngineExtension(affine_plan(), AFFINE_IO)
    x = image(2, 3, 16, 16)
    with (
        pytest.raises(RuntimeError, match="an engine must have run these shapes before a CUDA graph captures it"),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        engine.forward([x])
    torch.testing.assert_close(engine.forward([x])[0], 2 * x + 1)


def test_engine_that_goes_while_it_runs(twin: ConvolutionTwin) -> None:
    x = image(8, 3, 64, 64)
    expected = twin(x)
    for _ in range(5):
        torch.cuda._sleep(SPIN_CYCLES // 10)
        (y,) = TRTEngineExtension(convolution_plan(), AFFINE_IO).forward([x])
        torch.testing.assert_close(y, expected, atol=CONVOLUTION_TOLERANCE, rtol=CONVOLUTION_TOLERANCE)


def test_out_of_memory_fails_and_leaves_the_engine_usable(twin: ConvolutionTwin) -> None:
    # Its activations take more than the allocator's small blocks, of which one may be free.
    engine = TRTEngineExtension(convolution_plan(), AFFINE_IO)
    x = image(8, 3, 64, 64)
    engine.forward([x])
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-6)
    try:
        with pytest.raises(RuntimeError, match="out of memory"):
            engine.forward([x])
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    torch.testing.assert_close(engine.forward([x])[0], twin(x), atol=CONVOLUTION_TOLERANCE, rtol=CONVOLUTION_TOLERANCE)


def test_plan_is_a_copy(affine: Any) -> None:
    affine.plan().zero_()
    assert bytes(affine.plan().numpy()) == affine_plan()


def test_introspection(affine: Any) -> None:
    assert affine.can_run()
    assert affine.why_not() == ""
    assert affine.io_names() == (["x"], ["y"], ["Float"], ["Float"])
    assert affine.input_shapes() == [[-1, 3, -1, -1]]
    assert affine.output_shapes() == [[-1, 3, -1, -1]]
    assert affine.profiles() == [[[[1, 3, 4, 4], [2, 3, 16, 16], [8, 3, 64, 64]]]]
    assert affine.made_on()["gpu"] == [torch.cuda.get_device_name()]
    assert affine.can_run_with([image(1, 3, 4, 4)])
    assert not affine.can_run_with([image(9, 3, 4, 4)])
    assert not affine.can_run_with([image(1, 3, 4, 4).cpu()])
    assert not affine.can_run_with([])


def test_from_plan_reads_names_and_types(tmp_path: Path) -> None:
    path = tmp_path / "engine.plan"
    path.write_bytes(two_way_plan())
    for source in (path, str(path), two_way_plan()):
        engine = TRTEngineExtension.from_plan(source)
        assert engine.io_names() == (["b", "a"], ["second", "first"], ["Half", "Float"], ["Half", "Float"])


@pytest.mark.parametrize("compile_module", [torch.jit.script, lambda m: torch.jit.trace(m, (image(2, 3, 8, 8),))])
def test_saved_and_loaded_in_a_fresh_process(tmp_path: Path, compile_module: Callable[..., Any]) -> None:
    module = compile_module(EngineModule(TRTEngineExtension(affine_plan(), AFFINE_IO)))
    x = image(3, 3, 9, 5)
    torch.testing.assert_close(module(x), 2 * x + 1)
    torch.jit.save(module, str(tmp_path / "model.pt"))
    torch.save(x.cpu(), tmp_path / "x.pt")
    script = f"""
        import sys, torch, torch_trt_ext.runtime
        model = torch.jit.load({str(tmp_path / "model.pt")!r})
        x = torch.load({str(tmp_path / "x.pt")!r}).cuda()
        assert "tensorrt" not in sys.modules
        print(torch.equal(model(x), 2 * x + 1))
        torch.jit.save(model, {str(tmp_path / "again.pt")!r})
        print(torch.equal(torch.jit.load({str(tmp_path / "again.pt")!r}, map_location="cpu")(x), 2 * x + 1))
        print(torch.equal(torch.jit.load({str(tmp_path / "again.pt")!r}, map_location="cuda")(x), 2 * x + 1))
    """
    assert output_of_fresh(script).split() == ["True", "True", "True"]


def test_deepcopy_and_freeze(affine: Any) -> None:
    module = torch.jit.script(EngineModule(affine)).eval()
    x = image(1, 3, 4, 4)
    for other in (copy.deepcopy(module), torch.jit.freeze(module)):
        torch.testing.assert_close(other(x), 2 * x + 1)


def _saved(tmp_path: Path) -> str:
    path = tmp_path / "model.pt"
    torch.jit.save(torch.jit.script(EngineModule(TRTEngineExtension(affine_plan(), AFFINE_IO))), str(path))
    return str(path)


_LOAD_ELSEWHERE = """
    import torch, torch_trt_ext.runtime
    model = torch.jit.load({path!r}, map_location="cpu")
    print(model.engine.can_run(), model.engine.why_not())
    try:
        model(torch.ones(1, 3, 4, 4))
    except RuntimeError as error:
        print("forward:", error)
    torch.jit.save(model, {path!r} + ".again")
"""


def test_file_loads_where_there_is_no_gpu(tmp_path: Path) -> None:
    path = _saved(tmp_path)
    text = output_of_fresh(_LOAD_ELSEWHERE.format(path=path), environment={"CUDA_VISIBLE_DEVICES": ""})
    assert "False a TensorRT engine needs an NVIDIA GPU, CUDA finds none" in text
    assert f"it was saved on {torch.cuda.get_device_name()}" in text
    assert "forward:" in text
    x = image(1, 3, 4, 4)
    torch.testing.assert_close(torch.jit.load(path + ".again")(x), 2 * x + 1)


def test_file_loads_where_tensorrt_is_missing(tmp_path: Path) -> None:
    hidden: dict[str, str | None] = {"TENSORRT_ROOT": None, "LD_LIBRARY_PATH": None}
    probe = run_fresh("import ctypes; ctypes.CDLL('libnvinfer.so.10')", environment=hidden)
    if probe.returncode == 0:
        pytest.skip("TensorRT is in the system's search path and cannot be hidden")
    text = output_of_fresh(_LOAD_ELSEWHERE.format(path=_saved(tmp_path)), environment=hidden)
    assert "False TensorRT 10 (libnvinfer.so.10) was not found; set TENSORRT_ROOT" in text


def test_file_without_the_runtime_fails(tmp_path: Path) -> None:
    result = run_fresh(f"import torch; torch.jit.load({_saved(tmp_path)!r})")
    assert result.returncode == 1
    assert "Unknown type name '__torch__.torch.classes.torch_trt_ext.TRTEngineExtension'" in result.stderr


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (lambda: [], ValueError, r"forward must get 1 inputs \('x'\), got 0"),
        (lambda: [image(1, 3, 4, 4)] * 2, ValueError, r"forward must get 1 inputs \('x'\), got 2"),
        (
            lambda: [image(1, 3, 4, 4).half()],
            TypeError,
            r"input 'x' must be float32 on cuda:0, got float16 on cuda:0; call .to\(torch.float32\)",
        ),
        (
            lambda: [image(1, 3, 4, 4).cpu()],
            ValueError,
            r"input 'x' must be float32 on cuda:0, got float32 on cpu; call .to\('cuda:0'\)",
        ),
        (lambda: [image(3, 4, 4)], ValueError, r"input 'x' must have 4 dimensions, got 3 with shape \[3, 4, 4\]"),
        (
            lambda: [image(9, 3, 4, 4)],
            ValueError,
            r"input 'x' must have a shape in \[1..8, 3, 4..64, 4..64\], got \[9, 3, 4, 4\]",
        ),
        # A lexicographic comparison would let this pass: the batch is inside, the side is not.
        (lambda: [image(2, 3, 65, 4)], ValueError, r"got \[2, 3, 65, 4\]"),
        (lambda: [image(0, 3, 4, 4)], ValueError, r"got \[0, 3, 4, 4\]"),
    ],
)
def test_bad_inputs_fail_and_leave_the_engine_usable(
    affine: Any, inputs: Callable[[], list[Tensor]], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        affine.forward(inputs())
    x = image(1, 3, 4, 4)
    torch.testing.assert_close(affine.forward([x])[0], 2 * x + 1)


def test_names_that_the_plan_lacks_fail() -> None:
    with pytest.raises(ValueError, match=r"input 'images' must be one of the engine's inputs \('x'\)"):
        TRTEngineExtension(affine_plan(), (["images"], ["y"], ["Float"], ["Float"]))
    with pytest.raises(ValueError, match=r"output 'z' must be one of the engine's outputs \('y'\)"):
        TRTEngineExtension(affine_plan(), (["x"], ["z"], ["Float"], ["Float"]))
    with pytest.raises(ValueError, match="input names must cover the engine's 2 inputs"):
        TRTEngineExtension(two_way_plan(), (["a"], ["first"], ["Float"], ["Float"]))


def test_truncated_plan_fails() -> None:
    plan = affine_plan()
    for size in [1, 3, 4, 20, 31, 32, 64, 100, 1000, len(plan) // 2, len(plan) - 1000, len(plan) - 1]:
        with pytest.raises(ValueError, match=r"cut short|must be a plan"):
            TRTEngineExtension(plan[:size], AFFINE_IO)


def test_plan_of_another_version_fails() -> None:
    plan = bytearray(affine_plan())
    assert plan[24:26] == bytes([10, int(import_tensorrt().__version__.split(".")[1])])
    # A newer TensorRT writes its own version into the header and a higher number of its format before the engine.
    plan[25] += 1
    plan[plan.index(b"ptrt") + 4] += 1
    with pytest.raises(RuntimeError, match=r"the plan must be of TensorRT 10\.\d+\.\d+, .* got one of TensorRT 10\."):
        TRTEngineExtension(bytes(plan), AFFINE_IO)


def test_unknown_plugin_fails(tmp_path: Path) -> None:
    detector = torch_trt_ext.build_retinanet_decode(
        ([torch.zeros(1, 2, 2, 2)], [torch.zeros(1, 4, 2, 2)]), (1, 3, 16, 16), [torch.tensor([[-4.0, -4.0, 4.0, 4.0]])]
    )
    detector.save(tmp_path / "engine.plan")
    # A runtime without the package's own plugin library beside it.
    shutil.copy(torch_trt_ext.runtime.library_path("runtime"), tmp_path)
    script = f"""
        import torch, torch_trt_ext
        plan = open({str(tmp_path / "engine.plan")!r}, "rb").read()
        try:
            torch_trt_ext.TRTEngineExtension(plan, {detector.io_spec!r})
        except RuntimeError as error:
            print(error)
    """
    text = output_of_fresh(script, environment={"TORCH_TRT_EXT_LIBRARY_DIR": str(tmp_path)})
    assert "the plan needs a plugin that is not registered; open its library with" in text


def test_load_plugin_library_is_remembered_by_name(tmp_path: Path) -> None:
    engine = torch_trt_ext.build_retinanet_decode(
        ([torch.zeros(1, 2, 2, 2)], [torch.zeros(1, 4, 2, 2)]), (1, 3, 16, 16), [torch.tensor([[-4.0, -4.0, 4.0, 4.0]])]
    )
    engine.save(tmp_path / "engine.plan")
    shutil.copy(torch_trt_ext.runtime.library_path("plugins"), tmp_path / "libmine.so")
    (tmp_path / "bare").mkdir()
    shutil.copy(torch_trt_ext.runtime.library_path("runtime"), tmp_path / "bare")
    bare: dict[str, str | None] = {"TORCH_TRT_EXT_LIBRARY_DIR": str(tmp_path / "bare")}
    save = f"""
        import torch, torch_trt_ext
        torch_trt_ext.load_plugin_library({str(tmp_path / "libmine.so")!r})
        from tests.gpu.test_tensorrt_engine import HeadsModule
        post = HeadsModule(torch_trt_ext.TRTEngineExtension.from_plan({str(tmp_path / "engine.plan")!r}))
        print(post.engine.plugin_libraries())
        torch.jit.save(torch.jit.script(post), {str(tmp_path / "post.pt")!r})
    """
    assert "['libmine.so']" in output_of_fresh(save, environment=bare)
    load = f"""
        import torch, torch_trt_ext.runtime
        engine = torch.jit.load({str(tmp_path / "post.pt")!r}).engine
        print(engine.can_run(), engine.why_not())
    """
    assert output_of_fresh(load, environment=bare | {"TORCH_TRT_EXT_PLUGIN_PATH": str(tmp_path)}).startswith("True")
    refused = output_of_fresh(load, environment=bare)
    assert refused.startswith("False")
    assert "it was made with the plugin libraries libmine.so, which are not open" in refused
