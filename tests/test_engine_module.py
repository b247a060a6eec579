"""``EngineModule``: an engine among other modules."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("openvino")

from tests.fresh_process import output_of_fresh
from tests.openvino_models import affine_engine
from tests.unrunnable import unrunnable_engine
from torch_trt_ext import EngineModule


class Mixed(nn.Module):
    """A linear layer, then an engine that gives 2 x + 1."""

    def __init__(self, engine: EngineModule) -> None:
        super().__init__()
        self.linear, self.affine = nn.Linear(3, 3), engine

    def forward(self, x: Tensor) -> Tensor:
        return self.affine([self.linear(x)])[0]


@pytest.fixture
def mixed() -> Mixed:
    engine = affine_engine()
    engine.set_name("affine")
    engine.set_cuda_graphs(True)
    return Mixed(EngineModule(engine)).eval()


@torch.no_grad()
def test_answers_in_python_and_scripted(mixed: Mixed) -> None:
    x = torch.randn(4, 3)
    expected = 2 * mixed.linear(x) + 1
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(mixed), buffer)
    buffer.seek(0)
    for model in (mixed, torch.jit.script(mixed), torch.jit.trace(mixed, (x,)), torch.jit.load(buffer)):
        torch.testing.assert_close(model(x), expected)


@torch.no_grad()
def test_state_dict_brings_the_engine(mixed: Mixed, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(mixed.state_dict(), path)
    x = torch.randn(4, 3)
    for module in (EngineModule(), EngineModule(affine_engine())):
        other = Mixed(module)
        other.load_state_dict(torch.load(path, weights_only=True))
        assert torch.equal(other(x), mixed(x))
        assert other.affine.engine.name() == "affine"
        assert other.affine.engine.cuda_graphs()
    script = f"""
        import torch
        from torch_trt_ext import EngineModule
        state = torch.load({str(path)!r}, weights_only=True)
        module = EngineModule()
        module.set_extra_state(state["affine._extra_state"])
        print(module([torch.ones(1, 3)])[0].tolist())
    """
    assert output_of_fresh(script).strip() == "[[3.0, 3.0, 3.0]]"


def test_module_without_an_engine_has_an_empty_state() -> None:
    empty = EngineModule()
    assert empty.state_dict()["_extra_state"].numel() == 0
    module = EngineModule(affine_engine())
    module.load_state_dict(empty.state_dict())
    assert module.engine is None


def test_engine_that_cannot_run_keeps_its_reason() -> None:
    module = EngineModule(unrunnable_engine())
    other = EngineModule()
    other.load_state_dict(module.state_dict())
    assert not other.engine.can_run()
    assert torch.equal(other.engine.plan(), module.engine.plan())
    with pytest.raises(RuntimeError, match="this engine cannot run here"):
        other([torch.ones(1)])


@torch.no_grad()
def test_copies_are_equal(mixed: Mixed) -> None:
    x = torch.randn(2, 3)
    assert torch.equal(copy.deepcopy(mixed)(x), mixed(x))


def test_damaged_state_fails(mixed: Mixed) -> None:
    state = mixed.state_dict()
    state["affine._extra_state"] = state["affine._extra_state"][:-100]
    with pytest.raises(RuntimeError):
        mixed.load_state_dict(state)


@pytest.mark.parametrize("wrong", [3, nn.Linear(1, 1)])
def test_what_is_no_engine_fails(wrong: object) -> None:
    with pytest.raises(TypeError, match="engine must be a TRTEngineExtension or an OpenVINOEngineExtension, got"):
        EngineModule(wrong)
