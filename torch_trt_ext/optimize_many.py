"""``optimize()`` for many models or shapes at once, on a Ray cluster: a task each, one a GPU."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pickle
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from torch_trt_ext.config import Config
from torch_trt_ext.optimize_file import optimize_file
from torch_trt_ext.optimizer.messages import first_line
from torch_trt_ext.optimizer.metric import Measure
from torch_trt_ext.optimizer.opt_spec import OptSpec
from torch_trt_ext.optimizer.optimize import optimize
from torch_trt_ext.optimizer.report import Report
from torch_trt_ext.optimizer.structures import to_device
from torch_trt_ext.saved_file import check_target, write_whole

__all__ = ["Job", "JobFailed", "Result", "optimize_many"]


class JobFailed(RuntimeError):
    """A job has no optimized model; the message says which one and why, ``__notes__`` of it where."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One call of ``optimize()``.

    Attributes:
        model: path of a file of ``torch.jit.save``, which the process that calls :func:`optimize_many` reads; a
            ScriptModule; or a ``torch.nn.Module`` whose class the cluster's workers can import.
        target: file that the process that calls writes the optimized model to; None for none.
        name: in progress and errors; by default the file's, or the model's class.
        optimization_level: as ``optimize()`` takes it, and so are all that follow.
        device_type: "gpu" or "cpu".
        config: None for the one that is current where :func:`optimize_many` is called.
        inputs: names of arguments.
        input_shapes: shapes to make inputs of.
        input_ranges: value ranges of made inputs.
        test_data: arguments of calls, on any device.
        calib_data: likewise, for level "o2".
        custom_ops: libraries of custom operators, by paths that are good on the worker.
        metric: measures a model; it must be picklable, with the data that it uses.
    """

    model: Any
    target: str | os.PathLike[str] | None = None
    name: str = ""
    optimization_level: str = "o1"
    device_type: str = "gpu"
    config: Config | None = None
    inputs: Sequence[str] | None = None
    input_shapes: Sequence[Any] | None = None
    input_ranges: Sequence[Any] | None = None
    test_data: Sequence[tuple[Any, ...]] = ()
    calib_data: Sequence[tuple[Any, ...]] = ()
    custom_ops: Sequence[str | os.PathLike[str]] | None = None
    metric: Measure | None = None

    @property
    def label(self) -> str:
        """The job in a word or two."""
        if self.name:
            return self.name
        if isinstance(self.model, (str, os.PathLike)):
            return os.path.basename(self.model)
        return str(getattr(self.model, "original_name", type(self.model).__name__))


@dataclass(frozen=True)
class Result:
    """What came of a job.

    Attributes:
        job: as it was given.
        opt_spec: what ``optimize()`` returned; None where the job failed.
        report: likewise.
        error: why there is no model, in a line; empty where there is one.
        traceback: of the error on the worker; empty where there is none, or the worker died.
        seconds: that the job ran on its worker; 0 where that died.
        node: name of the machine; empty where the worker died.
        data: the optimized model as ``torch.jit.save`` writes it; None where it was written to the job's target, or the
            job failed.
    """

    job: Job
    opt_spec: OptSpec | None = None
    report: Report | None = None
    error: str = ""
    traceback: str = ""
    seconds: float = 0.0
    node: str = ""
    data: bytes | None = None

    @property
    def failed(self) -> bool:
        """Whether there is no model."""
        return bool(self.error)

    def load(self, map_location: torch.device | str | None = None) -> torch.jit.ScriptModule:
        """The optimized model.

        Args:
            map_location: as ``torch.jit.load`` takes it.

        Raises:
            JobFailed: the job failed.
        """
        if self.failed:
            error = JobFailed(f"job {self.job.label!r} failed: {self.error}")
            if self.traceback:
                # Python 3.11 prints it with the error; before, it is there to be read.
                error.__notes__ = [self.traceback]
            raise error
        source = os.fspath(self.job.target or "") if self.data is None else io.BytesIO(self.data)
        model: torch.jit.ScriptModule = torch.jit.load(source, map_location=map_location)  # type: ignore[no-untyped-call]
        return model


@dataclass(frozen=True)
class _Order:
    """A job as it travels to a worker: nothing in it is on a GPU or bound to this machine's files."""

    label: str
    #: Bytes of a TorchScript file, or a module.
    model: bytes | torch.nn.Module
    file_name: str
    optimization_level: str
    device_type: str
    config: dict[str, Any]
    arguments: dict[str, Any]
    setup: Callable[[], object] | None


