"""Files of every form that was ever written still load and answer (tests/fixtures); what a form lacks has a default.

The engine in each is ``affine_plan()`` in an ``EngineModule``, saved by the runtime of its day:

- ``engine_v1_first.pt``: version 1 as it was first written.
- ``engine_v1_cuda_graphs.pt``: with the field ``cuda_graphs``, which is on.
- ``engine_v1_state_checksum.pt``: with the fields ``name``, which is "affine", and ``state_xxh64`` as well.
- ``engine_v1_shapes.pt``: with the fields ``input_shapes``, ``output_shapes`` and ``profiles`` as well.
- ``engine_v1_plan_pieces.pt``: with the field ``plan_xxh64_of_mib`` as well.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from pathlib import Path

import pytest
import torch

pytest.importorskip("openvino")

from tests.openvino_models import EngineModule, affine_engine, two_way_plan
from tests.state_fuzz import State, restore, state_of
from torch_trt_ext import OpenVINOEngineExtension

FIXTURES = Path(__file__).parent / "fixtures"

#: What each form has beside the fields of the first.
LATER_FIELDS = {
    "engine_v1_first": set(),
    "engine_v1_cuda_graphs": {"cuda_graphs"},
    "engine_v1_state_checksum": {"cuda_graphs", "name", "state_xxh64"},
    "engine_v1_shapes": {"cuda_graphs", "name", "state_xxh64", "input_shapes", "output_shapes", "profiles"},
    "engine_v1_plan_pieces": {
        *("cuda_graphs", "name", "state_xxh64", "input_shapes", "output_shapes", "profiles", "plan_xxh64_of_mib")
    },
}
NEWEST = "engine_v1_plan_pieces"


def _texts(name: str) -> set[object]:
    """All that the file's pickle spells out, field names among it."""
    with zipfile.ZipFile(FIXTURES / f"{name}.pt") as archive:
        return {text for _, text, _ in pickletools.genops(archive.read(f"{name}/data.pkl"))}


@pytest.mark.parametrize("name", list(LATER_FIELDS))
def test_file_loads_and_answers(name: str) -> None:
    path = FIXTURES / f"{name}.pt"
    assert path.stat().st_size < 8000
    assert _texts(name) & LATER_FIELDS[NEWEST] == LATER_FIELDS[name]
    model = torch.jit.load(str(path))
    x = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(model(x), 2 * x + 1)
    engine = model.engine
    assert engine.can_run()
    assert engine.cuda_graphs() == ("cuda_graphs" in LATER_FIELDS[name])
    assert engine.name() == ("affine" if "name" in LATER_FIELDS[name] else "")
    assert engine.io_names() == (["x"], ["y"], ["Float"], ["Float"])
    assert engine.plugin_libraries() == []
    assert engine.made_on()["openvino_version"][0].startswith("2026.4.1")


@pytest.mark.parametrize("name", list(LATER_FIELDS))
def test_saving_again_writes_the_newest_form(name: str) -> None:
    model = torch.jit.load(str(FIXTURES / f"{name}.pt"))
    buffer = io.BytesIO()
    torch.jit.save(model, buffer)
    buffer.seek(0)
    again = torch.jit.load(buffer)
    version, plan, fields = state_of(again.engine)
    assert version == 1
    assert LATER_FIELDS[NEWEST] < set(fields)
    # The plan, byte for byte, whatever today's OpenVINO would write for this model.
    assert torch.equal(plan, state_of(model.engine)[1])
    assert again.engine.cuda_graphs() == model.engine.cuda_graphs()


def test_no_form_lacks_a_file() -> None:
    assert {path.stem for path in FIXTURES.glob("engine_v1_*.pt")} == set(LATER_FIELDS)
    fields = set(state_of(affine_engine())[2])
    assert fields <= _texts(NEWEST), "the state has changed: add a file of the new form to tests/fixtures"


def _changed(**changes: list[str]) -> State:
    version, plan, fields = state_of(affine_engine())
    return version, plan, fields | changes


@pytest.mark.parametrize(
    "changes",
    [
        {"plugin_libraries": ["libmine.so"]},
        {"cuda_graphs": ["on"]},
        {"name": ["other"]},
        {"input_shapes": ["-1x4"]},
        {"weight_budget": ["5"]},
        {"made_on.openvino_version": ["2027.1"]},
        {"note": ["added"]},
        {"output_types": ["Half"]},
    ],
)
def test_changed_fields_fail(changes: dict[str, list[str]]) -> None:
    message = r"names, types and facts of a saved engine must have the checksum \w{16}, got \w{16}; the file is damaged"
    with pytest.raises(ValueError, match=message):
        restore(affine_engine(), _changed(**changes))


def test_swapped_names_fail() -> None:
    engine = OpenVINOEngineExtension(two_way_plan().data, two_way_plan().io_spec)
    version, plan, fields = state_of(engine)
    fields["output_names"].reverse()
    with pytest.raises(ValueError, match="names, types and facts of a saved engine must have the checksum"):
        restore(engine, (version, plan, fields))


def test_plan_that_announces_more_than_it_has_fails() -> None:
    version, plan, fields = state_of(affine_engine())
    with pytest.raises(ValueError, match="must be a tensor whose bytes follow each other in memory, got strides"):
        restore(affine_engine(), (version, plan[:1].expand(1 << 50), fields))
    with pytest.raises(ValueError, match=r"must be a tensor whose bytes .* got one on the meta device"):
        restore(affine_engine(), (version, plan.to("meta"), fields))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"X\x02\x00\x00\x00on", b"X\x02\x00\x00\x00\xff\xfe", r"an item of field 'cuda_graphs' .* got '\\xff\\xfe'"),
        (
            b"X\x0b\x00\x00\x00cuda_graphs",
            b"X\x0b\x00\x00\x00cuda\0graphs",
            r"the name of a field .* got 'cuda\\x00grap",
        ),
        (
            b"X\x02\x00\x00\x00on",
            b"K\x05",
            r"an item of field 'cuda_graphs' of a saved engine must be a string, got Int",
        ),
    ],
)
def test_texts_that_are_none_fail(old: bytes, new: bytes, message: str) -> None:
    damaged = io.BytesIO()
    with zipfile.ZipFile(FIXTURES / "engine_v1_state_checksum.pt") as archive, zipfile.ZipFile(damaged, "w") as result:
        for name in archive.namelist():
            data = archive.read(name)
            assert name.endswith("/data.pkl") == (old in data)
            result.writestr(name, data.replace(old, new))
    damaged.seek(0)
    with pytest.raises(ValueError, match=message):
        torch.jit.load(damaged)


def test_engine_module_is_the_fixtures(tmp_path: Path) -> None:
    """The fixtures hold what this file says, so that they can be made again."""
    torch.jit.save(torch.jit.script(EngineModule(affine_engine())), str(tmp_path / "model.pt"))
    made = torch.jit.load(str(tmp_path / "model.pt"))
    kept = torch.jit.load(str(FIXTURES / f"{NEWEST}.pt"))
    assert made.code == kept.code
