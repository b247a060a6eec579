"""``examples/cpp`` with a TensorRT engine: it finds in a scene what Python finds."""

from __future__ import annotations

from pathlib import Path

import torch

from examples.retinanet.pipeline import to_detections
from tests.detect_program import build_detect, run_detect, save_detector, save_picture, scene, table

#: What is printed has three decimals, and cuDNN may choose other kernels in another process; TF32 has ten bits.
NEAR_PX = 0.5
NEAR_SCORE = 5e-3

THRESHOLD = 0.5


def test_detections_are_python_s(tmp_path: Path) -> None:
    program = build_detect(tmp_path / "build")
    detector = save_detector(tmp_path / "detector.pt", "cuda")
    picture = save_picture(tmp_path / "scene.ppm")
    result = run_detect(program, detector, picture, "--runs", 20, "--warmup", 5, "--threshold", THRESHOLD)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "engine postprocess.engine (TRTEngineExtension) runs on cuda:0"
    assert lines[-1].startswith("latency on cuda:0, batch 1: median ")
    with torch.no_grad():
        (found,) = to_detections(torch.jit.load(str(detector))(scene()[None].cuda().float() / 255))
    kept = found["scores"] >= THRESHOLD
    assert kept.sum() >= 3
    rows = table(result.stdout)
    assert [label for label, _ in rows] == found["labels"][kept].tolist()
    printed = torch.tensor([numbers for _, numbers in rows])
    torch.testing.assert_close(printed[:, 0], found["scores"][kept].cpu(), rtol=0, atol=NEAR_SCORE)
    torch.testing.assert_close(printed[:, 1:], found["boxes"][kept].cpu(), rtol=0, atol=NEAR_PX)
