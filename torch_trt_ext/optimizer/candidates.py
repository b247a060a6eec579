"""Engines that may take their subgraphs' places: built, checked against them, timed against them, put in."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from torch_trt_ext.config import EIGHT_BIT, Config
from torch_trt_ext.optimizer import engine_module
from torch_trt_ext.optimizer.accuracy import Comparison, compare
from torch_trt_ext.optimizer.engine_builder import BuiltEngine, Precision
from torch_trt_ext.optimizer.latency import Latency, compare_latency
from torch_trt_ext.optimizer.model_input import copy_script
from torch_trt_ext.optimizer.observation import despite_fuser, without_fuser
from torch_trt_ext.optimizer.subgraphs import MIN_SHARE, Subgraph, SubgraphFactory, caller

#: How many times as fast something must be that costs memory, as CUDA graphs, or accuracy, as 8 bits: differences below
#: this are noise.
_PAYS = 1.01

#: An engine that is this many times as fast as its subgraph without TorchScript's fuser is as fast as with it, too.
_CLEARLY_FASTER = 2.0


@dataclass
class Candidate:
    """A subgraph's engine, and what was measured of it.

    Attributes:
        subgraph: what it would replace.
        precision: what it computes in.
        built: the plan.
        kept_16bit: names of nodes of an 8-bit engine that could be in 8 bits but are not, with the reason.
        engine: the engine object.
        build_seconds: time to build it or to find it in the cache, and to load it.
        comparison: its outputs against the subgraph's in float32, the worst of the recorded calls.
        engine_latency: of the engine.
        torch_latency: of the subgraph.
        rejected: why it is not used, or empty.
        inaccurate: whether that is because of its answers, which more bits may mend.
        not_in: why it is not in the precisions that were its turn before, by precision, in their order.
    """

    subgraph: Subgraph
    precision: Precision
    built: BuiltEngine
    kept_16bit: dict[str, str]
    engine: Any
    build_seconds: float
    comparison: Comparison | None = None
    engine_latency: Latency | None = None
    torch_latency: Latency | None = None
    rejected: str = ""
    inaccurate: bool = False
    not_in: dict[Precision, str] = field(default_factory=dict)


def build(factory: SubgraphFactory, subgraph: Subgraph, precision: Precision) -> Candidate:
    """Builds and loads the engine of a converted subgraph.

    Raises:
        RuntimeError: it cannot be built or loaded.
        ValueError: likewise.
    """
    assert subgraph.model is not None
    start = time.perf_counter()
    what = f"subgraph {subgraph.index} ({subgraph.operators} operators)"
    model, kept_16bit = factory.quantized(subgraph) if precision in EIGHT_BIT else (subgraph.model, {})
    built = factory.builder.build(model, subgraph.ranges, precision, factory.sensitive(subgraph, precision), what)
    engine = factory.builder.load(built.plan)
    return Candidate(subgraph, precision, built, kept_16bit, engine, time.perf_counter() - start)


def engine_call(candidate: Candidate, call: Sequence[Tensor]) -> list[Tensor]:
    """Runs a candidate's engine on a recorded call; only outputs with data."""
    return list(candidate.engine.forward(candidate.subgraph.engine_call(call)))


def verify(candidate: Candidate, config: Config, *, limited: bool = True) -> None:
    """Compares the engine with its subgraph in float32, and notes why it is rejected, if it is.

    Args:
        candidate: with its engine.
        config: the options.
        limited: whether errors have the limits of the options; else answers must only be there.
    """
    subgraph = candidate.subgraph
    worst: Comparison | None = None
    for call in subgraph.calls:
        comparison = compare(subgraph.reference(call), engine_call(candidate, call))
        if worst is None or comparison.relative > worst.relative:
            worst = comparison
    assert worst is not None
    candidate.comparison = worst
    limit = config.accuracy.limit(candidate.precision) if limited else float("inf")
    if not config.accuracy.check or worst.within(limit):
        return
    forgiven = config.gpu_config.disable_fp16_accuracy_check and candidate.precision != "float32"
    if not forgiven or not worst.within(float("inf")):
        candidate.inaccurate = True
        candidate.rejected = f"its engine in {candidate.precision} is not accurate: {worst.explain(limit)}"


def _in_turn(calls: Mapping[str, Callable[[], object]], config: Config, device: torch.device) -> dict[str, Latency]:
    """Times calls of a subgraph, or of engines for it, as the configuration says."""
    timing = config.timing
    return compare_latency(
        calls,
        device=device,
        warmup=timing.subgraph_warmup_runs,
        runs=timing.subgraph_timed_runs,
        max_seconds=timing.max_seconds,
    )


