"""Histograms on many threads against ONNX Runtime's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("onnxruntime")

from onnxruntime.quantization.calibrate import HistogramCollector

from torch_trt_ext.optimizer import histograms
from torch_trt_ext.optimizer.histograms import ParallelCollector
from torch_trt_ext.optimizer.quantization import calibrate

Array = npt.NDArray[Any]

#: The options that ONNX Runtime's calibrators have.
_OPTIONS = {
    "entropy": {"num_bins": 128, "num_quantized_bins": 128, "percentile": 99.999},
    "percentile": {"num_bins": 2048, "num_quantized_bins": 2048, "percentile": 99.0},
}
_METHODS = pytest.mark.parametrize("method", ["entropy", "percentile"])

#: Edges are float32, which ONNX Runtime also computes in.
_ROUNDING = 1e-6
#: Share of values that rounding may put on the other side of an edge.
_ON_EDGES = 1e-3


def _collected(kind: type[Any], method: str, calls: Sequence[Array], **options: Any) -> Any:
    """A collector that was given one tensor's values, one call after the other."""
    collector = kind(method=method, symmetric=True, scenario="same", **(_OPTIONS[method] | options))
    for values in calls:
        collector.collect({"x": [values]})
    return collector


def _range(collector: Any) -> tuple[float, float]:
    low, high, *_ = collector.compute_collection_result()["x"]
    return float(low), float(high)


def _bins(collector: Any) -> tuple[Array, Array]:
    counts, edges, *_ = collector.histogram_dict["x"]
    return counts, edges


def _growing_calls(kind: str) -> list[Array]:
    rng = np.random.default_rng(0)
    calls = [rng.normal(size=(3, 41, 1001)).astype(np.float32) * scale for scale in (1.0, 0.3, 1.7, 2.9, 0.5)]
    if kind == "relu":
        return [np.maximum(values, 0) for values in calls]
    if kind == "negative":
        return [-np.abs(values) for values in calls]
    return calls


@_METHODS
@pytest.mark.parametrize("kind", ["normal", "relu", "negative"])
def test_histograms_are_those_of_onnx_runtime_as_ranges_grow(method: str, kind: str) -> None:
    calls = _growing_calls(kind)
    expected, got = _collected(HistogramCollector, method, calls), _collected(ParallelCollector, method, calls)
    (wanted_counts, wanted_edges), (counts, edges) = _bins(expected), _bins(got)
    assert counts.sum() == sum(values.size for values in calls)
    width = float(edges[1] - edges[0])
    if method == "entropy":
        np.testing.assert_allclose(edges, wanted_edges, atol=_ROUNDING * edges[-1])
        assert np.abs(counts - wanted_counts).sum() <= _ON_EDGES * counts.sum()
    else:
        assert edges[0] == 0
    assert abs(float(edges[-1]) - float(wanted_edges[-1])) < 1.01 * width
    assert _range(got) == pytest.approx(_range(expected), abs=1.01 * width)
    assert max(map(abs, _range(got))) > 2 * float(np.abs(calls[0]).std())


@pytest.mark.parametrize("quantized_bins", [32, 64])
def test_entropy_narrows_ranges_as_onnx_runtime(quantized_bins: int) -> None:
    calls = _growing_calls("normal")
    options = {"num_quantized_bins": quantized_bins}
    expected = _range(_collected(HistogramCollector, "entropy", calls, **options))
    assert expected[1] < max(float(values.max()) for values in calls)
    assert _range(_collected(ParallelCollector, "entropy", calls, **options)) == pytest.approx(expected, _ROUNDING)


@_METHODS
def test_float16_gives_float16(method: str) -> None:
    calls = [values.astype(np.float16) for values in _growing_calls("normal")]
    got = _collected(ParallelCollector, method, calls)
    expected = _collected(ParallelCollector, method, [values.astype(np.float32) for values in calls])
    assert {bound.dtype for bound in got.compute_collection_result()["x"][:2]} == {np.dtype(np.float16)}
    assert (_bins(got)[0] == _bins(expected)[0]).all()
    assert _range(got) == pytest.approx(_range(expected), rel=2**-10)


@_METHODS
def test_zeros_are_on_the_upper_side_however_far_bins_reach(method: str) -> None:
    for reach in np.linspace(1, 3, 101, dtype=np.float32):
        calls = [np.array([1.1], np.float32), np.array([reach], np.float32), np.zeros(5, np.float32)]
        counts, edges = _bins(_collected(ParallelCollector, method, calls))
        assert counts[np.searchsorted(edges, 0)] == 5


@_METHODS
def test_nan_is_left_out(method: str) -> None:
    calls = _growing_calls("normal")
    expected = _collected(ParallelCollector, method, [values[1:] for values in calls])
    for values in calls:
        values[0] = np.nan
    got = _collected(ParallelCollector, method, calls)
    assert (_bins(got)[0] == _bins(expected)[0]).all()
    assert _range(got) == _range(expected)
    if method == "entropy":  # with the other, ONNX Runtime takes no NaN
        assert _range(got) == pytest.approx(_range(_collected(HistogramCollector, method, calls)), _ROUNDING)


