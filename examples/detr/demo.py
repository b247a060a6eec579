"""DETR from PyTorch to engines: static, dynamic and batched shapes, in float32, 16 bits and 8 bits.

Every form is saved, loaded in a fresh process, compared with PyTorch and timed there. Run from the repository's root:
``python -m examples.detr.demo``.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import torch_trt_ext
from benchmarks.timing import measure
from examples.detr.figures import Errors, compare, convolution_share, layer_table, layer_times
from examples.detr.model import Detr, build_detr, make_images
from examples.running import (
    Check,
    Place,
    announcer,
    calls_of,
    choose_place,
    conclude,
    parser_for,
    print_rows,
    run_on_file,
    save_optimized,
    use_one_thread,
    write_summary,
)
from torch_trt_ext.builders.onnx_openvino import native_precision

SHAPES = ("static", "dynamic", "batched")
#: ``optimize()``'s level, and what ``config.precision.engine_precision`` is.
PRECISIONS = {"float32": ("o1", "float32"), "16 bits": ("o1", "auto"), "8 bits": ("o2", "auto")}

#: Mean relative errors of scores and of boxes that are let pass. The heads of a random network are scaled until small
#: differences show, errors among them.
MAX_ERRORS = {"float32": (1e-4, 1e-4), "16 bits": (0.05, 0.05), "8 bits": (0.20, 0.15)}

#: Forms of ``--small``.
_SMALL_FORMS = (
    ("static", "float32"),
    ("static", "16 bits"),
    ("static", "8 bits"),
    ("dynamic", "16 bits"),
    ("batched", "16 bits"),
    ("batched", "8 bits"),
)
say = announcer(4)

#: N, H, W of one call.
Size = tuple[int, int, int]


@dataclass(frozen=True)
class Form:
    """Shapes that a file is made for, and those that it is tried on.

    Attributes:
        samples: for ``optimize()``.
        tried: in the fresh process; dynamic ones lie between the samples.
    """

    samples: tuple[Size, ...]
    tried: tuple[Size, ...]


@dataclass(frozen=True)
class Effort:
    """How large everything is.

    Attributes:
        forms: by shapes.
        calibration: pictures for 8 bits.
        images: pictures on which answers are compared; as many as the largest batch at least.
        rounds: timed calls.
        warmup: calls before.
        profiled: calls in which every layer is timed.
        max_seconds: of a measurement within ``optimize()``.
    """

    forms: dict[str, Form]
    calibration: int
    images: int
    rounds: int
    warmup: int
    profiled: int
    max_seconds: float


_SMALL_EFFORT = Effort(
    forms={
        "static": Form(((1, 128, 160),), ((1, 128, 160),)),
        "dynamic": Form(((1, 128, 160), (2, 160, 224)), ((1, 128, 160), (1, 144, 192), (2, 160, 200))),
        "batched": Form(((4, 128, 160),), ((4, 128, 160),)),
    },
    calibration=8,
    images=4,
    rounds=10,
    warmup=2,
    profiled=3,
    max_seconds=1,
)
#: The seed's 800 x 800 pixels.
_FULL_FORMS = {
    "static": Form(((1, 800, 800),), ((1, 800, 800),)),
    "dynamic": Form(((1, 480, 640), (4, 800, 1056)), ((1, 800, 800), (1, 480, 640), (2, 608, 800), (3, 736, 960))),
    "batched": Form(((8, 800, 800),), ((8, 800, 800),)),
}
_FULL_EFFORT = {
    "gpu": Effort(_FULL_FORMS, calibration=64, images=16, rounds=1000, warmup=100, profiled=84, max_seconds=60),
    "cpu": Effort(_FULL_FORMS, calibration=32, images=8, rounds=20, warmup=3, profiled=5, max_seconds=60),
}


def test_inputs(sizes: Sequence[Size], images: int) -> list[Tensor]:
    """Calls of the given sizes, in turn, until each size had its share of the pictures (once at least)."""
    inputs = []
    first = 0
    for batch, height, width in sizes:
        for _ in range(max(1, images // (len(sizes) * batch))):
            inputs.append(make_images(range(first, first + batch), "test", height, width))
            first += batch
    return inputs


def optimize_and_save(
    model: Detr, form: Form, precision: str, effort: Effort, place: Place, path: Path
) -> dict[str, Any]:
    """Makes engines for a form, saves the model with them and the report, and says what became of it."""
    level, engine_precision = PRECISIONS[precision]
    config = torch_trt_ext.Config()
    config.prefer = "trace"
    config.precision.engine_precision = engine_precision
    # No training has drawn in the largest values of random weights, and with these cut off answers are others.
    config.precision.calibration = "max"
    config.timing.warmup_runs, config.timing.timed_runs = effort.warmup, min(effort.rounds, 200)
    config.timing.max_seconds = effort.max_seconds
    # What is asked for is shown, also where it is not faster, as float32 beside convolutions in TF32.
    config.timing.compare = False
    test_data = [
        (make_images(range(batch), "test", height, width).to(place.device),) for batch, height, width in form.samples
    ]
    calib_data = []
    if level == "o2":
        batch = min(batch for batch, _, _ in form.samples)
        for number, first in enumerate(range(0, effort.calibration, batch)):
            _, height, width = form.samples[number % len(form.samples)]
            calib_data.append((make_images(range(first, first + batch), "train", height, width),))
    started = time.perf_counter()
    with warnings.catch_warnings():
        # transformers checks its inputs with Python's if, which holds for all shapes that are used here.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        # Tracing reads all attributes of its modules, those that are deprecated among them.
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
        optimized, _, report = torch_trt_ext.optimize(
            model, level, place.device_type, config=config, test_data=test_data, calib_data=calib_data
        )
    seconds = time.perf_counter() - started
    return {
        "optimize_seconds": round(seconds, 3),
        **save_optimized(optimized, report, path),
        "message": report["diagnosis"]["message"],
    }


def run_saved(path: Path, inputs: Sequence[Tensor], effort: Effort, place: Place) -> dict[str, Any]:
    """What a fresh process gets from a saved model."""
    options = ["--device", place.device, "--warmup", effort.warmup, "--runs", effort.rounds]
    options += ["--profiled-runs", effort.profiled]
    return run_on_file("examples.run_saved", path, list(inputs), *options)


def with_throughput(latency: dict[str, Any], batch: int) -> dict[str, Any]:
    """The latency of a call, and the pictures a second that calls one after the other make."""
    return {**latency, "images_per_second": round(1000 * batch / latency["median_ms"], 2)}


def checks_for(name: str, precision: str, errors: Errors, result: dict[str, Any], place: Place) -> list[Check]:
    """What a form has to fulfil."""
    max_score, max_box = MAX_ERRORS[precision]
    checks = [
        Check(f"mean relative error of scores, {name}", errors.score, max_score),
        Check(f"mean relative error of boxes, {name}", errors.box, max_box),
        Check(f"engines, {name}", len(result["engines"]), 1, at_least=True),
        Check(f"calls that fell back to PyTorch, {name}", result["counters"]["fallbacks"], 0),
    ]
    words = _engine_precisions(precision, place)
    as_asked = sum(engine["precision"] in words for engine in result["engines"])
    return [*checks, Check(f"engines of {' or '.join(words)}, {name}", as_asked, 1, at_least=True)]


def _engine_precisions(precision: str, place: Place) -> tuple[str, ...]:
    """In what the report says that engines compute, at least one of them."""
    if precision == "16 bits":
        # A processor without 16-bit arithmetic computes in float32.
        no_16_bits = place.device_type == "cpu" and native_precision() == "f32"
        return ("float32",) if no_16_bits else ("float16", "bfloat16")
    return ("int8",) if precision == "8 bits" else ("float32",)


def _selected(args: argparse.Namespace) -> list[tuple[str, str]]:
    forms = [(shapes, precision) for shapes in SHAPES for precision in PRECISIONS]
    if args.small:
        forms = list(_SMALL_FORMS)
    return [form for form in forms if form[0] in args.shapes and form[1] in args.precisions]


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_for("detr", __doc__)
    parser.add_argument(
        "--rounds", type=int, help="timed calls; default: 1000 on a GPU, 20 on the CPU, 10 with --small"
    )
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=SHAPES)
    parser.add_argument("--precisions", nargs="+", choices=list(PRECISIONS), default=list(PRECISIONS))
    args = parser.parse_args(arguments)
    place = choose_place(args.device)
    print(place.sentence)
    effort = _SMALL_EFFORT if args.small else _FULL_EFFORT[place.device_type]
    if args.small:
        use_one_thread()
    if args.rounds:
        effort = replace(effort, rounds=args.rounds)
    args.out.mkdir(parents=True, exist_ok=True)
    selected = _selected(args)

    say(1, "Making DETR with random weights and running it in PyTorch, float32 on the CPU")
    _, height, width = effort.forms["static"].samples[0]
    model = build_detr(make_images(range(2), "train", height, width), small=args.small)
    print(f"      {sum(parameter.numel() for parameter in model.parameters()) / 1e6:.1f} million parameters")
    inputs = {
        shapes: test_inputs(effort.forms[shapes].tried, effort.images) for shapes in {form[0] for form in selected}
    }
    expected = {shapes: [model(images) for images in calls] for shapes, calls in inputs.items()}
    model = model.to(place.device)

    say(2, "Timing PyTorch")
    plain = {}
    for shapes, calls in inputs.items():
        one = calls[0].to(place.device)
        latency = measure(lambda one=one: model(one), device=place.device, warmup=effort.warmup, runs=effort.rounds)
        plain[shapes] = with_throughput(latency.as_dict(), len(one))

    say(3, f"Making {len(selected)} files with engines; running each in a fresh process, {effort.rounds} rounds")
    results: list[dict[str, Any]] = []
    summary = {
        "example": "detr",
        "small": args.small,
        "rounds": effort.rounds,
        "calibration_images": effort.calibration,
        "plain": plain,
        "optimized": results,
    }
    checks: list[Check] = []
    rows = [
        ("shapes", "precision", "ms a call", "images/s", "PyTorch, ms", "error of scores", "of boxes", "same class")
    ]
    for shapes, precision in selected:
        name = f"{shapes}, {precision}"
        path = args.out / f"detr_{shapes}_{precision.replace(' ', '_')}.pt"
        print(f"      {name}", flush=True)
        result = optimize_and_save(model, effort.forms[shapes], precision, effort, place, path)
        found = run_saved(path, inputs[shapes], effort, place)
        errors = compare(expected[shapes], found["outputs"])
        engines = found["engines"]
        layers = layer_times(engines)
        path.with_suffix(".layers.txt").write_text("\n".join(layer_table(layers, shown=None)) + "\n")
        latency = with_throughput(found["latency"], len(inputs[shapes][0]))
        result |= {
            "shapes": shapes,
            "precision": precision,
            "made_for": effort.forms[shapes].samples,
            "tried_on": effort.forms[shapes].tried,
            "latency": latency,
            "mean_relative_error": errors.as_dict(),
            "counters": calls_of(engines.values()),
            "layers": len(layers),
            "share_of_convolutions": round(convolution_share(layers), 4),
        }
        results.append(result)
        checks += checks_for(name, precision, errors, result, place)
        rows.append(
            (
                shapes,
                precision,
                f"{latency['median_ms']:.2f}",
                f"{latency['images_per_second']:.1f}",
                f"{plain[shapes]['median_ms']:.2f}",
                f"{errors.score:.2g}",
                f"{errors.box:.2g}",
                f"{errors.same_class:.1%}",
            )
        )
        if (shapes, precision) == selected[0]:
            slowest = layer_table(layers)
        write_summary(args.out, place, summary, checks)

    say(4, "Comparing with PyTorch")
    print_rows(rows)
    print(f"\nThe slowest layers, {', '.join(selected[0])} ({effort.profiled} rounds):")
    print("\n".join(slowest))
    return conclude(args.out, place, summary, checks)


if __name__ == "__main__":
    sys.exit(main())
