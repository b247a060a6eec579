"""Which nodes may become part of an engine, as far as that is known before one is built."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

import torch

from torch_trt_ext._C import NodeInfo, Session, ValueRecord
from torch_trt_ext.config import PartitionConfig
from torch_trt_ext.optimizer.onnx_export import has_onnx_form
from torch_trt_ext.optimizer.plugin_operators import PluginOperator, registered_plugin_operators
from torch_trt_ext.optimizer.report import DeviceType
from torch_trt_ext.optimizer.structures import dtype_name

#: torch's C++ names of dtypes.
DTYPES = {
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Double": torch.float64,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}

#: What engines of both kinds read and write.
_ENGINE_DTYPES = {"Float", "Half", "BFloat16", "Long", "Int", "Char", "Byte", "Bool"}

#: Nodes that only hold others together; they need no ONNX form of their own.
_STRUCTURE = {"prim::If", "prim::ListUnpack", "prim::unchecked_cast", "aten::_unwrap_optional"}

#: What they give is whatever was in memory.
_UNINITIALIZED = {"aten::empty", "aten::empty_like", "aten::new_empty", "aten::empty_strided"}

#: Integer arithmetic whose result can leave 32 bits though its arguments do not. On the CPU OpenVINO computes int64 as
#: int32.
_GROWING_INTEGERS = {
    "aten::add",
    "aten::sub",
    "aten::rsub",
    "aten::mul",
    "aten::pow",
    "aten::square",
    "aten::sum",
    "aten::cumsum",
    "aten::prod",
    "aten::cumprod",
    "aten::matmul",
    "aten::mm",
    "aten::bmm",
    "aten::dot",
    "aten::addmm",
    "aten::addcmul",
    "aten::bitwise_left_shift",
    "aten::__lshift__",
    "aten::neg",
    "aten::abs",
    "aten::to",
    "aten::floor_divide",
    "aten::diff",
}


def occurrences(nodes: Sequence[NodeInfo]) -> dict[int, str]:
    """Names each node ``aten::op@k``, the k-th of its kind in program order, counted from 0."""
    counts: dict[str, int] = defaultdict(int)
    names = {}
    for node in nodes:
        names[node.id] = f"{node.kind}@{counts[node.kind]}"
        counts[node.kind] += 1
    return names


def _matches(entry: str, node: NodeInfo, name: str) -> bool:
    if "::" in entry:
        return name == entry if "@" in entry else node.kind == entry
    return node.module_path == entry or node.module_path.startswith(entry + ".")


def find_taken_branches(nodes: Sequence[NodeInfo], session: Session, *, shapes_vary: bool) -> dict[int, int]:
    """Which side each branch took in every run, of those that an engine's own checks hold to that side.

    A condition made from sizes decides alike only for one shape, so with varying shapes such branches are left out.
    """
    taken = {}
    for node in nodes:
        if node.kind == "prim::If" and not (shapes_vary and node.condition_on_sizes):
            reached = [session.branches.get(2 * node.id + side, 0) > 0 for side in (0, 1)]
            if sum(reached) == 1:
                taken[node.id] = reached.index(True)
    return taken


def find_unsupported(
    nodes: Sequence[NodeInfo],
    session: Session,
    partition: PartitionConfig,
    device_type: DeviceType,
    plugin_operators: Mapping[str, PluginOperator] | None = None,
) -> dict[int, str]:
    """Why a node must stay in PyTorch, by node number, for those that must.

    Args:
        nodes: all nodes of the prepared model.
        session: what the runs on the test data showed.
        partition: the user's allow and deny lists.
        device_type: what the engine is for.
        plugin_operators: operators that engines have plugins for, by name.
    """
    names = occurrences(nodes)
    target = _device_name(device_type)
    elsewhere = _find_made_elsewhere(nodes, session.values, target)
    unsupported = {}
    for node in nodes:
        if not _is_judged(node):
            continue
        reason = (
            _denied(node, names[node.id], partition)
            or _without_form(node.kind, plugin_operators or {})
            or _unsupported(node, session.values, target, elsewhere)
        )
        if reason:
            unsupported[node.id] = reason
    return unsupported


def _is_judged(node: NodeInfo) -> bool:
    """Whether a node may be at fault: operators, and what holds them together, but not what has roles of its own."""
    return not node.kind.startswith("prim::") or node.kind in _STRUCTURE


def _denied(node: NodeInfo, name: str, partition: PartitionConfig) -> str:
    for entry in partition.deny:
        if _matches(entry, node, name):
            return f"is on the deny list as {entry!r}"
    if (
        partition.allow
        and node.kind not in _STRUCTURE
        and not any(_matches(entry, node, name) for entry in partition.allow)
    ):
        return "is not on the allow list"
    return ""


def _without_form(kind: str, plugin_operators: Mapping[str, PluginOperator]) -> str:
    if kind in _UNINITIALIZED:
        return "gives uninitialized memory"
    if kind in _STRUCTURE or kind in plugin_operators or has_onnx_form(kind):
        return ""
    reason = f"has no ONNX form ({kind})"
    plugin = registered_plugin_operators().get(kind)
    return f"{reason}, and CPU engines no TensorRT plugins such as '{plugin.plugin}'" if plugin else reason


def _device_name(device_type: DeviceType) -> str:
    """What torch calls the devices that an engine's tensors are on, without the number of one."""
    return "cuda" if device_type == "gpu" else "cpu"


