"""Small TensorRT networks with a plain PyTorch twin."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.gpu.kept_plans import build_plan

#: Sizes of the smallest, the tuned and the largest batch and side.
SIDES = ((1, 3, 4, 4), (2, 3, 16, 16), (8, 3, 64, 64))


def constant(network: Any, value: float, rank: int, dtype: type = np.float32) -> Any:
    return network.add_constant((1,) * rank, np.full((1,) * rank, value, dtype=dtype)).get_output(0)


def affine(trt: Any, network: Any, tensor: Any, scale: float, shift: float, dtype: type = np.float32) -> Any:
    rank = len(tensor.shape)
    product = network.add_elementwise(tensor, constant(network, scale, rank, dtype), trt.ElementWiseOperation.PROD)
    total = network.add_elementwise(
        product.get_output(0), constant(network, shift, rank, dtype), trt.ElementWiseOperation.SUM
    )
    return total.get_output(0)


@functools.cache
def affine_plan() -> bytes:
    """y = 2 x + 1 on ``[1..8, 3, 4..64, 4..64]``, float32."""

    def define(trt: Any, network: Any) -> dict[str, Any]:
        x = network.add_input("x", trt.float32, (-1, 3, -1, -1))
        y = affine(trt, network, x, 2, 1)
        y.name = "y"
        network.mark_output(y)
        return {"x": SIDES}

    return build_plan("an affine network", define)


@functools.cache
def two_way_plan() -> bytes:
    """first = 2 a, second = b + 1, on ``a`` float32 ``[1..4, 2]`` and ``b`` float16 ``[1..4]``; plan order: b, a."""

    def define(trt: Any, network: Any) -> dict[str, Any]:
        b = network.add_input("b", trt.float16, (-1,))
        a = network.add_input("a", trt.float32, (-1, 2))
        second = affine(trt, network, b, 1, 1, np.float16)
        first = affine(trt, network, a, 2, 0)
        second.name, first.name = "second", "first"
        network.mark_output(second)
        network.mark_output(first)
        return {"a": ((1, 2), (2, 2), (4, 2)), "b": ((1,), (2,), (4,))}

    return build_plan("a network of two inputs", define)


@functools.cache
def integer_plan() -> bytes:
    """y = x + 1 on int32 ``[1..8]``."""

    def define(trt: Any, network: Any) -> dict[str, Any]:
        x = network.add_input("x", trt.int32, (-1,))
        y = network.add_elementwise(x, constant(network, 1, 1, np.int32), trt.ElementWiseOperation.SUM).get_output(0)
        y.name = "y"
        network.mark_output(y)
        return {"x": ((1,), (4,), (8,))}

    return build_plan("an integer network", define)


@functools.cache
def nonzero_plan() -> bytes:
    """The indices of what is not zero, ``[2, count]``: a shape that only the data tells."""

    def define(trt: Any, network: Any) -> dict[str, Any]:
        x = network.add_input("x", trt.float32, (-1, 5))
        indices = network.add_non_zero(x).get_output(0)
        indices.name = "indices"
        network.mark_output(indices)
        return {"x": ((1, 5), (4, 5), (64, 5))}

    return build_plan("a nonzero network", define)


@functools.cache
def nonzero_sum_plan() -> bytes:
    """The sums of the indices of what is not zero, ``[2]``: a shape inside that only the data tells."""

    def define(trt: Any, network: Any) -> dict[str, Any]:
        x = network.add_input("x", trt.float32, (-1, 5))
        indices = network.add_cast(network.add_non_zero(x).get_output(0), trt.float32).get_output(0)
        sums = network.add_reduce(indices, trt.ReduceOperation.SUM, 1 << 1, False).get_output(0)
        sums.name = "sums"
        network.mark_output(sums)
        return {"x": ((1, 5), (4, 5), (64, 5))}

    return build_plan("a network with a nonzero inside", define)


@functools.cache
def two_profile_plan() -> bytes:
    """y = 2 x + 1 on ``[n, 4]``: profile 0 takes n in 1..64, profile 1 only 2."""

    def define(trt: Any, network: Any) -> list[dict[str, Any]]:
        x = network.add_input("x", trt.float32, (-1, 4))
        y = affine(trt, network, x, 2, 1)
        y.name = "y"
        network.mark_output(y)
        return [{"x": ((1, 4), (8, 4), (64, 4))}, {"x": ((2, 4), (2, 4), (2, 4))}]

    return build_plan("a network of two profiles", define)


#: TensorRT may use TF32 for float32 convolutions, as torch does by default: ten bits of mantissa.
CONVOLUTION_TOLERANCE = 2e-2


class ConvolutionTwin(torch.nn.Module):
    """What :func:`convolution_plan` computes."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        sizes = [(16, 3), (32, 16), (8, 32)]
        self.weights = torch.nn.ParameterList(
            torch.randn(out, inner, 3, 3, generator=generator) / (3 * inner**0.5) for out, inner in sizes
        )

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.weights:
            x = torch.nn.functional.conv2d(x, weight, padding=1).relu()
        return x


@functools.cache
def convolution_plan() -> bytes:
    """Three convolutions with ReLU, which need activation memory."""
    weights = [weight.detach().numpy() for weight in ConvolutionTwin().weights]

    def define(trt: Any, network: Any) -> dict[str, Any]:
        tensor = network.add_input("x", trt.float32, (-1, 3, -1, -1))
        for weight in weights:
            layer = network.add_convolution_nd(tensor, weight.shape[0], (3, 3), trt.Weights(weight), trt.Weights())
            layer.padding_nd = (1, 1)
            tensor = network.add_activation(layer.get_output(0), trt.ActivationType.RELU).get_output(0)
        tensor.name = "y"
        network.mark_output(tensor)
        return {"x": SIDES}

    return build_plan("a convolution network", define)


#: Features of :class:`ProductTwin`: weights of 16 MiB, since TensorRT does not stream small ones.
FEATURES = 2048


class ProductTwin(torch.nn.Module):
    """What :func:`streaming_plan` computes."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weights = torch.nn.ParameterList(
            torch.randn(FEATURES, FEATURES, generator=generator) / FEATURES**0.5 for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.weights:
            x = (x @ weight).relu()
        return x


@functools.cache
def streaming_plan() -> bytes:
    """Two matrix products with ReLU on ``[1..64, FEATURES]``, whose weights need not stay on the GPU."""
    weights = [weight.detach().numpy() for weight in ProductTwin().weights]

    def define(trt: Any, network: Any) -> dict[str, Any]:
        tensor = network.add_input("x", trt.float32, (-1, FEATURES))
        for weight in weights:
            factor = network.add_constant(weight.shape, trt.Weights(weight)).get_output(0)
            plain = trt.MatrixOperation.NONE
            product = network.add_matrix_multiply(tensor, plain, factor, plain).get_output(0)
            tensor = network.add_activation(product, trt.ActivationType.RELU).get_output(0)
        tensor.name = "y"
        network.mark_output(tensor)
        return {"x": ((1, FEATURES), (8, FEATURES), (64, FEATURES))}

    return build_plan("a network of products", define, weight_streaming=True)
