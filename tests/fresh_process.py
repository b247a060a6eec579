"""Runs a script in a process of its own, as a user of a saved model does."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run_fresh(script: str, *, environment: dict[str, str | None] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs ``script`` with this Python from the repository's root, without checking its exit status.

    Args:
        script: Python source, indented as a whole if that reads better.
        environment: variables to set, or with None to unset.
    """
    variables: dict[str, str] = dict(os.environ)
    for name, value in (environment or {}).items():
        variables.pop(name, None)
        if value is not None:
            variables[name] = value
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=variables,
        timeout=600,
        check=False,
    )


def output_of_fresh(script: str, *, environment: dict[str, str | None] | None = None) -> str:
    """Like :func:`run_fresh`; returns what the script printed, and fails when it failed."""
    result = run_fresh(script, environment=environment)
    assert result.returncode == 0, f"exit {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result.stdout
