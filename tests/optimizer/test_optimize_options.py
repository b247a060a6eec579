"""Every option of Config acts on what optimize() does."""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torch_trt_ext

pytest.importorskip("openvino")

from onnx import TensorProto, helper

from tests.optimizer.tiny_models import (
    Convolutions,
    TwoParts,
    assert_close,
    counters,
    engine_modules,
    inaccurate_in_16_bits,
    make,
    optimize,
    quick_config,
)
from torch_trt_ext.builders.onnx_openvino import native_precision
from torch_trt_ext.engine_plan import EnginePlan
from torch_trt_ext.optimizer import candidates, engine_builder, whole_model
from torch_trt_ext.optimizer.latency import Latency

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))

needs_16_bit_cpu = pytest.mark.skipif(
    native_precision() == "f32", reason="this machine's CPU computes nothing in 16 bits"
)


def _precisions(report: Any) -> list[str]:
    return [engine["precision"] for engine in report["engines"]]


def _reasons(report: Any) -> dict[str, str]:
    return {entry["node"]: entry["reason"] for entry in report["left_in_torch"]}


def _message(report: Any) -> str:
    return report["diagnosis"]["message"]


# Accuracy


@needs_16_bit_cpu
def test_inaccurate_engine_is_built_in_float32() -> None:
    model = inaccurate_in_16_bits()
    optimized, _, report = optimize(model, [(ROWS,)])
    assert _precisions(report) == ["float32"]
    torch.testing.assert_close(optimized(ROWS), model(ROWS), rtol=1e-3, atol=1e-2)


@needs_16_bit_cpu
def test_disable_fp16_accuracy_check_keeps_an_inaccurate_engine() -> None:
    config = quick_config()
    config.gpu_config.disable_fp16_accuracy_check = True
    _, _, report = optimize(inaccurate_in_16_bits(), [(ROWS,)], config)
    assert _precisions(report) == ["bfloat16"]
    assert report["engines"][0]["error"]["relative"] > config.accuracy.max_relative_error
    assert "they were kept, since the config says so" in _message(report)


def test_disable_fp16_accuracy_check_does_not_forgive_nan_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = whole_model.answer
    monkeypatch.setattr(
        whole_model,
        "answer",
        lambda model, item: answer(model, item) * (torch.nan if engine_modules(model) else 1.0),
    )
    config = quick_config()
    config.gpu_config.disable_fp16_accuracy_check = True
    script = torch.jit.script(make(Convolutions))
    optimized, _, report = optimize(script, [(IMAGES,)], config)
    assert optimized is script
    assert "not comparable to its reference" in _message(report)


def test_disable_fp16_accuracy_check_does_not_forgive_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    engine_call = candidates.engine_call
    monkeypatch.setattr(
        candidates, "engine_call", lambda *arguments: [output * torch.nan for output in engine_call(*arguments)]
    )
    config = quick_config()
    config.gpu_config.disable_fp16_accuracy_check = True
    _, _, report = optimize(make(Convolutions), [(IMAGES,)], config)
    assert report["engines"] == []
    assert "not comparable to its reference" in _reasons(report)["aten::conv2d@0"]


@needs_16_bit_cpu
@pytest.mark.parametrize("option", ["check", "max_relative_error"])
def test_accuracy_of_engines(option: str) -> None:
    config = quick_config()
    config.accuracy.max_model_relative_error = 100.0
    setattr(config.accuracy, option, False if option == "check" else 100.0)
    _, _, report = optimize(inaccurate_in_16_bits(), [(ROWS,)], config)
    assert _precisions(report) == ["bfloat16"]
    assert report["accuracy"]["checked"] is (option != "check")


@needs_16_bit_cpu
def test_accuracy_check_false_keeps_an_inaccurate_model() -> None:
    config = quick_config()
    config.accuracy.check = False
    _, _, report = optimize(inaccurate_in_16_bits(), [(ROWS,)], config)
    assert _precisions(report) == ["bfloat16"]
    assert report["accuracy"]["model"]["relative"] > config.accuracy.max_model_relative_error
    assert "they were kept, since the config says so" in _message(report)


