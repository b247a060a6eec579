"""Builds the plugins' CUDA sources for the CPU.

A copy of ``plugins/`` is rewritten where C++ has no word for what CUDA says (launches, shared variables, inline PTX,
untyped kernels), and compiled with g++ and ``runtime.h`` before every source. Nothing but the copy changes, and line
numbers stay what they are. Objects are kept under a hash of all that went into them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
PLUGINS = HERE.parent.parent / "plugins"

#: Folders of plugins; sources in `common` speak with TensorRT and allocate.
KERNEL_FOLDERS = ("layers", "retinanet")

#: As --fmad=false does for nvcc, -ffp-contract=off keeps each operation rounded as written. g++ calls __tsan_* for each
#: access to memory, which loops must not leave to memset and memcpy, and __ubsan_* for what the language forbids.
FLAGS: tuple[str, ...] = (
    "-std=c++17",
    "-O2",
    "-g1",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
)
FLAGS += ("-fno-tree-vectorize", "-fno-tree-loop-distribute-patterns", "-Wno-attributes")
CHECKED: tuple[str, ...] = ("-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0")
CHECKED += ("-fsanitize=alignment,bounds,shift,integer-divide-by-zero",)

_CLUSTER = "::cuda_emulation::Scope::kCluster"

#: Inline PTX, and the C++ for it with its operands, outputs first, in braces.
PTX = {
    "cp.async.cg.shared.global [%0], [%1], 16;": "::cuda_emulation::copy_async({0}, {1}, 16)",
    "cp.async.ca.shared.global [%0], [%1], 16;": "::cuda_emulation::copy_async({0}, {1}, 16)",
    "cp.async.wait_all;": "::cuda_emulation::wait_for_copies()",
    "barrier.cluster.arrive.relaxed.aligned;": f"::cuda_emulation::arrive({_CLUSTER}, true, {{{{}}}})",
    "barrier.cluster.arrive.aligned;": f"::cuda_emulation::arrive({_CLUSTER}, false, {{{{}}}})",
    "barrier.cluster.wait.aligned;": f"::cuda_emulation::wait({_CLUSTER}, {{{{}}}})",
}

_NOT_CODE = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])\'', re.DOTALL)
_OPENING = {")": "(", "]": "[", "}": "{"}


def _blank(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match[0])


class Source:
    """A text of CUDA and the replacements to make in it."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.text = text
        #: The text with blanks for comments and literals.
        self.code = _NOT_CODE.sub(_blank, text)
        self.edits: list[tuple[int, int, str]] = []

    def error(self, position: int, problem: str) -> ValueError:
        line = self.text.count("\n", 0, position) + 1
        return ValueError(f"{self.path}:{line}: {problem}; see tests/emulation/build.py")

    def closing(self, position: int) -> int:
        """Position of the bracket that closes the one at ``position``."""
        depth: list[str] = []
        for index in range(position, len(self.code)):
            char = self.code[index]
            if char in "([{":
                depth.append(char)
            elif char in _OPENING:
                if depth.pop() != _OPENING[char]:
                    break
                if not depth:
                    return index
        raise self.error(position, "bracket without its other one")

    def replace(self, start: int, end: int, new: str) -> None:
        """Keeps the number of lines."""
        self.edits.append((start, end, new + "\n" * self.text.count("\n", start, end)))

    def rewritten(self) -> str:
        for rewrite in REWRITES:
            rewrite(self)
        text = self.text
        for start, end, new in sorted(self.edits, reverse=True):
            text = text[:start] + new + text[end:]
        return f'#line 1 "{self.path.name}"\n{text}'


def _template_start(source: Source, end: int) -> int:
    """Where the template arguments that end before ``end`` start."""
    angles = brackets = 0
    for index in range(end - 1, -1, -1):
        char = source.code[index]
        if char in ")]":
            brackets += 1
        elif char in "([":
            brackets -= 1
        elif brackets == 0 and char in "<>":
            angles += 1 if char == ">" else -1
            if angles == 0:
                return index
    raise source.error(end, "cannot find the template arguments of a launch")


