"""A load generator that checks every answer.

It needs aiohttp and numpy only, and can be several processes, since one of Python cannot ask as fast as a GPU answers.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from numpy.typing import NDArray

#: How far an answer may be from the one that was computed alone. Engines of 16 bits may sum in another order in another
#: batch; another image's detections are tens of pixels away.
BOX_TOLERANCE_PX = 1.0
SCORE_TOLERANCE = 0.02

#: Detections below may pass the threshold, or suppress others, in one batch and not in another.
SURE_SCORE = 0.3

#: A client that is told to come back waits no longer than this, so that a short test sees the server recover.
_MAX_PAUSE_S = 0.25

#: A request without an answer by then is lost.
_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Case:
    """A request and its right answer.

    Attributes:
        body: an image.
        content_type: its format.
        boxes: ``[n, 4]``, xyxy pixels.
        scores: ``[n]``.
        labels: ``[n]``.
    """

    body: bytes
    content_type: str
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass
class Outcome:
    """What came of the requests of a load.

    Attributes:
        sent: requests.
        right: answers with the right detections.
        wrong: answers with other ones.
        refused: answers 503 that say why and when to come back.
        other: answers of any other kind, by status.
        lost: requests without an answer, by what happened.
        reasons: of the refused, the sentence.
        latencies_s: from request to answer, of the right ones.
        right_times_s: when each of these came, of the clock ``time.time()``.
        seconds: of the whole load.
    """

    sent: int = 0
    right: int = 0
    wrong: int = 0
    refused: int = 0
    other: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)
    right_times_s: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def adds_up(self) -> bool:
        """Whether every request was answered, rightly or with a clear 503."""
        return self.sent == self.right + self.refused and not (self.wrong or self.other or self.lost)

    def merge(self, other: Outcome) -> None:
        """Takes in what another process saw of the same load."""
        for name in ("sent", "right", "wrong", "refused"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("other", "lost", "reasons"):
            getattr(self, name).update(getattr(other, name))
        self.latencies_s += other.latencies_s
        self.right_times_s += other.right_times_s
        self.seconds = max(self.seconds, other.seconds)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: counts, right answers a second, and the percentiles of their latency in milliseconds."""
        result: dict[str, Any] = {
            "sent": self.sent,
            "right": self.right,
            "wrong": self.wrong,
            "refused_503": self.refused,
            "other_statuses": dict(self.other),
            "lost": dict(self.lost),
            "adds_up": self.adds_up,
            "seconds": round(self.seconds, 2),
            "throughput_per_s": round(self.right / self.seconds, 1) if self.seconds else 0.0,
        }
        if self.latencies_s:
            for name, share in (("p50_ms", 50), ("p95_ms", 95), ("p99_ms", 99)):
                result[name] = round(1e3 * float(np.percentile(self.latencies_s, share)), 2)
        if self.reasons:
            result["reasons"] = dict(self.reasons)
        return result


@dataclass(frozen=True)
class Load:
    """What to ask.

    Attributes:
        url: of the server.
        cases: asked in turn.
        seconds: how long new requests are sent.
        concurrency: clients, each of which asks anew once it has an answer; 0 with a rate.
        rate: requests a second, sent whether answers come or not; 0 with a concurrency.
    """

    url: str
    cases: Sequence[Case]
    seconds: float
    concurrency: int = 0
    rate: float = 0.0


def is_right(case: Case, answer: Any) -> bool:
    """Whether an answer's detections are the case's, as far as both are sure of them."""
    boxes = np.asarray(answer["boxes"], np.float32).reshape(-1, 4)
    scores = np.asarray(answer["scores"], np.float32)
    labels = np.asarray(answer["labels"], np.int64)
    if not len(boxes) == len(scores) == len(labels):
        return False
    close = (
        (np.abs(case.boxes[:, None] - boxes[None]).max(axis=2, initial=0.0) <= BOX_TOLERANCE_PX)
        & (np.abs(case.scores[:, None] - scores[None]) <= SCORE_TOLERANCE)
        & (case.labels[:, None] == labels[None])
    )
    # A detection's twin on the other side may lie just below what is sure.
    return bool(close.any(axis=1)[case.scores >= SURE_SCORE].all() and close.any(axis=0)[scores >= SURE_SCORE].all())


