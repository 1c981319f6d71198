"""The map from ids to rows against a dictionary."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from holdfast.workers.id_map import ABSENT, IdMap

U64_MAX = (1 << 64) - 1
IDS = st.one_of(st.integers(0, 30), st.sampled_from([1 << 63, U64_MAX - 1, U64_MAX]))
BATCHES = st.lists(st.lists(IDS, max_size=30), max_size=12)


def _array(ids: list[int]) -> NDArray[np.uint64]:
    return np.array(ids, np.uint64)


@given(BATCHES, st.lists(IDS | st.integers(0, U64_MAX), max_size=20))
def test_agrees_with_a_dictionary(batches: list[list[int]], asked: list[int]) -> None:
    """Whatever was added in whatever batches, the last row of an id is found."""
    ids, model = IdMap(), dict[int, int]()
    row = 0
    for batch in batches:
        given_ids = _array(batch)
        assert ids.add(given_ids, row) == len(set(batch))
        given_ids[:] = 0  # it was not kept
        model.update((number, row + place) for place, number in enumerate(batch))
        row += len(batch)
        ids.check_invariants()
        wanted = [*asked, *model]
        found = ids.find(_array(wanted))
        assert found.dtype == np.int64
        assert found.tolist() == [model.get(number, ABSENT) for number in wanted]
    whole = ids.merged()
    assert list(zip(whole.ids.tolist(), whole.rows.tolist(), strict=True)) == sorted(model.items())
    ids.check_invariants()
    assert ids.find(_array(asked)).tolist() == [model.get(number, ABSENT) for number in asked]


def test_nothing_in_it() -> None:
    """An empty map finds nothing, and adding nothing leaves it so."""
    ids = IdMap()
    assert ids.find(_array([1, 2])).tolist() == [ABSENT, ABSENT]
    assert ids.find(_array([])).tolist() == []
    assert ids.add(_array([]), 7) == 0
    assert len(ids.merged().ids) == len(ids.merged().rows) == 0
    ids.check_invariants()


def test_runs_stay_few() -> None:
    """A lookup costs one bisection a run: 10,000 single rows make a dozen runs."""
    ids = IdMap()
    for number in range(10_000):
        ids.add(_array([number * 7919 % 10_007]), number)
    assert len(ids._runs) <= 14
    ids.check_invariants()
