"""The networks of this example, each layer added by hand: with TensorRT's network API, and with OpenVINO's."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from examples.leaky_network.model import NEG_SLOPE, NUM_CLASSES, SIDE, LeakyLeNet
from torch_trt_ext.builders.openvino_model import import_openvino, plan_from_model
from torch_trt_ext.builders.tensorrt_build import build_plan, create_plugin, float_field
from torch_trt_ext.runtime import load_plugins

#: Images of a call: the fewest, what TensorRT tunes for, the most.
BATCHES = (1, 8, 64)

#: What the seed's network of one layer takes.
ONE_LAYER_SHAPE = (1, 1)

_POOL = 2

Weights = dict[str, NDArray[np.float32]]


def _weights(model: LeakyLeNet) -> Weights:
    return {name: value.detach().cpu().numpy() for name, value in model.named_parameters()}


def _mark_output(network: Any, tensor: Any) -> None:
    tensor.name = "outputs"
    network.mark_output(tensor)


def _leaky_relu(network: Any, tensor: Any) -> Any:
    """Adds the package's plugin, as the seed adds ``LReLU_TRT``."""
    plugin = create_plugin("LeakyReLU", [float_field("neg_slope", NEG_SLOPE)], library=str(load_plugins()))
    return network.add_plugin_v3([tensor], [], plugin).get_output(0)


def one_layer_by_tensorrt() -> bytes:
    """A plan of the plugin alone, from "input_layer" to "outputs"."""

    def define(trt: Any, network: Any) -> dict[str, Any]:
        _mark_output(network, _leaky_relu(network, network.add_input("input_layer", trt.float32, ONE_LAYER_SHAPE)))
        return {"input_layer": (ONE_LAYER_SHAPE,) * 3}

    return build_plan("a network of one leaky ReLU", define)


def lenet_by_tensorrt(model: LeakyLeNet) -> bytes:
    """A plan of LeNet-5 for the current GPU, for :data:`BATCHES`, from "input_1" to "outputs"."""
    # TensorRT reads the arrays when it builds.
    weights = _weights(model)

    def define(trt: Any, network: Any) -> dict[str, Any]:
        x = network.add_input("input_1", trt.float32, (-1, 1, SIDE, SIDE))
        for name in ("conv1", "conv2"):
            kernel = weights[f"{name}.weight"]
            layer = network.add_convolution_nd(x, len(kernel), kernel.shape[2:], kernel, weights[f"{name}.bias"])
            layer.name = name
            layer = network.add_pooling_nd(
                _leaky_relu(network, layer.get_output(0)), trt.PoolingType.MAX, (_POOL, _POOL)
            )
            layer.stride_nd = (_POOL, _POOL)
            x = layer.get_output(0)
        flat = network.add_shuffle(x)
        flat.reshape_dims = (0, -1)
        x = _leaky_relu(network, _fully_connected(trt, network, flat.get_output(0), "fc1", weights))
        softmax = network.add_softmax(_fully_connected(trt, network, x, "fc2", weights))
        softmax.axes = 1 << 1
        _mark_output(network, softmax.get_output(0))
        return {"input_1": tuple((batch, 1, SIDE, SIDE) for batch in BATCHES)}

    return build_plan("LeNet-5 with leaky ReLUs", define, tf32=False)


def _fully_connected(trt: Any, network: Any, x: Any, name: str, weights: Weights) -> Any:
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    matrix = network.add_constant(weight.shape, weight).get_output(0)
    product = network.add_matrix_multiply(x, trt.MatrixOperation.NONE, matrix, trt.MatrixOperation.TRANSPOSE)
    product.name = name
    offset = network.add_constant((1, len(bias)), bias).get_output(0)
    return network.add_elementwise(product.get_output(0), offset, trt.ElementWiseOperation.SUM).get_output(0)


def _openvino_plan(parameter: Any, output: Any, name: str) -> bytes:
    openvino = import_openvino()
    output.get_tensor().set_names({"outputs"})
    return plan_from_model(openvino.Model([output.get_node()], [parameter], name)).data


def _parameter(name: str, shape: list[Any]) -> Any:
    openvino = import_openvino()
    parameter = openvino.opset13.parameter(openvino.PartialShape(shape), openvino.Type.f32, name)
    parameter.output(0).get_tensor().set_names({name})
    return parameter


def _prelu(x: Any) -> Any:
    return import_openvino().opset13.prelu(x, np.array([NEG_SLOPE], np.float32))


def one_layer_by_openvino() -> bytes:
    """The same network of one layer for the CPU, without a plugin: OpenVINO has the operation."""
    parameter = _parameter("input_layer", list(ONE_LAYER_SHAPE))
    return _openvino_plan(parameter, _prelu(parameter).output(0), "leaky_relu")


def lenet_by_openvino(model: LeakyLeNet) -> bytes:
    """The same LeNet-5 for the CPU."""
    openvino = import_openvino()
    ops: Any = openvino.opset13
    weights = _weights(model)
    parameter = _parameter("input_1", [openvino.Dimension(BATCHES[0], BATCHES[-1]), 1, SIDE, SIDE])
    x = parameter
    for name in ("conv1", "conv2"):
        x = ops.convolution(x, weights[f"{name}.weight"], [1, 1], [0, 0], [0, 0], [1, 1])
        x = _prelu(ops.add(x, weights[f"{name}.bias"].reshape(1, -1, 1, 1)))
        x = ops.max_pool(x, [_POOL, _POOL], [1, 1], [0, 0], [0, 0], [_POOL, _POOL]).output(0)
    x = ops.reshape(x, np.array([0, -1]), special_zero=True)
    x = _prelu(ops.add(ops.matmul(x, weights["fc1.weight"], False, True), weights["fc1.bias"]))
    x = ops.add(ops.matmul(x, weights["fc2.weight"], False, True), weights["fc2.bias"].reshape(1, NUM_CLASSES))
    return _openvino_plan(parameter, ops.softmax(x, 1).output(0), "leaky_lenet")
