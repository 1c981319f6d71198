"""What was synced is no torn tail: a file that lost it is refused."""

import errno
from collections.abc import Callable

import pytest

from holdfast.bench.faults import Fail, FaultyDisk, MemoryDisk, Nothing
from holdfast.formats.errors import (
    InvalidFormat,
    StoreCorrupt,
)
from holdfast.formats.iqdb_wal import HEADER, HEADER_BYTES
from holdfast.workers import index_messages as im
from holdfast.workers.actor import Caller
from holdfast.workers.index_inspection import examine_index
from holdfast.workers.index_messages import IndexOptions
from holdfast.workers.log_file import Fatal
from holdfast.workers.messages import Compacted
from holdfast.workers.standing import Standing
from tests.workers.index_files import Writer, closed, content, ids, overwrite, put
from tests.workers.index_model import (
    DIMENSION,
    PATH,
    WAL,
    ask,
    deleting,
    inserting,
    opened,
    tick,
)

pytestmark = pytest.mark.usefixtures("quiet")


HARMS: dict[str, Callable[[bytes, int], bytes]] = {
    "last record": lambda log, record: log[:-9] + b"\xff" + log[-8:],
    "cut at a record": lambda log, record: log[:-record],
    "cut inside one": lambda log, record: log[:-7],
    "zeros": lambda log, record: bytes(len(log)),
    "cut to a part of the header": lambda log, record: log[:5],
}


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
