"""What optimize() must keep, one small model a rule, each compared with the eager original on the CPU.

A comparison covers all that the caller can see: outputs and their dtypes, which tensors share memory, inputs and state
after the call, exceptions, printed text, and all of it again for a saved and loaded model and for a deep copy.
"""

import copy
import io
import re
import warnings
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import torch_trt_ext
from tests.openvino_models import affine_engine
from torch_trt_ext.optimizer.structures import children, flatten_tensors, is_mapping, is_sequence

# torch.jit.script reads the annotations of forward() as they are written: no `from __future__ import annotations`.

#: Engines compute in float32, in another order than PyTorch.
RTOL, ATOL = 1e-5, 1e-6

Calls = list[tuple[Any, ...]]


def make_config() -> torch_trt_ext.Config:
    config = torch_trt_ext.Config()
    config.timing.compare = False
    config.timing.warmup_runs = 0
    config.timing.timed_runs = 1
    config.timing.subgraph_warmup_runs = 0
    config.timing.subgraph_timed_runs = 1
    config.cache.enabled = False
    config.precision.engine_precision = "float32"
    config.partition.min_block_size = 1
    config.progress = False
    config.build_threads = 1
    return config


class Optimized(NamedTuple):
    model: Any
    report: Any

    @property
    def engines(self) -> int:
        return len(self.report["engines"])

    def reasons(self, kind: str) -> list[str]:
        return [entry["reason"] for entry in self.report["left_in_torch"] if entry["node"].startswith(kind + "@")]

    def engine_counters(self) -> dict[str, dict[str, int]]:
        return {
            name: dict(module.engine.counters())
            for name, module in self.model.named_modules()
            if name.rpartition(".")[2].startswith("engine_") and hasattr(module, "engine")
        }


def optimized(model: Any, test_data: Calls, config: torch_trt_ext.Config | None = None) -> Optimized:
    result, _, report = torch_trt_ext.optimize(
        model, "o1", device_type="cpu", test_data=test_data, config=config or make_config()
    )
    return Optimized(result, report)


def saved_and_loaded(model: Any) -> Any:
    buffer = io.BytesIO()
    torch.jit.save(model, buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)


def memory_groups(values: Any) -> list[list[str]]:
    """Which tensors share memory."""
    groups: dict[int, list[str]] = {}
    for path, tensor in flatten_tensors(values):
        if tensor.numel():
            groups.setdefault(tensor.untyped_storage().data_ptr(), []).append(path)
    return sorted(group for group in groups.values() if len(group) > 1)


def assert_same(actual: Any, expected: Any, what: str) -> None:
    if isinstance(expected, Tensor):
        assert isinstance(actual, Tensor), what
        torch.testing.assert_close(actual, expected, rtol=RTOL, atol=ATOL, msg=lambda text: f"{what}: {text}")
        return
    if is_mapping(expected) or is_sequence(expected):
        assert is_mapping(actual) == is_mapping(expected), what
        assert isinstance(actual, tuple) == isinstance(expected, tuple), what
        assert getattr(actual, "_fields", None) == getattr(expected, "_fields", None), what
        assert [name for name, _ in children(actual)] == [name for name, _ in children(expected)], what
        for (name, left), (_, right) in zip(children(actual), children(expected), strict=True):
            assert_same(left, right, f"{what}.{name}")
        return
    assert type(actual) is type(expected), what
    assert actual == expected, what


def call(model: Any, arguments: tuple[Any, ...], capsys: Any) -> dict[str, Any]:
    """Everything that one call shows."""
    given = copy.deepcopy(arguments)
    torch.manual_seed(3)
    capsys.readouterr()
    result: Any = None
    error = ""
    with torch.no_grad():
        try:
            result = model(*given)
        except Exception as raised:
            # TorchScript raises torch.jit.Error, whose last line is the exception of the program.
            lines = [line for line in str(raised).splitlines() if line.strip()]
            error = re.sub(r"^(\w+(\.\w+)*: )+", "", lines[-1] if lines else "").strip("'")
    return {
        "result": result,
        "error": error,
        "inputs": given,
        "shared": memory_groups((given, result)),
        "printed": capsys.readouterr().out,
        "random": torch.rand(1),
    }


def assert_calls_same(eager: nn.Module, model: Any, calls: Calls, capsys: Any, what: str) -> None:
    reference = copy.deepcopy(eager)
    kept = []
    for number, arguments in enumerate(calls):
        expected = call(reference, arguments, capsys)
        actual = call(model, arguments, capsys)
        for key in expected:
            assert_same(actual[key], expected[key], f"{what}, call {number}, {key}")
        kept.append((actual["result"], expected["result"]))
    for number, (actual, expected) in enumerate(kept):
        assert_same(actual, expected, f"{what}, call {number}, result after all calls")
    state = dict(model.named_buffers())
    for name, buffer in reference.named_buffers():
        if name in state:
            assert_same(state[name], buffer, f"{what}, buffer {name} after the calls")


def check(
    eager: nn.Module,
    test_data: Calls,
    capsys: Any,
    further: Calls | None = None,
    config: torch_trt_ext.Config | None = None,
    engines: int | None = None,
    source: Any = None,
    compare_copy: bool = True,
) -> Optimized:
    """Optimizes a model and compares it with itself on the test data, on further calls, and again."""
    eager.eval()
    source = eager if source is None else source
    state = copy.deepcopy(source.state_dict())
    code = source.code if isinstance(source, torch.jit.ScriptModule) else ""
    given = copy.deepcopy(test_data)
    found = optimized(source, test_data, config)
    assert_same(test_data, given, "test_data")
    assert_same(dict(source.state_dict()), dict(state), "the original's state")
    assert code == (source.code if isinstance(source, torch.jit.ScriptModule) else "")
    if engines is None:
        assert found.engines > 0, found.report["diagnosis"]["message"]
    else:
        assert found.engines == engines, found.report["left_in_torch"]
    if found.engines:
        assert "engine_0" in (found.model.code + str(found.model.graph))
    # The copies first: they must start in the state that the model starts in.
    loaded, duplicate = saved_and_loaded(found.model), copy.deepcopy(found.model)
    # Four times, since TorchScript compiles a graph anew after it has profiled it.
    calls = [*test_data, *(further or []), *test_data, *test_data]
    assert_calls_same(eager, found.model, calls, capsys, "optimized")
    assert_calls_same(eager, loaded, calls, capsys, "saved and loaded")
    if compare_copy:
        assert_calls_same(eager, duplicate, calls, capsys, "copied")
    return found


def tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def x() -> Tensor:
    return tensor(2, 4)


