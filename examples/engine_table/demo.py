"""Makes the seed's benchmark table: ResNet-18 eager, in TorchScript, and in engines of 32, 16 and 8 bits.

Then two transformers, an engine in a ``state_dict``, its layers timed, a range of batches; on a GPU also the builder's
levels with a cache of timings, and CUDA graphs. Run from the repository's root:
``python -m examples.engine_table.demo``.
"""

from __future__ import annotations

import functools
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import torch_trt_ext
from benchmarks.optimizing import quiet_config
from examples.engine_table.models import images, resnet18, transformers
from examples.running import Check, Place, announcer, choose_place, conclude, parser_for, print_rows
from torch_trt_ext import EngineModule
from torch_trt_ext.optimizer.accuracy import compare
from torch_trt_ext.optimizer.latency import compare_latency
from torch_trt_ext.optimizer.script_module import modules_with_engine

say = announcer(5)

#: Relative errors that are allowed, by what an engine computes in.
_MAX_ERRORS = {"float32": 1e-3, "tf32": 5e-3, "float16": 0.02, "bfloat16": 0.05, "int8": 0.1}

#: What the seed's author had on one GPU, ResNet-18, batch 128: milliseconds an iteration.
SEED = {"eager": 31.35, "engine, float32": 21.53, "engine, 16 bits": 7.09}


class Table:
    """Optimizes models for one place.

    Args:
        place: where.
        seconds: of a measurement of time.
    """

    def __init__(self, place: Place, seconds: float) -> None:
        self.place = place
        self.seconds = seconds

    def optimize(
        self, model: nn.Module, data: Sequence[tuple[Tensor, ...]], level: str = "o1", **options: Any
    ) -> tuple[torch.jit.ScriptModule, dict[str, Any]]:
        """``torch_trt_ext.optimize``; options are ``precision``, ``calib_data``, ``cache``, ``builder_level``."""
        config = quiet_config(self.seconds, options.get("cache"))
        config.precision.engine_precision = options.get("precision", "auto")
        if "builder_level" in options:
            config.tensorrt.builder_optimization_level = options["builder_level"]
        # What is asked for is shown, also where it is not faster.
        config.timing.compare = False
        optimized, _, report = torch_trt_ext.optimize(
            model,
            level,
            self.place.device_type,
            config=config,
            test_data=list(data),
            calib_data=options.get("calib_data", ()),
        )
        return optimized, dict(report)

    def milliseconds(self, calls: dict[str, Callable[[], object]]) -> dict[str, float]:
        """Medians, all in turn."""
        seconds = self.seconds * len(calls)
        latencies = compare_latency(calls, device=self.place.device, warmup=3, runs=50, max_seconds=seconds)
        return {name: latency.median_ms for name, latency in latencies.items()}


def precision_of(report: dict[str, Any]) -> str:
    """What a report's largest engine computes in."""
    return str(max(report["engines"], key=lambda engine: engine["operators"])["precision"])


