"""Measures RetinaNet's decode and suppression against what else does it, in one process and in turn.

    python -m benchmarks.bench_postprocess --out results.json [--cases "batch 1;batch 8"]

- ours: the plugin ``RetinaNetPostProcess``, on heads as the network gives them;
- torchvision: ``RetinaNet.postprocess_detections`` in eager mode, on heads that were permuted to its layout before;
- EfficientNMS: the plugin of TensorRT's own library, on scores that were permuted and boxes that were decoded before;
- read: the sum over all scores' bytes, as the least that anything which looks at every score can take.

Ours is checked against ``tests/reference`` before it is timed. Of the others the share of our detections that they
find, too, is in the results; who finds too few is not timed. Times are of the device, from CUDA events, after a write
that pushes everything out of the caches: of a CUDA graph's replay, and of calls on a stream.
"""

from __future__ import annotations

import argparse
import functools
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import RetinaNet
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_iou

from benchmarks.bench_plugins import Replay, device_times, plugin_engine
from benchmarks.models import build_case
from benchmarks.results import Results, header, measure_all, what
from examples.retinanet import model as digits
from tests.reference.retinanet_postprocess import decode, decode_boxes, nms
from torch_trt_ext.builders.retinanet import retinanet_postprocess_spec
from torch_trt_ext.builders.retinanet_tensorrt import postprocess_fields
from torch_trt_ext.builders.tensorrt_build import (
    build_logger,
    create_plugin,
    float_field,
    import_tensorrt,
    int_field,
    string_field,
)
from torch_trt_ext.runtime import load_plugins

#: Images of a batch that are checked against the reference, which compares all pairs of thousands of boxes.
_CHECKED_IMAGES = 2

#: expf and the difference of large coordinates, as in tests/gpu.
_BOX_RTOL, _BOX_ATOL = 1e-4, 1e-3

#: Of our detections that another way must find, with the class, nearly the score and nearly the box, to be timed.
_LEAST_AGREEMENT = 0.8

_KERNELS = re.compile(r"(scan|refine|select|rank|merge|suppress)_kernel|(memset)", re.IGNORECASE)


@dataclass(frozen=True)
class Heads:
    """What a network gives for some images, and what its post-processing is told.

    Attributes:
        scores: a level's are ``Tensor[N, A * C, H, W]``, on the GPU; logits or probabilities.
        deltas: a level's are ``Tensor[N, A * 4, H, W]``, likewise.
        anchors: a level's are ``Tensor[A, 4]``, float32, xyxy pixels around (0, 0).
        strides: pixels a cell, one a level.
        image_size: height and width, pixels.
        are_logits: whether the scores are logits.
        max_detections: an image.
        nms_thresh: of two boxes of a class with a greater IoU, the lower goes.
    """

    scores: list[Tensor]
    deltas: list[Tensor]
    anchors: list[Tensor]
    strides: tuple[int, ...]
    image_size: tuple[int, int]
    are_logits: bool = False
    score_thresh: float = 0.05
    topk_candidates: int = 1000
    max_detections: int = 300
    nms_thresh: float = 0.5

    @property
    def batch(self) -> int:
        """Images."""
        return self.scores[0].shape[0]

    @property
    def num_classes(self) -> int:
        """Classes of each anchor."""
        return self.scores[0].shape[1] // self.anchors[0].shape[0]

    @property
    def score_bytes(self) -> int:
        """Of all levels and images."""
        return sum(level.numel() * level.element_size() for level in self.scores)

    def probabilities(self, level: Tensor) -> Tensor:
        """The scores of a level as the plugin defines them."""
        return 1 / (1 + torch.exp(-level.float())) if self.are_logits else level

    @cached_property
    def candidates(self) -> int:
        """Scores over the threshold, an image."""
        over = sum(int((self.probabilities(level) > self.score_thresh).sum()) for level in self.scores)
        return over // self.batch


RETINANET_SIZES = ((100, 152), (50, 76), (25, 38), (13, 19), (7, 10))
RETINANET_STRIDES = (8, 16, 32, 64, 128)


def _retinanet_anchors(device: str) -> list[Tensor]:
    anchors = []
    for level in range(len(RETINANET_SIZES)):
        sides = [32 * 2**level * scale for scale in (1, 2 ** (1 / 3), 2 ** (2 / 3))]
        half = [(side * ratio**-0.5 / 2, side * ratio**0.5 / 2) for ratio in (0.5, 1.0, 2.0) for side in sides]
        anchors.append(torch.tensor([[-x, -y, x, y] for x, y in half], device=device))
    return anchors