def rewrite_launches(source: Source) -> None:
    """``kernel<T><<<grid, block>>>(x)`` becomes ``launch(kernel<T>, LaunchShape(grid, block), x)``."""
    for match in re.finditer("<<<", source.code):
        end = len(source.code[: match.start()].rstrip())
        if source.code[end - 1] == ">":
            end = _template_start(source, end)
        name = re.search(r"[\w:]+$", source.code[:end].rstrip())
        depth = 0
        close = -1
        for index in range(match.end(), len(source.code)):
            depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(source.code[index], 0)
            if depth == 0 and source.code.startswith(">>>", index):
                close = index
                break
        arguments = re.match(r"\s*\(\s*", source.code[close + 3 :])
        if name is None or close < 0 or arguments is None:
            raise source.error(match.start(), "cannot read this launch")
        after = close + 3 + arguments.end()
        source.replace(name.start(), name.start(), "::cuda_emulation::launch(")
        source.replace(match.start(), match.end(), ", ::cuda_emulation::LaunchShape(")
        source.replace(close, after, ")" if source.code[after] == ")" else "), ")


def rewrite_shared(source: Source) -> None:
    """``__shared__ T name[3];`` becomes a reference to memory of the block."""
    declaration = re.compile(r"^(?P<type>.*[\s>*&])(?P<name>\w+)\s*(?P<extents>(?:\[.*\])?)$", re.DOTALL)
    for match in re.finditer(r"(?P<extern>\bextern\s+)?\b__shared__\s+(?P<what>[^;]*);", source.code):
        what = re.sub(r"\b(?:__align__|alignas)\s*\(\s*\d+\s*\)", "", match["what"]).strip()
        parts = declaration.match(what)
        if parts is None or "=" in what or "," in re.sub(r"<.*>|\[.*\]", "", what, flags=re.DOTALL):
            raise source.error(match.start(), "one shared variable a declaration, please")
        kind, name, extents = parts["type"].strip(), parts["name"], parts["extents"]
        if match["extern"]:
            new = f'auto* {name} = static_cast<{kind}*>(::cuda_emulation::dynamic_shared("{name}"));'
        else:
            new = f"typedef {kind} Emulated_{name}{extents}; "
            new += f'auto& {name} = ::cuda_emulation::shared<Emulated_{name}, struct EmulatedKey_{name}>("{name}");'
        source.replace(match.start(), match.end(), new.replace("\n", " "))


def rewrite_launch_bounds(source: Source) -> None:
    """A kernel with bounds checks them where its body starts."""
    for match in re.finditer(r"__global__\s+void\s+__launch_bounds__\s*(?=\()", source.code):
        bounds_end = source.closing(match.end())
        parameters = source.code.index("(", bounds_end)
        body = re.compile(r"\s*\{").match(source.code, source.closing(parameters) + 1)
        if body is not None:
            bounds = source.text[match.end() : bounds_end + 1].replace("\n", " ")
            source.replace(body.end(), body.end(), f" ::cuda_emulation::require_launch_bounds{bounds};")


def rewrite_untyped_kernels(source: Source) -> None:
    for match in re.finditer(r"\breinterpret_cast<const void\*>", source.code):
        source.replace(match.start(), match.end(), "::cuda_emulation::as_address")


def rewrite_ptx(source: Source) -> None:
    """``asm volatile("..." : outputs : inputs : clobbers)`` becomes what PTX says."""
    for match in re.finditer(r"\basm(?:\s+volatile)?\s*(?=\()", source.code):
        end = source.closing(match.end())
        sections = [[match.end() + 1]]
        for index in range(match.end() + 1, end + 1):
            if index == end or (source.code[index] == ":" and _depth(source.code[match.end() + 1 : index]) == 0):
                sections[-1].append(index)
                sections.append([index + 1])
        texts = [source.text[start:stop] for start, stop in sections[:-1]]
        instruction = " ".join("".join(re.findall(r'"((?:\\.|[^"\\])*)"', texts[0])).split())
        operands = []
        for start, stop in sections[1:-1][:2]:
            for constraint in re.finditer(r'"[^"]*"\s*(?=\()', source.text[start:stop]):
                bracket = start + constraint.end()
                operands.append(source.text[bracket : source.closing(bracket) + 1].replace("\n", " "))
        if instruction not in PTX:
            raise source.error(match.start(), f"no emulation of the PTX {instruction!r}")
        source.replace(match.start(), end + 1, PTX[instruction].format(*operands))


