"""What an engine's time is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torch_trt_ext.config import Config
from torch_trt_ext.optimizer import candidates
from torch_trt_ext.optimizer.candidates import Candidate, time_against_torch
from torch_trt_ext.optimizer.latency import Latency
from torch_trt_ext.optimizer.reference import exact
from torch_trt_ext.optimizer.subgraphs import Subgraph

ENGINE_MS = 1.0


class Doubled(nn.Module):
    def forward(self, tensors: list[Tensor]) -> list[Tensor]:
        return [tensors[0] * 2]


def _candidate() -> Candidate:
    subgraph = Subgraph(0, "engine_0", [0], [0], [1], [True], 1, torch.jit.script(Doubled()), [[torch.ones(2)]])
    built: Any = None
    return Candidate(subgraph, "float16", built, {}, None, 0.0)


def _time(
    monkeypatch: pytest.MonkeyPatch, *, unfused_ms: float, fused_ms: float, device: str = "cuda", **timing: Any
) -> tuple[Candidate, list[tuple[bool, bool]]]:
    """The candidate after it was timed, with times that are made up; and of each measurement whether TorchScript's
    fuser was on, and whether it was of the subgraph itself.
    """
    candidate, seen = _candidate(), []

    def measured(calls: Mapping[str, Callable[[], object]], *_: Any) -> dict[str, Latency]:
        fused = torch._C._jit_texpr_fuser_enabled()
        cells: Any = calls["torch"].__closure__
        (module,) = (cell.cell_contents for cell in cells if callable(cell.cell_contents))
        assert torch.equal(module([torch.ones(2)])[0], torch.full((2,), 2.0))
        seen.append((fused, module is candidate.subgraph.fallback))
        of_torch = fused_ms if fused else unfused_ms
        return {name: Latency(ms, ms, ms, ms, 1) for name, ms in {"torch": of_torch, "engine": ENGINE_MS}.items()}

    monkeypatch.setattr(candidates, "_in_turn", measured)
    config = Config()
    for name, value in timing.items():
        setattr(config.timing, name, value)
    time_against_torch(candidate, config, torch.device(device))
    return candidate, seen


def test_engine_that_is_clearly_faster_does_not_wait_for_the_fuser(monkeypatch: pytest.MonkeyPatch) -> None:
    candidate, seen = _time(monkeypatch, unfused_ms=3.0, fused_ms=0.5)
    assert seen == [(False, True)]
    assert torch._C._jit_texpr_fuser_enabled()
    assert candidate.torch_latency is not None
    assert candidate.torch_latency.median_ms == 3.0
    assert not candidate.rejected


@pytest.mark.parametrize(("fused_ms", "kept"), [(1.2, True), (0.8, False)])
def test_what_the_fuser_could_change_is_timed_with_it(
    monkeypatch: pytest.MonkeyPatch, fused_ms: float, kept: bool
) -> None:
    candidate, seen = _time(monkeypatch, unfused_ms=1.5, fused_ms=fused_ms)
    # A copy: what has run without the fuser stays without it.
    assert seen == [(False, True), (True, False)]
    assert candidate.torch_latency is not None
    assert candidate.torch_latency.median_ms == fused_ms
    assert bool(candidate.rejected) != kept


def test_least_speedup_of_the_config_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    _, seen = _time(monkeypatch, unfused_ms=3.0, fused_ms=2.5, min_speedup=2.0)
    assert len(seen) == 2


def test_references_do_not_wait_for_the_fuser() -> None:
    with exact():
        assert not torch._C._jit_texpr_fuser_enabled()
    assert torch._C._jit_texpr_fuser_enabled()


def test_nothing_is_timed_twice_where_no_choice_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(_time(monkeypatch, unfused_ms=1.5, fused_ms=0.5, compare=False)[1]) == 1
    # On the CPU TorchScript fuses nothing.
    assert len(_time(monkeypatch, unfused_ms=1.5, fused_ms=0.5, device="cpu")[1]) == 1
