"""An index in the caller's own process: the same files, promises and errors, without an engine."""

import gc
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest

import holdfast
from holdfast import HnswParameters, PersistedIndex
from holdfast.formats.errors import InvalidArgument
from holdfast.formats.limits import INDEX_GRAPH_ROWS_MIN
from holdfast.workers.disk import OsFile
from holdfast.workers.message import Durability
from tests.workers.test_index_own_class import Picky, Unsaving

VECTORS = np.arange(40, dtype=np.float32).reshape(10, 4)


def test_open_write_close_open(tmp_path: Path) -> None:
    """Rows, metadata and deletions are there again, in a file that needs nothing else."""
    path = tmp_path / "i.iqdb"
    with PersistedIndex.open(path, dimension=4, metric="euclidean") as index:
        index.insert_batch(range(10), VECTORS, [{"n": n} for n in range(10)])
        index.insert(b"key", VECTORS[3])
        assert index.delete(4)
        assert not index.delete(4, missing_ok=True)
        assert index.upsert_batch([b"key", 11], VECTORS[:2]).replaced == 1
        with pytest.raises(holdfast.Duplicate):
            index.insert(0, VECTORS[0])
        with pytest.raises(holdfast.NotFound):
            index.delete(4)
    with PersistedIndex.load(path) as index:
        assert (len(index), index.dimension, index.metric) == (11, 4, "euclidean")
        assert 4 not in index
        assert b"key" in index
        hits = index.search(VECTORS[5], 2, where=pc.field("n") < 9, metadata=True)
        assert hits.ids.tolist() == [5, 6]
        assert hits.metadata == [{"n": 5}, {"n": 6}]
        assert index.get([b"key"])[0].vector.tolist() == [0, 1, 2, 3]


def test_a_checkpoint_empties_the_log_and_save_does_not(tmp_path: Path) -> None:
    """``save`` writes a snapshot only; ``checkpoint`` also begins the log anew."""
    path = tmp_path / "i.iqdb"
    with PersistedIndex.open(path, dimension=4, compression="lz4") as index:
        index.insert_batch(range(10), VECTORS)
        assert index.header().count == 0
        long = index.header().log_bytes
        index.save()
        assert (index.header().count, index.header().log_bytes) == (10, long)
        index.checkpoint()
        assert (index.header().count, index.header().log_bytes) == (10, 12)
    header = PersistedIndex.read_header(path)
    assert (header.index_type, header.count, header.version) == ("iqdb-core", 10, 2)


def test_the_log_is_checkpointed_by_itself(tmp_path: Path) -> None:
    """Once it is longer than was asked for, a write is followed by a snapshot."""
    with PersistedIndex.open(tmp_path / "i.iqdb", dimension=4, checkpoint_bytes=500) as index:
        for n in range(40):
            index.insert(n, VECTORS[0])
            assert index.header().log_bytes < 600
        assert index.header().count > 20


def test_a_bare_file_name_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name without a directory is one in the current directory, also for snapshots and logs."""
    monkeypatch.chdir(tmp_path)
    with PersistedIndex.open("bare.iqdb", dimension=4) as index:
        index.insert(1, VECTORS[0])
        index.checkpoint()
        index.insert(2, VECTORS[1])
    monkeypatch.chdir("/")
    with PersistedIndex.load(tmp_path / "bare.iqdb") as index:
        assert len(index) == 2


def test_an_index_of_ones_own_is_made_durable(tmp_path: Path) -> None:
    """What an object holds is in the file from the first moment, and it loads with its class."""
    path = tmp_path / "own.iqdb"
    own = Picky(4, "dot")
    own.insert(1, VECTORS[0], None)
    with PersistedIndex.open_with(own, path) as index:
        index.insert(2, VECTORS[1])
        assert index.index is own
        assert len(own) == 2
    with pytest.raises(holdfast.StoreExists):
        PersistedIndex.open_with(Picky(4, "dot"), path)
    with pytest.raises(holdfast.InvalidFormat, match="picky"):
        PersistedIndex.load(path)
    with PersistedIndex.load(path, Picky) as index:
        assert len(index) == 2
        assert index.search(VECTORS[0], 1).ids.tolist() == [1]
        with pytest.raises(holdfast.InvalidArgument):
            index.get([1])


def test_a_write_succeeds_where_the_snapshot_behind_it_fails(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A class that cannot save itself gets its writes logged, and warnings tell what is wrong."""
    path = tmp_path / "own.iqdb"
    unsaving: Any = Unsaving(4, "dot")
    kind: Any = Unsaving
    with PersistedIndex.open_with(unsaving, path, checkpoint_bytes=50) as index:
        for n in (10, *range(20, 29)):
            index.insert(n, VECTORS[0])
        assert index.header().count == 0
        assert 1 <= caplog.text.count("put off: Unsaving.save_to") <= 5
        with pytest.raises(holdfast.InvalidArgument, match=r"Unsaving\.save_to"):
            index.checkpoint()
    with PersistedIndex.load(path, kind) as index:
        assert len(index) == 10


