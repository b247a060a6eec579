"""The documentation: its code runs, its figures, messages and names are those of the sources, and it builds."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import torch_trt_ext
from tests import docs_made, docs_messages
from tests.docs_pages import DOCS, ROOT, Block, blocks, pages, prose
from tests.docs_run import compiled
from tests.fresh_process import output_of_fresh

_TROUBLESHOOTING = DOCS / "troubleshooting.md"
_COMMAND = DOCS / "reference" / "command.md"

#: Characters of a message that do not vary; fewer would be found in the sources by chance.
_TELLING = 14

#: What may be needed that a page's test cannot have everywhere.
_NEEDS = {"gpu", "ray", "triton"}

_LINK = re.compile(r"\]\((?P<target>[^)#\s]*)(?:#(?P<anchor>[^)\s]*))?\)")
_IDENTIFIER = re.compile(r"^::: (\S+)", re.MULTILINE)


def _name(page: Path) -> str:
    return page.relative_to(DOCS).as_posix()


def _python(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language == "python"]


def _pages_that_run() -> list[Path]:
    return [page for page in pages() if any("needs" not in block.notes for block in _python(page))]


def _by_name(found: list[Path]) -> dict[str, Any]:
    return {"argvalues": found, "ids": list(map(_name, found))}


# Code


#: Pages whose code shows a part of a program, or a signature: it is read, not run.
_EXCERPTS = {"plugins.md", "report.md", "design.md"}


@pytest.mark.parametrize("page", **_by_name([page for page in _pages_that_run() if _name(page) not in _EXCERPTS]))
def test_code_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    if any("calib_data" in block.text for block in _python(page)):
        pytest.importorskip("onnxruntime")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TORCH_TRT_EXT_CACHE": str(tmp_path / "cache"),
        # Torch's threads and OpenVINO's wait for each other on few cores.
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.docs_run", str(page)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.mark.parametrize("page", **_by_name([page for page in pages() if _python(page)]))
def test_code_names_what_the_package_has(page: Path) -> None:
    for block in _python(page):
        assert block.notes.get("needs", "gpu") in _NEEDS, f"{block.place} needs something that nobody knows"
        compiled(block)
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch_trt_ext"):
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{block.place}: {node.module} has no {alias.name}"
            elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("torch_trt_ext."):
                _resolve(ast.unparse(node), block.place)


def _resolve(path: str, place: str) -> None:
    found: Any = torch_trt_ext
    for name in path.split(".")[1:]:
        assert hasattr(found, name), f"{place}: there is no {path}"
        found = getattr(found, name)


def _shell_lines() -> list[tuple[str, str]]:
    """Each command line of a page, with where it is; lines that go on in the next one are one."""
    found = []
    for page in pages():
        for block in blocks(page):
            if block.language == "sh":
                text = block.text.replace("\\\n", " ")
                found += [(block.place, line) for line in text.splitlines() if line.strip()]
    return found


def test_command_lines_have_commands_and_options_that_are_there() -> None:
    from torch_trt_ext.cli.commands import commands as group

    seen = set()
    for place, line in _shell_lines():
        words = shlex.split(line, comments=True)
        if words[0] == "torch-trt-ext":
            assert words[1] in group.commands, f"{place}: there is no command {words[1]}"
            options = {name for option in group.commands[words[1]].params for name in option.opts}
            unknown = [word for word in words[2:] if word.startswith("-") and word.partition("=")[0] not in options]
            assert not unknown, f"{place}: {words[1]} has no {unknown}"
        elif words[0] == "make":
            makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
            assert re.search(rf"^{re.escape(words[1])}:", makefile, re.MULTILINE), f"{place}: no target {words[1]}"
        elif words[:2] == ["python", "-m"]:
            spec = importlib.util.find_spec(words[2])
            assert spec is not None, f"{place}: there is no module {words[2]}"
            assert spec.origin is not None
            source = Path(spec.origin).read_text(encoding="utf-8")
            unknown = [word for word in words[3:] if word.startswith("--") and f'"{word}"' not in source]
            assert not unknown, f"{place}: {words[2]} has no {unknown}"
        else:
            continue
        seen.add(words[0])
    assert seen == {"torch-trt-ext", "make", "python"}


# Figures, names and messages


@pytest.mark.parametrize(
    "page", **_by_name([page for page in pages() if docs_made.made_parts(page.read_text(encoding="utf-8"))])
)
def test_made_parts_are_what_they_are_made_from(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert docs_made.made_anew(text) == text, "python -m tests.docs_made writes the page anew"


def test_every_result_is_on_a_page() -> None:
    text = "".join((DOCS / name).read_text(encoding="utf-8") for name in ("performance.md", "coverage.md"))
    missing = [path.name for path in docs_made.RESULTS.glob("*.json") if f"({_up(path)})" not in text]
    assert missing == []


def _up(path: Path) -> str:
    return f"../{path.relative_to(ROOT).as_posix()}"


def test_every_public_name_is_in_the_reference() -> None:
    reference = [page for page in pages() if page.parent.name == "reference"]
    documented = {name for page in reference for name in _IDENTIFIER.findall(page.read_text(encoding="utf-8"))}
    homes = {path.rpartition(".")[2]: path for path in documented}
    overview = (DOCS / "reference" / "index.md").read_text(encoding="utf-8")
    for name in torch_trt_ext.__all__:
        assert f"`torch_trt_ext.{name}`" in overview, f"the overview has no {name}"
        if name not in ("__version__", "load_plugin_library"):
            assert name in homes, f"no page of the reference has {name}"
    # load_plugin_library is one of runtime's.
    assert "load_plugin_library" in torch_trt_ext.runtime.__all__
    for path in documented:
        _resolve_module(path)


def _resolve_module(path: str) -> None:
    module, _, name = path.rpartition(".")
    try:
        importlib.import_module(path)
    except ModuleNotFoundError:
        assert hasattr(importlib.import_module(module), name), f"there is no {path}"


def test_every_command_is_on_its_page() -> None:
    from torch_trt_ext.cli.commands import commands as group

    text = _COMMAND.read_text(encoding="utf-8")
    for name in group.commands:
        assert f"| [`{name}`](#" in text, f"the list of commands has no {name}"
        assert f"\n## {name}\n" in text, f"{name} has no section"
        assert f"help {name}" in docs_made.made_parts(text)


@functools.cache
def _sources() -> dict[Path, str]:
    return docs_messages.texts()


def _quoted() -> list[tuple[str, str]]:
    """Messages and reasons that the page quotes, with where."""
    found = [
        (block.place, block.text)
        for block in blocks(_TROUBLESHOOTING)
        if block.language == "text" and "from" not in block.notes
    ]
    for line in prose(_TROUBLESHOOTING).splitlines():
        first = line.split(" | ")[0]
        if line.startswith("| `"):
            found += [("a table", text) for text in re.findall(r"`([^`]+)`", first)]
    return found


def test_quoted_messages_are_in_the_sources() -> None:
    quoted = _quoted()
    assert len(quoted) > 90
    for place, message in quoted:
        parts = [part for part in message.split("…") if part.strip()]
        if max(map(len, parts)) < _TELLING:
            # Short parts are everywhere; all in one file say more.
            assert sum(map(len, parts)) >= _TELLING, f"{place}: {message!r} says too little to be found"
            in_one = any(all(part in text for part in parts) for text in _sources().values())
            assert in_one, f"{place}: no source has {message!r}"
        missing = docs_messages.missing_parts(message, _sources())
        assert not missing, f"{place}: no source has {missing} of {message!r}"


def test_message_without_the_import_is_torchs() -> None:
    (block,) = [block for block in blocks(_TROUBLESHOOTING) if block.notes.get("from") == "torch"]
    script = """
        import torch
        try:
            torch.jit.load("tests/fixtures/engine_v1_first.pt")
        except RuntimeError as error:
            print(error)
    """
    said = output_of_fresh(script).strip().splitlines()[0]
    assert said.rstrip(":").replace("OpenVINO", "TRT") == block.text


def test_options_that_pages_name_are_there() -> None:
    options = torch_trt_ext.Config().to_dict()
    named = {text for page in pages() for text in re.findall(r"`config\.(?!pbtxt)([a-z_.0-9]+)", prose(page))}
    assert len(named) > 10
    for name in named:
        value: Any = options
        for part in name.split("."):
            assert part in value, f"config has no {name}"
            value = value[part]


def test_defaults_that_pages_name_are_the_options() -> None:
    """Rows of a table, whose header names a group: an option of it, and what it is at first."""
    checked = 0
    for page in pages():
        group: Any = None
        for line in prose(page).splitlines():
            header = re.match(r"\| option of `config\.(\w+)` \| default \|", line)
            row = re.match(r'\| `(\w+)` \| ([\d.]+|`"\w+"`) \|', line)
            if header:
                group = getattr(torch_trt_ext.Config(), header[1])
            elif not line.startswith("|"):
                group = None
            elif group is not None and row:
                default = ast.literal_eval(row[2].strip("`"))
                assert getattr(group, row[1]) == default, f"{_name(page)}: {row[1]} is not {row[2]} at first"
                checked += 1
    assert checked >= 8


# Links and the site


@pytest.mark.parametrize("page", **_by_name(pages()))
def test_links_lead_somewhere(page: Path) -> None:
    for match in _LINK.finditer(prose(page)):
        target = match["target"]
        assert not target.startswith("/"), f"{target} is no relative link"
        if target and not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{_name(page)}: {target} is not there"


def _navigation(entry: Any) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    return [name for part in (entry.values() if isinstance(entry, dict) else entry) for name in _navigation(part)]


def test_every_page_is_in_the_navigation() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML, which MkDocs brings, is not installed")
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(_navigation(config["nav"])) == sorted(map(_name, pages()))


class _Loaded(HTMLParser):
    """Addresses that a browser fetches when it shows a page, and the page's anchors."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.anchors.add(values.get("id") or "")
        name = {"link": "href", "script": "src", "img": "src", "iframe": "src"}.get(tag)
        if name and values.get(name):
            self.addresses.append(values[name] or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for module in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            found = None
        if found is None:
            pytest.skip(f"{module} is not installed; pip install mkdocs-material 'mkdocstrings[python]'")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def _loaded(path: Path) -> _Loaded:
    parser = _Loaded()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser


def test_site_has_every_page_and_name(site: Path) -> None:
    for page in pages():
        assert (site / _name(page)).with_suffix(".html").exists(), f"the site has no {_name(page)}"
    anchors = {anchor for path in (site / "reference").glob("*.html") for anchor in _loaded(path).anchors}
    for name in set(torch_trt_ext.__all__) - {"__version__", "runtime"}:
        assert any(anchor.startswith("torch_trt_ext.") and anchor.endswith(f".{name}") for anchor in anchors), name
    config = (site / "reference" / "config.html").read_text(encoding="utf-8")
    for group in torch_trt_ext.Config().to_dict().items():
        for name in (group[0], *(group[1] if isinstance(group[1], dict) else ())):
            assert f"<b>{name}</b>" in config or f">{name}<" in config, f"the reference has no option {name}"
    assert not re.search(r":(func|class|meth|data):", config)


def test_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    count = 0
    for path in site.rglob("*.html"):
        for address in _loaded(path).addresses:
            count += 1
            assert not re.match(r"(https?:)?//", address), f"{path.relative_to(site)} fetches {address}"
            if path.name != "404.html" and not address.startswith("data:"):
                file = path.parent / address.partition("#")[0].partition("?")[0]
                assert file.exists(), f"{path.relative_to(site)}: {address} is not there"
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", path.read_text(encoding="utf-8")), path.name
    assert count > 50