@needs_16_bit_cpu
def test_max_model_relative_error() -> None:
    model = make(Convolutions)
    config = quick_config()
    _, _, report = optimize(model, [(IMAGES,)], config)
    assert _precisions(report) == ["bfloat16"]
    error = report["accuracy"]["model"]["relative"]
    assert 1e-4 < error < config.accuracy.max_model_relative_error

    config.accuracy.max_model_relative_error = 1e-4
    _, _, report = optimize(model, [(IMAGES,)], config)
    assert _precisions(report) == ["float32"]
    assert report["accuracy"]["model"]["relative"] < 1e-4
    assert "with engines in bfloat16 the model is not accurate: the output" in _message(report)
    assert _message(report).endswith("; so float32 was tried")

    config.accuracy.max_model_relative_error = 0.0
    script = torch.jit.script(model)
    optimized, _, report = optimize(script, [(IMAGES,)], config)
    assert optimized is script
    assert "with engines in float32 the model is not accurate" in _message(report)
    assert "was taken back: with engines in float32" in _reasons(report)["aten::conv2d@0"]


def test_check_model() -> None:
    config = quick_config()
    config.accuracy.max_model_relative_error = 0.0
    config.check_model = False
    _, _, report = optimize(make(Convolutions), [(IMAGES,)], config)
    assert len(report["engines"]) == 1
    assert report["accuracy"]["checked"] is False
    assert "model" not in report["accuracy"]


# Partition


@pytest.mark.parametrize(("size", "engines"), [(3, 2), (4, 1), (6, 0)])
def test_min_block_size(size: int, engines: int) -> None:
    config = quick_config()
    config.partition.min_block_size = size
    optimized, _, report = optimize(make(TwoParts), [(ROWS,)], config)
    assert len(report["engines"]) == len(engine_modules(optimized)) == engines
    # The first part has five operators, the second three.
    expected = {3: [5, 3], 4: [5], 6: []}[size]
    assert [engine["operators"] for engine in report["engines"]] == expected
    if engines < 2:
        assert f"fewer than min_block_size {size}" in _reasons(report)["aten::linear@3"]
    assert_close(optimized(ROWS), make(TwoParts)(ROWS))


@pytest.mark.parametrize("form", ["scripted", "traced"])
@pytest.mark.parametrize(
    ("entry", "left"),
    [
        ("aten::relu", {"aten::relu@0", "aten::relu@1"}),
        ("aten::relu@1", {"aten::relu@1"}),
        ("body.2", {"aten::conv2d@1"}),
        ("body", {"aten::conv2d@0", "aten::relu@0", "aten::conv2d@1", "aten::relu@1"}),
    ],
)
def test_deny(form: str, entry: str, left: set[str]) -> None:
    model = make(Convolutions)
    given = torch.jit.script(model) if form == "scripted" else torch.jit.trace(model, (IMAGES,))
    config = quick_config()
    config.partition.min_block_size = 1
    config.partition.deny = [entry]
    optimized, _, report = optimize(given, [(IMAGES,)], config)
    denied = {_plain(node) for node, reason in _reasons(report).items() if f"deny list as {entry!r}" in reason}
    assert denied == left
    assert len(report["engines"]) >= 1
    assert_close(optimized(IMAGES), model(IMAGES))


def _plain(node: str) -> str:
    return node.replace("aten::_convolution", "aten::conv2d")


@pytest.mark.parametrize("form", ["scripted", "traced"])
@pytest.mark.parametrize(
    ("entry", "operators"),
    [("aten::relu", 2), ("aten::relu@1", 1), ("body", 4), ("body.2", 1), ("no.such.module", 0)],
)
def test_allow(form: str, entry: str, operators: int) -> None:
    model = make(Convolutions)
    given = torch.jit.script(model) if form == "scripted" else torch.jit.trace(model, (IMAGES,))
    config = quick_config()
    config.partition.min_block_size = 1
    config.partition.allow = [entry]
    optimized, _, report = optimize(given, [(IMAGES,)], config)
    assert sum(engine["operators"] for engine in report["engines"]) == operators
    assert "is not on the allow list" in _reasons(report)["aten::linear@0"]
    assert_close(optimized(IMAGES), model(IMAGES))


