"""The report's pages: every figure is the dict's, nothing comes from elsewhere, and odd reports are shown as well."""

from __future__ import annotations

import copy
import importlib.util
import json
import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.browser import headless_browser
from tests.optimizer.tiny_models import TwoParts, make, optimize, quick_config
from tests.report_samples import HOSTILE, ODD, made
from torch_trt_ext import Report, report_page
from torch_trt_ext.report_page.facts import NOT_MEASURED, Facts
from torch_trt_ext.report_page.tree import module_tree, rows_of

#: Shown figures are rounded to three digits at least, in percent to two.
ROUNDING = 0.006

TIMES = "\N{MULTIPLICATION SIGN}"

VOID = {"meta", "link", "br", "hr"}


@pytest.fixture(scope="module")
def real() -> Report:
    pytest.importorskip("openvino")
    config = quick_config()
    config.timing.timed_runs = 20
    _, _, report = optimize(make(TwoParts), [(torch.rand(4, 8),)], config)
    return report


class Page(HTMLParser):
    """Parses strictly: elements nest and end, and figures are in one text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[list[str], str]] = []
        self.figures: list[tuple[str, str, str]] = []
        self.cards = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"{tag} has an attribute twice"
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert tag not in VOID
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(([tag for tag, _ in self.open], data))
        attributes = self.open[-1][1] if self.open else {}
        pointer = attributes.get("data-from")
        if pointer is not None:
            value = attributes.get("value", attributes.get("data-value"))
            assert value is not None
            self.figures.append((pointer, value, data))
        elif any(attributes.get("class") == "cards" for _, attributes in self.open):
            self.cards += data

    def embedded(self) -> Any:
        (text,) = [text for tags, text in self.texts if tags[-1:] == ["script"]]
        return json.loads(text)


def resolve(report: Any, pointer: str) -> Any:
    value = report
    for part in pointer.split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, list):
            value = value[int(part)] if int(part) < len(value) else None
        else:
            # What no document can hold was replaced in keys as well.
            named = {re.sub("[\x00\ud800]", "\ufffd", key): item for key, item in (value or {}).items()}
            value = named.get(part)
    return value


def numeric_leaves(value: Any, pointer: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from numeric_leaves(item, f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from numeric_leaves(item, f"{pointer}/{index}")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield pointer


def check_figures(report: Any, figures: list[tuple[str, str, str]]) -> None:
    """Each shown figure is the report's, and its text says the same number."""
    for pointer, value, text in figures:
        expected = resolve(report, pointer)
        assert json.loads(value) == expected, pointer
        if isinstance(expected, (int, float)) and math.isfinite(expected):
            found = re.fullmatch(r"(-?[\d.]+(?:e[-+]\d+)?)(%| KiB| MiB| GiB| bytes| ms| s)?", text.rstrip(TIMES))
            assert found, (pointer, text)
            unit = {"%": 0.01, " KiB": 2**10, " MiB": 2**20, " GiB": 2**30}.get(found[2], 1)
            assert float(found[1]) * unit == pytest.approx(expected, rel=ROUNDING, abs=0.0006), (pointer, text)
        elif isinstance(expected, list):
            assert [float(size) for size in re.findall(r"\d+", text)] == expected
        elif expected in ("nan", "nan ms"):
            assert text == NOT_MEASURED
        elif isinstance(expected, str) and HOSTILE not in expected and expected not in ("", "inf"):
            assert text in (expected, f"{expected}{TIMES}")


@pytest.mark.parametrize("name", [*ODD, "real"])
def test_html_has_the_figures_of_the_report_and_needs_nothing_else(name: str, request: pytest.FixtureRequest) -> None:
    report = request.getfixturevalue("real") if name == "real" else ODD[name]
    text = report_page.html_page(report)
    page = Page(text)
    assert page.embedded() == json.loads(json.dumps(report))
    check_figures(report, page.figures)
    assert len(page.figures) >= (30 if report.get("engines") else 0)
    for tag, attributes in page.attributes:
        assert tag not in ("img", "iframe", "object", "embed", "base", "form")
        assert attributes.keys() & {"src", "srcset", "action", "xlink:href"} == set()
        assert attributes.get("href") in (None, "data:,")
        assert not any(key.startswith("on") for key in attributes)
        assert tag != "script" or attributes["type"] == "application/json"
    style = "".join(text for tags, text in page.texts if tags[-1:] == ["style"])
    assert "url(" not in style.replace("url(#hatch)", "")
    assert "@import" not in style
    assert re.findall(r"[a-z]+://", text) == []


