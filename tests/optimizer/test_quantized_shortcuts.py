"""What is added to 8-bit products is in 8 bits as well."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from benchmarks.peers import to_onnx
from torch_trt_ext.optimizer.quantization import Calibration, calibrate, quantizable_nodes, to_8_bit
from torch_trt_ext.optimizer.quantized_shortcuts import quantize_shortcuts

onnxruntime = pytest.importorskip("onnxruntime")
from onnxruntime.quantization.onnx_model import ONNXModel  # noqa: E402

SHAPE = (1, 8, 12, 12)


class Block(nn.Module):
    """A convolution whose output is added to something, an activation, another convolution."""

    def __init__(self, shortcut: str, activation: nn.Module | None = None, *, more: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.other = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.shortcut, self.more = shortcut, more
        self.activation = activation or nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = x.sigmoid()
        if self.shortcut == "product":
            x = self.first(x) + self.other(x)
        elif self.shortcut == "identity":
            x = self.first(x) + x
        elif self.shortcut == "pooled":
            x = nn.functional.max_pool2d(x, 3, 1, 1) + self.first(x)
        elif self.shortcut == "constant":
            x = self.first(x) + 0.5
        elif self.shortcut == "taken twice":
            x = self.first(x)
            x = (x + nn.functional.max_pool2d(x, 3, 1, 1)) * x
        x = self.activation(x)
        return self.last(x) if self.more else x


def quantized(block: nn.Module, keep: tuple[str, ...] = ()) -> tuple[onnx.ModelProto, onnx.ModelProto, Calibration]:
    model = to_onnx(block.eval(), (torch.zeros(SHAPE),), 1, None)
    for node in model.graph.node:
        node.name = node.name or node.output[0]
    calls = [
        {model.graph.input[0].name: np.random.default_rng(seed).standard_normal(SHAPE, np.float32)} for seed in range(8)
    ]
    calibration = calibrate(model, calls, "max")
    result = to_8_bit(model, calibration, keep=keep)
    onnx.checker.check_model(result)
    return model, result, calibration


def summands(model: onnx.ModelProto) -> list[list[str]]:
    """Operators that make each addition's inputs."""
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    return [[makers.get(name, "constant") for name in node.input] for node in model.graph.node if node.op_type == "Add"]


@pytest.mark.parametrize(
    ("shortcut", "expected"),
    [
        ("product", ["Conv", "DequantizeLinear"]),
        ("identity", ["Conv", "DequantizeLinear"]),
        ("pooled", ["DequantizeLinear", "Conv"]),
        ("constant", ["Conv", "constant"]),
        ("taken twice", ["Conv", "MaxPool"]),
    ],
)
def test_summand_of_a_product(shortcut: str, expected: list[str]) -> None:
    _, model, _ = quantized(Block(shortcut))
    assert summands(model) == [expected]


@pytest.mark.parametrize("activation", [nn.Identity(), nn.ReLU6(), nn.LeakyReLU()])
def test_activations_that_kernels_have_are_looked_through(activation: nn.Module) -> None:
    _, model, _ = quantized(Block("product", activation))
    assert summands(model) == [["Conv", "DequantizeLinear"]]


def test_sum_that_nothing_takes_in_8_bits_is_left_alone() -> None:
    _, model, _ = quantized(Block("product", more=False))
    assert summands(model) == [["Conv", "Conv"]]


def test_product_that_stays_in_16_bits_has_no_shortcut() -> None:
    block = Block("product")
    model = to_onnx(block.eval(), (torch.zeros(SHAPE),), 1, None)
    names = [node.name or node.output[0] for node in model.graph.node if node.op_type == "Conv"]
    _, model, _ = quantized(block, keep=tuple(names[:2]))
    assert summands(model) == [["Conv", "Conv"]]


@pytest.mark.parametrize("shortcut", ["product", "identity"])
def test_answers_stay(shortcut: str) -> None:
    plain, model, _ = quantized(Block(shortcut))
    x = np.random.default_rng(99).standard_normal(SHAPE, np.float32)
    answers: list[Any] = []
    for each in (plain, model):
        session = onnxruntime.InferenceSession(each.SerializeToString(), providers=["CPUExecutionProvider"])
        answers.append(session.run(None, {each.graph.input[0].name: x})[0])
    assert np.linalg.norm(answers[0] - answers[1]) < 0.05 * np.linalg.norm(answers[0])


def test_pair_of_a_tensor_is_used_again_and_unknown_ranges_are_left() -> None:
    plain, model, calibration = quantized(Block("product"))
    products = quantizable_nodes(plain)
    # Nothing is left to do.
    assert quantize_shortcuts(model.graph, products, calibration.reach()) == 0
    undone = onnx.ModelProto()
    undone.CopyFrom(model)
    makers = {node.output[0]: node for node in undone.graph.node}
    (addition,) = [node for node in undone.graph.node if node.op_type == "Add"]
    tensor = makers[makers[addition.input[1]].input[0]].input[0]
    addition.input[1] = tensor
    assert quantize_shortcuts(undone.graph, products, {}) == 1
    assert addition.input[1].endswith("_shortcut_dequantized")
    nodes = [node for node in model.graph.node if "shortcut" not in node.output[0]]
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.node[:]
    bare.graph.node.extend(nodes)
    kept = [constant for constant in model.graph.initializer if "shortcut" not in constant.name]
    del bare.graph.initializer[:]
    bare.graph.initializer.extend(kept)
    (addition,) = [node for node in bare.graph.node if node.op_type == "Add"]
    addition.input[1] = tensor
    assert quantize_shortcuts(bare.graph, products, {}) == 0
    assert quantize_shortcuts(bare.graph, products, {tensor: 2.0}) == 1
    onnx_model = ONNXModel(bare)
    onnx_model.topological_sort()
    onnx.checker.check_model(onnx_model.model)
