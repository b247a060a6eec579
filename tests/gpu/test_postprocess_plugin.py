"""RetinaNetPostProcess on a GPU, against tests/reference: every level decoded, then suppression over all."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import Tensor

from tests.gpu.plugin_networks import (
    BOX_ATOL,
    BOX_RTOL,
    SCORE_KINDS,
    PostProcessCase,
    changed,
    make_plugin,
    make_scores,
    postprocess_engine,
    postprocess_plan,
)
from tests.reference.retinanet_postprocess import decode, nms
from torch_trt_ext.builders.tensorrt_build import PluginField, float_field, int_field, string_field

CASES = (
    PostProcessCase(),
    PostProcessCase(box_convention="torchvision", image_size=(100, 150), score_thresh=0.5),
    PostProcessCase(box_convention="detectron2", dtype="float16", strides=(4, 8, 16, 32, 64, 128, 256, 512)),
    PostProcessCase(strides=(16,), topk_candidates=1, nms_thresh=0.0, score_thresh=0.0),
    PostProcessCase(score_activation="sigmoid", dtype="float16", num_classes=1),
    PostProcessCase(score_activation="sigmoid", score_thresh=0.0, nms_thresh=1.0),
    # Far more candidates of the largest grid than a level keeps.
    PostProcessCase(num_anchors=9, num_classes=11, topk_candidates=300, max_detections_per_image=400),
    PostProcessCase(num_anchors=9, topk_candidates=3000, max_detections_per_image=1500, nms_thresh=0.9),
    # More than a block sorts.
    PostProcessCase(num_anchors=9, num_classes=7, topk_candidates=5000, strides=(8, 16)),
    PostProcessCase(box_convention="torchvision", image_sizes="float32", score_thresh=0.3),
    PostProcessCase(box_convention="torchvision", image_sizes="int32", dtype="float16", strides=(8, 16)),
)

Sizes = list[tuple[int, int]]


def make_heads(case: PostProcessCase, batch: int, sizes: Sizes, kind: str = "random") -> list[Tensor]:
    dtype = getattr(torch, case.dtype)
    scores = [make_scores((batch, case.num_anchors * case.num_classes, *size), kind) for size in sizes]
    if case.score_activation == "sigmoid":
        scores = [(level - 0.5) * 12 for level in scores]
    deltas = [torch.randn(batch, 4 * case.num_anchors, *size) * 0.5 for size in sizes]
    inputs = [tensor.to(dtype).cuda() for tensor in scores + deltas]
    if case.image_sizes:
        # From smaller than any box to larger than every grid.
        image_sizes = torch.rand(batch, 2) * 400 + 1
        inputs.append(image_sizes.to(getattr(torch, case.image_sizes)).cuda())
    return inputs


def probabilities(case: PostProcessCase, scores: Tensor) -> Tensor:
    """What docs/plugins.md says of score_activation; NaN where it is not finite."""
    if case.score_activation == "none":
        return scores
    logits = scores.float()
    return torch.where(torch.isfinite(logits), 1 / (1 + torch.exp(-logits)), torch.full_like(logits, math.nan))


def reference(case: PostProcessCase, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    if not case.image_sizes:
        return reference_of_one_size(case, inputs, case.image_size)
    *heads, image_sizes = inputs
    images = [
        reference_of_one_size(case, [head[image : image + 1] for head in heads], (height, width))
        for image, (height, width) in enumerate(image_sizes.tolist())
    ]
    return tuple(torch.cat(parts) for parts in zip(*images, strict=True))


def reference_of_one_size(
    case: PostProcessCase, inputs: list[Tensor], image_size: tuple[int, int] | None
) -> tuple[Tensor, ...]:
    count = len(case.strides)
    # Decoded on the GPU: its exp is the plugin's, so that no IoU falls on the other side of the threshold.
    levels = [
        decode(
            probabilities(case, scores),
            deltas,
            case.anchors(level).cuda(),
            stride=case.strides[level],
            topk_candidates=case.topk_candidates,
            score_thresh=case.score_thresh,
            box_convention=case.box_convention,
            image_size=image_size,
        )
        for level, (scores, deltas) in enumerate(zip(inputs[:count], inputs[count:], strict=True))
    ]
    scores, boxes, classes = (torch.cat(parts, dim=1).cpu() for parts in zip(*levels, strict=True))
    # The reference compares all pairs: spare it the padding.
    most = max(1, int((scores > 0).flatten(1).sum(1).max()))
    order = (scores.flatten(1) > 0).int().sort(dim=1, descending=True, stable=True).indices[:, :most]
    scores = scores.flatten(1).gather(1, order)
    classes = classes.flatten(1).gather(1, order)
    boxes = boxes.reshape(*boxes.shape[:1], -1, 4).gather(1, order[:, :, None].expand(-1, -1, 4))
    return nms(
        scores[:, :, None, None],
        boxes.reshape(boxes.shape[0], -1, 1, 1),
        classes[:, :, None, None],
        nms_thresh=case.nms_thresh,
        max_detections_per_image=case.max_detections_per_image,
        box_convention=case.box_convention,
    )


def poison_memory(case: PostProcessCase, batch: int) -> None:
    """Leaves NaN in the blocks that PyTorch will hand out for the outputs: what is not written shows."""
    sizes = [numbers * case.max_detections_per_image * batch for numbers in (1, 4, 1)] + [batch]
    blocks = [torch.full((size,), math.nan, device="cuda") for size in sizes]
    del blocks


def check(case: PostProcessCase, inputs: list[Tensor]) -> None:
    poison_memory(case, inputs[0].shape[0])
    scores, boxes, classes, counts = (output.cpu() for output in postprocess_engine(case).forward(inputs))
    want_scores, want_boxes, want_classes = reference(case, inputs)
    torch.testing.assert_close(scores, want_scores, rtol=0, atol=0)
    torch.testing.assert_close(classes, want_classes, rtol=0, atol=0)
    torch.testing.assert_close(boxes, want_boxes, rtol=BOX_RTOL, atol=BOX_ATOL)
    assert counts.dtype == torch.int32
    assert counts.tolist() == (want_scores.flatten(1) > 0).sum(1).tolist()


@pytest.mark.parametrize("case", CASES)
def test_postprocess_matches_reference_on_random_cases(case: PostProcessCase) -> None:
    torch.manual_seed(0)
    choose = random.Random(0)
    # The reference compares all pairs of candidates: fewer cases where these are thousands.
    for _ in range(90 if case.topk_candidates <= 1000 else 25):
        sizes = [(choose.choice([1, 2, 5, 9]), choose.choice([1, 3, 7, 11])) for _ in case.strides]
        check(case, make_heads(case, choose.choice([1, 2, 3]), sizes, choose.choice(SCORE_KINDS)))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", SCORE_KINDS)
def test_postprocess_of_the_largest_grid(case: PostProcessCase, kind: str) -> None:
    torch.manual_seed(1)
    sizes = [(40, 39), *[(13, 7)] * (len(case.strides) - 1)]
    if case.topk_candidates > 1000:
        # Thousands of boxes are too many for the reference to compare: some of the scores are enough.
        inputs = make_heads(case, 1, sizes, kind)
        for level in range(len(case.strides)):
            scores = inputs[level]
            inputs[level] = torch.where(torch.rand_like(scores) < 0.02, scores, torch.zeros_like(scores))
    else:
        inputs = make_heads(case, 2, sizes, kind)
    check(case, inputs)


@pytest.mark.parametrize("batch", [1, 20, 64])
def test_postprocess_of_every_batch_size(batch: int) -> None:
    torch.manual_seed(2)
    check(CASES[0], make_heads(CASES[0], batch, [(9, 11), (5, 6), (3, 3)]))


def test_postprocess_of_many_images_of_which_few_overflow() -> None:
    torch.manual_seed(3)
    case = CASES[6]
    inputs = make_heads(case, 20, [(40, 40), (5, 6), (3, 3)], "none")
    for image in (3, 17):
        inputs[0][image] = torch.rand_like(inputs[0][image])
    check(case, inputs)


def test_runs_are_bit_equal_and_capture_in_a_cuda_graph() -> None:
    torch.manual_seed(4)
    case = CASES[6]
    engine = postprocess_engine(case)
    sizes = [(40, 40), (20, 20), (10, 10)]
    inputs = make_heads(case, 3, sizes, "ties")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        engine.forward(inputs)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        captured = engine.forward(inputs)
    for kind in ("ties", "random", "equal"):
        for tensor, fresh in zip(inputs, make_heads(case, 3, sizes, kind), strict=True):
            tensor.copy_(fresh)
        want = engine.forward(inputs)
        for _ in range(10):
            graph.replay()
            torch.cuda.synchronize()
            assert all(torch.equal(got, expected) for got, expected in zip(captured, want, strict=True))
            assert all(torch.equal(got, expected) for got, expected in zip(engine.forward(inputs), want, strict=True))


@pytest.mark.parametrize(
    ("name", "field", "message"),
    [
        ("topk_candidates", int_field("topk_candidates", 0), "'topk_candidates' must be at least 1, got 0"),
        (
            "topk_candidates",
            int_field("topk_candidates", 2**30),
            "'topk_candidates' must be at most .* over all levels",
        ),
        ("strides", None, "'strides' must be given"),
        ("strides", int_field("strides", *range(1, 10)), "'strides' must have one value a level, from 1 to 8, got 9"),
        ("strides", int_field("strides", 8, 0, 32), "'strides' must be at least 1, got 0"),
        ("strides", float_field("strides", 8, 16, 32), "'strides' must be int32, got float32"),
        ("num_anchors", int_field("num_anchors", 12), "'num_anchors' must be as long as 'strides', 3, got 1"),
        ("num_anchors", int_field("num_anchors", 12, 3, 12), "'num_anchors' .* must be a multiple of 4.* got 3"),
        ("anchors", float_field("anchors", 1, 2, 3, 4), "'anchors' must be as long as 'num_anchors' says, 36, got 4"),
        ("score_thresh", float_field("score_thresh", 1.5), r"'score_thresh' must be in \[0, 1\], got 1.5"),
        ("nms_thresh", float_field("nms_thresh", -0.5), r"'nms_thresh' must be in \[0, 1\], got -0.5"),
        (
            "max_detections_per_image",
            int_field("max_detections_per_image", 0),
            "'max_detections_per_image' must be at least 1, got 0",
        ),
        ("box_convention", string_field("box_convention", "yolo"), "'box_convention' must be .* got 'yolo'"),
        ("score_activation", string_field("score_activation", "softmax"), "'none' or 'sigmoid', got 'softmax'"),
        ("image_width", int_field("image_width", -1), "'image_width' must be at least 0, got -1"),
        ("has_image_sizes", int_field("has_image_sizes", 2), "'has_image_sizes' must be 0 or 1, got 2"),
        (
            "has_image_sizes",
            int_field("has_image_sizes", 1),
            "'has_image_sizes' must be 0 unless 'box_convention' is 'torchvision'.* got 1 with 'retinanet_examples'",
        ),
    ],
)
def test_postprocess_of_bad_field_fails(name: str, field: PluginField | None, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        make_plugin("RetinaNetPostProcess", changed(PostProcessCase().fields(), name, field))


def test_image_sizes_twice_fail() -> None:
    case = PostProcessCase(box_convention="torchvision", image_size=(100, 150), image_sizes="int32")
    with pytest.raises(RuntimeError, match="'image_height' and 'image_width' must be 0 where 'has_image_sizes' is 1"):
        make_plugin("RetinaNetPostProcess", case.fields())


def test_build_with_shapes_that_do_not_fit_fails() -> None:
    with pytest.raises(RuntimeError, match=r"refused|could not build"):
        postprocess_plan(PostProcessCase(), delta_channels=8)
    with pytest.raises(RuntimeError, match=r"refused|could not build"):
        postprocess_plan(PostProcessCase(box_convention="torchvision", image_sizes="float32"), numbers_per_image=3)
