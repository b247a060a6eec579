"""Networks of one plugin each, with every extent dynamic, so that one engine serves many sizes."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
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

#: expf on the GPU and exp on the CPU differ by two units in the last place; a difference of large coordinates
#: leaves the absolute part, in pixels.
BOX_RTOL = 1e-4
BOX_ATOL = 1e-3

Dtype = Literal["float32", "float16", "int32"]

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


SCORE_KINDS = ("random", "ties", "equal", "none", "not finite", "tiny", "crowded")


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
    if kind == "crowded":  # as networks' are: most just over the threshold
        return 0.0501 + 0.94 * scores**40
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
    #: Type of an input with each image's size, or None for no such input.
    image_sizes: Dtype | None = None

    @property
    def input_types(self) -> dict[str, Dtype]:
        """Every level's scores, then every level's deltas, then the image sizes if they are an input."""
        levels = range(len(self.strides))
        types = {f"{kind}{level}": self.dtype for kind in ("cls", "box") for level in levels}
        return types | ({"image_sizes": self.image_sizes} if self.image_sizes else {})

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
            int_field("has_image_sizes", int(self.image_sizes is not None)),
        ]


def make_plugin(name: str, fields: Sequence[PluginField]) -> Any:
    """One of our plugins, with the error message that names a bad field."""
    return create_plugin(name, fields, library=str(load_plugins()))


def _plugin_plan(
    name: str,
    fields: Sequence[PluginField],
    types: Mapping[str, Dtype],
    shapes: Mapping[str, tuple[Sequence[int], ...]],
    output_names: Sequence[str] = OUTPUT_NAMES,
) -> bytes:
    """A network of one plugin, whose inputs are those of ``types``, in order, with the ranges of ``shapes``."""

    def define(trt: Any, network: Any) -> dict[str, Any]:
        inputs = []
        for input_name, dtype in types.items():
            smallest, _, largest = shapes[input_name]
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


_WORDS = {"float32": "Float", "float16": "Half", "int32": "Int"}


_CANDIDATE_TYPES = dict.fromkeys(OUTPUT_NAMES, "float32")


def _engine(
    plan: bytes, input_types: Mapping[str, str], output_types: Mapping[str, str] = MappingProxyType(_CANDIDATE_TYPES)
) -> Any:
    io_spec = (
        list(input_types),
        list(output_types),
        [_WORDS[dtype] for dtype in input_types.values()],
        [_WORDS[dtype] for dtype in output_types.values()],
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
    return _plugin_plan("RetinaNetDecode", case.fields(), dict.fromkeys(channels, case.dtype), shapes)


def nms_plan(case: NmsCase, *, numbers_per_box: int = 4) -> bytes:
    """A plan with the inputs "score", "box" and "class"."""
    numbers = {"score": 1, "box": numbers_per_box, "class": 1}
    shapes = {
        name: tuple((batch, count * each, 1, 1) for batch, count in zip(BATCHES, CANDIDATES, strict=True))
        for name, each in numbers.items()
    }
    return _plugin_plan("RetinaNetNMS", case.fields(), dict.fromkeys(numbers, case.dtype), shapes)


@functools.cache
def decode_engine(case: DecodeCase) -> Any:
    """``forward([scores, deltas])``; built once a session."""
    return _engine(decode_plan(case), dict.fromkeys(("cls", "box"), case.dtype))


@functools.cache
def nms_engine(case: NmsCase) -> Any:
    """``forward([scores, boxes, classes])``; built once a session."""
    return _engine(nms_plan(case), dict.fromkeys(("score", "box", "class"), case.dtype))


def postprocess_plan(case: PostProcessCase, *, delta_channels: int | None = None, numbers_per_image: int = 2) -> bytes:
    """A plan with the inputs ``case.input_types``; the deltas' channels are those of ``case`` unless given."""
    channels = {
        "cls": case.num_anchors * case.num_classes,
        "box": 4 * case.num_anchors if delta_channels is None else delta_channels,
    }
    shapes: dict[str, tuple[Sequence[int], ...]] = {
        name: tuple((batch, channels[name[:3]], side, side) for batch, side in zip(BATCHES, SIDES, strict=True))
        for name in case.input_types
        if name != "image_sizes"
    }
    shapes["image_sizes"] = tuple((batch, numbers_per_image) for batch in BATCHES)
    if not case.image_sizes:
        del shapes["image_sizes"]
    return _plugin_plan("RetinaNetPostProcess", case.fields(), case.input_types, shapes, (*OUTPUT_NAMES, COUNTS_NAME))


