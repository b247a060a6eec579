"""PyTorch and an engine in one model: the backbone and heads are PyTorch, decode and NMS an engine."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet

import torch_trt_ext
from examples.retinanet.model import (
    DETECTIONS_PER_IMAGE,
    NMS_THRESH,
    SCORE_THRESH,
    STRIDES,
    TOPK_CANDIDATES,
    BackboneAndHeads,
    cell_anchors,
)
from torch_trt_ext.engine_plan import EnginePlan
from torch_trt_ext.optimizer.padded_detections import split_padded_detections

_ENGINE_CLASSES = {
    "tensorrt": torch_trt_ext.TRTEngineExtension,
    "openvino": torch_trt_ext.OpenVINOEngineExtension,
}


class EnginePostProcess(nn.Module):
    """Decode and NMS by an engine."""

    def __init__(self, plan: EnginePlan) -> None:
        super().__init__()
        self.engine = _ENGINE_CLASSES[plan.backend](plan.serialize(), plan.io_spec)

    def forward(self, heads: list[Tensor]) -> list[Tensor]:
        """From every level's scores and every level's deltas to ``[scores, boxes, classes]``."""
        return self.engine.forward(heads)


class MixedDetector(nn.Module):
    """The whole detector: ``Tensor[N, 3, H, W]``, float32 in 0..1, to ``[scores, boxes, classes]``."""

    def __init__(self, backbone_and_heads: BackboneAndHeads, plan: EnginePlan) -> None:
        super().__init__()
        self.backbone_and_heads = backbone_and_heads
        self.postprocess = torch.jit.script(EnginePostProcess(plan))

    def forward(self, images: Tensor) -> list[Tensor]:
        cls_heads, box_heads = self.backbone_and_heads(images)
        return self.postprocess(cls_heads + box_heads)


@torch.no_grad()
def build_postprocess_plan(model: RetinaNet, images: Tensor) -> EnginePlan:
    """Builds the engine for a detector's own thresholds, on the device where ``images`` are.

    Its boxes follow torchvision's arithmetic, which the detector was trained with.
    """
    return torch_trt_ext.build_retinanet_decode(
        BackboneAndHeads(model)(images),
        images.shape,
        cell_anchors(model),
        SCORE_THRESH,
        NMS_THRESH,
        TOPK_CANDIDATES,
        DETECTIONS_PER_IMAGE,
        device_type="gpu" if images.is_cuda else "cpu",
        box_convention="torchvision",
        image_size=(images.shape[-2], images.shape[-1]),
        strides=STRIDES,
    )


def to_detections(outputs: list[Tensor]) -> list[dict[str, Tensor]]:
    """Turns the engine's fixed-size outputs into torchvision's dictionaries, one an image, on the CPU."""
    return split_padded_detections(outputs)
