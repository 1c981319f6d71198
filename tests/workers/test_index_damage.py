"""Every way the original is known to lose data, reproduced: here nothing is lost, or it is told."""

import errno
from typing import Any

import numpy as np
import pytest

from holdfast.bench.faults import Crash as Killed
from holdfast.bench.faults import Fail, FaultyDisk, Kill, MemoryDisk, Nothing
from holdfast.formats.errors import (
    InvalidFormat,
    OptionsConflict,
    StoreCorrupt,
    StoreFull,
    StoreLocked,
)
from holdfast.formats.iqdb_snapshot import Compression, decode_header, split_stamp
from holdfast.formats.iqdb_wal import HEADER, HEADER_BYTES
from holdfast.workers import index_messages as im
from holdfast.workers.actor import Caller
from holdfast.workers.disk import Buffer
from holdfast.workers.index import open_index
from holdfast.workers.index_messages import IndexOptions
from holdfast.workers.messages import Compacted
from holdfast.workers.raw_arrays import raw
from tests.workers.index_files import Writer, closed, content, ids, put
from tests.workers.index_model import (
    DIMENSION,
    PATH,
    WAL,
    ask,
    deleting,
    index_spec,
    inserting,
    opened,
    rows_of,
    tick,
)

pytestmark = pytest.mark.usefixtures("quiet")


# --- logs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 7, 8, 9, 30])
def test_torn_tail_then_appends(cut: int) -> None:
    """What is written after a torn tail is there at the next opening."""
    memory = MemoryDisk("/data")
    closed(memory, 1, 2, 3)
    put(memory, WAL, content(memory, WAL)[:-cut])
    actor = opened(memory)
    assert ids(actor) == [1, 2]
    assert actor.store.torn_bytes > 0
    Writer(actor).write(*range(10, 30))
    assert ids(opened(memory.crash())) == [1, 2, *range(10, 30)]


@pytest.mark.parametrize("written", [1, 4, 9, 40])
def test_full_disk_then_appends(written: int) -> None:
    """A half-written record is taken back, so what is written once there is room is not lost."""
    memory = MemoryDisk("/data")
    disk = FaultyDisk(memory)
    actor = opened(disk)
    writer = Writer(actor)
    writer.write(1)
    disk.arm(Fail(len(disk.calls) + 4, errno.ENOSPC, written=written))
    with pytest.raises(StoreFull):
        writer.write(2)
    assert (disk.struck, disk.calls[-3].name, disk.calls[-3].path) == (1, "write_at", WAL)
    disk.arm()
    writer.write(*range(10, 30))
    assert ids(opened(memory.power_loss(Nothing()))) == [1, *range(10, 30)]


@pytest.mark.parametrize("length", range(HEADER_BYTES))
def test_interrupted_reset_then_appends(length: int) -> None:
    """A log of fewer bytes than its header gets one, so it can be read after appends."""
    memory = MemoryDisk("/data")
    closed(memory)
    put(memory, WAL, HEADER[:length])
    actor = opened(memory)
    Writer(actor).write(1, 2)
    assert ids(opened(memory.crash())) == [1, 2]


def test_a_missing_log_is_an_empty_one() -> None:
    """A snapshot of the original's without a log opens, and gets a log."""
    memory = MemoryDisk("/data")
    closed(memory)
    memory.remove(WAL)
    actor = opened(memory)
    Writer(actor).write(1)
    assert ids(opened(memory.power_loss(Nothing()))) == [1]


@pytest.mark.parametrize("zeros", [1, 8, 64, 4096])
@pytest.mark.parametrize("rows", [[], [1, 2]])
def test_zero_tail_then_appends(rows: list[int], zeros: int) -> None:
    """Zeros behind the last record, or nothing but zeros, are trimmed before the next append."""
    memory = MemoryDisk("/data")
    closed(memory, *rows)
    put(memory, WAL, content(memory, WAL) + bytes(zeros))
    actor = opened(memory)
    Writer(actor).write(10)
    assert ids(opened(memory.crash())) == [*rows, 10]
    fresh = MemoryDisk("/data")
    closed(fresh)
    put(fresh, WAL, bytes(zeros))
    assert ids(opened(fresh)) == []


