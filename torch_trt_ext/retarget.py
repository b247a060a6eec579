"""Rebuilds the engines of a saved model for this machine: ``python -m torch_trt_ext.retarget model.pt -o out.pt``.

``optimize()`` keeps beside each engine the subgraph that it replaced, weights included. From these comes the model as
it was before, and engines for another kind of machine than the one that the file was made on.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from torch_trt_ext.config import Config
from torch_trt_ext.optimizer.engine_builder import make_builder
from torch_trt_ext.optimizer.messages import first_line
from torch_trt_ext.optimizer.optimize import optimize
from torch_trt_ext.optimizer.report import Report
from torch_trt_ext.optimizer.script_module import modules_with_engine, wrap
from torch_trt_ext.saved_file import ExtraFiles, drop_attribute, save

__all__ = ["restore", "retarget"]

# In the words that torch.jit.save prints.
_FORWARD = """\
  def forward(self, inputs: List[Tensor]) -> List[Tensor]:
    subgraph = self.subgraph
    return (subgraph).forward(inputs, )
"""

_ENGINE_CLASS = re.compile(r"__torch__\.torch\.classes\.(torch_trt_ext|torch_addons)\.(TRT|OpenVINO)EngineExtension")

_SHAPES = re.compile(r"\d+(x\d+)*(,\d+(x\d+)*)*")


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
    if not target.parent.is_dir():
        raise FileNotFoundError(f"target must be in a folder that is there, got {target}; make {target.parent} first")
    # Says what is missing, where torch would only say that it finds no GPU.
    make_builder("gpu" if device_type == "gpu" else "cpu", Config())
    device = torch.device("cuda", torch.cuda.current_device()) if device_type == "gpu" else torch.device("cpu")
    model, extra_files = _restore(source, device)
    for label, engine in _engines(model):
        if not engine.can_run():
            raise RuntimeError(
                f"model {source} must run on this machine for its new engines to be verified, but {label}, which was "
                f"in it before optimize(), cannot run here: {engine.why_not()}; put an engine for this machine into "
                "the model that was optimized, and optimize that"
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


def _engines(model: torch.jit.ScriptModule) -> Iterator[tuple[str, Any]]:
    """The engines that a model runs, each with words for it."""
    graph: Any = model.inlined_graph
    for node in [*graph.findAllNodes("prim::GetAttr"), *graph.findAllNodes("prim::Constant")]:
        kind = node.output().type()
        if kind.kind() != "ClassType" or not _ENGINE_CLASS.fullmatch(kind.qualified_name()):
            continue
        if node.kind() == "prim::Constant":
            engine = node.ival("value")
            input_names, output_names, _, _ = engine.io_names()
            name = f"{engine.name()!r} " if engine.name() else ""
            yield f"the engine {name}from {', '.join(input_names)} to {', '.join(output_names)}", engine
            continue
        path: list[str] = []
        while node.kind() == "prim::GetAttr":
            path.insert(0, node.s("name"))
            node = node.input().node()
        # What is no attribute of the model's is not made yet.
        if node.kind() == "prim::Param":
            yield f"the engine {'.'.join(path)!r}", functools.reduce(getattr, path, model)


def _shapes_argument(text: str) -> list[str]:
    if not _SHAPES.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"must be a shape such as 1x3x224x224, or several with commas between, got {text!r}"
        )
    return text.replace("x", "*").split(",")


def _shape_sets(shapes: list[list[str]]) -> list[list[str]]:
    """From the shapes of each input tensor to those of each call."""
    calls = max(len(of_one) for of_one in shapes)
    if any(len(of_one) not in (1, calls) for of_one in shapes):
        raise ValueError(
            "each --input must list one shape, or as many as the others, got "
            f"{', '.join(str(len(of_one)) for of_one in shapes)}"
        )
    return [[of_one[call % len(of_one)] for of_one in shapes] for call in range(calls)]


def _summary(target: Path, report: Report) -> str:
    engines = len(report["engines"])
    if engines == 0:
        return f"{target}: no engines, {report['diagnosis']['message']}"
    overall = report["overall"]
    return (
        f"{target}: {engines} engine{'s' * (engines != 1)}, a call takes {overall['optimized']} instead of "
        f"{overall['baseline']}"
    )


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m torch_trt_ext.retarget", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("model", type=Path, help="file of an optimized model")
    parser.add_argument("-o", "--output", type=Path, required=True, help="file to write")
    parser.add_argument("--device", choices=["gpu", "cpu"], default="gpu", help="what to build engines for")
    parser.add_argument(
        "--input",
        type=_shapes_argument,
        action="append",
        required=True,
        metavar="SHAPE[,SHAPE...]",
        help="of one input tensor, 1x3x224x224; once for each, in forward's order; several for engines that take all "
        "shapes between: 1x3x224x224,8x3x224x224",
    )
    parser.add_argument(
        "--range",
        action="append",
        metavar="RANGE",
        help="values of one input tensor, once for each: '[0.0, 1.0]' for float32, '[0, 255]' for int64; without, "
        "float32 in [0, 1)",
    )
    parser.add_argument("--json", action="store_true", help="print the report of optimize()")
    options = parser.parse_args(arguments)
    try:
        report = retarget(
            options.model,
            options.output,
            options.device,
            input_shapes=_shape_sets(options.input),
            input_ranges=[options.range] if options.range else None,
        )
    except (OSError, RuntimeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(report if options.json else _summary(options.output, report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
