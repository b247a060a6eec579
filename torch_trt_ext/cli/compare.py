"""``torch-trt-ext compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from torch_trt_ext.cli.answer import DIFFERENT, Answer, answers, table
from torch_trt_ext.cli.model_inputs import ModelInputs, input_options
from torch_trt_ext.cli.options import loading_options, run_device_option, torch_device
from torch_trt_ext.comparison import compare_models
from torch_trt_ext.config import AccuracyConfig
from torch_trt_ext.optimizer.accuracy import OutputError
from torch_trt_ext.optimizer.model_input import read_model
from torch_trt_ext.optimizer.structures import describe


@click.command()
@click.argument("expected", type=click.Path(path_type=Path))
@click.argument("actual", type=click.Path(path_type=Path))
@run_device_option
@input_options
@click.option(
    "--tolerance",
    default=AccuracyConfig().max_model_relative_error,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Largest relative error of an output; more is exit status 3.",
)
@click.option(
    "--detections",
    metavar="NAMES",
    help="What the outputs are where they are a detector's in a tuple, as scores,boxes,labels: they are matched then. "
    "Dicts of torchvision's detectors are known.",
)
@loading_options
@answers
def compare(
    expected: Path,
    actual: Path,
    device_type: str | None,
    model_inputs: ModelInputs,
    tolerance: float,
    detections: str | None,
) -> Answer:
    """Compare two saved models' answers to the same inputs.

    EXPECTED is the reference. Exit status 3 says that an output differs by more than the tolerance.
    """
    device = torch_device(device_type)
    scripts = [read_model(path, device, None, "script").script for path in (expected, actual)]
    items = model_inputs.items(scripts[0], device)
    names = [name.strip() for name in detections.split(",")] if detections else []
    comparisons = compare_models(scripts[0], scripts[1], items, detections=names)
    within = all(comparison.within(tolerance) for comparison in comparisons)
    document: dict[str, Any] = {"tolerance": tolerance, "within": within, "calls": []}
    texts = []
    for item, comparison in zip(items, comparisons, strict=True):
        document["calls"].append({"inputs": describe(item), **comparison.summary()})
        texts += [f"inputs {describe(item)}", _table(comparison.errors), comparison.explain(tolerance), ""]
    texts.append(click.style("same" if within else "different", fg="green" if within else "red"))
    return Answer(document, "\n".join(texts), 0 if within else DIFFERENT)


def _table(errors: list[OutputError]) -> str:
    return table(
        ["output", "of", "max error", "mean error", "relative", "cosine", "mismatched", "note"],
        [
            [
                error.path or "(the output)",
                f"{error.dtype}{list(error.shape)}" if error.dtype else "",
                _number(error.max_abs),
                _number(error.mean_abs),
                _number(error.relative),
                "" if error.cosine is None else f"{error.cosine:.6f}",
                "" if error.mismatched is None else f"{error.mismatched:.2%}",
                error.note,
            ]
            for error in errors
        ],
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2e}"
