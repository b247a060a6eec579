"""Optimizes common architectures and says what became of each: a table of what is covered.

    python -m benchmarks.sweep --device cpu --out sweep_cpu.json [--models torchvision:resnet18,...] [--jobs 1]
    python -m benchmarks.sweep --table sweep_cpu.json sweep_h200.json

Models run in other processes than this, so that one that crashes or takes too long costs nobody else's results; what
is in the file already is not run again. A few processes may share a GPU: one that takes a time has it for itself. Many
gain nothing, since it works for one of them at a time. Weights are random: what is said of errors is about rounding,
not about accuracy.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import gc
import json
import os
import select
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
from torch_trt_ext.builders.tensorrt_build import keep_builders

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


class _Worker:
    """A process that optimizes one model after the other, and is another one after each that fails or takes too long.

    Args:
        job: its number.
        turns: folder for the turns of those that share a GPU.
        args: of the command line.
    """

    def __init__(self, job: int, turns: Path, args: argparse.Namespace) -> None:
        self._args = args
        self._environment = dict(os.environ)
        self._turns: Path | None = None
        if args.jobs > 1:
            self._environment |= _share(job, args)
            if args.device == "gpu":
                self._turns = turns / self._environment["CUDA_VISIBLE_DEVICES"]
        self._process: subprocess.Popen[str] | None = None
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115, closed in close()

    def optimize(self, name: str) -> Results:
        """What became of a model."""
        # What ended by itself did so while it tidied up after the model before.
        if self._process is not None and self._process.poll() is not None:
            self._stop()
        if self._process is None:
            self._start()
        found = self._ask(name)
        if found["status"] == "failed":
            # It is not known in what state the process is.
            self._stop()
        return found

    def close(self) -> None:
        """Ends the process, for good."""
        self._stop()
        self._errors.close()

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
        if self._turns is not None:
            wake(self._turns)

    def _command(self) -> list[str]:
        args = self._args
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.sweep", "--worker", "--device", args.device]
        command += ["--max-seconds", str(args.max_seconds)]
        command += ["--turns", str(self._turns)] if self._turns else []
        command += ["--cache", str(args.cache)] if args.cache else []
        command += [] if args.builder_level is None else ["--builder-level", str(args.builder_level)]
        return command

    def _start(self) -> None:
        self._errors.seek(0)
        self._errors.truncate()
        self._process = subprocess.Popen(
            self._command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=self._environment,
        )

    def _ask(self, name: str) -> Results:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        said = os.fstat(self._errors.fileno()).st_size
        with contextlib.suppress(BrokenPipeError):
            print(name, file=process.stdin, flush=True)
        if not select.select([process.stdout], [], [], self._args.limit)[0]:
            return {"status": "failed", "reason": f"took longer than {self._args.limit:.0f} s"}
        answer = process.stdout.readline()
        if answer.endswith("\n"):
            found: Results = json.loads(answer)
            return found
        status = process.wait()
        self._errors.seek(said)
        last = self._errors.read().strip().splitlines()[-1:] or ["nothing on stderr"]
        return {"status": "failed", "reason": f"ended with status {status}: {last[0][:300]}"}


def _share(job: int, args: argparse.Namespace) -> dict[str, str]:
    """What a process gets of the machine: its share of the cores, and one of the GPUs that this process sees."""
    share = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // args.jobs))}
    if args.device == "gpu":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        gpus = visible.split(",") if visible else [str(gpu) for gpu in range(torch.cuda.device_count())]
        share["CUDA_VISIBLE_DEVICES"] = gpus[job % len(gpus)]
    return share


def _work(args: argparse.Namespace) -> None:
    """What a worker does: for each name on stdin a line of JSON on stdout."""
    # What models and libraries print goes elsewhere.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with contextlib.ExitStack() as stack:
        if args.turns:
            stack.enter_context(take_turns(args.turns))
        if args.device == "gpu":
            stack.enter_context(keep_builders())
        for line in sys.stdin:
            try:
                result = optimize_one(line.strip(), args.device, args.max_seconds, args.cache, args.builder_level)
            except Exception as error:  # whatever it is, it belongs in the table
                result = {"status": "failed", "reason": what(error)}
            gc.collect()
            torch.cuda.empty_cache()
            print(json.dumps(result), file=answers, flush=True)


def sweep(args: argparse.Namespace) -> None:
    """Runs all that the file does not have yet; writes it after each."""
    results: Results = json.loads(args.out.read_text()) if args.out.exists() else {}
    models: dict[str, Any] = results.get("models", {})
    results = {**header("sweep", None), "device": args.device, "models": models}
    waiting = iter([name for name in args.models if models.get(name, {"status": "failed"})["status"] == "failed"])
    lock = threading.Lock()

    def work(job: int, turns: Path) -> None:
        with contextlib.closing(_Worker(job, turns, args)) as worker:
            while True:
                with lock:
                    name = next(waiting, None)
                if name is None:
                    return
                found = worker.optimize(name)
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


def _commits(results: Results) -> str:
    """The commit that models were measured at; where some are of another, for how many each."""
    own = results["environment"]["commit"] or "unknown"
    counts = Counter(model.get("commit", own)[:7] for model in results["models"].values()).most_common()
    if len(counts) == 1:
        return f"commit {counts[0][0]}"
    return "commits " + ", ".join(f"{commit} for {count}" for commit, count in counts)


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
            f"{100 * MIN_COMPUTE:.0f} % of the compute. `{results['command']}`, {_commits(results)}.",
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
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--turns", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.table:
        print(table(args.table))
        return
    if args.worker:
        _work(args)
        return
    if args.out is None:
        parser.error("--out is needed")
    wanted = [name for name in args.models.split(",") if name]
    args.models = [name for name in zoo.names() if not wanted or _is_among(name, wanted)]
    sweep(args)


if __name__ == "__main__":
    main()
