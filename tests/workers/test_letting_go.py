"""However a store's end goes wrong, its lock is let go of, by the process that has it."""

import contextlib
import errno
from collections.abc import Callable

import pytest

from holdfast.bench.drill.plan import StoreKind
from holdfast.bench.drill.subjects import subject_of
from holdfast.bench.drill.subjects.base import Subject, finished
from holdfast.bench.faults import REACHING, Fail, FaultyDisk, MemoryDisk
from holdfast.formats.errors import StoreLocked
from holdfast.workers.actor import Actor, Caller
from holdfast.workers.log_file import Fatal

pytestmark = pytest.mark.usefixtures("quiet")

ENDS: dict[str, Callable[[Actor], None]] = {
    "close": lambda actor: actor.close(),
    "remove": lambda actor: actor.remove(),
}
KINDS: tuple[StoreKind, ...] = ("fold", "vectors", "warm", "index", "registry")


def _opened(kind: StoreKind) -> tuple[Subject, MemoryDisk, FaultyDisk, Actor]:
    """A store with something in it."""
    subject, memory = subject_of(kind), MemoryDisk("/data")
    disk = FaultyDisk(memory)
    actor = subject.open(disk, "never")
    turn = next(iter(subject.alphabet.values()))(0, {})
    for number, write in enumerate(turn.writes):
        finished(actor.handle(write.request, Caller(1, number)))
    return subject, memory, disk, actor


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_lock_goes_whatever_fails(kind: StoreKind, end: Callable[[Actor], None]) -> None:
    """Each call of the file layer fails once at the end; the store is opened again thereafter."""
    subject, _, disk, actor = _opened(kind)
    begun = len(disk.calls)
    end(actor)
    calls = [call for call in disk.calls[begun:] if call.name in REACHING]
    assert len(calls) > 3
    for call in calls:
        subject, memory, disk, actor = _opened(kind)
        assert len(disk.calls) == begun
        disk.arm(Fail(call.number, errno.EIO))
        with contextlib.suppress(OSError, Fatal):
            end(actor)
        assert disk.struck == 1
        try:
            subject.open(memory, "never").close()
        except StoreLocked as error:
            raise AssertionError(f"{call}: {error}") from error
