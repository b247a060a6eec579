"""The cache of engines: what it finds, what it drops, and what happens when others use or damage its folder."""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.fresh_process import output_of_fresh
from tests.threads import run_in_threads
from torch_trt_ext.engine_plan import EnginePlan
from torch_trt_ext.optimizer import engine_cache
from torch_trt_ext.optimizer.engine_cache import EngineCache, TimingCache, model_bytes_for_key

ROOM = 10**6
#: Bytes of a file beside the plan's are fewer.
OVERHEAD = 400


def plan_of(data: bytes) -> EnginePlan:
    return EnginePlan(data, "tensorrt", ("x", "ü"), ("y",), ("Float", "Long"), ("Half",))


def keys_of(count: int) -> list[str]:
    return [EngineCache.key(str(number)) for number in range(count)]


def age(folder: Path, key: str, seconds: float) -> None:
    moment = time.time() - seconds
    os.utime(folder / f"{key}.engine", (moment, moment))


def test_engines_are_found_again(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "some" / "folder", ROOM)
    (key, other) = keys_of(2)
    assert cache.get(key) is None
    assert cache.size_bytes() == 0
    plan = plan_of(bytes(range(256)))
    cache.put(key, plan)
    assert cache.get(key) == plan
    assert cache.get(other) is None
    assert EngineCache(tmp_path / "some" / "folder", ROOM).get(key) == plan
    assert 256 < cache.size_bytes() < 256 + OVERHEAD
    cache.put(key, plan_of(b""))
    assert cache.get(key) == plan_of(b"")
    cache.clear()
    assert cache.get(key) is None
    assert cache.size_bytes() == 0


def test_keys_tell_parts_apart() -> None:
    parts = [(), ("",), ("", ""), ("ab",), ("a", "b"), ("b", "a"), (b"ab",), ("abc",), ("ab", "c"), ("a", "bc")]
    keys = {EngineCache.key(*part) for part in parts}
    assert len(keys) == len(parts)
    assert all(len(key) == hashlib.sha256().digest_size * 2 for key in keys)
    assert EngineCache.key("a", b"b") == EngineCache.key("a", b"b")


def test_keys_are_the_same_in_every_process() -> None:
    script = "from torch_trt_ext.optimizer.engine_cache import EngineCache; print(EngineCache.key('a', b'b'))"
    assert output_of_fresh(script).strip() == EngineCache.key("a", b"b")


@pytest.mark.parametrize("key", ["", "../" * 21 + "x", "A" * 64, "a" * 63, "a" * 64 + "\n"])
def test_other_keys_fail(tmp_path: Path, key: str) -> None:
    cache = EngineCache(tmp_path, ROOM)
    with pytest.raises(ValueError, match=r"key must be what EngineCache\.key gives"):
        cache.get(key)
    with pytest.raises(ValueError, match=r"key must be what EngineCache\.key gives"):
        cache.put(key, plan_of(b""))


def test_a_negative_bound_fails(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_bytes must be 0 or more, got -1"):
        EngineCache(tmp_path, -1)


def test_what_was_not_used_for_longest_goes(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, 3 * (1000 + OVERHEAD))
    keys = keys_of(4)
    for number, key in enumerate(keys[:3]):
        cache.put(key, plan_of(b"p" * 1000))
        age(tmp_path, key, 100 - number)
    assert cache.get(keys[0]) is not None
    cache.put(keys[3], plan_of(b"p" * 1000))
    assert [cache.get(key) is not None for key in keys] == [True, False, True, True]
    assert cache.size_bytes() <= 3 * (1000 + OVERHEAD)


def test_the_newest_stays_even_if_its_clock_is_behind(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, 1000 + OVERHEAD)
    old, new = keys_of(2)
    cache.put(old, plan_of(b"p" * 1000))
    age(tmp_path, old, -1000)
    cache.put(new, plan_of(b"q" * 1000))
    assert cache.get(old) is None
    assert cache.get(new) == plan_of(b"q" * 1000)


def test_an_engine_beyond_the_bound_is_not_kept(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, 1000)
    small, large = keys_of(2)
    cache.put(small, plan_of(b"p" * 100))
    cache.put(large, plan_of(b"p" * 1001))
    assert cache.get(small) == plan_of(b"p" * 100)
    assert cache.get(large) is None
    nothing = EngineCache(tmp_path / "none", 0)
    nothing.put(small, plan_of(b""))
    assert not (tmp_path / "none").exists()


def test_damaged_files_are_missed_and_removed(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, ROOM)
    (key,) = keys_of(1)
    path = tmp_path / f"{key}.engine"
    cache.put(key, plan_of(b"p" * 100))
    whole = path.read_bytes()
    damaged = [whole[:size] for size in (0, 1, 47, 48, 60, len(whole) - 100, len(whole) - 1)]
    damaged += [whole + b"!", whole[:-1] + b"!", whole[:50] + b"!" + whole[51:], b"!" + whole[1:]]
    damaged += [whole[:8] + b"\2" + whole[9:]]
    for content in damaged:
        path.write_bytes(content)
        assert cache.get(key) is None
        assert not path.exists()
    path.write_bytes(whole)
    assert cache.get(key) == plan_of(b"p" * 100)


def test_files_of_others_stay_and_abandoned_ones_go(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, 1000)
    (tmp_path / "notes.txt").write_bytes(b"n" * 5000)
    for name, seconds in (("a.part", 10**5), ("b.part", 1)):
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (time.time() - seconds,) * 2)
    cache.put(keys_of(1)[0], plan_of(b""))
    cache.clear()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.part", "notes.txt"]


