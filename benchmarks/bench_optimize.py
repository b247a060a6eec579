"""Measures optimize() against every other way to run the same model, in one process and in turn.

    python -m benchmarks.bench_optimize --device gpu --models resnet50,vit_b_16 --batch 1,8,128 --out results.json

Answers are checked before anything is timed: each way's against the model's own in float32 without TF32. What cannot be
compared, fails or answers wrongly is in the results with the reason, and stops nothing. Models are described in
``benchmarks/models.py``, the other ways in ``benchmarks/peers.py``.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import torch_trt_ext
from benchmarks.models import ENGINE_MODELS, MODELS, Case, build_case, calibration_data, detections_or_outputs
from benchmarks.optimizing import quiet_config
from benchmarks.peers import PEERS, Call, Setting, Skipped
from benchmarks.results import Results, header, measure_all, what
from benchmarks.timing import TIMED_RUNS, WARMUP_RUNS
from torch_trt_ext.optimizer.accuracy import Comparison, compare
from torch_trt_ext.optimizer.latency import compare_latency
from torch_trt_ext.optimizer.structures import detach_clone, flatten_tensors, map_tensors

OURS = "ours"

#: The ways of optimize()'s levels.
LEVELS = {"o1": OURS, "o2": "ours, 8 bits"}

#: Relative errors of 16-bit models' answers and of 8-bit ones, as optimize() allows by default.
TOLERANCE = 0.05
TOLERANCE_8_BIT = 0.1

#: Seed of the first image that 8-bit detectors are judged by.
_AGREEMENT_SEED = 5000


def _float32(outputs: Any) -> Any:
    """Outputs of 16-bit models with the reference's dtype, on the CPU."""

    def convert(tensor: Tensor) -> Tensor:
        return tensor.detach().cpu().float() if tensor.is_floating_point() else tensor.detach().cpu()

    return map_tensors(outputs, convert)


def _answers(case: Case, call: Call) -> Any:
    with torch.no_grad():
        outputs = call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return _float32(detach_clone(detections_or_outputs(case, outputs)))


def _reference(case: Case) -> Any:
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return _answers(case, lambda: case.plain(*case.arguments))


class Agreement:
    """The share of a detector's detections that a model made of it finds again, on images of its own: 0 to 1.

    Detections are the same with an IoU of at least 0.5 and the same class. A metric for ``optimize()``.

    Args:
        case: a detector's.
        images: how many, as :func:`benchmarks.models.calibration_data` takes it.
    """

    def __init__(self, case: Case, images: int = 4) -> None:
        self._case = case
        self._items = calibration_data(case, images, first_seed=_AGREEMENT_SEED)
        self._references = [_reference(dataclasses.replace(case, arguments=arguments)) for arguments in self._items]

    def __call__(self, model: Callable[..., Any]) -> float:
        shares = []
        for arguments, reference in zip(self._items, self._references, strict=True):
            answers = _answers(self._case, functools.partial(model, *arguments))
            shares += [1.0 - (output.mismatched or 0.0) for output in compare(reference, answers).errors]
        return sum(shares) / len(shares)


def _optimize(case: Case, level: str, device: torch.device, args: argparse.Namespace) -> tuple[Call, Results, str]:
    """The model optimized at a level, what its report says, and what its largest engine computes in."""
    config = quiet_config(args.max_seconds, args.cache)
    config.precision.engine_precision = args.precision
    agreement = None
    if level == "o2" and args.agreement is not None and case.name in ENGINE_MODELS:
        agreement = Agreement(case)
        config.accuracy.max_metric_drop = 1.0 - args.agreement
    started = time.perf_counter()
    optimized, _, report = torch_trt_ext.optimize(
        case.model,
        level,
        device_type="gpu" if device.type == "cuda" else "cpu",
        config=config,
        test_data=[case.arguments],
        calib_data=calibration_data(case, args.calibration) if level == "o2" else (),
        metric=agreement,
    )
    seconds = time.perf_counter() - started
    engines = [
        {key: engine[key] for key in ("name", "precision", "operators", "plan_bytes", "build_seconds", "from_cache")}
        | {kept: len(engine[kept]) for kept in ("kept_16bit", "kept_float32")}
        | {"error": engine["error"]["relative"]}
        | {"speedup": engine["latency"].get("speedup")}
        for engine in report["engines"]
    ]
    summary = {
        "optimize_seconds": round(seconds, 2),
        "overall": report["overall"],
        "message": report["diagnosis"]["message"],
        "coverage": {key: value for key, value in report["coverage"].items() if key != "modules"},
        "accuracy": report["accuracy"].get("model", {}).get("relative"),
        "metric": report["accuracy"].get("metric"),
        "left_in_torch": len(report["left_in_torch"]),
        "engines": engines,
    }
    largest = max(report["engines"], key=lambda engine: engine["operators"], default={"precision": "float32"})
    return lambda: optimized(*case.arguments), summary, largest["precision"]


def _entry(comparison: Comparison, tolerance: float) -> Results:
    if not comparison.within(tolerance):
        return {"status": "wrong", "reason": comparison.explain(tolerance)}
    return {"status": "checked", "relative_error": float(f"{comparison.relative:.3g}")}