@dataclass(frozen=True)
class _Delivery:
    data: bytes
    opt_spec: str
    report: dict[str, Any]
    error: str
    traceback: str
    seconds: float
    node: str


def optimize_many(
    jobs: Sequence[Job],
    *,
    cache_folder: str | os.PathLike[str] | None = None,
    cpus_per_job: int | None = None,
    setup: Callable[[], object] | None = None,
    on_result: Callable[[Result], object] | None = None,
    verbose: bool = False,
) -> list[Result]:
    """Optimizes models in parallel on the Ray cluster that this process is connected to.

    Where it is connected to none, ``ray.init()`` decides: the cluster of ``RAY_ADDRESS``, or a Ray on this machine that
    ends with the call. A job for GPUs gets one for itself, and a process of its own. A job that fails costs the others
    nothing; that a worker dies is a failure of its job, which is not tried again.

    Args:
        jobs: what to optimize.
        cache_folder: where engines and timings are kept, for all jobs whose config names no folder; it should be one
            that all machines share. By default each machine has its own.
        cpus_per_job: CPUs that Ray gives a job. By default 1 for GPUs; and for the CPU all of a machine's, one job a
            machine, since jobs that share a machine's cores spoil each other's measurements of time.
        setup: called on the worker before each job, for what a job needs there: ``load_plugin_library``,
            ``register_plugin_operator``. It must be picklable.
        on_result: called here with each result when it comes, in that order.
        verbose: jobs say on stderr what is being done, which Ray passes on.

    Returns:
        The results in the order of the jobs.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        TypeError: ``jobs`` are no jobs.
        FileNotFoundError: a model's file, or a target's folder, is not there.
        RuntimeError: no machine of the cluster has what a job needs.
    """
    jobs = list(jobs)
    for job in jobs:
        if not isinstance(job, Job):
            raise TypeError(f"jobs must be a list of Job, got a {type(job).__name__} in it; pass Job(model=...)")
        if job.target is not None:
            check_target(Path(job.target))
    orders = [_order(job, cache_folder, setup) for job in jobs]
    show_bar = Config.current().progress and sys.stderr.isatty()
    results: dict[int, Result] = {}
    with _connected(), tqdm(total=len(jobs), desc="optimizing", disable=not show_bar, leave=False) as bar:
        for number, delivery in _run(orders, cpus_per_job, verbose):
            results[number] = result = _result(jobs[number], delivery)
            bar.set_postfix_str(f"{result.job.label}{' failed' if result.failed else ''}", refresh=False)
            bar.update()
            if on_result:
                on_result(result)
    return [results[number] for number in range(len(jobs))]


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ModuleNotFoundError(
            f"optimize_many needs Ray, which cannot be imported ({error}); pip install ray", name="ray"
        ) from error
    return ray


@contextlib.contextmanager
def _connected() -> Iterator[None]:
    """Connected to a Ray, which ends with the block if it was started for it."""
    ray = _ray()
    if ray.is_initialized():
        yield
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init()
    else:
        # A Ray that the user did not ask for sends no usage statistics.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(include_dashboard=False, logging_level=logging.WARNING)
    try:
        yield
    finally:
        ray.shutdown()


def _order(job: Job, cache_folder: str | os.PathLike[str] | None, setup: Callable[[], object] | None) -> _Order:
    config = (job.config or Config.current()).copy()
    config.progress = False
    if cache_folder is not None and not config.cache.folder:
        config.cache.folder = os.path.abspath(cache_folder)
    model: bytes | torch.nn.Module
    file_name = "unnamed.pt"
    if isinstance(job.model, (str, os.PathLike)):
        file_name = os.path.basename(job.model)
        if not os.path.isfile(job.model):
            raise FileNotFoundError(f"model of job {job.label!r} must be a file, but there is none at {job.model}")
        model = Path(job.model).read_bytes()
    elif isinstance(job.model, torch.jit.ScriptModule):
        buffer = io.BytesIO()
        torch.jit.save(job.model, buffer)
        model = buffer.getvalue()
    else:
        # Errors about other kinds are optimize()'s.
        model = job.model
    arguments = {
        "inputs": job.inputs,
        "input_shapes": job.input_shapes,
        "input_ranges": job.input_ranges,
        "test_data": to_device(list(job.test_data), "cpu"),
        "calib_data": to_device(list(job.calib_data), "cpu"),
        "custom_ops": job.custom_ops,
        "metric": job.metric,
    }
    return _Order(
        job.label, model, file_name, job.optimization_level, job.device_type, config.to_dict(), arguments, setup
    )