# In-place operators and views.


class InPlace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        y += 1
        y.mul_(2)
        z = y.relu_()
        return z - y * 3


def test_in_place_operators_on_intermediates_become_part_of_one_engine(x: Tensor, capsys: Any) -> None:
    found = check(InPlace(), [(x,)], capsys, engines=1)
    assert found.report["left_in_torch"] == []


class InPlaceOnView(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        y[:, 0] += 1
        first = y[0]
        first.mul_(2)
        return torch.sigmoid(y) + first


def test_writes_through_views_are_seen_in_the_base(x: Tensor, capsys: Any) -> None:
    found = check(InPlaceOnView(), [(x,)], capsys, engines=2)
    assert found.reasons("aten::mul_") == ["writes in place to a tensor or list that is seen elsewhere"]


class InPlaceOnOneView(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.cat([torch.tanh(x), torch.exp(x)], 1)
        before = torch.sigmoid(y)
        z = y[:, :3]
        z += before[:, 3:6]
        return z.mul_(2), before


def test_write_through_the_only_view_that_is_read_later_goes_into_the_engine(x: Tensor, capsys: Any) -> None:
    found = check(InPlaceOnOneView(), [(x,)], capsys, engines=1)
    assert found.report["left_in_torch"] == []


class WriteBetweenReads(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.tanh(x)
        row = y[0]
        before = torch.exp(row) * 2
        y.add_(1)
        after = torch.exp(row) * 2
        return before, after


def test_reads_of_a_view_stay_on_their_side_of_a_write(x: Tensor, capsys: Any) -> None:
    check(WriteBetweenReads(), [(x,)], capsys)


class ListReadBeforeWrite(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.tanh(x)
        parts = [y[0], y[1]]
        # erfinv has no ONNX form, so this cat can only run in a later engine than what the write needs.
        before = torch.cat([torch.stack(parts), torch.erfinv(torch.sigmoid(x) * 0.5)]) * 2
        y.add_(1)
        return before, torch.exp(y) * 2


def test_read_through_a_list_comes_before_a_later_write(x: Tensor, capsys: Any) -> None:
    check(ListReadBeforeWrite(), [(x,)], capsys)


class ViewOfInput(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        y = torch.tanh(x) * 2
        return y, x.view(-1), x.detach(), x.contiguous(), x.to(torch.float32)


def test_views_of_inputs_share_memory_with_them(x: Tensor, capsys: Any) -> None:
    found = check(ViewOfInput(), [(x,)], capsys, engines=1)
    given = x.clone()
    found.model(given)[1].add_(1)
    assert torch.equal(given, x + 1)
    assert found.reasons("aten::view") == ["is a view that the caller gets, of a tensor that the caller has too"]


class SharedOutputs(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        y = torch.tanh(x) * 2
        z = torch.exp(y)
        return y, y.t(), z.view(-1), list(z.chunk(2))


def test_outputs_that_share_memory_still_do(x: Tensor, capsys: Any) -> None:
    found = check(SharedOutputs(), [(x,)], capsys, engines=1)
    y, turned, _, _ = found.model(x)
    turned.zero_()
    assert not y.any()


class EqualOutputs(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tanh(x) * 2, torch.tanh(x) * 2


def test_equal_outputs_that_share_no_memory_still_do_not(x: Tensor, capsys: Any) -> None:
    check(EqualOutputs(), [(x,)], capsys, engines=1)


class ViewInside(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.tanh(x) * 2
        z = torch.exp(y.view(-1)) + 1
        return y, z


def test_view_of_an_output_that_is_only_read_goes_into_the_engine(x: Tensor, capsys: Any) -> None:
    found = check(ViewInside(), [(x,)], capsys, engines=1)
    assert found.report["left_in_torch"] == []


class WeightView(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", tensor(4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tanh(x) * self.scale, self.scale


def test_constant_output(x: Tensor, capsys: Any) -> None:
    check(WeightView(), [(x,)], capsys, engines=1)


class DropoutAlias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = self.dropout(x)
        y += 1
        z = torch.tanh(x)
        return z, self.dropout(z), torch.exp(y) * 2


def test_dropout_in_evaluation_mode_gives_its_input_itself(x: Tensor, capsys: Any) -> None:
    check(DropoutAlias(), [(x,)], capsys)


class HiddenAlias(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        y = torch.tanh(x) * 2
        return y, y.type_as(x), torch.atleast_1d(y), torch.einsum("ij->ji", y), torch.broadcast_tensors(y, x)[0]


def test_views_that_their_schemas_do_not_declare_share_memory(x: Tensor, capsys: Any) -> None:
    check(HiddenAlias(), [(x,)], capsys, engines=1)


class ResizedInPlace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        before = y.size(0)
        # erfinv has no ONNX form, so what comes after it is in a later engine than the resizing.
        late = torch.erfinv(torch.sigmoid(x) * 0.5)
        y.unsqueeze_(0)
        return torch.exp(late).view(before, -1) * y.size(0) + torch.exp(y)


def test_sizes_are_read_when_they_were_read(x: Tensor, capsys: Any) -> None:
    check(ResizedInPlace(), [(x,)], capsys)


class OutArgument(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.tanh(x)
        out = torch.zeros(x.shape)
        before = torch.exp(out) * 2
        torch.mul(y, 2.0, out=out)
        return before, torch.exp(out) * 2


def test_out_arguments_are_writes(x: Tensor, capsys: Any) -> None:
    check(OutArgument(), [(x,)], capsys)


# Inputs and state that are written.


class Cache(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.key = nn.Linear(4, 4)

    def forward(self, x: Tensor, cache: Tensor, place: int) -> tuple[Tensor, Tensor]:
        before = torch.exp(cache).sum(0) * 2
        cache[place] = self.key(x)
        scores = torch.softmax(cache @ x, 0)
        return before, scores @ cache


def test_cache_writes_are_seen_by_the_caller_in_order(capsys: Any) -> None:
    calls = [(tensor(4), tensor(3, 4, seed=1), 1), (tensor(4, seed=2), tensor(3, 4, seed=3), 2)]
    found = check(Cache(), calls, capsys)
    cache = calls[0][1].clone()
    found.model(calls[0][0], cache, 0)
    assert not torch.equal(cache[0], calls[0][1][0])
    assert torch.equal(cache[1:], calls[0][1][1:])


class TableOfDevices(nn.Module):
    """Keeps what it has computed for a device."""

    table: dict[str, Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.norm = nn.BatchNorm1d(4)
        self.bias = nn.Parameter(torch.ones(2, 4))
        self.table = {}

    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        misses = 0
        for layer in self.layers:
            # BatchNorm1d checks the rank, before the table is written to.
            x = self.norm(torch.tanh(layer(x)).flatten(1))
            key = str(x.device)
            if key not in self.table:
                self.table[key] = self.bias * 2
                misses += 1
            x = torch.softmax(x + self.table[key], 1)
        return x, misses


def test_table_with_an_entry_a_device_does_not_divide_the_model(x: Tensor, capsys: Any) -> None:
    found = check(TableOfDevices(), [(x,)], capsys, engines=1)
    assert list(found.model.table) == ["cpu"]
    assert found.reasons("prim::If") == ["a branch that writes in place"] * 2


class WritesInput(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        before = torch.exp(y) * 2
        x.mul_(3)
        return before + torch.exp(y) * 3 + torch.tanh(x)


def test_inputs_that_are_one_tensor(x: Tensor, capsys: Any) -> None:
    # deepcopy, which check() makes of the arguments, keeps them one.
    check(WritesInput(), [(x, x)], capsys, further=[(x, tensor(2, 4, seed=5))])


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(4))
        self.register_buffer("mean", torch.zeros(4))
        self.calls = 0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, int]:
        self.seen.add_(1)
        self.mean = self.mean * 0.5 + x.mean(0) * 0.5
        self.calls += 1
        y = torch.tanh(x - self.mean) * self.seen
        return y, self.mean * 2, self.calls


def test_state_is_kept_over_calls_and_saved(x: Tensor, capsys: Any) -> None:
    found = check(Counter(), [(x,)], capsys)
    loaded = saved_and_loaded(found.model)
    assert torch.equal(loaded.seen, torch.full((4,), 3.0))
    assert loaded.calls == 3
    assert loaded(x)[2] == 4
    assert found.model.calls == 3


class OverlappingState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        state = torch.zeros(4, 4)
        self.register_buffer("rows", state)
        self.register_buffer("first", state[0])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.rows.add_(1)
        self.first.mul_(2)
        return torch.tanh(x) * self.first, torch.exp(self.rows) * 2


def test_state_of_which_one_part_is_a_view_of_another(x: Tensor, capsys: Any) -> None:
    # torch's deepcopy of a ScriptModule copies the view by itself.
    check(OverlappingState(), [(x,)], capsys, compare_copy=False)


class Part(nn.Module):
    def __init__(self, state: Tensor) -> None:
        super().__init__()
        self.register_buffer("state", state)
        self.rounds = 0

    def forward(self, x: Tensor) -> Tensor:
        self.state.add_(1)
        self.rounds += 1
        return torch.tanh(x) * self.state


class SharedState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        state = torch.zeros(4)
        self.left = Part(state)
        self.right = Part(state)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.left(x), self.right(x)


def test_state_that_two_submodules_share(x: Tensor, capsys: Any) -> None:
    check(SharedState(), [(x,)], capsys)


class SharedModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = Part(torch.zeros(4))
        self.right = self.left

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, int]:
        return self.left(x), self.right(x), self.left.rounds


def test_module_under_two_names_is_left_as_it_is(x: Tensor) -> None:
    source = SharedModule()
    # torch.jit.script makes two modules of one, unless it is a ScriptModule already.
    source.left = torch.jit.script(source.left.eval())
    source.right = source.left
    script = torch.jit.script(source.eval())
    # torch.jit.freeze makes two modules of one, whose state is then counted apart. The answers show it.
    result = optimized(script, [(x,)])
    assert result.model is script
    assert "the model is not accurate" in result.report["diagnosis"]["message"]


# Lists, dicts and tuples.


class ListMethods(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        parts: list[Tensor] = []
        for index in range(3):
            parts.append(torch.tanh(x + index))
        parts.extend([x, x * 2])
        parts.insert(1, torch.exp(x))
        last = parts.pop()
        first = parts.pop(0)
        parts[-1] = parts[1] + last
        parts += [first * 2]
        del parts[0]
        parts.reverse()
        doubled = [part * 2 for part in parts[1:]] + [parts[0]] * 2
        return torch.cat(doubled) + len(parts)


def test_lists_that_are_known_leave_one_engine(x: Tensor, capsys: Any) -> None:
    found = check(ListMethods(), [(x,)], capsys, engines=1)
    assert found.report["left_in_torch"] == []


class ListsOfLists(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        rows: list[list[Tensor]] = [[x], [torch.tanh(x)]]
        other = rows[0]
        other.append(x * 2)
        rows[1].append(torch.exp(x))
        rows.append([rows[1][0]])
        total = x
        for row in rows:
            for item in row:
                total = total + item
        return total * len(other)


def test_lists_in_lists_keep_their_identity(x: Tensor, capsys: Any) -> None:
    check(ListsOfLists(), [(x,)], capsys)


class ListAlias(nn.Module):
    def forward(self, x: Tensor, flag: bool) -> tuple[Tensor, int]:
        one = [x]
        two = [torch.tanh(x), x * 2]
        chosen = two
        if flag:
            chosen = one
        chosen.append(torch.exp(x))
        chosen[0] = x * 3
        return torch.cat(one) * 2, len(two)


def test_list_that_is_written_under_another_name(x: Tensor, capsys: Any) -> None:
    check(ListAlias(), [(x, True), (x, False)], capsys)


class ListInBlocks(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        parts = [x]
        if float(x.sum()) > 0:
            parts.append(torch.tanh(x))
            parts[0] = x * 2
        rounds = int(x.abs().max()) + 1
        for _ in range(rounds):
            before = len(parts)
            parts.append(torch.exp(x) * before)
        return torch.cat(parts) * 2, parts[-1]


def test_lists_that_branches_and_loops_write(x: Tensor, capsys: Any) -> None:
    check(ListInBlocks(), [(x,), (-x,)], capsys, further=[(x * 3,)])


class ListThroughCalls(nn.Module):
    def forward(self, parts: list[Tensor], other: list[Tensor]) -> list[Tensor]:
        x = parts[0]
        parts.append(torch.tanh(x) * 2)
        known = len(other)
        parts[0] = torch.exp(x) * known
        other.insert(0, x * 2)
        return parts


def test_list_inputs_are_written_for_the_caller(x: Tensor, capsys: Any) -> None:
    # TorchScript copies a Python list on the way in, so the result is compared alone.
    model = ListThroughCalls().eval()
    found = optimized(torch.jit.script(model), [([x, x * 2], [x])])
    assert found.engines > 0
    assert_same(found.model([x, x * 2], [x]), model([x, x * 2], [x]), "result")
    shared = torch.jit.script(model)
    one = torch.ScriptList([x, x])
    two = torch.ScriptList([x, x])
    expected = list(shared(one, one))
    assert_same(list(found.model(two, two)), expected, "one list as both arguments")
    assert_same(list(two), list(one), "the list that the caller has")


class ListOutput(nn.Module):
    def forward(self, x: Tensor) -> list[Tensor]:
        parts = [torch.tanh(x)]
        parts.append(parts[0] * 2)
        parts.append(parts[0])
        return parts


def test_list_output_with_a_tensor_twice(x: Tensor, capsys: Any) -> None:
    check(ListOutput(), [(x,)], capsys, engines=1)


class ListInputOutput(nn.Module):
    def forward(self, parts: list[Tensor]) -> list[Tensor]:
        outputs: list[Tensor] = []
        for part in parts:
            outputs.append(torch.tanh(part) * 2)
        return outputs


def test_list_input_of_unknown_length(x: Tensor, capsys: Any) -> None:
    check(ListInputOutput(), [([x, x + 1],)], capsys, further=[([x],), ([],), ([x, x, x],)])


class NumberLists(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        sizes: list[int] = []
        for dim in range(x.dim()):
            sizes.append(x.size(dim))
        sizes.insert(0, 1)
        order = [index + 0 for index in range(len(sizes))]
        order.reverse()
        sizes.append(sizes.pop(0))
        return torch.tanh(x).view(sizes).permute(order) * max(sizes) + min(order)


def test_lists_of_numbers(x: Tensor, capsys: Any) -> None:
    check(NumberLists(), [(x,)], capsys, engines=1, further=[(tensor(3, 4),)])


class Dicts(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {"a": x}
        found["b"] = torch.tanh(found["a"])
        found["a"] = found["b"] * 2
        total = x
        for key, value in found.items():
            if key != "a":
                total = total + value
        for key in found:
            total = total + len(key)
        for value in found.values():
            total = total * value
        missing = found.get("c", total)
        if "b" in found:
            missing = missing + 1
        found["total"] = missing
        removed = found.pop("b")
        found["b"] = removed * 2
        del found["a"]
        return found


def test_dicts_that_are_known_leave_one_engine(x: Tensor, capsys: Any) -> None:
    found = check(Dicts(), [(x,)], capsys, engines=1)
    assert found.report["left_in_torch"] == []
    assert list(found.model(x)) == ["total", "b"]


class DictInput(nn.Module):
    def forward(self, batch: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = {}
        for name in names:
            outputs[name] = torch.tanh(batch[name]) * 2
        outputs["sum"] = torch.exp(batch["a"]) + outputs[names[0]]
        return outputs


def test_dict_input_with_unknown_keys(x: Tensor, capsys: Any) -> None:
    batch = {"a": x, "b": x * 2}
    check(
        DictInput(),
        [(batch, ["a", "b"])],
        capsys,
        further=[(batch, ["b"]), ({"a": x, "c": x}, ["c", "a"]), ({"c": x}, ["c"])],
    )


class Box(NamedTuple):
    corner: Tensor
    size: Tensor


class Tuples(nn.Module):
    def forward(self, box: Box, pair: tuple[Tensor, tuple[Tensor, list[Tensor]]]) -> tuple[Box, tuple[Tensor, Box]]:
        first, (second, others) = pair
        moved = Box(box.corner + first, box.size * 2)
        deep = (torch.tanh(second) * others[0], Box(moved.corner * 2, torch.exp(others[1])))
        return moved, deep


def test_named_and_nested_tuples_in_and_out(x: Tensor, capsys: Any) -> None:
    calls: Calls = [(Box(x, x * 2), (x, (x + 1, [x, x * 3])))]
    found = check(Tuples(), calls, capsys)
    assert found.model(*calls[0])[0]._fields == ("corner", "size")


# Control flow.


class DataBranch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        z = torch.tanh(y) * 2 if float(y.sum()) > 0 else torch.exp(y) - 1
        return self.linear(z)


def test_branch_on_data_has_engines_on_both_sides(x: Tensor, capsys: Any) -> None:
    torch.manual_seed(0)
    calls: Calls = [(x * 5,), (-x * 5,)]
    found = check(DataBranch(), calls, capsys, engines=4)
    assert len(re.findall(r"\.forward\(|\(engine_\d", found.model.code)) >= 4
    assert all(counts["calls"] > 0 for counts in found.engine_counters().values())


def test_branch_on_data_that_went_one_way_is_right_the_other_way(x: Tensor, capsys: Any) -> None:
    torch.manual_seed(0)
    check(DataBranch(), [(x * 5,)], capsys, further=[(-x * 5,), (x,)])


class ShapeBranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        y = y.mean(0, keepdim=True) * 2 if x.size(0) > 2 else y + 1
        return torch.exp(y)


def test_branch_on_a_shape_is_resolved_and_right_for_other_shapes(x: Tensor, capsys: Any) -> None:
    found = check(ShapeBranch(), [(x,)], capsys, engines=1, further=[(tensor(3, 4),), (tensor(1, 4),)])
    assert found.report["left_in_torch"] == []


def test_branch_on_a_shape_that_varies(x: Tensor, capsys: Any) -> None:
    check(ShapeBranch(), [(x,), (tensor(3, 4),)], capsys, further=[(tensor(1, 4),), (tensor(9, 4),)])


class Rounds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor, rounds: Tensor) -> tuple[Tensor, Tensor]:
        scale = torch.sigmoid(x) + 1
        carried = x
        other = x
        for _ in range(int(rounds)):
            other = carried
            carried = torch.tanh(self.linear(carried)) * scale
        return carried * 2, other


def test_loop_with_a_count_from_data_has_an_engine_in_its_body(x: Tensor, capsys: Any) -> None:
    check(
        Rounds(),
        [(x, torch.tensor(3))],
        capsys,
        engines=3,
        further=[(x, torch.tensor(0)), (x, torch.tensor(1)), (x, torch.tensor(7))],
    )


class ConstantRounds(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        for index in range(4):
            for inner in range(index):
                x = torch.tanh(x + inner) * index
        return x


def test_loop_with_a_constant_count_becomes_one_engine(x: Tensor, capsys: Any) -> None:
    found = check(ConstantRounds(), [(x,)], capsys, engines=1)
    assert found.report["left_in_torch"] == []


class While(nn.Module):
    def forward(self, x: Tensor, limit: float) -> tuple[Tensor, int]:
        rounds = 0
        bias = torch.exp(x)
        while float(x.abs().sum()) < limit:
            x = torch.tanh(x) * 3 + bias
            rounds += 1
            if rounds > 5:
                break
            if rounds == 2:
                continue
            x = x * 1.5
        return x + 1, rounds


def test_while_loop_with_break_and_continue(x: Tensor, capsys: Any) -> None:
    check(While(), [(x * 0.01, 20.0)], capsys, further=[(x, 0.0), (x * 0.01, 1e9)])


class LoopOverShape(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        rows: list[Tensor] = []
        for index in range(x.size(0)):
            rows.append(torch.tanh(x[index]) * index)
        return torch.stack(rows)


def test_loop_over_a_size(x: Tensor, capsys: Any) -> None:
    check(LoopOverShape(), [(x,)], capsys, further=[(tensor(3, 4),), (tensor(1, 4),)])


class NestedBlocks(nn.Module):
    def forward(self, x: Tensor, flags: list[bool]) -> Tensor:
        outside = torch.exp(x) * 2
        for flag in flags:
            shifted = torch.tanh(x) + outside
            if flag:
                for _ in range(int(x.abs().max()) + 1):
                    x = torch.sigmoid(x + shifted) * outside
            else:
                x = x - shifted
        return x


def test_inner_blocks_use_values_from_outside(x: Tensor, capsys: Any) -> None:
    check(NestedBlocks(), [(x, [True, False, True])], capsys, further=[(x, []), (x, [False])])


class LoopState(nn.Module):
    def forward(self, x: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
        total = torch.zeros_like(x)
        history = torch.zeros(8, 4)
        for index in range(rounds):
            before = torch.exp(total) * 2
            total += torch.tanh(x) * index
            history[index] = (total + before).sum(0)
        return total, history


def test_writes_in_loops(x: Tensor, capsys: Any) -> None:
    check(LoopState(), [(x, 3)], capsys, further=[(x, 0), (x, 8)])


# Exceptions, randomness, prints.


class Raises(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.size(1) != 4:
            raise ValueError("x must have 4 columns")
        y = torch.tanh(x) * 2
        if bool((y > 1.9).any()):
            raise RuntimeError("too large")
        return torch.exp(y)


def test_exceptions_are_still_raised(x: Tensor, capsys: Any) -> None:
    further: Calls = [(tensor(2, 5),), (x + 100,), (tensor(3, 4),)]
    found = check(Raises(), [(x,)], capsys, further=further)
    assert call(found.model, further[0], capsys)["error"] == "x must have 4 columns"
    assert call(found.model, further[1], capsys)["error"] == "too large"


class RaisesOnSize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.size(0) % 2 == 1:
            raise ValueError("odd")
        return torch.tanh(x) * 2


class RaisesForNumber(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.size(0) % 2 == 1:
            raise ValueError("odd")
        else:  # noqa: RET506  without it there would be no value that depends on the check
            half = x.size(0) // 2
        return torch.tanh(x).view(2, half, 4) * 2


@pytest.mark.parametrize("kind", [RaisesOnSize, RaisesForNumber])
def test_exceptions_for_some_sizes_within_a_range_are_still_raised(kind: Any, capsys: Any) -> None:
    found = check(kind(), [(tensor(2, 4),), (tensor(8, 4),)], capsys, further=[(tensor(3, 4),), (tensor(4, 4),)])
    assert call(found.model, (tensor(5, 4),), capsys)["error"] == "odd"


class ComparesInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if x.shape[0] != y.shape[0]:
            raise AssertionError("rows differ")
        return torch.tanh(x) * 2 + y.sum()


def test_checks_between_inputs_are_kept(x: Tensor, capsys: Any) -> None:
    check(ComparesInputs(), [(x, tensor(2, 3))], capsys, further=[(x, tensor(3, 3)), (tensor(5, 4), tensor(5, 1))])


class WriteThenRaise(nn.Module):
    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        y = torch.exp(x) * 2
        state.add_(1)
        print("written")
        if bool(y.sum() > 1e6):
            raise ValueError("y is too large")
        state.mul_(2)
        print("checked")
        return torch.tanh(y) * state


def test_writes_before_an_exception_are_done_and_later_ones_are_not(x: Tensor, capsys: Any) -> None:
    check(WriteThenRaise(), [(x, tensor(2, 4))], capsys, further=[(x + 100, tensor(2, 4))])


class CheckThenWrite(nn.Module):
    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        y = torch.tanh(x) * 2
        if y.size(1) != 4:
            raise ValueError("y must have 4 columns")
        if y.size(0) == 3:
            raise ValueError("three rows")
        else:  # noqa: RET506  without it there would be no value that depends on the check
            rows = y.size(0) * 2
        state.add_(1)
        print("checked")
        return torch.exp(y).view(rows, 2)


def test_nothing_is_written_or_printed_after_a_failed_check(x: Tensor, capsys: Any) -> None:
    further: Calls = [(tensor(2, 5), tensor(1)), (tensor(3, 4), tensor(1)), (tensor(4, 4), tensor(1))]
    found = check(CheckThenWrite(), [(x, tensor(1))], capsys, further=further)
    state = tensor(1)
    with pytest.raises(torch.jit.Error, match="4 columns"):
        found.model(tensor(2, 5), state)
    assert torch.equal(state, tensor(1))
    check(CheckThenWrite(), [(x, tensor(1)), (tensor(6, 4), tensor(1))], capsys, further=further[1:])


class CheckThenPrint(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(x) * 2
        if y.size(1) != 4:
            raise ValueError("y must have 4 columns")
        print("checked")
        return torch.exp(y)


def test_nothing_is_printed_after_a_failed_check_inside_an_engine(x: Tensor, capsys: Any) -> None:
    check(CheckThenPrint(), [(x,)], capsys, engines=1, further=[(tensor(2, 5),)])


class Warns(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        warnings.warn("first", stacklevel=2)
        y = torch.tanh(x) * 2
        if bool(y.sum() > 0):
            warnings.warn("positive", stacklevel=2)
        return torch.exp(y)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_warnings_stay_in_order_and_number(x: Tensor, capsys: Any) -> None:
    found = check(Warns(), [(x,), (-x,)], capsys)
    for arguments in (x.abs(), -x.abs()):
        texts = []
        for model in (Warns(), found.model):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                model(arguments)
            texts.append([str(warning.message) for warning in caught])
        assert texts[0] == texts[1]
        assert len(texts[0]) == 1 + int(arguments.sum() > 0)


class Counts(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.ops.torch_trt_ext_tests.count(torch.tanh(x) * 2)
        for _ in range(int(x.abs().max()) + 1):
            y = torch.ops.torch_trt_ext_tests.count(torch.exp(y) * 0.5)
        return torch.sigmoid(y) + y


def test_custom_operators_are_called_as_often(x: Tensor, capsys: Any) -> None:
    calls = []

    def count(x: Tensor) -> Tensor:
        calls.append(x.clone())
        return x + 1

    library = torch.library.Library("torch_trt_ext_tests", "FRAGMENT")
    library.define("count(Tensor x) -> Tensor")
    library.impl("count", count, "CompositeExplicitAutograd")
    found = check(Counts(), [(x,)], capsys, further=[(x * 3,)])
    seen = []
    for model in (Counts(), found.model):
        calls.clear()
        model(x * 3)
        seen.append(list(calls))
    assert_same(seen[1], seen[0], "arguments of the calls")
    assert len(seen[0]) > 2


class Random(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a = torch.rand_like(x)
        y = torch.tanh(x) * a
        y = y + torch.nn.functional.scaled_dot_product_attention(y, y, y, dropout_p=0.5)
        y = y + torch.zeros(2, 4).uniform_()
        b = torch.randn(2, 4)
        z = torch.nn.functional.dropout(y, 0.5, training=True)
        c = torch.bernoulli(torch.sigmoid(z * 2))
        return torch.exp(y) + b, c * 2 + torch.randint(0, 10, (4,))


def test_random_numbers_come_in_the_same_order(x: Tensor, capsys: Any) -> None:
    found = check(Random(), [(x,)], capsys)
    assert found.reasons("aten::rand_like") == ["draws random numbers"]
    assert found.reasons("aten::bernoulli") == ["draws random numbers"]
    assert found.reasons("aten::dropout") == ["draws random numbers"]
    assert found.reasons("aten::uniform_") == ["draws random numbers"]
    assert found.reasons("aten::scaled_dot_product_attention") == ["draws random numbers"]


class Prints(nn.Module):
    def forward(self, x: Tensor, rounds: int) -> Tensor:
        print("start", x.size(0), x.size(0))
        y = torch.tanh(x) * 2
        print("columns", y.shape[1])
        for index in range(rounds):
            y = torch.exp(y) * 0.5
            print("round", index, int(y.sum() > 1e9))
        print("end")
        return y + 1


def test_prints_stay_in_order_and_number(x: Tensor, capsys: Any) -> None:
    found = check(Prints(), [(x, 2)], capsys, further=[(x, 0), (x, 3)])
    assert found.reasons("prim::Print")
    assert call(found.model, (x, 1), capsys)["printed"] == "start 2 2\ncolumns 4\nround 0 0\nend\n"


# Outputs and arguments of other kinds.


class Outputs(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, int, str, Tensor | None, Tensor, float]:
        y = torch.tanh(x) * 2
        torch.exp(y)
        return y, y, x, y.size(0), "text", None, torch.full([2], 3), 0.5


def test_duplicate_unused_passed_through_and_constant_outputs(x: Tensor, capsys: Any) -> None:
    check(Outputs(), [(x,)], capsys, engines=1)


class Scalars(nn.Module):
    def forward(self, x: Tensor, scale: float) -> tuple[Tensor, float, int]:
        y = torch.tanh(x) * scale
        total = float(y.sum())
        count = int((y > 0).sum())
        z = torch.exp(y) * total + count
        return z, y.max().item(), count


def test_numbers_from_tensors_and_float_arguments(x: Tensor, capsys: Any) -> None:
    found = check(Scalars(), [(x, 0.5)], capsys, further=[(x, -2.0), (x * 3, 0.25)])
    assert found.reasons("aten::Int") == ["gives a number that is computed from a tensor's data"]


class Numbers(nn.Module):
    def forward(self, x: Tensor, count: int, flag: bool, mode: str) -> Tensor:
        y = torch.tanh(x) * 2
        if flag:
            y = torch.exp(y)[:, :count] * 2
        if mode == "max":
            y = y.amax(1) * 2
        return torch.sigmoid(y) + 1


def test_numbers_flags_and_strings_as_arguments(x: Tensor, capsys: Any) -> None:
    further: Calls = [(x, 1, True, "none"), (x, 4, False, "max"), (x, 2, True, "max")]
    check(Numbers(), [(x, 3, True, "max")], capsys, further=further)


class OptionalMask(nn.Module):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = torch.tanh(x) * 2
        if mask is not None:
            y = y.masked_fill(mask, -1.0) * 2
        return torch.exp(y)


def test_optional_tensor_given_and_none(x: Tensor, capsys: Any) -> None:
    mask = x > 0
    check(OptionalMask(), [(x, mask)], capsys, further=[(x, None), (x,), (x, ~mask)])
    check(OptionalMask(), [(x, None)], capsys, further=[(x, mask), (x,)])
    check(OptionalMask(), [(x, None), (x, mask)], capsys)


class Integers(nn.Module):
    def forward(self, x: Tensor, n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = torch.tanh(x) * 2
        squares = n * n + 1
        return y + 1, squares, squares.sum()


def test_int64_arithmetic_that_passes_int32_is_right(x: Tensor, capsys: Any) -> None:
    small = torch.tensor([1, 2, 3])
    large = torch.tensor([2**31, -(2**40), 3])
    found = check(Integers(), [(x, small)], capsys, engines=1, further=[(x, large), (x, large * 2)])
    assert set(found.reasons("aten::mul")) == {"computes in int64, and the CPU engine only in int32"}


class Regions(nn.Module):
    """A mask from the regions that positions lie in, as shifted windows make it; and sums that only look alike."""

    def forward(self, x: Tensor, n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = torch.tanh(x) * 2
        rows = torch.arange(x.size(0))
        regions = ((rows >= 2).long() + (rows >= 4).long()).unsqueeze(1) * 3 + (n > 3).to(torch.int64)
        beyond = (n > 3).long() * 2147483648
        return torch.exp(y) * regions.sub(1).to(y.dtype), regions.unsqueeze(1) - 1, beyond


def test_int64_arithmetic_on_conditions_is_in_the_engine(x: Tensor, capsys: Any) -> None:
    small, large = torch.tensor([1, 7, 3, 2]), torch.tensor([2**40, 3, -(2**40), 4])
    found = check(Regions(), [(x, small)], capsys, engines=1, further=[(x, large), (x.repeat(2, 1), small)])
    # What 2^31 is multiplied with may be 1.
    assert found.reasons("aten::mul") == ["computes in int64, and the CPU engine only in int32"]
    assert found.reasons("aten::add") == found.reasons("aten::sub") == found.reasons("aten::to") == []


class WrittenRegions(nn.Module):
    def forward(self, x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.tanh(x) * 2
        regions = (n > 3).long()
        regions[0] += n[0]
        # In uint8 -1 is 255.
        wrapped = ((n > 3).long() - 1).to(torch.uint8).long()
        return torch.exp(y), (regions * 3 + wrapped * 2) * 1048576


def test_int64_arithmetic_on_what_was_written_to_or_wraps_is_right(x: Tensor, capsys: Any) -> None:
    small, large = torch.tensor([1, 7, 3, 2]), torch.tensor([2**40, 3, -(2**40), 4])
    check(WrittenRegions(), [(x, small)], capsys, further=[(x, large)])


class Lookup(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(6, 4)

    def forward(self, ids: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = torch.tanh(self.table(ids)) * 2
        return y, torch.gather(x, 0, ids) * 2, torch.where(ids > 3, ids, ids)


def test_int64_indices_and_values_beyond_int32_at_call_time(capsys: Any) -> None:
    ids = torch.tensor([1, 5, 2])
    beyond = torch.tensor([2**32 + 1, 0, 1])
    found = check(Lookup(), [(ids, tensor(6))], capsys)
    with pytest.raises(Exception, match="index out of range"):
        found.model(beyond, tensor(6))


class Positions(nn.Module):
    """Entries of tables, by distances counted from sizes, as in attention with relative positions, and by data."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.linspace(-1, 1, 36).view(9, 4))

    def forward(self, x: Tensor, n: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        size = x.size(0)
        y = torch.tanh(x) * 2
        distances = (torch.arange(size)[:, None] - torch.arange(size)[None, :] + (size - 1.0)).long()
        places = (n * 1.5).to(torch.int64)
        last = (n * -0.5).long().unsqueeze(0).expand(2, -1)
        picked = nn.functional.embedding(places, self.table) + self.table.index_select(0, places.flip(0))
        both = (n * 0.75).long()
        return self.table[distances] * y.unsqueeze(0), picked * 2, self.table[last] * 2, self.table[both].sum(1) + both


def test_int64_indices_that_are_computed_are_in_the_engine(capsys: Any) -> None:
    x, n = tensor(3, 4), torch.tensor([1.0, 4.2, 0.4])
    found = check(Positions(), [(x, n)], capsys, further=[(tensor(5, 4), n), (x, torch.tensor([2.0, 5.5, 3.9]))])
    # What is added to a sum is more than an index.
    assert found.reasons("aten::to") == ["computes in int64, and the CPU engine only in int32"]
    assert found.reasons("aten::index") == found.reasons("aten::embedding") == []


class WideIntegers(nn.Module):
    def forward(self, n: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([n, n.flip(0)]), torch.where(n > 10, x, -x) * 2


def test_int64_values_that_are_only_moved_or_compared_are_right_beyond_int32(capsys: Any) -> None:
    check(
        WideIntegers(),
        [(torch.tensor([1, 20]), tensor(2))],
        capsys,
        further=[(torch.tensor([2**40, -(2**33)]), tensor(2))],
    )


class WideInside(nn.Module):
    """Buckets of distances as in T5: the logarithm of 0 becomes the least integer, which is not looked up."""

    def forward(self, x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        far = 4 + torch.log(n / 4).to(torch.long)
        buckets = torch.where(n < 4, n, torch.min(far, torch.full_like(far, 7)))
        return torch.exp(torch.tanh(x) * 2), torch.cat([buckets, buckets.flip(0)])


def test_test_data_with_integers_beyond_int32(capsys: Any) -> None:
    wide, small = torch.tensor([2**40, -(2**33)]), torch.tensor([1, 20])
    found = check(WideIntegers(), [(wide, tensor(2))], capsys, further=[(small, tensor(2))])
    assert found.reasons("aten::cat") == ["gives integers beyond 32 bits, and the CPU engine computes in int32"]
    assert found.reasons("aten::gt") == ["takes integers beyond 32 bits, and the CPU engine computes in int32"]
    found = check(WideInside(), [(tensor(2), torch.tensor([0, 1, 6, 9]))], capsys)
    assert found.reasons("aten::where") == ["takes integers beyond 32 bits, and the CPU engine computes in int32"]


class Masks(nn.Module):
    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        both = mask & (x > 0)
        return torch.where(both, torch.tanh(x), x * 2), ~both, x[mask] * 2


def test_bool_masks(x: Tensor, capsys: Any) -> None:
    mask = torch.tensor([[True, False, True, True], [False, False, True, False]])
    check(Masks(), [(x, mask)], capsys, further=[(x, ~mask), (x, mask & False)])


class Doubles(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.tanh(x) * 2
        wide = torch.exp(y.double()) + 1e-12
        return y, wide.float() * 2


def test_float64_stays_in_pytorch(x: Tensor, capsys: Any) -> None:
    found = check(Doubles(), [(x,)], capsys)
    assert "float64" in found.reasons("aten::exp")[0]


# Engines, nesting, numbers of engines.


class WithEngine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own = affine_engine()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.linear(x))
        return torch.exp(self.own.forward([y])[0]) * 2


class WithEngineOfOurName(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own = affine_engine()
        self.linear = nn.Linear(3, 3)
        self.engine_0 = 0
        self.register_buffer("engine_1", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.engine_0 += 1
        self.engine_1.add_(1)
        y = torch.tanh(self.linear(x)) * self.engine_1 * self.engine_0
        return torch.exp(self.own.forward([y * 0.01])[0]) * 2


@pytest.mark.parametrize(("kind", "engines"), [(WithEngine, 2), (WithEngineOfOurName, 3)])
def test_engines_of_the_user_stay(kind: Any, engines: int, capsys: Any) -> None:
    found = check(kind(), [(tensor(2, 3),)], capsys, engines=engines)
    assert found.reasons("prim::CallMethod")


def test_optimizing_an_optimized_model_changes_nothing(x: Tensor, capsys: Any) -> None:
    first = optimized(InPlaceOnView().eval(), [(x,)]).model
    again = check(InPlaceOnView(), [(x,)], capsys, engines=0, source=first)
    assert again.model is first
    assert "optimized already" in again.report["diagnosis"]["message"]


class Outer(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(self.inner(torch.tanh(x))) * 2


def test_optimized_model_inside_another_model(x: Tensor, capsys: Any) -> None:
    inner = optimized(InPlaceOnView().eval(), [(x,)])
    assert inner.engines == 2
    outer = torch.jit.script(Outer(inner.model).eval())
    # Nobody has to optimize the rest, but what comes back must compute the same.
    check(Outer(InPlaceOnView()), [(x,)], capsys, engines=optimized(outer, [(x,)]).engines, source=outer)


def test_two_optimized_models_in_one_file(x: Tensor, capsys: Any) -> None:
    class Both(nn.Module):
        def __init__(self, first: nn.Module, second: nn.Module) -> None:
            super().__init__()
            self.first = first
            self.second = second

        def forward(self, x: Tensor) -> Tensor:
            return self.first(x) + self.second(x)

    first, second = (optimized(model.eval(), [(x,)]).model for model in (InPlace(), InPlaceOnView()))
    both = saved_and_loaded(torch.jit.script(Both(first, second)))
    assert_calls_same(Both(InPlace(), InPlaceOnView()), both, [(x,), (tensor(3, 4),)], capsys, "both")


class Joined(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        left = torch.exp(torch.tanh(x) * 2)
        right = torch.sigmoid(x + 1)
        return torch.cat([left, right]) * 2


class Middle(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(x) * 2
        y = torch.erfinv(y * 0.4)
        return torch.exp(y) + 1


class Side(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        side = torch.erfinv(torch.tanh(x) * 0.5)
        y = torch.exp(x)
        for _ in range(4):
            y = torch.sigmoid(y) * 3
        return torch.exp(y + side)


class SideOfInput(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.exp(x)
        for _ in range(4):
            y = torch.sigmoid(y) * 3
        return torch.exp(y + torch.i0(x))


class TwoSides(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        one = torch.erfinv(torch.tanh(x) * 0.5)
        two = torch.erfinv(torch.sigmoid(x) * 0.5)
        three = torch.erfinv(torch.tanh(one + two) * 0.5)
        return torch.exp(one) * torch.exp(two) * torch.exp(three)


@pytest.mark.parametrize(("kind", "engines"), [(Joined, 1), (Middle, 2), (Side, 2), (SideOfInput, 1), (TwoSides, 3)])
def test_engines_are_as_few_as_dependencies_allow(kind: Any, engines: int, x: Tensor, capsys: Any) -> None:
    check(kind(), [(x,)], capsys, engines=engines)


class PartsInPlace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(torch.tanh(x), 1, 1)
        found = [parts[0] * 2]
        for index in range(1, 4):
            y = found[-1] + parts[index]
            y += parts[-1]
            found.append(y.relu_())
        return torch.cat(found, 1) * 2


class ShiftedWindows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        shift = [1, 2].copy()
        if x.size(0) <= 1:
            shift[0] = 0
        if x.size(1) <= 2:
            shift[1] = 0
        y = torch.exp(x) * 2
        if sum(shift) > 0:
            y = torch.roll(y, [-shift[0], -shift[1]], [0, 1])
            mask = y.new_zeros((y.size(0), y.size(1)))
            mask[: -shift[0], -shift[1] :] = 1
            mask[-1] = 2
            y = y + mask.masked_fill(mask != 0, -10.0)
        return torch.tanh(y) * 2


def test_parts_of_lists_and_masks_do_not_split_engines(capsys: Any) -> None:
    x = tensor(2, 4)
    others = [(tensor(3, 4),), (tensor(1, 5),), (tensor(2, 6),)]
    for module in (PartsInPlace(), ShiftedWindows()):
        found = check(module, [(x,)], capsys, further=others, engines=1)
        assert found.report["left_in_torch"] == []
    # Of any shape the flags made from sizes stay, and no other shape gives the first one's answers.
    check(PartsInPlace(), [(x,), (tensor(3, 4),)], capsys, further=others, engines=1)
    others = [(tensor(2, 2),), (tensor(2, 5),)]
    check(ShiftedWindows(), [(x,), (tensor(3, 5),), (tensor(1, 6),)], capsys, further=others)


class ViewsOfReturned(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = torch.exp(x) * 2
        z = torch.tanh(y.t()) * 2
        return y, y.view(-1), torch.exp(z.reshape(-1)) + y.view(-1)


class ListOfWritten(nn.Module):
    def forward(self, x: Tensor, cache: Tensor) -> Tensor:
        cache.add_(torch.tanh(x) * 2)
        return torch.exp(torch.cat([cache, x])) * 2


def test_views_and_lists_of_tensors_that_the_caller_has_do_not_split_engines(x: Tensor, capsys: Any) -> None:
    check(ViewsOfReturned(), [(x,)], capsys, engines=1)
    found = check(ListOfWritten(), [(x, x + 1)], capsys, engines=2)
    assert [entry["node"] for entry in found.report["left_in_torch"]] == ["aten::add_@0"]


def test_min_block_size_leaves_small_subgraphs(x: Tensor, capsys: Any) -> None:
    config = make_config()
    config.partition.min_block_size = 5
    found = check(Side(), [(x,)], capsys, engines=1, config=config)
    assert found.reasons("aten::tanh") == []
    config.partition.min_block_size = 3
    found = check(Middle(), [(x,)], capsys, engines=1, config=config)
    assert found.reasons("aten::exp") == ["its subgraph has 2 operators, fewer than min_block_size 3"]


class Varying(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        y = torch.tanh(x)
        z = torch.erfinv(torch.exp(x[:, :1]).expand(y.size(0), 3) * 0.01)
        return torch.sigmoid(z) * y.size(1), y.numel()


def test_outputs_of_which_only_the_shape_is_read(x: Tensor, capsys: Any) -> None:
    check(Varying(), [(x,)], capsys, further=[(tensor(3, 4),), (tensor(2, 7),)])
    check(Varying(), [(x,), (tensor(5, 4),)], capsys, further=[(tensor(3, 4),), (tensor(2, 7),)])


class Traced(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x: Tensor, parts: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        self.seen += 1
        y = self.linear(x)
        y[:, 0] += parts["a"][:, 0]
        y += torch.tensor([1.0, 2.0, 3.0, 4.0])
        return torch.tanh(y) * self.seen, {"b": torch.exp(y), "c": parts["a"]}


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traced_models(x: Tensor, capsys: Any) -> None:
    model = Traced().eval()
    arguments = (x, {"a": x * 2})
    traced = torch.jit.trace(copy.deepcopy(model), copy.deepcopy(arguments), strict=False, check_trace=False)
    model = Traced().eval()
    model.load_state_dict(traced.state_dict())
    check(model, [arguments], capsys, source=traced)


def test_code_is_readable(x: Tensor) -> None:
    code = optimized(DataBranch().eval(), [(x * 5,), (-x * 5,)]).model.code
    assert "engine_0" in code
    assert "if " in code
    assert "forward([" in code
