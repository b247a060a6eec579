"""``torch-trt-ext retarget``."""

from __future__ import annotations

from pathlib import Path

import click

from torch_trt_ext.cli.answer import Answer, answers
from torch_trt_ext.cli.model_inputs import ModelInputs
from torch_trt_ext.cli.optimized import report_answer
from torch_trt_ext.cli.options import add_profile, building_options
from torch_trt_ext.config import Config


@click.command()
@building_options
@answers
def retarget(
    model: Path, output: Path, device_type: str, model_inputs: ModelInputs, config: Config, verbose: bool
) -> Answer:
    """Rebuild a saved model's engines for this machine.

    MODEL is a file of an optimized model with its fallbacks, wherever it was made. --json prints the report of
    optimize().
    """
    # Where optimize() was not built, the other commands work all the same.
    from torch_trt_ext import retarget as retargeting

    add_profile(config, model_inputs, model)
    arguments = model_inputs.as_arguments()
    report = retargeting.retarget(model, output, device_type, config=config, verbose=verbose, **arguments)
    return report_answer(output, report)
