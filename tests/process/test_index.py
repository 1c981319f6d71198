"""Indexes with real processes: kills under load, several hosts, asyncio, bad input, own classes."""

import asyncio
import itertools
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from numpy.typing import NDArray

import holdfast
from holdfast import PersistedIndex
from tests.process.harness import (
    LONG,
    hear,
    run,
    running,
    send,
    supervisor_pid,
    tell,
    until,
    wait_until_none,
    worker_pid,
)

DIMENSION = 8
WRITERS = 4
ROUNDS = 40 if LONG else 12


def vector(number: int) -> NDArray[np.float32]:
    """A vector that tells which write it belongs to."""
    return np.full(DIMENSION, number, np.float32)


def batch(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Random rows."""
    return np.random.default_rng(seed).standard_normal((count, DIMENSION), np.float32)


class Writer(threading.Thread):
    """Puts ever larger numbers under an id of its own, deletes now and then, and reads back."""

    def __init__(self, index: holdfast.Index, number: int, going: threading.Event) -> None:
        super().__init__()
        self._index = index
        self._id: int | bytes = number if number % 2 else b"id %d" % number
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
        if self.acknowledged is None:
            self._index.insert(self._id, vector(count), {"count": count})  # strict: once only
            self.acknowledged = count
        elif count % 7:
            done = self._index.upsert_batch([self._id], [vector(count)], [{"count": count}])
            assert (done.accepted, done.replaced) == (1, 1)
            self.acknowledged = count
        else:
            assert self._index.delete(self._id)
            self.acknowledged = None
        self.check(self._index)
        self.calls += 2

    def check(self, index: holdfast.Index) -> None:
        """What was acknowledged is what is there."""
        found = index.get([self._id])
        if self.acknowledged is None:
            assert not found
            return
        assert found[0].vector[0] == self.acknowledged
        assert found[0].metadata == {"count": self.acknowledged}


def test_kills_under_load_break_no_promise(tmp_path: Path) -> None:
    """Workers and supervisors die, checkpoints in between: strict writes happen once, none is lost.

    The log is kept so short that snapshots are written all the time.
    """
    with holdfast.open(tmp_path) as engine:
        index = engine.index("i", dimension=DIMENSION, checkpoint_bytes=3000)
        going = threading.Event()
        going.set()
        writers = [Writer(index, number, going) for number in range(WRITERS)]
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
            pid = supervisor_pid(engine) if number % 4 == 3 else worker_pid(engine, "i")
            send(pid, signal.SIGKILL)
        going.clear()
        for writer in writers:
            writer.join()
            assert not writer.errors, writer.errors
    with holdfast.open(tmp_path) as engine:
        index = engine.index("i")
        for writer in writers:
            writer.check(index)
    wait_until_none(tmp_path)


def test_a_kill_in_the_midst_of_a_checkpoint_loses_nothing(tmp_path: Path) -> None:
    """Snapshot and log are the old ones or the new ones, and the call is answered all the same."""
    with holdfast.open(tmp_path) as engine:
        index = engine.index("i", dimension=DIMENSION, compression="zstd", level=19)
        rows = batch(20_000)
        index.insert_batch(range(len(rows)), rows)
        pid = worker_pid(engine, "i")
        seen = threading.Event()

        def told(progress: holdfast.Progress) -> None:
            if not seen.is_set():
                seen.set()
                send(pid, signal.SIGKILL)

        done = index.checkpoint(progress=told)
        assert done.bytes_after <= done.bytes_before
        assert seen.is_set()
        assert index.count() == len(rows)
        assert (index.get([7])[0].vector == rows[7]).all()
        assert index.header().count == len(rows)


def test_two_hosts_and_a_reopening_see_the_same(tmp_path: Path) -> None:
    """What one host wrote another reads at once; and after both have left it is still there."""
    with running(
        f"""
        engine = holdfast.open({str(tmp_path)!r})
        index = engine.index("i", dimension={DIMENSION}, metric="dot")
        index.insert(1, [1.0] * {DIMENSION}, {{"from": "the other"}})
        print("written", flush=True)
        sys.stdin.readline()
        print(index.count(), flush=True)
        engine.close()
        """
    ) as other:
        assert hear(other) == "written"
        with holdfast.open(tmp_path) as engine:
            index = engine.index("i")
            assert (index.dimension, index.metric, index.kind) == (DIMENSION, "dot", "flat")
            assert index.get([1])[0].metadata == {"from": "the other"}
            index.insert(b"two", vector(2))
            tell(other)
            assert hear(other) == "2"
    with holdfast.open(tmp_path) as engine:
        assert engine.stores() == {"i": "index"}
        assert engine.status("i").kind == "index"
        assert [row.id for row in engine.index("i").get([1, b"two", 3])] == [1, b"two"]
        engine.drop("i")
        assert engine.stores() == {}
    wait_until_none(tmp_path)
    assert [name for name in os.listdir(tmp_path) if name.startswith("i.")] == []


def test_asyncio_does_the_same(tmp_path: Path) -> None:
    """64 callers at once, each strict insert once, under a kill; then searches and snapshots."""

    async def work() -> None:
        async with holdfast.aio.open(tmp_path) as engine:
            index = await engine.index("i", dimension=DIMENSION, metric="euclidean")
            processes = await engine.processes()
            inserts = [index.insert(n, vector(n), {"n": n}) for n in range(64)]
            send(processes[1].pid, signal.SIGKILL)
            await asyncio.gather(*inserts)
            hits = await index.search(vector(10), 3, metadata=True)
            first, *tied = (
                hits.ids.tolist()
            )  # the others are as far, in the order of their insertion
            assert (first, sorted(tied)) == (10, [9, 11])
            assert hits.metadata == [{"n": id_} for id_ in hits.ids.tolist()]
            assert await index.delete_batch([1, 2, 404], missing_ok=True) == 2
            await index.checkpoint()
            assert (await index.header()).count == 62
            assert await index.count() == 62
            assert await index.optimize() == 0

    asyncio.run(work())


def test_an_hnsw_index_comes_back_as_one(tmp_path: Path) -> None:
    """Kind and parameters are in the file; a filter and exactness are kept to either way."""
    rows = batch(6000)
    with holdfast.open(tmp_path) as engine:
        parameters = holdfast.HnswParameters(m=8, ef_construction=40)
        index = engine.index("i", kind="hnsw", dimension=DIMENSION, hnsw=parameters, metric="dot")
        index.insert_batch(range(6000), rows, {"even": [n % 2 == 0 for n in range(6000)]})
    with holdfast.open(tmp_path) as engine:
        index = engine.index("i")
        assert index.kind == "hnsw"
        pytest.importorskip("faiss")
        assert index.optimize() == 6000
        query = rows[3]
        found = index.search(query, 5, ef=200)
        exact = index.search(query, 5, exact=True)
        assert found.approximate
        assert not exact.approximate
        assert len({*found.ids.tolist()} & {*exact.ids.tolist()}) >= 4
        filtered = index.search(query, 5, where=pc.field("even"))
        assert all(id_ % 2 == 0 for id_ in filtered.ids.tolist())


def test_other_parameters_of_a_graph_are_a_conflict(tmp_path: Path) -> None:
    """Only those that an index was made with are taken, whether it is open already or not."""
    parameters, other = holdfast.HnswParameters(m=8), holdfast.HnswParameters(m=9)
    conflict = "hnsw=.*m=8.*not.*m=9"
    with holdfast.open(tmp_path) as engine:
        engine.index("i", kind="hnsw", dimension=DIMENSION, hnsw=parameters)
        with pytest.raises(holdfast.OptionsConflict, match=conflict):
            engine.index("i", kind="hnsw", hnsw=other)
    with holdfast.open(tmp_path) as engine:
        with pytest.raises(holdfast.OptionsConflict, match=conflict):
            engine.index("i", kind="hnsw", hnsw=other)
        assert engine.index("i", kind="hnsw", hnsw=parameters).kind == "hnsw"
    path = tmp_path / "p.iqdb"
    PersistedIndex.open(path, kind="hnsw", dimension=4, hnsw=parameters).close()
    with pytest.raises(holdfast.OptionsConflict, match=conflict):
        PersistedIndex.open(path, kind="hnsw", hnsw=other)


OWN_CLASS = """
class Own:
    INDEX_TYPE = "own"
    def __init__(self, dimension, metric):
        self.dimension, self.metric, self.rows = dimension, metric, {}
    def __len__(self): return len(self.rows)
    def __contains__(self, id): return id in self.rows
    def insert(self, id, vector, metadata): self.rows[id] = vector.tolist()
    def delete(self, id): del self.rows[id]
    def search(self, vector, k): return [(id, 0.0) for id in list(self.rows)[:k]]
    def save_to(self, writer): writer.write(repr((self.dimension, self.metric, self.rows)).encode())
    @classmethod
    def load_from(cls, reader):
        dimension, metric, rows = eval(reader.read())
        index = cls(dimension, metric)
        index.rows = rows
        return index
"""


def test_a_class_beside_the_users_script_is_durable(tmp_path: Path) -> None:
    """A worker imports what the script can import, and serves it like a built-in index."""
    (tmp_path / "own.py").write_text(OWN_CLASS)
    (tmp_path / "script.py").write_text(
        """
import sys, holdfast, os, signal
with holdfast.open(sys.argv[1]) as engine:
    index = engine.index("o", kind="own:Own", dimension=2)
    if len(sys.argv) > 2:
        index.insert_batch([1, b"two"], [[1, 2], [3, 4]])
        index.checkpoint()
        index.upsert(1, [5, 6])
        os.kill(engine.processes()[1].pid, signal.SIGKILL)
        index.delete(b"two")
    print(index.kind, index.count(), index.search([0, 0], 5).ids.tolist())
"""
    )
    data = str(tmp_path / "data")
    script = str(tmp_path / "script.py")
    assert run([script, data, "write"]) == "custom 1 [1]\n"
    assert run([script, data]) == "custom 1 [1]\n"


def test_a_class_of_the_script_itself_is_refused_with_a_hint(tmp_path: Path) -> None:
    """A worker cannot import it, and the error says what to do."""
    with (
        holdfast.open(tmp_path) as engine,
        pytest.raises(holdfast.InvalidArgument, match="move the class to a module of its own"),
    ):
        engine.index("n", dimension=2, kind="__main__:Mine")


@pytest.mark.parametrize("face", ["blocking", "asyncio"])
def test_an_index_of_ones_own_is_dropped_without_its_class(
    tmp_path: Path, face: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closed, it has no figures to show but is dropped with all its files; one in use is not."""
    module = types.ModuleType("tests_own")
    exec(OWN_CLASS, vars(module))
    monkeypatch.setitem(sys.modules, "tests_own", module)
    with holdfast.open(tmp_path) as engine:
        path = tmp_path / "o.iqdb"
        mine = holdfast.PersistedIndex.open(path, kind="tests_own:Own", dimension=2)
        mine.insert(1, [1, 2])
        with pytest.raises(holdfast.StoreLocked):
            engine.drop("o")
        mine.close()
        with pytest.raises(holdfast.InvalidFormat, match=r"'own'.*kind='package.module:Class'"):
            engine.status("o")
        if face == "blocking":
            engine.drop("o")
        else:
            asyncio.run(_drop(tmp_path, "o"))
        assert engine.stores() == {}
        assert [name for name in os.listdir(tmp_path) if name.startswith("o")] == []
        assert engine.index("o", dimension=3).count() == 0
        (tmp_path / "p.iqdb").write_bytes(b"something else")
        with pytest.raises(holdfast.InvalidFormat):
            engine.drop("p")
        assert (tmp_path / "p.iqdb").exists()


async def _drop(directory: Path, name: str) -> None:
    async with holdfast.aio.open(directory) as engine:
        await engine.drop(name)


# --- bad input ----------------------------------------------------------------------------------

Action = Callable[[holdfast.Engine, holdfast.Index], object]
ONE = [[0.5] * DIMENSION]
REFUSED: dict[str, tuple[Action, type[Exception]]] = {
    "dimension 0": (lambda e, i: e.index("n", dimension=0), holdfast.InvalidArgument),
    "dimension too large": (
        lambda e, i: e.index("n", dimension=(1 << 20) + 1),
        holdfast.LimitExceeded,
    ),
    "no dimension": (lambda e, i: e.index("n"), holdfast.InvalidArgument),
    "metric": (
        lambda e, i: e.index("n", dimension=2, metric="l2"),  # type: ignore[arg-type]
        holdfast.InvalidArgument,
    ),
    "kind": (lambda e, i: e.index("n", dimension=2, kind="ivf"), holdfast.InvalidArgument),
    "null id": (
        lambda e, i: i.insert_batch(pa.array([b"a", None]), ONE * 2),
        holdfast.InvalidArgument,
    ),
    "empty numpy id": (lambda e, i: i.insert(np.bytes_(b""), ONE[0]), holdfast.InvalidArgument),
    "numpy id below 0": (lambda e, i: i.insert(np.int64(-1), ONE[0]), holdfast.InvalidArgument),
    "numpy date": (
        lambda e, i: i.insert(7, ONE[0], {"a": np.datetime64("2020-01-01")}),
        holdfast.InvalidArgument,
    ),
    "numpy value out of range": (
        lambda e, i: i.insert(7, ONE[0], {"a": np.uint64(1 << 63)}),
        holdfast.InvalidArgument,
    ),
    "kind of a script": (
        lambda e, i: e.index("n", dimension=2, kind="__main__:Nothing"),
        holdfast.InvalidArgument,
    ),
    "graph of a flat index": (
        lambda e, i: e.index("n", dimension=2, kind="flat", hnsw=holdfast.HnswParameters()),
        holdfast.InvalidArgument,
    ),
    "compression": (
        lambda e, i: e.index("n", dimension=2, compression="gzip"),  # type: ignore[arg-type]
        holdfast.InvalidArgument,
    ),
    "level": (lambda e, i: e.index("n", dimension=2, level=23), holdfast.InvalidArgument),
    "other dimension": (lambda e, i: e.index("i", dimension=9), holdfast.OptionsConflict),
    "other kind of store": (lambda e, i: e.vectors("i", dimension=2), holdfast.WrongKind),
    "text id": (lambda e, i: i.insert("x", ONE[0]), holdfast.InvalidArgument),  # type: ignore[arg-type]
    "bool id": (lambda e, i: i.insert(True, ONE[0]), holdfast.InvalidArgument),
    "empty id": (lambda e, i: i.insert(b"", ONE[0]), holdfast.InvalidArgument),
    "id too large": (lambda e, i: i.insert(1 << 64, ONE[0]), holdfast.InvalidArgument),
    "one id for many": (lambda e, i: i.insert_batch(7, ONE), holdfast.InvalidArgument),
    "fewer ids": (lambda e, i: i.insert_batch([7, 8], ONE), holdfast.InvalidArgument),
    "short vector": (lambda e, i: i.insert(7, [1.0]), holdfast.InvalidArgument),
    "NaN": (lambda e, i: i.insert(7, [float("nan")] * DIMENSION), holdfast.InvalidArgument),
    "infinity": (lambda e, i: i.upsert(7, [float("inf")] * DIMENSION), holdfast.InvalidArgument),
    "duplicate": (lambda e, i: i.insert(1, ONE[0]), holdfast.Duplicate),
    "twice in a batch": (lambda e, i: i.insert_batch([7, 7], ONE * 2), holdfast.Duplicate),
    "absent": (lambda e, i: i.delete(404), holdfast.NotFound),
    "metadata type": (lambda e, i: i.insert(7, ONE[0], {"a": [1]}), holdfast.InvalidArgument),  # type: ignore[dict-item]
    "metadata range": (lambda e, i: i.insert(7, ONE[0], {"a": 1 << 63}), holdfast.InvalidArgument),
    "metadata rows": (lambda e, i: i.insert_batch([7], ONE, [{}, {}]), holdfast.InvalidArgument),
    "k": (lambda e, i: i.search(ONE[0], 0), holdfast.InvalidArgument),
    "query": (lambda e, i: i.search([1.0]), holdfast.InvalidArgument),
    "where": (lambda e, i: i.search(ONE[0], where="a > 1"), holdfast.InvalidArgument),
    "where of two fields": (
        lambda e, i: i.search(ONE[0], where=pc.field("a") == pc.field("b")),
        holdfast.InvalidArgument,
    ),
    "flag": (lambda e, i: i.delete(1, missing_ok=1), holdfast.InvalidArgument),  # type: ignore[arg-type]
}


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[holdfast.Engine, holdfast.Index]]:
    """An engine with an index of one row."""
    with holdfast.open(tmp_path_factory.mktemp("index")) as engine:
        index = engine.index("i", dimension=DIMENSION, metric="euclidean")
        index.insert(1, ONE[0], {"a": 1})
        yield engine, index


