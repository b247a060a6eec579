"""Measures what a call of an engine costs, against the same engine called in every other way, in one process.

    python -m benchmarks.bench_runtime --out results.json [--only host,latency,shapes,...] [--cache folder]

The engines are built here: a tiny one in float32, whose one kernel takes less time than any call of it, and in float16
ResNet-50 and the trunk of torchvision's RetinaNet. Answers are checked before anything is timed. A GPU with TensorRT
and its builder is needed.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, List  # noqa: UP035  (what TorchScript reads)

import torch
from torch import Tensor, nn

from benchmarks.engine_peers import compile_naive_engine, torch_tensorrt_call
from benchmarks.models import build_case
from benchmarks.peers import TensorRTContext, to_onnx
from benchmarks.results import Results, header, what, write
from torch_trt_ext import EnginePlan, TRTEngineExtension, engine_call
from torch_trt_ext.builders.onnx_tensorrt import build_tensorrt_from_onnx, timing_cache_name
from torch_trt_ext.builders.tensorrt_build import build_logger, import_tensorrt, keep_builders
from torch_trt_ext.config import KEEP_FLOAT32
from torch_trt_ext.optimizer.accuracy import compare
from torch_trt_ext.optimizer.engine_cache import TimingCache
from torch_trt_ext.optimizer.half_precision import to_half_precision
from torch_trt_ext.optimizer.latency import compare_latency
from torch_trt_ext.optimizer.structures import flatten_tensors

TOLERANCE = 0.05

#: Calls of a tiny engine between two waits for the GPU: few enough that its queue never fills.
CALLS_AT_ONCE = 50
ROUNDS = 12
BATCHES = 8
UNCOUNTED_BATCHES = 2

THREADS = 8
SECONDS_OF_THREADS = 2.0
TURNS_OF_THREADS = 3


#: Steps of a call that ``benchmarks/naive_engine.cpp`` times by themselves.
STEPS = (
    "an output allocated and freed",
    "an address set",
    "an event recorded",
    "device, stream and capture asked for",
    "enqueueV3",
)

#: A stream, and calls to make on it.
Way = tuple[torch.cuda.Stream, Callable[[], object]]


class Tiny(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x + 1


class Wide(nn.Module):
    """Few weights, large activations."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *[nn.Conv2d(3 if not i else 64, 64, 3, padding=1) for i in range(3)], nn.Conv2d(64, 3, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.body(x)
        return result


class Loop(nn.Module):
    """Calls an engine from TorchScript."""

    def __init__(self, engine: Any) -> None:
        super().__init__()
        self.engine = engine

    def forward(self, inputs: List[Tensor], calls: int) -> List[Tensor]:  # noqa: UP006
        outputs: List[Tensor] = []  # noqa: UP006
        for _ in range(calls):
            outputs = self.engine.forward(inputs)
        return outputs


class Bench:
    """Builds the engines that the measurements share.

    Args:
        cache: folder where TensorRT's timings are kept, or None.
    """

    def __init__(self, cache: Path | None) -> None:
        self._timings = TimingCache(cache, timing_cache_name()) if cache else None

    def plan(
        self, module: nn.Module, x: Tensor, shapes: tuple[Any, Any, Any] | None = None, *, half: bool = True
    ) -> EnginePlan:
        """An engine for one shape, or for shapes from the first to the last of three; in float16, or in float32."""
        with torch.no_grad():
            outputs = flatten_tensors(module(x))
        dynamic = None if shapes is None else {0: "batch"}
        model = to_onnx(module, (x,), len(outputs), dynamic)
        if half:
            model = to_half_precision(model, half="float16", keep_float32_ops=KEEP_FLOAT32).model
        ranges = shapes or (tuple(x.shape),) * 3
        return build_tensorrt_from_onnx(
            model, [{"input_0": ranges}], timing_cache=self._timings, what=type(module).__name__
        )

    @functools.cached_property
    def tiny(self) -> tuple[EnginePlan, Tensor]:
        x = torch.rand(1, 3, 8, 8, device="cuda")
        return self.plan(Tiny(), x, half=False), x

    @functools.cached_property
    def tiny_of_many_shapes(self) -> EnginePlan:
        x = torch.rand(1, 3, 8, 8, device="cuda")
        return self.plan(Tiny(), x, ((1, 3, 8, 8), (2, 3, 8, 8), (64, 3, 8, 8)), half=False)

    @functools.cache  # noqa: B019  (as long as the process)
    def resnet(self, batch: int) -> tuple[EnginePlan, nn.Module, Tensor]:
        case = build_case("resnet50", "cuda", batch=batch)
        return self.plan(case.model, case.arguments[0]), case.model, case.arguments[0]

    @functools.cached_property
    def trunk(self) -> tuple[EnginePlan, nn.Module, Tensor]:
        case = build_case("retinanet_with_engine", "cuda")
        assert case.trunk is not None
        return self.plan(case.trunk, case.arguments[0]), case.trunk, case.arguments[0]


