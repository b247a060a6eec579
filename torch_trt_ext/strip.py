"""Makes the file of an optimized model smaller: ``python -m torch_trt_ext.strip model.pt --drop-fallback -o out.pt``.

``optimize()`` keeps beside each engine the subgraph that it replaced, weights included, for inputs and machines that
the engine does not take. A file for one kind of machine and for known shapes can do without.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch

from torch_trt_ext import runtime as _runtime  # noqa: F401  (registers the classes)

__all__ = ["Stripped", "drop_fallback"]

#: Where a TorchScript file has the classes of torch_trt_ext.optimizer.engine_module, one file for each mangled name.
_CODE_OF_ENGINE_MODULES = re.compile(
    r"/code/__torch__/torch_trt_ext/optimizer/engine_module(/___torch_mangle_\d+)?\.py$"
)

_FALLBACK = re.compile(r"^  subgraph : .*\n", re.MULTILINE)

# What the classes with a fallback do without it, in the words that torch.jit.save prints. EngineWithSubgraph becomes
# EngineOnly for all inputs; EngineOrSubgraph also gives the outputs that are no more than a shape, and must itself
# refuse what its engine does not see.
_FORWARDS = {
    "EngineWithSubgraph": """\
  def forward(self, inputs: List[Tensor]) -> List[Tensor]:
    engine = self.engine
    return (engine).forward(inputs, )
""",
    "EngineOrSubgraph": """\
  def forward(self, inputs: List[Tensor]) -> List[Tensor]:
    other_inputs = self.other_inputs
    other_shapes = self.other_shapes
    other_like = self.other_like
    for index in range(torch.len(other_inputs)):
      position = other_inputs[index]
      given_input = inputs[position]
      like = other_like[index]
      fits = torch.eq(torch.list(torch.size(given_input)), other_shapes[index])
      same_dtype = torch.eq(ops.prim.dtype(given_input), ops.prim.dtype(like))
      same_device = torch.eq(ops.prim.device(given_input), ops.prim.device(like))
      if torch.__and__(torch.__and__(fits, same_dtype), same_device):
        pass
      else:
        wanted = "input {} of a subgraph must have the shape {} and the dtype and device that its engine was made for, "
        got = "got shape {}; pass such a tensor, or use the file with the fallback"
        shape = torch.list(torch.size(given_input))
        message = torch.format(torch.add(wanted, got), position, other_shapes[index], shape)
        ops.prim.RaiseException(message, "builtins.ValueError")
    given = annotate(List[Tensor], [])
    engine_inputs = self.engine_inputs
    for index in range(torch.len(engine_inputs)):
      _0 = torch.append(given, inputs[engine_inputs[index]])
    engine = self.engine
    results = (engine).forward(given, )
    outputs = annotate(List[Tensor], [])
    data_outputs = self.data_outputs
    shape_outputs = self.shape_outputs
    for index in range(torch.add(torch.len(data_outputs), torch.len(shape_outputs))):
      _1 = torch.append(outputs, results[0])
    for index in range(torch.len(data_outputs)):
      _2 = torch._set_item(outputs, data_outputs[index], results[index])
    all_like = self.like
    shapes = self.shapes
    for index in range(torch.len(shape_outputs)):
      _3 = torch._set_item(outputs, shape_outputs[index], torch.expand(all_like[index], shapes[index]))
    return outputs
