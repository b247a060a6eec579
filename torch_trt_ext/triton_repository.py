"""Writes a model repository for Triton's PyTorch backend; the command is ``torch-trt-ext export-triton``.

``<repository>/<name>/config.pbtxt`` says what the model takes and gives, ``<repository>/<name>/<version>/model.pt`` is
the model, and ``<repository>/<name>/launch`` starts the server with the libraries loaded that its engines need. What
the backend asks of all this is in ``docs/how-to/triton.md``.
"""

from __future__ import annotations

import errno
import keyword
import os
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from torch_trt_ext import runtime
from torch_trt_ext.contents import inspect_model
from torch_trt_ext.doctor import usual_device
from torch_trt_ext.optimizer.model_input import argument_names, load_script
from torch_trt_ext.optimizer.samples import make_samples
from torch_trt_ext.optimizer.script_module import find_engines
from torch_trt_ext.saved_file import extra_files_of, replacing, save
from torch_trt_ext.triton_config import ServedModel
from torch_trt_ext.triton_model import OutputSpec, Signature, input_items, read_signature

__all__ = ["Exported", "export_triton"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")

#: What of OpenVINO's wheel an engine needs; the others are frontends and devices.
_OPENVINO_LIBRARIES = (
    "libopenvino.so.*",
    "libopenvino_intel_cpu_plugin.so",
    "libopenvino_ir_frontend.so.*",
    "libtbb*.so*",
    "libhwloc.so*",
)

_LAUNCH = """\
#!/bin/sh
# Starts a command with the libraries loaded that the engines in this folder's model need:
#
#   launch tritonserver --model-repository=...
#
# Environment:
#   TORCH_LIBRARY_DIR           libtorch's folder; Triton has it with its PyTorch backend
#   TORCH_TRT_EXT_LIBRARY_DIR   the folder of libtorch_trt_ext.so
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
libraries=${TORCH_TRT_EXT_LIBRARY_DIR:-%(folder)s}
torch=${TORCH_LIBRARY_DIR:-/opt/tritonserver/backends/pytorch}
preload=
for library in %(preload)s; do
  if [ ! -e "$libraries/$library" ]; then
    echo "error: $library must be in $libraries, where it is not; set TORCH_TRT_EXT_LIBRARY_DIR to its folder, or" \\
      "export the model with --with-libraries" >&2
    exit 1
  fi
  preload=$preload$library:
done
if [ -n "$preload" ] && [ ! -e "$torch/libtorch_cpu.so" ]; then
  echo "error: libtorch_cpu.so must be in $torch, where it is not; set TORCH_LIBRARY_DIR to libtorch's folder" >&2
  exit 1
fi
if [ $# -eq 0 ]; then
  set -- tritonserver --model-repository="$(dirname -- "$here")"
fi
path=$libraries
for folder in %(folders)s"$torch" "$torch"/../../nvidia/cu*/lib; do
  if [ -d "$folder" ]; then
    path=$path:$folder
  fi
done
export LD_LIBRARY_PATH="$path${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export TORCH_TRT_EXT_PLUGIN_PATH="$libraries${TORCH_TRT_EXT_PLUGIN_PATH:+:$TORCH_TRT_EXT_PLUGIN_PATH}"
# Names, which the loader finds on the path: it would cut a path at its spaces. Last, so that no command
# of this script loads them.
export LD_PRELOAD="$preload${LD_PRELOAD:-}"
exec "$@"
"""


@dataclass(frozen=True)
class Exported:
    """What :func:`export_triton` wrote.

    Attributes:
        folder: of the model, in the repository.
        model: the file that the backend loads.
        config: what ``config.pbtxt`` says.
        preload: file names of the libraries that the server must have loaded.
        libraries: those that were copied beside the model.
        notes: what a user should know.
    """

    folder: Path
    model: Path
    config: ServedModel
    preload: tuple[str, ...]
    libraries: tuple[str, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "folder": str(self.folder),
            "model": str(self.model),
            "config": self.config.fields(),
            "preload": list(self.preload),
            "libraries": list(self.libraries),
            "notes": list(self.notes),
        }


def export_triton(
    source: str | os.PathLike[str],
    repository: str | os.PathLike[str],
    name: str,
    *,
    test_data: Sequence[tuple[Any, ...]] | None = None,
    input_shapes: Sequence[Any] | None = None,
    input_ranges: Sequence[Any] | None = None,
    profiles: Sequence[Sequence[Sequence[int]]] = (),
    outputs: Sequence[OutputSpec] = (),
    version: int = 1,
    device_type: Literal["gpu", "cpu"] | None = None,
    instances: int = 1,
    gpus: Sequence[int] = (),
    max_batch_size: int | None = None,
    max_queue_delay_us: int = 100,
    parameters: Mapping[str, str] | None = None,
    index_names: bool = False,
    warmup: bool = True,
    link: bool = False,
    with_libraries: bool = False,
    force: bool = False,
) -> Exported:
    """Writes a saved model into a model repository.

    The model is run on the inputs, to find out what it gives. A result that the backend does not take, a list of
    tensors or a tuple within a tuple, becomes a tuple in the file that is written.

    Args:
        source: a file that ``torch.jit.save`` wrote.
        repository: folder of the repository; it is made where there is none.
        name: of the model in the repository.
        test_data: arguments of calls, as ``optimize()`` takes them; sizes that differ between calls vary. Without them
            and without ``input_shapes`` the inputs are made from the profiles of the engines.
        input_shapes: as ``optimize()`` takes them.
        input_ranges: as ``optimize()`` takes them.
        profiles: smallest, optimal and largest shape of each input.
        outputs: what the model gives; it is not run then.
        version: of the model, a folder in its own.
        device_type: where the server runs the model; None is what its engines are for, or this machine has.
        instances: how many there are, on each GPU.
        gpus: which GPUs; none for all.
        max_batch_size: the largest batch that the server makes, 0 for none; None for what the profiles allow.
        max_queue_delay_us: how long a request may wait for others to make a batch, in microseconds.
        parameters: of the backend, beside those that this function sets, or in their place.
        index_names: whether inputs are called ``INPUT__0``, ``INPUT__1``, and not as ``forward`` calls them.
        warmup: whether the server calls the model before its first request.
        link: whether the model is a hard link to the source and not a copy.
        with_libraries: whether what must be loaded is copied beside the model.
        force: whether files of a model with this name may be written over.

    Returns:
        What was written.

    Raises:
        FileNotFoundError: there is no such file, or a library to copy is missing.
        FileExistsError: the repository has a model with this name.
        TypeError: the model takes or gives what the backend does not know.
        ValueError: an argument is out of range, or a dtype is none of the backend's.
        RuntimeError: the model cannot be loaded or run here.
    """
    source, folder = Path(source), Path(repository) / name
    _check_target(folder, name, version, force)
    if instances < 1 or max_queue_delay_us < 0 or (max_batch_size or 0) < 0:
        raise ValueError(
            "instances must be 1 or more, max_queue_delay_us and max_batch_size 0 or more, got "
            f"{instances}, {max_queue_delay_us} and {max_batch_size}"
        )
    extra_files = extra_files_of(source)
    on_cpu = load_script(os.fspath(source), torch.device("cpu"))
    kind = device_type or _kind_of(on_cpu)
    if gpus and kind == "cpu":
        raise ValueError(f"gpus must be left out where the model runs on the CPU, got {list(gpus)}")
    device = torch.device("cuda" if kind == "gpu" and usual_device() == "gpu" else "cpu")
    script = on_cpu if device.type == "cpu" else load_script(os.fspath(source), device)
    if test_data or input_shapes:
        items = make_samples(
            test_data=list(test_data or []),
            input_shapes=input_shapes,
            input_ranges=input_ranges,
            argument_names=argument_names(script),
            device=device,
        ).items
    else:
        items = input_items(script, device)
    signature = read_signature(
        script,
        items,
        profiles=profiles,
        outputs=outputs,
        max_batch_size=max_batch_size,
        index_names=index_names,
    )
    config = ServedModel(
        name=name,
        inputs=signature.inputs,
        outputs=signature.outputs,
        example_shapes=signature.example_shapes,
        max_batch_size=signature.batches.largest,
        preferred_batch_sizes=signature.batches.preferred,
        max_queue_delay_us=max_queue_delay_us,
        kind=kind,
        instances=instances,
        gpus=tuple(gpus),
        parameters={**_parameters(script, kind, instances), **(parameters or {})},
        warmup=warmup,
    )
    if link and not signature.is_servable:
        raise ValueError(
            "link must be left out for this model: the backend takes no lists, so that the file in the repository "
            "returns a tuple and differs from the source"
        )
    served = None if signature.is_servable else _with_flat_result(on_cpu, signature)
    target = folder / str(version) / "model.pt"
    target.parent.mkdir(parents=True, exist_ok=True)
    if served is None:
        _place(source, target, link)
    else:
        save(served, target, extra_files)
    exported = Exported(folder, target, config, _preload(script), (), signature.notes)
    exported = _write_launch(exported, script, with_libraries)
    # Last: the server looks for it first.
    (folder / "config.pbtxt").write_text(config.text(), encoding="utf-8")
    return exported


def _check_target(folder: Path, name: str, version: int, force: bool) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"name must be one for a folder, of letters, digits, '_', '-' and '.', got {name!r}; choose another"
        )
    if version < 1:
        raise ValueError(f"version must be 1 or more, got {version}; Triton passes over other folders")
    if folder.exists() and not force:
        raise FileExistsError(
            f"repository must not have a model {name!r} yet, but there is {folder}; choose another name, or --force to "
            "write over its files"
        )


