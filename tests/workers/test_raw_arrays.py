"""Memory that arrays from messages are copied to."""

import numpy as np

from holdfast.workers.raw_arrays import Scratch, matrix, raw


def test_scratch_is_used_again() -> None:
    """A piece that is no larger than one before lies where that one did; a huge one is not kept."""
    scratch = Scratch()
    first = np.frombuffer(scratch.take(1000), np.uint8)
    again = np.frombuffer(scratch.take(900), np.uint8)
    assert (len(first), len(again)) == (1000, 900)
    assert np.shares_memory(first, again)
    huge = np.frombuffer(scratch.take((4 << 20) + 1), np.uint8)
    assert len(huge) == (4 << 20) + 1
    assert np.shares_memory(first, np.frombuffer(scratch.take(1), np.uint8))
    assert len(scratch.take(0)) == 0


def test_matrix_in_scratch() -> None:
    """A matrix is the same in memory of its own and in scratch, from bytes at any offset."""
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    data = memoryview(b"x" + bytes(raw(rows)))[1:]
    scratch = Scratch()
    for found in (matrix(data, 4, 3, "rows"), matrix(data, 4, 3, "rows", scratch)):
        assert found.tolist() == rows.tolist()
        assert found.flags.aligned
    assert np.shares_memory(found, np.frombuffer(scratch.take(4), np.uint8))


def test_no_rows_in_scratch() -> None:
    """A matrix without rows is one, also in scratch that nothing was ever taken from."""
    assert matrix(memoryview(b""), 0, 3, "rows", Scratch()).shape == (0, 3)
