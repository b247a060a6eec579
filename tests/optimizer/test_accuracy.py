"""Errors of outputs: plain tensors against formulas written out, structures, and detections that are matched."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from torch_trt_ext.optimizer import accuracy
from torch_trt_ext.optimizer.accuracy import MATCH_IOU, MAX_BORDER_SHARE, MAX_SWAP_SHARE, OutputError, compare

TOLERANCE = 0.01

#: Sums in another order and in chunks: rounding of float64 only.
ROUNDING = 1e-12


def _one(expected: Any, actual: Any) -> OutputError:
    (error,) = compare(expected, actual).errors
    return error


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("chunk", [7, 1 << 20])
def test_float_error_follows_the_formulas(dtype: torch.dtype, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "_CHUNK_ELEMENTS", chunk)
    generator = torch.Generator().manual_seed(0)
    expected = torch.randn(3, 5, 7, generator=generator).to(dtype).transpose(0, 2)
    actual = (expected + 0.1 * torch.randn(expected.shape, generator=generator)).to(dtype)
    e, a = expected.double(), actual.double()
    error = _one(expected, actual)
    assert error.max_abs == (a - e).abs().max()
    assert error.mean_abs == pytest.approx((a - e).abs().mean().item(), rel=ROUNDING)
    assert error.relative == pytest.approx(((a - e).norm() / e.norm()).item(), rel=ROUNDING)
    assert error.cosine == pytest.approx(((a * e).sum() / a.norm() / e.norm()).item(), rel=ROUNDING)
    assert (error.shape, error.mismatched, error.note) == ((7, 5, 3), None, "")


def test_large_equal_offsets_lose_no_digits() -> None:
    expected = torch.full((1000,), 10_000.0)
    assert _one(expected, expected + 0.5).relative == pytest.approx(5e-5, rel=ROUNDING)


def test_equal_is_zero() -> None:
    values = torch.tensor([1.0, -2.0])
    assert _one(values, values.clone()).relative == 0.0
    assert _one(values * 0, values * 0).relative == 0.0
    assert _one(torch.ones(0, 4), torch.ones(0, 4)).relative == 0.0
    assert compare(None, None).within(0.0)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
def test_integers_count_what_differs(dtype: torch.dtype) -> None:
    error = _one(torch.tensor([0, 1, 1, 0]).to(dtype), torch.tensor([0, 1, 0, 0]).to(dtype))
    assert (error.relative, error.mismatched, error.max_abs, error.cosine) == (0.25, 0.25, 1.0, None)


def test_integers_beyond_float64_are_told_apart() -> None:
    assert _one(torch.tensor([2**60]), torch.tensor([2**60 + 1])).mismatched == 1.0


@pytest.mark.parametrize(
    "values",
    [
        torch.tensor([1 + 2j, 3 - 1j]),
        torch.tensor([[1.0, 0.0], [0.0, 2.0]]).to_sparse(),
        torch.tensor([1.0, 2.0]).to(torch.float8_e4m3fn),
        torch.quantize_per_tensor(torch.tensor([1.0, 2.0]), 0.5, 0, torch.quint8),
    ],
)
def test_unusual_tensors_compare(values: Tensor) -> None:
    assert _one(values, values.clone()).relative == 0.0
    halved = torch.zeros(values.shape).to(torch.float8_e4m3fn) if values.element_size() == 1 else values * 0
    if not values.is_quantized:
        assert _one(values, halved).relative == 1.0


def test_same_infinities_and_nans_are_equal() -> None:
    expected = torch.tensor([math.inf, -math.inf, math.nan, 3.0, 4.0])
    assert _one(expected, expected.clone()).relative == 0.0
    actual = expected.clone()
    actual[3] = 3.5
    assert _one(expected, actual).relative == pytest.approx(0.1, rel=ROUNDING)
    assert _one(expected, actual).cosine == pytest.approx((10.5 + 16) / 5 / math.hypot(3.5, 4), rel=ROUNDING)


@pytest.mark.parametrize(
    ("expected", "actual"),
    [(1.0, math.inf), (1.0, math.nan), (math.inf, 65504.0), (math.inf, -math.inf), (math.nan, math.inf)],
)
def test_overflow_is_an_infinite_error(expected: float, actual: float) -> None:
    comparison = compare(torch.tensor([1.0, expected]), torch.tensor([1.0, actual]))
    assert comparison.relative == math.inf
    assert not comparison.within(math.inf)
    assert "1 of 2 elements are infinite or NaN on one side only" in comparison.explain(TOLERANCE)


def test_zero_reference_is_an_infinite_error_with_a_reason() -> None:
    error = _one(torch.zeros(2), torch.tensor([0.0, 1e-3]))
    assert error.relative == math.inf
    assert error.note == "the reference is zero everywhere"
    assert error.max_abs == pytest.approx(1e-3)


class Pair(NamedTuple):
    first: object
    second: object


def test_structures_are_walked_with_paths() -> None:
    expected = ([torch.ones(2), {"a": torch.ones(1), "b": (2.0, 3, "x", None)}], Pair(torch.ones(1), True))
    actual = copy.deepcopy(expected)
    actual[0][0][0] = 1.1
    comparison = compare(expected, actual)
    assert [error.path for error in comparison.errors] == ["0.0", "0.1.a", "0.1.b.0", "1.first"]
    assert comparison.worst is comparison.errors[0]
    assert comparison.relative == pytest.approx(0.1 / math.sqrt(2), rel=1e-6)
    assert not comparison.within(0.07)
    assert comparison.within(0.071)


def test_tuples_and_lists_are_the_same() -> None:
    expected = (torch.ones(1), Pair(torch.ones(1), torch.ones(1)))
    assert compare(expected, [torch.ones(1), (torch.ones(1), torch.ones(1))]).within(0.0)
    assert compare([torch.ones(1)], torch.ScriptList([torch.ones(1)])).within(0.0)
    assert compare({"a": torch.ones(1)}, torch.ScriptDict({"a": torch.ones(1)})).within(0.0)


@pytest.mark.parametrize(
    ("expected", "actual", "note"),
    [
        (torch.ones(2), torch.ones(3), "expected float32[2], got float32[3]"),
        (torch.ones(2), torch.ones(2).half(), "expected float32[2], got float16[2]"),
        (torch.ones(2), [torch.ones(2)], "expected float32[2], got [float32[2]]"),
        ((torch.ones(1),), (torch.ones(1), None), "expected 1 elements, got 2 elements"),
        ({"a": 1}, {"b": 1}, "expected keys ['a'], got keys ['b']"),
        (None, 3, "expected None, got 3"),
        (3, 4, "expected 3, got 4"),
        (3, 3.0, "expected 3, got 3.0"),
        ("a", "b", "expected a, got b"),
        (True, False, "expected True, got False"),
    ],
)
def test_what_is_unlike_is_not_within(expected: object, actual: object, note: str) -> None:
    comparison = compare(expected, actual)
    assert comparison.errors[-1].note == note
    assert not comparison.within(math.inf)
    assert note in comparison.explain(TOLERANCE)


def test_summary_is_strict_json() -> None:
    comparison = compare((torch.zeros(1, 2), torch.ones(1)), (torch.ones(1, 2), torch.ones(1)))
    summary = json.loads(json.dumps(comparison.summary(), allow_nan=False))
    assert summary["relative"] == "inf"
    assert [output["path"] for output in summary["outputs"]] == ["0", "1"]
    assert summary["outputs"][0]["shape"] == [1, 2]
    assert summary["outputs"][1]["relative"] == 0.0


def test_explanation_names_output_error_and_limit() -> None:
    comparison = compare({"a": torch.ones(4), "b": torch.ones(2, 2)}, {"a": torch.ones(4), "b": torch.ones(2, 2) * 1.5})
    assert comparison.explain(TOLERANCE) == (
        "output 'b' (float32[2, 2]) has a relative error of 5.00e-01, more than the limit of 1.00e-02"
    )
    assert compare(torch.ones(2), torch.ones(2)).explain(TOLERANCE) == (
        "the output (float32[2]) has a relative error of 0.00e+00, within the limit of 1.00e-02"
    )
    assert compare((), ()).explain(TOLERANCE) == "there are no outputs to compare"


def _detections(scores: list[float], *, labels: bool = True, spacing: float = 100.0) -> dict[str, Tensor]:
    """Boxes of 40 by 40 pixels side by side."""
    left = torch.arange(len(scores)) * spacing
    boxes = torch.stack([left, torch.zeros_like(left), left + 40, torch.full_like(left, 40.0)], dim=1)
    found = {"boxes": boxes, "scores": torch.tensor(scores)}
    if labels:
        found["labels"] = torch.arange(len(scores)) % 3
    return found


def _rows(found: dict[str, Tensor], rows: list[int]) -> dict[str, Tensor]:
    return {name: value[rows] for name, value in found.items()}


SCORES = [0.9, 0.8, 0.7, 0.6, 0.504, 0.5]


@pytest.mark.parametrize("labels", [True, False])
def test_shuffled_detections_are_equal(labels: bool) -> None:
    expected = _detections(SCORES, labels=labels)
    error = _one([expected], [_rows(expected, [3, 0, 5, 2, 1, 4])])
    assert (error.path, error.relative, error.mismatched, error.max_abs) == ("0", 0.0, 0.0, 0.0)
    assert error.note.startswith("6 matched, 0 missing, 0 added")


def test_scores_of_matched_detections_differ() -> None:
    expected, actual = _detections(SCORES), _detections(SCORES)
    actual["scores"][3] += 0.009
    assert _one(expected, actual).relative == pytest.approx(0.009 / 0.9, rel=1e-5)
    assert _one(expected, actual).max_abs == pytest.approx(0.009, rel=1e-5)


def test_overlapping_twins_pair_by_score() -> None:
    expected = _detections(SCORES, labels=False, spacing=0.1)
    assert _one(expected, _rows(expected, [5, 4, 3, 2, 1, 0])).relative == 0.0


def test_missing_or_added_detection_is_a_large_error() -> None:
    everything = _detections(SCORES)
    without_best = _rows(everything, [1, 2, 3, 4, 5])
    assert _one(everything, without_best).relative == pytest.approx(0.9 / sum(SCORES), rel=1e-5)
    assert _one(without_best, everything).relative == pytest.approx(0.9 / sum(SCORES), rel=1e-5)
    assert _one(everything, _rows(everything, [])).relative == 1.0
    assert _one(_rows(everything, []), everything).relative == 1.0
    assert compare(_rows(everything, []), _rows(everything, [])).within(0.0)


def test_detection_at_the_border_is_forgiven_within_the_tolerance() -> None:
    everything = _detections(SCORES)
    without_last = _rows(everything, [0, 1, 2, 3, 4])
    for expected, actual in ((everything, without_last), (without_last, everything)):
        comparison = compare(expected, actual)
        # 0.5 is 0.004 below the lowest score that the other side kept.
        assert comparison.relative == pytest.approx(0.004 / 0.9, rel=1e-4)
        assert comparison.within(TOLERANCE)
        assert not comparison.within(0.004)


def test_border_does_not_forgive_more_than_its_share() -> None:
    # All scores alike, as of an untrained model: any box may make the top-k.
    count = 40
    expected = _detections([0.5] * count)
    assert MAX_BORDER_SHARE == 0.5
    few_moved, all_moved = copy.deepcopy(expected), copy.deepcopy(expected)
    few_moved["boxes"][:10, 1::2] += 1000
    all_moved["boxes"][:, 1::2] += 1000
    assert compare(expected, few_moved).within(TOLERANCE)
    assert compare(expected, all_moved).relative > 1


def _varied(count: int) -> dict[str, Tensor]:
    return _detections([0.95 - 0.02 * index for index in range(count)])


@pytest.mark.parametrize("change", ["box", "label"])
def test_swapped_detection_is_forgiven_but_not_many(change: str) -> None:
    expected = _varied(40)
    one, all_of_them = copy.deepcopy(expected), copy.deepcopy(expected)
    for actual, rows in ((one, slice(0, 1)), (all_of_them, slice(None))):
        if change == "box":
            # 30 of 40 pixels overlap: an IoU of 0.6, below MATCH_IOU.
            actual["boxes"][rows, 0::2] += 10
        else:
            actual["labels"][rows] += 1
        actual["scores"][rows] -= 0.001
    assert MATCH_IOU > 0.6
    assert MAX_SWAP_SHARE < 0.5
    assert _one(expected, one).relative == pytest.approx(0.001 / 0.95, rel=1e-3)
    assert _one(expected, all_of_them).relative > 0.5


def test_box_elsewhere_is_not_a_swap() -> None:
    expected = _varied(40)
    actual = copy.deepcopy(expected)
    actual["boxes"][0, 0::2] += 5000
    assert not compare(expected, actual).within(TOLERANCE)


def test_empty_boxes_match_themselves() -> None:
    padded = _detections([0.9, 0.0, 0.0])
    padded["boxes"][1:] = 0
    assert _one(padded, copy.deepcopy(padded)).relative == 0.0
    nothing = _detections([0.0, 0.0])
    assert _one(nothing, copy.deepcopy(nothing)).relative == 0.0
    assert _one(nothing, _rows(nothing, [0])).relative == math.inf


def test_masks_follow_their_detections() -> None:
    expected = {**_detections([0.9, 0.8]), "masks": torch.tensor([[[1.0]], [[2.0]]]), "count": 2}
    actual = {**_rows(_detections([0.9, 0.8]), [1, 0]), "masks": torch.tensor([[[2.0]], [[1.0]]]), "count": 2}
    comparison = compare(expected, actual)
    assert [error.path for error in comparison.errors] == ["", "masks"]
    assert comparison.relative == 0.0
    actual["masks"] = actual["masks"].flip(0)
    masks = compare(expected, actual).worst
    assert masks is not None
    assert (masks.path, masks.relative) == ("masks", math.sqrt(2 / 5))


@pytest.mark.parametrize(
    ("name", "value", "note"),
    [
        ("scores", torch.tensor([0.9, math.nan]), "actual scores are infinite or NaN"),
        ("scores", torch.tensor([0.9, 0.8]).half(), "expected scores float32, got float16"),
        ("labels", torch.tensor([0, 1]).int(), "expected labels int64, got int32"),
    ],
)
def test_detections_that_cannot_be_compared(name: str, value: Tensor, note: str) -> None:
    expected = _detections([0.9, 0.8])
    comparison = compare(expected, {**expected, name: value})
    assert comparison.errors[-1].note == note
    assert not comparison.within(math.inf)


def test_dict_that_only_looks_like_detections_is_compared_plainly() -> None:
    expected = {"boxes": torch.ones(2, 4), "scores": torch.ones(2, 1)}
    assert [error.path for error in compare(expected, copy.deepcopy(expected)).errors] == ["boxes", "scores"]


def _padded(images: list[dict[str, Tensor]], slots: int) -> list[Tensor]:
    """As the post-processing plugin answers: scores, boxes, classes, numbers of detections."""
    scores, boxes = torch.zeros(len(images), slots, 1, 1), torch.zeros(len(images), 4 * slots, 1, 1)
    classes = torch.zeros(len(images), slots, 1, 1)
    for image, found in enumerate(images):
        count = len(found["scores"])
        scores[image, :count, 0, 0] = found["scores"]
        boxes[image, : 4 * count, 0, 0] = found["boxes"].flatten()
        classes[image, :count, 0, 0] = found["labels"].float()
    return [scores, boxes, classes, torch.tensor([len(found["scores"]) for found in images], dtype=torch.int32)]


@pytest.mark.parametrize("outputs", [3, 4])
def test_padded_detections_are_matched_image_by_image(outputs: int) -> None:
    first, second = _detections([0.9, 0.7, 0.7, 0.5]), _detections([0.8, 0.6])
    # Near-equals change places, and a float more or less decides whether the last is over the threshold.
    other = _rows(first, [0, 2, 1])
    other["scores"][1] += 1e-3
    expected, actual = (_padded(images, 6)[:outputs] for images in ([first, second], [other, second]))
    zeroth, one = compare(tuple(expected), torch.ScriptList(actual) if outputs == 3 else actual).errors
    assert (zeroth.path, one.path) == ("image 0", "image 1")
    assert zeroth.note.startswith("3 matched, 1 missing, 0 added")
    assert one.relative == 0.0
    wrong = copy.deepcopy(first)
    wrong["labels"] += 1
    assert compare(expected, _padded([wrong, second], 6)[:outputs]).relative > 0.5
    assert compare(expected, _padded([first, _rows(second, [])], 6)[:outputs]).relative == 1.0


def test_padded_detections_of_nothing_are_equal() -> None:
    nothing = [_rows(_detections(SCORES), [])] * 2
    comparison = compare(_padded(nothing, 3), _padded(nothing, 3))
    assert [error.path for error in comparison.errors] == ["image 0", "image 1"]
    assert comparison.within(0.0)


@pytest.mark.parametrize(
    "change",
    [
        lambda outputs: outputs[0].neg_(),
        lambda outputs: outputs[0][0].fill_(math.nan),
        lambda outputs: outputs[0].copy_(outputs[0].flip(1)),
        lambda outputs: outputs[2].add_(0.25),
        lambda outputs: outputs[3].add_(1),
        lambda outputs: outputs.append(torch.zeros(1)),
        lambda outputs: outputs.__setitem__(1, outputs[1].double()),
        lambda outputs: outputs.__setitem__(1, outputs[1].flatten()),
        lambda outputs: outputs.__setitem__(0, outputs[0].flatten()),
        lambda outputs: outputs.__setitem__(3, 2),
    ],
)
def test_what_only_looks_like_padded_detections_is_compared_plainly(change: Callable[[list[Any]], object]) -> None:
    expected = _padded([_detections(SCORES)], 8)
    assert [error.path for error in compare(expected, expected).errors] == ["image 0"]
    actual = [output.clone() for output in expected]
    change(actual)
    for pair in ((expected, actual), (actual, expected), (actual, actual)):
        assert all(not error.path.startswith("image") for error in compare(*pair).errors)
