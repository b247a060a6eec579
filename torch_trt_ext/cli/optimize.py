"""``torch-trt-ext optimize``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from torch_trt_ext.cli.answer import Answer, answers
from torch_trt_ext.cli.model_inputs import ModelInputs, read_items
from torch_trt_ext.cli.optimized import report_answer
from torch_trt_ext.cli.options import add_profile, building_options
from torch_trt_ext.config import Config
from torch_trt_ext.report_page import check_path


def _check_report(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """Refuses what cannot be written before the model is optimized, which takes long."""
    if path is not None:
        try:
            check_path(path)
        except (ValueError, OSError) as error:
            raise click.BadParameter(str(error)) from error
    return path


@click.command()
@building_options
@click.option(
    "--level",
    type=click.Choice(["o1", "o2"]),
    default="o1",
    show_default=True,
    help="o1: engines of 16 bits; o2: of 8 bits where they are accurate.",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    help="Real inputs that 8-bit ranges are found from: a list of tuples that torch.save wrote.",
)
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    callback=_check_report,
    help="Also write the report, as its name ends: .html, .md, .png (needs matplotlib) or .json.",
)
@click.option("--opt-spec", type=click.Path(path_type=Path), help="Also write what the model needs, as JSON.")
@answers
def optimize(
    model: Path,
    output: Path,
    device_type: str,
    level: str,
    calibration: Path | None,
    model_inputs: ModelInputs,
    config: Config,
    report: Path | None,
    opt_spec: Path | None,
    verbose: bool,
) -> Answer:
    """Put engines into a saved model where they are faster.

    MODEL is a TorchScript file. --json prints the report of optimize().
    """
    # Where optimize() was not built, the other commands work all the same.
    from torch_trt_ext.optimize_file import optimize_file

    add_profile(config, model_inputs, model)
    arguments: dict[str, Any] = model_inputs.as_arguments()
    if calibration is not None:
        arguments["calib_data"] = read_items(calibration)
    spec, found = optimize_file(model, output, level, device_type, config=config, verbose=verbose, **arguments)
    if opt_spec is not None:
        spec.save(opt_spec)
    if report is not None:
        found.save(report)
    return report_answer(output, found)