def _run(
    orders: Sequence[_Order], cpus_per_job: int | None, verbose: bool
) -> Iterator[tuple[int, _Delivery | BaseException]]:
    """What each order came to, with its number, as they come."""
    ray = _ray()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    needs = [_needs(order, cpus_per_job, nodes) for order in orders]
    # A worker that had a GPU and is used again keeps that one, whichever Ray gives it then.
    remote = ray.remote(max_calls=1, max_retries=0)(_work)
    pending: dict[Any, int] = {}
    try:
        for number, order in enumerate(orders):
            options = {"num_cpus": needs[number]["CPU"], "num_gpus": needs[number]["GPU"]}
            task = remote.options(name=f"optimize {order.label}", **options)
            try:
                packed = ray.cloudpickle.dumps(order)
            except Exception as error:  # pickle raises what the objects' own methods do
                yield number, ValueError(f"the job must be picklable to go to a worker, got {first_line(error)}")
                continue
            pending[task.remote(packed, verbose)] = number
        while pending:
            (done,), _ = ray.wait(list(pending), num_returns=1)
            number = pending.pop(done)
            try:
                yield number, ray.get(done)
            except ray.exceptions.RayError as error:
                yield number, error
    finally:
        for reference in pending:
            ray.cancel(reference, force=True)


def _needs(order: _Order, cpus_per_job: int | None, nodes: Sequence[dict[str, float]]) -> dict[str, int]:
    """The CPUs and GPUs of a job.

    Raises:
        RuntimeError: no machine has them, so that the job would wait for ever.
    """
    gpus = 1 if order.device_type == "gpu" else 0
    most = max((int(node.get("CPU", 0)) for node in nodes), default=0)
    cpus = cpus_per_job if cpus_per_job is not None else 1 if gpus else max(1, most)
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        there = ", ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
        raise RuntimeError(
            f"job {order.label!r} needs a machine with {cpus} CPUs and {gpus} GPUs, Ray's have {there or 'nothing'}; "
            "start one with what is missing, or lower cpus_per_job"
        )
    return {"CPU": cpus, "GPU": gpus}


def _work(packed: bytes, verbose: bool) -> _Delivery:
    """Does a pickled order, on a worker.

    What goes wrong is told, not raised: not every exception survives the way back.
    """
    started = time.monotonic()
    data, opt_spec, report, error, trace = b"", "", {}, "", ""
    folder = Path(tempfile.mkdtemp())
    try:
        order: _Order = pickle.loads(packed)
        if order.setup:
            order.setup()
        data, spec, found = _optimize(order, folder, verbose)
        opt_spec, report = spec.to_json(), dict(found)
    except Exception as problem:  # whatever it is, the one who asked must know
        error, trace = f"{type(problem).__name__}: {first_line(problem)}", traceback.format_exc()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return _Delivery(data, opt_spec, report, error, trace, round(time.monotonic() - started, 1), os.uname().nodename)


def _optimize(order: _Order, folder: Path, verbose: bool) -> tuple[bytes, OptSpec, Report]:
    arguments = {**order.arguments, "config": Config.from_dict(order.config), "verbose": verbose}
    if isinstance(order.model, bytes):
        source, target = folder / order.file_name, folder / "optimized"
        source.write_bytes(order.model)
        spec, report = optimize_file(source, target, order.optimization_level, order.device_type, **arguments)
        return target.read_bytes(), spec, report
    optimized, spec, report = optimize(order.model, order.optimization_level, order.device_type, **arguments)
    buffer = io.BytesIO()
    torch.jit.save(optimized, buffer)
    return buffer.getvalue(), spec, report


def _result(job: Job, delivery: _Delivery | BaseException) -> Result:
    if isinstance(delivery, BaseException):
        return Result(job, error=f"{type(delivery).__name__}: {first_line(delivery)}")
    if delivery.error:
        return Result(
            job, error=delivery.error, traceback=delivery.traceback, seconds=delivery.seconds, node=delivery.node
        )
    data: bytes | None = delivery.data
    if job.target is not None:
        try:
            write_whole(Path(job.target), delivery.data)
        except OSError as error:
            return Result(job, error=f"{type(error).__name__}: {error}", seconds=delivery.seconds, node=delivery.node)
        data = None
    return Result(
        job,
        OptSpec.from_json(delivery.opt_spec),
        Report(delivery.report),
        seconds=delivery.seconds,
        node=delivery.node,
        data=data,
    )
