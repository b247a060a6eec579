"""What is in a saved model: its engines with their shapes, precisions, sizes and layers; needs no GPU."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torch_trt_ext.optimizer.model_input import load_script
from torch_trt_ext.optimizer.script_module import FoundEngine, find_engines
from torch_trt_ext.optimizer.structures import dtype_name
from torch_trt_ext.saved_file import extra_files_of

__all__ = ["Contents", "EngineInfo", "IoInfo", "Layer", "inspect_file", "inspect_model"]

#: Sizes, and the ranges of the profiles.
_InputShape = tuple[list[int] | None, list[list[list[int]]]]

_OPENVINO_PRECISIONS = {b"f32": "float32", b"bf16": "bfloat16", b"f16": "float16"}
_OPENVINO_PRECISION = re.compile(rb'<inference_precision value="(\w+)"')


@dataclass(frozen=True)
class IoInfo:
    """An input or output of an engine.

    Attributes:
        name: as the engine has it.
        dtype: the word for its type, as "Float".
        shape: sizes, -1 where they vary; None where a file of an older version does not say.
        ranges: of an input, smallest, optimal and largest shape of each profile.
    """

    name: str
    dtype: str
    shape: list[int] | None
    ranges: list[list[list[int]]]


@dataclass(frozen=True)
class Layer:
    """A layer of an engine after fusion; what the engine library does not tell is empty.

    Attributes:
        name: the library's name for it.
        kind: the library's word for what it is.
        precision: types of what it computes.
    """

    name: str
    kind: str
    precision: str


@dataclass(frozen=True)
class EngineInfo:
    """An engine in a model.

    Attributes:
        path: of the attribute that holds it, as ``engine_0.engine``; empty where freezing made it a constant.
        name: what it is called in torch's profiler; may be empty.
        backend: "tensorrt" or "openvino".
        from_optimize: whether ``optimize()`` built it; False for a user's own, and for one that is a constant.
        inputs: in the order in which it takes them.
        outputs: in the order in which it gives them.
        precision: what it was told to compute in; empty where the plan does not say (TensorRT has it in its layers).
        plan_bytes: size of the plan.
        fallback_bytes: size of the tensors of the subgraph that it replaced; None where there is no fallback.
        plugin_libraries: file names of the plugin libraries that were open when it was made.
        made_on: facts about the machine it was made on.
        cuda_graphs: whether it records its calls in CUDA graphs.
        why_not: why it cannot run here; empty where it can.
        layers: after fusion; None where it cannot run.
    """

    path: str
    name: str
    backend: str
    from_optimize: bool
    inputs: list[IoInfo]
    outputs: list[IoInfo]
    precision: str
    plan_bytes: int
    fallback_bytes: int | None
    plugin_libraries: list[str]
    made_on: dict[str, list[str]]
    cuda_graphs: bool
    why_not: str
    layers: list[Layer] | None


@dataclass(frozen=True)
class Contents:
    """What is in a saved model.

    Attributes:
        file_bytes: size of the file; None for a model that came as an object.
        extra_files: their names.
        arguments: of ``forward``, each with its type as TorchScript writes it.
        tensor_bytes: size of all tensors besides plans; those of fallbacks included.
        tensor_dtypes: dtypes of these tensors, those of most bytes first.
        engines: those that the model's methods use.
    """

    file_bytes: int | None
    extra_files: list[str]
    arguments: dict[str, str]
    tensor_bytes: int
    tensor_dtypes: list[str]
    engines: list[EngineInfo]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def inspect_file(path: str | os.PathLike[str]) -> Contents:
    """Reads what is in a TorchScript file, on any machine.

    Args:
        path: a file that ``torch.jit.save`` wrote. Custom operators in it must be loaded.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no TorchScript file.
        RuntimeError: torch cannot load it here.
    """
    path = Path(path)
    extra_files = sorted(extra_files_of(path))
    script = load_script(os.fspath(path), torch.device("cpu"))
    return inspect_model(script, file_bytes=path.stat().st_size, extra_files=extra_files)


def inspect_model(
    script: torch.jit.ScriptModule, *, file_bytes: int | None = None, extra_files: list[str] | None = None
) -> Contents:
    """Says what is in a model that is loaded already.

    Args:
        script: the model.
        file_bytes: size of its file.
        extra_files: names of its extra files.
    """
    module: Any = script._c
    arguments = module._get_method("forward").schema.arguments[1:] if module._has_method("forward") else []
    sizes: dict[str, int] = {}
    for tensor in _tensors(script):
        name = dtype_name(tensor.dtype)
        sizes[name] = sizes.get(name, 0) + _bytes(tensor)
    return Contents(
        file_bytes=file_bytes,
        extra_files=extra_files or [],
        arguments={argument.name: str(argument.type) for argument in arguments},
        tensor_bytes=sum(sizes.values()),
        tensor_dtypes=sorted(sizes, key=lambda name: -sizes[name]),
        engines=[_engine_info(found) for found in find_engines(script)],
    )


def _engine_info(found: FoundEngine) -> EngineInfo:
    engine = found.engine
    input_names, output_names, input_types, output_types = engine.io_names()
    inputs, outputs = _shapes(engine, len(input_names), len(output_names))
    subgraph = getattr(found.module, "subgraph", None)
    runs = engine.can_run()
    plan = engine.plan()
    return EngineInfo(
        path=found.path,
        name=engine.name(),
        backend=found.backend,
        from_optimize=found.module is not None,
        inputs=[
            IoInfo(name, word, shape, ranges)
            for name, word, (shape, ranges) in zip(input_names, input_types, inputs, strict=True)
        ],
        outputs=[
            IoInfo(name, word, shape, []) for name, word, shape in zip(output_names, output_types, outputs, strict=True)
        ],
        precision=_openvino_precision(plan) if found.backend == "openvino" else "",
        plan_bytes=plan.numel(),
        fallback_bytes=None if subgraph is None else sum(map(_bytes, _tensors(subgraph))),
        plugin_libraries=list(engine.plugin_libraries()),
        made_on={fact: list(values) for fact, values in engine.made_on().items()},
        cuda_graphs=engine.cuda_graphs(),
        why_not="" if runs else engine.why_not(),
        layers=_layers(engine.layer_info()) if runs else None,
    )


def _shapes(engine: Any, inputs: int, outputs: int) -> tuple[list[_InputShape], list[list[int] | None]]:
    """Shape and ranges of each input, and shape of each output."""
    try:
        profiles = engine.profiles()
        input_shapes: list[_InputShape] = [
            (list(shape), [[list(sizes) for sizes in profile[index]] for profile in profiles])
            for index, shape in enumerate(engine.input_shapes())
        ]
        return input_shapes, [list(shape) for shape in engine.output_shapes()]
    except RuntimeError:
        # The engine cannot run here, and its file is from before shapes were saved, or they were never known.
        return [(None, [])] * inputs, [None] * outputs


def _openvino_precision(plan: Tensor) -> str:
    # The setting is at the end of the XML, which the weights follow.
    match = _OPENVINO_PRECISION.search(plan.cpu().numpy().tobytes())
    return _OPENVINO_PRECISIONS.get(match[1], match[1].decode()) if match else "float32"


def _layers(text: str) -> list[Layer]:
    """The layers of ``layer_info()``; TensorRT lists only names unless the engine was built to tell more."""
    layers: list[Any] = json.loads(text).get("Layers", [])
    return [
        Layer(layer, "", "")
        if isinstance(layer, str)
        else Layer(layer.get("Name", ""), layer.get("LayerType", ""), _layer_precision(layer))
        for layer in layers
    ]


def _layer_precision(layer: dict[str, Any]) -> str:
    if "Precision" in layer:
        return str(layer["Precision"])
    outputs = [output for output in layer.get("Outputs", []) if isinstance(output, dict)]
    return ", ".join(dict.fromkeys(str(output.get("Format/Datatype", "")) for output in outputs))


def _tensors(script: Any) -> list[Tensor]:
    """The tensors that a model keeps: parameters, buffers, and the constants that freezing made of them."""
    tensors = [*script.parameters(), *script.buffers()]
    for module in script.modules():
        for method in module._c._method_names():
            for node in module._c._get_method(method).graph.findAllNodes("prim::Constant"):
                if node.hasAttribute("value") and node.kindOf("value") == "t":
                    tensors.append(node.t("value"))
    # Only strided tensors say where their memory is.
    places = [tensor.data_ptr() if tensor.layout is torch.strided else id(tensor) for tensor in tensors]
    return list({(place, tensor.numel()): tensor for place, tensor in zip(places, tensors, strict=True)}.values())


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
