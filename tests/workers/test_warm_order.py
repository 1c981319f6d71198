"""The order of points by key: the fast way of sorting gives what sorting by columns gives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from holdfast.workers.warm_runs import key_order

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
