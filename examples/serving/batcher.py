"""Batches of what waits, made up when there is room for one.

Serve's own ``serve.batch`` (Ray 2.60) makes up a batch as soon as its time is over, also while an earlier one runs, and
holds it until that is done: batches stay as small as they were while more waits behind them. Here a batch takes what is
there at the moment it leaves, so that batches grow as the load does.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

_ItemT = TypeVar("_ItemT")
_ResultT = TypeVar("_ResultT")


class Batcher(Generic[_ItemT, _ResultT]):
    """Calls a function with several callers' items at once. For one event loop.

    Args:
        call: what answers a batch, an answer for each item.
        max_batch: items in one call.
        wait_s: how long an item waits for others while there is room for a batch.
        slots: calls at once.
    """

    def __init__(
        self, call: Callable[[list[_ItemT]], Awaitable[Sequence[_ResultT]]], max_batch: int, wait_s: float, slots: int
    ) -> None:
        self._call = call
        self._max_batch = max_batch
        self._wait_s = wait_s
        self._free = slots
        self._waiting: deque[tuple[float, _ItemT, asyncio.Future[_ResultT]]] = deque()
        self._full = asyncio.Event()
        self._maker: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """How many items wait for a batch."""
        return len(self._waiting)

    async def submit(self, item: _ItemT) -> _ResultT:
        """The answer to an item. Who stops waiting for it takes the item out, if it has not left yet.

        Raises:
            Exception: what the call of its batch raised.
        """
        answer: asyncio.Future[_ResultT] = asyncio.get_running_loop().create_future()
        self._waiting.append((time.monotonic(), item, answer))
        if len(self._waiting) >= self._max_batch:
            self._full.set()
        self._make_batches()
        return await answer

    def _make_batches(self) -> None:
        if self._free and self._waiting and (self._maker is None or self._maker.done()):
            self._maker = asyncio.create_task(self._make())

    async def _make(self) -> None:
        while self._free and self._waiting:
            left_s = self._waiting[0][0] + self._wait_s - time.monotonic()
            if left_s > 0 and len(self._waiting) < self._max_batch:
                self._full.clear()
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._full.wait(), left_s)
            batch: list[tuple[_ItemT, asyncio.Future[_ResultT]]] = []
            while self._waiting and len(batch) < self._max_batch:
                _, item, answer = self._waiting.popleft()
                if not answer.done():
                    batch.append((item, answer))
            if batch:
                self._free -= 1
                task = asyncio.create_task(self._answer(batch))
                # The loop itself keeps no task alive.
                self._calls.add(task)
                task.add_done_callback(self._calls.discard)

    async def _answer(self, batch: list[tuple[_ItemT, asyncio.Future[_ResultT]]]) -> None:
        try:
            results = await self._call([item for item, _ in batch])
            for (_, answer), result in zip(batch, results, strict=True):
                if not answer.done():
                    answer.set_result(result)
        except Exception as error:  # whatever it is, it is the callers' to know
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
        finally:
            self._free += 1
            self._make_batches()
