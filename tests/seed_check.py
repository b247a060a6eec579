"""Runs the tutorial's scripts in fresh processes and compares what they computed with the plain PyTorch reference."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from tests.fresh_process import ROOT
from tests.reference.retinanet_postprocess import postprocess
from tests.seed_script import STEP_1, STEP_2, STEP_3

#: exp and the order of float32 operations differ between engines; coordinates reach 512 pixels.
BOX_TOLERANCE_PX = 0.02


#: Scores of the 16-bit backbone, which the tutorial does not check either; an untrained network's are all alike.
OPTIMIZED_SCORE_TOLERANCE = 0.02

#: The report that the tutorial prints: its keys, and the form of each value.
TUTORIAL_REPORT = {
    "software_context": [{"software": r"pytorch", "version": r"\d+\.\d+\.\d+.*"}],
    "hardware_context": {"device_type": r"gpu|cpu", "microarchitecture": r".+"},
    "user_config": r".*",
    "diagnosis": {
        "model": r".+\.pt",
        "test_data_source": r"user provided",
        "shape_variation": r"undefined",
        "message": r".+",
        "test_data_info": r"0 shape: \(1, 3, 384, 512\) data type: float32",
    },
    "optimizations": [
        {
            "name": r"Pt\w+Pass\w+",
            "status": r"effective|not effective",
            "speedup": r"\d+\.\d\d",
            "pre_run": r"\d+\.\d\d ms",
            "post_run": r"\d+\.\d\d ms",
        }
    ],
    "overall": {"baseline": r"\d+\.\d\d ms", "optimized": r"\d+\.\d\d ms", "speedup": r"\d+\.\d\d"},
    "model_info": {"input_format": r"torch_script"},
    "compatibility_list": [{"device_type": r"gpu|cpu", "microarchitecture": r".+"}],
    "model_sdk": {},
}


def check_report(report: Any, form: Any, where: str = "report") -> None:
    """Compares a report with the tutorial's: the same keys in the same order, each value of the same form."""
    if isinstance(form, dict):
        assert list(report)[: len(form)] == list(form), where
        assert where == "report" or len(report) == len(form), where
        for key, part in form.items():
            check_report(report[key], part, f"{where}.{key}")
    elif isinstance(form, list):
        assert len(report) >= len(form), where
        for index, part in enumerate(form):
            check_report(report[index], part, f"{where}[{index}]")
    else:
        assert isinstance(report, str), where
        assert re.fullmatch(form, report, re.DOTALL), f"{where}: {report!r} is not like {form!r}"


def _run(script: str, folder: Path) -> str:
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
    return result.stdout


def check_seed_scripts(
    folder: Path, *, namespace: str, engine_class: str, device: str, build_arguments: str = ""
) -> None:
    """Runs the steps in ``folder``: checks step 3's answers with the model of step 1, then step 2 and its model's."""
    _run(
        STEP_1.format(namespace=namespace, engine_class=engine_class, device=device, build_arguments=build_arguments),
        folder,
    )
    _run(STEP_3.format(file="retinanet_script.pt"), folder)
    outputs, (cls_heads, box_heads), cell_anchors = torch.load(folder / "expected.pth", map_location="cpu")
    pred = [tensor.cpu() for tensor in torch.load(folder / "retinanet_script.pt.pred")]
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

    printed = _run(STEP_2.format(device_type="gpu" if device == "cuda" else "cpu"), folder)
    assert printed.startswith("Report: ")
    report = json.loads(printed.removeprefix("Report: "))
    check_report(report, TUTORIAL_REPORT)
    assert report["engines"], report["left_in_torch"]
    assert report["coverage"]["compute"] == 1
    _run(STEP_3.format(file="optimized.pt"), folder)
    optimized = [tensor.cpu() for tensor in torch.load(folder / "optimized.pt.pred")]
    assert [tensor.shape for tensor in optimized] == [tensor.shape for tensor in pred]
    assert (optimized[0] - pred[0]).abs().max() < OPTIMIZED_SCORE_TOLERANCE