def _kind_of(script: torch.jit.ScriptModule) -> Literal["gpu", "cpu"]:
    backends = {found.backend for found in find_engines(script)}
    if len(backends) > 1:
        raise ValueError(
            "the model must have engines for one kind of device, got both; say with --device which one serves it"
        )
    if not backends:
        return usual_device()
    return "gpu" if backends == {"tensorrt"} else "cpu"


def _parameters(script: torch.jit.ScriptModule, kind: Literal["gpu", "cpu"], instances: int) -> dict[str, str]:
    parameters = {"INFERENCE_MODE": "true"}
    if kind == "cpu":
        # What torch's executor does in the first calls takes longer there than it ever saves: it fuses on GPUs only.
        parameters["DISABLE_OPTIMIZED_EXECUTION"] = "true"
    if instances > 1 and not _writes_attributes(script):
        parameters["ENABLE_WEIGHT_SHARING"] = "true"
    return parameters


def _writes_attributes(script: torch.jit.ScriptModule) -> bool:
    graph: Any = script.inlined_graph
    return bool(graph.findAllNodes("prim::SetAttr"))


def _with_flat_result(script: torch.jit.ScriptModule, signature: Signature) -> torch.jit.ScriptModule:
    """The model with a tuple of tensors for its result, which is what the backend takes."""
    module: Any = script._c
    arguments: Any = module._get_method("forward").schema.arguments[1:]
    usable = [name.isidentifier() and not keyword.iskeyword(name) for name in argument_names(script)]
    names = argument_names(script) if all(usable) else [f"input_{index}" for index in range(len(arguments))]
    taken = ", ".join(f"{name}: {argument.type}" for name, argument in zip(names, arguments, strict=True))
    lines = [f"def forward(self, {taken}):", f"    result = self.model({', '.join(names)})"]
    for path, length in signature.result_lengths:
        lines.append(f"    assert len({_element(path)}) == {length}, 'the model gives another number of outputs'")
    lines.append(f"    return ({''.join(f'{_element(path)}, ' for path in signature.result_paths)})")
    holder = torch.nn.Module().eval()
    holder.model = script
    wrapped: Any = torch.jit.script(holder)
    wrapped.define("\n".join([*lines, ""]))
    return wrapped  # type: ignore[no-any-return]


