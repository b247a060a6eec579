"""RetinaNet's loss for whole batches at once, with static shapes and no host synchronization.

torchvision's own loss goes image by image and asks the device for counts, which costs more than this small network.
The sums are the same (tests/test_digit_detector.py compares them).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.models.detection._utils import encode_boxes
from torchvision.ops import sigmoid_focal_loss

from examples.retinanet.scenes import Scene

FOREGROUND_IOU = 0.5
BACKGROUND_IOU = 0.4


class PaddedTargets(NamedTuple):
    """Ground truth of a batch, padded to ``G`` boxes an image.

    Attributes:
        boxes: ``Tensor[N, G, 4]``, float32, xyxy pixels.
        labels: ``Tensor[N, G]``, int64.
        valid: ``Tensor[N, G]``, bool, False for padding.
    """

    boxes: Tensor
    labels: Tensor
    valid: Tensor


def pad_targets(scenes: list[Scene], max_boxes: int) -> PaddedTargets:
    """Stacks the scenes' boxes and labels, with unit boxes as padding so that every logarithm stays finite."""
    boxes = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(len(scenes), max_boxes, 1)
    labels = torch.zeros(len(scenes), max_boxes, dtype=torch.int64)
    valid = torch.zeros(len(scenes), max_boxes, dtype=torch.bool)
    for index, scene in enumerate(scenes):
        count = len(scene.labels)
        boxes[index, :count] = scene.boxes
        labels[index, :count] = scene.labels
        valid[index, :count] = True
    return PaddedTargets(boxes, labels, valid)


def _pairwise_iou(boxes: Tensor, anchors: Tensor) -> Tensor:
    """IoU of ``Tensor[N, G, 4]`` with ``Tensor[M, 4]``, ``[N, G, M]``."""
    boxes = boxes[:, :, None, :]
    overlap = torch.minimum(boxes[..., 2:], anchors[:, 2:]) - torch.maximum(boxes[..., :2], anchors[:, :2])
    shared = overlap.clamp(min=0).prod(dim=-1)
    areas = (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1)
    anchor_areas = (anchors[:, 2:] - anchors[:, :2]).prod(dim=-1)
    return shared / (areas + anchor_areas - shared)


def match_anchors(anchors: Tensor, targets: PaddedTargets) -> tuple[Tensor, Tensor, Tensor]:
    """Assigns boxes to anchors as torchvision's ``Matcher`` does, low-quality matches included.

    Args:
        anchors: ``Tensor[M, 4]``, float32, xyxy pixels.
        targets: the batch's boxes.

    Returns:
        ``(matches, foreground, background)``, each ``Tensor[N, M]``: the box of an anchor (int64, meaningful where it
        is foreground), and two masks; an anchor in neither is ignored.
    """
    iou = _pairwise_iou(targets.boxes, anchors).masked_fill(~targets.valid[:, :, None], -1.0)
    best_iou, matches = iou.max(dim=1)
    best_of_box = iou.max(dim=2, keepdim=True).values
    low_quality = ((iou == best_of_box) & targets.valid[:, :, None]).any(dim=1)
    foreground = (best_iou >= FOREGROUND_IOU) | low_quality
    background = (best_iou < BACKGROUND_IOU) & ~low_quality
    return matches, foreground, background


def retinanet_loss(
    cls_logits: Tensor, box_deltas: Tensor, anchors: Tensor, targets: PaddedTargets
) -> tuple[Tensor, Tensor]:
    """Focal loss of the classes and L1 loss of the boxes, each over an image's foreground, averaged over images.

    Args:
        cls_logits: ``Tensor[N, M, C]``, float32.
        box_deltas: ``Tensor[N, M, 4]``, float32.
        anchors: ``Tensor[M, 4]``, float32, xyxy pixels; the same for every image.
        targets: the batch's boxes, on the same device.

    Returns:
        Two scalars, the classification and the box loss.
    """
    matches, foreground, background = match_anchors(anchors, targets)
    per_image = foreground.sum(dim=1).clamp(min=1)

    labels = targets.labels.gather(1, matches)
    classes = torch.arange(cls_logits.shape[2], device=cls_logits.device)
    is_class = (labels[:, :, None] == classes) & foreground[:, :, None]
    focal = sigmoid_focal_loss(cls_logits, is_class.to(cls_logits.dtype), reduction="none").sum(dim=2)
    counted = foreground | background
    cls_loss = (torch.where(counted, focal, 0.0).sum(dim=1) / per_image).mean()

    matched = targets.boxes.gather(1, matches[:, :, None].expand(-1, -1, 4))
    wanted = encode_boxes(
        matched.reshape(-1, 4), anchors.repeat(len(matched), 1), torch.ones(4, device=anchors.device)
    ).view_as(matched)
    distance = (box_deltas - wanted).abs().sum(dim=2)
    box_loss = (torch.where(foreground, distance, 0.0).sum(dim=1) / per_image).mean()
    return cls_loss, box_loss
