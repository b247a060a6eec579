"""TorchScript operators that TensorRT plugins compute: which they are, and what the plugin of a node is made of."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import onnx
import torch

from torch_trt_ext import runtime
from torch_trt_ext.builders.tensorrt_build import register_standard_plugins

__all__ = [
    "PLUGIN_DOMAIN",
    "NoPlugin",
    "PluginNode",
    "PluginOperator",
    "operators_of",
    "register_plugin_operator",
    "registered_plugin_operators",
    "unregister_plugin_operator",
]

#: Domain of ONNX nodes that are plugins. TensorRT's parser goes by a node's operator type, whatever its domain; torch's
#: exporter and ONNX's tools take a node of a domain that they do not know as it is.
PLUGIN_DOMAIN = "TRT"

#: Attributes in which TensorRT's parser looks for more than fields of the plugin.
_VERSION = "plugin_version"
_NAMESPACE = "plugin_namespace"
_PARSERS_OWN = (_VERSION, _NAMESPACE, "tensorrt_plugin_shape_input_indices")

#: Kinds of an operator's arguments that can become fields, and the letters by which torch's exporter calls attributes.
_LETTERS = {"IntType": "i", "BoolType": "i", "FloatType": "f", "NumberType": "f", "StringType": "s"}

#: What the package's own plugins take for fields that are not given; the names end in the letters of torch's exporter.
#: TensorRT's parser warns of each field of a plugin that its node does not have.
_OWN_DEFAULTS: Mapping[str, Mapping[str, int | float | str]] = {
    "GroupNorm": {"eps_f": 1e-5, "variant_i": 0},
    "RetinaNetDecode": {"box_convention_s": "retinanet_examples", "image_height_i": 0, "image_width_i": 0},
    "RetinaNetNMS": {"box_convention_s": "retinanet_examples"},
    "RetinaNetPostProcess": {
        "box_convention_s": "retinanet_examples",
        "has_image_sizes_i": 0,
        "image_height_i": 0,
        "image_width_i": 0,
        "score_activation_s": "none",
    },
}

_OPERATOR = re.compile(r"[A-Za-z_]\w*::[A-Za-z_]\w*")
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")


class NoPlugin(Exception):
    """Why a node cannot be a plugin, as the end of a sentence about it."""


@dataclass(frozen=True)
class PluginNode:
    """What the ONNX node of a plugin is made of.

    Attributes:
        plugin: the plugin's name.
        inputs: positions of the operator's arguments that are tensors or lists of them.
        attributes: by name, with ``_`` and the letter that torch's exporter wants for their type.
        output_types: ``torch.TensorType`` of each output; its dtype and rank may not be known.
    """

    plugin: str
    inputs: Sequence[int]
    attributes: Mapping[str, Any]
    output_types: Sequence[Any]


@dataclass(frozen=True)
class PluginOperator:
    """An operator and the plugin that computes it, as :func:`register_plugin_operator` has them.

    Raises:
        TypeError: a field is of the wrong kind.
        ValueError: a name is none, or the operator has no such argument.
    """

    operator: str
    plugin: str
    version: str = "1"
    namespace: str = ""
    attributes: Mapping[str, int | str] = field(default_factory=dict)
    library: str | None = None
    half: bool = False

    def __post_init__(self) -> None:
        for name in ("operator", "plugin", "version", "namespace"):
            value = getattr(self, name)
            if not isinstance(value, str):
                raise TypeError(f"{name} must be a string, got {type(value).__name__} {value!r}")
        if not isinstance(self.half, bool):
            raise TypeError(f"half must be True or False, got {type(self.half).__name__} {self.half!r}")
        if not _OPERATOR.fullmatch(self.operator):
            raise ValueError(
                f"operator must be a name such as 'torchvision::nms', got {self.operator!r}; overload names such as "
                "'.int' are left out"
            )
        if not _IDENTIFIER.fullmatch(self.plugin):
            raise ValueError(f"plugin must be a name of letters, digits and underscores, got {self.plugin!r}")
        if onnx.defs.has(self.plugin):
            raise ValueError(
                f"plugin must not be called as an operator of ONNX, got {self.plugin!r}, which TensorRT's parser takes "
                "for that; give the plugin another name"
            )
        self._check_attributes()

    def _check_attributes(self) -> None:
        if not isinstance(self.attributes, Mapping):
            raise TypeError(f"attributes must be a dict of fields to arguments, got {type(self.attributes).__name__}")
        for name, argument in self.attributes.items():
            if not isinstance(name, str) or isinstance(argument, bool) or not isinstance(argument, (int, str)):
                raise TypeError(
                    "attributes must map names of the plugin's fields to positions or names of the operator's "
                    f"arguments, got {name!r}: {argument!r}"
                )
            if not _IDENTIFIER.fullmatch(name) or name in _PARSERS_OWN:
                raise ValueError(
                    f"attributes must map names of the plugin's fields, got {name!r}"
                    + (", which TensorRT's parser reads itself" if name in _PARSERS_OWN else "")
                )
        # An operator whose library is not loaded yet has no schemas; the nodes' own are looked at in any case.
        schemas = torch._C._jit_get_schemas_for_operator(self.operator)
        problems = []
        for schema in schemas:
            try:
                for argument in self.attributes.values():
                    _position(torch._C.parse_schema(str(schema)), argument)
            except NoPlugin as problem:
                problems.append(str(problem))
        if schemas and len(problems) == len(schemas):
            raise ValueError(f"attributes must name arguments of {self.operator}, but {problems[0]}")

    def open_library(self) -> str:
        """Opens what brings the plugin; returns why that failed, or an empty string."""
        try:
            if self.library is None:
                register_standard_plugins()
            else:
                runtime.load_plugin_library(self.library)
        except RuntimeError as error:
            return str(error)
        return ""

    def read(self, node: Any) -> PluginNode:
        """What a node of the operator becomes.

        Args:
            node: a ``torch.Node`` whose arguments are constants where they can be.

        Raises:
            NoPlugin: it cannot be a plugin.
        """
        schema = torch._C.parse_schema(node.schema())
        values = list(node.inputs())
        fields: dict[str, Any] = {f"{_VERSION}_s": self.version, f"{_NAMESPACE}_s": self.namespace}
        for name, argument in self.attributes.items():
            position = _position(schema, argument)
            value = _constant(values[position], schema.arguments[position].name)
            # The plugin's own default is what None can mean to it.
            if value is not None:
                letter = _letter(schema.arguments[position])
                fields[f"{name}_{letter}"] = _converted(value, letter, schema.arguments[position].name)
        if self.library is None and (self.version, self.namespace) == ("1", ""):
            given = {field.rpartition("_")[0] for field in fields}
            defaults = _OWN_DEFAULTS.get(self.plugin, {}).items()
            fields |= {field: value for field, value in defaults if field.rpartition("_")[0] not in given}
        for output in node.outputs():
            if not isinstance(output.type(), torch.TensorType):
                raise NoPlugin(f"it gives a {output.type().annotation_str}, and plugins give tensors only")
        return PluginNode(self.plugin, _tensors(schema, values), fields, [output.type() for output in node.outputs()])


def _position(schema: Any, argument: int | str) -> int:
    """Where a schema has an argument that can become a field."""
    names = [known.name for known in schema.arguments]
    if isinstance(argument, str):
        if argument not in names:
            raise NoPlugin(f"it has no argument {argument!r}; its arguments are {', '.join(map(repr, names))}")
        argument = names.index(argument)
    if not 0 <= argument < len(names):
        raise NoPlugin(f"it has no argument {argument}; its {len(names)} arguments are counted from 0")
    if not _letter(schema.arguments[argument]):
        raise NoPlugin(
            f"its argument {names[argument]!r} is a {schema.arguments[argument].type.annotation_str}, and fields are "
            "numbers, lists of numbers and strings"
        )
    return argument


def _without_optional(kind: Any) -> Any:
    return kind.getElementType() if kind.kind() == "OptionalType" else kind


def _letter(argument: Any) -> str:
    """The exporter's letter for attributes of an argument's type, empty for an argument that cannot be one."""
    kind = _without_optional(argument.type)
    if kind.kind() == "ListType":
        letter = _LETTERS.get(kind.getElementType().kind(), "")
        return "" if letter == "s" else letter
    return _LETTERS.get(kind.kind(), "")


def _constant(value: Any, name: str) -> Any:
    kind = value.node().kind()
    if kind == "prim::Constant":
        return value.toIValue()
    if kind == "prim::ListConstruct":
        return [_constant(element, name) for element in value.node().inputs()]
    origin = "an input of the subgraph" if kind == "prim::Param" else f"a value of {kind}"
    raise NoPlugin(f"its argument {name!r} must be a constant, since it is a field of the plugin, got {origin}")


def _converted(value: Any, letter: str, name: str) -> Any:
    """A constant as the attribute's type."""
    if isinstance(value, (list, tuple)):
        return [_converted(element, letter, name) for element in value]
    if letter == "s":
        return str(value)
    if letter == "f":
        return float(value)
    if not -(2**31) <= value < 2**31:
        raise NoPlugin(f"its argument {name!r} must fit int32, which integer fields are, got {value}")
    return int(value)


