"""What stands in a model in place of a subgraph: an engine, and the subgraph itself for when the engine cannot run."""

from typing import Any

import torch
from torch import Tensor

# torch.jit.script reads annotations as they are written here: no `from __future__ import annotations`.


class EngineOrSubgraph(torch.nn.Module):
    """Runs the engine where it can take the inputs, else the subgraph that it replaced.

    ``engine.counters()`` says how often each ran.

    Args:
        engine: an object of one of the engine classes.
        subgraph: a ScriptModule whose ``forward(List[Tensor]) -> List[Tensor]`` does the same.
        engine_inputs: which of the inputs the engine takes, in its order.
        other_inputs: the inputs that the engine does not take, since its subgraph reads no more of them than their
            shape, dtype and device, which it was made for.
        other_shapes: these shapes, one for each of ``other_inputs``.
        other_like: a tensor of the dtype and on the device of each of ``other_inputs``.
        data_outputs: which of the outputs the engine gives, in its order.
        shape_outputs: the outputs of which the model reads no more than the shape.
        shapes: these shapes, one for each of ``shape_outputs``.
        like: a tensor with one element for each of ``shape_outputs``, of its dtype, on the model's device.
    """

    def __init__(
        self,
        engine: Any,
        subgraph: torch.nn.Module,
        engine_inputs: list[int],
        other_inputs: list[int],
        other_shapes: list[list[int]],
        other_like: list[Tensor],
        data_outputs: list[int],
        shape_outputs: list[int],
        shapes: list[list[int]],
        like: list[Tensor],
    ):
        super().__init__()
        self.engine = engine
        self.subgraph = subgraph
        self.engine_inputs = torch.jit.Attribute(engine_inputs, list[int])
        self.other_inputs = torch.jit.Attribute(other_inputs, list[int])
        self.other_shapes = torch.jit.Attribute(other_shapes, list[list[int]])
        self.other_like = torch.jit.Attribute(other_like, list[Tensor])
        self.data_outputs = torch.jit.Attribute(data_outputs, list[int])
        self.shape_outputs = torch.jit.Attribute(shape_outputs, list[int])
        self.shapes = torch.jit.Attribute(shapes, list[list[int]])
        self.like = torch.jit.Attribute(like, list[Tensor])

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        fits = True
        for index, position in enumerate(self.other_inputs):
            given_input, like = inputs[position], self.other_like[index]
            if list(given_input.shape) != self.other_shapes[index]:
                fits = False
            if given_input.dtype != like.dtype or given_input.device != like.device:
                fits = False
        given: list[Tensor] = []
        for position in self.engine_inputs:
            given.append(inputs[position])
        if fits and self.engine.can_run_with(given):
            results = self.engine.forward(given)
            outputs: list[Tensor] = []
            for _ in range(len(self.data_outputs) + len(self.shape_outputs)):
                outputs.append(results[0])
            for index, position in enumerate(self.data_outputs):
                outputs[position] = results[index]
            for index, position in enumerate(self.shape_outputs):
                outputs[position] = self.like[index].expand(self.shapes[index])
            return outputs
        self.engine.count_fallback()
        return self.subgraph(inputs)


class EngineWithSubgraph(torch.nn.Module):
    """:class:`EngineOrSubgraph` for the usual case that the engine takes all inputs and gives all outputs."""

    def __init__(self, engine: Any, subgraph: torch.nn.Module):
        super().__init__()
        self.engine = engine
        self.subgraph = subgraph

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        if self.engine.can_run_with(inputs):
            return self.engine.forward(inputs)
        self.engine.count_fallback()
        return self.subgraph(inputs)


class EngineOnly(torch.nn.Module):
    """An engine without its subgraph: inputs that it cannot take are an error that says what it takes.

    Args:
        engine: an object of one of the engine classes.
        engine_inputs: which of the inputs the engine takes, in its order.
    """

    def __init__(self, engine: Any, engine_inputs: list[int]):
        super().__init__()
        self.engine = engine
        self.engine_inputs = torch.jit.Attribute(engine_inputs, list[int])

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        given: list[Tensor] = []
        for position in self.engine_inputs:
            given.append(inputs[position])
        return self.engine.forward(given)


class RecordingSubgraph(torch.nn.Module):
    """Records the inputs of each call under a number of a session of ``torch_trt_ext._C``, then runs the subgraph."""

    def __init__(self, subgraph: torch.nn.Module, session: int, number: int):
        super().__init__()
        self.subgraph = subgraph
        self.session = session
        self.number = number

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        torch.ops.torch_trt_ext_passes.record(inputs, self.session, self.number)
        return self.subgraph(inputs)
