"""What becomes of an index in this process when a call is broken off, at whatever place."""

import errno
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest

import holdfast
from holdfast import PersistedIndex, persisted_index
from holdfast.workers.disk import OsDisk, OsFile
from holdfast.workers.index_table import IndexTable

VECTORS = np.arange(40, dtype=np.float32).reshape(10, 4)
PACKAGE = os.path.dirname(persisted_index.__file__)
OUTSIDE = ("iqdb_", "handles", "checksum", "errors", "ledger")
"""Modules that keep nothing here: there a call is broken off as in the line that calls them."""

LETTING_GO = ("OsFile.close", "OsFile.__del__")
"""Functions of a file, which Ctrl-C does not break off between their lines."""


@contextmanager
def broken_off(place: int) -> Iterator[list[int]]:
    """Ctrl-C before the line of this number that the package comes to; counts the lines."""
    count = [0]

    def on_line(frame: FrameType, event: str, argument: object) -> Any:
        if event == "line":
            count[0] += 1
            if count[0] == place:
                sys.settrace(None)
                raise KeyboardInterrupt
        return on_line

    def on_call(frame: FrameType, event: str, argument: object) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(PACKAGE) or code.co_qualname in LETTING_GO:
            return None
        if any(part in code.co_filename for part in OUTSIDE):
            return None
        return on_line

    before = sys.gettrace()
    sys.settrace(on_call)
    try:
        yield count
    finally:
        sys.settrace(before)


def _upsert(index: PersistedIndex) -> None:
    index.upsert_batch([1, 2, 3], VECTORS[3:6])


def _delete(index: PersistedIndex) -> None:
    index.delete(1)


CALLS: dict[str, Callable[[PersistedIndex], object]] = {
    "upsert": _upsert,
    "delete": _delete,
    "checkpoint": PersistedIndex.checkpoint,
    "close": PersistedIndex.close,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_wherever_a_call_is_broken_off(
    tmp_path: Path, call: Callable[[PersistedIndex], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is acknowledged later is there when the files are opened again, and they are free."""
    monkeypatch.setattr(OsFile, "sync", lambda file: None)  # which takes most of the time
    monkeypatch.setattr(OsDisk, "sync_directory", lambda disk, path: None)
    for place in itertools.count(1):
        path = tmp_path / f"{place}.iqdb"
        index = PersistedIndex.open(path, dimension=4, durability="never")
        index.insert_batch([1, 9], VECTORS[:2])
        interrupted = False
        with broken_off(place) as lines:
            try:
                call(index)
            except KeyboardInterrupt:
                interrupted = True
        acknowledged = False
        if interrupted:
            try:
                index.insert(7, VECTORS[7])
                acknowledged = True
            except (holdfast.StoreIOError, holdfast.EngineClosed):
                pass
        index.close()
        with PersistedIndex.open(path) as again:
            _check(again, acknowledged)
            again.upsert(8, VECTORS[8])
        with PersistedIndex.open(path) as again:
            assert 8 in again
        if not interrupted:
            break
    assert lines[0] > 20


def _check(index: PersistedIndex, acknowledged: bool) -> None:
    """One of the states that there may be."""
    found = {row.id: row.vector.tolist() for row in index.get([1, 2, 3, 7, 9])}
    assert (7 in found) is acknowledged
    found.pop(7, None)
    before = {1: VECTORS[0].tolist(), 9: VECTORS[1].tolist()}
    upserted = before | {number: VECTORS[number + 2].tolist() for number in (1, 2, 3)}
    assert found in (before, upserted, {9: before[9]})


def test_a_search_that_is_broken_off(tmp_path: Path) -> None:
    """It changes nothing, so the index goes on, and finds what it would have found."""
    path = tmp_path / "i.iqdb"
    with PersistedIndex.open(path, dimension=4, metric="euclidean", durability="never") as index:
        index.insert_batch(range(5), VECTORS[:5], [{"n": n} for n in range(5)])
        for place in itertools.count(1):
            index.upsert(4, VECTORS[place % 10])  # so that there is something to look up anew
            interrupted = False
            with broken_off(place):
                try:
                    index.search(VECTORS[2], 2, where=pc.field("n") < 4)
                except KeyboardInterrupt:
                    interrupted = True
            assert index.search(VECTORS[2], 1).ids.tolist() == [2]
            assert index.search(VECTORS[3], 1, where=pc.field("n") < 4).ids.tolist() == [3]
            if not interrupted:
                break
        assert place > 20


def test_opening_that_is_broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No lock stays with a process that did not get to open the index."""
    monkeypatch.setattr(OsFile, "sync", lambda file: None)
    monkeypatch.setattr(OsDisk, "sync_directory", lambda disk, path: None)
    path = tmp_path / "i.iqdb"
    PersistedIndex.open(path, dimension=4).close()
    for place in itertools.count(1, 7):
        interrupted = False
        with broken_off(place):
            try:
                PersistedIndex.open(path).close()
            except KeyboardInterrupt:
                interrupted = True
        with PersistedIndex.open(path) as index:
            assert len(index) == 0
        if not interrupted:
            break
    assert place > 100


def test_want_of_memory_in_a_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record is logged and its row is not there, so that nothing more is written to the log."""
    path = tmp_path / "i.iqdb"
    index = PersistedIndex.open(path, dimension=4)
    index.insert(1, VECTORS[0])

    def exhausted(*arguments: object) -> int:
        raise MemoryError

    with monkeypatch.context() as short:
        short.setattr(IndexTable, "put", exhausted)
        with pytest.raises(MemoryError):
            index.insert(2, VECTORS[1])
    with pytest.raises(holdfast.StoreIOError, match="broken off; open it again"):
        index.insert(3, VECTORS[2])
    with PersistedIndex.open(path) as again:  # its lock went, and not only with the object
        assert [id_ in again for id_ in (1, 2, 3)] == [True, True, False]
    index.close()


REFUSED: dict[str, Callable[[PersistedIndex], object]] = {
    "insert": lambda index: index.insert(2, VECTORS[1]),
    "close": PersistedIndex.close,
}


@pytest.mark.parametrize("call", REFUSED.values(), ids=REFUSED)
def test_errors_of_the_system_are_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[[PersistedIndex], object]
) -> None:
    """Whatever the system refuses is a ``StoreIOError``, and closing lets go of the lock."""
    path = tmp_path / "i.iqdb"
    index = PersistedIndex.open(path, dimension=4)
    index.insert(1, VECTORS[0])

    def refused(disk: OsDisk, path: str) -> int | None:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    with monkeypatch.context() as failing:
        failing.setattr(OsDisk, "inode_at", refused)
        failing.setattr(OsDisk, "remove", refused)
        with pytest.raises(holdfast.StoreIOError, match="Permission denied"):
            call(index)
    if not index._closed:
        index.insert(3, VECTORS[2])
    index.close()
    with PersistedIndex.open(path) as again:
        assert (1 in again, 2 in again) == (True, False)
