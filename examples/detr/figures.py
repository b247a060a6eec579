"""What the demo says of answers and of layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

#: Coordinates are divided by no less than this share of the picture, so that boxes at its edge count like others.
_LEAST_COORDINATE = 0.05

#: Layers that a table shows.
_SHOWN_LAYERS = 12


@dataclass(frozen=True)
class Errors:
    """How far answers are from PyTorch's, over all queries of all pictures.

    Attributes:
        score: mean relative error of a query's best score.
        box: mean relative error of a coordinate.
        same_class: share of queries whose best class is PyTorch's.
    """

    score: float
    box: float
    same_class: float

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


def compare(expected: Sequence[Sequence[Tensor]], actual: Sequence[Sequence[Tensor]]) -> Errors:
    """Compares ``(scores, boxes)`` of each call, as :class:`examples.detr.model.Detr` returns them."""
    scores, boxes, same = [], [], []
    for (expected_scores, expected_boxes), (actual_scores, actual_boxes) in zip(expected, actual, strict=True):
        best, classes = expected_scores.max(dim=-1)
        other_best, other_classes = actual_scores.max(dim=-1)
        scores.append(((other_best - best).abs() / best).flatten())
        boxes.append(((actual_boxes - expected_boxes).abs() / expected_boxes.clamp_min(_LEAST_COORDINATE)).flatten())
        same.append((classes == other_classes).flatten().float())
    return Errors(*(float(torch.cat(parts).mean()) for parts in (scores, boxes, same)))


def layer_times(engines: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, int, float]]:
    """``(layer, calls, milliseconds in all)`` over the layers of all engines, the longest first."""
    rows = [
        (f"{path}: {name}" if path else name, calls, milliseconds)
        for path, engine in engines.items()
        for name, calls, milliseconds in engine["profile"]
        if calls
    ]
    return sorted(rows, key=lambda row: row[2], reverse=True)


def convolution_share(rows: Iterable[tuple[str, int, float]]) -> float:
    """Share of the layers' time that convolutions take, with what is fused into them; nearly all are the backbone's."""
    times = [(milliseconds, "conv" in name.rpartition(": ")[2].lower()) for name, _, milliseconds in rows]
    total = sum(milliseconds for milliseconds, _ in times)
    return sum(milliseconds for milliseconds, is_convolution in times if is_convolution) / total if total else 0.0


def layer_table(rows: Sequence[tuple[str, int, float]], *, shown: int | None = _SHOWN_LAYERS) -> list[str]:
    """Lines as ``trtexec --dumpProfile`` writes them; all layers with ``shown=None``."""
    total = sum(milliseconds for _, _, milliseconds in rows) or 1.0
    lines = [f"{'Time (ms)':>10}  {'Avg. (ms)':>9}  {'Time %':>6}  Layer"]
    for name, calls, milliseconds in rows[:shown]:
        lines.append(f"{milliseconds:10.2f}  {milliseconds / calls:9.4f}  {100 * milliseconds / total:6.1f}  {name}")
    if shown is not None and len(rows) > shown:
        lines.append(f"{'':27}  … and {len(rows) - shown} more")
    return lines
