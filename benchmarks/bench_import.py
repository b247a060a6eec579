"""What ``import torch_trt_ext`` takes over ``import torch``.

    python -m benchmarks.bench_import --out results.json [--runs 15]

Each run is a process of its own, which imports torch, then the package, and reads a clock in between; all modules are
in the disk's cache by then. Beside it, in turn, one that imports only ``torch_trt_ext.runtime``, and what a first use
of the parts brings in. The goal is 0.3 s.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.results import Results, header, write

#: Seconds.
GOAL = 0.3

#: What is timed, each after ``import torch``.
STATEMENTS = {
    "import torch_trt_ext": "import torch_trt_ext",
    "import torch_trt_ext.runtime": "import torch_trt_ext.runtime",
    "optimize": "from torch_trt_ext import optimize",
}

SCRIPT = """
import time
start = time.perf_counter()
import torch
middle = time.perf_counter()
{statement}
print(middle - start, time.perf_counter() - middle)
"""


def seconds(statement: str) -> tuple[float, float]:
    """Seconds of ``import torch``, and of the statement after it."""
    command = [sys.executable, "-c", SCRIPT.format(statement=statement)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    torch_seconds, own_seconds = map(float, printed.split())
    return torch_seconds, own_seconds


def measure(runs: int) -> Results:
    """Seconds of each statement, over processes that take turns; the first of each is not counted."""
    times: dict[str, list[float]] = {name: [] for name in ("import torch", *STATEMENTS)}
    for run in range(runs + 1):
        for name, statement in STATEMENTS.items():
            torch_seconds, own_seconds = seconds(statement)
            if run:
                times["import torch"].append(torch_seconds)
                times[name].append(own_seconds)
    return {
        name: {"best": round(min(values), 4), "median": round(statistics.median(values), 4), "runs": len(values)}
        for name, values in times.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--runs", type=int, default=15, help="processes of each kind that count")
    args = parser.parse_args(arguments)
    measured = measure(args.runs)
    within = measured["import torch_trt_ext"]["median"] <= GOAL
    write(
        args.out,
        {**header("bench_import", arguments), "goal_seconds": GOAL, "within_goal": within, "seconds": measured},
    )
    print(json.dumps(measured, indent=2))


if __name__ == "__main__":
    main()
