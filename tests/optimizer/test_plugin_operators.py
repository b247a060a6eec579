"""Operators that are registered as plugins: their ONNX nodes, 16 bits, the cache, what stays in PyTorch, errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper, parser
from torch import Tensor, nn

import torch_trt_ext
from tests.optimizer.test_onnx_export import export as export_with
from tests.optimizer.test_onnx_export import prepare
from tests.optimizer.tiny_models import assert_close, counters, engine_modules, make, optimize, quick_config
from torch_trt_ext import register_plugin_operator, runtime, unregister_plugin_operator
from torch_trt_ext.engine_plan import EnginePlan
from torch_trt_ext.optimizer import engine_builder, onnx_export, plugin_operators
from torch_trt_ext.optimizer.engine_builder import OpenVINOBuilder, TensorRTBuilder
from torch_trt_ext.optimizer.half_precision import to_half_precision
from torch_trt_ext.optimizer.plugin_operators import PLUGIN_DOMAIN, registered_plugin_operators

pytestmark = pytest.mark.usefixtures("one_thread")

SPACE = "torch_trt_ext_plugin_tests"
LEAKY = f"{SPACE}::leaky"
MANY = f"{SPACE}::many"

#: Held, since an operator goes with the object that defined it.
LIBRARY = torch.library.Library(SPACE, "DEF")
LIBRARY.define("leaky(Tensor x, float negative_slope=0.01) -> Tensor")
LIBRARY.define(
    "many(Tensor x, Tensor[] others, int[] sizes, str mode, bool flag, Scalar alpha, float[]? factors, int count, "
    "Tensor? mask=None, Tensor? bias=None) -> (Tensor, Tensor)"
)


def leaky(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    return torch.where(x > 0, x, x * negative_slope)


def many(x: Tensor, others: list[Tensor], *_: Any) -> tuple[Tensor, Tensor]:
    return sum(others, x), (x > 0).long()


LIBRARY.impl("leaky", leaky, "CompositeExplicitAutograd")
LIBRARY.impl("many", many, "CompositeExplicitAutograd")

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _registered_by_the_test_only() -> Iterator[None]:
    yield
    for operator in registered_plugin_operators():
        unregister_plugin_operator(operator)


def register_leaky(**options: Any) -> None:
    register_plugin_operator(LEAKY, "LeakyReLU", **{"attributes": {"neg_slope": "negative_slope"}} | options)


def register_many(**attributes: int | str) -> None:
    register_plugin_operator(MANY, "Many", version="2", namespace="mine", attributes=attributes)


def export(module: nn.Module, *inputs: Tensor, **options: Any) -> onnx.ModelProto:
    """The module's one subgraph, with what is registered as plugins; checked as far as ONNX knows its operators."""
    model = export_with(module, *inputs, plugins=registered_plugin_operators(), **options)
    onnx.checker.check_model(model, full_check=True)
    return model


def plugin_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.domain == PLUGIN_DOMAIN]


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    return {value.name: value.type.tensor_type.elem_type for value in values}


