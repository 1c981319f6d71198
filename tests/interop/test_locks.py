"""One writer at a time, whichever program it is; and what becomes of a killed one's lock."""

import os
import signal
from pathlib import Path

import psutil
import pytest

import holdfast
from holdfast.formats.rvf.lock_file import decode_lock, encode_lock
from tests.interop.original import Original, OriginalError
from tests.interop.ours import (
    DIMENSION,
    Rows,
    check_ours,
    check_theirs,
    engine_in,
    put,
    random_vectors,
)
from tests.process.harness import until

LOCK_HELD = "0x0300"
STALE_S = 30
"""So long after a writer's death the original begins to doubt its lock."""


def _ten_rows(path: Path, original: Original) -> Rows:
    vectors = random_vectors(10, 1)
    with original.create(path, DIMENSION) as there:
        there.ingest(range(10), vectors)
    rows: Rows = {}
    put(rows, range(10), vectors)
    return rows


def test_we_keep_out_while_it_writes(original: Original, tmp_path: Path) -> None:
    """A file that it has open is refused with its pid, and opens once it has closed it."""
    path = tmp_path / "docs.rvf"
    rows = _ten_rows(path, original)
    with holdfast.open(tmp_path) as engine:
        with original.open(path) as there:
            with pytest.raises(holdfast.StoreLocked) as refused:
                engine.vectors("docs")
            assert refused.value.pid == original.pid
            there.ingest([10], random_vectors(1, 2))
            put(rows, [10], random_vectors(1, 2))
        check_ours(engine.vectors("docs"), rows)


def test_it_keeps_out_while_we_write(original: Original, tmp_path: Path) -> None:
    """It cannot open what a worker of ours serves, idle or not, and can once we have left."""
    path = tmp_path / "docs.rvf"
    rows = _ten_rows(path, original)
    with engine_in(tmp_path) as engine:
        store = engine.vectors("docs")
        with pytest.raises(OriginalError, match=LOCK_HELD):
            original.open(path)
        store.ingest([10], random_vectors(1, 2))
        put(rows, [10], random_vectors(1, 2))
        with pytest.raises(OriginalError, match=LOCK_HELD):
            original.open(path)
    with original.open(path) as there:
        check_theirs(there, rows)


def test_reading_needs_no_lock_on_either_side(original: Original, tmp_path: Path) -> None:
    """Each side reads while the other writes; ours sees more when asked to."""
    path = tmp_path / "docs.rvf"
    rows = _ten_rows(path, original)
    with engine_in(tmp_path) as engine:
        store = engine.vectors("docs")
        store.ingest([10], random_vectors(1, 2))
        put(rows, [10], random_vectors(1, 2))
        with original.open(path, read_only=True) as there:
            check_theirs(there, rows)
    with engine_in(tmp_path) as engine, original.open(path) as there:
        store = engine.vectors("docs", read_only=True)
        check_ours(store, rows)
        there.ingest([11], random_vectors(1, 3))
        put(rows, [11], random_vectors(1, 3))
        assert store.refresh() == 12
        check_ours(store, rows)
        with pytest.raises(holdfast.StoreReadOnly):
            store.delete([1])


@pytest.mark.parametrize("host", [None, ""], ids=["named host", "host without a name"])
def test_we_take_the_lock_of_a_killed_original(host: str | None, tmp_path: Path) -> None:
    """After ``kill -9`` its lock file is there and its commits are, and we wait for nothing."""
    path = tmp_path / "docs.rvf"
    doomed = Original(host)
    rows = _ten_rows(path, doomed)
    there = doomed.open(path)
    there.ingest([10], random_vectors(1, 2))
    put(rows, [10], random_vectors(1, 2))
    doomed.kill()
    assert (tmp_path / "docs.rvf.lock").exists()
    with engine_in(tmp_path) as engine:
        check_ours(engine.vectors("docs"), rows)


def test_a_lock_of_another_host_is_never_taken(tmp_path: Path) -> None:
    """Whether its owner lives cannot be known here. The error says who it is."""
    path = tmp_path / "docs.rvf"
    doomed = Original("elsewhere")
    _ten_rows(path, doomed)
    doomed.open(path)
    doomed.kill()
    with (
        holdfast.open(tmp_path) as engine,
        pytest.raises(holdfast.StoreLocked, match="on elsewhere"),
    ):
        engine.vectors("docs")


def test_it_takes_the_lock_of_a_killed_worker(original: Original, tmp_path: Path) -> None:
    """After ``kill -9`` of all our processes it waits 30 s, as for its own, then it may write."""
    path = tmp_path / "docs.rvf"
    rows = _ten_rows(path, original)
    engine = holdfast.open(tmp_path)
    store = engine.vectors("docs")
    store.ingest([10], random_vectors(1, 2))
    put(rows, [10], random_vectors(1, 2))
    # The supervisor first, or it would start another worker.
    processes = sorted(engine.processes(), key=lambda process: process.role)
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
    until(lambda: not any(psutil.pid_exists(p.pid) for p in processes), "the processes are gone")
    with pytest.raises(OriginalError, match=LOCK_HELD):
        original.open(path)
    lock = tmp_path / "docs.rvf.lock"
    note = decode_lock(lock.read_bytes())
    assert note is not None
    lock.write_bytes(encode_lock(note._replace(time_ns=note.time_ns - (STALE_S + 1) * 10**9)))
    with original.open(path) as there:
        check_theirs(there, rows)
        there.ingest([11], random_vectors(1, 3))
        put(rows, [11], random_vectors(1, 3))
    check_ours(engine.vectors("docs"), rows)
    engine.close()
