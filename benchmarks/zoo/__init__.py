"""Common architectures with random weights, by name: what ``benchmarks/sweep.py`` optimizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.models import fit_batch_norm, normalized, synthetic_images

__all__ = ["Example", "names", "prepare"]

_SEED = 0


@dataclass(frozen=True)
class Example:
    """A model in evaluation mode and the arguments of one call, on the CPU."""

    model: nn.Module
    arguments: tuple[Any, ...]


def _libraries() -> dict[str, tuple[tuple[str, ...], Callable[[str], Example]]]:
    from benchmarks.zoo import timm_models, torchvision_models, transformers_models

    return {
        "torchvision": (torchvision_models.NAMES, torchvision_models.build),
        "timm": (timm_models.NAMES, timm_models.build),
        "transformers": (transformers_models.NAMES, transformers_models.build),
    }


def names() -> list[str]:
    """All, as ``torchvision:resnet18``."""
    return [f"{library}:{name}" for library, (known, _) in _libraries().items() for name in known]


def prepare(name: str) -> Example:
    """Makes a model and its arguments; the same at every call.

    Raises:
        ValueError: there is no such name.
        ImportError: the library is not installed.
    """
    library, _, model = name.partition(":")
    known, build = _libraries().get(library, ((), None))
    if build is None or model not in known:
        raise ValueError(f"name must be one of benchmarks.zoo.names(), got {name!r}")
    torch.manual_seed(_SEED)
    example = build(model)
    example.model.eval()
    _fill_zeros(example.model)
    fit_batch_norm(example.model, _more_of(example.arguments))
    return example


def _more_of(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """One image, or one clip, and another one: of a single one, some channels have a single value to fit to."""
    if len(arguments) != 1:
        return arguments
    (given,) = arguments
    if isinstance(given, list):
        return ([*given, *(0.8 * image.flip(-1) for image in given)],)
    if isinstance(given, Tensor) and given.is_floating_point():
        return (torch.cat([given, 0.8 * given.flip(-1)]),)
    return arguments


def _fill_zeros(model: nn.Module) -> None:
    """Gives random numbers to weights that training would start at zero: after them every error would be zero, too."""
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d)) and weight is not None and not weight.any():
            nn.init.kaiming_normal_(weight)


def image(size: int, *, frames: int = 0) -> Tensor:
    """One normalized image, ``Tensor[1, 3, size, size]``, or a clip, ``Tensor[1, 3, frames, size, size]``."""
    (images,) = normalized(synthetic_images(max(1, frames), size, size))
    return images.transpose(0, 1)[None].contiguous() if frames else images
