"""The plugins' kernels on the CPU (tests/emulation), against tests/reference and torch: no GPU, every order of threads.

What differs from a GPU: exp and rsqrt are the C library's, a unit or two in the last place away, and there is no time.
Kernels are run in several orders of their threads and blocks, and each access is checked for being in bounds and for
races; so a test here fails for what a GPU may get right by luck.
"""

from __future__ import annotations

import ctypes
import functools
import math
import platform
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.emulation.build import HERE, PLUGINS, build, cuda_include
from tests.emulation.device import Candidates, EmulatedDevice, Level, Suppression
from tests.fresh_process import ROOT
from tests.reference import retinanet_postprocess as reference

BUILD_FOLDER = ROOT / "build" / "emulation"

#: Forwards, backwards, at random, and as unfairly as can be; see EmulatedDevice.
SEEDS = (0, 1, 2, 3)

#: Relative error of normalized numbers of about 1: what sums in another order leave of float32, and float16's rounding.
GROUP_NORM_TOLERANCES = {torch.float32: 4e-5, torch.float16: 2e-3}

#: Torch's exp is a unit in the last place off; the absolute part, in pixels, is that of the sums that follow.
BOX_RTOL, BOX_ATOL = 1e-6, 1e-4

#: Elements that an input and an output are past a multiple of 256 bytes.
MISALIGNMENTS = ((0, 0), (1, 1), (3, 7), (5, 0))

DTYPES = (torch.float32, torch.float16)


def _missing() -> str | None:
    if platform.machine() != "x86_64" or shutil.which("g++") is None:
        return "the emulation needs g++ on x86-64"
    try:
        cuda_include()
    except FileNotFoundError as error:
        return str(error)
    return None


pytestmark = [
    pytest.mark.skipif(_missing() is not None, reason=str(_missing())),
    pytest.mark.usefixtures("one_thread"),
]


@functools.cache
def _library() -> Path:
    return build(BUILD_FOLDER)


@functools.cache
def _loaded(multiprocessors: int, capability: int) -> EmulatedDevice:
    return EmulatedDevice(_library(), multiprocessors, capability)


def device(seed: int = 0, *, multiprocessors: int = 2, capability: int = 90) -> EmulatedDevice:
    found = _loaded(multiprocessors, capability)
    found.seed = seed
    return found


# Leaky ReLU.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 3, 8, 1000, 4095, 4096, 4097, 8192, 20011])
def test_leaky_relu_matches_torch(dtype: torch.dtype, count: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(count).to(dtype)
    for seed, misalignments in zip(SEEDS, MISALIGNMENTS, strict=True):
        for neg_slope in (0.1, -1.5):
            y = device(seed).leaky_relu(x, neg_slope, misalignments=misalignments)
            assert torch.equal(y, functional.leaky_relu(x, neg_slope))


@pytest.mark.parametrize("dtype", DTYPES)
def test_leaky_relu_of_what_is_not_finite(dtype: torch.dtype) -> None:
    x = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-7, -1e-7] * 3).to(dtype)
    y = device().leaky_relu(x, 0.25)
    torch.testing.assert_close(y, functional.leaky_relu(x, 0.25), rtol=0, atol=0, equal_nan=True)


def test_leaky_relu_in_place() -> None:
    x = torch.randn(5000)
    assert torch.equal(device(3).leaky_relu(x, 0.1, misalignments=(2, 2), in_place=True), functional.leaky_relu(x, 0.1))


# Group normalization.


def variants() -> list[int]:
    """Those of the header, as it is now."""
    text = (PLUGINS / "layers" / "group_norm_kernels.h").read_text()
    body = re.search(r"enum class GroupNormVariant[^{]*\{(.*?)\n\};", text, re.DOTALL)
    assert body is not None
    return [int(value) for value in re.findall(r"^\s*k\w+ = (\d+),", body[1], re.MULTILINE)]


def group_norm_reference(x: Tensor, scale: Tensor, bias: Tensor, num_groups: int, eps: float) -> Tensor:
    groups = x.double().reshape(x.shape[0], num_groups, -1)
    centered = groups - groups.mean(dim=2, keepdim=True)
    normalized = centered / (centered.square().mean(dim=2, keepdim=True) + eps).sqrt()
    return normalized.reshape(x.shape) * scale.double()[:, None] + bias.double()[:, None]


