"""What Triton must be told of a saved model: its inputs and outputs, and which batches it takes.

Inputs come from what the model is run on and from the profiles of the engines that take them; outputs from running it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torch_trt_ext.contents import EngineInfo, IoInfo, inspect_model
from torch_trt_ext.optimizer.messages import what_failed
from torch_trt_ext.optimizer.model_input import argument_names
from torch_trt_ext.optimizer.samples import resized
from torch_trt_ext.optimizer.script_module import attributes_to, find_engines
from torch_trt_ext.optimizer.structures import (
    describe,
    detach_clone,
    dtype_name,
    is_mapping,
)
from torch_trt_ext.triton_config import TRITON_TYPES, ServedTensor
from torch_trt_ext.triton_result import Structure, declared_structure, structure_of

__all__ = ["Batches", "OutputSpec", "Signature", "input_items", "read_signature"]

#: The largest batch that is taken from profiles alone: some are open-ended, and a server should say what it wants.
LARGEST_DEFAULT_BATCH = 32

#: torch's C++ names of the dtypes that the backend knows, which are the engines' words too.
_DTYPES_OF_WORDS = {
    "Bool": torch.bool,
    "Byte": torch.uint8,
    "Char": torch.int8,
    "Short": torch.int16,
    "Int": torch.int32,
    "Long": torch.int64,
    "Half": torch.float16,
    "Float": torch.float32,
    "Double": torch.float64,
}

_Shape = tuple[int, ...]
_Item = tuple[Any, ...]


@dataclass(frozen=True)
class OutputSpec:
    """An output of a model that cannot be run.

    Attributes:
        shape: all sizes, -1 where they vary.
        dtype: of the tensor.
    """

    shape: _Shape
    dtype: torch.dtype


@dataclass(frozen=True)
class Batches:
    """Which batches a model takes.

    Attributes:
        largest: 0 where Triton shall make none.
        preferred: those that are worth making, in order.
    """

    largest: int = 0
    preferred: tuple[int, ...] = ()


@dataclass(frozen=True)
class Signature:
    """What a model takes and gives, as Triton's PyTorch backend sees it.

    Attributes:
        inputs: in the order of ``forward``.
        outputs: in the order in which they come, containers within containers laid flat.
        example_shapes: of the inputs in one call.
        batches: which batches it takes.
        result_paths: for each output the positions that lead to it from the result, none for the result itself.
        result_lengths: for each list in the result, its positions and its length.
        notes: what a user should know.
    """

    inputs: tuple[ServedTensor, ...]
    outputs: tuple[ServedTensor, ...]
    example_shapes: tuple[_Shape, ...]
    batches: Batches
    result_paths: tuple[tuple[int, ...], ...]
    result_lengths: tuple[tuple[tuple[int, ...], int], ...]
    notes: tuple[str, ...]

    @property
    def is_servable(self) -> bool:
        """Whether the backend takes the result as it is: a tensor, or a tuple of tensors."""
        return not self.result_lengths and all(len(path) <= 1 for path in self.result_paths)


def input_items(script: torch.jit.ScriptModule, device: torch.device) -> list[_Item]:
    """Arguments of a call, made from the profiles of engines that take ``forward``'s arguments as they are.

    Raises:
        ValueError: there is an argument that no engine takes so.
    """
    ports = _direct_ports(script, inspect_model(script).engines)
    items = []
    for name in argument_names(script):
        port = next((port for port in ports.get(name, []) if port.ranges and port.dtype in _DTYPES_OF_WORDS), None)
        if port is None:
            raise ValueError(
                f"argument {name!r} of forward must have a shape, but no engine takes it as it comes, so none is "
                "known; give --input 1x3x224x224, once for each argument"
            )
        items.append(torch.zeros(port.ranges[0][1], dtype=_DTYPES_OF_WORDS[port.dtype], device=device))
    return [tuple(items)]


def read_signature(
    script: torch.jit.ScriptModule,
    items: Sequence[_Item],
    *,
    profiles: Sequence[Sequence[Sequence[int]]] = (),
    outputs: Sequence[OutputSpec] = (),
    max_batch_size: int | None = None,
    index_names: bool = False,
) -> Signature:
    """Finds out what a model takes and gives.

    Args:
        script: the model, on the device of the items.
        items: arguments of calls; sizes that differ between them vary.
        profiles: smallest, optimal and largest shape of each input, where the user gave them.
        outputs: what the model gives; it is not run then.
        max_batch_size: 0 for no batches; None for what the profiles and the items allow.
        index_names: whether inputs are called ``INPUT__0``, ``INPUT__1``, and not as ``forward`` calls them.

    Raises:
        TypeError: an argument or an output is of a kind that the backend does not know.
        ValueError: a dtype is, or the arguments do not fit together.
        RuntimeError: the model cannot run here.
    """
    names = _input_names(script, items[0], index_names)
    calls = [_tensors_of(item) for item in items]
    _check_calls(names, calls)
    engines = inspect_model(script).engines
    shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in calls]
    shapes += [[tuple(shape) for shape in column] for column in zip(*profiles, strict=True)] if profiles else []
    varying = [_merged([call[index] for call in shapes], names[index]) for index in range(len(names))]
    ports = {} if is_mapping(items[0][0]) else _direct_ports(script, engines)
    for index, name in enumerate(argument_names(script)):
        for port in ports.get(name, []):
            varying[index] = _with_ranges(varying[index], port)

    notes: list[str] = []
    batches = _batches(engines, varying, shapes, profiles, max_batch_size, notes)
    if outputs:
        structure = declared_structure(script, len(outputs))
        found = [ServedTensor(f"OUTPUT__{index}", output.dtype, output.shape) for index, output in enumerate(outputs)]
        if batches.largest and any(tensor.shape[:1] != (-1,) for tensor in found):
            batches = _unbatched("the outputs that were given do not all begin with -1", max_batch_size, notes)
    else:
        structure, found, batches = _run(script, items, batches, max_batch_size, notes)
    if batches.largest:
        varying = [(-1, *shape[1:]) for shape in varying]
        found = [ServedTensor(tensor.name, tensor.dtype, (-1, *tensor.shape[1:])) for tensor in found]
    for tensor in found:
        if tensor.dtype not in TRITON_TYPES:
            raise ValueError(_dtype_message("output", tensor.name, tensor.dtype))
    return Signature(
        inputs=tuple(
            ServedTensor(name, tensor.dtype, shape)
            for name, tensor, shape in zip(names, calls[0], varying, strict=True)
        ),
        outputs=tuple(found),
        example_shapes=tuple(tuple(tensor.shape) for tensor in calls[0]),
        batches=batches,
        result_paths=tuple(path for path, _ in structure.tensors),
        result_lengths=tuple(structure.lengths),
        notes=tuple(notes),
    )


def _dtype_message(what: str, name: str, dtype: torch.dtype) -> str:
    known = ", ".join(map(dtype_name, TRITON_TYPES))
    return (
        f"{what} {name!r} must have a dtype that Triton's PyTorch backend knows ({known}), got {dtype_name(dtype)}; "
        "cast it in the model, and save that"
    )


def _input_names(script: torch.jit.ScriptModule, item: _Item, index_names: bool) -> list[str]:
    module: Any = script._c
    arguments: Any = module._get_method("forward").schema.arguments[1:]
    if len(arguments) == 1 and arguments[0].type.kind() == "DictType":
        if len(item) != 1 or not is_mapping(item[0]):
            raise TypeError(
                f"argument {arguments[0].name!r} of forward is a dict, and must be given by --inputs FILE, got "
                f"{describe(item)}; torch.save(({{'images': images}},), path) makes one"
            )
        return [str(key) for key in item[0]]
    for argument in arguments:
        if argument.type.kind() != "TensorType":
            raise TypeError(
                f"argument {argument.name!r} of forward must be a tensor for Triton's PyTorch backend, got "
                f"{argument.type}; wrap the model in a module whose forward takes tensors only, and save that"
            )
    if not arguments:
        raise TypeError("forward must take a tensor for Triton's PyTorch backend, it takes no argument")
    if len(item) != len(arguments):
        raise ValueError(
            f"inputs must be given for each argument of forward, which takes "
            f"{', '.join(argument.name for argument in arguments)}, got {describe(item)}"
        )
    return [f"INPUT__{index}" if index_names else argument.name for index, argument in enumerate(arguments)]


def _tensors_of(item: _Item) -> list[Any]:
    return list(item[0].values()) if is_mapping(item[0]) else list(item)


def _check_calls(names: Sequence[str], calls: Sequence[Sequence[Any]]) -> None:
    for tensors in calls:
        if len(tensors) != len(names) or not all(isinstance(tensor, Tensor) for tensor in tensors):
            raise TypeError(
                f"inputs must be the tensors {', '.join(names)} in each call, got {describe(list(tensors))}"
            )
    for index, name in enumerate(names):
        dtypes = {tensors[index].dtype for tensors in calls}
        if len(dtypes) > 1:
            got = ", ".join(sorted(map(dtype_name, dtypes)))
            raise ValueError(f"input {name!r} must have the same dtype in all calls, got {got}")
        if dtypes.isdisjoint(TRITON_TYPES):
            raise ValueError(_dtype_message("input", name, calls[0][index].dtype))


def _merged(shapes: Sequence[_Shape], name: str) -> _Shape:
    """Sizes, -1 where they differ."""
    if len({len(shape) for shape in shapes}) > 1:
        raise ValueError(
            f"{name!r} must have the same number of dimensions in all calls, got "
            f"{' and '.join(str(list(shape)) for shape in dict.fromkeys(shapes))}"
        )
    return tuple(sizes[0] if len(set(sizes)) == 1 else -1 for sizes in zip(*shapes, strict=True))


def _with_ranges(shape: _Shape, port: IoInfo) -> _Shape:
    """Sizes, -1 also where an engine's profiles leave them open."""
    if port.shape is None or len(port.shape) != len(shape):
        return shape
    # Where there are profiles they say more than the shape: all may be for the same size.
    known = _merged([tuple(one) for triple in port.ranges for one in triple], port.name) if port.ranges else port.shape
    return tuple(-1 if own == -1 else size for size, own in zip(shape, known, strict=True))


