import json

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import clip_boxes_to_image, nms

pytest.importorskip("sklearn")
pytest.importorskip("pycocotools")

from examples.retinanet import draw, evaluate, loss, model, train
from examples.retinanet.scenes import NUM_CLASSES, SCENE_HEIGHT, SCENE_WIDTH, Scene, compose_scene

#: The two paths run the same float32 arithmetic in another order (whole levels against concatenated ones).
FLOAT32_ATOL = 1e-4
#: float32 sums over 10 * 36828 logits, in another order.
LOSS_RTOL = 1e-5


@pytest.fixture(scope="module")
def images():
    return torch.stack([compose_scene(seed, "train").image for seed in range(2)]).float() / 255


@pytest.fixture(scope="module")
def detector(images):
    """Random weights, scaled so that some hundreds of distinct scores a level pass the threshold."""
    torch.manual_seed(0)
    network = model.build_digit_detector().eval()
    with torch.no_grad():
        outputs = network.head(list(network.backbone((images - 0.5) / 0.25).values()))
        cls_logits = network.head.classification_head.cls_logits
        cls_logits.weight.mul_(1.0 / outputs["cls_logits"].std())
        cls_logits.bias.fill_(-5.0)
        network.head.regression_head.bbox_reg.weight.mul_(0.2 / outputs["bbox_regression"].std())
    return network


