"""TensorRT engines from ONNX models: types, profiles, timings, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.gpu.networks import CONVOLUTION_TOLERANCE, ConvolutionTwin
from torch_trt_ext import TRTEngineExtension
from torch_trt_ext.engine_plan import EnginePlan

onnx = pytest.importorskip("onnx")
from onnx import numpy_helper, parser  # noqa: E402

from torch_trt_ext.builders.onnx_tensorrt import (  # noqa: E402
    build_tensorrt_from_onnx,
    refused_nodes,
    timing_cache_name,
)
from torch_trt_ext.optimizer.engine_cache import TimingCache  # noqa: E402
from torch_trt_ext.optimizer.half_precision import to_half_precision  # noqa: E402

IMAGES = {"x": ((1, 3, 8, 8), (2, 3, 16, 16), (4, 3, 32, 32))}


def parse(body: str, **weights: Any) -> Any:
    model = parser.parse_model(f'<ir_version: 9, opset_import: ["": 18, "mine": 1]> g {body}')
    for name, values in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return model


def convolutions() -> Any:
    """:class:`ConvolutionTwin` as ONNX."""
    weights = [weight.detach().numpy() for weight in ConvolutionTwin().weights]
    return parse(
        """(float[N,3,H,W] x) => (float[N,8,H,W] y) {
            a = Conv<pads=[1,1,1,1]>(x, w0) b = Relu(a) c = Conv<pads=[1,1,1,1]>(b, w1) d = Relu(c)
            e = Conv<pads=[1,1,1,1]>(d, w2) y = Relu(e)
        }""",
        w0=weights[0],
        w1=weights[1],
        w2=weights[2],
    )


def build(model: Any, *profiles: Any, **options: Any) -> EnginePlan:
    options = {"timing_cache": None, "builder_optimization_level": 1} | options
    return build_tensorrt_from_onnx(model, profiles, **options)


def engine_of(plan: EnginePlan) -> Any:
    return TRTEngineExtension(bytes(plan), plan.io_spec)


@pytest.mark.parametrize("half", [False, True])
def test_convolutions_match_over_a_profile(half: bool) -> None:
    model = to_half_precision(convolutions(), keep_float32_ops=()).model if half else convolutions()
    plan = build(model, IMAGES)
    assert plan.io_spec == (["x"], ["y"], ["Float"], ["Float"])
    engine, twin = engine_of(plan), ConvolutionTwin().cuda()
    assert engine.input_shapes() == [[-1, 3, -1, -1]]
    for shape in [(1, 3, 8, 8), (3, 3, 9, 20), (4, 3, 32, 32)]:
        x = torch.randn(shape, device="cuda")
        with torch.no_grad():
            torch.testing.assert_close(
                engine.forward([x])[0], twin(x), atol=CONVOLUTION_TOLERANCE, rtol=CONVOLUTION_TOLERANCE
            )


def test_dimensions_that_are_the_same_everywhere_are_fixed() -> None:
    shape = (2, 3, 16, 16)
    engine = engine_of(build(convolutions(), {"x": (shape, shape, shape)}))
    assert engine.input_shapes() == [[2, 3, 16, 16]]
    assert engine.output_shapes() == [[2, 8, 16, 16]]
    two = engine_of(build(convolutions(), {"x": (shape, shape, shape)}, {"x": ((1, 3, 16, 16), shape, shape)}))
    assert two.input_shapes() == [[-1, 3, 16, 16]]
    assert len(two.profiles()) == 2


def test_integers_and_booleans_stay() -> None:
    model = parse(
        "(int64[N] i, bool[N] m) => (int64[N] j, bool[N] k) { j = Add(i, one) k = Not(m) }", one=np.array([2**40])
    )
    ranges = dict.fromkeys(("i", "m"), ((1,), (4,), (8,)))
    plan = build(model, ranges)
    assert plan.io_spec == (["i", "m"], ["j", "k"], ["Long", "Bool"], ["Long", "Bool"])
    i, m = torch.arange(5, device="cuda"), torch.tensor([True, False, True, True, False], device="cuda")
    j, k = engine_of(plan).forward([i, m])
    assert torch.equal(j, i + 2**40)
    assert torch.equal(k, ~m)


def test_a_half_model_with_islands_of_float32() -> None:
    model = parse(
        """(float[N,4,8] x) => (float[N,4,8] y) {
            n = LayerNormalization<axis=-1>(x, scale, shift) q = MatMul(n, w) t = Transpose<perm=[0,2,1]>(n)
            s = MatMul(q, t) p = Softmax<axis=-1>(s) o = MatMul(p, n) y = Add(o, x)
        }""",
        scale=np.ones(8, np.float32),
        shift=np.zeros(8, np.float32),
        w=np.eye(8, dtype=np.float32),
    )
    result = to_half_precision(model, keep_float32_ops=["Softmax", "LayerNormalization"])
    engine = engine_of(build(result.model, {"x": ((1, 4, 8), (2, 4, 8), (4, 4, 8))}))
    x = torch.randn(3, 4, 8, device="cuda")
    n = torch.nn.functional.layer_norm(x, (8,))
    expected = (n @ n.transpose(1, 2)).softmax(-1) @ n + x
    # Two products with the 11 bits of float16.
    torch.testing.assert_close(engine.forward([x])[0], expected, atol=1e-2, rtol=1e-2)


def test_timings_are_kept(tmp_path: Path) -> None:
    timings = TimingCache(tmp_path, timing_cache_name())
    build(convolutions(), IMAGES, timing_cache=timings, workspace_bytes=2**28)
    saved = timings.load()
    assert saved
    build(convolutions(), IMAGES, timing_cache=timings)
    assert len(timings.load()) >= len(saved)
    timings.save(b"not TensorRT's")
    build(convolutions(), IMAGES, timing_cache=timings)
    assert len(timings.load()) > 100


def test_refused_nodes_are_named() -> None:
    model = parse("(float[4] x) => (float[4] y) { a = Relu(x) [own] b = mine.Own(a) y = Relu(b) }")
    (name, op_type, reason), *_ = refused_nodes(model)
    assert (name, op_type) == ("own", "Own")
    assert reason
    with pytest.raises(RuntimeError, match=re.escape("cannot parse a test: node 'own' (Own): ")):
        build(model, what="a test")
    assert refused_nodes(convolutions()) == []


def test_an_input_that_decides_a_shape_fails() -> None:
    model = parse("(float[4] x, int64[2] size) => (float[A,B] y) { y = Expand(x, size) }")
    with pytest.raises(RuntimeError, match="input 'size' of a subgraph must not decide shapes by its values"):
        build(model)


def test_numbers_out_of_range_fail() -> None:
    with pytest.raises(ValueError, match="builder_optimization_level must be from 0 to 5, got 6"):
        build(convolutions(), IMAGES, builder_optimization_level=6)
    with pytest.raises(ValueError, match="workspace_bytes must be 0 or more, got -1"):
        build(convolutions(), IMAGES, workspace_bytes=-1)
