"""``torch-trt-ext export-triton``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("openvino")

from tests.cli.command import document_of, error_of, run_command
from tests.openvino_models import EngineModule, affine_engine
from tests.unrunnable import unrunnable_engine


@pytest.fixture(scope="module")
def affine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is one engine, on ``x`` of ``[1..8, 3]``."""
    path = tmp_path_factory.mktemp("affine") / "affine.pt"
    torch.jit.save(torch.jit.script(EngineModule(affine_engine()).eval()), str(path))
    return path


def test_writes_a_repository(affine: Path, tmp_path: Path) -> None:
    text = run_command("export-triton", affine, "-o", tmp_path).stdout
    assert text == (
        f"{tmp_path}/affine: 1/model.pt, config.pbtxt, launch\n"
        "  input x: float32 [-1, 3]\n"
        "  output OUTPUT__0: float32 [-1, 3]\n"
        "  batches: up to 8, best 8\n"
        "  instances: 1 on the CPU\n"
        f"start the server with: {tmp_path}/affine/launch tritonserver --model-repository={tmp_path}\n"
    )
    assert (tmp_path / "affine" / "1" / "model.pt").read_bytes() == affine.read_bytes()
    assert "must not have a model 'affine' yet" in error_of("export-triton", affine, "-o", tmp_path)


def test_options(affine: Path, tmp_path: Path) -> None:
    options = ["--name", "two", "--version", "3", "--instances", "2", "--max-queue-delay-us", "50", "--no-warmup"]
    options += ["--parameter", "ENABLE_CACHE_CLEANING=true", "--index-names", "--input", "1x3,4x3"]
    document = document_of("export-triton", affine, "-o", tmp_path, *options)
    config = document["config"]
    assert document["model"] == f"{tmp_path}/two/3/model.pt"
    assert config["name"] == "two"
    assert config["max_batch_size"] == 4
    assert config["dynamic_batching"] == {"preferred_batch_size": [4], "max_queue_delay_microseconds": 50}
    assert config["instance_group"] == [{"count": 2, "kind": "KIND_CPU"}]
    assert config["input"] == [{"name": "INPUT__0", "data_type": "TYPE_FP32", "dims": [3]}]
    assert {"key": "ENABLE_CACHE_CLEANING", "value": {"string_value": "true"}} in config["parameters"]
    assert "model_warmup" not in config
    assert document["preload"] == ["libtorch_trt_ext.so", "libtorch_trt_ext_openvino.so"]
    assert document["libraries"] == []


def test_profile(affine: Path, tmp_path: Path) -> None:
    shapes = ["--min", "1x3", "--opt", "2x3", "--max", "4x3"]
    config = document_of("export-triton", affine, "-o", tmp_path, *shapes)["config"]
    assert config["max_batch_size"] == 4
    assert config["dynamic_batching"]["preferred_batch_size"] == [2, 4]


def test_model_for_another_machine(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(EngineModule(unrunnable_engine()).eval()), str(tmp_path / "model.pt"))
    arguments = ["export-triton", tmp_path / "model.pt", "-o", tmp_path / "repository", "--input", "1x3"]
    message = error_of(*arguments)
    assert message.startswith("error: the model must run here, so that its outputs are known, but on (float32[1, 3],) ")
    assert message.endswith("; give other inputs, or --output-shape 1x100:float32 once for each output")
    config = document_of(*arguments, "--output-shape", "1x4:int64", "--gpus", "0,1")["config"]
    assert config["output"] == [{"name": "OUTPUT__0", "data_type": "TYPE_INT64", "dims": [1, 4]}]
    assert config["instance_group"] == [{"count": 1, "kind": "KIND_GPU", "gpus": [0, 1]}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--output-shape", "0x3"), "must be a shape such as 8x100:int64"),
        (("--output-shape", "1x3:float31"), "got '1x3:float31'"),
        (("--parameter", "ENABLE"), "must be KEY=VALUE"),
        (("--gpus", "a"), "must be numbers of GPUs with commas between, as 0,1, got 'a'"),
        (("--range", "[0, 1]"), "the model needs something to run on"),
        (("--min", "1x3"), "--min, --opt and --max must be given together"),
    ],
)
def test_wrong_usage_fails(options: tuple[str, ...], message: str, affine: Path, tmp_path: Path) -> None:
    assert message in error_of("export-triton", affine, "-o", tmp_path, *options, exit_status=2)
