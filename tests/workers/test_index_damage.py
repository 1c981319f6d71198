"""Every way the original is known to lose data, reproduced: here nothing is lost, or it is told."""

import errno
import itertools
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import pytest

from holdfast.bench.faults import Crash as Killed
from holdfast.bench.faults import Fail, FaultyDisk, Kill, MemoryDisk, Nothing
from holdfast.formats.errors import (
    Duplicate,
    InvalidArgument,
    InvalidFormat,
    LimitExceeded,
    NotFound,
    OptionsConflict,
    ResultTooLarge,
    StoreCorrupt,
    StoreFull,
    StoreIOError,
    StoreLocked,
    StoreNotFound,
)
from holdfast.formats.iqdb_snapshot import Compression, decode_header, split_stamp
from holdfast.formats.iqdb_wal import HEADER, HEADER_BYTES
from holdfast.workers import index_messages as im
from holdfast.workers.actor import Caller
from holdfast.workers.disk import Buffer
from holdfast.workers.foreign_index import ForeignIndex
from holdfast.workers.index import IndexActor, open_index
from holdfast.workers.index_inspection import examine_index
from holdfast.workers.index_messages import IndexOptions
from holdfast.workers.log_file import Fatal
from holdfast.workers.messages import Compacted, StoreSpec
from holdfast.workers.raw_arrays import raw
from holdfast.workers.standing import Standing
from tests.workers.index_model import (
    DIMENSION,
    PATH,
    WAL,
    Rows,
    ask,
    deleting,
    index_spec,
    inserting,
    opened,
    row,
    rows_of,
    tick,
)

pytestmark = pytest.mark.usefixtures("quiet")


class Writer:
    """Writes rows one by one, each answered. No two requests of a run are the same."""

    requests = itertools.count(1)

    def __init__(self, actor: IndexActor) -> None:
        self.actor = actor

    def write(self, *numbers: int) -> None:
        """Insert rows with these ids."""
        for number in numbers:
            caller = Caller(5, next(self.requests))
            ask(self.actor, inserting({number: ([number], None)}), im.IndexInserted, caller)
            self.actor.commit()


def closed(memory: MemoryDisk, *numbers: int, options: IndexOptions | None = None) -> None:
    """An index with these rows in its log, closed."""
    actor = opened(memory, options=options)
    Writer(actor).write(*numbers)
    actor.close()


def put(memory: MemoryDisk, path: str, content: bytes) -> None:
    """Give a file this content, durably."""
    if memory.inode_at(path) is not None:
        memory.remove(path)
    file = memory.create(path)
    file.append(content)
    file.sync()
    file.close()
    memory.sync_directory("/data")


def content(memory: MemoryDisk, path: str) -> bytes:
    """What a file has, which is there."""
    found = memory.content(path)
    assert found is not None
    return found


def ids(actor: IndexActor) -> list[int | bytes]:
    """The ids of all rows, in storage order."""
    return [item[0] for item in rows_of(actor)]


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


# --- bad input ----------------------------------------------------------------------------------


