"""RetinaNet post-processing (decode and NMS) as an engine, for a GPU (TensorRT plugins) or the CPU (OpenVINO)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from torch_trt_ext.engine_plan import EnginePlan

BoxConvention = Literal["retinanet_examples", "torchvision", "detectron2"]

OUTPUT_NAMES = ("scores", "boxes", "classes")

#: Batch sizes that the engine accepts: smallest, the one it is tuned for, largest.
DEFAULT_BATCH_RANGE = (1, 20, 1000)


@dataclass(frozen=True)
class LevelSpec:
    """One pyramid level: a decode layer and its two inputs.

    Attributes:
        cls_name: input name of the scores, ``Tensor[N, A * C, H, W]``, probabilities.
        box_name: input name of the box deltas, ``Tensor[N, A * 4, H, W]``.
        cls_shape: ``(A * C, H, W)``.
        box_shape: ``(A * 4, H, W)``.
        stride: pixels of the input image between two neighbouring cells.
        anchors: the level's ``A`` cell anchors, flat, xyxy pixels around (0, 0): ``4 * A`` numbers.
    """

    cls_name: str
    box_name: str
    cls_shape: tuple[int, int, int]
    box_shape: tuple[int, int, int]
    stride: int
    anchors: tuple[float, ...]


@dataclass(frozen=True)
class RetinaNetPostProcessSpec:
    """The whole post-processing network, independent of the engine that will run it.

    Inputs in order: every level's scores, then every level's deltas. Outputs: ``scores`` ``[N, D, 1, 1]``, ``boxes``
    ``[N, 4 * D, 1, 1]`` (xyxy pixels) and ``classes`` ``[N, D, 1, 1]``, all float32, best first, zero past the last
    detection.
    """

    levels: tuple[LevelSpec, ...]
    dtype: torch.dtype
    score_thresh: float
    nms_thresh: float
    topk_candidates: int
    max_detections_per_image: int
    box_convention: BoxConvention
    #: Height and width in pixels to which boxes are clipped, or None for the extent of each level's grid.
    image_size: tuple[int, int] | None
    batch_range: tuple[int, int, int]

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names in the order in which the engine takes its inputs."""
        return tuple(level.cls_name for level in self.levels) + tuple(level.box_name for level in self.levels)

    @property
    def type_word(self) -> str:
        """The inputs' type, in the words of the engine classes."""
        return {torch.float32: "Float", torch.float16: "Half"}[self.dtype]

    def to_plan(self, data: bytes, backend: Literal["tensorrt", "openvino"]) -> EnginePlan:
        """Wraps a serialized engine of this network."""
        return EnginePlan(
            data=data,
            backend=backend,
            input_names=self.input_names,
            output_names=OUTPUT_NAMES,
            input_types=(self.type_word,) * len(self.input_names),
            output_types=("Float",) * len(OUTPUT_NAMES),
        )


def _check_heads(cls_heads: Sequence[Tensor], box_heads: Sequence[Tensor], anchors_list: Sequence[Tensor]) -> None:
    counts = (len(cls_heads), len(box_heads), len(anchors_list))
    if len(set(counts)) != 1 or counts[0] == 0:
        raise ValueError(
            "example_outputs and anchors_list must have one entry a pyramid level, got "
            f"{counts[0]} class heads, {counts[1]} box heads and {counts[2]} anchor tensors; pass one of each a level"
        )
    for level, (cls, box, anchors) in enumerate(zip(cls_heads, box_heads, anchors_list, strict=True)):
        if cls.dim() != 4 or box.dim() != 4:
            raise ValueError(
                f"heads of level {level} must be [N, channels, H, W], got {tuple(cls.shape)} and {tuple(box.shape)}; "
                "pass the heads as the network gives them, before any permute"
            )
        if cls.shape[-2:] != box.shape[-2:]:
            raise ValueError(
                f"both heads of level {level} must have the same H and W, got {tuple(cls.shape)} and {tuple(box.shape)}"
            )
        if anchors.numel() == 0 or anchors.numel() % 4:
            raise ValueError(f"anchors of level {level} must be [A, 4], got {tuple(anchors.shape)}")
        num_anchors = anchors.numel() // 4
        if box.shape[1] != 4 * num_anchors:
            raise ValueError(
                f"box head of level {level} must have 4 channels an anchor, {4 * num_anchors} for {num_anchors} "
                f"anchors, got {box.shape[1]}"
            )
        if cls.shape[1] == 0 or cls.shape[1] % num_anchors:
            raise ValueError(
                f"class head of level {level} must have num_classes channels an anchor, a multiple of {num_anchors}, "
                f"got {cls.shape[1]}"
            )
        if cls.dtype != box.dtype or cls.dtype not in (torch.float32, torch.float16):
            raise TypeError(
                f"heads of level {level} must both be float32 or both float16, got {cls.dtype} and {box.dtype}"
            )
        if cls.dtype != cls_heads[0].dtype:
            raise TypeError(f"heads of all levels must have one dtype, got {cls_heads[0].dtype} and {cls.dtype}")


