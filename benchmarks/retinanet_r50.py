"""Trains RetinaNet-R50 on the demo's scenes of digits, enlarged to 800 x 1216.

    python -m benchmarks.retinanet_r50 --minutes 4 --out retinanet_r50.pt
    python -m benchmarks.bench_precision --device gpu --retinanet retinanet_r50.pt --out results.json

Random weights leave detections so little apart that 8 bits change most of them, which says nothing of a detector that
has learnt something. The network is torchvision's with its 91 classes, of which the scenes have ten. The file has the
weights in float16 (68 MB).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
import torchvision
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision.models.detection.image_list import ImageList

from benchmarks.models import build_untrained_retinanet
from examples.retinanet.loss import PaddedTargets
from examples.retinanet.model import save_digit_detector
from examples.retinanet.scenes import SCENE_HEIGHT, SCENE_WIDTH, split_indices
from examples.retinanet.train import (
    Batch,
    TrainingScenes,
    WeightAverage,
    collate,
    make_optimizer,
    set_learning_rate,
    training_step,
    usable_workers,
)

HEIGHT, WIDTH = 800, 1216

_REPORT_STEPS = 50


def enlarged(images: Tensor) -> Tensor:
    """Scenes, ``Tensor[N, 3, 384, 512]``, uint8, as ``Tensor[N, 3, 800, 1216]``, float32 in 0..1."""
    return functional.interpolate(images.float() / 255, (HEIGHT, WIDTH), mode="bilinear", align_corners=False)


def _factors(device: torch.device) -> Tensor:
    across, down = WIDTH / SCENE_WIDTH, HEIGHT / SCENE_HEIGHT
    return torch.tensor([across, down, across, down], device=device)


def in_scene(detections: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An enlarged scene's detections with boxes in the scene's own pixels."""
    boxes = detections["boxes"]
    return {**detections, "boxes": boxes / _factors(boxes.device)}


class Trainer:
    """One training run on one GPU, or slowly on the CPU.

    Args:
        device: where.
        lr: peak of the learning rate.
    """

    def __init__(self, device: torch.device, lr: float) -> None:
        self._device, self._lr = device, lr
        torch.manual_seed(0)
        torch.backends.cudnn.benchmark = True
        model = build_untrained_retinanet(HEIGHT, WIDTH).to(device, memory_format=torch.channels_last).train()
        self._model = model
        self.average = WeightAverage(model)
        self._optimizer = make_optimizer(model, lr, 0.03)
        self._mean = torch.tensor(model.transform.image_mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(model.transform.image_std, device=device).view(1, 3, 1, 1)
        self._anchors = self._grid_anchors()
        self.steps = 0

    @torch.no_grad()
    def _grid_anchors(self) -> Tensor:
        images = torch.zeros(1, 3, HEIGHT, WIDTH, device=self._device)
        features = list(self.average.model.backbone(images).values())
        anchors: list[Tensor] = self.average.model.anchor_generator(ImageList(images, [(HEIGHT, WIDTH)]), features)
        return anchors[0]

    def step(self, batch: Batch, progress: float) -> Tensor:
        """One step of the optimizer; the loss, without waiting for the device."""
        set_learning_rate(self._optimizer, self._lr, progress)
        batch = batch.to(self._device)
        images = ((enlarged(batch.images) - self._mean) / self._std).contiguous(memory_format=torch.channels_last)
        targets = PaddedTargets(batch.targets.boxes * _factors(self._device), *batch.targets[1:])
        cls_loss, box_loss = training_step(self._model, self._optimizer, images, self._anchors, targets)
        self.steps += 1
        self.average.update(self.steps)
        return cls_loss + box_loss

    def run(self, batches: Iterator[Batch], minutes: float) -> None:
        """Trains until the minutes have run out."""
        started, progress = time.monotonic(), 0.0
        while progress < 1.0:
            loss = self.step(next(batches), progress)
            progress = (time.monotonic() - started) / (60 * minutes)
            if self.steps % _REPORT_STEPS == 0 or progress >= 1.0:
                value = loss.item()
                if not value < float("inf"):
                    raise RuntimeError(f"the loss is {value} at step {self.steps}; lower --lr")
                print(f"step {self.steps}  loss {value:.3f}  {100 * progress:.0f} %", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--workers", type=int, default=max((os.cpu_count() or 2) - 2, 1))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, required=True, help="weights, float16")
    args = parser.parse_args()
    # Loaded before the workers fork, so that they share it.
    split_indices("train")
    workers = usable_workers(args.workers, args.batch_size)
    # More than can be trained on in the time.
    scenes = TrainingScenes(0, 10**7)
    batches = iter(
        DataLoader(
            scenes,
            batch_size=args.batch_size,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=args.device.startswith("cuda"),
        )
    )
    trainer = Trainer(torch.device(args.device), args.lr)
    trainer.run(batches, args.minutes)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_digit_detector(trainer.average.model, args.out)
    facts = {"steps": trainer.steps, "images": trainer.steps * args.batch_size, "torchvision": torchvision.__version__}
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
