"""What a report comes to, in a few words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch_trt_ext.report_page.facts import Facts, Figure


@dataclass(frozen=True)
class Verdict:
    """A judgement.

    Attributes:
        words: it; empty where a figure says it all.
        kind: whether that is good news; empty for neither.
    """

    words: str
    kind: Literal["good", "bad", ""] = ""


def speed_verdict(report: Facts) -> Verdict:
    """Whether the model became faster; in words where it has no figure."""
    if not report["engines"]:
        return Verdict("no engine was kept")
    speedup = report["overall"]["speedup"].number()
    if not math.isfinite(speedup):
        return Verdict("not measured")
    return Verdict("", "good" if speedup > 1 else "bad" if speedup < 1 else "")


def accuracy_verdict(report: Facts) -> Verdict:
    """Whether the answers are near enough."""
    if not report["engines"]:
        return Verdict("as it was")
    accuracy = report["accuracy"]
    metric = accuracy["metric"]
    if metric:
        drop = metric["original"].number() - metric["optimized"].number()
        if math.isnan(drop):
            return Verdict("not measured")
        fine = drop <= metric["max_drop"].number()
    else:
        if not accuracy["model"]:
            return Verdict("not compared")
        error, limit = accuracy["model"]["relative"].number(), accuracy["max_model_relative_error"].number()
        if math.isnan(error) or math.isnan(limit):
            return Verdict("not measured")
        fine = error <= limit
    if fine:
        return Verdict("within the limit", "good")
    return Verdict("beyond the limit", "bad")


def headline(report: Facts) -> list[str | Figure]:
    """What was optimized, for what, and what it runs on."""
    hardware = report["hardware_context"]
    parts: list[str | Figure] = ["optimized for ", hardware["device_type"].words(), " on "]
    parts.append(hardware["microarchitecture"].words())
    for engine in report["engines"].items()[:1]:
        parts += [", engines of ", engine["backend"].words(), " in ", engine["precision"].words()]
    return parts
