"""The modules that stand in place of a subgraph: when the engine runs, and what is given for outputs that it lacks."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.openvino_models import affine_engine, engine_or_shape
from torch_trt_ext.optimizer.engine_module import EngineOnly


class Affine(nn.Module):
    """What the engine does, and a tensor of the second input's shape of which the model reads the shape only."""

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        return [inputs[0] * 2 + 1, inputs[1] + 1]


@pytest.fixture
def module() -> torch.jit.ScriptModule:
    return torch.jit.script(engine_or_shape(Affine(), data=0, shape=1))


def counts(module: torch.jit.ScriptModule) -> tuple[int, int]:
    counters = module.engine.counters()
    return counters["calls"], counters["fallbacks"]


def test_engine_runs_where_everything_fits(module: torch.jit.ScriptModule) -> None:
    x = torch.rand(2, 3)
    answer, shaped = module([x, torch.rand(4)])
    torch.testing.assert_close(answer, x * 2 + 1)
    assert (tuple(shaped.shape), shaped.dtype) == ((4,), torch.float32)
    assert counts(module) == (1, 0)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (torch.rand(9, 3), torch.rand(4)),
        (torch.rand(2, 3), torch.rand(5)),
        (torch.rand(2, 3), torch.rand(4, dtype=torch.float64)),
        (torch.rand(2, 3), torch.rand(2, 2)),
    ],
)
def test_subgraph_runs_where_something_does_not(module: torch.jit.ScriptModule, first: Tensor, second: Tensor) -> None:
    answer, shaped = module([first, second])
    assert torch.equal(answer, first * 2 + 1)
    assert torch.equal(shaped, second + 1)
    assert counts(module) == (0, 1)


def test_saved_and_loaded(module: torch.jit.ScriptModule, tmp_path: Path) -> None:
    torch.jit.save(module, tmp_path / "module.pt")
    loaded = torch.jit.load(tmp_path / "module.pt")
    loaded([torch.rand(2, 3), torch.rand(4)])
    loaded([torch.rand(2, 3), torch.rand(1)])
    assert counts(loaded) == (1, 1)


def test_engine_only_says_what_it_takes() -> None:
    module = torch.jit.script(EngineOnly(affine_engine(), [1]))
    x = torch.rand(2, 3)
    torch.testing.assert_close(module([torch.rand(7), x])[0], x * 2 + 1)
    with pytest.raises(RuntimeError, match=r"input 'x' must have 2 dimensions, got 1"):
        module([x, torch.rand(7)])
