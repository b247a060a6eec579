"""Rebuilds the engines of a saved model for this machine; the command is ``torch-trt-ext retarget``.

``optimize()`` keeps beside each engine the subgraph that it replaced, weights included. From these comes the model as
it was before, and engines for another kind of machine than the one that the file was made on.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from torch_trt_ext.config import Config
from torch_trt_ext.optimizer.engine_builder import make_builder
from torch_trt_ext.optimizer.messages import first_line
from torch_trt_ext.optimizer.optimize import optimize
from torch_trt_ext.optimizer.report import Report
from torch_trt_ext.optimizer.script_module import find_engines, modules_with_engine, wrap
from torch_trt_ext.saved_file import ExtraFiles, check_target, drop_attribute, save

__all__ = ["restore", "retarget"]

# In the words that torch.jit.save prints.
_FORWARD = """\
  def forward(self, inputs: List[Tensor]) -> List[Tensor]:
    subgraph = self.subgraph
    return (subgraph).forward(inputs, )
"""


def restore(source: str | os.PathLike[str], map_location: torch.device | str | None = None) -> torch.jit.ScriptModule:
    """Gives back the model that ``optimize()`` put engines into, in PyTorch alone and frozen.

    Engines that were in the model before ``optimize()`` stay.

    Args:
        source: a file that ``torch.jit.save`` wrote of an optimized model.
        map_location: where the model shall run, such as ``"cpu"`` or ``"cuda:0"``: its tensors, and the devices on
            which its code makes new ones. None leaves it where it was saved.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no TorchScript file, holds no engine of ``optimize()``'s, or one without its subgraph.
        RuntimeError: torch cannot load it here.
    """
    return _restore(Path(source), None if map_location is None else torch.device(map_location))[0]


def retarget(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    device_type: str = "gpu",
    test_data: Sequence[tuple[Any, ...]] = (),
    input_shapes: Sequence[Any] | None = None,
    input_ranges: Sequence[Any] | None = None,
    inputs: Sequence[str] | None = None,
    config: Config | None = None,
    verbose: bool = False,
) -> Report:
    """Writes an optimized model with engines for this machine, whatever machine its file was made on.

    The model is restored from the file (:func:`restore`) and goes through
    :func:`torch_trt_ext.optimizer.optimize.optimize` with all its checks: a model that gains nothing here is written
    without engines, and the report says so. Extra files stay.

    Args:
        source: a file that ``torch.jit.save`` wrote of an optimized model. Custom operators in it must be loaded.
        target: the file to write; it may be ``source``.
        device_type: "gpu" for TensorRT engines on the current CUDA device, "cpu" for OpenVINO engines.
        test_data: as ``optimize()`` takes it.
        input_shapes: as ``optimize()`` takes it; this or ``test_data`` must be given.
        input_ranges: as ``optimize()`` takes it.
        inputs: as ``optimize()`` takes it.
        config: as ``optimize()`` takes it.
        verbose: say on stderr what is being done.

    Returns:
        What ``optimize()`` reports.

    Raises:
        FileNotFoundError: there is no such file, or no such folder for the target.
        TypeError: an argument is of the wrong kind.
        ValueError: the file is not of an optimized model with fallbacks; neither test data nor shapes; a wrong device.
        RuntimeError: engines for the device cannot be built here, torch cannot load the file, or it holds an engine of
            the user's own that cannot run here.
    """
    source, target = Path(source), Path(target)
    # A tensor by mistake has no truth value; optimize() says what it should be.
    if len(test_data) == 0 and not input_shapes:
        raise ValueError(
            "retarget() needs something to run the model on, to verify the new engines: give test_data=[(images,)], a "
            'list of tuples of arguments, or input_shapes=[["1*3*224*224"]], one string for each input tensor'
        )
    if device_type not in ("gpu", "cpu"):
        raise ValueError(
            f"device_type must be 'gpu' (TensorRT on the current CUDA device) or 'cpu' (OpenVINO), got {device_type!r}"
        )
    check_target(target)
    # Says what is missing, where torch would only say that it finds no GPU.
    make_builder("gpu" if device_type == "gpu" else "cpu", Config())
    device = torch.device("cuda", torch.cuda.current_device()) if device_type == "gpu" else torch.device("cpu")
    model, extra_files = _restore(source, device)
    for found in find_engines(model):
        if not found.engine.can_run():
            raise RuntimeError(
                f"model {source} must run on this machine for its new engines to be verified, but {found.label}, which "
                f"was in it before optimize(), cannot run here: {found.engine.why_not()}; put an engine for this "
                "machine into the model that was optimized, and optimize that"
            )
    optimized, _, report = optimize(
        model,
        "o1",
        device_type,
        config=config,
        inputs=inputs,
        input_shapes=input_shapes,
        input_ranges=input_ranges,
        test_data=test_data,
        verbose=verbose,
    )
    report["diagnosis"]["model"] = source.name
    save(optimized, target, extra_files)
    return report


def _restore(source: Path, device: torch.device | None) -> tuple[torch.jit.ScriptModule, ExtraFiles]:
    forwards = dict.fromkeys(("EngineOrSubgraph", "EngineWithSubgraph"), _FORWARD)
    edited = drop_attribute(source, "engine", forwards, device)
    try:
        model, extra_files = edited.load(device)
    except RuntimeError as error:
        raise RuntimeError(
            f"model {source} must load on this machine to be restored, got: {first_line(error)}; without a "
            "GPU, a model that was saved on one loads with map_location='cpu'"
        ) from error
    bare = list(modules_with_engine(model))
    if bare:
        raise ValueError(
            f"model {source} must have beside each engine the subgraph that it replaced, but {len(bare)} "
            f"{'has' if len(bare) == 1 else 'have'} none: {', '.join(bare)}; it was made with Config.keep_fallback = "
            "False or stripped, so give the model that was optimized to optimize()"
        )
    if edited.classes == 0:
        raise ValueError(
            f"model {source} must hold engines that optimize() built, got none; give it to optimize() to get some"
        )
    # optimize() froze the model before it put modules into it, and a frozen model is not frozen again.
    if not hasattr(model, "training"):
        model = wrap(torch._C._freeze_module(model._c))
    return model, extra_files
