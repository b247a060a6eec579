"""What the demo, the benchmark and the tests do to a server."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from examples.serving.client import Case, Load, Outcome, send, send_from_processes
from examples.serving.server import Server

_POLL_S = 0.1

#: Metrics that do not change for so long have arrived.
_SETTLING_S = 2.5


def get(url: str) -> tuple[int, str]:
    """Status and body of a GET request; status 0 where there was no answer."""
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def wait_until(condition: Callable[[], bool], what: str, seconds: float) -> float:
    """Waits until something holds.

    Returns:
        How long that took, in seconds.

    Raises:
        TimeoutError: it did not hold in time.
    """
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > seconds:
            raise TimeoutError(f"{what} must be so within {seconds:g} s, and is not")
        time.sleep(_POLL_S)
    return time.monotonic() - started


def is_healthy(server: Server) -> bool:
    """Whether the server says that all of its replicas can answer."""
    status, body = get(f"{server.url}/health")
    return status == 200 and json.loads(body)["status"] == "ok"


def samples(server: Server, name: str) -> dict[str, float]:
    """Values of one of the server's metrics, by its labels as they are written.

    Raises:
        RuntimeError: the server does not tell.
    """
    status, text = get(f"{server.url}/metrics")
    if status != 200:
        raise RuntimeError(f"/metrics must answer 200, got {status}: {text}")
    pattern = re.compile(rf"^{name}(?:\{{(.*)\}})? (\S+)$", re.MULTILINE)
    return {labels: float(value) for labels, value in pattern.findall(text)}


def batch_sizes(server: Server) -> tuple[float, float]:
    """Images, and calls of the engines they were in, once the metrics have settled."""

    def read() -> tuple[float, float]:
        images, calls = (samples(server, f"ray_detector_batch_size_{part}") for part in ("sum", "count"))
        return sum(images.values()), sum(calls.values())

    before = read()
    while True:
        time.sleep(_SETTLING_S)
        after = read()
        if after == before:
            return after
        before = after


def throughput(server: Server, cases: Sequence[Case], *, seconds: float, concurrency: int, processes: int) -> Outcome:
    """Clients that each ask anew once they have their answer, after a second of the same to warm up."""
    for warmup in (True, False):
        load = Load(server.url, cases, 1.0 if warmup else seconds, concurrency=concurrency)
        outcome = send_from_processes(load, processes)
    return outcome


def overload(server: Server, cases: Sequence[Case], *, seconds: float, rate: float, processes: int) -> Outcome:
    """Requests at a rate that the server cannot keep up with."""
    return send_from_processes(Load(server.url, cases, seconds, rate=rate), processes)


def kill(
    server: Server, cases: Sequence[Case], *, concurrency: int, before_s: float = 1.0, recover_s: float = 120.0
) -> tuple[Outcome, dict[str, Any]]:
    """Ends a replica's process under load, and goes on until the server is healthy again and has answered for a while.

    Args:
        server: with one replica or more.
        cases: what to ask.
        concurrency: clients.
        before_s: seconds of load before, and after the server is healthy again.
        recover_s: how long the server may take for that.

    Returns:
        What came of the requests, and when what happened.

    Raises:
        TimeoutError: the server did not become healthy again.
    """
    stop = threading.Event()
    load = Load(server.url, cases, 2 * before_s + 2 * recover_s, concurrency=concurrency)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(lambda: asyncio.run(send(load, stop)))
        try:
            time.sleep(before_s)
            killed = server.kill_a_replica()
            killed_at = time.time()
            # Serve may not know yet.
            wait_until(lambda: not is_healthy(server) or _others_answer(server, killed), "the death known", recover_s)
            healthy_s = wait_until(lambda: is_healthy(server), "the server healthy again", recover_s)
            time.sleep(before_s)
        finally:
            stop.set()
        outcome = asked.result()
    after = [at for at in outcome.right_times_s if at > killed_at]
    gaps = np.diff([killed_at, *sorted(after)])
    return outcome, {
        "killed_process": killed,
        "healthy_again_s": round(healthy_s, 2),
        "longest_without_answer_s": round(float(gaps.max()), 2) if len(gaps) else None,
        "right_after_recovery": int(sum(at > killed_at + gaps.max() for at in after)) if len(gaps) else 0,
    }


def _others_answer(server: Server, killed: int) -> bool:
    return int(server.describe()["pid"]) != killed
