"""The split with the fewest crossings, against trying every split."""

from __future__ import annotations

import itertools
import random

from torch_trt_ext.optimizer.minimum_cut import FLOAT, HALF, fewest_crossings

Values = list[tuple[int, set[int]]]


def crossings(values: Values, half: set[int]) -> int:
    def is_half(end: int) -> bool:
        return end == HALF or end in half

    return sum(any(is_half(reader) != is_half(maker) for reader in readers) for maker, readers in values)


def test_no_split_has_fewer_crossings() -> None:
    generator = random.Random(0)
    needed = set()
    for _ in range(200):
        count = generator.randint(1, 7)
        ends = [HALF, FLOAT, *range(count)]
        values = [
            (generator.choice(ends), set(generator.sample(ends, generator.randint(0, 3))))
            for _ in range(generator.randint(1, 10))
        ]
        found = crossings(values, fewest_crossings(values))
        subsets = itertools.chain.from_iterable(itertools.combinations(range(count), size) for size in range(count + 1))
        assert found == min(crossings(values, set(subset)) for subset in subsets), values
        needed.add(found)
    assert len(needed) > 3


def test_half_wins_a_tie() -> None:
    assert fewest_crossings([(HALF, {0}), (0, {1}), (1, {FLOAT})]) == {0, 1}
    assert fewest_crossings([(FLOAT, {0}), (0, {HALF})]) == {0}


def test_nodes_among_float32_stay() -> None:
    assert fewest_crossings([(FLOAT, {0}), (0, {1, FLOAT}), (1, set())]) == set()


def test_long_chains_are_no_matter() -> None:
    count = 3000
    chain: Values = [(HALF, {0}), *((index, {index + 1}) for index in range(count)), (count, {HALF})]
    assert fewest_crossings(chain) == set(range(count + 1))