def _direct_ports(script: torch.jit.ScriptModule, engines: Sequence[EngineInfo]) -> dict[str, list[IoInfo]]:
    """For each argument of ``forward`` the inputs of engines that get it as it comes."""
    graph: Any = script.inlined_graph
    arguments = list(graph.inputs())[1:]
    names = {value.debugName(): name for value, name in zip(arguments, argument_names(script), strict=True)}
    by_path = {engine.path: engine for engine in engines if engine.path}
    ports: dict[str, list[IoInfo]] = {}
    for node in graph.findAllNodes("prim::CallMethod"):
        engine = by_path.get(".".join(attributes_to(node.inputsAt(0).node())))
        values = node.inputsAt(1).node() if node.s("name") == "forward" else None
        if engine is None or values is None or values.kind() != "prim::ListConstruct":
            continue
        for value, port in zip(values.inputs(), engine.inputs, strict=False):
            if value.debugName() in names:
                ports.setdefault(names[value.debugName()], []).append(port)
    return ports


def _batches(
    engines: Sequence[EngineInfo],
    varying: Sequence[_Shape],
    shapes: Sequence[Sequence[_Shape]],
    profiles: Sequence[Sequence[Sequence[int]]],
    wanted: int | None,
    notes: list[str],
) -> Batches:
    """The batches that the engines' profiles and the user's shapes allow."""
    if wanted == 0:
        return Batches()
    if not all(varying) or any(len({shape[0] for shape in call}) > 1 for call in shapes):
        return _unbatched("the inputs do not all have the batch as their first dimension", wanted, notes)
    ranges, preferred = _engine_batches(engines)
    if {call[0][0] for call in shapes} != {shapes[0][0][0]}:
        batches = [call[0][0] for call in shapes]
        ranges.append((min(batches), max(batches)))
    preferred |= {triple[1][0] for triple in profiles}
    if wanted is None and not ranges:
        return Batches()
    least, most = max((low for low, _ in ranges), default=1), min((high for _, high in ranges), default=1)
    if ranges and least >= most:
        if wanted is None:
            return Batches()
        return _unbatched(f"the engines take batches of {least} only", wanted, notes)
    if least > 1:
        return _unbatched(f"batches must be of {least} or more, and Triton sends single requests too", wanted, notes)
    largest = min(most, LARGEST_DEFAULT_BATCH) if wanted is None else wanted
    if wanted is None and most > largest:
        notes.append(f"engines take batches of up to {most}, Triton makes {largest}; --max-batch-size sets another")
    if wanted is not None and ranges and wanted > most:
        notes.append(f"engines take batches of up to {most}; larger ones, up to {wanted}, run without them or fail")
    return Batches(largest, tuple(sorted({size for size in preferred if 1 < size < largest} | {largest})))


