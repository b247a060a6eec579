"""``optimize()``: the steps from a model to one with engines, in order."""

from __future__ import annotations

import concurrent.futures
import copy
import inspect
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from torch_trt_ext import _C
from torch_trt_ext.config import Config
from torch_trt_ext.optimizer import observation, support
from torch_trt_ext.optimizer.accuracy import Comparison, compare
from torch_trt_ext.optimizer.engine_builder import EngineBuilder, Precision, make_builder
from torch_trt_ext.optimizer.latency import Latency, compare_latency
from torch_trt_ext.optimizer.model_input import ModelInput, argument_names, freeze, read_model
from torch_trt_ext.optimizer.opt_spec import OptSpec
from torch_trt_ext.optimizer.report import DeviceType, Report
from torch_trt_ext.optimizer.samples import Samples, make_samples
from torch_trt_ext.optimizer.structures import detach_clone, flatten_tensors
from torch_trt_ext.optimizer.subgraphs import (
    Candidate,
    Subgraph,
    SubgraphFactory,
    Unconvertible,
    first_sentence,
    make_replacement,
    record_calls,
    time_against_torch,
    verify,
)
from torch_trt_ext.optimizer.summary import Outcome, summarize

#: Loops are written out as long as the program stays below this many nodes.
_MAX_NODES = 20_000

#: Rounds of taking nodes out of subgraphs that could not be converted, before what is left of these stays in PyTorch.
_MAX_ROUNDS = 32

#: Part of the type names of modules that optimize() put into a model.
_OWN_MODULES = "torch_trt_ext.optimizer.engine_module."


def optimize(
    model: Any,
    optimization_level: str,
    device_type: str,
    config: Config | None = None,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    input_shapes: Sequence[Any] | None = None,
    input_ranges: Sequence[Any] | None = None,
    test_data: Sequence[tuple[Any, ...]] = (),
    calib_data: Sequence[tuple[Any, ...]] = (),
    custom_ops: Sequence[str | os.PathLike[str]] | None = None,
    verbose: bool = False,
) -> tuple[torch.jit.ScriptModule, OptSpec, Report]:
    """Replaces parts of a model by engines, where these give the same answers faster.

    Args:
        model: a ``torch.nn.Module`` in evaluation mode, a ScriptModule, or the path of a saved one. It is not changed.
        optimization_level: "o1", engines that compute in 16 bits where the measured error allows.
        device_type: "gpu" for TensorRT engines on the current CUDA device, "cpu" for OpenVINO engines.
        config: all options; by default the ``Config`` whose ``with`` block this call is in.
        inputs: names of ``forward``'s arguments that ``input_shapes`` are for.
        outputs: accepted for PAI-Blade's callers; TorchScript's outputs have no names, so it may only be empty.
        input_shapes: shapes to make inputs of where there are no test data, or further shapes for these; see
            :func:`torch_trt_ext.optimizer.samples.make_samples`.
        input_ranges: value ranges of made inputs.
        test_data: a list of tuples, each the positional arguments of one call. Several items whose shapes differ make
            engines that take all shapes between.
        calib_data: for 8-bit engines, which level o1 has not; it may be given.
        custom_ops: libraries of custom operators, opened with ``torch.ops.load_library``.
        verbose: say on stderr what is being done.

    Returns:
        The optimized model, or the model as it was when nothing was gained; what is needed to run it; the report.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: wrong level or device; neither test data nor shapes; a model that cannot become TorchScript, or that
            refuses the test data.
        RuntimeError: engines for the device cannot be built on this machine.
    """
    if optimization_level != "o1":
        raise ValueError(f"optimization_level must be 'o1', got {optimization_level!r}; 'o1' is 16-bit")
    if device_type not in ("gpu", "cpu"):
        raise ValueError(f"device_type must be 'gpu' or 'cpu', got {device_type!r}")
    kind: DeviceType = "gpu" if device_type == "gpu" else "cpu"
    if outputs:
        raise ValueError("outputs must be empty, since TorchScript's outputs have no names; leave it out")
    config = (config or Config.current()).copy()
    config.validate()
    for library in custom_ops or ():
        torch.ops.load_library(os.fspath(library))  # type: ignore[no-untyped-call]
    job = _Job(config, kind, verbose)
    with config:
        return job.run(model, inputs, input_shapes, input_ranges, test_data)


