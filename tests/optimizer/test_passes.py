"""The C++ passes by themselves: simplify(), functionalize(), divide(), observed() and assembled()."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torch_trt_ext import _C
from torch_trt_ext.optimizer import observation

# torch.jit.script reads the annotations of forward() as they are written: no `from __future__ import annotations`.

MAX_NODES = 1000


def frozen(module: nn.Module) -> Any:
    return torch.jit.freeze(torch.jit.script(module.eval()))


def prepare(module: nn.Module, max_nodes: int = MAX_NODES) -> _C.PreparedModel:
    model = _C.PreparedModel(frozen(module)._c)
    model.simplify(max_nodes)
    return model


def kinds(model: _C.PreparedModel) -> set[str]:
    return {node.kind for node in model.nodes() if node.kind not in ("prim::Constant", "prim::TupleConstruct")}


def numbers(model: _C.PreparedModel, kind: str) -> list[int]:
    return [node.id for node in model.nodes() if node.kind == kind]


def run(module: Any, *arguments: Any) -> Any:
    with torch.no_grad():
        return torch.jit._recursive.wrap_cpp_module(module)(*copy.deepcopy(arguments))


def subgraph_kinds(model: _C.PreparedModel) -> list[list[str]]:
    nodes = model.nodes()
    return [
        [nodes[number].kind.removeprefix("aten::") for number in model.subgraph_nodes(index)]
        for index in range(model.subgraph_count())
    ]


@pytest.fixture
def x() -> Tensor:
    return torch.arange(8.0).reshape(2, 4) / 8


# simplify()


class KnownList(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        parts = [x]
        for _ in range(2):
            parts.append(torch.tanh(parts[-1]))
        parts.insert(0, parts.pop())
        parts.extend([x] * 2)
        parts += parts[1:3]
        del parts[-1]
        parts.reverse()
        parts[0] = torch.exp(parts[0])
        return torch.cat(parts)


class KnownDict(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        found = {"a": x}
        found["b"] = torch.tanh(x)
        found.update({"c": torch.exp(x)})
        copied = found.copy()
        copied["a"] = found.pop("b")
        if "b" in found:
            copied["a"] = x
        total = found.get("d", x)
        for key, value in copied.items():
            if key != "c":
                total = torch.cat([total, value])
        found.clear()
        return total if len(found) == 0 else x


class ReturnedContainers(nn.Module):
    def forward(self, x: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
        parts = [x]
        parts.append(torch.tanh(x))
        named: dict[str, Tensor] = {}
        named["a"] = torch.exp(x)
        return parts, named


@pytest.mark.parametrize(
    ("kind", "left"),
    [
        (KnownList, {"aten::tanh", "aten::exp", "aten::cat", "prim::ListConstruct"}),
        (KnownDict, {"aten::tanh", "aten::cat", "prim::ListConstruct"}),
        (ReturnedContainers, {"aten::tanh", "aten::exp", "prim::ListConstruct", "prim::DictConstruct"}),
    ],
)
def test_simplify_follows_containers_that_are_known(kind: Any, left: set[str], x: Tensor) -> None:
    model = prepare(kind())
    assert kinds(model) == left
    torch.testing.assert_close(run(model.assembled({}), x), kind()(x))


class GivenList(nn.Module):
    def forward(self, parts: list[Tensor], x: Tensor) -> Tensor:
        parts.append(x)
        return parts[0]


class ListOfTwoNames(nn.Module):
    def forward(self, x: Tensor, flag: bool) -> Tensor:
        one = [x]
        chosen = [x, x]
        if flag:
            chosen = one
        chosen.append(torch.tanh(x))
        return torch.cat(one) if len(one) > 1 else x * 2


class ListInLoop(nn.Module):
    def forward(self, x: Tensor, rounds: int) -> Tensor:
        parts = [x]
        for _ in range(rounds):
            x = x + len(parts)
            parts.append(x)
        return parts[-1] * len(parts)


class DictOfUnknownKeys(nn.Module):
    def forward(self, x: Tensor, key: str) -> Tensor:
        found = {"a": x, "b": x * 2}
        found[key] = torch.tanh(x)
        return found["a"] + len(found)


@pytest.mark.parametrize(
    ("kind", "calls", "left"),
    [
        (GivenList, [([torch.ones(1)], torch.zeros(1)), ([], torch.zeros(1))], "aten::append"),
        (ListOfTwoNames, [(torch.ones(1), True), (torch.ones(1), False)], "aten::append"),
        (ListInLoop, [(torch.ones(1), 0), (torch.ones(1), 1), (torch.ones(1), 3)], "aten::len"),
        (DictOfUnknownKeys, [(torch.ones(1), "a"), (torch.ones(1), "c")], "aten::_set_item"),
    ],
)
def test_simplify_leaves_containers_that_are_not_known(kind: Any, calls: list[tuple[Any, ...]], left: str) -> None:
    model = prepare(kind())
    assert left in kinds(model)
    assembled = model.assembled({})
    for arguments in calls:
        torch.testing.assert_close(run(assembled, *arguments), kind()(*copy.deepcopy(arguments)))


class Loops(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        for index in range(100):
            x = torch.tanh(x) + index
        return x


def test_simplify_unrolls_within_the_limit(x: Tensor) -> None:
    model = prepare(Loops())
    assert len(numbers(model, "aten::tanh")) == 100
    assert "prim::Loop" not in kinds(model)
    model = prepare(Loops(), max_nodes=200)
    # Torch itself writes out a few rounds of every loop when it freezes.
    assert 0 < len(numbers(model, "aten::tanh")) < 20
    assert "prim::Loop" in kinds(model)
    torch.testing.assert_close(run(model.assembled({}), x), Loops()(x))


class SameList(nn.Module):
    def forward(self, x: Tensor) -> tuple[bool, Tensor]:
        one = [x]
        two = [one, [x]]
        one.append(torch.tanh(x))
        return two[0] is one, torch.cat(two[0])


def test_simplify_keeps_what_a_list_is(x: Tensor) -> None:
    same, joined = run(prepare(SameList()).assembled({}), x)
    assert same
    torch.testing.assert_close(joined, SameList()(x)[1])


class BranchOfTuples(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        pair = (x, torch.tanh(x)) if bool(x.sum() > 0) else (torch.exp(x), x)
        return pair[0] * pair[1]


class BranchOfNumbers(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.size(0) > 2:
            y = torch.tanh(x)
            count = x.size(1)
        else:
            y = torch.exp(x)
            count = 1
        return y.repeat(count, 1)


def test_simplify_takes_branches_apart(x: Tensor) -> None:
    model = prepare(BranchOfTuples())
    assert not {"prim::TupleConstruct", "prim::TupleIndex"} & {node.kind for node in model.nodes()}
    for sign in (1, -1):
        torch.testing.assert_close(run(model.assembled({}), x * sign), BranchOfTuples()(x * sign))
    model = prepare(BranchOfNumbers())
    branches = [node for node in model.nodes() if node.kind == "prim::If"]
    assert sorted(len(branch.outputs) for branch in branches) == [0, 1]
    assert all(branch.condition_on_sizes for branch in branches)
    for rows in (1, 3):
        given = torch.ones(rows, 4)
        torch.testing.assert_close(run(model.assembled({}), given), BranchOfNumbers()(given))


class GivesItself(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.alpha_dropout(torch.dropout(x, 0.5, False), 0.5, False)
        return y, y.type_as(x)


def test_simplify_resolves_operators_that_give_their_input(x: Tensor) -> None:
    model = prepare(GivesItself())
    assert kinds(model) == {"aten::to"}
    assert run(model.assembled({}), x)[0].data_ptr() != x.data_ptr()
    with torch.no_grad():
        y, same = torch.jit._recursive.wrap_cpp_module(model.assembled({}))(x)
    assert y.data_ptr() == same.data_ptr() == x.data_ptr()


class AsksForRanks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.conv = nn.Conv2d(1, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, list[int]]:
        y = torch.relu(x).flatten(1).reshape(x.size(0), 2, 2)
        a, b = y.transpose(0, 1).split(1)
        z = torch.cat([a, b + a.mul(2)], 1).unsqueeze(0)
        z = self.linear(z.view(-1, 4).flatten(0, 1).view_as(x)) if bool(x.sum() > 0) else x.view(x.size(0), 4)
        picked = self.conv(y.unsqueeze(1)).select(1, 0).matmul(y)
        ranks = [y.dim(), a.dim(), z.dim(), picked.permute(2, 0, 1).flatten(-2, -1).dim()]
        return torch.softmax(z, 1), ranks


def test_simplify_folds_ranks_that_operators_give(x: Tensor) -> None:
    # The rank of one side of the branch is that of the input, which is not known.
    model = prepare(AsksForRanks())
    assert len(numbers(model, "aten::dim")) == 1
    module = AsksForRanks()
    model = _C.PreparedModel(frozen(module)._c)
    model.simplify(MAX_NODES)
    for given in (x, -x):
        assert run(model.assembled({}), given)[1] == module(given)[1] == [3, 3, 2, 2]


class KeepsRankUnknown(nn.Module):
    def forward(self, x: Tensor, parts: list[Tensor]) -> list[int]:
        y = torch.tanh(x)
        shape = [2, 4]
        if bool(x.sum() > 0):
            shape.append(1)
        grown = [torch.flatten(y), torch.flatten(x)]
        parts.append(grown[0])
        if bool(x.sum() > 0):
            grown.append(y)
            grown.pop(0)
        _, last = grown
        return [y.dim(), y.view(shape).dim(), torch.cat(parts).dim(), last.dim(), (torch.flatten(x).sum() + y).dim()]


def test_simplify_asks_for_ranks_that_depend_on_the_run(x: Tensor) -> None:
    assembled = prepare(KeepsRankUnknown()).assembled({})
    for given in (x, -x, x.flatten()):
        assert run(assembled, given, []) == KeepsRankUnknown()(given, [])


class ResizesInPlace(nn.Module):
    def forward(self, x: Tensor) -> list[int]:
        y = torch.flatten(x)
        before = y.dim()
        y.unsqueeze_(0)
        return [before, y.dim()]


def test_simplify_asks_for_ranks_that_are_written(x: Tensor) -> None:
    assert run(prepare(ResizesInPlace()).assembled({}), x) == [1, 2]


class AsksForDevices(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor, y: Tensor) -> list[torch.device]:
        z = torch.relu(self.linear(x)).view_as(y)
        return [
            z.device,
            (torch.tanh(y) * self.scale).device,
            # A single number on the CPU goes with tensors of any device, and an index too.
            (x + y).device,
            x[y > 0].device,
        ]


def test_simplify_reads_devices_where_they_are_known_early() -> None:
    model = prepare(AsksForDevices())
    lines = [line for line in model.graph_text().splitlines() if "prim::device" in line]
    text = model.graph_text()
    arguments = [line.partition("prim::device(%")[2].partition(")")[0] for line in lines]
    assert len(arguments) == 4
    # The bias: of the constants there the one that takes the least memory but for the number.
    makers = [next(line for line in text.splitlines() if f"%{name} :" in line) for name in arguments]
    assert "prim::Constant" in makers[0]
    assert "%y" in makers[1]
    assert "aten::add" in makers[2]
    assert "aten::index" in makers[3]


# functionalize()


class Writes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        y.add_(1)
        y[0].mul_(2)
        z = torch.exp(x)
        z.relu_()
        x.sub_(1)
        return y + z


def test_functionalize_replaces_what_is_allowed_and_not_seen(x: Tensor) -> None:
    model = prepare(Writes())
    in_place = {node.id for node in model.nodes() if node.in_place}
    assert len(in_place) == 4
    model.functionalize(set())
    assert {"aten::add_", "aten::mul_", "aten::relu_", "aten::sub_"} <= kinds(model)
    model.functionalize(set(numbers(model, "aten::relu_")))
    assert "aten::relu" in kinds(model)
    assert {"aten::add_", "aten::mul_", "aten::sub_"} <= kinds(model)
    model.functionalize({node.id for node in model.nodes() if node.in_place})
    assert "aten::add_" not in kinds(model)
    assert "aten::sub_" in kinds(model)
    assert "aten::mul_" not in kinds(model)
    torch.testing.assert_close(run(model.assembled({}), x), Writes()(x.clone()))


class WritesHiddenView(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.tanh(x)
        turned = torch.einsum("ij->ji", y)
        turned.add_(1)
        drawn = torch.zeros(2, 4)
        drawn.uniform_()
        return y + drawn, turned


def test_functionalize_leaves_hidden_views_and_random_numbers(x: Tensor) -> None:
    model = prepare(WritesHiddenView())
    model.functionalize({node.id for node in model.nodes() if node.in_place})
    assert {"aten::add_", "aten::uniform_"} <= kinds(model)
    torch.manual_seed(1)
    expected = WritesHiddenView()(x)
    torch.manual_seed(1)
    torch.testing.assert_close(run(model.assembled({}), x), expected)


class WritesOneView(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([torch.tanh(x), torch.exp(x)], 1)
        columns = y[:, :4]
        before = y.sum()
        columns += x
        columns.relu_()
        # Sizes stay as they are.
        return torch.cat([columns.t().mul_(2), before.expand(y.size(1) - 4, 2)])


class WritesViewOfWritten(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([x, x], 1)
        row = y[0]
        y.relu_()
        row.view(2, 4)[1].add_(row.sum())
        part = torch.exp(x).add_(1)[:, 1:]
        part.mul_(part)
        return part


class ReadsBase(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        y[:, :2].add_(1)
        return y


class ReadsBaseOfNestedViews(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.stack([torch.tanh(x), torch.exp(x)])
        before = y.sum()
        # As transformers add relative positions to attention that has a class token.
        y[1, :, 1:3] += x[:, :2]
        y.mul_(2)
        columns = y[..., ::2]
        return torch.relu(y) + before, columns.sum(0)


class ReadsBaseInBranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        y[:, -1].add_(1)
        if bool(x.sum() > 0):
            y = torch.exp(y)
        return [y, x][0] * 2


@pytest.mark.parametrize(
    "kind", [WritesOneView, WritesViewOfWritten, ReadsBase, ReadsBaseOfNestedViews, ReadsBaseInBranch]
)
def test_functionalize_replaces_writes_to_views_of_what_is_not_read_later(kind: Any, x: Tensor) -> None:
    model = prepare(kind())
    model.functionalize({node.id for node in model.nodes() if node.in_place})
    assert not [node.kind for node in model.nodes() if node.in_place]
    torch.testing.assert_close(run(model.assembled({}), x), kind()(x.clone()))


def test_functionalize_replaces_only_allowed_writes_to_views(x: Tensor) -> None:
    model = prepare(WritesOneView())
    model.functionalize({node.id for node in model.nodes() if node.kind in ("aten::relu_", "aten::mul_")})
    assert [node.kind for node in model.nodes() if node.in_place] == ["aten::add_"]
    torch.testing.assert_close(run(model.assembled({}), x), WritesOneView()(x))


class ReadsBaseAndTarget(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        part = y[:, :2]
        part.add_(1)
        # Each shows what is written to the other from here on.
        y.mul_(2)
        return torch.cat([y, part], 1)


class ReadsBaseAndWhatIsGiven(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        given = y[:, :2].add_(1)
        given.mul_(2)
        return y + given.sum()


class ReadsBaseOfAnotherView(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        # There is no operator that puts a turned tensor back.
        y = torch.tanh(x)
        y.t()[:2].add_(1)
        return torch.exp(y)


class ReadsOtherView(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        other = y.view(-1)
        part = y[:, :2]
        part.add_(1)
        return part.sum() + other


class ReadsViewOfTarget(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        part = torch.tanh(x)[:, :2]
        turned = part.t()
        part.add_(1)
        return torch.mm(part, turned)


class ReadsList(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        part = torch.tanh(x)[:, :2]
        parts = [part, part * 2]
        part.add_(1)
        # Without the sum torch.jit.freeze drops the write, of which it does not know that the list shows it.
        return torch.cat(parts) + part.sum()


class ReadsCopyOfList(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        part = torch.tanh(x)[:, :2]
        parts = [part, part * 2][x.size(0) - 2 :]
        part.add_(1)
        return torch.cat(parts) + part.sum()


class ReadsHiddenView(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        turned = torch.einsum("ij->ji", y)
        part = y[:, :2]
        part.add_(1)
        return torch.mm(turned, part)


class ReadsItselfUnderAnotherName(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        same = y.sum_to_size([2, 4])
        part = y[:, :2]
        part.add_(1)
        return part.sum() + same


class ReadsInBranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        part = y[:, :2]
        part.add_(1)
        return torch.exp(y) if bool(x.sum() > 0) else torch.cat([part, part], 1)


class ReadsInNextRound(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        total = torch.zeros(2, 2)
        while bool(total.sum() < 20):
            part = y[:, :2]
            part.add_(1)
            total = total + part
        return total


class WritesInBranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        part = torch.tanh(x)[:, :2]
        if bool(x.sum() > 0):
            part.add_(1)
        return torch.exp(part)


class WritesEither(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y, z = torch.tanh(x), torch.exp(x)
        chosen = y if bool(x.sum() > 0) else z
        part = chosen[:, :2]
        part.add_(1)
        return part.sum() + y


class WritesArgument(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        part = x[:, :2]
        part.add_(1)
        return torch.exp(part)


class WritesState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        part = self.seen[:, :2]
        part.add_(x[:, :2])
        return torch.exp(part)


class WritesRepeated(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        # Expanded in name only: of what shows an element twice nothing is replaced.
        part = torch.tanh(x).expand(2, 4)
        part.add_(1)
        return torch.exp(part)


@pytest.mark.parametrize(
    "kind",
    [
        ReadsBaseAndTarget,
        ReadsBaseAndWhatIsGiven,
        ReadsBaseOfAnotherView,
        ReadsOtherView,
        ReadsViewOfTarget,
        ReadsList,
        ReadsCopyOfList,
        ReadsHiddenView,
        ReadsItselfUnderAnotherName,
        ReadsInBranch,
        ReadsInNextRound,
        WritesInBranch,
        WritesEither,
        WritesArgument,
        WritesState,
        WritesRepeated,
    ],
)
def test_functionalize_leaves_writes_that_are_seen_elsewhere(kind: Any, x: Tensor) -> None:
    model = prepare(kind())
    model.functionalize({node.id for node in model.nodes() if node.in_place})
    assert "aten::add_" in kinds(model)
    assembled = torch.jit._recursive.wrap_cpp_module(model.assembled({}))
    reference = kind()
    with torch.no_grad():
        for given in (x, -x, x):
            mine, its = given.clone(), given.clone()
            torch.testing.assert_close(assembled(mine), reference(its))
            assert torch.equal(mine, its)


# divide()


class Chain(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a = torch.tanh(x) + 1
        b = torch.erfinv(a * 0.1)
        c = torch.exp(b) * a.size(0)
        return c, torch.sigmoid(x)


def test_divide_cuts_at_excluded_nodes_and_says_why(x: Tensor) -> None:
    model = prepare(Chain())
    model.divide({}, {}, 1)
    assert model.subgraph_count() == 1
    model.divide(dict.fromkeys(numbers(model, "aten::erfinv"), "no form"), {}, 1)
    assert subgraph_kinds(model) == [["tanh", "add", "mul", "sigmoid"], ["exp", "mul"]]
    assert model.left()[numbers(model, "aten::erfinv")[0]] == "no form"
    assert [model.subgraph_operators(index) for index in (0, 1)] == [4, 2]
    assert model.subgraph_length(1) == 2
    assert model.subgraph_node(1, 0) == numbers(model, "aten::exp")[0]
    # a is an input of the second, for its size; it gives no data there.
    assert len(model.subgraph_inputs(1)) == 2
    assert len(model.subgraph_outputs(0)) == 3


def test_divide_leaves_small_subgraphs(x: Tensor) -> None:
    model = prepare(Chain())
    model.divide(dict.fromkeys(numbers(model, "aten::erfinv"), "no form"), {}, 3)
    assert model.subgraph_count() == 1
    reasons = {model.left()[number] for number in numbers(model, "aten::exp")}
    assert reasons == {"its subgraph has 2 operators, fewer than min_block_size 3"}


class OnlyViews(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.t().unsqueeze(0) if x.dim() == 2 else x


def test_divide_makes_no_engine_of_views_alone(x: Tensor) -> None:
    model = prepare(OnlyViews())
    model.divide({}, {}, 1)
    assert model.subgraph_count() == 0


class ShapeBranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        z = torch.exp(y) if y.size(0) > 2 else torch.sigmoid(y)
        return z * 2


def test_divide_takes_branches_that_are_known(x: Tensor) -> None:
    model = prepare(ShapeBranch())
    model.divide({}, {}, 1)
    assert model.subgraph_count() == 4
    branch = numbers(model, "prim::If")[0]
    assert model.left()[branch] == "a branch that was taken both ways, or never reached, with the test data"
    model.divide({}, {branch: 1}, 1)
    assert model.subgraph_count() == 1
    assert branch in model.subgraph_nodes(0)
    fallback = model.fallback(0)
    for rows in (2, 3):
        given = torch.ones(rows, 4)
        torch.testing.assert_close(run(fallback, [given])[0], ShapeBranch()(given))


class RaisesForOddSizes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.size(0) % 2 == 1:
            raise ValueError("odd")
        else:  # noqa: RET506  without it there would be no value that depends on the check
            half = x.size(0) // 2
        return torch.tanh(x).view(half, 8)


def test_checks_that_engines_do_not_make_stay_in_the_model(x: Tensor) -> None:
    model = prepare(RaisesForOddSizes())
    branch = numbers(model, "prim::If")[0]
    model.divide({}, {}, 1)
    doubled = {0: ("engine_0", model.fallback(0))}
    assert "RaiseException" in torch.jit._recursive.wrap_cpp_module(model.assembled(doubled)).code
    with pytest.raises(torch.jit.Error, match="odd"):
        run(model.assembled(doubled), torch.ones(3, 4))
    # Where an engine takes one shape only, its subgraph makes the check for all others.
    model.divide({}, {branch: 1}, 1)
    assert (
        "RaiseException"
        not in torch.jit._recursive.wrap_cpp_module(model.assembled({0: ("e", model.fallback(0))})).code
    )


class ListBetweenWrites(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.tanh(x)
        parts = [y[0], y[1]]
        before = torch.cat([torch.stack(parts), torch.erfinv(torch.sigmoid(x) * 0.5)])
        y.add_(1)
        return before, torch.exp(y)


def test_divide_keeps_reads_through_lists_before_writes(x: Tensor) -> None:
    model = prepare(ListBetweenWrites())
    model.divide(dict.fromkeys(numbers(model, "aten::erfinv"), "no form"), {}, 1)
    replacements = {index: (f"engine_{index}", model.fallback(index)) for index in range(model.subgraph_count())}
    torch.testing.assert_close(run(model.assembled(replacements), x), ListBetweenWrites()(x))


# observed()


class Observed(nn.Module):
    def forward(self, x: Tensor, rounds: int) -> Tensor:
        for _ in range(rounds):
            if bool(x.sum() > 100):
                break
            x = torch.cat([x, x]) * 2
        if x.size(0) > 2:
            x = torch.exp(x)
        return x


def test_observed_records_values_and_branches(x: Tensor) -> None:
    model = prepare(Observed())
    with observation.session() as session:
        for rounds in (0, 1, 2):
            run(model.observed(session), x, rounds)
        seen = _C.read_session(session)
    exp = next(node for node in model.nodes() if node.kind == "aten::exp")
    record = seen.values[exp.outputs[0]]
    assert (record.min_shape, record.max_shape, record.count) == ([4, 4], [8, 4], 2)
    assert (record.dtype, record.device, record.consistent, record.finite) == ("Float", "cpu", True, True)
    assert record.max_abs == pytest.approx(float(torch.exp(x * 4).max()))
    cat = next(node for node in model.nodes() if node.kind == "aten::cat")
    assert seen.values[cat.outputs[0]].count == 3
    size_branch = next(
        node.id for node in model.nodes() if node.kind == "prim::If" and exp.id > node.id and node.outputs
    )
    counts = {number: count for number, count in seen.branches.items() if number // 2 == size_branch}
    assert sum(counts.values()) >= 3
    # What the loop carries has a record of its own, since engines in its body take it.
    loop_inputs = [value for value in seen.values if seen.values[value].count == 3]
    assert loop_inputs


class Varies(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


def test_observed_says_what_varies() -> None:
    model = prepare(Varies())
    with observation.session() as session:
        for given in (torch.ones(2), torch.ones(2, 2)):
            run(model.observed(session), given)
        record = _C.read_session(session).values[model.nodes()[0].outputs[0]]
        assert not record.consistent
    with observation.session() as session:
        run(model.observed(session), torch.tensor([float("inf"), 1.0, float("nan")]))
        record = _C.read_session(session).values[model.nodes()[0].inputs[0]]
    assert not record.finite
    assert record.max_abs == 1


# assembled()


class Stateful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(4))
        self.engine_0 = 0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, int]:
        self.seen.add_(1)
        self.engine_0 += 1
        y = torch.tanh(x) * self.seen
        z = torch.erfinv(y * 0.01)
        if bool(z.sum() > 0):
            z = torch.exp(z) + y
        return z, torch.sigmoid(z) * 2, self.engine_0


def test_assembled_with_any_of_the_subgraphs_is_the_model(x: Tensor) -> None:
    module = frozen(Stateful())
    text = str(module.graph)
    model = _C.PreparedModel(module._c)
    model.simplify(MAX_NODES)
    model.divide(dict.fromkeys(numbers(model, "aten::erfinv"), "no form"), {}, 1)
    count = model.subgraph_count()
    assert count == 4
    for chosen in range(2**count):
        replaced = {index: (f"engine_{index}", model.fallback(index)) for index in range(count) if chosen >> index & 1}
        assembled = torch.jit._recursive.wrap_cpp_module(model.assembled(replaced))
        assert assembled.code.count(".forward(") == len(replaced)
        reference = Stateful().eval()
        with torch.no_grad():
            for given in (x, -x, x * 0):
                torch.testing.assert_close(assembled(given), reference(given))
        # Each starts anew, and a taken name is not taken again.
        assert assembled.seen[0] == 3
        assert assembled.engine_0 == 3
    assert str(module.graph) == text
    assert not module.seen.any()


class SharedMemory(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(2, 4))
        self.register_buffer("first", self.rows[0])
        self.register_buffer("same", self.rows)
        self.history = [self.rows]

    def forward(self, x: Tensor) -> Tensor:
        self.rows.add_(1)
        self.first.mul_(2)
        self.same.add_(x)
        return self.rows + self.first


def test_assembled_keeps_what_shares_memory(x: Tensor) -> None:
    module = torch.jit.freeze(torch.jit.script(SharedMemory().eval()))
    model = _C.PreparedModel(module._c)
    model.simplify(MAX_NODES)
    assembled, other = (torch.jit._recursive.wrap_cpp_module(model.assembled({})) for _ in range(2))
    reference = SharedMemory()
    for _ in range(2):
        torch.testing.assert_close(assembled(x), reference(x))
    assert not other.rows.any()
    assert not module.rows.any()


class SharedPart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


class TwoNames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = torch.jit.script(SharedPart().eval())
        self.right = self.left

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.left(x), self.right(x)


def test_assembled_keeps_one_module_of_two_names_one(x: Tensor) -> None:
    # Not frozen: torch.jit.freeze makes two modules of it.
    module = torch.jit.script(TwoNames().eval())
    model = _C.PreparedModel(module._c)
    model.simplify(MAX_NODES)
    left, right = run(model.assembled({}), x)
    torch.testing.assert_close(left, x)
    torch.testing.assert_close(right, x * 2)


def test_fallbacks_compute_their_subgraphs(x: Tensor) -> None:
    model = prepare(Chain())
    model.divide(dict.fromkeys(numbers(model, "aten::erfinv"), "no form"), {}, 1)
    first = run(model.fallback(0), [x])
    by_number = dict(zip(model.subgraph_outputs(0), first, strict=True))
    nodes = model.nodes()
    named = {nodes[number].kind: by_number.get(nodes[number].outputs[0]) for number in model.subgraph_nodes(0)}
    torch.testing.assert_close(named["aten::sigmoid"], torch.sigmoid(x))
    torch.testing.assert_close(named["aten::mul"], (torch.tanh(x) + 1) * 0.1)


def test_engine_graphs_carry_numbers_and_shapes(x: Tensor) -> None:
    model = prepare(ShapeBranch())
    branch = numbers(model, "prim::If")[0]
    model.divide({}, {branch: 1}, 1)
    facts = {model.subgraph_inputs(0)[0]: _C.TensorFacts("Float", [-1, 4])}
    graph = str(model.engine_graph(0, facts, "cpu", model.subgraph_length(0)))
    assert "Float(*, 4" in graph
    assert "prim::If" not in graph
    assert "aten::sigmoid" in graph
    assert f"n{numbers(model, 'aten::tanh')[0]}" in graph
    first = str(model.engine_graph(0, facts, "cpu", 1))
    assert "aten::tanh" in first
    assert "aten::sigmoid" not in first


class OptionalInput(nn.Module):
    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y = torch.tanh(x)
        return y if mask is None else y * mask


def test_unknown_numbers_fail(x: Tensor) -> None:
    model = prepare(OptionalInput())
    model.divide({}, {}, 1)
    with pytest.raises(IndexError):
        model.subgraph_nodes(model.subgraph_count())
    with pytest.raises(IndexError):
        model.functionalize({10_000})
    with pytest.raises(IndexError):
        _C.read_session(-1)
