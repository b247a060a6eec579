"""optimize() with TensorRT: answers, precision, saving, other shapes, streams, an engine kept, caching."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torch_trt_ext
from benchmarks.models import Case, build_case, detections_or_outputs, image_arguments, synthetic_images
from tests.optimizer.models import engine_names, run_in_fresh_process
from torch_trt_ext.optimizer.accuracy import compare

#: float16 keeps 11 bits; what a ResNet's or a small detector's layers add up to stays below this.
HALF_TOLERANCE = 0.02

#: The subgraph in PyTorch against the model in PyTorch, both in float32: batch normalization is folded in one of them.
TORCH_TOLERANCE = 1e-3

#: Long enough (about 0.1 s on today's GPUs) that a call which did not wait for it would be told from one which did.
SPIN_CYCLES = 200_000_000


@dataclass(frozen=True)
class Optimized:
    case: Case
    model: Any
    report: Any
    optimize_again: Callable[[], Any]


def make_config(cache: Path) -> torch_trt_ext.Config:
    config = torch_trt_ext.Config()
    config.cache.folder = str(cache)
    config.tensorrt.builder_optimization_level = 1
    config.timing.warmup_runs, config.timing.timed_runs, config.timing.max_seconds = 5, 10, 10.0
    # These tests are about answers; what is faster is for the benchmark.
    config.timing.compare = False
    return config


def optimize(model: Any, cache: Path, *items: tuple[Any, ...], half_check: bool = True) -> tuple[Any, Any]:
    config = make_config(cache)
    config.gpu_config.disable_fp16_accuracy_check = not half_check
    optimized, _, report = torch_trt_ext.optimize(model, "o1", device_type="gpu", config=config, test_data=list(items))
    return optimized, report


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Optimized:
    cache = tmp_path_factory.mktemp("cache")
    case = build_case("resnet18", "cuda", batch=2)
    model, report = optimize(case.model, cache, case.arguments)
    return Optimized(case, model, report, lambda: optimize(case.model, cache, case.arguments))


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Optimized:
    """The main job's: post-processing is a TensorRT engine before optimize() sees it."""
    cache = tmp_path_factory.mktemp("cache")
    case = build_case("digits_with_engine", "cuda", batch=2)

    # Detections with nearly equal scores change places; the test matches them, optimize() compares by position.
    def run() -> tuple[Any, Any]:
        return optimize(case.model, cache, case.arguments, half_check=False)

    model, report = run()
    return Optimized(case, model, report, run)


def images(count: int, *, size: int = 224, seed: int = 3) -> Tensor:
    arguments: tuple[Tensor] = image_arguments("resnet18", synthetic_images(count, size, size, seed=seed).cuda())
    return arguments[0]


def without_tf32(model: Any, *arguments: Any) -> Any:
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return model(*arguments)


def plain_answers(case: Case, *arguments: Any) -> Any:
    return without_tf32(case.plain, *arguments)


def check(expected: Any, actual: Any, tolerance: float = HALF_TOLERANCE) -> None:
    comparison = compare(expected, actual)
    assert comparison.within(tolerance), comparison.explain(tolerance)


def counters(optimized: Any, report: Any) -> dict[str, int]:
    (name,) = engine_names(report)
    return dict(getattr(optimized, name).engine.counters())


def post_processing_calls(model: torch.jit.ScriptModule) -> int:
    """Calls in a model's own graph of engines that are not in one of optimize()'s wrappers."""
    calls = [node for node in model.graph.nodes() if node.kind() == "prim::CallMethod"]
    return sum("TRTEngineExtension" in str(next(iter(node.inputs())).type()) for node in calls)


def test_resnet_is_one_engine_in_float16(resnet: Optimized) -> None:
    (engine,) = resnet.report["engines"]
    assert (engine["backend"], engine["precision"]) == ("tensorrt", "float16")
    assert resnet.report["coverage"]["compute"] == 1.0
    assert resnet.report["optimizations"][0]["name"] == "PtTrtPassFp16"
    assert resnet.report["hardware_context"]["device_type"] == "gpu"
    assert resnet.report["accuracy"]["model"]["relative"] <= HALF_TOLERANCE


def test_answers_to_images_that_optimize_has_not_seen(resnet: Optimized) -> None:
    x = images(2)
    expected = plain_answers(resnet.case, x)
    with torch.no_grad():
        check(expected, resnet.model(x))
    assert compare(expected, plain_answers(resnet.case, *resnet.case.arguments)).relative > 3 * HALF_TOLERANCE


