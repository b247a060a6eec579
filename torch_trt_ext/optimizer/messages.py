"""Other libraries' errors in one line, for messages and reports."""

from __future__ import annotations

#: Characters that a line of another library's error may have in a report.
_LONGEST = 400


def first_line(error: BaseException) -> str:
    """The first line of an error's message; the error's kind where there is none."""
    lines = _lines(error)
    return lines[0][:_LONGEST] if lines else type(error).__name__


def what_failed(error: BaseException) -> str:
    """The line of an error's message that says what happened: the last of a traceback, else the first."""
    lines = _lines(error)
    if any("Traceback of TorchScript" in line for line in lines):
        return lines[-1][:_LONGEST]
    return first_line(error)


def _lines(error: BaseException) -> list[str]:
    return [line.strip() for line in str(error).splitlines() if line.strip()]
