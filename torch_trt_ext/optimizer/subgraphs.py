"""Subgraphs of a prepared model: out of it, to ONNX, to engines, and checked against themselves."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import onnx
import torch
from torch import Tensor

from torch_trt_ext import _C
from torch_trt_ext.builders.onnx_inputs import ShapeRanges
from torch_trt_ext.config import EIGHT_BIT, EightBit
from torch_trt_ext.optimizer import engine_module, observation, onnx_export, support
from torch_trt_ext.optimizer.engine_builder import EngineBuilder, Precision
from torch_trt_ext.optimizer.latency import measure
from torch_trt_ext.optimizer.onnx_export import node_of
from torch_trt_ext.optimizer.onnx_names import names_read
from torch_trt_ext.optimizer.plugin_operators import operators_of
from torch_trt_ext.optimizer.quantization import (
    Calibration,
    CalibrationMethod,
    calibrate,
    quantizable_nodes,
    to_8_bit,
)
from torch_trt_ext.optimizer.reference import exact
from torch_trt_ext.optimizer.script_module import wrap

#: Share of the model's time, and of its floating-point operations, below which a subgraph gets no engine.
MIN_SHARE = 0.01

#: Largest finite numbers.
_LARGEST = {
    "int8": 65504.0,
    "float8": 65504.0,
    "float16": 65504.0,
    "bfloat16": 3.38e38,
    "tf32": float("inf"),
    "float32": float("inf"),
}


@dataclass
class Subgraph:
    """One subgraph on its way to becoming an engine.

    Attributes:
        index: its number in the partition.
        name: of the submodule that will take its place.
        nodes: numbers of its nodes.
        inputs: numbers of its input values.
        outputs: numbers of its output values.
        with_data: for each output, whether more than its shape is read.
        operators: how many operators do more than look at data in another way.
        fallback: the subgraph as a ScriptModule on lists of tensors.
        calls: recorded inputs of some calls.
        calibration_calls: likewise, on the calibration data; for 8-bit engines.
        model: in ONNX, float32.
        engine_inputs: which of the inputs the ONNX model has.
        ranges: shapes of these, one mapping a profile.
        least_saving_ms: how much faster than PyTorch a call of its engine has to be to be worth its room.
    """

    index: int
    name: str
    nodes: list[int]
    inputs: list[int]
    outputs: list[int]
    with_data: list[bool]
    operators: int
    fallback: Any
    calls: list[list[Tensor]] = field(default_factory=list)
    calibration_calls: list[list[Tensor]] = field(default_factory=list)
    model: onnx.ModelProto | None = None
    engine_inputs: list[int] = field(default_factory=list)
    ranges: ShapeRanges = ()
    least_saving_ms: float = 0.0

    @property
    def data_outputs(self) -> list[int]:
        """Positions of the outputs that the engine gives."""
        return [position for position, with_data in enumerate(self.with_data) if with_data]

    def engine_call(self, call: Sequence[Tensor]) -> list[Tensor]:
        """What the engine gets of a recorded call."""
        return [call[position] for position in self.engine_inputs]

    def reference(self, call: Sequence[Tensor], module: Any = None) -> list[Tensor]:
        """What an engine should give for a recorded call: the outputs with data of the subgraph, or of another module
        in its place.
        """
        with exact():
            outputs = (self.fallback if module is None else module)(list(call))
        return [outputs[position] for position in self.data_outputs]


class Unconvertible(Exception):
    """Some nodes of a subgraph cannot be in an engine.

    Attributes:
        reasons: why, by node number.
        is_operators_fault: whether each of these was found to fail by itself, so that others of its kind may as well.
    """

    def __init__(self, reasons: dict[int, str], *, is_operators_fault: bool = False) -> None:
        super().__init__("; ".join(sorted(set(reasons.values()))))
        self.reasons = reasons
        self.is_operators_fault = is_operators_fault


class SubgraphFactory:
    """Makes the subgraphs of one partition of a prepared model.

    Args:
        prepared: the model, divided.
        nodes: its nodes.
        session: what was seen of its values.
        profile_sessions: for each profile, what was seen within it, and at its optimal shapes.
        builder: what the engines are built with; it can be asked for.
        device: where the model runs.
    """

    def __init__(
        self,
        prepared: _C.PreparedModel,
        nodes: Sequence[_C.NodeInfo],
        session: _C.Session,
        profile_sessions: Sequence[tuple[_C.Session, _C.Session]],
        builder: EngineBuilder,
        device: torch.device,
    ) -> None:
        self.prepared = prepared
        self._nodes = nodes
        self._session = session
        self._profiles = profile_sessions
        self.builder = builder
        self._device = device
        self._values = session.values
        #: Nodes that 16 bits turned out not to suffice for, with the reason.
        self.keep_float32: dict[int, str] = {}
        #: Nodes that 8 bits turned out not to suffice for, with the reason.
        self.keep_16bit: dict[int, str] = {}
        self._calibrations: dict[int, Calibration] = {}
        #: Models of the subgraphs of the last division, most of which the next one has again.
        self._models: dict[_SubgraphKey, onnx.ModelProto] = {}
        self._facts = {
            value: _C.TensorFacts(
                record.dtype,
                [
                    least if least == most else -1
                    for least, most in zip(record.min_shape, record.max_shape, strict=True)
                ],
            )
            for value, record in self._values.items()
            if record.consistent
        }

    def take(self, index: int, *, keep_fallback: bool) -> Subgraph:
        """The subgraph of this number."""
        prepared = self.prepared
        outputs = prepared.subgraph_outputs(index)
        inputs = prepared.subgraph_inputs(index)
        with_data = prepared.subgraph_outputs_with_data(index)
        varies = any(self._dynamic_dims(value) for value in [*inputs, *outputs])
        if varies or not keep_fallback or not any(with_data):
            # Only an engine for one shape knows its outputs' shapes without computing them.
            with_data = [True] * len(outputs)
        return Subgraph(
            index=index,
            name=f"engine_{index}",
            nodes=prepared.subgraph_nodes(index),
            inputs=inputs,
            outputs=outputs,
            with_data=with_data,
            operators=prepared.subgraph_operators(index),
            fallback=wrap(prepared.fallback(index)),
        )

    def _dynamic_dims(self, value: int) -> list[int]:
        record = self._values[value]
        shapes = zip(record.min_shape, record.max_shape, strict=True)
        return [dim for dim, (least, most) in enumerate(shapes) if least != most]

    def convert(self, subgraph: Subgraph) -> None:
        """Fills in the subgraph's ONNX model and its shapes.

        Raises:
            Unconvertible: some of its nodes have no ONNX form, or one that the engine library refuses, or pass tensors
                of another device over the subgraph's border.
        """
        border = {*subgraph.inputs, *subgraph.outputs}
        members = set(subgraph.nodes)
        device_type = self.builder.device_type
        crossings = support.find_border_crossings(self._nodes, members, border, self._values, device_type)
        if crossings:
            raise Unconvertible(crossings)
        model = self._models.get(_key_of(subgraph))
        if model is None:
            model = self._convert(subgraph)
            self._models[_key_of(subgraph)] = model
        subgraph.model = model
        names = {f"{onnx_export.INPUT_PREFIX}{position}": position for position in range(len(subgraph.inputs))}
        subgraph.engine_inputs = [names[value.name] for value in model.graph.input]
        subgraph.ranges = self._ranges(subgraph)

    def keep_only(self, subgraphs: Sequence[Subgraph]) -> None:
        """Forgets the models of all other subgraphs that were converted."""
        keys = {_key_of(subgraph) for subgraph in subgraphs}
        self._models = {key: model for key, model in self._models.items() if key in keys}

    def _convert(self, subgraph: Subgraph) -> onnx.ModelProto:
        try:
            model = self._export(subgraph, self.prepared.subgraph_length(subgraph.index))
        except onnx_export.ExportError as error:
            if error.reasons:
                raise Unconvertible(error.reasons) from error
            blamed = self._blame(subgraph, error)
            alone = all(not self._nodes[number].kind.startswith("prim::") for number in blamed)
            raise Unconvertible(blamed, is_operators_fault=alone) from error
        refusals = self.builder.refusals(model)
        if refusals:
            raise Unconvertible(self._blame_refused(subgraph, model, refusals))
        _keep_outputs(model, subgraph.data_outputs)
        return model

    def _export(self, subgraph: Subgraph, node_count: int) -> onnx.ModelProto:
        graph = self.prepared.engine_graph(subgraph.index, self._facts, self._device.type, node_count)
        examples = []
        for value in subgraph.inputs:
            record = self._values[value]
            examples.append(torch.zeros(record.max_shape, dtype=support.DTYPES[record.dtype], device=self._device))
        dynamic_dims = [self._dynamic_dims(value) for value in subgraph.inputs]
        return onnx_export.export(graph, examples, dynamic_dims, self.builder.plugin_operators)

    def _blame(self, subgraph: Subgraph, error: onnx_export.ExportError) -> dict[int, str]:
        reason = f"has no ONNX form: {error}"
        if error.operator:
            named = [number for number in subgraph.nodes if self._nodes[number].kind == error.operator]
            if named:
                return dict.fromkeys(named, reason)
        # The first node without which the export succeeds.
        works, fails = 0, self.prepared.subgraph_length(subgraph.index)
        while fails - works > 1:
            middle = (works + fails) // 2
            try:
                self._export(subgraph, middle)
                works = middle
            except onnx_export.ExportError as partial:
                fails, reason = middle, f"has no ONNX form: {partial}"
        return {self.prepared.subgraph_node(subgraph.index, fails - 1): reason}

    def _blame_refused(self, subgraph: Subgraph, model: onnx.ModelProto, refusals: Sequence[Any]) -> dict[int, str]:
        members = set(subgraph.nodes)
        blamed: dict[int, str] = {}
        for refusal in refusals:
            for node in model.graph.node:
                if node.name == refusal.name or (not refusal.name and node.op_type == refusal.op_type):
                    reason = f"is refused as {node.op_type}: {refusal.reason}"
                    number = onnx_export.node_of(node.name)
                    if number is not None and number in members:
                        blamed[number] = reason
                    elif refusal.name:
                        blamed |= dict.fromkeys(_first_takers(model, node, members), reason)
        # Nobody to blame: the whole subgraph stays.
        return blamed or dict.fromkeys(subgraph.nodes, f"is in a subgraph that is refused: {refusals[0].reason}")

    def _ranges(self, subgraph: Subgraph) -> ShapeRanges:
        opt = [tuple(tensor.shape) for tensor in subgraph.calls[0]]
        whole = [(self._session, {value: opt[position] for position, value in enumerate(subgraph.inputs)})]
        for within, at_opt in self._profiles:
            if all(value in within.values and value in at_opt.values for value in subgraph.inputs):
                shapes = {value: tuple(at_opt.values[value].max_shape) for value in subgraph.inputs}
                whole.append((within, shapes))
        # The range over everything is one profile; where the user gave profiles, theirs stand in its place.
        chosen = whole[1:] or whole[:1]
        ranges = []
        for session, tuned in chosen:
            profile = {}
            for position in subgraph.engine_inputs:
                value = subgraph.inputs[position]
                record = session.values[value]
                middle = [
                    min(max(size, least), most)
                    for size, least, most in zip(tuned[value], record.min_shape, record.max_shape, strict=True)
                ]
                profile[f"{onnx_export.INPUT_PREFIX}{position}"] = (record.min_shape, middle, record.max_shape)
            ranges.append(profile)
        return ranges

    def quantized(self, subgraph: Subgraph) -> tuple[onnx.ModelProto, dict[str, str]]:
        """The subgraph's model with 8-bit parts; and names of nodes that could be such but are not, with the reason.

        Raises:
            RuntimeError: it cannot be calibrated or quantized.
            ValueError: there is nothing to quantize.
        """
        model = subgraph.model
        assert model is not None
        options = self.builder.config.precision
        kind = cast(EightBit, options.eight_bit)
        candidates = quantizable_nodes(model, kind)
        kept = {name: self.keep_16bit[number] for name in candidates if (number := node_of(name)) in self.keep_16bit}
        if len(kept) == len(candidates):
            raise ValueError("none of its nodes can compute in 8 bits")
        if subgraph.index not in self._calibrations:
            names = [value.name for value in model.graph.input]
            calls = [
                {name: tensor.numpy() for name, tensor in zip(names, subgraph.engine_call(call), strict=True)}
                for call in subgraph.calibration_calls
            ]
            method = cast(CalibrationMethod, options.calibration)
            self._calibrations[subgraph.index] = calibrate(model, calls, method, options.percentile)
        return to_8_bit(model, self._calibrations[subgraph.index], keep=kept, kind=kind), kept

    def sensitive(self, subgraph: Subgraph, precision: Precision) -> dict[str, str]:
        """Names of the ONNX nodes that do not fit the precision, with the reason."""
        assert subgraph.model is not None
        numbers = support.find_sensitive(self._nodes, set(subgraph.nodes), self._values, _LARGEST[precision])
        numbers = self.keep_float32 | numbers
        reasons = {}
        for node in subgraph.model.graph.node:
            number = onnx_export.node_of(node.name)
            if number in numbers:
                reasons[node.name] = numbers[number]
            for plugin in operators_of(node, self.builder.plugin_operators.values()):
                if not (plugin.half and precision in ("float16", *EIGHT_BIT)):
                    reasons[node.name] = f"is the plugin '{plugin.plugin}', not registered as taking {precision}"
        return reasons


#: What a subgraph's model depends on, within one prepared model: nodes, inputs, outputs, and which of these have data.
_SubgraphKey = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[bool, ...]]


def _key_of(subgraph: Subgraph) -> _SubgraphKey:
    return tuple(subgraph.nodes), tuple(subgraph.inputs), tuple(subgraph.outputs), tuple(subgraph.with_data)


def _first_takers(model: onnx.ModelProto, node: onnx.NodeProto, members: Collection[int]) -> set[int]:
    """The subgraph's first nodes that take what a node gives which computes a number, and so is none of them."""
    takers = set()
    given = set(node.output)
    for other in model.graph.node:
        if given.intersection(names_read(other)):
            number = onnx_export.node_of(other.name)
            if number is not None and number in members:
                takers.add(number)
            else:
                given.update(other.output)
    return takers


