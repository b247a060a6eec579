"""The group of all commands, and what becomes of their errors."""

from __future__ import annotations

import os
from typing import Any

import click

from torch_trt_ext.cli.answer import DEBUG
from torch_trt_ext.cli.bench import bench
from torch_trt_ext.cli.compare import compare
from torch_trt_ext.cli.completion import completion
from torch_trt_ext.cli.doctor import doctor
from torch_trt_ext.cli.export_triton import export_triton
from torch_trt_ext.cli.inspect import inspect
from torch_trt_ext.cli.optimize import optimize
from torch_trt_ext.cli.retarget import retarget
from torch_trt_ext.cli.strip import strip
from torch_trt_ext.optimizer.messages import what_failed
from torch_trt_ext.version import __version__


class _Failure(click.ClickException):
    """An error that is not the command line's: exit status 1, in the project's words."""

    def show(self, file: Any = None) -> None:
        click.echo(f"{click.style('error', fg='red')}: {self.message}", file=file, err=file is None)


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        if os.environ.get("NO_COLOR"):
            ctx.color = False
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort, click.ClickException, BrokenPipeError):
            raise
        except Exception as error:  # whatever PyTorch and the model's own code raise
            if ctx.meta.get(DEBUG):
                raise
            raise _Failure(_in_one_line(error)) from error


def _in_one_line(error: Exception) -> str:
    text = str(error).strip()
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if not text or "\n" in text:
        text = what_failed(error)
    if isinstance(error, (OSError, RuntimeError, TypeError, ValueError, ImportError)):
        return text
    # Of other kinds are torch's and the model's, and mistakes of this package's own.
    return f"{type(error).__name__}: {text}; --debug shows where"


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="torch-trt-ext")
def commands() -> None:
    """Makes TorchScript files with TensorRT and OpenVINO engines in them, measures them, and says what is in them.

    Exit status: 0 done, 1 error, 2 wrong usage, 3 'compare' found a difference or 'doctor' something missing.
    """


for command in (optimize, bench, inspect, compare, retarget, strip, export_triton, doctor, completion):
    commands.add_command(command)
