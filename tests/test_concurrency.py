"""Engines on the CPU from many threads, for a long time, and to their end: answers, memory, and who holds what."""

from __future__ import annotations

import copy
import gc
import io
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("openvino")

import openvino as ov
from openvino import opset13

from tests.fresh_process import output_of_fresh
from tests.openvino_models import EngineModule, affine_engine, two_way_plan
from tests.state_fuzz import restore, state_of
from tests.threads import run_in_threads
from torch_trt_ext import OpenVINOEngineExtension
from torch_trt_ext.builders.openvino_model import plan_from_model

THREADS = 10
RUNS = 1000

#: Of a hundred thousand calls. One tensor of three floats lost in each would be ten times as much.
_GROWTH_MIB = 4


# The callers are many.
pytestmark = pytest.mark.usefixtures("one_thread")


class Loop(torch.nn.Module):
    """Calls an engine again and again without Python between: how many answers to ``2 x + 1`` were wrong."""

    def __init__(self, engine: object) -> None:
        super().__init__()
        self.engine = engine

    def forward(self, inputs: list[Tensor], runs: int) -> int:
        wrong = 0
        for run in range(runs):
            x = inputs[run % len(inputs)]
            answers: list[Tensor] = self.engine.forward([x])
            if not torch.equal(answers[0], 2 * x + 1):
                wrong += 1
        return wrong


def test_ten_threads_thousand_runs_three_shapes() -> None:
    engine = affine_engine()
    model = torch.jit.script(Loop(engine))

    def work(number: int) -> None:
        generator = torch.Generator().manual_seed(number)
        inputs = [torch.rand(rows, 3, generator=generator) for rows in (1, 3, 8)]
        assert model(inputs, 3 * RUNS) == 0

    run_in_threads(THREADS, work)
    assert engine.counters()["calls"] == THREADS * 3 * RUNS
    assert engine.counters()["compilations"] == 1


def test_temporaries_of_inputs_live_through_the_call() -> None:
    """Inputs that are copied before the call, in many threads that free and take the same memory all the time."""
    engine = affine_engine()

    def work(number: int) -> None:
        for run in range(300):
            base = torch.full((3, 16), float(1000 * number + run))
            inputs = base.t()[: 1 + run % 8]
            assert not inputs.is_contiguous() or len(inputs) == 1
            (answer,) = engine.forward([inputs])
            assert torch.equal(answer, inputs * 2 + 1)

    run_in_threads(THREADS, work)


@pytest.fixture(scope="module")
def product_plan() -> Any:
    """Whether the inner sizes agree shows only in the middle of the call."""
    x, y = (opset13.parameter([-1, -1], ov.Type.f32, name=name) for name in "xy")
    for parameter, name in ((x, "x"), (y, "y")):
        parameter.output(0).set_names({name})
    product = opset13.matmul(x, y, False, False)
    product.output(0).set_names({"z"})
    return plan_from_model(ov.Model([opset13.result(product)], [x, y], "product"))


def test_errors_in_the_middle_of_calls_leave_the_engine_usable(product_plan: Any) -> None:
    engine = OpenVINOEngineExtension(product_plan.data, product_plan.io_spec)

    def work(number: int) -> None:
        left, right = torch.full((2 + number, 3), float(number)), torch.ones(3, 5)
        for run in range(100):
            if number % 3 == 0 and run % 25 == 0:
                with pytest.raises(RuntimeError, match="OpenVINO failed to run the engine: "):
                    engine.forward([left, torch.ones(4, 5)])
            if run % 10 == 0:
                with pytest.raises(ValueError, match="input 'y' must have 2 dimensions, got 1"):
                    engine.forward([left, right[0]])
            (answer,) = engine.forward([left, right])
            assert torch.equal(answer, torch.full((2 + number, 5), 3.0 * number))

    run_in_threads(THREADS, work)
    assert engine.counters()["calls"] == THREADS * 100
    assert 1 < engine.counters()["compilations"] <= 1 + 4 * 4


class PlanHolders:
    """Counts who holds a plan's memory: each engine that was made here has a tensor of its own of it while it lives."""

    def __init__(self) -> None:
        self.version, plan, self.fields = state_of(affine_engine())
        self.plan = plan.clone()
        self._alone = self._holders()

    def _holders(self) -> int:
        gc.collect()
        return int(torch._C._storage_Use_Count(self.plan.untyped_storage()._cdata))

    def engines(self) -> int:
        """How many of the engines that were made here live, themselves or a copy of them."""
        return self._holders() - self._alone

    def make(self) -> Any:
        """One more engine."""
        engine = affine_engine()
        restore(engine, (self.version, self.plan.view(-1), self.fields))
        return engine


@pytest.fixture
def holders() -> PlanHolders:
    return PlanHolders()


def test_engines_die_with_their_last_holder(holders: PlanHolders) -> None:
    x = torch.ones(2, 3)
    assert holders.engines() == 0
    engines = [holders.make() for _ in range(5)]
    assert holders.engines() == 5
    engines[0].forward([x])
    answers = engines[1].forward([x])
    del engines[:2]
    assert holders.engines() == 3
    assert torch.equal(answers[0], 2 * x + 1)
    model = torch.jit.script(EngineModule(engines.pop()))
    assert holders.engines() == 3
    del engines
    assert holders.engines() == 1
    # Enough calls for torch to compile the model.
    for _ in range(3):
        assert torch.equal(model(x), 2 * x + 1)
    engine = model.engine
    del model
    assert holders.engines() == 1
    del engine
    assert holders.engines() == 0


