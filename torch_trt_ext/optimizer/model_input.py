"""What the user gives as a model, and the frozen TorchScript that optimize() works on."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from typing import Any, Literal

import torch

from torch_trt_ext.optimizer.structures import detach_clone

InputFormat = Literal["torch_script", "torch_module"]


@dataclass(frozen=True)
class ModelInput:
    """A model as the user gave it.

    Attributes:
        script: the model in TorchScript; the user's own object when that is what came, so nothing may change it.
        input_format: what came.
        name: of its file, without the folder; "unnamed.pt" when it came as an object.
        remarks: what the user should know about how it became TorchScript.
    """

    script: torch.jit.ScriptModule
    input_format: InputFormat
    name: str
    remarks: tuple[str, ...] = ()


def read_model(model: Any, device: torch.device, example: tuple[Any, ...] | None, prefer: str) -> ModelInput:
    """Takes a module, a scripted or traced one, or the path of a saved one.

    Args:
        model: a ``torch.nn.Module``, a ``torch.jit.ScriptModule``, or the path of a file of ``torch.jit.save``.
        device: where it shall run. A module that lives elsewhere is copied there.
        example: arguments to trace a module with; without them it can only be scripted.
        prefer: "script" or "trace", what is tried first for a module that is not TorchScript yet.

    Raises:
        TypeError: it is none of these.
        ValueError: it is in training mode, or can be neither scripted nor traced.
        FileNotFoundError: there is no such file.
        RuntimeError: the file is no TorchScript.
    """
    if isinstance(model, (str, os.PathLike)):
        path = os.fspath(model)
        if not os.path.exists(path):
            raise FileNotFoundError(f"model must be the path of a TorchScript file, but there is none at {path!r}")
        return ModelInput(torch.jit.load(path, map_location=device), "torch_script", os.path.basename(path))
    if not isinstance(model, torch.nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module, a ScriptModule or the path of a saved one, got {type(model).__name__}"
        )
    if getattr(model, "training", False):
        raise ValueError("model must be in evaluation mode, got training mode; call model.eval() before optimize()")
    if isinstance(model, torch.jit.ScriptModule):
        return ModelInput(_on_device(model, device), "torch_script", "unnamed.pt")
    script, remarks = _to_script(_on_device(model, device), example, prefer)
    return ModelInput(script, "torch_module", "unnamed.pt", remarks)


def _on_device(model: Any, device: torch.device) -> Any:
    tensors = [*model.parameters(), *model.buffers()]
    if all(tensor.device.type == device.type for tensor in tensors):
        return model
    return copy.deepcopy(model).to(device)


def _to_script(
    module: torch.nn.Module, example: tuple[Any, ...] | None, prefer: str
) -> tuple[torch.jit.ScriptModule, tuple[str, ...]]:
    def script() -> Any:
        return torch.jit.script(copy.deepcopy(module))

    def trace() -> Any:
        if example is None:
            raise ValueError("tracing needs test_data or input_shapes")
        with torch.no_grad():
            return torch.jit.trace(copy.deepcopy(module), detach_clone(example), check_trace=False, strict=False)

    ways = {"script": script, "trace": trace}
    order = [prefer, *(way for way in ways if way != prefer)]
    failures = []
    for way in order:
        try:
            result = ways[way]()
        except Exception as error:  # torch.jit raises whatever the model's code does
            failures.append(f"torch.jit.{way}: {_first_line(error)}")
            continue
        remarks = tuple(f"{failure}; so it was {way}d" for failure in failures)
        if way == "trace":
            remarks += ("traced: control flow is fixed as the first item of test_data took it",)
        return result.eval(), remarks
    raise ValueError(
        "model must be scriptable or traceable, but both failed: "
        + "; ".join(failures)
        + ". Mend one of the two, or give a ScriptModule"
    )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def argument_names(script: torch.jit.ScriptModule) -> list[str]:
    """What ``forward`` calls its arguments, without ``self``."""
    return [argument.name for argument in script._c._get_method("forward").schema.arguments[1:]]  # type: ignore[attr-defined]


def freeze(script: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """A frozen copy: inlined, weights as constants, batch normalization folded into convolutions.

    Attributes that the model writes to stay attributes. The given module is not changed.
    """
    duplicate = copy.deepcopy(script)
    if hasattr(duplicate, "training"):
        return torch.jit.freeze(duplicate.eval())
    # Frozen already: it has no mode any more.
    return duplicate
