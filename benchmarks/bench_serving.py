"""The serving example under load: batches against single images, more requests than it can answer, a replica that dies.

    python -m benchmarks.bench_serving --device cpu|gpu --out results.json [--model detector.pt]

Every answer is compared with what the model gives for the image alone. Server and clients share the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.optimizing import quiet_config
from benchmarks.results import Results, header, measure_all
from examples.serving.cases import make_cases
from examples.serving.client import Case, Outcome
from examples.serving.model import ServedModel, read_facts, save_detector
from examples.serving.phases import batch_sizes, kill, overload, throughput
from examples.serving.server import Server, local_ray, serving
from examples.serving.settings import Options
from torch_trt_ext.optimizer.latency import measure

#: How many times as fast as it can the server is asked to answer.
_OVERLOAD = 2.0

#: Images that are asked about in turn.
_SCENES = 16


class Bench:
    """A model's file and what is asked of its server.

    Args:
        model: the file.
        seconds: of a load.
        concurrency: clients that ask anew once they have an answer.
        clients: processes that these share.
        gateways: processes of the server that speak HTTP; None for its default.
    """

    def __init__(self, model: Path, seconds: float, concurrency: int, clients: int, gateways: int | None) -> None:
        self.model = model
        self.facts = read_facts(model)
        self._seconds = seconds
        self._concurrency = concurrency
        self._clients = clients
        self._gateways = gateways
        self._cases: list[Case] = []
        self._rate = 0.0

    def model_alone(self) -> Results:
        """Calls of the model in this process: what no server can exceed."""
        served = ServedModel(self.model)
        self._cases = make_cases(served, _SCENES)
        images = served.example()
        milliseconds = {}
        for count in sorted({1, self.facts.max_batch}):
            batch = images[:count]
            # Answers are waited for, so that the host's clock sees the GPU too.
            call = partial(served.detect, batch)
            milliseconds[str(count)] = round(measure(call, device="cpu", runs=100, max_seconds=3.0).median_ms, 3)
        return {"batch_ms": milliseconds}

    def cases(self) -> Iterator[tuple[Results, Callable[[], Results]]]:
        """What is measured, with a server of its own for each of the two."""
        yield {"phase": "model"}, self.model_alone
        for largest in (1, self.facts.max_batch):
            options = Options(max_batch=largest, gateways=self._gateways)
            started = time.monotonic()
            with local_ray(), serving(self.model, options) as server:
                print(f"started in {time.monotonic() - started:.1f} s: {server.options}", flush=True)
                label = {"max_batch": largest}
                yield {"phase": "throughput", **label}, lambda server=server: self._throughput(server)
                if largest > 1:
                    yield {"phase": "overload", **label}, lambda server=server: self._overload(server)
                    yield {"phase": "kill", **label}, lambda server=server: self._kill(server)

    def _throughput(self, server: Server) -> Results:
        before = batch_sizes(server)
        outcome = throughput(
            server, self._cases, seconds=self._seconds, concurrency=self._concurrency, processes=self._clients
        )
        after = batch_sizes(server)
        self._rate = outcome.right / outcome.seconds
        images, calls = (after[index] - before[index] for index in (0, 1))
        mean = round(images / calls, 2) if calls else None
        return self._row(server, outcome) | {"concurrency": self._concurrency, "mean_batch": mean}

    def _overload(self, server: Server) -> Results:
        rate = _OVERLOAD * self._rate
        outcome = overload(server, self._cases, seconds=self._seconds, rate=rate, processes=self._clients)
        return self._row(server, outcome) | {"rate_asked_per_s": round(rate, 1)}

    def _kill(self, server: Server) -> Results:
        outcome, facts = kill(server, self._cases, concurrency=self._concurrency)
        return self._row(server, outcome) | facts

    def _row(self, server: Server, outcome: Outcome) -> Results:
        said: dict[str, Any] = server.describe()
        return outcome.as_dict() | {"device": said["device"], "fallbacks": said["fallbacks"]}


def table(results: Results) -> str:
    """The Markdown of a results file."""
    lines = ["| | largest batch | sent | right | 503 | wrong or lost | right/s | p50, ms | p95, ms | p99, ms |"]
    lines.append("|---" * 10 + "|")
    for row in results["results"]:
        if "failed" in row:
            lines.append(f"| {row['phase']} | failed: {row['failed']} |" + " |" * 8)
        elif "sent" in row:
            lost = row["sent"] - row["right"] - row["refused_503"]
            figures = [row["throughput_per_s"], *(row.get(f"p{share}_ms", "") for share in (50, 95, 99))]
            cells = [row["phase"], row["max_batch"], row["sent"], row["right"], row["refused_503"], lost, *figures]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def gain(results: Results) -> float | None:
    """How many times as many answers a second batches give."""
    rates = [row["throughput_per_s"] for row in results["results"] if row["phase"] == "throughput" and "sent" in row]
    return round(rates[1] / rates[0], 2) if len(rates) == 2 and rates[0] else None


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "gpu"], default="gpu")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--model", type=Path, help="what python -m examples.serving.model wrote; default: made first")
    parser.add_argument("--cache", type=Path, help="folder for engines, where the model is made")
    parser.add_argument("--seconds", type=float, default=8.0, help="of a load")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--clients", type=int, default=max(1, (os.cpu_count() or 1) // 4), help="processes that ask")
    parser.add_argument("--gateways", type=int, help="processes that speak HTTP; default: four a GPU, one on the CPU")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        model = args.model
        if model is None:
            print("making the model", flush=True)
            model = Path(folder) / "detector.pt"
            save_detector(model, args.device, config=quiet_config(2.0, args.cache))
        bench = Bench(model, args.seconds, args.concurrency, args.clients, args.gateways)
        facts = header("bench_serving", arguments) | {"client_processes": args.clients}
        measure_all(args.out, facts, bench.cases())
    results = json.loads(args.out.read_text())
    results["gain_of_batches"] = gain(results)
    args.out.write_text(json.dumps(results, indent=2) + "\n")
    print(table(results))
    print(f"\nBatches: {results['gain_of_batches']}x")


if __name__ == "__main__":
    main()
