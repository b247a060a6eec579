"""COCO average precision of a detector on composed scenes."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from examples.retinanet.model import DEFAULT_CHECKPOINT, PlainDetector, load_digit_detector
from examples.retinanet.progress import Progress
from examples.retinanet.scenes import NUM_CLASSES, NUM_TEST_SCENES, SCENE_HEIGHT, SCENE_WIDTH, Scene, fixed_test_scenes

Detections = Sequence[dict[str, Tensor]]
Detector = Callable[[Tensor], Detections]

_METRICS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR1", "AR10", "AR100")


def _xywh(boxes: Tensor) -> list[list[float]]:
    return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).tolist()


def coco_ap(detections: Detections, scenes: Sequence[Scene]) -> dict[str, float]:
    """Scores detections with pycocotools.

    Args:
        detections: a scene's ``boxes`` ``Tensor[n, 4]`` (xyxy pixels), ``scores`` ``Tensor[n]`` and ``labels``
            ``Tensor[n]``, on any device.
        scenes: the scenes, in the same order.

    Returns:
        COCO's numbers by name, in 0..1 (-1 where a size class has no boxes), and AP of every digit at IoU 0.5
        (``AP50_0`` to ``AP50_9``).
    """
    if len(detections) != len(scenes):
        raise ValueError(f"detections must be one a scene, got {len(detections)} for {len(scenes)} scenes")
    annotations: list[dict[str, Any]] = []
    for image_id, scene in enumerate(scenes):
        for box, label in zip(_xywh(scene.boxes), scene.labels.tolist(), strict=True):
            annotations.append(
                {
                    # pycocotools takes an annotation id of 0 for "no match".
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    results: list[dict[str, Any]] = []
    for image_id, found in enumerate(detections):
        boxes = _xywh(found["boxes"].detach().float().cpu())
        for box, score, label in zip(boxes, found["scores"].tolist(), found["labels"].tolist(), strict=True):
            results.append({"image_id": image_id, "category_id": int(label), "bbox": box, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": i, "height": SCENE_HEIGHT, "width": SCENE_WIDTH} for i in range(len(scenes))],
            "categories": [{"id": digit, "name": str(digit)} for digit in range(NUM_CLASSES)],
            "annotations": annotations,
        }
        truth.createIndex()
        if not results:
            return dict.fromkeys((*_METRICS, *(f"AP50_{digit}" for digit in range(NUM_CLASSES))), 0.0)
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    ap = {name: float(value) for name, value in zip(_METRICS, evaluation.stats, strict=False)}
    # [IoU threshold, recall, class, area, max detections]; the first of each is IoU 0.5, all areas; the last, 100.
    precision = evaluation.eval["precision"][0, :, :, 0, -1]
    for digit in range(NUM_CLASSES):
        valid = precision[:, digit][precision[:, digit] > -1]
        ap[f"AP50_{digit}"] = float(valid.mean()) if len(valid) else -1.0
    return ap


@torch.inference_mode()
def detect_scenes(
    detector: Detector,
    scenes: Sequence[Scene],
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 16,
    progress: bool = False,
) -> list[dict[str, Tensor]]:
    """Runs a detector over scenes in batches.

    Args:
        detector: from ``Tensor[N, 3, 384, 512]``, float32 in 0..1, to torchvision's list of dictionaries.
        scenes: what to run it on.
        device: where the detector wants its images.
        batch_size: scenes a call; the last call may get fewer.
        progress: whether to write a line every few seconds to stderr.

    Returns:
        A dictionary a scene, on the CPU.
    """
    found: list[dict[str, Tensor]] = []
    meter = Progress(len(scenes), "scenes")
    for first in range(0, len(scenes), batch_size):
        batch = scenes[first : first + batch_size]
        images = torch.stack([scene.image for scene in batch]).to(device).float() / 255
        found.extend({name: value.cpu() for name, value in one.items()} for one in detector(images))
        if progress:
            meter.update(len(found))
    return found


def main() -> None:
    """Evaluates a checkpoint on the fixed test set and prints COCO's numbers as JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--checkpoint", type=Path, default=DEFAULT_CHECKPOINT)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--scenes", type=int, default=NUM_TEST_SCENES)
    args = parser.parse_args()
    detector = PlainDetector(load_digit_detector(args.checkpoint).to(args.device))
    scenes = fixed_test_scenes(args.scenes)
    found = detect_scenes(detector, scenes, device=args.device, progress=True)
    print(json.dumps({name: round(value, 4) for name, value in coco_ap(found, scenes).items()}, indent=2))


if __name__ == "__main__":
    main()
