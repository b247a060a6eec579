"""Modules that C++ made, as Python's ScriptModules, and those that optimize() put into a model."""

from __future__ import annotations

from typing import Any

import torch

#: Part of the type names of modules that optimize() put into a model.
_OWN_MODULES = "torch_trt_ext.optimizer.engine_module."


def wrap(module: Any) -> torch.jit.ScriptModule:
    """The ScriptModule for a C++ module of ``torch_trt_ext._C``."""
    script: torch.jit.ScriptModule = torch.jit._recursive.wrap_cpp_module(module)  # type: ignore[no-untyped-call]
    return script


def modules_with_engine(script: torch.jit.ScriptModule) -> dict[str, torch.jit.ScriptModule]:
    """The modules with an engine that optimize() put into a model, by their paths."""
    modules: list[tuple[str, Any]] = list(script.named_modules())
    return {
        path: module
        for path, module in modules
        if _OWN_MODULES in str(module._c._type().qualified_name()) and module._c.hasattr("engine")
    }
