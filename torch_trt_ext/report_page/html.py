"""The report as one HTML file that needs nothing else: no scripts, fonts or pictures from anywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch_trt_ext.report_page.facts import Facts
from torch_trt_ext.report_page.markup import Content, Markup, element, json_script, markup
from torch_trt_ext.report_page.rows import engine_colours, reasons
from torch_trt_ext.report_page.sections import sections
from torch_trt_ext.report_page.style import STYLE
from torch_trt_ext.report_page.verdicts import accuracy_verdict, headline, speed_verdict

__all__ = ["html_page"]

#: Characters of a reason on a card.
_MAX_REASON = 90

#: Nothing may be fetched, whatever the report's texts say.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def html_page(report: Mapping[str, Any]) -> str:
    """A whole HTML document.

    Every figure stands in an element with ``data-from``, a JSON pointer into the report, which the page holds as well
    (``script#report``).

    Args:
        report: what ``optimize()`` returned, or the same read from JSON.
    """
    # Scripts and tests read the document; NaN is no JSON, but a report that was made elsewhere may have it.
    values = _plain(report)
    facts = Facts(values)
    colours = {name: f"c{number}" for name, number in engine_colours(facts).items()}
    name = facts["diagnosis"]["model"].text() or "a model"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{name}: report of torch_trt_ext.optimize"),
        # Without an icon browsers ask the server for one.
        Markup('<link rel="icon" href="data:,">'),
        element("style", Markup(STYLE)),
    )
    body = element(
        "body",
        element(
            "main",
            element("header", element("h1", name), element("p", headline(facts), class_="under")),
            _cards(facts, colours),
            _message(facts),
            sections(facts, colours),
            element("footer", "Made by torch_trt_ext.optimize()."),
        ),
        json_script(values, "report"),
    )
    return f'<!DOCTYPE html>\n<html lang="en">{head}{body}</html>\n'


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _cards(report: Facts, colours: Mapping[str, str]) -> Markup:
    return element("div", _speed(report), _accuracy(report), _engines(report, colours), _left(report), class_="cards")


def _card(what: str, big: Content, more: Content, class_: str = "", *further: Content) -> Markup:
    return element(
        "div",
        element("div", what, class_="what"),
        element("div", big, class_=f"big {class_}".strip()),
        element("div", more, class_="more"),
        further,
        class_="card",
    )


def _speed(report: Facts) -> Markup:
    overall = report["overall"]
    verdict = speed_verdict(report)
    if verdict.words:
        known = math.isfinite(overall["baseline"].number())
        more: Content = ["a call takes ", overall["baseline"].words()] if known else "a call was not timed"
        return _card("Speed", verdict.words, more, f"words {verdict.kind}")
    times: list[Content] = [overall["baseline"].words(), " → ", overall["optimized"].words(), " a call"]
    return _card("Speed", overall["speedup"].speedup(), times, verdict.kind)


def _accuracy(report: Facts) -> Markup:
    accuracy = report["accuracy"]
    metric, verdict = accuracy["metric"], accuracy_verdict(report)
    badge = element("span", verdict.words, class_=f"badge {verdict.kind}".strip())
    more: list[Content]
    if not report["engines"]:
        return _card("Accuracy", "as it was", "the model is given back unchanged", "words")
    if metric:
        values: list[Content] = [metric["original"].quantity(), " → ", metric["optimized"].quantity()]
        more = [badge, " may fall by ", metric["max_drop"].quantity()]
        return _card("Accuracy, your metric", values, more, f"words {verdict.kind}")
    if not accuracy["model"]:
        return _card("Accuracy", verdict.words, "no engine was compared with the model", "words")
    limit = accuracy["max_model_relative_error"]
    more = [badge, " limit ", limit.percent()]
    return _card("Largest relative error of an output", accuracy["model"]["relative"].percent(), more, verdict.kind)


def _engines(report: Facts, colours: Mapping[str, str]) -> Markup:
    coverage = report["coverage"]
    if not coverage:
        return _card("In engines", "nothing", "the model was not divided", "words")
    meter = [
        element("i", class_=colours[engine["name"].text()], style=f"flex:{engine['operators'].number():g} 0 0")
        for engine in report["engines"].items()
        if engine["operators"].number() > 0
    ]
    outside = coverage["operators_total"].number() - coverage["operators"].number()
    meter += [element("i", class_="pytorch", style=f"flex:{outside:g} 0 0")] if outside > 0 else []
    count = coverage["engines"]
    big: list[Content] = [count.quantity(), " engine" if count.number() == 1 else " engines"]
    more: list[Content] = [
        coverage["operators"].quantity(),
        " of ",
        coverage["operators_total"].quantity(),
        " operators, ",
        coverage["compute"].percent(),
        " of the arithmetic",
    ]
    return _card("In engines", big, more, "", element("div", meter, class_="meter") if meter else None)


def _left(report: Facts) -> Markup:
    entries, found = report["left_in_torch"].items(), reasons(report)
    if not entries:
        words = "nothing" if report["engines"] else "everything"
        return _card("Stays in PyTorch", words, "see the note" if words == "everything" else "all runs in engines")
    more, others = found[0][0], len(found) - 1
    if len(more) > _MAX_REASON:
        more = f"{more[: _MAX_REASON - 1]}…"
    if others:
        more += f"; {others} other reason{'s' * (others != 1)} below"
    root = report["coverage"]["modules"][0]
    known = root["left"].value == len(entries)
    count: Content = root["left"].quantity() if known else str(len(entries))
    return _card("Stays in PyTorch", [count, f" node{'s' * (len(entries) != 1)}"], more)


def _message(report: Facts) -> Markup | None:
    message = report["diagnosis"]["message"].text()
    return element("div", element("strong", "Note: "), markup(message), class_="note") if message else None
