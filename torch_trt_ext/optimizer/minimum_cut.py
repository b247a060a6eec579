"""Splits nodes that may be of either kind so that the fewest values cross between the kinds."""

from __future__ import annotations

import itertools
from collections import defaultdict, deque
from collections.abc import Iterable

#: Ends of a value whose kind is settled; other ends are numbers of nodes, from 0.
HALF, FLOAT = -1, -2


def fewest_crossings(values: Iterable[tuple[int, set[int]]]) -> set[int]:
    """Which nodes to make half so that the fewest values are read in another precision than they are made in.

    A minimum cut, for each group of connected nodes alone. Among equals it takes the most half ones.

    Args:
        values: of every value, who makes it and who reads it: ``HALF``, ``FLOAT`` or the number of an open node.

    Returns:
        The numbers of the nodes to make half.
    """
    settled = list(values)
    leader: dict[int, int] = {}

    def find(index: int) -> int:
        while leader.setdefault(index, index) != index:
            leader[index] = leader[leader[index]]
            index = leader[index]
        return index

    groups: dict[int, list[tuple[int, set[int]]]] = defaultdict(list)
    for maker, readers in settled:
        followers = [find(index) for index in (maker, *readers) if index >= 0]
        for index in followers:
            leader[find(index)] = find(followers[0])
    for maker, readers in settled:
        member = max(maker, *readers, FLOAT)
        if member >= 0:
            groups[find(member)].append((maker, readers))
    return set().union(*(_cut(group) for group in groups.values()))


def _cut(values: list[tuple[int, set[int]]]) -> set[int]:
    capacity: dict[object, dict[object, int]] = defaultdict(lambda: defaultdict(int))
    unlimited = len(values) + 1
    for number, (maker, readers) in enumerate(values):
        # Cut when it is made in half and some reader is float32, then when it is the other way round.
        capacity[maker]["to float32", number] = 1
        capacity["to half", number][maker] = 1
        for reader in readers:
            capacity["to float32", number][reader] = unlimited
            capacity[reader]["to half", number] = unlimited

    def path() -> list[object]:
        came_from: dict[object, object] = {HALF: None}
        queue: deque[object] = deque([HALF])
        while queue:
            here = queue.popleft()
            for there, left in capacity[here].items():
                if left > 0 and there not in came_from:
                    came_from[there] = here
                    queue.append(there)
        steps: list[object] = []
        step: object = FLOAT if FLOAT in came_from else None
        while step is not None:
            steps.append(step)
            step = came_from[step]
        return steps

    while steps := path():
        for there, here in itertools.pairwise(steps):
            capacity[here][there] -= 1
            capacity[there][here] += 1
    into: dict[object, list[object]] = defaultdict(list)
    for here, row in capacity.items():
        for there, left in row.items():
            if left > 0:
                into[there].append(here)
    reaches: set[object] = {FLOAT}
    stack: list[object] = [FLOAT]
    while stack:
        for here in into[stack.pop()]:
            if here not in reaches:
                reaches.add(here)
                stack.append(here)
    return {index for maker, readers in values for index in (maker, *readers) if index >= 0} - reaches