def test_other_shapes_fall_back(resnet: Optimized) -> None:
    before = counters(resnet.model, resnet.report)
    for x in (images(3), images(2, size=160)):
        check(plain_answers(resnet.case, x), without_tf32(resnet.model, x), TORCH_TOLERANCE)
    after = counters(resnet.model, resnet.report)
    assert after["fallbacks"] - before["fallbacks"] == 2
    assert after["calls"] == before["calls"]


def test_saved_and_loaded_in_a_fresh_process(resnet: Optimized, tmp_path: Path) -> None:
    with torch.no_grad():
        expected = resnet.model(*resnet.case.arguments)
    loaded, counted = run_in_fresh_process(resnet.model, resnet.case.arguments, tmp_path, engine_names(resnet.report))
    assert loaded.is_cuda
    # The same engine on the same GPU: TensorRT chooses its kernels when it builds.
    assert torch.equal(loaded, expected)
    assert [(count["calls"], count["fallbacks"]) for count in counted] == [(1, 0)]


def test_loaded_on_the_cpu_it_falls_back(resnet: Optimized, tmp_path: Path) -> None:
    path = str(tmp_path / "model.pt")
    torch.jit.save(resnet.model, path)
    on_cpu = torch.jit.load(path, map_location="cpu")
    x = resnet.case.arguments[0].cpu()
    with torch.no_grad():
        y = on_cpu(x)
    assert y.device.type == "cpu"
    check(plain_answers(resnet.case, x.cuda()).cpu(), y, TORCH_TOLERANCE)


def test_deepcopy(resnet: Optimized) -> None:
    with torch.no_grad():
        expected = resnet.model(*resnet.case.arguments)
        duplicate = copy.deepcopy(resnet.model)
        assert torch.equal(duplicate(*resnet.case.arguments), expected)
    assert counters(duplicate, resnet.report)["fallbacks"] == 0


@torch.no_grad()
def test_runs_in_the_order_of_a_side_stream(resnet: Optimized) -> None:
    first, second = images(2, seed=4), images(2, seed=5)
    expected = resnet.model(second)
    x = first.clone()
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        # Shapes that a context has not run on this stream may make it wait once.
        resnet.model(x)
        stream.synchronize()
        torch.cuda._sleep(SPIN_CYCLES)
        x.copy_(second)
        y = resnet.model(x)
        x.zero_()
        assert not stream.query(), "the model must return while the stream is still busy"
    stream.synchronize()
    assert torch.equal(y, expected)


def test_second_optimize_takes_engines_from_the_cache(resnet: Optimized) -> None:
    assert not resnet.report["engines"][0]["from_cache"]
    model, report = resnet.optimize_again()
    assert [engine["from_cache"] for engine in report["engines"]] == [True]
    with torch.no_grad():
        assert torch.equal(model(*resnet.case.arguments), resnet.model(*resnet.case.arguments))


def test_batches_between_the_samples_run_in_the_engine(tmp_path: Path) -> None:
    case = build_case("resnet18", "cuda", size=(64, 64))
    optimized, report = optimize(case.model, tmp_path, (images(1, size=64),), (images(8, size=64),))
    assert report["diagnosis"]["shape_variation"] == "dynamic"
    assert [engine["precision"] for engine in report["engines"]] == ["float16"]
    before = counters(optimized, report)
    for batch in (1, 3, 8, 5):
        x = images(batch, size=64)
        with torch.no_grad():
            check(plain_answers(case, x), optimized(x))
    after = counters(optimized, report)
    assert (after["calls"] - before["calls"], after["fallbacks"] - before["fallbacks"]) == (4, 0)
    for x in (images(9, size=64), images(4, size=96)):
        check(plain_answers(case, x), without_tf32(optimized, x), TORCH_TOLERANCE)
    assert counters(optimized, report)["fallbacks"] - after["fallbacks"] == 2


