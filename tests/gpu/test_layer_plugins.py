"""LeakyReLU and GroupNorm on a GPU, against torch, alone and as nodes of ONNX models."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.fresh_process import output_of_fresh
from tests.gpu.plugin_networks import (
    Dtype,
    GroupNormCase,
    LeakyReluCase,
    changed,
    group_norm_engine,
    group_norm_plan,
    leaky_relu_engine,
    make_plugin,
)
from tests.test_plugin_example import EXAMPLE, build_example
from torch_trt_ext import TRTEngineExtension
from torch_trt_ext.builders.tensorrt_build import PluginField, float_field, int_field
from torch_trt_ext.runtime import load_plugins

#: Relative error of normalized numbers of about 1: what sums in another order leave of float32, and float16's rounding.
TOLERANCES: dict[Dtype, float] = {"float32": 4e-5, "float16": 2e-3}

LEAKY_RELU_CASES = (
    LeakyReluCase(),
    LeakyReluCase(dtype="float16", neg_slope=0.2),
    LeakyReluCase(neg_slope=-1.5, rank=1),
    LeakyReluCase(dtype="float16", neg_slope=0.0, rank=1),
)

GROUP_NORM_CASES = (
    GroupNormCase(),
    GroupNormCase(dtype="float16"),
    GroupNormCase(dtype="float16", affine_dtype="float16", num_groups=3, channels=9, spatial_rank=1),
    GroupNormCase(num_groups=1, channels=6, eps=0.5),
    GroupNormCase(num_groups=32, channels=32, spatial_rank=1),
    GroupNormCase(variant=1),
    GroupNormCase(variant=2),
    GroupNormCase(dtype="float16", variant=2),
    GroupNormCase(variant=3),
    GroupNormCase(dtype="float16", affine_dtype="float16", variant=3),
)

#: 0: the plugin's choice; what is not possible for a shape or a device falls back to it.
GROUP_NORM_VARIANTS = (0, 1, 2, 3)

#: A grid's height and width: one element, rows that fill no 16 bytes, groups of a block's, of a cluster's (two
#: channels of 362 x 362 are the most in float32), and groups of many blocks'.
SIZES = (
    *((1, 1), (1, 2), (3, 5), (7, 7), (8, 8), (64, 64), (65, 63)),
    *((90, 91), (128, 128), (257, 255), (362, 362), (363, 363), (600, 600)),
)


def random_tensor(shape: tuple[int, ...], dtype: Dtype) -> Tensor:
    return torch.randn(shape, device="cuda").to(getattr(torch, dtype))


@pytest.mark.parametrize("case", LEAKY_RELU_CASES)
@pytest.mark.parametrize("last", [1, 2, 7, 8, 9, 1000, 2047, 2048, 3000])
@pytest.mark.parametrize("first", [1, 3, 2999])
def test_leaky_relu_matches_torch(case: LeakyReluCase, first: int, last: int) -> None:
    torch.manual_seed(0)
    x = random_tensor((first, last)[2 - case.rank :], case.dtype)
    (y,) = leaky_relu_engine(case).forward([x])
    # Both compute in float32 and round once: nothing may differ.
    torch.testing.assert_close(y, functional.leaky_relu(x, case.neg_slope), rtol=0, atol=0)


@pytest.mark.parametrize("case", LEAKY_RELU_CASES[:2])
def test_leaky_relu_of_what_is_not_finite(case: LeakyReluCase) -> None:
    x = torch.tensor([[math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-7, -1e-7]]).to(getattr(torch, case.dtype)).cuda()
    (y,) = leaky_relu_engine(case).forward([x])
    torch.testing.assert_close(y, functional.leaky_relu(x, case.neg_slope), rtol=0, atol=0, equal_nan=True)


def group_norm_inputs(
    case: GroupNormCase, batch: int, size: tuple[int, int], mean: float = 0.0, deviation: float = 1.0
) -> list[Tensor]:
    x = random_tensor((batch, case.channels, *size[2 - case.spatial_rank :]), "float32") * deviation + mean
    affine = [random_tensor((case.channels,), case.affine_dtype) for _ in range(2)]
    return [x.to(getattr(torch, case.dtype)), *affine]


def group_norm_reference(case: GroupNormCase, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups = x.double().reshape(x.shape[0], case.num_groups, -1)
    centered = groups - groups.mean(dim=2, keepdim=True)
    normalized = centered / (centered.square().mean(dim=2, keepdim=True) + case.eps).sqrt()
    channels = (1, -1) + (1,) * case.spatial_rank
    return normalized.reshape(x.shape) * scale.double().view(channels) + bias.double().view(channels)


def check_group_norm(case: GroupNormCase, inputs: list[Tensor]) -> None:
    (y,) = group_norm_engine(case).forward(inputs)
    assert y.dtype == inputs[0].dtype
    tolerance = TOLERANCES[case.dtype]
    torch.testing.assert_close(y.double(), group_norm_reference(case, *inputs), rtol=tolerance, atol=tolerance * 4)


@pytest.mark.parametrize("case", GROUP_NORM_CASES)
@pytest.mark.parametrize("size", SIZES)
def test_group_norm_matches_reference(case: GroupNormCase, size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    for batch in (1, 3):
        check_group_norm(case, group_norm_inputs(case, batch, size))


@pytest.mark.parametrize("case", GROUP_NORM_CASES[:2])
@pytest.mark.parametrize("size", [(8, 8), (65, 63), (257, 255)])
def test_group_norm_matches_torch(case: GroupNormCase, size: tuple[int, int]) -> None:
    torch.manual_seed(2)
    x, scale, bias = group_norm_inputs(case, 8, size)
    (y,) = group_norm_engine(case).forward([x, scale, bias])
    dtype, tolerance = x.dtype, TOLERANCES[case.dtype]
    want = functional.group_norm(x, case.num_groups, scale.to(dtype), bias.to(dtype), case.eps)
    torch.testing.assert_close(y, want, rtol=tolerance, atol=tolerance * 4)


@pytest.mark.parametrize("variant", GROUP_NORM_VARIANTS)
@pytest.mark.parametrize("size", [(8, 8), (64, 64), (71, 73), (257, 255)])
def test_group_norm_of_a_large_mean_keeps_its_digits(size: tuple[int, int], variant: int) -> None:
    torch.manual_seed(3)
    case = GroupNormCase(variant=variant)
    x, scale, bias = group_norm_inputs(case, 2, size, mean=1000.0)
    (y,) = group_norm_engine(case).forward([x, scale, bias])
    # The mean itself is a float32 of about 1000, half a unit of whose last place is 3e-5.
    torch.testing.assert_close(y.double(), group_norm_reference(case, x, scale, bias), rtol=2e-4, atol=5e-4)


@pytest.mark.parametrize("variant", GROUP_NORM_VARIANTS)
def test_group_norm_of_equal_numbers_is_the_bias(variant: int) -> None:
    case = GroupNormCase(variant=variant)
    for size in ((8, 8), (71, 73), (257, 255)):
        x, scale, bias = group_norm_inputs(case, 2, size, deviation=0.0, mean=0.5)
        (y,) = group_norm_engine(case).forward([x, scale, bias])
        torch.testing.assert_close(y, bias.view(1, -1, 1, 1).expand_as(y), rtol=0, atol=0)


@pytest.mark.parametrize("variant", GROUP_NORM_VARIANTS)
def test_nan_stays_in_its_group(variant: int) -> None:
    case = GroupNormCase(variant=variant)
    channels = case.channels // case.num_groups
    for height, width in ((65, 63), (71, 73), (257, 255)):
        # In the first and in the last element of a group: those next to it share their 16 bytes.
        for channel, y_index, x_index in ((0, 0, 0), (channels - 1, -1, -1)):
            x, scale, bias = group_norm_inputs(case, 3, (height, width))
            x[1, channels + channel, y_index, x_index] = math.nan
            (y,) = group_norm_engine(case).forward([x, scale, bias])
            assert y[1, channels : 2 * channels].isnan().all()
            assert y.isnan().sum() == channels * height * width


@pytest.mark.parametrize("variant", GROUP_NORM_VARIANTS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_groups_that_start_at_every_offset(dtype: Dtype, variant: int) -> None:
    torch.manual_seed(9)
    # 27 groups of an odd number of elements each; 71 x 73 are a cluster's in both types.
    case = GroupNormCase(dtype=dtype, num_groups=9, channels=9, variant=variant)
    for size in ((1, 1), (1, 5), (1, 9), (3, 5), (57, 57), (71, 73), (129, 255)):
        check_group_norm(case, group_norm_inputs(case, 3, size))


@pytest.mark.parametrize("variant", GROUP_NORM_VARIANTS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("channels_per_group", [8, 127, 4099])
def test_accesses_that_span_channels(channels_per_group: int, dtype: Dtype, variant: int) -> None:
    torch.manual_seed(10)
    case = GroupNormCase(
        dtype=dtype, num_groups=3, channels=3 * channels_per_group, spatial_rank=1, variant=variant, affine_dtype=dtype
    )
    for spatial in (1, 3, 7, 9):
        check_group_norm(case, group_norm_inputs(case, 2, (1, spatial)))


@pytest.mark.parametrize("size", [(64, 64), (257, 255)])
@pytest.mark.parametrize("case", [*GROUP_NORM_CASES[:2], GroupNormCase(variant=3)])
def test_runs_are_bit_equal_and_capture_in_a_cuda_graph(case: GroupNormCase, size: tuple[int, int]) -> None:
    torch.manual_seed(4)
    inputs = group_norm_inputs(case, 3, size)
    norm, relu = group_norm_engine(case), leaky_relu_engine(LeakyReluCase(dtype=case.dtype))

    def run() -> Tensor:
        (y,) = norm.forward(inputs)
        # Rows of a number of columns that fills no 16 bytes.
        (z,) = relu.forward([y.reshape(y.shape[0] * case.channels * size[0], size[1])[:2999].contiguous()])
        return z

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        captured = run()
    for _ in range(3):
        inputs[0].copy_(torch.randn_like(inputs[0]))
        want = run()
        for _ in range(5):
            graph.replay()
            torch.cuda.synchronize()
            assert torch.equal(captured, want)
            assert torch.equal(run(), want)


@pytest.mark.parametrize(
    ("plugin", "name", "field", "message"),
    [
        ("LeakyReLU", "neg_slope", None, "'neg_slope' must be given"),
        ("LeakyReLU", "neg_slope", int_field("neg_slope", 1), "'neg_slope' must be float32, got int32"),
        ("LeakyReLU", "neg_slope", float_field("neg_slope", 1, 2), r"'neg_slope' must be 1 value\(s\) long, got 2"),
        ("LeakyReLU", "neg_slope", float_field("neg_slope", math.nan), "'neg_slope' must be finite, got nan"),
        ("LeakyReLU", "neg_slope", float_field("alpha", 0.1), "'alpha' is not one of 'neg_slope'"),
        ("GroupNorm", "num_groups", None, "'num_groups' must be given"),
        ("GroupNorm", "num_groups", int_field("num_groups", 0), "'num_groups' must be at least 1, got 0"),
        ("GroupNorm", "num_groups", float_field("num_groups", 4), "'num_groups' must be int32, got float32"),
        ("GroupNorm", "eps", float_field("eps", -1e-5), "'eps' must be at least 0, got -0.00001"),
        ("GroupNorm", "variant", int_field("variant", 4), "'variant' must be from 0 to 3, got 4"),
        ("GroupNorm", "variant", int_field("variant", -1), "'variant' must be from 0 to 3, got -1"),
        ("GroupNorm", "eps", float_field("eps", math.inf), "'eps' must be finite, got inf"),
        ("GroupNorm", "eps", float_field("eps"), r"'eps' must be 1 value\(s\) long, got 0"),
    ],
)
def test_bad_field_fails(plugin: str, name: str, field: PluginField | None, message: str) -> None:
    fields = {"LeakyReLU": LeakyReluCase().fields(), "GroupNorm": GroupNormCase(variant=1).fields()}[plugin]
    with pytest.raises(RuntimeError, match=message):
        make_plugin(plugin, changed(fields, name, field))


def test_eps_may_be_missing() -> None:
    make_plugin("GroupNorm", changed(GroupNormCase().fields(), "eps", None))


def test_every_variant_of_group_norm_gives_the_same() -> None:
    torch.manual_seed(8)
    for size in ((8, 8), (64, 64), (65, 63), (128, 128), (257, 255)):
        for case in (GroupNormCase(variant=variant) for variant in GROUP_NORM_VARIANTS):
            inputs = group_norm_inputs(case, 3, size)
            check_group_norm(case, inputs)
            assert torch.equal(*(group_norm_engine(case).forward(inputs)[0] for _ in range(2)))


def test_build_with_shapes_that_do_not_fit_fails() -> None:
    with pytest.raises(RuntimeError, match=r"refused|could not build"):
        group_norm_plan(GroupNormCase(num_groups=3))
    with pytest.raises(RuntimeError, match=r"refused|could not build"):
        group_norm_plan(GroupNormCase(), scale_length=7)


def onnx_engine(body: str, **weights: Any) -> Any:
    """An engine of an ONNX graph in ONNX's own notation, made by TensorRT's parser."""
    pytest.importorskip("onnx")
    from onnx import numpy_helper, parser

    from torch_trt_ext.builders.onnx_tensorrt import build_tensorrt_from_onnx

    # The parser looks for plugins in the registry.
    load_plugins()
    model = parser.parse_model(f'<ir_version: 9, opset_import: ["": 18]> g {body}')
    for name, values in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    plan = build_tensorrt_from_onnx(model, [], timing_cache=None, builder_optimization_level=1)
    return TRTEngineExtension(bytes(plan), plan.io_spec)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_onnx_nodes_become_plugins_by_their_names(dtype: Dtype) -> None:
    torch.manual_seed(5)
    case = GroupNormCase(dtype=dtype, affine_dtype=dtype, eps=1e-3)
    x, scale, bias = group_norm_inputs(case, 2, (9, 7))
    word = {"float32": "float", "float16": "float16"}[dtype]
    engine = onnx_engine(
        f"""({word}[2,8,9,7] x) => ({word}[2,8,9,7] y) {{
            normalized = GroupNorm<eps=0.001, num_groups=4>(x, scale, bias) y = LeakyReLU<neg_slope=0.25>(normalized)
        }}""",
        scale=scale.cpu().numpy(),
        bias=bias.cpu().numpy(),
    )
    want = functional.leaky_relu(group_norm_reference(case, x, scale, bias), 0.25)
    tolerance = TOLERANCES[dtype]
    torch.testing.assert_close(engine.forward([x])[0].double(), want, rtol=tolerance, atol=tolerance * 4)


def test_onnx_node_with_a_bad_attribute_fails() -> None:
    with pytest.raises(RuntimeError, match="cannot parse"):
        onnx_engine(
            "(float[2,8,9,7] x) => (float[2,8,9,7] y) { y = GroupNorm<num_groups=0>(x, scale, bias) }",
            scale=np.ones(8, np.float32),
            bias=np.zeros(8, np.float32),
        )


def test_the_template_of_a_plugin_runs(tmp_path: Path) -> None:
    major, minor = torch.cuda.get_device_capability()
    library = build_example(tmp_path, f"{major}{minor}-real")
    # Loads it with the registry's load_library.
    output_of_fresh(f"""
        import importlib.util
        spec = importlib.util.spec_from_file_location("check", {str(EXAMPLE / "check.py")!r})
        check = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(check)
        check.main({str(library)!r})
    """)
