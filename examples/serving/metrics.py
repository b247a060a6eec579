"""The application's metrics as Prometheus reads them, from all of its processes."""

from __future__ import annotations

import re
import urllib.request

import ray

#: What of Ray's metrics is shown: the application's own, and what Serve counts of each replica.
_SHOWN = re.compile(r"ray_(?:detector_\w+|serve_deployment_replica_(?:healthy|starts_total))")

_LINE = re.compile(r"(?:# (?:HELP|TYPE) )?(?P<name>\w+)(?P<labels>\{.*\})?(?P<rest>.*)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

#: Labels that tell two series apart; Ray adds session, versions and the like.
_LABELS = ("deployment", "replica", "status", "reason", "le")

_TIMEOUT_S = 5.0


def shown(text: str) -> list[str]:
    """The application's lines of what a node's agent says, with the labels that matter.

    Args:
        text: Prometheus' text format.
    """
    lines = []
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is None or not _SHOWN.fullmatch(match["name"]):
            continue
        if match["labels"] is None:
            lines.append(line)
            continue
        labels = dict(_LABEL.findall(match["labels"]))
        kept = ",".join(f'{name}="{labels[name]}"' for name in _LABELS if name in labels)
        lines.append(f"{match['name']}{{{kept}}}{match['rest']}")
    return lines


def node_metrics() -> str:
    """The application's metrics on all nodes, in Prometheus' text format.

    Every process gives what it counts to an agent of its node, a second or so later (``metrics_report_interval_ms``),
    and this asks the agents. A Prometheus of the cluster can ask them itself and has all of Ray's metrics then.

    Raises:
        OSError: an agent does not answer.
    """
    lines: dict[str, None] = {}
    for node in ray.nodes():
        if not node["Alive"]:
            continue
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response:
            # What several nodes say word for word, as a metric's help, is said once.
            lines |= dict.fromkeys(shown(response.read().decode()))
    # A metric's lines must be together.
    return "\n".join(sorted(lines, key=_family)) + "\n"


def _family(line: str) -> str:
    match = _LINE.fullmatch(line)
    return re.sub(r"_(?:bucket|sum|count)$", "", match["name"]) if match else ""