def _depth(code: str) -> int:
    return sum(code.count(char) for char in "([{") - sum(code.count(char) for char in ")]}")


REWRITES: tuple[Callable[[Source], None], ...] = (
    rewrite_launches,
    rewrite_shared,
    rewrite_launch_bounds,
    rewrite_untyped_kernels,
    rewrite_ptx,
)


def cuda_include() -> Path:
    """CUDA's own headers, as pip has them or as the toolkit does."""
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    folders = [include for root in roots for include in sorted(root.glob("cu[0-9]*/include"))]
    folders += [Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "include"]
    for folder in folders:
        if all((folder / name).exists() for name in ("cuda_runtime_api.h", "crt/host_defines.h")):
            return folder
    raise FileNotFoundError(f"CUDA's headers must be in one of {[str(folder) for folder in folders]}")


def _needs_tensorrt(path: Path, plugins: Path, seen: set[Path]) -> bool:
    if path in seen or not path.exists():
        return False
    seen.add(path)
    included = re.findall(r'#include ["<]([^">]+)', path.read_text())
    return any(name.startswith("NvInfer") or _needs_tensorrt(plugins / name, plugins, seen) for name in included)


def kernel_sources(plugins: Path) -> list[Path]:
    """Kernels, and what their launchers need of C++."""
    paths = [path for folder in KERNEL_FOLDERS for path in sorted((plugins / folder).iterdir())]
    return [
        path
        for path in paths
        if path.suffix == ".cu" or (path.suffix == ".cpp" and not _needs_tensorrt(path, plugins, set()))
    ]


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{result.stderr}")


def _key(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:20]


def build(folder: Path, root: Path = PLUGINS, sources: Sequence[Path] | None = None) -> Path:
    """Compiles what has changed.

    Args:
        folder: where libraries and objects are kept, by what they are made of.
        root: what the sources include their headers from.
        sources: CUDA and C++ in ``root``; all that kernels need, and ``entry_points.cpp``, when it is None.

    Returns:
        The library.
    """
    own = [HERE / name for name in ("scheduler.cpp", "memory.cpp", "device.cpp")]
    if sources is None:
        sources = kernel_sources(root)
        own.append(HERE / "entry_points.cpp")
    headers = sorted(path for path in root.rglob("*") if path.suffix in {".h", ".cuh"})
    texts = {path: path.read_text() for path in (*headers, *sources)}
    compiler = os.environ.get("CXX", "g++")
    include = cuda_include()
    known = [subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout, str(include)]
    known += [path.read_text() for path in (Path(__file__), *sorted(HERE.rglob("*.h")))]
    known += [f"{path.relative_to(root)}\0{texts[path]}" for path in headers]
    objects = {
        path: folder / "objects" / f"{path.stem}-{_key(*known, path.read_text())}.o" for path in (*sources, *own)
    }
    library = folder / f"{_key(*(path.name for path in objects.values()))}.so"
    if library.exists():
        return library

    (folder / "objects").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        copy = Path(temporary)
        for path, text in texts.items():
            rewritten = copy / path.relative_to(root)
            rewritten.parent.mkdir(parents=True, exist_ok=True)
            rewritten.write_text(Source(path, text).rewritten())
        common = [compiler, *FLAGS, f"-I{HERE}", f"-I{HERE / 'include'}", f"-I{copy}", "-isystem", str(include)]

        def compile_source(path: Path) -> None:
            source = copy / path.relative_to(root) if path in texts else path
            flags = [*CHECKED, "-include", str(HERE / "runtime.h")] if path.suffix == ".cu" else []
            unfinished = copy / objects[path].name
            _run([*common, *flags, "-x", "c++", "-c", str(source), "-o", str(unfinished)])
            unfinished.rename(objects[path])

        # The largest first, so that no core is left with it alone.
        missing = sorted(
            (path for path in objects if not objects[path].exists()), key=lambda path: -path.stat().st_size
        )
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(compile_source, missing))
        unfinished = copy / library.name
        _run([compiler, "-shared", "-Wl,-z,defs", "-o", str(unfinished), *map(str, objects.values())])
        unfinished.rename(library)
    return library
