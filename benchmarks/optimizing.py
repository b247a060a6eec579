"""How benchmarks call ``optimize()``."""

from __future__ import annotations

from pathlib import Path

from torch_trt_ext import Config

__all__ = ["quiet_config"]


def quiet_config(max_seconds: float, cache: Path | None) -> Config:
    """Options without progress bars.

    Args:
        max_seconds: of a measurement of time.
        cache: folder for engines and timings, or None.
    """
    config = Config()
    config.timing.max_seconds = max_seconds
    config.progress = False
    config.cache.enabled = cache is not None
    if cache is not None:
        config.cache.folder = str(cache)
    return config
