"""The serving example on this machine: a server over HTTP, under load, overload, and with a replica that dies."""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("ray", reason='the serving example needs Ray: pip install "ray[serve]"')

from examples.serving import model as serving_model
from examples.serving import server as serving_server
from examples.serving.batcher import Batcher
from examples.serving.cases import encode, make_cases
from examples.serving.client import BOX_TOLERANCE_PX, Case, Load, is_right, send_from_processes
from examples.serving.images import decode, format_of
from examples.serving.metrics import shown
from examples.serving.model import ServedModel, max_batch, read_facts, save_detector
from examples.serving.phases import get, is_healthy, kill, overload, samples, throughput, wait_until
from examples.serving.server import PORTS, Server, free_port, local_ray, serving
from examples.serving.settings import Options, Refusal
from tests.optimizer.tiny_models import quick_config

# Of Ray's own code, at import.
pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")

#: Largest batch of the model that is served.
LARGEST_BATCH = 4

#: Few, so that overload comes soon.
OPEN_REQUESTS = 24

#: What processes take to end, or metrics to arrive, on two busy cores.
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("serving") / "detector.pt"
    config = quick_config()
    config.timing.timed_runs = config.timing.subgraph_timed_runs = 1
    save_detector(path, "cpu", largest_batch=LARGEST_BATCH, config=config)
    return path


@pytest.fixture(scope="module")
def served(model: Path) -> ServedModel:
    return ServedModel(model)


@pytest.fixture(scope="module")
def cases(served: ServedModel) -> list[Case]:
    return make_cases(served, 6)


def _processes_of_ray() -> list[str]:
    """Those of this process's Ray: nobody else has its token."""
    token = f"RAY_AUTH_TOKEN={os.environ['RAY_AUTH_TOKEN']}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if folder.name != str(os.getpid()) and token in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    with local_ray(2), serving(model, Options(open_requests=OPEN_REQUESTS)) as running:
        assert _processes_of_ray()
        yield running
    wait_until(lambda: not _processes_of_ray(), "no process of Ray there", PATIENCE_S)


def _post(server: Server, body: bytes, content_type: str | None, path: str = "/detect") -> tuple[int, Any]:
    # urllib adds a content type where there is none.
    headers = {"Content-Type": content_type or "application/octet-stream"}
    try:
        with urllib.request.urlopen(urllib.request.Request(server.url + path, body, headers), timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def _unchanged(read: Callable[[], Any], seconds: float = 3.0) -> bool:
    before = read()
    time.sleep(seconds)
    return bool(read() == before)


def test_ports_are_free_and_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [free_port() for _ in range(20)]
    assert len(set(given)) == 20
    assert all(port in PORTS for port in given)
    # HAProxy listens at every address, so a port of any one of them is taken.
    for address in ("127.0.0.1", "0.0.0.0"):
        with socket.socket() as listening:
            listening.bind((address, given[0]))
            listening.listen()
            monkeypatch.setattr(serving_server, "_candidates", iter([given[0], given[1]]))
            assert free_port() == given[1]
            with pytest.raises(RuntimeError, match="needs a free TCP port of 20000 to 32767"):
                free_port()


def test_healthy(server: Server) -> None:
    status, body = get(f"{server.url}/health")
    assert (status, json.loads(body)) == (200, {"status": "ok", "replicas": {"running": 1, "wanted": 1}})


def test_right_answers_in_batches(server: Server, cases: list[Case]) -> None:
    outcome = throughput(server, cases, seconds=2.0, concurrency=16, processes=1)
    assert outcome.adds_up, outcome.as_dict()
    assert outcome.right > 16

    def batches_told() -> bool:
        images = sum(samples(server, "ray_detector_batch_size_sum").values())
        return images >= outcome.right

    wait_until(batches_told, "the images counted", PATIENCE_S)
    images = sum(samples(server, "ray_detector_batch_size_sum").values())
    calls = sum(samples(server, "ray_detector_batch_size_count").values())
    assert images <= LARGEST_BATCH * calls
    # Of 16 clients twelve wait while the others' batch runs.
    assert images > 2 * calls
    assert server.describe()["fallbacks"] == 0


@pytest.mark.parametrize("content_type", ["image/png", "image/jpeg", "application/x-npy", None])
def test_formats(server: Server, served: ServedModel, content_type: str | None) -> None:
    (case,) = make_cases(served, 1, content_type or "image/png")
    status, answer = _post(server, case.body, content_type)
    assert status == 200, answer
    np.testing.assert_array_equal(np.float32(answer["boxes"]), case.boxes)
    np.testing.assert_array_equal(np.float32(answer["scores"]), case.scores)
    assert answer["labels"] == case.labels.tolist()
    assert len(case.scores) > 3


def _array(*shape: int, dtype: Any = np.uint8) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros(shape, dtype))
    return stream.getvalue()


