"""Vector stores with real processes: kills under load, several hosts, asyncio, bad input, files."""

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from numpy.typing import NDArray

import holdfast
from tests.process.harness import LONG, send, supervisor_pid, until, wait_until_none, worker_pid

DIMENSION = 8
WRITERS = 4
ROUNDS = 40 if LONG else 12


def vector(number: int) -> NDArray[np.float32]:
    """A vector that tells which write it belongs to."""
    return np.full((1, DIMENSION), number, np.float32)


def batch(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Random rows."""
    return np.random.default_rng(seed).standard_normal((count, DIMENSION), np.float32)


class Writer(threading.Thread):
    """Puts ever larger numbers under an id of its own, deletes now and then, and reads back."""

    def __init__(self, store: holdfast.Vectors, number: int, going: threading.Event) -> None:
        super().__init__()
        self._store = store
        self._number = number
        self._going = going
        self.acknowledged: int | None = None
        """The number that the row must have; None when it must be gone."""
        self.calls = 0
        self.errors: list[BaseException] = []

    def run(self) -> None:
        try:
            for count in itertools.count(1):
                if not self._going.is_set():
                    return
                self._write(count)
        except BaseException as error:
            self.errors.append(error)

    def _write(self, count: int) -> None:
        there = self.acknowledged is not None
        if count % 7:
            done = self._store.ingest([self._number], vector(count), {"count": [count]})
            assert (done.accepted, done.replaced) == (1, int(there))
            self.acknowledged = count
        else:
            assert self._store.delete([self._number]) == int(there)
            self.acknowledged = None
        self.check(self._store)
        self.calls += 2

    def check(self, store: holdfast.Vectors) -> None:
        """What was acknowledged is what is there."""
        found = store.get([self._number])
        if self.acknowledged is None:
            assert not len(found)
            return
        assert found.vectors is not None
        assert found.metadata is not None
        assert found.vectors[0, 0] == self.acknowledged
        assert found.metadata.column("count").to_pylist() == [self.acknowledged]


def test_kills_under_load_break_no_promise(tmp_path: Path) -> None:
    """Workers and supervisors die again and again; counts stay true and no write is lost."""
    with holdfast.open(tmp_path) as engine:
        store = engine.vectors("v", dimension=DIMENSION)
        going = threading.Event()
        going.set()
        writers = [Writer(store, number, going) for number in range(WRITERS)]
        for writer in writers:
            writer.start()
        for number in range(ROUNDS):
            seen = sum(writer.calls for writer in writers)
            until(
                lambda seen=seen: (
                    sum(w.calls for w in writers) > seen + 8  # type: ignore[misc]
                    or any(w.errors for w in writers)
                ),
                "the writers have gone on",
            )
            pid = supervisor_pid(engine) if number % 4 == 3 else worker_pid(engine, "v")
            send(pid, signal.SIGKILL)
        going.clear()
        for writer in writers:
            writer.join()
            assert not writer.errors, writer.errors
    with holdfast.open(tmp_path) as engine:
        store = engine.vectors("v")
        for writer in writers:
            writer.check(store)
        assert store.verify().problems == []
    wait_until_none(tmp_path)


def test_a_kill_in_the_middle_of_compaction_loses_nothing(tmp_path: Path) -> None:
    """The file is the old one or the new one, and the call is answered by the successor."""
    with holdfast.open(tmp_path) as engine:
        store = engine.vectors("v", dimension=DIMENSION)
        rows = batch(20_000)
        store.ingest(range(len(rows)), rows)
        store.delete(range(0, len(rows), 2))
        pid = worker_pid(engine, "v")
        killed = False

        def kill_once(_: object) -> None:
            nonlocal killed
            if not killed:
                killed = True
                send(pid, signal.SIGKILL)

        store.compact(progress=kill_once)
        assert store.count() == len(rows) // 2
        assert np.array_equal(store.query(rows[1], 1).ids, [1])
        assert store.verify().problems == []


def test_several_hosts_see_one_store(tmp_path: Path) -> None:
    """What one process has acknowledged, another one reads."""
    with holdfast.open(tmp_path) as engine:
        store = engine.vectors("v", dimension=DIMENSION)
        code = textwrap.dedent(
            """
            import sys, numpy as np, holdfast
            with holdfast.open(sys.argv[1]) as engine:
                store = engine.vectors("v", dimension=8)
                store.ingest([7], np.full((1, 8), 3, np.float32), [{"who": "other"}])
            """
        )
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
        found = store.query(vector(3)[0], 1, include=["metadata"])
        assert found.ids.tolist() == [7]
        assert found.metadata is not None
        assert found.metadata.column("who").to_pylist() == ["other"]


def test_asyncio_gives_the_same_answers(tmp_path: Path) -> None:
    """The awaitable face, branches and scans included."""
    rows = batch(100)

    async def play() -> None:
        async with holdfast.aio.open(tmp_path) as engine:
            store = await engine.vectors("v", dimension=DIMENSION)
            await store.ingest(range(100), rows, {"n": list(range(100))})
            hits = await asyncio.gather(*(store.query(row, 3) for row in rows))
            assert [int(hit.ids[0]) for hit in hits] == list(range(100))
            tables = [table async for table in store.scan(batch_rows=30)]
            assert [table.num_rows for table in tables] == [30, 30, 30, 10]
            branch = await store.branch("b")
            await branch.delete_where(pc.field("n") >= 90)
            difference = await store.diff(branch)
            assert difference.deleted.tolist() == list(range(90, 100))
            assert await store.count() == 100

    asyncio.run(play())


def test_read_only_follows_a_writer(tmp_path: Path) -> None:
    """A reader takes no lock, sees one commit at a time, and writes nothing."""
    with holdfast.open(tmp_path / "writer") as writer, holdfast.open(tmp_path / "r") as reader:
        store = writer.vectors("v", dimension=DIMENSION)
        store.ingest([1], vector(1))
        other = reader.vectors("copy", path=store.path, read_only=True)
        store.ingest([2], vector(2))
        assert other.count() == 1
        assert other.refresh() == 2
        store.delete([1])
        store.compact()
        assert other.count() == 2  # the old file, which is still there for those who have it open
        assert other.refresh() == 1
        with pytest.raises(holdfast.StoreReadOnly):
            other.ingest([3], vector(3))
        with pytest.raises(holdfast.StoreLocked, match="is locked by process"):
            reader.vectors("second", path=store.path)


BAD: list[tuple[Callable[[holdfast.Vectors], object], type[Exception], str]] = [
    (lambda s: s.ingest([9], batch(1)[:, :3]), holdfast.InvalidArgument, "3 numbers, expected 8"),
    (lambda s: s.ingest([9, 9], batch(2)), holdfast.InvalidArgument, "id 9.*comes again"),
    (lambda s: s.ingest([9], np.full((1, 8), np.nan)), holdfast.InvalidArgument, "not finite"),
    (lambda s: s.ingest([-1], batch(1)), holdfast.InvalidArgument, "-1"),
    (lambda s: s.ingest([1 << 64], batch(1)), holdfast.InvalidArgument, "18446744073709551616"),
    (lambda s: s.ingest([9], batch(2)), holdfast.InvalidArgument, "1 ids for 2 vectors"),
    (lambda s: s.ingest([9], batch(1), {"n": ["x"]}), holdfast.InvalidArgument, "type clash"),
    (lambda s: s.ingest([9], batch(1), {"id": [1]}), holdfast.InvalidArgument, "'id'"),
    (lambda s: s.query(batch(1)[0, :3], 1), holdfast.InvalidArgument, "3 numbers, expected 8"),
    (lambda s: s.query(batch(1)[0], 0), holdfast.InvalidArgument, "k=0"),
    (lambda s: s.query(np.full(8, np.inf), 1), holdfast.InvalidArgument, "not finite"),
    (lambda s: s.query(batch(1)[0], 1, where=pc.field("x") == 1), holdfast.InvalidArgument, "'x'"),
    (lambda s: s.count(pc.field("n") == "x"), holdfast.InvalidArgument, "n"),
    (lambda s: s.count(pc.field("n")), holdfast.InvalidArgument, "bool"),
    (lambda s: s.branch("v"), holdfast.StoreExists, "'v'"),
    (lambda s: s.branch("../v"), holdfast.InvalidName, "name"),
    (lambda s: s.limit(include=[1]), holdfast.InvalidArgument, "no branch"),
    (
        lambda s: s.embed_wasm(holdfast.Wasm(bytes(9 << 20), 0, 0, 0, 0)),
        holdfast.LimitExceeded,
        "over the limit",
    ),
]


def test_bad_input_changes_nothing(tmp_path: Path) -> None:
    """Each gets an error that names the value; the file stays as it was, byte for byte."""
    with holdfast.open(tmp_path) as engine:
        store = engine.vectors("v", dimension=DIMENSION)
        store.ingest(range(3), batch(3), {"n": [1, 2, None]})
        before = Path(store.path).read_bytes()
        for call, error, complaint in BAD:
            with pytest.raises(error, match=complaint):
                call(store)
        assert store.ingest([], batch(0)).accepted == 0
        assert store.query(batch(1)[0], 100).ids.shape == (3,)
        assert Path(store.path).read_bytes() == before
        assert store.status().epoch == 1


def test_options_are_kept_and_compared(tmp_path: Path) -> None:
    """Dimension, metric and profile are in the file; others are a conflict."""
    with holdfast.open(tmp_path) as engine:
        with pytest.raises(holdfast.InvalidArgument, match="needs a dimension"):
            engine.vectors("v")
        engine.vectors("v", dimension=4, metric="cosine", profile="text")
    with holdfast.open(tmp_path) as engine:
        store = engine.vectors("v")
        assert (store.dimension, store.metric, store.profile) == (4, "cosine", "text")
        with pytest.raises(holdfast.OptionsConflict, match="dimension=4, not 5"):
            engine.vectors("v", dimension=5)
        with pytest.raises(holdfast.OptionsConflict, match="metric='cosine', not 'l2'"):
            engine.vectors("v", metric="l2")
        with pytest.raises(holdfast.WrongKind):
            engine.fold("v")


def test_frozen_and_parents(tmp_path: Path) -> None:
    """Freezing outlives the engine; a branch says what is wrong with its parent."""
    with holdfast.open(tmp_path) as engine:
        store = engine.vectors("v", dimension=DIMENSION)
        store.ingest(range(10), batch(10))
        store.freeze()
        branch = store.branch("b")
        assert branch.ingest([50], batch(1)).accepted == 1
        for refused in (store.compact, lambda: engine.drop("v")):
            with pytest.raises((holdfast.HasBranches, holdfast.StoreFrozen)):
                refused()
    with holdfast.open(tmp_path) as engine, pytest.raises(holdfast.StoreFrozen):
        engine.vectors("v").delete([1])
    os.rename(tmp_path / "v.rvf", tmp_path / "moved")
    with holdfast.open(tmp_path) as engine, pytest.raises(holdfast.ParentChanged, match=r"v\.rvf"):
        engine.vectors("b")
    os.rename(tmp_path / "moved", tmp_path / "v.rvf")
    with holdfast.open(tmp_path) as engine:
        assert engine.vectors("b").count() == 11


@pytest.mark.parametrize("content", [b"RVF?" * 100, b"SFVR" * 100, bytes(5000)])
def test_what_is_no_rvf_file_is_refused(tmp_path: Path, content: bytes) -> None:
    """It is named, and not touched."""
    (tmp_path / "v.rvf").write_bytes(content)
    refused = pytest.raises(holdfast.InvalidFormat, match="not an RVF file")
    with holdfast.open(tmp_path) as engine, refused:
        engine.vectors("v", dimension=4)
    assert (tmp_path / "v.rvf").read_bytes() == content


def test_the_index_is_built_beside_the_service_and_cached(tmp_path: Path) -> None:
    """Exact until it is ready; then nearly exact, with filters and deletes exact; then cached."""
    pytest.importorskip("faiss")
    rows = batch(3000, 5)
    with holdfast.open(tmp_path) as engine:
        store = engine.vectors("v", dimension=DIMENSION)
        store.ingest(range(len(rows)), rows, {"n": np.arange(len(rows))})
        assert store.status().index == "none"
        store.build_index()
        until(lambda: store.status().index == "ready", "the index is ready")
        store.delete(range(0, 3000, 3))
        exact = store.query(rows[:50], 10, exact=True)
        found = store.query(rows[:50], 10)
        hits = [
            len(set(a) & set(b))
            for a, b in zip(exact.ids.tolist(), found.ids.tolist(), strict=True)
        ]
        assert sum(hits) >= 0.9 * exact.ids.size
        assert not np.any(found.ids % 3 == 0)
        filtered = store.query(rows[:50], 10, where=pc.field("n") < 1000)
        assert filtered.ids.shape == (50, 10)
        assert np.all(filtered.ids < 1000)
        assert (store.measure_recall() or 0) > 0.8
    assert (tmp_path / "v.rvf.ann").exists()
    with holdfast.open(tmp_path) as engine:
        store = engine.vectors("v")
        assert store.status().index == "ready"
        store.ingest([5000], rows[:1])
        assert 5000 in store.query(rows[0], 3).ids
