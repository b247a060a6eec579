"""What every benchmark's results file has, and the loop over what is measured."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import environment
from torch_trt_ext.optimizer.messages import first_line

Results = dict[str, Any]


def what(error: BaseException) -> str:
    """An error in a line."""
    return f"{type(error).__name__}: {first_line(error)}"


def header(module: str, arguments: Sequence[str] | None) -> Results:
    """The command and the machine.

    Args:
        module: the benchmark's name in this package.
        arguments: of its command line; None for those of this process.
    """
    words = ["python", "-m", f"benchmarks.{module}", *(sys.argv[1:] if arguments is None else arguments)]
    return {"command": " ".join(words), "environment": environment()}


def write(path: Path, results: Mapping[str, Any]) -> None:
    """Writes JSON, with the folder it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n")


def measure_all(
    out: Path, facts: Mapping[str, Any], cases: Iterable[tuple[Results, Callable[[], Results]]]
) -> list[Results]:
    """Measures one case after the other and writes all there is after each.

    Args:
        out: JSON file.
        facts: what its results have in common.
        cases: what says which case it is, and what measures it. One that fails has the reason under "failed".
    """
    measured: list[Results] = []
    for label, measure in cases:
        print(", ".join(map(str, label.values())), file=sys.stderr, flush=True)
        result = dict(label)
        try:
            result |= measure()
        except Exception as error:  # one case's failure, whatever it is, must not cost the others' results
            result["failed"] = what(error)
            print(f"failed: {result['failed']}", file=sys.stderr, flush=True)
        measured.append(result)
        write(out, {**facts, "results": measured})
        gc.collect()
        torch.cuda.empty_cache()
    return measured
