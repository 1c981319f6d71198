"""A write that was answered, but whose caller does not read, is still recognised much later."""

import errno

import pytest

from holdfast.bench.faults import Fail, FaultyDisk, Lost, Nothing
from holdfast.bench.memory_disk import MemoryDisk
from holdfast.formats.limits import LEDGER_SLOTS
from holdfast.formats.values import Cursor, Put
from holdfast.workers import fold_messages, messages
from holdfast.workers.actor import Caller
from holdfast.workers.log_file import Fatal
from tests.workers.fold_model import ask, opened


def _put(value: bytes, position: int) -> fold_messages.FoldApply:
    return fold_messages.FoldApply([Put("k", value)], Cursor.from_u64(position))


def test_a_held_request_outlives_the_ring() -> None:
    """More writes than the ledger has slots do not make it forget an undelivered answer."""
    disk = MemoryDisk("/data")
    actor = opened(disk)
    slow = Caller(7, 1)
    ask(actor, _put(b"old", 1), messages.Done, slow)
    actor.hold(slow)
    for number in range(LEDGER_SLOTS + 10):
        ask(actor, _put(b"new", 2 + number), messages.Done, Caller(8, number + 1))
    actor = opened(disk.crash())
    ask(actor, _put(b"old", 1), messages.Done, slow)
    entry = ask(actor, fold_messages.FoldGet("k"), fold_messages.Entry).entry
    assert entry is not None
    assert entry.value == b"new"


def test_a_resend_may_come_late() -> None:
    """What a predecessor had written is recognised after as many writes as the ring has slots."""
    disk = MemoryDisk("/data")
    actor = opened(disk)
    ask(actor, _put(b"old", 1), messages.Done, Caller(7, 1))
    actor = opened(disk.crash())
    for number in range(LEDGER_SLOTS + 10):
        ask(actor, _put(b"new", 2 + number), messages.Done, Caller(8, number + 1))
    ask(actor, _put(b"old", 1), messages.Done, Caller(7, 1))
    entry = ask(actor, fold_messages.FoldGet("k"), fold_messages.Entry).entry
    assert entry is not None
    assert entry.value == b"new"


@pytest.mark.usefixtures("quiet")
def test_a_ledger_that_a_failing_sync_took_from_the_cache() -> None:
    """A request is recognised although the notes of it are neither on the disk nor in the cache."""
    memory = MemoryDisk("/data")
    probe = FaultyDisk(memory.crash())
    _write_twice_and_compact(probe)
    at = next(c.number for c in reversed(probe.calls) if c.name == "sync" and "ledger" in c.path)
    disk = FaultyDisk(memory, Fail(at, errno.EIO, lost=Lost(Nothing(), evict=True)))
    with pytest.raises(Fatal):
        _write_twice_and_compact(disk)
    actor = opened(memory.crash())
    ask(actor, _put(b"old", 1), messages.Done, Caller(7, 1))
    entry = ask(actor, fold_messages.FoldGet("k"), fold_messages.Entry).entry
    assert entry is not None
    assert entry.value == b"new"


def _write_twice_and_compact(disk: FaultyDisk) -> None:
    actor = opened(disk)
    ask(actor, _put(b"old", 1), messages.Done, Caller(7, 1))
    ask(actor, _put(b"new", 2), messages.Done, Caller(8, 1))
    ask(actor, fold_messages.FoldCompact(), messages.Compacted, Caller(9, 1))