def find_border_crossings(
    nodes: Sequence[NodeInfo],
    members: Collection[int],
    border: Collection[int],
    values: Mapping[int, ValueRecord],
    device_type: DeviceType,
) -> dict[int, str]:
    """Why nodes cannot be in a subgraph since tensors on another device than the engine's go in or out.

    Args:
        nodes: all nodes of the prepared model.
        members: numbers of the subgraph's nodes.
        border: numbers of the tensors that it takes or gives.
        values: what the runs showed.
        device_type: what the engine is for.

    Returns:
        Reasons by node number: for those that take or give such a tensor, and for all that depend on these for theirs.
    """
    target = _device_name(device_type)
    away = {number for number, record in values.items() if not record.device.startswith(target)}
    crossing = away & set(border)
    if not crossing:
        return {}
    # What an excluded node takes and gives then crosses the border as well.
    inside = [(node, away & {*node.inputs, *node.outputs}) for node in nodes if node.id in members]
    touching = [own for _, own in inside if own & crossing]
    while touching and not crossing.issuperset(set().union(*touching)):
        crossing = crossing.union(*touching)
        touching = [own for _, own in inside if own & crossing]
    found = {}
    # Through a list nobody takes a tensor by its number.
    for node, own in inside:
        shared = own & crossing if touching else own
        if shared and _is_judged(node):
            reason = _gives_elsewhere if shared & set(node.outputs) else _takes_elsewhere
            found[node.id] = reason(values[min(shared)], target)
    return found or dict.fromkeys(members, f"is in a subgraph that {_takes_elsewhere(values[min(crossing)], target)}")


def _gives_elsewhere(record: ValueRecord, target: str) -> str:
    return f"gives a tensor on {record.device}, and the engine's are on {target}"


def _takes_elsewhere(record: ValueRecord, target: str) -> str:
    return f"takes a tensor on {record.device}, and the engine's are on {target}"


def _find_made_elsewhere(nodes: Sequence[NodeInfo], values: Mapping[int, ValueRecord], target: str) -> set[int]:
    """Values on another device than the engine's that an engine can make all the same.

    A model may count positions on the CPU and move them to the GPU. Where all that a value depends on are numbers,
    sizes and constants, and it stays within the engine, nobody can tell where it was made.
    """
    found: set[int] = set()
    for node in nodes:
        gives = {value for value in node.outputs if value in values}
        takes = {value for value in node.inputs if value in values}
        away = not any(values[value].device.startswith(target) for value in gives)
        if node.kind != "prim::If" and takes <= found and away:
            found |= gives
    return found


