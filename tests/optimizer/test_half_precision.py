"""The 16-bit pass over ONNX graphs: types, the number of casts, what stays float32 and why, and the answers."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper, parser  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from torch_trt_ext.optimizer.half_precision import HalfPrecisionResult, to_half_precision  # noqa: E402

#: float16 keeps 11 bits: a part in 2000, and errors of a few layers add up.
FLOAT16_TOLERANCE = {"rtol": 1e-2, "atol": 1e-2}

#: What a transformer keeps.
NORMALIZATIONS = ["Softmax", "LayerNormalization", "ReduceMean"]


def parse(body: str, opset: int = 18, **weights: Any) -> onnx.ModelProto:
    """A model from ONNX's text form, ``name (inputs) => (outputs) { nodes }``; ``weights`` become initializers."""
    model = parser.parse_model(f'<ir_version: 9, opset_import: ["": {opset}, "mine": 1]> g {body}')
    for name, values in weights.items():
        array = np.asarray(values)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Of every tensor of the outer graph, inferred strictly."""
    graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph
    values = (*graph.input, *graph.output, *graph.value_info)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def count(model: onnx.ModelProto, op_type: str) -> int:
    return sum(node.op_type == op_type for node in model.graph.node)


def convert(model: onnx.ModelProto, keep: Any = (), **options: Any) -> HalfPrecisionResult:
    """Converts, and checks what holds for every conversion."""
    before = model.SerializeToString(deterministic=True)
    result = to_half_precision(model, keep_float32_ops=keep, **options)
    assert model.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(result.model, full_check=True)
    assert list(result.model.graph.input) == list(model.graph.input)
    assert list(result.model.graph.output) == list(model.graph.output)
    assert count(result.model, "Cast") == count(model, "Cast") + result.casts_inserted
    again = to_half_precision(model, keep_float32_ops=keep, **options)
    assert again.model.SerializeToString() == result.model.SerializeToString()
    return result


def is_half(result: HalfPrecisionResult, *names: str) -> bool:
    """Whether all these values exist in float16 only."""
    types = element_types(result.model)
    return all(name not in types and types.get(f"{name}_float16") == TensorProto.FLOAT16 for name in names)


def assert_same_answers(
    model: onnx.ModelProto, result: HalfPrecisionResult, feeds: dict[str, Any], **tolerance: float
) -> None:
    expected = ReferenceEvaluator(model).run(None, feeds)
    actual = ReferenceEvaluator(result.model).run(None, feeds)
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, **(tolerance or FLOAT16_TOLERANCE))


def exported(module: nn.Module, inputs: tuple[Tensor, ...], **options: Any) -> onnx.ModelProto:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), inputs, file, dynamo=False, opset_version=18, **options)
    return onnx.load_from_string(file.getvalue())


def random_array(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_everything_between_the_boundaries_is_half() -> None:
    model = parse(
        "(float[N,3,8,8] x) => (float[N,4,8,8] y) { a = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(a) y = Mul(r, r) }",
        w=random_array(4, 3, 3, 3) / 5,
        b=random_array(4),
    )
    result = convert(model)
    assert (result.half_nodes, result.casts_inserted, result.kept) == (3, 2, {})
    assert is_half(result, "a", "r", "w", "b")
    assert_same_answers(model, result, {"x": random_array(2, 3, 8, 8)})


def test_ops_to_be_kept_stay() -> None:
    model = parse(
        "(float[2,4,4] x) => (float[2,4,4] y) { s = MatMul(x, x) [soft] p = Softmax<axis=-1>(s) y = MatMul(p, x) }"
    )
    result = convert(model, ["Softmax"])
    # x, s and p on their way, and y.
    assert (result.half_nodes, result.casts_inserted) == (2, 4)
    assert result.kept == {"soft": "Softmax is to be kept"}
    assert is_half(result, "y") is False
    types = element_types(result.model)
    assert types["s"] == types["p"] == TensorProto.FLOAT
    assert_same_answers(model, result, {"x": random_array(2, 4, 4)})


def test_nodes_to_be_kept_stay_by_name_or_first_output() -> None:
    model = parse("(float[4] x) => (float[4] y) { [one] a = Exp(x) b = Exp(a) c = Exp(b) y = Tanh(c) }")
    result = convert(model, keep_float32_nodes=["one", "b"])
    assert set(result.kept) == {"one", "b"}
    assert (result.half_nodes, result.casts_inserted) == (2, 2)


def test_one_cast_a_value_and_direction() -> None:
    model = parse(
        """(float[4] x) => (float[4] y, float[4] z) {
            a = Sin(x) b = Cos(x) c = Add(a, b)
            e = Exp(c) f = Exp(c) g = Log(f) h = Log(f)
            y = Add(e, g) i = Mul(h, e) z = Add(i, c)
        }"""
    )
    result = convert(model, ["Exp"])
    # x once for two readers, c back once for two, e and f forth once each, y and z.
    assert (result.half_nodes, result.casts_inserted) == (8, 6)
    assert_same_answers(model, result, {"x": random_array(4)})


def test_outputs_that_are_also_read_inside() -> None:
    model = parse("(float[4] x) => (float[4] a, float[4] b) { a = Sin(x) b = Exp(a) c = Cos(a) d = Add(c, a) }")
    result = convert(model, ["Exp"])
    assert result.casts_inserted == 2
    assert element_types(result.model)["a"] == TensorProto.FLOAT
    assert_same_answers(model, result, {"x": random_array(4)})


@pytest.mark.parametrize(
    ("body", "moved_in_half", "casts"),
    [
        # Among float32 nodes.
        ("a = Exp(x) b = Transpose<perm=[1,0]>(a) c = Exp(b)", False, 0),
        ("b = Transpose<perm=[1,0]>(x) c = Exp(b)", False, 0),
        ("b = Transpose<perm=[1,0]>(x) c = Identity(b)", False, 0),
        # One of two inputs is float32 anyway, the reader is half: casting behind is one, before would be two.
        ("a = Exp(x) d = Exp(a) b = Concat<axis=0>(a, d) e = Sin(b) c = Exp(e)", False, 2),
        # Both inputs are half, and one of two readers: casting before is two and one for that reader, behind is one.
        ("a = Sin(x) d = Cos(x) b = Concat<axis=0>(a, d) e = Sin(b) f = Exp(b) c = Concat<axis=0>(f, e)", True, 3),
        ("a = Sin(x) b = Transpose<perm=[1,0]>(a) d = Sin(b) c = Exp(d)", True, 2),
        # A shape costs nothing, wherever it is read.
        ("a = Exp(x) s = Shape(a) d = Exp(a) b = Reshape(d, s) c = Exp(b)", False, 0),
    ],
)
def test_movers_go_where_casts_are_fewest(body: str, moved_in_half: bool, casts: int) -> None:
    model = parse(f"(float[4,4] x) => (float[P,Q] c) {{ {body} }}")
    result = convert(model, ["Exp"])
    assert result.casts_inserted == casts
    assert ("b" in result.kept) != moved_in_half
    assert_same_answers(model, result, {"x": random_array(4, 4)})


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([1.0, -1e30], "its constant 'w' has 1e+30, beyond float16's 65504"),
        (70000.0, "its constant 'w' has 70000, beyond float16's 65504"),
        ([1e-12, 0.0], "its constant 'w' would become zero in float16, its largest value is 1e-12"),
        ([65504.0, -np.inf], ""),
        ([1.0, 1e-12], ""),
        ([0.0, 0.0], ""),
        (np.zeros(0), ""),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("as_node", [False, True])
def test_constants_out_of_range_keep_the_node(value: Any, reason: str, as_node: bool) -> None:
    w = np.array(value, dtype=np.float32)
    shape = "2" if w.size else "0"
    model = parse(f"(float[{shape}] x) => (float[{shape}] y) {{ a = Sin(x) c = Mul(a, w) y = Sin(c) }}")
    if as_node:
        model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(w)))
    else:
        model.graph.initializer.append(numpy_helper.from_array(w, "w"))
    result = convert(model)
    assert result.kept == ({"c": reason} if reason else {})
    assert result.casts_inserted == (4 if reason else 2)
    x = np.ones(2 if w.size else 0, dtype=np.float32)
    assert ReferenceEvaluator(result.model).run(None, {"x": x})[0].shape == x.shape


def test_bfloat16_has_float32s_range() -> None:
    model = parse("(float[2] x) => (float[2] y) { y = Mul(x, w) }", w=[1e30, 1e-12])
    result = convert(model, half="bfloat16")
    assert result.kept == {}
    assert {tensor.data_type for tensor in result.model.graph.initializer} == {TensorProto.BFLOAT16}
    (tensor,) = result.model.graph.initializer
    expected = torch.tensor([1e30, 1e-12]).bfloat16()
    assert torch.equal(torch.frombuffer(bytearray(tensor.raw_data), dtype=torch.bfloat16), expected)


def test_constants_out_of_range_pass_through_movers() -> None:
    model = parse(
        """(float[4] x, int64[1] n) => (float[4] y) {
            big = Expand(w, n) some = Where(mask, x, big) a = Sin(x) b = Add(a, some) y = Sin(b)
        }""",
        w=-3e38,
        mask=np.array([True, True, True, False]),
    )
    result = convert(model)
    assert set(result.kept) == {"big", "some", "b"}
    assert set(result.kept.values()) == {"its constant 'w' has 3e+38, beyond float16's 65504"}


def test_an_integer_constant_out_of_range_keeps_its_cast() -> None:
    model = parse("(float[2] x) => (float[2] y) { c = Cast<to=1>(w) a = Sin(x) y = Div(a, c) }", w=np.array([100000]))
    result = convert(model)
    assert set(result.kept) == {"c", "y"}
    assert_same_answers(model, result, {"x": random_array(2)}, rtol=1e-3)


@pytest.mark.parametrize("as_node", [False, True])
def test_shared_constants_get_two_copies(as_node: bool) -> None:
    model = parse("(float[2] x) => (float[2] y) { a = Sub(x, w) b = Pow(a, w) y = Mul(b, w) }")
    w = numpy_helper.from_array(np.array([1.5, 3], dtype=np.float32), "w")
    if as_node:
        model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=w))
    else:
        model.graph.initializer.append(w)
    result = convert(model, ["Pow"])
    types = element_types(result.model)
    assert (types["w"], types["w_float16"]) == (TensorProto.FLOAT, TensorProto.FLOAT16)
    # x, a forth, b back, y.
    assert result.casts_inserted == 4
    assert_same_answers(model, result, {"x": np.array([2, 5], dtype=np.float32)})


def test_equal_constants_that_are_exported_once() -> None:
    model = parse(
        """(float[2] x) => (float[2] y) {
            u = Identity(w) v = Identity(u) a = Sub(x, w) b = Mul(a, u) c = Exp(b) d = Div(b, v) y = Add(c, d)
        }""",
        w=[1.5, 3.0],
    )
    result = convert(model, ["Exp"])
    assert [tensor.data_type for tensor in result.model.graph.initializer] == [TensorProto.FLOAT16]
    assert count(result.model, "Identity") == 0
    assert result.casts_inserted == 4
    kept = convert(model, ["Exp", "Div"])
    assert [node.output[0] for node in kept.model.graph.node if node.op_type == "Identity"] == ["u", "v"]
    for either in (result, kept):
        assert_same_answers(model, either, {"x": random_array(2)})


def test_constants_that_are_outputs_stay() -> None:
    model = parse("(float[2] x) => (float[2] y, float[2] w) { y = Mul(x, w) }", w=[1.5, 3.0])
    result = convert(model)
    assert len(result.model.graph.initializer) == 2
    assert_same_answers(model, result, {"x": random_array(2)})


def test_an_initializer_that_is_an_input_can_still_be_given() -> None:
    model = parse("(float[2] x, float[2] w) => (float[2] y) { y = Mul(x, w) }", w=[1.5, 3.0])
    result = convert(model)
    assert result.casts_inserted == 3
    assert_same_answers(model, result, {"x": random_array(2), "w": np.array([4.0, 5.0], dtype=np.float32)})


def test_subgraphs_get_float32() -> None:
    model = parse(
        """(float[4] x, bool c) => (float[4] y) {
            a = Sin(x)
            [branch] b = If(c) <
                then_branch = t () => (float[4] p) { p = Mul(a, w) },
                else_branch = e () => (float[4] q) { [inner] u = Exp(a) q = Add(u, x) }
            >
            d = Mul(b, w)
            y = Cos(d)
        }""",
        w=[1.0, 2.0, 3.0, 4.0],
    )
    result = convert(model)
    assert result.kept == {"branch": "it has subgraphs"}
    # x forth, a back, b forth, y back.
    assert (result.half_nodes, result.casts_inserted) == (3, 4)
    types = element_types(result.model)
    assert types["a"] == types["w"] == TensorProto.FLOAT
    for choice in (True, False):
        assert_same_answers(model, result, {"x": random_array(4), "c": np.array(choice)})


def test_integers_and_float64_are_left_alone() -> None:
    model = parse(
        """(int64[N] i, double[N] d, bool[N] m) => (int64[N] j, double[N] e, bool[N] k) {
            j = Add(i, i) e = Sin(d) k = Not(m)
        }"""
    )
    result = convert(model)
    assert (result.half_nodes, result.casts_inserted, result.kept) == (0, 0, {})
    assert result.model.SerializeToString() == model.SerializeToString()


def test_indices_stay_integers() -> None:
    model = parse(
        """(int64[2,3] ids) => (float[2,3,5] y) {
            e = Gather(table, ids) n = LayerNormalization<axis=-1>(e, scale) y = MatMul(n, w)
        }""",
        table=random_array(7, 4),
        scale=np.ones(4),
        w=random_array(4, 5),
    )
    result = convert(model, NORMALIZATIONS)
    assert set(result.kept) == {"e", "n"}
    assert result.casts_inserted == 2
    assert_same_answers(model, result, {"ids": np.array([[0, 6, 3], [2, 2, 1]])})


def test_arithmetic_on_shapes_stays_float32() -> None:
    model = parse(
        """(float[1,2,H,W] x) => (float[1,2,P,Q] y) {
            a = Sin(x)
            s = Shape(a) f = Cast<to=1>(s) g = Mul(f, twice) h = Floor(g) t = Cast<to=7>(h)
            y = Resize<mode="nearest">(a, "", "", t)
        }""",
        twice=[1.0, 1.0, 2.0, 2.0],
    )
    result = convert(model)
    reason = "it computes on shapes, where 16 bits lose whole numbers"
    assert result.kept == dict.fromkeys(["f", "g", "h", "t"], reason)
    # 3001 * 2 is no float16.
    x = np.zeros((1, 2, 3001, 1), dtype=np.float32)
    assert ReferenceEvaluator(result.model).run(None, {"x": x})[0].shape == (1, 2, 6002, 2)


def test_data_that_only_takes_its_size_from_a_shape_may_be_half() -> None:
    model = parse(
        """(float[N,4] x) => (float[N,4] y) {
            s = Shape(x) z = ConstantOfShape<value = float[1] {0.5}>(s) p = Slice(table, zero, one) a = Sin(x)
            b = Add(a, z) d = Mul(b, p) y = Sin(d) m = Shape<start=0, end=1>(x) one = Mul(m, m)
        }""",
        table=random_array(5, 4),
        zero=np.array([0]),
    )
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[-2:], *nodes[:-2]])
    result = convert(model)
    assert result.kept == {}
    assert result.casts_inserted == 2
    assert_same_answers(model, result, {"x": random_array(1, 4)})


def test_resize_keeps_its_scales() -> None:
    model = parse(
        """(float[1,2,4,4] x) => (float[1,2,8,8] y) {
            a = Sin(x) b = Resize<mode="linear">(a, roi, scales) y = Sin(b)
        }""",
        roi=np.zeros(8),
        scales=[1.0, 1.0, 2.0, 2.0],
    )
    result = convert(model)
    types = element_types(result.model)
    assert types["roi"] == types["scales"] == TensorProto.FLOAT
    assert (result.half_nodes, result.casts_inserted) == (3, 2)
    assert is_half(result, "a", "b")
    assert_same_answers(model, result, {"x": random_array(1, 2, 4, 4)})


def test_ops_that_are_float32_by_definition_stay() -> None:
    model = parse(
        """(float[1,4,4] boxes, float[1,1,4] scores) => (int64[K,3] picked) {
            s = Sigmoid(scores) picked = NonMaxSuppression(boxes, s, most, limit)
        }""",
        most=np.array([2]),
        limit=np.array([0.5], dtype=np.float32),
    )
    result = convert(model)
    assert result.kept == {"picked": "ONNX has NonMaxSuppression in float32 only"}
    assert result.casts_inserted == 2


def test_quantization_stays() -> None:
    model = parse(
        """(float[4] x) => (float[4] y) {
            a = Sin(x) q = QuantizeLinear(a, s, z) d = DequantizeLinear(q, s, z) y = Sin(d)
        }""",
        s=0.1,
        z=np.uint8(128),
    )
    result = convert(model)
    assert set(result.kept) == {"q", "d"}
    assert result.casts_inserted == 4


@pytest.mark.parametrize(
    "body",
    [
        "b = Cast<to=1>(i)",
        "b = ConstantOfShape(i)",
        "b = ConstantOfShape<value = float[1] {2.5}>(i)",
        "m = Sin(x) b = RandomNormalLike(m)",
        "b = RandomUniform<shape=[2,2]>()",
        "m = Sin(x) b = EyeLike(m)",
        "b = EyeLike<dtype=1>(k)",
        "m = Sin(x) b = CastLike(i, m)",
        "b = Constant<value_floats=[0.5, 2.0]>()",
    ],
)
def test_type_attributes_follow(body: str) -> None:
    model = parse(f"(float[2,2] x, int64[2] i, int64[2,2] k) => (float[P,Q] y) {{ {body} c = Sin(x) y = Add(b, c) }}")
    result = convert(model)
    assert is_half(result, "b")
    assert (result.casts_inserted, result.kept) == (2, {})
    if "Random" not in body:
        feeds = {"x": random_array(2, 2), "i": np.array([2, 2]), "k": np.zeros((2, 2), dtype=np.int64)}
        assert_same_answers(model, result, feeds)


def test_batch_normalization_is_half_as_a_whole() -> None:
    model = parse(
        "(float[2,3,4] x) => (float[2,3,4] y) { y = BatchNormalization(x, scale, shift, mean, variance) }",
        scale=[1.0, 2.0, 3.0],
        shift=[0.0, 1.0, 0.0],
        mean=[0.5, 0.0, 0.0],
        variance=[1.0, 2.0, 0.5],
    )
    result = convert(model)
    assert is_half(result, "scale", "shift", "mean", "variance")
    assert_same_answers(model, result, {"x": random_array(2, 3, 4)})


def test_statistics_of_a_normalization_stay_float32() -> None:
    model = parse(
        "(float[2,4] x) => (float[2,4] y, float[2,1] m) { y, m = LayerNormalization(x, w) }", w=np.ones(4, np.float32)
    )
    result = convert(model)
    assert result.half_nodes == 1
    assert result.casts_inserted == 2


def test_opsets_without_bfloat16_stay() -> None:
    body = "(float[1,2,4,4] x) => (float[1,2,4,4] y) { [conv] a = Conv(x, w) y = Add(a, a) }"
    result = convert(parse(body, w=random_array(2, 2, 1, 1)), half="bfloat16")
    assert result.kept == {"conv": "ONNX has no Conv in bfloat16 (opset 11)"}
    newer = parse(body, opset=22, w=random_array(2, 2, 1, 1))
    newer.ir_version = 10
    assert convert(newer, half="bfloat16").kept == {}


def test_unknown_operators_and_types_stay() -> None:
    model = parse("(float[4] x) => (float[4] y) { a = Sin(x) [own] b = mine.Own(a) c = Cos(b) y = Sin(x) }")
    result = to_half_precision(model, keep_float32_ops=())
    onnx.checker.check_model(result.model)
    assert result.kept == {"own": "the type of 'b' is unknown", "c": "the type of 'b' is unknown"}
    assert result.casts_inserted == 3
    told = parse("(float[4] x) => (float[4] y) { b = mine.Own(x) y = Cos(b) }")
    told.graph.value_info.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [4]))
    result = to_half_precision(told, keep_float32_ops=())
    assert result.kept == {"b": "ONNX has no definition of mine.Own"}
    assert result.casts_inserted == 2


def test_sequences_stay() -> None:
    model = parse(
        """(float[4] x) => (float[4] y) {
            a = Sin(x) s = SequenceConstruct(a, a) b = ConcatFromSequence<axis=0>(s) c = Slice(b, zero, four) y = Sin(c)
        }""",
        zero=np.array([0]),
        four=np.array([4]),
    )
    result = convert(model)
    assert set(result.kept) == {"s", "b"}
    assert result.casts_inserted == 4


def test_value_info_says_the_new_types() -> None:
    model = parse("(float[4] x) => (float[4] y) { a = Sin(x) b = Exp(a) y = Sin(b) }")
    model = onnx.shape_inference.infer_shapes(model)
    model.graph.value_info.append(helper.make_tensor_value_info("x_float16", TensorProto.INT64, [1]))
    model.graph.node.append(helper.make_node("Shape", ["x"], ["x_float16"]))
    result = convert(model, ["Exp"])
    types = {info.name: info.type.tensor_type.elem_type for info in result.model.graph.value_info}
    assert types["a_float16"] == types["b_float16"] == TensorProto.FLOAT16
    assert types["a"] == types["b"] == TensorProto.FLOAT
    # A name that was taken is not taken again.
    assert types["x_float16"] == TensorProto.INT64
    assert_same_answers(model, result, {"x": random_array(4)})


class _ResidualBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = torch.relu(x + self.second(x))
        return self.head(x.mean((2, 3))).softmax(1)


class _TransformerBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(16), nn.LayerNorm(16)])
        self.qkv = nn.Linear(16, 48)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norms[0](x)).view(batch, length, 3, 2, 8).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1)
        x = x + (weights @ v).transpose(1, 2).reshape(batch, length, width)
        return x + self.mlp(self.norms[1](x))


class _Upsampling(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        larger = nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        return nn.functional.interpolate(larger.relu(), size=(5, 7)) * 2


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    ("module", "shape", "casts"),
    [
        # The image; the mean's input, its answer; the softmax's input.
        (_ResidualBlock(), (2, 3, 16, 16), 4),
        # x forth; the sums that the norms read; each norm's answer; the softmax's two sides; y.
        (_TransformerBlock(), (2, 6, 16), 7),
        (_Upsampling(), (1, 2, 4, 6), 2),
    ],
    ids=["residual", "transformer", "upsampling"],
)
def test_exported_modules(module: nn.Module, shape: tuple[int, ...], casts: int, dynamic: bool) -> None:
    x = torch.from_numpy(random_array(*shape))
    options = {"dynamic_axes": {"x": {0: "batch"}}} if dynamic else {}
    model = exported(module, (x,), input_names=["x"], **options)
    result = convert(model, NORMALIZATIONS)
    assert result.casts_inserted == casts
    with torch.no_grad():
        expected = module(x)
    (actual,) = ReferenceEvaluator(result.model).run(None, {"x": x.numpy()})
    np.testing.assert_allclose(actual, expected.numpy(), **FLOAT16_TOLERANCE)


def test_bad_arguments_fail() -> None:
    model = parse("(float[4] x) => (float[4] y) { y = Mul(x, w) }", w=np.ones(4, np.float32))
    with pytest.raises(TypeError, match=r"model must be an onnx\.ModelProto, got bytes"):
        to_half_precision(model.SerializeToString(), keep_float32_ops=())
    with pytest.raises(ValueError, match=r"half must be one of .*, got 'float8'"):
        to_half_precision(model, half="float8", keep_float32_ops=())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="keep_float32_ops must be a collection of strings, got the string 'Softmax'"):
        to_half_precision(model, keep_float32_ops="Softmax")
    with pytest.raises(ValueError, match="keep_float32_nodes must name nodes of the graph, got 'z'"):
        to_half_precision(model, keep_float32_ops=(), keep_float32_nodes=["z"])
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    with pytest.raises(ValueError, match="'w' is in another file"):
        to_half_precision(model, keep_float32_ops=())
    model.ir_version = 3
    with pytest.raises(ValueError, match="IR version must be 4 or newer"):
        to_half_precision(model, keep_float32_ops=())
