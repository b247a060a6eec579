"""A headless browser for tests of pages."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

#: What Chromium without a window is called, and what else takes the same options.
_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

#: Debian's packages; without a font a page has no text to measure.
_PACKAGES = ("chromium-headless-shell", "fonts-dejavu-core")

_INSTALL_SECONDS = 600


def _found() -> str | None:
    named = os.environ.get("TORCH_TRT_EXT_BROWSER")
    return named or next(filter(None, map(shutil.which, _NAMES)), None)


def _install() -> str:
    """Installs one where that is this run's to do: as root in continuous integration. What went wrong, or empty."""
    if not os.environ.get("CI"):
        return "no Chromium was found; apt-get install chromium-headless-shell, or name one in TORCH_TRT_EXT_BROWSER"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return "no Chromium was found, and to install one takes root and apt-get"
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *_PACKAGES]):
        try:
            done = subprocess.run(
                ["apt-get", "--quiet", *command],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=_INSTALL_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return f"Chromium could not be installed: apt-get {command[0]} took over {_INSTALL_SECONDS} s"
        if done.returncode:
            return f"Chromium could not be installed: apt-get {command[0]} says {done.stderr.strip()[-300:]!r}"
    return ""


@contextmanager
def headless_browser() -> Iterator[Any]:
    """Playwright's browser object; skips the test, with the reason, where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; pip install playwright")
    if _found() is None and (problem := _install()):
        pytest.skip(problem)
    with api.sync_playwright() as playwright:
        # Chromium's sandbox does not work for root, and containers' shared memory is small.
        options = ["--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        browser = playwright.chromium.launch(executable_path=_found(), args=options)
        try:
            yield browser
        finally:
            browser.close()
