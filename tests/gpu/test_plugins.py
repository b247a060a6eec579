"""RetinaNetDecode and RetinaNetNMS on a GPU, against tests/reference, alone and as the builder puts them together."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.fresh_process import output_of_fresh
from tests.gpu.plugin_networks import (
    BOX_ATOL,
    BOX_RTOL,
    SCORE_KINDS,
    DecodeCase,
    NmsCase,
    changed,
    decode_engine,
    decode_plan,
    make_plugin,
    make_scores,
    nms_engine,
    nms_plan,
)
from tests.reference.retinanet_postprocess import decode, nms
from torch_trt_ext.builders.retinanet import RetinaNetPostProcessSpec, retinanet_postprocess_spec
from torch_trt_ext.builders.retinanet_tensorrt import build_tensorrt_plan
from torch_trt_ext.builders.tensorrt_build import PluginField, float_field, int_field, string_field
from torch_trt_ext.runtime import library_path

DECODE_CASES = (
    DecodeCase(),
    DecodeCase(box_convention="torchvision", image_size=(100, 150), score_thresh=0.5),
    DecodeCase(box_convention="detectron2"),
    DecodeCase(dtype="float16", topk_candidates=7),
    DecodeCase(box_convention="torchvision", topk_candidates=3000, score_thresh=0.0, num_anchors=1, num_classes=2),
    # More anchors than any kernel keeps close by, and all candidates of the largest grids far over the workspace.
    DecodeCase(num_anchors=40, num_classes=2, topk_candidates=1, score_thresh=0.0),
)
NMS_CASES = (
    NmsCase(),
    NmsCase(box_convention="torchvision", nms_thresh=0.3),
    NmsCase(box_convention="detectron2", nms_thresh=0.0, max_detections_per_image=1),
    NmsCase(dtype="float16"),
    NmsCase(nms_thresh=1.0, max_detections_per_image=1500),
)


def make_heads(case: DecodeCase, batch: int, height: int, width: int, kind: str = "random") -> list[Tensor]:
    dtype = getattr(torch, case.dtype)
    scores = make_scores((batch, case.num_anchors * case.num_classes, height, width), kind)
    return [scores.to(dtype), torch.randn(batch, 4 * case.num_anchors, height, width).to(dtype)]


def make_candidates(case: NmsCase, batch: int, count: int, kind: str = "random", extent: float = 100) -> list[Tensor]:
    dtype = getattr(torch, case.dtype)
    corners = torch.rand(batch, count, 2) * extent
    boxes = torch.cat([corners, corners + torch.rand(batch, count, 2) * 40 - 2], dim=2)
    classes = torch.randint(3, (batch, count, 1, 1)).to(dtype)
    return [make_scores((batch, count, 1, 1), kind).to(dtype), boxes.reshape(batch, -1, 1, 1).to(dtype), classes]


def reference_decode(case: DecodeCase, scores: Tensor, deltas: Tensor) -> tuple[Tensor, ...]:
    return decode(
        scores,
        deltas,
        case.anchors(),
        stride=case.stride,
        topk_candidates=case.topk_candidates,
        score_thresh=case.score_thresh,
        box_convention=case.box_convention,
        image_size=case.image_size,
    )


def reference_nms(case: NmsCase, *candidates: Tensor) -> tuple[Tensor, ...]:
    return nms(
        *candidates,
        nms_thresh=case.nms_thresh,
        max_detections_per_image=case.max_detections_per_image,
        box_convention=case.box_convention,
    )


def run(engine: Any, inputs: list[Tensor]) -> list[Tensor]:
    outputs: list[Tensor] = engine.forward([tensor.cuda() for tensor in inputs])
    return [output.cpu() for output in outputs]


def check_decode(case: DecodeCase, inputs: list[Tensor]) -> None:
    scores, boxes, classes = run(decode_engine(case), inputs)
    want_scores, want_boxes, want_classes = reference_decode(case, *inputs)
    torch.testing.assert_close(scores, want_scores, rtol=0, atol=0)
    torch.testing.assert_close(classes, want_classes, rtol=0, atol=0)
    torch.testing.assert_close(boxes, want_boxes, rtol=BOX_RTOL, atol=BOX_ATOL)


def check_nms(case: NmsCase, inputs: list[Tensor]) -> None:
    # Both compute in float32, operation by operation: nothing may differ.
    for got, want in zip(run(nms_engine(case), inputs), reference_nms(case, *inputs), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.parametrize("case", DECODE_CASES)
def test_decode_matches_reference_on_random_cases(case: DecodeCase) -> None:
    torch.manual_seed(0)
    choose = random.Random(0)
    for _ in range(130):
        batch, height, width = choose.choice([1, 2, 3]), choose.choice([1, 5, 13]), choose.choice([1, 2, 7, 19])
        check_decode(case, make_heads(case, batch, height, width, choose.choice(SCORE_KINDS)))


@pytest.mark.parametrize("case", DECODE_CASES)
@pytest.mark.parametrize("kind", SCORE_KINDS)
def test_decode_of_the_largest_grid(case: DecodeCase, kind: str) -> None:
    torch.manual_seed(1)
    check_decode(case, make_heads(case, 2, 40, 39, kind))


@pytest.mark.parametrize("batch", [1, 3, 20, 64])
def test_decode_of_every_batch_size(batch: int) -> None:
    torch.manual_seed(2)
    check_decode(DECODE_CASES[0], make_heads(DECODE_CASES[0], batch, 9, 11))


@pytest.mark.parametrize("case", NMS_CASES)
def test_nms_matches_reference_on_random_cases(case: NmsCase) -> None:
    torch.manual_seed(3)
    choose = random.Random(3)
    for _ in range(130):
        batch, count = choose.choice([1, 2, 3]), choose.choice([1, 2, 31, 255, 256, 257, 400])
        extent = choose.choice([5.0, 100.0, 1000.0])
        check_nms(case, make_candidates(case, batch, count, choose.choice(SCORE_KINDS), extent))


@pytest.mark.parametrize("batch", [1, 3, 20, 64])
def test_nms_of_every_batch_size(batch: int) -> None:
    torch.manual_seed(4)
    check_nms(NMS_CASES[0], make_candidates(NMS_CASES[0], batch, 150))


@pytest.mark.parametrize("case", NMS_CASES)
def test_nms_of_most_candidates(case: NmsCase) -> None:
    torch.manual_seed(5)
    check_nms(case, make_candidates(case, 1, 1200, "random", extent=2000))


def test_nms_of_empty_boxes() -> None:
    for case in NMS_CASES:
        scores, boxes, classes = make_candidates(case, 2, 40)
        boxes[:] = 7.0
        check_nms(case, [scores, boxes, classes])


def runners() -> list[tuple[Any, Callable[[], list[Tensor]]]]:
    return [
        (decode_engine(DECODE_CASES[0]), lambda: make_heads(DECODE_CASES[0], 3, 40, 40, "ties")),
        (nms_engine(NMS_CASES[0]), lambda: make_candidates(NMS_CASES[0], 3, 1200, "ties")),
    ]


@pytest.mark.parametrize("plugin", [0, 1])
def test_runs_are_bit_equal(plugin: int) -> None:
    torch.manual_seed(6)
    engine, make_inputs = runners()[plugin]
    inputs = make_inputs()
    first = run(engine, inputs)
    for _ in range(20):
        assert all(torch.equal(got, want) for got, want in zip(run(engine, inputs), first, strict=True))


@pytest.mark.parametrize("plugin", [0, 1])
def test_capture_in_a_cuda_graph(plugin: int) -> None:
    torch.manual_seed(7)
    engine, make_inputs = runners()[plugin]
    inputs = [tensor.cuda() for tensor in make_inputs()]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        engine.forward(inputs)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        captured = engine.forward(inputs)
    for _ in range(3):
        for tensor, fresh in zip(inputs, make_inputs(), strict=True):
            tensor.copy_(fresh)
        graph.replay()
        torch.cuda.synchronize()
        want = run(engine, inputs)
        assert all(torch.equal(got.cpu(), expected) for got, expected in zip(captured, want, strict=True))


#: Of an image of 72 x 104 pixels: odd extents, and one cell on the last level.
LEVEL_SIZES = ((9, 13), (5, 7), (3, 4), (2, 2), (1, 1))
STRIDES = (8, 16, 32, 64, 128)
NUM_ANCHORS, NUM_CLASSES = 3, 3


def whole_heads(batch: int, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    return (
        [torch.rand(batch, NUM_ANCHORS * NUM_CLASSES, *size, device="cuda").to(dtype) for size in LEVEL_SIZES],
        [torch.randn(batch, NUM_ANCHORS * 4, *size, device="cuda").to(dtype) * 0.5 for size in LEVEL_SIZES],
    )


def whole_anchors() -> list[Tensor]:
    case = DecodeCase(num_anchors=NUM_ANCHORS)
    return [case.anchors() * stride / 8 for stride in STRIDES]


@functools.cache
def whole_engine(dtype: torch.dtype, box_convention: str, fused: bool) -> tuple[RetinaNetPostProcessSpec, Any]:
    spec = retinanet_postprocess_spec(
        whole_heads(1, dtype),
        (1, 3, 72, 104),
        whole_anchors(),
        test_score_thresh=0.3,
        test_topk_candidates=20,
        max_detections_per_image=30,
        box_convention=box_convention,  # type: ignore[arg-type]
        image_size=(70, 100) if box_convention == "torchvision" else None,
        batch_range=(1, 4, 64),
        strides=STRIDES,
    )
    plan = spec.to_plan(build_tensorrt_plan(spec, fused=fused), "tensorrt")
    return spec, torch.classes.torch_trt_ext.TRTEngineExtension(plan.serialize(), plan.io_spec)


def whole_reference(
    spec: RetinaNetPostProcessSpec, cls_heads: list[Tensor], box_heads: list[Tensor]
) -> tuple[Tensor, ...]:
    # Decoded on the GPU: its exp is the plugin's, so that no IoU falls on the other side of the threshold.
    levels = [
        decode(
            scores,
            deltas,
            anchors.cuda(),
            stride=stride,
            topk_candidates=spec.topk_candidates,
            score_thresh=spec.score_thresh,
            box_convention=spec.box_convention,
            image_size=spec.image_size,
        )
        for scores, deltas, anchors, stride in zip(cls_heads, box_heads, whole_anchors(), STRIDES, strict=True)
    ]
    scores, boxes, classes = (torch.cat(parts, dim=1).cpu() for parts in zip(*levels, strict=True))
    return nms(
        scores,
        boxes,
        classes,
        nms_thresh=spec.nms_thresh,
        max_detections_per_image=spec.max_detections_per_image,
        box_convention=spec.box_convention,
    )


@pytest.mark.parametrize(
    ("dtype", "box_convention"),
    [
        (torch.float32, "retinanet_examples"),
        (torch.float32, "torchvision"),
        (torch.float16, "retinanet_examples"),
    ],
)
@pytest.mark.parametrize("batch", [1, 3, 20, 64])
@pytest.mark.parametrize("fused", [True, False])
def test_built_postprocess_matches_reference(dtype: torch.dtype, box_convention: str, batch: int, fused: bool) -> None:
    spec, engine = whole_engine(dtype, box_convention, fused)
    torch.manual_seed(8 + batch)
    cls_heads, box_heads = whole_heads(batch, dtype)
    scores, boxes, classes = engine.forward(cls_heads + box_heads)
    want_scores, want_boxes, want_classes = whole_reference(spec, cls_heads, box_heads)
    torch.testing.assert_close(scores.cpu(), want_scores, rtol=0, atol=0)
    torch.testing.assert_close(classes.cpu(), want_classes, rtol=0, atol=0)
    torch.testing.assert_close(boxes.cpu(), want_boxes, rtol=BOX_RTOL, atol=BOX_ATOL)


@pytest.mark.parametrize(
    ("name", "field", "message"),
    [
        ("topk_candidates", int_field("topk_candidates", 0), "'topk_candidates' must be at least 1, got 0"),
        ("stride", None, "'stride' must be given"),
        ("stride", int_field("stride", 0), "'stride' must be at least 1, got 0"),
        ("stride", int_field("strides", 8), "'strides' is not one of"),
        ("score_thresh", int_field("score_thresh", 1), "'score_thresh' must be float32, got int32"),
        ("score_thresh", float_field("score_thresh", 1.5), r"'score_thresh' must be in \[0, 1\], got 1.5"),
        ("score_thresh", float_field("score_thresh", 0.1, 0.2), r"'score_thresh' must be 1 value\(s\) long, got 2"),
        ("num_anchors", int_field("num_anchors", 3), "'num_anchors' .* must be a multiple of 4.* got 3"),
        ("anchors", float_field("anchors", 1, 2, 3, 4), "'anchors' must be as long as 'num_anchors' says, 12, got 4"),
        ("box_convention", string_field("box_convention", "yolo"), "'box_convention' must be .* got 'yolo'"),
        ("image_width", int_field("image_width", -1), "'image_width' must be at least 0, got -1"),
    ],
)
def test_decode_of_bad_field_fails(name: str, field: PluginField | None, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        make_plugin("RetinaNetDecode", changed(DecodeCase().fields(), name, field))


@pytest.mark.parametrize(
    ("name", "field", "message"),
    [
        ("nms_thresh", None, "'nms_thresh' must be given"),
        ("nms_thresh", float_field("nms_thresh", -0.5), r"'nms_thresh' must be in \[0, 1\], got -0.5"),
        (
            "max_detections_per_image",
            int_field("max_detections_per_image", 0),
            "'max_detections_per_image' must be at least 1, got 0",
        ),
    ],
)
def test_nms_of_bad_field_fails(name: str, field: PluginField | None, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        make_plugin("RetinaNetNMS", changed(NmsCase().fields(), name, field))


def test_build_with_shapes_that_do_not_fit_fails() -> None:
    for build in (
        lambda: decode_plan(DecodeCase(), score_channels=13),
        lambda: decode_plan(DecodeCase(), delta_channels=8),
        lambda: nms_plan(replace(NmsCase(), box_convention="torchvision"), numbers_per_box=5),
    ):
        with pytest.raises(RuntimeError, match=r"refused|could not build"):
            build()


PLUGIN_NAMES = ["GroupNorm", "LeakyReLU", "RetinaNetDecode", "RetinaNetNMS", "RetinaNetPostProcess"]
LIST_PLUGINS = """
    import ctypes, sys
    import tensorrt as trt
    path = {path!r}
    registry = trt.get_plugin_registry()
    def names():
        return sorted(it.name for it in registry.all_creators if it.name in {names!r})
    assert names() == [], names()
    {load}
    assert names() == {names!r}, names()
    assert registry.get_creator("RetinaNetDecode", "1", "") is not None
"""

LOAD_LIBRARY = "assert registry.load_library(path) is not None"
OPEN = "ctypes.CDLL(path)"


@pytest.mark.parametrize("load", [LOAD_LIBRARY, OPEN, f"{OPEN}; {LOAD_LIBRARY}", f"{LOAD_LIBRARY}; {OPEN}"])
def test_library_registers_in_a_fresh_process(load: str) -> None:
    output_of_fresh(LIST_PLUGINS.format(path=str(library_path("plugins")), names=PLUGIN_NAMES, load=load))
