"""Trains the digit detector on scenes composed on the fly.

    python -m examples.retinanet.train --seed 0 --minutes 5 --out examples/retinanet/digits_retinanet.pt

The same seed gives the same weights to start from and the same scenes in the same order, and the learning rate follows
the count of steps, unless ``--minutes`` runs out first: then it follows the clock, so that a slow machine still ends
with a low rate. What is left to differ is the rounding of the GPU's kernels.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection import RetinaNet

from examples.retinanet.evaluate import coco_ap, detect_scenes
from examples.retinanet.loss import PaddedTargets, pad_targets, retinanet_loss
from examples.retinanet.model import (
    DEFAULT_CHECKPOINT,
    IMAGE_MEAN,
    IMAGE_STD,
    PlainDetector,
    build_digit_detector,
    grid_anchors,
    load_digit_detector,
    save_digit_detector,
)
from examples.retinanet.scenes import (
    MAX_DIGITS,
    NUM_TEST_SCENES,
    SCENE_HEIGHT,
    SCENE_WIDTH,
    Scene,
    compose_scene,
    fixed_test_scenes,
    split_indices,
)

WARMUP_FRACTION = 0.04
FINAL_LR_FRACTION = 0.005
MAX_GRADIENT_NORM = 2.0
EMA_DECAY = 0.999
PREFETCH_BATCHES = 2
REPORT_SECONDS = 5.0


@dataclass
class Batch:
    """Scenes ready for the device.

    Attributes:
        images: ``Tensor[N, 3, 384, 512]``, uint8.
        targets: their boxes, padded.
    """

    images: Tensor
    targets: PaddedTargets

    def pin_memory(self) -> Batch:
        """The same in page-locked memory; DataLoader calls this."""
        return Batch(self.images.pin_memory(), PaddedTargets(*(part.pin_memory() for part in self.targets)))

    def to(self, device: torch.device) -> Batch:
        """The same on a device, in the order of its current stream."""
        moved = PaddedTargets(*(part.to(device, non_blocking=True) for part in self.targets))
        return Batch(self.images.to(device, non_blocking=True), moved)


class TrainingScenes(Dataset[Scene]):
    """``count`` scenes of the training split, another run of them for each ``seed``."""

    def __init__(self, seed: int, count: int) -> None:
        self._seed = seed
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Scene:
        # Seeds below 2**32 are the validation scenes'.
        return compose_scene(((self._seed + 1) << 32) + index, "train")


def collate(scenes: list[Scene]) -> Batch:
    """Stacks scenes into a batch."""
    return Batch(torch.stack([scene.image for scene in scenes]), pad_targets(scenes, MAX_DIGITS))


def usable_workers(wanted: int, batch_size: int) -> int:
    """Loader processes whose batches in flight fit into shared memory, at most ``wanted``."""
    shared = Path("/dev/shm")
    if wanted == 0 or not shared.exists():
        return wanted
    batch_bytes = batch_size * 3 * SCENE_HEIGHT * SCENE_WIDTH
    free_bytes = shutil.disk_usage(shared).free
    fitting = int(0.8 * free_bytes) // (batch_bytes * PREFETCH_BATCHES)
    if fitting < wanted:
        print(
            f"/dev/shm has {free_bytes / 2**20:.0f} MiB free: {fitting} loader processes instead of {wanted}; "
            "enlarge it (mount -o remount,size=16G /dev/shm) to use them all",
            flush=True,
        )
    return min(wanted, fitting)


def learning_rate_factor(progress: float) -> float:
    """One cycle, as a factor of the peak rate: a linear rise, then half a cosine.

    Args:
        progress: part of the training done, in 0..1.
    """
    if progress < WARMUP_FRACTION:
        return max(progress, 1e-4) / WARMUP_FRACTION
    phase = min((progress - WARMUP_FRACTION) / (1 - WARMUP_FRACTION), 1.0)
    return FINAL_LR_FRACTION + (1 - FINAL_LR_FRACTION) * 0.5 * (1 + math.cos(math.pi * phase))


class WeightAverage:
    """An exponential moving average of a model's weights and normalization statistics."""

    def __init__(self, model: RetinaNet) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._pairs = [
            (mine, theirs)
            for mine, theirs in zip(self._tensors(self.model), self._tensors(model), strict=True)
            if mine.is_floating_point()
        ]

    @staticmethod
    def _tensors(model: nn.Module) -> list[Tensor]:
        return [*model.parameters(), *model.buffers()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after ``step`` steps; the first ones weigh less than the decay alone would have it."""
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        torch._foreach_lerp_(
            [mine for mine, _ in self._pairs], [theirs.detach() for _, theirs in self._pairs], 1 - decay
        )


def make_optimizer(model: RetinaNet, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW that leaves biases and normalization weights undecayed."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.99))


def set_learning_rate(optimizer: torch.optim.Optimizer, peak: float, progress: float) -> None:
    """The rate at a part of the training, in 0..1, of one that reaches ``peak``."""
    for group in optimizer.param_groups:
        group["lr"] = peak * learning_rate_factor(progress)


def training_step(
    model: RetinaNet, optimizer: torch.optim.Optimizer, images: Tensor, anchors: Tensor, targets: PaddedTargets
) -> tuple[Tensor, Tensor]:
    """One step of the optimizer.

    Args:
        model: in training mode; on a GPU it computes in bfloat16 where autocast has it so.
        optimizer: of its parameters.
        images: ``Tensor[N, 3, H, W]``, float32, normalized.
        anchors: ``Tensor[M, 4]``, of all cells.
        targets: the images' boxes.

    Returns:
        The losses of classes and boxes, without waiting for the device.
    """
    device = images.device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
        heads = model.head(list(model.backbone(images).values()))
    cls_loss, box_loss = retinanet_loss(heads["cls_logits"].float(), heads["bbox_regression"].float(), anchors, targets)
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(cls_loss + box_loss)
    nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
    optimizer.step()
    return cls_loss.detach(), box_loss.detach()


class Trainer:
    """One training run."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.device = torch.device(args.device)
        torch.manual_seed(args.seed)
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True
            torch.backends.cuda.matmul.allow_tf32 = True
            torch.backends.cudnn.allow_tf32 = True
        model = build_digit_detector()
        self.anchors = grid_anchors(model).to(self.device)
        self.mean = torch.tensor(IMAGE_MEAN, device=self.device).view(1, 3, 1, 1)
        self.std = torch.tensor(IMAGE_STD, device=self.device).view(1, 3, 1, 1)
        self.model = model.to(self.device, memory_format=torch.channels_last).train()
        self.average = WeightAverage(self.model)
        self.optimizer = make_optimizer(self.model, args.lr, args.weight_decay)
        self.validation_scenes = [compose_scene(seed, "train") for seed in range(args.validation_scenes)]
        self.validations: list[dict[str, float]] = []
        self.steps_done = 0
        self.train_seconds = 0.0

    def step(self, batch: Batch, progress: float) -> tuple[Tensor, Tensor]:
        """One step of the optimizer; returns the two losses without waiting for the device."""
        set_learning_rate(self.optimizer, self.args.lr, progress)
        batch = batch.to(self.device)
        images = batch.images.contiguous(memory_format=torch.channels_last).float().div_(255)
        images = (images - self.mean) / self.std
        losses = training_step(self.model, self.optimizer, images, self.anchors, batch.targets)
        self.steps_done += 1
        self.average.update(self.steps_done)
        return losses

    def validate(self) -> None:
        """Saves the averaged weights and scores them on scenes of training digits that are not trained on."""
        save_digit_detector(self.average.model, self.args.out)
        if not self.validation_scenes:
            return
        found = detect_scenes(PlainDetector(self.average.model), self.validation_scenes, device=self.device)
        ap = coco_ap(found, self.validation_scenes)
        self.validations.append({"step": self.steps_done, "AP": ap["AP"], "AP50": ap["AP50"]})
        print(f"  validation at step {self.steps_done}: AP {ap['AP']:.4f}, AP50 {ap['AP50']:.4f}", flush=True)

    def run(self, batches: Iterator[Batch]) -> None:
        """Trains until the steps are done or the minutes have run out."""
        args = self.args
        started = reported = time.monotonic()
        reported_step = 0
        sums = torch.zeros(2, device=self.device)
        fraction = 0.0
        validations_done = 0
        while fraction < 1.0:
            losses = self.step(next(batches), fraction)
            sums += torch.stack(losses)
            now = time.monotonic()
            fraction = max(self.steps_done / args.steps, (now - started) / (60 * args.max_minutes))
            if now - reported > REPORT_SECONDS or fraction >= 1.0:
                cls_loss, box_loss = (sums / (self.steps_done - reported_step)).tolist()
                if not math.isfinite(cls_loss + box_loss):
                    raise RuntimeError(f"the loss is {cls_loss} + {box_loss} at step {self.steps_done}; lower --lr")
                now = time.monotonic()
                rate = (self.steps_done - reported_step) * args.batch_size / (now - reported)
                left_s = min(
                    (args.steps - self.steps_done) * (now - started) / self.steps_done,
                    60 * args.max_minutes - (now - started),
                )
                print(
                    f"step {self.steps_done}/{args.steps}  class loss {cls_loss:.4f}  box loss {box_loss:.4f}  "
                    f"lr {self.optimizer.param_groups[0]['lr']:.1e}  {rate:.0f} images/s  {max(left_s, 0):.0f} s left",
                    flush=True,
                )
                reported, reported_step = now, self.steps_done
                sums.zero_()
            if fraction < 1.0 and fraction * args.validations >= validations_done + 1:
                validations_done += 1
                self.validate()
        self.train_seconds = time.monotonic() - started
        self.validate()

    def summary(self) -> dict[str, Any]:
        """What ran, for the JSON beside the checkpoint."""
        out = Path(self.args.out)
        on_gpu = self.device.type == "cuda"
        return {
            "command": "python -m examples.retinanet.train " + shlex.join(sys.argv[1:]),
            "seed": self.args.seed,
            "steps": self.steps_done,
            "steps_planned": self.args.steps,
            "batch_size": self.args.batch_size,
            "peak_lr": self.args.lr,
            "weight_decay": self.args.weight_decay,
            "training_seconds": round(self.train_seconds, 1),
            "images_per_second": round(self.steps_done * self.args.batch_size / max(self.train_seconds, 1e-9), 1),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "checkpoint": out.name,
            "checkpoint_bytes": out.stat().st_size,
            "checkpoint_sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
            "device": torch.cuda.get_device_name(self.device) if on_gpu else "cpu",
            "versions": {
                "python": sys.version.split()[0],
                "torch": torch.__version__,
                "torchvision": torchvision.__version__,
                "numpy": np.__version__,
                "scikit-learn": sklearn.__version__,
            },
            "validation": self.validations,
        }


def scenes_digest(scenes: list[Scene]) -> str:
    """SHA-256 over images, boxes and labels, to tell whether two machines composed the same scenes."""
    digest = hashlib.sha256()
    for scene in scenes:
        for part in scene:
            digest.update(part.numpy().tobytes())
    return digest.hexdigest()


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description="Trains the digit detector.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--max-minutes", "--minutes", type=float, default=5.0, help="end the schedule by then")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--weight-decay", type=float, default=0.03)
    parser.add_argument("--workers", type=int, default=max((os.cpu_count() or 2) - 2, 1))
    parser.add_argument("--validations", type=int, default=5, help="how often to validate during training")
    parser.add_argument("--validation-scenes", type=int, default=64)
    parser.add_argument("--test-scenes", type=int, default=NUM_TEST_SCENES)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=DEFAULT_CHECKPOINT)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Trains, saves and evaluates."""
    args = parse_args(argv)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    # Loaded before the workers fork, so that they share it.
    split_indices("train")
    workers = usable_workers(args.workers, args.batch_size)
    loader = DataLoader(
        TrainingScenes(args.seed, args.steps * args.batch_size),
        batch_size=args.batch_size,
        num_workers=workers,
        prefetch_factor=PREFETCH_BATCHES if workers else None,
        collate_fn=collate,
        pin_memory=args.device.startswith("cuda"),
    )
    batches = iter(loader)
    trainer = Trainer(args)
    parameters = sum(p.numel() for p in trainer.model.parameters())
    print(f"{parameters / 1e6:.2f} M parameters, {workers} loader processes, {args.device}", flush=True)
    trainer.run(batches)
    # Ends the loader's processes before the evaluation, also when the minutes ran out early.
    del batches

    summary = trainer.summary()
    scenes = fixed_test_scenes(args.test_scenes)
    # What is evaluated is what was saved: the float16 weights.
    detector = PlainDetector(load_digit_detector(args.out).to(args.device))
    ap = coco_ap(detect_scenes(detector, scenes, device=args.device), scenes)
    summary["test"] = {
        "scenes": len(scenes),
        "digits": sum(len(scene.labels) for scene in scenes),
        "scenes_sha256": scenes_digest(scenes),
        **{name: round(value, 4) for name, value in ap.items()},
    }
    report = args.out.with_suffix(".json")
    report.write_text(json.dumps(summary, indent=2) + "\n")
    print(f"test on {len(scenes)} scenes: AP {ap['AP']:.4f}, AP50 {ap['AP50']:.4f}, AP75 {ap['AP75']:.4f}")
    print(f"wrote {args.out} and {report}", flush=True)


if __name__ == "__main__":
    main()
