"""What torch.jit.save keeps of an engine: its fields, its checksum, and damage that is found."""

from __future__ import annotations

import copy
import random
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.openvino_models import EngineModule, affine_engine, affine_plan
from tests.unrunnable import unrunnable_engine


@pytest.fixture
def engine() -> Any:
    return affine_engine()


def _state(engine: Any) -> tuple[int, torch.Tensor, dict[str, list[str]]]:
    version, plan, fields = engine._get_method("__getstate__")()
    # Tests change single fields, so without the checksum over all of them, which older files lack as well.
    return version, plan, {name: values for name, values in fields.items() if name != "state_xxh64"}


def _restore(engine: Any, *state: Any) -> None:
    engine._get_method("__setstate__")(state)


def test_fields(engine: Any) -> None:
    version, plan, fields = _state(engine)
    assert version == 1
    assert plan.dtype == torch.uint8
    assert bytes(plan.numpy()) == affine_plan().data
    assert {name: fields[name] for name in ("input_names", "output_names", "input_types", "output_types")} == {
        "input_names": ["x"],
        "output_names": ["y"],
        "input_types": ["Float"],
        "output_types": ["Float"],
    }
    assert fields["plugin_libraries"] == []
    assert "made_on.openvino_version" in fields


def test_cuda_graphs_are_kept(engine: Any) -> None:
    assert _state(engine)[2]["cuda_graphs"] == ["off"]
    engine.set_cuda_graphs(True)
    version, plan, fields = _state(engine)
    assert fields["cuda_graphs"] == ["on"]
    assert copy.deepcopy(engine).cuda_graphs()
    # Files from before there was this field.
    del fields["cuda_graphs"]
    _restore(engine, version, plan, fields)
    assert not engine.cuda_graphs()


def test_shapes_are_known_where_the_engine_cannot_run(engine: Any) -> None:
    version, _, fields = _state(engine)
    assert fields["input_shapes"] == ["-1x3"]
    assert fields["output_shapes"] == ["-1x3"]
    (profile,) = fields["profiles"]
    assert engine.profiles() == [[[[int(size) for size in shape.split("x")] for shape in profile.split(",")]]]

    other = unrunnable_engine((["a", "b"], ["y"], ["Float", "Half"], ["Float"]))
    with pytest.raises(RuntimeError, match="the shapes of this engine are not known, since it cannot run here and was"):
        other.input_shapes()
    version, plan, fields = _state(other)
    assert not {"input_shapes", "output_shapes", "profiles"} & set(fields)
    shapes = {
        "input_shapes": ["-1x3x8x8", ""],
        "output_shapes": ["-1x0"],
        "profiles": ["1x3x8x8,2x3x8x8,4x3x8x8;,,", "8x3x8x8,8x3x8x8,8x3x8x8;,,"],
    }
    _restore(other, version, plan, fields | shapes)
    for known in (other, copy.deepcopy(other)):
        assert not known.can_run()
        assert known.input_shapes() == [[-1, 3, 8, 8], []]
        assert known.output_shapes() == [[-1, 0]]
        assert known.profiles() == [
            [[[1, 3, 8, 8], [2, 3, 8, 8], [4, 3, 8, 8]], [[], [], []]],
            [[[8, 3, 8, 8]] * 3, [[], [], []]],
        ]
        assert {name: _state(known)[2][name] for name in shapes} == shapes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_shapes": []}, "must have one shape for each of its 1 inputs, got 0"),
        ({"output_shapes": ["1", "2"]}, "must have one shape for each of its 1 outputs, got 2"),
        ({"input_shapes": ["-2x3"]}, "must be sizes of at least -1 like 1x3x224x224, got 4 characters"),
        ({"input_shapes": ["1x"]}, "must be sizes of at least -1 like 1x3x224x224, got 2 characters"),
        ({"input_shapes": ["9" * 30]}, "must be sizes of at least -1 like 1x3x224x224, got 30 characters"),
        ({"output_shapes": [" 1"]}, "must be sizes of at least -1"),
        ({"profiles": ["-1x3,1x3,1x3"]}, "must be sizes of at least 0"),
        ({"profiles": ["1x3,1x3"]}, "must be its smallest, tuned and largest shape, got 2"),
        ({"profiles": ["1x3,1x3,3"]}, "must have one rank, got 2, 2 and 1"),
        ({"profiles": ["1,1,1;1,1,1"]}, "must have a range for each of its 1 inputs, got 2"),
        ({"weight_budget": ["many"]}, "'weight_budget' of a saved engine must be a number of bytes, got 'many'"),
        ({"weight_budget": ["-1"]}, "must be a number of bytes, got '-1'"),
        ({"weight_budget": []}, "must be a number of bytes, got nothing"),
    ],
)
def test_bad_shapes_and_budgets_fail(engine: Any, change: dict[str, list[str]], message: str) -> None:
    version, plan, fields = _state(engine)
    with pytest.raises(ValueError, match=re.escape(message) + ".*; the file is damaged, save it again"):
        _restore(engine, version, plan, fields | change)


