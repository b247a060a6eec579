"""TorchScript subgraphs as ONNX: names, shapes that are known, attention, what cannot be exported."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import parser
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from torch_trt_ext import _C
from torch_trt_ext.config import PartitionConfig
from torch_trt_ext.optimizer import observation, onnx_export, onnx_written_out, support
from torch_trt_ext.optimizer.model_input import freeze
from torch_trt_ext.optimizer.onnx_folding import fold_shapes
from torch_trt_ext.optimizer.plugin_operators import PluginOperator

#: float32, and numpy's order of additions against torch's.
TOLERANCE = 1e-4


def prepare(
    module: nn.Module,
    *inputs: Tensor,
    plugins: Mapping[str, PluginOperator] | None = None,
    functionalize: bool = False,
) -> tuple[_C.PreparedModel, _C.Session]:
    prepared = _C.PreparedModel(freeze(torch.jit.script(module.eval()))._c)
    prepared.simplify(10_000)
    if functionalize:
        prepared.functionalize({node.id for node in prepared.nodes() if node.in_place})
    session = observation.observe(prepared, [inputs])
    nodes = prepared.nodes()
    taken = support.find_taken_branches(nodes, session, shapes_vary=False)
    prepared.divide(support.find_unsupported(nodes, session, PartitionConfig(), "cpu", plugins), taken, 1)
    return prepared, session


def export(
    module: nn.Module,
    *inputs: Tensor,
    dynamic: tuple[int, ...] = (),
    plugins: Mapping[str, PluginOperator] | None = None,
    functionalize: bool = False,
) -> onnx.ModelProto:
    """The module's one subgraph; of each input the dimensions in ``dynamic`` vary."""
    prepared, session = prepare(module, *inputs, plugins=plugins, functionalize=functionalize)
    assert prepared.subgraph_count() == 1
    facts = {
        value: _C.TensorFacts(
            record.dtype, [-1 if dim in dynamic else size for dim, size in enumerate(record.max_shape)]
        )
        for value, record in session.values.items()
    }
    graph = prepared.engine_graph(0, facts, "cpu", prepared.subgraph_length(0))
    return onnx_export.export(graph, inputs, [dynamic] * len(inputs), plugins)


def run(model: onnx.ModelProto, *inputs: Tensor) -> list[Any]:
    given = {value.name: tensor.numpy() for value, tensor in zip(model.graph.input, inputs, strict=True)}
    return ReferenceEvaluator(model).run(None, given)


def check(model: onnx.ModelProto, module: nn.Module, *inputs: Tensor) -> None:
    onnx.checker.check_model(model, full_check=True)
    with torch.no_grad():
        expected = module(*inputs)
    torch.testing.assert_close(torch.from_numpy(run(model, *inputs)[0]), expected, atol=TOLERANCE, rtol=TOLERANCE)


def transformer() -> nn.Module:
    """With PyTorch's attention module, which runs one fused operator."""
    return VisionTransformer(
        image_size=16, patch_size=8, num_layers=1, num_heads=4, hidden_dim=16, mlp_dim=32, num_classes=3
    )


IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))


class WrittenAttention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        q = x.unflatten(-1, [4, 4]).transpose(1, 2)
        return torch.nn.functional.scaled_dot_product_attention(q, q, q).transpose(1, 2).flatten(2)


@pytest.mark.parametrize(("make", "x"), [(transformer, IMAGES), (WrittenAttention, TOKENS)])
def test_attention_has_its_scale_as_a_number(make: Callable[[], nn.Module], x: Tensor) -> None:
    torch.manual_seed(0)
    module = make().eval()
    model = export(module, x)
    operators = Counter(node.op_type for node in model.graph.node)
    assert operators["Softmax"] == 1
    assert operators["Sqrt"] == operators["Shape"] == 0
    # One side takes the whole scale: TensorRT 10.6 is wrong where both take its root.
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    (scores,) = (node for node in products if node.output[0] == softmax.input[0])
    makers = {node.output[0]: node.op_type for node in model.graph.node}
    assert [makers[name] for name in scores.input] == ["Mul", "Transpose"]
    check(model, module, x)


class MaskedProduct(nn.Module):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q = x.unflatten(-1, [4, 4]).transpose(1, 2)
        return torch.nn.functional.scaled_dot_product_attention(q, q.neg(), q, mask, scale=0.3)


