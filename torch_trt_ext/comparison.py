"""Two models on the same inputs: how far the answers of one are from those of the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from torch_trt_ext.optimizer.accuracy import Comparison, compare
from torch_trt_ext.optimizer.reference import checked_answer
from torch_trt_ext.optimizer.structures import children, describe, is_sequence

__all__ = ["compare_models", "name_detections"]


def compare_models(
    expected: torch.jit.ScriptModule,
    actual: torch.jit.ScriptModule,
    items: Sequence[tuple[Any, ...]],
    *,
    detections: Sequence[str] = (),
) -> list[Comparison]:
    """Compares the answers of two models, without gradients, and without TF32 in PyTorch's convolutions.

    Torch's seed is set before each call, so that models that draw random numbers draw the same ones.

    Args:
        expected: the reference.
        actual: what is compared with it.
        items: the positional arguments of one call each, where the models are.
        detections: what the models' outputs are, for :func:`name_detections`; empty for other outputs, and for
            torchvision's dicts, which are known for what they are.

    Returns:
        A comparison for each item.

    Raises:
        ValueError: a model refuses an item, or has no such detections.
    """
    comparisons = []
    for item in items:
        outputs = [checked_answer(model, item, "inputs") for model in (expected, actual)]
        if detections:
            outputs = [name_detections(output, detections) for output in outputs]
        comparisons.append(compare(*outputs))
    return comparisons


def name_detections(outputs: Any, names: Sequence[str]) -> list[dict[str, torch.Tensor]]:
    """Batched detections, as engines give them, in torchvision's form: a dict for each image.

    Args:
        outputs: tensors in a tuple or list, as scores ``Tensor[N, K]``, boxes ``Tensor[N, K, 4]`` (xyxy) and labels
            ``Tensor[N, K]``. What has no score above 0 is padding and is left out.
        names: what the first of them are: "scores", "boxes" and perhaps "labels", in the outputs' order.

    Raises:
        ValueError: other names, or outputs of other shapes.
    """
    if not {"scores", "boxes"} <= set(names) <= {"scores", "boxes", "labels"} or len(set(names)) < len(names):
        raise ValueError(
            f"detections must name scores, boxes and perhaps labels in the outputs' order, got {', '.join(names)}"
        )
    found = [element for _, element in children(outputs)] if is_sequence(outputs) else []
    named = dict(zip(names, found, strict=False))
    tensors = {name: value for name, value in named.items() if isinstance(value, torch.Tensor)}
    scores = tensors.get("scores")
    if (
        len(tensors) < len(names)
        or scores is None
        or scores.dim() != 2
        or tensors["boxes"].shape != (*scores.shape, 4)
        or ("labels" in tensors and tensors["labels"].shape != scores.shape)
    ):
        raise ValueError(
            f"outputs must begin with {', '.join(names)} of shapes [N, K], boxes [N, K, 4], got {describe(outputs)}; "
            "leave detections out for other outputs"
        )
    return [
        {name: tensor[image][scores[image] > 0] for name, tensor in tensors.items()} for image in range(len(scores))
    ]