def choose_cuda_graphs(candidate: Candidate, config: Config, device: torch.device) -> None:
    """Turns the engine's CUDA graphs on where the config says so, or where they are measured to be faster."""
    choice = config.tensorrt.cuda_graphs
    if device.type != "cuda" or choice == "off":
        return
    engine, call = candidate.engine, candidate.subgraph.calls[0]
    if choice == "auto":

        def run(with_graphs: bool) -> None:
            engine.set_cuda_graphs(with_graphs)
            engine_call(candidate, call)

        latencies = _in_turn({"graphs": lambda: run(True), "none": lambda: run(False)}, config, device)
        engine.set_cuda_graphs(latencies["graphs"].median_ms * _PAYS < latencies["none"].median_ms)
    else:
        engine.set_cuda_graphs(True)


def time_against_torch(candidate: Candidate, config: Config, device: torch.device) -> None:
    """Times the engine and its subgraph in turn, and rejects an engine that is not faster.

    TorchScript's fuser may compile for minutes, so it is left out where it could not change what is chosen.
    """
    subgraph = candidate.subgraph
    call = subgraph.calls[0]
    timing = config.timing

    def times(module: torch.jit.ScriptModule) -> dict[str, Latency]:
        return _in_turn({"torch": caller(module, call), "engine": lambda: engine_call(candidate, call)}, config, device)

    latencies = without_fuser(lambda: times(subgraph.fallback))
    if device.type == "cuda" and timing.compare and _speedup(latencies) < _CLEARLY_FASTER * timing.min_speedup:
        # What ran without the fuser goes on without it.
        compiled = copy_script(subgraph.fallback)
        latencies, _ = despite_fuser(lambda: times(compiled))
    candidate.torch_latency, candidate.engine_latency = latencies["torch"], latencies["engine"]
    speedup = _speedup(latencies)
    if timing.compare and speedup < timing.min_speedup:
        candidate.rejected = (
            f"its engine is {speedup:.2f} times as fast, less than min_speedup {timing.min_speedup:g}: "
            f"{candidate.engine_latency.median_ms:.3g} ms against {candidate.torch_latency.median_ms:.3g} ms in PyTorch"
        )
        return
    # Who allows slower engines wants them for something else.
    saved_ms = candidate.torch_latency.median_ms - candidate.engine_latency.median_ms
    if timing.compare and timing.min_speedup >= 1 and saved_ms < subgraph.least_saving_ms:
        candidate.rejected = (
            f"its engine saves {saved_ms:.3g} ms a call, less than the {subgraph.least_saving_ms:.3g} that are "
            f"{100 * MIN_SHARE:g} % of the model's time"
        )


def _speedup(latencies: Mapping[str, Latency]) -> float:
    return latencies["torch"].median_ms / latencies["engine"].median_ms


def why_no_gain(candidate: Candidate, other: Candidate, config: Config, device: torch.device) -> str:
    """Times an engine in turn with one of the same subgraph in more bits; why it gains nothing, empty if it does."""
    call = candidate.subgraph.calls[0]
    calls = {"few": lambda: engine_call(candidate, call), "more": lambda: engine_call(other, call)}
    latencies = _in_turn(calls, config, device)
    few, more = latencies["few"].median_ms, latencies["more"].median_ms
    if few * _PAYS < more:
        return ""
    return f"its engine in {candidate.precision} takes {few:.3g} ms a call, the one in {other.precision} {more:.3g}"


def make_replacement(candidate: Candidate, *, keep_fallback: bool) -> torch.jit.ScriptModule:
    """The module that takes the subgraph's place."""
    subgraph = candidate.subgraph
    every_input = subgraph.engine_inputs == list(range(len(subgraph.inputs)))
    module: torch.nn.Module
    candidate.engine.set_name(subgraph.name)
    if not keep_fallback:
        module = engine_module.EngineOnly(candidate.engine, subgraph.engine_inputs)
    elif every_input and all(subgraph.with_data):
        module = engine_module.EngineWithSubgraph(candidate.engine, subgraph.fallback)
    else:
        example = subgraph.fallback(list(subgraph.calls[0]))
        others = [position for position in range(len(subgraph.inputs)) if position not in subgraph.engine_inputs]
        shaped = [position for position, with_data in enumerate(subgraph.with_data) if not with_data]
        module = engine_module.EngineOrSubgraph(
            candidate.engine,
            subgraph.fallback,
            engine_inputs=subgraph.engine_inputs,
            other_inputs=others,
            other_shapes=[list(subgraph.calls[0][position].shape) for position in others],
            other_like=[subgraph.calls[0][position].new_zeros(1) for position in others],
            data_outputs=subgraph.data_outputs,
            shape_outputs=shaped,
            shapes=[list(example[position].shape) for position in shaped],
            like=[example[position].new_zeros(1) for position in shaped],
        )
    script: torch.jit.ScriptModule = torch.jit.script(module)
    return script
