"""What tests of optimized models share: running a saved one where nothing but the runtime is imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tests.fresh_process import output_of_fresh
from torch_trt_ext.optimizer.structures import detach_clone

_RUN_SAVED = """
    import json, sys, torch
    {imports}
    import torch_trt_ext.runtime
    model = torch.jit.load({folder!r} + "/model.pt")
    arguments = torch.load({folder!r} + "/arguments.pt", weights_only=True)
    with torch.no_grad():
        outputs = model(*arguments)
    torch.save(outputs, {folder!r} + "/outputs.pt")
    assert "torch_trt_ext.optimizer" not in sys.modules
    print(json.dumps([dict(getattr(model, name).engine.counters()) for name in {engines!r}]))
"""


def engine_names(report: dict[str, Any]) -> list[str]:
    """The submodules of an optimized model that hold its engines."""
    return [engine["name"] for engine in report["engines"]]


def run_in_fresh_process(
    model: torch.jit.ScriptModule, arguments: tuple[Any, ...], folder: Path, engines: list[str], *, imports: str = ""
) -> tuple[Any, list[dict[str, int]]]:
    """Saves a model, and runs the file in a process that imports only the runtime.

    Args:
        model: any TorchScript.
        arguments: of one call, anywhere; they and the outputs keep their device.
        folder: for files.
        engines: submodules with engines.
        imports: what the model needs besides the runtime.

    Returns:
        The outputs, and the counters of each engine after that one call.
    """
    torch.jit.save(model, str(folder / "model.pt"))
    torch.save(detach_clone(arguments), folder / "arguments.pt")
    text = output_of_fresh(_RUN_SAVED.format(folder=str(folder), engines=engines, imports=imports))
    counters: list[dict[str, int]] = json.loads(text.strip().splitlines()[-1])
    return torch.load(folder / "outputs.pt", weights_only=True), counters
