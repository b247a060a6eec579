"""``torch_trt_ext.strip``: a saved model without fallbacks is smaller, answers the same, and says what it refuses."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("openvino")

from tests.openvino_models import EngineModule, affine_engine, engine_or_shape
from tests.optimizer.tiny_models import Convolutions, assert_close, make, optimize, quick_config
from torch_trt_ext.optimizer.engine_module import EngineOnly
from torch_trt_ext.strip import drop_fallback

pytestmark = pytest.mark.usefixtures("one_thread")


def _constants(path: Path) -> int:
    with zipfile.ZipFile(path) as archive:
        return sum(info.file_size for info in archive.infolist() if "/constants/" in info.filename)


def test_answers_stay_and_bytes_go(two_parts: Path, tmp_path: Path) -> None:
    stripped = drop_fallback(two_parts, tmp_path / "out.pt")
    assert stripped.fallbacks == 2
    assert stripped.bytes_before == two_parts.stat().st_size
    assert stripped.bytes_after == (tmp_path / "out.pt").stat().st_size
    # The two parts' weights, 16 bits or more of which no engine shares.
    assert _constants(two_parts) > 0
    assert _constants(tmp_path / "out.pt") == 0
    assert stripped.bytes_after < stripped.bytes_before - _constants(two_parts)
    x = torch.rand(4, 8)
    assert torch.equal(torch.jit.load(str(tmp_path / "out.pt"))(x), torch.jit.load(str(two_parts))(x))


def test_misfits_are_errors(two_parts: Path, tmp_path: Path) -> None:
    drop_fallback(two_parts, tmp_path / "out.pt")
    model = torch.jit.load(str(tmp_path / "out.pt"))
    torch.jit.load(str(two_parts))(torch.rand(3, 8))
    with pytest.raises(RuntimeError, match=r"must have a shape in \[4, 8\], got \[3, 8\]"):
        model(torch.rand(3, 8))
    assert model.engine_0.engine.counters()["fallbacks"] == 0
    assert not hasattr(model.engine_0, "subgraph")


def test_extra_files_stay(two_parts: Path, tmp_path: Path) -> None:
    drop_fallback(two_parts, tmp_path / "out.pt")
    extra = {"notes.txt": ""}
    torch.jit.load(str(tmp_path / "out.pt"), _extra_files=extra)
    assert extra["notes.txt"] == b"made by hand"


def test_target_may_be_the_source(two_parts: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(two_parts.read_bytes())
    drop_fallback(path, path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]
    torch.jit.load(str(path))(torch.rand(4, 8))
    with pytest.raises(ValueError, match="must hold engines with a fallback, got none"):
        drop_fallback(path, path)


def test_state_and_settings_of_engines_stay(tmp_path: Path) -> None:
    model, config = make(Convolutions), quick_config()
    config.shapes.profiles = [{"images": [[2, 3, 16, 16], [2, 3, 16, 16], [4, 3, 16, 16]]}]
    optimized, _, _ = optimize(model, [(torch.rand(2, 3, 16, 16),)], config)
    optimized.engine_0.engine.set_cuda_graphs(True)
    torch.jit.save(optimized, str(tmp_path / "model.pt"))
    drop_fallback(tmp_path / "model.pt", tmp_path / "out.pt")
    stripped = torch.jit.load(str(tmp_path / "out.pt"))
    assert stripped.engine_0.engine.cuda_graphs()
    assert stripped.engine_0.engine.profiles() == optimized.engine_0.engine.profiles()
    for batch in (2, 3, 4):
        x = torch.rand(batch, 3, 16, 16)
        assert_close(stripped(x), model(x))


class AffineAndMore(nn.Module):
    """What the affine engine does, and a tensor of which only the shape is read."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(10_000))

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        return [inputs[1] + self.weight[:1], inputs[0] * 2 + 1]


class Holder(nn.Module):
    """Engine modules deep inside a model, two of the same kind."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList([first, second])

    def forward(self, x: Tensor, y: Tensor) -> list[Tensor]:
        outputs: list[Tensor] = []
        for part in self.parts:
            outputs += part([x, y])
        return outputs


@pytest.fixture
def with_shapes(tmp_path: Path) -> Path:
    parts = [engine_or_shape(AffineAndMore(), data=1, shape=0) for _ in range(2)]
    path = tmp_path / "model.pt"
    torch.jit.save(torch.jit.script(Holder(*parts)), str(path))
    return path


def test_outputs_that_are_only_a_shape(with_shapes: Path, tmp_path: Path) -> None:
    stripped = drop_fallback(with_shapes, tmp_path / "out.pt")
    # Two times 10,000 weights of 4 bytes.
    assert stripped.bytes_before - stripped.bytes_after > 80_000
    model = torch.jit.load(str(tmp_path / "out.pt"))
    x, y = torch.rand(2, 3), torch.rand(4)
    outputs = model(x, y)
    assert [tuple(output.shape) for output in outputs] == [(4,), (2, 3)] * 2
    for output in outputs[1::2]:
        torch.testing.assert_close(output, x * 2 + 1)
    with pytest.raises(RuntimeError, match=r"input 'x' must have a shape in \[1..8, 3\], got \[9, 3\]"):
        model(torch.rand(9, 3), y)


@pytest.mark.parametrize("other", [torch.rand(5), torch.rand(2, 2), torch.rand(4, dtype=torch.float64)])
def test_inputs_that_the_engine_does_not_see_fail(with_shapes: Path, tmp_path: Path, other: Tensor) -> None:
    drop_fallback(with_shapes, tmp_path / "out.pt")
    with pytest.raises(
        torch.jit.Error, match=r"input 1 of a subgraph must have the shape \[4\] and the dtype and device"
    ):
        torch.jit.load(str(tmp_path / "out.pt"))(torch.rand(2, 3), other)


def test_files_without_fallback_fail(tmp_path: Path) -> None:
    engine = affine_engine()
    for module in (EngineModule(engine), EngineOnly(engine, [0])):
        torch.jit.save(torch.jit.script(module), str(tmp_path / "model.pt"))
        with pytest.raises(ValueError, match="must hold engines with a fallback, got none"):
            drop_fallback(tmp_path / "model.pt", tmp_path / "out.pt")
    assert not (tmp_path / "out.pt").exists()


def test_other_files_fail(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_text("no archive")
    with pytest.raises(ValueError, match="must be a TorchScript file, which is a zip archive"):
        drop_fallback(path, path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="must be a TorchScript file, got an archive without code"):
        drop_fallback(path, path)
    with pytest.raises(FileNotFoundError):
        drop_fallback(tmp_path / "absent.pt", path)
