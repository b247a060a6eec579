"""What optimize() takes as models, data and shapes, and what it gives back."""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import torch_trt_ext

pytest.importorskip("openvino")

from tests.optimizer.tiny_models import (
    Convolutions,
    TwoParts,
    assert_close,
    counters,
    engine_modules,
    make,
    optimize,
    quick_config,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


IMAGES = images(2, 3, 16, 16)
ROWS = images(4, 8)


# Kinds of models


def test_module() -> None:
    model = make(Convolutions)
    before = copy.deepcopy(model.state_dict())
    optimized, _, report = optimize(model, [(IMAGES,)])
    assert isinstance(optimized, torch.jit.ScriptModule)
    assert len(engine_modules(optimized)) == len(report["engines"]) == 1
    assert report["model_info"] == {"input_format": "torch_module"}
    assert_close(optimized(IMAGES), model(IMAGES))
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert "engine_0" in optimized.code


@pytest.mark.parametrize("form", ["script", "trace", "freeze"])
def test_torchscript(form: str) -> None:
    model = make(Convolutions)
    given: Any = torch.jit.trace(model, (IMAGES,)) if form == "trace" else torch.jit.script(model)
    if form == "freeze":
        given = torch.jit.freeze(given)
    graph = str(given.graph)
    optimized, _, report = optimize(given, [(IMAGES,)])
    assert len(report["engines"]) == 1
    assert report["model_info"] == {"input_format": "torch_script"}
    assert report["diagnosis"]["model"] == "unnamed.pt"
    assert_close(optimized(IMAGES), model(IMAGES))
    assert str(given.graph) == graph
    assert not engine_modules(given)
    assert torch.equal(given(IMAGES), model(IMAGES))


@pytest.mark.parametrize("as_text", [True, False])
def test_path_of_a_saved_model(tmp_path: Path, as_text: bool) -> None:
    model = make(Convolutions)
    path = tmp_path / "small net.pt"
    torch.jit.save(torch.jit.script(model), path)
    content = path.read_bytes()
    optimized, _, report = optimize(str(path) if as_text else path, [(IMAGES,)])
    assert report["diagnosis"]["model"] == "small net.pt"
    assert report["model_info"] == {"input_format": "torch_script"}
    assert len(report["engines"]) == 1
    assert_close(optimized(IMAGES), model(IMAGES))
    assert path.read_bytes() == content


def test_optimized_model_is_left_as_it_is(tmp_path: Path) -> None:
    optimized, _, _ = optimize(make(Convolutions), [(IMAGES,)])
    again, _, report = optimize(optimized, [(IMAGES,)])
    assert again is optimized
    assert "optimized already" in report["diagnosis"]["message"]
    json.loads(report.to_json())
    torch.jit.save(optimized, tmp_path / "optimized.pt")
    loaded, _, report = optimize(tmp_path / "optimized.pt", [(IMAGES,)])
    assert len(engine_modules(loaded)) == 1
    assert "optimized already" in report["diagnosis"]["message"]


class _Scripted(nn.Module):
    """Its loop makes tracing and scripting differ."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))

    def forward(self, x: Tensor, times: int = 2, scale: float = 1.0, name: str = "relu") -> Tensor:
        for _ in range(times):
            x = self.layers(x) * scale
            if name == "relu":
                x = torch.relu(x)
        return x


@pytest.mark.parametrize("arguments", [(), (3,), (3, 0.5), (1, 2.0, "none")])
def test_arguments_that_are_no_tensors(arguments: tuple[Any, ...]) -> None:
    model = make(_Scripted)
    optimized, _, report = optimize(model, [(ROWS, *arguments)])
    assert len(report["engines"]) == 1
    for other in (arguments, (), (4,), (0,), (2, -1.0, "none")):
        assert_close(optimized(ROWS, *other), model(ROWS, *other))


def test_default_arguments_and_keywords_stay() -> None:
    model = make(_Scripted)
    optimized, _, report = optimize(model, [(ROWS, 2)])
    assert report["engines"]
    assert_close(optimized(x=ROWS, name="none", times=1), model(ROWS, 1, name="none"))


# Nested inputs and outputs


class _Boxes(NamedTuple):
    boxes: Tensor
    scores: Tensor


class _Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = make(Convolutions)

    def forward(
        self, batch: dict[str, Tensor], pair: tuple[Tensor, int], others: list[Tensor]
    ) -> tuple[dict[str, Tensor], list[Tensor], tuple[Tensor, tuple[Tensor, int]]]:
        first = torch.relu(self.body(batch["image"]) * 2 + batch["offset"])
        second = torch.relu(self.body(pair[0]) + float(pair[1]))
        rest = [torch.relu(torch.sigmoid(other) * 2) for other in others]
        return {"first": first, "sum": first + second}, rest, (second, (first * second, pair[1]))


def test_nested_inputs_and_outputs() -> None:
    model = make(_Nested)

    def arguments(seed: int) -> tuple[Any, ...]:
        batch = {"image": images(2, 3, 8, 8, seed=seed), "offset": torch.full((4,), float(seed))}
        return batch, (images(2, 3, 8, 8, seed=seed + 1), seed), [images(5, seed=seed), images(2, 2, seed=seed)]

    optimized, _, report = optimize(model, [arguments(1)])
    assert report["engines"]
    assert report["diagnosis"]["test_data_info"].splitlines() == [
        "0 shape: (2, 3, 8, 8) data type: float32",
        "1 shape: (4,) data type: float32",
        "2 shape: (2, 3, 8, 8) data type: float32",
        "3 shape: (5,) data type: float32",
        "4 shape: (2, 2) data type: float32",
    ]
    expected, actual = model(*arguments(7)), optimized(*arguments(7))
    assert list(actual[0]) == ["first", "sum"]
    for name in expected[0]:
        assert_close(actual[0][name], expected[0][name])
    assert isinstance(actual[1], list)
    for one, other in zip(actual[1], expected[1], strict=True):
        assert_close(one, other)
    assert isinstance(actual[2], tuple)
    assert_close(actual[2][0], expected[2][0])
    assert_close(actual[2][1][0], expected[2][1][0])
    assert actual[2][1][1] == 7


class _NamedTuple(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = make(Convolutions)

    def forward(self, x: Tensor) -> _Boxes:
        y = self.body(x)
        return _Boxes(torch.relu(y), torch.sigmoid(y))


def test_named_tuple_output() -> None:
    model = make(_NamedTuple)
    optimized, _, report = optimize(model, [(IMAGES,)])
    assert report["engines"]
    result = optimized(IMAGES)
    assert result._fields == ("boxes", "scores")
    assert_close(result.scores, model(IMAGES).scores)


@pytest.mark.parametrize("data", [((ROWS,),), [(ROWS,)], [(ROWS,), (ROWS + 1,)]], ids=["tuple", "list", "two"])
def test_forms_of_test_data(data: Any) -> None:
    _, _, report = optimize(make(TwoParts), data)
    assert len(report["engines"]) == 2
    assert report["diagnosis"]["test_data_source"] == "user provided"
    assert report["diagnosis"]["shape_variation"] == ("undefined" if len(data) == 1 else "static")


# Shapes and ranges instead of data


class _Embedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 8)
        self.body = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())

    def forward(self, tokens: Tensor, image: Tensor) -> Tensor:
        return self.body(self.table(tokens)).mean(1) + image


def test_input_shapes_and_ranges() -> None:
    model = make(_Embedding)
    optimized, _, report = optimize(
        model,
        [],
        inputs=["image", "tokens"],
        input_shapes=[["2*8", "2*5"], ["4*8", "4*5"]],
        input_ranges=[["[0.0, 1.0]", "[0, 9]"]],
    )
    assert report["engines"]
    diagnosis = report["diagnosis"]
    assert diagnosis["test_data_source"] == "generated"
    assert diagnosis["shape_variation"] == "dynamic"
    assert "generated from input_shapes" in diagnosis["message"]
    tokens = torch.arange(15).reshape(3, 5) % 10
    assert_close(optimized(tokens, images(3, 8)), model(tokens, images(3, 8)))
    assert all(counted["fallbacks"] == 0 for counted in counters(optimized))


def test_input_shapes_beside_test_data_widen_the_engine() -> None:
    model = make(Convolutions)
    optimized, _, report = optimize(model, [(IMAGES,)], inputs=["images"], input_shapes=[["6*3*24*24"]])
    (shapes,) = report["engines"][0]["inputs"][0]["shapes"]
    assert (shapes["min"], shapes["max"]) == ([2, 3, 16, 16], [6, 3, 24, 24])
    assert report["diagnosis"]["shape_variation"] == "dynamic"
    assert_close(optimized(images(4, 3, 20, 20)), model(images(4, 3, 20, 20)))


def test_outputs_are_accepted_without_effect() -> None:
    optimized, _, report = optimize(make(Convolutions), [(IMAGES,)], outputs=["scores"])
    assert "outputs has no effect" in report["diagnosis"]["message"]
    assert optimized(IMAGES).shape == (2, 4)


def test_calib_data_is_accepted() -> None:
    _, _, report = optimize(make(Convolutions), [(IMAGES,)], calib_data=[(IMAGES,), (IMAGES + 1,)])
    assert len(report["engines"]) == 1


def test_dynamic_shapes_from_several_items() -> None:
    model = make(Convolutions)
    optimized, _, report = optimize(model, [(images(2, 3, 16, 16),), (images(1, 3, 24, 8),), (images(4, 3, 16, 16),)])
    assert report["diagnosis"]["shape_variation"] == "dynamic"
    (shapes,) = report["engines"][0]["inputs"][0]["shapes"]
    assert shapes == {"min": [1, 3, 16, 8], "opt": [2, 3, 16, 16], "max": [4, 3, 24, 16]}
    for shape in ((1, 3, 16, 8), (3, 3, 20, 12), (4, 3, 24, 16)):
        assert_close(optimized(images(*shape)), model(images(*shape)))
    assert counters(optimized)[0]["fallbacks"] == 0
    for shape in ((5, 3, 16, 16), (2, 3, 25, 16), (2, 3, 15, 16)):
        torch.testing.assert_close(optimized(images(*shape)), model(images(*shape)))
    assert counters(optimized)[0]["fallbacks"] == 3


class _Flatten(nn.Module):
    """Its shapes follow from the input's, so an engine for one batch must not have it fixed."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        y = y.reshape(y.shape[0], y.shape[1], -1).transpose(1, 2)
        return torch.softmax(y.reshape(-1, y.shape[2]) * 2, dim=-1)


def test_shapes_that_follow_from_the_inputs() -> None:
    model = make(_Flatten)
    optimized, _, report = optimize(model, [(images(1, 3, 8, 8),), (images(4, 3, 12, 16),)])
    assert report["engines"]
    for shape in ((1, 3, 8, 8), (2, 3, 11, 9), (3, 3, 12, 16), (7, 3, 30, 5)):
        assert_close(optimized(images(*shape)), model(images(*shape)))


# What the caller sees afterwards


class _Writes(nn.Module):
    """Writes to its input, and counts its calls in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
        self.register_buffer("calls", torch.zeros(()))
        self.calls: Tensor

    def forward(self, x: Tensor, cache: Tensor) -> Tensor:
        self.calls.add_(1)
        cache[0].copy_(x.sum(0))
        x.mul_(2)
        return self.body(x) + self.calls


@pytest.mark.parametrize("form", ["module", "script"])
def test_callers_data_and_buffers_are_untouched(form: str) -> None:
    model = make(_Writes)
    given = torch.jit.script(model) if form == "script" else model
    x, cache = images(4, 8), torch.zeros(3, 8)
    optimized, _, report = optimize(given, [(x, cache)])
    assert report["engines"]
    assert torch.equal(x, images(4, 8))
    assert torch.equal(cache, torch.zeros(3, 8))
    assert given.calls.item() == 0
    # The optimized model is in the initial state too, and writes as the original does.
    ours, theirs = (x.clone(), cache.clone()), (x.clone(), cache.clone())
    for _ in range(2):
        assert_close(optimized(*ours), model(*theirs))
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])
    assert next(buffer for name, buffer in optimized.named_buffers() if "calls" in name).item() == 2


def _comparing() -> torch_trt_ext.Config:
    """Everything is timed, and nothing is too slow."""
    config = quick_config()
    config.timing.compare = True
    config.timing.min_speedup = 0.0
    return config


class _FullCache(nn.Module):
    """Each call takes another place of a cache that has few."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
        self.register_buffer("cache", torch.zeros(2, 4, 8))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))
        self.cache: Tensor
        self.position: Tensor

    def forward(self, x: Tensor) -> Tensor:
        self.cache[int(self.position)] = x
        self.position.add_(1)
        return self.body(x + self.cache[0])