def _stride(image_width: int, head_width: int) -> int:
    """Pixels a cell: the power of two next to the ratio, since a head's width is the image's divided and rounded up."""
    ratio = image_width / head_width
    power = 1
    while power * 2**0.5 < ratio:
        power *= 2
    return power


def retinanet_postprocess_spec(
    example_outputs: tuple[Sequence[Tensor], Sequence[Tensor]],
    input_image_shape: Sequence[int],
    anchors_list: Sequence[Tensor],
    test_score_thresh: float = 0.05,
    test_nms_thresh: float = 0.5,
    test_topk_candidates: int = 1000,
    max_detections_per_image: int = 100,
    *,
    box_convention: BoxConvention = "retinanet_examples",
    image_size: tuple[int, int] | None = None,
    batch_range: tuple[int, int, int] = DEFAULT_BATCH_RANGE,
    strides: Sequence[int] | None = None,
) -> RetinaNetPostProcessSpec:
    """Checks the arguments of :func:`build_retinanet_decode` and describes the network they ask for."""
    cls_heads, box_heads = (list(heads) for heads in example_outputs)
    _check_heads(cls_heads, box_heads, anchors_list)
    if len(input_image_shape) < 2:
        raise ValueError(f"input_image_shape must end in height and width, got {tuple(input_image_shape)}")
    for name, value in (("test_score_thresh", test_score_thresh), ("test_nms_thresh", test_nms_thresh)):
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} must be in [0, 1], got {value}")
    for name, count in (
        ("test_topk_candidates", test_topk_candidates),
        ("max_detections_per_image", max_detections_per_image),
    ):
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    if box_convention not in get_args(BoxConvention):
        raise ValueError(f"box_convention must be one of {get_args(BoxConvention)}, got {box_convention!r}")
    if not 1 <= batch_range[0] <= batch_range[1] <= batch_range[2]:
        raise ValueError(f"batch_range must be (min, opt, max) with 1 <= min <= opt <= max, got {tuple(batch_range)}")
    if image_size is not None and min(image_size) < 1:
        raise ValueError(f"image_size must be (height, width) in pixels, got {image_size}")
    if strides is None:
        strides = [_stride(input_image_shape[-1], cls.shape[-1]) for cls in cls_heads]
    elif len(strides) != len(cls_heads) or min(strides) < 1:
        raise ValueError(f"strides must be {len(cls_heads)} positive numbers, one a level, got {list(strides)}")
    levels = tuple(
        LevelSpec(
            cls_name=f"cls_head{index}",
            box_name=f"box_head{index}",
            cls_shape=(cls.shape[1], cls.shape[2], cls.shape[3]),
            box_shape=(box.shape[1], box.shape[2], box.shape[3]),
            stride=int(stride),
            anchors=tuple(float(value) for value in anchors.detach().reshape(-1).tolist()),
        )
        for index, (cls, box, anchors, stride) in enumerate(
            zip(cls_heads, box_heads, anchors_list, strides, strict=True)
        )
    )
    return RetinaNetPostProcessSpec(
        levels=levels,
        dtype=cls_heads[0].dtype,
        score_thresh=float(test_score_thresh),
        nms_thresh=float(test_nms_thresh),
        topk_candidates=int(test_topk_candidates),
        max_detections_per_image=int(max_detections_per_image),
        box_convention=box_convention,
        image_size=image_size,
        batch_range=batch_range,
    )


