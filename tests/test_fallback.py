"""Engines of an optimized model give way to the subgraphs that they replaced, wherever they cannot run."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torch_trt_ext import runtime

pytest.importorskip("openvino")

from tests.fresh_process import output_of_fresh
from tests.optimizer.tiny_models import (
    Convolutions,
    TwoParts,
    assert_close,
    counters,
    engine_modules,
    make,
    optimize,
    quick_config,
)
from tests.threads import run_in_threads

pytestmark = pytest.mark.usefixtures("one_thread")


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def assert_eager(actual: Tensor, expected: Tensor) -> None:
    """Float32 in another fusion than eager's: much closer than any engine of 16 bits."""
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return make(Convolutions)


@pytest.fixture
def optimized(model: nn.Module) -> Any:
    """For 2 to 4 images of 16 by 16."""
    config = quick_config()
    config.shapes.profiles = [{"images": [[2, 3, 16, 16], [2, 3, 16, 16], [4, 3, 16, 16]]}]
    result, _, report = optimize(model, [(images(2, 3, 16, 16),)], config)
    assert len(report["engines"]) == 1
    return result


def fallbacks(model: Any) -> int:
    return sum(counted["fallbacks"] for counted in counters(model))


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (5, 3, 16, 16), (2, 3, 17, 16), (2, 3, 16, 8), (0, 3, 16, 16)])
def test_shapes_outside_the_profile_run_the_subgraph(model: nn.Module, optimized: Any, shape: tuple[int, ...]) -> None:
    before = fallbacks(optimized)
    x = images(*shape)
    assert_eager(optimized(x), model(x))
    assert fallbacks(optimized) == before + 1
    inside = images(3, 3, 16, 16)
    assert_close(optimized(inside), model(inside))
    assert fallbacks(optimized) == before + 1


def test_other_rank_runs_the_subgraph(model: nn.Module, optimized: Any) -> None:
    before = fallbacks(optimized)
    x = images(2, 3, 16, 16)
    with pytest.raises(RuntimeError, match=r"Expected 3D .* or 4D .* input"):
        optimized(x[None])
    assert fallbacks(optimized) == before + 1


def test_runs_are_counted_too(optimized: Any) -> None:
    (before,) = counters(optimized)
    for _ in range(3):
        optimized(images(2, 3, 16, 16))
    (after,) = counters(optimized)
    assert after["fallbacks"] == before["fallbacks"]
    assert sum(after.values()) > sum(before.values())


