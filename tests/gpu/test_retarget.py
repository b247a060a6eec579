"""A file's engines are built anew, and it goes from the CPU to the GPU and back, with engines for each."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import torch_trt_ext
from tests.optimizer.tiny_models import Convolutions, assert_close, counters, make, optimize, quick_config
from torch_trt_ext.retarget import retarget


def gpu_config() -> torch_trt_ext.Config:
    config = quick_config()
    config.tensorrt.builder_optimization_level = 1
    return config


def test_engines_are_built_anew(tmp_path: Path) -> None:
    model, images = make(Convolutions), torch.rand(2, 3, 16, 16)
    optimized, _, _ = torch_trt_ext.optimize(
        model.cuda(), "o1", "gpu", config=gpu_config(), test_data=[(images.cuda(),)]
    )
    torch.jit.save(optimized, str(tmp_path / "first.pt"))
    report = retarget(tmp_path / "first.pt", tmp_path / "second.pt", "gpu", [(images,)], config=gpu_config())
    assert report["engines"]
    second = torch.jit.load(str(tmp_path / "second.pt"))
    assert_close(second(images.cuda()).cpu(), make(Convolutions)(images))
    assert [(counts["calls"], counts["fallbacks"]) for counts in counters(second)] == [(1, 0)]


def test_from_the_cpu_to_the_gpu_and_back(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    model, images = make(Convolutions), torch.rand(2, 3, 16, 16)
    optimized, _, _ = optimize(model, [(images,)])
    torch.jit.save(optimized, str(tmp_path / "cpu.pt"))
    report = retarget(tmp_path / "cpu.pt", tmp_path / "gpu.pt", "gpu", [(images,)], config=gpu_config())
    assert report["engines"]
    on_gpu = torch.jit.load(str(tmp_path / "gpu.pt"))
    answer = on_gpu(images.cuda())
    assert answer.is_cuda
    assert_close(answer.cpu(), model(images))
    assert [(counts["calls"], counts["fallbacks"]) for counts in counters(on_gpu)] == [(1, 0)]
    retarget(tmp_path / "gpu.pt", tmp_path / "back.pt", "cpu", [(images,)], config=quick_config())
    on_cpu = torch.jit.load(str(tmp_path / "back.pt"))
    assert_close(on_cpu(images), model(images))
    assert [(counts["calls"], counts["fallbacks"]) for counts in counters(on_cpu)] == [(1, 0)]


def test_devices_in_a_traces_code_move_along(tmp_path: Path) -> None:
    pytest.importorskip("openvino")

    class Rows(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = make(Convolutions)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.part(images) + torch.arange(images.shape[0], device=images.device).unsqueeze(1)

    model, items = Rows().eval(), [(torch.rand(2, 3, 16, 16),), (torch.rand(4, 3, 16, 16),)]
    optimized, _, _ = optimize(torch.jit.trace(model, items[0]), items)
    torch.jit.save(optimized, str(tmp_path / "cpu.pt"))
    retarget(tmp_path / "cpu.pt", tmp_path / "gpu.pt", "gpu", items, config=gpu_config())
    images = torch.rand(3, 3, 16, 16)
    assert_close(torch.jit.load(str(tmp_path / "gpu.pt"))(images.cuda()).cpu(), model(images))
