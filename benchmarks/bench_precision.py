"""What each precision costs the main job's detector in accuracy, and what it gains.

    python -m benchmarks.bench_precision --device cpu|gpu --out results.json [--scenes 256] [--calibration 128]

The trained detector of digits, its decode and NMS in an engine, is optimized in float32, at level o1 and at level o2,
on a GPU there in int8 and in float8, and each answers the same test scenes. Calibration data are scenes of the training
split. At level o2 its average precision on others of that split decides which nodes stay in 16 bits.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import torch_trt_ext
from benchmarks.models import build_case, build_retinanet_with_engine, detections_or_outputs
from benchmarks.optimizing import quiet_config
from benchmarks.results import Results, header, measure_all
from benchmarks.retinanet_r50 import HEIGHT, WIDTH, enlarged, in_scene
from examples.retinanet.evaluate import coco_ap
from examples.retinanet.scenes import Scene, compose_scene, fixed_test_scenes
from torch_trt_ext.optimizer.latency import measure

#: Precisions of the table: optimize()'s level, and options of config.precision.
PRECISIONS: dict[str, tuple[str, dict[str, str]]] = {
    "float32": ("o1", {"engine_precision": "float32"}),
    "o1": ("o1", {}),
    "o2": ("o2", {}),
    # Large values cost small ones nothing in float8, so none is left out.
    "o2, float8": ("o2", {"eight_bit": "float8", "calibration": "max"}),
}
#: Those that engines for the CPU do not have.
GPU_ONLY = {"o2, float8"}

#: How far the average precision may fall at level o2, and on how many scenes it is measured while engines are chosen.
_MAX_DROP = 0.01
_METRIC_SCENES = 64


class Bench:
    """The detector and its scenes.

    Args:
        device: where it runs.
        retinanet: weights of a RetinaNet-R50 to take, on enlarged scenes; None for the demo's detector.
        scenes: how many test scenes it is judged by.
        calibration: how many training scenes 8-bit ranges come from.
        max_seconds: of a measurement of time.
        cache: folder for engines and TensorRT's timings, or None.
    """

    def __init__(
        self,
        device: torch.device,
        retinanet: Path | None,
        scenes: int,
        calibration: int,
        max_seconds: float,
        cache: Path | None,
    ) -> None:
        self._device = device
        self._enlarged = retinanet is not None
        self._cache = cache
        self._max_seconds = max_seconds
        self._scenes = fixed_test_scenes(scenes)
        self._calibration = [(self._input(compose_scene(seed, "train")),) for seed in range(calibration)]
        self._choosing = [compose_scene(seed, "train") for seed in range(calibration, calibration + _METRIC_SCENES)]
        if retinanet is None:
            self._case = build_case("digits_with_engine", device)
        else:
            self._case = build_retinanet_with_engine(1, HEIGHT, WIDTH, device, retinanet)

    def _input(self, scene: Scene) -> Tensor:
        image = scene.image[None].to(self._device)
        return enlarged(image) if self._enlarged else image.float() / 255

    def eager(self) -> Results:
        """The detector in PyTorch alone."""
        return self._figures(self._case.plain)

    def optimized(self, precision: str) -> Results:
        """The detector with engines of one of :data:`PRECISIONS`."""
        level, options = PRECISIONS[precision]
        config = quiet_config(self._max_seconds, self._cache)
        config.accuracy.max_metric_drop = _MAX_DROP
        for name, value in options.items():
            setattr(config.precision, name, value)
        started = time.perf_counter()
        optimized, _, report = torch_trt_ext.optimize(
            self._case.model,
            level,
            device_type="gpu" if self._device.type == "cuda" else "cpu",
            config=config,
            test_data=[self._case.arguments],
            calib_data=self._calibration,
            metric=functools.partial(self._average_precision, scenes=self._choosing) if level == "o2" else None,
        )
        seconds = time.perf_counter() - started
        return self._figures(optimized) | {
            "engines": [
                {key: engine[key] for key in ("precision", "not_in", "operators", "plan_bytes")}
                | {"kept_16bit": engine["kept_16bit"], "kept_float32": len(engine["kept_float32"])}
                | {"relative_error": engine["error"]["relative"]}
                for engine in report["engines"]
            ],
            "relative_error": report["accuracy"].get("model", {}).get("relative"),
            "metric": report["accuracy"].get("metric"),
            "message": report["diagnosis"]["message"],
            "optimize_seconds": round(seconds, 1),
        }

    @torch.no_grad()
    def _accuracy(self, model: Callable[..., Any], scenes: Sequence[Scene]) -> dict[str, float]:
        found = []
        for scene in scenes:
            (image,) = detections_or_outputs(self._case, model(self._input(scene)))
            image = in_scene(image) if self._enlarged else image
            found.append({name: value.cpu() for name, value in image.items()})
        return coco_ap(found, scenes)

    def _average_precision(self, model: Callable[..., Any], scenes: Sequence[Scene]) -> float:
        return self._accuracy(model, scenes)["AP"]

    @torch.no_grad()
    def _figures(self, model: Callable[..., Any]) -> Results:
        """Accuracy over the scenes and the time of one, of the detector in any form."""
        accuracy = self._accuracy(model, self._scenes)
        latency = measure(lambda: model(*self._case.arguments), device=self._device, max_seconds=self._max_seconds)
        ap = {name: round(accuracy[name], 4) for name in ("AP", "AP50")}
        return {"ap": ap, "latency_ms": round(latency.median_ms, 3)}


def table(results: Results) -> str:
    """The Markdown of a results file."""
    lines = ["| precision | computes in | AP | AP50 | latency, ms | engines, MB |", "|---|---|---|---|---|---|"]
    for row in results["results"]:
        if "failed" in row:
            lines.append(f"| {row['precision']} | failed: {row['failed']} | | | | |")
            continue
        engines = row.get("engines", [])
        size = f"{sum(engine['plan_bytes'] for engine in engines) / 1e6:.1f}" if engines else ""
        ap = row["ap"]
        inside = ", ".join(sorted({engine["precision"] for engine in engines})) or "float32"
        lines.append(
            f"| {row['precision']} | {inside} | {ap['AP']:.4f} | {ap['AP50']:.4f} | {row['latency_ms']:.3f} | {size} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "gpu"], default="gpu")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument(
        "--precisions", nargs="+", choices=list(PRECISIONS), default=list(PRECISIONS), help="eager comes in any case"
    )
    parser.add_argument(
        "--retinanet",
        type=Path,
        help="weights of benchmarks.retinanet_r50: that network in place of the demo's detector",
    )
    parser.add_argument("--scenes", type=int, default=256, help="test scenes for AP")
    parser.add_argument("--calibration", type=int, default=128, help="training scenes for 8-bit ranges")
    parser.add_argument("--max-seconds", type=float, default=20.0, help="of a measurement of time")
    parser.add_argument("--cache", type=Path, help="folder for engines and TensorRT's timings; default: none")
    args = parser.parse_args(arguments)
    device = torch.device("cuda" if args.device == "gpu" else "cpu")
    bench = Bench(device, args.retinanet, args.scenes, args.calibration, args.max_seconds, args.cache)
    cases: list[tuple[Results, Callable[[], Results]]] = [({"precision": "eager"}, bench.eager)]
    for precision in args.precisions:
        if args.device == "cpu" and precision in GPU_ONLY:
            continue
        cases.append(({"precision": precision}, lambda precision=precision: bench.optimized(precision)))
    measure_all(args.out, header("bench_precision", arguments), cases)
    print(table(json.loads(args.out.read_text())))


if __name__ == "__main__":
    main()