def test_deny_wins_over_allow() -> None:
    config = quick_config()
    config.partition.min_block_size = 1
    config.partition.allow = ["body"]
    config.partition.deny = ["aten::relu"]
    _, _, report = optimize(make(Convolutions), [(IMAGES,)], config)
    assert sum(engine["operators"] for engine in report["engines"]) == 2


def test_max_subgraphs() -> None:
    config = quick_config()
    config.partition.max_subgraphs = 1
    _, _, report = optimize(make(TwoParts), [(ROWS,)], config)
    assert [engine["operators"] for engine in report["engines"]] == [5]
    assert "more than max_subgraphs 1" in _reasons(report)["aten::linear@3"]


# Precision


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_engine_precision(precision: str) -> None:
    config = quick_config()
    config.precision.engine_precision = precision
    model = make(Convolutions)
    optimized, _, report = optimize(model, [(IMAGES,)], config)
    assert _precisions(report) == [precision]
    short = {"float32": "Fp32", "float16": "Fp16", "bfloat16": "Bf16"}[precision]
    assert report["optimizations"][0]["name"] == f"PtOpenVINOPass{short}"
    if precision == "float32":
        torch.testing.assert_close(optimized(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-5)
    else:
        assert_close(optimized(IMAGES), model(IMAGES))


def test_engine_precision_tf32_is_float32_on_the_cpu() -> None:
    config = quick_config()
    config.precision.engine_precision = "tf32"
    _, _, report = optimize(make(Convolutions), [(IMAGES,)], config)
    assert _precisions(report) == ["float32"]


def test_engine_precision_auto_is_what_the_cpu_computes_in() -> None:
    _, _, report = optimize(make(Convolutions), [(IMAGES,)])
    assert _precisions(report) == [{"f32": "float32", "f16": "float16", "bf16": "bfloat16"}[native_precision()]]


def _softmax_model() -> Any:
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["a"], name="mul"),
        helper.make_node("Softmax", ["a"], ["b"], name="softmax"),
        helper.make_node("Mul", ["b", "b"], ["y"], name="mul_1"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 8]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_keep_float32() -> None:
    config = quick_config()
    _, kept = engine_builder.TensorRTBuilder(config)._prepare(_softmax_model(), "float16", {})
    assert "softmax" in kept
    config.precision.keep_float32 = []
    half, kept = engine_builder.TensorRTBuilder(config)._prepare(_softmax_model(), "float16", {})
    assert kept == {}
    assert sum(node.op_type == "Cast" for node in half.graph.node) == 2
    config.precision.keep_float32 = ["Mul"]
    _, kept = engine_builder.TensorRTBuilder(config)._prepare(_softmax_model(), "float16", {})
    assert {"mul", "mul_1"} <= set(kept)


# Timing


