"""RetinaNetDecode and RetinaNetNMS for OpenVINO against plain torch, alone and as a whole engine."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
from torch import Tensor

import torch_trt_ext  # noqa: F401  registers the classes

ov = pytest.importorskip("openvino")
import numpy as np  # noqa: E402
from openvino import opset13  # noqa: E402
from openvino.utils.node_factory import NodeFactory  # noqa: E402

from tests.reference import retinanet_postprocess as reference  # noqa: E402
from torch_trt_ext.builders.openvino_model import plan_from_model  # noqa: E402
from torch_trt_ext.builders.retinanet import build_retinanet_decode  # noqa: E402
from torch_trt_ext.runtime import library_path  # noqa: E402

CONVENTIONS = ("retinanet_examples", "torchvision", "detectron2")

CASES_A_CONVENTION = 120

#: exp() of libm and of torch's vector library differ in the last bit, which boxes of thousands of pixels amplify.
BOX_TOLERANCE = {"rtol": 1e-5, "atol": 1e-3}


@pytest.fixture(scope="module")
def factory() -> NodeFactory:
    factory = NodeFactory()
    factory.add_extension(str(library_path("openvino")))
    return factory


def _parameter(name: str, shape: list[int], dtype: torch.dtype = torch.float32) -> Any:
    element_type = ov.Type.f16 if dtype == torch.float16 else ov.Type.f32
    node = opset13.parameter(ov.PartialShape(shape), element_type, name)
    node.output(0).get_tensor().set_names({name})
    return node


def _engine(node: Any, parameters: list[Any]) -> torch.ScriptObject:
    results = []
    for index, name in enumerate(("scores", "boxes", "classes")):
        node.output(index).get_tensor().set_names({name})
        results.append(opset13.result(node.output(index)))
    plan = plan_from_model(ov.Model(results, parameters, "op"))
    return torch.classes.torch_trt_ext.OpenVINOEngineExtension(plan.data, plan.io_spec)


def _decode_attributes(**changes: Any) -> dict[str, Any]:
    attributes = {
        "topk_candidates": 5,
        "score_thresh": 0.1,
        "stride": 8,
        "num_anchors": 8,
        "anchors": [-8.0, -8.0, 8.0, 8.0, -4.0, -16.0, 4.0, 16.0],
        "box_convention": "torchvision",
        "image_height": 0,
        "image_width": 0,
    }
    return {**attributes, **changes}


def _nms_attributes(**changes: Any) -> dict[str, Any]:
    return {"nms_thresh": 0.5, "max_detections_per_image": 4, "box_convention": "torchvision", **changes}


def _assert_same(actual: list[Tensor], expected: tuple[Tensor, ...], box_tolerance: dict[str, float]) -> None:
    scores, boxes, classes = actual
    torch.testing.assert_close(scores, expected[0], rtol=0, atol=0)
    torch.testing.assert_close(classes, expected[2], rtol=0, atol=0)
    torch.testing.assert_close(boxes, expected[1], **box_tolerance)


def _random_scores(shape: tuple[int, ...], rng: random.Random, generator: torch.Generator) -> Tensor:
    scores = torch.rand(shape, generator=generator)
    kind = rng.randrange(5)
    if kind == 0:
        scores = (scores * 4).round() / 4  # many ties
    elif kind == 1:
        scores = scores * 0  # nothing passes
    elif kind == 2:
        scores = torch.full(shape, 0.75)  # nothing but ties
    if rng.random() < 0.5:
        special = torch.tensor([math.nan, math.inf, -math.inf, -1.0, -0.0, 1e-40])
        mask = torch.rand(shape, generator=generator) < 0.2
        picks = special[torch.randint(len(special), shape, generator=generator)]
        scores = torch.where(mask, picks, scores)
    return scores


def _random_batch(rng: random.Random) -> int:
    return rng.choice([1, 1, 2, 3, 5, 17, 64])


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_decode_matches_reference(factory: NodeFactory, convention: str) -> None:
    for seed in range(CASES_A_CONVENTION):
        rng = random.Random(seed)
        generator = torch.Generator().manual_seed(seed)
        dtype = torch.float16 if seed % 3 == 0 else torch.float32
        batch = _random_batch(rng)
        num_anchors, num_classes = rng.randint(1, 4), rng.randint(1, 5)
        height, width = rng.randint(1, 9), rng.randint(1, 9)
        topk = rng.choice([1, 2, 7, 50, 2000])
        stride = rng.choice([1, 7, 8, 128])
        thresh = rng.choice([0.0, 0.05, 0.25, 0.5, 1.0])
        image_size = rng.choice([None, (37, 53)])
        corners = torch.rand(num_anchors, 2, generator=generator) * 64 / 3
        anchors = torch.cat([-corners, corners + 1 / 3], dim=1)
        scores = _random_scores((batch, num_anchors * num_classes, height, width), rng, generator).to(dtype)
        deltas = torch.randn((batch, num_anchors * 4, height, width), generator=generator).mul(1.5).to(dtype)
        dynamic = seed % 2 == 0
        parameters = [
            _parameter("s", [-1 if dynamic else batch, *scores.shape[1:]], dtype),
            _parameter("d", [-1 if dynamic else batch, *deltas.shape[1:]], dtype),
        ]
        attributes = _decode_attributes(
            topk_candidates=topk,
            score_thresh=thresh,
            stride=stride,
            num_anchors=anchors.numel(),
            anchors=anchors.reshape(-1).tolist(),
            box_convention=convention,
            image_height=0 if image_size is None else image_size[0],
            image_width=0 if image_size is None else image_size[1],
        )
        node = factory.create("RetinaNetDecode", [parameter.output(0) for parameter in parameters], attributes)
        actual = _engine(node, parameters).forward([scores, deltas])
        expected = reference.decode(
            scores,
            deltas,
            anchors,
            stride=stride,
            topk_candidates=topk,
            score_thresh=thresh,
            box_convention=convention,
            image_size=image_size,
        )
        _assert_same(actual, expected, BOX_TOLERANCE)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_nms_matches_reference(factory: NodeFactory, convention: str) -> None:
    for seed in range(CASES_A_CONVENTION):
        rng = random.Random(seed)
        generator = torch.Generator().manual_seed(seed)
        batch, count = _random_batch(rng), rng.choice([1, 2, 31, 64, 200])
        if batch == 64:
            count = min(count, 31)
        scores = _random_scores((batch, count, 1, 1), rng, generator)
        corners = torch.rand((batch, count, 2), generator=generator) * 40
        sizes = torch.rand((batch, count, 2), generator=generator) * 40
        if rng.random() < 0.5:  # Integer boxes give IoUs that equal the threshold, and empty ones 0 / 0.
            corners, sizes = (corners / 5).round(), (sizes / 10).round() - (seed % 2)
        boxes = torch.cat([corners, corners + sizes], dim=2).reshape(batch, 4 * count, 1, 1)
        classes = torch.randint(rng.randint(1, 4), (batch, count, 1, 1), generator=generator).float()
        max_detections, thresh = rng.choice([1, 3, 100]), rng.choice([0.0, 0.25, 0.5, 0.6, 1.0])
        dimension = -1 if seed % 2 else batch
        parameters = [
            _parameter(name, [dimension, *tensor.shape[1:]])
            for name, tensor in (("s", scores), ("b", boxes), ("c", classes))
        ]
        attributes = _nms_attributes(
            nms_thresh=thresh, max_detections_per_image=max_detections, box_convention=convention
        )
        node = factory.create("RetinaNetNMS", [parameter.output(0) for parameter in parameters], attributes)
        actual = _engine(node, parameters).forward([scores, boxes, classes])
        expected = reference.nms(
            scores,
            boxes,
            classes,
            nms_thresh=thresh,
            max_detections_per_image=max_detections,
            box_convention=convention,
        )
        _assert_same(actual, expected, {"rtol": 0, "atol": 0})


def test_decode_selects_exactly_among_many(factory: NodeFactory) -> None:
    generator = torch.Generator().manual_seed(0)
    # Few distinct values, so that the cut falls among equal scores, which must go by index.
    scores = (torch.rand((2, 2 * 20, 60, 70), generator=generator) * 50).round() / 50
    deltas = torch.randn((2, 8, 60, 70), generator=generator) * 0.2
    parameters = [_parameter("s", [-1, 40, 60, 70]), _parameter("d", [-1, 8, 60, 70])]
    attributes = _decode_attributes(topk_candidates=1000)
    node = factory.create("RetinaNetDecode", [parameter.output(0) for parameter in parameters], attributes)
    actual = _engine(node, parameters).forward([scores, deltas])
    anchors = torch.tensor(attributes["anchors"]).reshape(2, 4)
    expected = reference.decode(
        scores, deltas, anchors, stride=8, topk_candidates=1000, score_thresh=0.1, box_convention="torchvision"
    )
    _assert_same(actual, expected, BOX_TOLERANCE)


def test_nms_matches_torchvision(factory: NodeFactory) -> None:
    torchvision = pytest.importorskip("torchvision")
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand((300, 2), generator=generator) * 50
    boxes = torch.cat([corners, corners + torch.rand((300, 2), generator=generator) * 50], dim=1)
    scores = torch.rand(300, generator=generator) + 0.01
    kept = torchvision.ops.nms(boxes, scores, 0.5)
    parameters = [_parameter("s", [1, 300, 1, 1]), _parameter("b", [1, 1200, 1, 1]), _parameter("c", [1, 300, 1, 1])]
    attributes = _nms_attributes(max_detections_per_image=300)
    node = factory.create("RetinaNetNMS", [parameter.output(0) for parameter in parameters], attributes)
    actual_scores, actual_boxes, _ = _engine(node, parameters).forward(
        [scores.reshape(1, -1, 1, 1), boxes.reshape(1, -1, 1, 1), torch.ones(1, 300, 1, 1)]
    )
    count = len(kept)
    assert torch.equal(actual_scores.reshape(-1)[:count], scores[kept])
    assert torch.equal(actual_boxes.reshape(-1, 4)[:count], boxes[kept])
    assert not actual_scores.reshape(-1)[count:].any()
    assert not actual_boxes.reshape(-1, 4)[count:].any()


def test_batch_without_images(factory: NodeFactory) -> None:
    parameters = [_parameter("s", [-1, 2, 3, 4]), _parameter("d", [-1, 8, 3, 4])]
    node = factory.create("RetinaNetDecode", [parameter.output(0) for parameter in parameters], _decode_attributes())
    outputs = _engine(node, parameters).forward([torch.zeros(0, 2, 3, 4), torch.zeros(0, 8, 3, 4)])
    assert [tuple(output.shape) for output in outputs] == [(0, 5, 1, 1), (0, 20, 1, 1), (0, 5, 1, 1)]


def test_anchors_survive_serialization_exactly(factory: NodeFactory) -> None:
    anchors = torch.tensor([[-1 / 3, -123.456789, 16.000001, 33.333333]])
    parameters = [_parameter("s", [1, 1, 1, 1]), _parameter("d", [1, 4, 1, 1])]
    attributes = _decode_attributes(
        num_anchors=4, anchors=anchors.reshape(-1).tolist(), topk_candidates=1, box_convention="detectron2"
    )
    node = factory.create("RetinaNetDecode", [parameter.output(0) for parameter in parameters], attributes)
    _, boxes, _ = _engine(node, parameters).forward([torch.ones(1, 1, 1, 1), torch.zeros(1, 4, 1, 1)])
    # Deltas of zero give the anchor back, but for the rounding of its center and size.
    torch.testing.assert_close(boxes.reshape(1, 4), anchors, rtol=0, atol=1.6e-5)
    assert (boxes.reshape(1, 4) - torch.tensor([[-0.333333, -123.457, 16.0, 33.3333]])).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"topk_candidates": 0}, "attribute topk_candidates must be in"),
        ({"score_thresh": math.nan}, "attribute score_thresh must be finite"),
        ({"stride": 0}, "attribute stride must be at least 1 pixel, got 0"),
        ({"anchors": [1.0, 2.0, 3.0]}, "attribute anchors must have 4 numbers an anchor, got 3"),
        ({"anchors": []}, "attribute anchors must have 4 numbers an anchor, got 0"),
        ({"num_anchors": 2}, "attribute num_anchors must be how many numbers anchors has, 8, got 2"),
        ({"box_convention": "yolo"}, "attribute box_convention must be .* got 'yolo'"),
        ({"image_height": -1}, "attribute image_height must not be negative"),
        ({"image_width": -1}, "attribute image_width must not be negative"),
    ],
    ids=str,
)
def test_decode_with_wrong_attribute_fails(factory: NodeFactory, changes: dict[str, Any], message: str) -> None:
    inputs = [_parameter("s", [1, 2, 3, 4]).output(0), _parameter("d", [1, 8, 3, 4]).output(0)]
    with pytest.raises(RuntimeError, match=message):
        factory.create("RetinaNetDecode", inputs, _decode_attributes(**changes))


@pytest.mark.parametrize(
    ("scores", "deltas", "message"),
    [
        ([1, 3, 3, 4], [1, 8, 3, 4], "must have a multiple of 2 channels"),
        ([1, 2, 3, 4], [1, 4, 3, 4], "must have 8 channels, 4 for each anchor"),
        ([1, 2, 3, 4], [2, 8, 3, 4], "must have one N"),
        ([1, 2, 3, 4], [1, 8, 3, 5], "must have one H and W"),
        ([1, 2, 3], [1, 8, 3, 4], r"input scores must be \[N, channels, H, W\]"),
    ],
    ids=str,
)
def test_decode_with_wrong_shape_fails(
    factory: NodeFactory, scores: list[int], deltas: list[int], message: str
) -> None:
    with pytest.raises(RuntimeError, match=message):
        factory.create(
            "RetinaNetDecode",
            [_parameter("s", scores).output(0), _parameter("d", deltas).output(0)],
            _decode_attributes(),
        )


def test_error_in_evaluate_reaches_the_caller(factory: NodeFactory) -> None:
    parameters = [_parameter("s", [-1, -1, -1, -1]), _parameter("d", [-1, -1, -1, -1])]
    node = factory.create("RetinaNetDecode", [parameter.output(0) for parameter in parameters], _decode_attributes())
    engine = _engine(node, parameters)
    with pytest.raises(RuntimeError, match=r"OpenVINO failed to run the engine: .*must have one H and W"):
        engine.forward([torch.zeros(1, 2, 3, 4), torch.zeros(1, 8, 3, 5)])
    assert engine.forward([torch.ones(1, 2, 3, 4), torch.zeros(1, 8, 3, 4)])[0].reshape(-1).tolist() == [1.0] * 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nms_thresh": math.inf}, "attribute nms_thresh must be finite"),
        ({"max_detections_per_image": 0}, "attribute max_detections_per_image must be in"),
        ({"box_convention": ""}, "attribute box_convention must be"),
    ],
    ids=str,
)
def test_nms_with_wrong_attribute_fails(factory: NodeFactory, changes: dict[str, Any], message: str) -> None:
    shapes = {"s": [1, 3, 1, 1], "b": [1, 12, 1, 1], "c": [1, 3, 1, 1]}
    inputs = [_parameter(name, shape).output(0) for name, shape in shapes.items()]
    with pytest.raises(RuntimeError, match=message):
        factory.create("RetinaNetNMS", inputs, _nms_attributes(**changes))


def test_nms_with_wrong_shape_fails(factory: NodeFactory) -> None:
    inputs = [_parameter(name, [1, 12, 1, 1]).output(0) for name in "sbc"]
    with pytest.raises(RuntimeError, match=r"inputs must have M, 4 \* M and M channels"):
        factory.create("RetinaNetNMS", inputs, _nms_attributes())


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_whole_postprocess_matches_reference(convention: Any, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    strides, sizes = [8, 16, 32], [(13, 21), (7, 11), (4, 6)]
    anchors = [torch.tensor([[-s, -s, s, s], [-s, -2.0 * s, s, 2.0 * s], [-s / 3, -s, s / 3, s]]) for s in strides]

    def heads(batch: int) -> tuple[list[Tensor], list[Tensor]]:
        cls = [torch.rand((batch, 3 * 4, *size), generator=generator).to(dtype) for size in sizes]
        box = [torch.randn((batch, 3 * 4, *size), generator=generator).mul(0.25).to(dtype) for size in sizes]
        return cls, box

    image_size = (101, 165) if convention == "torchvision" else None
    plan = build_retinanet_decode(
        heads(1),
        (1, 3, 104, 168),
        anchors,
        0.6,
        0.4,
        60,
        25,
        device_type="cpu",
        box_convention=convention,
        image_size=image_size,
        strides=strides,
    )
    engine = torch.classes.torch_trt_ext.OpenVINOEngineExtension(plan.data, plan.io_spec)
    for batch in (1, 4, 2, 20):
        cls, box = heads(batch)
        expected = reference.postprocess(
            cls,
            box,
            anchors,
            strides,
            score_thresh=0.6,
            nms_thresh=0.4,
            topk_candidates=60,
            max_detections_per_image=25,
            box_convention=convention,
            image_size=image_size,
        )
        _assert_same(engine.forward([*cls, *box]), expected, BOX_TOLERANCE)
    with pytest.raises(ValueError, match="must have a shape in"):
        engine.forward([torch.zeros(1001, *head.shape[1:], dtype=dtype) for head in (*cls, *box)])


def test_ops_load_into_another_core(factory: NodeFactory) -> None:
    core = ov.Core()
    core.add_extension(str(library_path("openvino")))
    parameters = [_parameter("s", [1, 2, 3, 4]), _parameter("d", [1, 8, 3, 4])]
    node = factory.create("RetinaNetDecode", [parameter.output(0) for parameter in parameters], _decode_attributes())
    compiled = core.compile_model(ov.Model([node.output(0)], parameters, "op"), "CPU")
    scores = compiled([np.ones((1, 2, 3, 4), np.float32), np.zeros((1, 8, 3, 4), np.float32)])[0]
    assert scores.reshape(-1).tolist() == [1.0] * 5
