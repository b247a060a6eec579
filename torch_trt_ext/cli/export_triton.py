"""``torch-trt-ext export-triton``."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from torch_trt_ext.cli.answer import Answer, answers
from torch_trt_ext.cli.model_inputs import ModelInputs, input_and_profile_options
from torch_trt_ext.cli.options import loading_options, model_argument
from torch_trt_ext.optimizer.sample_texts import DTYPES
from torch_trt_ext.optimizer.structures import dtype_name
from torch_trt_ext.triton_config import ServedTensor
from torch_trt_ext.triton_model import OutputSpec
from torch_trt_ext.triton_repository import Exported
from torch_trt_ext.triton_repository import export_triton as write_repository

_OUTPUT = re.compile(r"(?P<shape>-?\d+(x-?\d+)*)(:(?P<dtype>\w+))?")
_PARAMETER = re.compile(r"(?P<key>\w+)=(?P<value>.*)")

#: Options of ``input_and_profile_options``; where none of them is given, inputs come from the engines' profiles.
_INPUT_OPTIONS = ("tensors", "ranges", "files", "profile_min", "profile_opt", "profile_max")


def _output(text: str) -> OutputSpec:
    match = _OUTPUT.fullmatch(text)
    shape = tuple(int(size) for size in match["shape"].split("x")) if match else ()
    dtype = DTYPES.get(match["dtype"] or "float32") if match else None
    if dtype is None or any(size < 1 and size != -1 for size in shape):
        raise click.BadParameter(
            "must be a shape such as 8x100:int64, with -1 for a size that varies and a dtype of "
            f"{', '.join(DTYPES)} after the colon, got {text!r}"
        )
    return OutputSpec(shape, dtype)


def _parameter(text: str) -> tuple[str, str]:
    match = _PARAMETER.fullmatch(text)
    if not match:
        raise click.BadParameter(f"must be KEY=VALUE, as ENABLE_CACHE_CLEANING=true, got {text!r}")
    return match["key"], match["value"]


def _gpus(text: str) -> list[int]:
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise click.BadParameter(f"must be numbers of GPUs with commas between, as 0,1, got {text!r}")
    return [int(number) for number in text.split(",")]


def _optional_inputs(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the options of :func:`input_and_profile_options`; ``model_inputs`` is None without any."""
    with_inputs = input_and_profile_options(command)

    @functools.wraps(with_inputs)
    def run(*arguments: Any, **options: Any) -> Any:
        if any(options[option] for option in _INPUT_OPTIONS):
            return with_inputs(*arguments, **options)
        others = {name: value for name, value in options.items() if name not in _INPUT_OPTIONS}
        return command(*arguments, model_inputs=None, **others)

    return run


@click.command("export-triton")
@model_argument
@click.option(
    "-o", "--output", "repository", required=True, type=click.Path(path_type=Path), help="Folder of the repository."
)
@click.option("--name", help="The model's name in the repository.  [default: the file's]")
@click.option("--version", default=1, show_default=True, help="The model's version, a folder in its own.")
@click.option(
    "--device",
    "device_type",
    type=click.Choice(["gpu", "cpu"]),
    help="Where the server runs it.  [default: what its engines are for]",
)
@click.option("--instances", default=1, show_default=True, help="How many run at once, on each GPU.")
@click.option("--gpus", type=_gpus, default=None, metavar="NUMBERS", help="Which GPUs, as 0,1.  [default: all]")
@click.option("--max-batch-size", type=int, help="0 for no batches.  [default: what the profiles allow]")
@click.option(
    "--max-queue-delay-us",
    default=100,
    show_default=True,
    help="Microseconds that a request may wait for others to make a batch.",
)
@_optional_inputs
@click.option(
    "--output-shape",
    "outputs",
    type=_output,
    multiple=True,
    metavar="SHAPE[:DTYPE]",
    help="An output of a model that cannot run here, as -1x100x4; once for each.",
)
@click.option("--index-names", is_flag=True, help="Call inputs INPUT__0, INPUT__1, and not as forward does.")
@click.option("--parameter", "parameters", type=_parameter, multiple=True, metavar="KEY=VALUE", help="Of the backend.")
@click.option("--warmup/--no-warmup", default=True, show_default=True, help="Call the model before the first request.")
@click.option("--link", is_flag=True, help="Make a hard link to MODEL and no copy.")
@click.option("--with-libraries", is_flag=True, help="Copy what must be loaded beside the model.")
@click.option("--force", is_flag=True, help="Write over the files of a model with this name.")
@loading_options
@answers
def export_triton(
    model: Path,
    repository: Path,
    name: str | None,
    gpus: list[int] | None,
    model_inputs: ModelInputs | None,
    parameters: Sequence[tuple[str, str]],
    **options: Any,
) -> Answer:
    """Write a model repository for Triton.

    MODEL becomes a model of Triton's PyTorch backend, with batches and instances as its engines' profiles have them.
    It is run here, to find out what it gives.
    """
    exported = write_repository(
        model,
        repository,
        name if name is not None else model.stem,
        **(model_inputs.as_arguments() if model_inputs else {}),
        profiles=model_inputs.profile if model_inputs else (),
        gpus=gpus or (),
        parameters=dict(parameters),
        **options,
    )
    return Answer(exported.as_dict(), _text(exported))


def _text(exported: Exported) -> str:
    config = exported.config
    batches = ", ".join(map(str, config.preferred_batch_sizes))
    where = f"{config.instances} on {'each GPU' if config.kind == 'gpu' else 'the CPU'}"
    if config.gpus:
        where = f"{config.instances} on each of the GPUs {', '.join(map(str, config.gpus))}"
    lines = [
        f"{exported.folder}: {exported.model.relative_to(exported.folder)}, config.pbtxt, launch",
        *(f"  input {_tensor(tensor)}" for tensor in config.inputs),
        *(f"  output {_tensor(tensor)}" for tensor in config.outputs),
        f"  batches: up to {config.max_batch_size}, best {batches}" if batches else "  batches: none",
        f"  instances: {where}",
        *(f"  {click.style('note', fg='yellow')}: {note}" for note in exported.notes),
        f"start the server with: {exported.folder / 'launch'} tritonserver --model-repository={exported.folder.parent}",
    ]
    return "\n".join(lines)


def _tensor(tensor: ServedTensor) -> str:
    return f"{tensor.name}: {dtype_name(tensor.dtype)} {list(tensor.shape)}"
