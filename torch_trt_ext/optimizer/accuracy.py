"""How far a model's outputs are from what they should be.

Plain outputs are compared element by element, by the relative L2 error ``|actual - expected| / |expected|``, or by the
fraction of elements that differ where they are integers or booleans. Detections (torchvision's dicts with ``boxes`` and
``scores``, or padded tensors as post-processing engines give them) have no fixed number and order, so they are matched
first:

- Each expected detection, best score first, takes the free one of the same label and an IoU of at least
  :data:`MATCH_IOU` whose score is closest. A pair's error is the difference of its scores.
- A detection without a partner counts with its share of the scores (of the side whose scores sum up to more). Two
  kinds are forgiven, because rounding alone brings them about: at the *border*, where its score is next to the lowest
  one that the other side kept (a threshold, a top-k), and *swapped*, where another box (IoU of at least
  :data:`SWAP_IOU`), whatever its label, stands in its place with a score next to its own (suppression or argmax between
  near-equals). "Next to" means within the tolerance.
- Forgiving is bounded (:data:`MAX_BORDER_SHARE`, :data:`MAX_SWAP_SHARE`), so that boxes or labels that are all wrong
  never pass because their scores are alike.

All differences of scores are relative to the highest expected score. Since "within the tolerance" is itself a
condition, the error of detections is the smallest tolerance at which they are within it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from torch_trt_ext.optimizer.padded_detections import are_padded_detections, split_padded_detections
from torch_trt_ext.optimizer.structures import children, describe, dtype_name, is_mapping, is_sequence, join_path

#: Overlap from which two detections of one label are the same one.
MATCH_IOU = 0.9

#: Overlap from which a detection can have taken another's place; torchvision suppresses above it.
SWAP_IOU = 0.5

#: Largest share of both sides' scores that is forgiven at the border of a threshold or a top-k.
MAX_BORDER_SHARE = 0.5

#: Largest share of both sides' scores that is forgiven for having been swapped.
MAX_SWAP_SHARE = 0.1

#: Elements in float64 at a time, so that large outputs need little memory besides their own.
_CHUNK_ELEMENTS = 1 << 20

#: Leaves besides tensors and floats that can differ. Objects without a value, as engines, are taken for equal.
_COMPARED_BY_VALUE = (bool, int, complex, str, torch.device, torch.dtype)


@dataclass(frozen=True)
class OutputError:
    """How one output differs from its reference. What does not apply is None; what was not computed is infinite.

    Attributes:
        path: where it is in the model's outputs, as ``1.boxes``; empty where the output is a tensor alone.
        shape: of the reference; of its boxes for detections.
        dtype: of the reference, as ``float32``; of its scores for detections.
        max_abs: largest absolute difference; of matched scores for detections.
        mean_abs: mean absolute difference; of matched scores for detections.
        relative: L2 of the difference over L2 of the reference (0/0 is 0), fraction of differing elements for integers
            and booleans, see the module for detections. Infinite where one side has an infinity or NaN that the other
            has not, and where the outputs cannot be compared.
        cosine: of the angle between the two as vectors, finite elements only.
        mismatched: fraction of differing elements; of detections without a partner.
        note: what a number does not say; may be empty.
    """

    path: str
    shape: tuple[int, ...] = ()
    dtype: str = ""
    max_abs: float | None = None
    mean_abs: float | None = None
    relative: float = math.inf
    cosine: float | None = None
    mismatched: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """The errors of all outputs.

    Attributes:
        errors: in the order of the reference's outputs; equal structures without tensors have none.
    """

    errors: list[OutputError]

    @property
    def worst(self) -> OutputError | None:
        """The output with the largest relative error, if there is an output."""
        return max(self.errors, key=lambda error: error.relative, default=None)

    @property
    def relative(self) -> float:
        """The largest relative error; 0 without outputs."""
        return self.worst.relative if self.worst else 0.0

    def within(self, tolerance: float) -> bool:
        """Whether every output has a finite relative error of at most ``tolerance``."""
        return math.isfinite(self.relative) and self.relative <= tolerance

    def summary(self) -> dict[str, Any]:
        """For JSON: the largest error and each output's; infinities and NaN are strings."""
        return {"relative": _json(self.relative), "outputs": [_json(asdict(error)) for error in self.errors]}

    def explain(self, tolerance: float) -> str:
        """A sentence that names the worst output, its error and the limit."""
        worst = self.worst
        if worst is None:
            return "there are no outputs to compare"
        name = f"output {worst.path!r}" if worst.path else "the output"
        what = f" ({worst.dtype}{list(worst.shape)})" if worst.dtype else ""
        note = f" ({worst.note})" if worst.note else ""
        if not math.isfinite(worst.relative):
            return f"{name}{what} is not comparable to its reference within any tolerance{note}"
        verdict = "within" if self.within(tolerance) else "more than"
        return (
            f"{name}{what} has a relative error of {worst.relative:.2e}, {verdict} the limit of {tolerance:.2e}{note}"
        )


