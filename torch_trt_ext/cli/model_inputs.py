"""The options that say what a model is run on: shapes, ranges, files of tensors, profiles."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import torch

from torch_trt_ext.optimizer.messages import first_line
from torch_trt_ext.optimizer.model_input import argument_names
from torch_trt_ext.optimizer.sample_texts import DTYPES
from torch_trt_ext.optimizer.samples import make_samples
from torch_trt_ext.optimizer.structures import describe

_SHAPES = re.compile(r"(?P<shapes>\d+(x\d+)*(,\d+(x\d+)*)*)(:(?P<dtype>\w+))?")


@dataclass(frozen=True)
class InputTensor:
    """What ``--input`` says of one input tensor.

    Attributes:
        shapes: one for each call, or one for all, as ``optimize()`` reads them: "1*3*224*224".
        dtype: as "int64"; empty where it is not said.
    """

    shapes: list[str]
    dtype: str


def _input_tensor(text: str) -> InputTensor:
    match = _SHAPES.fullmatch(text)
    if not match:
        raise click.BadParameter(f"must be a shape such as 1x3x224x224, or several with commas between, got {text!r}")
    dtype = match["dtype"] or ""
    if dtype and dtype not in DTYPES:
        raise click.BadParameter(f"must have a dtype of {', '.join(DTYPES)} after the colon, got {dtype!r}")
    return InputTensor(match["shapes"].replace("x", "*").split(","), dtype)


def _shape(text: str) -> list[int]:
    if not re.fullmatch(r"\d+(x\d+)*", text):
        raise click.BadParameter(f"must be one shape such as 1x3x224x224, got {text!r}")
    return [int(size) for size in text.split("x")]


@dataclass(frozen=True)
class ModelInputs:
    """What a model is run on.

    Attributes:
        test_data: arguments of calls, from files.
        input_shapes: shapes of calls, as ``optimize()`` takes them.
        input_ranges: values, as ``optimize()`` takes them; None for its default.
        profile: smallest, optimal and largest shape of each input tensor; empty where none was given.
    """

    test_data: list[tuple[Any, ...]]
    input_shapes: list[list[str]]
    input_ranges: list[str] | None
    profile: list[list[list[int]]] = field(default_factory=list)

    def as_arguments(self) -> dict[str, Any]:
        """The arguments of ``optimize()`` and ``retarget()``."""
        return {
            "test_data": self.test_data,
            "input_shapes": self.input_shapes or None,
            "input_ranges": self.input_ranges,
        }

    def profile_of(self, names: Sequence[str]) -> dict[str, list[list[int]]]:
        """The profile by names of ``forward``'s arguments.

        Raises:
            click.UsageError: there are fewer arguments than shapes.
        """
        if len(names) < len(self.profile):
            raise click.UsageError(
                f"--min, --opt and --max must be given once for each argument of forward, which takes "
                f"{', '.join(names)}, got {len(self.profile)}"
            )
        return dict(zip(names, self.profile, strict=False))

    def items(self, script: torch.jit.ScriptModule, device: torch.device) -> list[tuple[Any, ...]]:
        """The positional arguments of each call, on a device."""
        samples = make_samples(argument_names=argument_names(script), device=device, **self.as_arguments())
        return samples.items


def input_and_profile_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """:func:`input_options` and ``--min``, ``--opt``, ``--max``."""

    def option(name: str, text: str) -> Callable[..., Any]:
        return click.option(f"--{name}", f"profile_{name}", type=_shape, multiple=True, metavar="SHAPE", help=text)

    command = option("max", "The largest shape.")(input_options(command))
    command = option("opt", "The shape to tune for; --input as well can say a dtype.")(command)
    least = "Smallest shape of an input tensor that engines take; once for each, with --opt and --max."
    return option("min", least)(command)  # type: ignore[no-any-return]


def input_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command ``--input``, ``--range`` and ``--inputs``; it gets them as ``model_inputs``."""

    @click.option(
        "--input",
        "tensors",
        type=_input_tensor,
        multiple=True,
        metavar="SHAPE[,SHAPE...][:DTYPE]",
        help="Shape of an input tensor, as 1x3x224x224 or 1x128:int64; once for each, in forward's order. Several "
        "shapes, as 1x3x224x224,8x3x224x224, are several calls.",
    )
    @click.option(
        "--range",
        "ranges",
        multiple=True,
        metavar="RANGE",
        help="Values of an input tensor, as '[0.0, 1.0]' or '[0, 255]' for whole numbers; once for each --input. "
        "Without, from 0 to 1.",
    )
    @click.option(
        "--inputs",
        "files",
        type=click.Path(path_type=Path),
        multiple=True,
        help="File of torch.save with a tuple, the arguments of a call, or a list of such tuples.",
    )
    @functools.wraps(command)
    def run(
        *arguments: Any,
        tensors: Sequence[InputTensor],
        ranges: Sequence[str],
        files: Sequence[Path],
        profile_min: Sequence[list[int]] = (),
        profile_opt: Sequence[list[int]] = (),
        profile_max: Sequence[list[int]] = (),
        **options: Any,
    ) -> Any:
        counts = (len(profile_min), len(profile_opt), len(profile_max))
        if len(set(counts)) != 1:
            raise click.UsageError(
                "--min, --opt and --max must be given together, once for each input tensor, got "
                f"{counts[0]}, {counts[1]} and {counts[2]}"
            )
        if not (tensors or files or profile_opt):
            raise click.UsageError(
                "the model needs something to run on: give --input 1x3x224x224, once for each input tensor, or "
                "--inputs FILE, a tuple of tensors that torch.save wrote"
            )
        if not tensors and not files:
            tensors = [InputTensor(["*".join(map(str, shape))], "") for shape in profile_opt]
        model_inputs = ModelInputs(
            test_data=[item for file in files for item in read_items(file)],
            input_shapes=_shape_sets(tensors),
            input_ranges=_ranges(tensors, ranges),
            profile=[list(shapes) for shapes in zip(profile_min, profile_opt, profile_max, strict=True)],
        )
        return command(*arguments, model_inputs=model_inputs, **options)

    return run