def measure_case(case: Case, device: torch.device, args: argparse.Namespace) -> Results:
    """Checks and times a model in all ways.

    Args:
        case: on the device.
        device: where all run.
        args: the command line's.

    Returns:
        For JSON: one entry for each way, with its latency or why it has none, and what optimize() reported.
    """
    reference = _reference(case)
    ours: dict[str, Call] = {}
    reports: dict[str, Results] = {}
    precisions: dict[str, str] = {}
    for level in args.levels:
        name = LEVELS[level]
        ours[name], reports[name], precisions[name] = _optimize(case, level, device, args)
    precision = precisions.get(OURS, "float16" if device.type == "cuda" else "bfloat16")
    setting = Setting(case, device, precision, args.cache)
    calls: dict[str, Call] = {}
    entries: dict[str, Results] = {}
    for name in (*PEERS, *ours):
        try:
            made = ours[name] if name in ours else PEERS[name](setting)
            comparison = compare(reference, _answers(case, made))
            # A metric that decided has been measured, of the model as it is.
            judged = bool(reports.get(name, {}).get("metric"))
            tolerance = float("inf") if judged else TOLERANCE_8_BIT if name == LEVELS["o2"] else TOLERANCE
            entries[name] = _entry(comparison, tolerance)
        except Skipped as reason:
            entries[name] = {"status": "skipped", "reason": str(reason)}
        except Exception as error:  # whatever another library raises
            entries[name] = {"status": "failed", "reason": what(error)}
        else:
            if entries[name]["status"] == "checked":
                calls[name] = made
    latencies = compare_latency(
        calls, device=device, warmup=args.warmup, runs=args.runs, max_seconds=args.max_seconds * max(1, len(calls))
    )
    for name, latency in latencies.items():
        entries[name] |= {"status": "measured", "latency": latency.as_dict()}
        if OURS in latencies:
            entries[name]["times_ours"] = round(latency.median_ms / latencies[OURS].median_ms, 4)
    return {
        "inputs": [list(tensor.shape) for _, tensor in flatten_tensors(case.arguments)],
        "engine_precision": precision,
        "ways": entries,
        "report": reports.get(OURS),
        "report_8_bit": reports.get(LEVELS["o2"]),
    }


def table(measured: Sequence[Results]) -> str:
    """Median milliseconds of each way as Markdown, and how many times as fast ours is as eager float32."""
    names = [*PEERS, *LEVELS.values()]
    lines = [
        "| model | batch | " + " | ".join(names) + " | ours against eager float32 | raw engine / ours |",
        "|---" * (len(names) + 4) + "|",
    ]
    for result in measured:
        ways = result.get("ways", {})
        cells = []
        for name in names:
            way = ways.get(name, {"status": ""})
            cells.append(f"{way['latency']['median_ms']:.2f} ms" if "latency" in way else way["status"])
        for name, words in (("eager float32", "{:.2f}x"), ("raw engine", "{:.3f}")):
            ratio = ways.get(name, {}).get("times_ours")
            cells.append("" if ratio is None else words.format(ratio))
        lines.append(f"| {result['model']} | {result['batch']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return int(height), int(width)


def _levels(text: str) -> list[str]:
    levels = text.split(",")
    if not set(levels) <= LEVELS.keys():
        raise argparse.ArgumentTypeError(f"must be of {', '.join(LEVELS)}, got {text}")
    return levels


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["gpu", "cpu"], required=True)
    parser.add_argument("--models", default=",".join(MODELS + ENGINE_MODELS), help="names with commas; default: all")
    parser.add_argument("--batch", default="1", help="batch sizes with commas")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--cache", type=Path, help="folder for engines and TensorRT's timings; default: none")
    parser.add_argument(
        "--precision", default="auto", choices=["auto", "float32", "tf32", "float16", "bfloat16"], help="of engines"
    )
    parser.add_argument(
        "--levels", type=_levels, default=["o1"], help="of optimize(), with commas: o1 and, for 8 bits, o2; default: o1"
    )
    parser.add_argument("--calibration", type=int, default=64, help="images that 8-bit ranges come from")
    parser.add_argument(
        "--agreement",
        type=float,
        help="share of a detector's detections that its 8-bit form must find again on four other images, 0 to 1, in "
        "place of a limit for errors",
    )
    parser.add_argument("--size", type=_size, help="height x width in place of each model's own, as 320x320")
    parser.add_argument("--warmup", type=int, default=WARMUP_RUNS, help="calls of each before the clock starts")
    parser.add_argument("--runs", type=int, default=TIMED_RUNS, help="calls of each that are timed")
    parser.add_argument("--max-seconds", type=float, default=60.0, help="for each way of one model, warm-up and all")
    args = parser.parse_args(arguments)
    unknown = [name for name in args.models.split(",") if name not in MODELS + ENGINE_MODELS]
    if unknown:
        parser.error(f"--models must be of {', '.join(MODELS + ENGINE_MODELS)}, got {', '.join(unknown)}")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    args = _parse(arguments)
    device = torch.device("cuda" if args.device == "gpu" else "cpu")
    facts = header("bench_optimize", arguments) | {
        "tf32_of_eager_float32": {
            "convolutions": torch.backends.cudnn.allow_tf32,
            "matrix_products": torch.backends.cuda.matmul.allow_tf32,
        },
        "protocol": "median wall clock of a call and the end of its device work, all ways in turn over ten rounds",
    }

    def measure(name: str, batch: int) -> Results:
        size = None if name == "digits_with_engine" else args.size
        return measure_case(build_case(name, device, batch=batch, size=size), device, args)

    cases: list[tuple[Results, Callable[[], Results]]] = [
        ({"model": name, "batch": batch}, functools.partial(measure, name, batch))
        for name in args.models.split(",")
        for batch in (int(size) for size in args.batch.split(","))
    ]
    measured = measure_all(args.out, facts, cases)
    print(table(measured))


if __name__ == "__main__":
    main()
