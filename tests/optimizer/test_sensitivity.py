"""Which nodes go back to float32: ranked by what their rounding does, and as few as suffice."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy
import onnx
import pytest
import torch
from torch import Tensor, nn

from tests.optimizer.tiny_models import TwoParts
from torch_trt_ext import _C
from torch_trt_ext.config import KEEP_FLOAT32, Config
from torch_trt_ext.optimizer import observation, sensitivity
from torch_trt_ext.optimizer.accuracy import compare
from torch_trt_ext.optimizer.engine_builder import BuiltEngine, OpenVINOBuilder, Precision, make_builder
from torch_trt_ext.optimizer.half_precision import to_half_precision
from torch_trt_ext.optimizer.model_input import freeze
from torch_trt_ext.optimizer.optimize import optimize
from torch_trt_ext.optimizer.script_module import wrap
from torch_trt_ext.optimizer.sensitivity import Rounding
from torch_trt_ext.optimizer.subgraphs import SubgraphFactory, record_calls

pytest.importorskip("openvino")


class Cancelling(nn.Module):
    """What is added is lost in 16 bits, unless both the sum and the difference are in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = (nn.Linear(16, 16) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        # float16 has a step of 4 from 4096 on.
        return self.last(self.second((self.first(x).relu() + 4096.0) - 4096.0).sigmoid())


class Overflowing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x.abs() * 1e6).sqrt() * 1e-3 + x


def make_candidate(model: nn.Module, x: Tensor) -> tuple[_C.PreparedModel, Any]:
    """A prepared model that is one subgraph, and a candidate for it with a 16-bit graph but no engine."""
    torch.manual_seed(0)
    prepared = _C.PreparedModel(freeze(torch.jit.script(model.eval()))._c)
    prepared.simplify(1000)
    session = observation.observe(prepared, [(x,)])
    prepared.divide({}, {}, 1)
    builder = make_builder("cpu", Config())
    factory = SubgraphFactory(prepared, prepared.nodes(), session, [], builder, torch.device("cpu"))
    assert prepared.subgraph_count() == 1
    subgraph = factory.take(0, keep_fallback=True)
    record_calls(prepared, [subgraph], [(x,)])
    factory.convert(subgraph)
    assert subgraph.model is not None
    half = to_half_precision(subgraph.model, keep_float32_ops=KEEP_FLOAT32)
    built = BuiltEngine(None, False, half.kept)  # type: ignore[arg-type]
    return prepared, SimpleNamespace(subgraph=subgraph, precision="float16", built=built)


@pytest.fixture
def cancelling() -> Iterator[tuple[Rounding, Callable[[int], str]]]:
    torch.manual_seed(0)
    prepared, candidate = make_candidate(Cancelling(), torch.rand(8, 16))
    kinds = {node.id: node.kind for node in prepared.nodes()}
    with sensitivity.of_subgraph(prepared, candidate) as rounding:
        yield rounding, lambda number: kinds[number]


def test_nodes_that_lose_most_come_first(cancelling: Any) -> None:
    rounding, kind_of = cancelling
    ranking = rounding.ranking()
    assert {kind_of(node) for node, _ in ranking[:2]} == {"aten::add", "aten::sub"}
    assert ranking[1][1] > 50 * ranking[2][1]
    assert [error for _, error in ranking] == sorted((error for _, error in ranking), reverse=True)
    assert {"aten::linear", "aten::sigmoid"} <= {kind_of(node) for node, _ in ranking}


def test_rounding_nothing_changes_nothing(cancelling: Any) -> None:
    rounding, _ = cancelling
    assert rounding.error_of([]) == 0
    assert rounding.error_of([node for node, _ in rounding.ranking()]) > 0.05
    assert rounding.error_of([]) == 0


def test_as_few_go_back_as_suffice(cancelling: Any) -> None:
    rounding, kind_of = cancelling
    back = rounding.back(0.02)
    assert {kind_of(node) for node in back} == {"aten::add", "aten::sub"}
    for reason in back.values():
        assert reason.startswith("rounding it alone changes the answers by 0.") or "by 1" in reason
    assert len(rounding.back(0.02, at_least=3)) == 3


