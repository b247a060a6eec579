"""The C++ passes that replace lists of tensors, and tensors that numbers are written to, by ordinary operators."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.optimizer.test_passes import kinds, prepare, run
from torch_trt_ext import _C
from torch_trt_ext.optimizer import observation

# torch.jit.script reads the annotations of forward() as they are written: no `from __future__ import annotations`.


@pytest.fixture
def x() -> Tensor:
    return torch.arange(8.0).reshape(2, 4) / 8


def outcome(module: Any, *arguments: Any) -> Any:
    """What a call gives; for one that fails only that it does."""
    try:
        return run(module, *arguments)
    except (RuntimeError, torch.jit.Error):
        return "failed"


def assert_same(actual: Any, expected: Any) -> None:
    assert isinstance(actual, str) == isinstance(expected, str)
    if not isinstance(expected, str):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)


# Parts of what was split


class SplitParts(nn.Module):
    def __init__(self, size: int, indices: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.first, self.second = indices

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(x, self.size, 1)
        return parts[self.first].sum() * 2 + parts[self.second].sum()


class ChunkParts(SplitParts):
    def forward(self, x: Tensor) -> Tensor:
        parts = torch.chunk(x, self.size, -1)
        return parts[self.first].sum() * 2 + parts[self.second].sum()


class UnbindParts(SplitParts):
    def forward(self, x: Tensor) -> Tensor:
        parts = torch.unbind(x, self.size)
        return parts[self.first].sum() * 2 + parts[self.second].sum()


class SizedParts(SplitParts):
    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(x, [self.size, 2], 1)
        return parts[self.first].sum() * 2 + parts[self.second].sum()


class TensorSplitParts(SplitParts):
    def forward(self, x: Tensor) -> Tensor:
        parts = torch.tensor_split(x, [1, self.size], 1)
        return parts[self.first].sum() * 2 + parts[self.second].sum()


@pytest.mark.parametrize("indices", [(0, 1), (2, 0), (-1, 0), (-1, 1), (-2, -2), (1, -3)])
@pytest.mark.parametrize(
    ("kind", "sizes"),
    [(SplitParts, (1, 2, 3)), (ChunkParts, (3, 4)), (UnbindParts, (1,)), (SizedParts, (1,)), (TensorSplitParts, (2,))],
)
def test_parts_are_read_from_the_tensor(kind: Any, sizes: tuple[int, ...], indices: tuple[int, int]) -> None:
    for size in sizes:
        module = kind(size, indices).eval()
        model = prepare(module)
        # Of two parts there is none behind the second.
        is_there = kind is not SizedParts or indices not in [(2, 0), (1, -3)]
        assert ("aten::__getitem__" not in kinds(model)) == is_there
        assert ("prim::ListUnpack" in kinds(model)) == (is_there and kind in (SizedParts, TensorSplitParts))
        assembled = model.assembled({})
        original = torch.jit.script(module)._c
        for width in range(8):
            x = torch.arange(2.0 * width).reshape(2, width)
            assert_same(outcome(assembled, x), outcome(original, x))


class UnrolledParts(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(x, 2, 1)
        found = []
        part = parts[0]
        for index in range(3):
            part = torch.relu_(parts[index] * 2 if index == 0 else part + parts[index])
            found.append(part)
        found.append(parts[-1])
        return torch.cat(found, 1)


def test_parts_and_lists_of_unrolled_loops() -> None:
    x = torch.arange(12.0).reshape(2, 6) - 5
    model = prepare(UnrolledParts())
    model.functionalize({node.id for node in model.nodes() if node.in_place})
    assert not {"aten::split", "aten::__getitem__", "aten::append", "aten::relu_", "aten::add_"} & kinds(model)
    torch.testing.assert_close(run(model.assembled({}), x), UnrolledParts()(x))


class WritesToParts(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.tanh(x)
        parts = y.chunk(2, 1)
        parts[0].add_(1)
        parts[1].mul_(parts[0])
        return y, parts[0]


def test_writes_to_parts_are_seen_in_the_tensor(x: Tensor) -> None:
    model = prepare(WritesToParts())
    assert "aten::chunk" not in kinds(model)
    model.functionalize({node.id for node in model.nodes() if node.in_place})
    module = torch.jit._recursive.wrap_cpp_module(model.assembled({}))
    with torch.no_grad():
        y, part = module(x)
    torch.testing.assert_close((y, part), WritesToParts()(x))
    assert y.data_ptr() == part.data_ptr()


class PartInBranch(nn.Module):
    def forward(self, x: Tensor, deep: bool) -> Tensor:
        parts = x.split(2, 1)
        return parts[2] if deep else x


class PartsInBranches(nn.Module):
    def forward(self, x: Tensor, deep: bool) -> Tensor:
        parts = x.split(2, 1)
        last = parts[2]
        return parts[1] * last if deep else parts[0]


class ComparedParts(nn.Module):
    def forward(self, x: Tensor, deep: bool) -> Tensor:
        parts = x.split(2, 1)
        return parts[0] * 2 if parts[0] is parts[-1] and deep else parts[0]


class ResizedParts(nn.Module):
    def forward(self, x: Tensor, deep: bool) -> Tensor:
        parts = (x * 2).split(2, 1)
        if deep:
            parts[0].unsqueeze_(0)
        return parts[0]


class UnknownPart(nn.Module):
    def forward(self, x: Tensor, deep: bool) -> Tensor:
        parts = x.split(2, 1)
        return parts[int(deep)] + parts[0]


@pytest.mark.parametrize(
    ("kind", "is_read"),
    [
        (PartInBranch, False),
        (PartsInBranches, True),
        (ComparedParts, False),
        (ResizedParts, False),
        (UnknownPart, False),
    ],
)
def test_parts_that_may_not_be_there_or_change_stay_in_their_list(kind: Any, is_read: bool) -> None:
    model = prepare(kind())
    assert ("aten::__getitem__" in kinds(model)) != is_read
    assembled, original = model.assembled({}), torch.jit.script(kind())._c
    for width, deep in itertools.product((2, 4, 6), (False, True)):
        x = torch.arange(2.0 * width).reshape(2, width)
        assert_same(outcome(assembled, x, deep), outcome(original, x, deep))


def test_parts_that_are_not_there_fail() -> None:
    model = prepare(SplitParts(2, (0, 2)))
    with pytest.raises(torch.jit.Error, match="list index out of range"):
        run(model.assembled({}), torch.ones(2, 4))


# Lists after branches


class ListAfterBranches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        shifts = [3, 2].copy()
        if x.size(0) <= 3:
            shifts[0] = 0
        if x.size(1) <= 3:
            if x.size(0) > 1:
                shifts[1] = x.size(1)
            else:
                shifts[1] = 1
        if sum(shifts) > 0:
            x = torch.roll(x, [-shifts[0], -shifts[1]], [0, 1])
        return x * len(shifts)


class TensorsAfterBranches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        found = [x, x * 2]
        named = {"a": x}
        if x.size(0) > 2:
            found[0] = torch.tanh(x)
            named["a"] = torch.exp(x)
        elif x.size(0) > 1:
            found.append(found.pop(0))
        return torch.cat(found) - named["a"].sum()


@pytest.mark.parametrize("kind", [ListAfterBranches, TensorsAfterBranches])
def test_lists_after_branches_hold_what_these_give(kind: Any) -> None:
    model = prepare(kind())
    assert not {"aten::_set_item", "aten::append", "aten::pop", "aten::__getitem__", "aten::copy"} & kinds(model)
    for rows, columns in itertools.product((1, 2, 3, 4), (1, 3, 5)):
        x = torch.arange(1.0 * rows * columns).reshape(rows, columns)
        torch.testing.assert_close(run(model.assembled({}), x), kind()(x))


class GrowsInBranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        found = [x]
        if x.size(0) > 2:
            found.append(x * 2)
        return torch.cat(found)


class WritesTwoNames(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        sizes = [1, 2]
        both = [sizes, sizes]
        if x.size(0) > 2:
            both[x.size(1) - 3][0] = 5
        else:
            sizes[1] = 7
        return x * sizes[0] + sizes[1]


class LoopInBranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        sizes = [1, 2]
        if x.size(0) > 2:
            for row in range(x.size(0)):
                sizes[0] = sizes[0] + sizes[1] + row
        return x * sizes[0] + sizes[1]


@pytest.mark.parametrize("kind", [GrowsInBranch, WritesTwoNames, LoopInBranch])
def test_lists_after_branches_that_are_not_followed_stay(kind: Any) -> None:
    model = prepare(kind())
    assert {"aten::_set_item", "aten::append"} & kinds(model)
    for rows in (1, 3):
        x = torch.arange(3.0 * rows).reshape(rows, 3)
        torch.testing.assert_close(run(model.assembled({}), x), kind()(x))


# Tensors that numbers are written to


class Mask(nn.Module):
    """As the attention of shifted windows makes it."""

    def forward(self, x: Tensor) -> Tensor:
        mask = x.new_zeros((x.size(0), x.size(1)))
        count = 1
        for rows in ((0, -3), (-3, -1), (-1, None)):
            for columns in ((0, -2), (-2, None)):
                mask[rows[0] : rows[1], columns[0] : columns[1]] = count
                count += 1
        mask[0].fill_(9)
        mask[:, 1:2].zero_()
        return torch.tanh(x) + mask.masked_fill(mask == 0, 0.5)


class OtherDtype(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        mask = torch.zeros(x.size(0), x.size(1), dtype=torch.bool)
        mask[1:, ::2] = 3
        mask[:, -1] = True
        return torch.where(mask, x, torch.exp(x))


class MaskInBranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.size(0) > 2:
            mask = torch.ones_like(x)
            mask[1:] = 0
            x = x * mask
        return x


@pytest.mark.parametrize("kind", [Mask, OtherDtype, MaskInBranch])
def test_writes_of_numbers_become_ordinary_operators(kind: Any) -> None:
    model = prepare(kind())
    assert not any(node.in_place for node in model.nodes())
    assert "aten::slice_scatter" in kinds(model)
    for shape in [(5, 4), (3, 3), (1, 2)]:
        x = torch.randn(shape)
        torch.testing.assert_close(run(model.assembled({}), x), kind()(x))


class KnownBias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bias", torch.arange(6.0))

    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias.clone()
        bias[2:4].zero_()
        return x + bias


def test_a_constant_with_numbers_written_to_it_is_a_constant() -> None:
    model = prepare(KnownBias())
    assert kinds(model) == {"aten::add"}
    torch.testing.assert_close(run(model.assembled({}), torch.ones(6)), torch.tensor([1.0, 2, 1, 1, 5, 6]))


class ReadBetween(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        mask = torch.zeros_like(x)
        view = mask[0]
        mask[:, 1] = 2
        return x + mask + view


class ReadBetweenWrites(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        mask = torch.zeros_like(x)
        mask[0] = 1
        x = x + mask
        mask[1:] = 2
        return x * mask


class WritesTensors(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        rows = torch.zeros_like(x)
        rows[0] = x[0] * 2
        return rows + x


class WritesInBranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        mask = torch.zeros_like(x)
        if bool(x.sum() > 0):
            mask[0] = 1
        return x * mask


class KeptName(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        mask = torch.zeros_like(x)
        first = mask[0].fill_(3)
        mask[:, 0] = 1
        return x + mask + first


@pytest.mark.parametrize("kind", [ReadBetween, ReadBetweenWrites, WritesTensors, WritesInBranch, KeptName])
def test_writes_that_are_seen_in_between_or_copy_tensors_stay(kind: Any, x: Tensor) -> None:
    model = prepare(kind())
    assert any(node.in_place for node in model.nodes())
    for given in (x, -x):
        torch.testing.assert_close(run(model.assembled({}), given), kind()(given))


# Sizes in graphs for engines


class SizeFlags(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        shift = 0 if y.size(0) <= 2 else 1
        return torch.roll(y[:, torch.tensor([1, 0])], [shift], [0]) * y[y > 9].size(0)


@pytest.mark.parametrize(("rows", "left"), [(2, 1), (-1, 2)])
def test_engine_graphs_have_the_sizes_that_are_known(rows: int, left: int, x: Tensor) -> None:
    model = prepare(SizeFlags())
    with observation.session() as session:
        run(model.observed(session), x)
        values = _C.read_session(session).values
    model.divide({}, {}, 1)
    facts = {
        value: _C.TensorFacts(record.dtype, [rows if size == 2 else size for size in record.max_shape])
        for value, record in values.items()
    }
    graph = str(model.engine_graph(0, facts, "cpu", model.subgraph_length(0)))
    # How many elements a mask takes is another number at each call.
    assert graph.count("aten::size") == left
