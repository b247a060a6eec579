"""The optimized detector behind HTTP: right answers, batches, too many requests at once, and a replica that dies.

Run from the repository's root: ``python -m examples.serving.demo``.
"""

from __future__ import annotations

import math
import os
from typing import Any

from benchmarks.optimizing import quiet_config
from examples.running import Check, announcer, choose_place, conclude, parser_for, print_rows
from examples.serving.cases import make_cases
from examples.serving.model import ServedModel, save_detector
from examples.serving.phases import kill, overload, throughput
from examples.serving.server import local_ray, serving
from examples.serving.settings import Options

say = announcer(5)

#: How many times as fast as it can the server is asked to answer.
_OVERLOAD = 3


def main() -> int:
    """Runs the demo; returns the exit status."""
    parser = parser_for("serving", __doc__)
    parser.add_argument("--clients", type=int, default=32)
    args = parser.parse_args()
    place = choose_place(args.device)
    print(place.sentence)
    seconds = 3.0 if args.small else 10.0
    processes = max(1, (os.cpu_count() or 1) // 4)
    model = args.out / "detector.pt"

    say(1, "Optimizing the detector for batches of 1 to 8 images")
    save_detector(model, place.device_type, config=quiet_config(1.0 if args.small else 5.0, args.out / "cache"))
    cases = make_cases(ServedModel(model), 16)

    say(2, f"Serving it one image at a time, {args.clients} clients")
    with local_ray(), serving(model, Options(max_batch=1)) as server:
        alone = throughput(server, cases, seconds=seconds, concurrency=args.clients, processes=processes)

    say(3, f"Serving it in batches, {args.clients} clients")
    with local_ray(), serving(model) as server:
        batched = throughput(server, cases, seconds=seconds, concurrency=args.clients, processes=processes)
        rate = _OVERLOAD * batched.right / batched.seconds
        say(4, f"Sending it {rate:.0f} requests a second, {_OVERLOAD} times what it can answer")
        too_many = overload(server, cases, seconds=seconds, rate=rate, processes=processes)
        say(5, "Killing a replica while it answers")
        killed, facts = kill(server, cases, concurrency=args.clients)
        replica = server.describe()

    phases = {"one at a time": alone, "batches": batched, "overload": too_many, "killed": killed}
    rows: list[tuple[str, ...]] = [("", "sent", "right", "503", "else", "right/s", "p50 ms", "p99 ms")]
    for name, outcome in phases.items():
        row: dict[str, Any] = outcome.as_dict()
        counts = (outcome.sent, outcome.right, outcome.refused, outcome.sent - outcome.right - outcome.refused)
        figures = (row["throughput_per_s"], row.get("p50_ms", math.nan), row.get("p99_ms", math.nan))
        rows.append((name, *map(str, counts), *(f"{figure:.0f}" for figure in figures)))
    print()
    print_rows(rows)
    gain = batched.as_dict()["throughput_per_s"] / alone.as_dict()["throughput_per_s"]
    print(f"\nBatches: {gain:.2f}x. Without an answer after the kill: {facts['longest_without_answer_s']} s.")
    checks = [
        *(
            Check(f"requests of '{name}' without a right answer or a 503", o.sent - o.right - o.refused, 0)
            for name, o in phases.items()
        ),
        Check("answers 503 in overload", too_many.refused, 1, at_least=True),
        Check("right answers after the replica was killed", facts["right_after_recovery"], 1, at_least=True),
        Check("calls that PyTorch answered in an engine's place", replica["fallbacks"], 0),
    ]
    summary = {
        "clients": args.clients,
        "phases": {name: outcome.as_dict() for name, outcome in phases.items()},
        "kill": facts,
        "gain_of_batches": round(gain, 2),
    }
    return conclude(args.out, place, summary, checks)


if __name__ == "__main__":
    raise SystemExit(main())