def compare(expected: Any, actual: Any) -> Comparison:
    """Compares a model's outputs with reference outputs. Whatever differs is an error value, never an exception.

    Args:
        expected: nested tuples, lists and dicts of tensors and other values. Tuples and lists count as the same.
        actual: likewise; its tensors may be on another device.

    Returns:
        An error for each tensor or set of detections of ``expected``, and for each place where the two differ in
        structure, dtype or shape.
    """
    errors: list[OutputError] = []
    _visit("", expected, actual, errors)
    return Comparison(errors)


def _json(value: Any) -> Any:
    """Replaces what JSON has no word for."""
    if isinstance(value, dict):
        return {key: _json(element) for key, element in value.items()}
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _visit(path: str, expected: Any, actual: Any, errors: list[OutputError]) -> None:
    if isinstance(expected, Tensor) and isinstance(actual, Tensor):
        errors.append(_tensor_error(path, expected, actual))
    elif is_mapping(expected) and is_mapping(actual):
        expected_children, actual_children = dict(children(expected)), dict(children(actual))
        if expected_children.keys() != actual_children.keys():
            errors.append(_unlike(path, f"keys {list(expected_children)}", f"keys {list(actual_children)}"))
        elif _are_detections(expected_children) and _are_detections(actual_children):
            _visit_detections(path, expected_children, actual_children, errors)
        else:
            for name, element in expected_children.items():
                _visit(join_path(path, name), element, actual_children[name], errors)
    elif is_sequence(expected) and is_sequence(actual):
        if len(expected) != len(actual):
            errors.append(_unlike(path, f"{len(expected)} elements", f"{len(actual)} elements"))
            return
        e, a = list(expected), list(actual)
        if are_padded_detections(e) and are_padded_detections(a) and _are_alike(e, a):
            images = zip(split_padded_detections(e), split_padded_detections(a), strict=True)
            for image, (found, other_found) in enumerate(images):
                _visit_detections(join_path(path, f"image {image}"), found, other_found, errors)
            return
        for (name, element), other in zip(children(expected), actual, strict=True):
            _visit(join_path(path, name), element, other, errors)
    elif type(expected) is not type(actual):
        errors.append(_unlike(path, describe(expected), describe(actual)))
    elif isinstance(expected, float):
        as_tensors = (torch.tensor(value, dtype=torch.float64) for value in (expected, actual))
        errors.append(_tensor_error(path, *as_tensors))
    elif isinstance(expected, _COMPARED_BY_VALUE) and expected != actual:
        errors.append(_unlike(path, str(expected), str(actual)))


def _are_alike(expected: Sequence[Tensor], actual: Sequence[Tensor]) -> bool:
    return all(e.shape == a.shape and e.dtype == a.dtype for e, a in zip(expected, actual, strict=True))


def _unlike(path: str, expected: str, actual: str) -> OutputError:
    return OutputError(path, note=f"expected {expected}, got {actual}")


def _tensor_error(path: str, expected: Tensor, actual: Tensor) -> OutputError:
    error = OutputError(path, tuple(expected.shape), dtype_name(expected.dtype))
    if expected.dtype != actual.dtype or expected.shape != actual.shape:
        return replace(error, note=f"expected {describe(expected)}, got {describe(actual)}")
    expected, actual = _real(expected), _real(actual)
    if expected.numel() == 0:
        return replace(error, max_abs=0.0, mean_abs=0.0, relative=0.0)
    # Sums over chunks, in float64 on the device: |d|, d * d, e * e, a * a, e * a, elements that cannot be compared,
    # elements that differ. They are read once, because each reading waits for the device.
    sums = torch.zeros(7, dtype=torch.float64, device=expected.device)
    largest = torch.zeros((), dtype=torch.float64, device=expected.device)
    for e, a in _chunks(expected, actual):
        differs = (e != a) & ~(e.isnan() & a.isnan())
        unusable = ~(e.isfinite() & a.isfinite())
        e, a = (piece.to(torch.float64).masked_fill(unusable, 0.0) for piece in (e, a))
        difference = a - e
        largest = torch.maximum(largest, difference.abs().max())
        sums += torch.stack(
            [
                difference.abs().sum(),
                difference.dot(difference),
                e.dot(e),
                a.dot(a),
                e.dot(a),
                (differs & unusable).sum(),
                differs.sum(),
            ]
        )
    max_abs, absolute, squares, expected_squares, actual_squares, product, incomparable, differing = torch.cat(
        [largest.view(1), sums]
    ).tolist()
    error = replace(error, max_abs=max_abs, mean_abs=absolute / expected.numel())
    if not expected.is_floating_point():
        mismatched = differing / expected.numel()
        return replace(error, relative=mismatched, mismatched=mismatched)
    if expected_squares and actual_squares:
        error = replace(error, cosine=product / (math.sqrt(expected_squares) * math.sqrt(actual_squares)))
    if incomparable:
        note = f"{int(incomparable)} of {expected.numel()} elements are infinite or NaN on one side only"
        return replace(error, note=note)
    if squares == 0:
        return replace(error, relative=0.0)
    if expected_squares == 0:
        return replace(error, note="the reference is zero everywhere")
    return replace(error, relative=math.sqrt(squares / expected_squares))