@functools.cache
def postprocess_engine(case: PostProcessCase) -> Any:
    """``forward(scores of all levels + deltas of all levels + image sizes if any)``; built once a session."""
    return _engine(postprocess_plan(case), case.input_types, _CANDIDATE_TYPES | {COUNTS_NAME: "int32"})


#: The smallest, the tuned and the largest extents of the input of ``LeakyReLU``.
LEAKY_RELU_EXTENTS = (1, 8, 3000)

#: The same for ``GroupNorm``: batch, and each extent after the channels.
GROUP_NORM_BATCHES = (1, 2, 8)
GROUP_NORM_EXTENTS = (1, 64, 600)


@dataclass(frozen=True)
class LeakyReluCase:
    """What one engine of ``LeakyReLU`` is built for."""

    dtype: Dtype = "float32"
    neg_slope: float = 0.1
    #: Dimensions of its input, each within :data:`LEAKY_RELU_EXTENTS`.
    rank: int = 2

    def fields(self) -> list[PluginField]:
        """The plugin's fields."""
        return [float_field("neg_slope", self.neg_slope)]


@dataclass(frozen=True)
class GroupNormCase:
    """What one engine of ``GroupNorm`` is built for; its inputs are ``[1..8, channels, ...]`` and two ``[channels]``.

    Channels are fixed, all other extents free.
    """

    dtype: Dtype = "float32"
    affine_dtype: Dtype = "float32"
    num_groups: int = 4
    channels: int = 8
    eps: float = 1e-5
    #: Dimensions after the channels, each within :data:`GROUP_NORM_EXTENTS`.
    spatial_rank: int = 2
    #: 1: one block a group where it holds one, 2: parts of groups, 3: a cluster of blocks a group where one holds it
    #: and the device has them, 0: what TensorRT finds fastest.
    variant: int = 0

    def fields(self) -> list[PluginField]:
        """The plugin's fields."""
        fields = [float_field("eps", self.eps), int_field("num_groups", self.num_groups)]
        return [*fields, int_field("variant", self.variant)] if self.variant else fields

    @property
    def input_types(self) -> dict[str, Dtype]:
        """The input, scale and bias."""
        return {"x": self.dtype, "scale": self.affine_dtype, "bias": self.affine_dtype}


def leaky_relu_plan(case: LeakyReluCase) -> bytes:
    """A plan with the input "x" and the output "y"."""
    shapes = {"x": tuple((extent,) * case.rank for extent in LEAKY_RELU_EXTENTS)}
    return _plugin_plan("LeakyReLU", case.fields(), {"x": case.dtype}, shapes, ["y"])


def group_norm_plan(case: GroupNormCase, *, scale_length: int | None = None) -> bytes:
    """A plan with the inputs "x", "scale" and "bias" and the output "y"."""
    length = case.channels if scale_length is None else scale_length
    shapes: dict[str, tuple[Sequence[int], ...]] = {
        "x": tuple(
            (batch, case.channels, *(extent,) * case.spatial_rank)
            for batch, extent in zip(GROUP_NORM_BATCHES, GROUP_NORM_EXTENTS, strict=True)
        ),
        "scale": ((length,),) * 3,
        "bias": ((case.channels,),) * 3,
    }
    return _plugin_plan("GroupNorm", case.fields(), case.input_types, shapes, ["y"])


@functools.cache
def leaky_relu_engine(case: LeakyReluCase) -> Any:
    """``forward([x])``; built once a session."""
    return _engine(leaky_relu_plan(case), {"x": case.dtype}, {"y": case.dtype})


@functools.cache
def group_norm_engine(case: GroupNormCase) -> Any:
    """``forward([x, scale, bias])``; built once a session."""
    return _engine(group_norm_plan(case), case.input_types, {"y": case.dtype})