def test_model_that_cannot_be_called_often_is_timed() -> None:
    optimized, _, report = optimize(torch.jit.script(make(_FullCache)), [(ROWS,)], _comparing())
    assert report["engines"]
    assert "nan" not in report["overall"]["speedup"]
    assert_close(optimized(ROWS), make(_FullCache)(ROWS))


class _FullCounter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
        self.count = 0

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        assert self.count < 3, "no more than two calls"
        return self.body(x)


def test_model_that_cannot_be_timed_says_so() -> None:
    optimized, _, report = optimize(torch.jit.script(make(_FullCounter)), [(ROWS,)], _comparing())
    assert report["engines"]
    assert "was not timed, since calling it repeatedly fails" in report["diagnosis"]["message"]
    assert "no more than two calls" in report["diagnosis"]["message"]
    assert report["overall"]["speedup"] == "nan"
    assert_close(optimized(ROWS), make(_FullCounter)(ROWS))


class _Noise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = make(Convolutions)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + torch.rand(4)


def test_random_numbers_neither_fail_the_check_nor_are_used_up() -> None:
    model = make(_Noise)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    optimized, _, report = optimize(torch.jit.script(model), [(IMAGES,)])
    assert torch.equal(torch.rand(3), expected)
    assert len(report["engines"]) == 1
    torch.manual_seed(6)
    one = optimized(IMAGES)
    torch.manual_seed(6)
    assert_close(one, model(IMAGES))


