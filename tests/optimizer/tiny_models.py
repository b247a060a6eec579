"""Small models, and a configuration that optimizes them in a fraction of a second."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import torch_trt_ext

#: Errors of a few layers whose values are rounded to bfloat16's 8 bits, relative to the largest value.
TOLERANCE_16_BIT = 0.03


def quick_config() -> torch_trt_ext.Config:
    """Few runs, no cache; engines stay whatever their speed, which of tiny models is chance."""
    config = torch_trt_ext.Config()
    config.timing.warmup_runs = config.timing.subgraph_warmup_runs = 0
    config.timing.timed_runs = config.timing.subgraph_timed_runs = 3
    config.timing.compare = False
    config.cache.enabled = False
    config.progress = False
    return config


def optimize(model: Any, test_data: Any, config: torch_trt_ext.Config | None = None, **arguments: Any) -> Any:
    """``torch_trt_ext.optimize`` for the CPU at level o1, with :func:`quick_config` if no other is given."""
    return torch_trt_ext.optimize(model, "o1", "cpu", config=config or quick_config(), test_data=test_data, **arguments)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """Within what 16 bits allow."""
    assert actual.dtype is expected.dtype
    assert actual.shape == expected.shape
    error = (actual.double() - expected.double()).abs().max() / expected.double().abs().max()
    assert error < TOLERANCE_16_BIT, f"error {error:.2e} of the largest value"


def engine_modules(model: torch.jit.ScriptModule) -> list[Any]:
    """The modules of an optimized model that hold engines."""
    return [module for name, module in model.named_children() if name.startswith("engine_")]


def counters(model: torch.jit.ScriptModule) -> list[dict[str, int]]:
    """What each engine counted."""
    return [module.engine.counters() for module in engine_modules(model)]


class Convolutions(nn.Module):
    """Two convolutions and a classifier: ``Tensor[N, 3, H, W]`` to ``Tensor[N, 4]``."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).mean((2, 3)))


class TwoParts(nn.Module):
    """A large and a small part for engines, with an operator between that has no ONNX form: ``Tensor[N, 8]``."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 8))
        self.second = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.fft.fft(self.first(x)).real)


def inaccurate_in_16_bits() -> nn.Module:
    """``Tensor[N, 8]``: differences of numbers of which 16 bits keep the common part only."""
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4, bias=False))
    with torch.no_grad():
        model[0].bias.fill_(1000.0)
        model[2].weight.copy_(torch.eye(8)[:4] - torch.eye(8)[4:])
    return model.eval()


def make(kind: type[nn.Module]) -> nn.Module:
    """A model in evaluation mode with the same weights each time."""
    torch.manual_seed(0)
    return kind().eval()