@pytest.mark.parametrize("name", ["made", "real"])
def test_every_number_of_the_report_is_shown(name: str, request: pytest.FixtureRequest) -> None:
    report = made() if name == "made" else request.getfixturevalue("real")
    page = Page(report_page.html_page(report))
    shown = {pointer for pointer, _, _ in page.figures}
    for pointer in numeric_leaves(report):
        # A shape is one figure; no engine of a module or nothing left in it is not said.
        lists = {pointer, pointer.rpartition("/")[0]}
        # Where the least, usual and largest shape are the same, it is said once.
        lists.add(re.sub("/(min|max)/[0-9]+$", "/opt", pointer))
        assert lists & shown or (resolve(report, pointer) == 0 and "/modules/" in pointer), pointer
    for key in ("baseline", "optimized", "speedup"):
        assert f"/overall/{key}" in shown


def test_figures_on_cards_are_all_from_the_report() -> None:
    cards = Page(report_page.html_page(made())).cards
    assert re.findall(r"\d+", cards.replace("1 other reason below", "")) == []


def test_shows_what_matters_first() -> None:
    page = Page(report_page.html_page(made()))
    text = " ".join("".join(text for tags, text in page.texts if "style" not in tags and "script" not in tags).split())
    for words in (
        f"4.32{TIMES}",
        "40.02 ms → 9.27 ms",
        "within the limit",
        "2 engines",
        "12 nodes",
        "has no ONNX form",
        "not in float8: its engine in float8 is not accurate: by 30%",
    ):
        assert words in text, words
    assert text.index(f"4.32{TIMES}") < text.index("Latency") < text.index("Where the model runs")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no engine", "no engine was kept"),
        ("failed build", "engine cannot be built: out of memory"),
        ("not measured", NOT_MEASURED),
        ("infinite error", "∞"),
        ("metric", "your metric"),
        ("empty", "a model"),
    ],
)
def test_odd_reports_say_so(name: str, words: str) -> None:
    assert words in report_page.html_page(ODD[name])


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with headless_browser() as found:
        yield found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["real", "made", "no engine", "failed build", "hostile", "hostile names", "empty"])
def test_browser_renders(browser: Any, name: str, scheme: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    report = request.getfixturevalue("real") if name == "real" else ODD[name]
    path = tmp_path / "report.html"
    report_page.save(report, path)
    said: list[str] = []
    fetched: list[str] = []
    page = browser.new_page(color_scheme=scheme, viewport={"width": 390, "height": 800})
    try:
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append("dialog"), dialog.dismiss()))
        page.on("request", lambda sent: fetched.append(sent.url))
        page.goto(path.as_uri(), wait_until="networkidle")
        assert said == []
        assert fetched == [path.as_uri()]
        assert page.evaluate("window.hacked") is None
        figures = page.eval_on_selector_all(
            "[data-from]",
            "all => all.map(e => [e.dataset.from, e.getAttribute('value') ?? e.dataset.value, e.textContent])",
        )
        embedded = page.evaluate("JSON.parse(document.getElementById('report').textContent)")
        assert embedded == json.loads(json.dumps(report))
        check_figures(embedded, [tuple(figure) for figure in figures])
        # A phone's width is enough, and a wide screen's is used.
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert page.locator("h1").is_visible()
        for drawing in page.locator("svg").all():
            box = drawing.bounding_box()
            assert box["width"] >= 600
            assert box["height"] >= 40
            assert drawing.evaluate("e => [...e.querySelectorAll('rect, circle')].every(r => r.getBBox().width > 0)")
        red = int(re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[0])
        assert (red < 64) == (scheme == "dark")
        assert len(page.screenshot()) > 5000
    finally:
        page.close()