def test_inputs_that_require_grad() -> None:
    model = make(Convolutions)
    x = IMAGES.clone().requires_grad_()
    optimized, _, report = optimize(model, [(x,)])
    assert len(report["engines"]) == 1
    assert x.grad is None
    assert_close(optimized(x).detach(), model(x).detach())
    with torch.no_grad():
        assert_close(optimized(x), model(x))


def test_in_inference_mode() -> None:
    model = make(Convolutions)
    with torch.inference_mode():
        optimized, _, report = optimize(model, [(IMAGES + 0,)])
        assert torch.is_inference_mode_enabled()
        assert len(report["engines"]) == 1
        assert_close(optimized(IMAGES), model(IMAGES))
    assert_close(optimized(IMAGES), model(IMAGES))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_model_in_half_precision(dtype: torch.dtype) -> None:
    model = make(Convolutions).to(dtype)
    optimized, _, report = optimize(model, [(IMAGES.to(dtype),)])
    assert report["engines"]
    assert_close(optimized(IMAGES.to(dtype)), model(IMAGES.to(dtype)))


def test_model_in_double_precision_stays_in_torch() -> None:
    script = torch.jit.script(make(Convolutions).double())
    optimized, _, report = optimize(script, [(IMAGES.double(),)])
    assert optimized is script
    assert "float64, which engines do not compute in" in report["diagnosis"]["message"]