def test_profiles_without_shapes_fail(engine: Any) -> None:
    version, plan, fields = _state(engine)
    del fields["output_shapes"]
    with pytest.raises(ValueError, match="a saved engine must have the field 'output_shapes', this one has none"):
        _restore(engine, version, plan, fields)


@pytest.mark.parametrize(
    ("data", "checksum"),
    # Published XXH64 vectors for seed 0, and one longer than the four lanes' 32 bytes.
    [
        (b"a", "d24ec4f1a98c6e5b"),
        (b"abc", "44bc2cf5ad770999"),
        (b"xxhash", "32dd38952c4bc720"),
        (b"Nobody inspects the spammish repetition", "fbcea83c8a378bf1"),
    ],
)
def test_checksum_is_xxh64(engine: Any, data: bytes, checksum: str) -> None:
    version, _, fields = _state(engine)
    del fields["plan_xxh64_of_mib"]
    plan = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    # A right checksum gets past the state's own check, to the engine's complaint that these bytes are no engine.
    with pytest.raises(ValueError, match="engine"):
        _restore(engine, version, plan, fields | {"plan_xxh64": [checksum]})
    with pytest.raises(ValueError, match=f"must have the checksum 0000000000000000, got {checksum} over"):
        _restore(engine, version, plan, fields | {"plan_xxh64": ["0" * 16]})


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 5 * (1 << 19)])
def test_checksum_of_pieces_is_that_of_their_checksums(engine: Any, size: int, threads: int) -> None:
    version, _, fields = _state(engine)
    without = {name: values for name, values in fields.items() if name != "plan_xxh64_of_mib"}

    def wrong_one_s_message(data: bytes, fields: Any) -> str:
        with pytest.raises(ValueError, match="must have the checksum") as caught:
            _restore(engine, version, torch.tensor(list(data), dtype=torch.uint8), fields)
        found = re.search(r"got (\w{16}) over", str(caught.value))
        assert found is not None
        return found[1]

    def xxh64(data: bytes) -> bytes:
        return int(wrong_one_s_message(data, without | {"plan_xxh64": ["0"]}), 16).to_bytes(8, "little")

    data = random.Random(size).randbytes(size)
    pieces = b"".join(xxh64(data[first : first + (1 << 20)]) for first in range(0, size, 1 << 20))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = wrong_one_s_message(data, fields | {"plan_xxh64_of_mib": ["0"]})
    finally:
        torch.set_num_threads(before)
    assert int(found, 16).to_bytes(8, "little") == xxh64(pieces)


def test_plan_is_a_raw_record_of_the_file(tmp_path: Path, engine: Any) -> None:
    path = tmp_path / "model.pt"
    torch.jit.save(torch.jit.script(EngineModule(engine)), str(path))
    with zipfile.ZipFile(path) as archive:
        records = [archive.read(name) for name in archive.namelist() if "/data/" in name or "/constants/" in name]
    assert records.count(affine_plan().data) == 1
    assert path.read_bytes().count(affine_plan().data) == 1


def test_damaged_file_fails(tmp_path: Path, engine: Any) -> None:
    path = tmp_path / "model.pt"
    torch.jit.save(torch.jit.script(EngineModule(engine)), str(path))
    data = bytearray(path.read_bytes())
    data[data.find(affine_plan().data) + 300] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"the plan of a saved engine must have the checksum .* the file is damaged"):
        torch.jit.load(str(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v, p, f: (v + 1, p, f), "must be of version 1 to 1, got version 2; load it with a newer torch_trt_ext"),
        (lambda v, p, f: (0, p, f), "must be of version 1 to 1, got version 0"),
        (lambda v, p, f: (v, p[:-1], f), "the plan of a saved engine must have the checksum"),
        (lambda v, p, f: (v, p.float(), f), "must be a 1-D uint8 tensor, got float32"),
        (lambda v, p, f: (v, p[None], f), "must be a 1-D uint8 tensor"),
        (lambda v, p, f: (v, p, {k: x for k, x in f.items() if k != "input_types"}), "must have the field 'input_type"),
        (lambda v, p, f: (v, p, f | {"plan_xxh64_of_mib": []}), "must have the checksum that was saved with it"),
        (lambda v, p, f: (v, p, f | {"input_types": ["Complex"]}), "type of input 'x' must be one of"),
        (lambda v, p, f: (v, p, f | {"input_names": ["z"]}), "input 'z' must be one of the engine's inputs ('x')"),
    ],
)
def test_bad_states_fail(engine: Any, change: Any, message: str) -> None:
    state = change(*_state(engine))
    with pytest.raises(ValueError, match=re.escape(message)):
        _restore(engine, *state)


def test_plugin_names_with_folders_are_never_opened(tmp_path: Path, engine: Any) -> None:
    version, plan, fields = _state(engine)
    hostile = tmp_path / "libhostile.so"
    hostile.write_bytes(b"")
    for name in (str(hostile), "../libhostile.so", "", "libc.so.6"):
        _restore(engine, version, plan, fields | {"plugin_libraries": [name]})
        assert engine.can_run()
        assert str(hostile) not in Path("/proc/self/maps").read_text()
