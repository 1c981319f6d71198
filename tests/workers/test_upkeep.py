"""Long work and upkeep of every kind of store, when the system refuses a call in between."""

import errno
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.bench.drill.plan import StoreKind
from holdfast.bench.drill.subjects import subject_of
from holdfast.bench.drill.subjects.base import State, finished
from holdfast.bench.faults import REACHING, Fail, FaultyDisk, MemoryDisk
from holdfast.formats.errors import HoldfastError
from holdfast.formats.values import Cursor, Put
from holdfast.workers import (
    fold,
    fold_messages,
    index_messages,
    index_store,
    messages,
    vectors,
    warm_policy,
)
from holdfast.workers import vector_messages as vm
from holdfast.workers import warm_messages as wm
from holdfast.workers.actor import Actor, Caller
from holdfast.workers.disk import OsDisk
from holdfast.workers.log_file import Fatal
from tests.workers import fold_model

pytestmark = pytest.mark.usefixtures("quiet")

LONG: list[tuple[StoreKind, messages.Request]] = [
    ("fold", fold_messages.FoldCompact()),
    ("fold", fold_messages.FoldExport("/data/out")),
    ("vectors", vm.VectorsCompact()),
    ("vectors", vm.VectorsVerify()),
    ("warm", wm.WarmFlush()),
    ("warm", wm.WarmCompact()),
    ("warm", wm.WarmVerify()),
    ("index", index_messages.IndexCheckpoint()),
    ("index", index_messages.IndexOptimize()),
]


def _name(part: StoreKind | messages.Request) -> str:
    return part if isinstance(part, str) else type(part).__name__


def _opened(kind: StoreKind) -> tuple[FaultyDisk, Actor]:
    """A store with something in it, and more that is overwritten."""
    subject, disk = subject_of(kind), FaultyDisk(MemoryDisk("/data"))
    actor = subject.open(disk, "always")
    state: State = {}
    number = 0
    for _ in range(30):
        turn = next(iter(subject.alphabet.values()))(number, state)
        for write in turn.writes:
            number += 1
            finished(actor.handle(write.request, Caller(1, number)))
            state = dict(write.after)
    actor.commit()
    return disk, actor


def _each_failing(
    kind: StoreKind, disk: FaultyDisk, begun: int
) -> Iterator[tuple[FaultyDisk, Actor]]:
    """The store again for each call from ``begun`` on, which is to fail."""
    for call in disk.calls[begun:]:
        if call.name in REACHING:
            again, actor = _opened(kind)
            assert len(again.calls) == begun
            again.arm(Fail(call.number, errno.EIO))
            yield again, actor


@pytest.mark.parametrize(
    ("kind", "request_"),
    LONG,
    ids=_name,
)
def test_long_work_fails_with_a_typed_error(kind: StoreKind, request_: messages.Request) -> None:
    """What is not in the tree of errors, and so would end the worker, is ``Fatal``."""
    disk, actor = _opened(kind)
    begun = len(disk.calls)
    finished(actor.handle(request_, Caller(2, 1)))
    for again, failing in _each_failing(kind, disk, begun):
        try:
            finished(failing.handle(request_, Caller(2, 1)))
        except (HoldfastError, Fatal):
            continue
        assert again.struck <= 1


@pytest.mark.parametrize("kind", ["fold", "vectors", "warm", "index"])
def test_upkeep_is_put_off(kind: StoreKind, monkeypatch: pytest.MonkeyPatch) -> None:
    """It raises nothing at all, or ``Fatal``, which ends the worker."""
    monkeypatch.setattr(fold, "COMPACT_GARBAGE_BYTES_MIN", 1)
    monkeypatch.setattr(index_store, "INDEX_LOG_BYTES_MIN", 1)
    monkeypatch.setattr(vectors, "_DEAD_BYTES_MIN", 1)
    monkeypatch.setattr(warm_policy, "is_full", lambda table, log_bytes: table.memory_rows > 0)
    disk, actor = _opened(kind)
    begun = len(disk.calls)
    _rest(actor)
    assert len(disk.calls) > begun + 5
    for _, failing in _each_failing(kind, disk, begun):
        try:
            _rest(failing)
        except Fatal:
            continue
        failing.check_invariants()


def test_an_index_of_a_damaged_fold_is_put_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not tried again and again in every quiet moment."""
    monkeypatch.setattr(fold, "_OVERLAY_ENTRIES_MAX", 4)
    caplog.set_level(logging.WARNING, "holdfast")
    path = tmp_path / "f.snap"
    actor = fold_model.opened(OsDisk(), str(path), "never")
    for number in range(200):
        _put(actor, number)
    finished(actor.handle(fold_messages.FoldCompact(), Caller(2, 1)))
    for number in range(70, 130):  # in the place of others
        _put(actor, number, again=1000)
    with path.open("r+b") as file:
        file.seek(path.read_bytes().index(b"key 100"))
        file.write(b"kex 100")
    _rest(actor)
    assert caplog.text.count("indexing failed and is put off") == 1
    assert not actor.step(idle=True)
    actor.close()


def _put(actor: Actor, number: int, again: int = 0) -> None:
    update = Put(f"key {number:03d}", b"value")
    request = fold_messages.FoldApply([update], Cursor.from_u64(number + again))
    finished(actor.handle(request, Caller(1, number + again)))
    actor.commit()


def _rest(actor: Actor) -> None:
    """Nobody asks for a while."""
    for _ in range(1000):
        if not actor.step(idle=True):
            break