class Leaky(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.torch_trt_ext_plugin_tests.leaky(x + 1, 0.25) * 2


class Many(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        a, b = torch.ops.torch_trt_ext_plugin_tests.many(x * 2, [y, x], [1, 2], "fast", True, 3, [0.5], 7)
        return a.relu(), b + 1


# The node


def test_operator_becomes_a_node_of_the_plugin() -> None:
    register_leaky()
    model = export(Leaky(), ROWS)
    assert [node.op_type for node in model.graph.node if node.op_type != "Constant"] == ["Add", "LeakyReLU", "Mul"]
    (node,) = plugin_nodes(model)
    assert attributes_of(node) == {"neg_slope": 0.25, "plugin_version": b"1", "plugin_namespace": b""}
    add = next(node for node in model.graph.node if node.op_type == "Add")
    assert list(node.input) == list(add.output)
    assert len(node.output) == 1
    assert element_types(model)[node.output[0]] == TensorProto.FLOAT
    assert {opset.domain for opset in model.opset_import} == {"", PLUGIN_DOMAIN}


def test_node_has_the_number_of_the_operator() -> None:
    register_leaky()
    (node,) = plugin_nodes(export(Leaky(), ROWS))
    kinds = {node.id: node.kind for node in prepare(Leaky(), ROWS, plugins=registered_plugin_operators())[0].nodes()}
    number = onnx_export.node_of(node.name)
    assert number is not None
    assert kinds[number] == LEAKY


@pytest.mark.parametrize("argument", [1, "negative_slope"])
def test_argument_by_position_or_name_and_with_its_default(argument: int | str) -> None:
    class Default(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ops.torch_trt_ext_plugin_tests.leaky(x)

    register_leaky(attributes={"neg_slope": argument})
    (node,) = plugin_nodes(export(Default(), ROWS))
    assert attributes_of(node)["neg_slope"] == pytest.approx(0.01)


def test_arguments_of_every_kind() -> None:
    register_many(sizes="sizes", mode=3, flag="flag", alpha="alpha", factors="factors", count="count")
    model = export(Many(), ROWS, ROWS + 1)
    (node,) = plugin_nodes(model)
    fields = attributes_of(node)
    assert (fields.pop("plugin_version"), fields.pop("plugin_namespace")) == (b"2", b"mine")
    assert fields == {"sizes": [1, 2], "mode": b"fast", "flag": 1, "alpha": 3.0, "factors": [0.5], "count": 7}
    assert isinstance(fields["alpha"], float)
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    # The first tensor, then those of the list.
    assert [makers.get(name, name) for name in node.input] == ["Mul", "input_1", "input_0"]
    assert len(node.output) == 2


def test_int64_output_may_be_int32_of_the_plugin() -> None:
    register_many()
    model = export(Many(), ROWS, ROWS)
    (node,) = plugin_nodes(model)
    (cast,) = (other for other in model.graph.node if node.output[1] in other.input)
    assert (cast.op_type, attributes_of(cast)) == ("Cast", {"to": TensorProto.INT64})
    types = element_types(model)
    assert [types[name] for name in node.output] == [TensorProto.FLOAT, TensorProto.INT32]
    assert [types[output.name] for output in model.graph.output] == [TensorProto.INT64, TensorProto.FLOAT]


@pytest.mark.parametrize("dynamic", [(), (0,)])
def test_sizes_of_outputs_are_the_plugins_to_say(dynamic: tuple[int, ...]) -> None:
    class Reshaped(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = torch.ops.torch_trt_ext_plugin_tests.leaky(x)
            return y, (y * 2).reshape(y.shape[0] * y.shape[1])

    register_leaky()
    model = export(Reshaped(), ROWS, dynamic=dynamic)
    # What was seen of the shape is not folded into the graph.
    assert "Shape" in {node.op_type for node in model.graph.node}
    for output, rank in zip(model.graph.output, (2, 1), strict=True):
        dims = output.type.tensor_type.shape.dim
        assert len(dims) == rank
        assert not any(dim.HasField("dim_value") for dim in dims)


class Masked(nn.Module):
    def __init__(self, mask: bool, bias: bool) -> None:
        super().__init__()
        self.mask, self.bias = mask, bias

    def forward(self, x: Tensor) -> Tensor:
        mask = x if self.mask else None
        bias = x if self.bias else None
        return torch.ops.torch_trt_ext_plugin_tests.many(x, [x], [1], "", False, 0, None, 0, mask, bias)[0]


@pytest.mark.parametrize(("mask", "bias", "inputs"), [(False, False, 2), (True, False, 3), (True, True, 4)])
def test_tensors_that_are_none_at_the_end_are_left_out(mask: bool, bias: bool, inputs: int) -> None:
    register_many(factors="factors")
    (node,) = plugin_nodes(export(Masked(mask, bias), ROWS))
    assert list(node.input) == ["input_0"] * inputs
    # None leaves the plugin its own default.
    assert "factors" not in attributes_of(node)


def test_tensor_that_is_none_before_another_fails() -> None:
    register_many()
    with pytest.raises(onnx_export.ExportError, match="its tensor 'mask' is None and 'bias' is not") as raised:
        export(Masked(mask=False, bias=True), ROWS)
    assert len(raised.value.reasons) == 1


def test_integer_beyond_int32_fails() -> None:
    class Large(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ops.torch_trt_ext_plugin_tests.many(x, [x], [1], "", False, 0, None, 2147483648)[0]

    register_many(count="count")
    with pytest.raises(onnx_export.ExportError, match=r"'count' must fit int32, .* got 2147483648"):
        export(Large(), ROWS)


# Precedence, and what is left of it


def test_plugin_takes_the_place_of_an_onnx_operator() -> None:
    module = nn.GroupNorm(2, 4, eps=1e-3)
    x = torch.randn(2, 4, 5)
    assert plugin_nodes(export(module, x)) == []
    register_plugin_operator("aten::group_norm", "GroupNorm", attributes={"num_groups": 1, "eps": "eps"})
    model = export(module, x)
    (node,) = plugin_nodes(model)
    assert [other.op_type for other in model.graph.node if other.op_type != "Constant"] == ["GroupNorm"]
    # All that the plugin's creator names: TensorRT's parser warns of each field that is missing.
    fields = {"num_groups": 2, "eps": pytest.approx(1e-3), "variant": 0}
    assert attributes_of(node) == fields | {"plugin_version": b"1", "plugin_namespace": b""}
    assert len(node.input) == 3
    unregister_plugin_operator("aten::group_norm")
    assert plugin_nodes(export(module, x)) == []


@pytest.mark.parametrize("others", [{"library": "libothers.so"}, {"version": "2"}, {"namespace": "others"}])
def test_plugin_of_the_same_name_gets_no_defaults_of_ours(others: dict[str, str]) -> None:
    register_plugin_operator("aten::group_norm", "GroupNorm", attributes={"num_groups": 1}, **others)
    (node,) = plugin_nodes(export(nn.GroupNorm(2, 4), torch.randn(2, 4, 5)))
    assert attributes_of(node).keys() == {"num_groups", "plugin_version", "plugin_namespace"}


def test_plugin_takes_the_place_of_what_is_written_out() -> None:
    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x, scale=0.5)

    register_plugin_operator("aten::scaled_dot_product_attention", "FlashAttention", attributes={"scale": "scale"})
    (node,) = export(Attention(), torch.randn(1, 2, 3, 4)).graph.node
    assert (node.op_type, list(node.input)) == ("FlashAttention", ["input_0"] * 3)
    assert attributes_of(node)["scale"] == 0.5


def test_nodes_that_the_exporter_makes_are_no_plugins() -> None:
    class Products(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.addmm(x, x, x) + torch.add(x, torch.mm(x, x))

    register_plugin_operator("aten::addmm", "Product")
    operators = [node.op_type for node in export(Products(), torch.randn(4, 4)).graph.node]
    # torch's exporter makes an addmm of its own of the second product.
    assert sorted(operators) == ["Add", "Gemm", "Product"]


def test_registering_again_replaces() -> None:
    register_leaky(half=True)
    register_plugin_operator(LEAKY, "Other")
    assert {known.plugin for known in registered_plugin_operators().values()} == {"Other"}
    (node,) = plugin_nodes(export(Leaky(), ROWS))
    assert node.op_type == "Other"


@pytest.mark.parametrize("fails", [False, True])
def test_exporter_is_left_as_it_was(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def mine(context: Any, x: Any, negative_slope: Any) -> Any:
        return context.op("Relu", x)

    registry = onnx_export._registry()
    of_group_norm = registry.get_function_group("aten::group_norm").get(onnx_export.OPSET)
    torch.onnx.register_custom_op_symbolic(LEAKY, mine, onnx_export.OPSET)
    try:
        register_leaky()
        register_many()
        register_plugin_operator("aten::group_norm", "GroupNorm")
        if fails:
            monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: registry.no_such_function)
            with pytest.raises(onnx_export.ExportError):
                export(Leaky(), ROWS)
        else:
            assert len(plugin_nodes(export(Leaky(), ROWS))) == 1
        assert registry.get_function_group(LEAKY).get(onnx_export.OPSET) is mine
        assert registry.get_function_group("aten::group_norm").get(onnx_export.OPSET) is of_group_norm
        assert not onnx_export.has_onnx_form(MANY)
    finally:
        torch.onnx.unregister_custom_op_symbolic(LEAKY, onnx_export.OPSET)


# 16 bits


def plugin_graph(body: str) -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: 9, opset_import: ["": 18, "{PLUGIN_DOMAIN}": 1]> g {body}')


def test_plugin_in_half() -> None:
    register_leaky()
    model = export(Leaky(), ROWS)
    result = to_half_precision(model, keep_float32_ops=[])
    onnx.checker.check_model(result.model, full_check=True)
    assert (result.half_nodes, result.casts_inserted, result.kept) == (3, 2, {})
    (node,) = plugin_nodes(result.model)
    assert {element_types(result.model)[name] for name in (*node.input, *node.output)} == {TensorProto.FLOAT16}
    assert attributes_of(node) == attributes_of(plugin_nodes(model)[0])


@pytest.mark.parametrize("way", ["nodes", "operators"])
def test_plugin_that_is_kept_in_float32(way: str) -> None:
    register_leaky()
    model = export(Leaky(), ROWS)
    name = plugin_nodes(model)[0].name
    kept = {"keep_float32_ops": ["LeakyReLU"]} if way == "operators" else {"keep_float32_nodes": [name]}
    result = to_half_precision(model, **{"keep_float32_ops": []} | kept)
    assert set(result.kept) == {name}
    assert (result.half_nodes, result.casts_inserted) == (2, 4)
    (node,) = plugin_nodes(result.model)
    assert {element_types(result.model)[name] for name in (*node.input, *node.output)} == {TensorProto.FLOAT}


def test_integers_of_a_plugin_stay() -> None:
    register_many()
    result = to_half_precision(export(Many(), ROWS, ROWS), keep_float32_ops=[])
    types = element_types(result.model)
    (node,) = plugin_nodes(result.model)
    assert [types[name] for name in node.output] == [TensorProto.FLOAT16, TensorProto.INT32]
    assert [types[output.name] for output in result.model.graph.output] == [TensorProto.INT64, TensorProto.FLOAT]


def test_plugin_without_float32_inputs_stays() -> None:
    model = plugin_graph(
        """(int64[4] x) => (float[4] y) <float[4] a> { [noise] a = TRT.Noise(x) y = Sin(a) }""",
    )
    assert "does not follow from its inputs" in to_half_precision(model, keep_float32_ops=[]).kept["noise"]


# optimize(), with twins of plugins on the CPU


def with_twins(model: onnx.ModelProto) -> onnx.ModelProto:
    """ONNX's own operator in the plugin's place."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for node in plugin_nodes(changed):
        slope = attributes_of(node)["neg_slope"]
        twin = helper.make_node("LeakyRelu", node.input, node.output, node.name, alpha=slope)
        node.CopyFrom(twin)
    return changed


class TwinBuilder(OpenVINOBuilder):
    """Engines for the CPU that pretend to have plugins."""

    def __init__(self, config: torch_trt_ext.Config) -> None:
        super().__init__(config)
        self.plugin_operators = registered_plugin_operators()
        self.sensitive: list[Mapping[str, str]] = []

    def refusals(self, model: onnx.ModelProto) -> Any:
        return super().refusals(with_twins(model))

    def build(self, model: Any, ranges: Any, precision: Any, sensitive: Mapping[str, str], what: str) -> Any:
        self.sensitive.append(sensitive)
        return super().build(model, ranges, precision, sensitive, what)

    def _build(self, model: onnx.ModelProto, *arguments: Any) -> EnginePlan:
        return super()._build(with_twins(model), *arguments)


@pytest.fixture
def twins(monkeypatch: pytest.MonkeyPatch) -> list[TwinBuilder]:
    """Makes optimize() build with twins; the builders it made."""
    made = []

    def make_builder(device_type: str, config: torch_trt_ext.Config) -> TwinBuilder:
        made.append(TwinBuilder(config))
        return made[-1]

    monkeypatch.setattr("torch_trt_ext.optimizer.optimize.make_builder", make_builder)
    monkeypatch.setattr(plugin_operators, "register_standard_plugins", lambda: None)
    return made


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.second(torch.ops.torch_trt_ext_plugin_tests.leaky(self.first(images), 0.25))


def reasons(report: Any) -> dict[str, str]:
    return {entry["node"]: entry["reason"] for entry in report["left_in_torch"]}


@pytest.mark.parametrize("form", ["scripted", "traced"])
def test_operator_is_in_the_engine(twins: list[TwinBuilder], form: str, tmp_path: Path) -> None:
    register_leaky()
    model = make(Network)
    given = torch.jit.script(model) if form == "scripted" else torch.jit.trace(model, (IMAGES,))
    optimized, spec, report = optimize(given, [(IMAGES,)])
    assert [engine["operators"] for engine in report["engines"]] == [3]
    assert report["left_in_torch"] == []
    assert_close(optimized(IMAGES), model(IMAGES))
    assert counters(optimized)[0]["fallbacks"] == 0
    assert (spec.plugin_libraries, spec.plugin_paths) == ([], [])
    # The operator itself is the fallback.
    torch.testing.assert_close(optimized(IMAGES[:1]), model(IMAGES[:1]))
    assert counters(optimized)[0]["fallbacks"] == 1
    torch.jit.save(optimized, str(tmp_path / "model.pt"))
    assert_close(torch.jit.load(str(tmp_path / "model.pt"))(IMAGES), model(IMAGES))


def test_argument_that_is_no_constant_leaves_its_node_in_torch(twins: list[TwinBuilder]) -> None:
    class Computed(nn.Module):
        def forward(self, x: Tensor, slope: float) -> Tensor:
            y = torch.ops.torch_trt_ext_plugin_tests.leaky(x + 1, slope)
            y = torch.ops.torch_trt_ext_plugin_tests.leaky(y * 2, 0.5) - 1
            return torch.ops.torch_trt_ext_plugin_tests.leaky(y, y.shape[0] * 0.125)

    register_leaky()
    config = quick_config()
    config.partition.min_block_size = 1
    model = Computed().eval()
    optimized, _, report = optimize(model, [(ROWS, 0.25)], config)
    left = reasons(report)
    assert set(left) == {f"{LEAKY}@0", f"{LEAKY}@2"}
    assert "computed in PyTorch" in left[f"{LEAKY}@0"]
    assert left[f"{LEAKY}@2"] == (
        "cannot be the plugin 'LeakyReLU': its argument 'negative_slope' must be a constant, since it is a field of "
        "the plugin, got a value of aten::mul"
    )
    assert_close(optimized(ROWS, 0.25), model(ROWS, 0.25))


def test_argument_that_the_loaded_operator_lacks_leaves_it_in_torch(twins: list[TwinBuilder]) -> None:
    operator = "torch_trt_ext_later_tests::leaky"
    register_plugin_operator(operator, "LeakyReLU", attributes={"neg_slope": "alpha"})
    library = torch.library.Library("torch_trt_ext_later_tests", "DEF")
    library.define("leaky(Tensor x, float negative_slope) -> Tensor")
    library.impl("leaky", leaky, "CompositeExplicitAutograd")

    class Later(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ops.torch_trt_ext_later_tests.leaky(x.exp().sin().cos(), 0.5)

    _, _, report = optimize(Later().eval(), [(ROWS,)])
    assert "it has no argument 'alpha'; its arguments are 'x', 'negative_slope'" in reasons(report)[f"{operator}@0"]


@pytest.mark.parametrize(("half", "precision", "kept"), [(True, "float16", 0), (False, "float16", 1)])
def test_plugin_is_in_half_as_registered(twins: list[TwinBuilder], half: bool, precision: str, kept: int) -> None:
    register_leaky(half=half)
    config = quick_config()
    config.precision.engine_precision = precision
    optimize(make(Network), [(IMAGES,)], config)
    (builder,) = twins
    assert list(builder.sensitive[0].values()) == ["is the plugin 'LeakyReLU', not registered as taking float16"] * kept


def test_plugin_takes_no_bfloat16(twins: list[TwinBuilder]) -> None:
    register_leaky(half=True)
    config = quick_config()
    config.precision.engine_precision = "bfloat16"
    optimize(make(Network), [(IMAGES,)], config)
    assert len(twins[0].sensitive[0]) == 1


def test_library_is_opened_when_a_model_has_the_operator(
    twins: list[TwinBuilder], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(runtime, "load_plugin_library", opened.append)
    library = tmp_path / "libmine.so"
    register_leaky(library=library)
    register_plugin_operator(MANY, "Many", library="libother.so")
    assert opened == []
    _, spec, _ = optimize(make(Network), [(IMAGES,)])
    assert opened == [str(library)]
    assert (spec.plugin_libraries, spec.plugin_paths) == (["libmine.so"], [str(library)])


def test_library_that_does_not_open_leaves_the_operator_in_torch(twins: list[TwinBuilder]) -> None:
    register_leaky(library="/nowhere/libmine.so")
    optimized, spec, report = optimize(make(Network), [(IMAGES,)])
    reason = reasons(report)[f"{LEAKY}@0"]
    assert reason.startswith("cannot be the plugin 'LeakyReLU': plugin library ")
    assert "/nowhere/libmine.so" in reason
    assert spec.plugin_libraries == []
    assert_close(optimized(IMAGES), make(Network)(IMAGES))


def test_the_cpu_has_no_plugins() -> None:
    register_leaky()
    register_plugin_operator("aten::relu", "FastRelu")
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), Leaky(), nn.Linear(4, 4)).eval()
    optimized, _, report = optimize(model, [(ROWS,)])
    assert reasons(report)[f"{LEAKY}@0"] == (
        f"has no ONNX form ({LEAKY}), and CPU engines no TensorRT plugins such as 'LeakyReLU'"
    )
    assert "aten::relu@0" not in reasons(report)
    assert len(engine_modules(optimized)) == 1
    assert_close(optimized(ROWS), model(ROWS))


# The cache


class KeptBuilder(TensorRTBuilder):
    """Builds nothing, and says what it would."""

    def _hardware(self) -> str:
        return "none"

    def _build(self, model: onnx.ModelProto, *_: Any) -> EnginePlan:
        return EnginePlan(model.SerializeToString(), "tensorrt", ("x",), ("y",), ("Float",), ("Float",))


def test_engine_in_the_cache_is_of_the_same_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_builder, "software_versions", lambda _: {})
    config = quick_config()
    config.cache.enabled = True
    config.cache.folder = str(tmp_path / "cache")
    library = tmp_path / "libmine.so"
    library.write_bytes(b"one")

    def is_cached(change: Callable[[], object] | None = None, **options: Any) -> bool:
        if change:
            change()
        register_leaky(**{"library": library} | options)
        built = KeptBuilder(config).build(export(Leaky(), ROWS), [], "float32", {}, "a subgraph")
        return built.from_cache

    assert not is_cached()
    assert is_cached()
    for options in ({"version": "2"}, {"namespace": "mine"}, {"attributes": {"slope": 1}}, {"attributes": {}}):
        assert not is_cached(**options)
        assert is_cached(**options)
    assert not is_cached(lambda: library.write_bytes(b"another"))
    assert is_cached()
    # Its place says nothing of what it is.
    (tmp_path / "moved").mkdir()
    assert is_cached(lambda: library.rename(tmp_path / "moved" / "libmine.so"), library=tmp_path / "moved/libmine.so")


# Errors


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "message"),
    [
        (("leaky", "P"), {}, ValueError, "operator must be a name such as 'torchvision::nms', got 'leaky'"),
        (("a::b.c", "P"), {}, ValueError, r"got 'a::b\.c'; overload names such as '\.int' are left out"),
        ((1, "P"), {}, TypeError, "operator must be a string, got int 1"),
        ((LEAKY, "my plugin"), {}, ValueError, "plugin must be a name of letters, digits and underscores"),
        ((LEAKY, "LeakyRelu"), {}, ValueError, "plugin must not be called as an operator of ONNX, got 'LeakyRelu'"),
        ((LEAKY, "P"), {"version": 1}, TypeError, "version must be a string, got int 1"),
        ((LEAKY, "P"), {"namespace": None}, TypeError, "namespace must be a string, got NoneType None"),
        ((LEAKY, "P"), {"half": 1}, TypeError, "half must be True or False, got int 1"),
        ((LEAKY, "P"), {"library": 1}, TypeError, "library must be a path or None, got int 1"),
        ((LEAKY, "P"), {"attributes": ["a"]}, TypeError, "attributes must be a dict of fields to arguments, got list"),
        ((LEAKY, "P"), {"attributes": {"a": 0.5}}, TypeError, r"names of the operator's arguments, got 'a': 0\.5"),
        ((LEAKY, "P"), {"attributes": {"a": True}}, TypeError, "got 'a': True"),
        ((LEAKY, "P"), {"attributes": {"a b": 1}}, ValueError, "names of the plugin's fields, got 'a b'"),
        ((LEAKY, "P"), {"attributes": {"plugin_version": 1}}, ValueError, "which TensorRT's parser reads itself"),
        (
            (LEAKY, "P"),
            {"attributes": {"a": "slope"}},
            ValueError,
            f"arguments of {LEAKY}, but it has no argument 'slo",
        ),
        (
            (LEAKY, "P"),
            {"attributes": {"a": 2}},
            ValueError,
            "it has no argument 2; its 2 arguments are counted from 0",
        ),
        ((LEAKY, "P"), {"attributes": {"a": -1}}, ValueError, "it has no argument -1"),
        ((LEAKY, "P"), {"attributes": {"a": "x"}}, ValueError, "its argument 'x' is a Tensor, and fields are numbers"),
    ],
)
def test_bad_registration_fails(
    arguments: tuple[Any, ...], options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        register_plugin_operator(*arguments, **options)
    assert registered_plugin_operators() == {}


def test_unregistering_what_is_not_registered_fails() -> None:
    with pytest.raises(ValueError, match=f"operator must be a registered one, got '{LEAKY}'"):
        unregister_plugin_operator(LEAKY)
