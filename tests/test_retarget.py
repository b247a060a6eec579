"""``torch_trt_ext.retarget``: a saved model gets its PyTorch form back, then engines for this machine."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("openvino")

from tests.openvino_models import EngineModule, affine_engine, engine_or_shape
from tests.optimizer.models import engine_names, run_in_fresh_process
from tests.optimizer.tiny_models import Convolutions, TwoParts, assert_close, counters, make, optimize, quick_config
from tests.unrunnable import unrunnable_engine
from torch_trt_ext import runtime
from torch_trt_ext.optimizer.engine_module import EngineOnly, EngineWithSubgraph
from torch_trt_ext.retarget import restore, retarget
from torch_trt_ext.strip import drop_fallback

pytestmark = pytest.mark.usefixtures("one_thread")


def save(model: nn.Module, path: Path) -> Path:
    torch.jit.save(torch.jit.script(model), str(path))
    return path


def assert_eager(actual: Tensor, expected: Tensor) -> None:
    """Float32 in another fusion than eager's: much closer than any engine of 16 bits."""
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_restored_model_is_the_original(two_parts: Path, tmp_path: Path) -> None:
    restored = restore(two_parts)
    assert [name for name, _ in restored.named_modules()] == [""]
    for rows in (1, 4, 5):
        x = torch.rand(rows, 8)
        assert_eager(restored(x), make(TwoParts)(x))
    torch.jit.save(restored, str(tmp_path / "restored.pt"))
    with zipfile.ZipFile(tmp_path / "restored.pt") as archive:
        assert not any("torch_trt_ext" in name for name in archive.namelist())
        assert b"EngineExtension" not in archive.read("restored/data.pkl")


class Counting(nn.Module):
    """Adds to each answer how many came before."""

    def __init__(self) -> None:
        super().__init__()
        self.part = make(TwoParts)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.part(x) + self.calls


def test_state_that_the_model_writes_to_stays_state(tmp_path: Path) -> None:
    x = torch.rand(4, 8)
    optimized, _, report = optimize(torch.jit.script(Counting().eval()), [(x,)])
    assert report["engines"]
    optimized(x)
    torch.jit.save(optimized, str(tmp_path / "model.pt"))
    restored = restore(tmp_path / "model.pt")
    for calls in (2, 3):
        assert_eager(restored(x), make(TwoParts)(x) + calls)


def test_engines_are_back_in_a_fresh_process(two_parts: Path, tmp_path: Path) -> None:
    x = torch.rand(6, 8)
    report = retarget(two_parts, tmp_path / "out.pt", "cpu", [(x,)], config=quick_config())
    assert engine_names(report) == ["engine_0", "engine_1"]
    assert report["diagnosis"]["model"] == "model.pt"
    model = torch.jit.load(str(tmp_path / "out.pt"))
    assert [name for name, _ in model.named_children()] == ["engine_0", "engine_1"]
    answer, counted = run_in_fresh_process(model, (x,), tmp_path, engine_names(report))
    assert_close(answer, make(TwoParts)(x))
    assert [(counts["calls"], counts["fallbacks"]) for counts in counted] == [(1, 0)] * 2


def test_extra_files_stay_and_target_may_be_the_source(two_parts: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(two_parts.read_bytes())
    for _ in range(2):
        retarget(path, path, "cpu", [(torch.rand(4, 8),)], config=quick_config())
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]
    extra = {"notes.txt": ""}
    torch.jit.load(str(path), _extra_files=extra)
    assert extra["notes.txt"] == b"made by hand"


@pytest.mark.parametrize(
    "arguments",
    [
        {"test_data": [(torch.rand(1, 3, 16, 16),), (torch.rand(4, 3, 16, 16),)]},
        {"input_shapes": [["1*3*16*16"], ["4*3*16*16"]]},
    ],
)
def test_engines_for_other_shapes_than_before(tmp_path: Path, arguments: dict[str, Any]) -> None:
    model = make(Convolutions)
    optimized, _, _ = optimize(model, [(torch.rand(2, 3, 8, 8),)])
    torch.jit.save(optimized, str(tmp_path / "model.pt"))
    retarget(tmp_path / "model.pt", tmp_path / "out.pt", "cpu", config=quick_config(), **arguments)
    loaded = torch.jit.load(str(tmp_path / "out.pt"))
    for batch in (1, 2, 3, 4):
        images = torch.rand(batch, 3, 16, 16)
        assert_close(loaded(images), model(images))
    assert [counts["fallbacks"] for counts in counters(loaded)] == [0]


class Affine(nn.Module):
    """What the affine engine does, and a tensor of which only the shape is read."""

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        return [inputs[1] * 3, inputs[0] * 2 + 1]


