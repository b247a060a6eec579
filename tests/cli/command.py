"""Runs the command as a user does: in a process of its own, on real files, with its output piped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from click.testing import CliRunner

from tests.fresh_process import ROOT
from torch_trt_ext.cli.commands import commands

#: Options with which the engines of tiny models are built quickly, and stay whatever their speed.
QUICK = (
    *("--set", "timing.compare=false", "--set", "timing.warmup_runs=0", "--set", "timing.timed_runs=3"),
    *(
        "--set",
        "timing.subgraph_warmup_runs=0",
        "--set",
        "timing.subgraph_timed_runs=3",
        "--set",
        "cache.enabled=false",
    ),
)


def run_command(
    *arguments: object, exit_status: int = 0, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs ``torch-trt-ext`` and checks its exit status, and that nothing is coloured.

    Args:
        arguments: of the command line.
        exit_status: what it must be.
        environment: variables to set.
    """
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **(environment or {})}
    result = subprocess.run(
        [sys.executable, "-m", "torch_trt_ext", *map(str, arguments)],
        cwd=ROOT,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == exit_status, f"exit {result.returncode}\n{result.stdout}\n{result.stderr}"
    assert "\x1b" not in result.stdout + result.stderr
    return result


def document_of(*arguments: object, exit_status: int = 0) -> Any:
    """What the command prints with ``--json``, which must be one document."""
    return json.loads(run_command(*arguments, "--json", exit_status=exit_status).stdout)


def error_of(*arguments: object, exit_status: int = 1) -> str:
    """What a command that fails says, run in this process, which is quicker; errors of ours have one line.

    Args:
        arguments: of the command line.
        exit_status: what it must be.
    """
    result = CliRunner().invoke(commands, [str(argument) for argument in arguments])
    assert result.exit_code == exit_status, result.output
    assert result.stdout == ""
    text: str = result.stderr.strip()
    assert exit_status != 1 or "\n" not in text, text
    return " ".join(text.split())