@pytest.mark.parametrize("what", REFUSED)
def test_bad_input_is_refused(served: "tuple[holdfast.Engine, holdfast.Index]", what: str) -> None:
    """Each gets a typed error, and nothing is written."""
    engine, index = served
    action, error = REFUSED[what]
    before = index.status().log_bytes
    with pytest.raises(error) as raised:
        action(engine, index)
    assert str(raised.value)
    assert index.status().log_bytes == before
    assert engine.stores() == {"i": "index"}


def test_rows_in_every_form(tmp_path: Path) -> None:
    """numpy, Arrow, lists, tables and dicts of columns come to the same rows."""
    with holdfast.open(tmp_path) as engine:
        index = engine.index("i", dimension=2, metric="manhattan")
        rows = np.array([[1, 2], [3, 4]], np.float64)
        index.insert_batch(np.array([1, 2], np.int32), rows, {"a": [1, 2]})
        index.insert_batch(pa.array([3, 4]), pa.array(rows.tolist()), pa.table({"a": [1, None]}))
        index.insert_batch([b"5", 6], rows.tolist(), [None, {"a": 2}])
        found = index.get([1, 2, 3, 4, b"5", 6])
        assert [row.vector.tolist() for row in found] == rows.tolist() * 3
        assert [row.metadata for row in found] == [{"a": 1}, {"a": 2}, {"a": 1}, {}, None, {"a": 2}]
        hits = index.search(rows, 3)
        assert hits.ids.shape == (2, 3)
        assert hits.ids.dtype == np.object_
        assert hits.ids.tolist() == [[1, 3, b"5"], [2, 4, 6]]
        assert index.search(rows[1], 3).ids.dtype == np.uint64


