"""PackNet from PyTorch to an engine, saved, loaded in a fresh process, and compared with PyTorch.

On a GPU every group normalization is this package's TensorRT plugin, as in the seed; OpenVINO has its own. Run from the
repository's root: ``python -m examples.packnet.demo``.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import torch_trt_ext
from benchmarks.timing import measure
from examples.packnet.model import FULL, SMALL, build_packnet
from examples.retinanet.scenes import compose_scene
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
)

#: L2 norm of the difference of a disparity map over that of the map, of each precision.
MAX_RELATIVE_ERROR = {"float32": 1e-3, "auto": 0.02}

#: What the precisions are called in what is printed.
_NAMES = {"float32": "float32", "auto": "16 bits"}
say = announcer(4)
_GROUP_NORM = "aten::group_norm"


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        warmup: untimed calls.
        runs: timed calls.
        max_seconds: of a measurement within ``optimize()``.
        images: pictures on which answers are compared.
    """

    warmup: int
    runs: int
    max_seconds: float
    images: int


_SMALL_EFFORT = Effort(warmup=2, runs=5, max_seconds=2, images=2)
_FULL_EFFORT = {
    "cpu": Effort(warmup=3, runs=20, max_seconds=60, images=4),
    "gpu": Effort(warmup=100, runs=200, max_seconds=60, images=16),
}


def make_images(count: int, height: int, width: int) -> Tensor:
    """Test scenes of the detector's example: ``Tensor[count, 3, height, width]``, float32, around 0."""
    scenes = torch.stack([compose_scene(seed, "test").image for seed in range(count)]).float() / 255
    resized = functional.interpolate(scenes, size=(height, width), mode="bilinear", align_corners=False)
    return resized * 2 - 1


@contextlib.contextmanager
def group_norm_as_plugin() -> Iterator[None]:
    """Within the block, ``optimize(device_type="gpu")`` makes every group normalization the package's plugin."""
    torch_trt_ext.register_plugin_operator(
        _GROUP_NORM, "GroupNorm", attributes={"num_groups": "num_groups", "eps": "eps"}, half=True
    )
    try:
        yield
    finally:
        torch_trt_ext.unregister_plugin_operator(_GROUP_NORM)


def optimize_and_save(
    model: torch.nn.Module, images: Tensor, precision: str, effort: Effort, place: Place, path: Path
) -> dict[str, Any]:
    """Replaces what it can by engines, saves the result and its report, and says what became of it."""
    config = torch_trt_ext.Config()
    config.prefer = "trace"
    config.precision.engine_precision = precision
    config.timing.warmup_runs, config.timing.timed_runs = effort.warmup, effort.runs
    config.timing.max_seconds = effort.max_seconds
    # Both precisions are shown, also where PyTorch's convolutions in TF32 are faster than an engine in float32.
    config.timing.compare = False
    started = time.perf_counter()
    with group_norm_as_plugin():
        optimized, _, report = torch_trt_ext.optimize(
            model, "o1", place.device_type, config=config, test_data=[(image[None],) for image in images]
        )
    seconds = time.perf_counter() - started
    left = [entry["node"].partition("@")[0] for entry in report["left_in_torch"]]
    return {
        "seconds": round(seconds, 3),
        **save_optimized(optimized, report, path),
        "group_norms_left_in_torch": left.count(_GROUP_NORM),
    }


def run_saved(path: Path, images: Tensor, effort: Effort, place: Place) -> dict[str, Any]:
    """What a fresh process gets from a saved model, one picture a call."""
    options = ["--device", place.device, "--warmup", effort.warmup, "--runs", effort.runs]
    return run_on_file("examples.run_saved", path, [image[None].clone() for image in images], *options)


def relative_errors(expected: Sequence[Sequence[Tensor]], actual: Sequence[Sequence[Tensor]]) -> list[float]:
    """The worst of all pictures, for each of the four disparity maps."""
    errors = [
        [float((a - e).norm() / e.norm()) for e, a in zip(one, other, strict=True)]
        for one, other in zip(expected, actual, strict=True)
    ]
    return [max(of_map) for of_map in zip(*errors, strict=True)]


def layers_named(layer_info: str, word: str) -> int:
    """How many of an engine's layers have a word in what TensorRT or OpenVINO says of them."""
    return sum(word in json.dumps(layer) for layer in json.loads(layer_info)["Layers"])


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> int:
    args = parser_for("packnet", __doc__).parse_args(arguments)
    place = choose_place(args.device)
    print(place.sentence)
    size = SMALL if args.small else FULL
    effort = _SMALL_EFFORT if args.small else _FULL_EFFORT[place.device_type]
    if args.small:
        use_one_thread()
    args.out.mkdir(parents=True, exist_ok=True)

    say(1, f"Making PackNet for {size.image[0]} x {size.image[1]} pixels and running it in PyTorch, float32 on the CPU")
    images = make_images(effort.images, *size.image)
    model = build_packnet(size, images[:1])
    expected = [model(image[None]) for image in images]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    norms = sum(isinstance(module, torch.nn.GroupNorm) for module in model.modules())
    print(f"      {parameters / 1e6:.1f} million parameters, {norms} group normalizations")
    model, placed = model.to(place.device), images.to(place.device)

    say(2, "Replacing it by engines, of float32 and of 16 bits, and saving the files")
    paths = {precision: args.out / f"packnet_{precision}.pt" for precision in MAX_RELATIVE_ERROR}
    built = {
        precision: optimize_and_save(model, placed, precision, effort, place, path) for precision, path in paths.items()
    }

    say(3, "Loading and running each file in a fresh process that imports only torch and torch_trt_ext.runtime")
    saved = {precision: run_saved(path, images, effort, place) for precision, path in paths.items()}

    say(4, "Comparing with PyTorch")
    one = placed[:1]
    plain = measure(lambda: model(one), device=place.device, warmup=effort.warmup, runs=effort.runs).as_dict()
    checks = []
    results: dict[str, Any] = {}
    rows = [("", "PyTorch", *_NAMES.values())]
    rows.append(("one picture, ms", f"{plain['median_ms']:.2f}"))
    rows.append(("relative error, worst map", "0"))
    for precision, name in _NAMES.items():
        found = saved[precision]
        errors = relative_errors(expected, found["outputs"])
        engines = found["engines"].values()
        counters = calls_of(engines)
        results[precision] = {
            **built[precision],
            "latency": found["latency"],
            "relative_errors": errors,
            "counters": counters,
            "plugin_libraries": sorted({library for engine in engines for library in engine["plugin_libraries"]}),
            "layers_named_group_norm": sum(layers_named(engine["layers"], "GroupNorm") for engine in engines),
        }
        checks += [
            Check(f"relative error in {name}", max(errors), MAX_RELATIVE_ERROR[precision]),
            Check(f"engines in {name}", len(found["engines"]), 1, at_least=True),
            Check(f"calls that fell back to PyTorch in {name}", counters["fallbacks"], 0),
            Check(f"group normalizations left in PyTorch in {name}", built[precision]["group_norms_left_in_torch"], 0),
        ]
        rows[1] += (f"{found['latency']['median_ms']:.2f}",)
        rows[2] += (f"{max(errors):.2g}",)
    print_rows(rows)
    summary = {
        "example": "packnet",
        "small": args.small,
        "image": list(size.image),
        "parameters": parameters,
        "group_normalizations": norms,
        "plain": {"latency": plain},
        "optimized": results,
    }
    return conclude(args.out, place, summary, checks)


if __name__ == "__main__":
    sys.exit(main())
