"""Which tensors on another device than the engine's may be in one: those that it can make itself, and keeps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch_trt_ext.config import PartitionConfig
from torch_trt_ext.optimizer.support import find_border_crossings, find_unsupported


def _node(number: int, kind: str, inputs: list[int], outputs: list[int]) -> Any:
    return SimpleNamespace(
        id=number, kind=kind, inputs=inputs, outputs=outputs, module_path="", magnitude=None, only_indexes=False
    )


def _session(on_gpu: set[int], on_cpu: set[int]) -> Any:
    def record(device: str) -> Any:
        return SimpleNamespace(dtype="Float", device=device, consistent=True)

    return SimpleNamespace(values={v: record("cuda:0") for v in on_gpu} | {v: record("cpu") for v in on_cpu})


#: Positions 10 and 11, counted on the CPU, moved to the GPU as 12, and added to the input 1.
POSITIONS = [
    _node(0, "aten::arange", [], [10]),
    _node(1, "aten::mul", [10], [11]),
    _node(2, "aten::to", [11], [12]),
    _node(3, "aten::add", [1, 12], [2]),
]
GIVES = "gives a tensor on cpu, and the engine's are on cuda"
TAKES = "takes a tensor on cpu, and the engine's are on cuda"


def _unsupported(nodes: list[Any], session: Any) -> dict[int, str]:
    return find_unsupported(nodes, session, PartitionConfig(), "gpu")


def test_positions_counted_on_the_cpu_may_be_in_an_engine() -> None:
    session = _session({1, 2, 12}, {10, 11})
    assert _unsupported(POSITIONS, session) == {}
    assert find_border_crossings(POSITIONS, {0, 1, 2, 3}, {1, 2}, session.values, "gpu") == {}


def test_a_number_on_the_cpu_may_meet_a_tensor_on_the_gpu() -> None:
    nodes = [_node(0, "aten::arange", [], [10]), _node(1, "aten::add", [1, 10], [2])]
    assert _unsupported(nodes, _session({1, 2}, {10})) == {}


def test_what_comes_from_a_tensor_on_the_cpu_stays() -> None:
    nodes = [_node(0, "aten::mul", [3], [10]), _node(1, "aten::to", [10], [11]), _node(2, "aten::relu", [11], [12])]
    assert _unsupported(nodes, _session({11, 12}, {3, 10})) == {0: GIVES, 1: TAKES}


def test_what_leaves_the_gpu_stays() -> None:
    nodes = [_node(0, "aten::to", [1], [10]), _node(1, "aten::mul", [10], [11])]
    assert _unsupported(nodes, _session({1}, {10, 11})) == {0: GIVES, 1: GIVES}


def test_branches_on_the_cpu_stay() -> None:
    nodes = [_node(0, "prim::If", [], [10]), _node(1, "aten::to", [10], [11])]
    assert _unsupported(nodes, _session({11}, {10})) == {0: GIVES, 1: TAKES}


def test_nothing_crosses_the_border() -> None:
    values = _session({1, 2, 12}, {10, 11}).values
    # The positions are read by code outside: they and all that belong to them stay.
    crossings = find_border_crossings(POSITIONS, {0, 1, 2, 3}, {1, 2, 11}, values, "gpu")
    assert crossings == {0: GIVES, 1: GIVES, 2: TAKES}
    # So does what takes them from outside.
    assert find_border_crossings(POSITIONS, {2, 3}, {1, 2, 11}, values, "gpu") == {2: TAKES}


def test_positions_that_stay_within_do_not_suffer_from_others() -> None:
    others = [_node(4, "aten::arange", [], [20]), _node(5, "aten::to", [20], [21])]
    values = _session({1, 2, 12, 21}, {10, 11, 20}).values
    crossings = find_border_crossings([*POSITIONS, *others], set(range(6)), {1, 2, 21, 20}, values, "gpu")
    assert set(crossings) == {4, 5}


def test_through_a_list_all_on_the_cpu_stay() -> None:
    # The list's tensors have other numbers outside of it.
    values = _session({1, 2, 12}, {10, 11, 30}).values
    assert set(find_border_crossings(POSITIONS, {0, 1, 2, 3}, {30}, values, "gpu")) == {0, 1, 2}
    alone = [_node(0, "prim::ListConstruct", [30], [])]
    assert set(find_border_crossings(alone, {0, 5}, {30}, values, "gpu")) == {0, 5}


def test_engines_for_the_cpu_have_their_tensors_there() -> None:
    values = _session(set(), {1, 2, 10, 11, 12})
    assert find_unsupported(POSITIONS, values, PartitionConfig(), "cpu") == {}
    assert find_border_crossings(POSITIONS, {0, 1, 2, 3}, {1, 2, 11}, values.values, "cpu") == {}
