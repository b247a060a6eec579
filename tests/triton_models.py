"""Models for the tests of Triton repositories; torch.jit.script reads them, so their annotations are not postponed."""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Parts(nn.Module):
    """A list of the rows' sums and of the rows doubled."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x.sum(1), 2 * x] if len(x) < 100 else [x.sum(1)]


class Pair(NamedTuple):
    scores: Tensor
    boxes: Tensor


class Named(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Pair:
        return Pair(x + y, (2 * x).to(torch.int64))


class Nested(nn.Module):
    def forward(self, x: Tensor) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
        return [x, 2 * x], (3 * x, 4 * x)


class TuplesOnly(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        return x, (2 * x, 3 * x)


class Named2Dict(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return x, {"boxes": x, "scores": x}


class WithCount(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        return x, len(x)


class FromDict(nn.Module):
    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return inputs["image"] + inputs['the "mask"']


class WithFlag(nn.Module):
    def forward(self, x: Tensor, flip: bool = False) -> Tensor:
        return x.flip(1) if flip else x


class Mean(nn.Module):
    """What it gives has nothing of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(0)


class Total(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum()


class Half(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.to(torch.bfloat16)


class Counter(nn.Module):
    """Keeps how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return x + self.calls
