"""What was damaged under a running store gets no hash that holds when it is written anew.

Rows of large segments are read where they lie in the file, those of small ones from memory.
"""

import time

import numpy as np
import pytest

from holdfast.bench.faults import MemoryDisk
from holdfast.formats.errors import StoreCorrupt
from holdfast.formats.rvf.segment import SegmentType
from holdfast.workers import messages, vector_compaction, vector_loading, vector_store, vectors
from holdfast.workers import vector_messages as vm
from holdfast.workers.actor import Caller
from holdfast.workers.raw_arrays import raw
from holdfast.workers.vectors import VectorsActor
from tests.workers.vector_model import (
    PATH,
    Ingest,
    ask,
    opened,
    row,
    rows_in,
    without_waiting,
)

ROWS = np.arange(1, 21, dtype=np.float32).reshape(10, 2)
DAMAGED = 3
"""The row that is damaged."""


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    without_waiting(monkeypatch)


@pytest.fixture
def _mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten rows are a large segment."""
    for module in (vector_loading, vector_compaction):
        monkeypatch.setattr(module, "MAPPED_BYTES_MIN", 100)


def _write(actor: VectorsActor, request: messages.Request, number: int) -> None:
    ask(actor, request, object, Caller(1, number))
    actor.commit()


def _ingest(rows: "np.typing.NDArray[np.float32]", first: int = 0) -> vm.VectorsIngest:
    ids = np.arange(first, first + len(rows), dtype=np.uint64)
    return vm.VectorsIngest(raw(ids), raw(rows))


def _named(number: int) -> messages.Request:
    """A row with metadata."""
    return Ingest({number: row(1, number, s=f"row {number}")}).request()


def _prepared(disk: MemoryDisk) -> VectorsActor:
    """A store with a segment of ten rows, read in by an owner that did not write them."""
    actor = opened(disk)
    _write(actor, _ingest(ROWS), 1)
    actor.close()
    return opened(disk, dimension=None)


def _damage(disk: MemoryDisk) -> int:
    """Damage a row in the file; returns where its segment begins."""
    content = disk.content(PATH)
    assert content is not None
    at = content.index(ROWS[DAMAGED].tobytes())
    file = disk.open(PATH, write=True)
    file.write_at(at, np.float32(1234.5).tobytes())
    file.close()
    return content.index(ROWS[0].tobytes()) - 78


def _served(actor: VectorsActor) -> list[tuple[float, ...]]:
    found = ask(actor, vm.VectorsGet(raw(np.arange(10, dtype=np.uint64))), vm.VectorRows)
    return [row.vector for row in rows_in(found).values()]


@pytest.mark.usefixtures("_mapped")
def test_a_compaction_refuses_damage() -> None:
    """It names the segment, the file stays as it was, and the store serves on."""
    disk = MemoryDisk("/data")
    actor = _prepared(disk)
    offset = _damage(disk)
    before = disk.content(PATH)
    with pytest.raises(StoreCorrupt, match="vec segment does not match its hash") as caught:
        ask(actor, vm.VectorsCompact(), messages.Compacted)
    assert (caught.value.path, caught.value.offset) == (PATH, offset)
    assert disk.content(PATH) == before
    assert disk.list("/data") == [("v.rvf", "file"), ("v.rvf.ledger", "file"),
                                  ("v.rvf.lock", "file"), ("v.rvf.owner", "file")]  # fmt: skip
    assert len(ask(actor, vm.VectorsVerify(), vm.Verified).problems) > 0
    _write(actor, _ingest(ROWS[:1], 50), 2)
    assert ask(actor, vm.VectorsCount(), vm.Counted).rows == 11


@pytest.mark.usefixtures("_mapped")
def test_damage_while_a_compaction_is_under_way() -> None:
    """Rows that were copied before they were damaged are no reason to trust the others."""
    disk = MemoryDisk("/data")
    actor = _prepared(disk)
    steps = actor.handle(vm.VectorsCompact(), Caller(2, 1))
    assert not isinstance(steps, messages.Reply)
    next(steps)
    _damage(disk)
    with pytest.raises(StoreCorrupt):
        for _ in steps:
            pass


@pytest.mark.usefixtures("_mapped")
def test_a_segment_that_replaces_the_damaged_one() -> None:
    """Once every row of it was written anew, nothing is copied from it, and compacting goes on."""
    disk = MemoryDisk("/data")
    actor = _prepared(disk)
    _damage(disk)
    _write(actor, _ingest(ROWS), 2)
    ask(actor, vm.VectorsCompact(), messages.Compacted)
    assert _served(actor) == list(map(tuple, ROWS.tolist()))
    assert ask(actor, vm.VectorsVerify(), vm.Verified).problems == []


@pytest.mark.usefixtures("_mapped")
def test_upkeep_puts_it_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning says where the damage is; the file is left alone and the store serves on."""
    monkeypatch.setattr(vectors, "_DEAD_BYTES_MIN", 100)
    disk = MemoryDisk("/data")
    actor = _prepared(disk)
    offset = _damage(disk)
    for number in range(20):
        _write(actor, _ingest(ROWS[:1]), 2 + number)
    before = disk.content(PATH)
    while actor.step(idle=True):
        pass
    assert caplog.text.count(f"put off: '{PATH}' is damaged at offset {offset}") == 1
    assert disk.content(PATH) == before
    assert not actor.step(idle=True)


@pytest.mark.usefixtures("_mapped")
def test_merging_refuses_damage(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A segment with many deleted rows is not rewritten if it is damaged, and nobody is kept."""
    monkeypatch.setattr(vector_store, "_DELETED_MAX", 3)
    monkeypatch.setattr(vector_store, "_DELETED_LEFT", 1)
    disk = MemoryDisk("/data")
    actor = _prepared(disk)
    offset = _damage(disk)
    for number in range(6):
        _write(actor, vm.VectorsDelete(raw(np.array([9 - number], np.uint64))), 2 + number)
    assert caplog.text.count(f"put off: at offset {offset}") == 1
    assert ask(actor, vm.VectorsVerify(), vm.Verified).problems
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 3600)
    actor.step(idle=True)
    assert caplog.text.count(f"put off: at offset {offset}") == 2


def test_rows_in_memory_are_right() -> None:
    """Those of a small segment are written as they were, whatever has become of the file."""
    disk = MemoryDisk("/data")
    actor = _prepared(disk)
    _damage(disk)
    assert ask(actor, vm.VectorsVerify(), vm.Verified).problems
    ask(actor, vm.VectorsCompact(), messages.Compacted)
    assert ask(actor, vm.VectorsVerify(), vm.Verified).problems == []
    actor.close()
    assert _served(opened(disk, dimension=None)) == list(map(tuple, ROWS.tolist()))


def test_merging_metadata_refuses_damage(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Ids of a damaged segment of metadata are not believed: others would lose theirs."""
    monkeypatch.setattr(vector_store, "_METAS_MAX", 8)
    disk = MemoryDisk("/data")
    actor = opened(disk)
    for number in range(8):
        _write(actor, _named(number), number + 1)
    entry = actor._store.catalog.of_type(SegmentType.META)[0]
    file = disk.open(PATH, write=True)
    at = entry.offset + 64 + entry.payload_bytes // 2
    file.write_at(at, bytes([file.read_at(at, 1)[0] ^ 1]))
    file.close()
    _write(actor, _named(8), 9)
    assert f"put off: at offset {entry.offset}" in caplog.text
    assert entry in actor._store.catalog.others
