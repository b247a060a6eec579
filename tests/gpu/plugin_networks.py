"""Networks of one plugin each, with every extent dynamic, so that one engine serves many sizes."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from torch_trt_ext.builders.tensorrt_build import (
    PluginField,
    build_plan,
    create_plugin,
    float_field,
    int_field,
    string_field,
)
from torch_trt_ext.runtime import load_plugins

OUTPUT_NAMES = ("scores", "boxes", "classes")

#: The output after these that the fused plugin has.
COUNTS_NAME = "num_detections"

Dtype = Literal["float32", "float16"]

#: The smallest, the tuned and the largest.
BATCHES = (1, 4, 64)
SIDES = (1, 8, 40)
CANDIDATES = (1, 100, 1200)


@dataclass(frozen=True)
class DecodeCase:
    """What one decode engine is built for; its inputs are ``[1..64, A * C, 1..40, 1..40]``."""

    box_convention: str = "retinanet_examples"
    dtype: Dtype = "float32"
    topk_candidates: int = 50
    score_thresh: float = 0.05
    stride: int = 8
    num_anchors: int = 3
    num_classes: int = 4
    #: Height and width, or None for the grid's extent.
    image_size: tuple[int, int] | None = None

    def anchors(self) -> torch.Tensor:
        """``Tensor[A, 4]``, the same each time, none of them symmetric."""
        generator = torch.Generator().manual_seed(self.num_anchors)
        corners = torch.rand(self.num_anchors, 4, generator=generator) * 30 + 2
        return torch.cat([-corners[:, :2], corners[:, 2:]], dim=1)

    def fields(self) -> list[PluginField]:
        """The plugin's fields."""
        height, width = self.image_size or (0, 0)
        return [
            int_field("topk_candidates", self.topk_candidates),
            float_field("score_thresh", self.score_thresh),
            int_field("stride", self.stride),
            int_field("num_anchors", 4 * self.num_anchors),
            float_field("anchors", *self.anchors().flatten().tolist()),
            string_field("box_convention", self.box_convention),
            int_field("image_height", height),
            int_field("image_width", width),
        ]


@dataclass(frozen=True)
class NmsCase:
    """What one suppression engine is built for; its inputs are ``[1..64, 1..1200, 1, 1]``."""

    box_convention: str = "retinanet_examples"
    dtype: Dtype = "float32"
    nms_thresh: float = 0.5
    max_detections_per_image: int = 20

    def fields(self) -> list[PluginField]:
        """The plugin's fields."""
        return [
            float_field("nms_thresh", self.nms_thresh),
            int_field("max_detections_per_image", self.max_detections_per_image),
            string_field("box_convention", self.box_convention),
        ]


SCORE_KINDS = ("random", "ties", "equal", "none", "not finite", "tiny")


def make_scores(shape: tuple[int, ...], kind: str) -> Tensor:
    scores = torch.rand(shape)
    if kind == "ties":
        return (scores * 4).round() / 4
    if kind == "equal":
        return torch.full(shape, 0.75)
    if kind == "none":
        return torch.zeros(shape)
    if kind == "tiny":
        return scores * 1e-40
    if kind == "not finite":
        choice = torch.rand(shape)
        scores[choice < 0.1] = math.nan
        scores[(choice > 0.1) & (choice < 0.2)] = math.inf
        scores[(choice > 0.2) & (choice < 0.3)] = -math.inf
    return scores


def changed(fields: list[PluginField], name: str, field: PluginField | None) -> list[PluginField]:
    """``fields`` with the one called ``name`` replaced, or left out."""
    return [new for old in fields if (new := field if old.name == name else old) is not None]


@dataclass(frozen=True)
class PostProcessCase:
    """What one fused engine is built for; the inputs of each level are ``[1..64, A * C, 1..40, 1..40]``."""

    box_convention: str = "retinanet_examples"
    dtype: Dtype = "float32"
    topk_candidates: int = 50
    score_thresh: float = 0.05
    nms_thresh: float = 0.5
    max_detections_per_image: int = 20
    strides: tuple[int, ...] = (8, 16, 32)
    num_anchors: int = 3
    num_classes: int = 4
    image_size: tuple[int, int] | None = None
    score_activation: str = "none"

    @property
    def input_names(self) -> tuple[str, ...]:
        """Every level's scores, then every level's deltas."""
        levels = range(len(self.strides))
        return tuple(f"cls{level}" for level in levels) + tuple(f"box{level}" for level in levels)

    def anchors(self, level: int) -> torch.Tensor:
        """``Tensor[A, 4]``, others for each level."""
        return DecodeCase(num_anchors=self.num_anchors).anchors() * float(2**level)

    def fields(self) -> list[PluginField]:
        """The plugin's fields."""
        height, width = self.image_size or (0, 0)
        anchors = torch.cat([self.anchors(level) for level in range(len(self.strides))])
        return [
            int_field("topk_candidates", self.topk_candidates),
            float_field("score_thresh", self.score_thresh),
            float_field("nms_thresh", self.nms_thresh),
            int_field("max_detections_per_image", self.max_detections_per_image),
            int_field("strides", *self.strides),
            int_field("num_anchors", *[4 * self.num_anchors] * len(self.strides)),
            float_field("anchors", *anchors.flatten().tolist()),
            string_field("box_convention", self.box_convention),
            int_field("image_height", height),
            int_field("image_width", width),
            string_field("score_activation", self.score_activation),
        ]