def resnet_table(table: Table, batch: int, size: int) -> tuple[list[dict[str, Any]], list[Check], Any]:
    """The seed's table; its rows, what must hold, and the model with the engine in 16 bits."""
    device = table.place.device
    model, x = resnet18(size).to(device), images(batch, size).to(device)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        expected = model(x)
    traced = torch.jit.freeze(torch.jit.trace(model, (x,)))
    # PyTorch's convolutions on a GPU round to TF32 unless they are told not to.
    own = "tf32" if table.place.device_type == "gpu" and torch.backends.cudnn.allow_tf32 else "float32"
    ways: dict[str, tuple[Any, str]] = {"eager": (model, own), "TorchScript": (traced, own)}
    half = None
    for name, level, precision in (
        ("engine, float32", "o1", "float32"),
        *([("engine, TF32", "o1", "tf32")] if own == "tf32" else []),
        ("engine, 16 bits", "o1", "auto"),
        ("engine, 8 bits", "o2", "auto"),
    ):
        calibration = [(images(4, size, seed=seed).to(device),) for seed in range(2, 10)]
        if level == "o2":
            # An engine takes the shapes that it was made for.
            calibration = [(part[0].repeat(-(-batch // 4), 1, 1, 1)[:batch],) for part in calibration]
        optimized, report = table.optimize(model, [(x,)], level, precision=precision, calib_data=calibration)
        ways[name] = optimized, precision_of(report)
        half = optimized if name == "engine, 16 bits" else half
    times = table.milliseconds({name: functools.partial(way, x) for name, (way, _) in ways.items()})
    rows, checks = [], []
    for name, (way, precision) in ways.items():
        answers = way(x)
        error = compare(expected, answers).relative
        rows.append(
            {
                "way": name,
                "precision": precision,
                "ms": times[name],
                "images_a_second": batch / times[name] * 1000,
                "relative_error": error,
                "same_class": float((answers.argmax(1) == expected.argmax(1)).float().mean()),
                "seed_ms": SEED.get(name),
            }
        )
        checks.append(Check(f"relative error of {name} ({precision})", error, _MAX_ERRORS[precision]))
    return rows, checks, half


def transformer_rows(table: Table, *, small: bool) -> tuple[list[dict[str, Any]], list[Check]]:
    """Transformers, as they are and with engines."""
    rows, checks = [], []
    for name, (plain, arguments) in transformers(small=small).items():
        model = plain.to(table.place.device)
        given = tuple(tensor.to(table.place.device) for tensor in arguments)
        traced = torch.jit.trace(model, given)
        optimized, report = table.optimize(traced, [given])
        precision = precision_of(report)
        error = compare(model(*given), optimized(*given)).relative
        calls = {"eager": functools.partial(model, *given), "ours": functools.partial(optimized, *given)}
        times = table.milliseconds(calls)
        rows.append(
            {
                "model": name,
                "precision": precision,
                "engines": len(report["engines"]),
                "compute_in_engines": report["coverage"]["compute"],
                "eager_ms": times["eager"],
                "ours_ms": times["ours"],
                "relative_error": error,
            }
        )
        checks.append(Check(f"relative error of {name} ({precision})", error, _MAX_ERRORS[precision]))
        checks.append(Check(f"engines of {name}", len(report["engines"]), 1))
    return rows, checks


def state_of(engine: Any, x: Tensor) -> list[Check]:
    """An engine goes through a file of weights; how far the answers of the one that comes out are off."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pt"
        torch.save(nn.Sequential(EngineModule(engine)).state_dict(), path)
        other = nn.Sequential(EngineModule())
        other.load_state_dict(torch.load(path, weights_only=True))
    return [Check("difference after state_dict", float((other([x])[0] - engine.forward([x])[0]).abs().max()), 0.0)]


def layers_of(engine: Any, x: Tensor) -> tuple[list[dict[str, Any]], list[Check]]:
    """The slowest layers, and what timing them costs the answers (nothing)."""
    before = engine.forward([x])[0].clone()
    engine.set_profiling(True)
    for _ in range(5):
        engine.forward([x])
    rows = sorted(engine.profile(), key=lambda row: -row[2])
    engine.set_profiling(False)
    layers = [{"layer": name, "ms": milliseconds / calls} for name, calls, milliseconds in rows]
    after = engine.forward([x])[0]
    return layers, [
        Check("layers timed", len(layers), 1, at_least=True),
        Check("layers described", len(json.loads(engine.layer_info())["Layers"]), 1, at_least=True),
        Check("difference after profiling", float((after - before).abs().max()), 0.0),
    ]


def ranges(table: Table, size: int) -> tuple[dict[str, Any], list[Check]]:
    """One engine for batches of 1 to 8."""
    device = table.place.device
    model = resnet18(size).to(device)
    batches = images(8, size).to(device)
    optimized, report = table.optimize(model, [(batches[:1],), (batches[:4],), (batches,)])
    worst = max(compare(model(batches[:count]), optimized(batches[:count])).relative for count in (1, 3, 5, 8))
    (module,) = modules_with_engine(optimized).values()
    fallbacks = module.engine.counters()["fallbacks"]
    return {"profiles": module.engine.profiles(), "relative_error": worst}, [
        Check("worst relative error of batches 1, 3, 5 and 8", worst, _MAX_ERRORS[precision_of(report)]),
        Check("batches that the engine did not take", fallbacks, 0),
    ]


def builder_rows(table: Table, size: int, levels: Sequence[int]) -> list[dict[str, Any]]:
    """TensorRT's optimization levels, each built twice with one cache of timings; CUDA graphs off and on."""
    x = images(1, size).to(table.place.device)
    rows = []
    for level in levels:
        with tempfile.TemporaryDirectory() as folder:
            seconds = []
            for _ in range(2):
                # Timings stay; engines do not, or the second build would be none.
                for engine in Path(folder).rglob("*.engine"):
                    engine.unlink()
                start = time.perf_counter()
                optimized, _ = table.optimize(
                    resnet18(size).to(x.device), [(x,)], cache=Path(folder), builder_level=level
                )
                seconds.append(round(time.perf_counter() - start, 2))
        (module,) = modules_with_engine(optimized).values()
        row: dict[str, Any] = {"level": level, "seconds": seconds[0], "seconds_with_timings": seconds[1]}
        for word, graphs in (("ms", False), ("ms_with_cuda_graphs", True)):
            module.engine.set_cuda_graphs(graphs)
            row[word] = table.milliseconds({"ours": functools.partial(optimized, x)})["ours"]
        rows.append(row)
    return rows


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_for("engine_table", __doc__)
    parser.add_argument("--batch", type=int, help="of ResNet-18; default: the seed's 128, 4 in small form")
    args = parser.parse_args(arguments)
    place = choose_place(args.device)
    print(place.sentence)
    args.out.mkdir(parents=True, exist_ok=True)
    table = Table(place, 1.0 if args.small else 10.0)
    batch, size = args.batch or (4 if args.small else 128), 64 if args.small else 224

    say(1, f"ResNet-18, batch {batch}, {size} x {size} pixels")
    rows, checks, half = resnet_table(table, batch, size)
    print_rows(
        [
            ("", "computes in", "ms", "images a second", "relative error", "same class", "the seed's ms"),
            *(
                (
                    row["way"],
                    row["precision"],
                    f"{row['ms']:.2f}",
                    f"{row['images_a_second']:.0f}",
                    f"{row['relative_error']:.1e}",
                    f"{row['same_class']:.1%}",
                    "" if row["seed_ms"] is None or batch != 128 else f"{row['seed_ms']:.2f}",
                )
                for row in rows
            ),
        ]
    )
    (module, *_) = modules_with_engine(half).values()
    x = images(batch, size).to(place.device)

    say(2, "Two transformers")
    transformer, found = transformer_rows(table, small=args.small)
    checks += found
    print_rows(
        [
            ("", "computes in", "eager, ms", "ours, ms", "relative error"),
            *(
                (
                    row["model"],
                    row["precision"],
                    f"{row['eager_ms']:.2f}",
                    f"{row['ours_ms']:.2f}",
                    f"{row['relative_error']:.1e}",
                )
                for row in transformer
            ),
        ]
    )

    say(3, "The engine in a state_dict, and its slowest layers")
    checks += state_of(module.engine, x)
    layers, found = layers_of(module.engine, x)
    checks += found
    print_rows([("layer", "ms"), *((layer["layer"][:70], f"{layer['ms']:.3f}") for layer in layers[:5])])

    say(4, "One engine for batches of 1 to 8")
    ranged, found = ranges(table, size)
    checks += found

    builder: list[dict[str, Any]] = []
    if place.device_type == "gpu":
        say(5, "The builder's optimization levels, with and without timings; CUDA graphs")
        builder = builder_rows(table, size, (0, 3) if args.small else (0, 1, 2, 3, 4))
        print_rows([tuple(builder[0]), *(tuple(str(value) for value in row.values()) for row in builder)])
    else:
        say(5, "The builder's optimization levels and CUDA graphs are TensorRT's: not on the CPU")

    summary = {
        "example": "engine_table",
        "batch": batch,
        "size": size,
        "resnet18": rows,
        "transformers": transformer,
        "layers": layers[:20],
        "ranges": ranged,
        "builder": builder,
    }
    return conclude(args.out, place, summary, checks)


if __name__ == "__main__":
    raise SystemExit(main())