@pytest.mark.parametrize(
    ("wanted", "limit", "given"), [("tf32", 0.02, "tf32"), ("float16", 1e-5, "float32"), ("float32", 1e-5, "float32")]
)
def test_engine_precision(wanted: str, limit: float, given: str, tmp_path: Path) -> None:
    case = build_case("resnet18", "cuda", size=(64, 64))
    config = make_config(tmp_path)
    config.precision.engine_precision = wanted
    config.accuracy.max_relative_error = limit
    optimized, _, report = torch_trt_ext.optimize(
        case.model, "o1", device_type="gpu", config=config, test_data=[case.arguments]
    )
    (engine,) = report["engines"]
    assert engine["precision"] == given
    # Factors of 10 bits show; those of 23 do not.
    assert (engine["error"]["relative"] > 1e-5) == (given == "tf32")
    with torch.no_grad():
        check(plain_answers(case, *case.arguments), optimized(*case.arguments), limit)


class Offset(torch.nn.Module):
    """Pooling between a large offset and its end, so that 16 bits leave nothing of the signal."""

    def __init__(self) -> None:
        super().__init__()
        self.before = torch.nn.Sequential(*(torch.nn.Conv2d(8, 8, 3, padding=1) for _ in range(3)))
        self.shifted = torch.nn.Conv2d(8, 8, 3, padding=1)
        torch.nn.init.constant_(self.shifted.bias, 4096.0)
        self.after = torch.nn.Sequential(*(torch.nn.Conv2d(8, 8, 3, padding=1) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.nn.functional.max_pool2d(self.shifted(self.before(x)), 2)
        result: Tensor = self.after(pooled - 4096.0)
        return result


@pytest.mark.parametrize("whole_model", [False, True])
def test_sensitive_nodes_go_back_to_float32(whole_model: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Offset().eval().cuda(), torch.rand(2, 8, 32, 32, device="cuda")
    config = make_config(tmp_path)
    config.accuracy.max_relative_error, config.accuracy.max_model_relative_error = (
        (1e6, 0.02) if whole_model else (0.02, 0.05)
    )
    optimized, _, report = torch_trt_ext.optimize(model, "o1", device_type="gpu", config=config, test_data=[(x,)])
    (engine,) = report["engines"]
    assert engine["precision"] == "float16"
    back = [name for name, reason in engine["kept_float32"].items() if reason.startswith("rounding it alone changes")]
    # The convolution, the pooling and the subtraction; not the six other convolutions.
    assert 3 <= len(back) <= 6
    assert ("went back to float32" in report["diagnosis"]["message"]) == whole_model
    with torch.no_grad():
        check(without_tf32(model, x), optimized(x), 0.02)


def test_traced_models_are_compared_without_tf32(tmp_path: Path) -> None:
    """torch.jit.trace writes TF32 into convolutions; compared with these, engines in float32 seemed to be wrong."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3)).eval().cuda()
    images = torch.rand(1, 64, 32, 32, device="cuda")
    assert torch.backends.cudnn.allow_tf32, "else nothing is tested"
    config = make_config(tmp_path)
    config.precision.engine_precision = "float32"
    _, _, report = torch_trt_ext.optimize(
        torch.jit.trace(model, (images,)), "o1", device_type="gpu", config=config, test_data=[(images,)]
    )
    (engine,) = report["engines"]
    assert engine["error"]["relative"] < 1e-5
    assert report["accuracy"]["model"]["relative"] < 1e-5


class CountsOnTheCpu(nn.Module):
    """Adds positions that are counted on the CPU; on request gives them, too."""

    def __init__(self, gives: bool) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)
        self.gives = gives

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.before(x).relu()
        rows, columns = torch.meshgrid(torch.arange(x.size(2)), torch.arange(x.size(3)), indexing="ij")
        places = torch.stack([rows, columns]).float() / 30
        x = self.after(x + places.to(x.device).sum(0))
        return x, places if self.gives else x.mean()


@pytest.mark.parametrize("gives", [False, True])
def test_positions_counted_on_the_cpu_are_in_the_engine_unless_given(gives: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = CountsOnTheCpu(gives).eval().cuda(), torch.rand(1, 8, 32, 32, device="cuda")
    optimized, _, report = torch_trt_ext.optimize(
        torch.jit.script(model), "o1", device_type="gpu", config=make_config(tmp_path), test_data=[(x,)]
    )
    whole = report["coverage"]["operators"] == report["coverage"]["operators_total"]
    assert whole != gives
    assert len(report["engines"]) == 1 or gives
    expected, given = model(x), optimized(x)
    assert [tensor.device.type for tensor in given] == [tensor.device.type for tensor in expected]
    for got, want in zip(given, expected, strict=True):
        torch.testing.assert_close(got, want, atol=2e-2, rtol=2e-2)


class LayersOfOneInput(nn.Module):
    """Two linear layers of the same input, which torch's own freezing joins on a GPU, and an activation in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu_() * self.second(x).sigmoid_())


def test_layers_of_one_input_are_one_engine(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = LayersOfOneInput().eval().cuda(), torch.rand(8, 64, device="cuda")
    optimized, _, report = torch_trt_ext.optimize(
        torch.jit.script(model), "o1", device_type="gpu", config=make_config(tmp_path), test_data=[(x,)]
    )
    assert len(report["engines"]) == 1
    assert report["coverage"]["operators"] == report["coverage"]["operators_total"]
    check(without_tf32(model, x), optimized(x))


class Queries(nn.Module):
    """Layers that add the same to every item of a batch before products with weights, as DETR's do."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.queries = nn.Parameter(torch.randn(1, 10, 64))
        self.layers = nn.ModuleList(nn.ModuleList(nn.Linear(64, 64) for _ in range(4)) for _ in range(layers))
        self.norm = nn.LayerNorm(64)

    def forward(self, x: Tensor) -> Tensor:
        queries = self.queries.repeat(x.shape[0], 1, 1)
        for query, key, value, out in self.layers:
            weights = (query(x + queries) @ key(x + queries).transpose(1, 2) / 8).softmax(-1)
            x = self.norm(x + out(weights @ value(x)))
        return x


def test_what_is_added_to_each_item_of_a_batch_is_right(tmp_path: Path) -> None:
    model, x = Queries(6).eval().cuda(), torch.randn(4, 10, 64, device="cuda")
    config = make_config(tmp_path)
    config.prefer = "trace"
    config.precision.engine_precision = "float32"
    optimized, _, report = torch_trt_ext.optimize(model, "o1", "gpu", config=config, test_data=[(x,)])
    (engine,) = report["engines"]
    assert engine["precision"] == "float32"
    with torch.no_grad():
        assert compare(model(x), optimized(x)).within(1e-4)


@pytest.mark.parametrize("choice", ["on", "off"])
def test_cuda_graphs_are_used_as_the_config_says(choice: str, tmp_path: Path) -> None:
    case = build_case("resnet18", "cuda", size=(64, 64))
    config = make_config(tmp_path)
    config.tensorrt.cuda_graphs = choice
    optimized, _, report = torch_trt_ext.optimize(
        case.model, "o1", device_type="gpu", config=config, test_data=[case.arguments]
    )
    assert [engine["cuda_graphs"] for engine in report["engines"]] == [choice == "on"]
    before = counters(optimized, report)
    expected = plain_answers(case, *case.arguments)
    with torch.no_grad():
        for _ in range(10):
            check(expected, optimized(*case.arguments))
    after = counters(optimized, report)
    assert (after["graph_replays"] > before["graph_replays"]) == (choice == "on")


def test_post_processing_engine_is_kept(detector: Optimized) -> None:
    assert post_processing_calls(detector.model) == 1
    assert detector.report["coverage"]["compute"] >= 0.98
    assert {engine["precision"] for engine in detector.report["engines"]} == {"float16"}
    with torch.no_grad():
        found = detections_or_outputs(detector.case, detector.model(*detector.case.arguments))
    expected = [
        {name: tensor.cpu() for name, tensor in image.items()}
        for image in plain_answers(detector.case, *detector.case.arguments)
    ]
    assert all(len(image["scores"]) for image in expected), "the scenes must have digits"
    check(expected, found)


def test_detector_saved_and_loaded_in_a_fresh_process(detector: Optimized, tmp_path: Path) -> None:
    with torch.no_grad():
        expected = detector.model(*detector.case.arguments)
    loaded, counted = run_in_fresh_process(
        detector.model, detector.case.arguments, tmp_path, engine_names(detector.report)
    )
    assert len(loaded) == len(expected) == 3
    assert all(torch.equal(one, other) for one, other in zip(loaded, expected, strict=True))
    assert {(count["calls"], count["fallbacks"]) for count in counted} == {(1, 0)}


def test_optimizing_an_optimized_model_leaves_it(detector: Optimized, tmp_path: Path) -> None:
    again, report = optimize(detector.model, tmp_path, detector.case.arguments)
    assert report["engines"] == []
    assert "optimized already" in report["diagnosis"]["message"]
    with torch.no_grad():
        outputs, expected = again(*detector.case.arguments), detector.model(*detector.case.arguments)
    assert all(torch.equal(one, other) for one, other in zip(outputs, expected, strict=True))
