"""TensorRT engines that run nowhere, for what holds of engines that cannot run."""

from __future__ import annotations

from typing import Any

import pytest

from torch_trt_ext import TRTEngineExtension, runtime
from torch_trt_ext.engine import IoNames

#: As a plan of TensorRT 10.6 begins; what it announces is not there.
PLAN = (b"ftrt" + bytes(4) + (64).to_bytes(8, "little") * 2 + bytes([10, 6, 0, 0])).ljust(128, b"\0")


def unrunnable_engine(io_names: IoNames = (["x"], ["y"], ["Float"], ["Float"])) -> Any:
    """An engine whose plan is no more than a header. Skips the test where TensorRT would refuse to make it."""
    if not runtime.available_backends()["tensorrt"]:
        pytest.skip("TensorRT runs here, and refuses what is no more than a header")
    return TRTEngineExtension(PLAN, io_names)
