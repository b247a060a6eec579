"""Detections of fixed number, as this package's post-processing engines give them: padded tensors of all images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

#: Floats that a box takes.
_BOX = 4


def are_padded_detections(outputs: Sequence[Any]) -> bool:
    """Whether outputs are those of ``RetinaNetPostProcess`` or ``RetinaNetNMS``, by shapes, dtypes and numbers.

    Args:
        outputs: three tensors: scores ``[N, D, 1, 1]``, boxes ``[N, 4 * D, 1, 1]``, classes ``[N, D, 1, 1]``, all of
            one floating-point dtype; or four, with the numbers of detections ``[N]``, integers.
    """
    if len(outputs) not in (3, 4) or not all(isinstance(output, Tensor) for output in outputs):
        return False
    scores, boxes, classes = outputs[:3]
    if scores.dim() != 4 or scores.shape[2:] != (1, 1) or scores.numel() == 0:
        return False
    images, slots = scores.shape[:2]
    if classes.shape != scores.shape or boxes.shape != (images, _BOX * slots, 1, 1):
        return False
    if not scores.is_floating_point() or not scores.dtype == boxes.dtype == classes.dtype:
        return False
    ranked = scores.detach().flatten(1).float()
    # NaN fails the comparisons.
    if not bool((ranked >= 0).all() & ranked.isfinite().all() & (ranked[:, 1:] <= ranked[:, :-1]).all()):
        return False
    if not bool((classes == classes.round()).all()):
        return False
    return len(outputs) == 3 or _are_counts(outputs[3], (ranked > 0).sum(dim=1))


def _are_counts(counts: Tensor, positive: Tensor) -> bool:
    if counts.is_floating_point() or counts.is_complex() or counts.shape != positive.shape:
        return False
    return torch.equal(counts.to(positive.device, torch.int64), positive)


def split_padded_detections(outputs: Sequence[Any]) -> list[dict[str, Tensor]]:
    """Each image's detections without the padding, whose score is 0.

    Returns:
        For each image ``boxes``, ``Tensor[K, 4]``, ``scores``, ``Tensor[K]``, and ``labels``, ``Tensor[K]``, int64, on
        the CPU.
    """
    scores, boxes, classes = (output.detach().cpu() for output in outputs[:3])
    found = []
    for image_scores, image_boxes, image_classes in zip(scores, boxes, classes, strict=True):
        count = int((image_scores > 0).sum())
        found.append(
            {
                "boxes": image_boxes.reshape(-1, _BOX)[:count],
                "scores": image_scores.flatten()[:count],
                "labels": image_classes.flatten()[:count].to(torch.int64),
            }
        )
    return found
