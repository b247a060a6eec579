"""``torch-trt-ext optimize``."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("openvino")

from tests.cli.command import QUICK, document_of, error_of, run_command
from tests.optimizer.tiny_models import Convolutions, TwoParts, assert_close, counters, make
from torch_trt_ext import Config, OptSpec
from torch_trt_ext.report_page import html_page


def test_writes_a_model_with_engines(plain: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.pt"
    text = run_command("optimize", plain, "-o", target, "--device", "cpu", "--input", "4x8", *QUICK).stdout
    assert text.startswith(f"{target}: 2 engines, a call takes ")
    assert "\nengine_1 " in text
    assert "left in PyTorch: aten::fft_fft@0 has no ONNX form (aten::fft_fft)" in text
    extra = {"notes.txt": ""}
    model = torch.jit.load(str(target), _extra_files=extra)
    assert extra["notes.txt"] == b"plain"
    x = torch.rand(4, 8)
    assert_close(model(x), make(TwoParts)(x))
    assert [counts["calls"] for counts in counters(model)] == [1, 1]


class Talking(nn.Module):
    """Prints, which must not get into what ``--json`` prints; takes what ``--input`` has dtypes for."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(2, 8)
        self.part = make(TwoParts)

    def forward(self, words: Tensor, shift: Tensor) -> Tensor:
        print("words", words.dtype)
        return self.part(self.embedding(words) + shift)


def test_json_is_all_there_is_on_stdout(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(Talking().eval()), str(tmp_path / "model.pt"))
    arguments = [
        "--device",
        "cpu",
        "--input",
        "5:int64",
        "--input",
        "5x1:float32",
        "--opt-spec",
        tmp_path / "spec.json",
    ]
    report = document_of("optimize", tmp_path / "model.pt", "-o", tmp_path / "out.pt", *arguments, *QUICK)
    assert report["diagnosis"]["model"] == "model.pt"
    assert report["diagnosis"]["test_data_info"] == (
        "0 shape: (5,) data type: int64\n1 shape: (5, 1) data type: float32"
    )
    assert report["engines"]
    spec = OptSpec.load(tmp_path / "spec.json")
    assert spec.device_type == "cpu"
    assert not spec.config.timing.compare


@pytest.mark.parametrize(
    "arguments",
    [
        ["--input", "1x3x16x16,4x3x16x16"],
        ["--min", "1x3x16x16", "--opt", "2x3x16x16", "--max", "4x3x16x16"],
    ],
)
def test_shapes_that_vary(tmp_path: Path, arguments: list[str]) -> None:
    model = make(Convolutions)
    torch.jit.save(torch.jit.script(model), str(tmp_path / "model.pt"))
    report = document_of(
        "optimize", tmp_path / "model.pt", "-o", tmp_path / "out.pt", "--device", "cpu", *arguments, *QUICK
    )
    assert report["diagnosis"]["shape_variation"] == "dynamic"
    loaded = torch.jit.load(str(tmp_path / "out.pt"))
    for batch in (1, 2, 3, 4):
        images = torch.rand(batch, 3, 16, 16)
        assert_close(loaded(images), model(images))
    assert [counts["fallbacks"] for counts in counters(loaded)] == [0]


