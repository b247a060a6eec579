"""``torch-trt-ext bench``; how fast is no test's business."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("openvino")

from tests.cli.command import document_of, error_of, run_command
from torch_trt_ext.figures import Distribution, bench_models


def test_figures_side_by_side(plain: Path, two_parts: Path) -> None:
    arguments = [plain, two_parts, "--device", "cpu", "--input", "4x8,5x8", "--runs", "20", "--warmup", "2"]
    document = document_of("bench", *arguments)
    assert document["device_type"] == "cpu"
    assert document["versions"]["torch"] == torch.__version__
    assert [result["inputs"] for result in document["results"]] == ["(float32[4, 8],)", "(float32[5, 8],)"]
    fitting, other = (result["models"] for result in document["results"])
    assert list(fitting) == ["plain.pt", "model.pt"]
    for figures in fitting.values():
        latency = figures["latency"]
        ordered = [latency[f"{name}_ms"] for name in ("min", "median", "p90", "p95", "p99", "max")]
        assert ordered[0] > 0
        assert ordered == sorted(ordered)
        assert figures["throughput"] > 0
        assert figures["runs"] == 20
        assert figures["enqueue"] is figures["gpu"] is None
    assert fitting["plain.pt"]["difference"] == 0
    assert 0 < fitting["model.pt"]["difference"] < 0.05
    # Its engines are for 4 rows.
    calls = [(figures["engine_calls"], figures["fallbacks"]) for figures in (fitting["model.pt"], other["model.pt"])]
    assert calls == [(2, 0), (0, 2)]


def test_text(plain: Path, two_parts: Path) -> None:
    arguments = [plain, two_parts, "--device", "cpu", "--input", "4x8", "--runs", "5", "--warmup", "0"]
    lines = run_command("bench", *arguments).stdout.splitlines()
    names = [line.split("  ")[0] for line in lines]
    assert "latency p99 (ms)" in names
    assert "engines in a call" in names
    assert "times as fast as the first" in names
    assert not any(name.startswith(("enqueue", "GPU compute")) for name in names)
    header = next(line for line in lines if "plain.pt" in line)
    assert header.split() == ["plain.pt", "model.pt"]


def test_percentiles_are_of_the_calls() -> None:
    distribution = Distribution.of([float(time) for time in range(100, 0, -1)])
    assert (distribution.min_ms, distribution.max_ms) == (1, 100)
    assert (distribution.p90_ms, distribution.p95_ms, distribution.p99_ms) == (90, 95, 99)
    assert distribution.median_ms == distribution.mean_ms == 50.5
    assert Distribution.of([2.0]) == Distribution(2, 2, 2, 2, 2, 2, 2)


def test_models_may_write_to_their_inputs() -> None:
    class Adds(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.add_(1)

    x = torch.zeros(2)
    scripts = {name: torch.jit.script(Adds().eval()) for name in "ab"}
    figures = bench_models(scripts, (x,), device=torch.device("cpu"), warmup=1, runs=3)
    assert [of_model.difference for of_model in figures.values()] == [0, 0]
    assert x.tolist() == [0, 0]


def test_what_cannot_be_done_fails(plain: Path) -> None:
    if not torch.cuda.is_available():
        message = error_of("bench", plain, "--device", "gpu", "--input", "4x8")
        assert message.startswith("error: --device gpu must have an NVIDIA GPU that PyTorch can use, found none; ")
    message = error_of("bench", plain, "--device", "cpu", "--input", "4x8", "--runs", "0")
    assert message == "error: runs must be at least 1, got 0"
    assert "each MODEL must be given once" in error_of("bench", plain, plain, "--input", "4x8", exit_status=2)
