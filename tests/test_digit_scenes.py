import hashlib

import numpy as np
import pytest
import torch

from examples.retinanet import scenes
from examples.retinanet.scenes import INK_COVERAGE, NUM_CLASSES, SCENE_HEIGHT, SCENE_WIDTH, compose_scene, split_indices

pytest.importorskip("sklearn")

#: SHA-256 of the test scene with seed 7. A change of it changes the test set: retrain, or at least evaluate again.
SCENE_7_SHA256 = "375d4a1ddcaced2999309c7a9fdb857d6459c12e28eab4152348f2c3496fc2f3"


@pytest.mark.parametrize("split", ["train", "test"])
def test_scene_has_the_promised_form(split):
    scene = compose_scene(3, split)
    assert scene.image.shape == (3, SCENE_HEIGHT, SCENE_WIDTH)
    assert scene.image.dtype == torch.uint8
    assert scene.boxes.shape == (len(scene.labels), 4)
    assert scene.boxes.dtype == torch.float32
    assert scene.labels.dtype == torch.int64
    assert 1 <= len(scene.labels) <= scenes.MAX_DIGITS
    assert int(scene.labels.min()) >= 0
    assert int(scene.labels.max()) < NUM_CLASSES


@pytest.mark.parametrize("split", ["train", "test"])
def test_same_seed_gives_the_same_scene(split):
    first, second = compose_scene(11, split), compose_scene(11, split)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_seed_and_split_change_the_scene():
    images = [compose_scene(seed, split).image for seed in (0, 1, 1 << 32) for split in ("train", "test")]
    assert not any(torch.equal(a, b) for i, a in enumerate(images) for b in images[:i])


def test_scene_does_not_touch_the_global_random_state():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    compose_scene(0, "train")
    assert np.array_equal(before, np.random.get_state()[1])


def test_scene_is_the_same_on_every_machine():
    scene = compose_scene(7, "test")
    digest = hashlib.sha256(b"".join(part.numpy().tobytes() for part in scene)).hexdigest()
    assert digest == SCENE_7_SHA256


def test_splits_share_no_scan_and_cover_all_classes():
    from sklearn.datasets import load_digits

    train, test = split_indices("train"), split_indices("test")
    targets = load_digits().target
    assert not set(train) & set(test)
    assert sorted(train + test) == list(range(len(targets)))
    shares = np.bincount(targets[list(test)], minlength=NUM_CLASSES) / np.bincount(targets)
    assert shares.min() > 0.18
    assert shares.max() <= 0.2


@pytest.mark.parametrize("split", ["train", "test"])
def test_boxes_are_inside_and_tight_around_the_ink(split):
    for seed in range(8):
        scene, covered = scenes._compose(seed, split)
        ink = covered >= INK_COVERAGE
        outside = ink.copy()
        for x1, y1, x2, y2 in scene.boxes.int().tolist():
            assert 0 <= x1 < x2 <= SCENE_WIDTH
            assert 0 <= y1 < y2 <= SCENE_HEIGHT
            inner = ink[y1:y2, x1:x2]
            assert inner[0].any()
            assert inner[-1].any()
            assert inner[:, 0].any()
            assert inner[:, -1].any()
            outside[y1:y2, x1:x2] = False
        assert not outside.any()


def test_digits_are_of_all_sizes_and_hardly_overlap():
    from torchvision.ops import box_iou

    sizes = []
    for seed in range(40):
        boxes = compose_scene(seed, "test").boxes
        sizes.append((boxes[:, 2:] - boxes[:, :2]).amax(dim=1))
        iou = box_iou(boxes, boxes).fill_diagonal_(0)
        assert float(iou.max()) < 0.1
    longest = torch.cat(sizes)
    assert float(longest.min()) >= 14
    assert float(longest.max()) <= 170
    assert float(longest.quantile(0.1)) < 32
    assert float(longest.quantile(0.9)) > 90


def test_negative_seed_fails():
    with pytest.raises(ValueError, match="seed must not be negative, got -1"):
        compose_scene(-1, "test")