@dataclass(frozen=True)
class PostProcessCase:
    """Random heads of RetinaNet-R50 on 800 x 1216 pixels, with about so many candidates an image.

    Candidates are cubes of uniform numbers: most just over the threshold, few near 1, as a network has them.
    """

    batch: int = 1
    dtype: torch.dtype = torch.float32
    candidates: int = 29_000
    num_classes: int = 91
    are_logits: bool = False

    def heads(self, device: str = "cuda") -> Heads:
        """The same each time."""
        torch.manual_seed(1)
        anchors = _retinanet_anchors(device)
        channels = anchors[0].shape[0] * self.num_classes
        share = self.candidates / (channels * sum(height * width for height, width in RETINANET_SIZES))
        scores, deltas = [], []
        for size in RETINANET_SIZES:
            shape = (self.batch, channels, *size)
            level = torch.empty(shape, dtype=self.dtype, device=device)
            for image in range(self.batch):
                below = torch.rand(shape[1:], device=device) * 0.04
                over = 0.0501 + 0.94 * torch.rand(shape[1:], device=device) ** 3
                mixed = torch.where(torch.rand(shape[1:], device=device) < share, over, below)
                level[image] = mixed.clamp(min=1e-6).logit() if self.are_logits else mixed
            scores.append(level)
            deltas.append((torch.randn(self.batch, 4 * anchors[0].shape[0], *size, device=device) * 0.3).to(self.dtype))
        return Heads(scores, deltas, anchors, RETINANET_STRIDES, (800, 1216), self.are_logits)


CASES = {
    "batch 1": PostProcessCase(),
    "batch 8": PostProcessCase(batch=8),
    "batch 1, float16": PostProcessCase(dtype=torch.float16),
    "batch 8, float16": PostProcessCase(batch=8, dtype=torch.float16),
    "batch 64, float16": PostProcessCase(batch=64, dtype=torch.float16),
    "logits": PostProcessCase(are_logits=True),
    "500 candidates": PostProcessCase(candidates=500),
    "500,000 candidates": PostProcessCase(candidates=500_000),
    "batch 8, 500,000 candidates": PostProcessCase(batch=8, candidates=500_000),
    "1 class": PostProcessCase(num_classes=1),
    "1,000 classes": PostProcessCase(num_classes=1000),
}

#: Heads that a network gives, by the name of the case in benchmarks/models.py.
NETWORKS = {"RetinaNet-R50's own heads": "retinanet_with_engine", "the digit detector": "digits_with_engine"}


@torch.no_grad()
def network_heads(name: str) -> Heads:
    """Heads of one of :data:`NETWORKS` on its image, and its own settings."""
    case = build_case(NETWORKS[name], "cuda")
    assert case.trunk is not None
    (images,) = case.arguments
    scores, deltas = ([level.contiguous() for level in levels] for levels in case.trunk(images))
    size = (images.shape[-2], images.shape[-1])
    if name == "the digit detector":
        anchors = [cell.float().cuda() for cell in digits.cell_anchors(digits.load_digit_detector())]
        return Heads(
            scores,
            deltas,
            anchors,
            tuple(digits.STRIDES),
            size,
            score_thresh=digits.SCORE_THRESH,
            topk_candidates=digits.TOPK_CANDIDATES,
            max_detections=digits.DETECTIONS_PER_IMAGE,
            nms_thresh=digits.NMS_THRESH,
        )
    retinanet: Any = getattr(case.plain, "model", None)
    anchors = [cell.float().cuda() for cell in retinanet.anchor_generator.cell_anchors]
    return Heads(scores, deltas, anchors, RETINANET_STRIDES, size, max_detections=retinanet.detections_per_img)


@dataclass(frozen=True)
class Detections:
    """One image's, best first: ``Tensor[k]``, ``Tensor[k, 4]`` and ``Tensor[k]``, float32, CPU."""

    scores: Tensor
    boxes: Tensor
    classes: Tensor

    @staticmethod
    def of(scores: Tensor, boxes: Tensor, classes: Tensor) -> Detections:
        """Of outputs of one image, padded or not."""
        flat = scores.detach().float().cpu().flatten()
        real = flat > 0
        corners = boxes.detach().float().cpu().reshape(-1, 4)
        return Detections(flat[real], corners[real], classes.detach().float().cpu().flatten()[real])

    def found_by(self, other: Detections) -> float:
        """Share of these that ``other`` has, too, with the class, nearly the score and nearly the box."""
        if self.scores.numel() == 0:
            return 1.0
        same = (self.classes[:, None] == other.classes[None]) & (
            (self.scores[:, None] - other.scores[None]).abs() < 2e-3
        )
        return ((box_iou(self.boxes, other.boxes) > 0.9) & same).any(dim=1).float().mean().item()


