"""Work in several threads whose failures reach the test."""

from __future__ import annotations

import threading
from collections.abc import Callable


def run_in_threads(count: int, work: Callable[[int], None]) -> None:
    """Calls ``work`` with each number in a thread of its own, all at once, and raises what the first of them raised."""
    barrier = threading.Barrier(count)
    failures: list[BaseException] = []

    def call(number: int) -> None:
        try:
            barrier.wait()
            work(number)
        except BaseException as error:  # whatever happens in a thread has to reach the test
            failures.append(error)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
