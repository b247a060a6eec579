"""A line every few seconds on stderr, for what takes longer than that. Needs nothing but Python."""

from __future__ import annotations

import sys
import time

_SECONDS = 5.0


class Progress:
    """Counts what is done of ``total`` and says so now and then, and at the end."""

    def __init__(self, total: int, unit: str) -> None:
        self._total = total
        self._unit = unit
        self._started = self._reported = time.monotonic()

    def update(self, done: int) -> None:
        """Tells that ``done`` of them are done by now."""
        now = time.monotonic()
        if now - self._reported > _SECONDS or done == self._total:
            self._reported = now
            rate = done / (now - self._started)
            print(f"  {done}/{self._total} {self._unit}, {rate:.1f}/s", file=sys.stderr)
