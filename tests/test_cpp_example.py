"""``examples/cpp``: built without a GPU, it finds in a scene what Python finds, and says when an engine cannot run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch

pytest.importorskip("openvino")

from examples.retinanet.pipeline import to_detections
from tests.detect_program import build_detect, run_detect, save_detector, save_picture, scene, table
from tests.fresh_process import output_of_fresh

#: What is printed has three decimals; the same kernels run on the same processor.
PRINTED_PX = 2e-3
PRINTED_SCORE = 1e-5

THRESHOLD = 0.5


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_detect(tmp_path_factory.mktemp("detect"))


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_picture(tmp_path_factory.mktemp("picture") / "scene.ppm")


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_detector(tmp_path_factory.mktemp("model") / "detector.pt", "cpu")


def _run(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """As on a machine without a GPU, wherever this runs."""
    import openvino

    libraries = Path(openvino.__file__).parent / "libs"
    paths = f"{libraries}:{os.environ.get('LD_LIBRARY_PATH', '')}"
    return run_detect(program, *arguments, environment={"LD_LIBRARY_PATH": paths, "CUDA_VISIBLE_DEVICES": ""})


def test_detections_are_python_s(program: Path, detector: Path, picture: Path) -> None:
    result = _run(program, detector, picture, "--runs", 3, "--warmup", 1, "--threshold", THRESHOLD)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "engine postprocess.engine (OpenVINOEngineExtension) runs on cpu"
    with torch.no_grad():
        (found,) = to_detections(torch.jit.load(str(detector))(scene()[None].float() / 255))
    kept = found["scores"] >= THRESHOLD
    assert kept.sum() >= 3
    assert f"512 x 384 pixels, {int(kept.sum())} detections of score 0.5 or more" in lines[1]
    rows = table(result.stdout)
    assert [label for label, _ in rows] == found["labels"][kept].tolist()
    printed = torch.tensor([numbers for _, numbers in rows])
    torch.testing.assert_close(printed[:, 0], found["scores"][kept], rtol=0, atol=PRINTED_SCORE)
    torch.testing.assert_close(printed[:, 1:], found["boxes"][kept], rtol=0, atol=PRINTED_PX)


def test_latency_is_printed(program: Path, detector: Path, picture: Path) -> None:
    result = _run(program, detector, picture, "--runs", 3, "--warmup", 0)
    line = result.stdout.splitlines()[-1]
    assert line.startswith("latency on cpu, batch 1: median ")
    assert line.endswith("(3 runs after 0)")
    median, p10, p90 = (
        float(part.split(name)[1].split()[0].rstrip(","))
        for part, name in zip(line.split(", ")[1:], ("median ", "p10 ", "p90 "), strict=True)
    )
    assert 0 < p10 <= median <= p90


@pytest.fixture(scope="module")
def tensorrt_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two detectors with a TensorRT engine that runs nowhere: with a fallback (model.pt) and without (bare.pt)."""
    folder = tmp_path_factory.mktemp("tensorrt")
    output_of_fresh(
        f"""
        import torch
        from tests.engine_models import OneDetection, Detector
        from tests.unrunnable import unrunnable_engine
        from torch_trt_ext.optimizer.engine_module import EngineOnly, EngineWithSubgraph

        names = ["scores", "boxes", "classes"]
        engine = unrunnable_engine((["images"], names, ["Float"], ["Float"] * 3))
        with_fallback = EngineWithSubgraph(engine, torch.jit.script(OneDetection()))
        for name, part in (("model", with_fallback), ("bare", EngineOnly(engine, [0]))):
            torch.jit.save(torch.jit.script(Detector(torch.jit.script(part))), {str(folder)!r} + f"/{{name}}.pt")
        """,
        environment={"CUDA_VISIBLE_DEVICES": ""},
    )
    return folder


def test_engine_that_cannot_run_gives_way_to_the_fallback(program: Path, tensorrt_model: Path, picture: Path) -> None:
    result = _run(program, tensorrt_model / "model.pt", picture, "--runs", 2, "--warmup", 1)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("engine part.engine (TRTEngineExtension) cannot run here: ")
    assert len(lines[0]) > 80
    assert table(result.stdout) == [(7, [0.75, 1.0, 2.0, 512.0, 384.0])]
    # One call for the answer, three for the latency.
    assert lines[-1] == ("engine part.engine did not run: PyTorch's fallback ran in its place in 4 of 4 calls")


def test_engine_that_cannot_run_without_a_fallback_fails(program: Path, tensorrt_model: Path, picture: Path) -> None:
    result = _run(program, tensorrt_model / "bare.pt", picture)
    assert result.returncode == 1
    assert "cannot run here: " in result.stdout
    assert "this engine cannot run here: " in result.stderr


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x89PNG\r\n", "must be a binary PPM, which begins with P6"),
        (b"P6\n0 4\n255\n", "must have a width of 1 to 65536"),
        (b"P6\n4 99999999999999999999\n255\n", "must have a height of 1 to 65536"),
        (b"P6\n4 4\n65535\n" + bytes(96), "must have 8 bits a channel (255), got a largest value of 65535"),
        (b"P6 # comment\n4\n4\n255\n" + bytes(47), "must hold 48 bytes of pixels, got 47; it was cut short"),
        (b"P6\n65536 65536\n255\n", "must hold 12884901888 bytes of pixels, got 0"),
        (b"P6", "must have a width"),
    ],
)
def test_bad_images_fail(program: Path, detector: Path, tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "image.ppm"
    path.write_bytes(data)
    result = _run(program, detector, path)
    assert result.returncode == 1
    assert message in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "a model and an image must be given, got 0 files"),
        (("model.pt", "image.ppm", "--runs"), "--runs must be followed by a number"),
        (("model.pt", "image.ppm", "--runs", "many"), "--runs must be a number from 0 to a million, got 'many'"),
        (("model.pt", "image.ppm", "--speed", "2"), "there is no option --speed"),
    ],
)
def test_bad_arguments_fail(program: Path, arguments: tuple[str, ...], message: str) -> None:
    result = _run(program, *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "usage: detect MODEL IMAGE.ppm" in result.stderr
