"""The texts that the sources hold, so that a message that a page quotes can be looked up in them.

What stands between texts, a value or a condition, becomes :data:`GAP`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.docs_pages import ROOT

#: What no message has in it.
GAP = "\0"

#: Texts with a name, of which messages are put together.
_CONSTANT = re.compile(r'constexpr (?:const char\* |char )(?P<name>k\w+)(?:\[\])? = "(?P<text>(?:[^"\\\n]|\\.)*)";')

#: A comment, a string, or anything else, in C++ and in CMake.
_CPP = re.compile(r'//[^\n]*|/\*.*?\*/|"(?P<text>(?:[^"\\\n]|\\.)*)"|(?P<other>[^"/]+|/)', re.DOTALL)
_CMAKE = re.compile(r'#[^\n]*|"(?P<text>(?:[^"\\]|\\.)*)"|(?P<other>[^"#]+)', re.DOTALL)

_ESCAPE = re.compile(r"\\(.)")
_VARIABLE = re.compile(r"\$\{[^}]*\}|\$ENV\{[^}]*\}")


def _texts(source: str, token: re.Pattern[str], constants: Mapping[str, str]) -> str:
    parts: list[str] = []
    between = ""
    for match in token.finditer(source):
        if match["text"] is not None:
            parts += [_between(between, constants), _ESCAPE.sub(r"\1", match["text"])]
            between = ""
        elif match["other"]:
            between += match["other"]
    return "".join([*parts, _between(between, constants)])


def _between(code: str, constants: Mapping[str, str]) -> str:
    """What stands for the code between two strings."""
    words = re.split(r"(?:[\s,+;]|<<)+", code.partition(")")[0])
    named = "".join(constants.get(word, "" if not word else GAP) for word in words)
    return named if ")" not in code else named + GAP


def _python_texts(source: str) -> Iterator[str]:
    inside: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in node.values}
            yield "".join(part.value if isinstance(part, ast.Constant) else GAP for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.value


def _text_of(path: Path, source: str, constants: Mapping[str, str]) -> str:
    if path.suffix == ".py":
        return GAP.join(_python_texts(source))
    if path.suffix in (".cpp", ".h"):
        return _texts(source, _CPP, constants)
    return _VARIABLE.sub(GAP, _texts(source, _CMAKE, {}))


def texts() -> dict[Path, str]:
    """What the texts of each file are that can say something to a user."""
    paths = [
        *(ROOT / "csrc").rglob("*.cpp"),
        *(ROOT / "csrc").rglob("*.h"),
        *(ROOT / "torch_trt_ext").rglob("*.py"),
        *(ROOT / "cmake").glob("*.cmake"),
        ROOT / "CMakeLists.txt",
    ]
    sources = {path: path.read_text(encoding="utf-8") for path in paths}
    constants = {
        match["name"]: _ESCAPE.sub(r"\1", match["text"])
        for source in sources.values()
        for match in _CONSTANT.finditer(source)
    }
    return {path: _text_of(path, source, constants) for path, source in sources.items()}


def missing_parts(message: str, known: dict[Path, str]) -> list[str]:
    """The fixed parts of a message, between ``…``, that no file has."""
    parts = [part for part in message.split("…") if part.strip()]
    return [part for part in parts if not any(part in text for text in known.values())]
