"""Takes what pages link to outside ``docs`` into the site: there, a link out of the folder would lead nowhere.

Pages are written so that their links also work where the repository is read as files. On the site such a file is below
``source/``: Markdown as a page, results as they are, other text as a page that shows it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
_SOURCE = "source"

#: A link that is no address and no anchor: its text's end, its target, and what follows a ``#``.
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?(?=\))")
_FENCE = re.compile(r"^\s*(```|~~~)")

#: Shown as they are.
_RAW = {".json", ".png"}
_LANGUAGES = {".py": "python", ".cpp": "cpp", ".h": "cpp", ".cu": "cpp", ".txt": "cmake", ".md": "markdown"}


def _map_links(markdown: str, change: Callable[[str], str]) -> str:
    """The text with the targets of its links changed, but for what is in fences."""
    lines, fenced = [], False
    for line in markdown.splitlines(keepends=True):
        if _FENCE.match(line):
            fenced = not fenced
        lines.append(line if fenced else _LINK.sub(lambda match: change(match[1]) + (match[2] or ""), line))
    return "".join(lines)


def _links(markdown: str) -> list[str]:
    found: list[str] = []
    _map_links(markdown, lambda target: found.append(target) or target)  # type: ignore[func-returns-value]
    return found


def _in_repository(of: str, target: str) -> str:
    """Path from the repository's root of what a link in one of its files means; a folder's is its README."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(of), target))
    if path.startswith("docs/"):
        # MkDocs says itself what is missing of its own.
        return path
    if path.startswith("..") or not (ROOT / path).exists():
        raise PluginError(f"{of}: the link to {target} leads nowhere")
    return f"{path}/README.md" if (ROOT / path).is_dir() else path


def _on_site(path: str) -> str:
    """Where the site has a file of the repository, as the source of a page."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    suffix = Path(path).suffix
    return f"{_SOURCE}/{path}" if suffix == ".md" or suffix in _RAW else f"{_SOURCE}/{path}.md"


def _content(path: str) -> str | bytes:
    file = ROOT / path
    if file.suffix in _RAW:
        return file.read_bytes()
    text = file.read_text(encoding="utf-8")
    if file.suffix != ".md":
        text = f"# {path}\n\n````{_LANGUAGES.get(file.suffix, 'text')}\n{text.rstrip()}\n````\n"
    return f"---\nsearch:\n  exclude: true\n---\n{text}"


def on_files(files: Any, config: Any) -> Any:
    """Adds all that is linked to, and what that links to."""
    waiting = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    known = set(waiting)
    while waiting:
        path = waiting.pop()
        if not path.startswith("docs/"):
            files.append(File.generated(config, _on_site(path), content=_content(path)))
        if path.endswith(".md"):
            targets = {_in_repository(path, link) for link in _links((ROOT / path).read_text(encoding="utf-8"))}
            new = {target for target in targets if not target.startswith("docs/")} - known
            waiting += sorted(new)
            known |= new
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turns the links that leave the folder, or come back to it, into the site's own."""
    uri = page.file.src_uri
    own = uri.removeprefix(f"{_SOURCE}/") if uri.startswith(f"{_SOURCE}/") else f"docs/{uri}"

    def change(target: str) -> str:
        return posixpath.relpath(_on_site(_in_repository(own, target)), posixpath.dirname(uri) or ".")

    return _map_links(markdown, change)