def _element(path: Sequence[int]) -> str:
    return "result" + "".join(f"[{index}]" for index in path)


def _place(source: Path, target: Path, link: bool) -> None:
    try:
        with replacing(target) as unfinished:
            if link:
                os.link(source, unfinished)
            else:
                shutil.copyfile(source, unfinished)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise ValueError(
                f"link must be left out where {source} and the repository {target.parent} are on different file "
                "systems, as they are here; the model is copied then"
            ) from error
        raise


def _preload(script: torch.jit.ScriptModule) -> tuple[str, ...]:
    """What must be loaded before the model is: the backend registers no class of its own accord."""
    backends = {found.backend for found in find_engines(script)}
    libraries: list[runtime.Library] = ["runtime"] if backends else []
    libraries += ["openvino"] if "openvino" in backends else []
    return tuple(runtime.library_path(library).name for library in libraries)


def _write_launch(exported: Exported, script: torch.jit.ScriptModule, with_libraries: bool) -> Exported:
    """Writes the script that starts the server, and copies what it loads if that is asked for."""
    notes = list(exported.notes)
    copied: list[str] = []
    folder, others = shlex.quote(str(runtime.library_path("runtime").parent)), ""
    openvino = runtime.package_folder("openvino")
    uses_openvino = runtime.library_path("openvino").name in exported.preload
    if with_libraries:
        folder = '"$here/lib"'
        copied = _copy_libraries(exported.folder / "lib", _needed_libraries(exported, uses_openvino))
    elif uses_openvino and openvino:
        others = shlex.quote(str(openvino / "libs")) + " "
    own_plugins = sorted({name for engine in inspect_model(script).engines for name in engine.plugin_libraries})
    missing = [name for name in own_plugins if name not in copied]
    if missing:
        notes.append(
            f"the engines need {', '.join(missing)} in the folder of libtorch_trt_ext.so, or in one that "
            "TORCH_TRT_EXT_PLUGIN_PATH names"
        )
    launch = exported.folder / "launch"
    values = {"folder": folder, "folders": others, "preload": " ".join(map(shlex.quote, exported.preload))}
    launch.write_text(_LAUNCH % values, encoding="utf-8")
    launch.chmod(0o755)
    return replace(exported, libraries=tuple(copied), notes=tuple(notes))


def _needed_libraries(exported: Exported, uses_openvino: bool) -> list[Path]:
    needed = [runtime.library_path("runtime").with_name(name) for name in exported.preload]
    if exported.preload and runtime.library_path("plugins").exists():
        needed.append(runtime.library_path("plugins"))
    openvino = runtime.package_folder("openvino")
    if uses_openvino and openvino:
        needed += [path for pattern in _OPENVINO_LIBRARIES for path in sorted((openvino / "libs").glob(pattern))]
    return needed


def _copy_libraries(folder: Path, libraries: Sequence[Path]) -> list[str]:
    folder.mkdir(exist_ok=True)
    for library in libraries:
        shutil.copy2(library, folder / library.name)
    return [library.name for library in libraries]
