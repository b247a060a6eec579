"""The deployment that speaks HTTP.

It decodes images in threads and makes batches of them, so that the process with the GPU does neither, and is one of its
own, so that a detector that dies takes no connection with it: whoever waits for its answer gets a 503. It does not
import torch.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.metrics import Counter, Gauge, Histogram
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from examples.serving.batcher import Batcher
from examples.serving.images import Pixels, decode, format_of
from examples.serving.metrics import node_metrics
from examples.serving.settings import APPLICATION, COLUMNS, DETECTOR, CompleteOptions, Facts, Refusal

_LATENCY_BOUNDARIES_S = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]

#: Headers, and what an encoded image can have over its pixels.
_BODY_SLACK_BYTES = 65536

#: A replica that answered so lately need not be asked whether it can, and may be too busy to say so.
_FRESH_S = 1.0

#: What a call of a replica raises when it died, or there is none and others wait for one already.
_GONE = (RayActorError, ReplicaUnavailableError, DeploymentUnavailableError, BackPressureError)

_DECODERS = max(2, (os.cpu_count() or 2) // 2)


class Gateway:
    """Answers HTTP requests.

    Args:
        detector: handle of the :class:`examples.serving.detector.Detector` deployment.
        facts: of the model.
        options: of the application.
        slots: batches that it may have under way at once.
    """

    def __init__(self, detector: Any, facts: Facts, options: CompleteOptions, slots: int) -> None:
        self._detector = detector
        self._facts = facts
        self._options = options
        self._decoders = ThreadPoolExecutor(_DECODERS, thread_name_prefix="decode")
        self._batcher: Batcher[Pixels, bytes] = Batcher(self._run, options.max_batch, options.batch_wait_s, slots)
        self._max_body_bytes = 3 * facts.height * facts.width + _BODY_SLACK_BYTES
        self._last_answer = -float("inf")
        self._open = 0
        self._routes = {
            "/detect": ("POST", self._detect),
            "/health": ("GET", self._health),
            "/metrics": ("GET", self._metrics),
        }
        self._requests = Counter("detector_requests", "Requests by the status of their answer.", tag_keys=("status",))
        self._rejected = Counter("detector_rejected", "Requests answered 503, by reason.", tag_keys=("reason",))
        self._open_requests = Gauge("detector_open_requests", "Requests that the gateway took in and has not answered.")
        self._queue_length = Gauge("detector_queue_length", "Images that wait for a batch.")
        self._latency = Histogram(
            "detector_latency_seconds",
            "From a request to its answer, in seconds, of all that were not answered 503.",
            boundaries=_LATENCY_BOUNDARIES_S,
        )

    async def __call__(self, request: Request) -> Response:
        """Answers any request."""
        path = request.url.path
        if path not in self._routes:
            return _refused(Refusal(404, f"there are {', '.join(self._routes)}, got {path}"))
        method, answer = self._routes[path]
        if request.method != method:
            return _refused(Refusal(405, f"{path} takes {method}, got {request.method}"), {"Allow": method})
        return await answer(request)

    async def _detect(self, request: Request) -> Response:
        started = time.monotonic()
        self._open += 1
        try:
            response = await self._answer(request)
        finally:
            self._open -= 1
        self._requests.inc(tags={"status": str(response.status_code)})
        self._open_requests.set(self._open)
        self._queue_length.set(len(self._batcher))
        if response.status_code != 503:
            self._latency.observe(time.monotonic() - started)
        return response

    async def _answer(self, request: Request) -> Response:
        # The body is read all the same: a client that is still sending would not see an answer.
        body = await self._body(request)
        if isinstance(body, Refusal):
            return _refused(body)
        if self._open > self._options.open_requests:
            return self._busy("overload", f"the server has {self._options.open_requests} requests to answer, its limit")
        name = format_of(request.headers.get("content-type", ""), body)
        if isinstance(name, Refusal):
            return _refused(name)
        height, width = self._facts.height, self._facts.width
        pixels = await asyncio.get_running_loop().run_in_executor(self._decoders, decode, body, name, height, width)
        if isinstance(pixels, Refusal):
            return _refused(pixels)
        try:
            found = await asyncio.wait_for(self._batcher.submit(pixels), self._options.timeout_s)
        except asyncio.TimeoutError:
            return self._busy("timeout", f"no replica answered within {self._options.timeout_s:g} s")
        except _GONE as error:
            return self._busy("replica", f"no replica could answer ({type(error).__name__}), one is being started")
        self._last_answer = time.monotonic()
        rows = np.frombuffer(found, np.float32).reshape(-1, COLUMNS)
        return JSONResponse(
            {
                "boxes": rows[:, :4].tolist(),
                "scores": rows[:, 4].tolist(),
                "labels": rows[:, 5].astype(np.int64).tolist(),
            }
        )

    async def _run(self, images: list[Pixels]) -> Sequence[bytes]:
        pending = self._detector.detect.remote(np.stack(images))
        try:
            found: Sequence[bytes] = await asyncio.wait_for(pending, self._options.timeout_s)
        except asyncio.TimeoutError:
            pending.cancel()
            raise
        return found

    async def _body(self, request: Request) -> bytes | Refusal:
        limit = self._max_body_bytes
        too_large = Refusal(413, f"the body must have at most {limit} bytes; send the image in the model's size")
        told = request.headers.get("content-length", "")
        if told.isdigit() and int(told) > limit:
            return too_large
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    return too_large
        except ClientDisconnect:
            return Refusal(400, "the connection ended before the body did")
        return bytes(body) or Refusal(400, "the body must be an image, got none")

    def _busy(self, reason: str, sentence: str) -> Response:
        self._rejected.inc(tags={"reason": reason})
        return _refused(
            Refusal(503, f"{sentence}; send the request again"), {"Retry-After": str(self._options.retry_after_s)}
        )

    async def _health(self, _request: Request) -> Response:
        running = await asyncio.to_thread(_running_replicas)
        problem = await self._problem()
        status = "unavailable" if problem else "degraded" if running < self._options.replicas else "ok"
        contents: dict[str, Any] = {
            "status": status,
            "replicas": {"running": running, "wanted": self._options.replicas},
        }
        if problem:
            contents["problem"] = problem
        return JSONResponse(contents, 503 if problem else 200)

    async def _problem(self) -> str:
        """Why no replica can answer; empty where one can."""
        if time.monotonic() - self._last_answer < _FRESH_S:
            return ""
        pending = self._detector.describe.remote()
        try:
            replica = await asyncio.wait_for(pending, self._options.timeout_s)
        except asyncio.TimeoutError:
            pending.cancel()
            return f"no replica answered within {self._options.timeout_s:g} s"
        except _GONE as error:
            return f"no replica answers ({type(error).__name__})"
        return str(replica["why_not"])

    async def _metrics(self, _request: Request) -> Response:
        try:
            text = await asyncio.to_thread(node_metrics)
        except OSError as error:
            return _refused(Refusal(503, f"Ray's metrics agent does not answer: {error}"))
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


def _running_replicas() -> int:
    """How many of the detector's replicas run, as Serve's controller has it."""
    application = serve.status().applications.get(APPLICATION)
    deployment = application.deployments.get(DETECTOR) if application else None
    return int(deployment.replica_states.get("RUNNING", 0)) if deployment else 0


def _refused(refusal: Refusal, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": refusal.sentence}, refusal.status, headers)
