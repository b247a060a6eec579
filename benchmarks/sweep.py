"""Optimizes common architectures and says what became of each: a table of what is covered.

    python -m benchmarks.sweep --device cpu --out sweep_cpu.json [--models torchvision:resnet18,...] [--jobs 1]
    python -m benchmarks.sweep --table sweep_cpu.json sweep_h200.json

Each model runs in a process of its own, so that one that crashes or takes too long costs nobody else's results; what is
in the file already is not run again. Several may share a GPU, since building is work for the processor: one that takes
a time has the GPU for itself. Weights are random: what is said of errors is about rounding, not about accuracy.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import zoo
from benchmarks.optimizing import quiet_config
from benchmarks.results import Results, header, what, write
from benchmarks.turns import take_turns, wake

#: Goals of the table.
MAX_ENGINES = 3
MIN_COMPUTE = 0.98

#: Of the most common reasons for what stays in PyTorch: how many are kept, and how many the table has.
_KEPT_REASONS = 8
_LISTED_REASONS = 3

_COLUMNS = (
    *("model", "result", "engines", "compute in engines", "relative error", "times faster"),
    "nodes left in PyTorch, most common reasons",
)


def optimize_one(name: str, device: str, max_seconds: float, cache: Path | None, builder_level: int | None) -> Results:
    """What became of one model.

    Args:
        name: as ``torchvision:resnet18``.
        device: "cpu" or "gpu".
        max_seconds: time for measuring the model, and for each of its engines.
        cache: folder for engines and TensorRT's timings, or None.
        builder_level: TensorRT's optimization level, or None for the default.
    """
    import torch_trt_ext

    config = quiet_config(max_seconds, cache)
    if builder_level is not None:
        config.tensorrt.builder_optimization_level = builder_level
    example = zoo.prepare(name)
    place = torch.device("cuda" if device == "gpu" else "cpu")
    model = example.model.to(place)
    arguments = torch.utils._pytree.tree_map_only(torch.Tensor, lambda x: x.to(place), example.arguments)
    started = time.perf_counter()
    _, _, report = torch_trt_ext.optimize(model, "o1", device_type=device, config=config, test_data=[arguments])
    overall = report["overall"]
    reasons = Counter(entry["reason"] for entry in report["left_in_torch"])
    return {
        "status": "optimized" if report["engines"] else "unchanged",
        "engines": len(report["engines"]),
        "precisions": sorted({engine["precision"] for engine in report["engines"]}),
        "compute": report["coverage"].get("compute", 0.0),
        "operators": report["coverage"].get("operators", 0),
        "operators_total": report["coverage"].get("operators_total", 0),
        "relative_error": report["accuracy"].get("model", {}).get("relative"),
        "baseline": overall["baseline"],
        "optimized": overall["optimized"],
        "speedup": float(overall["speedup"]),
        "message": report["diagnosis"]["message"],
        "left_in_torch": len(report["left_in_torch"]),
        "reasons": [[count, reason] for reason, count in reasons.most_common(_KEPT_REASONS)],
        "seconds": round(time.perf_counter() - started, 1),
    }


def _environment(job: int, args: argparse.Namespace) -> dict[str, str]:
    """What a process gets of the machine: its share of the cores, and one of the GPUs that this process sees."""
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // args.jobs))}
    if args.device == "gpu":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        gpus = visible.split(",") if visible else [str(gpu) for gpu in range(torch.cuda.device_count())]
        environment["CUDA_VISIBLE_DEVICES"] = gpus[job % len(gpus)]
    return environment


def _run(name: str, job: int, turns: Path, args: argparse.Namespace) -> Results:
    environment = _environment(job, args) if args.jobs > 1 else dict(os.environ)
    takes_turns = args.device == "gpu" and args.jobs > 1
    if takes_turns:
        turns = turns / environment["CUDA_VISIBLE_DEVICES"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "one.json"
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.sweep", "--one", name, "--device", args.device]
        command += ["--out", str(out), "--max-seconds", str(args.max_seconds)]
        command += ["--turns", str(turns)] if takes_turns else []
        command += ["--cache", str(args.cache)] if args.cache else []
        command += [] if args.builder_level is None else ["--builder-level", str(args.builder_level)]
        try:
            done = subprocess.run(
                command,
                timeout=args.limit,
                capture_output=True,
                text=True,
                check=False,
                env=environment,
            )
        except subprocess.TimeoutExpired:
            return {"status": "failed", "reason": f"took longer than {args.limit:.0f} s"}
        finally:
            wake(turns)
        if out.exists():
            found: Results = json.loads(out.read_text())
            return found
        last = done.stderr.strip().splitlines()[-1:] or ["nothing on stderr"]
        return {"status": "failed", "reason": f"ended with status {done.returncode}: {last[0][:300]}"}


def sweep(args: argparse.Namespace) -> None:
    """Runs all that the file does not have yet; writes it after each."""
    results: Results = json.loads(args.out.read_text()) if args.out.exists() else {}
    models: dict[str, Any] = results.get("models", {})
    results = {**header("sweep", None), "device": args.device, "models": models}
    waiting = iter([name for name in args.models if models.get(name, {"status": "failed"})["status"] == "failed"])
    lock = threading.Lock()

    def work(job: int, turns: Path) -> None:
        while True:
            with lock:
                name = next(waiting, None)
            if name is None:
                return
            found = _run(name, job, turns, args)
            with lock:
                models[name] = found
                print(_row(name, found), file=sys.stderr, flush=True)
                write(args.out, results)

    with tempfile.TemporaryDirectory() as turns, concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for done in [pool.submit(work, job, Path(turns)) for job in range(args.jobs)]:
            done.result()


def _is_among(name: str, wanted: Sequence[str]) -> bool:
    return any(name == word or (word.endswith(":") and name.startswith(word)) for word in wanted)


def is_covered(model: Results) -> bool:
    """Whether a model reaches the goals: few engines with nearly all of the compute."""
    return bool(model["status"] == "optimized" and model["engines"] <= MAX_ENGINES and model["compute"] >= MIN_COMPUTE)


def _row(name: str, model: Results) -> str:
    if model["status"] == "failed":
        return f"| {name} | failed | | | | | {model['reason']} |"
    error = model["relative_error"]
    reasons = "; ".join(f"{count}: {reason}" for count, reason in model["reasons"][:_LISTED_REASONS])
    reasons = reasons.replace("|", "/").replace("__", r"\_\_")
    return (
        f"| {name} | {model['status']}, {'/'.join(model['precisions']) or '-'} | {model['engines']} | "
        f"{100 * model['compute']:.1f} % | {'' if error is None else f'{float(error):.1e}'} | "
        f"{model['speedup']:.2f} | {reasons} |"
    )


def table(paths: Sequence[Path]) -> str:
    """The Markdown of results files."""
    lines = []
    for path in paths:
        results = json.loads(path.read_text())
        models: dict[str, Results] = results["models"]
        covered = sum(map(is_covered, models.values()))
        where = results["environment"]["gpu"] if results["device"] == "gpu" else results["environment"]["cpu"]
        lines += [
            f"## {where}",
            "",
            f"{covered} of {len(models)} models have at most {MAX_ENGINES} engines with at least "
            f"{100 * MIN_COMPUTE:.0f} % of the compute. `{results['command']}`, commit "
            f"{(results['environment']['commit'] or 'unknown')[:7]}.",
            "",
            f"| {' | '.join(_COLUMNS)} |",
            f"|{'---|' * len(_COLUMNS)}",
            *(_row(name, models[name]) for name in sorted(models)),
            "",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--table", nargs="+", type=Path, metavar="JSON", help="print the table of results files and end"
    )
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument(
        "--models", default="", help="names with commas, or a library's with a colon at the end; default: all"
    )
    parser.add_argument("--cache", type=Path, help="folder for engines and timings; default: none")
    parser.add_argument(
        "--builder-level", type=int, help="TensorRT's: a low one builds much sooner; default: the package's"
    )
    parser.add_argument("--max-seconds", type=float, default=10.0, help="of measuring a model or an engine")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for one model")
    parser.add_argument(
        "--jobs", type=int, default=1, help="models at once, each with its share of the cores, on the GPUs in turn"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--turns", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.table:
        print(table(args.table))
        return
    if args.out is None:
        parser.error("--out is needed")
    if args.one:
        try:
            with take_turns(args.turns) if args.turns else contextlib.nullcontext():
                result = optimize_one(args.one, args.device, args.max_seconds, args.cache, args.builder_level)
        except Exception as error:  # whatever it is, it belongs in the table
            result = {"status": "failed", "reason": what(error)}
        write(args.out, result)
        return
    wanted = [name for name in args.models.split(",") if name]
    args.models = [name for name in zoo.names() if not wanted or _is_among(name, wanted)]
    sweep(args)


if __name__ == "__main__":
    main()
