"""``torch-trt-ext inspect``: also of engines that cannot run, of a user's own, and of files of older versions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("openvino")

from tests.cli.command import document_of, error_of, run_command
from tests.openvino_models import EngineModule, affine_engine
from tests.optimizer.tiny_models import Convolutions, make, optimize, quick_config
from tests.unrunnable import PLAN, unrunnable_engine
from torch_trt_ext.contents import IoInfo, inspect_file

FIXTURES = Path(__file__).parent.parent / "fixtures"


class Inner(nn.Module):
    """An engine of the user's own that is not the model's own attribute."""

    def __init__(self, *engines: object) -> None:
        super().__init__()
        self.post = nn.ModuleList([EngineModule(engine) for engine in engines])
        self.weight = nn.Parameter(torch.zeros(10, dtype=torch.float64))

    def forward(self, x: Tensor) -> list[Tensor]:
        return [post(x) for post in self.post]


def test_engines_of_optimize(two_parts: Path) -> None:
    contents = document_of("inspect", two_parts)
    assert contents["file_bytes"] == two_parts.stat().st_size
    assert contents["extra_files"] == ["notes.txt"]
    assert contents["arguments"] == {"x": "Tensor"}
    assert [engine["path"] for engine in contents["engines"]] == ["engine_0.engine", "engine_1.engine"]
    first, second = contents["engines"]
    model = torch.jit.load(str(two_parts))
    assert first["plan_bytes"] == model.engine_0.engine.plan().numel()
    assert first["inputs"] == [
        {"name": "input_0", "dtype": "Float", "shape": [4, 8], "ranges": [[[4, 8], [4, 8], [4, 8]]]}
    ]
    # Three and two linear layers with weights in float32.
    assert first["fallback_bytes"] == 4 * (8 * 16 + 16 + 16 * 8 + 8 + 8 * 8 + 8)
    assert second["fallback_bytes"] == 4 * (8 * 8 + 8 + 8 * 4 + 4)
    assert contents["tensor_bytes"] == first["fallback_bytes"] + second["fallback_bytes"]
    assert first["from_optimize"]
    assert first["precision"] in ("float32", "bfloat16")
    assert first["why_not"] == ""
    assert {layer["kind"] for layer in first["layers"]} >= {"Input", "Output"}


def test_text(two_parts: Path) -> None:
    text = run_command("inspect", two_parts, "--layers").stdout
    assert text.splitlines()[0].endswith(", 2 engines")
    assert "engine_0.engine: openvino, from optimize()" in text
    assert "  input input_0: Float [4, 8]\n" in text
    assert "  fallback: a subgraph with 1.4 KiB of tensors\n" in text
    assert "    input_0  Input  " in text


def test_users_own_engines_and_those_that_cannot_run(tmp_path: Path) -> None:
    model = torch.jit.script(Inner(affine_engine(), unrunnable_engine()).eval())
    torch.jit.save(model, str(tmp_path / "model.pt"))
    contents = document_of("inspect", tmp_path / "model.pt")
    assert contents["tensor_dtypes"] == ["float64"]
    runs, stuck = contents["engines"]
    assert [engine["path"] for engine in (runs, stuck)] == ["post.0.engine", "post.1.engine"]
    assert [engine["backend"] for engine in (runs, stuck)] == ["openvino", "tensorrt"]
    assert not runs["from_optimize"]
    assert runs["fallback_bytes"] is None
    assert runs["inputs"] == [{"name": "x", "dtype": "Float", "shape": [-1, 3], "ranges": [[[1, 3], [1, 3], [8, 3]]]}]
    assert stuck["layers"] is None
    assert "needs an NVIDIA GPU" in stuck["why_not"] or "TensorRT" in stuck["why_not"]
    assert stuck["plan_bytes"] == len(PLAN)
    assert stuck["inputs"] == [{"name": "x", "dtype": "Float", "shape": None, "ranges": []}]
    text = run_command("inspect", tmp_path / "model.pt").stdout
    assert "  input x: Float [-1, 3]: [1, 3] to [8, 3], best [1, 3]\n" in text
    assert "  cannot run here: " in text
    assert "  input x: Float shape not known\n" in text


def test_engines_that_freezing_made_constants(tmp_path: Path) -> None:
    frozen = torch.jit.freeze(torch.jit.script(Inner(affine_engine(), affine_engine()).eval()))
    torch.jit.save(frozen, str(tmp_path / "model.pt"))
    assert [engine.path for engine in inspect_file(tmp_path / "model.pt").engines] == ["", ""]


def test_profiles_and_settings(tmp_path: Path) -> None:
    config = quick_config()
    config.shapes.profiles = [{"images": [[2, 3, 16, 16], [2, 3, 16, 16], [4, 3, 16, 16]]}]
    optimized, _, _ = optimize(make(Convolutions), [(torch.rand(2, 3, 16, 16),)], config)
    optimized.engine_0.engine.set_cuda_graphs(True)
    torch.jit.save(optimized, str(tmp_path / "model.pt"))
    (engine,) = inspect_file(tmp_path / "model.pt").engines
    assert engine.cuda_graphs
    assert engine.name == "engine_0"
    assert engine.inputs[0].ranges[0][2] == [4, 3, 16, 16]


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.pt")), ids=lambda path: path.stem)
def test_files_of_older_versions(path: Path) -> None:
    (engine,) = inspect_file(path).engines
    assert engine.path == "engine"
    assert engine.inputs == [IoInfo("x", "Float", [-1, 3], [[[1, 3], [1, 3], [8, 3]]])]


def test_model_without_engines(plain: Path) -> None:
    contents = inspect_file(plain)
    assert contents.engines == []
    assert contents.tensor_bytes > 0


def test_other_files_fail(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_text("no archive")
    assert "must be a TorchScript file, which is a zip archive" in error_of("inspect", path)
    torch.save([1, 2], path)
    assert "must be the path of a TorchScript file, as torch.jit.save writes it" in error_of("inspect", path)


def test_operators_of_another_package(tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")

    class Suppress(nn.Module):
        def forward(self, boxes: Tensor, scores: Tensor) -> Tensor:
            kept: Tensor = torchvision.ops.nms(boxes, scores, 0.5)
            return kept

    example = (torch.rand(4, 4), torch.rand(4))
    torch.jit.save(torch.jit.trace(Suppress(), example), str(tmp_path / "model.pt"))
    failed = run_command("inspect", tmp_path / "model.pt", exit_status=1)
    assert (
        "must have its operators registered before it is loaded, got: Unknown builtin op: torchvision::nms"
        in failed.stderr
    )
    assert "0 engines" in run_command("inspect", tmp_path / "model.pt", "--import", "torchvision").stdout
