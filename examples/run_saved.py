"""Runs a saved model in a process of its own that knows nothing of the model but the file.

The demos of PackNet and DETR start it; by hand: ``python -m examples.run_saved MODEL INPUTS OUTPUTS``.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

import torch_trt_ext.runtime  # noqa: F401  (registers the engine classes)
from benchmarks.timing import measure
from torch_trt_ext.optimizer.script_module import modules_with_engine


@torch.no_grad()
def main() -> None:
    """Loads a model, runs it on each input, times it on the first, and writes all of that."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("model", help="TorchScript file")
    parser.add_argument("inputs", help="torch.save'd list of tensors, one a call")
    parser.add_argument("outputs", help="where to write {'outputs': [[Tensor]], 'latency': {...}, 'engines': {...}}")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cpu")
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--profiled-runs", type=int, default=0, help="further runs in which every layer is timed")
    args = parser.parse_args()

    model = torch.jit.load(args.model, map_location=args.device)
    inputs = [tensor.to(args.device) for tensor in torch.load(args.inputs, weights_only=True)]
    outputs = [[output.cpu() for output in model(tensor)] for tensor in inputs]
    engines: dict[str, Any] = {path: module.engine for path, module in modules_with_engine(model).items()}
    counters = {path: engine.counters() for path, engine in engines.items()}
    latency = measure(lambda: model(inputs[0]), device=args.device, warmup=args.warmup, runs=args.runs)
    for engine in engines.values():
        engine.set_profiling(args.profiled_runs > 0)
    for _ in range(args.profiled_runs):
        model(inputs[0])
    found = {
        path: {
            "counters": counters[path],
            "layers": engine.layer_info(),
            "profile": engine.profile() if args.profiled_runs else [],
            "plugin_libraries": engine.plugin_libraries(),
        }
        for path, engine in engines.items()
    }
    torch.save({"outputs": outputs, "latency": latency.as_dict(), "engines": found}, args.outputs)


if __name__ == "__main__":
    main()
