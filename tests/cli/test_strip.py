"""``torch-trt-ext strip``."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("openvino")

from tests.cli.command import document_of, error_of, run_command


def test_drops_fallbacks(two_parts: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.pt"
    text = run_command("strip", two_parts, "-o", target).stdout
    gone = two_parts.stat().st_size - target.stat().st_size
    assert text.startswith(f"{target}: dropped 2 fallbacks: ")
    assert text.endswith(f", {gone:,} fewer\n")
    assert "must hold engines with a fallback, got none" in error_of("strip", target, "-o", tmp_path / "again.pt")
    document = document_of("strip", two_parts, "-o", target)
    sizes = {"bytes_before": two_parts.stat().st_size, "bytes_after": target.stat().st_size}
    assert document == {"fallbacks": 2, **sizes}
