"""``torch-trt-ext doctor``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from torch_trt_ext.cli.answer import DIFFERENT, Answer, answers
from torch_trt_ext.doctor import Check, Health, examine
from torch_trt_ext.optimizer.report import DeviceType


@click.command()
@click.option(
    "--device",
    "device_type",
    type=click.Choice(["gpu", "cpu"]),
    help="Whose engines shall run here.  [default: gpu where there is an NVIDIA GPU]",
)
@answers
def doctor(device_type: DeviceType | None) -> Answer:
    """Say what engines need, and what is missing.

    Exit status 3 says that something needed is missing.
    """
    health = examine(device_type)
    missing = health.missing
    document: dict[str, Any] = {
        "device_type": health.device_type,
        "healthy": not missing,
        "checks": [
            {**asdict(check), "needed": health.device_type in check.needed_for, "ok": not check.problem}
            for check in health.checks
        ],
    }
    width = max(len(check.name) for check in health.checks)
    lines = [line for check in health.checks for line in _lines(check, health, width)]
    kind = "TensorRT engines on the GPU" if health.device_type == "gpu" else "OpenVINO engines on the CPU"
    if missing:
        lines += ["", f"{kind} cannot run here: {', '.join(check.name for check in missing)} first"]
    else:
        lines += ["", f"{kind} can be built and run here"]
    return Answer(document, "\n".join(lines), DIFFERENT if missing else 0)


def _lines(check: Check, health: Health, width: int) -> list[str]:
    if not check.problem:
        return [
            f"{click.style('ok     ', fg='green')}  {check.name.ljust(width)}  {check.found}  {check.where}".rstrip()
        ]
    if health.device_type not in check.needed_for:
        needed_for = {"gpu": "for TensorRT engines", "cpu": "for OpenVINO engines"}
        whose = " and ".join(needed_for[kind] for kind in check.needed_for) or check.purpose or "by none"
        return [f"absent   {check.name.ljust(width)}  only needed {whose}: {check.remedy}"]
    return [
        f"{click.style('missing', fg='red')}  {check.name.ljust(width)}  {check.problem}",
        f"         {''.ljust(width)}  mend it: {check.remedy}",
    ]
