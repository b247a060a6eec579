"""The description of RetinaNet's post-processing network, and what the TensorRT plugins are told; needs no GPU."""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np
import pytest
import torch

from tests.fresh_process import output_of_fresh
from torch_trt_ext.builders.retinanet import (
    RetinaNetPostProcessSpec,
    build_retinanet_decode,
    retinanet_postprocess_spec,
)
from torch_trt_ext.builders.retinanet_tensorrt import (
    build_tensorrt_plan,
    decode_fields,
    nms_fields,
    postprocess_fields,
)
from torch_trt_ext.builders.tensorrt_build import PluginField, import_tensorrt

NUM_ANCHORS = 2
NUM_CLASSES = 3

Heads = tuple[list[torch.Tensor], list[torch.Tensor]]


def make_heads(sizes: list[tuple[int, int]], dtype: torch.dtype = torch.float32) -> Heads:
    return (
        [torch.zeros(1, NUM_ANCHORS * NUM_CLASSES, *size, dtype=dtype) for size in sizes],
        [torch.zeros(1, NUM_ANCHORS * 4, *size, dtype=dtype) for size in sizes],
    )


def make_anchors(count: int) -> list[torch.Tensor]:
    return [torch.arange(NUM_ANCHORS * 4, dtype=torch.float32).reshape(NUM_ANCHORS, 4) * 2**i for i in range(count)]


def make_spec(**changes: Any) -> RetinaNetPostProcessSpec:
    arguments: dict[str, Any] = {
        "example_outputs": make_heads([(8, 16), (4, 8)]),
        "input_image_shape": (1, 3, 64, 128),
        "anchors_list": make_anchors(2),
    }
    return retinanet_postprocess_spec(**{**arguments, **changes})


def as_values(fields: list[PluginField]) -> dict[str, Any]:
    return {
        field.name: field.data.tobytes().decode() if field.type == "CHAR" else field.data.tolist() for field in fields
    }


def test_spec_describes_heads() -> None:
    spec = make_spec()
    assert spec.input_names == ("cls_head0", "cls_head1", "box_head0", "box_head1")
    assert [level.cls_shape for level in spec.levels] == [(6, 8, 16), (6, 4, 8)]
    assert [level.box_shape for level in spec.levels] == [(8, 8, 16), (8, 4, 8)]
    assert [level.stride for level in spec.levels] == [8, 16]
    assert spec.levels[1].anchors == tuple(float(2 * value) for value in range(8))
    assert (spec.score_thresh, spec.nms_thresh) == (0.05, 0.5)
    assert (spec.topk_candidates, spec.max_detections_per_image) == (1000, 100)
    assert spec.batch_range == (1, 20, 1000)


def test_strides_of_800_by_1216_are_powers_of_two() -> None:
    # P7 is 10 cells wide, rounded up from 9.5: 1216 // 10 would give 121.
    sizes = [(100, 152), (50, 76), (25, 38), (13, 19), (7, 10)]
    spec = make_spec(
        example_outputs=make_heads(sizes), input_image_shape=(1, 3, 800, 1216), anchors_list=make_anchors(5)
    )
    assert [level.stride for level in spec.levels] == [8, 16, 32, 64, 128]


def test_strides_can_be_given() -> None:
    assert [level.stride for level in make_spec(strides=[10, 20]).levels] == [10, 20]


