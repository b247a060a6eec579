"""An engine called by other torch classes, as peers of ``benchmarks/bench_runtime.py``."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torch_trt_ext import EnginePlan


def compile_naive_engine() -> Any:
    """The class of benchmarks/naive_engine.cpp, compiled at the first call on a machine."""
    from torch.utils.cpp_extension import load

    headers = importlib.util.find_spec("kernel_lens")
    folders = (
        [str(Path(next(iter(headers.submodule_search_locations or []))) / "include" / "tensorrt")] if headers else []
    )
    root = os.environ.get("TENSORRT_ROOT")
    if root:
        folders.append(f"{root}/include")
    load(
        "naive_engine",
        [str(Path(__file__).with_name("naive_engine.cpp"))],
        extra_include_paths=folders,
        extra_ldflags=([f"-L{root}"] if root else []) + ["-lnvinfer"],
        with_cuda=True,
        is_python_module=False,
    )
    return torch.classes.naive_engine.NaiveEngine


def torch_tensorrt_call(plan: EnginePlan, *, graphs: bool = False) -> Callable[[list[Tensor]], list[Tensor]]:
    """An engine called by Torch-TensorRT's runtime library, the way that its compiled modules call theirs.

    Its Python package is not imported, which wants TensorRT's newest; its library takes any plan that TensorRT takes.

    Args:
        plan: one that uses no plugins.
        graphs: whether that library is to record CUDA graphs, of all its engines from now on.

    Raises:
        ImportError: Torch-TensorRT is not installed.
        OSError: its library does not load with the TensorRT that is there.
    """
    found = importlib.util.find_spec("torch_tensorrt")
    if found is None or not found.submodule_search_locations:
        raise ImportError("Torch-TensorRT is not installed")
    torch.ops.load_library(str(Path(found.submodule_search_locations[0]) / "lib" / "libtorchtrt_runtime.so"))
    ops = torch.ops.tensorrt
    device = torch.cuda.get_device_properties(torch.cuda.current_device())
    bindings = ops.SERIALIZED_ENGINE_BINDING_DELIM()[0]
    state: list[Any] = ["0"] * ops.SERIALIZATION_LEN()
    state[ops.ABI_TARGET_IDX()] = ops.ABI_VERSION()
    state[ops.NAME_IDX()] = "peer"
    state[ops.DEVICE_IDX()] = ops.SERIALIZED_RT_DEVICE_DELIM()[0].join(
        str(part) for part in (torch.cuda.current_device(), device.major, device.minor, 0, device.name)
    )
    state[ops.ENGINE_IDX()] = plan.data
    state[ops.INPUT_BINDING_NAMES_IDX()] = bindings.join(plan.input_names)
    state[ops.OUTPUT_BINDING_NAMES_IDX()] = bindings.join(plan.output_names)
    state[ops.SERIALIZED_METADATA_IDX()] = ""
    state[ops.TARGET_PLATFORM_IDX()] = ops.get_current_platform()
    engine = torch.classes.tensorrt.Engine(state)
    ops.set_cudagraphs_mode(1 if graphs else 0)

    def call(inputs: list[Tensor]) -> list[Tensor]:
        outputs: list[Tensor] = ops.execute_engine(inputs, engine)
        return outputs

    return call