class Ours:
    """The engine."""

    def __init__(self, heads: Heads) -> None:
        spec = retinanet_postprocess_spec(
            (heads.scores, heads.deltas),
            (heads.batch, 3, *heads.image_size),
            heads.anchors,
            heads.score_thresh,
            heads.nms_thresh,
            heads.topk_candidates,
            heads.max_detections,
            box_convention="torchvision",
            image_size=heads.image_size,
            strides=heads.strides,
        )
        activation = string_field("score_activation", "sigmoid" if heads.are_logits else "none")
        fields = [field for field in postprocess_fields(spec) if field.name != activation.name] + [activation]
        inputs = dict(zip(spec.input_names, heads.scores + heads.deltas, strict=True))
        outputs = dict.fromkeys(("scores", "boxes", "classes"), torch.float32) | {"num_detections": torch.int32}
        library = str(load_plugins())
        engine = plugin_engine(lambda: create_plugin("RetinaNetPostProcess", fields, library=library), inputs, outputs)
        tensors = list(inputs.values())
        self.call = lambda: engine.forward(tensors)

    def check(self, heads: Heads) -> None:
        """Raises an AssertionError unless the answers are the reference's."""
        scores, boxes, classes, counts = self.call()
        for image in range(min(heads.batch, _CHECKED_IMAGES)):
            want = reference(heads, image)
            torch.testing.assert_close(scores[image].cpu(), want[0][0], rtol=0, atol=0)
            torch.testing.assert_close(classes[image].cpu(), want[2][0], rtol=0, atol=0)
            torch.testing.assert_close(boxes[image].cpu(), want[1][0], rtol=_BOX_RTOL, atol=_BOX_ATOL)
            assert int(counts[image]) == int((want[0] > 0).sum())

    def detections(self, image: int) -> Detections:
        """Of one image."""
        scores, boxes, classes, _ = self.call()
        return Detections.of(scores[image], boxes[image], classes[image])


def reference(heads: Heads, image: int) -> tuple[Tensor, ...]:
    """What tests/reference makes of one image; decoded on the GPU, whose ``exp`` is the plugin's."""
    levels = [
        decode(
            heads.probabilities(scores[image : image + 1]),
            deltas[image : image + 1],
            anchors,
            stride=stride,
            topk_candidates=heads.topk_candidates,
            score_thresh=heads.score_thresh,
            box_convention="torchvision",
            image_size=heads.image_size,
        )
        for scores, deltas, anchors, stride in zip(
            heads.scores, heads.deltas, heads.anchors, heads.strides, strict=True
        )
    ]
    scores, boxes, classes = (torch.cat(parts, dim=1).cpu() for parts in zip(*levels, strict=True))
    # The reference compares all pairs: spare it the padding.
    real = scores[0, :, 0, 0] > 0
    if not real.any():
        real[0] = True
    boxes = boxes.reshape(1, -1, 4)[:, real].reshape(1, -1, 1, 1)
    return nms(
        scores[:, real],
        boxes,
        classes[:, real],
        nms_thresh=heads.nms_thresh,
        max_detections_per_image=heads.max_detections,
        box_convention="torchvision",
    )


def _cells_last(level: Tensor, num_anchors: int) -> Tensor:
    """``Tensor[N, A * K, H, W]`` to ``Tensor[N, H * W * A, K]``, contiguous: torchvision's layout."""
    batch, _, height, width = level.shape
    return (
        level.reshape(batch, num_anchors, -1, height, width)
        .permute(0, 3, 4, 1, 2)
        .reshape(batch, height * width * num_anchors, -1)
    )


def _grid_anchors(heads: Heads) -> list[Tensor]:
    """Every level's anchors at every cell, ``Tensor[H * W * A, 4]``, in the order of :func:`_cells_last`."""
    placed = []
    for level, anchors, stride in zip(heads.scores, heads.anchors, heads.strides, strict=True):
        height, width = level.shape[-2:]
        rows, columns = (torch.arange(count, device=level.device) * stride for count in (height, width))
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        shifts = torch.stack([x, y, x, y], dim=-1).float()
        placed.append((shifts[:, :, None] + anchors).reshape(-1, 4))
    return placed