def use(folder: Path, key: str, number: int) -> None:
    """Puts and gets, and fails unless it gets one whole engine."""
    cache = EngineCache(folder, ROOM)
    for _ in range(300):
        cache.put(key, plan_of(bytes([number]) * 50_000))
        found = cache.get(key)
        assert found is not None
        assert len(found.data) == 50_000
        assert len(set(found.data)) == 1


def test_processes_share_a_folder(tmp_path: Path) -> None:
    (key,) = keys_of(1)

    def run(number: int) -> None:
        script = f"""
            from pathlib import Path
            from tests.optimizer.test_engine_cache import use
            use(Path({str(tmp_path)!r}), {key!r}, {number})
        """
        output_of_fresh(script)

    run_in_threads(2, run)
    assert [path.name for path in tmp_path.iterdir()] == [f"{key}.engine"]


def test_threads_share_a_cache(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, 4 * (1000 + OVERHEAD))
    keys = keys_of(8)

    def work(number: int) -> None:
        for turn in range(40):
            key = keys[(number + turn) % 8]
            cache.put(key, plan_of(key.encode() * 15))
            found = cache.get(key)
            assert found is None or found.data == key.encode() * 15, key

    run_in_threads(4, work)
    cache.put(keys[0], plan_of(b"p" * 1000))
    assert 0 < cache.size_bytes() <= 4 * (1000 + OVERHEAD)


def test_two_threads_do_not_remove_each_others_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = EngineCache._shrink

    def shrink(cache: EngineCache, newest: str) -> None:
        # Long enough for the other thread to have put its engine in, and to have seen which ones there are.
        time.sleep(0.1)
        real(cache, newest)

    monkeypatch.setattr(EngineCache, "_shrink", shrink)
    remove = engine_cache._Folder.remove

    def remove_late(folder: Any, name: str) -> None:
        time.sleep(0.1)
        remove(folder, name)

    monkeypatch.setattr(engine_cache._Folder, "remove", remove_late)
    keys = keys_of(2)
    cache = EngineCache(tmp_path, 1000 + OVERHEAD)
    run_in_threads(2, lambda number: cache.put(keys[number], plan_of(b"p" * 1000)))
    assert sum(cache.get(key) is not None for key in keys) == 1


def test_a_folder_that_cannot_be_used_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = EngineCache(tmp_path / "file", ROOM)
    (key,) = keys_of(1)
    with pytest.warns(RuntimeWarning, match=r"cache folder .*file cannot be used .*; make it writable"):
        cache.put(key, plan_of(b""))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.put(key, plan_of(b""))
        assert cache.get(key) is None
        cache.clear()
        assert cache.size_bytes() == 0
    timings = TimingCache(tmp_path / "file", "t")
    with pytest.warns(RuntimeWarning, match="cannot be used"):
        timings.save(b"abc")
    assert timings.load() == b""


def test_timings_are_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timings = TimingCache(tmp_path, "tensorrt-10.6.0-NVIDIA H200/a")
    assert timings.load() == b""
    timings.save(b"first")
    timings.save(b"second")
    assert TimingCache(tmp_path, "tensorrt-10.6.0-NVIDIA H200/a").load() == b"second"
    assert TimingCache(tmp_path, "tensorrt-10.6.0-NVIDIA H200_a").load() == b""
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("tensorrt-10.6.0-NVIDIA_H200_a-")
    path.write_bytes(path.read_bytes()[:-1])
    assert timings.load() == b""
    assert not path.exists()
    timings.save(b"third")
    monkeypatch.setattr(TimingCache, "MAX_BYTES", 3)
    timings.save(b"much")
    assert timings.load() == b""
    assert list(tmp_path.iterdir()) == []


def test_engines_and_timings_share_a_folder(tmp_path: Path) -> None:
    timings = TimingCache(tmp_path, "t")
    timings.save(b"t" * 1000)
    cache = EngineCache(tmp_path, 1000)
    cache.put(keys_of(1)[0], plan_of(b""))
    assert cache.size_bytes() < 1000
    cache.clear()
    assert timings.load() == b"t" * 1000


def test_models_that_differ_in_comments_have_the_same_bytes() -> None:
    onnx = pytest.importorskip("onnx")
    text = """<ir_version: 9, opset_import: ["": 18]> g (float[4] x, bool c) => (float[4] y) {
        y = If(c) <then_branch = t () => (float[4] p) { p = Sin(x) }, else_branch = e () => (float[4] q) { q = Cos(x) }>
    }"""
    plain, told = onnx.parser.parse_model(text), onnx.parser.parse_model(text)
    for message in (told, told.graph, told.graph.node[0], told.graph.node[0].attribute[0].g.node[0]):
        message.doc_string = "File model.py, line 3"
        message.metadata_props.add(key="line", value="3")
    told.graph.input[0].doc_string = "an image"
    before = told.SerializeToString(deterministic=True)
    assert model_bytes_for_key(told) == model_bytes_for_key(plain) == plain.SerializeToString(deterministic=True)
    assert told.SerializeToString(deterministic=True) == before
    told.graph.node[0].attribute[0].g.node[0].op_type = "Tan"
    assert model_bytes_for_key(told) != model_bytes_for_key(plain)
