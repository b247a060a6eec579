"""What ``import torch_trt_ext`` brings in and leaves alone; ``benchmarks/bench_import.py`` has how long it takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fresh_process import ROOT, output_of_fresh

#: Modules that something of the package needs, and no import of it does.
HEAVY = {
    *("click", "google", "matplotlib", "onnx", "onnxruntime", "openvino", "sklearn", "tensorrt", "tensorrt_bindings"),
    *("torch_tensorrt", "torchvision", "tqdm", "transformers"),
}

#: What a process looks like from outside, before and after the import. Torch's own part is done by then.
SCRIPT = """
    import json, logging, os, signal, sys, threading, warnings
    import torch

    def state():
        root = logging.getLogger()
        names = [name for name in logging.Logger.manager.loggerDict if name.startswith("torch_trt_ext")]
        loggers = [root, *map(logging.getLogger, names)]
        signals = [signal.getsignal(number) for number in signal.valid_signals()]
        return {{
            "handlers": sum(len(logger.handlers) for logger in loggers),
            "levels": [logger.level for logger in loggers if logger.level != (logger is root) * root.level],
            "environment": dict(os.environ),
            "threads": [thread.name for thread in threading.enumerate()],
            "threads of the process": len(os.listdir("/proc/self/task")),
            "torch's threads": torch.get_num_threads(),
            "dtype": str(torch.get_default_dtype()),
            "gradients": torch.is_grad_enabled(),
            "random numbers": torch.random.get_rng_state().sum().item(),
            "CUDA": torch.cuda.is_initialized(),
            "filters": [repr(one) for one in warnings.filters],
            "path": list(sys.path),
            "hooks": [repr(hook) for hook in (sys.excepthook, sys.displayhook, *sys.meta_path, *sys.path_hooks)],
            "signals": [repr(handler) for handler in signals],
            "folder": os.getcwd(),
            "files": sorted(os.listdir()) + sorted(os.listdir(os.environ["HOME"])),
            "open files": len(os.listdir("/proc/self/fd")),
        }}

    os.chdir({folder!r})
    modules, before = set(sys.modules), state()
    import {module}
    after = state()
    print(json.dumps({{"before": before, "after": after, "modules": sorted(set(sys.modules) - modules)}}))
"""


def facts_of(module: str, folder: Path) -> dict[str, Any]:
    """What importing a module changes, in a process whose home and folder are empty."""
    home = folder / "home"
    home.mkdir()
    environment = {"HOME": str(home), "XDG_CACHE_HOME": None, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    facts: dict[str, Any] = json.loads(
        output_of_fresh(SCRIPT.format(module=module, folder=str(folder)), environment=environment).splitlines()[-1]
    )
    return facts


@pytest.mark.parametrize("module", ["torch_trt_ext", "torch_trt_ext.runtime"])
def test_import_only_registers(module: str, tmp_path: Path) -> None:
    facts = facts_of(module, tmp_path)
    assert facts["after"] == facts["before"]
    assert facts["before"]["files"] == ["home"]
    new = set(facts["modules"])
    assert not HEAVY & {name.partition(".")[0] for name in new}
    assert {name for name in new if name.startswith("torch_trt_ext")} == {
        "torch_trt_ext",
        "torch_trt_ext.runtime",
        "torch_trt_ext.version",
    }


def test_import_prints_nothing() -> None:
    assert output_of_fresh("import torch_trt_ext") == ""


@pytest.mark.parametrize(
    ("use", "brought_in"),
    [
        ("torch_trt_ext.Config()", "torch_trt_ext.config"),
        ("torch_trt_ext.TRTEngineExtension", "torch_trt_ext.engine"),
        ("torch_trt_ext.EnginePlan", "torch_trt_ext.engine_plan"),
    ],
)
def test_names_bring_in_what_they_need(use: str, brought_in: str) -> None:
    script = f"""
        import sys
        import torch_trt_ext
        before = set(sys.modules)
        {use}
        new = set(sys.modules) - before
        assert {brought_in!r} in new, new
        print(sorted({{name.partition(".")[0] for name in new}} & {HEAVY!r}))
    """
    assert output_of_fresh(script) == "[]\n"
