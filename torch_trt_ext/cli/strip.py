"""``torch-trt-ext strip``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from torch_trt_ext.cli.answer import Answer, answers
from torch_trt_ext.cli.options import loading_options, model_argument, output_option
from torch_trt_ext.strip import drop_fallback


@click.command()
@model_argument
@output_option
@loading_options
@answers
def strip(model: Path, output: Path) -> Answer:
    """Drop the subgraphs that engines replaced.

    MODEL is a file of an optimized model. What its engines cannot take is an error from then on.
    """
    stripped = drop_fallback(model, output)
    return Answer(asdict(stripped), f"{output}: {stripped}")
