"""Engines tried: built for subgraphs, checked, timed, mended where they are not accurate, and put into the model."""

from __future__ import annotations

import concurrent.futures
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from torch_trt_ext import _C
from torch_trt_ext.config import EIGHT_BIT
from torch_trt_ext.optimizer import sensitivity
from torch_trt_ext.optimizer.candidates import (
    Candidate,
    build,
    choose_cuda_graphs,
    make_replacement,
    time_against_torch,
    verify,
    why_no_gain,
)
from torch_trt_ext.optimizer.engine_builder import EngineBuilder, Level, Precision
from torch_trt_ext.optimizer.messages import first_line
from torch_trt_ext.optimizer.quantization import quantizable_nodes
from torch_trt_ext.optimizer.script_module import wrap
from torch_trt_ext.optimizer.subgraphs import Subgraph, SubgraphFactory
from torch_trt_ext.optimizer.summary import Outcome
from torch_trt_ext.optimizer.whole_model import WholeModel

#: What the nodes go back to that a precision does not suffice for.
_WIDER = {"int8": "16 bits", "float8": "16 bits", "float16": "float32", "bfloat16": "float32"}


_UNBUILDABLE = "its engine cannot be built: "


def _go_back(nodes: dict[int, str], precision: Precision) -> str:
    return f"{len(nodes)} nodes go back to {_WIDER[precision]}"


def _together(reasons: Mapping[Precision, str]) -> str:
    """Reasons of one precision after the other; those that are the same are given once."""
    first: dict[str, Precision] = {}
    for precision, reason in reasons.items():
        first.setdefault(reason, precision)
    texts = [reason if not number else f"in {first[reason]} {reason}" for number, reason in enumerate(first)]
    return "; ".join(texts)


def _error_of(candidate: Candidate) -> float:
    """The relative error of an engine; infinite for one that could not be compared."""
    return candidate.comparison.relative if candidate.comparison else float("inf")


@dataclass
class Attempt:
    """The model with the engines of one round of building.

    Attributes:
        prepared: the model, divided.
        replacements: what takes the place of subgraphs, by their numbers: names and modules.
        accepted: the engines.
    """

    prepared: _C.PreparedModel
    replacements: dict[int, tuple[str, Any]]
    accepted: list[Candidate]

    def module(self) -> torch.jit.ScriptModule:
        """The model in its initial state; engines are shared by all that come from here."""
        return wrap(self.prepared.assembled(self.replacements))


def may_mix(builder: EngineBuilder, precision: Precision) -> bool:
    """Whether engines of a precision can have single nodes with more bits."""
    return precision in EIGHT_BIT or (builder.mixes_precisions and precision in ("float16", "bfloat16"))