def make_plugin(name: str, fields: Sequence[PluginField]) -> Any:
    """One of our plugins, with the error message that names a bad field."""
    return create_plugin(name, fields, library=str(load_plugins()))


def _plugin_plan(
    name: str,
    fields: Sequence[PluginField],
    dtype: Dtype,
    shapes: Mapping[str, tuple[Sequence[int], ...]],
    output_names: Sequence[str] = OUTPUT_NAMES,
) -> bytes:
    def define(trt: Any, network: Any) -> dict[str, Any]:
        inputs = []
        for input_name, (smallest, _, largest) in shapes.items():
            shape = [low if low == high else -1 for low, high in zip(smallest, largest, strict=True)]
            inputs.append(network.add_input(input_name, getattr(trt, dtype), tuple(shape)))
        layer = network.add_plugin_v3(inputs, [], make_plugin(name, fields))
        if layer is None:
            raise RuntimeError(f"TensorRT refused the plugin '{name}'")
        for index, output_name in enumerate(output_names):
            layer.get_output(index).name = output_name
            network.mark_output(layer.get_output(index))
        return dict(shapes)

    return build_plan(f"a network of {name}", define)


def _engine(plan: bytes, input_names: Sequence[str], dtype: Dtype, counts: bool = False) -> Any:
    word = {"float32": "Float", "float16": "Half"}[dtype]
    outputs = [(name, "Float") for name in OUTPUT_NAMES] + ([(COUNTS_NAME, "Int")] if counts else [])
    io_spec = (
        list(input_names),
        [name for name, _ in outputs],
        [word] * len(input_names),
        [output_word for _, output_word in outputs],
    )
    return torch.classes.torch_trt_ext.TRTEngineExtension(plan, io_spec)


def decode_plan(case: DecodeCase, *, score_channels: int | None = None, delta_channels: int | None = None) -> bytes:
    """A plan with the inputs "cls" and "box"; the channel counts are those of ``case`` unless given."""
    channels = {
        "cls": case.num_anchors * case.num_classes if score_channels is None else score_channels,
        "box": 4 * case.num_anchors if delta_channels is None else delta_channels,
    }
    shapes = {
        name: tuple((batch, count, side, side) for batch, side in zip(BATCHES, SIDES, strict=True))
        for name, count in channels.items()
    }
    return _plugin_plan("RetinaNetDecode", case.fields(), case.dtype, shapes)


def nms_plan(case: NmsCase, *, numbers_per_box: int = 4) -> bytes:
    """A plan with the inputs "score", "box" and "class"."""
    numbers = {"score": 1, "box": numbers_per_box, "class": 1}
    shapes = {
        name: tuple((batch, count * each, 1, 1) for batch, count in zip(BATCHES, CANDIDATES, strict=True))
        for name, each in numbers.items()
    }
    return _plugin_plan("RetinaNetNMS", case.fields(), case.dtype, shapes)


@functools.cache
def decode_engine(case: DecodeCase) -> Any:
    """``forward([scores, deltas])``; built once a session."""
    return _engine(decode_plan(case), ("cls", "box"), case.dtype)


@functools.cache
def nms_engine(case: NmsCase) -> Any:
    """``forward([scores, boxes, classes])``; built once a session."""
    return _engine(nms_plan(case), ("score", "box", "class"), case.dtype)


def postprocess_plan(case: PostProcessCase, *, delta_channels: int | None = None) -> bytes:
    """A plan with the inputs ``case.input_names``; the deltas' channels are those of ``case`` unless given."""
    score_channels = case.num_anchors * case.num_classes
    channels = [score_channels] * len(case.strides)
    channels += [4 * case.num_anchors if delta_channels is None else delta_channels] * len(case.strides)
    shapes = {
        name: tuple((batch, count, side, side) for batch, side in zip(BATCHES, SIDES, strict=True))
        for name, count in zip(case.input_names, channels, strict=True)
    }
    return _plugin_plan("RetinaNetPostProcess", case.fields(), case.dtype, shapes, (*OUTPUT_NAMES, COUNTS_NAME))


@functools.cache
def postprocess_engine(case: PostProcessCase) -> Any:
    """``forward(scores of all levels + deltas of all levels)``; built once a session."""
    return _engine(postprocess_plan(case), case.input_names, case.dtype, counts=True)