def test_inputs_and_config_from_files(plain: Path, tmp_path: Path) -> None:
    torch.save([(torch.rand(3, 8),), (torch.rand(6, 8),)], tmp_path / "inputs.pt")
    config = Config()
    config.partition.min_block_size = 4
    (tmp_path / "config.json").write_text(config.to_json())
    arguments = ["--device", "cpu", "--inputs", tmp_path / "inputs.pt", "--config", tmp_path / "config.json", *QUICK]
    report = document_of("optimize", plain, "-o", tmp_path / "out.pt", *arguments)
    assert report["diagnosis"]["test_data_source"] == "user provided"
    assert report["diagnosis"]["shape_variation"] == "dynamic"
    # The second part has three operators.
    assert [engine["operators"] for engine in report["engines"]] == [5]
    changed = json.loads(report["user_config"])
    assert changed["partition"] == {"min_block_size": 4}
    assert changed["cache"] == {"enabled": False}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --input 1x3x224x224, once for each input tensor, or --inputs FILE"),
        (["--input", "4 by 8"], "Invalid value for '--input': must be a shape such as 1x3x224x224"),
        (["--input", "4x8:float"], "must have a dtype of float64, float32, "),
        (
            ["--input", "2x3,6x3", "--input", "4,4,4"],
            "must list one shape, or as many as the others, got 2, 3",
        ),
        (
            ["--input", "4x8", "--range", "[0, 1]", "--range", "[0, 1]"],
            "each --input, of which there are 1, got 2",
        ),
        (["--min", "1x8", "--max", "4x8"], "--min, --opt and --max must be given together, once for each input tensor"),
        (["--input", "4x8", "--set", "timing.min_speed=2"], "config.timing has no option 'min_speed'; its options are"),
        (["--input", "4x8", "--set", "speed.min=2"], "config has no group 'speed'; its options are gpu_config, "),
        (["--input", "4x8", "--set", "keep_fallback=maybe"], "config.keep_fallback must be bool, got str 'maybe'"),
        (["--input", "4x8", "--set", "keep_fallback"], "must be OPTION=VALUE, as timing.min_speedup=1.1"),
    ],
)
def test_wrong_usage_fails(plain: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    assert message in error_of("optimize", plain, "-o", tmp_path / "out.pt", *arguments, exit_status=2)


def test_what_cannot_be_done_fails(plain: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.pt"
    arguments = [plain, "-o", target, "--device", "cpu"]
    message = error_of("optimize", *arguments, "--input", "4x7")
    assert message.startswith("error: input_shapes[0] must be arguments that the model takes, got (float32[4, 7],)")
    torch.save(torch.rand(4, 8), tmp_path / "inputs.pt")
    message = error_of("optimize", *arguments, "--inputs", tmp_path / "inputs.pt")
    assert message.startswith(
        "error: inputs must be a tuple, the arguments of a call, or a list of tuples, got float32"
    )
    message = error_of("optimize", plain, "-o", tmp_path / "absent" / "out.pt", "--device", "cpu", "--input", "4x8")
    assert message.startswith("error: target must be in a folder that is there")
    assert not target.exists()


def test_report_goes_to_a_file(plain: Path, tmp_path: Path) -> None:
    arguments = [plain, "-o", tmp_path / "out.pt", "--device", "cpu", "--input", "4x8", *QUICK]
    report = document_of("optimize", *arguments, "--report", tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == html_page(report)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("report.pdf", "Invalid value for '--report': the file of a report must end with .html, .md, .png, .json, got"),
        ("absent/report.html", "Invalid value for '--report': the file of a report must be in a folder that is there"),
    ],
)
def test_report_that_cannot_be_written_fails_first(plain: Path, tmp_path: Path, name: str, message: str) -> None:
    arguments = [plain, "-o", tmp_path / "out.pt", "--device", "cpu", "--input", "4x8"]
    assert message in error_of("optimize", *arguments, "--report", tmp_path / name, exit_status=2)
    assert not (tmp_path / "out.pt").exists()


def test_report_as_a_picture_without_matplotlib_fails(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    arguments = [plain, "-o", tmp_path / "out.pt", "--device", "cpu", "--input", "4x8"]
    message = error_of("optimize", *arguments, "--report", tmp_path / "report.png")
    assert message == "error: a report as .png must have matplotlib to draw it; pip install matplotlib"


def test_level_o2_takes_calibration_data(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    torch.jit.save(torch.jit.script(make(Convolutions)), str(tmp_path / "model.pt"))
    torch.save([(torch.rand(1, 3, 16, 16),) for _ in range(33)], tmp_path / "calibration.pt")
    arguments = [tmp_path / "model.pt", "-o", tmp_path / "out.pt", "--device", "cpu", "--input", "1x3x16x16", *QUICK]
    report = document_of("optimize", *arguments, "--level", "o2", "--calibration", tmp_path / "calibration.pt")
    assert {engine["precision"] for engine in report["engines"]} == {"int8"}
    assert "calib_data" not in report["diagnosis"]["message"]
    message = error_of("optimize", *arguments, "--level", "o2", "--calibration", tmp_path / "nothing.pt")
    assert "inputs must be a file, but there is none at " in message