class Torchvision:
    """torchvision's own function on the layout and the logits that it takes."""

    def __init__(self, heads: Heads) -> None:
        if heads.scores[0].dtype != torch.float32:
            raise Skipped("measured in float32 only")
        settings = SimpleNamespace(
            score_thresh=heads.score_thresh,
            topk_candidates=heads.topk_candidates,
            nms_thresh=heads.nms_thresh,
            detections_per_img=heads.max_detections,
            box_coder=BoxCoder((1.0, 1.0, 1.0, 1.0)),
        )
        counts = [anchors.shape[0] for anchors in heads.anchors]
        logits = [level if heads.are_logits else level.logit() for level in heads.scores]
        outputs = {
            "cls_logits": [_cells_last(level, count) for level, count in zip(logits, counts, strict=True)],
            "bbox_regression": [_cells_last(level, count) for level, count in zip(heads.deltas, counts, strict=True)],
        }
        anchors = [_grid_anchors(heads)] * heads.batch
        sizes = [heads.image_size] * heads.batch
        # It reads nothing of the model but these settings.
        self.call = lambda: RetinaNet.postprocess_detections(settings, outputs, anchors, sizes)

    def detections(self, image: int) -> Detections:
        """Of one image."""
        found = self.call()[image]
        return Detections.of(found["scores"], found["boxes"], found["labels"])


class EfficientNms:
    """TensorRT's plugin, which has no limit of candidates a level and takes boxes that are decoded already."""

    def __init__(self, heads: Heads) -> None:
        trt = import_tensorrt()
        if not trt.init_libnvinfer_plugins(build_logger(), ""):
            raise Skipped("TensorRT's plugin library is not there")
        creator = trt.get_plugin_registry().get_creator("EfficientNMS_TRT", "1", "")
        if creator is None:
            raise Skipped("this TensorRT has no EfficientNMS_TRT")
        fields = [
            float_field("score_threshold", heads.score_thresh),
            float_field("iou_threshold", heads.nms_thresh),
            int_field("max_output_boxes", heads.max_detections),
            int_field("background_class", -1),
            int_field("score_activation", int(heads.are_logits)),
            int_field("class_agnostic", 0),
            int_field("box_coding", 0),
        ]

        def make_plugin() -> Any:
            collection = trt.PluginFieldCollection(
                [trt.PluginField(field.name, field.data, getattr(trt.PluginFieldType, field.type)) for field in fields]
            )
            plugin = creator.create_plugin("EfficientNMS", collection)
            if plugin is None:
                raise RuntimeError("EfficientNMS_TRT refused its fields")
            return plugin

        dtype = heads.scores[0].dtype
        inputs = {"boxes": self._boxes(heads).to(dtype), "scores": self._scores(heads)}
        outputs = {
            "num_detections": torch.int32,
            "detection_boxes": dtype,
            "detection_scores": dtype,
            "detection_classes": torch.int32,
        }
        engine = plugin_engine(make_plugin, inputs, outputs)
        tensors = list(inputs.values())
        self.call = lambda: engine.forward(tensors)

    @staticmethod
    def _scores(heads: Heads) -> Tensor:
        levels = [
            _cells_last(level, anchors.shape[0]) for level, anchors in zip(heads.scores, heads.anchors, strict=True)
        ]
        return torch.cat(levels, dim=1).contiguous()

    @staticmethod
    def _boxes(heads: Heads) -> Tensor:
        anchors = torch.cat(_grid_anchors(heads))
        deltas = torch.cat(
            [_cells_last(level, cell.shape[0]) for level, cell in zip(heads.deltas, heads.anchors, strict=True)], dim=1
        )
        images = [
            decode_boxes(
                image, anchors, box_convention="torchvision", grid_size=heads.image_size, image_size=heads.image_size
            )
            for image in deltas
        ]
        return torch.stack(images)

    def detections(self, image: int) -> Detections:
        """Of one image."""
        counts, boxes, scores, classes = self.call()
        count = int(counts[image])
        return Detections.of(scores[image, :count], boxes[image, :count], classes[image, :count])


class Skipped(Exception):
    """Why a way is not measured."""


PEERS = {"torchvision": Torchvision, "EfficientNMS": EfficientNms}


def kernel_times(call: Any) -> dict[str, float]:
    """Microseconds of each of our kernels in one call with cold caches, median of ten."""
    from torch.profiler import ProfilerActivity, profile

    flush = torch.empty(512 << 20, dtype=torch.uint8, device="cuda")
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        for number in range(10):
            flush.fill_(number)
            call()
        torch.cuda.synchronize()
    found: dict[str, list[float]] = {}
    for event in profiled.events():
        match = _KERNELS.search(event.name)
        if match:
            found.setdefault((match[1] or match[2]).lower(), []).append(event.device_time)
    return {name: round(statistics.median(times), 1) for name, times in found.items()}


