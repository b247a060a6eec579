"""optimize() with operators that are registered as plugins: one engine, its answers, 16 bits, saved, a library."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torch_trt_ext
from tests.fresh_process import output_of_fresh
from tests.gpu.test_optimize import check, counters, make_config, without_tf32
from torch_trt_ext import register_plugin_operator, unregister_plugin_operator
from torch_trt_ext.optimizer.plugin_operators import registered_plugin_operators

LEAKY = "torch_trt_ext_gpu_plugin_tests::leaky"

#: Held, since an operator goes with the object that defined it.
LIBRARY = torch.library.Library("torch_trt_ext_gpu_plugin_tests", "DEF")
LIBRARY.define("leaky(Tensor x, float negative_slope) -> Tensor")

calls: list[float] = []


def leaky(x: Tensor, negative_slope: float) -> Tensor:
    calls.append(negative_slope)
    return torch.where(x > 0, x, x * negative_slope)


LIBRARY.impl("leaky", leaky, "CompositeExplicitAutograd")


class Leaky(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.torch_trt_ext_gpu_plugin_tests.leaky(x, 0.25)


def make(middle: nn.Module) -> nn.Module:
    """A network with ``middle`` on 16 channels between two convolutions, with the same weights each time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), middle, nn.Conv2d(16, 8, 3)).eval().cuda()


def make_images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 33, 35, generator=torch.Generator().manual_seed(count)).cuda()


def optimize(model: nn.Module, cache: Path, *items: Tensor) -> tuple[Any, Any, Any]:
    test_data = [(item,) for item in items]
    script = torch.jit.script(model)
    return torch_trt_ext.optimize(script, "o1", device_type="gpu", config=make_config(cache), test_data=test_data)


@pytest.fixture(autouse=True)
def _registered_by_the_test_only() -> Iterator[None]:
    yield
    for operator in registered_plugin_operators():
        unregister_plugin_operator(operator)


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("plugin", ["LeakyReLU", "GroupNorm"])
def test_operator_is_a_plugin_of_the_engine(plugin: str, half: bool, tmp_path: Path) -> None:
    middle = {"LeakyReLU": Leaky(), "GroupNorm": nn.GroupNorm(4, 16, eps=1e-3)}[plugin]
    register_plugin_operator(LEAKY, "LeakyReLU", attributes={"neg_slope": "negative_slope"}, half=half)
    register_plugin_operator(
        "aten::group_norm", "GroupNorm", attributes={"num_groups": "num_groups", "eps": "eps"}, half=half
    )
    model, x = make(middle), make_images()
    expected = without_tf32(model, x)
    optimized, _, report = optimize(model, tmp_path / "cache", x)
    left = {entry["node"].partition("@")[0] for entry in report["left_in_torch"]}
    assert left.isdisjoint({LEAKY, "aten::group_norm"})
    (engine,) = report["engines"]
    assert (engine["precision"], engine["operators"]) == ("float16", 3)
    kept = f"is the plugin '{plugin}', not registered as taking float16"
    assert (kept in engine["kept_float32"].values()) is not half
    torch.jit.save(optimized, str(tmp_path / "model.pt"))
    for found in (optimized, torch.jit.load(str(tmp_path / "model.pt"))):
        calls.clear()
        before = counters(found, report)
        with torch.no_grad():
            check(expected, found(x))
        after = counters(found, report)
        assert (after["calls"] - before["calls"], after["fallbacks"] - before["fallbacks"]) == (1, 0)
        assert calls == []


def test_batches_between_the_samples(tmp_path: Path) -> None:
    register_plugin_operator(LEAKY, "LeakyReLU", attributes={"neg_slope": 1}, half=True)
    model = make(Leaky())
    optimized, _, report = optimize(model, tmp_path, make_images(1), make_images(4))
    assert len(report["engines"]) == 1
    calls.clear()
    for batch in (1, 3, 4):
        with torch.no_grad():
            actual = optimized(make_images(batch))
        assert calls == []
        check(without_tf32(model, make_images(batch)), actual)
        calls.clear()


def test_plugin_that_tensorrt_does_not_have_leaves_the_operator_in_torch(tmp_path: Path) -> None:
    register_plugin_operator(LEAKY, "NobodysPlugin")
    model, x = make(Leaky()), make_images()
    optimized, _, report = optimize(model, tmp_path, x)
    (reason,) = (entry["reason"] for entry in report["left_in_torch"] if entry["node"] == f"{LEAKY}@0")
    assert reason.startswith("is refused as NobodysPlugin: ")
    check(without_tf32(model, x), without_tf32(optimized, x))


def test_library_is_remembered_by_name(tmp_path: Path) -> None:
    library = tmp_path / "libmine.so"
    shutil.copy(torch_trt_ext.runtime.library_path("plugins"), library)
    text = output_of_fresh(f"""
        from pathlib import Path
        import torch, torch_trt_ext
        from tests.gpu.test_plugin_operators import LEAKY, Leaky, make, make_images, optimize
        torch_trt_ext.register_plugin_operator(
            LEAKY, "LeakyReLU", attributes={{"neg_slope": 1}}, library={str(library)!r}, half=True
        )
        optimized, spec, report = optimize(make(Leaky()), Path({str(tmp_path / "cache")!r}), make_images())
        (engine,) = report["engines"]
        print(getattr(optimized, engine["name"]).engine.plugin_libraries(), spec.plugin_libraries, spec.plugin_paths)
    """)
    assert text.strip().splitlines()[-1] == f"['libmine.so'] ['libmine.so'] [{str(library)!r}]"
