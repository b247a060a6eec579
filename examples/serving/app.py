"""The Serve application.

client -> HAProxy -> Gateway (HTTP, limits, decodes, makes batches) -> Detector (runs the engines), a replica a GPU
"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray import serve

from examples.serving.detector import Detector
from examples.serving.gateway import Gateway
from examples.serving.settings import DETECTOR, CompleteOptions, Facts, Options

#: Open requests by default.
_OPEN_BATCHES, _LEAST_OPEN = 8, 64

#: Of a GPU whose engines answer faster than one process of Python can speak HTTP.
_GATEWAYS_A_GPU = 4

#: Batches under way for each replica: one that runs, and one that is there when it is done.
_BATCHES_A_REPLICA = 2


def complete(options: Options, facts: Facts) -> CompleteOptions:
    """The options with what the model and the cluster say in place of None.

    Raises:
        ValueError: ``options.max_batch`` is more than the model's engines take.
    """
    gpus = int(ray.cluster_resources().get("GPU", 0)) if "tensorrt" in facts.backends else 0
    largest = facts.max_batch if options.max_batch is None else options.max_batch
    if not 1 <= largest <= facts.max_batch:
        raise ValueError(f"max_batch must be from 1 to {facts.max_batch}, what the model's engines take, got {largest}")
    replicas = options.replicas or max(1, gpus)
    found = {
        "max_batch": largest,
        "replicas": replicas,
        "gateways": options.gateways or (_GATEWAYS_A_GPU * replicas if gpus else 1),
        "open_requests": options.open_requests or max(_LEAST_OPEN, _OPEN_BATCHES * facts.max_batch),
    }
    return CompleteOptions(**(asdict(options) | found))


def build(path: Path, facts: Facts, options: CompleteOptions) -> Any:
    """The application, for ``serve.run``.

    Args:
        path: of the model's file, where each node that may run a replica finds it.
        facts: what :func:`examples.serving.model.read_facts` says of it.
        options: how to serve it.
    """
    slots = math.ceil(_BATCHES_A_REPLICA * options.replicas / options.gateways)
    # Of a detector these are batches. One replica must be able to take all, or Serve's router would ask repeatedly.
    batches = slots * options.gateways
    detector = serve.deployment(
        Detector,
        name=DETECTOR,
        num_replicas=options.replicas,
        ray_actor_options={"num_gpus": 1 if "tensorrt" in facts.backends else 0, "num_cpus": 1},
        max_ongoing_requests=batches,
        max_queued_requests=batches,
        health_check_period_s=options.health_period_s,
        health_check_timeout_s=30.0,
        graceful_shutdown_timeout_s=5.0,
    ).bind(str(path.absolute()))
    # A gateway says no by itself, with words, and so must be given more than it takes in.
    given = 4 * options.open_requests
    return serve.deployment(
        Gateway,
        num_replicas=options.gateways,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=given,
        max_queued_requests=given,
        backpressure_config={"status_code": 503, "retry_after_s": options.retry_after_s},
        graceful_shutdown_timeout_s=5.0,
    ).bind(detector, facts, options, slots)
