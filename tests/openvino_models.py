"""Small OpenVINO engines for tests of what all engines share."""

from __future__ import annotations

import functools
from typing import Any

import openvino as ov
import torch
from openvino import opset13
from torch import Tensor

from torch_trt_ext import OpenVINOEngineExtension
from torch_trt_ext.builders.openvino_model import plan_from_model
from torch_trt_ext.engine_plan import EnginePlan
from torch_trt_ext.optimizer.engine_module import EngineOrSubgraph


@functools.cache
def affine_plan() -> EnginePlan:
    """y = 2 x + 1 on ``x`` float32 ``[1..8, 3]``."""
    x = opset13.parameter(ov.PartialShape([ov.Dimension(1, 8), 3]), ov.Type.f32, name="x")
    x.output(0).set_names({"x"})
    y = opset13.add(opset13.multiply(x, opset13.constant(2.0, ov.Type.f32)), opset13.constant(1.0, ov.Type.f32))
    y.output(0).set_names({"y"})
    return plan_from_model(ov.Model([opset13.result(y)], [x], "affine"))


@functools.cache
def two_way_plan() -> EnginePlan:
    """first = 2 a, second = b + 1, on ``a`` float32 ``[n, 2]`` and ``b`` int32 ``[n]``; plan order: b, a."""
    a = opset13.parameter([-1, 2], ov.Type.f32, name="a")
    b = opset13.parameter([-1], ov.Type.i32, name="b")
    a.output(0).set_names({"a"})
    b.output(0).set_names({"b"})
    first = opset13.multiply(a, opset13.constant(2.0, ov.Type.f32))
    second = opset13.add(b, opset13.constant(1, ov.Type.i32))
    first.output(0).set_names({"first"})
    second.output(0).set_names({"second"})
    return plan_from_model(ov.Model([opset13.result(second), opset13.result(first)], [b, a], "two_way"))


def affine_engine() -> Any:
    """An engine of :func:`affine_plan`."""
    return OpenVINOEngineExtension(affine_plan().data, affine_plan().io_spec)


def engine_or_shape(subgraph: torch.nn.Module, *, data: int, shape: int) -> EngineOrSubgraph:
    """:func:`affine_engine` on the first of two inputs, beside what it does not do.

    Args:
        subgraph: what the two inputs are given to where the engine cannot take them.
        data: which of the outputs is the engine's.
        shape: which of them has the second input's shape, 4, and no more.
    """
    return EngineOrSubgraph(
        affine_engine(),
        torch.jit.script(subgraph),
        engine_inputs=[0],
        other_inputs=[1],
        other_shapes=[[4]],
        other_like=[torch.zeros(1)],
        data_outputs=[data],
        shape_outputs=[shape],
        shapes=[[4]],
        like=[torch.zeros(1)],
    )


class EngineModule(torch.nn.Module):
    """A module that holds an engine of one input and one output."""

    def __init__(self, engine: object) -> None:
        super().__init__()
        self.engine = engine

    def forward(self, x: Tensor) -> Tensor:
        outputs: list[Tensor] = self.engine.forward([x])
        return outputs[0]
