"""``make demo``'s program on the CPU, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from examples.retinanet.demo import compare_detections
from tests.fresh_process import ROOT


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "examples.retinanet.demo", "--out", str(folder), "--device", "cpu"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800, check=False)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return folder, result.stdout


def test_ap(demo: tuple[Path, str]) -> None:
    summary = json.loads((demo[0] / "summary.json").read_text())
    assert summary["scenes"] >= 200
    for model in ("plain", "mixed"):
        assert summary[model]["ap"]["AP50"] >= 0.90
    # A tenth of an AP point: the two differ in the last bits of float32 only.
    assert summary["mixed"]["ap"]["AP"] == pytest.approx(summary["plain"]["ap"]["AP"], abs=0.001)
    assert summary["agreement"]["max_box_difference_px"] < 0.1
    assert summary["agreement"]["max_score_difference"] < 1e-3


def test_fresh_process_needed_only_the_runtime(demo: tuple[Path, str]) -> None:
    summary = json.loads((demo[0] / "summary.json").read_text())
    assert summary["fresh_process_also_imported"] == []


def test_files_and_table(demo: tuple[Path, str]) -> None:
    folder, output = demo
    assert sorted(path.name for path in folder.iterdir()) == ["detections.png", "detector.pt", "summary.json"]
    with Image.open(folder / "detections.png") as picture:
        assert picture.width >= 800
    assert output.startswith("Using OpenVINO engines on the CPU (as asked).")
    assert "AP50 over" in output


def _detections(*rows: tuple[float, float, int]) -> list[dict[str, torch.Tensor]]:
    return [
        {
            "boxes": torch.tensor([[x, 0.0, x + 10, 10.0] for x, _, _ in rows]).reshape(-1, 4),
            "scores": torch.tensor([score for _, score, _ in rows]),
            "labels": torch.tensor([label for _, _, label in rows], dtype=torch.long),
        }
    ]


def test_compare_detections() -> None:
    same = compare_detections(_detections((0, 0.9, 1), (50, 0.8, 2)), _detections((50.5, 0.7, 2), (0, 0.9, 1)))
    assert (same.unmatched, same.detections) == (0, 2)
    assert same.max_box_difference_px == pytest.approx(0.5)
    assert same.max_score_difference == pytest.approx(0.1)
    assert compare_detections(_detections((0, 0.9, 1)), _detections((0, 0.9, 2))).unmatched == 2
    assert compare_detections(_detections((0, 0.9, 1)), _detections()).unmatched == 1
    assert compare_detections(_detections(), _detections((0, 0.9, 1))).unmatched == 1
