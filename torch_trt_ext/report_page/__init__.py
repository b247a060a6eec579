"""The report of ``optimize()`` as something to look at: one HTML file, Markdown, or a picture."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch_trt_ext.report_page.html import html_page
from torch_trt_ext.report_page.markdown import markdown_page
from torch_trt_ext.report_page.png import require_matplotlib, save_picture

__all__ = ["SUFFIXES", "check_path", "html_page", "markdown_page", "save"]

#: What the name of a report's file may end with.
SUFFIXES = (".html", ".md", ".png", ".json")


def check_path(path: str | os.PathLike[str]) -> None:
    """Checks that a report can be saved there, as far as that is known before there is one.

    Args:
        path: of the file.

    Raises:
        ValueError: its name ends otherwise than :data:`SUFFIXES`.
        FileNotFoundError: its folder is not there.
        ModuleNotFoundError: a picture is wanted and matplotlib is not installed.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"the file of a report must end with {', '.join(SUFFIXES)}, got {path.name!r}")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"the file of a report must be in a folder that is there, got {os.fspath(path)!r}")
    if path.suffix.lower() == ".png":
        require_matplotlib()


def save(report: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Writes a report as its file's name ends.

    Args:
        report: what ``optimize()`` returned, or the same read from JSON.
        path: the file to write.

    Raises:
        ValueError: as :func:`check_path`.
        FileNotFoundError: likewise.
        ModuleNotFoundError: likewise.
        OSError: the file cannot be written.
    """
    check_path(path)
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".png":
        save_picture(report, path)
        return
    if suffix == ".html":
        text = html_page(report)
    elif suffix == ".md":
        text = markdown_page(report)
    else:
        from torch_trt_ext.optimizer.report import Report

        text = f"{Report(report)}\n"
    # Names of a model may be no Unicode text.
    path.write_text(text, encoding="utf-8", errors="replace")