def test_what_a_class_cannot_give_is_refused(tmp_path: Path) -> None:
    """Metadata of hits is an error and not None; so are uneven hits, and never are there over k."""
    generous: Any = Generous(4, "cosine")
    with PersistedIndex.open_with(generous, tmp_path / "g.iqdb") as index:
        for n in range(5):
            index.insert(n, VECTORS[n], {"a": n})
        assert index.search(VECTORS[0], 3).ids.tolist() == [0, 1, 2]
        with pytest.raises(holdfast.InvalidArgument, match="does not give metadata back"):
            index.search(VECTORS[0], 3, metadata=True)
        with pytest.raises(
            holdfast.InvalidArgument, match=r"Generous.* 5 rows .* and 2 for query 1"
        ):
            index.search([[1, 1, 1, 1], [-1, 1, 1, 1]], 9)
        assert index.search(np.ones((2, 4)), 9).ids.shape == (2, 5)


class Generous(Picky):
    """Gives all it has, but of vectors that begin with a negative number only two rows."""

    INDEX_TYPE = "generous"

    def search(self, vector: Any, k: int) -> list[tuple[Any, float]]:
        return super().search(vector, 2 if vector[0] < 0 else 100)


def test_stamps_are_chosen_at_every_opening(tmp_path: Path) -> None:
    """Without them a record has the original's length, by ``open_with`` and by ``load``, too."""
    grown = []
    for name, stamps in (("a.iqdb", True), ("b.iqdb", False)):
        path = tmp_path / name
        with PersistedIndex.open_with(Picky(4, "cosine"), path, stamps=stamps) as index:
            grown.append(_growth(index, 1))
        with PersistedIndex.load(path, Picky, stamps=stamps, ratio_guard=False) as index:
            grown.append(_growth(index, 2))
    assert grown[0] == grown[1] > grown[2] == grown[3]
    with pytest.raises(holdfast.InvalidArgument, match="ratio_guard"):
        PersistedIndex.load(path, Picky, ratio_guard=1)  # type: ignore[arg-type]


def _growth(index: PersistedIndex, id_: int) -> int:
    """Bytes that one row adds to the log."""
    before = index.header().log_bytes
    index.insert(id_, VECTORS[0])
    return index.header().log_bytes - before


def test_a_batch_refused_in_part_changes_nothing(tmp_path: Path) -> None:
    """A class that refuses the second row of a batch has none of it, and is served further."""
    path = tmp_path / "own.iqdb"
    with PersistedIndex.open_with(Picky(4, "dot"), path) as index:
        index.insert(1, VECTORS[0])
        with pytest.raises(holdfast.InvalidArgument, match="bad luck"):
            index.insert_batch([2, 13], VECTORS[:2])
        assert (len(index), 2 in index) == (1, False)
        index.insert(3, VECTORS[1])
    with PersistedIndex.load(path, Picky) as index:
        assert (len(index), 2 in index, 3 in index) == (2, False, True)


def test_a_class_that_lacks_something_is_refused(tmp_path: Path) -> None:
    """The error names what is missing, and no file is made."""
    with pytest.raises(holdfast.InvalidArgument, match=r"INDEX_TYPE.*load_from"):
        PersistedIndex.open_with([], tmp_path / "x.iqdb")  # type: ignore[arg-type]
    with pytest.raises(holdfast.InvalidArgument):
        PersistedIndex.load(tmp_path / "x.iqdb", dict)  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == []


def test_one_owner_at_a_time(tmp_path: Path) -> None:
    """A second opening gets ``StoreLocked``; after ``close`` the way is free, and not before."""
    path = tmp_path / "i.iqdb"
    index = PersistedIndex.open(path, dimension=4)
    with pytest.raises(holdfast.StoreLocked):
        PersistedIndex.open(path)
    index.close()
    index.close()
    with pytest.raises(holdfast.EngineClosed):
        index.insert(1, VECTORS[0])
    PersistedIndex.open(path).close()
    assert sorted(os.listdir(tmp_path)) == ["i.iqdb", "i.iqdb.wal"]


