"""Loads the plugin library into TensorRT, builds a network of the plugin, and compares it with PyTorch. Needs a GPU.

python check.py build/libbeta_swish.so
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import tensorrt as trt
import torch

import torch_trt_ext


def build(dtype: torch.dtype, beta: float) -> bytes:
    """A plan of one ``BetaSwish`` on ``[1..8, 1..1000]``."""
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    types = {torch.float32: trt.float32, torch.float16: trt.float16}
    x = network.add_input("x", types[dtype], (-1, -1))
    creator = trt.get_plugin_registry().get_creator("BetaSwish", "1", "")
    fields = [trt.PluginField("beta", np.array([beta], np.float32), trt.PluginFieldType.FLOAT32)]
    plugin = creator.create_plugin("swish", trt.PluginFieldCollection(fields), trt.TensorRTPhase.BUILD)
    layer = network.add_plugin_v3([x], [], plugin)
    layer.get_output(0).name = "y"
    network.mark_output(layer.get_output(0))
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape("x", (1, 1), (4, 100), (8, 1000))
    config.add_optimization_profile(profile)
    return bytes(builder.build_serialized_network(network, config))


def main(library: str) -> None:
    """Raises an AssertionError unless the plugin's answers are PyTorch's."""
    registry: Any = trt.get_plugin_registry()
    assert registry.load_library(library) is not None, f"TensorRT could not load {library}"
    # So that models with the engine in them look for the library where they are loaded.
    torch_trt_ext.load_plugin_library(library)
    for dtype, word, tolerance in ((torch.float32, "Float", 1e-5), (torch.float16, "Half", 1e-3)):
        plan = build(dtype, beta=1.5)
        engine = torch_trt_ext.TRTEngineExtension(plan, (["x"], ["y"], [word], [word]))
        for shape in ((1, 1), (3, 333), (8, 1000)):
            x = torch.randn(shape, device="cuda").to(dtype)
            (y,) = engine.forward([x])
            want = x.float() * torch.sigmoid(1.5 * x.float())
            torch.testing.assert_close(y.float(), want, rtol=tolerance, atol=tolerance)
    print("BetaSwish agrees with PyTorch")


if __name__ == "__main__":
    main(sys.argv[1])
