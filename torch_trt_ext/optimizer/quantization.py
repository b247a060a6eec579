"""Lets an ONNX graph compute on 8-bit integers or in float8, with ranges from calibration.

The arithmetic (ranges from histograms, scales, ``QuantizeLinear`` and ``DequantizeLinear`` pairs) is ONNX Runtime's,
whose models both TensorRT and OpenVINO take; ``float8`` makes such a model one in that type. What is decided here is
where: at the inputs and weights of convolutions and of products with constant matrices, and before what is added to
them (``quantized_shortcuts``). Their outputs are left as they are, so that engines fuse what follows.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from torch_trt_ext.builders.onnx_inputs import declared_shape
from torch_trt_ext.config import EightBit
from torch_trt_ext.optimizer.float8 import suits_float8, to_float8
from torch_trt_ext.optimizer.messages import first_line
from torch_trt_ext.optimizer.onnx_outline import value_of
from torch_trt_ext.optimizer.quantized_shortcuts import quantize_shortcuts, summands

__all__ = [
    "INSTALL_ONNX_RUNTIME",
    "Calibration",
    "CalibrationMethod",
    "calibrate",
    "float32_pairs",
    "missing_for_quantization",
    "quantizable_nodes",
    "to_8_bit",
    "with_half_scales",
]

CalibrationMethod = Literal["entropy", "percentile", "max"]

#: Operators that engines have for 8-bit integers, and which of their inputs is the weight.
_WEIGHTS = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}

#: Scales of weights by output channel, the counterpart of what the engines' kernels do.
_PER_CHANNEL = True

#: The first opset whose scales may be float16, and which has float8.
_HALF_SCALES = 19
#: The smallest scale that float16, which has steps of 2^-24 near zero, has to a percent.
_LEAST_HALF_SCALE = 50 * 2**-24

#: What mends its absence.
INSTALL_ONNX_RUNTIME = "pip install onnxruntime"

_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Calibration:
    """What values the tensors of a model have.

    Attributes:
        ranges: ONNX Runtime's, by tensor.
    """

    ranges: Any

    def reach(self) -> dict[str, float]:
        """How far from 0 each tensor gets, after what the method leaves out."""
        return {
            name: max(float(np.abs(np.asarray(bound)).max()) for bound in found.range_value)
            for name, found in self.ranges.items()
        }


def missing_for_quantization() -> str:
    """Why models cannot be quantized here, with what mends it; empty when they can."""
    try:
        import onnxruntime.quantization  # noqa: F401
    except ImportError as error:
        problem = f"8-bit engines need ONNX Runtime to quantize models, which cannot be imported ({error})"
        return f"{problem}; {INSTALL_ONNX_RUNTIME}"
    return ""


def quantizable_nodes(model: onnx.ModelProto, kind: EightBit = "int8") -> list[str]:
    """Names of the nodes that can compute on 8 bits: those of :data:`_WEIGHTS` whose weight is a constant.

    Args:
        model: in float32.
        kind: the 8 bits. Engines have less in float8 than on integers.
    """
    constants = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            value = value_of(node)
            constants[node.output[0]] = () if value is None else tuple(value.dims)
    return [
        node.name
        for node in model.graph.node
        if node.name
        and not node.domain
        and node.op_type in _WEIGHTS
        and (weight := node.input[_WEIGHTS[node.op_type]]) in constants
        and (kind == "int8" or suits_float8(node, constants[weight]))
    ]


def with_half_scales(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy at an opset where scales may have 16 bits; what else changed there is what older models do not say."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    for opset in copied.opset_import:
        if not opset.domain:
            opset.version = max(opset.version, _HALF_SCALES)
    return copied


def float32_pairs(model: onnx.ModelProto, in_float32: Mapping[str, str]) -> dict[str, str]:
    """What must be float32 in a quantized model where all else may be float16.

    Args:
        model: a quantized model.
        in_float32: names of nodes that are float32 for other reasons.

    Returns:
        Names of nodes with the reason: products with scales that float16 has too roughly, and the pairs before those
        and before products in float32, so that no cast comes between. A node without a name goes by its first output.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {node.output[0]: node for node in model.graph.node if node.output}
    found: dict[str, str] = {}
    for node in model.graph.node:
        pairs = [makers[name] for name in node.input if name in makers and makers[name].op_type == "DequantizeLinear"]
        scales = [numpy_helper.to_array(constants[pair.input[1]]) for pair in pairs if pair.input[1] in constants]
        least = min((float(scale.min(initial=np.inf)) for scale in scales), default=np.inf)
        reason = in_float32.get(node.name, "") if pairs else ""
        if least < _LEAST_HALF_SCALE:
            reason = reason or f"a scale of {least:.2g} is too small for float16"
        if reason:
            quantizers = [makers[pair.input[0]] for pair in pairs if pair.input[0] in makers]
            found |= {each.name or each.output[0]: reason for each in (node, *pairs, *quantizers)}
    return found