def test_nothing_goes_back_where_half_of_the_nodes_would_not_do(cancelling: Any) -> None:
    rounding, _ = cancelling
    assert rounding.back(1e-7) is None
    assert rounding.back(0.02, at_least=100) is None


def test_overflow_is_the_worst() -> None:
    prepared, candidate = make_candidate(Overflowing(), torch.rand(4, 4) + 1)
    with sensitivity.of_subgraph(prepared, candidate) as rounding:
        (node, error), *others = rounding.ranking()
    assert error == float("inf")
    assert next(info.kind for info in prepared.nodes() if info.id == node) in ("aten::mul", "aten::sqrt")
    assert min(error for _, error in others) < 1e-2


def test_the_whole_models_answers_decide() -> None:
    torch.manual_seed(0)
    model, x = Cancelling(), torch.rand(8, 16)
    prepared, candidate = make_candidate(model, x)
    expected = observation.run(wrap(prepared.assembled({})), [(x,)])

    def error_of_model(make: Callable[[], Any]) -> float:
        return compare(expected, observation.run(make(), [(x,)])).relative

    candidate.subgraph.name = "engine_0"
    with sensitivity.of_model(prepared, [candidate], error_of_model) as rounding:
        of_model = rounding.ranking()
    with sensitivity.of_subgraph(prepared, candidate) as rounding:
        of_subgraph = rounding.ranking()
    assert [node for node, _ in of_model[:2]] == [node for node, _ in of_subgraph[:2]]
    assert dict(of_model) == pytest.approx(dict(of_subgraph), rel=1e-3)


def test_what_has_the_limit_may_be_another_than_what_ranks() -> None:
    torch.manual_seed(0)
    model, x = Cancelling(), torch.rand(8, 16)
    prepared, candidate = make_candidate(model, x)
    candidate.subgraph.name = "engine_0"
    expected = observation.run(wrap(prepared.assembled({})), [(x,)])
    asked = []

    def error_of_model(make: Callable[[], Any]) -> float:
        return compare(expected, observation.run(make(), [(x,)])).relative

    def loss_of_model(make: Callable[[], Any]) -> float:
        asked.append(1000 * error_of_model(make))
        return asked[-1]

    with sensitivity.of_model(prepared, [candidate], error_of_model, loss_of_model) as rounding:
        ranking = rounding.ranking()
        assert asked == []
        back = rounding.back(20)
        assert back is not None
        assert list(back) == [node for node, _ in ranking[:2]]
        # By bisection, not one count after the other.
        assert len(asked) <= math.ceil(math.log2(len(ranking)))
        assert rounding.back(0.02) is None
        assert rounding.loss_of(list(back)) == pytest.approx(1000 * rounding.error_of(list(back)))


def test_search_goes_on_with_twice_as_many(cancelling: Any) -> None:
    rounding, _ = cancelling
    tried = []

    def loss_with(back: dict[int, str]) -> float | None:
        tried.append(len(back))
        return None if len(back) >= 4 else 1.0

    assert not sensitivity.search(rounding, 0.02, loss_with)
    # Of the nodes that change anything at most half may go back.
    assert tried == [2, rounding.most]
    assert rounding.most == 3
    tried.clear()
    assert sensitivity.search(rounding, 0.02, lambda back: None if len(back) == 2 else 1.0)
    assert not sensitivity.search(rounding, 1e-7, loss_with)
    assert tried == []


