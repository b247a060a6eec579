"""The user's own measure of a model: average precision, accuracy, whatever grows as answers get better."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Measure", "Metric"]

#: Measures a model; larger is better.
Measure = Callable[[torch.jit.ScriptModule], Any]


@dataclass
class Metric:
    """What decides, in place of the answers' errors, whether a model with engines is good enough.

    Attributes:
        measure: the user's function.
        max_drop: how much less than the original model another may reach, in the metric's own unit.
        original: of the original model.
        optimized: of the model that was measured last; None before the first.
    """

    measure: Measure
    max_drop: float
    original: float
    optimized: float | None = None

    @classmethod
    def of_original(cls, measure: Measure, max_drop: float, model: torch.jit.ScriptModule) -> Metric:
        """Measures the original model.

        Raises:
            TypeError: ``measure`` is no function, or gives no number.
            ValueError: it gives a number that is not finite.
        """
        if not callable(measure):
            raise TypeError(
                "metric must be a function of a model that returns a number, the larger the better, got "
                f"{type(measure).__name__}"
            )
        return cls(measure, max_drop, _value(measure, model))

    def why_worse(self, model: torch.jit.ScriptModule) -> str:
        """What is wrong with another model; empty if it may be kept. Raises as :meth:`of_original`."""
        self.optimized = _value(self.measure, model)
        drop = self.original - self.optimized
        if drop <= self.max_drop:
            return ""
        return (
            f"the metric falls from {self.original:.6g} to {self.optimized:.6g}, by {drop:.3g}, more than "
            f"accuracy.max_metric_drop {self.max_drop:g}"
        )

    def drop_of(self, model: torch.jit.ScriptModule) -> float:
        """How much less another model reaches; what :attr:`optimized` says stays. Raises as :meth:`of_original`."""
        return self.original - _value(self.measure, model)

    def summary(self) -> dict[str, float | None]:
        """For the report."""
        return {"original": self.original, "optimized": self.optimized, "max_drop": self.max_drop}


def _value(measure: Measure, model: torch.jit.ScriptModule) -> float:
    found = measure(model)
    try:
        value = float(found)
    except (TypeError, ValueError) as error:
        raise TypeError(f"metric must return a number, got {type(found).__name__}: {error}") from None
    if not math.isfinite(value):
        raise ValueError(f"metric must return a finite number, got {value}")
    return value