def _picture(width: int, height: int, name: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height)).save(stream, name)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("body", "content_type", "status", "sentence"),
    [
        (b"", "image/png", 400, "the body must be an image, got none"),
        (b"hello", "image/png", 400, "the body must be a whole PNG image"),
        (_picture(512, 384, "PNG")[:500], "image/png", 400, "the body must be a whole PNG image"),
        (_picture(512, 384, "JPEG")[:-400], "image/jpeg", 400, "the body must be a whole JPEG image"),
        (_picture(512, 384, "PNG"), "image/jpeg", 400, "the body must be a whole JPEG image"),
        (_picture(500, 384, "PNG"), "image/png", 400, "the image must be 512 x 384 pixels, got 500 x 384"),
        (
            _array(3, 384, 512),
            "application/x-npy",
            400,
            "the array must be uint8 of shape (384, 512, 3), got uint8 of (3,",
        ),
        (_array(384, 512, 3, dtype=np.int8), "application/x-npy", 400, "the array must be uint8 of shape"),
        (
            _array(384, 512, 3)[:-1],
            "application/x-npy",
            400,
            "the array must have 589824 bytes after its header, got 589823",
        ),
        (b"\x93NUMPY\x09\x00", None, 400, "the body must be an array as numpy.save writes it"),
        (
            b"GIF89a",
            "image/gif",
            415,
            "the image must be PNG, JPEG or npy (image/png, image/jpeg, application/x-npy), got image/gif",
        ),
        (b"hello", None, 415, "got a body that is none of these"),
        (bytes(700_000), "image/png", 413, "the body must have at most 655360 bytes"),
    ],
)
def test_bad_images(server: Server, body: bytes, content_type: str | None, status: int, sentence: str) -> None:
    got, answer = _post(server, body, content_type)
    assert got == status
    assert sentence in answer["error"]


def test_bad_requests(server: Server) -> None:
    assert get(f"{server.url}/detect") == (405, '{"error":"/detect takes POST, got GET"}')
    assert get(f"{server.url}/nothing") == (404, '{"error":"there are /detect, /health, /metrics, got /nothing"}')
    assert is_healthy(server)


def test_overload_loses_nothing(server: Server, cases: list[Case]) -> None:
    before = sum(samples(server, "ray_detector_rejected_total").values())
    outcome = overload(server, cases, seconds=2.0, rate=300.0, processes=2)
    assert outcome.adds_up, outcome.as_dict()
    assert outcome.sent == 600
    assert outcome.right >= OPEN_REQUESTS
    assert outcome.refused
    assert set(outcome.reasons) == {
        f"the server has {OPEN_REQUESTS} requests to answer, its limit; send the request again"
    }
    assert is_healthy(server)

    def counted() -> bool:
        rejected = samples(server, "ray_detector_rejected_total")
        return sum(rejected.values()) - before == outcome.refused and all(
            'reason="overload"' in key for key in rejected
        )

    wait_until(counted, "the rejected requests counted", PATIENCE_S)