""",
}


@dataclass(frozen=True)
class Stripped:
    """What :func:`drop_fallback` did.

    Attributes:
        fallbacks: how many kinds of engine modules lost their fallback.
        bytes_before: size of the file as it was.
        bytes_after: size of the file that was written.
    """

    fallbacks: int
    bytes_before: int
    bytes_after: int

    def __str__(self) -> str:
        gone = self.bytes_before - self.bytes_after
        return (
            f"dropped {self.fallbacks} fallback{'s' * (self.fallbacks != 1)}: {self.bytes_before:,} bytes became "
            f"{self.bytes_after:,}, {gone:,} fewer"
        )


def drop_fallback(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> Stripped:
    """Writes a model without the subgraphs that its engines replaced.

    What an engine of the new file cannot take is an error that says what it takes, as with
    ``Config.keep_fallback = False``. Everything else stays as it is, extra files included.

    Args:
        source: a file that ``torch.jit.save`` wrote of an optimized model.
        target: the file to write; it may be ``source``.

    Returns:
        What was dropped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no TorchScript file, or holds no engine with a fallback.
        RuntimeError: torch cannot load it here; a model that was saved on a GPU needs one.
    """
    source, target = Path(source), Path(target)
    edited, extra_names, fallbacks = _without_fallback(source)
    extra_files = dict.fromkeys(extra_names, "")
    try:
        model = torch.jit.load(edited, _extra_files=extra_files)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise RuntimeError(
            f"model {source} must load on this machine to be stripped, got: {error}; a model that was saved on a "
            "GPU is stripped on a machine with one"
        ) from error
    buffer = io.BytesIO()
    torch.jit.save(model, buffer, _extra_files=extra_files)
    before = source.stat().st_size
    data = buffer.getvalue()
    # A file that is read elsewhere at this moment stays whole.
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(data)
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)
    return Stripped(fallbacks, before, len(data))


def _without_fallback(source: Path) -> tuple[io.BytesIO, list[str], int]:
    """The archive with the engine modules' code rewritten, names of its extra files, and how many were rewritten."""
    edited = io.BytesIO()
    fallbacks = 0
    extra_names = []
    try:
        archive = zipfile.ZipFile(source)
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"model {source} must be a TorchScript file, which is a zip archive, got another format ({error}); pass "
            "what torch.jit.save wrote"
        ) from error
    with archive, zipfile.ZipFile(edited, "w") as result:
        names = archive.namelist()
        if not any("/code/__torch__/" in name for name in names):
            raise ValueError(
                f"model {source} must be a TorchScript file, got an archive without code; pass what "
                "torch.jit.save wrote"
            )
        rewritten = {name for name in names if _CODE_OF_ENGINE_MODULES.search(name)}
        for name in names:
            _, _, inside = name.partition("/")
            if inside.startswith("extra/"):
                extra_names.append(inside.removeprefix("extra/"))
            # The table of source ranges is of the code as it was.
            if name.removesuffix(".debug_pkl") in rewritten and name not in rewritten:
                continue
            data = archive.read(name)
            if name in rewritten:
                code, count = _rewrite(data.decode())
                data = code.encode()
                fallbacks += count
            result.writestr(name, data)
    if fallbacks == 0:
        raise ValueError(
            f"model {source} must hold engines with a fallback, got none; it was made with Config.keep_fallback = "
            "False, stripped already, or not by optimize()"
        )
    edited.seek(0)
    return edited, extra_names, fallbacks


def _rewrite(code: str) -> tuple[str, int]:
    """The code of a file of engine modules without fallbacks, and how many classes lost theirs."""
    parts = re.split(r"^(?=class )", code, flags=re.MULTILINE)
    count = 0
    for index, part in enumerate(parts):
        kind = re.match(r"class (\w+)\(", part)
        forward = _FORWARDS.get(kind.group(1)) if kind else None
        if forward is None or not _FALLBACK.search(part):
            continue
        attributes = _FALLBACK.sub("", part[: part.index("  def ")])
        parts[index] = attributes + forward
        count += 1
    return "".join(parts), count


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m torch_trt_ext.strip", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("model", type=Path, help="file of an optimized model")
    parser.add_argument(
        "--drop-fallback", action="store_true", required=True, help="drop the subgraphs that the engines replaced"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="file to write")
    options = parser.parse_args(arguments)
    try:
        print(f"{options.output}: {drop_fallback(options.model, options.output)}")
    except (OSError, RuntimeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
