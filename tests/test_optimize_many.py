"""``optimize_many`` on a Ray of this machine."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fresh_process import output_of_fresh, run_fresh
from tests.optimizer.tiny_models import Convolutions, TwoParts, assert_close, engine_modules, make, quick_config
from torch_trt_ext.optimize_many import Job, JobFailed, Result, optimize_many

ray = pytest.importorskip("ray", reason='optimize_many needs Ray: pip install "ray[serve]"')

#: For a Ray that a test starts as a user does: so it writes no token to the home folder.
_QUIET_RAY: dict[str, str | None] = {"RAY_AUTH_TOKEN": "0" * 32}

#: Two jobs that run at the same time meet within this; starting a worker takes some seconds of two busy cores.
_MEETING_S = 90.0


@pytest.fixture(scope="module", autouse=True)
def two_cpus() -> Iterator[None]:
    from examples.serving.server import local_ray

    with local_ray(2):
        yield


def _images(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(count))


def _job(model: Any = None, **arguments: Any) -> Job:
    arguments = {"device_type": "cpu", "test_data": [(_images(2),)], "config": quick_config()} | arguments
    return Job(model=make(Convolutions) if model is None else model, **arguments)


def _die(_model: torch.jit.ScriptModule) -> float:
    """A metric that ends the worker as a crash does."""
    os._exit(1)


def test_results_in_order_whatever_fails(tmp_path: Path) -> None:
    convolutions, two_parts = make(Convolutions), make(TwoParts)
    saved, target = tmp_path / "two_parts.pt", tmp_path / "optimized.pt"
    torch.jit.save(torch.jit.script(two_parts), str(saved), _extra_files={"notes.txt": "by hand"})
    rows = torch.rand(4, 8)
    jobs = [
        _job(convolutions, name="module"),
        _job(test_data=[(torch.rand(2, 5, 16, 16),)], name="misfit"),
        _job(saved, test_data=[(rows,)], target=target),
        _job(metric=_die, name="crash"),
        _job(torch.jit.script(convolutions), optimization_level="o3", name="level"),
        _job(torch.jit.script(convolutions), test_data=[(_images(1),), (_images(3),)]),
    ]
    seen: list[Result] = []
    results = optimize_many(jobs, cpus_per_job=1, on_result=seen.append)

    assert [result.job for result in results] == jobs
    assert sorted(map(id, seen)) == sorted(map(id, results))
    assert [result.failed for result in results] == [False, True, False, True, True, False]

    module, misfit, file, crash, level, script = results
    assert_close(module.load()(_images(2)), convolutions(_images(2)))
    assert len(module.report["engines"]) == 1
    assert module.opt_spec.device_type == "cpu"
    assert module.seconds > 0
    assert module.node

    extra_files = {"notes.txt": ""}
    optimized = torch.jit.load(str(target), _extra_files=extra_files)
    assert extra_files["notes.txt"] == b"by hand"
    assert len(engine_modules(optimized)) == 2
    assert file.data is None
    assert_close(file.load()(rows), two_parts(rows))
    assert file.report["diagnosis"]["model"] == "two_parts.pt"

    for count in (1, 2, 3):
        assert_close(script.load()(_images(count)), convolutions(_images(count)))

    assert misfit.error.startswith("ValueError: ")
    assert "Traceback" in misfit.traceback
    assert crash.error.startswith("WorkerCrashedError: ")
    assert level.error == (
        "ValueError: optimization_level must be 'o1' (engines of 16 bits) or 'o2' (of 8 bits where they are accurate), "
        "got 'o3'"
    )
    with pytest.raises(JobFailed, match="job 'level' failed: ValueError: optimization_level must be"):
        level.load()


class _Meet:
    """Waits until as many jobs are here as there should be at the same time."""

    def __init__(self, folder: Path, jobs: int) -> None:
        self._folder, self._jobs = folder, jobs

    def __call__(self) -> None:
        (self._folder / str(os.getpid())).touch()
        deadline = time.monotonic() + _MEETING_S
        while len(list(self._folder.iterdir())) < self._jobs:
            if time.monotonic() > deadline:
                raise TimeoutError("the other jobs did not come")
            time.sleep(0.05)


def test_jobs_run_at_the_same_time_and_share_a_cache(tmp_path: Path) -> None:
    meeting, cache = tmp_path / "meeting", tmp_path / "cache"
    meeting.mkdir()
    config = quick_config()
    config.cache.enabled = True
    jobs = [_job(config=config), _job(torch.jit.script(make(Convolutions)), config=config)]
    results = optimize_many(jobs, cpus_per_job=1, setup=_Meet(meeting, 2), cache_folder=cache)
    assert [result.error for result in results] == ["", ""]
    engines = {path: path.stat().st_ino for path in cache.glob("*.engine")}
    assert engines
    # A third job finds what the two left; a new file would have another number.
    assert not optimize_many(jobs[:1], cache_folder=cache)[0].failed
    assert {path: path.stat().st_ino for path in cache.glob("*.engine")} == engines


def test_config_is_the_current_one() -> None:
    with quick_config() as config:
        config.partition.min_block_size = 1000
        (result,) = optimize_many([_job(config=None)])
    assert result.report["engines"] == []


def test_what_no_machine_has_fails() -> None:
    with pytest.raises(
        RuntimeError, match=r"job 'Convolutions' needs a machine with 1 CPUs and 1 GPUs, Ray's have 2 CPUs"
    ):
        optimize_many([_job(device_type="gpu")])
    with pytest.raises(RuntimeError, match="needs a machine with 3 CPUs"):
        optimize_many([_job()], cpus_per_job=3)


def test_wrong_jobs_fail(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="jobs must be a list of Job, got a Convolutions"):
        optimize_many([make(Convolutions)])  # type: ignore[list-item]
    with pytest.raises(FileNotFoundError, match=r"model of job 'none\.pt' must be a file"):
        optimize_many([_job(tmp_path / "none.pt")])
    with pytest.raises(FileNotFoundError, match="target must be in a folder that is there"):
        optimize_many([_job(target=tmp_path / "none" / "out.pt")])


def test_what_cannot_travel_fails_alone() -> None:
    lock = threading.Lock()
    lost, fine = optimize_many([_job(metric=lambda _model: float(lock.locked())), _job()], cpus_per_job=1)
    assert lost.error.startswith("ValueError: the job must be picklable to go to a worker, got ")
    assert not fine.failed


def test_no_jobs() -> None:
    assert optimize_many([]) == []


def test_ray_is_imported_only_when_it_is_used() -> None:
    script = """
        import sys
        import torch_trt_ext, torch_trt_ext.optimize_many
        print("ray" in sys.modules)
    """
    assert output_of_fresh(script).split() == ["False"]


def test_without_ray_fails() -> None:
    result = run_fresh(
        """
        import sys
        sys.modules["ray"] = None
        from torch_trt_ext.optimize_many import optimize_many
        optimize_many([])
        """
    )
    assert result.returncode
    assert "ModuleNotFoundError: optimize_many needs Ray, which cannot be imported" in result.stderr
    assert "pip install ray" in result.stderr


def test_starts_and_ends_a_ray_of_its_own() -> None:
    script = """
        import torch
        from tests.optimizer.tiny_models import Convolutions, make, quick_config
        from torch_trt_ext.optimize_many import Job, optimize_many
        import ray

        data, config = [(torch.rand(2, 3, 16, 16),)], quick_config()
        (result,) = optimize_many([Job(model=make(Convolutions), device_type="cpu", test_data=data, config=config)])
        print(repr(result.error), ray.is_initialized())
    """
    # Ray's sockets are in there, whose paths may have no more than 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        environment = {**_QUIET_RAY, "RAY_TMPDIR": folder}
        assert output_of_fresh(script, environment=environment).splitlines()[-1] == "'' False"
