"""What the user gives as a model, and the frozen TorchScript that optimize() works on."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from typing import Any, Literal

import torch

from torch_trt_ext import _C
from torch_trt_ext.optimizer.messages import first_line
from torch_trt_ext.optimizer.script_module import wrap
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
        return ModelInput(_load(os.fspath(model), device), "torch_script", os.path.basename(model))
    if not isinstance(model, torch.nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module, a ScriptModule or the path of a saved one, got {type(model).__name__}"
        )
    _check_mode(model, "call model.eval() before optimize()")
    if isinstance(model, torch.jit.ScriptModule):
        return ModelInput(_on_device(model, device), "torch_script", "unnamed.pt")
    script, remarks = _to_script(_on_device(model, device), example, prefer)
    return ModelInput(script, "torch_module", "unnamed.pt", remarks)


def load_script(path: str, device: torch.device) -> torch.jit.ScriptModule:
    """Reads a file of ``torch.jit.save``.

    Args:
        path: of the file.
        device: where the model goes.

    Raises:
        FileNotFoundError: there is no such file.
        RuntimeError: the file is no TorchScript, or has operators that are not loaded.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"model must be the path of a TorchScript file, but there is no file at {path!r}")
    try:
        script: torch.jit.ScriptModule = torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        if "Unknown builtin op" in first_line(error):
            raise RuntimeError(
                f"model {path!r} must have its operators registered before it is loaded, got: {first_line(error)} "
                "Import the package that has them, as torchvision, or open their library with torch.ops.load_library"
            ) from error
        raise RuntimeError(
            f"model must be the path of a TorchScript file, as torch.jit.save writes it, but {path!r} cannot be read "
            f"as one: {first_line(error)}. A file of torch.save holds a module or weights: load it yourself, and give "
            "the module"
        ) from error
    return script


def _load(path: str, device: torch.device) -> torch.jit.ScriptModule:
    script = load_script(path, device)
    _check_mode(script, "load the file, call eval(), and give the module or save it again")
    return script


def _check_mode(model: torch.nn.Module, remedy: str) -> None:
    # Frozen modules have no mode. The mode of a trace whose root was never told is of no consequence, and PAI-Blade's
    # tutorial makes such a one.
    if getattr(model, "training", False) and _depends_on_mode(model):
        raise ValueError(f"model must be in evaluation mode, got training mode; {remedy}")


def _depends_on_mode(model: torch.nn.Module) -> bool:
    if not isinstance(model, torch.jit.ScriptModule):
        return True
    graph: Any = model.inlined_graph
    return any(node.s("name") == "training" for node in graph.findAllNodes("prim::GetAttr"))


def _on_device(model: Any, device: torch.device) -> Any:
    tensors = [*model.parameters(), *model.buffers()]
    if all(tensor.device == device for tensor in tensors):
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
            example_inputs = detach_clone(example)
            return torch.jit.trace(  # type: ignore[no-untyped-call]
                copy.deepcopy(module), example_inputs, check_trace=False, strict=False
            )

    ways = {"script": script, "trace": trace}
    order = [prefer, *(way for way in ways if way != prefer)]
    failures = []
    for way in order:
        try:
            result = ways[way]()
        except Exception as error:  # torch.jit raises whatever the model's code does
            failures.append(f"torch.jit.{way}: {first_line(error)}")
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


def argument_names(script: torch.jit.ScriptModule) -> list[str]:
    """What ``forward`` calls its arguments, without ``self``."""
    module: Any = script._c
    return [argument.name for argument in module._get_method("forward").schema.arguments[1:]]


def copy_script(script: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """A copy whose tensors share memory with each other where the original's do, which ``copy.deepcopy`` undoes.

    Convolutions of traced code follow ``torch.backends.cudnn`` in it, as those of scripted code do.
    """
    # A file in memory: torch writes to Python's buffers five times as slowly.
    with open(os.memfd_create("model"), "rb") as file:
        path = f"/proc/self/fd/{file.fileno()}"
        try:
            torch.jit.save(script, path)
        except RuntimeError:
            # What calls back into Python cannot be saved.
            return copy.deepcopy(script)
        duplicate: torch.jit.ScriptModule = torch.jit.load(path)  # type: ignore[no-untyped-call]
    _C.untie_traced_convolutions(duplicate._c)
    return duplicate


#: Torch's passes that put what follows a layer, such as normalization, into its weights. Each says whether it did.
_FOLDS = (
    torch._C._jit_pass_fold_frozen_conv_bn,
    torch._C._jit_pass_fold_frozen_conv_add_or_sub,
    torch._C._jit_pass_fold_frozen_conv_mul_or_div,
    torch._C._jit_pass_fold_frozen_linear_bn,  # type: ignore[attr-defined]
)


def freeze(script: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """A frozen copy: inlined, weights as constants, batch normalization folded into convolutions.

    Attributes that the model writes to stay attributes. The given module is not changed. Unlike ``torch.jit.freeze``
    this does not join linear layers that have the same input, as that does on a GPU: what they give are views of one
    tensor then, and operators that write to these in place stay out of engines.
    """
    duplicate = copy_script(script)
    if not hasattr(duplicate, "training"):
        # Frozen already: it has no mode any more.
        return duplicate
    frozen = wrap(torch._C._freeze_module(duplicate.eval()._c, []))
    torch._C._jit_pass_remove_dropout(frozen._c)
    while any(fold(frozen.graph) for fold in _FOLDS):
        pass
    return frozen