def test_plan_has_the_engine_classes_io() -> None:
    plan = make_spec(example_outputs=make_heads([(8, 16), (4, 8)], torch.float16)).to_plan(b"x", "tensorrt")
    assert plan.io_spec == (
        ["cls_head0", "cls_head1", "box_head0", "box_head1"],
        ["scores", "boxes", "classes"],
        ["Half"] * 4,
        ["Float"] * 3,
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"anchors_list": make_anchors(1)}, "one entry a pyramid level, got 2 class heads, 2 box heads and 1 anchor"),
        ({"anchors_list": [torch.zeros(3, 4)] * 2}, "4 channels an anchor, 12 for 3 anchors, got 8"),
        ({"anchors_list": [torch.zeros(3)] * 2}, r"anchors of level 0 must be \[A, 4\], got \(3,\)"),
        ({"test_score_thresh": 1.5}, r"test_score_thresh must be in \[0, 1\], got 1.5"),
        ({"test_nms_thresh": -0.1}, r"test_nms_thresh must be in \[0, 1\], got -0.1"),
        ({"test_topk_candidates": 0}, "test_topk_candidates must be at least 1, got 0"),
        ({"max_detections_per_image": 0}, "max_detections_per_image must be at least 1, got 0"),
        ({"box_convention": "yolo"}, "box_convention must be one of .* got 'yolo'"),
        ({"batch_range": (1, 30, 20)}, r"batch_range must be \(min, opt, max\)"),
        ({"image_size": (0, 5)}, r"image_size must be \(height, width\) in pixels, got \(0, 5\)"),
        ({"strides": [8]}, r"strides must be 2 positive numbers, one a level, got \[8\]"),
        ({"input_image_shape": (128,)}, "input_image_shape must end in height and width"),
    ],
)
def test_spec_of_bad_arguments_fails(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_spec(**changes)


def test_spec_of_mixed_dtypes_fails() -> None:
    cls_heads, box_heads = make_heads([(8, 16), (4, 8)])
    with pytest.raises(TypeError, match=r"both be float32 or both float16, got torch.float16 and torch.float32"):
        make_spec(example_outputs=([head.half() for head in cls_heads], box_heads))


def test_build_of_unknown_device_type_fails() -> None:
    with pytest.raises(ValueError, match="device_type must be 'gpu' or 'cpu', got 'tpu'"):
        build_retinanet_decode(
            make_heads([(8, 16), (4, 8)]),
            (1, 3, 64, 128),
            make_anchors(2),
            device_type="tpu",  # type: ignore[arg-type]
        )


def test_decode_fields_are_the_plugins() -> None:
    spec = make_spec(box_convention="torchvision", image_size=(60, 120), test_score_thresh=0.25, test_topk_candidates=7)
    assert as_values(decode_fields(spec, spec.levels[1])) == {
        "topk_candidates": [7],
        "score_thresh": [0.25],
        "stride": [16],
        # Floats, not anchors: four each.
        "num_anchors": [8],
        "anchors": [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0],
        "box_convention": "torchvision",
        "image_height": [60],
        "image_width": [120],
    }


def test_decode_fields_without_image_size_ask_for_the_grid() -> None:
    spec = make_spec()
    values = as_values(decode_fields(spec, spec.levels[0]))
    assert (values["image_height"], values["image_width"]) == ([0], [0])
    assert values["box_convention"] == "retinanet_examples"


def test_nms_fields_are_the_plugins() -> None:
    spec = make_spec(box_convention="detectron2", test_nms_thresh=0.75, max_detections_per_image=9)
    assert as_values(nms_fields(spec)) == {
        "nms_thresh": [0.75],
        "max_detections_per_image": [9],
        "box_convention": "detectron2",
    }


def test_postprocess_fields_are_the_plugins() -> None:
    spec = make_spec(box_convention="torchvision", image_size=(60, 120), test_score_thresh=0.25, test_topk_candidates=7)
    assert as_values(postprocess_fields(spec)) == {
        "topk_candidates": [7],
        "score_thresh": [0.25],
        "nms_thresh": [0.5],
        "max_detections_per_image": [100],
        "strides": [8, 16],
        # Floats, not anchors: four each.
        "num_anchors": [8, 8],
        "anchors": [float(value) for value in (*range(8), *range(0, 16, 2))],
        "box_convention": "torchvision",
        "image_height": [60],
        "image_width": [120],
    }


def test_fields_have_the_types_that_they_name() -> None:
    spec = make_spec()
    dtypes = {"INT32": np.int32, "FLOAT32": np.float32, "CHAR": np.int8}
    for field in decode_fields(spec, spec.levels[0]) + nms_fields(spec) + postprocess_fields(spec):
        assert field.data.dtype == dtypes[field.type], field.name
        assert field.data.ndim == 1
        assert field.data.flags.c_contiguous


def test_build_without_tensorrt_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    # None in sys.modules makes an import fail.
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_bindings", None)
    with pytest.raises(RuntimeError, match=r"needs the Python module 'tensorrt'.*pip install tensorrt"):
        build_tensorrt_plan(make_spec())


def test_build_without_a_gpu_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", types.ModuleType("tensorrt"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("torch_trt_ext.runtime.load_plugins", lambda: "unused")
    with pytest.raises(RuntimeError, match="needs an NVIDIA GPU"):
        build_tensorrt_plan(make_spec())


def test_bindings_alone_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    bindings = types.ModuleType("tensorrt_bindings")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_bindings", bindings)
    assert import_tensorrt() is bindings


def test_missing_for_building_says_why() -> None:
    text = output_of_fresh(
        """
        from torch_trt_ext.builders.tensorrt_build import missing_for_building
        print(missing_for_building())
        """,
        environment={"CUDA_VISIBLE_DEVICES": ""},
    )
    assert "needs an NVIDIA GPU, CUDA finds none" in text or "torch was built without CUDA" in text
