"""Options that several commands have: the device, what to load before a model, settings."""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from click.shell_completion import CompletionItem

from torch_trt_ext import runtime
from torch_trt_ext.cli.model_inputs import ModelInputs, input_and_profile_options
from torch_trt_ext.config import Config
from torch_trt_ext.doctor import usual_device
from torch_trt_ext.optimizer.model_input import argument_names, load_script

_DEVICES = click.Choice(["gpu", "cpu"])

model_argument = click.argument("model", type=click.Path(path_type=Path))

output_option = click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="File to write; it may be the model's own."
)

build_device_option = click.option(
    "--device",
    "device_type",
    type=_DEVICES,
    default="gpu",
    show_default=True,
    help="What to build engines for: TensorRT on the GPU, or OpenVINO on the CPU.",
)

run_device_option = click.option(
    "--device", "device_type", type=_DEVICES, help="Where to run.  [default: gpu where there is one]"
)


def loading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the options for what a model needs to be loaded, and does what they say before it runs."""

    @click.option(
        "--import", "modules", multiple=True, metavar="MODULE", help="Import a Python module first, as torchvision."
    )
    @click.option("--custom-ops", multiple=True, metavar="LIBRARY", help="Open a library of custom operators first.")
    @click.option("--plugins", multiple=True, metavar="LIBRARY", help="Open a library of TensorRT plugins first.")
    @functools.wraps(command)
    def run(
        *arguments: Any, modules: Sequence[str], custom_ops: Sequence[str], plugins: Sequence[str], **options: Any
    ) -> Any:
        for module in modules:
            importlib.import_module(module)
        for library in custom_ops:
            try:
                torch.ops.load_library(library)  # type: ignore[no-untyped-call]
            except OSError as error:
                raise RuntimeError(f"library of custom operators {library} could not be opened: {error}") from error
        for library in plugins:
            runtime.load_plugin_library(library)
        return command(*arguments, **options)

    return run


def config_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command ``--config`` and ``--set``; it gets them as ``config``, a :class:`Config`."""

    @click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        help="JSON file of options, as Config.to_json() writes.",
    )
    @click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="OPTION=VALUE",
        shell_complete=_complete_setting,
        help="One option of Config, as timing.min_speedup=1.1; the value is JSON or a word.",
    )
    @functools.wraps(command)
    def run(*arguments: Any, config_file: Path | None, settings: Sequence[str], **options: Any) -> Any:
        config = Config() if config_file is None else Config.from_json(config_file.read_text(encoding="utf-8"))
        for setting in settings:
            _apply(config, setting)
        return command(*arguments, config=config, **options)

    return run


def building_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command all that one which builds engines takes: a model, inputs, settings, and where the result goes."""
    verbose = click.option("-v", "--verbose", is_flag=True, help="Say on stderr what is being done.")
    for option in (
        loading_options,
        verbose,
        config_options,
        input_and_profile_options,
        build_device_option,
        output_option,
        model_argument,
    ):
        command = option(command)
    return command


def _apply(config: Config, setting: str) -> None:
    name, separator, text = setting.partition("=")
    if not separator:
        raise click.BadParameter(
            f"must be OPTION=VALUE, as timing.min_speedup=1.1, got {setting!r}", param_hint="--set"
        )
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    *groups, last = name.split(".")
    target: Any = config
    try:
        for group in groups:
            # What is no group has no options of its own.
            options = config.to_dict()
            if not isinstance(options.get(group), dict):
                raise AttributeError(f"config has no group {group!r}; its options are {', '.join(options)}")
            target = getattr(target, group)
        setattr(target, last, value)
    except (AttributeError, TypeError, ValueError) as error:
        raise click.BadParameter(str(error), param_hint="--set") from error


def _complete_setting(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    names = []
    for name, value in Config().to_dict().items():
        names += [f"{name}.{option}=" for option in value] if isinstance(value, dict) else [f"{name}="]
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def add_profile(config: Config, model_inputs: ModelInputs, model: Path) -> None:
    """Puts ``--min``, ``--opt`` and ``--max`` into a config, under the names that the model has for its inputs."""
    if model_inputs.profile:
        names = argument_names(load_script(str(model), torch.device("cpu")))
        config.shapes.profiles = [*config.shapes.profiles, model_inputs.profile_of(names)]


def torch_device(device_type: str | None) -> torch.device:
    """The device that ``--device`` means, or the usual one.

    Raises:
        RuntimeError: torch finds no GPU.
    """
    found = usual_device()
    if device_type == "gpu" and found != "gpu":
        raise RuntimeError(
            "--device gpu must have an NVIDIA GPU that PyTorch can use, found none; "
            "'torch-trt-ext doctor --device gpu' says what is missing"
        )
    return torch.device("cuda", torch.cuda.current_device()) if (device_type or found) == "gpu" else torch.device("cpu")
