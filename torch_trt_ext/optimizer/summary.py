"""What a run of optimize() found, and the report that is made of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from torch_trt_ext._C import NodeInfo, Session
from torch_trt_ext.config import Config
from torch_trt_ext.optimizer.accuracy import Comparison
from torch_trt_ext.optimizer.candidates import Candidate
from torch_trt_ext.optimizer.engine_builder import EngineBuilder, Precision
from torch_trt_ext.optimizer.latency import Latency
from torch_trt_ext.optimizer.layer_times import LayerTimes, time_layers
from torch_trt_ext.optimizer.metric import Metric
from torch_trt_ext.optimizer.model_input import ModelInput
from torch_trt_ext.optimizer.report import NO_INPUT_INFORMATION, Overall, PassResult, Report, build_report
from torch_trt_ext.optimizer.samples import Samples
from torch_trt_ext.optimizer.support import count_flops, occurrences

#: Nodes that hold a program together: they take no time, so that nobody misses them in an engine.
_STRUCTURE = {
    "prim::Constant",
    "prim::DictConstruct",
    "prim::GetAttr",
    "prim::ListConstruct",
    "prim::ListUnpack",
    "prim::TupleConstruct",
    "prim::TupleUnpack",
    "prim::unchecked_cast",
}

#: Where torch is installed, which says nothing in a source line.
_PACKAGES = f"{Path(torch.__file__).parent.parent}/"

#: Reasons that the diagnosis names.
_LISTED_REASONS = 3

#: Layers of an engine that are listed, the slowest ones.
_LISTED_LAYERS = 20


@dataclass
class Outcome:
    """Everything the report is made of.

    Attributes:
        source: the model as it came.
        samples: what it was run on.
        config: the options.
        builder: what the engines were built with.
        remarks: sentences for the diagnosis.
        nodes: of the prepared model.
        session: what was seen of its values.
        left: why a node stays in PyTorch, by node number.
        candidates: engines that were built.
        accepted: those that are in the optimized model.
        precision: what the engines are in, the fewest bits of them; what was tried last where there are none.
        comparison: the whole model's worst error.
        metric: the user's, where there is one.
        original: latency of the model as it was.
        optimized: latency with the engines.
    """

    source: ModelInput
    samples: Samples
    config: Config
    builder: EngineBuilder
    remarks: list[str] = field(default_factory=list)
    nodes: Sequence[NodeInfo] = ()
    session: Session | None = None
    left: dict[int, str] = field(default_factory=dict)
    candidates: list[Candidate] = field(default_factory=list)
    accepted: list[Candidate] = field(default_factory=list)
    precision: Precision = "float32"
    comparison: Comparison | None = None
    metric: Metric | None = None
    original: Latency | None = None
    optimized: Latency | None = None

    def leave(self, nodes: Iterable[int], reasons: Mapping[int, str]) -> None:
        """Notes why nodes stay in PyTorch; those without a reason of their own belong to a subgraph that stays."""
        for number in nodes:
            self.left[number] = reasons.get(number, "is in a subgraph that stays, since others of its nodes have to")


def summarize(outcome: Outcome) -> Report:
    """Makes the report."""
    samples = outcome.samples
    original = outcome.original.median_ms if outcome.original else float("nan")
    effective = bool(outcome.accepted)
    optimized = outcome.optimized.median_ms if effective and outcome.optimized else original
    passes = []
    if outcome.nodes:
        measured = outcome.optimized.median_ms if outcome.optimized else original
        status = "effective" if effective else "not effective"
        passes.append(PassResult(outcome.builder.pass_name(outcome.precision), status, original, measured))  # type: ignore[arg-type]
    layers = {candidate.subgraph.name: _layer_times(candidate, outcome) for candidate in outcome.accepted}
    return build_report(
        config=outcome.config,
        device_type=outcome.builder.device_type,
        input_format=outcome.source.input_format,
        test_data=samples.items,
        passes=passes,
        overall=Overall(original, optimized),
        model_path=outcome.source.name,
        test_data_source=samples.source,
        shape_variation=samples.shape_variation,
        message=_message(outcome),
        engines=[_describe(candidate, outcome, layers[candidate.subgraph.name]) for candidate in outcome.accepted],
        left_in_torch=_left(outcome),
        accuracy=_accuracy(outcome),
        coverage=_coverage(outcome, layers),
        latency={
            name: latency.distribution()
            for name, latency in (("original", outcome.original), ("optimized", outcome.optimized))
            if latency and (effective or name == "original")
        },
    )


def why_no_engine(outcome: Outcome) -> str:
    """Why operators stay in PyTorch, the reasons of most operators first."""
    operators = [number for number in sorted(outcome.left) if not outcome.nodes[number].kind.startswith("prim::")]
    reasons = Counter(outcome.left[number] for number in operators)
    if not reasons:
        return "no engine was kept, since the model has no operators on tensors"
    listed = [
        f"{count} operator{'s' * (count != 1)}: {reason}" for reason, count in reasons.most_common(_LISTED_REASONS)
    ]
    others = len(operators) - sum(count for _, count in reasons.most_common(_LISTED_REASONS))
    further = [f"{others} more for other reasons, see left_in_torch"] if others else []
    return f"no engine was kept. {'; '.join(listed + further)}"


def _message(outcome: Outcome) -> str:
    sentences = [outcome.samples.message, *outcome.remarks]
    text = "; ".join(sentence for sentence in sentences if sentence)
    if not text and outcome.samples.shape_variation == "undefined":
        return NO_INPUT_INFORMATION
    return text


def _layer_times(candidate: Candidate, outcome: Outcome) -> LayerTimes | None:
    subgraph = candidate.subgraph
    return time_layers(outcome.builder, candidate.built.plan, subgraph.engine_call(subgraph.calls[0]))


def _describe(candidate: Candidate, outcome: Outcome, layers: LayerTimes | None) -> dict[str, Any]:
    assert candidate.comparison is not None
    plan = candidate.built.plan
    ranges = {
        name: [{"min": least, "opt": tuned, "max": most} for least, tuned, most in shapes]
        for name, shapes in _by_input(candidate).items()
    }
    timed = {}
    if candidate.engine_latency and candidate.torch_latency:
        timed = {
            "engine": candidate.engine_latency.as_dict(),
            "torch": candidate.torch_latency.as_dict(),
            "speedup": round(candidate.torch_latency.median_ms / candidate.engine_latency.median_ms, 3),
        }
    return {
        "name": candidate.subgraph.name,
        "backend": plan.backend,
        "precision": candidate.precision,
        "not_in": candidate.not_in,
        "operators": candidate.subgraph.operators,
        "nodes": len(candidate.subgraph.nodes),
        "inputs": [
            {"name": name, "dtype": word, "shapes": ranges.get(name, [])}
            for name, word in zip(plan.input_names, plan.input_types, strict=True)
        ],
        "outputs": [
            {"name": name, "dtype": word} for name, word in zip(plan.output_names, plan.output_types, strict=True)
        ],
        "plan_bytes": len(plan.data),
        "build_seconds": round(candidate.build_seconds, 3),
        "from_cache": candidate.built.from_cache,
        "kept_float32": candidate.built.kept_float32,
        "kept_16bit": candidate.kept_16bit,
        "cuda_graphs": candidate.engine.cuda_graphs(),
        "error": candidate.comparison.summary(),
        "latency": timed,
        "layers": _layers(layers, outcome) if layers else {},
    }


def _layers(times: LayerTimes, outcome: Outcome) -> dict[str, Any]:
    slowest = sorted(times.layers, key=lambda layer: -layer.ms)[:_LISTED_LAYERS]
    return {
        "count": len(times.layers),
        "total_ms": round(sum(layer.ms for layer in times.layers), 4),
        "runs": times.runs,
        "slowest": [
            {
                "name": layer.name,
                "kind": layer.kind,
                "module": "" if layer.node is None else outcome.nodes[layer.node].module_path,
                "ms": round(layer.ms, 4),
            }
            for layer in slowest
        ],
    }


def _by_input(candidate: Candidate) -> dict[str, list[Any]]:
    by_input: dict[str, list[Any]] = {}
    for profile in candidate.subgraph.ranges:
        for name, shapes in profile.items():
            by_input.setdefault(name, []).append([list(shape) for shape in shapes])
    return by_input


def _left(outcome: Outcome) -> list[dict[str, Any]]:
    names = occurrences(outcome.nodes)
    entries = []
    for number in _left_nodes(outcome):
        node = outcome.nodes[number]
        source = ", ".join(part for part in (node.source.removeprefix(_PACKAGES), node.module_path) if part)
        entries.append({"node": names[number], "source": source, "reason": outcome.left[number]})
    return entries


def _left_nodes(outcome: Outcome) -> list[int]:
    covered = _covered(outcome)
    return [
        number
        for number in sorted(outcome.left)
        if number not in covered and outcome.nodes[number].kind not in _STRUCTURE
    ]


def _modules(outcome: Outcome, layers: Mapping[str, LayerTimes | None]) -> list[dict[str, Any]]:
    """Each module with all that is in it: operators by engine, nodes that stay in PyTorch, time in engines."""
    modules: dict[str, dict[str, Any]] = {}

    def lineage(number: int) -> list[dict[str, Any]]:
        """The node's module, and those that this is in, the model itself first."""
        parts = list(filter(None, outcome.nodes[number].module_path.split(".")))
        paths = [".".join(parts[:length]) for length in range(len(parts) + 1)]
        return [modules.setdefault(path, {"path": path, "engines": {}, "left": 0, "left_nodes": []}) for path in paths]

    names = occurrences(outcome.nodes)
    left = set(_left_nodes(outcome))
    engine_of = {number: found.subgraph.name for found in outcome.accepted for number in found.subgraph.nodes}
    for node in outcome.nodes:
        if node.id in left:
            for module in lineage(node.id):
                module["left"] += 1
            lineage(node.id)[-1]["left_nodes"].append(names[node.id])
        elif node.id in engine_of and not node.kind.startswith("prim::"):
            for module in lineage(node.id):
                module["engines"][engine_of[node.id]] = module["engines"].get(engine_of[node.id], 0) + 1
    for times in layers.values():
        for layer in times.layers if times else ():
            for module in lineage(layer.node) if layer.node is not None else ():
                module["engine_ms"] = round(module.get("engine_ms", 0.0) + layer.ms, 4)
    return list(modules.values())


