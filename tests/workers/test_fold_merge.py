"""Sorting in slices, whatever the order and number of the keys."""

import random
from collections.abc import Generator

import pytest

from holdfast.workers import fold_merge
from holdfast.workers.fold_merge import sorted_keys


@pytest.mark.parametrize("count", [0, 1, 8192, 8193, 40_000])
@pytest.mark.parametrize("order", ["sorted", "reversed", "shuffled"])
def test_keys_are_sorted_in_slices(count: int, order: str) -> None:
    """The result is what ``sorted`` gives, and no slice sorts many more keys than it may."""
    keys = [b"%d/%d" % (number % 7, number) for number in range(count)]
    keys.sort(reverse=order == "reversed")
    if order == "shuffled":
        random.Random(count).shuffle(keys)
    pauses = 0

    def counted() -> Generator[None, None, None]:
        result = yield from sorted_keys(keys)
        assert result == sorted(keys)

    for _ in counted():
        pauses += 1
    assert pauses >= count // fold_merge._KEYS_PER_SORT