class Trials:
    """Tries engines for the subgraphs of one model, and notes in its outcome which, and why others stay in PyTorch.

    Args:
        factory: makes the subgraphs.
        outcome: of the model.
        device: where the model runs.
        say: tells the user what is going on.
        level: optimize()'s.
        show_progress: whether to draw a bar.
    """

    def __init__(
        self,
        factory: SubgraphFactory,
        outcome: Outcome,
        device: torch.device,
        say: Callable[[str], None],
        *,
        level: Level,
        show_progress: bool,
    ) -> None:
        self._factory = factory
        self._outcome = outcome
        self._config = outcome.config
        self._builder = outcome.builder
        self._device = device
        self._say = say
        self._level = level
        self._show_progress = show_progress
        #: Why precisions were not kept, in all rounds, in the order tried, by number of the subgraph.
        self._refused: dict[int, dict[Precision, str]] = {}

    def run(self, subgraphs: Sequence[Subgraph], precision: Precision) -> Attempt:
        """Builds, checks and times engines; what cannot be built or is not accurate gets more bits."""
        candidates = []
        bar = tqdm(total=len(subgraphs), desc="building engines", disable=not self._show_progress, leave=False)
        with bar:
            for subgraph, first, built in self._build(subgraphs, precision, bar.update):
                candidate = self._settle(subgraph, first, built)
                if candidate is not None:
                    self._say(f"{subgraph.name}: {candidate.rejected or f'accepted in {candidate.precision}'}")
                    candidates.append(candidate)
                    self._leave_rejected(candidate)
        self._outcome.candidates = candidates
        return self._assemble([candidate for candidate in candidates if not candidate.rejected])

    def fewest_bits(self, attempt: Attempt) -> Precision:
        """The first to be tried of the precisions that an attempt's engines, of which there must be one, are in."""
        found = {candidate.precision for candidate in attempt.accepted}
        return next(precision for precision in self._builder.ladder(self._level) if precision in found)

    def keep_what_pays(self, attempt: Attempt, whole: WholeModel) -> Attempt:
        """An attempt with more bits, which are more accurate, in place of engines in 8 that are no faster.

        Args:
            attempt: accurate engines.
            whole: the model, which must stay accurate.
        """
        outcome = self._outcome
        if not self._config.timing.compare:
            return attempt
        chosen = [
            self._unless_no_gain(candidate) if candidate.precision in EIGHT_BIT else candidate
            for candidate in attempt.accepted
        ]
        if all(after is before for before, after in zip(attempt.accepted, chosen, strict=True)):
            return attempt
        changed = self._assemble(chosen)
        before = outcome.precision, outcome.comparison, outcome.metric.optimized if outcome.metric else None
        outcome.precision = self.fewest_bits(changed)
        if problem := whole.why_inaccurate(changed.module):
            self._say(f"{problem}; so 8 bits are kept where they are no faster, too")
            outcome.precision, outcome.comparison, value = before
            if outcome.metric is not None:
                outcome.metric.optimized = value
            return attempt
        taken = {candidate.subgraph.index: candidate for candidate in chosen}
        outcome.candidates = [taken.get(candidate.subgraph.index, candidate) for candidate in outcome.candidates]
        return changed

    def _unless_no_gain(self, candidate: Candidate) -> Candidate:
        """An engine in 8 bits, or the next accurate one with more, where that is as fast."""
        other = self._with_more_bits(candidate)
        if other is None or other.rejected:
            return candidate
        try:
            problem = why_no_gain(candidate, other, self._config, self._device)
        except RuntimeError as error:
            self._say(f"{candidate.subgraph.name} cannot be timed beside {other.precision}: {first_line(error)}")
            return candidate
        if not problem:
            return candidate
        self._say(f"{candidate.subgraph.name}: {problem}; so that is kept")
        other.not_in = candidate.not_in | {candidate.precision: problem}
        return other

    def _with_more_bits(self, candidate: Candidate) -> Candidate | None:
        """The next engine of a candidate's subgraph in more bits that is accurate, if there is one."""
        ladder = self._builder.ladder(self._level)
        for wider in ladder[ladder.index(candidate.precision) + 1 :]:
            other = self._built(functools.partial(build, self._factory, candidate.subgraph, wider))
            if isinstance(other, str):
                continue
            self._judge(other)
            if other.inaccurate and may_mix(self._builder, wider):
                other = self._mend(other)
            if not other.inaccurate:
                return other
        return None

    def refuse(self, attempt: Attempt, problem: str) -> None:
        """Notes what is wrong with the model that has an attempt's engines, for those that take their places."""
        for candidate in attempt.accepted:
            self._refused[candidate.subgraph.index][candidate.precision] = problem

    def _settle(self, subgraph: Subgraph, first: Precision, built: Candidate | str) -> Candidate | None:
        """Judges what was built in the first precision, and goes on to wider ones while more bits may help.

        Args:
            subgraph: what the engine is for.
            first: the first precision.
            built: the engine in it, or why it cannot be built.

        Returns:
            The engine that was built last; None where none could be.
        """
        candidate: Candidate | None = None
        refused: dict[Precision, str] = {}
        ladder = self._builder.ladder(self._level)
        for precision in ladder[ladder.index(first) :]:
            if refused:
                self._say(f"{subgraph.name}: {list(refused.values())[-1]}; so {precision} is tried")
                built = self._built(functools.partial(build, self._factory, subgraph, precision))
            if isinstance(built, str):
                refused[precision] = _UNBUILDABLE + built
                continue
            self._judge(built)
            if built.inaccurate and candidate is None and may_mix(self._builder, precision):
                built = self._mend(built)
            candidate = built
            if candidate.rejected:
                refused[precision] = candidate.rejected
            # One in 8 bits that is slow, or fails, says nothing of those with more.
            if not candidate.inaccurate and not (candidate.rejected and precision in EIGHT_BIT):
                break
        noted = self._refused.setdefault(subgraph.index, {})
        noted.update(refused)
        if candidate is None:
            failures = {precision: why.removeprefix(_UNBUILDABLE) for precision, why in refused.items()}
            reason = f"is in a subgraph whose engine cannot be built: {_together(failures)}"
            self._say(f"{subgraph.name} {reason}")
            self._outcome.leave(subgraph.nodes, dict.fromkeys(subgraph.nodes, reason))
            return None
        candidate.not_in = {precision: why for precision, why in noted.items() if precision != candidate.precision}
        if candidate.rejected:
            candidate.rejected = _together(refused)
        return candidate

    def _mend(self, candidate: Candidate) -> Candidate:
        """Gives an inaccurate engine more nodes with more bits; the last one built."""
        last = candidate

        def loss_with(back: dict[int, str]) -> float | None:
            nonlocal last
            self._say(f"{last.subgraph.name}: {last.rejected}; so {_go_back(back, candidate.precision)}")
            self._keep(back, candidate.precision)
            last = self._rebuilt(last)
            return _error_of(last) if last.inaccurate else None

        with sensitivity.of_subgraph(self._factory.prepared, candidate) as rounding:
            limit = self._config.accuracy.limit(candidate.precision)
            sensitivity.search(rounding, limit, loss_with, _error_of(candidate))
        return last

    def _keep(self, back: dict[int, str], precision: Precision) -> None:
        """Notes that nodes need more bits than engines of a precision have."""
        kept = self._factory.keep_16bit if precision in EIGHT_BIT else self._factory.keep_float32
        kept.update(back)

    def mend_model(self, attempt: Attempt, problem: str, whole: WholeModel) -> tuple[Attempt, str]:
        """Gives an inaccurate model's engines nodes with more bits; the last attempt, and what is wrong with it."""
        outcome, precision = self._outcome, self._outcome.precision
        last, wrong, candidates = attempt, problem, attempt.accepted

        def loss_with(back: dict[int, str]) -> float | None:
            nonlocal last, wrong, candidates
            self._say(f"{wrong}; so {_go_back(back, precision)}")
            self._keep(back, precision)
            rebuilt = [
                self._rebuilt(candidate) if back.keys() & set(candidate.subgraph.nodes) else candidate
                for candidate in candidates
            ]
            for before, after in zip(candidates, rebuilt, strict=True):
                outcome.candidates = [after if candidate is before else candidate for candidate in outcome.candidates]
                if after.rejected:
                    self._refused[after.subgraph.index][after.precision] = after.rejected
                self._leave_rejected(after)
            candidates = rebuilt
            accepted = [candidate for candidate in rebuilt if not candidate.rejected]
            if not accepted:
                return float("inf")
            last = self._assemble(accepted)
            wrong = whole.why_inaccurate(last.module)
            if wrong:
                return outcome.comparison.relative if outcome.comparison else float("inf")
            bits = _WIDER[precision]
            outcome.remarks.append(f"{problem}; so {len(back)} of its nodes went back to {bits}")
            return None

        mixed = [
            candidate
            for candidate in attempt.accepted
            if candidate.precision == precision and may_mix(self._builder, precision)
        ]
        if not mixed:
            return attempt, problem
        metric = outcome.metric
        loss = None if metric is None else whole.drop_of
        with sensitivity.of_model(self._factory.prepared, mixed, whole.error_of, loss) as rounding:
            limit = self._config.accuracy.model_limit(precision) if metric is None else metric.max_drop
            # Where rounding in PyTorch says that a metric holds, and engines' does not, a few nodes will not do.
            first = 1 if metric is None else sensitivity.share_of(rounding)
            # A metric's drop is no measure of how much more engines lose: it may be none, or negative.
            measured = outcome.comparison.relative if metric is None and outcome.comparison else None
            sensitivity.search(rounding, limit, loss_with, measured, first)
        return last, wrong

    def _rebuilt(self, candidate: Candidate) -> Candidate:
        """The candidate's engine with what is to have more bits by now; as it was, where that cannot be built."""
        subgraph = candidate.subgraph
        rebuilt = self._built(functools.partial(build, self._factory, subgraph, candidate.precision))
        if isinstance(rebuilt, str):
            self._say(f"{subgraph.name} cannot be built with fewer nodes rounded: {rebuilt}")
            return candidate
        rebuilt.not_in = candidate.not_in
        self._judge(rebuilt)
        return rebuilt

    def _built(self, make: Callable[[], Candidate]) -> Candidate | str:
        """What ``make`` builds, with words on how long it took; or why it cannot be built."""
        try:
            candidate = make()
        except (RuntimeError, ValueError) as error:
            return first_line(error)
        how = "was found in the cache" if candidate.built.from_cache else "was built"
        self._say(f"{candidate.subgraph.name} {how} in {candidate.precision} in {candidate.build_seconds:.3g} s")
        return candidate

    def _judge(self, candidate: Candidate) -> None:
        try:
            verify(candidate, self._config, limited=self._outcome.metric is None)
            if not candidate.rejected:
                choose_cuda_graphs(candidate, self._config, self._device)
                time_against_torch(candidate, self._config, self._device)
        except (RuntimeError, ValueError) as error:
            candidate.rejected = f"its engine failed: {first_line(error)}"

    def _build(
        self, subgraphs: Sequence[Subgraph], precision: Precision, advance: Callable[[], object]
    ) -> list[tuple[Subgraph, Precision, Candidate | str]]:
        """Builds all, several at once where the library can, before any is timed.

        Returns:
            For each, what it was built in, and the engine, or why it cannot be built.
        """
        workers = self._config.build_threads or os.cpu_count() or 1
        built = []
        with concurrent.futures.ThreadPoolExecutor(workers if self._builder.parallel else 1) as pool:
            suited = [(subgraph, self._suited(subgraph, precision)) for subgraph in subgraphs]
            jobs = [pool.submit(build, self._factory, subgraph, first) for subgraph, first in suited]
            for (subgraph, first), job in zip(suited, jobs, strict=True):
                built.append((subgraph, first, self._built(job.result)))
                advance()
        return built

    def _suited(self, subgraph: Subgraph, precision: Precision) -> Precision:
        """The precision, or the next one where none of the subgraph's nodes can compute in 8 bits."""
        assert subgraph.model is not None
        if precision in EIGHT_BIT and not quantizable_nodes(subgraph.model, precision):
            self._refused.setdefault(subgraph.index, {})[precision] = "none of its nodes can compute in 8 bits"
            return self._builder.ladder(self._level)[1]
        return precision

    def _assemble(self, accepted: list[Candidate]) -> Attempt:
        replacements = {}
        for candidate in accepted:
            module: Any = make_replacement(candidate, keep_fallback=self._config.keep_fallback)
            replacements[candidate.subgraph.index] = (candidate.subgraph.name, module._c)
        return Attempt(self._factory.prepared, replacements, accepted)

    def _leave_rejected(self, candidate: Candidate) -> None:
        if candidate.rejected:
            nodes = candidate.subgraph.nodes
            reason = f"is in {candidate.subgraph.name}, which was not kept: {candidate.rejected}"
            self._outcome.leave(nodes, dict.fromkeys(nodes, reason))