#: Batch, channels, spatial, groups.
GROUP_NORM_SHAPES = (
    # One element a group, less than a pack, less than a warp.
    (2, 8, 1, 8),
    (3, 6, 1, 2),
    (2, 9, 7, 3),
    # Channels that straddle packs, groups that start anywhere, more channels than a block keeps close by.
    (3, 12, 37, 4),
    (1, 300, 13, 1),
    (2, 600, 3, 2),
    # About what a warp, a part and a block hold.
    (1, 4, 1024, 2),
    (2, 3, 4099, 3),
    (1, 2, 16383, 1),
    # More than a block holds, with and without a last pack.
    (1, 2, 40000, 1),
    (2, 1, 66001, 1),
)


@pytest.mark.parametrize("variant", variants())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", GROUP_NORM_SHAPES)
def test_group_norm_matches_reference(shape: tuple[int, int, int, int], dtype: torch.dtype, variant: int) -> None:
    torch.manual_seed(1)
    *extents, num_groups = shape
    x = torch.randn(extents).to(dtype)
    affine_dtype = DTYPES[variant % 2]
    scale, bias = (torch.randn(extents[1]).to(affine_dtype) for _ in range(2))
    want = group_norm_reference(x, scale, bias, num_groups, 1e-5)
    tolerance = GROUP_NORM_TOLERANCES[dtype]
    for misalignments in MISALIGNMENTS:
        results = [
            device(seed).group_norm(x, scale, bias, num_groups, variant=variant, misalignments=misalignments)
            for seed in (SEEDS if x.numel() < 40000 else SEEDS[2:])
        ]
        torch.testing.assert_close(results[0].double(), want, rtol=tolerance, atol=tolerance * 4)
        assert all(torch.equal(result, results[0]) for result in results), "the order of threads shows"


@pytest.mark.parametrize("variant", variants())
def test_group_norm_of_groups_larger_than_clusters(variant: int) -> None:
    torch.manual_seed(2)
    x, scale, bias = torch.randn(1, 1, 270001), torch.randn(1), torch.randn(1)
    y = device(2).group_norm(x, scale, bias, 1, variant=variant)
    torch.testing.assert_close(y.double(), group_norm_reference(x, scale, bias, 1, 1e-5), rtol=4e-5, atol=16e-5)


@pytest.mark.parametrize("variant", variants())
@pytest.mark.parametrize("spatial", [64, 4096, 33001])
def test_group_norm_keeps_its_promises(spatial: int, variant: int) -> None:
    torch.manual_seed(3)
    scale, bias = torch.randn(4), torch.randn(4)

    def run(x: Tensor) -> Tensor:
        return device(1).group_norm(x, scale, bias, 2, variant=variant)

    # The mean itself is a float32 of about 1000, half a unit of whose last place is 3e-5.
    x = torch.randn(1, 4, spatial) + 1000
    torch.testing.assert_close(run(x).double(), group_norm_reference(x, scale, bias, 2, 1e-5), rtol=2e-4, atol=5e-4)
    equal = torch.full((1, 4, spatial), 0.5)
    assert torch.equal(run(equal), bias[:, None].expand_as(equal))
    x = torch.randn(1, 4, spatial)
    x[0, 2, 3] = math.nan
    y = run(x)
    assert y[0, 2:].isnan().all()
    assert not y[0, :2].isnan().any()


@pytest.mark.parametrize("variant", variants())
def test_group_norm_on_other_devices(variant: int) -> None:
    torch.manual_seed(4)
    scale, bias = torch.randn(4), torch.randn(4)
    for extent in (64, 9000):
        x = torch.randn(3, 4, extent)
        want = group_norm_reference(x, scale, bias, 2, 1e-5)
        for multiprocessors, capability in ((132, 90), (40, 75)):
            there = device(2, multiprocessors=multiprocessors, capability=capability)
            y = there.group_norm(x, scale, bias, 2, variant=variant)
            torch.testing.assert_close(y.double(), want, rtol=4e-5, atol=16e-5)


# RetinaNet.

SCORE_KINDS = ("random", "ties", "equal", "none", "not finite", "tiny", "large", "crowded")