@pytest.mark.parametrize("durability", [None, "always", "never"])
def test_an_interval_of_another_durability(tmp_path: Path, durability: Durability | None) -> None:
    """It says nothing there, so it is refused before a file is made; both are named."""
    path = tmp_path / "i.iqdb"
    with pytest.raises(InvalidArgument, match=rf"interval=0\.2.*durability={durability!r}"):
        PersistedIndex.open(path, dimension=4, durability=durability, interval=0.2)
    assert list(tmp_path.iterdir()) == []


def test_an_interval_is_kept_without_further_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write is synced once the interval is over, although nobody calls again."""
    synced = threading.Event()
    sync = OsFile.sync

    def noticed(file: OsFile) -> None:
        sync(file)
        if file.path.endswith(".wal"):
            synced.set()

    path = tmp_path / "i.iqdb"
    with PersistedIndex.open(path, dimension=4, durability="interval", interval=0.2) as index:
        monkeypatch.setattr(OsFile, "sync", noticed)
        begun = time.monotonic()
        index.insert(1, VECTORS[0])
        assert not synced.is_set() or time.monotonic() - begun >= 0.2
        assert synced.wait(60)


def test_never_syncs_only_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under ``never`` a write is not synced, ``sync`` does it, and so does ``close``."""
    count = [0]
    sync = OsFile.sync

    def counted(file: OsFile) -> None:
        count[0] += file.path.endswith(".wal")
        sync(file)

    with PersistedIndex.open(tmp_path / "i.iqdb", dimension=4, durability="never") as index:
        monkeypatch.setattr(OsFile, "sync", counted)
        index.insert(1, VECTORS[0])
        assert count[0] == 0
        index.sync()
        assert count[0] == 1
        index.insert(2, VECTORS[0])
    assert count[0] == 2


def test_after_a_failed_sync_nothing_is_vouched_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call fails, and so does every later one; opening again gives what is there."""
    path = tmp_path / "i.iqdb"
    index = PersistedIndex.open(path, dimension=4)
    index.insert(1, VECTORS[0])

    def failing(file: OsFile) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(OsFile, "sync", failing)
        with pytest.raises(holdfast.StoreIOError):
            index.insert(2, VECTORS[1])
    for call in (lambda: index.insert(3, VECTORS[2]), lambda: len(index)):
        with pytest.raises(holdfast.StoreIOError, match="open it again"):
            call()
    index.close()
    with PersistedIndex.open(path) as again:
        assert len(again) in (1, 2)
        assert 1 in again


def test_a_forked_child_does_not_write(tmp_path: Path) -> None:
    """In a child process the index refuses every call, and its end leaves the parent's lock."""
    index = PersistedIndex.open(tmp_path / "i.iqdb", dimension=4)
    child = os.fork()
    if not child:
        code = 1
        try:
            index.insert(1, VECTORS[0])
        except holdfast.EngineClosed:
            index.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    index.insert(1, VECTORS[0])
    with pytest.raises(holdfast.StoreLocked):
        PersistedIndex.open(tmp_path / "i.iqdb")
    index.close()


def test_a_forked_child_holds_no_lock(tmp_path: Path) -> None:
    """While a child lives, its parent closes and opens again; another thread's call is no trap."""
    path = tmp_path / "i.iqdb"
    index = PersistedIndex.open(path, dimension=4)
    index.insert(1, VECTORS[0])
    inside, go_on = threading.Event(), threading.Event()

    def busy() -> None:
        with index._lock:
            inside.set()
            go_on.wait()

    thread = threading.Thread(target=busy)
    thread.start()
    inside.wait()
    reading, writing = os.pipe()
    told, tell = os.pipe()
    child = os.fork()
    if not child:
        try:
            index.get([1])
        except holdfast.EngineClosed:
            os.write(tell, b"refused")
        finally:
            os.close(writing)
            os.read(reading, 1)  # ends with the parent
            os._exit(0)
    os.close(tell)
    try:
        assert os.read(told, 7) == b"refused"
        go_on.set()
        thread.join()
        index.close()
        with PersistedIndex.open(path) as again:
            assert len(again) == 1
    finally:
        for descriptor in (reading, writing, told):
            os.close(descriptor)
        os.waitpid(child, 0)


def test_one_that_is_forgotten_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ``close`` the last reference's end syncs what was written and lets go of the lock."""
    path = tmp_path / "i.iqdb"
    index = PersistedIndex.open(path, dimension=4, durability="never")
    index.insert(1, VECTORS[0])
    synced = []
    sync = OsFile.sync

    def counted(file: OsFile) -> None:
        synced.append(file.path)
        sync(file)

    monkeypatch.setattr(OsFile, "sync", counted)
    del index
    gc.collect()
    assert f"{path}.wal" in synced
    left = set(os.listdir(tmp_path))
    assert left == {"i.iqdb", "i.iqdb.wal", "i.iqdb.wal.closed"}
    with PersistedIndex.open(path) as again:
        assert 1 in again


