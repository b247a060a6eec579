"""Which nodes get more bits so that the rest may do with few: those whose rounding the answers show most.

A node in 16 bits rounds what it takes, its weights among that, and what it gives; in between engines add up in float32.
A node in 8 bits rounds what it takes, to 255 steps of a tensor's range, or of a channel's for weights; to float8 with
that range scaled to its own. So a model in PyTorch whose nodes round the same tensors tells what an engine's answers
will be like without one.
"""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch

from torch_trt_ext import _C
from torch_trt_ext.config import EIGHT_BIT
from torch_trt_ext.optimizer import observation
from torch_trt_ext.optimizer.accuracy import compare
from torch_trt_ext.optimizer.candidates import Candidate
from torch_trt_ext.optimizer.engine_builder import Precision
from torch_trt_ext.optimizer.onnx_export import node_of
from torch_trt_ext.optimizer.quantization import quantizable_nodes
from torch_trt_ext.optimizer.script_module import wrap

#: Of the tolerance that rounding alone may take: kernels add up in another order, too.
_MARGIN = 0.7

#: Of the nodes that may go back: with more of them in float32, all of the model may as well be.
_MOST_NODES = 0.5

#: How often engines are built anew with more nodes in float32.
_ATTEMPTS = 3

#: torch's C++ names.
_DTYPES = {"float16": "Half", "bfloat16": "BFloat16", "int8": "Char", "float8": "Float8_e4m3fn"}


class Rounding:
    """A model, or a part of one, whose nodes can be rounded one by one.

    Args:
        session: the number of the session that its rounding operators ask.
        precision: what to round to.
        nodes: numbers of the nodes that compute in it.
        error: runs the model and gives the relative error of its answers, which ranks the nodes.
        loss: runs it and gives what has the limit, where that is not the error.
    """

    def __init__(
        self,
        session: int,
        precision: Precision,
        nodes: Sequence[int],
        error: Callable[[], float],
        loss: Callable[[], float] | None = None,
    ) -> None:
        self._session = session
        self._precision = precision
        self._nodes = sorted(nodes)
        self._error = error
        self._loss = loss or error
        self._ranking: list[tuple[int, float]] | None = None

    @property
    def size(self) -> int:
        """How many nodes there are."""
        return len(self._nodes)

    @property
    def knows_a_part(self) -> bool:
        """Whether engines lose by more than rounding: those in 8 bits by calibrated ranges and by shortcuts, too."""
        return self._precision in EIGHT_BIT

    @property
    def most(self) -> int:
        """How many may go back."""
        return int(sum(error > 0 for _, error in self.ranking()) * _MOST_NODES)

    def error_of(self, nodes: Sequence[int]) -> float:
        """The relative error of the answers when these nodes round and no others do."""
        self._round(nodes)
        return self._error()

    def loss_of(self, nodes: Sequence[int]) -> float:
        """What has the limit, when these nodes round and no others do."""
        self._round(nodes)
        return self._loss()

    def ranking(self) -> list[tuple[int, float]]:
        """Every node with the error that it makes alone, the largest first."""
        if self._ranking is None:
            errors = [(node, self.error_of([node])) for node in self._nodes]
            self._ranking = sorted(errors, key=lambda pair: -pair[1])
        return self._ranking

    def back(self, limit: float, at_least: int = 1) -> dict[int, str] | None:
        """The fewest nodes, the most sensitive first, without which rounding keeps within a limit.

        Args:
            limit: for the relative error, or for what is given in its place.
            at_least: how many must go back in any case.

        Returns:
            Their numbers with the reason, or None when so many would go back that nothing is gained.
        """
        ranking = self.ranking()
        counts = range(at_least, self.most + 1)

        def holds(count: int) -> bool:
            return self.loss_of([node for node, _ in ranking[count:]]) <= _MARGIN * limit

        place = bisect.bisect_left(counts, True, key=holds)
        return None if place == len(counts) else self.most_sensitive(counts[place])

    def most_sensitive(self, count: int) -> dict[int, str]:
        """So many nodes, by their numbers, with the reason why they go back."""
        ranking = self.ranking()[:count]
        return {node: f"rounding it alone changes the answers by {error:.2g}" for node, error in ranking}

    def _round(self, nodes: Sequence[int]) -> None:
        _C.set_rounding(self._session, _DTYPES[self._precision], set(nodes))