def make_scores(shape: Sequence[int], kind: str) -> Tensor:
    scores = torch.rand(*shape)
    if kind == "ties":
        return (scores * 4).round() / 4
    if kind == "equal":
        return torch.full(tuple(shape), 0.75)
    if kind == "none":
        return torch.zeros(*shape)
    if kind == "tiny":
        return scores * 1e-40
    if kind == "large":
        return scores * 300
    if kind == "crowded":  # as networks' are: most just over the threshold
        return 0.0501 + 0.94 * scores**40
    if kind == "not finite":
        choice = torch.rand(*shape)
        for number, value in enumerate((math.nan, math.inf, -math.inf)):
            scores[(choice > number * 0.1) & (choice < number * 0.1 + 0.1)] = value
    return scores


def make_level(
    batch: int,
    size: tuple[int, int],
    *,
    num_anchors: int = 3,
    num_classes: int = 4,
    kind: str = "random",
    dtype: torch.dtype = torch.float32,
    stride: int = 8,
    is_sigmoid: bool = False,
) -> Level:
    scores = make_scores((batch, num_anchors * num_classes, *size), kind)
    if is_sigmoid:
        scores = (scores - 0.5) * 12
    deltas = torch.randn(batch, 4 * num_anchors, *size) * 0.5
    corners = torch.rand(num_anchors, 4) * 30 + 2
    anchors = torch.cat([-corners[:, :2], corners[:, 2:]], dim=1)
    return Level(scores.to(dtype), deltas.to(dtype), anchors, stride)


def reference_decode(levels: Sequence[Level], options: Candidates) -> list[Tensor]:
    parts = []
    for level in levels:
        scores = level.scores
        if options.is_sigmoid:
            logits = scores.float()
            scores = torch.where(logits.isfinite(), device().sigmoid(logits), math.nan)
        for image in range(scores.shape[0]):
            sizes = options.image_sizes
            parts.append(
                reference.decode(
                    scores[image : image + 1],
                    level.deltas[image : image + 1],
                    level.anchors,
                    stride=level.stride,
                    topk_candidates=options.topk_candidates,
                    score_thresh=options.score_thresh,
                    box_convention=options.box_convention,
                    image_size=options.image_size if sizes is None else tuple(sizes[image].tolist()),
                )
            )
    batch = levels[0].scores.shape[0]
    outputs = (torch.cat(part, dim=1).reshape(len(levels), batch, -1) for part in zip(*parts, strict=True))
    scores, boxes, classes = (output.transpose(0, 1).reshape(batch, -1) for output in outputs)
    return [scores, boxes.reshape(batch, -1, 4), classes]


def reference_nms(candidates: Sequence[Tensor], options: Suppression) -> list[Tensor]:
    scores, boxes, classes = (tensor.float() for tensor in candidates)
    # The reference compares all pairs: spare it what cannot be a detection.
    counts = (scores.isfinite() & (scores > 0)).int()
    most = max(1, int(counts.sum(1).max()))
    kept = counts.sort(dim=1, descending=True, stable=True).indices[:, :most]
    boxes = boxes.gather(1, kept[:, :, None].expand(-1, -1, 4))
    detections = reference.nms(
        scores.gather(1, kept)[:, :, None, None],
        boxes.reshape(boxes.shape[0], -1, 1, 1),
        classes.gather(1, kept)[:, :, None, None],
        nms_thresh=options.nms_thresh,
        max_detections_per_image=options.max_detections_per_image,
        box_convention=options.box_convention,
    )
    found, corners, labels = (tensor.flatten(1) for tensor in detections)
    return [found, corners.reshape(*found.shape, 4), labels, (found > 0).sum(1).int()]