def test_search_counts_with_what_engines_lose_beyond_rounding(cancelling: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rounding, _ = cancelling
    nodes = [node for node, _ in rounding.ranking()]
    after = {count: rounding.loss_of(nodes[count:]) for count in range(len(nodes))}
    assert after[0] > after[2] > after[3] > 0
    tried = []

    def engines_that_lose(times: float, limit: float) -> Callable[[dict[int, str]], float | None]:
        def loss_with(back: dict[int, str]) -> float | None:
            tried.append(len(back))
            loss = times * after[len(back)]
            return None if loss <= limit else loss

        return loss_with

    # Rounding by itself keeps within the limit without two nodes; engines, which lose 1.5 times as much, do not.
    limit = 1.1 * after[2] / 0.7
    assert len(rounding.back(limit)) == 2
    assert sensitivity.search(rounding, limit, engines_that_lose(1.5, limit), 1.5 * after[0])
    assert tried == [3]
    # Where so much more is lost that half of the nodes would not do, one engine is built to see whether it is all lost
    # in the nodes that rounding names.
    tried.clear()
    assert not sensitivity.search(rounding, limit, engines_that_lose(1e3, limit), 1e3 * after[0])
    assert tried == [2]
    # Of 8 bits rounding knows a part only, so that it goes on, and finds engines that lose little of the rest.
    monkeypatch.setattr(Rounding, "knows_a_part", True)
    tried.clear()
    assert not sensitivity.search(rounding, limit, engines_that_lose(1e3, limit), 1e3 * after[0])
    assert tried == [2, 3]
    tried.clear()
    assert sensitivity.search(rounding, limit, engines_that_lose(1.6, limit), 1e3 * after[0])
    assert tried == [2, 3]
    monkeypatch.undo()
    # An overflow says nothing of how much more engines lose.
    tried.clear()
    assert sensitivity.search(rounding, limit, lambda back: tried.append(len(back)), float("inf"))
    assert tried == [2]


# optimize(), with engines that are wrong unless the right nodes are in float32


class SpoilingBuilder(OpenVINOBuilder):
    """Engines in float32 that pretend to be in float16: what cancels in 16 bits is wrong in them."""

    mixes_precisions = True

    def precisions(self) -> list[Precision]:
        return ["float16", "float32"]

    def _prepare(
        self, model: onnx.ModelProto, precision: Precision, sensitive: Mapping[str, str]
    ) -> tuple[onnx.ModelProto, dict[str, str]]:
        if precision == "float32":
            return model, {}
        kept = to_half_precision(model, keep_float32_ops=KEEP_FLOAT32, keep_float32_nodes=sensitive).kept
        if all(node.name in kept for node in model.graph.node if node.op_type in ("Add", "Sub")):
            return model, {name: sensitive.get(name, reason) for name, reason in kept.items()}
        spoiled = onnx.ModelProto()
        spoiled.CopyFrom(model)
        (last,) = (node for node in spoiled.graph.node if "output_0" in node.output)
        last.output[list(last.output).index("output_0")] = "right"
        spoiled.graph.node.append(onnx.helper.make_node("Sigmoid", ["right"], ["output_0"], "spoil"))
        return spoiled, kept


def optimize_with(
    builder: type[OpenVINOBuilder],
    model: nn.Module,
    x: Tensor,
    monkeypatch: pytest.MonkeyPatch,
    config: Config | None = None,
    *,
    verbose: bool = False,
) -> Any:
    """The report of optimize() with another builder."""
    monkeypatch.setattr("torch_trt_ext.optimizer.optimize.make_builder", lambda _device, config: builder(config))
    torch.manual_seed(0)
    config = config or Config()
    config.timing.compare = config.cache.enabled = False
    _, _, report = optimize(model.eval(), "o1", device_type="cpu", config=config, test_data=[(x,)], verbose=verbose)
    return report


@pytest.mark.parametrize("of", ["engine", "model"])
def test_optimize_mends_what_is_not_accurate(of: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "torch_trt_ext.optimizer.optimize.make_builder", lambda _device, config: SpoilingBuilder(config)
    )
    torch.manual_seed(0)
    model, x = Cancelling().eval(), torch.rand(8, 16)
    config = Config()
    config.timing.compare = config.cache.enabled = False
    if of == "model":
        config.accuracy.max_relative_error = 1e6
    optimized, _, report = optimize(model, "o1", device_type="cpu", config=config, test_data=[(x,)])
    (engine,) = report["engines"]
    assert engine["precision"] == "float16"
    assert engine["not_in"] == {}
    back = [reason for reason in engine["kept_float32"].values() if reason.startswith("rounding it alone changes")]
    assert len(back) == 2
    assert ("so 2 of its nodes went back to float32" in report["diagnosis"]["message"]) == (of == "model")
    with torch.no_grad():
        assert compare(model(x), optimized(x)).within(0.02)


@pytest.mark.parametrize("of", ["engine", "model"])
def test_what_cannot_be_mended_is_in_float32(of: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity.Rounding, "back", lambda *_arguments: None)
    config = Config()
    if of == "model":
        config.accuracy.max_relative_error = 1e6
    report = optimize_with(SpoilingBuilder, Cancelling(), torch.rand(8, 16), monkeypatch, config)
    (engine,) = report["engines"]
    assert engine["precision"] == "float32"
    assert list(engine["not_in"]) == ["float16"]
    why = "its engine in float16 is not accurate: " if of == "engine" else "with engines in float16 the model is not "
    assert engine["not_in"]["float16"].startswith(why)
    assert (f"{engine['not_in']['float16']}; so float32 was tried" in report["diagnosis"]["message"]) == (of == "model")


# optimize(), with engines that cannot be built, or are off by so much


class TryingBuilder(OpenVINOBuilder):
    """Engines in float32 whatever they are asked for, by way of a ladder of three steps."""

    def precisions(self) -> list[Precision]:
        return ["float16", "tf32", "float32"]

    def _build(self, model: onnx.ModelProto, ranges: Any, precision: Precision, what: str) -> Any:
        return super()._build(model, ranges, "float32", what)


def failing_builder(failures: Mapping[Precision, str]) -> type[OpenVINOBuilder]:
    """Cannot build what is in some precisions."""

    class Failing(TryingBuilder):
        def _build(self, model: onnx.ModelProto, ranges: Any, precision: Precision, what: str) -> Any:
            if precision in failures:
                raise RuntimeError(f"{failures[precision]}\nand more words")
            return super()._build(model, ranges, precision, what)

    return Failing


class OffBuilder(TryingBuilder):
    """Answers in float16 are off: by 100 % those of subgraphs with three products, by 20 % those of others, and NaN
    where a node is to be in float32.
    """

    def _prepare(
        self, model: onnx.ModelProto, precision: Precision, sensitive: Mapping[str, str]
    ) -> tuple[onnx.ModelProto, dict[str, str]]:
        if precision != "float16":
            return model, {}
        products = sum(node.op_type in ("Gemm", "MatMul") for node in model.graph.node)
        off = onnx.ModelProto()
        off.CopyFrom(model)
        (last,) = (node for node in off.graph.node if "output_0" in node.output)
        last.output[list(last.output).index("output_0")] = "right"
        factor = math.nan if sensitive else 2.0 if products == 3 else 1.2
        off.graph.initializer.append(onnx.numpy_helper.from_array(numpy.float32(factor), "factor"))
        off.graph.node.append(onnx.helper.make_node("Mul", ["right", "factor"], ["output_0"], "off"))
        return off, {}


def test_what_cannot_be_built_goes_on_to_more_bits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    builder = failing_builder({"float16": "no kernel", "tf32": "out of memory"})
    report = optimize_with(builder, Cancelling(), torch.rand(8, 16), monkeypatch, verbose=True)
    (engine,) = report["engines"]
    assert engine["precision"] == "float32"
    assert list(engine["not_in"].items()) == [
        ("float16", "its engine cannot be built: no kernel"),
        ("tf32", "its engine cannot be built: out of memory"),
    ]
    assert report["left_in_torch"] == []
    said = capsys.readouterr().err
    assert "engine_0: its engine cannot be built: no kernel; so tf32 is tried" in said
    assert "engine_0: its engine cannot be built: out of memory; so float32 is tried" in said
    (seconds,) = re.findall("engine_0 was built in float32 in ([0-9.e-]+) s\n", said)
    assert float(seconds) == pytest.approx(engine["build_seconds"], abs=0.001, rel=0.01)
    assert "engine_0: accepted in float32" in said


@pytest.mark.parametrize(
    ("failures", "words"),
    [
        (("no kernel", "no kernel", "no kernel"), "no kernel"),
        (("no kernel", "out of memory", "no kernel"), "no kernel; in tf32 out of memory"),
    ],
)
def test_what_can_be_built_in_no_precision_stays(
    failures: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = failing_builder(dict(zip(("float16", "tf32", "float32"), failures, strict=True)))
    report = optimize_with(builder, Cancelling(), torch.rand(8, 16), monkeypatch)
    assert report["engines"] == []
    reasons = {entry["reason"] for entry in report["left_in_torch"]}
    assert reasons == {f"is in a subgraph whose engine cannot be built: {words}"}


def test_reasons_stay_when_the_models_engines_are_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(SpoilingBuilder):
        def precisions(self) -> list[Precision]:
            return ["bfloat16", *super().precisions()]

        def _build(self, model: onnx.ModelProto, ranges: Any, precision: Precision, what: str) -> Any:
            if precision == "bfloat16":
                raise RuntimeError("no kernel")
            return super()._build(model, ranges, precision, what)

    config = Config()
    config.accuracy.max_relative_error = 1e6
    report = optimize_with(Failing, Cancelling(), torch.rand(8, 16), monkeypatch, config)
    (engine,) = report["engines"]
    assert engine["precision"] == "float16"
    assert "so 2 of its nodes went back to float32" in report["diagnosis"]["message"]
    assert engine["not_in"] == {"bfloat16": "its engine cannot be built: no kernel"}


def test_reasons_of_engines_and_of_the_model_are_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config()
    config.accuracy.max_relative_error = 0.5
    report = optimize_with(OffBuilder, TwoParts(), torch.rand(4, 8), monkeypatch, config)
    first, second = report["engines"]
    assert [engine["precision"] for engine in report["engines"]] == ["tf32", "tf32"]
    assert list(first["not_in"]) == list(second["not_in"]) == ["float16"]
    assert first["not_in"]["float16"].startswith("its engine in float16 is not accurate: ")
    assert second["not_in"]["float16"].startswith("with engines in float16 the model is not accurate: ")


def test_reason_of_an_engine_that_mending_the_model_spoils_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def mend_first_node(rounding: Rounding, _: float, loss_with: Callable[[dict[int, str]], Any], *_rest: Any) -> None:
        loss_with({min(node for node, error in rounding.ranking() if error > 0): "chosen"})

    monkeypatch.setattr(OffBuilder, "mixes_precisions", True)
    monkeypatch.setattr(sensitivity, "search", mend_first_node)
    config = Config()
    config.accuracy.max_relative_error = 1e6
    report = optimize_with(OffBuilder, TwoParts(), torch.rand(4, 8), monkeypatch, config)
    first, second = report["engines"]
    assert first["not_in"]["float16"].startswith("its engine in float16 is not accurate: ")
    assert second["not_in"]["float16"].startswith("with engines in float16 the model is not accurate: ")


def test_all_reasons_are_given_of_what_is_never_accurate(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config()
    config.accuracy.max_relative_error = 0.0
    builder = failing_builder({"tf32": "no kernel"})
    report = optimize_with(builder, Cancelling(), torch.rand(8, 16), monkeypatch, config)
    assert report["engines"] == []
    (reason,) = {entry["reason"] for entry in report["left_in_torch"]}
    parts = [
        "is in engine_0, which was not kept: its engine in float16 is not accurate: ",
        "; in tf32 its engine cannot be built: no kernel",
        "; in float32 its engine in float32 is not accurate: ",
    ]
    places = [reason.find(part) for part in parts]
    assert places[0] == 0
    assert places == sorted(places)