def _engine_batches(engines: Sequence[EngineInfo]) -> tuple[list[tuple[int, int]], set[int]]:
    """For each engine the smallest and the largest first size of its inputs; and the optimal ones."""
    ranges: list[tuple[int, int]] = []
    preferred: set[int] = set()
    for engine in engines:
        firsts = [
            [tuple(shape[0] for shape in triple) for triple in port.ranges] for port in engine.inputs if port.shape
        ]
        # Inputs of one size are weights or the like, unless all are.
        open_ones = [triples for triples in firsts if len({size for triple in triples for size in triple}) > 1]
        for triples in open_ones or firsts[:1]:
            if not triples:
                continue
            ranges.append((min(triple[0] for triple in triples), max(triple[2] for triple in triples)))
            preferred |= {triple[1] for triple in triples}
    return ranges, preferred


def _unbatched(reason: str, wanted: int | None, notes: list[str]) -> Batches:
    if wanted:
        raise ValueError(f"max_batch_size must be 0 for this model, got {wanted}: {reason}")
    notes.append(f"Triton makes no batches: {reason}")
    return Batches()


def _run(
    script: torch.jit.ScriptModule,
    items: Sequence[_Item],
    batches: Batches,
    wanted: int | None,
    notes: list[str],
) -> tuple[Structure, list[ServedTensor], Batches]:
    """Runs the model on the items, and at its smallest and largest batch."""
    structures = [_call(script, item) for item in items]
    if batches.largest:
        at_sizes = []
        for size in sorted({1, batches.largest}):
            before = _fallbacks(script)
            at_sizes.append((size, _call(script, _resized_item(items[0], size))))
            if _fallbacks(script) > before and _all_run(script):
                notes.append(f"in a batch of {size} an engine's inputs do not fit it, and its subgraph runs instead")
        if all(tensor.shape[:1] == (size,) for size, structure in at_sizes for _, tensor in structure.tensors):
            structures += [structure for _, structure in at_sizes]
        else:
            given = ", ".join(str(list(tensor.shape)) for _, tensor in at_sizes[-1][1].tensors)
            reason = f"the outputs do not all have the batch as their first dimension, {given} for {at_sizes[-1][0]}"
            batches = _unbatched(reason, wanted, notes)
    first = structures[0]
    layout = ([path for path, _ in first.tensors], first.lengths)
    if any(([path for path, _ in other.tensors], other.lengths) != layout for other in structures):
        raise ValueError(
            "the model must give the same number of outputs in all calls, got "
            f"{' and '.join(str(len(structure.tensors)) for structure in structures)}"
        )
    outputs = []
    for index, (_, tensor) in enumerate(first.tensors):
        same = [structure.tensors[index][1] for structure in structures]
        name = f"OUTPUT__{index}"
        outputs.append(ServedTensor(name, tensor.dtype, _merged([tuple(one.shape) for one in same], name)))
    return first, outputs, batches


def _call(script: torch.jit.ScriptModule, item: _Item) -> Structure:
    try:
        # As the backend calls it.
        with torch.inference_mode():
            result = script(*detach_clone(item))
    except Exception as error:  # whatever the model's own code raises
        raise RuntimeError(
            f"the model must run here, so that its outputs are known, but on {describe(item)} it fails: "
            f"{what_failed(error)}; give other inputs, or --output-shape 1x100:float32 once for each output"
        ) from error
    return structure_of(result)


def _resized_item(item: _Item, batch: int) -> _Item:
    def at(tensor: Tensor) -> Tensor:
        return resized(tensor, (batch, *tensor.shape[1:]))

    if is_mapping(item[0]):
        return ({key: at(tensor) for key, tensor in item[0].items()},)
    return tuple(at(tensor) for tensor in item)


def _fallbacks(script: torch.jit.ScriptModule) -> int:
    return sum(found.engine.counters()["fallbacks"] for found in find_engines(script))


def _all_run(script: torch.jit.ScriptModule) -> bool:
    return all(found.engine.can_run() for found in find_engines(script))
