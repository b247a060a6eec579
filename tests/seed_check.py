"""Runs the tutorial's scripts in fresh processes and compares what they computed with the plain PyTorch reference."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from tests.fresh_process import ROOT
from tests.reference.retinanet_postprocess import postprocess
from tests.seed_script import STEP_1, STEP_3

#: exp and the order of float32 operations differ between engines; coordinates reach 512 pixels.
BOX_TOLERANCE_PX = 0.02


def _run(script: str, folder: Path) -> None:
    path = folder / "script.py"
    path.write_text(script)
    result = subprocess.run(
        [sys.executable, str(path)],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"},
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"


def check_seed_scripts(
    folder: Path, *, namespace: str, engine_class: str, device: str, build_arguments: str = ""
) -> None:
    """Runs steps 1 and 3 in ``folder`` and checks step 3's answers."""
    _run(
        STEP_1.format(namespace=namespace, engine_class=engine_class, device=device, build_arguments=build_arguments),
        folder,
    )
    _run(STEP_3, folder)
    outputs, (cls_heads, box_heads), cell_anchors = torch.load(folder / "expected.pth", map_location="cpu")
    pred = [tensor.cpu() for tensor in torch.load(folder / "pred.pth")]
    strides = [512 // cls.shape[-1] for cls in cls_heads]
    expected = postprocess(
        cls_heads,
        box_heads,
        [anchors.cpu() for anchors in cell_anchors],
        strides,
        score_thresh=0.005,
        nms_thresh=0.5,
        topk_candidates=1000,
        max_detections_per_image=100,
    )
    assert [tuple(tensor.shape) for tensor in pred] == [(1, 100, 1, 1), (1, 400, 1, 1), (1, 100, 1, 1)]
    assert (expected[0] > 0).all(), "the untrained network must give the engine enough to do"
    for tensor, reference in zip(outputs, pred, strict=True):
        torch.testing.assert_close(tensor.cpu(), reference, atol=BOX_TOLERANCE_PX, rtol=1e-4)
    torch.testing.assert_close(pred[0], expected[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(pred[1], expected[1], atol=BOX_TOLERANCE_PX, rtol=1e-4)
    torch.testing.assert_close(pred[2], expected[2])
