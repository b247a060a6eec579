"""The deployment that runs the engines, one batch a call."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ray.serve.metrics import Histogram

from examples.serving.images import Pixels
from examples.serving.model import ServedModel


class Detector:
    """A loaded model. What Python does here for each image is little, so that the GPU need not wait for it.

    Args:
        path: of the model's file.

    Raises:
        RuntimeError: an engine of the model cannot run here.
    """

    def __init__(self, path: str) -> None:
        self._model = ServedModel(Path(path))
        # One batch at a time: a second one could only wait for the first one's GPU. The event loop goes on meanwhile.
        self._runner = ThreadPoolExecutor(1, thread_name_prefix="engines")
        self._batch_size = Histogram(
            "detector_batch_size",
            "Images in a call of the engines.",
            # Ray passes on how many values each bucket has, and takes their middle for the sum: so it is exact.
            boundaries=[size + 0.5 for size in range(self._model.max_batch + 1)],
        )

    async def detect(self, images: Pixels) -> list[bytes]:
        """Runs a batch.

        Args:
            images: ``[n, H, W, 3]``, uint8, RGB.

        Returns:
            For each image ``[k, 6]``, float32: :data:`examples.serving.settings.COLUMNS`.
        """
        self._batch_size.observe(len(images))
        found = await asyncio.get_running_loop().run_in_executor(self._runner, self._model.detect, images)
        return [rows.tobytes() for rows in found]

    async def describe(self) -> dict[str, Any]:
        """The replica's process, and what it runs."""
        return {
            "pid": os.getpid(),
            "device": str(self._model.device),
            "fallbacks": self._model.fallbacks(),
            "why_not": self._model.why_not(),
        }

    def check_health(self) -> None:
        """Serve asks this, and replaces a replica that raises."""
        if problem := self._model.why_not():
            raise RuntimeError(problem)
