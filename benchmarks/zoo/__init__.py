"""Common architectures with random weights, by name: what ``benchmarks/sweep.py`` optimizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.models import synthetic_images

__all__ = ["Example", "names", "prepare"]

_SEED = 0

#: Mean and standard deviation of the noise that images are made of; see benchmarks/models.py.
_MEAN, _STD = 0.5, 0.12


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
    _fit_batch_norm(example)
    return example


def image(size: int, *, frames: int = 0) -> Tensor:
    """One normalized image, ``Tensor[1, 3, size, size]``, or a clip, ``Tensor[1, 3, frames, size, size]``."""
    images = (synthetic_images(max(1, frames), size, size) - _MEAN) / _STD
    return images.transpose(0, 1)[None].contiguous() if frames else images


def _fit_batch_norm(example: Example) -> None:
    """Gives batch normalization the statistics of the example, so that signals neither fade nor grow with depth."""
    norms = [module for module in example.model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        example.model(*example.arguments)
    for norm in norms:
        norm.eval()
