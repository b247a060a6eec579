"""Runs a saved detector in a process of its own that knows nothing but torch and the runtime.

``demo.py`` starts it; by hand: ``python -m examples.retinanet.run_saved MODEL IMAGES OUTPUTS``.
"""

from __future__ import annotations

import argparse
import sys

import torch

import torch_trt_ext.runtime  # noqa: F401  (registers the engine classes)
from benchmarks.timing import measure
from examples.retinanet.progress import Progress


def main() -> None:
    """Loads a model, runs it on batches of images, times it on one image, and writes all of that."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("model", help="TorchScript file")
    parser.add_argument("images", help="torch.save'd Tensor[N, 3, H, W], uint8")
    parser.add_argument("outputs", help="where to write {'batches': [[Tensor]], 'latency': {...}}")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--runs", type=int, default=200)
    args = parser.parse_args()

    model = torch.jit.load(args.model)
    images = torch.load(args.images, weights_only=True)
    batches = []
    with torch.no_grad():
        progress = Progress(len(images), "scenes")
        for first in range(0, len(images), args.batch_size):
            outputs = model(images[first : first + args.batch_size].to(args.device).float() / 255)
            batches.append([output.cpu() for output in outputs])
            progress.update(min(first + args.batch_size, len(images)))
        one = images[:1].to(args.device).float() / 255
        latency = measure(lambda: model(one), device=args.device, warmup=args.warmup, runs=args.runs)
    modules = sorted(name for name in sys.modules if name in ("tensorrt", "openvino", "torchvision"))
    torch.save({"batches": batches, "latency": latency.as_dict(), "other_modules": modules}, args.outputs)


if __name__ == "__main__":
    main()