def test_copies_share_the_plan_and_saved_models_have_their_own(holders: PlanHolders) -> None:
    model = torch.jit.script(EngineModule(holders.make()))
    buffer = io.BytesIO()
    torch.jit.save(model, buffer)
    buffer.seek(0)
    loaded = torch.jit.load(buffer)
    assert holders.engines() == 1
    # Another engine, and the same tensor.
    copied = copy.deepcopy(model)
    assert holders.engines() == 1
    del model
    assert holders.engines() == 1
    for other in (loaded, copied):
        assert torch.equal(other(torch.ones(1, 3)), torch.full((1, 3), 3.0))
    del other, copied
    assert holders.engines() == 0
    assert torch.equal(loaded(torch.ones(1, 3)), torch.full((1, 3), 3.0))


def test_refused_states_hold_nothing(holders: PlanHolders) -> None:
    engine = holders.make()
    for fields in (
        holders.fields | {"plan_xxh64_of_mib": ["0"]},
        holders.fields | {"input_names": ["z"]},
        {name: values for name, values in holders.fields.items() if name != "output_types"},
    ):
        with pytest.raises(ValueError, match="must have"):
            restore(engine, (holders.version, holders.plan.view(-1), fields))
    # Refused only after the engine was compiled.
    fields = {name: values for name, values in holders.fields.items() if name != "state_xxh64"}
    with pytest.raises(ValueError, match="input 'z' must be one of the engine's inputs"):
        restore(engine, (holders.version, holders.plan.view(-1), fields | {"input_names": ["z"]}))
    assert holders.engines() == 1
    assert torch.equal(engine.forward([torch.ones(1, 3)])[0], torch.full((1, 3), 3.0))


def test_engines_are_made_and_die_in_many_threads(holders: PlanHolders) -> None:
    def work(number: int) -> None:
        x = torch.full((1 + number % 8, 3), float(number))
        for _ in range(5):
            engine = holders.make()
            assert torch.equal(engine.forward([x])[0], 2 * x + 1)

    run_in_threads(THREADS, work)
    assert holders.engines() == 0


def test_engine_lives_until_its_last_call_ends(holders: PlanHolders) -> None:
    """A model is dropped while threads are in the middle of calls."""
    model = torch.jit.script(Loop(holders.make()))
    models = [model] * THREADS
    del model

    def work(number: int) -> None:
        mine = models.pop()
        assert mine([torch.full((1 + number % 8, 3), float(number))], 500) == 0

    run_in_threads(THREADS, work)
    assert holders.engines() == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_errors_are_raised_whatever_the_threads(product_plan: Any, threads: int) -> None:
    """OpenVINO 2026.4.1 drops errors where it has one thread, and gives an earlier call's answer."""
    torch.set_num_threads(threads)
    engine = OpenVINOEngineExtension(product_plan.data, product_plan.io_spec)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="OpenVINO failed to run the engine: "):
            engine.forward([torch.ones(2, 3), torch.ones(4, 5)])
        assert torch.equal(engine.forward([torch.ones(2, 3), torch.ones(3, 5)])[0], torch.full((2, 5), 3.0))


def test_hundred_thousand_calls_take_no_memory() -> None:
    said = output_of_fresh(
        """
        import torch
        from tests.openvino_models import affine_plan, two_way_plan
        from tests.test_concurrency import Loop, affine_engine, resident_mib, two_way_loop

        torch.set_num_threads(1)
        affine, two_way = torch.jit.script(Loop(affine_engine())), two_way_loop()
        shapes = [torch.rand(rows, 3) for rows in (1, 2, 3, 5, 8)]
        pairs = [(torch.rand(rows, 2), torch.arange(rows, dtype=torch.int32)) for rows in (1, 4, 7)]

        def work(calls):
            assert affine(shapes, calls) == 0
            assert two_way(pairs, calls) == 0

        work(5_000)
        before = resident_mib()
        work(50_000)
        print(resident_mib() - before)
        """
    )
    assert float(said) < _GROWTH_MIB


def test_failed_calls_take_no_memory() -> None:
    said = output_of_fresh(
        """
        import torch
        from tests.test_concurrency import affine_engine, resident_mib

        torch.set_num_threads(1)
        engine = affine_engine()

        def work(calls):
            for _ in range(calls):
                for x in (torch.rand(9, 3), torch.rand(3), torch.rand(2, 3).double()):
                    try:
                        engine.forward([x])
                        raise SystemExit("was taken")
                    except (TypeError, ValueError):
                        pass

        work(300)
        before = resident_mib()
        work(3_000)
        print(resident_mib() - before)
        """
    )
    assert float(said) < _GROWTH_MIB


def resident_mib() -> float:
    """Memory of this process that is in RAM."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20


class TwoWayLoop(torch.nn.Module):
    """:class:`Loop` for an engine that casts an output and has outputs of unknown size."""

    def __init__(self, engine: object) -> None:
        super().__init__()
        self.engine = engine

    def forward(self, inputs: list[tuple[Tensor, Tensor]], runs: int) -> int:
        wrong = 0
        for run in range(runs):
            a, b = inputs[run % len(inputs)]
            answers: list[Tensor] = self.engine.forward([a, b])
            if not (torch.equal(answers[0], 2 * a) and torch.equal(answers[1], (b + 1).long())):
                wrong += 1
        return wrong


def two_way_loop() -> torch.jit.ScriptModule:
    """The two-way engine with its second output cast to int64."""
    spec = (["a", "b"], ["first", "second"], ["Float", "Int"], ["Float", "Long"])
    return torch.jit.script(TwoWayLoop(OpenVINOEngineExtension(two_way_plan().data, spec)))