def _real(tensor: Tensor) -> Tensor:
    """The same numbers in a dense tensor of real ones, of a dtype that comparisons know."""
    tensor = tensor.detach()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_complex():
        return torch.view_as_real(tensor.resolve_conj())
    # The 8-bit types have no arithmetic.
    return tensor.to(torch.float32) if tensor.is_floating_point() and tensor.element_size() == 1 else tensor


def _chunks(expected: Tensor, actual: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of flat pieces, the second on the first's device."""
    flat_expected, flat_actual = expected.reshape(-1), actual.reshape(-1)
    for start in range(0, flat_expected.numel(), _CHUNK_ELEMENTS):
        piece = slice(start, start + _CHUNK_ELEMENTS)
        yield flat_expected[piece], flat_actual[piece].to(flat_expected.device)


def _are_detections(outputs: dict[str, Any]) -> bool:
    """Whether a dict is what torchvision's detectors return for an image."""
    boxes, scores, labels = (outputs.get(name) for name in ("boxes", "scores", "labels"))
    if not isinstance(boxes, Tensor) or not isinstance(scores, Tensor):
        return False
    if not boxes.is_floating_point() or not scores.is_floating_point() or scores.dim() != 1:
        return False
    if labels is not None and not (isinstance(labels, Tensor) and labels.shape == scores.shape):
        return False
    return boxes.shape == (len(scores), 4)


@dataclass(frozen=True)
class _Detections:
    """Detections of one image, on the CPU in float64, best score first.

    Attributes:
        boxes: Tensor[N, 4], xyxy.
        scores: Tensor[N].
        labels: Tensor[N], int64; zeros where there are none.
        order: Tensor[N], int64, where each was in the output.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    order: Tensor

    @staticmethod
    def of(outputs: dict[str, Any]) -> _Detections:
        scores = outputs["scores"].detach().to("cpu", torch.float64)
        order = scores.argsort(descending=True, stable=True)
        labels = outputs.get("labels")
        labels = torch.zeros(len(scores)) if labels is None else labels.detach().cpu()
        boxes = outputs["boxes"].detach().to("cpu", torch.float64)
        return _Detections(boxes[order], scores[order], labels.to(torch.int64)[order], order)


def _visit_detections(path: str, expected: dict[str, Any], actual: dict[str, Any], errors: list[OutputError]) -> None:
    error = OutputError(path, tuple(expected["boxes"].shape), dtype_name(expected["scores"].dtype))
    for name in ("boxes", "scores", "labels"):
        if name in expected and expected[name].dtype != actual[name].dtype:
            got = f"expected {name} {dtype_name(expected[name].dtype)}, got {dtype_name(actual[name].dtype)}"
            errors.append(replace(error, note=got))
            return
    e, a = _Detections.of(expected), _Detections.of(actual)
    for side, found in (("expected", e), ("actual", a)):
        if not found.scores.isfinite().all():
            errors.append(replace(error, note=f"{side} scores are infinite or NaN"))
            return
    rows, columns = _match(e, a, torch.arange(len(e.scores)), torch.arange(len(a.scores)), MATCH_IOU, same_label=True)
    errors.append(_detection_error(error, e, a, rows, columns))
    for name, element in expected.items():
        other = actual[name]
        if name in ("boxes", "scores", "labels"):
            continue
        if _has_rows(element, len(e.scores)) and _has_rows(other, len(a.scores)):
            element, other = element[e.order[rows].to(element.device)], other[a.order[columns].to(other.device)]
        _visit(join_path(path, name), element, other, errors)


def _has_rows(value: Any, rows: int) -> bool:
    """Whether a value is something of each detection, as masks are."""
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) == rows


def _match(
    e: _Detections, a: _Detections, rows: Tensor, free: Tensor, min_iou: float, *, same_label: bool
) -> tuple[Tensor, Tensor]:
    """Pairs some expected with some actual detections, greedily, best score first: two Tensor[P] of indices, int64."""
    pairs = []
    for row in rows.tolist():
        fits = _iou(e.boxes[row], a.boxes[free]) >= min_iou
        if same_label:
            fits &= a.labels[free] == e.labels[row]
        candidates = fits.nonzero().flatten()
        if len(candidates):
            nearest = candidates[(a.scores[free[candidates]] - e.scores[row]).abs().argmin()]
            pairs.append((row, int(free[nearest])))
            free = torch.cat([free[:nearest], free[nearest + 1 :]])
    matched_rows, matched_columns = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).t().contiguous()
    return matched_rows, matched_columns


def _iou(box: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of Tensor[4] with Tensor[N, 4], xyxy; 1 for equal boxes, empty ones too."""
    size = (torch.minimum(box[2:], others[:, 2:]) - torch.maximum(box[:2], others[:, :2])).clamp_(min=0)
    intersection = size[:, 0] * size[:, 1]
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(dim=1) - intersection
    return torch.where((box == others).all(dim=1), 1.0, intersection / union)


def _detection_error(error: OutputError, e: _Detections, a: _Detections, rows: Tensor, columns: Tensor) -> OutputError:
    """Fills in the error of matched detections."""
    rest_e, rest_a = _others(rows, len(e.scores)), _others(columns, len(a.scores))
    differences = (e.scores[rows] - a.scores[columns]).abs()
    count, unmatched = len(e.scores) + len(a.scores), len(rest_e) + len(rest_a)
    note = f"{len(rows)} matched, {len(rest_e)} missing, {len(rest_a)} added"
    if len(rows):
        note += f"; matched boxes differ by at most {float((e.boxes[rows] - a.boxes[columns]).abs().max()):.2g}"
    return replace(
        error,
        max_abs=float(differences.max()) if len(rows) else 0.0,
        mean_abs=float(differences.mean()) if len(rows) else 0.0,
        relative=_smallest_tolerance(e, a, differences, rest_e, rest_a),
        mismatched=unmatched / count if count else 0.0,
        note=note,
    )


def _others(taken: Tensor, count: int) -> Tensor:
    left = torch.ones(count, dtype=torch.bool)
    left[taken] = False
    return left.nonzero().flatten()


def _smallest_tolerance(e: _Detections, a: _Detections, differences: Tensor, rest_e: Tensor, rest_a: Tensor) -> float:
    """The smallest tolerance that matched scores, and those without a partner that it does not forgive, are within."""
    scores = torch.cat([e.scores, a.scores]).abs()
    if not len(scores) or not scores.max():
        # Without scores there is nothing to weigh by; a different number is a different answer.
        return math.inf if len(rest_e) + len(rest_a) else 0.0
    scale = float(e.scores.abs().max()) if len(e.scores) else 0.0
    scale = scale or float(scores.max())
    worst = float(differences.max()) / scale if len(differences) else 0.0
    weights = torch.cat([e.scores[rest_e], a.scores[rest_a]]).abs()
    larger = max(float(e.scores.abs().sum()), float(a.scores.abs().sum()))
    weights /= larger
    both = float(scores.sum()) / larger

    # What tolerance forgives each: by the other side's lowest score, or by whoever stands in its place.
    border = torch.full_like(weights, math.inf)
    if len(a.scores):
        border[: len(rest_e)] = (e.scores[rest_e] - a.scores.min()).abs() / scale
    if len(e.scores):
        border[len(rest_e) :] = (a.scores[rest_a] - e.scores.min()).abs() / scale
    swapped = torch.full_like(weights, math.inf)
    rows, columns = _match(e, a, rest_e, rest_a, SWAP_IOU, same_label=False)
    for where in (torch.searchsorted(rest_e, rows), len(rest_e) + torch.searchsorted(rest_a, columns)):
        swapped[where] = (e.scores[rows] - a.scores[columns]).abs() / scale
    gaps = torch.minimum(
        _bounded(border, weights, MAX_BORDER_SHARE * both),
        _bounded(swapped, weights, MAX_SWAP_SHARE * both),
    )

    # A tolerance forgives all gaps up to it, so only the gaps themselves, and none, need be tried.
    gaps, order = gaps.sort()
    forgiven = torch.cat([torch.zeros(1, dtype=torch.float64), weights[order].cumsum(0)])
    left = (forgiven[-1] - forgiven).clamp_(min=0)
    tolerances = torch.cat([torch.zeros(1, dtype=torch.float64), gaps])
    return max(worst, float(torch.maximum(tolerances, left).min()))


def _bounded(gaps: Tensor, weights: Tensor, limit: float) -> Tensor:
    """Takes forgiveness from the widest gaps until no more than a limit of the weight has it."""
    order = gaps.argsort(stable=True)
    bounded = gaps.clone()
    bounded[order[weights[order].cumsum(0) > limit]] = math.inf
    return bounded
