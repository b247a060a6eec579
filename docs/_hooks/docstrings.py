"""Reads the package for the reference: what Markdown does not know of docstrings, and how classes are called."""

from __future__ import annotations

import re
from typing import Any

import griffe

#: A role of Sphinx's and its target, as :func:`torch_trt_ext.runtime.load_plugins`.
_ROLE = re.compile(r":(?:func|class|meth|mod|data|attr):`~?([\w.]+)`")

#: The end of a paragraph before a block of code.
_BLOCK = re.compile(r" ?::$", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Roles become links where a page has their target, and plain code elsewhere."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            text = _ROLE.sub(lambda match: _link(obj, match[1]), obj.docstring.value)
            obj.docstring.value = _BLOCK.sub("", text)

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        _mend_constructors(pkg)


def _link(obj: griffe.Object, name: str) -> str:
    try:
        path = obj.resolve(name)
    except griffe.NameResolutionError:
        path = name
    return f'<autoref identifier="{path}" optional><code>{name.removeprefix("torch_trt_ext.")}</code></autoref>'


def _mend_constructors(scope: griffe.Object) -> None:
    """Gives griffe, before it makes the constructors of dataclasses, what it cannot know of the package's classes."""
    for member in list(scope.members.values()):
        if member.is_alias:
            continue
        if isinstance(member, griffe.Attribute):
            member.value = _default(member.value)
        if isinstance(member, griffe.Class):
            # Where __new__ makes the objects, griffe looks for an __init__.
            new = member.all_members.get("__new__")
            if new is not None and "__init__" not in member.all_members:
                member.set_member("__init__", griffe.Function("__init__", parameters=new.parameters))
        if isinstance(member, (griffe.Class, griffe.Module)):
            _mend_constructors(member)


def _default(value: Any) -> Any:
    """Of an option of ``Config`` what it is at first, without what checks it."""
    is_option = isinstance(value, griffe.ExprCall) and str(value.function) == "_option"
    return value.arguments[0] if is_option else value
