"""RetinaNet's post-processing in plain torch: one image, one class and one box at a time, in float32.

Tensors are laid out as the plugins lay them out (docs/plugins.md). Works on any device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Detections = tuple[Tensor, Tensor, Tensor]

MAX_LOG_SCALE = math.log(1000.0 / 16)


def select_candidates(scores: Tensor, score_thresh: float, topk_candidates: int) -> Tensor:
    """Flat indices of one image's best candidates: highest score first, equal scores by index.

    Args:
        scores: ``Tensor[A * C, H, W]``, float32 or float16.
        score_thresh: a score must be greater than this, compared in float32.
        topk_candidates: how many are kept at most.

    Returns:
        ``Tensor[k]``, int64, ``k <= topk_candidates``.
    """
    flat = scores.float().reshape(-1)
    selected = (torch.isfinite(flat) & (flat > torch.tensor(score_thresh, dtype=torch.float32))).nonzero().reshape(-1)
    order = torch.sort(flat[selected], descending=True, stable=True).indices
    return selected[order][:topk_candidates]


def decode_boxes(
    deltas: Tensor, anchors: Tensor, *, box_convention: str, grid_size: tuple[int, int], image_size: tuple[int, int]
) -> Tensor:
    """Boxes that ``deltas`` move ``anchors`` to.

    Args:
        deltas: ``Tensor[k, 4]``, dx, dy, dw, dh.
        anchors: ``Tensor[k, 4]``, float32, xyxy pixels, already at their cells.
        box_convention: whose arithmetic.
        grid_size: (H * stride, W * stride), to which "retinanet_examples" clips.
        image_size: (height, width), to which "torchvision" clips.

    Returns:
        ``Tensor[k, 4]``, float32, xyxy pixels.
    """
    dx, dy, dw, dh = deltas.float().unbind(1)
    x1, y1, x2, y2 = anchors.unbind(1)
    if box_convention == "retinanet_examples":
        width = x2 - x1 + 1
        height = y2 - y1 + 1
        center_x = dx * width + x1 + 0.5 * width
        center_y = dy * height + y1 + 0.5 * height
        half_width = 0.5 * (torch.exp(dw) * width)
        half_height = 0.5 * (torch.exp(dh) * height)
        return torch.stack(
            [
                (center_x - half_width).clamp(min=0),
                (center_y - half_height).clamp(min=0),
                (center_x + half_width - 1).clamp(max=grid_size[1] - 1),
                (center_y + half_height - 1).clamp(max=grid_size[0] - 1),
            ],
            dim=1,
        )
    width = x2 - x1
    height = y2 - y1
    center_x = dx * width + (x1 + 0.5 * width)
    center_y = dy * height + (y1 + 0.5 * height)
    half_width = 0.5 * (torch.exp(dw.clamp(max=MAX_LOG_SCALE)) * width)
    half_height = 0.5 * (torch.exp(dh.clamp(max=MAX_LOG_SCALE)) * height)
    boxes = torch.stack(
        [center_x - half_width, center_y - half_height, center_x + half_width, center_y + half_height], dim=1
    )
    if box_convention == "torchvision":
        boxes[:, 0::2] = boxes[:, 0::2].clamp(0, image_size[1])
        boxes[:, 1::2] = boxes[:, 1::2].clamp(0, image_size[0])
    return boxes


def decode(
    scores: Tensor,
    deltas: Tensor,
    anchors: Tensor,
    *,
    stride: int,
    topk_candidates: int,
    score_thresh: float,
    box_convention: str = "retinanet_examples",
    image_size: tuple[int, int] | None = None,
) -> Detections:
    """What ``RetinaNetDecode`` computes.

    Args:
        scores: ``Tensor[N, A * C, H, W]``, probabilities.
        deltas: ``Tensor[N, A * 4, H, W]``.
        anchors: ``Tensor[A, 4]``, float32, xyxy pixels around (0, 0).
        stride: pixels a cell.
        topk_candidates: K.
        score_thresh: a candidate's score must be greater than this.
        box_convention: whose arithmetic of boxes.
        image_size: (height, width) to which "torchvision" clips, the grid's extent by default.

    Returns:
        scores ``[N, K, 1, 1]``, boxes ``[N, 4 * K, 1, 1]`` and classes ``[N, K, 1, 1]``, float32.
    """
    batch, _, grid_height, grid_width = scores.shape
    num_anchors = anchors.shape[0]
    num_classes = scores.shape[1] // num_anchors
    grid_size = (grid_height * stride, grid_width * stride)
    out_scores = scores.new_zeros(batch, topk_candidates, dtype=torch.float32)
    out_boxes = scores.new_zeros(batch, topk_candidates, 4, dtype=torch.float32)
    out_classes = scores.new_zeros(batch, topk_candidates, dtype=torch.float32)
    for image in range(batch):
        indices = select_candidates(scores[image], score_thresh, topk_candidates)
        count = indices.numel()
        column = indices % grid_width
        row = indices // grid_width % grid_height
        channel = indices // (grid_width * grid_height)
        anchor = channel // num_classes
        shift = torch.stack([column, row, column, row], dim=1).float() * stride
        image_deltas = deltas[image].reshape(num_anchors, 4, grid_height, grid_width)
        out_scores[image, :count] = scores[image].reshape(-1)[indices].float()
        out_classes[image, :count] = (channel % num_classes).float()
        out_boxes[image, :count] = decode_boxes(
            image_deltas[anchor, :, row, column],
            shift + anchors[anchor],
            box_convention=box_convention,
            grid_size=grid_size,
            image_size=grid_size if image_size is None else image_size,
        )
    return (
        out_scores.reshape(batch, -1, 1, 1),
        out_boxes.reshape(batch, -1, 1, 1),
        out_classes.reshape(batch, -1, 1, 1),
    )


def box_overlaps(boxes: Tensor, box_convention: str) -> Tensor:
    """Intersection over union of every pair, ``Tensor[k, k]``; 0 where the union is empty."""
    extra = 1.0 if box_convention == "retinanet_examples" else 0.0
    sides = (boxes[:, 2:] - boxes[:, :2] + extra).clamp(min=0)
    areas = sides[:, 0] * sides[:, 1]
    left_top = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    right_bottom = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    overlap = (right_bottom - left_top + extra).clamp(min=0)
    intersections = overlap[..., 0] * overlap[..., 1]
    return (intersections / (areas[:, None] + areas[None, :] - intersections)).nan_to_num(nan=0.0)


def suppress(scores: Tensor, boxes: Tensor, classes: Tensor, *, nms_thresh: float, box_convention: str) -> Tensor:
    """Indices of one image's detections, best score first, equal scores by index.

    Args:
        scores: ``Tensor[M]``, float32.
        boxes: ``Tensor[M, 4]``, float32, xyxy.
        classes: ``Tensor[M]``, float32.
        nms_thresh: a box goes when a kept box of its class has an IoU greater than this.
        box_convention: how areas are counted.

    Returns:
        ``Tensor[k]``, int64.
    """
    valid = (torch.isfinite(scores) & (scores > 0)).nonzero().reshape(-1)
    order = valid[torch.sort(scores[valid], descending=True, stable=True).indices]
    too_close = box_overlaps(boxes, box_convention) > torch.tensor(nms_thresh, dtype=torch.float32)
    kept_of_class: dict[float, list[int]] = {}
    kept = []
    for index in order.tolist():
        same_class = kept_of_class.setdefault(float(classes[index]), [])
        if not same_class or not too_close[same_class, index].any():
            same_class.append(index)
            kept.append(index)
    return torch.tensor(kept, dtype=torch.int64, device=scores.device)


def nms(
    scores: Tensor,
    boxes: Tensor,
    classes: Tensor,
    *,
    nms_thresh: float,
    max_detections_per_image: int,
    box_convention: str = "retinanet_examples",
) -> Detections:
    """What ``RetinaNetNMS`` computes.

    Args:
        scores: ``Tensor[N, M, 1, 1]``, float32 or float16; only finite scores above 0 count.
        boxes: ``Tensor[N, 4 * M, 1, 1]``, xyxy pixels.
        classes: ``Tensor[N, M, 1, 1]``.
        nms_thresh: a box goes when a kept box of its class has an IoU greater than this.
        max_detections_per_image: D.
        box_convention: how areas are counted.

    Returns:
        scores ``[N, D, 1, 1]``, boxes ``[N, 4 * D, 1, 1]`` and classes ``[N, D, 1, 1]``, float32.
    """
    batch = scores.shape[0]
    out_scores = scores.new_zeros(batch, max_detections_per_image, dtype=torch.float32)
    out_boxes = scores.new_zeros(batch, max_detections_per_image, 4, dtype=torch.float32)
    out_classes = scores.new_zeros(batch, max_detections_per_image, dtype=torch.float32)
    for image in range(batch):
        image_scores = scores[image].reshape(-1).float()
        image_boxes = boxes[image].reshape(-1, 4).float()
        image_classes = classes[image].reshape(-1).float()
        kept = suppress(image_scores, image_boxes, image_classes, nms_thresh=nms_thresh, box_convention=box_convention)
        kept = kept[:max_detections_per_image]
        out_scores[image, : kept.numel()] = image_scores[kept]
        out_boxes[image, : kept.numel()] = image_boxes[kept]
        out_classes[image, : kept.numel()] = image_classes[kept]
    return (
        out_scores.reshape(batch, -1, 1, 1),
        out_boxes.reshape(batch, -1, 1, 1),
        out_classes.reshape(batch, -1, 1, 1),
    )


def postprocess(
    cls_heads: Sequence[Tensor],
    box_heads: Sequence[Tensor],
    anchors_list: Sequence[Tensor],
    strides: Sequence[int],
    *,
    score_thresh: float,
    nms_thresh: float,
    topk_candidates: int,
    max_detections_per_image: int,
    box_convention: str = "retinanet_examples",
    image_size: tuple[int, int] | None = None,
) -> Detections:
    """Decodes every level, then suppresses over all of them; see :func:`decode` and :func:`nms`."""
    levels = [
        decode(
            scores,
            deltas,
            anchors,
            stride=stride,
            topk_candidates=topk_candidates,
            score_thresh=score_thresh,
            box_convention=box_convention,
            image_size=image_size,
        )
        for scores, deltas, anchors, stride in zip(cls_heads, box_heads, anchors_list, strides, strict=True)
    ]
    scores, boxes, classes = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
    return nms(
        scores,
        boxes,
        classes,
        nms_thresh=nms_thresh,
        max_detections_per_image=max_detections_per_image,
        box_convention=box_convention,
    )
