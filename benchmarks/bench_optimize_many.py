"""Many models optimized on a Ray cluster at once, against one after the other.

    python -m benchmarks.bench_optimize_many --device gpu --models resnet18,resnet50 --batch 1,8 --out results.json

Each model in each batch size is a job of ``optimize_many``; a job for GPUs has one for itself. What one after the other
would take is the sum of the seconds that the jobs ran on their workers. What comes back is run here once and compared.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import ray
import torch

from benchmarks.models import MODELS, build_case, detections_or_outputs
from benchmarks.optimizing import quiet_config
from benchmarks.results import Results, header, write
from torch_trt_ext.optimize_many import Job, Result, optimize_many
from torch_trt_ext.optimizer.accuracy import compare


def _job(name: str, batch: int, device_type: str, max_seconds: float) -> Job:
    case = build_case(name, "cpu", batch=batch)
    return Job(
        model=torch.jit.script(case.model),
        name=f"{name}, batch {batch}",
        device_type=device_type,
        config=quiet_config(max_seconds, None),
        test_data=[case.arguments],
    )


@torch.no_grad()
def _entry(name: str, batch: int, result: Result, device: torch.device) -> Results:
    entry: Results = {"job": result.job.label, "node": result.node, "seconds": result.seconds}
    if result.failed:
        return {**entry, "failed": result.error}
    assert result.report is not None
    case = build_case(name, device, batch=batch)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        expected = detections_or_outputs(case, case.model(*case.arguments))
    answers = detections_or_outputs(case, result.load(map_location=device)(*case.arguments))
    return {
        **entry,
        "engines": len(result.report["engines"]),
        "speedup": float(result.report["overall"]["speedup"]),
        "relative_error": float(f"{compare(expected, answers).relative:.3g}"),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "gpu"], default="gpu")
    parser.add_argument("--models", default="resnet18,resnet50", help=f"with commas, of {', '.join(MODELS)}")
    parser.add_argument("--batch", default="1,8", help="with commas")
    parser.add_argument("--max-seconds", type=float, default=5.0, help="of a measurement within a job")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    args = parser.parse_args(arguments)
    cases = [(name, int(batch)) for name in args.models.split(",") for batch in args.batch.split(",")]
    jobs = [_job(name, batch, args.device, args.max_seconds) for name, batch in cases]
    # Not of what is measured: starting Ray, and what its worker imports.
    with ray.init(log_to_driver=False, configure_logging=False) as context:
        resources = ray.cluster_resources()
        started = time.perf_counter()
        results = optimize_many(jobs)
        seconds = time.perf_counter() - started
        version = context.ray_version
    device = torch.device("cuda" if args.device == "gpu" else "cpu")
    one_by_one = sum(result.seconds for result in results)
    found = {
        **header("bench_optimize_many", arguments),
        "ray": version,
        "gpus": int(resources.get("GPU", 0)),
        "seconds": round(seconds, 1),
        "seconds_of_jobs": round(one_by_one, 1),
        "times": round(one_by_one / seconds, 2),
        "jobs": [_entry(*case, result, device) for case, result in zip(cases, results, strict=True)],
    }
    write(args.out, found)
    print(json.dumps({key: found[key] for key in ("gpus", "seconds", "seconds_of_jobs", "times")}))


if __name__ == "__main__":
    main()
