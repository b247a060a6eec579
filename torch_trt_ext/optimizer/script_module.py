"""Modules that C++ made, as Python's ScriptModules, and the engines in a model."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any

import torch

#: Part of the type names of modules that optimize() put into a model.
_OWN_MODULES = "torch_trt_ext.optimizer.engine_module."

_ENGINE_CLASS = re.compile(r"__torch__\.torch\.classes\.(torch_trt_ext|torch_addons)\.(TRT|OpenVINO)EngineExtension")


@dataclass(frozen=True)
class FoundEngine:
    """An engine in a model.

    Attributes:
        path: of the attribute that holds it, as ``post.engine``; empty where freezing made it a constant.
        engine: the object.
        backend: "tensorrt" or "openvino".
        module: what optimize() put into the model to hold it; None for an engine of the user's own.
    """

    path: str
    engine: Any
    backend: str
    module: torch.jit.ScriptModule | None

    @property
    def label(self) -> str:
        """Words for messages: "the engine 'post.engine'"."""
        if self.path:
            return f"the engine {self.path!r}"
        input_names, output_names, _, _ = self.engine.io_names()
        name = f"{self.engine.name()!r} " if self.engine.name() else ""
        return f"the engine {name}from {', '.join(input_names)} to {', '.join(output_names)}"


def wrap(module: Any) -> torch.jit.ScriptModule:
    """The ScriptModule for a C++ module of ``torch_trt_ext._C``."""
    script: torch.jit.ScriptModule = torch.jit._recursive.wrap_cpp_module(module)  # type: ignore[no-untyped-call]
    return script


def modules_with_engine(script: torch.jit.ScriptModule) -> dict[str, torch.jit.ScriptModule]:
    """The modules with an engine that optimize() put into a model, by their paths."""
    modules: list[tuple[str, Any]] = list(script.named_modules())
    return {path: module for path, module in modules if _is_own(module) and module._c.hasattr("engine")}


def find_engines(script: torch.jit.ScriptModule) -> list[FoundEngine]:
    """The engines that the methods of a model and of its modules use, those that optimize() did not build included."""
    found: dict[str, FoundEngine] = {}
    constants: list[FoundEngine] = []
    modules: list[tuple[str, Any]] = list(script.named_modules())
    for module_path, module in modules:
        graphs: list[Any] = [module._c._get_method(method).graph for method in module._c._method_names()]
        for node in (node for graph in graphs for node in _nodes_with_engine(graph)):
            backend = "tensorrt" if ".TRT" in node.output().type().qualified_name() else "openvino"
            if node.kind() == "prim::Constant":
                constants.append(FoundEngine("", node.ival("value"), backend, None))
                continue
            attributes = attributes_to(node)
            path = ".".join(filter(None, [module_path, *attributes]))
            # What is no attribute of the module's is not made yet.
            if attributes and path not in found:
                holder: Any = functools.reduce(getattr, attributes[:-1], module)
                own = holder if _is_own(holder) else None
                found[path] = FoundEngine(path, getattr(holder, attributes[-1]), backend, own)
    return [*found.values(), *constants]


def _is_own(module: Any) -> bool:
    return _OWN_MODULES in str(module._c._type().qualified_name())


def _nodes_with_engine(graph: Any) -> list[Any]:
    nodes = [*graph.findAllNodes("prim::GetAttr"), *graph.findAllNodes("prim::Constant")]
    kinds = [(node, node.output().type()) for node in nodes]
    return [
        node for node, kind in kinds if kind.kind() == "ClassType" and _ENGINE_CLASS.fullmatch(kind.qualified_name())
    ]


def attributes_to(node: Any) -> list[str]:
    """The attributes through which a node reaches its value from its module; empty where it does not start there."""
    path: list[str] = []
    while node.kind() == "prim::GetAttr":
        path.insert(0, node.s("name"))
        node = node.input().node()
    return path if node.kind() == "prim::Param" else []
