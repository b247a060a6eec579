"""The detector's file, and one call of it: what a replica does between HTTP and the engines.

Nothing here knows Ray. By hand: ``python -m examples.serving.model detector.pt --device cpu|gpu``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import torch_trt_ext  # registers the engine classes
from examples.serving.images import Pixels
from examples.serving.settings import Facts
from torch_trt_ext.config import Config
from torch_trt_ext.optimizer.script_module import FoundEngine, find_engines

#: Name of the extra file that says what images the model takes.
IMAGES_FILE = "images.json"

#: Calls of each batch size before the first request. CUDA graphs are recorded at the third.
_WARMUP_CALLS = {"cuda": 4, "cpu": 1}


def max_batch(engines: Sequence[FoundEngine]) -> int:
    """The largest batch that every engine takes: the smallest of the engines' largest, by their profiles.

    Args:
        engines: of a model whose engines' inputs all have the batch on their first axis.

    Raises:
        ValueError: there is no engine, one takes no single image, or one is of a file that does not say its profiles.
    """
    if not engines:
        raise ValueError("model must have engines, got none; optimize() it first")
    return min(_max_batch(found) for found in engines)


def _max_batch(found: FoundEngine) -> int:
    try:
        profiles = found.engine.profiles()
    except RuntimeError as error:
        raise ValueError(
            f"{found.label} must say its profiles, but does not: {error}; optimize the model again"
        ) from error
    # A batch must fit one profile, with all of its inputs.
    ranges = [
        (max(smallest[0] for smallest, _, _ in profile), min(largest[0] for _, _, largest in profile))
        for profile in profiles
    ]
    if not any(smallest <= 1 <= largest for smallest, largest in ranges):
        raise ValueError(
            f"{found.label} must take a single image, got batches of {ranges}; give optimize() such test data too"
        )
    # Requests come one by one, so batches grow from one: beyond a gap between profiles lies nothing that can be used.
    reached = 1
    for smallest, largest in sorted(ranges):
        if smallest <= reached + 1:
            reached = max(reached, largest)
    return reached


def read_facts(path: Path) -> Facts:
    """Reads what the server must know, on any machine.

    Args:
        path: what :func:`save_detector` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it does not say what images it takes, or its engines do not say what batches.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"model must be a file, but there is none at {path}; python -m examples.serving.model makes it"
        )
    model, height, width = _load(path, torch.device("cpu"))
    engines = find_engines(model)
    return Facts(height, width, max_batch(engines), tuple(sorted({found.backend for found in engines})))


def _load(path: Path, device: torch.device) -> tuple[torch.jit.ScriptModule, int, int]:
    extra_files = {IMAGES_FILE: ""}
    model = torch.jit.load(str(path), map_location=device, _extra_files=extra_files)
    if not extra_files[IMAGES_FILE]:
        raise ValueError(f"model {path} must have the extra file {IMAGES_FILE!r} with its images' size; save it again")
    size = json.loads(extra_files[IMAGES_FILE])
    return model, int(size["height"]), int(size["width"])


class ServedModel:
    """A detector that is loaded and warm.

    Args:
        path: what :func:`save_detector` wrote.

    Raises:
        RuntimeError: one of its engines cannot run here.
    """

    def __init__(self, path: Path) -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model, self.height, self.width = _load(path, device)
        self._engines = find_engines(self._model)
        if device.type == "cuda" and any(found.backend == "openvino" for found in self._engines):
            device = torch.device("cpu")
            self._model, self.height, self.width = _load(path, device)
            self._engines = find_engines(self._model)
        self.device = device
        self.max_batch = max_batch(self._engines)
        if problem := self.why_not():
            raise RuntimeError(problem)
        # Memory that the GPU reads directly. Answers are waited for, so that one batch's is free for the next one.
        self._staging = torch.empty(
            (self.max_batch, self.height, self.width, 3), dtype=torch.uint8, pin_memory=device.type == "cuda"
        )
        for count in range(1, self.max_batch + 1):
            for _ in range(_WARMUP_CALLS[device.type]):
                self.detect(np.zeros((count, self.height, self.width, 3), np.uint8))

    def why_not(self) -> str:
        """Why the model's engines cannot run here; empty where they can."""
        return "; ".join(f"{one.label}: {one.engine.why_not()}" for one in self._engines if not one.engine.can_run())

    def example(self) -> Pixels:
        """A batch of the largest size, of noise."""
        shape = (self.max_batch, self.height, self.width, 3)
        return np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def fallbacks(self) -> int:
        """How often PyTorch ran in an engine's place."""
        return sum(int(found.engine.counters()["fallbacks"]) for found in self._engines)

    @torch.inference_mode()
    def detect(self, images: Pixels) -> list[NDArray[np.float32]]:
        """Runs one batch. Not for several threads at once.

        Args:
            images: ``[n, H, W, 3]``, uint8, RGB, at most ``max_batch``.

        Returns:
            For each image ``[k, 6]``: :data:`examples.serving.settings.COLUMNS`, best score first.
        """
        staged = self._staging[: len(images)]
        np.copyto(staged.numpy(), images)
        pixels = staged.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        batch = pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        scores, boxes, classes = self._model(batch)
        slots = scores.shape[1]
        rows = torch.cat(
            [boxes.reshape(-1, slots, 4), scores.reshape(-1, slots, 1), classes.reshape(-1, slots, 1)], dim=2
        )
        found: NDArray[np.float32] = rows.float().cpu().numpy()
        # What is past an image's last detection has a score of 0.
        return [image[: int(np.count_nonzero(image[:, 4]))] for image in found]


def save_detector(path: Path, device_type: str, *, largest_batch: int = 8, config: Config | None = None) -> None:
    """Makes the file that is served: the demo's detector, optimized for batches of 1 to ``largest_batch``.

    Args:
        path: the file to write.
        device_type: "gpu" or "cpu", as ``optimize()`` takes it.
        largest_batch: images in one call.
        config: of ``optimize()``.
    """
    # What builds the detector is not needed where it is served.
    from benchmarks.models import build_case

    case = build_case("digits_with_engine", "cuda" if device_type == "gpu" else "cpu", batch=largest_batch)
    (images,) = case.arguments
    test_data = [(images[:1],), (images,)]
    optimized, _, _ = torch_trt_ext.optimize(case.model, "o1", device_type, config=config, test_data=test_data)
    size = {"height": images.shape[-2], "width": images.shape[-1]}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.jit.save(optimized, str(path), _extra_files={IMAGES_FILE: json.dumps(size)})


def main() -> None:
    """Writes the detector's file."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("file", type=Path, help="to write")
    parser.add_argument("--device", choices=["gpu", "cpu"], required=True)
    parser.add_argument("--largest-batch", type=int, default=8)
    args = parser.parse_args()
    save_detector(args.file, args.device, largest_batch=args.largest_batch)
    print(json.dumps(asdict(read_facts(args.file))))


if __name__ == "__main__":
    main()