def _unsupported(node: NodeInfo, values: Mapping[int, ValueRecord], target: str, elsewhere: Collection[int]) -> str:
    # Undefined tensors, which operators may give for outputs that nobody asked for, leave no record.
    given = [value for value in node.outputs if value in values]
    if node.outputs and not given:
        return "was not reached with the test data"
    for value in given:
        record = values[value]
        if not record.consistent:
            return "gives tensors whose rank, dtype or device varies"
        if record.dtype not in _ENGINE_DTYPES:
            return f"gives a tensor of dtype {_word(record.dtype)}, which engines do not compute in"
        if not record.device.startswith(target) and value not in elsewhere:
            return _gives_elsewhere(record, target)
        if target == "cpu" and record.dtype == "Long" and node.kind in _GROWING_INTEGERS and not _is_small(node):
            return "computes in int64, and the CPU engine only in int32"
        if target == "cpu" and _is_wide(record):
            return "gives integers beyond 32 bits, and the CPU engine computes in int32"
    for value in node.inputs:
        if value not in values:
            continue
        record = values[value]
        if record.dtype not in _ENGINE_DTYPES or not record.consistent:
            return f"takes a tensor of dtype {_word(record.dtype)}, which engines do not compute in"
        if target == "cpu" and _is_wide(record):
            return "takes integers beyond 32 bits, and the CPU engine computes in int32"
        if not record.device.startswith(target) and value not in elsewhere:
            return _takes_elsewhere(record, target)
    return ""


def _is_wide(record: ValueRecord) -> bool:
    return record.dtype == "Long" and record.max_abs >= 2**31


def _is_small(node: NodeInfo) -> bool:
    """Whether what a node gives fits 32 bits whatever the data are."""
    return node.only_indexes or (node.magnitude is not None and node.magnitude < 2**31)


def _word(dtype: str) -> str:
    return dtype_name(DTYPES[dtype]) if dtype in DTYPES else dtype


def find_sensitive(
    nodes: Sequence[NodeInfo], members: Collection[int], values: Mapping[int, ValueRecord], largest: float
) -> dict[int, str]:
    """Nodes of a subgraph whose recorded values a 16-bit type does not hold, with the reason.

    Args:
        nodes: all nodes.
        members: numbers of the subgraph's nodes.
        values: what the runs showed.
        largest: the largest finite number of the type.
    """
    sensitive = {}
    for node in nodes:
        if node.id not in members:
            continue
        for value in node.outputs:
            record = values.get(value)
            if record is None or record.dtype != "Float":
                continue
            if record.max_abs > largest / 2:
                sensitive[node.id] = f"reached {record.max_abs:.3g} with the test data"
            elif any(_is_integer(values.get(source)) for source in node.inputs):
                sensitive[node.id] = "turns integers into numbers, which 16 bits hold up to 2048 only"
    return sensitive


def _is_integer(record: ValueRecord | None) -> bool:
    return record is not None and record.dtype in {"Long", "Int"} and record.max_abs > 2048


def count_flops(node: NodeInfo, values: Mapping[int, ValueRecord]) -> float:
    """Multiplications and additions of a convolution or matrix product at the largest shapes seen, else 0."""
    record = values.get(node.outputs[0]) if node.outputs else None
    if record is None:
        return 0.0
    outputs = float(torch.Size(record.max_shape).numel())
    weights = [shape for shape in node.weights if len(shape) >= 2]
    if node.kind in {"aten::conv1d", "aten::conv2d", "aten::conv3d", "aten::_convolution", "aten::convolution"}:
        return 2 * outputs * float(torch.Size(weights[0][1:]).numel()) if weights else 0.0
    if node.kind in {"aten::linear", "aten::addmm", "aten::matmul", "aten::mm", "aten::bmm", "aten::baddbmm"}:
        sources = [values[value] for value in node.inputs if value in values]
        inner = weights[0][-1] if weights and node.kind == "aten::linear" else 0
        if not inner and sources and sources[0].max_shape:
            inner = sources[0].max_shape[-1]
        return 2 * outputs * inner
    if node.kind in {"aten::scaled_dot_product_attention", "aten::_native_multi_head_attention"} and node.inputs:
        query = values.get(node.inputs[0])
        if query is None or len(query.max_shape) < 2:
            return 0.0
        products = 4 * outputs * query.max_shape[-2]
        if node.kind == "aten::_native_multi_head_attention":
            products += 2 * outputs * 4 * query.max_shape[-1]
        return products
    return 0.0