def assert_equal(got: Sequence[Tensor], want: Sequence[Tensor]) -> None:
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def check(
    levels: Sequence[Level],
    candidates: Candidates,
    suppression: Suppression,
    *,
    seeds: Sequence[int] = SEEDS,
    misalignment: int = 0,
    multiprocessors: int = 2,
) -> None:
    """Decodes, suppresses, and does both at once; every seed must give the same."""
    suppression = replace(suppression, box_convention=candidates.box_convention)
    there = device(seeds[0], multiprocessors=multiprocessors)
    decoded = there.decode(levels, candidates, misalignment=misalignment)
    scores, boxes, classes = reference_decode(levels, candidates)
    assert_equal([decoded[0], decoded[2]], [scores, classes])
    torch.testing.assert_close(decoded[1], boxes, rtol=BOX_RTOL, atol=BOX_ATOL)
    # From the boxes that the kernels decoded, so that no overlap falls on the other side of the threshold.
    detections = reference_nms(decoded, suppression)
    for seed in seeds:
        there.seed = seed
        assert_equal(there.postprocess(levels, candidates, suppression, misalignment=misalignment), detections)
        assert_equal(there.nms(decoded, suppression), detections)
        if seed != seeds[0]:
            assert_equal(there.decode(levels, candidates, misalignment=misalignment), decoded)


