"""The reference of the RetinaNet plugins, checked against torchvision and by hand."""

from __future__ import annotations

import math

import pytest
import torch

from tests.reference.retinanet_postprocess import box_overlaps, decode, nms, postprocess

CONVENTIONS = ("retinanet_examples", "torchvision", "detectron2")

#: float32 arithmetic in another order: a few units in the last place of coordinates up to 1000.
COORDINATE_ATOL = 1e-3


def random_heads(
    seed: int, batch: int = 2, anchors: int = 3, classes: int = 4, height: int = 5, width: int = 7
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(batch, anchors * classes, height, width, generator=generator)
    deltas = torch.randn(batch, anchors * 4, height, width, generator=generator)
    corners = torch.rand(anchors, 2, generator=generator) * 40 + 4
    return scores, deltas, torch.cat([-corners, corners], dim=1)


def random_candidates(
    seed: int, batch: int = 2, count: int = 60, classes: int = 3
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(batch, count, 1, 1, generator=generator)
    corners = torch.rand(batch, count, 2, generator=generator) * 50
    sides = torch.rand(batch, count, 2, generator=generator) * 30
    boxes = torch.cat([corners, corners + sides], dim=2).reshape(batch, 4 * count, 1, 1)
    labels = torch.randint(classes, (batch, count, 1, 1), generator=generator).float()
    return scores, boxes, labels


@pytest.mark.parametrize("seed", range(5))
def test_decode_agrees_with_torchvision(seed: int) -> None:
    detection = pytest.importorskip("torchvision.models.detection._utils")
    clip_boxes_to_image = pytest.importorskip("torchvision.ops").clip_boxes_to_image
    scores, deltas, anchors = random_heads(seed)
    image_size = (150, 190)
    topk = 50
    got_scores, got_boxes, got_classes = decode(
        scores,
        deltas,
        anchors,
        stride=32,
        topk_candidates=topk,
        score_thresh=0.3,
        box_convention="torchvision",
        image_size=image_size,
    )
    batch, _, height, width = scores.shape
    num_anchors = anchors.shape[0]
    num_classes = scores.shape[1] // num_anchors
    ys, xs = torch.meshgrid(torch.arange(height) * 32, torch.arange(width) * 32, indexing="ij")
    shifts = torch.stack([xs, ys, xs, ys], dim=-1).float()
    all_anchors = (shifts[:, :, None, :] + anchors).reshape(-1, 4)
    coder = detection.BoxCoder(weights=(1.0, 1.0, 1.0, 1.0), bbox_xform_clip=math.log(1000.0 / 16))
    for image in range(batch):
        # torchvision's layout: rows of H * W * A, columns of classes or deltas.
        rows = scores[image].reshape(num_anchors, num_classes, height, width).permute(2, 3, 0, 1)
        rows = rows.reshape(-1, num_classes)
        regression = deltas[image].reshape(num_anchors, 4, height, width).permute(2, 3, 0, 1).reshape(-1, 4)
        values, flat = rows.flatten().sort(descending=True)
        values, flat = values[values > 0.3][:topk], flat[: int((values > 0.3).sum())][:topk]
        boxes = coder.decode_single(regression[flat // num_classes], all_anchors[flat // num_classes])
        boxes = clip_boxes_to_image(boxes, image_size)
        torch.testing.assert_close(got_scores[image, :, 0, 0], values)
        torch.testing.assert_close(got_classes[image, :, 0, 0], (flat % num_classes).float())
        torch.testing.assert_close(got_boxes[image].reshape(-1, 4), boxes, rtol=1e-5, atol=COORDINATE_ATOL)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("nms_thresh", [0.0, 0.3, 0.5, 1.0])
def test_nms_agrees_with_torchvision(seed: int, nms_thresh: float) -> None:
    ops = pytest.importorskip("torchvision.ops")
    scores, boxes, classes = random_candidates(seed)
    got_scores, got_boxes, got_classes = nms(
        scores, boxes, classes, nms_thresh=nms_thresh, max_detections_per_image=60, box_convention="torchvision"
    )
    for image in range(scores.shape[0]):
        image_scores, image_classes = scores[image].flatten(), classes[image].flatten()
        image_boxes = boxes[image].reshape(-1, 4)
        kept = []
        for label in image_classes.unique():
            of_class = (image_classes == label).nonzero().flatten()
            kept.append(of_class[ops.nms(image_boxes[of_class], image_scores[of_class], nms_thresh)])
        indices = torch.cat(kept)
        indices = indices[image_scores[indices].argsort(descending=True)]
        count = indices.numel()
        torch.testing.assert_close(got_scores[image, :count, 0, 0], image_scores[indices], rtol=0, atol=0)
        torch.testing.assert_close(got_boxes[image].reshape(-1, 4)[:count], image_boxes[indices], rtol=0, atol=0)
        torch.testing.assert_close(got_classes[image, :count, 0, 0], image_classes[indices], rtol=0, atol=0)
        assert not got_scores[image, count:].any()


def test_decode_breaks_ties_by_index() -> None:
    scores, deltas, anchors = random_heads(0, batch=1)
    scores[:] = 0.5
    got_scores, _, got_classes = decode(scores, deltas, anchors, stride=8, topk_candidates=80, score_thresh=0.1)
    assert (got_scores == 0.5).all()
    # 5 * 7 cells a channel: indices 0 to 34 are of class 0, 35 to 69 of class 1, then of class 2.
    assert got_classes.flatten().tolist() == [0.0] * 35 + [1.0] * 35 + [2.0] * 10


def test_nms_breaks_ties_by_index() -> None:
    box = torch.tensor([10.0, 10.0, 20.0, 20.0])
    boxes = torch.stack([box, box + 1, box + 100]).reshape(1, 12, 1, 1)
    scores = torch.full((1, 3, 1, 1), 0.5)
    _, got_boxes, _ = nms(scores, boxes, torch.zeros(1, 3, 1, 1), nms_thresh=0.5, max_detections_per_image=3)
    assert got_boxes.reshape(3, 4).tolist() == [box.tolist(), (box + 100).tolist(), [0.0] * 4]


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_nothing_selected_gives_zeros(convention: str) -> None:
    scores, deltas, anchors = random_heads(1)
    outputs = decode(scores, deltas, anchors, stride=8, topk_candidates=9, score_thresh=1.0, box_convention=convention)
    assert [tuple(output.shape) for output in outputs] == [(2, 9, 1, 1), (2, 36, 1, 1), (2, 9, 1, 1)]
    assert not any(output.any() for output in outputs)
    outputs = nms(*outputs, nms_thresh=0.5, max_detections_per_image=4, box_convention=convention)
    assert [tuple(output.shape) for output in outputs] == [(2, 4, 1, 1), (2, 16, 1, 1), (2, 4, 1, 1)]
    assert not any(output.any() for output in outputs)


def test_fewer_candidates_than_slots_are_padded() -> None:
    scores, deltas, anchors = random_heads(2, batch=1, anchors=1, classes=2, height=1, width=1)
    got_scores, got_boxes, _ = decode(scores, deltas, anchors, stride=8, topk_candidates=5, score_thresh=0.0)
    assert torch.equal(got_scores.flatten()[:2], scores.flatten().sort(descending=True).values)
    assert not got_scores.flatten()[2:].any()
    assert not got_boxes.flatten()[8:].any()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_never_selected(bad: float) -> None:
    scores, deltas, anchors = random_heads(3, batch=1)
    scores[0, 0, 0, 0] = bad
    got_scores, got_boxes, _ = decode(scores, deltas, anchors, stride=8, topk_candidates=1000, score_thresh=0.0)
    assert int((got_scores > 0).sum()) == scores.numel() - 1
    assert torch.isfinite(got_scores).all()
    assert torch.isfinite(got_boxes).all()
    scores, boxes, classes = random_candidates(3, batch=1)
    scores[0, 0] = bad
    assert torch.isfinite(nms(scores, boxes, classes, nms_thresh=1.0, max_detections_per_image=60)[0]).all()


def test_retinanet_examples_by_hand() -> None:
    # One anchor of 9 x 9 pixels (both corners count) at cell (1, 0) of a 1 x 2 grid, moved by a third of its width.
    scores = torch.tensor([0.0, 0.75]).reshape(1, 1, 1, 2)
    deltas = torch.zeros(1, 4, 1, 2)
    deltas[0, 0, 0, 1] = 1.0 / 3.0
    anchors = torch.tensor([[-4.0, -4.0, 4.0, 4.0]])
    _, boxes, _ = decode(scores, deltas, anchors, stride=16, topk_candidates=1, score_thresh=0.05)
    # x1 = 16 - 4 = 12, width 9, center 12 + 3 + 4.5 = 19.5: 15 to 23. y: -4 to 4, clipped below at 0.
    torch.testing.assert_close(boxes.flatten(), torch.tensor([15.0, 0.0, 23.0, 4.0]))


def test_overlap_of_empty_boxes_is_zero() -> None:
    boxes = torch.tensor([[5.0, 5.0, 5.0, 5.0], [5.0, 5.0, 5.0, 5.0]])
    assert not box_overlaps(boxes, "torchvision").any()
    # Inclusive corners: the same boxes cover one pixel each.
    assert (box_overlaps(boxes, "retinanet_examples") == 1).all()


def test_postprocess_orders_levels_before_indices() -> None:
    heads = [random_heads(seed, batch=1, anchors=1, classes=1, height=1, width=1) for seed in (0, 1)]
    cls_heads = [torch.full_like(scores, 0.5) for scores, _, _ in heads]
    box_heads = [torch.zeros_like(deltas) for _, deltas, _ in heads]
    anchors = [torch.tensor([[-4.0, -4.0, 4.0, 4.0]]), torch.tensor([[-90.0, -90.0, 90.0, 90.0]])]
    scores, boxes, _ = postprocess(
        cls_heads,
        box_heads,
        anchors,
        [8, 128],
        score_thresh=0.05,
        nms_thresh=0.5,
        topk_candidates=3,
        max_detections_per_image=2,
        box_convention="detectron2",
    )
    assert scores.flatten().tolist() == [0.5, 0.5]
    assert boxes.reshape(2, 4)[0].tolist() == [-4.0, -4.0, 4.0, 4.0]
