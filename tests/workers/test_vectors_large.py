"""A large vector store: small changes and reads do not look at rows that do not concern them."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from holdfast.bench.faults import MemoryDisk
from holdfast.workers import vector_messages as vm
from holdfast.workers.actor import Caller
from holdfast.workers.raw_arrays import raw
from tests.workers.vector_model import ask, ids_in, opened

ROWS = 20_000
DIMENSION = 4
CHANGES = 150
"""Enough for segments to be merged."""


def _range(start: int, stop: int) -> NDArray[np.uint64]:
    return np.arange(start, stop, dtype=np.uint64)


@pytest.fixture
def most_rows(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many rows were sorted or counted at once, at most."""
    seen = [0]
    sort, count_nonzero = np.sort, np.count_nonzero

    def sorting(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        seen.append(len(values))
        return sort(values)

    def counting(values: NDArray[np.bool_]) -> int:
        seen.append(len(values))
        return int(count_nonzero(values))

    monkeypatch.setattr(np, "sort", sorting)
    monkeypatch.setattr(np, "count_nonzero", counting)
    return lambda: max(seen)


def test_small_changes_and_reads_look_at_few_rows(
    request: pytest.FixtureRequest,
) -> None:
    """Rows inserted, replaced, deleted and read one by one, with upkeep after each and merging."""
    actor = opened(MemoryDisk("/data"), durability="never", dimension=DIMENSION)
    requests = iter(range(1, 10_000))

    def ingest(ids: NDArray[np.uint64]) -> None:
        vectors = np.ones((len(ids), DIMENSION), np.float32)
        caller = Caller(1, next(requests))
        ask(actor, vm.VectorsIngest(raw(ids), raw(vectors), None), vm.Ingested, caller)

    ingest(_range(0, ROWS))
    most_rows = request.getfixturevalue("most_rows")
    for number in range(CHANGES):
        ingest(_range(ROWS + number, ROWS + number + 1))
        ingest(_range(number, number + 1))
        old = _range(1000 + number, 1001 + number)
        ask(actor, vm.VectorsDelete(raw(old)), vm.Deleted, Caller(1, next(requests)))
        found = ask(actor, vm.VectorsGet(raw(_range(500, 501))), vm.VectorRows)
        assert ids_in(found.ids) == [500]
        actor.commit()
        actor.step(idle=True)
    assert most_rows() <= 4 * CHANGES
    assert len(actor._store.catalog.vecs) < CHANGES, "nothing was merged"
    assert len(actor._store.catalog.deleted) == CHANGES
    actor.check_invariants()
    actor.close()
