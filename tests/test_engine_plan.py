"""EnginePlan answers to the calls of scripts written for older TensorRT engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from torch_trt_ext import EnginePlan

PLAN = EnginePlan(b"data", "tensorrt", ("a", "b"), ("c",), ("Float", "Half"), ("Long",))


def test_old_engine_calls() -> None:
    assert PLAN.num_bindings == 3
    assert [PLAN.get_binding_name(index) for index in range(3)] == ["a", "b", "c"]
    assert PLAN.serialize() == bytes(PLAN) == b"data"


@pytest.mark.parametrize("index", [-1, 3])
def test_binding_index_out_of_range_fails(index: int) -> None:
    with pytest.raises(IndexError, match=rf"binding index must be in \[0, 3\), got {index}"):
        PLAN.get_binding_name(index)


def test_io_spec_and_repr() -> None:
    assert PLAN.io_spec == (["a", "b"], ["c"], ["Float", "Half"], ["Long"])
    assert repr(PLAN) == "EnginePlan(tensorrt, 4 bytes, inputs=['a', 'b'], outputs=['c'])"


def test_save(tmp_path: Path) -> None:
    PLAN.save(tmp_path / "engine.plan")
    assert (tmp_path / "engine.plan").read_bytes() == b"data"