def expected_detections(cls_heads, box_heads, anchors, image):
    """RetinaNet's post-processing of one image, level by level and class by class."""
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    boxes, scores, labels = [], [], []
    for cls, deltas, cell, stride in zip(cls_heads, box_heads, anchors, model.STRIDES, strict=True):
        num_anchors, (height, width) = len(cell), cls.shape[-2:]
        # Channel a * C + c, so that the flat index is ((y * W + x) * A + a) * C + c, as torchvision has it.
        flat = cls[image].view(num_anchors, NUM_CLASSES, height, width).permute(2, 3, 0, 1).reshape(-1)
        codes = deltas[image].view(num_anchors, 4, height, width).permute(2, 3, 0, 1).reshape(-1, 4)
        passing = torch.where(flat > model.SCORE_THRESH)[0]
        best = flat[passing].topk(min(model.TOPK_CANDIDATES, len(passing)))
        index = passing[best.indices]
        place = index // NUM_CLASSES
        cell_index = place // num_anchors
        corner = torch.stack([cell_index % width, cell_index // width], dim=1).float() * stride
        reference = cell[place % num_anchors] + corner.repeat(1, 2)
        decoded = coder.decode_single(codes[place], reference)
        boxes.append(clip_boxes_to_image(decoded, (SCENE_HEIGHT, SCENE_WIDTH)))
        scores.append(best.values)
        labels.append(index % NUM_CLASSES)
    boxes, scores, labels = torch.cat(boxes), torch.cat(scores), torch.cat(labels)
    kept = []
    for label in range(NUM_CLASSES):
        of_class = torch.where(labels == label)[0]
        kept.append(of_class[nms(boxes[of_class], scores[of_class], model.NMS_THRESH)])
    kept = torch.cat(kept)
    kept = kept[scores[kept].argsort(descending=True, stable=True)][: model.DETECTIONS_PER_IMAGE]
    return boxes[kept], scores[kept], labels[kept]


@torch.inference_mode()
def test_heads_decode_to_the_models_own_detections(detector, images):
    cls_heads, box_heads = model.BackboneAndHeads(detector)(images)
    plain = model.PlainDetector(detector)(images)
    for index, found in enumerate(plain):
        boxes, scores, labels = expected_detections(cls_heads, box_heads, model.cell_anchors(detector), index)
        assert len(found["scores"]) == model.DETECTIONS_PER_IMAGE
        torch.testing.assert_close(found["scores"], scores, rtol=0, atol=FLOAT32_ATOL)
        torch.testing.assert_close(found["boxes"], boxes, rtol=0, atol=100 * FLOAT32_ATOL)
        assert torch.equal(found["labels"], labels)


@torch.inference_mode()
def test_heads_have_the_engines_layout(detector, images):
    cls_heads, box_heads = model.BackboneAndHeads(detector)(images)
    anchors = model.cell_anchors(detector)
    for cls, box, cell, stride in zip(cls_heads, box_heads, anchors, model.STRIDES, strict=True):
        size = (SCENE_HEIGHT // stride, SCENE_WIDTH // stride)
        assert cls.shape == (2, len(cell) * NUM_CLASSES, *size)
        assert box.shape == (2, len(cell) * 4, *size)
        assert cls.is_contiguous()
        assert box.is_contiguous()
        assert 0 <= float(cls.min()) <= float(cls.max()) <= 1


@pytest.mark.parametrize("how", ["trace", "script"])
@torch.inference_mode()
def test_heads_can_be_made_torchscript(detector, images, how, tmp_path):
    heads = model.BackboneAndHeads(detector).eval()
    script = torch.jit.trace(heads, (images,), strict=False) if how == "trace" else torch.jit.script(heads)
    torch.jit.save(script, tmp_path / "heads.pt")
    got = torch.jit.load(tmp_path / "heads.pt")(images[:1])
    expected = heads(images[:1])
    for mine, theirs in zip(got[0] + got[1], expected[0] + expected[1], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=FLOAT32_ATOL)


def test_grid_anchors_are_torchvisions(detector, images):
    features = list(detector.backbone(images).values())
    expected = detector.anchor_generator(ImageList(images, [(SCENE_HEIGHT, SCENE_WIDTH)] * 2), features)
    assert torch.equal(model.grid_anchors(detector), expected[0])


def test_detector_does_not_resize_scenes(detector, images):
    batch, _ = detector.transform(list(images))
    expected = (images - 0.5) / 0.25
    torch.testing.assert_close(batch.tensors, expected, rtol=0, atol=1e-6)


def _empty_scene():
    return Scene(compose_scene(0, "train").image, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


@pytest.mark.parametrize("with_empty", [False, True])
def test_loss_and_gradients_are_torchvisions(detector, images, with_empty):
    scenes = [compose_scene(0, "train"), _empty_scene() if with_empty else compose_scene(1, "train")]
    with torch.no_grad():
        outputs = detector.head(list(detector.backbone(images).values()))
    # Some boxes are matched at a low IoU only, so every branch of the matcher is taken.
    outputs = {name: value.requires_grad_() for name, value in outputs.items()}
    anchors = model.grid_anchors(detector)
    targets = [{"boxes": scene.boxes, "labels": scene.labels} for scene in scenes]
    theirs = detector.compute_loss(targets, outputs, [anchors, anchors])
    expected = torch.autograd.grad(sum(theirs.values()), list(outputs.values()))

    cls_loss, box_loss = loss.retinanet_loss(
        outputs["cls_logits"], outputs["bbox_regression"], anchors, loss.pad_targets(scenes, 12)
    )
    torch.testing.assert_close(cls_loss, theirs["classification"], rtol=LOSS_RTOL, atol=0)
    torch.testing.assert_close(box_loss, theirs["bbox_regression"], rtol=LOSS_RTOL, atol=0)
    mine = torch.autograd.grad(cls_loss + box_loss, list(outputs.values()))
    for got, wanted in zip(mine, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-8)


def test_match_uses_all_three_kinds_of_anchors(detector):
    anchors = model.grid_anchors(detector)
    targets = loss.pad_targets([compose_scene(seed, "train") for seed in range(4)], 12)
    matches, foreground, background = loss.match_anchors(anchors, targets)
    assert not (foreground & background).any()
    assert (~foreground & ~background).any()
    for index in range(4):
        matched = set(matches[index][foreground[index]].tolist())
        assert matched == set(torch.where(targets.valid[index])[0].tolist())


def test_perfect_detections_have_ap_one():
    scenes = [compose_scene(seed, "test") for seed in range(12)]
    found = [{"boxes": s.boxes, "labels": s.labels, "scores": torch.ones(len(s.labels))} for s in scenes]
    ap = evaluate.coco_ap(found, scenes)
    assert ap["AP"] == pytest.approx(1.0)
    assert ap["AP50"] == pytest.approx(1.0)
    found[0]["labels"] = (found[0]["labels"] + 1) % NUM_CLASSES
    assert evaluate.coco_ap(found, scenes)["AP50"] < 0.999


def test_no_detections_have_ap_zero():
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
    assert evaluate.coco_ap([none], [compose_scene(0, "test")])["AP50"] == 0.0


def test_detections_must_match_the_scenes_fails():
    with pytest.raises(ValueError, match="one a scene, got 0 for 1"):
        evaluate.coco_ap([], [compose_scene(0, "test")])


def test_learning_rate_rises_once_then_falls():
    factors = [train.learning_rate_factor(step / 200) for step in range(201)]
    peak = factors.index(max(factors))
    assert factors[peak] == pytest.approx(1.0, abs=0.01)
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert factors[-1] == pytest.approx(train.FINAL_LR_FRACTION)


def test_short_training_run_writes_a_loadable_checkpoint(tmp_path):
    out = tmp_path / "digits.pt"
    options = "--device cpu --steps 3 --batch-size 2 --workers 0 --validations 2 --validation-scenes 2 --test-scenes 2"
    train.main([*options.split(), "--out", str(out)])
    report = json.loads(out.with_suffix(".json").read_text())
    assert report["steps"] == 3
    assert report["checkpoint_bytes"] == out.stat().st_size <= 12_000_000
    assert {"AP", "AP50", "AP75", "scenes_sha256"} <= set(report["test"])
    stored = torch.load(out, weights_only=True)
    assert {value.dtype for value in stored.values() if value.is_floating_point()} == {torch.float16}
    loaded = model.load_digit_detector(out)
    assert not loaded.training
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    name = "head.regression_head.bbox_reg.weight"
    assert torch.equal(loaded.state_dict()[name], stored[name].float())


def test_training_ends_when_the_minutes_run_out(tmp_path):
    out = tmp_path / "digits.pt"
    options = "--device cpu --steps 1000 --batch-size 1 --workers 0 --validations 1 --validation-scenes 0"
    train.main([*options.split(), "--minutes", "0.02", "--test-scenes", "1", "--out", str(out)])
    assert json.loads(out.with_suffix(".json").read_text())["steps"] < 1000


def test_drawing_shows_boxes_and_labels():
    scene = compose_scene(2, "test")
    plain = draw.draw_detections(scene.image, scene.boxes[:0], scene.labels[:0])
    drawn = draw.draw_detections(scene.image, scene.boxes, scene.labels, torch.full((len(scene.labels),), 0.9))
    assert drawn.size == (2 * SCENE_WIDTH, 2 * SCENE_HEIGHT)
    assert drawn.tobytes() != plain.tobytes()
    hidden = draw.draw_detections(scene.image, scene.boxes, scene.labels, torch.full((len(scene.labels),), 0.1))
    assert hidden.tobytes() == plain.tobytes()
    assert draw.grid([plain, drawn, plain], columns=2, gap=8).size == (4 * SCENE_WIDTH + 8, 4 * SCENE_HEIGHT + 8)
