"""Metadata that are much larger than the vectors: chunks, runs and answers stay within bounds."""

import pytest

from holdfast.bench.faults import MemoryDisk
from holdfast.formats.errors import ResultTooLarge
from holdfast.workers import warm_answers, warm_merge, warm_table
from holdfast.workers import warm_messages as wm
from holdfast.workers.actor import Caller
from holdfast.workers.messages import Compacted
from tests.workers.warm_reads import (
    Change,
    Write,
    ask,
    flush,
    opened,
    row,
    scanned,
    states_of,
    with_small_maps,
)

SLICE, CHUNK = 2000, 5000


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rows with metadata are as much as a slice, a run or a chunk may have."""
    with_small_maps(monkeypatch)
    monkeypatch.setattr(warm_merge, "_SLICE_METADATA_BYTES", SLICE)
    monkeypatch.setattr(warm_merge, "CHUNK_BYTES_MAX", CHUNK)
    monkeypatch.setattr(warm_table, "_MERGED_METADATA_BYTES_MAX", CHUNK)


def _writes(size: int) -> tuple[Change, ...]:
    """Four batches, interleaved in time, with so many bytes of metadata a point."""
    return tuple(
        Write(0, {(1, 4 * time + part): row(part, text="x" * size) for time in range(70)})
        for part in range(4)
    )


@pytest.mark.parametrize("size", [10, 100, 700, 3000, 12_000])
def test_chunks(size: int) -> None:
    """Merging writes chunks with no more metadata than one chunk and one slice, or a single row."""
    disk = MemoryDisk("/data")
    actor = opened(disk)
    writes = _writes(size)
    for number, write in enumerate(writes):
        write.send(actor, Caller(1, number))
        flush(actor)
    ask(actor, wm.WarmCompact(), Compacted)
    chunks = actor._table.chunks
    assert sum(chunk.rows for chunk in chunks) == 280
    for chunk in chunks:
        column = chunk.metadata(0, chunk.rows)
        assert column is not None
        assert column.nbytes <= CHUNK + max(SLICE, 2 * size)
        assert column.nbytes >= min(CHUNK, 280 * size) // 2 or chunk is chunks[-1]
    state = states_of(*writes)[-1]
    assert scanned(disk, actor) == state
    actor.close()
    again = opened(disk)
    assert scanned(disk, again, mapped=False) == state


def test_runs_in_memory() -> None:
    """Runs in memory are merged only as long as their metadata are no more than a bound."""
    sizes = {}
    for size in (1, 100):
        actor = opened(MemoryDisk("/data"))
        for number, write in enumerate(_writes(size)):
            write.send(actor, Caller(1, number))
        actor.check_invariants()
        sizes[size] = [run.points.metadata_bytes for run in actor._table.memory]
    assert len(sizes[1]) == 1
    assert len(sizes[100]) == 4


def test_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound of an answer counts the metadata that are sent, and those only."""
    monkeypatch.setattr(warm_answers, "RESULT_BYTES_MAX", 280 * 200)
    actor = opened(MemoryDisk("/data"))
    for number, write in enumerate(_writes(200)):
        write.send(actor, Caller(1, number))
    entities = memoryview((1).to_bytes(8, "little"))
    with pytest.raises(ResultTooLarge):
        ask(actor, wm.WarmRange(0, entities, 0, 280), wm.WarmRows)
    ask(actor, wm.WarmRange(0, entities, 0, 280, metadata=False), wm.WarmRows)
    ask(actor, wm.WarmRange(0, entities, 0, 280, limit=200), wm.WarmRows)
