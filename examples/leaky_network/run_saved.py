"""Loads engines from their files and runs them, in a process of its own.

``demo.py`` starts it; by hand: ``python -m examples.leaky_network.run_saved ENGINE INPUTS OUTPUTS``.
"""

from __future__ import annotations

import argparse

import torch

from benchmarks.timing import measure
from torch_trt_ext.engine import OpenVINOEngineExtension, TRTEngineExtension


@torch.no_grad()
def main() -> None:
    """Runs an engine of one input and one output on batches, times it on one row, and writes all of that."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("engine", help="file of a plan")
    parser.add_argument("inputs", help="torch.save'd tensor, whose first axis is the batch")
    parser.add_argument("outputs", help="where to write {'outputs': Tensor, 'latency': {...}, ...}")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cpu")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--runs", type=int, default=200)
    args = parser.parse_args()
    engine_class = TRTEngineExtension if args.device == "cuda" else OpenVINOEngineExtension
    engine = engine_class.from_plan(args.engine)
    inputs = torch.load(args.inputs, weights_only=True).to(args.device)
    outputs = torch.cat([engine.forward([batch])[0].cpu() for batch in inputs.split(args.batch_size)])
    latency = measure(lambda: engine.forward([inputs[:1]]), device=args.device, runs=args.runs)
    found = {
        "outputs": outputs,
        "latency": latency.as_dict(),
        "io_names": engine.io_names(),
        "layers": engine.layer_info(),
        "plugin_libraries": engine.plugin_libraries(),
    }
    torch.save(found, args.outputs)


if __name__ == "__main__":
    main()
