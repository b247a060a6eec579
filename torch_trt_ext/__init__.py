"""One TorchScript file that mixes PyTorch with TensorRT.

Importing the package registers the engine classes with torch (:mod:`torch_trt_ext.runtime`). Everything else is
imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from torch_trt_ext import runtime
from torch_trt_ext.version import __version__

if TYPE_CHECKING:
    from torch_trt_ext.builders.retinanet import build_retinanet_decode
    from torch_trt_ext.config import Config
    from torch_trt_ext.engine import EngineModule, OpenVINOEngineExtension, TRTEngineExtension, engine_call
    from torch_trt_ext.engine_plan import EnginePlan
    from torch_trt_ext.optimizer.opt_spec import OptSpec
    from torch_trt_ext.optimizer.optimize import optimize
    from torch_trt_ext.optimizer.plugin_operators import register_plugin_operator, unregister_plugin_operator
    from torch_trt_ext.optimizer.report import Report
    from torch_trt_ext.runtime import load_plugin_library

__all__ = [
    "Config",
    "EngineModule",
    "EnginePlan",
    "OpenVINOEngineExtension",
    "OptSpec",
    "Report",
    "TRTEngineExtension",
    "__version__",
    "build_retinanet_decode",
    "engine_call",
    "load_plugin_library",
    "optimize",
    "register_plugin_operator",
    "runtime",
    "unregister_plugin_operator",
]

_HOME = {
    "Config": "torch_trt_ext.config",
    "EngineModule": "torch_trt_ext.engine",
    "EnginePlan": "torch_trt_ext.engine_plan",
    "OpenVINOEngineExtension": "torch_trt_ext.engine",
    "OptSpec": "torch_trt_ext.optimizer.opt_spec",
    "Report": "torch_trt_ext.optimizer.report",
    "TRTEngineExtension": "torch_trt_ext.engine",
    "build_retinanet_decode": "torch_trt_ext.builders.retinanet",
    "engine_call": "torch_trt_ext.engine",
    "load_plugin_library": "torch_trt_ext.runtime",
    "optimize": "torch_trt_ext.optimizer.optimize",
    "register_plugin_operator": "torch_trt_ext.optimizer.plugin_operators",
    "unregister_plugin_operator": "torch_trt_ext.optimizer.plugin_operators",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