def calibrate(
    model: onnx.ModelProto,
    calls: Sequence[Mapping[str, npt.NDArray[Any]]],
    method: CalibrationMethod,
    percentile: float = 99.99,
) -> Calibration:
    """Runs a model on the CPU and finds the range of every tensor that quantization would round.

    Args:
        model: in float32, with constants inside; it is not changed.
        calls: the inputs of each call, by name; those of other shapes than the model's, as of another batch, may do.
        method: "entropy" for the range that loses least information, of those at least as wide as the first call's,
            "percentile" for one that leaves the largest values out, "max" for all.
        percentile: of absolute values, for "percentile"; from 1 to 100.

    Raises:
        RuntimeError: ONNX Runtime is missing, or does not run the model, or not with the shapes of a call.
        ValueError: there are no calls.
    """
    if not calls:
        raise ValueError("calibration must have at least one call, got none; pass calib_data")
    problem = missing_for_quantization()
    if problem:
        raise RuntimeError(problem)
    copied = _with_initializers(model)
    misfits = [_misfit(model, call) for call in calls]
    if any(misfits):
        _forget_shapes(copied.graph)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "model.onnx"
        onnx.save(copied, str(path))
        try:
            calibrator = _make_calibrator(path, Path(folder) / "augmented.onnx", _ranged(model), method, percentile)
            # One call after the other: the values of all at once may not fit into memory.
            for call, misfit in zip(calls, misfits, strict=True):
                _collect(calibrator, call, misfit)
            ranges = calibrator.compute_data()
        except Exception as error:  # ONNX Runtime raises errors of its own, of many types
            raise RuntimeError(f"ONNX Runtime cannot calibrate the model: {first_line(error)}") from error
    return Calibration(ranges)


def _collect(calibrator: Any, call: Mapping[str, npt.NDArray[Any]], misfit: str) -> None:
    """Runs one call; ``misfit`` says why it may fail, if its shapes are others than the model's."""
    try:
        calibrator.collect_data(_Calls([call]))
    except Exception as error:  # ONNX Runtime raises errors of its own, of many types
        if not misfit:
            raise
        raise ValueError(
            f"calib_data must have the shapes of test_data where nodes depend on these: {misfit}; {first_line(error)}"
        ) from error


def _misfit(model: onnx.ModelProto, call: Mapping[str, npt.NDArray[Any]]) -> str:
    """Which input of a call has another shape than the model's, or empty."""
    for value in model.graph.input:
        declared, given = declared_shape(value.type.tensor_type), call[value.name].shape
        if declared is not None and (
            len(given) != len(declared)
            or any(wanted not in (None, size) for wanted, size in zip(declared, given, strict=True))
        ):
            return f"{value.name} is {list(declared)} with test_data, {list(given)} with calib_data"
    return ""


def _forget_shapes(graph: onnx.GraphProto) -> None:
    """Lets a model run on any shapes that its nodes take."""
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()
    del graph.value_info[:]


def _ranged(model: onnx.ModelProto) -> set[str]:
    """Names of the tensors that quantization may round, weights aside."""
    names = set(quantizable_nodes(model))
    products = [node for node in model.graph.node if node.name in names]
    return {node.input[0] for node in products} | summands(model.graph, names)


