"""The model as a whole: its own answers, how far those with engines are from them, and what a call of either costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from torch_trt_ext.optimizer import observation
from torch_trt_ext.optimizer.accuracy import Comparison, compare
from torch_trt_ext.optimizer.latency import Latency, compare_latency
from torch_trt_ext.optimizer.messages import what_failed
from torch_trt_ext.optimizer.model_input import copy_script
from torch_trt_ext.optimizer.reference import answer, checked_answer
from torch_trt_ext.optimizer.summary import Outcome


class WholeModel:
    """The model that is optimized, with its answers to the samples.

    Args:
        outcome: has the model, the samples and the options; what is measured is noted there.
        device: where the model runs.

    Raises:
        ValueError: the model refuses a sample.
    """

    def __init__(self, outcome: Outcome, device: torch.device) -> None:
        self._outcome = outcome
        self._device = device
        self._expected = []
        samples = outcome.samples
        for item, origin in zip(samples.items, samples.origins, strict=True):
            self._expected.append(checked_answer(self.original(), item, origin))

    def original(self) -> torch.jit.ScriptModule:
        """A copy of the model in its initial state."""
        return copy_script(self._outcome.source.script)

    def why_inaccurate(self, optimized: observation.ModelMaker) -> str:
        """What is wrong with the answers of the model with engines; empty if it may be kept."""
        outcome, metric = self._outcome, self._outcome.metric
        config, limits = outcome.config, outcome.config.accuracy
        if not config.check_model and metric is None:
            return ""
        outcome.comparison = comparison = self._compare(optimized)
        # Where a metric decides, answers must only be there.
        limit = limits.model_limit(outcome.precision) if metric is None else float("inf")
        if not comparison.within(limit):
            problem = f"the model is not accurate: {comparison.explain(limit)}"
        elif metric is None or not (problem := metric.why_worse(optimized())):
            return ""
        problem = f"with engines in {outcome.precision} {problem}"
        forgiven = config.gpu_config.disable_fp16_accuracy_check and outcome.precision != "float32"
        if not limits.check or (forgiven and comparison.within(float("inf"))):
            outcome.remarks.append(f"{problem}; they were kept, since the config says so")
            return ""
        return problem

    def error_of(self, model: observation.ModelMaker) -> float:
        """The relative error of a model's answers to the samples."""
        return self._compare(model).relative

    def drop_of(self, model: observation.ModelMaker) -> float:
        """How far the user's metric falls from the original model's to another's."""
        assert self._outcome.metric is not None
        return self._outcome.metric.drop_of(model())

    def why_slow(self, optimized: observation.ModelMaker, item: tuple[Any, ...]) -> str:
        """Why the model with engines is not fast enough; empty if it may be kept, also where it cannot be timed."""
        outcome, timing = self._outcome, self._outcome.config.timing
        self._time({"original": self.original, "optimized": optimized}, item)
        if outcome.original is None or outcome.optimized is None or not timing.compare:
            return ""
        before, after = outcome.original.median_ms, outcome.optimized.median_ms
        if before / after >= timing.min_speedup:
            return ""
        return (
            f"with engines the model takes {after:.3g} ms, without them {before:.3g} ms, a speedup of "
            f"{before / after:.2f} where timing.min_speedup is {timing.min_speedup:g}"
        )

    def time_original(self, item: tuple[Any, ...]) -> None:
        """Notes what a call of the model costs without engines."""
        self._time({"original": self.original}, item)

    def _compare(self, optimized: observation.ModelMaker) -> Comparison:
        """The errors of the sample on which the optimized model is furthest off."""
        comparisons = [
            compare(expected, answer(optimized(), item))
            for expected, item in zip(self._expected, self._outcome.samples.items, strict=True)
        ]
        return max(comparisons, key=lambda comparison: comparison.relative)

    def _time(self, models: Mapping[str, observation.ModelMaker], item: tuple[Any, ...]) -> None:
        outcome = self._outcome
        try:
            latencies, problem = observation.despite_fuser(lambda: self._latencies(models, item))
        except Exception as error:  # whatever the model's code raises
            outcome.remarks.append(f"the model was not timed, since calling it repeatedly fails: {what_failed(error)}")
            return
        if problem:
            outcome.remarks.append(
                f"TorchScript's own fuser fails on the model when it is called repeatedly: {problem}; times are "
                "without it; call torch._C._jit_set_texpr_fuser_enabled(False) where the model runs"
            )
        outcome.original, outcome.optimized = latencies.get("original"), latencies.get("optimized")

    def _latencies(self, models: Mapping[str, observation.ModelMaker], item: tuple[Any, ...]) -> dict[str, Latency]:
        timing = self._outcome.config.timing
        return compare_latency(
            {name: observation.repeatable(make, item) for name, make in models.items()},
            device=self._device,
            warmup=timing.warmup_runs,
            runs=timing.timed_runs,
            max_seconds=timing.max_seconds,
        )