class Holder(nn.Module):
    """Engine modules deep inside a model that was not frozen, two of the same kind."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList([first, second])

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for part in self.parts:
            shaped, result = part([x, y])
            total = total + result * shaped.shape[0]
        return total


def with_shapes() -> Any:
    return engine_or_shape(Affine(), data=1, shape=0)


def test_outputs_that_are_only_a_shape(tmp_path: Path) -> None:
    source = save(Holder(with_shapes(), with_shapes()).eval(), tmp_path / "model.pt")
    restored = restore(source)
    for x, y in ((torch.rand(2, 3), torch.rand(4)), (torch.rand(9, 3), torch.rand(5))):
        assert_eager(restored(x, y), 2 * y.shape[0] * (2 * x + 1))
    x, y = torch.rand(9, 3), torch.rand(5)
    report = retarget(source, tmp_path / "out.pt", "cpu", [(x, y)], config=quick_config())
    assert report["engines"]
    model = torch.jit.load(str(tmp_path / "out.pt"))
    assert_close(model(x, y), 10 * (2 * x + 1))
    assert [counts["fallbacks"] for counts in counters(model)] == [0] * len(report["engines"])


class WithOwnEngine(nn.Module):
    """A part for engines, and an engine of the user's own after it."""

    def __init__(self, engine: Any) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
        self.post = EngineModule(engine)

    def forward(self, x: Tensor) -> Tensor:
        return self.post(self.part(x))