@_METHODS
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("earlier", [0, 1])
def test_values_that_are_not_finite_fail(method: str, value: float, earlier: int) -> None:
    calls = [np.ones(3, np.float32)] * earlier + [np.full(3, value, np.float32)]
    with pytest.raises(ValueError, match=f"tensor 'x' must be finite in calibration, got {value}; "):
        _collected(ParallelCollector, method, calls)


@_METHODS
def test_infinity_among_others_fails(method: str) -> None:
    with pytest.raises(ValueError, match="got -inf"):
        _collected(ParallelCollector, method, [np.array([1, np.nan, -np.inf], np.float32)])


@_METHODS
def test_calibration_says_which_tensor_is_infinite(method: Any) -> None:
    with pytest.raises(RuntimeError, match="cannot calibrate the model: the values of tensor 'x' must be finite"):
        calibrate(_product(), [{"x": np.array([[1, np.inf]], np.float32)}], method)


@_METHODS
def test_calibration_counts_with_this_collector(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    collect = ParallelCollector.collect

    def noted(self: ParallelCollector, arrays: Any) -> None:
        seen.extend(arrays)
        collect(self, arrays)

    monkeypatch.setattr(ParallelCollector, "collect", noted)
    ranges = calibrate(_product(), [{"x": np.array([[1, 2]], np.float32)}] * 2, method).ranges
    assert seen == ["x", "x"]
    assert float(ranges["x"].range_value[1]) == pytest.approx(2, rel=1e-3)


@_METHODS
@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 1, 0)])
def test_empty_tensors_change_nothing(method: str, order: tuple[int, ...]) -> None:
    both = [np.empty((0, 4), np.float32), np.linspace(-0.5, 3, 1000, dtype=np.float32)]
    expected = _collected(ParallelCollector, method, both[1:])
    got = _collected(ParallelCollector, method, [both[index] for index in order])
    assert (_bins(got)[0] == _bins(expected)[0]).all()
    assert _range(got) == _range(expected)


@_METHODS
@pytest.mark.filterwarnings("ignore:invalid value encountered in divide")  # ONNX Runtime's, of no values
def test_tensor_that_is_always_empty_is_as_with_onnx_runtime(method: str) -> None:
    calls = [np.empty((0, 4), np.float32)]
    expected, got = (_collected(kind, method, calls) for kind in (HistogramCollector, ParallelCollector))
    assert _range(got) == _range(expected) == (0, 0)
    assert _bins(got)[0].shape == _bins(expected)[0].shape


@_METHODS
def test_zeros_before_other_values_do_not_set_the_width(method: str) -> None:
    calls = [np.zeros(10, np.float32), np.full(5, 1e-38, np.float32), np.linspace(-3e-3, 3e-3, 9999, dtype=np.float32)]
    counts, edges = _bins(_collected(ParallelCollector, method, calls[:2]))
    assert counts[np.searchsorted(edges, 0)] == counts.sum() == 15
    got = _collected(ParallelCollector, method, calls)
    assert _bins(got)[1][-1] == pytest.approx(3e-3)
    assert _range(got) == pytest.approx((-3e-3, 3e-3), rel=0.02)


def test_several_arrays_in_one_call_are_one_histogram() -> None:
    calls = _growing_calls("normal")
    got = ParallelCollector(method="entropy", symmetric=True, scenario="same", **_OPTIONS["entropy"])
    got.collect({"x": calls[1:3], "y": [calls[2][:1], calls[2][1:, :3]]})
    expected = _collected(ParallelCollector, "entropy", [np.concatenate(calls[1:3])])
    assert (got.histogram_dict["x"][0] == _bins(expected)[0]).all()
    assert got.histogram_dict["y"][0].sum() == 41 * 1001 + 2 * 3 * 1001


@_METHODS
@pytest.mark.parametrize(("part", "chunk"), [(1000, 1), (10, 7), (999, 1000)])
def test_parts_do_not_change_counts(method: str, part: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [values[0, :3] for values in _growing_calls("normal")]
    expected = _bins(_collected(ParallelCollector, method, calls))
    monkeypatch.setattr(histograms, "_PART", part)
    monkeypatch.setattr(histograms, "_CHUNK", chunk)
    got = _bins(_collected(ParallelCollector, method, calls))
    assert (got[0] == expected[0]).all()
    assert (got[1] == expected[1]).all()


def test_more_values_in_a_bin_than_float32_counts() -> None:
    more = 2**24 + 3
    values = np.zeros(more + 1, np.float16)
    values[-1] = 1
    counts, _ = _bins(_collected(ParallelCollector, "entropy", [values]))
    assert counts[64] == more
    assert counts[127] == 1


def _product() -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        "model",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.eye(2, dtype=np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
