"""RetinaNet post-processing as a TensorRT plan, out of our plugins.

``RetinaNetPostProcess`` does all of it; ``RetinaNetDecode`` and ``RetinaNetNMS`` are for networks with more levels than
it takes, and for those who want the candidates.
"""

from __future__ import annotations

from typing import Any

import torch

from torch_trt_ext.builders.retinanet import OUTPUT_NAMES, LevelSpec, RetinaNetPostProcessSpec
from torch_trt_ext.builders.tensorrt_build import (
    PluginField,
    Profile,
    ShapeRange,
    build_plan,
    create_plugin,
    float_field,
    import_tensorrt,
    int_field,
    string_field,
)

__all__ = ["MAX_FUSED_LEVELS", "build_tensorrt_plan", "decode_fields", "nms_fields", "postprocess_fields"]

#: Levels that ``RetinaNetPostProcess`` takes: kMaxLevels in plugins/retinanet/heads.h.
MAX_FUSED_LEVELS = 8


def decode_fields(spec: RetinaNetPostProcessSpec, level: LevelSpec) -> list[PluginField]:
    """Fields of the plugin that decodes ``level``."""
    # 0 is the plugin's word for the extent of the level's grid.
    image_height, image_width = spec.image_size or (0, 0)
    return [
        int_field("topk_candidates", spec.topk_candidates),
        float_field("score_thresh", spec.score_thresh),
        int_field("stride", level.stride),
        # The plugin counts floats here, four an anchor, as the plugin of this name in retinanet-examples does.
        int_field("num_anchors", len(level.anchors)),
        float_field("anchors", *level.anchors),
        string_field("box_convention", spec.box_convention),
        int_field("image_height", image_height),
        int_field("image_width", image_width),
    ]


def nms_fields(spec: RetinaNetPostProcessSpec) -> list[PluginField]:
    """Fields of the plugin that suppresses the candidates of all levels."""
    return [
        float_field("nms_thresh", spec.nms_thresh),
        int_field("max_detections_per_image", spec.max_detections_per_image),
        string_field("box_convention", spec.box_convention),
    ]


def postprocess_fields(spec: RetinaNetPostProcessSpec) -> list[PluginField]:
    """Fields of the plugin that does it all."""
    image_height, image_width = spec.image_size or (0, 0)
    return [
        int_field("topk_candidates", spec.topk_candidates),
        float_field("score_thresh", spec.score_thresh),
        float_field("nms_thresh", spec.nms_thresh),
        int_field("max_detections_per_image", spec.max_detections_per_image),
        int_field("strides", *(level.stride for level in spec.levels)),
        int_field("num_anchors", *(len(level.anchors) for level in spec.levels)),
        float_field("anchors", *(value for level in spec.levels for value in level.anchors)),
        string_field("box_convention", spec.box_convention),
        int_field("image_height", image_height),
        int_field("image_width", image_width),
    ]


def _add_plugin(network: Any, name: str, inputs: list[Any], fields: list[PluginField], library: str) -> list[Any]:
    """The outputs of one of our plugins: scores, boxes and classes."""
    layer = network.add_plugin_v3(inputs, [], create_plugin(name, fields, library=library))
    if layer is None:
        raise RuntimeError(f"TensorRT refused the plugin '{name}' on the inputs {[it.name for it in inputs]}")
    return [layer.get_output(index) for index in range(len(OUTPUT_NAMES))]


def _add_decode_and_nms(
    network: Any, spec: RetinaNetPostProcessSpec, inputs: dict[str, Any], library: str
) -> list[Any]:
    decoded = [
        _add_plugin(
            network,
            "RetinaNetDecode",
            [inputs[level.cls_name], inputs[level.box_name]],
            decode_fields(spec, level),
            library,
        )
        for level in spec.levels
    ]
    candidates = []
    for parts in zip(*decoded, strict=True):
        concatenation = network.add_concatenation(list(parts))
        concatenation.axis = 1
        candidates.append(concatenation.get_output(0))
    return _add_plugin(network, "RetinaNetNMS", candidates, nms_fields(spec), library)


def _shape_range(spec: RetinaNetPostProcessSpec, image_shape: tuple[int, int, int]) -> ShapeRange:
    smallest, tuned, largest = ((batch, *image_shape) for batch in spec.batch_range)
    return smallest, tuned, largest


def build_tensorrt_plan(spec: RetinaNetPostProcessSpec, *, fused: bool = True) -> bytes:
    """Builds the network that ``spec`` describes for the current GPU.

    Args:
        spec: the network.
        fused: whether one plugin does it all, where it takes so many levels; else one plugin a level and one for the
            suppression. The outputs are the same.

    Returns:
        The serialized engine; its inputs and outputs are called as in ``spec``.

    Raises:
        RuntimeError: TensorRT, a GPU or our plugin library is missing, or the build failed.
    """
    # TensorRT first: our plugins register themselves with the copy that is loaded.
    import_tensorrt()
    from torch_trt_ext.runtime import load_plugins

    library = str(load_plugins())

    def define(trt: Any, network: Any) -> Profile:
        dtype = {torch.float32: trt.float32, torch.float16: trt.float16}[spec.dtype]
        inputs = {}
        ranges: dict[str, ShapeRange] = {}
        shapes = [(level.cls_name, level.cls_shape) for level in spec.levels]
        shapes += [(level.box_name, level.box_shape) for level in spec.levels]
        for name, shape in shapes:
            inputs[name] = network.add_input(name, dtype, (-1, *shape))
            ranges[name] = _shape_range(spec, shape)
        if fused and len(spec.levels) <= MAX_FUSED_LEVELS:
            outputs = _add_plugin(
                network,
                "RetinaNetPostProcess",
                [inputs[name] for name in spec.input_names],
                postprocess_fields(spec),
                library,
            )
        else:
            outputs = _add_decode_and_nms(network, spec, inputs, library)
        for name, output in zip(OUTPUT_NAMES, outputs, strict=True):
            output.name = name
            network.mark_output(output)
        return ranges

    return build_plan("RetinaNet's post-processing", define)