def _keep_outputs(model: onnx.ModelProto, positions: Sequence[int]) -> None:
    names = {f"{onnx_export.OUTPUT_PREFIX}{position}" for position in positions}
    for index in reversed(range(len(model.graph.output))):
        if model.graph.output[index].name not in names:
            del model.graph.output[index]


def record_calls(
    prepared: _C.PreparedModel,
    subgraphs: Sequence[Subgraph],
    items: Sequence[tuple[Any, ...]],
    *,
    calibration: bool = False,
) -> None:
    """Runs the model on all items and fills in each subgraph's recorded calls, or its calibration calls."""
    for item in items:
        with observation.session(max_calls=2) as number:
            recorders = {}
            for subgraph in subgraphs:
                recorder = engine_module.RecordingSubgraph(subgraph.fallback, number, subgraph.index)
                recorders[subgraph.index] = (subgraph.name, torch.jit.script(recorder)._c)
            observation.run(wrap(prepared.assembled(recorders)), [item])
            calls = _C.read_session(number).calls
        for subgraph in subgraphs:
            recorded = calls.get(subgraph.index, [])
            if calibration:
                subgraph.calibration_calls += [[tensor.cpu() for tensor in call] for call in recorded]
            else:
                subgraph.calls += recorded


def time_prepared(prepared: _C.PreparedModel, item: tuple[Any, ...], device: torch.device) -> float | None:
    """Milliseconds of a call of the prepared model without engines; None if it cannot be called again and again.

    It is without TorchScript's fuser, which may compile for minutes, as are the times of subgraphs it is compared with.
    """

    def measured() -> float:
        return _quick(observation.repeatable(lambda: wrap(prepared.assembled({})), item), device)

    try:
        return observation.without_fuser(measured)
    except Exception:  # whatever the model's code raises
        return None


