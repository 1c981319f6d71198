"""Batches with invalid rows: what is taken, what is left out, and what is told of it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.bench.faults import MemoryDisk
from holdfast.formats.errors import NOT_FINITE, InvalidArgument
from holdfast.workers import vector_messages as vm
from holdfast.workers.actor import Caller
from holdfast.workers.raw_arrays import raw
from tests.workers.vector_model import READER, opened

pytestmark = pytest.mark.usefixtures("quiet")

Batch = list[tuple[int, float]]
BATCHES: st.SearchStrategy[Batch] = st.lists(
    st.tuples(st.integers(1, 4), st.sampled_from([1.0, 2.0, 3.0, math.nan, math.inf])), max_size=8
)


def ingest(batch: Batch, *, accept: bool = False, skip: bool = True) -> vm.VectorsIngest:
    """Rows of an id and a number, which both coordinates are."""
    ids = np.array([id_ for id_, _ in batch], np.uint64)
    vectors = np.array([[value, value] for _, value in batch], np.float32).reshape(-1, 2)
    return vm.VectorsIngest(raw(ids), raw(vectors), accept_non_finite=accept, skip_invalid=skip)


@given(batch=BATCHES, accept=st.booleans())
def test_of_each_id_the_last_valid_row_is_taken(batch: Batch, accept: bool) -> None:
    """Every other row is told of, in order, with its place and id; and nothing else is missing."""
    taken = {id_: row for row, (id_, value) in enumerate(batch) if accept or math.isfinite(value)}
    actor = opened(MemoryDisk("/data"))
    reply = actor.handle(ingest(batch, accept=accept), Caller(1, 1))
    actor.commit()
    assert isinstance(reply, vm.Ingested)
    left_out = [row for row in range(len(batch)) if row not in taken.values()]
    assert reply.accepted == len(taken)
    assert [(one.row, one.id) for one in reply.rejected] == [
        (row, batch[row][0]) for row in left_out
    ]
    assert [one.reason == NOT_FINITE for one in reply.rejected] == [
        not accept and not math.isfinite(batch[row][1]) for row in left_out
    ]
    ids = np.array(sorted(taken), np.uint64)
    found = actor.handle(vm.VectorsGet(raw(ids), False, True), READER)
    assert isinstance(found, vm.VectorRows)
    assert found.vectors is not None
    rows = np.frombuffer(found.vectors, "<f4").reshape(-1, 2)
    expected = [[batch[taken[id_]][1]] * 2 for id_ in sorted(taken)]
    np.testing.assert_array_equal(rows, np.array(expected, np.float32).reshape(-1, 2))


@given(batch=BATCHES)
def test_unless_asked_to_skip_all_or_none_are_taken(batch: Batch) -> None:
    """A batch with an invalid row is refused as a whole, naming the first."""
    ids = [id_ for id_, _ in batch]
    valid = len(set(ids)) == len(ids) and all(math.isfinite(value) for _, value in batch)
    actor = opened(MemoryDisk("/data"))
    if valid:
        actor.handle(ingest(batch, skip=False), Caller(1, 1))
    else:
        with pytest.raises(InvalidArgument, match=r"row \d+ \(id \d+\): "):
            actor.handle(ingest(batch, skip=False), Caller(1, 1))
    counted = actor.handle(vm.VectorsCount(None), READER)
    assert counted == vm.Counted(len(batch) if valid else 0)
