"""Nested values: what is found in them, what is kept when they are rebuilt, and what a copy shares."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from torch_trt_ext.optimizer.structures import describe, detach_clone, flatten_tensors, map_tensors, to_device


class Detections(NamedTuple):
    boxes: Tensor
    scores: list[Tensor]


def _nested() -> tuple[Any, ...]:
    return (
        torch.tensor([1.0]),
        [torch.tensor([2.0]), None, 3, "text"],
        {"a": torch.tensor([4.0]), 7: (torch.tensor([5.0]), 2.5)},
        Detections(torch.tensor([6.0]), [torch.tensor([7.0])]),
    )


def test_paths_name_keys_fields_and_positions() -> None:
    paths = [path for path, _ in flatten_tensors(_nested())]
    assert paths == ["0", "1.0", "2.a", "2.7.0", "3.boxes", "3.scores.0"]
    assert [tensor.item() for _, tensor in flatten_tensors(_nested())] == [1.0, 2.0, 4.0, 5.0, 6.0, 7.0]
    assert [path for path, _ in flatten_tensors({"images": [torch.ones(1)]})] == ["images.0"]


def test_tensor_alone_has_the_empty_path() -> None:
    tensor = torch.ones(2)
    ((path, found),) = flatten_tensors(tensor)
    assert path == ""
    assert found is tensor


@pytest.mark.parametrize("leaf", [None, 3, 2.5, "a string", object()])
def test_other_leaves_hold_no_tensor_and_stay(leaf: object) -> None:
    assert flatten_tensors(leaf) == []
    assert map_tensors(leaf, torch.neg) is leaf


def test_map_keeps_the_structure() -> None:
    value = _nested()
    mapped = map_tensors(value, torch.neg)
    assert [tensor.item() for _, tensor in flatten_tensors(mapped)] == [-1.0, -2.0, -4.0, -5.0, -6.0, -7.0]
    assert mapped[1][1:] == [None, 3, "text"]
    assert type(mapped[3]) is Detections
    assert value[1][0].item() == 2.0
    assert mapped[1] is not value[1]


def test_map_keeps_kinds_of_containers() -> None:
    for value in (
        OrderedDict(b=torch.ones(1), a=torch.ones(1)),
        torch.ones(2, 2).max(dim=0),
        torch.Size([1, 2]),
        torch.ScriptList([torch.ones(1)]),
        torch.ScriptDict({"a": torch.ones(1)}),
        torch.ScriptList([]),
    ):
        mapped = map_tensors(value, lambda tensor: tensor)
        assert type(mapped) is type(value)
        assert [path for path, _ in flatten_tensors(mapped)] == [path for path, _ in flatten_tensors(value)]
    with_default = map_tensors(defaultdict(list, a=[torch.ones(1)]), lambda tensor: tensor)
    assert with_default["missing"] == []


def test_script_containers_are_searched() -> None:
    assert [path for path, _ in flatten_tensors([torch.ScriptList([torch.ones(1), torch.ones(1)])])] == ["0.0", "0.1"]
    assert [path for path, _ in flatten_tensors(torch.ScriptDict({"a": torch.ones(1)}))] == ["a"]


def test_writes_to_a_copy_do_not_reach_the_original() -> None:
    tensor = torch.ones(2, requires_grad=True)
    script_list = torch.ScriptList([tensor.detach()])
    value = ({"x": tensor}, [tensor], script_list)
    copied = detach_clone(value)
    copied[0]["x"].zero_()
    copied[1].append(None)
    copied[2].append(torch.zeros(1))
    copied[2][0].zero_()
    assert tensor.tolist() == [1.0, 1.0]
    assert (len(value[1]), len(script_list)) == (1, 1)
    assert not copied[0]["x"].requires_grad


def test_copy_keeps_one_tensor_one_tensor() -> None:
    tensor = torch.ones(2)
    first, second, other = detach_clone((tensor, tensor, torch.ones(2)))
    assert first is second
    assert first is not other


def test_to_device_copies_only_what_is_elsewhere() -> None:
    tensor = torch.ones(2)
    assert to_device([tensor], "cpu")[0] is tensor
    assert to_device({"a": (tensor, 1)}, "meta")["a"][0].device.type == "meta"


def test_describe_is_one_readable_line() -> None:
    value = (torch.ones(1, 3), {"boxes": torch.ones(4, 4, dtype=torch.int64)}, [None, 3, "x"], object())
    assert describe(value) == "(float32[1, 3], {'boxes': int64[4, 4]}, [None, 3, 'x'], object)"
    assert describe((torch.ones(()),)) == "(float32[],)"
    assert describe(Detections(torch.ones(1), [])) == "('boxes': float32[1], 'scores': [])"
    assert describe(list(range(10))) == "[0, 1, 2, 3, 4, 5, 6, 7, ... 2 more]"