def find_idle(
    subgraphs: Sequence[Subgraph],
    session: _C.Session,
    observed_items: int,
    whole_ms: float,
    device: torch.device,
    known_ms: dict[_SubgraphKey, float],
    flops: Mapping[int, float],
) -> dict[int, str]:
    """Which subgraphs take so little of the model that no engine is worth its building, with the reason.

    Those do that take next to nothing of its time and of its floating-point operations: a model may spend most of its
    time on the host, in loops over detections say, and will not when these are mended. Others that take next to nothing
    of its operations learn how much time their engines have to save.

    Args:
        subgraphs: with recorded calls.
        session: what was seen of the model's values.
        observed_items: how many items the session saw.
        whole_ms: what a call of the model takes.
        device: where the model runs.
        known_ms: what calls of subgraphs were seen to take, which is not measured again; gets what is measured now.
        flops: floating-point operations of the model's nodes, by their numbers.
    """
    idle = {}
    total = sum(flops.values())
    for subgraph in subgraphs:
        if not subgraph.calls:
            continue
        if sum(flops[node] for node in subgraph.nodes) > MIN_SHARE * total:
            continue
        calls = max(session.values[value].count for value in subgraph.outputs) / observed_items
        key = _key_of(subgraph)
        if key not in known_ms:
            call = caller(subgraph.fallback, subgraph.calls[0])
            known_ms[key] = observation.without_fuser(functools.partial(_quick, call, device))
        part_ms = calls * known_ms[key]
        subgraph.least_saving_ms = MIN_SHARE * whole_ms / calls if calls else 0.0
        if part_ms < MIN_SHARE * whole_ms:
            idle[subgraph.index] = (
                f"is in a subgraph that takes {part_ms:.3g} of the model's {whole_ms:.3g} ms, too little for an engine"
            )
    return idle


def is_empty(subgraph: Subgraph, session: _C.Session) -> bool:
    """Whether nothing was ever computed: all that it gives has no elements, as of images without detections."""
    return all(value in session.values and 0 in session.values[value].max_shape for value in subgraph.outputs)


def caller(module: torch.jit.ScriptModule, call: list[Tensor]) -> Callable[[], object]:
    """A call of a subgraph in PyTorch."""
    return lambda: module(call)


def _quick(call: Callable[[], object], device: torch.device) -> float:
    return measure(call, device=device, warmup=3, runs=5, max_seconds=5.0).median_ms