def _tensors(schema: Any, values: Sequence[Any]) -> list[int]:
    """Positions of the arguments that become the plugin's inputs."""
    positions = []
    left_out = ""
    for position, (argument, value) in enumerate(zip(schema.arguments, values, strict=True)):
        kind = _without_optional(argument.type)
        is_list = kind.kind() == "ListType"
        if _without_optional(kind.getElementType() if is_list else kind).kind() != "TensorType":
            continue
        if value.type().kind() == "NoneType" or value.node().mustBeNone():
            left_out = left_out or argument.name
            continue
        if left_out:
            raise NoPlugin(
                f"its tensor {left_out!r} is None and {argument.name!r} is not, and a plugin's inputs are told "
                "by their order"
            )
        if is_list and value.node().kind() not in ("prim::Constant", "prim::ListConstruct"):
            raise NoPlugin(f"the length of its list of tensors {argument.name!r} is not known")
        positions.append(position)
    return positions


_registered: dict[str, PluginOperator] = {}


def register_plugin_operator(
    operator: str,
    plugin: str,
    *,
    version: str = "1",
    namespace: str = "",
    attributes: Mapping[str, int | str] | None = None,
    library: str | os.PathLike[str] | None = None,
    half: bool = False,
) -> None:
    """Has ``optimize(device_type="gpu")`` put a TensorRT plugin into engines where the model calls an operator.

    The operator's tensors, and those in its lists of tensors, are the plugin's inputs in this order, without those at
    the end that are None. The plugin's outputs are the operator's, of the same shapes and dtypes; int32 may stand for
    int64. The operator itself runs where the engine cannot, and is what the engine's answers are compared with.
    Engines on the CPU have no plugins.

    Later calls of ``optimize()`` follow it, also for operators that engines compute without plugins. Registering an
    operator again replaces what was registered. ::

        torch_trt_ext.register_plugin_operator(
            "my_ops::leaky_relu", "LeakyReLU", attributes={"neg_slope": "negative_slope"}, half=True
        )

    Args:
        operator: its name without an overload's, such as ``torchvision::nms``.
        plugin: what the plugin is called in TensorRT's registry.
        version: of the plugin.
        namespace: of the plugin.
        attributes: from each of the plugin's fields to the operator's argument that it is, by name or by position
            from 0: a number, a list of numbers or a string. Where it is not constant, the node stays in PyTorch. int
            and bool become int32 fields, float and ``Scalar`` float32 fields; for None the plugin gets no field.
        library: the shared library that brings the plugin. It is opened when a model has the operator, as by
            :func:`torch_trt_ext.load_plugin_library`. None where the plugin is the package's, TensorRT's own, or in
            TensorRT's registry already.
        half: whether the plugin, given float16 in place of all its float32 inputs, gives float16 in place of all its
            float32 outputs. Otherwise it stays in float32 in 16-bit engines.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: a name is none, or the operator is known and has no such argument.
    """
    if library is not None and not isinstance(library, (str, os.PathLike)):
        raise TypeError(f"library must be a path or None, got {type(library).__name__} {library!r}")
    mapping = {} if attributes is None else attributes
    _registered[operator] = PluginOperator(
        operator,
        plugin,
        version,
        namespace,
        MappingProxyType(dict(mapping)) if isinstance(mapping, Mapping) else mapping,
        None if library is None else os.fspath(library),
        half,
    )


def unregister_plugin_operator(operator: str) -> None:
    """Takes back what :func:`register_plugin_operator` did.

    Raises:
        ValueError: the operator is not registered.
    """
    if operator not in _registered:
        raise ValueError(f"operator must be a registered one, got {operator!r}; registered are {sorted(_registered)}")
    del _registered[operator]


def registered_plugin_operators() -> dict[str, PluginOperator]:
    """Everything that is registered now, by operator."""
    return dict(_registered)


def operators_of(node: onnx.NodeProto, operators: Iterable[PluginOperator]) -> list[PluginOperator]:
    """Those of ``operators`` whose plugin an ONNX node is; none for a node that is no plugin."""
    if node.domain != PLUGIN_DOMAIN:
        return []
    texts = {attribute.name: attribute.s.decode() for attribute in node.attribute if attribute.HasField("s")}
    facts = (node.op_type, texts.get(_VERSION, "1"), texts.get(_NAMESPACE, ""))
    return [known for known in operators if (known.plugin, known.version, known.namespace) == facts]
