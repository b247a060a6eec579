"""``engine_call``: what ``forward`` does, called from Python in fewer steps."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
import torch
from torch import Tensor

pytest.importorskip("openvino")

from tests.openvino_models import EngineModule, affine_engine, two_way_plan
from tests.unrunnable import unrunnable_engine
from torch_trt_ext import OpenVINOEngineExtension, engine_call


def test_answers_are_forward_s() -> None:
    engine = OpenVINOEngineExtension(two_way_plan().data, two_way_plan().io_spec)
    call = engine_call(engine)
    given_by_name = {"a": torch.arange(6.0).reshape(3, 2), "b": torch.tensor([4, 0, 6], dtype=torch.int32)}
    inputs = [given_by_name[name] for name in engine.io_names()[0]]
    for given in (inputs, tuple(inputs)):
        outputs = call(given)
        assert isinstance(outputs, list)
        for output, expected in zip(outputs, engine.forward(inputs), strict=True):
            assert type(output) is Tensor
            assert torch.equal(output, expected)
            assert output.dtype == expected.dtype
    assert engine.counters()["calls"] == 4


def test_engine_of_a_loaded_module_and_of_torch_addons() -> None:
    module = torch.jit.script(EngineModule(affine_engine()))
    assert torch.equal(engine_call(module.engine)([torch.ones(1, 3)])[0], torch.full((1, 3), 3.0))


@pytest.mark.parametrize(
    "inputs",
    [[], [torch.ones(1, 3)] * 2, [torch.ones(1, 4)], [torch.ones(1, 3).double()], [torch.ones(3)]],
)
def test_errors_are_forward_s(inputs: list[Tensor]) -> None:
    engine = affine_engine()
    call = engine_call(engine)
    with pytest.raises((ValueError, TypeError)) as expected:
        engine.forward(inputs)
    with pytest.raises(expected.type) as caught:
        call(inputs)
    # torch's own call appends where in TorchScript it was.
    assert str(caught.value).splitlines()[0] in str(expected.value)
    assert torch.equal(call([torch.ones(1, 3)])[0], torch.full((1, 3), 3.0))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.ones(1, 3), "inputs must be a list or tuple of tensors, got Tensor"),
        (None, "inputs must be a list or tuple of tensors, got NoneType"),
        ([None], "input 0 must be a tensor, got NoneType"),
        ([torch.ones(1, 3), 2.0], "input 1 must be a tensor, got float"),
    ],
)
def test_what_are_no_tensors_fail(inputs: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        engine_call(affine_engine())(inputs)  # type: ignore[arg-type]


def test_engine_that_cannot_run_says_so() -> None:
    with pytest.raises(RuntimeError, match="this engine cannot run here: "):
        engine_call(unrunnable_engine())([torch.ones(1)])


def test_other_objects_are_refused() -> None:
    with pytest.raises(TypeError, match="engine must be a TRTEngineExtension or an OpenVINOEngineExtension, got "):
        engine_call(torch.ones(1))
    weights = torch.quantize_per_tensor(torch.ones(1, 1), 1.0, 0, torch.qint8)
    other = torch.ops.quantized.linear_prepack(weights, None)
    assert isinstance(other, torch.ScriptObject)
    with pytest.raises(TypeError, match=r"OpenVINOEngineExtension, got .*LinearPackedParams.*; pass the engine itself"):
        engine_call(other)


def test_call_keeps_the_engine_and_nothing_of_a_call() -> None:
    call = engine_call(affine_engine())
    gc.collect()
    x = torch.ones(1, 3)
    (output,) = call([x])
    kept = [weakref.ref(x), weakref.ref(output)]
    del x, output
    gc.collect()
    assert [reference() for reference in kept] == [None, None]
    assert torch.equal(call([torch.ones(1, 3)])[0], torch.full((1, 3), 3.0))


def test_gradients_are_those_of_forward() -> None:
    engine = affine_engine()
    x = torch.ones(1, 3, requires_grad=True)
    assert engine_call(engine)([x])[0].requires_grad == engine.forward([x])[0].requires_grad


def test_threads_call_at_once() -> None:
    call = engine_call(affine_engine())
    wrong = []

    def work(seed: int) -> None:
        x = torch.full((1 + seed % 8, 3), float(seed))
        for _ in range(200):
            if not torch.equal(call([x])[0], 2 * x + 1):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