def _covered(outcome: Outcome) -> set[int]:
    return {number for candidate in outcome.accepted for number in candidate.subgraph.nodes}


def _accuracy(outcome: Outcome) -> dict[str, Any]:
    limits = outcome.config.accuracy
    accuracy: dict[str, Any] = {
        "checked": limits.check and outcome.config.check_model,
        "max_relative_error": limits.limit(outcome.precision),
        "max_model_relative_error": limits.model_limit(outcome.precision),
    }
    if outcome.comparison is not None:
        accuracy["model"] = outcome.comparison.summary()
    if outcome.metric is not None:
        accuracy["metric"] = outcome.metric.summary()
    return accuracy


def _coverage(outcome: Outcome, layers: Mapping[str, LayerTimes | None]) -> dict[str, Any]:
    if outcome.session is None:
        return {}
    covered = _covered(outcome)
    operators = [
        node
        for node in outcome.nodes
        if node.kind.startswith("aten::") and node.outputs and _ran(node, outcome.session)
    ]
    flops = {node.id: count_flops(node, outcome.session.values) for node in operators}
    total = sum(flops.values())
    inside = [node for node in operators if node.id in covered]
    return {
        "engines": len(outcome.accepted),
        "operators": len(inside),
        "operators_total": len(operators),
        "compute": round(sum(flops[node.id] for node in inside) / total, 4) if total else 0.0,
        "gflops_total": round(total / 1e9, 3),
        "modules": _modules(outcome, layers),
    }


def _ran(node: NodeInfo, session: Session) -> bool:
    return any(value in session.values for value in node.outputs)