def test_metrics(server: Server, cases: list[Case]) -> None:
    def requests(status: str) -> float:
        counts = samples(server, "ray_detector_requests_total")
        return sum(count for labels, count in counts.items() if f'status="{status}"' in labels)

    # What earlier tests sent has arrived when a few reports later nothing has changed.
    wait_until(
        lambda: _unchanged(lambda: [requests("200"), requests("415")]), "the earlier requests counted", PATIENCE_S
    )
    before = {status: requests(status) for status in ("200", "415")}
    for _ in range(3):
        assert _post(server, cases[0].body, cases[0].content_type)[0] == 200
    assert _post(server, b"", "text/plain")[0] == 400
    assert _post(server, b"x", "text/plain")[0] == 415
    wait_until(
        lambda: all(requests(status) == before[status] + more for status, more in (("200", 3), ("415", 1))),
        "the requests counted",
        PATIENCE_S,
    )
    _, text = get(f"{server.url}/metrics")
    for name, kind in (
        ("ray_detector_requests_total", "counter"),
        ("ray_detector_rejected_total", "counter"),
        ("ray_detector_latency_seconds", "histogram"),
        ("ray_detector_batch_size", "histogram"),
        ("ray_detector_queue_length", "gauge"),
        ("ray_detector_open_requests", "gauge"),
        ("ray_serve_deployment_replica_healthy", "gauge"),
    ):
        assert f"# TYPE {name} {kind}\n" in text
    series = [line.rsplit(" ", 1)[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(series) == len(set(series))


def test_replica_killed_under_load(server: Server, cases: list[Case]) -> None:
    outcome, facts = kill(server, cases, concurrency=12)
    assert outcome.adds_up, outcome.as_dict()
    assert outcome.refused, "those that the replica had must be told"
    assert facts["right_after_recovery"] > 0
    assert server.describe()["pid"] != facts["killed_process"]
    assert is_healthy(server)


def test_batches_beyond_the_engines_fail(model: Path, server: Server) -> None:
    with (
        pytest.raises(ValueError, match=f"max_batch must be from 1 to {LARGEST_BATCH}"),
        serving(model, Options(max_batch=LARGEST_BATCH + 1)),
    ):
        pass


def test_facts_of_a_file(model: Path, tmp_path: Path) -> None:
    facts = read_facts(model)
    assert (facts.height, facts.width, facts.max_batch, facts.backends) == (384, 512, LARGEST_BATCH, ("openvino",))
    with pytest.raises(FileNotFoundError, match="model must be a file"):
        read_facts(tmp_path / "none.pt")
    torch.jit.save(torch.jit.load(str(model)), str(tmp_path / "bare.pt"))
    with pytest.raises(ValueError, match=r"must have the extra file 'images\.json'"):
        read_facts(tmp_path / "bare.pt")


def test_engine_that_cannot_run_fails(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = SimpleNamespace(
        can_run=lambda: False, why_not=lambda: "there is no GPU", profiles=lambda: [[([1, 3], [1, 3], [4, 3])]]
    )
    found = SimpleNamespace(engine=engine, label="the engine 'a'", backend="openvino")
    monkeypatch.setattr(serving_model, "find_engines", lambda _model: [found])
    with pytest.raises(RuntimeError, match="the engine 'a': there is no GPU"):
        ServedModel(model)


def _engine(*profiles: list[tuple[list[int], list[int], list[int]]]) -> Any:
    return SimpleNamespace(label="the engine 'a'", engine=SimpleNamespace(profiles=lambda: list(profiles)))


def test_max_batch() -> None:
    wide = _engine([([1, 3], [4, 3], [1000, 3])])
    assert max_batch([wide]) == 1000
    assert max_batch([wide, _engine([([1, 3], [4, 3], [8, 3]), ([1, 5], [4, 5], [6, 5])])]) == 6
    # Two profiles that meet, and one beyond a gap.
    assert max_batch([_engine([([1], [1], [1])], [([2], [4], [4])], [([8], [8], [8])])]) == 4
    with pytest.raises(ValueError, match="must take a single image, got batches of"):
        max_batch([_engine([([2], [4], [8])])])
    with pytest.raises(ValueError, match="model must have engines, got none"):
        max_batch([])


def _batches_of(items: int, *, slots: int, wait_s: float = 0.0, limit: int = 4) -> tuple[list[list[int]], int]:
    """Batches that callers end up in who come one after the other during a call, and most calls at once."""
    batches: list[list[int]] = []
    running = most = 0

    async def call(batch: list[int]) -> list[int]:
        nonlocal running, most
        batches.append(batch)
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.2)
        running -= 1
        return [-item for item in batch]

    async def come(batcher: Batcher[int, int], item: int) -> int:
        await asyncio.sleep(0.002 * item)
        return await batcher.submit(item)

    async def run() -> list[int]:
        batcher: Batcher[int, int] = Batcher(call, limit, wait_s, slots)
        return list(await asyncio.gather(*(come(batcher, item) for item in range(items))))

    assert asyncio.run(run()) == [-item for item in range(items)]
    return batches, most


def test_batcher_fills_batches_while_others_run() -> None:
    assert _batches_of(9, slots=1) == ([[0], [1, 2, 3, 4], [5, 6, 7, 8]], 1)
    assert _batches_of(7, slots=2) == ([[0], [1], [2, 3, 4, 5], [6]], 2)
    assert _batches_of(9, slots=1, wait_s=0.1) == ([[0, 1, 2, 3], [4, 5, 6, 7], [8]], 1)
    assert _batches_of(3, slots=2, limit=1) == ([[0], [1], [2]], 2)


def test_batcher_waits_for_others_only_so_long() -> None:
    sizes: list[int] = []

    async def call(batch: list[int]) -> list[int]:
        sizes.append(len(batch))
        return batch

    async def run() -> None:
        batcher: Batcher[int, int] = Batcher(call, 4, 0.1, 1)
        first = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0.02)
        await asyncio.gather(first, batcher.submit(2))

    asyncio.run(run())
    assert sizes == [2]


def test_batcher_tells_errors_and_drops_who_left() -> None:
    seen: list[list[int]] = []
    gate = asyncio.Event()

    async def call(batch: list[int]) -> list[int]:
        seen.append(batch)
        await gate.wait()
        if 1 in batch:
            raise KeyError("no")
        return batch

    async def run() -> None:
        batcher: Batcher[int, int] = Batcher(call, 2, 0.0, 1)
        failing = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        leaving, staying = asyncio.create_task(batcher.submit(2)), asyncio.create_task(batcher.submit(3))
        await asyncio.sleep(0)
        assert len(batcher) == 2
        leaving.cancel()
        await asyncio.sleep(0)
        gate.set()
        with pytest.raises(KeyError):
            await failing
        assert await staying == 3

    asyncio.run(run())
    assert seen == [[1], [3]]


def test_answers_of_other_images_are_wrong(cases: list[Case]) -> None:
    def answer(case: Case) -> dict[str, Any]:
        return {"boxes": case.boxes.tolist(), "scores": case.scores.tolist(), "labels": case.labels.tolist()}

    for number, case in enumerate(cases):
        assert is_right(case, answer(case))
        assert [is_right(case, answer(other)) for other in cases].index(True) == number
        assert sum(is_right(case, answer(other)) for other in cases) == 1
    moved = answer(cases[0])
    moved["boxes"][0][0] += 1.1 * BOX_TOLERANCE_PX
    assert not is_right(cases[0], moved)
    none: dict[str, list[Any]] = {"boxes": [], "scores": [], "labels": []}
    assert not is_right(cases[0], none)


def test_load_without_a_server_is_lost(cases: list[Case]) -> None:
    outcome = send_from_processes(Load("http://127.0.0.1:9", cases, 0.2, rate=10.0), 1)
    assert (outcome.sent, sum(outcome.lost.values()), outcome.adds_up) == (2, 2, False)


def test_decoding_keeps_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (384, 512, 3), np.uint8)
    for content_type in ("image/png", "application/x-npy"):
        body = encode(pixels, content_type)
        name = format_of("", body)
        assert not isinstance(name, Refusal)
        np.testing.assert_array_equal(decode(body, name, 384, 512), pixels)
    # Grey and transparent pictures become RGB.
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0]).convert("LA").save(stream, "PNG")
    grey = decode(stream.getvalue(), "PNG", 384, 512)
    np.testing.assert_array_equal(grey, pixels[..., :1].repeat(3, axis=2))


def test_metrics_shown() -> None:
    text = """# HELP ray_detector_requests_total Requests.
# TYPE ray_detector_requests_total counter
ray_detector_requests_total{Component="core_worker",status="200",replica="a\\"b",deployment="Gateway"} 3.0
# TYPE ray_memory gauge
ray_memory{replica="a"} 1.0
"""
    assert shown(text) == [
        "# HELP ray_detector_requests_total Requests.",
        "# TYPE ray_detector_requests_total counter",
        'ray_detector_requests_total{deployment="Gateway",replica="a\\"b",status="200"} 3.0',
    ]
