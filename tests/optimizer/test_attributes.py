"""The C++ pass that gives reads of an attribute what the same call has set it to."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.optimizer.test_passes import kinds, prepare, run
from torch_trt_ext.optimizer.script_module import wrap

# torch.jit.script reads the annotations of forward() as they are written: no `from __future__ import annotations`.


@pytest.fixture
def x() -> Tensor:
    return torch.arange(8.0).reshape(2, 4) / 8


class Pyramid(nn.Module):
    """RAFT's: levels are kept in an attribute, and read in a loop by another method."""

    def __init__(self) -> None:
        super().__init__()
        self.levels: list[Tensor] = [torch.tensor(0.0)]

    def build(self, x: Tensor) -> None:
        self.levels = [x]
        for _ in range(2):
            x = x * 0.5
            self.levels.append(x)

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for number, level in enumerate(self.levels):
            total = total + level * number
        return total


class Pyramids(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pyramid = Pyramid()

    def forward(self, x: Tensor, rounds: int) -> Tensor:
        self.pyramid.build(x + 1)
        for _ in range(rounds):
            x = x + self.pyramid(x)
        return x


def test_lists_in_attributes_are_known(x: Tensor) -> None:
    module = Pyramids().eval()
    model = prepare(module)
    assert {"aten::__getitem__", "aten::len"}.isdisjoint(kinds(model))
    assert sum(node.kind == "prim::Loop" for node in model.nodes()) == 1
    assembled = model.assembled({})
    for rounds in (3, 0):
        assert torch.equal(run(assembled, x, rounds), module(x, rounds))
    # Whoever looks at the module finds them there.
    found, wanted = wrap(assembled).pyramid.levels, module.pyramid.levels
    assert [level.tolist() for level in found] == [level.tolist() for level in wanted]


class Kept(nn.Module):
    """Adds up what an attribute is at several places."""

    last: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.kept = torch.zeros(1)
        self.calls = 0
        self.last = None

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class OfTheCallBefore(Kept):
    def forward(self, x: Tensor) -> Tensor:
        before = self.kept
        self.kept = x * 2
        return before + self.kept


class Counts(Kept):
    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y = x * self.calls
        self.calls += 1
        if self.calls > 3:
            y = y + 100
        return y * self.calls


class InOneBranch(Kept):
    def forward(self, x: Tensor) -> Tensor:
        self.kept = x * 2
        if bool(x.sum() > 2):
            self.kept = x * 3
            x = x + self.kept
        return x + self.kept


class InALoop(Kept):
    def forward(self, x: Tensor) -> Tensor:
        self.kept = x * 2
        for _ in range(int(x.sum())):
            x = x + self.kept
            self.kept = x * 0.5
        return x + self.kept


class OptionalAttribute(Kept):
    def forward(self, x: Tensor) -> Tensor:
        last = self.last
        self.last = None
        y = x if self.last is None else x * 7
        self.last = x + 1
        now = self.last
        if last is not None:
            y = y + last
        if now is not None:
            y = y * now
        return y


class WrittenInPlace(Kept):
    def forward(self, x: Tensor) -> Tensor:
        self.kept = x * 2
        self.kept += 1
        same = self.kept
        same *= 3
        return self.kept + x


@pytest.mark.parametrize(
    ("kind", "attribute"),
    [
        (OfTheCallBefore, "kept"),
        (Counts, "calls"),
        (InOneBranch, "kept"),
        (InALoop, "kept"),
        (OptionalAttribute, "last"),
        (WrittenInPlace, "kept"),
    ],
)
def test_reads_get_what_was_set_last(kind: Any, attribute: str, x: Tensor) -> None:
    module = kind().eval()
    assembled = prepare(kind().eval()).assembled({})
    # The second call finds what the first one left; the third takes other branches.
    for argument in (x, x * 0.1, x * 2):
        torch.testing.assert_close(run(assembled, argument), module(argument), rtol=0, atol=0)
    found = torch.as_tensor(getattr(wrap(assembled), attribute))
    assert torch.equal(found, torch.as_tensor(getattr(module, attribute)))


class Box(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.value = torch.zeros(1)

    def put(self, x: Tensor) -> None:
        self.value = x

    def forward(self, x: Tensor) -> Tensor:
        return x + self.value


class TwoNames(nn.Module):
    def __init__(self, first: Box, second: Box) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        self.first.put(x * 2)
        self.second.put(x * 3)
        total: Tensor = self.first(x) * 10 + self.second(x)
        return total


def test_one_object_may_have_two_names(x: Tensor) -> None:
    box = Box()
    for module in (TwoNames(box, box).eval(), TwoNames(Box(), Box()).eval()):
        script = torch.jit.script(module)
        # torch.jit.freeze makes two of one.
        expected = run(torch._C._freeze_module(script._c, []), x)
        assert torch.equal(run(prepare(module).assembled({}), x), expected)