@pytest.mark.parametrize("kind", SCORE_KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_postprocess_of_scores_of_every_kind(kind: str, dtype: torch.dtype) -> None:
    torch.manual_seed(5)
    levels = [make_level(2, size, kind=kind, dtype=dtype) for size in ((9, 13), (1, 1), (5, 3))]
    thresh = 0.0 if kind == "tiny" else 0.05
    check(levels, Candidates(score_thresh=thresh), Suppression(), misalignment=3)


@pytest.mark.parametrize("kind", ["random", "ties", "not finite"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("score_thresh", [0.0, 0.5, 1.0])
def test_postprocess_of_logits(kind: str, dtype: torch.dtype, score_thresh: float) -> None:
    torch.manual_seed(6)
    levels = [make_level(2, size, kind=kind, dtype=dtype, is_sigmoid=True) for size in ((8, 11), (3, 4))]
    candidates = Candidates(score_thresh=score_thresh, is_sigmoid=True, topk_candidates=40)
    check(levels, candidates, Suppression(nms_thresh=0.3), seeds=SEEDS[1:3])


@pytest.mark.parametrize("box_convention", ["retinanet_examples", "torchvision", "detectron2"])
@pytest.mark.parametrize("misalignment", [0, 1, 5])
def test_postprocess_of_every_convention(box_convention: str, misalignment: int) -> None:
    torch.manual_seed(7)
    levels = [make_level(3, (6, 7), num_classes=1), make_level(3, (3, 4), num_classes=1, stride=16)]
    candidates = Candidates(box_convention=box_convention, image_size=(40, 50))
    for nms_thresh in (0.0, 0.5, 1.0):
        check(levels, candidates, Suppression(nms_thresh=nms_thresh), seeds=SEEDS[2:], misalignment=misalignment)


@pytest.mark.parametrize("sizes_dtype", [torch.float32, torch.int32])
def test_postprocess_of_images_of_their_own_sizes(sizes_dtype: torch.dtype) -> None:
    torch.manual_seed(8)
    levels = [make_level(3, (6, 7)), make_level(3, (3, 4), stride=16)]
    sizes = (torch.rand(3, 2) * 70 + 1).to(sizes_dtype)
    check(levels, Candidates(box_convention="torchvision", image_sizes=sizes), Suppression(), seeds=SEEDS[2:])


def test_postprocess_of_eight_levels() -> None:
    torch.manual_seed(9)
    levels = [make_level(2, (9 - number, 2 + number), stride=2**number) for number in range(8)]
    check(levels, Candidates(topk_candidates=17), Suppression(max_detections_per_image=200))


@pytest.mark.parametrize("kind", ["random", "equal", "ties", "large", "not finite"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_postprocess_of_more_candidates_than_have_room(kind: str, dtype: torch.dtype) -> None:
    torch.manual_seed(10)
    # 72,000 scores, and room for 65,536 keys.
    big = make_level(2, (80, 36), num_anchors=5, num_classes=5, kind=kind, dtype=dtype)
    small = make_level(2, (5, 7), num_anchors=5, num_classes=5, kind=kind, dtype=dtype, stride=16)
    candidates = Candidates(topk_candidates=300, score_thresh=0.0)
    suppression = Suppression(max_detections_per_image=100)
    check([big, small], candidates, suppression, seeds=SEEDS[::2], misalignment=3)
    check([small, big], candidates, suppression, seeds=SEEDS[1::2], multiprocessors=5)


def test_postprocess_of_more_logits_than_have_room() -> None:
    torch.manual_seed(11)
    level = make_level(1, (80, 36), num_anchors=5, num_classes=5, is_sigmoid=True)
    check(
        [level], Candidates(is_sigmoid=True, topk_candidates=1000, score_thresh=0.001), Suppression(), seeds=SEEDS[2:]
    )


@pytest.mark.parametrize(("topk", "count"), [(1, 5000), (4096, 4500), (4097, 4500), (5000, 300)])
def test_postprocess_of_every_number_of_candidates(topk: int, count: int) -> None:
    torch.manual_seed(12)
    level = make_level(1, (count // 12, 1))
    seeds = SEEDS[2:3] if topk == 4097 else SEEDS[1:3]
    check([level], Candidates(topk_candidates=topk), Suppression(max_detections_per_image=30), seeds=seeds)


@pytest.mark.parametrize("count", [120, 900, 3900])
@pytest.mark.parametrize("topk", [100, 1000, 4000])
def test_postprocess_of_crowded_scores(topk: int, count: int) -> None:
    torch.manual_seed(14)
    level = make_level(1, (count // 12, 1), kind="crowded")
    check([level], Candidates(topk_candidates=topk), Suppression(max_detections_per_image=50), seeds=SEEDS[1:3])


def test_candidates_that_overflow_above_what_a_block_sorts() -> None:
    torch.manual_seed(13)
    # Room for 2 * 4,097 keys of 8,448.
    level = make_level(1, (32, 22), kind="random")
    check([level], Candidates(topk_candidates=4097, score_thresh=0.0), Suppression(), seeds=SEEDS[3:])


def make_candidates(batch: int, count: int, kind: str, dtype: torch.dtype, extent: float = 100.0) -> list[Tensor]:
    corners = torch.rand(batch, count, 2) * extent
    boxes = torch.cat([corners, corners + torch.rand(batch, count, 2) * 40 - 2], dim=2)
    classes = torch.randint(3, (batch, count))
    return [make_scores((batch, count), kind).to(dtype), boxes.to(dtype), classes.to(dtype)]


@pytest.mark.parametrize("count", [1, 31, 33, 256, 257, 1023, 1025, 2500])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nms_of_every_count(count: int, dtype: torch.dtype) -> None:
    for seed, kind in enumerate(SCORE_KINDS):
        torch.manual_seed(seed)
        candidates = make_candidates(
            2 if count < 1000 else 1, count, kind, dtype, extent=(5.0, 100.0, 1000.0)[seed % 3]
        )
        options = Suppression(
            nms_thresh=(0.0, 0.3, 0.5, 1.0)[seed % 4],
            max_detections_per_image=(1, 20, 1500)[seed % 3],
            box_convention=("retinanet_examples", "torchvision", "detectron2")[seed % 3],
        )
        assert_equal(device(seed).nms(candidates, options), reference_nms(candidates, options))


def test_nms_of_boxes_that_suppress_each_other_in_a_row() -> None:
    # Every box suppresses its neighbour alone: settling a chunk takes as many rounds as there can be.
    left = torch.arange(600).float() * 6
    boxes = torch.stack([left, torch.zeros_like(left), left + 19, torch.full_like(left, 19)], dim=1)[None]
    options = Suppression(max_detections_per_image=700, box_convention="torchvision")
    for seed, scores in enumerate((torch.linspace(1, 0.1, 600), torch.linspace(0.1, 1, 600), torch.full((600,), 0.5))):
        candidates = [scores[None], boxes, torch.zeros(1, 600)]
        assert_equal(device(seed).nms(candidates, options), reference_nms(candidates, options))


def test_nms_of_overlaps_that_are_the_threshold() -> None:
    # Halves and a quarter of one box, whose overlaps with it are exact.
    boxes = torch.tensor([[0, 0, 12, 12], [0, 0, 12, 6], [0, 6, 12, 12], [0, 0, 3, 12]]).float()[None]
    candidates = [torch.tensor([[0.9, 0.8, 0.7, 0.6]]), boxes, torch.zeros(1, 4)]
    for nms_thresh, count in ((0.5, 4), (0.25, 2), (0.2499, 1)):
        options = Suppression(nms_thresh=nms_thresh, box_convention="torchvision")
        detections = device().nms(candidates, options)
        assert_equal(detections, reference_nms(candidates, options))
        assert detections[3].tolist() == [count]


def test_nms_of_empty_boxes() -> None:
    candidates = [torch.rand(1, 300), torch.full((1, 300, 4), 7.0), torch.zeros(1, 300)]
    for options in (Suppression(), Suppression(box_convention="torchvision")):
        assert_equal(device().nms(candidates, options), reference_nms(candidates, options))


def test_nms_of_long_runs() -> None:
    torch.manual_seed(14)
    # Past 65,536 candidates; few have a score, so that the reference can compare all pairs.
    scores, boxes, classes = make_candidates(1, 66000, "random", torch.float32, extent=2000)
    candidates = [torch.where(torch.rand(1, 66000) < 0.02, scores, 0.0), boxes, classes]
    options = Suppression(max_detections_per_image=1300)
    assert_equal(device(2).nms(candidates, options), reference_nms(candidates, options))


def test_launchers_check_their_arguments() -> None:
    level = make_level(1, (2, 2))
    with pytest.raises(RuntimeError, match=r"CUDA error 1$"):
        device().decode([level], Candidates(topk_candidates=0))
    with pytest.raises(RuntimeError, match=r"CUDA error 1$"):
        device().nms(make_candidates(1, 3, "random", torch.float32), Suppression(max_detections_per_image=0))
    with pytest.raises(RuntimeError, match=r"CUDA error 1$"):
        device().group_norm(torch.ones(1, 4, 2), torch.ones(4), torch.ones(4), 3)


# The emulation.


@functools.cache
def _mistakes() -> EmulatedDevice:
    return EmulatedDevice(build(BUILD_FOLDER, HERE / "mistakes", [HERE / "mistakes" / "mistakes.cu"]))


def run_mistake(kernel: int, mistake: int, seed: int) -> tuple[Tensor, Tensor]:
    there = _mistakes()
    there.seed = seed
    memory = there.memory()
    x = torch.arange(128.0)
    output = memory.write("output", [128], torch.float32)
    arguments: list[Any] = [kernel, mistake, *map(ctypes.c_void_p, (memory.read("input", x), output.data_ptr()))]
    there.launch(memory, "launch_mistake", *arguments)
    return x, output.clone()


@pytest.mark.parametrize("seed", SEEDS)
def test_emulation_runs_what_is_right(seed: int) -> None:
    x, y = run_mistake(0, 0, seed)
    assert torch.equal(y, x.reshape(2, 64).flip(1).flatten())
    for kernel in (1, 2):
        x, y = run_mistake(kernel, 0, seed)
        assert torch.equal(y, x.reshape(2, 64)[[1, 0], :1].expand(2, 64).flatten())


#: Kernel, number of the mistake, what is said of it; see mistakes/mistakes.cu.
MISTAKES = (
    (0, 1, r"race at byte \d+ of '(values|count)'"),
    (0, 2, "race at byte [04] of 'warp_value'"),
    (0, 3, "race at byte 0 of 'count'"),
    (0, 4, "writes 4 bytes outside of every buffer, 0 bytes past the end of 'output'"),
    (0, 5, "reads 4 bytes outside of every buffer, 0 bytes past the end of 'input'"),
    (0, 6, r"writes to byte \d+ of 'input', which is an input"),
    (0, 7, "accesses 4 bytes of shared memory that are no variable's"),
    (0, 8, "is past an array"),
    (0, 9, "accesses an address that is not aligned for its type"),
    (0, 10, "deadlock: 40 threads wait for a block barrier at .*; 24 threads wait for a warp operation"),
    (0, 11, "threads are at different block barriers"),
    (0, 12, r"has lanes that have ended|deadlock: \d+ threads wait for a warp operation"),
    (1, 13, r"shared 'value' of block \d, which has ended"),
    (1, 14, "race at byte 0 of 'value'"),
    (2, 15, r"race at byte \d+ of 'output'"),
    (0, 16, "waits in a loop for what does not come"),
    (0, 17, "more than __launch_bounds__ says: 64"),
    (0, 18, r"race at byte \d+ of 'output'"),
)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("kernel", "mistake", "message"), MISTAKES)
def test_emulation_finds_mistake_fails(kernel: int, mistake: int, message: str, seed: int) -> None:
    with pytest.raises(RuntimeError, match=message):
        run_mistake(kernel, mistake, seed)
