"""How long each layer of an engine takes, and which node of the model it comes from."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

#: Calls before the times count: the first ones allocate.
_WARMUP_RUNS = 2

_RUNS = 10

#: Larger plans are not loaded a second time, for which there may be no memory.
_MAX_PLAN_BYTES = 1 << 30

#: An ONNX node in a layer's name, which has the number of the node it comes from; layers that change formats have the
#: formats before it.
_NODE = re.compile(r"(?<![A-Za-z0-9])n(\d+)(?=/)")


@dataclass(frozen=True)
class LayerTime:
    """A layer, as the engine library fused it.

    Attributes:
        name: the engine library's.
        kind: the engine library's word for what it does; empty where it has none.
        node: number of the model's node that it comes from, of several the first; None where the name does not tell.
        ms: milliseconds a call, the mean of :attr:`LayerTimes.runs` calls.
    """

    name: str
    kind: str
    node: int | None
    ms: float


@dataclass(frozen=True)
class LayerTimes:
    """All layers of an engine that take time, in the order in which they run, and the calls they are the mean of."""

    layers: Sequence[LayerTime]
    runs: int


def time_layers(builder: Any, plan: Any, inputs: Sequence[Tensor]) -> LayerTimes | None:
    """Times the layers of an engine of its own, so that the model's keeps its contexts, graphs and counters.

    Args:
        builder: the :class:`EngineBuilder` that made the plan.
        plan: the engine's.
        inputs: of a call, as the engine takes them.

    Returns:
        None where there may be no memory for a second engine, or none is left.
    """
    if len(plan.data) > _MAX_PLAN_BYTES:
        return None
    try:
        engine = builder.load(plan)
        engine.set_profiling(True)
        for _ in range(_WARMUP_RUNS):
            engine.forward(list(inputs))
        before = {name: milliseconds for name, _, milliseconds in engine.profile()}
        for _ in range(_RUNS):
            engine.forward(list(inputs))
        rows = engine.profile()
        facts = _facts(engine.layer_info())
    except RuntimeError:
        # The engine worked when it was verified; what fails now is memory.
        return None
    layers = []
    for name, _, milliseconds in rows:
        fact = facts.get(name, {})
        found = _NODE.search(name) or _NODE.search(str(fact.get("Metadata", "")))
        kind = str(fact.get("LayerType", ""))
        layers.append(
            LayerTime(name, kind, int(found[1]) if found else None, (milliseconds - before.get(name, 0.0)) / _RUNS)
        )
    return LayerTimes(layers, _RUNS)


def _facts(layer_info: str) -> dict[str, dict[str, Any]]:
    """What the library says of each layer, by name; some versions give names alone."""
    layers = json.loads(layer_info).get("Layers", [])
    return {layer["Name"]: layer for layer in layers if isinstance(layer, dict) and "Name" in layer}
