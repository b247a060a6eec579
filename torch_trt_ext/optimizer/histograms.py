"""Makes the histograms that ONNX Runtime reads ranges from, on all of torch's threads.

ONNX Runtime's own are numpy's, in one thread and of copies; for large images they take as long as the model itself.
Imports ONNX Runtime, which users may lack: :mod:`.quantization` imports this where it calibrates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from onnxruntime.quantization.calibrate import HistogramCollector
from torch import Tensor

__all__ = ["ParallelCollector"]

#: How many values are counted at once: what stays in a core's cache, and as many as torch leaves to one thread.
_CHUNK = 2**15

#: How many values a thread takes at once: so few that none waits long for another.
_PART = 2**20

#: Below this, values are zeros: bins for them would be too narrow for float32.
_LEAST_REACH = 1e-30


class ParallelCollector(HistogramCollector):  # type: ignore[misc]
    """ONNX Runtime's collector of symmetric histograms, but for how it counts.

    The first values other than zeros give the bins' width, such that the bins reach as far from 0 as they do. Where
    later values lie beyond, bins of the same width are added on both sides.

    Bins for "percentile", which are of absolute values, start at 0. ONNX Runtime's start at the least absolute value
    of the first call, and leave out what later calls have below it.
    """

    def __init__(self, **options: Any) -> None:
        """Takes the options of ONNX Runtime's collector; ``method`` is "entropy" or "percentile"."""
        super().__init__(**options)
        self._counts: dict[str, _Counts] = {}

    def collect(self, name_to_arr: Mapping[str, Sequence[npt.NDArray[Any]]]) -> None:
        """Counts values, for ONNX Runtime to compute ranges from.

        Args:
            name_to_arr: float32 or float16 arrays of any shapes, by tensor. NaN are left out.

        Raises:
            ValueError: values are infinite, or all of a tensor's are NaN.
        """
        absolute = self.method == "percentile"
        half = self.num_bins if absolute else self.num_bins // 2
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            for name, arrays in name_to_arr.items():
                values, lows, highs = zip(*(_numbers(name, array) for array in arrays), strict=True)
                low, high = min(lows), max(highs)
                counts = self._counts.setdefault(name, _Counts(half))
                counts.add(values, max(-low, high), pool)
                self.histogram_dict[name] = self._histogram(name, counts, absolute, arrays[0].dtype.type, low, high)

    def _histogram(
        self, name: str, counts: _Counts, absolute: bool, kind: type[np.floating[Any]], low: float, high: float
    ) -> tuple[Any, ...]:
        """What ONNX Runtime computes a range from: counts, edges, the least and the largest value, and for "entropy"
        the last edge."""
        if name in self.histogram_dict:
            low = min(low, float(self.histogram_dict[name][2]))
            high = max(high, float(self.histogram_dict[name][3]))
        half = len(counts.bins) // 2
        edges = (np.arange(-half, half + 1) * (counts.width or 1 / self.num_bins)).astype(kind)
        bins = counts.bins.numpy()
        if absolute:
            return bins[half:] + bins[:half][::-1], edges[half:], kind(low), kind(high)
        return bins, edges, kind(low), kind(high), edges[-1]


class _Counts:
    """How many values of a tensor are in each of many bins, of which as many are below 0 as above.

    Attributes:
        bins: Tensor[2 * n], int64, on the CPU.
        width: of a bin; 0 as long as all values are zeros.
    """

    def __init__(self, half: int) -> None:
        self.bins = torch.zeros(2 * half, dtype=torch.int64)
        self.width = 0.0

    def add(self, values: Sequence[Tensor], reach: float, pool: ThreadPoolExecutor) -> None:
        """Counts values.

        Args:
            values: of one dimension, without NaN.
            reach: the largest absolute value.
            pool: as many threads as may work.
        """
        half = len(self.bins) // 2
        if self.width == 0 and reach >= _LEAST_REACH:
            self.width = reach / half
        if self.width == 0:
            self.bins[half] += sum(part.numel() for part in values)
            return
        if reach > half * self.width:
            more = int((reach - half * self.width) // self.width) + 1
            self.bins = torch.nn.functional.pad(self.bins, (more, more))
            half += more
        width = self.width
        parts = [part for each in values for part in torch.split(each, _PART)]
        for counted in pool.map(lambda part: _count(part, width, half), parts):
            self.bins += counted


def _count(values: Tensor, width: float, half: int) -> Tensor:
    """How many of the values, none of which is further from 0, are in each of ``2 * half`` bins."""
    counts = torch.zeros(2 * half + 1, dtype=torch.int64)
    middle = torch.tensor(float(half))
    for chunk in torch.split(values, _CHUNK):
        positions = torch.add(middle, chunk.float(), alpha=1 / width)
        counts += torch.bincount(positions.int(), minlength=len(counts))
    # Values on the last edge are in the last bin.
    counts[-2] += counts[-1]
    return counts[:-1]


def _numbers(name: str, array: npt.NDArray[Any]) -> tuple[Tensor, float, float]:
    """A tensor's values without NaN, copied only where there is one, the least, and the largest; 0 where empty."""
    values = torch.from_numpy(array).reshape(-1)
    if not len(values):
        return values, 0.0, 0.0
    low, high = (float(bound) for bound in values.aminmax())
    if math.isnan(low):
        values = values[~values.isnan()]
        low, high = (float(bound) for bound in values.aminmax()) if len(values) else (math.nan, math.nan)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(
            f"the values of tensor '{name}' must be finite in calibration, got {low if math.isfinite(high) else high}; "
            "give other calib_data"
        )
    return values, low, high