def test_flip_in_the_midst_of_the_log_is_refused_and_salvaged_on_request() -> None:
    """Intact records behind a damage are not dropped in silence; asked to, they are taken."""
    memory = MemoryDisk("/data")
    closed(memory, 1, 2, 3, 4)
    whole = content(memory, WAL)
    stride = (len(whole) - HEADER_BYTES) // 4
    damaged = bytearray(whole)
    damaged[HEADER_BYTES + stride + 20] ^= 1
    put(memory, WAL, bytes(damaged))
    with pytest.raises(StoreCorrupt) as raised:
        opened(memory)
    assert (raised.value.path, raised.value.offset) == (WAL, HEADER_BYTES + stride)
    assert content(memory, WAL) == bytes(damaged)
    salvaging = IndexOptions(salvage=True)
    actor = opened(memory, options=salvaging)
    assert ids(actor) == [1, 3, 4]
    assert content(memory, f"{WAL}.cut1") == bytes(damaged[HEADER_BYTES + stride :])
    Writer(actor).write(9)
    assert ids(opened(memory.power_loss(Nothing()))) == [1, 3, 4, 9]


def _damaged_in_the_midst() -> MemoryDisk:
    """Four rows, and of the second one's record a bit is turned."""
    memory = MemoryDisk("/data")
    closed(memory, 1, 2, 3, 4)
    damaged = bytearray(content(memory, WAL))
    damaged[HEADER_BYTES + (len(damaged) - HEADER_BYTES) // 4 + 20] ^= 1
    put(memory, WAL, bytes(damaged))
    return memory


def test_a_salvage_that_is_interrupted_is_done_again() -> None:
    """Killed before any call, it leaves what another one makes the same rows of."""
    memory = _damaged_in_the_midst()
    salvaging = IndexOptions(salvage=True)
    recording = FaultyDisk(memory.crash())
    opened(recording, options=salvaging)
    for number in range(len(recording.calls)):
        left = memory.crash()
        with pytest.raises(Killed):
            opened(FaultyDisk(left, Kill(number)), options=salvaging)
        for disk in (left.crash(), left.power_loss(Nothing())):
            actor = opened(disk, options=salvaging)
            assert sorted(ids(actor)) == [1, 3, 4], number
            Writer(actor).write(9)
            assert sorted(ids(opened(disk.crash()))) == [1, 3, 4, 9], number


def test_a_request_logged_in_part_is_cut_as_a_whole() -> None:
    """Of a batch that a power loss left half, nothing shows."""
    memory = MemoryDisk("/data")
    closed(memory, 1)
    actor = opened(memory)
    batch = inserting({n: ([n], None) for n in range(10, 20)})
    ask(actor, batch, im.IndexInserted, Caller(1, 1))
    actor.commit()
    actor.close()
    stride = (len(content(memory, WAL)) - HEADER_BYTES) // 11
    put(memory, WAL, content(memory, WAL)[: HEADER_BYTES + 6 * stride])
    actor = opened(memory)
    assert ids(actor) == [1]
    Writer(actor).write(2)
    assert ids(opened(memory.crash())) == [1, 2]


# --- snapshot and log ---------------------------------------------------------------------------


@pytest.mark.parametrize("stamps", [True, False])
def test_a_log_is_not_applied_twice(stamps: bool) -> None:
    """After a crash between a snapshot and the new log, every row is there once, as it was last.

    With stamps the records are not even looked at again, and the order is kept as well.
    """
    memory = MemoryDisk("/data")
    options = IndexOptions(dimension=DIMENSION, metric="euclidean", stamps=stamps)
    actor = opened(memory, options=options)
    Writer(actor).write(1, 2, 3)
    ask(actor, deleting(1), im.IndexDeleted, Caller(1, 1))
    ask(actor, inserting({2: ([9], None)}, replace=True), im.IndexInserted, Caller(1, 2))
    actor.commit()
    log = content(memory, WAL)
    held = rows_of(actor)
    ask(actor, im.IndexCheckpoint(), Compacted)
    actor.close()
    put(memory, WAL, log)
    actor = opened(memory, options=options)
    assert sorted(rows_of(actor)) == sorted(held)
    assert actor.store.recovered_records == (0 if stamps else 5)
    if stamps:
        assert rows_of(actor) == held


def test_a_log_of_another_index_is_refused() -> None:
    """A log that was copied to the wrong place is not replayed."""
    memory = MemoryDisk("/data")
    closed(memory, 1)
    actor = opened(memory)
    ask(actor, im.IndexCheckpoint(), Compacted)
    Writer(actor).write(2)
    actor.close()
    other = MemoryDisk("/data")
    closed(other, 7, 8)
    put(memory, WAL, content(other, WAL))
    with pytest.raises(InvalidFormat, match="of store"):
        opened(memory)


def test_a_snapshot_older_than_the_logs_beginning_is_refused() -> None:
    """Where records between snapshot and log are missing, opening says so."""
    memory = MemoryDisk("/data")
    actor = opened(memory)
    Writer(actor).write(1)
    ask(actor, im.IndexCheckpoint(), Compacted)
    old = content(memory, PATH)
    Writer(actor).write(2)
    ask(actor, im.IndexCheckpoint(), Compacted)
    Writer(actor).write(3)
    actor.close()
    put(memory, PATH, old)
    with pytest.raises(StoreCorrupt, match="the snapshot ends with 1"):
        opened(memory)


@pytest.mark.parametrize("begun", ["new", "salvaged"])
def test_a_first_snapshot_in_place_of_a_later_one_is_refused(begun: str) -> None:
    """What an index begins with has a stamp as well, so that later records do not go with it."""
    memory = MemoryDisk("/data") if begun == "new" else _damaged_in_the_midst()
    options = IndexOptions(dimension=DIMENSION, metric="euclidean", salvage=begun == "salvaged")
    actor = opened(memory, options=options)
    first = content(memory, PATH)
    Writer(actor).write(7)
    ask(actor, im.IndexCheckpoint(), Compacted)
    Writer(actor).write(8)
    actor.close()
    put(memory, PATH, first)
    with pytest.raises(StoreCorrupt, match="but the snapshot ends with"):
        opened(memory)


@pytest.mark.parametrize("stamps", [True, False])
def test_a_first_snapshot_has_a_stamp_unless_none_is_wanted(stamps: bool) -> None:
    """A new index says that it has no record yet, or ends with its rows as the original's does."""
    memory = MemoryDisk("/data")
    options = IndexOptions(dimension=DIMENSION, metric="euclidean", stamps=stamps)
    opened(memory, options=options).close()
    _, stamp = split_stamp(memoryview(content(memory, PATH)))
    assert (None if stamp is None else stamp.sequence) == (0 if stamps else None)


def test_a_log_older_than_the_snapshot_is_left_behind() -> None:
    """A log that the snapshot has overtaken changes nothing, and appends to come are readable."""
    memory = MemoryDisk("/data")
    actor = opened(memory)
    Writer(actor).write(1)
    old = content(memory, WAL)
    Writer(actor).write(2)
    ask(actor, im.IndexCheckpoint(reset=False), Compacted)
    actor.close()
    put(memory, WAL, old)
    actor = opened(memory)
    assert ids(actor) == [1, 2]
    Writer(actor).write(3)
    assert ids(opened(memory.crash())) == [1, 2, 3]


def test_a_log_without_its_snapshot_is_refused() -> None:
    """An index whose snapshot is gone is not begun anew over its records."""
    memory = MemoryDisk("/data")
    closed(memory, 1)
    memory.remove(PATH)
    with pytest.raises(StoreCorrupt, match="snapshot is missing"):
        opened(memory)


def test_records_of_the_original_mix_with_stamped_ones() -> None:
    """What the original appends behind ours, and ours behind that, is read in order, once."""
    memory = MemoryDisk("/data")
    closed(memory, 1, 2)
    plain = IndexOptions(stamps=False)
    actor = opened(memory, options=plain)
    Writer(actor).write(3)
    ask(actor, deleting(1), im.IndexDeleted, Caller(1, 1))
    actor.close()
    actor = opened(memory)
    Writer(actor).write(4)
    ask(actor, im.IndexCheckpoint(reset=False), Compacted)
    Writer(actor).write(5)
    held = rows_of(actor)
    actor = opened(memory.crash())
    assert rows_of(actor) == held
    assert actor.store.recovered_records == 1


def test_a_checkpoint_is_synced_under_every_policy() -> None:
    """Also with ``never``, a power loss after a checkpoint loses nothing that is in it."""
    memory = MemoryDisk("/data")
    actor = opened(memory, durability="never")
    Writer(actor).write(1, 2)
    ask(actor, im.IndexCheckpoint(), Compacted)
    assert ids(opened(memory.power_loss(Nothing()))) == [1, 2]


def test_every_flipped_bit_of_a_header_is_refused() -> None:
    """The header is outside the checksum, but no flip in it gives other rows."""
    memory = MemoryDisk("/data")
    closed(memory, 1, 2)
    actor = opened(memory)
    ask(actor, im.IndexCheckpoint(), Compacted)
    actor.close()
    whole = content(memory, PATH)
    for at in range(decode_header(whole).header_bytes):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[at] ^= 1 << bit
            disk = memory.crash()
            put(disk, PATH, bytes(flipped))
            with pytest.raises((StoreCorrupt, OptionsConflict)):
                opened(disk)


class Rotten(FaultyDisk):
    """A disk on which one bit of every snapshot turns while it is written."""

    def open(self, path: str, *, write: bool = False, create: bool = False) -> Any:
        file = super().open(path, write=write, create=create)
        if path == f"{PATH}.tmp":
            write_at = file.write_at

            def rotting(offset: int, *pieces: Buffer) -> None:
                turned = bytearray(b"".join(pieces))
                turned[-1] ^= 1
                write_at(offset, turned)

            file.write_at = rotting  # type: ignore[method-assign]  # a disk that rots
        return file


def test_the_old_snapshot_stays_until_the_new_one_is_verified() -> None:
    """A snapshot that reads back otherwise than it was written is not put in place."""
    memory = MemoryDisk("/data")
    closed(memory, 1)
    before = content(memory, PATH)
    actor = opened(Rotten(memory))
    with pytest.raises(StoreCorrupt):
        ask(actor, im.IndexCheckpoint(), Compacted)
    assert content(memory, PATH) == before
    assert memory.inode_at(f"{PATH}.tmp") is None
    Writer(actor).write(2)
    assert ids(opened(memory.crash())) == [1, 2]


@pytest.mark.parametrize("name", ["zstd", "lz4"])
def test_what_compresses_too_well_is_stored_as_it_is(name: im.CompressionName) -> None:
    """Rows of zeros, which a reader would take for a bomb, are written so that they can be read."""
    memory = MemoryDisk("/data")
    wide = IndexOptions(dimension=65_536, metric="dot", compression=name)
    actor = opened(memory, options=wide)
    zeros = np.zeros((64, 65_536), np.float32)
    request = im.IndexInsert(raw(np.arange(64, dtype=np.uint64)), raw(zeros))
    ask(actor, request, im.IndexInserted, Caller(1, 1))
    ask(actor, im.IndexCheckpoint(), Compacted)
    header = decode_header(content(memory, PATH)[:100])
    expected = Compression.NONE if name == "zstd" else Compression.LZ4
    assert header.compression is expected  # LZ4 never gets beyond 255 to 1
    assert len(ids(opened(memory.crash(), options=wide))) == 64


def test_leftovers_are_removed() -> None:
    """Temporary files, ours and the original's, go at the next opening; others stay."""
    memory = MemoryDisk("/data")
    closed(memory)
    stale = [f"{PATH}.tmp", f"{WAL}.tmp", f"{PATH}.tmp.123.1700000000000000000"]
    others = [f"{PATH}.tmp.mine", "/data/other.iqdb.tmp.1.2"]
    for path in (*stale, *others):
        put(memory, path, b"x")
    opened(memory)
    assert [path for path in stale if memory.inode_at(path) is not None] == []
    assert all(memory.inode_at(path) is not None for path in others)


def test_two_owners_are_refused() -> None:
    """While one has the index, another gets ``StoreLocked`` and touches nothing."""
    memory = MemoryDisk("/data")
    actor = opened(memory)
    before = memory.content(WAL)
    with pytest.raises(StoreLocked):
        open_index(memory, index_spec(), tick)
    assert memory.content(WAL) == before
    actor.close()
