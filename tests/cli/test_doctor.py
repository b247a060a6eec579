"""``torch-trt-ext doctor``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

pytest.importorskip("openvino")

from tests.cli.command import document_of, run_command
from torch_trt_ext.cli.commands import commands
from torch_trt_ext.doctor import examine
from torch_trt_ext.runtime import available_backends, library_path


def test_cpu_has_what_it_needs() -> None:
    document = document_of("doctor", "--device", "cpu")
    assert document["device_type"] == "cpu"
    assert document["healthy"]
    checks = {check["name"]: check for check in document["checks"]}
    assert checks["PyTorch"]["found"].startswith(str(torch.__version__))
    assert checks["torch_trt_ext"]["where"] == str(library_path("runtime"))
    assert checks["OpenVINO"]["ok"]
    assert not checks["TensorRT"]["needed"]
    assert all(bool(check["problem"]) == bool(check["remedy"]) for check in document["checks"])


def test_what_is_missing_has_a_remedy() -> None:
    if not available_backends()["tensorrt"]:
        pytest.skip("TensorRT runs here")
    text = run_command("doctor", "--device", "gpu", exit_status=3).stdout
    assert "missing" in text
    assert "mend it: pip install 'tensorrt-cu12>=10,<11'" in text
    assert "TensorRT engines on the GPU cannot run here: " in text.splitlines()[-1]


def test_library_that_was_not_built(tmp_path: Path) -> None:
    (tmp_path / "libtorch_trt_ext.so").symlink_to(library_path("runtime"))
    environment = {"TORCH_TRT_EXT_LIBRARY_DIR": str(tmp_path)}
    text = run_command("doctor", "--device", "cpu", exit_status=3, environment=environment).stdout
    assert "libtorch_trt_ext_openvino.so was not built" in text
    assert "mend it: pip install openvino==" in text
    assert text.endswith("OpenVINO engines on the CPU cannot run here: OpenVINO first\n")


def test_what_only_some_need_is_not_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch_trt_ext.doctor.missing_for_quantization", lambda: "cannot be imported")
    health = examine("cpu")
    (check,) = (check for check in health.checks if check.name == "ONNX Runtime")
    assert check.remedy == "pip install onnxruntime"
    assert check not in health.missing
    answer = CliRunner().invoke(commands, ["doctor", "--device", "cpu"])
    assert answer.exit_code == 0
    assert "ONNX Runtime" in answer.output
    assert "only needed for 8-bit engines: pip install onnxruntime" in answer.output


def test_plugin_folders_are_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "libmine.so").touch()
    monkeypatch.setenv("TORCH_TRT_EXT_PLUGIN_PATH", f"{tmp_path}:{tmp_path}/absent")
    there, absent = (check for check in examine("cpu").checks if check.name == "plugin folder")
    assert there.found == "libmine.so"
    assert not there.problem
    assert absent.problem == f"TORCH_TRT_EXT_PLUGIN_PATH names {tmp_path}/absent, which is no folder"