REFUSED: dict[str, tuple[Callable[[], object], type[Exception]]] = {
    "an id that is there": (lambda: inserting({1: ([1.0], None)}), Duplicate),
    "an id that comes twice": (
        lambda: im.IndexInsert([8, 8], raw(np.zeros((2, DIMENSION), np.float32))),
        Duplicate,
    ),
    "an empty id": (lambda: im.IndexInsert([b""], raw(np.zeros(4, np.float32))), InvalidArgument),
    "an id below 0": (lambda: im.IndexInsert([-1], raw(np.zeros(4, np.float32))), InvalidArgument),
    "an id over u64": (
        lambda: im.IndexInsert([1 << 64], raw(np.zeros(4, np.float32))),
        InvalidArgument,
    ),
    "another dimension": (
        lambda: im.IndexInsert([8], raw(np.zeros(5, np.float32))),
        InvalidArgument,
    ),
    "metadata of fewer rows": (
        lambda: im.IndexInsert([8], raw(np.zeros(4, np.float32)), []),
        InvalidArgument,
    ),
    "metadata that is none": (
        lambda: im.IndexInsert([8], raw(np.zeros(4, np.float32)), [b"\x01"]),
        InvalidArgument,
    ),
    "metadata with more behind it": (
        lambda: im.IndexInsert([8], raw(np.zeros(4, np.float32)), [bytes(5)]),
        InvalidArgument,
    ),
    "a record over the limit": (
        lambda: im.IndexInsert([b"x" * 3000], raw(np.zeros(4, np.float32))),
        LimitExceeded,
    ),
    "a delete of what is not there": (lambda: deleting(404), NotFound),
    "a delete of one id twice": (lambda: deleting(1, 1), NotFound),
    "a search of another dimension": (
        lambda: im.IndexSearch(raw(np.zeros(5, np.float32)), 1, 1),
        InvalidArgument,
    ),
    "a filter that is none": (
        lambda: im.IndexSearch(raw(np.zeros(4, np.float32)), 1, 1, b"where"),
        InvalidArgument,
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_requests_change_nothing(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each gets a typed error before a byte is written."""
    monkeypatch.setattr("holdfast.workers.index_store.INDEX_RECORD_BYTES_MAX", 2000)
    memory = MemoryDisk("/data")
    actor = opened(memory)
    Writer(actor).write(1)
    before = memory.content(WAL), memory.content(f"{WAL}.ledger")
    request, error = REFUSED[what]
    with pytest.raises(error):
        actor.handle(request(), Caller(1, 1))  # type: ignore[arg-type]  # one of the requests
    assert (memory.content(WAL), memory.content(f"{WAL}.ledger")) == before
    assert rows_of(actor) == [row(1, 1.0)]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (IndexOptions(dimension=5), OptionsConflict),
        (IndexOptions(metric="dot"), OptionsConflict),
        (IndexOptions(kind="hnsw"), OptionsConflict),
        (IndexOptions(kind="nonsense"), InvalidArgument),
        (IndexOptions(kind="no.such.module:Class"), InvalidArgument),
        (IndexOptions(kind="holdfast.workers.index_store:IndexStore"), InvalidArgument),
        (IndexOptions(kind="json:dumps"), InvalidArgument),
    ],
)
def test_an_index_is_not_opened_as_something_else(
    options: IndexOptions, error: type[Exception]
) -> None:
    """Another dimension, metric or kind is refused, and the lock is let go of."""
    memory = MemoryDisk("/data")
    closed(memory, 1)
    with pytest.raises(error):
        opened(memory, options=options)
    assert ids(opened(memory)) == [1]


def test_an_absent_index_is_not_made_unless_asked() -> None:
    """Without ``create`` nothing comes into being, and a new one needs its dimension."""
    memory = MemoryDisk("/data")
    spec = StoreSpec("i", "index", PATH, create=False, options=IndexOptions(dimension=4))
    with pytest.raises(StoreNotFound):
        open_index(memory, spec, tick)
    with pytest.raises(InvalidArgument, match="dimension"):
        opened(memory, options=IndexOptions())
    assert memory.list("/data") == []


# --- an index that refuses ----------------------------------------------------------------------


class Picky:
    """An index of one's own that refuses id 13, whatever it said before."""

    INDEX_TYPE = "picky"

    def __init__(self, dimension: int, metric: Any) -> None:
        self.dimension, self.metric = dimension, metric
        self.rows: dict[Any, bytes] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, id_: object) -> bool:
        return id_ in self.rows

    def insert(self, id_: Any, vector: Any, metadata: Any) -> None:
        if id_ == 13:
            raise ValueError("13 brings bad luck")
        self.rows[id_] = vector.tobytes()

    def delete(self, id_: Any) -> None:
        del self.rows[id_]

    def search(self, vector: Any, k: int) -> list[tuple[Any, float]]:
        return [(id_, float(n)) for n, id_ in enumerate(list(self.rows)[:k])]

    def save_to(self, writer: Any) -> None:
        writer.write(repr((self.dimension, self.metric, self.rows)).encode())

    @classmethod
    def load_from(cls, reader: Any) -> Self:
        import ast

        dimension, metric, rows = ast.literal_eval(reader.read().decode())
        index = cls(dimension, metric)
        index.rows = rows
        return index


PICKY = IndexOptions(
    kind="tests.workers.test_index_damage:Picky", dimension=DIMENSION, metric="euclidean"
)


def inner(actor: IndexActor) -> dict[Any, bytes]:
    """The rows of a picky index."""
    index = actor.store.index
    assert isinstance(index, ForeignIndex)
    assert isinstance(index.inner, Picky)
    return index.inner.rows


def test_an_index_of_ones_own_is_durable() -> None:
    """Writes, deletes, replacements and snapshots of a user's class survive crashes."""
    memory = MemoryDisk("/data")
    actor = opened(memory, options=PICKY)
    Writer(actor).write(1, 2, 3)
    ask(actor, deleting(2), im.IndexDeleted, Caller(1, 1))
    ask(actor, inserting({1: ([7], None)}, replace=True), im.IndexInserted, Caller(1, 2))
    actor.commit()
    held = dict(inner(actor))
    assert inner(opened(memory.crash(), options=PICKY)) == held
    ask(actor, im.IndexCheckpoint(), Compacted)
    Writer(actor).write(4)
    again = opened(memory.crash(), options=PICKY)
    assert inner(again).keys() == {1, 3, 4}
    hits = ask(again, im.IndexSearch(raw(np.zeros(4, np.float32)), 1, 2), im.IndexHits)
    assert hits.each == 2
    with pytest.raises(InvalidFormat, match="picky"):
        opened(memory.crash(), options=IndexOptions())


class Forgetful(Picky):
    """An index of one's own that saves fewer rows than it has, other ones, or none at all."""

    INDEX_TYPE = "forgetful"

    def save_to(self, writer: Any) -> None:
        if 10 in self.rows:
            writer.write(b"nonsense")
            return
        metric = "dot" if 11 in self.rows else self.metric
        rows = {id_: row for id_, row in self.rows.items() if id_ != 12}
        writer.write(repr((self.dimension, metric, rows)).encode())


@pytest.mark.parametrize("compression", ["none", "lz4"])
@pytest.mark.parametrize("number", [10, 11, 12])
def test_a_snapshot_that_does_not_load_replaces_none(
    number: int, compression: im.CompressionName
) -> None:
    """What a class's ``save_to`` leaves out is noticed before the old snapshot and log go."""
    forgetful = IndexOptions(
        kind="tests.workers.test_index_damage:Forgetful",
        dimension=DIMENSION,
        metric="euclidean",
        compression=compression,
    )
    memory = MemoryDisk("/data")
    actor = opened(memory, options=forgetful)
    Writer(actor).write(1, 2)
    ask(actor, im.IndexCheckpoint(), Compacted)
    Writer(actor).write(number)
    before = content(memory, PATH), content(memory, WAL)
    for reset in (True, False):
        with pytest.raises(InvalidArgument, match=r"Forgetful\.save_to"):
            ask(actor, im.IndexCheckpoint(reset), Compacted)
    assert (content(memory, PATH), content(memory, WAL)) == before
    assert memory.inode_at(f"{PATH}.tmp") is None
    Writer(actor).write(3)
    again = opened(memory.crash(), options=forgetful)
    assert inner(again).keys() == {1, 2, number, 3}
    ask(again, deleting(number), im.IndexDeleted, Caller(1, 1))
    ask(again, im.IndexCheckpoint(), Compacted)


class Unsaving(Picky):
    """An index of one's own that cannot be saved while it has row 10, nor with row 11."""

    INDEX_TYPE = "unsaving"

    def save_to(self, writer: Any) -> None:
        if 10 in self.rows:
            raise OSError(errno.ENOSPC, "no room for that")
        if 11 in self.rows:
            raise SystemExit(3)
        super().save_to(writer)


@pytest.mark.parametrize("number", [10, 11])
def test_a_class_that_fails_to_save_itself_is_served_all_the_same(number: int) -> None:
    """Asked for, a snapshot gets a typed error; otherwise it is put off."""
    unsaving = IndexOptions(
        kind="tests.workers.test_index_damage:Unsaving",
        dimension=DIMENSION,
        metric="euclidean",
        checkpoint_bytes=50,
    )
    memory = MemoryDisk("/data")
    actor = opened(memory, options=unsaving)
    writer = Writer(actor)
    writer.write(number, 1)
    assert actor.store.needs_checkpoint()
    assert actor.step(idle=True)
    assert not actor.store.needs_checkpoint()
    with pytest.raises(InvalidArgument, match=r"Unsaving\.save_to"):
        ask(actor, im.IndexCheckpoint(), Compacted)
    assert memory.inode_at(f"{PATH}.tmp") is None
    writer.write(2)
    ask(actor, deleting(number), im.IndexDeleted, Caller(1, 1))
    actor.commit()
    ask(actor, im.IndexCheckpoint(), Compacted)
    assert inner(opened(memory.crash(), options=unsaving)).keys() == {1, 2}


def test_a_record_that_the_index_refuses_is_taken_back() -> None:
    """What the index refuses after all leaves no record, and what comes later is not lost."""
    memory = MemoryDisk("/data")
    actor = opened(memory, options=PICKY)
    Writer(actor).write(1)
    before = memory.content(WAL)
    with pytest.raises(InvalidArgument, match="bad luck"):
        actor.handle(inserting({13: ([1], None)}), Caller(1, 1))
    assert memory.content(WAL) == before
    Writer(actor).write(2)
    assert inner(opened(memory.crash(), options=PICKY)).keys() == {1, 2}


@pytest.mark.parametrize("stamps", [True, False])
@pytest.mark.parametrize("checkpointed", [True, False])
def test_a_batch_that_the_index_refuses_in_part_changes_nothing(
    checkpointed: bool, stamps: bool
) -> None:
    """Rows taken or replaced before the refused one are as before, and the same worker goes on."""
    options = IndexOptions(kind=PICKY.kind, dimension=DIMENSION, metric="euclidean", stamps=stamps)
    memory = MemoryDisk("/data")
    actor = opened(memory, options=options)
    Writer(actor).write(1, 2)
    if checkpointed:
        ask(actor, im.IndexCheckpoint(reset=False), Compacted)
    Writer(actor).write(3)
    before, held = memory.content(WAL), dict(inner(actor))
    batch: Rows = {5: ([5.0], None), 1: ([9.0], None), 13: ([1.0], None), 6: ([6.0], None)}
    for number in (1, 2):
        with pytest.raises(InvalidArgument, match="bad luck"):
            actor.handle(inserting(batch, replace=True), Caller(1, number))
        assert memory.content(WAL) == before
        assert inner(actor) == held
    Writer(actor).write(7)
    assert inner(opened(memory.crash(), options=options)) == inner(actor)
    assert inner(actor).keys() == {1, 2, 3, 7}


class Quitting(Picky):
    """An index of one's own whose every method but those that load it ends the process, armed."""

    INDEX_TYPE = "quitting"
    armed = False

    def _quit(self) -> None:
        if Quitting.armed:
            raise SystemExit(3)

    def __len__(self) -> int:
        self._quit()
        return super().__len__()

    def __contains__(self, id_: object) -> bool:
        self._quit()
        return super().__contains__(id_)

    def search(self, vector: Any, k: int) -> list[tuple[Any, float]]:
        self._quit()
        return super().search(vector, k)


def test_a_class_that_fails_ends_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its methods raise, even ``SystemExit``, is an error that names the class."""
    quitting = IndexOptions(
        kind="tests.workers.test_index_damage:Quitting", dimension=DIMENSION, metric="euclidean"
    )
    memory = MemoryDisk("/data")
    actor = opened(memory, options=quitting)
    Writer(actor).write(1)
    search = im.IndexSearch(raw(np.zeros(4, np.float32)), 1, 2)
    cls = type(actor.store.index.inner)  # type: ignore[union-attr]  # of the module as imported
    monkeypatch.setattr(cls, "armed", True)
    monkeypatch.setattr(Quitting, "armed", True)
    for request in (search, inserting({2: ([2], None)}), deleting(1)):
        with pytest.raises(InvalidArgument, match=r"Quitting\.__(len|contains)__: SystemExit"):
            actor.handle(request, Caller(1, 1))
    monkeypatch.setattr(cls, "__len__", Picky.__len__)
    with pytest.raises(InvalidArgument, match=r"Quitting\.search: SystemExit"):
        actor.handle(search, Caller(1, 1))
    monkeypatch.setattr(cls, "armed", False)
    monkeypatch.setattr(Quitting, "armed", False)
    Writer(actor).write(2)
    assert inner(opened(memory.crash(), options=quitting)).keys() == {1, 2}


def test_refused_record_then_crash() -> None:
    """Killed before the refused record is taken back, the index opens, without that record."""
    memory = MemoryDisk("/data")
    disk = FaultyDisk(memory)
    actor = opened(disk, options=PICKY)
    Writer(actor).write(1)
    counted = FaultyDisk(memory.crash())
    probe = opened(counted, options=PICKY)
    with pytest.raises(InvalidArgument):
        probe.handle(inserting({13: ([1], None)}), Caller(1, 1))
    (truncate,) = (call for call in counted.calls if call.name == "truncate" and call.path == WAL)
    again = memory.crash()
    killed = opened(FaultyDisk(again, Kill(truncate.number)), options=PICKY)
    with pytest.raises(Killed):
        killed.handle(inserting({13: ([1], None)}), Caller(1, 1))
    left = again.crash()
    actor = opened(left, options=PICKY)
    assert inner(actor).keys() == {1}
    Writer(actor).write(2)
    assert inner(opened(left.crash(), options=PICKY)).keys() == {1, 2}


def test_reading_what_cannot_be_read_is_a_typed_error() -> None:
    """A failing medium gives ``StoreIOError`` at opening, and the next opening works."""
    memory = MemoryDisk("/data")
    closed(memory, 1)
    disk = FaultyDisk(memory, Fail(0, errno.EIO, lasting=True, calls=frozenset({"map"})))
    with pytest.raises(StoreIOError):
        opened(disk)
    assert ids(opened(memory)) == [1]


# --- what was synced ----------------------------------------------------------------------------


HARMS: dict[str, Callable[[bytes, int], bytes]] = {
    "last record": lambda log, record: log[:-9] + b"\xff" + log[-8:],
    "cut at a record": lambda log, record: log[:-record],
    "cut inside one": lambda log, record: log[:-7],
    "zeros": lambda log, record: bytes(len(log)),
    "cut to a part of the header": lambda log, record: log[:5],
}


def overwrite(memory: MemoryDisk, path: str, content: bytes) -> None:
    """Give the same file other content, as damage does, and some programs."""
    file = memory.open(path, write=True)
    file.truncate(len(content))
    file.write_at(0, content)
    file.close()


@pytest.mark.parametrize("stamps", [True, False])
@pytest.mark.parametrize("how", ["killed", "closed", "closed, power lost"])
@pytest.mark.parametrize("harm", HARMS)
def test_what_was_synced_is_no_torn_tail(harm: str, how: str, stamps: bool) -> None:
    """Where it is known that a record was saved, its damage or absence is not cut away.

    After a kill the ledger knows it, and after a clean close a note beside the log.
    """
    memory = MemoryDisk("/data")
    actor = opened(
        memory, options=IndexOptions(dimension=DIMENSION, metric="euclidean", stamps=stamps)
    )
    Writer(actor).write(1, 2, 3)
    if how != "killed":
        actor.close()
    memory = memory.power_loss(Nothing()) if how == "closed, power lost" else memory.crash()
    whole = content(memory, WAL)
    harmed = HARMS[harm](whole, (len(whole) - HEADER_BYTES) // 3)
    overwrite(memory, WAL, harmed)
    with pytest.raises(StoreCorrupt, match="synced"):
        opened(memory)
    assert content(memory, WAL) == harmed
    assert examine_index(memory, PATH, tick).standing is Standing.DAMAGED


def test_a_batch_saved_before_a_clean_close_is_not_cut_for_one_bit() -> None:
    """Every single flipped bit in a closed log's only batch is refused, and salvage opens it."""
    memory = MemoryDisk("/data")
    actor = opened(memory)
    ask(actor, inserting({n: ([n], None) for n in range(3)}), im.IndexInserted, Caller(1, 1))
    actor.commit()
    actor.close()
    whole = content(memory, WAL)
    for at in range(HEADER_BYTES, len(whole)):
        harmed = bytearray(whole)
        harmed[at] ^= 1 << at % 8
        overwrite(memory, WAL, bytes(harmed))
        with pytest.raises((StoreCorrupt, InvalidFormat)):
            opened(memory)
        assert content(memory, WAL) == harmed
    assert ids(opened(memory, options=IndexOptions(salvage=True))) == [0, 1]


def test_the_note_of_a_close_does_not_bind_other_programs() -> None:
    """A log that the original appended to, or emptied in place behind a snapshot, opens."""
    memory = MemoryDisk("/data")
    closed(memory, 1, 2, options=IndexOptions(dimension=DIMENSION, metric="euclidean"))
    other = MemoryDisk("/data")
    plain = IndexOptions(dimension=DIMENSION, metric="euclidean", stamps=False)
    closed(other, 1, 2, 3, options=plain)
    record = (len(content(other, WAL)) - HEADER_BYTES) // 3
    overwrite(memory, WAL, content(memory, WAL) + content(other, WAL)[-record:])
    appended = memory.crash()
    assert ids(opened(appended)) == [1, 2, 3]
    actor = opened(other, options=plain)
    ask(actor, im.IndexCheckpoint(), Compacted)
    put(memory, PATH, content(other, PATH))
    overwrite(memory, WAL, HEADER)
    assert ids(opened(memory)) == [1, 2, 3]


@pytest.mark.parametrize("how", ["killed", "closed"])
def test_what_is_known_of_removed_files_does_not_bind_new_ones(how: str) -> None:
    """An index made where another's files were removed opens, also if it is given their inodes."""
    memory = MemoryDisk("/data")
    actor = opened(memory)
    Writer(actor).write(1, 2)
    left = "ledger"
    if how == "closed":
        actor.close()
        left = "closed"
    memory = memory.crash()
    assert memory.inode_at(f"{WAL}.{left}") is not None
    memory.remove(PATH)
    memory.remove(WAL)
    disk = FaultyDisk(memory)
    opened(disk)
    assert f"{WAL}.{left}" in [call.path for call in disk.calls if call.name == "remove"]
    assert ids(opened(memory.crash())) == []


def test_a_close_is_done_on_a_disk_that_takes_no_note() -> None:
    """The note is a safeguard only: without space for it the index closes, and opens again."""
    memory = MemoryDisk("/data")
    disk = FaultyDisk(memory)
    actor = opened(disk)
    Writer(actor).write(1)
    disk.arm(Fail(len(disk.calls), errno.ENOSPC, lasting=True, calls=frozenset({"open"})))
    actor.close()
    assert disk.struck
    assert ids(opened(memory)) == [1]


def test_an_emptied_log_leaves_no_note() -> None:
    """What a close noted goes once there is nothing in the log, and with a dropped index."""
    memory = MemoryDisk("/data")
    closed(memory, 1)
    assert memory.inode_at(f"{WAL}.closed") is not None
    actor = opened(memory)
    ask(actor, im.IndexCheckpoint(), Compacted)
    actor.close()
    assert memory.inode_at(f"{WAL}.closed") is None
    actor = opened(memory)
    Writer(actor).write(2)
    actor.close()
    opened(memory).remove()
    assert memory.list("/data") == []


def test_answers_too_large_to_send_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metadata and ids count, too: ``ResultTooLarge``, and the index goes on serving."""
    monkeypatch.setattr("holdfast.workers.index.RESULT_BYTES_MAX", 4000)
    memory = MemoryDisk("/data")
    actor = opened(memory)
    ask(actor, inserting({1: ([1], {"a": "y" * 1000})}), im.IndexInserted, Caller(1, 1))
    ask(actor, inserting({b"k" * 1000: ([2], None)}), im.IndexInserted, Caller(1, 2))
    actor.commit()

    def search(queries: int, *, metadata: bool = False) -> im.IndexSearch:
        return im.IndexSearch(
            raw(np.ones((queries, DIMENSION), np.float32)), queries, 2, metadata=metadata
        )

    fitting = (search(3), search(1, metadata=True), im.IndexGet([1] * 3))
    for request in fitting:
        assert ask(actor, request, object) is not None
    for request in (search(4), search(2, metadata=True), im.IndexGet([1] * 4), search(500)):
        with pytest.raises(ResultTooLarge, match="4000"):
            actor.handle(request, Caller(1, 3))
    with pytest.raises(ResultTooLarge, match="4000"):
        actor.handle(im.IndexGet([1] * 500), Caller(1, 3))


@pytest.mark.parametrize("how", ["killed", "closed"])
@pytest.mark.parametrize("stamps", [True, False])
def test_a_log_that_should_be_there_is_missed(how: str, stamps: bool) -> None:
    """A log removed under its owner, or after a close, is told of; salvage goes on without it."""
    options = IndexOptions(dimension=DIMENSION, metric="euclidean", stamps=stamps)
    memory = MemoryDisk("/data")
    actor = opened(memory, options=options)
    Writer(actor).write(1)
    ask(actor, im.IndexCheckpoint(), Compacted)
    Writer(actor).write(2)
    if how == "closed":
        actor.close()
    memory = memory.crash()
    memory.remove(WAL)
    with pytest.raises(StoreCorrupt, match="the log is missing") as raised:
        opened(memory, options=options)
    assert raised.value.path == WAL
    assert memory.inode_at(WAL) is None
    report = examine_index(memory, PATH, tick)
    assert (report.standing, report.header and report.header.rows) == (Standing.DAMAGED, 1)
    actor = opened(memory, options=IndexOptions(salvage=True))
    assert ids(actor) == [1]
    Writer(actor).write(3)
    assert ids(opened(memory.crash(), options=options)) == [1, 3]


@pytest.mark.parametrize("missing", [PATH, WAL])
def test_nothing_is_acknowledged_once_a_file_is_gone(missing: str) -> None:
    """Without its snapshot or log the worker stops, and its successor says what is wrong."""
    memory = MemoryDisk("/data")
    actor = opened(memory)
    Writer(actor).write(1)
    ask(actor, im.IndexCheckpoint(), Compacted)
    Writer(actor).write(2)
    ask(actor, im.IndexCheckpoint(), Compacted)
    Writer(actor).write(3)
    ask(actor, im.IndexCheckpoint(), Compacted)
    memory.remove(missing)
    for request in (inserting({4: ([4], None)}), deleting(1)):
        with pytest.raises(Fatal, match=f"{missing} was removed"):
            actor.handle(request, Caller(1, 1))
    left = memory.crash()
    with pytest.raises(StoreCorrupt, match="missing, and its last owner did not close it"):
        opened(left)
    assert left.inode_at(missing) is None