class _Recorder:
    """Notes the arguments of each call, and calls."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.calls: list[dict[str, Any]] = []

    def __call__(self, *positional: Any, **named: Any) -> Any:
        self.calls.append(named)
        return self.function(*positional, **named)


def test_timing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    of_model, of_subgraph = _Recorder(whole_model.compare_latency), _Recorder(candidates.compare_latency)
    monkeypatch.setattr(whole_model, "compare_latency", of_model)
    monkeypatch.setattr(candidates, "compare_latency", of_subgraph)
    config = quick_config()
    config.timing.warmup_runs, config.timing.timed_runs = 2, 5
    config.timing.subgraph_warmup_runs, config.timing.subgraph_timed_runs = 1, 4
    config.timing.max_seconds = 7.0
    _, _, report = optimize(make(Convolutions), [(IMAGES,)], config)
    assert [(call["warmup"], call["runs"], call["max_seconds"]) for call in of_model.calls] == [(2, 5, 7.0)]
    assert [(call["warmup"], call["runs"], call["max_seconds"]) for call in of_subgraph.calls] == [(1, 4, 7.0)]
    assert report["engines"][0]["latency"]["engine"]["runs"] == 4
    assert report["engines"][0]["latency"]["torch"]["runs"] == 4


def test_timing_max_seconds_cuts_the_runs() -> None:
    config = quick_config()
    config.timing.subgraph_timed_runs = 1000
    config.timing.max_seconds = 1e-6
    _, _, report = optimize(make(Convolutions), [(IMAGES,)], config)
    assert report["engines"][0]["latency"]["engine"]["runs"] == 3


def test_min_speedup_sends_back_what_is_slower() -> None:
    config = quick_config()
    config.timing.compare = True
    config.timing.min_speedup = 1000.0
    script = torch.jit.script(make(Convolutions))
    optimized, _, report = optimize(script, [(IMAGES,)], config)
    assert optimized is script
    assert report["engines"] == []
    assert report["optimizations"][0]["status"] == "not effective"
    assert report["overall"]["speedup"] == "1.00"
    assert report["overall"]["baseline"] == report["overall"]["optimized"]
    assert "no engine was kept. 6 operators: is in engine_0, which was not kept" in _message(report)
    assert len(report["left_in_torch"]) == 6


def test_min_speedup_holds_for_the_whole_model(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each engine is fast enough; together they are not.
    monkeypatch.setattr("torch_trt_ext.optimizer.trials.time_against_torch", lambda *_: None)
    config = quick_config()
    config.timing.compare = True
    config.timing.min_speedup = 1000.0
    script = torch.jit.script(make(Convolutions))
    optimized, _, report = optimize(script, [(IMAGES,)], config)
    assert optimized is script
    assert report["engines"] == []
    assert "where timing.min_speedup is 1000" in _message(report)
    assert "was taken back: with engines the model takes" in _reasons(report)["aten::conv2d@0"]
    assert report["overall"]["speedup"] == "1.00"


def test_compare_false_keeps_slower_engines() -> None:
    config = quick_config()
    config.timing.min_speedup = 1000.0
    _, _, report = optimize(make(Convolutions), [(IMAGES,)], config)
    assert len(report["engines"]) == 1


# Shapes


def _images(count: int, size: int) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(count * size))


def test_profiles_give_the_range_of_the_engine() -> None:
    model = make(Convolutions)
    config = quick_config()
    config.shapes.profiles = [{"images": [[1, 3, 8, 8], [2, 3, 16, 16], [4, 3, 32, 32]]}]
    optimized, _, report = optimize(model, [(IMAGES,)], config)
    (shapes,) = report["engines"][0]["inputs"][0]["shapes"]
    assert shapes == {"min": [1, 3, 8, 8], "opt": [2, 3, 16, 16], "max": [4, 3, 32, 32]}
    inside = [(1, 8), (3, 9), (4, 32), (2, 16)]
    outside = [(5, 16), (1, 7), (4, 33)]
    for count, size in inside + outside:
        images = _images(count, size)
        assert_close(optimized(images), model(images))
    assert counters(optimized)[0]["fallbacks"] == len(outside)


def test_several_profiles() -> None:
    model = make(Convolutions)
    config = quick_config()
    config.shapes.profiles = [
        {"images": [[1, 3, 8, 8], [1, 3, 8, 8], [2, 3, 8, 8]]},
        {"images": [[1, 3, 16, 16], [2, 3, 16, 16], [2, 3, 20, 16]]},
    ]
    optimized, _, report = optimize(model, [(IMAGES,)], config)
    assert report["engines"][0]["inputs"][0]["shapes"] == [
        {"min": [1, 3, 8, 8], "opt": [1, 3, 8, 8], "max": [2, 3, 8, 8]},
        {"min": [1, 3, 16, 16], "opt": [2, 3, 16, 16], "max": [2, 3, 20, 16]},
    ]
    for images in (_images(2, 8), _images(1, 16)):
        assert_close(optimized(images), model(images))
    assert counters(optimized)[0]["fallbacks"] == 0


def test_test_data_outside_the_profiles() -> None:
    model = make(Convolutions)
    config = quick_config()
    config.shapes.profiles = [{"images": [[4, 3, 8, 8], [4, 3, 8, 8], [8, 3, 8, 8]]}]
    optimized, _, report = optimize(model, [(IMAGES,)], config)
    (shapes,) = report["engines"][0]["inputs"][0]["shapes"]
    assert shapes == {"min": [4, 3, 8, 8], "opt": [4, 3, 8, 8], "max": [8, 3, 8, 8]}
    before = counters(optimized)[0]["fallbacks"]
    assert_close(optimized(_images(6, 8)), model(_images(6, 8)))
    assert counters(optimized)[0]["fallbacks"] == before
    assert_close(optimized(IMAGES), model(IMAGES))
    assert counters(optimized)[0]["fallbacks"] == before + 1


class _Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = make(Convolutions)

    def forward(self, batch: dict[str, list[Tensor]]) -> Tensor:
        images = batch["images"]
        return torch.relu(self.body(images[0]) + self.body(images[1]))


def test_profiles_name_nested_inputs() -> None:
    model = make(_Nested)
    config = quick_config()
    bounds = [[1, 3, 8, 8], [2, 3, 8, 8], [4, 3, 8, 8]]
    config.shapes.profiles = [{"batch.images.0": bounds, "batch.images.1": bounds}]
    optimized, _, report = optimize(model, [({"images": [_images(2, 8), _images(2, 8)]},)], config)
    assert report["engines"]
    for count in (1, 3, 4):
        batch = {"images": [_images(count, 8), _images(count, 8) + 1]}
        assert_close(optimized(batch), model(batch))
    assert all(counted["fallbacks"] == 0 for counted in counters(optimized))


def test_profile_that_the_model_refuses_fails() -> None:
    config = quick_config()
    config.shapes.profiles = [{"x": [[1, 8], [2, 8], [2, 9]]}]
    with pytest.raises(
        ValueError, match=r"shape profile 0 at its largest shapes must be arguments that the model take"
    ):
        optimize(make(TwoParts), [(ROWS,)], config)


# Cache


def _cached(folder: Path) -> torch_trt_ext.Config:
    config = quick_config()
    config.cache.enabled = True
    config.cache.folder = str(folder)
    return config


def _count_builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    built: list[str] = []
    build = engine_builder.OpenVINOBuilder._build

    def counting(self: Any, model: Any, ranges: Any, precision: Any, what: str) -> EnginePlan:
        built.append(what)
        return build(self, model, ranges, precision, what)

    monkeypatch.setattr(engine_builder.OpenVINOBuilder, "_build", counting)
    return built


def test_second_time_engines_come_from_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    built = _count_builds(monkeypatch)
    model = make(TwoParts)
    _, _, first = optimize(model, [(ROWS,)], _cached(tmp_path))
    assert [engine["from_cache"] for engine in first["engines"]] == [False, False]
    assert len(built) == 2
    optimized, _, second = optimize(model, [(ROWS,)], _cached(tmp_path))
    assert [engine["from_cache"] for engine in second["engines"]] == [True, True]
    assert len(built) == 2
    assert_close(optimized(ROWS), model(ROWS))
    # Other weights are another engine.
    with torch.no_grad():
        model.second[0].bias.add_(1)
    _, _, third = optimize(model, [(ROWS,)], _cached(tmp_path))
    assert [engine["from_cache"] for engine in third["engines"]] == [True, False]


def test_cache_disabled_writes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    built = _count_builds(monkeypatch)
    config = _cached(tmp_path / "cache")
    config.cache.enabled = False
    for count in (1, 2):
        optimize(make(Convolutions), [(IMAGES,)], config)
        assert len(built) == count
    assert not (tmp_path / "cache").exists()


def test_damaged_cache_file_is_built_anew(tmp_path: Path) -> None:
    model = make(Convolutions)
    optimize(model, [(IMAGES,)], _cached(tmp_path))
    (file,) = tmp_path.glob("*.engine")
    content = bytearray(file.read_bytes())
    content[-10] ^= 0xFF
    file.write_bytes(content)
    optimized, _, report = optimize(model, [(IMAGES,)], _cached(tmp_path))
    assert report["engines"][0]["from_cache"] is False
    assert_close(optimized(IMAGES), model(IMAGES))
    _, _, report = optimize(model, [(IMAGES,)], _cached(tmp_path))
    assert report["engines"][0]["from_cache"] is True


def test_cache_stays_within_max_bytes(tmp_path: Path) -> None:
    config = _cached(tmp_path)
    optimize(make(TwoParts), [(ROWS,)], config)
    sizes = [file.stat().st_size for file in tmp_path.glob("*.engine")]
    assert len(sizes) == 2
    # Room for one of them, whose size differs by a few bytes, and not for two.
    config.cache.max_bytes = max(sizes) + min(sizes) // 2
    torch.manual_seed(1)
    _, _, report = optimize(TwoParts().eval(), [(ROWS,)], config)
    assert [engine["from_cache"] for engine in report["engines"]] == [False, False]
    kept = [file.stat().st_size for file in tmp_path.glob("*.engine")]
    assert kept
    assert sum(kept) <= config.cache.max_bytes


# TensorRT


def test_tensorrt_options_reach_the_builder_and_the_cache_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from torch_trt_ext.builders import onnx_tensorrt

    calls: list[dict[str, Any]] = []

    def build(model: Any, ranges: Any, **options: Any) -> EnginePlan:
        calls.append(options)
        return EnginePlan(
            data=b"plan",
            backend="tensorrt",
            input_names=("x",),
            output_names=("y",),
            input_types=("Float",),
            output_types=("Float",),
        )

    monkeypatch.setattr(onnx_tensorrt, "build_tensorrt_from_onnx", build)
    monkeypatch.setattr(onnx_tensorrt, "timing_cache_name", lambda: "timings")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    config = _cached(tmp_path)

    def built_with() -> bool:
        builder = engine_builder.TensorRTBuilder(config)
        ranges = [{"x": ((2, 8), (2, 8), (2, 8))}]
        return not builder.build(_softmax_model(), ranges, "float16", {}, "a model").from_cache

    assert built_with()
    assert not built_with()
    config.tensorrt.workspace_bytes = 1 << 20
    assert built_with()
    config.tensorrt.builder_optimization_level = 1
    assert built_with()
    config.tensorrt.weight_streaming = True
    assert built_with()
    assert not built_with()
    options = ("workspace_bytes", "builder_optimization_level", "weight_streaming")
    assert [tuple(call[option] for option in options) for call in calls] == [
        (0, 3, False),
        (1 << 20, 3, False),
        (1 << 20, 1, False),
        (1 << 20, 1, True),
    ]


# What the model keeps, and how it is made


def _file_size(model: torch.jit.ScriptModule) -> int:
    buffer = io.BytesIO()
    torch.jit.save(model, buffer)
    return len(buffer.getvalue())


class _Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def test_keep_fallback_false() -> None:
    model = make(_Wide)
    config = quick_config()
    kept, _, _ = optimize(model, [(ROWS,)], config)
    config.keep_fallback = False
    without, _, report = optimize(model, [(ROWS,)], config)
    assert len(report["engines"]) == 1
    assert_close(without(ROWS), model(ROWS))
    weights = sum(4 * parameter.numel() for parameter in model.parameters())
    assert _file_size(kept) - _file_size(without) > 0.9 * weights
    assert_close(kept(ROWS[:3]), model(ROWS[:3]))
    with pytest.raises(RuntimeError, match=r"input 'input_0'.*\[4, 8\]"):
        without(ROWS[:3])


@pytest.mark.parametrize("threads", [1, 2])
def test_build_threads(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    lock, running, most = threading.Lock(), 0, 0
    build = engine_builder.OpenVINOBuilder._build

    def counting(*arguments: Any) -> EnginePlan:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.1)
        plan = build(*arguments)
        with lock:
            running -= 1
        return plan

    monkeypatch.setattr(engine_builder.OpenVINOBuilder, "_build", counting)
    config = quick_config()
    config.build_threads = threads
    _, _, report = optimize(make(TwoParts), [(ROWS,)], config)
    assert len(report["engines"]) == 2
    assert most == threads


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("progress", "terminal"), [(True, True), (False, True), (True, False)])
def test_progress(monkeypatch: pytest.MonkeyPatch, progress: bool, terminal: bool) -> None:
    stderr = _Terminal() if terminal else io.StringIO()
    monkeypatch.setattr("sys.stderr", stderr)
    config = quick_config()
    config.progress = progress
    optimize(make(Convolutions), [(IMAGES,)], config)
    assert ("building engines" in stderr.getvalue()) == (progress and terminal)


class _GraphEngine:
    """Says whether it would use CUDA graphs; this machine need not have any."""

    def __init__(self) -> None:
        self.graphs = False
        self.calls: list[bool] = []

    def set_cuda_graphs(self, enabled: bool) -> None:
        self.graphs = enabled

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        self.calls.append(self.graphs)
        return inputs


@pytest.mark.parametrize(
    ("choice", "graphs_ms", "expected"),
    [("off", 1.0, False), ("on", 9.0, True), ("auto", 1.9, True), ("auto", 1.99, False), ("auto", 2.5, False)],
)
def test_cuda_graphs(choice: str, graphs_ms: float, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def compare(calls: dict[str, Callable[[], object]], **_: object) -> dict[str, Latency]:
        milliseconds = {"graphs": graphs_ms, "none": 2.0}
        for call in calls.values():
            call()
        return {name: Latency(milliseconds[name], 0, 0, None, 1) for name in calls}

    monkeypatch.setattr(candidates, "compare_latency", compare)
    engine = _GraphEngine()
    subgraph = SimpleNamespace(calls=[[ROWS]], engine_call=list)
    candidate: Any = SimpleNamespace(engine=engine, subgraph=subgraph)
    config = quick_config()
    config.tensorrt.cuda_graphs = choice
    candidates.choose_cuda_graphs(candidate, config, torch.device("cuda"))
    assert engine.graphs == expected
    assert sorted(engine.calls) == ([False, True] if choice == "auto" else [])


class _Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = make(Convolutions)

    def forward(self, images: Tensor) -> Tensor:
        result = self.body(images)
        if bool(images.sum() > 0):
            result = result + 100
        return result


@pytest.mark.parametrize("prefer", ["script", "trace"])
def test_prefer(prefer: str) -> None:
    model = make(_Branch)
    config = quick_config()
    config.prefer = prefer
    with pytest.warns(torch.jit.TracerWarning) if prefer == "trace" else contextlib.nullcontext():
        optimized, _, report = optimize(model, [(IMAGES,)], config)
    # A trace took the branch that the test data took, for good.
    other = model(-IMAGES) if prefer == "script" else model(-IMAGES) + 100
    assert_close(optimized(-IMAGES), other)
    assert ("traced: control flow is fixed" in _message(report)) == (prefer == "trace")


def test_every_option_is_tested_here() -> None:
    """An option that is added needs a test above, and its name below."""
    tested = {
        # Those of 8 bits in test_levels.py and test_float8.py, the metric's in test_metric.py.
        "accuracy": [
            "check",
            "max_metric_drop",
            "max_model_relative_error",
            "max_model_relative_error_8bit",
            "max_relative_error",
            "max_relative_error_8bit",
        ],
        "build_threads": [],
        "cache": ["enabled", "folder", "max_bytes"],
        "check_model": [],
        "gpu_config": ["disable_fp16_accuracy_check"],
        "keep_fallback": [],
        "partition": ["allow", "deny", "max_subgraphs", "min_block_size"],
        "precision": ["calibration", "eight_bit", "engine_precision", "keep_float32", "percentile"],
        "prefer": [],
        "progress": [],
        "shapes": ["profiles"],
        "tensorrt": ["builder_optimization_level", "cuda_graphs", "weight_streaming", "workspace_bytes"],
        "timing": [
            "compare",
            "max_seconds",
            "min_speedup",
            "subgraph_timed_runs",
            "subgraph_warmup_runs",
            "timed_runs",
            "warmup_runs",
        ],
    }
    config = torch_trt_ext.Config()
    options = {
        group.name: sorted(option.name for option in fields(getattr(config, group.name)))
        if hasattr(getattr(config, group.name), "to_dict")
        else []
        for group in fields(config)
    }
    assert dict(sorted(options.items())) == tested