def engine_of(plan: EnginePlan, *, graphs: bool = False) -> Any:
    engine = TRTEngineExtension(plan.data, plan.io_spec)
    engine.set_cuda_graphs(graphs)
    return engine


def host_microseconds(ways: dict[str, Way], calls: int = CALLS_AT_ONCE) -> Results:
    """Median host time of one call in each way, where each makes ``calls`` at once, all in turn on streams of theirs.

    The GPU is waited for between, untimed. Each turn is several batches, of which the first are not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, (stream, call) in ways.items():
            with torch.cuda.stream(stream), torch.no_grad():
                for batch in range(BATCHES):
                    torch.cuda.synchronize()
                    start = time.perf_counter()
                    call()
                    if batch >= UNCOUNTED_BATCHES:
                        times[name].append((time.perf_counter() - start) / calls)
    torch.cuda.synchronize()
    return {name: round(statistics.median(found) * 1e6, 3) for name, found in times.items()}


def repeated(call: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        for _ in range(CALLS_AT_ONCE):
            call()

    return run


def measure_host(bench: Bench) -> Results:
    """Microseconds of host time a call of the tiny engine."""
    plan, x = bench.tiny
    expected = 2 * x + 1
    raw = TensorRTContext(plan.data, {"input_0": x})
    side, default = torch.cuda.Stream(), torch.cuda.default_stream()
    engines = {"ours": engine_of(plan), "ours, CUDA graphs": engine_of(plan, graphs=True)}
    facts: Results = {"layers": len(json.loads(engines["ours"].layer_info())["Layers"])}
    ways: dict[str, Way] = {"raw execute_async_v3 from Python": (side, repeated(lambda: raw.enqueue(side)))}
    try:
        naive_class = compile_naive_engine()
        engines["naive torch class"] = naive_class(plan.data)
        one_by_one = naive_class(plan.data)
        one_by_one.prepare([x])
        for step in STEPS:
            ways[f"in C++: {step}"] = side, functools.partial(one_by_one.repeat, step, CALLS_AT_ONCE)
    except Exception as error:  # a compiler or headers may be missing
        facts["naive torch class"] = f"failed: {error}"[:300]
    inputs = [x]
    for name, engine in engines.items():
        assert compare(expected, engine.forward(inputs)[0]).within(TOLERANCE), name
        loop = torch.jit.script(Loop(engine))
        for where, stream in (("side stream", side), ("default stream", default)):
            ways[f"{name}, from Python, {where}"] = stream, repeated(functools.partial(engine.forward, inputs))
            if engine is not engines.get("naive torch class"):
                call = functools.partial(engine_call(engine), inputs)
                ways[f"{name}, engine_call from Python, {where}"] = stream, repeated(call)
            ways[f"{name}, in a scripted loop, {where}"] = stream, functools.partial(loop, inputs, CALLS_AT_ONCE)
    eager = Tiny()
    ways["eager PyTorch, two operators"] = default, repeated(lambda: eager(x))
    return facts | host_microseconds(ways)


def measure_latency(bench: Bench) -> Results:
    """Milliseconds a call, raw and ours, without and with CUDA graphs, on a side stream and on the default stream."""
    results: Results = {}
    for name, (plan, module, x) in {
        "resnet50 batch 1": bench.resnet(1),
        "resnet50 batch 8": bench.resnet(8),
        "RetinaNet trunk batch 1": bench.trunk,
    }.items():
        with torch.no_grad():
            expected = [tensor for _, tensor in flatten_tensors(module(x))]
        streams = {"side stream": torch.cuda.Stream(), "default stream": torch.cuda.default_stream()}
        results[name] = {where: _latencies(plan, x, expected, stream) for where, stream in streams.items()}
    return results


def _latencies(plan: EnginePlan, x: Tensor, expected: list[Tensor], stream: torch.cuda.Stream) -> Results:
    """All ways in turn, on one stream, each with contexts of its own."""
    raw, raw_in_graph = (TensorRTContext(plan.data, {"input_0": x}) for _ in range(2))
    ours, with_graphs = engine_of(plan), engine_of(plan, graphs=True)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream), torch.no_grad():
        raw_in_graph.enqueue(stream)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            raw_in_graph.enqueue(torch.cuda.current_stream())
        inputs = [x]
        calls: dict[str, Callable[[], object]] = {
            "raw": functools.partial(raw.enqueue, stream),
            "ours": functools.partial(engine_call(ours), inputs),
            "raw graph": graph.replay,
            "ours with graphs": functools.partial(engine_call(with_graphs), inputs),
        }
        calls["raw"]()
        stream.synchronize()
        for answers in (raw.outputs.values(), ours.forward(inputs), with_graphs.forward(inputs)):
            assert compare(expected, list(answers)).within(TOLERANCE)
        latencies = compare_latency(calls, device="cuda", max_seconds=20)
    found: Results = {way: latency.as_dict() for way, latency in latencies.items()}
    for way, base in (("ours", "raw"), ("ours with graphs", "raw graph")):
        found[way]["times_raw"] = round(latencies[way].median_ms / latencies[base].median_ms, 4)
    return found


def _four_shapes() -> list[list[Tensor]]:
    return [[torch.rand(batch, 3, 8, 8, device="cuda")] for batch in (1, 2, 7, 64)]


def measure_shapes(bench: Bench) -> Results:
    """Four shapes in turn with CUDA graphs on: how many recordings, how much host time."""
    engine = engine_of(bench.tiny_of_many_shapes, graphs=True)
    inputs = _four_shapes()

    def run() -> None:
        for x in inputs:
            engine.forward(x)

    for _ in range(10):
        run()
    warm = engine.counters()["graph_captures"]
    stream = torch.cuda.current_stream()
    return {
        "captures of the warm-up": warm,
        "host microseconds a call": host_microseconds({"ours": (stream, run)}, len(inputs))["ours"],
        "captures after it": engine.counters()["graph_captures"] - warm,
        "contexts": engine.counters()["contexts"],
    }


def _calls_a_second(engines: Sequence[Any], x: Tensor, expected: Tensor) -> tuple[float, float]:
    """Calls from a thread for each engine given, with streams of their own, for some seconds; and the worst error.

    Every answer is checked on the GPU.
    """
    counts = [0] * len(engines)
    wrong = [0.0] * len(engines)
    scale = expected.norm()
    stop = threading.Event()

    def work(index: int) -> None:
        with torch.no_grad(), torch.cuda.stream(torch.cuda.Stream()):
            worst = torch.zeros((), device="cuda")
            while not stop.is_set():
                for _ in range(10):
                    (y,) = engines[index].forward([x])
                    worst = torch.maximum(worst, (y.float() - expected).norm() / scale)
                torch.cuda.current_stream().synchronize()
                counts[index] += 10
            wrong[index] = worst.item()

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(engines))]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    time.sleep(SECONDS_OF_THREADS)
    stop.set()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - start), max(wrong)


def measure_threads(bench: Bench) -> Results:
    """Eight threads with streams of their own on one engine, and on one engine each, in turn."""
    plan, module, x = bench.resnet(1)
    with torch.no_grad():
        expected = module(x)
    results: Results = {}
    for graphs in (False, True):
        word = "on" if graphs else "off"
        rates: dict[str, list[float]] = {}
        for turn in range(2 * TURNS_OF_THREADS):
            name, count = (("one engine", 1), ("an engine each", THREADS))[turn % 2]
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            free = torch.cuda.mem_get_info()[0]
            engines = [engine_of(plan, graphs=graphs) for _ in range(count)] * (THREADS // count)
            rate, error = _calls_a_second(engines, x, expected)
            rates.setdefault(name, []).append(rate)
            results[f"{name}, graphs {word}"] = {
                "calls a second": [round(rate, 1) for rate in rates[name]],
                "worst relative error": float(f"{error:.3g}"),
                # Weights and contexts, and what torch's allocator took for activations and answers.
                "device memory, MiB": round((free - torch.cuda.mem_get_info()[0]) / 2**20, 1),
            }
            del engines
    return results


def measure_memory(bench: Bench) -> Results:
    """Peak device memory of calls of two engines, alone and one after the other in one model."""
    first, second = (
        (bench.plan(Wide().cuda(), x), x)
        for x in (torch.rand(4, 3, 512, 512, device="cuda"), torch.rand(8, 3, 512, 512, device="cuda"))
    )
    made = [(engine_of(plan), x) for plan, x in (first, second)]

    def peak(parts: Sequence[tuple[Any, Tensor]]) -> float:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        for engine, x in parts:
            engine.forward([x])
        torch.cuda.synchronize()
        return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)

    for engine, x in made:
        engine.forward([x])
    return {
        "first alone, MiB": peak(made[:1]),
        "second alone, MiB": peak(made[1:]),
        "both in one model, MiB": peak(made),
    }


def measure_load(bench: Bench) -> Results:
    """From a saved model on disk to the first answer, against the same of the plan with TensorRT's own interface."""
    plan, _, x = bench.resnet(1)
    trt = import_tensorrt()
    with tempfile.TemporaryDirectory() as folder:
        model_path, plan_path = Path(folder) / "model.pt", Path(folder) / "model.plan"
        torch.jit.save(torch.jit.script(Loop(engine_of(plan))), str(model_path))
        plan.save(plan_path)
        runtime = trt.Runtime(build_logger())

        def raw() -> None:
            engine = runtime.deserialize_cuda_engine(plan_path.read_bytes())
            context = engine.create_execution_context()
            output = torch.empty(1, 1000, device="cuda")
            context.set_tensor_address("input_0", x.data_ptr())
            context.set_tensor_address("output_0", output.data_ptr())
            context.execute_async_v3(torch.cuda.Stream().cuda_stream)
            torch.cuda.synchronize()

        def ours() -> None:
            torch.jit.load(str(model_path))([x], 1)
            torch.cuda.synchronize()

        times: dict[str, list[float]] = {"raw": [], "ours": []}
        for turn in range(25):
            for name, call in (("raw", raw), ("ours", ours)):
                start = time.perf_counter()
                call()
                if turn:
                    times[name].append((time.perf_counter() - start) * 1000)
        medians = {name: statistics.median(values) for name, values in times.items()}
        return {
            "raw, ms": round(medians["raw"], 2),
            "ours, ms": round(medians["ours"], 2),
            "times_raw": round(medians["ours"] / medians["raw"], 4),
            "plan, bytes": len(plan.data),
            "file, bytes": model_path.stat().st_size,
        }