def _make_calibrator(
    path: Path, augmented_path: Path, tensors: Collection[str], method: CalibrationMethod, percentile: float
) -> Any:
    """ONNX Runtime's calibrator, ready to run, which keeps all inputs and outputs of products but for this."""
    from onnxruntime.quantization import calibrate as calibrators

    from torch_trt_ext.optimizer.histograms import ParallelCollector

    kinds: dict[CalibrationMethod, tuple[Any, dict[str, Any]]] = {
        "entropy": (calibrators.EntropyCalibrater, {}),
        "percentile": (calibrators.PercentileCalibrater, {"percentile": percentile}),
        "max": (calibrators.MinMaxCalibrater, {}),
    }
    kind, options = kinds[method]

    class Calibrator(kind):  # type: ignore[misc, valid-type]
        def select_tensors_to_calibrate(self, model: onnx.ModelProto) -> tuple[set[str], dict[str, Any]]:
            found, infos = super().select_tensors_to_calibrate(model)
            return found.intersection(tensors), infos

    # Summands that no product gives are selected here for they are tensors of additions.
    calibrator = Calibrator(
        path, [*_WEIGHTS, "Add"], augmented_model_path=str(augmented_path), symmetric=True, **options
    )
    if method != "max":
        names = ("method", "symmetric", "num_bins", "num_quantized_bins", "percentile", "scenario")
        calibrator.collector = ParallelCollector(**{name: getattr(calibrator, name) for name in names})
    calibrator.augment_graph()
    calibrator.create_inference_session()
    return calibrator


def to_8_bit(
    model: onnx.ModelProto, calibration: Calibration, *, keep: Collection[str] = (), kind: EightBit = "int8"
) -> onnx.ModelProto:
    """Puts pairs of ``QuantizeLinear`` and ``DequantizeLinear`` before what computes on 8 bits.

    Args:
        model: in float32, the one that the calibration is of; it is not changed.
        calibration: ranges of its tensors.
        keep: names of nodes that stay as they are.
        kind: the 8 bits.

    Raises:
        RuntimeError: ONNX Runtime cannot quantize the model.
    """
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    wanted = [name for name in quantizable_nodes(model, kind) if name not in keep]
    copied = _with_initializers(model)
    if not wanted:
        return copied
    _separate(copied.graph, set(wanted))
    try:
        with _quiet():
            quantizer = QDQQuantizer(
                copied,
                _PER_CHANNEL,
                False,
                QuantType.QInt8,
                QuantType.QInt8,
                calibration.ranges,
                wanted,
                [],
                list(_WEIGHTS),
                {
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "QuantizeBias": False,
                    "OpTypesToExcludeOutputQuantization": list(_WEIGHTS),
                },
            )
            quantizer.quantize_model()
            quantize_shortcuts(quantizer.model.model.graph, wanted, calibration.reach())
            quantizer.model.topological_sort()
    except Exception as error:  # likewise
        raise RuntimeError(f"ONNX Runtime cannot quantize the model: {first_line(error)}") from error
    quantized: onnx.ModelProto = quantizer.model.model
    if kind == "float8":
        quantized = with_half_scales(quantized)
        to_float8(quantized, _with_initializers(model), _LEAST_HALF_SCALE)
    return quantized


def _with_initializers(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose constants are all initializers: ONNX Runtime takes no other for weights."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    del copied.graph.node[:]
    for node in model.graph.node:
        value = value_of(node)
        if value is None:
            copied.graph.node.add().CopyFrom(node)
        else:
            tensor = copied.graph.initializer.add()
            tensor.CopyFrom(value)
            tensor.name = node.output[0]
    return copied


def _separate(graph: onnx.GraphProto, wanted: Collection[str]) -> None:
    """Gives other nodes constants of their own where these share them: ONNX Runtime rounds for all readers."""
    rounded = {name for node in graph.node if node.name in wanted for name in node.input}
    constants = {tensor.name: tensor for tensor in graph.initializer if tensor.name in rounded}
    copies: dict[str, str] = {}
    for node in graph.node:
        for position, name in enumerate(node.input):
            if node.name in wanted or name not in constants:
                continue
            if name not in copies:
                copies[name] = f"{name}_kept"
                tensor = graph.initializer.add()
                tensor.CopyFrom(constants[name])
                tensor.name = copies[name]
            node.input[position] = copies[name]


class _Calls:
    """What ONNX Runtime reads calls from."""

    def __init__(self, calls: Sequence[Mapping[str, npt.NDArray[Any]]]) -> None:
        self._calls = iter(calls)

    def get_next(self) -> Mapping[str, npt.NDArray[np.generic]] | None:
        return next(self._calls, None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what ONNX Runtime prints and logs off the user's terminal; one thread at a time, since both are global."""
    with _one_at_a_time, contextlib.redirect_stdout(io.StringIO()):
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)
