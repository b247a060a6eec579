"""Makes the file of an optimized model smaller; the command is ``torch-trt-ext strip``.

``optimize()`` keeps beside each engine the subgraph that it replaced, weights included, for inputs and machines that
the engine does not take. A file for one kind of machine and for known shapes can do without.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from torch_trt_ext.saved_file import drop_attribute, save

__all__ = ["Stripped", "drop_fallback"]

# What the classes with a fallback do without it, in the words that torch.jit.save prints. EngineWithSubgraph becomes
# EngineOnly for all inputs; EngineOrSubgraph also gives the outputs that are no more than a shape, and must itself
# refuse what its engine does not see.
_FORWARDS = {
    "EngineWithSubgraph": """\
  def forward(self, inputs: List[Tensor]) -> List[Tensor]:
    engine = self.engine
    return (engine).forward(inputs, )
""",
    "EngineOrSubgraph": """\
  def forward(self, inputs: List[Tensor]) -> List[Tensor]:
    other_inputs = self.other_inputs
    other_shapes = self.other_shapes
    other_like = self.other_like
    for index in range(torch.len(other_inputs)):
      position = other_inputs[index]
      given_input = inputs[position]
      like = other_like[index]
      fits = torch.eq(torch.list(torch.size(given_input)), other_shapes[index])
      same_dtype = torch.eq(ops.prim.dtype(given_input), ops.prim.dtype(like))
      same_device = torch.eq(ops.prim.device(given_input), ops.prim.device(like))
      if torch.__and__(torch.__and__(fits, same_dtype), same_device):
        pass
      else:
        wanted = "input {} of a subgraph must have the shape {} and the dtype and device that its engine was made for, "
        got = "got shape {}; pass such a tensor, or use the file with the fallback"
        shape = torch.list(torch.size(given_input))
        message = torch.format(torch.add(wanted, got), position, other_shapes[index], shape)
        ops.prim.RaiseException(message, "builtins.ValueError")
    given = annotate(List[Tensor], [])
    engine_inputs = self.engine_inputs
    for index in range(torch.len(engine_inputs)):
      _0 = torch.append(given, inputs[engine_inputs[index]])
    engine = self.engine
    results = (engine).forward(given, )
    outputs = annotate(List[Tensor], [])
    data_outputs = self.data_outputs
    shape_outputs = self.shape_outputs
    for index in range(torch.add(torch.len(data_outputs), torch.len(shape_outputs))):
      _1 = torch.append(outputs, results[0])
    for index in range(torch.len(data_outputs)):
      _2 = torch._set_item(outputs, data_outputs[index], results[index])
    all_like = self.like
    shapes = self.shapes
    for index in range(torch.len(shape_outputs)):
      _3 = torch._set_item(outputs, shape_outputs[index], torch.expand(all_like[index], shapes[index]))
    return outputs
""",
}


@dataclass(frozen=True)
class Stripped:
    """What :func:`drop_fallback` did.

    Attributes:
        fallbacks: how many kinds of engine modules lost their fallback.
        bytes_before: size of the file as it was.
        bytes_after: size of the file that was written.
    """

    fallbacks: int
    bytes_before: int
    bytes_after: int

    def __str__(self) -> str:
        gone = self.bytes_before - self.bytes_after
        return (
            f"dropped {self.fallbacks} fallback{'s' * (self.fallbacks != 1)}: {self.bytes_before:,} bytes became "
            f"{self.bytes_after:,}, {gone:,} fewer"
        )


def drop_fallback(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> Stripped:
    """Writes a model without the subgraphs that its engines replaced.

    What an engine of the new file cannot take is an error that says what it takes, as with
    ``Config.keep_fallback = False``. Everything else stays as it is, extra files included.

    Args:
        source: a file that ``torch.jit.save`` wrote of an optimized model.
        target: the file to write; it may be ``source``.

    Returns:
        What was dropped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no TorchScript file, or holds no engine with a fallback.
        RuntimeError: torch cannot load it here; a model that was saved on a GPU needs one.
    """
    source, target = Path(source), Path(target)
    edited = drop_attribute(source, "subgraph", _FORWARDS)
    if edited.classes == 0:
        raise ValueError(
            f"model {source} must hold engines with a fallback, got none; it was made with Config.keep_fallback = "
            "False, stripped already, or not by optimize()"
        )
    try:
        model, extra_files = edited.load()
    except RuntimeError as error:
        raise RuntimeError(
            f"model {source} must load on this machine to be stripped, got: {error}; a model that was saved on a "
            "GPU is stripped on a machine with one"
        ) from error
    bytes_before = source.stat().st_size
    return Stripped(edited.classes, bytes_before, save(model, target, extra_files))