class Causal(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)


def test_masked_attention() -> None:
    generator = torch.Generator().manual_seed(1)
    allowed = torch.rand(2, 1, 5, 5, generator=generator) < 0.7
    allowed[..., 0] = True
    for mask in (allowed, torch.randn(5, 5, generator=generator)):
        model = export(MaskedProduct(), TOKENS, mask)
        assert Counter(node.op_type for node in model.graph.node)["Softmax"] == 1
        check(model, MaskedProduct(), TOKENS, mask)


def test_causal_attention() -> None:
    check(export(Causal(), TOKENS), Causal(), TOKENS)


def test_attention_of_any_batch() -> None:
    module = WrittenAttention()
    model = export(module, torch.randn(2, 5, 16), dynamic=(0,))
    for batch in (2, 3):
        check(model, module, torch.randn(batch, 5, 16))


def test_written_out_attention_keeps_its_nodes_number() -> None:
    module, x = transformer(), IMAGES
    prepared, _ = prepare(module, x)
    (number,) = (node.id for node in prepared.nodes() if node.kind == "aten::_native_multi_head_attention")
    model = export(module, x)
    assert {onnx_export.node_of(node.name) for node in model.graph.node if node.op_type == "Softmax"} == {number}


@pytest.mark.parametrize("operator", ["and", "or", "xor"])
def test_operators_of_masks(operator: str) -> None:
    class Masks(nn.Module):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            positive = x > 0
            if operator == "and":
                positive = positive & mask
            elif operator == "or":
                positive = positive | mask
            else:
                positive = positive ^ mask
            return x.masked_fill(positive, 2.0)

    x, mask = torch.randn(4, 6), torch.rand(4, 1) > 0.5
    traced = torch.jit.trace(Masks(), (x, mask))
    check(export(traced, x, mask), traced, x, mask)


