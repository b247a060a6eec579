"""The command ``torch-trt-ext``: parsing and printing; what it does is in the package's other modules."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status, or leaves with it.

    Args:
        arguments: those of the command line; None takes the process's own.
    """
    try:
        import click  # noqa: F401
    except ImportError:
        print(
            "error: the command torch-trt-ext needs the package click, which is not installed; "
            "pip install 'torch-trt-ext[cli]'",
            file=sys.stderr,
        )
        return 1
    from torch_trt_ext.cli.commands import commands

    return int(commands.main(arguments, prog_name="torch-trt-ext") or 0)
