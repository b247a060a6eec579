"""RetinaNet's post-processing as an OpenVINO model, out of the operations in libtorch_trt_ext_openvino.so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from torch_trt_ext.builders.openvino_model import import_openvino, pack_model
from torch_trt_ext.builders.retinanet import OUTPUT_NAMES, LevelSpec, RetinaNetPostProcessSpec

if TYPE_CHECKING:
    import openvino


def _node_factory() -> Any:
    from openvino.utils.node_factory import NodeFactory

    from torch_trt_ext.runtime import library_path

    path = library_path("openvino")
    factory = NodeFactory()
    factory.add_extension(str(path))
    return factory


def _level_attributes(spec: RetinaNetPostProcessSpec, level: LevelSpec) -> dict[str, Any]:
    height, width = spec.image_size or (0, 0)
    return {
        "topk_candidates": spec.topk_candidates,
        "score_thresh": spec.score_thresh,
        "stride": level.stride,
        "num_anchors": len(level.anchors),
        "anchors": list(level.anchors),
        "box_convention": spec.box_convention,
        "image_height": height,
        "image_width": width,
    }


def build_openvino_model(spec: RetinaNetPostProcessSpec) -> openvino.Model:
    """Builds the network that ``spec`` describes as an OpenVINO model.

    Raises:
        RuntimeError: OpenVINO or this package's library for it is missing.
    """
    ov = import_openvino()
    from openvino import opset13

    factory = _node_factory()
    element_type = {torch.float32: ov.Type.f32, torch.float16: ov.Type.f16}[spec.dtype]
    batch = ov.Dimension(spec.batch_range[0], spec.batch_range[2])

    def parameter(name: str, shape: tuple[int, int, int]) -> Any:
        node = opset13.parameter(ov.PartialShape([batch, *shape]), element_type, name)
        node.output(0).get_tensor().set_names({name})
        return node

    scores = [parameter(level.cls_name, level.cls_shape) for level in spec.levels]
    deltas = [parameter(level.box_name, level.box_shape) for level in spec.levels]
    decoded = [
        factory.create(
            "RetinaNetDecode", [level_scores.output(0), level_deltas.output(0)], _level_attributes(spec, level)
        )
        for level_scores, level_deltas, level in zip(scores, deltas, spec.levels, strict=True)
    ]
    candidates = [opset13.concat([node.output(index) for node in decoded], axis=1).output(0) for index in range(3)]
    detections = factory.create(
        "RetinaNetNMS",
        candidates,
        {
            "nms_thresh": spec.nms_thresh,
            "max_detections_per_image": spec.max_detections_per_image,
            "box_convention": spec.box_convention,
        },
    )
    results = []
    for index, name in enumerate(OUTPUT_NAMES):
        port = detections.output(index)
        port.get_tensor().set_names({name})
        results.append(opset13.result(port, name))
    return ov.Model(results, [*scores, *deltas], "retinanet_postprocess")


def build_openvino_plan(spec: RetinaNetPostProcessSpec) -> bytes:
    """Builds the network that ``spec`` describes into an engine for ``OpenVINOEngineExtension``.

    Raises:
        RuntimeError: OpenVINO or this package's library for it is missing.
    """
    return pack_model(build_openvino_model(spec))