def test_threads_share_it(tmp_path: Path) -> None:
    """Many threads insert and search at once; every row is there once."""
    errors: list[BaseException] = []
    with PersistedIndex.open(tmp_path / "i.iqdb", dimension=4, checkpoint_bytes=2000) as index:

        def work(first: int) -> None:
            try:
                for n in range(first, first + 25):
                    index.insert(n, VECTORS[n % 10])
                    assert len(index.search(VECTORS[0], 1)) == 1
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(100 * t,)) for t in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        assert len(index) == 100
    with PersistedIndex.load(tmp_path / "i.iqdb") as index:
        assert len(index) == 100


def test_an_engine_opens_what_it_wrote_and_back(tmp_path: Path) -> None:
    """The files are an engine's, and an engine's are its own."""
    with PersistedIndex.open(tmp_path / "i.iqdb", dimension=4, kind="hnsw") as index:
        index.insert(1, VECTORS[0])
        assert index.optimize() == 0
    with holdfast.open(tmp_path) as engine:
        store = engine.index("i")
        assert store.kind == "hnsw"
        store.insert(2, VECTORS[1])
        with pytest.raises(holdfast.StoreLocked):
            PersistedIndex.load(tmp_path / "i.iqdb")
    with PersistedIndex.load(tmp_path / "i.iqdb") as index:
        assert len(index) == 2


def test_a_graph_begins_with_as_many_rows_as_documented(tmp_path: Path) -> None:
    """Below the documented number of rows none is in a graph, and from there on all are."""
    pytest.importorskip("faiss")
    assert f"below {INDEX_GRAPH_ROWS_MIN} rows" in (holdfast.Index.optimize.__doc__ or "")
    rows = np.random.default_rng(1).standard_normal((INDEX_GRAPH_ROWS_MIN, 4), np.float32)
    with PersistedIndex.open(tmp_path / "i.iqdb", dimension=4, kind="hnsw") as index:
        index.insert_batch(range(len(rows) - 1), rows[:-1])
        assert index.optimize() == 0
        index.insert(len(rows), rows[-1])
        assert index.optimize() == len(rows)


@pytest.mark.parametrize("lacking", ["dimension", "metric", "save_to"])
def test_an_object_that_lacks_something_is_refused_by_name(tmp_path: Path, lacking: str) -> None:
    """Attributes and methods that are missing are named, and no file is made."""
    without = {name: value for name, value in vars(Picky).items() if name != lacking}
    mine: Any = type("Mine", (), {n: without[n] for n in without.keys() - {"__dict__"}})(4, "dot")
    if lacking != "save_to":
        delattr(mine, lacking)
    with pytest.raises(holdfast.InvalidArgument, match=f"Mine.* has no {lacking}"):
        PersistedIndex.open_with(mine, tmp_path / "i.iqdb")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"dimension": 0},
        {"dimension": 4, "durability": "maybe"},
        {"dimension": 4, "interval": -1},
        {"dimension": 4, "checkpoint_bytes": 0},
        {"dimension": 4, "stamps": 1},
        {"dimension": 4, "kind": "hnsw", "hnsw": {"m": 4}},
        {"dimension": 4, "hnsw": HnswParameters()},
        {"dimension": 4, "kind": "flat", "hnsw": HnswParameters()},
        {"dimension": 4, "kind": "hnsw", "hnsw": HnswParameters(m=1)},
        {"dimension": 4, "kind": "hnsw", "hnsw": HnswParameters(ef_construction=0)},
        {"dimension": 4, "kind": "hnsw", "hnsw": HnswParameters(ef_search=1 << 64)},
        {"dimension": 4, "kind": "hnsw", "hnsw": HnswParameters(filter_widen=1.5)},  # type: ignore[arg-type]
        {"dimension": 4, "kind": "hnsw", "hnsw": HnswParameters(seed=-1)},
        {"kind": "flat"},
    ],
)
def test_bad_options_make_no_file(tmp_path: Path, arguments: dict[str, Any]) -> None:
    """Each is refused with a typed error before anything is made."""
    with pytest.raises(holdfast.InvalidArgument):
        PersistedIndex.open(tmp_path / "i.iqdb", **arguments)
    assert os.listdir(tmp_path) == []
