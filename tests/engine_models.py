"""Modules around engines, for tests; torch.jit.script reads them, so their annotations are not postponed."""

import torch
from torch import Tensor, nn


class OneDetection(nn.Module):
    """A detector that always finds a seven, from pixel (1, 2) to the image's far corner."""

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        height, width = inputs[0].shape[2], inputs[0].shape[3]
        scores = torch.tensor([0.75, 0.0]).reshape(1, 2, 1, 1)
        boxes = torch.tensor([1.0, 2.0, float(width), float(height), 0.0, 0.0, 0.0, 0.0]).reshape(1, 8, 1, 1)
        return [scores, boxes, torch.tensor([7.0, 0.0]).reshape(1, 2, 1, 1)]


class Detector(nn.Module):
    """A detector of one part that takes and gives lists."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, images: Tensor) -> list[Tensor]:
        outputs: list[Tensor] = self.part([images])
        return outputs