@dataclass
class _Attempt:
    """The model with the engines of one round of building."""

    prepared: _C.PreparedModel
    replacements: dict[int, tuple[str, Any]]
    accepted: list[Candidate]
    comparison: Comparison | None = None

    def module(self) -> torch.jit.ScriptModule:
        """The model in its initial state; engines are shared by all that come from here."""
        module: torch.jit.ScriptModule = torch.jit._recursive.wrap_cpp_module(self.prepared.assembled(self.replacements))
        return module


class _Job:
    def __init__(self, config: Config, device_type: DeviceType, verbose: bool) -> None:
        self.config = config
        self.device_type = device_type
        self.verbose = verbose
        self._names: list[str] = []
        self.builder: EngineBuilder = make_builder(device_type, config)
        self.device = torch.device("cuda", torch.cuda.current_device()) if device_type == "gpu" else torch.device("cpu")

    def say(self, text: str) -> None:
        if self.verbose:
            print(f"torch_trt_ext: {text}", file=sys.stderr, flush=True)

    def run(
        self,
        model: Any,
        inputs: Sequence[str] | None,
        input_shapes: Sequence[Any] | None,
        input_ranges: Sequence[Any] | None,
        test_data: Sequence[tuple[Any, ...]],
    ) -> tuple[torch.jit.ScriptModule, OptSpec, Report]:
        source, samples = self._read(model, inputs, input_shapes, input_ranges, test_data)
        spec = OptSpec.of_this_machine(self.config, self.device_type)
        outcome = Outcome(source=source, samples=samples, config=self.config, builder=self.builder)
        outcome.remarks += source.remarks
        if _holds_engines_of_ours(source.script):
            outcome.remarks.append("the model is optimized already and was left as it is")
            return source.script, spec, summarize(outcome)
        self._names = argument_names(source.script)
        expected = self._reference(source.script, samples)
        best = self._optimize(source, samples, expected, outcome)
        if best is None:
            return source.script, spec, summarize(outcome)
        outcome.accepted = best.accepted
        outcome.comparison = best.comparison
        spec = OptSpec.of_this_machine(
            self.config,
            self.device_type,
            plugin_libraries=sorted({name for found in best.accepted for name in found.engine.plugin_libraries()}),
        )
        return best.module(), spec, summarize(outcome)

    def _read(
        self,
        model: Any,
        inputs: Sequence[str] | None,
        input_shapes: Sequence[Any] | None,
        input_ranges: Sequence[Any] | None,
        test_data: Sequence[tuple[Any, ...]],
    ) -> tuple[ModelInput, Samples]:
        def sample(names: Sequence[str]) -> Samples:
            return make_samples(
                test_data=list(test_data) if isinstance(test_data, tuple) else test_data,
                input_shapes=input_shapes,
                input_ranges=input_ranges,
                inputs=inputs,
                argument_names=names,
                device=self.device,
                profiles=self.config.shapes.profiles,
            )

        if isinstance(model, torch.nn.Module) and not isinstance(model, torch.jit.ScriptModule):
            samples = sample(list(inspect.signature(model.forward).parameters))
            return read_model(model, self.device, samples.items[0], self.config.prefer), samples
        source = read_model(model, self.device, None, self.config.prefer)
        return source, sample(argument_names(source.script))

    def _reference(self, script: torch.jit.ScriptModule, samples: Samples) -> list[Any]:
        """The model's own answers, in float32."""
        outputs = []
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            for number, item in enumerate(samples.items):
                try:
                    outputs += observation.run(copy.deepcopy(script), [item])
                except Exception as error:  # whatever the model's code raises
                    raise ValueError(
                        f"test_data[{number}] must be arguments that the model takes, but it raised: "
                        f"{_last_line(error)}; call model(*test_data[{number}]) to see where"
                    ) from error
        return outputs

    def _optimize(
        self, source: ModelInput, samples: Samples, expected: list[Any], outcome: Outcome
    ) -> _Attempt | None:
        """Divides, builds, verifies and times; None when the model is better left as it is."""
        prepared, session = self._prepare(source.script, samples)
        nodes = prepared.nodes()
        outcome.nodes, outcome.session = nodes, session
        factory, subgraphs = self._divide(prepared, nodes, session, samples, outcome)
        self.say(f"{len(subgraphs)} subgraphs to build")
        for number, precision in enumerate(self.builder.precisions()):
            outcome.precision = precision
            candidates = self._build_and_verify(factory, subgraphs, precision, outcome)
            accepted = [candidate for candidate in candidates if not candidate.rejected]
            outcome.candidates = candidates
            if not accepted:
                break
            attempt = self._assemble(prepared, accepted)
            if not self.config.check_model or self._is_accurate(attempt, samples, expected, precision, outcome):
                return self._compare_speed(source, attempt, samples, outcome)
            if number + 1 < len(self.builder.precisions()):
                outcome.remarks.append(f"with {precision} the whole model was not accurate, so float32 was tried")
        if not outcome.remarks:
            outcome.remarks.append("no part of the model gained from an engine; see left_in_torch")
        self._time_original(source, samples, outcome)
        return None

    def _prepare(
        self, script: torch.jit.ScriptModule, samples: Samples
    ) -> tuple[_C.PreparedModel, _C.Session]:
        self.say("preparing and observing the model")
        prepared = _C.PreparedModel(freeze(script)._c)
        prepared.simplify(_MAX_NODES)
        session = observation.observe(prepared, samples.items)
        in_place = {node.id for node in prepared.nodes() if node.in_place and _keeps_dtype(node, session)}
        if in_place:
            prepared.functionalize(in_place)
            session = observation.observe(prepared, samples.items)
        return prepared, session

    def _divide(
        self,
        prepared: _C.PreparedModel,
        nodes: Sequence[_C.NodeInfo],
        session: _C.Session,
        samples: Samples,
        outcome: Outcome,
    ) -> tuple[SubgraphFactory, list[Subgraph]]:
        """Divides the model, and takes nodes out until every subgraph has been converted to ONNX."""
        config = self.config
        shapes_vary = samples.shape_variation == "dynamic"
        taken = support.find_taken_branches(nodes, session, shapes_vary=shapes_vary)
        excluded = support.find_unsupported(nodes, session, config.partition, self.device_type)
        profiles = self._observe_profiles(prepared, samples)
        factory = SubgraphFactory(prepared, nodes, session, profiles, self.builder, self.device)
        failed_kinds: dict[str, int] = {}
        for turn in range(_MAX_ROUNDS + 1):
            prepared.divide(excluded, taken, config.partition.min_block_size)
            indices = sorted(range(prepared.subgraph_count()), key=prepared.subgraph_operators, reverse=True)
            indices = sorted(indices[: config.partition.max_subgraphs])
            subgraphs = [factory.take(index, keep_fallback=config.keep_fallback) for index in indices]
            record_calls(prepared, subgraphs, samples.items)
            failures: dict[int, str] = {}
            converted = []
            for subgraph in tqdm(subgraphs, "converting", disable=self._no_progress(), leave=False):
                try:
                    factory.convert(subgraph)
                    converted.append(subgraph)
                except Unconvertible as failure:
                    failures.update(failure.reasons)
            if not failures or turn == _MAX_ROUNDS:
                break
            for number, reason in failures.items():
                kind = nodes[number].kind
                failed_kinds[kind] = failed_kinds.get(kind, 0) + 1
                excluded[number] = reason
                # An operator that failed twice by itself is not worth finding a third time.
                if failed_kinds[kind] > 1 and not kind.startswith("prim::"):
                    excluded.update({node.id: reason for node in nodes if node.kind == kind})
        outcome.left = dict(prepared.left())
        for subgraph in subgraphs:
            if subgraph not in converted:
                outcome.leave(subgraph.nodes, failures)
        self._leave_the_rest(prepared, indices, outcome)
        return factory, converted

    def _leave_the_rest(self, prepared: _C.PreparedModel, taken: Sequence[int], outcome: Outcome) -> None:
        limit = self.config.partition.max_subgraphs
        for index in range(prepared.subgraph_count()):
            if index not in taken:
                reason = f"is in one of the smaller subgraphs, of which there are more than max_subgraphs {limit}"
                outcome.leave(prepared.subgraph_nodes(index), dict.fromkeys(prepared.subgraph_nodes(index), reason))

    def _observe_profiles(
        self, prepared: _C.PreparedModel, samples: Samples
    ) -> list[tuple[_C.Session, _C.Session]]:
        sessions = []
        for profile in self.config.shapes.profiles:
            within = [item for item in samples.items if self._fits(item, profile, prepared, (0, 2))]
            at_opt = [item for item in within if self._fits(item, profile, prepared, (1, 1))]
            sessions.append(
                (observation.observe(prepared, within), observation.observe(prepared, (at_opt or within)[:1]))
            )
        return sessions

    def _fits(
        self, item: tuple[Any, ...], profile: dict[str, list[list[int]]], prepared: _C.PreparedModel, ends: tuple[int, int]
    ) -> bool:
        shapes = {path: list(tensor.shape) for path, tensor in flatten_tensors(item)}
        names = self._names
        for name, bounds in profile.items():
            head, _, rest = name.partition(".")
            path = ".".join(filter(None, [str(names.index(head)) if head in names else head, rest]))
            shape = shapes.get(path)
            low, high = bounds[ends[0]], bounds[ends[1]]
            if shape is None or not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
                return False
        return True

    def _build_and_verify(
        self, factory: SubgraphFactory, subgraphs: Sequence[Subgraph], precision: Precision, outcome: Outcome
    ) -> list[Candidate]:
        candidates = []
        bar = tqdm(total=len(subgraphs), desc="building engines", disable=self._no_progress(), leave=False)
        with bar:
            for subgraph, candidate in self._build(factory, subgraphs, precision, outcome, bar.update):
                self._judge(candidate)
                if candidate.rejected and precision != "float32" and "not accurate" in candidate.rejected:
                    reason = candidate.rejected
                    try:
                        candidate = factory.build(subgraph, "float32")
                    except (RuntimeError, ValueError) as error:
                        candidate.rejected = f"{reason}; in float32 it cannot be built: {first_sentence(error)}"
                    else:
                        self._judge(candidate)
                        if candidate.rejected:
                            candidate.rejected = f"{reason}; in float32 {candidate.rejected}"
                self.say(f"{subgraph.name}: {candidate.rejected or 'accepted'}")
                candidates.append(candidate)
                if candidate.rejected:
                    outcome.leave(subgraph.nodes, dict.fromkeys(subgraph.nodes, f"is left: {candidate.rejected}"))
        return candidates

    def _judge(self, candidate: Candidate) -> None:
        try:
            verify(candidate, self.config)
            if not candidate.rejected:
                time_against_torch(candidate, self.config, self.device)
        except RuntimeError as error:
            candidate.rejected = f"its engine failed: {first_sentence(error)}"

    def _build(
        self,
        factory: SubgraphFactory,
        subgraphs: Sequence[Subgraph],
        precision: Precision,
        outcome: Outcome,
        advance: Callable[[], object],
    ) -> list[tuple[Subgraph, Candidate]]:
        """Builds all, several at once where the library can, before any is timed."""
        workers = self.config.build_threads or os.cpu_count() or 1
        built = []
        with concurrent.futures.ThreadPoolExecutor(workers if self.builder.parallel else 1) as pool:
            jobs = [(subgraph, pool.submit(factory.build, subgraph, precision)) for subgraph in subgraphs]
            for subgraph, job in jobs:
                try:
                    built.append((subgraph, job.result()))
                except (RuntimeError, ValueError) as error:
                    reason = f"is in a subgraph whose engine cannot be built: {first_sentence(error)}"
                    outcome.leave(subgraph.nodes, dict.fromkeys(subgraph.nodes, reason))
                advance()
        return built

    def _assemble(self, prepared: _C.PreparedModel, accepted: list[Candidate]) -> _Attempt:
        replacements = {}
        for candidate in accepted:
            module = make_replacement(candidate, keep_fallback=self.config.keep_fallback)
            replacements[candidate.subgraph.index] = (candidate.subgraph.name, module._c)  # type: ignore[attr-defined]
        return _Attempt(prepared, replacements, accepted)

    def _is_accurate(
        self, attempt: _Attempt, samples: Samples, expected: list[Any], precision: Precision, outcome: Outcome
    ) -> bool:
        limit = self.config.accuracy.max_model_relative_error
        worst: Comparison | None = None
        for item, reference in zip(samples.items, expected, strict=True):
            comparison = compare(reference, observation.run(attempt.module(), [item])[0])
            if worst is None or comparison.relative > worst.relative:
                worst = comparison
        assert worst is not None
        attempt.comparison = worst
        if worst.within(limit):
            return True
        explanation = worst.explain(limit)
        if self.config.gpu_config.disable_fp16_accuracy_check or not self.config.accuracy.check:
            outcome.remarks.append(f"not checked, as configured, but: {explanation}")
            return True
        outcome.remarks.append(f"the model with engines in {precision} was not accurate: {explanation}")
        outcome.comparison = worst
        return False

    def _compare_speed(
        self, source: ModelInput, attempt: _Attempt, samples: Samples, outcome: Outcome
    ) -> _Attempt | None:
        latencies = self._measure({"original": copy.deepcopy(source.script), "optimized": attempt.module()}, samples)
        outcome.original, outcome.optimized = latencies["original"], latencies["optimized"]
        speedup = outcome.original.median_ms / outcome.optimized.median_ms
        timing = self.config.timing
        if timing.compare and speedup < timing.min_speedup:
            outcome.remarks.append(
                f"with its engines the model was not faster ({outcome.optimized.median_ms:.3g} ms against "
                f"{outcome.original.median_ms:.3g} ms), so it was left as it is"
            )
            return None
        return attempt

    def _time_original(self, source: ModelInput, samples: Samples, outcome: Outcome) -> None:
        outcome.original = self._measure({"original": copy.deepcopy(source.script)}, samples)["original"]

    def _measure(self, modules: dict[str, Any], samples: Samples) -> dict[str, Latency]:
        timing = self.config.timing
        item = samples.items[0]

        def caller(module: Any) -> Callable[[], object]:
            arguments = detach_clone(item)
            return lambda: module(*arguments)

        return compare_latency(
            {name: caller(module) for name, module in modules.items()},
            device=self.device,
            warmup=timing.warmup_runs,
            runs=timing.timed_runs,
            max_seconds=timing.max_seconds,
        )

    def _no_progress(self) -> bool:
        return not (self.config.progress and sys.stderr.isatty())


def _keeps_dtype(node: _C.NodeInfo, session: _C.Session) -> bool:
    """Whether an in-place operator gives what its ordinary form would: that one promotes dtypes, in place none does."""
    records = [session.values.get(value) for value in node.inputs]
    known = [record for record in records if record is not None]
    return bool(known) and all(record.consistent and record.dtype == known[0].dtype for record in known)


def _holds_engines_of_ours(script: torch.jit.ScriptModule) -> bool:
    return any(_OWN_MODULES in str(module._c._type().qualified_name()) for module in script.modules())  # type: ignore[attr-defined]


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:400] if lines else type(error).__name__
