"""What the application's processes agree on; nothing here takes long to import."""

from __future__ import annotations

from dataclasses import dataclass

#: Name of the Serve application, and of the deployment that runs the engines.
APPLICATION = "detector"
DETECTOR = "Detector"

#: Of a detection: x1, y1, x2, y2 in pixels, score, label.
COLUMNS = 6


@dataclass(frozen=True)
class Facts:
    """What a server must know of a model before it loads it where it will run.

    Attributes:
        height: of its images, in pixels.
        width: likewise.
        max_batch: images that all of its engines take in one call.
        backends: of its engines, "tensorrt" or "openvino", sorted.
    """

    height: int
    width: int
    max_batch: int
    backends: tuple[str, ...]


@dataclass(frozen=True)
class Options:
    """How the application serves; None is for what :func:`examples.serving.app.complete` finds.

    Attributes:
        max_batch: images in one call; None for what the file's engines take.
        batch_wait_s: how long an image waits for others while a batch could leave.
        replicas: of the detector; None for one a GPU of the cluster, and one where engines run on the CPU.
        gateways: processes that speak HTTP, decode and make batches; None for four a replica on GPUs, else one.
        open_requests: that a gateway takes in; None for eight batches and at least 64. More are answered 503. They
            bound how long a request waits.
        timeout_s: a request that has no answer by then is answered 503.
        retry_after_s: what a 503 tells the client to wait.
        health_period_s: how often Serve asks each replica whether its engines can run.
    """

    max_batch: int | None = None
    batch_wait_s: float = 0.005
    replicas: int | None = None
    gateways: int | None = None
    open_requests: int | None = None
    timeout_s: float = 5.0
    retry_after_s: int = 1
    health_period_s: float = 2.0


@dataclass(frozen=True)
class CompleteOptions(Options):
    """:class:`Options` of which none is None."""

    max_batch: int = 0
    replicas: int = 0
    gateways: int = 0
    open_requests: int = 0


@dataclass(frozen=True)
class Refusal:
    """Why a request gets no detections.

    Attributes:
        status: of HTTP.
        sentence: for who sent it.
    """

    status: int
    sentence: str