# What comes beside the model


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not strict JSON")


def test_report(capsys: pytest.CaptureFixture[str]) -> None:
    _, _, report = optimize(make(TwoParts), [(ROWS,)])
    print(f"Report: {report}")
    printed = json.loads(capsys.readouterr().out.removeprefix("Report: "), parse_constant=_refuse)
    assert printed == json.loads(report.to_json())
    assert list(report) == [
        "software_context",
        "hardware_context",
        "user_config",
        "diagnosis",
        "optimizations",
        "overall",
        "model_info",
        "compatibility_list",
        "model_sdk",
        "engines",
        "left_in_torch",
        "accuracy",
        "coverage",
        "latency",
    ]
    assert list(report["diagnosis"]) == ["model", "test_data_source", "shape_variation", "message", "test_data_info"]
    assert report["diagnosis"]["shape_variation"] == "undefined"
    assert report["diagnosis"]["message"].startswith("Unable to deduce model inputs information")
    assert report["diagnosis"]["test_data_info"] == "0 shape: (4, 8) data type: float32"
    (optimization,) = report["optimizations"]
    assert list(optimization) == ["name", "status", "speedup", "pre_run", "post_run"]
    assert optimization["status"] == "effective"
    assert optimization["pre_run"].endswith(" ms")
    assert list(report["overall"]) == ["baseline", "optimized", "speedup"]
    float(report["overall"]["speedup"])
    assert report["coverage"]["engines"] == 2
    assert report["coverage"]["operators"] == 8
    # The transform and its real part.
    assert report["coverage"]["operators_total"] == 10
    assert [entry["node"] for entry in report["left_in_torch"]] == ["aten::fft_fft@0", "aten::real@0"]
    transform = report["left_in_torch"][0]
    assert transform["reason"] == "has no ONNX form (aten::fft_fft)"
    assert transform["source"].startswith(f"{Path(__file__).parent / 'tiny_models.py'}:")