def measure_torch_tensorrt(bench: Bench) -> Results:
    """Microseconds of host time a call by Torch-TensorRT's runtime, of one shape and of four in turn."""
    plan, x = bench.tiny
    call = torch_tensorrt_call(plan)
    assert compare(2 * x + 1, call([x])[0]).within(TOLERANCE)
    streams = {"side stream": torch.cuda.Stream(), "default stream": torch.cuda.default_stream()}
    results = host_microseconds(
        {f"from Python, {where}": (stream, repeated(functools.partial(call, [x]))) for where, stream in streams.items()}
    )
    inputs = _four_shapes()
    for word, graphs in (("off", False), ("on", True)):
        call = torch_tensorrt_call(bench.tiny_of_many_shapes, graphs=graphs)
        way: Way = torch.cuda.current_stream(), lambda call=call: [call(x) for x in inputs]
        name = f"four shapes in turn, CUDA graphs {word}"
        results |= host_microseconds({name: way}, len(inputs))
    return results


MEASUREMENTS: dict[str, Callable[[Bench], Results]] = {
    "host": measure_host,
    "latency": measure_latency,
    "shapes": measure_shapes,
    "threads": measure_threads,
    "memory": measure_memory,
    "load": measure_load,
    # The last, since another's library may end the process.
    "Torch-TensorRT": measure_torch_tensorrt,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--only", default=",".join(MEASUREMENTS), help="names with commas; default: all")
    parser.add_argument("--cache", type=Path, help="folder for TensorRT's timings; default: none")
    args = parser.parse_args(arguments)
    unknown = [name for name in args.only.split(",") if name not in MEASUREMENTS]
    if unknown:
        parser.error(f"--only must be of {', '.join(MEASUREMENTS)}, got {', '.join(unknown)}")
    results = header("bench_runtime", arguments)
    with keep_builders():
        bench = Bench(args.cache)
        for name in args.only.split(","):
            try:
                results[name] = MEASUREMENTS[name](bench)
            except Exception as error:  # one that fails must not hide the others
                results[name] = {"failed": what(error)}
            print(json.dumps({name: results[name]}, indent=1), flush=True)
            write(args.out, results)


if __name__ == "__main__":
    main()
