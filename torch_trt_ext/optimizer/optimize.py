"""``optimize()``: the steps from a model to one with engines, in order."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from torch_trt_ext import _C
from torch_trt_ext.config import Config
from torch_trt_ext.optimizer import observation, support
from torch_trt_ext.optimizer.engine_builder import EngineBuilder, Level, make_builder
from torch_trt_ext.optimizer.metric import Measure, Metric
from torch_trt_ext.optimizer.model_input import ModelInput, argument_names, freeze, read_model
from torch_trt_ext.optimizer.opt_spec import OptSpec
from torch_trt_ext.optimizer.plugin_operators import operators_of
from torch_trt_ext.optimizer.quantization import missing_for_quantization
from torch_trt_ext.optimizer.reference import refusal
from torch_trt_ext.optimizer.report import DeviceType, Report
from torch_trt_ext.optimizer.samples import Samples, check_items, make_samples
from torch_trt_ext.optimizer.script_module import modules_with_engine
from torch_trt_ext.optimizer.structures import detach_clone
from torch_trt_ext.optimizer.subgraphs import (
    Subgraph,
    SubgraphFactory,
    Unconvertible,
    find_idle,
    is_empty,
    record_calls,
    time_prepared,
)
from torch_trt_ext.optimizer.summary import Outcome, summarize, why_no_engine
from torch_trt_ext.optimizer.trials import Attempt, Trials, may_mix
from torch_trt_ext.optimizer.whole_model import WholeModel

#: Loops are written out as long as the program stays below this many nodes.
_MAX_NODES = 20_000

#: Rounds of taking nodes out of subgraphs that could not be converted, before what is left of these stays in PyTorch.
_MAX_ROUNDS = 32

#: Items of calibration data below which it is said that they are few.
_FEW_CALIBRATION_ITEMS = 32

#: Why an engine is not made of what computes nothing; TensorRT's builder may even divide by a size of zero.
_EMPTY = "gives tensors without elements only, so that no engine can be tried; add test_data for which there are some"

#: How many times as far as the calibration data the test data may reach before it is said.
_BEYOND_RANGE = 1.2


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
    *,
    metric: Measure | None = None,
) -> tuple[torch.jit.ScriptModule, OptSpec, Report]:
    """Replaces parts of a model by engines, where these give the same answers faster.

    Args:
        model: a ``torch.nn.Module`` in evaluation mode, a ScriptModule, or the path of a saved one. It is not changed.
        optimization_level: "o1", engines that compute in 16 bits where the measured error allows; or "o2", engines
            whose convolutions and products with weights compute in 8 bits where it allows that, which needs ONNX
            Runtime.
        device_type: "gpu" for TensorRT engines on the current CUDA device, "cpu" for OpenVINO engines.
        config: all options; by default the ``Config`` whose ``with`` block this call is in.
        inputs: names of ``forward``'s arguments that ``input_shapes`` are for.
        outputs: accepted for PAI-Blade's callers, without effect: TorchScript's outputs have no names.
        input_shapes: shapes to make inputs of where there are no test data, or further shapes for these; see
            :func:`torch_trt_ext.optimizer.samples.make_samples`.
        input_ranges: value ranges of made inputs.
        test_data: a list of tuples, each the positional arguments of one call. Several items whose shapes differ make
            engines that take all shapes between.
        calib_data: for level "o2": a list as ``test_data``, from which the ranges of 8-bit values are found, as many
            items as stand for what the model will see, some hundred images for instance; without them the test data are
            taken. Level "o1" does not look at it.
        custom_ops: libraries of custom operators, opened with ``torch.ops.load_library``.
        verbose: say on stderr what is being done.
        metric: measures a model, as average precision or accuracy on data of yours: a function of a ScriptModule, on
            the device, that returns a number, the larger the better. With it that number decides whether engines are
            accurate, by ``config.accuracy.max_metric_drop``, and errors of answers are measured but have no limit. It
            is called for the original model and after each round of building.

    Returns:
        The optimized model, or the model as it was when nothing was gained; what is needed to run it; the report.

    Raises:
        TypeError: an argument is of the wrong kind, or ``metric`` gives no number.
        ValueError: wrong level or device; 8 bits that the device's engines have not; neither test data nor shapes; a
            metric that is not finite; a model that is in training mode, cannot become TorchScript, or refuses the test
            data.
        FileNotFoundError: the model's file is not there.
        RuntimeError: engines for the device cannot be built on this machine, or not in the 8 bits that are asked for;
            the model's file cannot be read.
    """
    if optimization_level not in ("o1", "o2"):
        raise ValueError(
            "optimization_level must be 'o1' (engines of 16 bits) or 'o2' (of 8 bits where they are accurate), got "
            f"{optimization_level!r}"
        )
    level: Level = "o2" if optimization_level == "o2" else "o1"
    if level == "o2" and (problem := missing_for_quantization()):
        raise RuntimeError(problem)
    if device_type not in ("gpu", "cpu"):
        raise ValueError(
            f"device_type must be 'gpu' (TensorRT on the current CUDA device) or 'cpu' (OpenVINO), got {device_type!r}"
        )
    kind: DeviceType = "gpu" if device_type == "gpu" else "cpu"
    if config is not None and not isinstance(config, Config):
        raise TypeError(
            f"config must be a torch_trt_ext.Config, got {type(config).__name__}; Config.from_dict reads a dict"
        )
    config = (config or Config.current()).copy()
    config.validate()
    for library in custom_ops or ():
        torch.ops.load_library(os.fspath(library))  # type: ignore[no-untyped-call]
    job = _Job(config, kind, level, verbose)
    random_devices = [job.device] if kind == "gpu" else []
    with config, torch.inference_mode(False), torch.random.fork_rng(random_devices), job.builder.at_work():
        source, samples = job.read(model, inputs, input_shapes, input_ranges, test_data)
        remarks = ["outputs has no effect, since TorchScript's outputs have no names"] if outputs else []
        if level == "o2":
            remarks += job.read_calibration(calib_data)
        return job.run(source, samples, remarks, metric)


class _Job:
    def __init__(self, config: Config, device_type: DeviceType, level: Level, verbose: bool) -> None:
        self.config = config
        self.level = level
        #: What 8-bit ranges are found from; none for the test data.
        self.calibration: list[tuple[Any, ...]] = []
        self.device_type = device_type
        self.verbose = verbose
        self.builder: EngineBuilder = make_builder(device_type, config)
        if level == "o2":
            self.builder.check_eight_bit()
        self.device = torch.device("cuda", torch.cuda.current_device()) if device_type == "gpu" else torch.device("cpu")

    def say(self, text: str) -> None:
        if self.verbose:
            print(f"torch_trt_ext: {text}", file=sys.stderr, flush=True)

    def run(
        self, source: ModelInput, samples: Samples, remarks: Sequence[str], measure: Measure | None
    ) -> tuple[torch.jit.ScriptModule, OptSpec, Report]:
        outcome = Outcome(source=source, samples=samples, config=self.config, builder=self.builder)
        outcome.remarks += [*remarks, *source.remarks]
        best = None
        if modules_with_engine(source.script):
            outcome.remarks.append("the model is optimized already and was left as it is")
        else:
            best = self._optimize(source, samples, outcome, measure)
        outcome.accepted = best.accepted if best else []
        spec = OptSpec.of_this_machine(
            self.config,
            self.device_type,
            plugin_libraries=sorted({name for found in outcome.accepted for name in found.engine.plugin_libraries()}),
            plugin_paths=sorted({path for found in outcome.accepted for path in self._plugin_paths(found.subgraph)}),
        )
        return best.module() if best else source.script, spec, summarize(outcome)

    def read(
        self,
        model: Any,
        inputs: Sequence[str] | None,
        input_shapes: Sequence[Any] | None,
        input_ranges: Sequence[Any] | None,
        test_data: Sequence[tuple[Any, ...]],
    ) -> tuple[ModelInput, Samples]:
        def sample(names: Sequence[str]) -> Samples:
            return make_samples(
                test_data=_as_list(test_data),
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

    def read_calibration(self, calib_data: Sequence[tuple[Any, ...]]) -> list[str]:
        """Keeps the calibration data, on the device that they are on; what is to be said of them."""
        self.calibration = check_items(_as_list(calib_data), "calib_data")
        count = len(self.calibration)
        if not count:
            return ["there are no calib_data, so 8-bit ranges come from the test data alone"]
        if count < _FEW_CALIBRATION_ITEMS:
            few = f"calib_data has {count} item{'s' * (count != 1)}"
            return [f"{few}: ranges from fewer than {_FEW_CALIBRATION_ITEMS} may miss values that the model will see"]
        return []

    def _optimize(
        self, source: ModelInput, samples: Samples, outcome: Outcome, measure: Measure | None
    ) -> Attempt | None:
        """Divides, builds, verifies and times; None when the model is better left as it is."""
        whole = WholeModel(outcome, self.device)
        if measure is not None:
            self.say("measuring the metric of the original model")
            max_drop = self.config.accuracy.max_metric_drop
            outcome.metric = Metric.of_original(measure, max_drop, whole.original())
        prepared, session = self._prepare(source.script, samples)
        nodes = prepared.nodes()
        outcome.nodes, outcome.session = nodes, session
        profiles = self.config.shapes.profiles
        # Engines take no shapes outside the profiles, so they are neither tuned nor measured there.
        used = [item for profile in profiles for item in samples.within(profile)] or samples.items
        profile_sessions = [self._observe_profile(prepared, profile, samples) for profile in profiles]
        factory = SubgraphFactory(prepared, nodes, session, profile_sessions, self.builder, self.device)
        shapes_vary = samples.shape_variation == "dynamic"
        subgraphs = self._divide(prepared, factory, used, outcome, shapes_vary=shapes_vary)
        self.say(f"{len(subgraphs)} subgraph{'s' * (len(subgraphs) != 1)} to build")
        if self.level == "o2":
            self._calibrate(prepared, subgraphs, outcome)
        show_progress = not self._no_progress()
        trials = Trials(factory, outcome, self.device, self.say, level=self.level, show_progress=show_progress)
        problem = ""
        ladder = self.builder.ladder(self.level)
        while ladder:
            if problem:
                outcome.remarks.append(f"so {ladder[0]} was tried")
            outcome.precision = ladder[0]
            attempt = trials.run(subgraphs, ladder[0])
            if not attempt.accepted:
                outcome.remarks.append(why_no_engine(outcome))
                break
            # All of them may need more.
            tried = outcome.precision = trials.fewest_bits(attempt)
            problem = whole.why_inaccurate(attempt.module)
            if problem and may_mix(self.builder, outcome.precision):
                attempt, problem = trials.mend_model(attempt, problem, whole)
            if not problem:
                attempt = trials.keep_what_pays(attempt, whole)
                outcome.precision = trials.fewest_bits(attempt)
                problem = whole.why_slow(attempt.module, used[0])
                if not problem:
                    return attempt
                self._take_back(attempt, problem, outcome)
                return None
            self._take_back(attempt, problem, outcome)
            trials.refuse(attempt, problem)
            ladder = ladder[ladder.index(tried) + 1 :]
        whole.time_original(used[0])
        return None

    def _calibrate(self, prepared: _C.PreparedModel, subgraphs: Sequence[Subgraph], outcome: Outcome) -> None:
        """Records what subgraphs get on the calibration data."""
        self.say("recording the calibration data")
        items, origins = outcome.samples.items, outcome.samples.origins
        if self.calibration:
            items = self.calibration
            origins = [f"calib_data[{number}]" for number in range(len(items))]
        for item, origin in zip(items, origins, strict=True):
            # One at a time: all of them may not fit onto the device.
            try:
                record_calls(prepared, subgraphs, [detach_clone(item, self.device)], calibration=True)
            except Exception as error:  # whatever the model's code raises
                raise ValueError(refusal(origin, item, error)) from error
        for subgraph in subgraphs:
            beyond = _beyond(subgraph.calls, subgraph.calibration_calls)
            if beyond > _BEYOND_RANGE:
                outcome.remarks.append(
                    f"the test data reach {beyond:.2g} times as far as calib_data at an input of {subgraph.name}: such "
                    "values are cut off in 8 bits; add what they stand for to calib_data"
                )

    def _take_back(self, attempt: Attempt, problem: str, outcome: Outcome) -> None:
        self.say(problem)
        outcome.remarks.append(problem)
        for candidate in attempt.accepted:
            reason = f"is in {candidate.subgraph.name}, which was taken back: {problem}"
            outcome.leave(candidate.subgraph.nodes, dict.fromkeys(candidate.subgraph.nodes, reason))

    def _prepare(self, script: torch.jit.ScriptModule, samples: Samples) -> tuple[_C.PreparedModel, _C.Session]:
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
        factory: SubgraphFactory,
        items: Sequence[tuple[Any, ...]],
        outcome: Outcome,
        *,
        shapes_vary: bool,
    ) -> list[Subgraph]:
        """Divides the model, and takes nodes out until every subgraph has been converted to ONNX."""
        config, nodes, session = self.config, outcome.nodes, outcome.session
        assert session is not None
        taken = support.find_taken_branches(nodes, session, shapes_vary=shapes_vary)
        plugins = self.builder.plugin_operators
        excluded = support.find_unsupported(nodes, session, config.partition, self.device_type, plugins)
        excluded |= self._open_plugins([node for node in nodes if node.id not in excluded])
        found_kinds: set[str] = set()
        known_ms: dict[Any, float] = {}
        flops = {node.id: support.count_flops(node, session.values) for node in nodes}
        whole_ms = time_prepared(prepared, items[0], self.device) if config.timing.compare else None
        for turn in range(_MAX_ROUNDS + 1):
            prepared.divide(excluded, taken, config.partition.min_block_size)
            indices = sorted(range(prepared.subgraph_count()), key=prepared.subgraph_operators, reverse=True)
            indices = sorted(indices[: config.partition.max_subgraphs])
            subgraphs = [factory.take(index, keep_fallback=config.keep_fallback) for index in indices]
            record_calls(prepared, subgraphs, items)
            idle = {}
            if whole_ms is not None:
                observed_items = len(outcome.samples.items)
                idle = find_idle(subgraphs, session, observed_items, whole_ms, self.device, known_ms, flops)
            failures: dict[int, str] = {}
            converted = []
            for subgraph in tqdm(subgraphs, "converting", disable=self._no_progress(), leave=False):
                if not subgraph.calls:
                    failures.update(dict.fromkeys(subgraph.nodes, "was not reached with shapes of the profiles"))
                    continue
                if subgraph.index in idle:
                    continue
                if is_empty(subgraph, session):
                    failures.update(dict.fromkeys(subgraph.nodes, _EMPTY))
                    continue
                try:
                    factory.convert(subgraph)
                    converted.append(subgraph)
                except Unconvertible as failure:
                    failures.update(failure.reasons)
                    # An operator that was found twice, alone, is not worth finding a third time.
                    for number, reason in failure.reasons.items() if failure.is_operators_fault else ():
                        kind = nodes[number].kind
                        if kind in found_kinds:
                            failures.update({node.id: reason for node in nodes if node.kind == kind})
                        found_kinds.add(kind)
            if not failures or turn == _MAX_ROUNDS:
                break
            excluded.update(failures)
            factory.keep_only(converted)
        outcome.left = dict(prepared.left())
        for subgraph in subgraphs:
            if subgraph not in converted:
                why_idle = idle.get(subgraph.index)
                outcome.leave(subgraph.nodes, dict.fromkeys(subgraph.nodes, why_idle) if why_idle else failures)
        self._leave_the_rest(prepared, indices, outcome)
        return converted

    def _open_plugins(self, nodes: Sequence[_C.NodeInfo]) -> dict[int, str]:
        """Opens the libraries of plugins that nodes become; why not, by node number, for those whose did not open."""
        plugins = self.builder.plugin_operators
        failures = {}
        for kind in {node.kind for node in nodes} & plugins.keys():
            problem = plugins[kind].open_library()
            if problem:
                reason = f"cannot be the plugin '{plugins[kind].plugin}': {problem}"
                failures.update({node.id: reason for node in nodes if node.kind == kind})
        return failures

    def _plugin_paths(self, subgraph: Subgraph) -> list[str]:
        """Where the plugin libraries of a subgraph's engine are on this machine."""
        assert subgraph.model is not None
        operators = self.builder.plugin_operators.values()
        used = [known for node in subgraph.model.graph.node for known in operators_of(node, operators)]
        return [known.library for known in used if known.library is not None]

    def _leave_the_rest(self, prepared: _C.PreparedModel, taken: Sequence[int], outcome: Outcome) -> None:
        limit = self.config.partition.max_subgraphs
        for index in range(prepared.subgraph_count()):
            if index not in taken:
                reason = f"is in one of the smaller subgraphs, of which there are more than max_subgraphs {limit}"
                outcome.leave(prepared.subgraph_nodes(index), dict.fromkeys(prepared.subgraph_nodes(index), reason))

    def _observe_profile(
        self,
        prepared: _C.PreparedModel,
        profile: Mapping[str, Sequence[Sequence[int]]],
        samples: Samples,
    ) -> tuple[_C.Session, _C.Session]:
        at_optimal = samples.within(profile, exactly_optimal=True)
        return observation.observe(prepared, samples.within(profile)), observation.observe(prepared, at_optimal[:1])

    def _no_progress(self) -> bool:
        return not (self.config.progress and sys.stderr.isatty())


def _as_list(data: Sequence[tuple[Any, ...]]) -> Sequence[tuple[Any, ...]]:
    """A tuple, as the default is one, is taken for the list that it should be."""
    return list(data) if isinstance(data, tuple) else data


def _beyond(calls: Sequence[Sequence[Tensor]], calibration: Sequence[Sequence[Tensor]]) -> float:
    """How many times as far from 0 the inputs of calls reach as those of the calibration; the worst input's."""

    def reach(of: Sequence[Sequence[Tensor]], position: int) -> float:
        tensors = [call[position] for call in of]
        return max((float(x.abs().max()) for x in tensors if x.is_floating_point() and x.numel()), default=0.0)

    worst = 0.0
    for position in range(len(calls[0]) if calls and calibration else 0):
        known = reach(calibration, position)
        worst = max(worst, reach(calls, position) / known if known else 0.0)
    return worst


def _keeps_dtype(node: _C.NodeInfo, session: _C.Session) -> bool:
    """Whether an in-place operator gives what its ordinary form would: that one promotes dtypes, in place none does."""
    records = [session.values.get(value) for value in node.inputs]
    known = [record for record in records if record is not None]
    return bool(known) and all(record.consistent and record.dtype == known[0].dtype for record in known)
