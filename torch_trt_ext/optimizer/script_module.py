"""Modules that C++ made, as Python's ScriptModules."""

from __future__ import annotations

from typing import Any

import torch


def wrap(module: Any) -> torch.jit.ScriptModule:
    """The ScriptModule for a C++ module of ``torch_trt_ext._C``."""
    script: torch.jit.ScriptModule = torch.jit._recursive.wrap_cpp_module(module)  # type: ignore[no-untyped-call]
    return script