def _shape_sets(tensors: Sequence[InputTensor]) -> list[list[str]]:
    """From the shapes of each input tensor to those of each call."""
    counts = [len(tensor.shapes) for tensor in tensors]
    calls = max(counts, default=0)
    if any(number not in (1, calls) for number in counts):
        raise click.UsageError(
            f"each --input must list one shape, or as many as the others, got {', '.join(map(str, counts))}"
        )
    return [[tensor.shapes[call % len(tensor.shapes)] for tensor in tensors] for call in range(calls)]


def _ranges(tensors: Sequence[InputTensor], ranges: Sequence[str]) -> list[str] | None:
    """The range of each input tensor with its dtype; None where all are the default."""
    if ranges and len(ranges) != len(tensors):
        raise click.UsageError(
            f"--range must be given once for each --input, of which there are {len(tensors)}, got {len(ranges)}"
        )
    if not ranges and not any(tensor.dtype for tensor in tensors):
        return None
    texts = []
    for index, tensor in enumerate(tensors):
        is_float = not tensor.dtype or DTYPES[tensor.dtype].is_floating_point
        text = ranges[index] if ranges else "[0.0, 1.0]" if is_float else "[0, 1]"
        texts.append(f"{text} {tensor.dtype}".rstrip())
    return texts


def read_items(path: Path) -> list[tuple[Any, ...]]:
    """The arguments of one call or several, from a file that ``torch.save`` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else.
    """
    remedy = "torch.save((images,), path) makes one"
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"inputs must be a file, but there is none at {path}; {remedy}") from error
    except Exception as error:  # pickle raises whatever the bytes make it do
        raise ValueError(
            f"inputs must be a file of torch.save with tensors only, got {path}: {first_line(error)}; {remedy}"
        ) from error
    items = value if isinstance(value, list) else [value]
    if not items or not all(isinstance(item, tuple) for item in items):
        raise ValueError(
            f"inputs must be a tuple, the arguments of a call, or a list of tuples, got {describe(value)} in {path}; "
            f"{remedy}"
        )
    return items
