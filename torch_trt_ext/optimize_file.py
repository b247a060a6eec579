"""``optimize()`` from one file to another; the command is ``torch-trt-ext optimize``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch_trt_ext.optimizer.opt_spec import OptSpec
from torch_trt_ext.optimizer.optimize import optimize
from torch_trt_ext.optimizer.report import Report
from torch_trt_ext.saved_file import check_target, extra_files_of, save

__all__ = ["optimize_file"]


def optimize_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    optimization_level: str = "o1",
    device_type: str = "gpu",
    **arguments: Any,
) -> tuple[OptSpec, Report]:
    """Writes a saved model with engines; a model that gains nothing is written as it was. Extra files stay.

    Args:
        source: a file that ``torch.jit.save`` wrote.
        target: the file to write; it may be ``source``.
        optimization_level: as :func:`torch_trt_ext.optimizer.optimize.optimize` takes it.
        device_type: likewise.
        arguments: all other arguments of ``optimize()``.

    Returns:
        What ``optimize()`` returns beside the model.

    Raises:
        FileNotFoundError: there is no such file, or no such folder for the target.
        TypeError: as ``optimize()`` raises it.
        ValueError: as ``optimize()`` raises it, or the source is no TorchScript file.
        RuntimeError: as ``optimize()`` raises it.
    """
    source, target = Path(source), Path(target)
    check_target(target)
    extra_files = extra_files_of(source)
    optimized, opt_spec, report = optimize(source, optimization_level, device_type, **arguments)
    save(optimized, target, extra_files)
    return opt_spec, report