class ShiftMask(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        mask = x.new_zeros(x.size(1), x.size(2))
        mask[-2:, 1:] = 1
        mask[0] = 2
        return x + mask


def test_tensors_of_numbers_are_constants() -> None:
    x = torch.randn(2, 3, 4)
    model = export(ShiftMask(), x)
    assert Counter(node.op_type for node in model.graph.node if node.op_type != "Constant") == {"Add": 1}
    check(model, ShiftMask(), x)


class Scattered(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x = torch.slice_scatter(torch.tanh(x), y[:, :2] * 2, 1, 1, 3)
        x = torch.slice_scatter(x, y[:, :0] * 2, 1, 3, 1)
        x = torch.select_scatter(x, y[:, 1], 1, -1)
        return torch.slice_scatter(x, y[:, :2], 1, -2) + torch.slice_scatter(x, y, 1, -9, None)


def test_scattered_parts_are_put_between_the_others() -> None:
    x, y = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    check(export(Scattered(), x, y), Scattered(), x, y)
    model = export(Scattered(), x, y, dynamic=(0,))
    for batch in (2, 3):
        check(model, Scattered(), torch.randn(batch, 3, 4), torch.randn(batch, 3, 4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: torch.slice_scatter(x, x[:, ::2], 1, 0, 4, 2), "slice_scatter whose place is not known, or with"),
        (lambda x: torch.slice_scatter(x, x[:1], 0, 0, 1), "slice_scatter whose place is not known"),
        (lambda x: torch.select_scatter(x, x[0], 0, 0), "select_scatter whose place is not known"),
    ],
)
def test_scattered_parts_of_unknown_place_fail(make: Callable[[Tensor], Tensor], message: str) -> None:
    class Traced(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return make(torch.tanh(x))

    x = torch.randn(2, 3, 4)
    with pytest.raises(onnx_export.ExportError, match=message):
        export(torch.jit.trace(Traced(), x), x, dynamic=(0,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.int32])
@pytest.mark.parametrize(("times", "dim", "sides"), [(1, -1, 0), (2, 0, 0), (1, 0, 1), (3, 1, 2)])
def test_differences(dtype: torch.dtype, times: int, dim: int, sides: int) -> None:
    class Differences(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            before = x[:2, :4] if sides > 0 else None
            after = x.flip(dim) if sides > 1 else None
            return torch.diff(x, times, dim, before, after)

    x = (torch.randn(2, 4, generator=torch.Generator().manual_seed(0)) * 3).to(dtype)
    traced = torch.jit.trace(Differences(), (x,))
    check(export(traced, x), traced, x)


def test_difference_of_two_dtypes_fails() -> None:
    class Differences(nn.Module):
        def forward(self, x: Tensor, before: Tensor) -> Tensor:
            return torch.diff(x, prepend=before)

    x = torch.randn(2, 4)
    with pytest.raises(onnx_export.ExportError, match="diff of tensors whose dtypes differ"):
        export(torch.jit.trace(Differences(), (x, x.int())), x, x.int())


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(48, 16))
        self.register_buffer("bias", torch.randn(48))
        self.register_buffer("out_weight", torch.randn(16, 16))
        self.register_buffer("out_bias", torch.randn(16))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return torch._native_multi_head_attention(
            x, x, x, 16, 4, self.weight, self.bias, self.out_weight, self.out_bias, mask, False, True, 1
        )[0]


def test_attention_with_a_mask_fails() -> None:
    x, mask = torch.randn(2, 5, 16), torch.zeros(2, 5, dtype=torch.bool)
    with pytest.raises(onnx_export.ExportError, match="attention with a mask is not written out") as raised:
        export(Masked(), x, mask)
    assert raised.value.operator == "aten::_native_multi_head_attention"


class Sized(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x).reshape(x.shape[0], x.shape[1] * x.shape[2])


def test_known_shapes_are_folded() -> None:
    x = torch.randn(2, 3, 4)
    model = export(Sized(), x)
    assert Counter(node.op_type for node in model.graph.node) == {"Relu": 1, "Constant": 1, "Reshape": 1}
    check(model, Sized(), x)


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 8)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.cat([self.words(first) * 2, self.words(second)], dim=1) + self.words.weight[0]


@pytest.mark.parametrize("large", [False, True])
def test_large_embeddings_are_inputs_while_the_exporter_runs(monkeypatch: pytest.MonkeyPatch, large: bool) -> None:
    module, first, second = Words().eval(), torch.tensor([[1, 2, 49]]), torch.tensor([[0, 7]])
    monkeypatch.setattr(onnx_written_out, "_LARGE_BYTES", 50 * 8 * 4 + (not large))
    model = export(module, first, second)
    check(model, module, first, second)
    assert [value.name for value in model.graph.input] == ["input_0", "input_1"]
    constants = {node.name: node.attribute[0].t for node in model.graph.node if node.op_type == "Constant"}
    assert [list(constant.dims) for constant in constants.values()].count([50, 8]) == 1
    assert ("weight_0" in constants) == large


class SharedLayer(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.relu(self.layer(torch.relu(self.layer(x)))))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("x", [TOKENS, TOKENS[0]])
@pytest.mark.parametrize("dynamic", [(), (0,)])
def test_weight_of_several_layers_is_there_once(x: Tensor, bias: bool, dynamic: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    module = SharedLayer(bias)
    model = export(module, x, dynamic=dynamic)
    constants = [node.attribute[0].t for node in model.graph.node if node.op_type == "Constant"]
    assert [list(constant.dims) for constant in constants].count([16, 16]) == 1
    assert [value.name for value in model.graph.input] == ["input_0"]
    check(model, module, x)
    kinds = {node.id: node.kind for node in prepare(module, x)[0].nodes()}
    products = [node for node in model.graph.node if node.op_type in ("Gemm", "MatMul")]
    numbers = {onnx_export.node_of(node.name) for node in products}
    assert [kinds[number] for number in numbers if number is not None] == ["aten::linear"] * 3


def test_varying_shapes_are_not_folded() -> None:
    model = export(Sized(), torch.randn(2, 3, 4), dynamic=(0,))
    assert "Shape" in {node.op_type for node in model.graph.node}
    for batch in (2, 5):
        check(model, Sized(), torch.randn(batch, 3, 4))


class InPatches(nn.Module):
    """Sizes that go through float arithmetic, as where patches of a size that need not divide the image's are made."""

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = math.ceil(x.shape[2] / 2), math.floor(x.shape[3] / 2)
        y = torch.relu(x).reshape(x.shape[0] * x.shape[1], rows, 2, columns * 2).transpose(1, 2)
        return torch.exp(y.reshape(x.shape[0], -1, x.numel() // (4 * rows)))


def test_arithmetic_on_known_sizes_is_computed() -> None:
    x = torch.randn(2, 3, 4, 6)
    model = export(InPatches(), x)
    kinds = Counter(node.op_type for node in model.graph.node if node.op_type != "Constant")
    assert kinds == {"Relu": 1, "Reshape": 2, "Transpose": 1, "Exp": 1}
    check(model, InPatches(), x)


class Splits(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        first, middle, last = torch.tensor_split(x, (1, -2), dim=1)
        return torch.cat([last * 2, middle.relu(), first + 1], 1)


@pytest.mark.parametrize("dynamic", [(), (0, 1)])
def test_tensors_are_split_at_places(dynamic: tuple[int, ...]) -> None:
    model = export(Splits(), TOKENS, dynamic=dynamic)
    assert not any(node.op_type.startswith("Sequence") for node in model.graph.node)
    check(model, Splits(), TOKENS)
    if dynamic:
        check(model, Splits(), torch.rand(3, 7, 16))


class SplitsIntoThree(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        first, middle, last = torch.tensor_split(x, 3, dim=1)
        return torch.cat([last * 2, middle.relu(), first + 1], 1)


def test_a_number_of_parts_is_left_to_the_exporter() -> None:
    check(export(SplitsIntoThree(), TOKENS), SplitsIntoThree(), TOKENS)


class AddsToAllButTheFirst(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        y[:, 1:, 1:] += x[:, 1:, :-1]
        return y * 2


@pytest.mark.parametrize("dynamic", [(), (0, 1, 2)])
def test_parts_are_put_behind_the_first_of_any_shape(dynamic: tuple[int, ...]) -> None:
    model = export(AddsToAllButTheFirst(), TOKENS, dynamic=dynamic, functionalize=True)
    assert not any(node.op_type.startswith("Scatter") for node in model.graph.node)
    check(model, AddsToAllButTheFirst(), TOKENS)
    if dynamic:
        check(model, AddsToAllButTheFirst(), torch.rand(3, 7, 9))


class UpperCaseEinsum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("B I D, B J D -> B I J", x, x).relu()


def test_equations_are_in_lower_case() -> None:
    model = export(UpperCaseEinsum(), TOKENS)
    (einsum,) = (node for node in model.graph.node if node.op_type == "Einsum")
    assert einsum.attribute[0].s == b"acb,adb->acd"
    check(model, UpperCaseEinsum(), TOKENS)


@pytest.mark.parametrize(
    ("equation", "lower"),
    [
        ("ik, kj -> ij", "ik,kj->ij"),
        ("bK,Kb", "ba,ab->"),
        ("...iK,...Kj", "...ba,...ac->...bc"),
        ("Zy,y", "ab,b->a"),
    ],
)
def test_lower_case_equation(equation: str, lower: str) -> None:
    assert onnx_export.lower_case_equation(equation) == lower
    assert onnx_export.lower_case_equation(lower) == lower


def test_lower_case_equations_mean_the_same() -> None:
    sides = torch.rand(2, 3, 4), torch.rand(2, 4, 3)
    for equation in ("aBC,aCB", "aBC,aCB->B", "...XY,...YX", "...XY,...Yz"):
        expected = torch.einsum(equation, *sides)
        torch.testing.assert_close(torch.einsum(onnx_export.lower_case_equation(equation), *sides), expected)


def test_names_tell_the_node() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.randn(3, 4)
    kinds = {node.id: node.kind for node in prepare(module, x)[0].nodes()}
    operators = {node.op_type: onnx_export.node_of(node.name) for node in export(module, x).graph.node}
    assert kinds[operators["Relu"]] == "aten::relu"
    assert kinds[operators["Gemm"]] == "aten::linear"


@pytest.mark.parametrize(
    ("name", "number"), [("n12/Conv", 12), ("/n3/Add_1", 3), ("node 'n7/Mul'", 7), ("Conv_4", None), ("un5/x", None)]
)
def test_node_of(name: str, number: int | None) -> None:
    assert onnx_export.node_of(name) == number


def test_folding_leaves_outputs_and_other_constants() -> None:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18]> g (float[2,3] x) => (int64[2] shape, float[2,3] y)
        { shape = Shape(x) y = Add(x, x) }"""
    )
    folded = fold_shapes(model)
    assert [node.op_type for node in folded.graph.node] == ["Shape", "Add"]
    x = torch.randn(2, 3)
    assert run(folded, x)[0].tolist() == [2, 3]


def _folded_text(body: str) -> onnx.ModelProto:
    return fold_shapes(parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {body}'))


def test_padding_by_nothing_and_slices_of_everything_are_dropped() -> None:
    # The padding is computed, as the exporter writes it; only without it is the shape of its output known.
    folded = _folded_text(
        """g (float[2,3] x) => (float[N,M] y) {
            pads = Constant <value = int64[2,2] {0, 0, 0, 0}> ()
            turned = Transpose <perm = [1, 0]> (pads)
            minus = Constant <value = int64[1] {-1}> ()
            flat = Reshape (turned, minus)
            padded = Pad (x, flat)
            starts = Constant <value = int64[2] {0, -3}> ()
            ends = Constant <value = int64[2] {9, 9}> ()
            same = Slice (padded, starts, ends)
            y = Relu (same)
        }"""
    )
    assert [(node.op_type, list(node.input)) for node in folded.graph.node] == [("Relu", ["x"])]


def test_paddings_and_slices_that_do_something_stay() -> None:
    folded = _folded_text(
        """g (float[2,3] x) => (float[N,M] y) {
            pads = Constant <value = int64[4] {0, 1, 0, 0}> ()
            padded = Pad (x, pads)
            starts = Constant <value = int64[1] {0}> ()
            ends = Constant <value = int64[1] {2}> ()
            axes = Constant <value = int64[1] {1}> ()
            part = Slice (padded, starts, ends, axes)
            back = Constant <value = int64[1] {-1}> ()
            first = Constant <value = int64[1] {-9}> ()
            turned = Slice (part, back, first, axes, back)
            y = Relu (turned)
        }"""
    )
    assert [node.op_type for node in folded.graph.node if node.op_type != "Constant"] == [
        "Pad",
        "Slice",
        "Slice",
        "Relu",
    ]
    assert run(folded, torch.tensor([[1.0, 2, 3], [4, 5, 6]]))[0].tolist() == [[1, 0], [4, 0]]


def test_rolling_by_nothing_is_nothing() -> None:
    class Rolled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.roll(x * 2, shifts=(0, 1), dims=(0, 1)) + 1

    x = torch.randn(3, 4)
    model = export(Rolled(), x)
    assert [node.op_type for node in model.graph.node].count("Concat") == 1
    check(model, Rolled(), x)


def test_empty_parts_are_dropped_along_the_axis_only() -> None:
    folded = _folded_text(
        """g (float[2,0] a, float[2,3] b, float[0,2] c, float[0,3] d) => (float[2,3] y, float[0,5] z) {
            both = Concat <axis = -1> (a, b)
            y = Relu (both)
            wide = Concat <axis = 1> (c, d)
            z = Relu (wide)
        }"""
    )
    kinds = [(node.op_type, list(node.input)) for node in folded.graph.node]
    assert kinds == [("Relu", ["b"]), ("Concat", ["c", "d"]), ("Relu", ["wide"])]


def test_operators_of_others_stay_whatever_they_are_called() -> None:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18, "other" : 1]> g (float[2,0] a, float[2,3] b) => (float[N,M] y) {
            joined = other.Concat (a, b)
            pads = Constant <value = int64[4] {0, 0, 0, 0}> ()
            padded = other.Pad (joined, pads)
            y = Relu (padded)
        }"""
    )
    kinds = [(node.domain, node.op_type) for node in fold_shapes(model).graph.node if node.op_type != "Constant"]
    assert kinds == [("other", "Concat"), ("other", "Pad"), ("", "Relu")]


def test_what_is_dropped_is_not_read_in_branches() -> None:
    folded = _folded_text(
        """g (float[2,3] x, bool c) => (float[2,3] y) {
            pads = Constant <value = int64[4] {0, 0, 0, 0}> ()
            padded = Pad (x, pads)
            y = If (c) <then_branch = a () => (float[2,3] p) { p = Relu (padded) },
                        else_branch = b () => (float[2,3] padded) { }>
        }"""
    )
    x = torch.randn(2, 3)
    assert [node.op_type for node in folded.graph.node] == ["If"]
    assert np.array_equal(run(folded, x, torch.tensor(True))[0], x.relu())