def test_other_dtype_runs_the_subgraph() -> None:
    class Steps(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(torch.sin(x) * 2 + 1) * x

    model = Steps().eval()
    x = images(4, 8)
    optimized, _, report = optimize(model, [(x,)])
    assert report["engines"][0]["inputs"][0]["dtype"] == "Float"
    before = fallbacks(optimized)
    for count, dtype in enumerate((torch.float16, torch.bfloat16, torch.float64), start=1):
        result = optimized(x.to(dtype))
        assert result.dtype is dtype
        torch.testing.assert_close(result, model(x.to(dtype)))
        assert fallbacks(optimized) == before + count


def test_non_contiguous_inputs_run_the_engine(model: nn.Module, optimized: Any) -> None:
    before = fallbacks(optimized)
    for x in (
        images(2, 3, 16, 16).transpose(2, 3),
        images(4, 3, 16, 16)[::2],
        images(2, 16, 16, 3).permute(0, 3, 1, 2),
    ):
        assert_close(optimized(x), model(x))
    assert fallbacks(optimized) == before


def test_one_engine_falls_back_and_the_other_runs() -> None:
    model = make(TwoParts)
    optimized, _, _ = optimize(model, [(images(4, 8),)])
    assert len(engine_modules(optimized)) == 2
    first, second = (module.engine for module in engine_modules(optimized))
    before = [engine.counters()["fallbacks"] for engine in (first, second)]
    assert_eager(optimized(images(3, 8)), model(images(3, 8)))
    assert [engine.counters()["fallbacks"] for engine in (first, second)] == [count + 1 for count in before]


def test_copies_and_saved_models_keep_the_fallback(model: nn.Module, optimized: Any, tmp_path: Path) -> None:
    torch.jit.save(optimized, tmp_path / "model.pt")
    inside, outside = images(3, 3, 16, 16), images(1, 3, 8, 8)
    for other in (copy.deepcopy(optimized), torch.jit.load(tmp_path / "model.pt").eval()):
        assert_close(other(inside), model(inside))
        assert_eager(other(outside), model(outside))
    loaded = torch.jit.load(tmp_path / "model.pt")
    loaded(inside)
    loaded(outside)
    assert fallbacks(loaded) == 1
    torch.jit.save(loaded, tmp_path / "again.pt")
    assert_eager(torch.jit.load(tmp_path / "again.pt")(outside), model(outside))


def test_machine_that_cannot_run_the_engine(model: nn.Module, optimized: Any, tmp_path: Path) -> None:
    torch.jit.save(optimized, tmp_path / "model.pt")
    inside, outside = images(3, 3, 16, 16), images(1, 3, 8, 8)
    torch.save([inside, model(inside), outside, model(outside)], tmp_path / "tensors.pt")
    libraries = tmp_path / "lib"
    libraries.mkdir()
    (libraries / "libtorch_trt_ext.so").symlink_to(runtime.library_path("runtime").resolve())
    said = output_of_fresh(
        f"""
        import torch
        from torch_trt_ext import runtime

        torch.set_num_threads(1)
        assert "OpenVINO" in runtime.available_backends()["openvino"], runtime.available_backends()
        model = torch.jit.load({str(tmp_path / "model.pt")!r})
        engine = model.engine_0.engine
        assert not engine.can_run()
        inside, expected_inside, outside, expected_outside = torch.load({str(tmp_path / "tensors.pt")!r})
        torch.testing.assert_close(model(inside), expected_inside, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(model(outside), expected_outside, rtol=1e-5, atol=1e-6)
        assert engine.counters()["fallbacks"] == 2
        # It can be passed on, to a machine that has what it needs.
        torch.jit.save(model, {str(tmp_path / "passed on.pt")!r})
        print(engine.why_not())
        """,
        environment={"TORCH_TRT_EXT_LIBRARY_DIR": str(libraries)},
    )
    assert "pip install openvino and import torch_trt_ext.runtime" in said
    passed_on = torch.jit.load(tmp_path / "passed on.pt")
    assert torch.equal(passed_on(inside), optimized(inside))
    assert fallbacks(passed_on) == 0


def test_without_fallback_a_machine_that_cannot_run_the_engine_says_why(model: nn.Module, tmp_path: Path) -> None:
    config = quick_config()
    config.keep_fallback = False
    optimized, _, _ = optimize(model, [(images(2, 3, 16, 16),)], config)
    torch.jit.save(optimized, tmp_path / "model.pt")
    libraries = tmp_path / "lib"
    libraries.mkdir()
    (libraries / "libtorch_trt_ext.so").symlink_to(runtime.library_path("runtime").resolve())
    said = output_of_fresh(
        f"""
        import torch
        import torch_trt_ext.runtime

        model = torch.jit.load({str(tmp_path / "model.pt")!r})
        try:
            model(torch.rand(2, 3, 16, 16))
        except RuntimeError as error:
            print(error)
        """,
        environment={"TORCH_TRT_EXT_LIBRARY_DIR": str(libraries)},
    )
    assert "pip install openvino and import torch_trt_ext.runtime" in said


def test_several_threads_call_one_model(model: nn.Module, optimized: Any) -> None:
    inputs = [images(2 + number % 4, 3, 16, 16, seed=number) for number in range(16)]
    with torch.no_grad():
        expected = [model(x) for x in inputs]
    before = fallbacks(optimized)

    def call(thread: int) -> None:
        for turn in range(3 * len(inputs)):
            number = (4 * thread + turn) % len(inputs)
            with torch.no_grad():
                assert_close(optimized(inputs[number]), expected[number])

    run_in_threads(4, call)
    # Batches of five are outside.
    assert fallbacks(optimized) == before + 4 * 3 * sum(len(x) > 4 for x in inputs)
