"""Several programs on one GPU at once, of which one that takes a time has the GPU for itself.

Building engines keeps the processor busy more than the GPU, so that several builds at once end sooner; their times
would say nothing, though. With :func:`take_turns` a program that times a call stops the others of its folder meanwhile.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from torch_trt_ext.optimizer import latency

#: Calls of each that is timed before the others are stopped: in these TorchScript compiles, which may take long.
FIRST_CALLS = 3

#: What others gave the GPU to do before they were stopped has ended after this many seconds.
_DRAIN_SECONDS = 0.05

_HOLDER = "holder"


@contextlib.contextmanager
def take_turns(folder: Path) -> Iterator[None]:
    """Within it, whatever ``optimize()`` times is timed while the other programs of the folder are stopped.

    Args:
        folder: the same for all programs that share a GPU, and one a GPU; it need not exist.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = folder / f"{os.getpid()}.pid"
    own.touch()
    try:
        # All that is compared or measured goes through it.
        with mock.patch.object(latency, "time_calls", functools.partial(_alone, folder, latency.time_calls)):
            yield
    finally:
        own.unlink(missing_ok=True)


def wake(folder: Path) -> None:
    """Tidies up after programs of a folder that ended without a word, as one does that is killed."""
    for entry in folder.glob("*.pid"):
        if not _is_running(int(entry.stem)):
            entry.unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError, ValueError):
        holder = int((folder / _HOLDER).read_text())
        if not _is_running(holder):
            (folder / _HOLDER).unlink(missing_ok=True)
            _signal_others(folder, signal.SIGCONT)


def _alone(folder: Path, timed: Callable[..., Any], calls: Mapping[str, Callable[[], object]], **options: Any) -> Any:
    with torch.no_grad():
        for call in calls.values():
            for _ in range(FIRST_CALLS):
                call()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / _HOLDER).write_text(str(os.getpid()))
        try:
            _signal_others(folder, signal.SIGSTOP)
            time.sleep(_DRAIN_SECONDS)
            return timed(calls, **options)
        finally:
            _signal_others(folder, signal.SIGCONT)
            (folder / _HOLDER).unlink(missing_ok=True)


def _signal_others(folder: Path, number: signal.Signals) -> None:
    for entry in folder.glob("*.pid"):
        if int(entry.stem) != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(entry.stem), number)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