def share_of(rounding: Rounding) -> int:
    """How many nodes go back first where a limit does not say how many: with the last attempt half of them are."""
    return max(1, int(rounding.size * _MOST_NODES) >> (_ATTEMPTS - 1))


def search(
    rounding: Rounding,
    limit: float,
    loss_with: Callable[[dict[int, str]], float | None],
    measured: float | None = None,
    first: int = 1,
) -> bool:
    """Gives nodes more bits until the real engines are accurate: as few as rounding says, then at least twice as many.

    Engines may lose more than rounding says, since some of their kernels add up in few bits. How much more is measured
    with every engine, and rounding has to keep within a limit that is smaller by that. Where it cannot, one engine is
    built to see whether all of it is gone with the nodes that rounding names; in 8 bits more, with twice as many each.

    Args:
        rounding: of what is not accurate.
        limit: for the relative error, or for what is given in its place.
        loss_with: builds engines with more bits for these nodes, and those of the calls before. What has the limit, of
            these engines, or None where they are accurate.
        measured: the same of the engines that there are; None where it says nothing of what others will have.
        first: how many nodes go back at least the first time.

    Returns:
        Whether they are.
    """
    count, excess = 0, 1.0
    for _ in range(_ATTEMPTS):
        at_least = max(first, min(2 * count, rounding.most))
        if count and measured is None:
            # With more nodes back rounding keeps within the limit all the more.
            back: dict[int, str] | None = rounding.most_sensitive(at_least)
        else:
            if measured is not None:
                said = rounding.loss_of([node for node, _ in rounding.ranking()[count:]])
                if 0 < said < measured < float("inf"):
                    excess = max(excess, measured / said)
            back = rounding.back(limit / excess, at_least)
            if back is None and (not count or rounding.knows_a_part):
                # What is lost beyond that may be of another kind, and be gone with the nodes that rounding names.
                back = rounding.back(limit, at_least)
        if back is None or len(back) == count:
            return False
        found = loss_with(back)
        if found is None:
            return True
        count = len(back)
        measured = None if measured is None else found
    return False


def rounded_nodes(candidate: Candidate) -> list[int]:
    """Numbers of the nodes that, all or part of them, compute in the few bits of a candidate's engine."""
    model = candidate.subgraph.model
    assert model is not None
    if candidate.precision in EIGHT_BIT:
        names = set(quantizable_nodes(model, candidate.precision)) - candidate.kept_16bit.keys()
    else:
        names = {node.name for node in model.graph.node} - candidate.built.kept_float32.keys()
    return sorted({number for number in map(node_of, names) if number is not None})


@contextlib.contextmanager
def of_subgraph(prepared: _C.PreparedModel, candidate: Candidate) -> Iterator[Rounding]:
    """The subgraph of a candidate, against itself in float32 on its recorded calls."""
    subgraph = candidate.subgraph
    with observation.session() as number:
        rounding = wrap(prepared.rounding(subgraph.index, number))
        expected = [subgraph.reference(call) for call in subgraph.calls]

        def error() -> float:
            pairs = zip(expected, subgraph.calls, strict=True)
            return max(compare(wanted, subgraph.reference(call, rounding)).relative for wanted, call in pairs)

        yield Rounding(number, candidate.precision, rounded_nodes(candidate), error)


@contextlib.contextmanager
def of_model(
    prepared: _C.PreparedModel,
    candidates: Sequence[Candidate],
    error_of_model: Callable[[observation.ModelMaker], float],
    loss_of_model: Callable[[observation.ModelMaker], float] | None = None,
) -> Iterator[Rounding]:
    """The whole model with the subgraphs of candidates rounding.

    Args:
        prepared: the model, divided.
        candidates: those whose engines compute in few bits, all in the same precision; at least one.
        error_of_model: the relative error of the answers of a model that a function makes.
        loss_of_model: what has the limit, of such a model, where that is not the error.
    """
    with observation.session() as number:
        replacements = {
            candidate.subgraph.index: (candidate.subgraph.name, prepared.rounding(candidate.subgraph.index, number))
            for candidate in candidates
        }
        nodes = sorted({node for candidate in candidates for node in rounded_nodes(candidate)})

        def make() -> torch.jit.ScriptModule:
            return wrap(prepared.assembled(replacements))

        yield Rounding(
            number,
            candidates[0].precision,
            nodes,
            lambda: error_of_model(make),
            None if loss_of_model is None else lambda: loss_of_model(make),
        )