@pytest.mark.parametrize("name", [*ODD, "real"])
def test_markdown(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    report = request.getfixturevalue("real") if name == "real" else ODD[name]
    path = tmp_path / "report.md"
    report_page.save(report, path)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ")
    widths = set()
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            widths.add(len(re.findall(r"(?<!\\)\|", line)))
        else:
            assert len(widths) <= 1, "a table's rows have other numbers of cells"
            widths = set()
    assert re.search(r"(?<!\\)<", re.sub("`[^`\n]+`", "", text)) is None


def test_markdown_has_the_figures() -> None:
    text = report_page.markdown_page(made())
    for words in (
        f"4.32{TIMES}",
        "40.02 ms → 9.27 ms",
        "0.25%",
        "| engine\\_0 | float16 | 11 |",
        "aten::sort@0",
        "- engine\\_1 is not in float8: its engine in float8 is not accurate: by 30%\n",
        "H200",
    ):
        assert words in text, words
    assert "- `backbone`: 11 in engine\\_0" in text


@pytest.mark.parametrize("name", [*ODD, "real"])
def test_picture(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("PIL.Image")
    report = request.getfixturevalue("real") if name == "real" else ODD[name]
    path = tmp_path / "report.png"
    report_page.save(report, path)
    with image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width == 1600
        assert len(picture.convert("L").getcolors()) > 20


def test_picture_without_matplotlib_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install matplotlib"):
        report_page.save(made(), tmp_path / "report.png")


def test_save_goes_by_the_name(real: Report, tmp_path: Path) -> None:
    real.save(tmp_path / "report.HTML")
    assert (tmp_path / "report.HTML").read_text(encoding="utf-8") == report_page.html_page(real)
    real.save(str(tmp_path / "report.json"))
    assert json.loads((tmp_path / "report.json").read_text()) == real
    with pytest.raises(ValueError, match=r"must end with \.html, \.md, \.png, \.json, got 'report\.pdf'"):
        real.save(tmp_path / "report.pdf")
    with pytest.raises(FileNotFoundError, match="must be in a folder that is there"):
        real.save(tmp_path / "absent" / "report.html")


def test_page_of_a_saved_report_is_the_same(real: Report) -> None:
    assert report_page.html_page(json.loads(str(real))) == report_page.html_page(real)


def test_real_report_knows_modules_layers_and_latencies(real: Report) -> None:
    root, *others = real["coverage"]["modules"]
    assert root["path"] == ""
    assert root["engines"] == {"engine_0": 5, "engine_1": 3}
    assert root["left_nodes"] == ["aten::fft_fft@0", "aten::real@0"]
    assert [module["path"] for module in others[:2]] == ["first", "first.0"]
    assert {module["path"]: module["engines"] for module in others}["second"] == {"engine_1": 3}
    for engine in real["engines"]:
        layers = engine["layers"]
        assert 0 < len(layers["slowest"]) <= layers["count"]
        assert sum(layer["ms"] for layer in layers["slowest"]) == pytest.approx(layers["total_ms"], abs=1e-3)
    for name, key in (("original", "baseline"), ("optimized", "optimized")):
        spread = real["latency"][name]
        quantiles = [value for key, value in spread.items() if key not in ("device_ms", "runs")]
        assert quantiles == sorted(quantiles)
        assert spread["runs"] == 20
        assert spread["median_ms"] == pytest.approx(float(real["overall"][key].split()[0]), abs=0.01)


def test_model_that_is_given_back_has_a_page() -> None:
    pytest.importorskip("openvino")
    config = quick_config()
    config.timing.compare, config.timing.min_speedup = True, 1000.0
    _, _, report = optimize(make(TwoParts), [(torch.rand(4, 8),)], config)
    assert report["engines"] == []
    assert "optimized" not in report["latency"]
    page = Page(report_page.html_page(report))
    check_figures(report, page.figures)
    assert "no engine was kept" in page.cards


def test_tree_folds_what_is_not_divided_first() -> None:
    paths = ["", *(f"m{n}" for n in range(6)), *(f"m{n}.{k}" for n in range(6) for k in range(10))]
    modules = [{"path": path, "engines": {"e": 1}, "left": int(path.startswith("m3") or not path)} for path in paths]
    root = module_tree(Facts({"coverage": {"modules": modules}}))
    assert root is not None
    rows = rows_of(root, 20)
    assert [row.module.path for row in rows if row.is_folded] == ["m0", "m1", "m2", "m4", "m5"]
    assert [row.parent for row in rows if row.depth == 2] == [4] * 10
    assert len(rows_of(root, 1000)) == len(paths)


def test_rendering_changes_nothing() -> None:
    report = made()
    before = copy.deepcopy(report)
    report_page.html_page(report)
    report_page.markdown_page(report)
    assert report == before