def build_retinanet_decode(
    example_outputs: tuple[Sequence[Tensor], Sequence[Tensor]],
    input_image_shape: Sequence[int],
    anchors_list: Sequence[Tensor],
    test_score_thresh: float = 0.05,
    test_nms_thresh: float = 0.5,
    test_topk_candidates: int = 1000,
    max_detections_per_image: int = 100,
    *,
    device_type: Literal["gpu", "cpu"] = "gpu",
    box_convention: BoxConvention = "retinanet_examples",
    image_size: tuple[int, int] | None = None,
    batch_range: tuple[int, int, int] = DEFAULT_BATCH_RANGE,
    strides: Sequence[int] | None = None,
) -> EnginePlan:
    """Builds RetinaNet's post-processing (decode, then NMS over all levels) into an engine.

    The engine takes every level's scores, then every level's deltas, as a ``forward`` list, and returns ``scores``
    ``Tensor[N, D, 1, 1]``, ``boxes`` ``Tensor[N, 4 * D, 1, 1]`` (xyxy, pixels of the input image) and ``classes``
    ``Tensor[N, D, 1, 1]``, float32, where ``D`` is ``max_detections_per_image``: best score first, equal scores in the
    order of levels and then of flat head indices, zeros past an image's last detection.

    Args:
        example_outputs: the heads of one run, ``(cls_heads, box_heads)``; a level's are ``Tensor[N, A * C, H, W]``,
            probabilities, and ``Tensor[N, A * 4, H, W]``, both float32 or both float16, any device. Only shapes and
            dtypes are read.
        input_image_shape: shape of the image batch that gave them, ``(..., height, width)`` in pixels.
        anchors_list: each level's cell anchors, ``Tensor[A, 4]``, xyxy pixels around (0, 0).
        test_score_thresh: a candidate's score must be greater than this, in [0, 1].
        test_nms_thresh: of two boxes of a class whose IoU is greater than this, the lower goes, in [0, 1].
        test_topk_candidates: candidates kept a level and image, best first.
        max_detections_per_image: detections kept an image, ``D``.
        device_type: "gpu" builds a TensorRT plan (needs a GPU, TensorRT's Python module and its builder), "cpu" an
            OpenVINO engine.
        box_convention: the arithmetic of boxes. "retinanet_examples": widths are x2 - x1 + 1, deltas are not clamped,
            x1 and y1 are clipped below and x2 and y2 above, at the grid's extent - 1. "torchvision": widths are
            x2 - x1, dw and dh are clamped to log(1000 / 16), all four are clipped to the image. "detectron2": as
            torchvision's, but not clipped.
        image_size: (height, width) in pixels to which "torchvision" clips; the grid's extent by default.
        batch_range: (min, opt, max) of the batch size N.
        strides: pixels a cell, one a level; by default the powers of two next to image width / head width.

    Returns:
        The engine. ``TRTEngineExtension(bytes(plan.serialize()), plan.io_spec)`` (GPU) or
        ``OpenVINOEngineExtension(...)`` (CPU) runs it.

    Raises:
        TypeError: heads are of mixed or other dtypes.
        ValueError: an argument is out of its range, or shapes do not fit each other.
        RuntimeError: TensorRT, a GPU or OpenVINO is missing, or the engine could not be built.

    Source:
        The network and its defaults follow the ``build_retinanet_decode`` of PAI-Blade's RetinaNet tutorial.
    """
    if device_type not in ("gpu", "cpu"):
        raise ValueError(f"device_type must be 'gpu' or 'cpu', got {device_type!r}")
    spec = retinanet_postprocess_spec(
        example_outputs,
        input_image_shape,
        anchors_list,
        test_score_thresh,
        test_nms_thresh,
        test_topk_candidates,
        max_detections_per_image,
        box_convention=box_convention,
        image_size=image_size,
        batch_range=batch_range,
        strides=strides,
    )
    if device_type == "gpu":
        from torch_trt_ext.builders.retinanet_tensorrt import build_tensorrt_plan

        return spec.to_plan(build_tensorrt_plan(spec), "tensorrt")
    from torch_trt_ext.builders.retinanet_openvino import build_openvino_plan

    return spec.to_plan(build_openvino_plan(spec), "openvino")