def measure_case(heads: Heads, runs: int) -> Results:
    """Checks and times all ways.

    Returns:
        For JSON: one entry for each way, with its times or why it has none.
    """
    ours = Ours(heads)
    ours.check(heads)
    replay = Replay(ours.call)
    words = torch.cat([level.flatten() for level in heads.scores])
    words = words[: words.numel() // 2 * 2].view(torch.float32)
    calls: dict[str, Any] = {"ours": replay, "ours on a stream": ours.call, "read": Replay(words.sum)}
    ways: dict[str, Results] = {name: {"status": "checked"} for name in calls}
    mine = ours.detections(0)
    for name, make in PEERS.items():
        try:
            peer = make(heads)
            agreement = mine.found_by(peer.detections(0))
            ways[name] = {"status": "checked", "finds_of_ours": round(agreement, 4)}
            if agreement < _LEAST_AGREEMENT:
                ways[name]["status"] = "disagrees"
            elif name == "torchvision":
                calls[name] = peer.call
            else:
                calls[name] = Replay(peer.call)
        except Skipped as reason:
            ways[name] = {"status": "skipped", "reason": str(reason)}
        except Exception as error:  # whatever another library raises
            ways[name] = {"status": "failed", "reason": what(error)}
    slow = {name: call for name, call in calls.items() if name == "torchvision"}
    times = device_times({name: call for name, call in calls.items() if name not in slow}, runs=runs)
    times |= device_times(slow, warmup=3, runs=max(10, runs // 5)) if slow else {}
    for name, time in times.items():
        ways[name] |= {"status": "measured", "times": time.as_dict()}
        ways[name]["times_ours"] = round(time.median_us / times["ours"].median_us, 3)
    return {
        "batch": heads.batch,
        "dtype": str(heads.scores[0].dtype).removeprefix("torch."),
        "classes": heads.num_classes,
        "candidates_per_image": heads.candidates,
        "detections_of_first_image": mine.scores.numel(),
        "score_bytes": heads.score_bytes,
        "terabytes_per_second": {
            name: round(heads.score_bytes / times[name].median_us * 1e-6, 3) for name in ("ours", "read")
        },
        "ways": ways,
        "kernels_us": kernel_times(ours.call),
    }


def table(measured: Sequence[Results]) -> str:
    """Milliseconds on the device as Markdown."""
    names = ("ours", "ours on a stream", "torchvision", "EfficientNMS", "read")
    lines = [
        "| case | candidates | MB of scores | " + " | ".join(names) + " | kernels of ours, µs |",
        "|---" * (len(names) + 4) + "|",
    ]
    for result in measured:
        if "failed" in result:
            lines.append(f"| {result['case']} | failed: {result['failed']} |" + " |" * (len(names) + 2))
            continue
        cells = []
        for name in names:
            way = result["ways"].get(name, {"status": "-"})
            cells.append(f"{way['times']['median_us'] / 1000:.4f}" if "times" in way else way["status"])
        kernels = ", ".join(f"{name} {time}" for name, time in result["kernels_us"].items())
        lines.append(
            f"| {result['case']} | {result['candidates_per_image']} | {result['score_bytes'] / 1e6:.1f} | "
            f"{' | '.join(cells)} | {kernels} |"
        )
    return "\n".join(lines)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = [*CASES, *NETWORKS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=";".join(names), help="with semicolons; default: all")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--runs", type=int, default=100, help="calls of each that are timed; a fifth of torchvision's")
    args = parser.parse_args(arguments)
    args.cases = args.cases.split(";")
    if unknown := [name for name in args.cases if name not in names]:
        parser.error(f"--cases must be of {'; '.join(names)}, got {'; '.join(unknown)}")
    return args


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> None:
    args = _parse(arguments)
    facts = header("bench_postprocess", arguments) | {
        "protocol": "CUDA events with cold caches, all ways in turn; ours, EfficientNMS and the read as a CUDA graph",
    }

    def measure(name: str) -> Results:
        return measure_case(CASES[name].heads() if name in CASES else network_heads(name), args.runs)

    measured = measure_all(args.out, facts, (({"case": name}, functools.partial(measure, name)) for name in args.cases))
    print(table(measured))
    if any("failed" in result for result in measured):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
