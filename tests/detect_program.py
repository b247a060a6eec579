"""The C++ program of ``examples/cpp``: the detector and the scene that it is given, how it runs, what it printed."""

from __future__ import annotations

import os
import subprocess
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from examples.retinanet.model import BackboneAndHeads, load_digit_detector
from examples.retinanet.pipeline import MixedDetector, build_postprocess_plan
from examples.retinanet.scenes import fixed_test_scenes
from tests.cmake_program import build_program
from tests.fresh_process import ROOT


def build_detect(folder: Path) -> Path:
    """The program."""
    return build_program(ROOT / "examples" / "cpp", folder, flags="-O0") / "detect"


def scene() -> Tensor:
    """The image, ``Tensor[3, 384, 512]``, uint8, CPU."""
    return fixed_test_scenes(1)[0].image


def save_picture(path: Path) -> Path:
    """The image as the program reads it."""
    Image.fromarray(scene().permute(1, 2, 0).numpy()).save(path)
    return path


def save_detector(path: Path, device: str) -> Path:
    """The file that the demo writes, for a device."""
    model = load_digit_detector().to(device)
    images = scene()[None].to(device).float() / 255
    mixed = MixedDetector(BackboneAndHeads(model), build_postprocess_plan(model, images))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        traced = torch.jit.trace(mixed, (images,), check_trace=False)
    torch.jit.save(traced, str(path))
    return path


def run_detect(
    program: Path, *arguments: object, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs the program with more environment variables."""
    command = [str(program), *(str(argument) for argument in arguments)]
    return subprocess.run(
        command, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False, timeout=120
    )


def table(output: str) -> list[tuple[int, list[float]]]:
    """Label, and score and corners, of each detection that was printed."""
    lines = output.splitlines()
    first = next(number for number, line in enumerate(lines) if line.split()[:2] == ["label", "score"]) + 1
    last = next(number for number, line in enumerate(lines) if line.startswith("latency"))
    rows = [line.split() for line in lines[first:last]]
    return [(int(label), [float(number) for number in numbers]) for label, *numbers in rows]
