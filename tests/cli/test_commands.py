"""What all commands share: help, errors, colours, completion, and what is said where click is missing."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.cli.command import error_of, run_command
from tests.fresh_process import ROOT
from torch_trt_ext.cli.commands import commands
from torch_trt_ext.version import __version__

COMMANDS = ("optimize", "bench", "inspect", "compare", "retarget", "strip", "export-triton", "doctor", "completion")


def test_help_and_version() -> None:
    text = run_command("--help").stdout
    listed = text.partition("Commands:\n")[2]
    assert [line.split()[0] for line in listed.splitlines()] == list(COMMANDS)
    # Which is how click shortens what is too long.
    assert "..." not in listed
    assert "Exit status: 0 done, 1 error, 2 wrong usage" in text
    assert run_command("--version").stdout == f"torch-trt-ext, version {__version__}\n"


def test_unknown_command_and_option_fail() -> None:
    assert "No such command 'optimise'" in error_of("optimise", exit_status=2)
    assert "No such option" in error_of("inspect", "model.pt", "--colour", exit_status=2)


def test_error_shows_where_it_comes_from_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    assert error_of("inspect", path) == f"error: {path}: No such file or directory"
    asked = run_command("inspect", path, "--debug", exit_status=1)
    assert asked.stderr.startswith("Traceback (most recent call last)")
    assert asked.stdout == ""


def test_without_click(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise ImportError('blocked')")
    result = run_command("doctor", exit_status=1, environment={"PYTHONPATH": str(tmp_path)})
    assert result.stderr == (
        "error: the command torch-trt-ext needs the package click, which is not installed; "
        "pip install 'torch-trt-ext[cli]'\n"
    )
    assert result.stdout == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(shell: str) -> None:
    result = CliRunner().invoke(commands, ["completion", shell])
    assert result.exit_code == 0
    assert f"_TORCH_TRT_EXT_COMPLETE={shell}_complete" in result.stdout
    assert "torch-trt-ext" in result.stdout


def test_completion_of_commands_and_settings() -> None:
    def complete(words: str) -> list[str]:
        environment = {"_TORCH_TRT_EXT_COMPLETE": "bash_complete", "COMP_WORDS": words}
        environment["COMP_CWORD"] = str(len(words.split(" ")) - 1)
        return run_command(environment=environment).stdout.splitlines()

    assert complete("torch-trt-ext re") == ["plain,retarget"]
    assert complete("torch-trt-ext optimize --set timing.min") == ["plain,timing.min_speedup="]


@pytest.mark.parametrize(("variable", "coloured"), [("TORCH_TRT_EXT_NOTHING", True), ("NO_COLOR", False)])
def test_colours_on_a_terminal(variable: str, coloured: bool) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "torch_trt_ext", "doctor", "--device", "cpu"]
    subprocess.run(command, cwd=ROOT, env={**os.environ, variable: "1"}, stdout=theirs, stderr=theirs, check=True)
    os.close(theirs)
    printed = b""
    try:
        while piece := os.read(ours, 4096):
            printed += piece
    except OSError:
        # How Linux says that nobody has the other end open.
        pass
    finally:
        os.close(ours)
    assert b"OpenVINO" in printed
    assert (b"\x1b[32m" in printed) == coloured
