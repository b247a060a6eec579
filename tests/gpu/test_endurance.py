"""Many calls, many threads, damaged states, every order of leaving: nothing grows, is wrong or crashes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.fresh_process import run_fresh
from tests.gpu.networks import CONVOLUTION_TOLERANCE, ConvolutionTwin, affine_plan, convolution_plan
from tests.gpu.test_tensorrt_engine import AFFINE_IO, image
from tests.threads import run_in_threads
from torch_trt_ext import TRTEngineExtension

CALLS = 1_000_000
CALLS_BETWEEN_WAITS = 1000

#: What the host may need more after a million calls than after the first thousands: allocators round and keep.
MEMORY_GROWTH_BYTES = 64 << 20


def host_bytes() -> int:
    """Memory of this process that is in use now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


@pytest.mark.parametrize("graphs", [False, True], ids=["enqueue", "graphs"])
def test_a_million_calls_do_not_grow(graphs: bool) -> None:
    engine = TRTEngineExtension(affine_plan(), AFFINE_IO)
    engine.set_cuda_graphs(graphs)
    inputs = [[image(count, 3, 16, 16)] for count in (1, 2, 5)]

    def run(calls: int) -> None:
        for call in range(calls):
            engine.forward(inputs[call % 3])
            if call % CALLS_BETWEEN_WAITS == 0:
                torch.cuda.synchronize()

    run(10_000)
    torch.cuda.synchronize()
    before = host_bytes(), torch.cuda.memory_allocated(), torch.cuda.mem_get_info()[0]
    run(CALLS if not graphs else CALLS // 2)
    torch.cuda.synchronize()
    assert host_bytes() - before[0] < MEMORY_GROWTH_BYTES
    assert torch.cuda.memory_allocated() == before[1]
    assert before[2] - torch.cuda.mem_get_info()[0] < MEMORY_GROWTH_BYTES
    x = inputs[0][0]
    torch.testing.assert_close(engine.forward([x])[0], 2 * x + 1)


@pytest.mark.parametrize("graphs", [False, True], ids=["enqueue", "graphs"])
def test_ten_threads(graphs: bool) -> None:
    engine = TRTEngineExtension(convolution_plan(), AFFINE_IO)
    engine.set_cuda_graphs(graphs)
    twin = ConvolutionTwin().cuda().requires_grad_(False)
    shapes = [(1, 3, 8, 8), (2, 3, 16, 24), (4, 3, 32, 16)]
    inputs = [[image(*shape) for shape in shapes] for _ in range(10)]
    expected = [[twin(x) for x in row] for row in inputs]
    torch.cuda.synchronize()

    def work(index: int) -> None:
        with torch.no_grad(), torch.cuda.stream(torch.cuda.Stream() if index % 3 else torch.cuda.default_stream()):
            worst: Tensor = torch.zeros((), device="cuda")
            for call in range(1000):
                (y,) = engine.forward([inputs[index][call % 3]])
                worst = torch.maximum(worst, (y - expected[index][call % 3]).abs().max())
            assert worst.item() < CONVOLUTION_TOLERANCE, f"thread {index}"

    run_in_threads(10, work)
    assert engine.counters()["calls"] == 10_000


def test_damaged_states_are_refused_and_right_ones_still_run() -> None:
    """A thousand states with flipped bits, lost ends and changed fields; the checksum stands before TensorRT."""
    engine = TRTEngineExtension(affine_plan(), AFFINE_IO)
    version, plan, fields = engine._get_method("__getstate__")()
    choose = random.Random(0)
    x = image(1, 3, 4, 4)
    target: Any = TRTEngineExtension(affine_plan(), AFFINE_IO)
    for case in range(1000):
        damaged = plan.clone()
        other_version, other_fields = version, {name: list(values) for name, values in dict(fields).items()}
        kind = case % 4
        if kind == 0:
            place = choose.randrange(damaged.numel())
            damaged[place] = int(damaged[place]) ^ (1 << choose.randrange(8))
        elif kind == 1:
            damaged = damaged[: choose.randrange(damaged.numel())]
        elif kind == 2:
            other_fields.pop(
                choose.choice(["input_names", "output_names", "input_types", "output_types", "plan_xxh64_of_mib"])
            )
        else:
            other_version = choose.choice([0, -1, 2, 2**31, 2**62])
        with pytest.raises(ValueError, match=r"a saved engine|the plan of a saved engine"):
            target._get_method("__setstate__")((other_version, damaged, other_fields))
        if case % 100 == 0:
            torch.testing.assert_close(engine.forward([x])[0], 2 * x + 1)


LEAVING = {
    "engine in a global": "",
    "with graphs": "engine.set_cuda_graphs(True)\nfor _ in range(6): engine.forward([x])",
    "work under way": "torch.cuda._sleep(100_000_000); y = engine.forward([x])",
    "in a captured graph": (
        "engine.forward([x]); g = torch.cuda.CUDAGraph()\nwith torch.cuda.graph(g): y = engine.forward([x])\ng.replay()"
    ),
    "in a cycle": "class Box: pass\nbox = Box(); box.engine = engine; box.self = box; del engine",
    "in an atexit handler": "import atexit\natexit.register(lambda: engine.forward([x]))",
}


@pytest.mark.parametrize("how", LEAVING)
def test_process_ends_cleanly(how: str, tmp_path: Path) -> None:
    plan = tmp_path / "engine.plan"
    plan.write_bytes(affine_plan())
    script = f"""import torch
from torch_trt_ext import TRTEngineExtension
engine = TRTEngineExtension.from_plan({str(plan)!r})
x = torch.ones(1, 3, 4, 4, device="cuda")
engine.forward([x])
{LEAVING[how]}
print("done")
"""
    result = run_fresh(script)
    assert (result.returncode, result.stdout.strip()) == (0, "done"), result.stderr
    assert "rror" not in result.stderr
