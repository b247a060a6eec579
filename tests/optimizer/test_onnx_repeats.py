"""Constants that are the same for every item of a batch are written once."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

import torch_trt_ext
from torch_trt_ext.optimizer.engine_builder import OpenVINOBuilder
from torch_trt_ext.optimizer.onnx_repeats import cut_repeats

FLOAT = onnx.TensorProto.FLOAT


def model_of(
    nodes: list[onnx.NodeProto],
    constants: dict[str, NDArray[np.generic]],
    outputs: tuple[str, ...] = ("y",),
    batch: int | str = 3,
) -> onnx.ModelProto:
    """A model of an input ``x`` of shape [batch, 2, 4]."""
    made = [
        helper.make_node("Constant", [], [name], name=name, value=numpy_helper.from_array(value))
        for name, value in constants.items()
    ]
    graph = helper.make_graph(
        made + nodes,
        "graph",
        [helper.make_tensor_value_info("x", FLOAT, [batch, 2, 4])],
        [onnx.ValueInfoProto(name=name) for name in outputs],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def dims_of(model: onnx.ModelProto, name: str) -> list[int]:
    (node,) = [node for node in model.graph.node if node.output[0] == name]
    return list(node.attribute[0].t.dims)


def answers(model: onnx.ModelProto) -> list[NDArray[np.generic]]:
    x = np.random.default_rng(0).normal(size=(3, 2, 4)).astype(np.float32)
    return list(ReferenceEvaluator(model).run(None, {"x": x}))


def repeated(*tail: int) -> NDArray[np.float32]:
    one = np.arange(np.prod(tail), dtype=np.float32).reshape(1, *tail)
    return np.repeat(one, 3, axis=0)


def check_same(model: onnx.ModelProto, cut: onnx.ModelProto) -> None:
    for before, after in zip(answers(model), answers(cut), strict=True):
        assert before.shape == after.shape
        assert (before == after).all()


def test_what_is_added_to_a_batch_is_cut_to_one_item() -> None:
    model = model_of([helper.make_node("Add", ["x", "c"], ["y"])], {"c": repeated(2, 4)})
    cut = cut_repeats(model)
    assert dims_of(cut, "c") == [1, 2, 4]
    # The model that was given keeps what it had.
    assert dims_of(model, "c") == [3, 2, 4]
    check_same(model, cut)


def test_masks_are_cut_also_where_they_are_broadcast_in_other_dimensions() -> None:
    mask = np.repeat(np.array([[[True, False, True, True]]]), 3, axis=0)
    nodes = [helper.make_node("Where", ["mask", "x", "low"], ["y"])]
    model = model_of(nodes, {"mask": mask, "low": np.array(-np.inf, dtype=np.float32)})
    cut = cut_repeats(model)
    assert dims_of(cut, "mask") == [1, 1, 4]
    check_same(model, cut)


def test_a_batch_may_come_second() -> None:
    sequence = np.repeat(np.arange(12, dtype=np.float32).reshape(3, 1, 4), 2, axis=1)
    model = model_of([helper.make_node("Add", ["x", "c"], ["y"])], {"c": sequence})
    cut = cut_repeats(model)
    assert dims_of(cut, "c") == [3, 1, 4]
    check_same(model, cut)
    # Queries for each item, and the same for each place.
    everywhere = np.broadcast_to(np.arange(4, dtype=np.float32), (3, 2, 4))
    model = model_of([helper.make_node("Add", ["x", "c"], ["y"])], {"c": everywhere})
    cut = cut_repeats(model)
    assert dims_of(cut, "c") == [1, 1, 4]
    check_same(model, cut)


def test_other_dimensions_may_be_open() -> None:
    value = helper.make_tensor_value_info("x", FLOAT, [3, 2, "n"])
    model = model_of([helper.make_node("Add", ["x", "c"], ["y"])], {"c": np.array([[[1.0], [2.0]]] * 3, np.float32)})
    model.graph.input[0].CopyFrom(value)
    cut = cut_repeats(model)
    assert dims_of(cut, "c") == [1, 2, 1]
    check_same(model, cut)


def test_one_number_for_each_channel_stays() -> None:
    # What is looked for as a bias; [3, 1, 1] is no batch's beside [3, 2, 4] either.
    nodes = [helper.make_node("Mul", ["x", "scale"], ["y"])]
    for scale in (np.ones((1, 2, 1), np.float32), np.ones((3, 1, 1), np.float32)):
        assert dims_of(cut_repeats(model_of(nodes, {"scale": scale})), "scale") == list(scale.shape)


def test_not_a_number_is_the_same_as_itself() -> None:
    model = model_of([helper.make_node("Add", ["x", "c"], ["y"])], {"c": np.full((3, 2, 4), np.nan, np.float32)})
    assert dims_of(cut_repeats(model), "c") == [1, 1, 4]


@pytest.mark.parametrize("batch", ["n", 3])
def test_what_nothing_else_repeats_stays(batch: int | str) -> None:
    # With an open batch nobody says that there are three items; a constant beside a constant repeats nothing.
    nodes = [helper.make_node("Add", ["x", "c"], ["y"]), helper.make_node("Mul", ["d", "s"], ["z"])]
    constants = {"c": repeated(2, 4), "d": repeated(2, 4), "s": np.array(2, dtype=np.float32)}
    cut = cut_repeats(model_of(nodes, constants, ("y", "z"), batch))
    assert dims_of(cut, "c") == ([3, 2, 4] if batch == "n" else [1, 2, 4])
    assert dims_of(cut, "d") == [3, 2, 4]


def test_what_differs_between_items_stays() -> None:
    values = repeated(2, 4)
    values[2, 1, 3] += 1
    # 0 and -0 are equal, and yet not the same.
    zeros = np.zeros((3, 2, 4), np.float32)
    zeros[1, 0] = -0.0
    nodes = [helper.make_node("Add", ["x", "c"], ["s"]), helper.make_node("Div", ["s", "z"], ["y"])]
    cut = cut_repeats(model_of(nodes, {"c": values, "z": zeros}))
    assert dims_of(cut, "c") == dims_of(cut, "z") == [3, 2, 4]


def test_weights_and_what_others_read_stay() -> None:
    # [2, 4] beside [3, 2, 4] is no batch; a product reads all of its weight; an output is given as it is.
    nodes = [
        helper.make_node("Add", ["x", "bias"], ["s"]),
        helper.make_node("Add", ["s", "shared"], ["t"]),
        helper.make_node("Concat", ["t", "shared"], ["u"], axis=1),
        helper.make_node("Add", ["u", "given"], ["v"]),
        helper.make_node("MatMul", ["v", "weight"], ["y"]),
    ]
    constants = {
        "bias": np.ones((2, 4), np.float32),
        "shared": repeated(2, 4),
        "given": repeated(4, 4),
        "weight": np.ones((3, 4, 5), np.float32),
    }
    model = model_of(nodes, constants, ("y", "given"))
    cut = cut_repeats(model)
    assert [dims_of(cut, name) for name in constants] == [[2, 4], [3, 2, 4], [3, 4, 4], [3, 4, 5]]
    check_same(model, cut)


def test_what_a_graph_within_a_node_reads_stays() -> None:
    branches = {
        word: helper.make_graph(
            [helper.make_node("Identity", ["c"], [word])], word, [], [onnx.ValueInfoProto(name=word)]
        )
        for word in ("then", "else")
    }
    nodes = [
        helper.make_node("If", ["yes"], ["all"], then_branch=branches["then"], else_branch=branches["else"]),
        helper.make_node("Add", ["x", "c"], ["y"]),
    ]
    cut = cut_repeats(model_of(nodes, {"c": repeated(2, 4), "yes": np.array(True)}, ("y", "all")))
    assert dims_of(cut, "c") == [3, 2, 4]


class Queries(nn.Module):
    """As DETR's decoder: layers that add the same to a batch before products with weights."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, 10, 16))
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        queries = self.queries.repeat(x.shape[0], 1, 1)
        for layer in self.layers:
            x = torch.tanh(layer(x + queries)) + layer(x)
        return x


def test_batched_model_answers_right(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    constants: list[list[int]] = []
    real = OpenVINOBuilder.build

    def build(self: Any, model: onnx.ModelProto, *args: Any) -> Any:
        nodes = [node for node in model.graph.node if node.op_type == "Constant"]
        constants.extend(list(node.attribute[0].t.dims) for node in nodes)
        return real(self, model, *args)

    monkeypatch.setattr(OpenVINOBuilder, "build", build)
    torch.manual_seed(0)
    model, x = Queries().eval(), torch.randn(4, 10, 16)
    config = torch_trt_ext.Config()
    config.precision.engine_precision = "float32"
    config.timing.compare = False
    optimized, _, report = torch_trt_ext.optimize(model, "o1", "cpu", config=config, test_data=[(x,)])
    assert len(report["engines"]) == 1
    assert [shape for shape in constants if len(shape) == 3] == [[1, 10, 16]] * 4
    torch.testing.assert_close(optimized(x), model(x), rtol=1e-4, atol=1e-5)