class _Client:
    def __init__(self, load: Load, stop: threading.Event) -> None:
        self._load = load
        self._stop = stop
        self.outcome = Outcome()
        #: Answers that were compared already, by case and body: the same ones come again and again.
        self._judged: dict[tuple[int, bytes], bool] = {}

    async def run(self) -> None:
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        started = time.monotonic()
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            await (self._open_loop(session) if self._load.rate else self._closed_loop(session))
        self.outcome.seconds = time.monotonic() - started

    async def _closed_loop(self, session: aiohttp.ClientSession) -> None:
        deadline = time.monotonic() + self._load.seconds

        async def client(number: int) -> None:
            while time.monotonic() < deadline and not self._stop.is_set():
                await asyncio.sleep(await self._ask(session, number))
                number += self._load.concurrency

        await asyncio.gather(*(client(number) for number in range(self._load.concurrency)))

    async def _open_loop(self, session: aiohttp.ClientSession) -> None:
        started = time.monotonic()
        asked = []
        for number in range(round(self._load.rate * self._load.seconds)):
            await asyncio.sleep(max(0.0, started + number / self._load.rate - time.monotonic()))
            asked.append(asyncio.create_task(self._ask(session, number)))
        await asyncio.gather(*asked)

    async def _ask(self, session: aiohttp.ClientSession, number: int) -> float:
        """Sends a request; returns how long to wait before the next one, in seconds."""
        index = number % len(self._load.cases)
        case, outcome = self._load.cases[index], self.outcome
        outcome.sent += 1
        started = time.monotonic()
        headers = {"Content-Type": case.content_type}
        try:
            async with session.post(f"{self._load.url}/detect", data=case.body, headers=headers) as response:
                body = await response.read()
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            outcome.lost[type(error).__name__] += 1
            return _MAX_PAUSE_S
        if response.status == 200:
            if (index, body) not in self._judged:
                self._judged[index, body] = is_right(case, json.loads(body))
            if self._judged[index, body]:
                outcome.right += 1
                outcome.latencies_s.append(time.monotonic() - started)
                outcome.right_times_s.append(time.time())
            else:
                outcome.wrong += 1
            return 0.0
        pause = response.headers.get("Retry-After", "")
        if response.status == 503 and pause.isdigit() and body:
            outcome.refused += 1
            outcome.reasons[_sentence(body)] += 1
            return min(float(pause), _MAX_PAUSE_S)
        outcome.other[str(response.status)] += 1
        return _MAX_PAUSE_S


def _sentence(body: bytes) -> str:
    """Why the server refused: what the application says, or Serve's proxy before it."""
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")


async def send(load: Load, stop: threading.Event | None = None) -> Outcome:
    """Puts a load on a server, from this process.

    Args:
        load: what to ask.
        stop: ends a load that has a concurrency, once it is set.
    """
    client = _Client(load, stop or threading.Event())
    await client.run()
    return client.outcome


def send_from_processes(load: Load, processes: int) -> Outcome:
    """Puts a load on a server, its clients or its rate shared out to processes.

    Raises:
        subprocess.CalledProcessError: one of them failed.
    """
    if processes == 1:
        return asyncio.run(send(load))
    shares = [
        replace(
            load,
            rate=load.rate / processes,
            concurrency=len(range(number, load.concurrency, processes)),
            # Each begins with another image.
            cases=[*load.cases[number % len(load.cases) :], *load.cases[: number % len(load.cases)]],
        )
        for number in range(processes)
    ]
    shares = [share for share in shares if share.rate or share.concurrency]
    command = [sys.executable, "-m", "examples.serving.client"]
    root = Path(__file__).parents[2]
    started = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root) for _ in shares]
    for process, share in zip(started, shares, strict=True):
        assert process.stdin is not None
        process.stdin.write(pickle.dumps(share))
        process.stdin.close()
    total = Outcome()
    for process in started:
        assert process.stdout is not None
        outcome = process.stdout.read()
        if process.wait():
            raise subprocess.CalledProcessError(process.returncode, command)
        total.merge(pickle.loads(outcome))
    return total


def main() -> None:
    """One of the processes of :func:`send_from_processes`: a pickled load on stdin, its outcome on stdout."""
    # As __main__ the classes would be others than the caller's.
    from examples.serving import client

    load = pickle.load(sys.stdin.buffer)
    sys.stdout.buffer.write(pickle.dumps(asyncio.run(client.send(load))))


if __name__ == "__main__":
    main()