def test_what_numpy_gives_back_can_be_given_again(tmp_path: Path) -> None:
    """Ids of hits, arrays of bytes, and numpy's scalars in metadata are what they look like."""
    with holdfast.open(tmp_path) as engine:
        index = engine.index("i", dimension=2, metric="manhattan")
        rows = np.array([[1, 2], [3, 4]], np.float32)
        entries: dict[str, np.generic] = {
            "i": np.int64(-5),
            "f": np.float32(0.5),
            "b": np.bool_(True),
            "s": np.str_("x"),
        }
        index.insert(np.uint64(5), rows[0], entries)
        index.insert(np.bytes_(b"six"), rows[1], {"f": np.float64(2)})
        found = index.get([5, b"six"])
        assert [row.id for row in found] == [5, b"six"]
        assert [row.metadata for row in found] == [
            {"i": -5, "f": 0.5, "b": True, "s": "x"},
            {"f": 2.0},
        ]
        assert [type(value) for value in (found[0].metadata or {}).values()] == [
            bool,
            float,
            int,
            str,
        ]
        hits = index.search(rows, 2)
        assert [row.id for row in index.get(hits.ids[0])] == [5, b"six"]
        assert index.delete(hits.ids[0][0])
        assert index.delete_batch(hits.ids[1], missing_ok=True) == 1
        for ids in (
            np.array([b"a", b"bc"]),
            pa.array([b"a", b"bc"]),
            pa.chunked_array([pa.array([b"a", b"bc"], pa.large_binary())]),
            pa.array([b"a", b"bc"]).dictionary_encode(),
            np.array([b"a", 7], object),
        ):
            index.insert_batch(ids, rows)
            assert index.search(rows[0], 1).ids.tolist() == [b"a"]
            index.delete_batch(ids)
        assert index.count() == 0
        index.insert(7, rows[0])
        assert index.delete(index.search(rows[0], 1).ids[0])
