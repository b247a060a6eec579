"""``torch-trt-ext retarget``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("openvino")

from tests.cli.command import QUICK, document_of, error_of, run_command
from tests.optimizer.tiny_models import TwoParts, assert_close, counters, make
from torch_trt_ext.strip import drop_fallback


def test_engines_for_this_machine(two_parts: Path, tmp_path: Path) -> None:
    arguments = [two_parts, "-o", tmp_path / "out.pt", "--device", "cpu"]
    report = document_of("retarget", *arguments, "--input", "6x8", *QUICK)
    assert report["diagnosis"]["model"] == "model.pt"
    assert report["diagnosis"]["test_data_info"] == "0 shape: (6, 8) data type: float32"
    x = torch.rand(6, 8)
    assert_close(torch.jit.load(str(tmp_path / "out.pt"))(x), make(TwoParts)(x))
    shapes = ["--min", "2x8", "--opt", "4x8", "--max", "6x8", "--range", "[1.0, 2.0]", "--input", "4x8"]
    text = run_command("retarget", *arguments, *shapes, *QUICK).stdout
    assert text.startswith(f"{tmp_path / 'out.pt'}: 2 engines, a call takes ")
    model = torch.jit.load(str(tmp_path / "out.pt"))
    for rows in (2, 5, 6):
        x = torch.rand(rows, 8) + 1
        assert_close(model(x), make(TwoParts)(x))
    assert [counts["fallbacks"] for counts in counters(model)] == [0, 0]


def test_file_without_fallback_fails(two_parts: Path, tmp_path: Path) -> None:
    drop_fallback(two_parts, tmp_path / "stripped.pt")
    arguments = ["-o", tmp_path / "out.pt", "--device", "cpu", "--input", "4x8"]
    assert "2 have none: engine_0, engine_1" in error_of("retarget", tmp_path / "stripped.pt", *arguments)
    assert not (tmp_path / "out.pt").exists()
