"""``torch-trt-ext optimize``."""

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
@click.option("--level", type=click.Choice(["o1"]), default="o1", show_default=True, help="o1: engines of 16 bits.")
@click.option("--opt-spec", type=click.Path(path_type=Path), help="Also write what the model needs, as JSON.")
@answers
def optimize(
    model: Path,
    output: Path,
    device_type: str,
    level: str,
    model_inputs: ModelInputs,
    config: Config,
    opt_spec: Path | None,
    verbose: bool,
) -> Answer:
    """Put engines into a saved model where they are faster.

    MODEL is a TorchScript file. --json prints the report of optimize().
    """
    # Where optimize() was not built, the other commands work all the same.
    from torch_trt_ext.optimize_file import optimize_file

    add_profile(config, model_inputs, model)
    arguments = model_inputs.as_arguments()
    spec, report = optimize_file(model, output, level, device_type, config=config, verbose=verbose, **arguments)
    if opt_spec is not None:
        spec.save(opt_spec)
    return report_answer(output, report)
