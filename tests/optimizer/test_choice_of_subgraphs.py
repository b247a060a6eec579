"""Which subgraphs engines are tried for: those that compute something, and much of the time or of the operations."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torch_trt_ext.config import Config
from torch_trt_ext.optimizer import candidates, observation, subgraphs, whole_model
from torch_trt_ext.optimizer.optimize import optimize

pytest.importorskip("openvino")


class AboutWhatIsFound(nn.Module):
    """Scores of as many rows as pass a limit, of which there may be none."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 16), nn.ReLU())
        self.after = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 16), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        found = int((x.sum(1) > 100).sum())
        return self.after(x[:found])


def _optimize(model: nn.Module, x: Tensor) -> tuple[Any, Any]:
    config = Config()
    config.cache.enabled = config.timing.compare = False
    optimized, _, report = optimize(model.eval(), "o1", "cpu", config, test_data=[(x,)])
    return optimized, report


@pytest.mark.parametrize("found", [False, True])
def test_no_engine_is_tried_for_what_is_empty(found: bool) -> None:
    torch.manual_seed(0)
    model, x = AboutWhatIsFound(), torch.rand(8, 16)
    if found:
        nn.init.constant_(model.before[2].bias, 50)
    optimized, report = _optimize(model, x)
    assert len(optimized(x)) == (8 if found else 0)
    assert len(report["engines"]) == (2 if found else 1)
    reasons = [entry["reason"] for entry in report["left_in_torch"]]
    assert any(reason.startswith("gives tensors without elements only") for reason in reasons) != found


@pytest.mark.parametrize(
    ("flops", "idle"), [({1: 1.0, 2: 999.0}, True), ({1: 20.0, 2: 980.0}, False), ({1: 0.0}, True)]
)
def test_subgraphs_with_much_of_the_compute_are_not_idle(
    flops: dict[int, float], idle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subgraphs, "_quick", lambda _call, _device: 0.5)
    subgraph: Any = SimpleNamespace(
        index=7, nodes=[1], inputs=[3], outputs=[4], with_data=[True], calls=[[torch.rand(1)]], fallback=None
    )
    session: Any = SimpleNamespace(values={4: SimpleNamespace(count=1)})
    found = subgraphs.find_idle([subgraph], session, 1, 100.0, torch.device("cpu"), {}, flops)
    assert list(found) == ([7] if idle else [])
    assert not subgraphs.find_idle([subgraph], session, 1, 10.0, torch.device("cpu"), {}, flops)


@pytest.mark.parametrize(("engine_ms", "kept"), [(0.5, True), (0.95, False)])
def test_engines_save_a_share_of_the_model_s_time(
    engine_ms: float, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subgraphs, "_quick", lambda _call, _device: 2.0)
    session: Any = SimpleNamespace(values={4: SimpleNamespace(count=4)})

    def make(nodes: list[int]) -> Any:
        return SimpleNamespace(
            index=nodes[0],
            nodes=nodes,
            inputs=[],
            outputs=[4],
            with_data=[True],
            calls=[[]],
            fallback=None,
            least_saving_ms=0.0,
        )

    light, heavy = make([1]), make([2])
    flops = {1: 1.0, 2: 999.0}
    assert not subgraphs.find_idle([light, heavy], session, 1, 40.0, torch.device("cpu"), {}, flops)
    # 1 % of 40 ms, of which each of four calls has its part.
    assert light.least_saving_ms == pytest.approx(0.1)
    assert heavy.least_saving_ms == 0

    def compare_latency(*_args: Any, **_options: Any) -> Any:
        return {"torch": SimpleNamespace(median_ms=1.0), "engine": SimpleNamespace(median_ms=engine_ms)}

    monkeypatch.setattr(candidates, "compare_latency", compare_latency)
    for subgraph in (light, heavy):
        candidate: Any = SimpleNamespace(subgraph=subgraph, rejected="")
        candidates.time_against_torch(candidate, Config(), torch.device("cpu"))
        assert (candidate.rejected == "") == (kept or subgraph is heavy)
    if not kept:
        candidate.subgraph = light
        config = Config()
        candidates.time_against_torch(candidate, config, torch.device("cpu"))
        assert (
            candidate.rejected == "its engine saves 0.05 ms a call, less than the 0.1 that are 1 % of the model's time"
        )
        candidate.rejected, config.timing.min_speedup = "", 0.5
        candidates.time_against_torch(candidate, config, torch.device("cpu"))
        assert not candidate.rejected
        config.timing.min_speedup, config.timing.compare = 1.0, False
        candidates.time_against_torch(candidate, config, torch.device("cpu"))
        assert not candidate.rejected


def test_subgraphs_are_timed_without_a_fuser_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def quick(_call: Any, _device: Any) -> float:
        if torch._C._jit_texpr_fuser_enabled():
            raise RuntimeError("Global alloc not supported yet")
        return 0.1

    monkeypatch.setattr(subgraphs, "_quick", quick)
    subgraph: Any = SimpleNamespace(
        index=7, nodes=[1], inputs=[], outputs=[4], with_data=[True], calls=[[]], fallback=None
    )
    session: Any = SimpleNamespace(values={4: SimpleNamespace(count=1)})
    assert list(subgraphs.find_idle([subgraph], session, 1, 100.0, torch.device("cpu"), {}, {1: 0.0})) == [7]


def test_what_was_compiled_with_the_fuser_runs_without_what_was_compiled() -> None:
    seen = []

    def measure() -> str:
        seen.append((torch._C._jit_texpr_fuser_enabled(), torch._C._get_graph_executor_optimize()))
        if torch._C._get_graph_executor_optimize():
            raise RuntimeError("Global alloc not supported yet")
        return "measured"

    before = torch._C._jit_texpr_fuser_enabled()
    assert observation.despite_fuser(measure) == ("measured", "Global alloc not supported yet")
    assert seen == [(before, True), (False, True), (False, False)]
    assert torch._C._get_graph_executor_optimize()


def test_models_are_timed_without_a_fuser_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    real = whole_model.compare_latency

    def compare_latency(*args: Any, **options: Any) -> Any:
        if torch._C._jit_texpr_fuser_enabled():
            raise RuntimeError("Global alloc not supported yet")
        return real(*args, **options)

    monkeypatch.setattr(whole_model, "compare_latency", compare_latency)
    torch.manual_seed(0)
    _, report = _optimize(nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 16)), torch.rand(8, 16))
    assert float(report["overall"]["speedup"]) > 0
    assert "Global alloc not supported yet; times are without it" in report["diagnosis"]["message"]
    assert torch._C._jit_texpr_fuser_enabled()


def test_what_fails_without_the_fuser_too_is_an_error() -> None:
    def fail() -> None:
        raise RuntimeError(f"with the fuser: {torch._C._jit_texpr_fuser_enabled()}")

    with pytest.raises(RuntimeError, match="with the fuser: False"):
        observation.despite_fuser(fail)
    assert torch._C._jit_texpr_fuser_enabled()
    assert observation.despite_fuser(lambda: 3) == (3, "")