def test_engines_of_the_users_own_stay(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = WithOwnEngine(affine_engine()).eval(), torch.rand(4, 8)
    optimized, _, report = optimize(torch.jit.script(model), [(x,)])
    assert report["engines"]
    torch.jit.save(optimized, str(tmp_path / "model.pt"))
    assert_eager(restore(tmp_path / "model.pt")(x), model(x))
    report = retarget(tmp_path / "model.pt", tmp_path / "out.pt", "cpu", [(x,)], config=quick_config())
    assert len(report["engines"]) == 1
    answer, _ = run_in_fresh_process(torch.jit.load(str(tmp_path / "out.pt")), (x,), tmp_path, engine_names(report))
    assert_close(answer, model(x))


class OnLists(nn.Module):
    """A model of one input and one output, as a subgraph takes and gives them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        return [self.model(inputs[0])]


class OneEngine(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, images: Tensor) -> Tensor:
        outputs: list[Tensor] = self.part([images])
        return outputs[0]


def test_file_whose_engine_can_run_nowhere_gets_one_that_can(tmp_path: Path) -> None:
    part, images = OnLists(make(Convolutions)), torch.rand(2, 3, 8, 8)
    stuck = EngineWithSubgraph(unrunnable_engine(), torch.jit.script(part))
    source = save(OneEngine(stuck).eval(), tmp_path / "model.pt")
    assert not torch.jit.load(str(source)).part.engine.can_run()
    retarget(source, tmp_path / "out.pt", "cpu", [(images,)], config=quick_config())
    model = torch.jit.load(str(tmp_path / "out.pt"))
    assert_close(model(images), part([images])[0])
    assert [counts["calls"] for counts in counters(model)] == [1]


class Rows(nn.Module):
    """Numbers the rows, on a device that a trace writes into the code."""

    def __init__(self) -> None:
        super().__init__()
        self.part = make(TwoParts)

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x) + torch.arange(x.shape[0], device=x.device).unsqueeze(1)


def test_devices_in_the_code_go_where_the_model_goes(tmp_path: Path) -> None:
    items = [(torch.rand(4, 8),), (torch.rand(6, 8),)]
    optimized, _, _ = optimize(torch.jit.trace(Rows().eval(), items[0]), items)
    torch.jit.save(optimized, str(tmp_path / "cpu.pt"))
    replaced = 0
    with zipfile.ZipFile(tmp_path / "cpu.pt") as archive, zipfile.ZipFile(tmp_path / "gpu.pt", "w") as on_gpu:
        for name in archive.namelist():
            data = archive.read(name)
            if name.endswith(".py"):
                replaced += data.count(b'torch.device("cpu")')
                data = data.replace(b'torch.device("cpu")', b'torch.device("cuda:0")')
            on_gpu.writestr(name, data)
    assert replaced > 0
    x = torch.rand(5, 8)
    assert_eager(restore(tmp_path / "gpu.pt", "cpu")(x), Rows().eval()(x))
    retarget(tmp_path / "gpu.pt", tmp_path / "out.pt", "cpu", items, config=quick_config())
    assert_close(torch.jit.load(str(tmp_path / "out.pt"))(x), Rows().eval()(x))


class TwoEngines(nn.Module):
    """One engine of ``optimize()``'s kind, and what the user put in beside it."""

    def __init__(self, other: nn.Module) -> None:
        super().__init__()
        self.part = EngineWithSubgraph(affine_engine(), torch.jit.script(AffineOnly()))
        self.post = nn.ModuleList([other])

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs: list[Tensor] = self.part([x])
        return [post(outputs[0]) for post in self.post]


class AffineOnly(nn.Module):
    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        return [inputs[0] * 2 + 1]


def test_users_engine_that_cannot_run_here_fails(tmp_path: Path) -> None:
    post = torch.jit.script(EngineModule(unrunnable_engine()).eval())
    source = save(TwoEngines(post), tmp_path / "model.pt")
    message = r"but the engine 'post\.0\.engine', which was in it before optimize\(\), cannot run here: .*TensorRT"
    with pytest.raises(RuntimeError, match=message):
        retarget(source, tmp_path / "out.pt", "cpu", [(torch.rand(2, 3),)])
    # A frozen module has its engine as a constant, of which the name in the module is lost.
    torch.jit.save(torch.jit.freeze(post), str(tmp_path / "post.pt"))
    save(TwoEngines(torch.jit.load(str(tmp_path / "post.pt"))), source)
    with pytest.raises(RuntimeError, match="but the engine from x to y, which was in it"):
        retarget(source, tmp_path / "out.pt", "cpu", [(torch.rand(2, 3),)])
    assert not (tmp_path / "out.pt").exists()


def test_files_without_fallback_fail(two_parts: Path, tmp_path: Path) -> None:
    drop_fallback(two_parts, tmp_path / "stripped.pt")
    data = [(torch.rand(4, 8),)]
    with pytest.raises(ValueError, match="but 2 have none: engine_0, engine_1; it was made with"):
        retarget(tmp_path / "stripped.pt", tmp_path / "out.pt", "cpu", data)
    config = quick_config()
    config.keep_fallback = False
    optimized, _, _ = optimize(make(Convolutions), [(torch.rand(2, 3, 8, 8),)], config)
    torch.jit.save(optimized, str(tmp_path / "bare.pt"))
    with pytest.raises(ValueError, match="but 1 has none: engine_0; it was made"):
        restore(tmp_path / "bare.pt")
    both = save(Holder(with_shapes(), EngineOnly(affine_engine(), [0])), tmp_path / "both.pt")
    with pytest.raises(ValueError, match=r"but 1 has none: parts\.1; it was made"):
        restore(both)


def test_files_without_engines_of_optimize_fail(tmp_path: Path) -> None:
    for module in (EngineModule(affine_engine()), nn.Linear(2, 2)):
        source = save(module, tmp_path / "model.pt")
        with pytest.raises(
            ValueError, match=r"must hold engines that optimize\(\) built, got none; give it to optimiz"
        ):
            restore(source)


def test_other_files_fail(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_text("no archive")
    with pytest.raises(ValueError, match="must be a TorchScript file, which is a zip archive"):
        restore(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="must be a TorchScript file, got an archive without code"):
        restore(path)
    with pytest.raises(FileNotFoundError):
        restore(tmp_path / "absent.pt")


def test_nothing_to_run_the_model_on_fails(two_parts: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"give test_data=\[\(images,\)\], a list of tuples of arguments, or input_sha"
    ):
        retarget(two_parts, tmp_path / "out.pt", "cpu")


def test_wrong_arguments_fail(two_parts: Path, tmp_path: Path) -> None:
    data = [(torch.rand(4, 8),)]
    with pytest.raises(ValueError, match=r"device_type must be 'gpu' .* or 'cpu' \(OpenVINO\), got 'cuda'"):
        retarget(two_parts, tmp_path / "out.pt", "cuda", data)
    with pytest.raises(
        FileNotFoundError, match=r"target must be in a folder that is there, got .*; make .*absent first"
    ):
        retarget(two_parts, tmp_path / "absent" / "out.pt", "cpu", data)
    with pytest.raises(TypeError, match=r"config must be a torch_trt_ext\.Config, got dict"):
        retarget(two_parts, tmp_path / "out.pt", "cpu", data, config={})  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"test_data\[0\] must be arguments that the model takes, got \(float32\[4, 7\],\)"
    ):
        retarget(two_parts, tmp_path / "out.pt", "cpu", [(torch.rand(4, 7),)])
    assert not (tmp_path / "out.pt").exists()


def test_engines_that_cannot_be_built_here_fail(two_parts: Path, tmp_path: Path) -> None:
    if not runtime.available_backends()["tensorrt"]:
        pytest.skip("TensorRT runs here")
    with pytest.raises(RuntimeError, match=r"optimize\(device_type='gpu'\) cannot build engines here"):
        retarget(two_parts, tmp_path / "out.pt", "gpu", [(torch.rand(4, 8),)])
