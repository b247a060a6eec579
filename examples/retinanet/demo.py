"""The main job, end to end: a detector whose backbone is PyTorch and whose post-processing is an engine, in one file.

Builds the engine, traces both into one TorchScript file, loads that in a fresh process, and compares it with the plain
PyTorch model: latency, COCO AP, boxes and scores. Run from the repository's root: ``make demo``.
"""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import TIMED_RUNS, WARMUP_RUNS, environment, measure
from examples.retinanet.draw import draw_detections, grid
from examples.retinanet.evaluate import coco_ap, detect_scenes
from examples.retinanet.model import BackboneAndHeads, PlainDetector, load_digit_detector
from examples.retinanet.pipeline import MixedDetector, build_postprocess_plan, to_detections
from examples.retinanet.scenes import NUM_TEST_SCENES, fixed_test_scenes
from examples.running import announcer, choose_place, print_rows, run_on_file

_BATCH_SIZE = 8
say = announcer(6)
_PICTURE_SCENES = 4
_PICTURE_WIDTH = 1200

Detections = list[dict[str, Tensor]]


@dataclass(frozen=True)
class Agreement:
    """How far two detectors' answers are apart.

    Attributes:
        max_box_difference_px: biggest difference of a coordinate between two detections that match.
        max_score_difference: likewise, of the score.
        unmatched: detections of either that the other has no counterpart for.
        detections: how many the first has.
    """

    max_box_difference_px: float
    max_score_difference: float
    unmatched: int
    detections: int


def compare_detections(first: Detections, second: Detections, *, tolerance_px: float = 1.0) -> Agreement:
    """Pairs each detection of ``first`` with the nearest of ``second`` of the same digit in the same scene."""
    box_difference = score_difference = 0.0
    unmatched = 0
    for one, other in zip(first, second, strict=True):
        free = torch.ones(len(other["scores"]), dtype=torch.bool)
        for box, score, label in zip(one["boxes"], one["scores"], one["labels"], strict=True):
            distance = (other["boxes"] - box).abs().amax(dim=1)
            distance[~free | (other["labels"] != label)] = torch.inf
            if len(distance) == 0 or distance.min() > tolerance_px:
                unmatched += 1
                continue
            # Of equally near ones (a digit found twice), the one with the nearest score.
            near = distance <= distance.min() + 1e-3
            apart = torch.where(near, (other["scores"] - score).abs(), torch.inf)
            match = int(apart.argmin())
            free[match] = False
            box_difference = max(box_difference, float(distance[match]))
            score_difference = max(score_difference, float(apart[match]))
        unmatched += int(free.sum())
    return Agreement(box_difference, score_difference, unmatched, sum(len(one["scores"]) for one in first))


def print_table(summary: dict[str, Any]) -> None:
    """Prints what was measured."""
    plain, mixed, agreement = summary["plain"], summary["mixed"], summary["agreement"]
    rows = [
        ("", "PyTorch", f"PyTorch + {summary['engine']}"),
        (
            "latency, one scene (median)",
            f"{plain['latency']['median_ms']:.2f} ms",
            f"{mixed['latency']['median_ms']:.2f} ms",
        ),
        (
            "  p10 to p90",
            *(f"{m['latency']['p10_ms']:.2f} to {m['latency']['p90_ms']:.2f} ms" for m in (plain, mixed)),
        ),
        *(
            (f"{name} over {summary['scenes']} scenes", f"{plain['ap'][name]:.4f}", f"{mixed['ap'][name]:.4f}")
            for name in ("AP", "AP50")
        ),
    ]
    print()
    print_rows(rows)
    print(
        f"\n{summary['speedup']:.2f}x; of {agreement['detections']} detections {agreement['unmatched']} differ, the "
        f"others by at most {agreement['max_box_difference_px']:.2g} px and {agreement['max_score_difference']:.2g} in "
        "score."
    )


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for what the demo writes")
    parser.add_argument("--device", choices=["cuda", "cpu"], help="default: cuda where TensorRT can run")
    parser.add_argument("--scenes", type=int, default=NUM_TEST_SCENES, help="test scenes for AP")
    parser.add_argument("--warmup", type=int, help=f"default: {WARMUP_RUNS} on a GPU, 10 on the CPU")
    parser.add_argument("--runs", type=int, help=f"default: {TIMED_RUNS} on a GPU, 40 on the CPU")
    args = parser.parse_args()
    place = choose_place(args.device)
    device = place.device.type
    print(place.sentence)
    warmup = args.warmup or (WARMUP_RUNS if device == "cuda" else 10)
    runs = args.runs or (TIMED_RUNS if device == "cuda" else 40)
    args.out.mkdir(parents=True, exist_ok=True)

    say(1, f"Composing {args.scenes} test scenes and loading the trained detector")
    scenes = fixed_test_scenes(args.scenes)
    images = torch.stack([scene.image for scene in scenes])
    model = load_digit_detector().to(device)
    one = images[:1].to(device).float() / 255

    say(2, "Building the engine for decode and NMS")
    plan = build_postprocess_plan(model, one)

    say(3, "Tracing backbone, heads and engine into one TorchScript file")
    mixed = MixedDetector(BackboneAndHeads(model), plan)
    model_path = args.out / "detector.pt"
    with warnings.catch_warnings():
        # The list that the engine returns has a fixed length, which is what tracing asks for.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        traced = torch.jit.trace(mixed, (one,), check_trace=False)
    torch.jit.save(traced, str(model_path))

    say(4, "Loading and running it in a fresh process that imports only torch and torch_trt_ext.runtime")
    options = ["--device", device, "--batch-size", _BATCH_SIZE, "--warmup", warmup, "--runs", runs]
    saved = run_on_file("examples.retinanet.run_saved", model_path, images, *options)
    mixed_found = [found for batch in saved["batches"] for found in to_detections(batch)]

    say(5, "Running the plain PyTorch model on the same scenes")
    plain = PlainDetector(model)
    plain_found = detect_scenes(plain, scenes, device=device, batch_size=_BATCH_SIZE, progress=True)
    plain_latency = measure(lambda: plain(one), device=device, warmup=warmup, runs=runs).as_dict()

    say(6, "Comparing and drawing")
    agreement = compare_detections(plain_found, mixed_found)
    summary: dict[str, Any] = {
        "device": device,
        "engine": place.engine,
        "scenes": len(scenes),
        "model_bytes": model_path.stat().st_size,
        "engine_bytes": len(plan.data),
        "plain": {"latency": plain_latency, "ap": coco_ap(plain_found, scenes)},
        "mixed": {"latency": saved["latency"], "ap": coco_ap(mixed_found, scenes)},
        "speedup": plain_latency["median_ms"] / saved["latency"]["median_ms"],
        "agreement": vars(agreement),
        "fresh_process_also_imported": saved["other_modules"],
        "environment": environment(),
    }
    (args.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    pictures = [
        draw_detections(scene.image, found["boxes"], found["labels"], found["scores"])
        for scene, found in list(zip(scenes, mixed_found, strict=True))[:_PICTURE_SCENES]
    ]
    sheet = grid(pictures)
    sheet = sheet.resize((_PICTURE_WIDTH, round(sheet.height * _PICTURE_WIDTH / sheet.width)))
    sheet.save(args.out / "detections.png", optimize=True)
    print_table(summary)
    print(f"\nWrote {model_path}, {args.out / 'detections.png'} and {args.out / 'summary.json'}.")


if __name__ == "__main__":
    main()
