"""What ``optimize()`` returns beside the model: what the model needs to run as it was measured."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, get_args

import torch

from torch_trt_ext import runtime
from torch_trt_ext.config import Config
from torch_trt_ext.optimizer.report import DeviceType, device_name, software_versions

__all__ = ["OptSpec"]

#: Of the JSON that to_json() writes.
_FORMAT = 1
_KEYS = ("format", "device_type", "versions", "environment", "plugin_libraries", "config")


@dataclass(frozen=True)
class OptSpec:
    """What an optimized model needs, and where it was made; a context manager to run it in.

    ``with opt_spec:`` makes its config the current one, opens the plugin libraries of ``plugin_paths``, and warns
    where this machine differs from the one that the model was optimized on. The model runs without it too: its engines
    fall back to PyTorch where they do not fit. ``with`` blocks nest, and each restores the config that was current.

    Attributes:
        config: what the model was optimized with.
        device_type: "gpu" or "cpu".
        plugin_libraries: file names of the plugin libraries that engines need.
        versions: of "torch", "torch_trt_ext" and "tensorrt" (GPU) or "openvino" (CPU).
        environment: "gpu" (its name) and "compute_capability" (e.g. "9.0"), or "cpu" (its name).
        plugin_paths: where plugin libraries are on this machine. Neither saved nor compared: a file never makes a
            process open a path.

    Raises:
        TypeError: a field is of the wrong kind.
        ValueError: ``device_type`` is neither of the two, or a plugin library is given by a path.
    """

    config: Config
    device_type: DeviceType
    plugin_libraries: list[str]
    versions: dict[str, str]
    environment: dict[str, str]
    plugin_paths: list[str] = field(default_factory=list, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.config, Config):
            raise TypeError(f"opt_spec.config must be a Config, got {type(self.config).__name__}")
        if self.device_type not in get_args(DeviceType):
            raise ValueError(f"opt_spec.device_type must be 'gpu' or 'cpu', got {self.device_type!r}")
        for name in ("plugin_libraries", "plugin_paths"):
            value = getattr(self, name)
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise TypeError(f"opt_spec.{name} must be a list of strings, got {value!r}")
        for name in ("versions", "environment"):
            value = getattr(self, name)
            if not isinstance(value, dict) or not all(isinstance(text, str) for item in value.items() for text in item):
                raise TypeError(f"opt_spec.{name} must be a dict of strings, got {value!r}")
        for library in self.plugin_libraries:
            if library != os.path.basename(library):
                raise ValueError(
                    f"opt_spec.plugin_libraries must be file names, got {library!r}; give paths as plugin_paths"
                )

    @classmethod
    def of_this_machine(
        cls,
        config: Config,
        device_type: DeviceType,
        *,
        plugin_libraries: Iterable[str] = (),
        plugin_paths: Iterable[str | os.PathLike[str]] = (),
    ) -> OptSpec:
        """A spec with the versions and hardware that are here.

        Args:
            config: what the model was optimized with; it is copied.
            device_type: "gpu" or "cpu".
            plugin_libraries: file names of libraries that engines need.
            plugin_paths: paths of libraries to open in ``with``; their names count as ``plugin_libraries`` too.

        Raises:
            RuntimeError: ``device_type`` is "gpu" and there is none.
        """
        paths = [os.fspath(path) for path in plugin_paths]
        names = [*plugin_libraries, *(os.path.basename(path) for path in paths)]
        return cls(
            config=config.copy(),
            device_type=device_type,
            plugin_libraries=list(dict.fromkeys(names)),
            versions=_versions(device_type),
            environment=_environment(device_type),
            plugin_paths=paths,
        )

    def differences(self) -> list[str]:
        """What is other here than where the model was optimized, one phrase each; empty if nothing is.

        Processors are not compared, since OpenVINO compiles its engines where they are loaded.
        """
        backend = "tensorrt" if self.device_type == "gpu" else "openvino"
        missing = runtime.available_backends()[backend]
        # Where the engine's library is missing, its version and the GPU's name cannot be asked for.
        here = {} if missing else {**_versions(self.device_type), **_environment(self.device_type)}
        there = {**self.versions, **self.environment}
        found = [
            f"{name} was {there[name]} and is {here[name]} here"
            for name in there
            if name != "cpu" and name in here and here[name] != there[name]
        ]
        return [f"engines cannot run here: {missing}"] if missing else found

    def __enter__(self) -> OptSpec:
        problems = self.differences() + self._open_plugins()
        if problems:
            meaning = (
                "Engines that cannot run here fall back to PyTorch, which is slower"
                if self.config.keep_fallback
                else "Engines that cannot run here fail when they are called, since config.keep_fallback was False"
            )
            warnings.warn(
                f"this machine is not what the model was optimized for: {'; '.join(problems)}. {meaning}. "
                f"Run torch_trt_ext.optimize() again on this machine, or provide what was used: {self._needs()}",
                RuntimeWarning,
                stacklevel=2,
            )
        self.config.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.config.__exit__(kind, error, traceback)

    def __str__(self) -> str:
        changed = self.config.changed()
        return "\n".join(
            [
                f"OptSpec for {self.device_type}",
                f"  made with: {self._needs()}",
                f"  plugin libraries: {', '.join(self.plugin_libraries) or 'none'}",
                f"  options that differ from their defaults: {json.dumps(changed) if changed else 'none'}",
            ]
        )

    def to_json(self, indent: int | None = 2) -> str:
        """Everything but ``plugin_paths`` as JSON.

        Args:
            indent: spaces a level; None writes one line.
        """
        values = {
            "format": _FORMAT,
            "device_type": self.device_type,
            "versions": self.versions,
            "environment": self.environment,
            "plugin_libraries": self.plugin_libraries,
            "config": self.config.to_dict(),
        }
        return json.dumps(values, indent=indent, allow_nan=False)

    @classmethod
    def from_json(cls, text: str, *, plugin_paths: Iterable[str | os.PathLike[str]] = ()) -> OptSpec:
        """Reads what :meth:`to_json` wrote.

        Args:
            text: JSON.
            plugin_paths: where the plugin libraries are on this machine.

        Raises:
            TypeError: a value is of the wrong kind.
            ValueError: this is not JSON, keys are missing or unknown, or it was written by a newer version.
        """
        values = _read_object(text)
        if values.get("format") != _FORMAT:
            raise ValueError(
                f"opt_spec must be of format {_FORMAT}, got {values.get('format')!r}; read it with the torch_trt_ext "
                "that wrote it"
            )
        if set(values) != set(_KEYS):
            raise ValueError(f"opt_spec must have the keys {', '.join(_KEYS)}, got {', '.join(values)}")
        return cls(
            config=Config.from_dict(values["config"]),
            device_type=values["device_type"],
            plugin_libraries=values["plugin_libraries"],
            versions=values["versions"],
            environment=values["environment"],
            plugin_paths=[os.fspath(path) for path in plugin_paths],
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes :meth:`to_json`'s text to ``path``."""
        Path(path).write_text(self.to_json() + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, plugin_paths: Iterable[str | os.PathLike[str]] = ()) -> OptSpec:
        """Reads what :meth:`save` wrote; see :meth:`from_json` for arguments and errors."""
        return cls.from_json(Path(path).read_text(encoding="utf-8"), plugin_paths=plugin_paths)

    def _needs(self) -> str:
        return ", ".join(f"{name} {text}" for name, text in {**self.environment, **self.versions}.items())

    def _open_plugins(self) -> list[str]:
        """Opens the libraries of ``plugin_paths``; returns what went wrong."""
        problems = []
        for path in self.plugin_paths:
            if not os.path.exists(path):
                problems.append(f"plugin library {path} is not there")
                continue
            try:
                runtime.load_plugin_library(path)
            except RuntimeError as error:
                problems.append(str(error))
        return problems


def _versions(device_type: DeviceType) -> dict[str, str]:
    # torch's own version says which CUDA it was built for.
    return {name: version for name, version in software_versions(device_type).items() if name != "cuda"}


def _environment(device_type: DeviceType) -> dict[str, str]:
    if device_type == "cpu":
        return {"cpu": device_name("cpu")}
    major, minor = torch.cuda.get_device_capability()
    return {"gpu": device_name("gpu"), "compute_capability": f"{major}.{minor}"}


def _read_object(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"opt_spec must be read from JSON, as to_json() writes it: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"opt_spec must be read from a JSON object, got a {type(values).__name__}")
    return values
