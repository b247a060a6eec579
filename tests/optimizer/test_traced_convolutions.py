"""Convolutions of traced code follow ``torch.backends.cudnn`` in the copies that are measured and optimized."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from torch_trt_ext.optimizer.model_input import copy_script, freeze


class Convolutions(nn.Module):
    """All that tracing writes as aten::_convolution, in submodules, with and without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv1d(4, 8, 3, stride=2, padding=1, groups=2)
        self.two = nn.Sequential(nn.Conv2d(3, 4, 3, padding=(1, 2), dilation=2, bias=False), nn.BatchNorm2d(4))
        self.three = nn.Conv3d(2, 4, (1, 2, 3), stride=(1, 2, 1))
        self.up_one = nn.ConvTranspose1d(8, 4, 3, stride=2, output_padding=1)
        self.up_two = nn.ConvTranspose2d(4, 2, 3, stride=(2, 1), padding=1, groups=2, bias=False)
        self.up_three = nn.ConvTranspose3d(4, 2, 2, dilation=2)

    def forward(self, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.up_one(self.one(x)), self.up_two(self.two(y)), self.up_three(self.three(z))


INPUTS = torch.rand(2, 4, 17), torch.rand(2, 3, 9, 12), torch.rand(2, 2, 3, 8, 7)


def _kinds(script: torch.jit.ScriptModule) -> Counter[str]:
    return Counter(node.kind() for node in script.inlined_graph.nodes() if "conv" in node.kind())


@pytest.fixture
def traced() -> torch.jit.ScriptModule:
    torch.manual_seed(0)
    model = Convolutions().eval()
    model.two[1].running_mean.uniform_(-1, 1)
    return torch.jit.trace(model, INPUTS)


def test_every_kind_becomes_what_scripted_code_has(traced: torch.jit.ScriptModule) -> None:
    expected = traced(*INPUTS)
    copy = copy_script(traced)
    plain = {f"aten::conv{kind}{dims}d" for kind in ("", "_transpose") for dims in (1, 2, 3)}
    assert _kinds(copy) == Counter(dict.fromkeys(plain, 1))
    for ours, theirs in zip(copy(*INPUTS), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_the_users_model_stays_as_it_was(traced: torch.jit.ScriptModule) -> None:
    copy_script(traced)
    assert _kinds(traced) == {"aten::_convolution": 6}


def test_batch_normalization_is_still_folded(traced: torch.jit.ScriptModule) -> None:
    frozen = freeze(traced)
    assert not any(node.kind() == "aten::batch_norm" for node in frozen.graph.nodes())
    for ours, theirs in zip(frozen(*INPUTS), traced(*INPUTS), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_flags_of_the_time_of_the_trace_are_gone(traced: torch.jit.ScriptModule) -> None:
    """Where cuDNN may not be used, a traced convolution asks for it all the same, by a constant of its own."""
    with torch.backends.cudnn.flags(enabled=False, allow_tf32=False):
        rewritten = torch.jit.trace(Convolutions().eval(), INPUTS)
    constants = [node for node in rewritten.inlined_graph.nodes() if node.kind() == "aten::_convolution"]
    assert all(not node.inputsAt(12).toIValue() for node in constants)
    # Traced with TF32 or without: the copies are the same.
    assert _kinds(copy_script(rewritten)) == _kinds(copy_script(traced))