def test_source_of_torch_modules_is_short() -> None:
    config = quick_config()
    config.partition.deny = ["first.2"]
    _, _, report = optimize(make(TwoParts), [(ROWS,)], config)
    denied = next(entry for entry in report["left_in_torch"] if "deny list" in entry["reason"])
    assert denied["source"].startswith("torch/nn/modules/linear.py:")
    assert denied["source"].endswith(", first.2")


def test_remarks_do_not_hide_why_nothing_was_gained() -> None:
    config = quick_config()
    config.prefer = "trace"
    config.partition.min_block_size = 100
    _, _, report = optimize(make(Convolutions), [(IMAGES,)], config)
    message = report["diagnosis"]["message"]
    assert "traced: control flow is fixed" in message
    assert "no engine was kept. 6 operators: its subgraph has 6 operators, fewer than min_block_size 100" in message


def test_verbose_says_what_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    optimize(make(TwoParts), [(ROWS,)])
    assert capsys.readouterr().err == ""
    optimize(make(TwoParts), [(ROWS,)], verbose=True)
    said = re.sub(r"in (bfloat16|float16|float32)", "in PRECISION", capsys.readouterr().err)
    assert re.sub(r"in [0-9][0-9.e-]* s\b", "in SECONDS", said).splitlines() == [
        "torch_trt_ext: preparing and observing the model",
        "torch_trt_ext: 2 subgraphs to build",
        "torch_trt_ext: engine_0 was built in PRECISION in SECONDS",
        "torch_trt_ext: engine_1 was built in PRECISION in SECONDS",
        "torch_trt_ext: engine_0: accepted in PRECISION",
        "torch_trt_ext: engine_1: accepted in PRECISION",
    ]


def _from_block(config: torch_trt_ext.Config, *arguments: Any, **named: Any) -> Any:
    with config:
        return torch_trt_ext.optimize(*arguments, **named)


def _from_argument(config: torch_trt_ext.Config, *arguments: Any, **named: Any) -> Any:
    with torch_trt_ext.Config():
        return torch_trt_ext.optimize(*arguments, config=config, **named)


@pytest.mark.parametrize("call", [_from_block, _from_argument])
def test_config_of_the_block_and_of_the_argument(call: Callable[..., Any]) -> None:
    config = quick_config()
    config.partition.deny = ["aten::relu"]
    config.partition.min_block_size = 1
    before = config.copy()
    _, spec, report = call(config, make(Convolutions), "o1", device_type="cpu", test_data=[(IMAGES,)])
    assert "aten::relu@0" in [entry["node"] for entry in report["left_in_torch"]]
    assert json.loads(report["user_config"])["partition"] == {"min_block_size": 1, "deny": ["aten::relu"]}
    assert spec.config == config == before
    assert torch_trt_ext.Config.current() == torch_trt_ext.Config()


def test_opt_spec_is_a_context_to_run_in(tmp_path: Path) -> None:
    model = make(Convolutions)
    optimized, spec, _ = optimize(model, [(IMAGES,)])
    spec.save(tmp_path / "spec.json")
    for one in (spec, torch_trt_ext.OptSpec.load(tmp_path / "spec.json")):
        with warnings.catch_warnings(), one as entered:
            warnings.simplefilter("error")
            assert entered is one
            assert torch_trt_ext.Config.current() == spec.config
            assert_close(optimized(IMAGES), model(IMAGES))
    assert torch_trt_ext.Config.current() == torch_trt_ext.Config()


def test_saved_and_copied_models_are_the_same(tmp_path: Path) -> None:
    optimized, _, _ = optimize(make(TwoParts), [(ROWS,)])
    expected = optimized(ROWS)
    torch.jit.save(optimized, tmp_path / "model.pt")
    for other in (torch.jit.load(tmp_path / "model.pt"), copy.deepcopy(optimized)):
        assert torch.equal(other(ROWS), expected)
        assert [counted["fallbacks"] for counted in counters(other)] == [0, 0]
