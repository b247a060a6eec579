"""Files of optimized models whose code is changed: engine modules that lose their engine or their subgraph."""

from __future__ import annotations

import contextlib
import io
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from torch_trt_ext import runtime as _runtime  # noqa: F401  (registers the classes)

__all__ = [
    "EditedFile",
    "ExtraFiles",
    "check_target",
    "drop_attribute",
    "extra_files_of",
    "replacing",
    "save",
    "write_whole",
]

#: What ``torch.jit.save`` writes beside a model, by name.
ExtraFiles = dict[str, str | bytes]

#: Where a TorchScript file has the classes of torch_trt_ext.optimizer.engine_module, one file for each mangled name.
_CODE_OF_ENGINE_MODULES = re.compile(
    r"/code/__torch__/torch_trt_ext/optimizer/engine_module(/___torch_mangle_\d+)?\.py$"
)

_ATTRIBUTES = {name: re.compile(rf"^  {name} : .*\n", re.MULTILINE) for name in ("engine", "subgraph")}

# Quotes inside the texts of a model's code are escaped, so that only constants look like this.
_DEVICE = re.compile(r'torch\.device\("(?:cpu|cuda)(?::\d+)?"\)')


@dataclass(frozen=True)
class EditedFile:
    """A TorchScript file in memory, with its code changed.

    Attributes:
        archive: what ``torch.jit.load`` reads.
        extra_names: of its extra files.
        classes: how many kinds of engine modules were changed.
    """

    archive: io.BytesIO
    extra_names: list[str]
    classes: int

    def load(self, map_location: torch.device | str | None = None) -> tuple[torch.jit.ScriptModule, ExtraFiles]:
        """The model and its extra files.

        Raises:
            RuntimeError: torch cannot load it here.
        """
        extra_files: ExtraFiles = dict.fromkeys(self.extra_names, "")
        self.archive.seek(0)
        # The objects in the file still have what was dropped. torch fills an object by the attributes of its class and
        # passes over all others, and does not write them again.
        model: torch.jit.ScriptModule = torch.jit.load(  # type: ignore[no-untyped-call]
            self.archive, map_location=map_location, _extra_files=extra_files
        )
        return model, extra_files


def drop_attribute(
    source: Path,
    attribute: Literal["engine", "subgraph"],
    forwards: Mapping[str, str],
    device: torch.device | None = None,
) -> EditedFile:
    """Reads a file, with the engine modules changed that have an engine and a subgraph.

    Args:
        source: a file that ``torch.jit.save`` wrote of an optimized model.
        attribute: what these modules lose.
        forwards: what they do then: by their class, the code of ``forward`` as ``torch.jit.save`` prints it.
        device: takes the place of the CPU and of every GPU that the code names; None leaves them. Tensors move when
            the model is loaded, but a trace also names the device on which it makes new ones.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no TorchScript file.
    """
    with _opened(source) as archive:
        return _edit(source, archive, attribute, forwards, device)


def _edit(
    source: Path, archive: zipfile.ZipFile, attribute: str, forwards: Mapping[str, str], device: torch.device | None
) -> EditedFile:
    names = archive.namelist()
    if not any("/code/__torch__/" in name for name in names):
        raise ValueError(
            f"model {source} must be a TorchScript file, got an archive without code; pass what torch.jit.save wrote"
        )
    changed: dict[str, str] = {}
    classes = 0
    for name in names:
        if not ("/code/" in name and name.endswith(".py")):
            continue
        code = before = archive.read(name).decode()
        if _CODE_OF_ENGINE_MODULES.search(name):
            code, count = _without(attribute, code, forwards)
            classes += count
        if device is not None:
            code = _DEVICE.sub(f'torch.device("{device}")', code)
        if code != before:
            changed[name] = code
    edited = io.BytesIO()
    with zipfile.ZipFile(edited, "w") as result:
        for name in names:
            # The table of source ranges is of the code as it was.
            if name.removesuffix(".debug_pkl") not in changed:
                result.writestr(name, archive.read(name))
            elif name in changed:
                result.writestr(name, changed[name])
    return EditedFile(edited, list(_extra_names(names)), classes)


def _extra_names(names: list[str]) -> dict[str, str]:
    """The extra files of an archive, each with its name in there."""
    inside = {name.partition("/")[2]: name for name in names}
    return {name.removeprefix("extra/"): full for name, full in inside.items() if name.startswith("extra/")}


def extra_files_of(source: Path) -> ExtraFiles:
    """What ``torch.jit.save`` wrote beside a model.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no TorchScript file.
    """
    with _opened(source) as archive:
        return {name: archive.read(full) for name, full in _extra_names(archive.namelist()).items()}


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(source) as archive:
            yield archive
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"model {source} must be a TorchScript file, which is a zip archive, got another format ({error}); pass "
            "what torch.jit.save wrote"
        ) from error


def _without(attribute: str, code: str, forwards: Mapping[str, str]) -> tuple[str, int]:
    """The code of a file of engine modules without an attribute, and how many classes lost it."""
    parts = re.split(r"^(?=class )", code, flags=re.MULTILINE)
    count = 0
    for index, part in enumerate(parts):
        kind = re.match(r"class (\w+)\(", part)
        forward = forwards.get(kind.group(1)) if kind else None
        if forward is None or not all(pattern.search(part) for pattern in _ATTRIBUTES.values()):
            continue
        attributes = _ATTRIBUTES[attribute].sub("", part[: part.index("  def ")])
        parts[index] = attributes + forward
        count += 1
    return "".join(parts), count


def check_target(target: Path) -> None:
    """Before the work whose result goes there.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not target.parent.is_dir():
        raise FileNotFoundError(f"target must be in a folder that is there, got {target}; make {target.parent} first")


def save(model: torch.jit.ScriptModule, target: Path, extra_files: ExtraFiles) -> int:
    """Writes a model; who reads the target at this moment reads all of what it was.

    Returns:
        Size of the file in bytes.
    """
    buffer = io.BytesIO()
    torch.jit.save(model, buffer, _extra_files=extra_files)
    write_whole(target, buffer.getvalue())
    return buffer.getbuffer().nbytes


def write_whole(target: Path, data: bytes) -> None:
    """Writes a file; who reads it at this moment reads all of what it was."""
    with replacing(target) as unfinished:
        unfinished.write_bytes(data)


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A path beside a file, for what takes its place at once when the block ends."""
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        yield unfinished
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)
