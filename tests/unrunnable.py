"""TensorRT engines that run nowhere, for what holds of engines that cannot run."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from torch_trt_ext import TRTEngineExtension, runtime
from torch_trt_ext.engine import IoNames

#: As a plan of TensorRT 10.6 begins; what it announces is zeros.
PLAN = struct.pack("<4s12xQ4s", b"ftrt", 128, bytes([10, 6, 0, 26])).ljust(128, b"\0")


def unrunnable_engine(io_names: IoNames = (["x"], ["y"], ["Float"], ["Float"])) -> Any:
    """An engine whose plan is no more than a header. Skips the test where TensorRT would refuse to make it."""
    if not runtime.available_backends()["tensorrt"]:
        pytest.skip("TensorRT runs here, and refuses what is no more than a header")
    return TRTEngineExtension(PLAN, io_names)
