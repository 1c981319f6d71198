"""The order of points by key: the fast way of sorting gives what sorting by columns gives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from holdfast.formats.points import Points
from holdfast.workers.warm_merge import points_of
from holdfast.workers.warm_runs import MemoryRun, key_order, live_rows_between

U32_MAX, U64_MAX = (1 << 32) - 1, (1 << 64) - 1
I64_MIN, I64_MAX = -(1 << 63), (1 << 63) - 1
near_zero = st.integers(0, 3)
ROWS = st.lists(
    st.tuples(
        near_zero | st.integers(0, U32_MAX),
        near_zero | st.integers(0, U64_MAX),
        st.integers(-3, 3) | st.integers(I64_MIN, I64_MAX),
    ),
    min_size=0,
    max_size=20,
)


def _columns(
    rows: list[tuple[int, int, int]],
) -> tuple[NDArray[np.uint32], NDArray[np.uint64], NDArray[np.int64]]:
    return (
        np.array([row[0] for row in rows], np.uint32),
        np.array([row[1] for row in rows], np.uint64),
        np.array([row[2] for row in rows], np.int64),
    )


@given(ROWS)
def test_rows_come_in_order_of_key_and_equal_ones_as_they_came(
    rows: list[tuple[int, int, int]],
) -> None:
    """Whatever the values, and whether or not they fit into a word together."""
    spaces, entities, times = _columns(rows)
    places = range(len(rows))
    assert key_order(spaces, entities, times).tolist() == sorted(places, key=lambda n: rows[n])
    assert key_order(None, entities, times).tolist() == sorted(places, key=lambda n: rows[n][1:])
    assert key_order(None, None, times).tolist() == sorted(places, key=lambda n: rows[n][2])


@pytest.mark.parametrize("spare_bits", [-1, 0, 1])
def test_keys_that_just_fit_and_just_do_not(spare_bits: int) -> None:
    """Two rows take one bit, so 63 are left for times and entities."""
    width = 63 - 20 - spare_bits
    rows = [(5, U64_MAX, I64_MIN + (1 << width) - 1), (5, U64_MAX - (1 << 20) + 1, I64_MIN)]
    spaces, entities, times = _columns(rows)
    assert key_order(spaces, entities, times).tolist() == [1, 0]
    assert key_order(spaces, entities[::-1], times).tolist() == [0, 1]
    assert key_order(spaces, entities[:1].repeat(2), times).tolist() == [1, 0]


@given(
    st.lists(st.tuples(near_zero, st.integers(-30, 30)), max_size=60),
    st.sets(st.integers(0, 59)),
    st.integers(-31, 31) | st.sampled_from([I64_MIN, I64_MAX]),
    st.integers(-31, 31) | st.sampled_from([I64_MIN, I64_MAX]),
)
def test_rows_of_several_series_in_a_range_of_time(
    keys: list[tuple[int, int]], dead: set[int], start: int, end: int
) -> None:
    """Of long series and of short ones, without the dead ones, and none if the ends are crossed."""
    keys = sorted(set(keys))
    entities = np.array([key[0] for key in keys], np.uint64)
    times = np.array([key[1] for key in keys], np.int64)
    vectors = np.zeros((len(keys), 1), np.float32)
    run = MemoryRun(Points(np.zeros(len(keys), np.uint32), entities, times, vectors, None))
    run.kill(np.array(sorted(row for row in dead if row < len(keys)), np.int64))
    chosen = [row for row, entity in enumerate(run.series.entities.tolist()) if entity != 2]
    found = live_rows_between(run, np.array(chosen, np.int64), start, end)
    assert found.tolist() == [
        row
        for row, (entity, time) in enumerate(keys)
        if entity != 2 and start <= time <= end and row not in dead
    ]


def test_points_from_any_row_to_any_other() -> None:
    """Within a series, over several, none at all, and at the very end."""
    entities = np.array([4, 4, 4, 9, 9, 11], np.uint64)
    times = np.array([1, 2, 3, 1, 2, 1], np.int64)
    vectors = np.arange(6, dtype=np.float32).reshape(6, 1)
    run = MemoryRun(Points(np.full(6, 2, np.uint32), entities, times, vectors, None))
    for start in range(7):
        for stop in range(start, 7):
            found = points_of(run, start, stop, None)
            assert found.spaces.tolist() == [2] * (stop - start)
            assert found.entities.tolist() == entities[start:stop].tolist()
            assert found.timestamps.tolist() == times[start:stop].tolist()
            assert found.vectors.tolist() == vectors[start:stop].tolist()
            assert found.spaces.dtype == np.uint32
            assert found.entities.dtype == np.uint64
