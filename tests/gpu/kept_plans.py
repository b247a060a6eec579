"""The tests' small engines, built once where a folder is given.

TensorRT times thousands of kernels for a build. Under compute-sanitizer that takes longer than all tests together, so
``make sanitize-gpu`` builds them first, without it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch_trt_ext.builders import tensorrt_build


def build_plan(what: str, define: Callable[[Any, Any], Any], **options: Any) -> bytes:
    """As :func:`torch_trt_ext.builders.tensorrt_build.build_plan`, by way of the folder TORCH_TRT_EXT_TEST_PLANS.

    Args:
        what: the network in a few words, which no other of these has.
        define: adds its layers.
        options: of the build.
    """
    folder = os.environ.get("TORCH_TRT_EXT_TEST_PLANS")
    if not folder:
        return tensorrt_build.build_plan(what, define, **options)
    path = Path(folder) / (re.sub(r"\W+", "_", what) + ".plan")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tensorrt_build.build_plan(what, define, **options))
    return path.read_bytes()
