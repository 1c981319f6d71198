"""Warm stores with real processes: kills under load, mapped results, several hosts, asyncio."""

import asyncio
import itertools
import re
import signal
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

import holdfast
from holdfast import TemporalPoint
from tests.process.harness import (
    LONG,
    hear,
    is_alive,
    running,
    send,
    supervisor_pid,
    tell,
    until,
    wait_until_none,
    worker_pid,
)

DIMENSION = 8
WRITERS = 3
ROUNDS = 40 if LONG else 12
BATCH = 200
"""Rows of a batch that is worth a run of its own."""


def vectors(numbers: object) -> NDArray[np.float32]:
    """Vectors that tell which write they belong to."""
    column = np.asarray(numbers, np.float32).reshape(-1, 1)
    return np.repeat(column, DIMENSION, axis=1)


def numbers_of(table: pa.Table) -> list[float]:
    """What the vectors of a table tell; no vector is half of one write and half of another."""
    flat = pa.compute.list_flatten(table["vector"].combine_chunks()).to_numpy()
    rows = flat.reshape(-1, DIMENSION)
    assert (rows == rows[:, :1]).all()
    return [float(number) for number in rows[:, 0]]


class Writer(threading.Thread):
    """Writes ever larger numbers to a series of its own, deletes now and then, and reads back."""

    def __init__(self, store: holdfast.Warm, entity: int, going: threading.Event) -> None:
        super().__init__()
        self._store = store
        self._entity = entity
        self._going = going
        self.acknowledged = {0: 0, 1: 0}
        """For both halves of the series the number that all of its rows must have; 0: none."""
        self.calls = 0
        self.errors: list[BaseException] = []

    def run(self) -> None:
        try:
            for count in itertools.count(1):
                if not self._going.is_set():
                    return
                self._write(count)
                self.check(self._store)
                self.calls += 2
        except BaseException as error:
            self.errors.append(error)

    def _write(self, count: int) -> None:
        half = count % 2
        there = BATCH if self.acknowledged[half] else 0
        times = self._times(half)
        if count % 7:
            shuffled = np.random.default_rng(count).permutation(times)
            notes = [{"count": str(count)}] * BATCH if count % 3 else None
            done = self._store.write(self._entity, 0, shuffled, vectors([count] * BATCH), notes)
            assert (done.points, done.replaced) == (BATCH, there)
            self.acknowledged[half] = count
        else:
            first, last = int(times[0]), int(times[-1])
            assert self._store.delete_range(self._entity, 0, first, last) == there
            self.acknowledged[half] = 0

    def _times(self, half: int) -> NDArray[np.int64]:
        return np.arange(half * BATCH, (half + 1) * BATCH, dtype=np.int64)

    def check(self, store: holdfast.Warm) -> None:
        """What was acknowledged is what is there, each batch as a whole."""
        table = store.range(self._entity, 0)
        expected: list[tuple[int, float]] = []
        for half, number in self.acknowledged.items():
            if number:
                expected += [(time, float(number)) for time in self._times(half).tolist()]
        times = table["timestamp"].to_pylist()
        assert list(zip(times, numbers_of(table), strict=True)) == expected
        for note, (_, count) in zip(table["metadata"].to_pylist(), expected, strict=True):
            assert note == ([("count", str(int(count)))] if count % 3 else [])


class Reader(threading.Thread):
    """Reads everything again and again, and holds what it read for a while."""

    def __init__(self, store: holdfast.Warm, going: threading.Event) -> None:
        super().__init__()
        self._store = store
        self._going = going
        self.held: list[tuple[pa.Table, list[float]]] = []
        self.calls = 0
        self.errors: list[BaseException] = []

    def run(self) -> None:
        try:
            while self._going.is_set():
                self._read()
                self.calls += 1
        except BaseException as error:
            self.errors.append(error)

    def _read(self) -> None:
        for entity in range(WRITERS):
            table = self._store.range(entity, 0)
            assert table.num_rows % BATCH == 0, "a batch is there as a whole or not at all"
            numbers = numbers_of(table)
            for start in range(0, len(numbers), BATCH):
                assert len(set(numbers[start : start + BATCH])) == 1
            self.held.append((table, numbers))
        for table, numbers in self.held:
            assert numbers_of(table) == numbers, "a result never changes"
        del self.held[:-20]


OTHER_HOST = f"""
import numpy as np
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
with holdfast.open(sys.argv[1]) as engine:
    store = engine.warm("w")
    acknowledged = 0
    print("going", flush=True)
    while not stop.is_set():
        number = acknowledged + 1
        times = np.arange({BATCH})
        store.write(100, 1, times, np.full(({BATCH}, {DIMENSION}), number, np.float32))
        store.put(1, holdfast.TemporalPoint(101, number, np.full({DIMENSION}, number, np.float32)))
        acknowledged = number
        assert store.latest(101, 1).timestamp == number
print(acknowledged, flush=True)
"""


def test_kills_under_load_break_no_promise(tmp_path: Path) -> None:
    """Workers and supervisors die again and again under writers, readers and a second process.

    Nothing acknowledged is lost, no batch is seen in part, and results that are held do not change.
    """
    with holdfast.open(tmp_path) as engine:
        store = engine.warm("w", dimension=DIMENSION)
        going = threading.Event()
        going.set()
        writers = [Writer(store, entity, going) for entity in range(WRITERS)]
        reader = Reader(store, going)
        threads: list[Writer | Reader] = [*writers, reader]
        with running(OTHER_HOST, str(tmp_path)) as other:
            assert hear(other) == "going"
            for thread in threads:
                thread.start()
            for number in range(ROUNDS):
                seen = [thread.calls for thread in threads]
                until(
                    lambda seen=seen: (  # type: ignore[misc] # a lambda's default
                        all(t.calls > n for t, n in zip(threads, seen, strict=True))
                        or any(t.errors for t in threads)
                    ),
                    "all have gone on",
                )
                if number % 3 == 1:
                    store.flush()
                if number % 3 == 2:
                    store.compact()
                pid = supervisor_pid(engine) if number % 4 == 3 else worker_pid(engine, "w")
                send(pid, signal.SIGKILL)
            going.clear()
            for thread in threads:
                thread.join()
                assert not thread.errors, thread.errors
            tell(other)
            acknowledged = int(hear(other))
            assert other.wait() == 0
        assert acknowledged > 0
    with holdfast.open(tmp_path) as engine:
        store = engine.warm("w")
        for writer in writers:
            writer.check(store)
        assert numbers_of(store.range(100, 1)) == [acknowledged] * BATCH
        assert store.range(101, 1)["timestamp"].to_pylist() == list(range(1, acknowledged + 1))
        assert store.verify().flaws == []
    wait_until_none(tmp_path)


def test_kills_in_the_middle_of_compactions_lose_nothing(tmp_path: Path) -> None:
    """Whenever the worker dies, the call is answered by a successor that has done all of it."""
    rows = 60_000
    with holdfast.open(tmp_path) as engine:
        store = engine.warm("w", dimension=DIMENSION)
        expected = np.arange(rows) % 1000
        store.write(1, 0, np.arange(rows), vectors(expected))
        store.flush()
        for attempt in range(4):
            store.write(
                1, 0, np.arange(attempt, rows, 7), vectors([attempt] * len(expected[attempt::7]))
            )
            expected[attempt::7] = attempt
            pid = worker_pid(engine, "w")
            seen = itertools.count()

            def kill(_: object, pid: int = pid, at: int = attempt, seen: object = seen) -> None:
                if next(seen) == at:  # type: ignore[call-overload] # a counter
                    send(pid, signal.SIGKILL)

            store.compact(progress=kill)
            assert not is_alive(pid) or attempt > 0
            table = store.range(1, 0)
            assert table["timestamp"].to_pylist() == list(range(rows))
            assert numbers_of(table) == expected.tolist()
        status = store.status()
        assert (status.points, status.chunks, status.dead_bytes) == (rows, 1, 0)
        names = {path.suffix for path in Path(store.path).iterdir()} - {""}
        assert names <= {".arrow", ".zone", ".ledger"}, "nothing that came to nothing is left"
        assert len(list(Path(store.path).glob("*.arrow"))) == 1


# --- mapped results ----------------------------------------------------------------------------


def mapped_from(array: NDArray[np.float32]) -> str:
    """The file whose mapping in this process all of an array lies in; empty if it is none's."""
    start = array.__array_interface__["data"][0]
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        found = re.match(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+\s*(.*)", line)
        assert found
        if int(found[1], 16) <= start and start + array.nbytes <= int(found[2], 16):
            return found[3]
    return ""


def flat_vectors(table: pa.Table) -> list[NDArray[np.float32]]:
    """The vectors of each chunk of a table, without a copy."""
    return [chunk.flatten().to_numpy(zero_copy_only=True) for chunk in table["vector"].iterchunks()]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_large_results_are_mapped_and_stay_valid(tmp_path: Path) -> None:
    """A large range lies in the chunk's file itself, and outlives the file and the engine."""
    rows = 30_000
    with holdfast.open(tmp_path) as engine:
        store = engine.warm("w", dimension=DIMENSION)
        for entity in (1, 2):
            store.write(entity, 0, np.arange(rows), vectors(np.arange(rows) + entity))
        store.flush()
        chunk = next(Path(store.path).glob("*.arrow"))
        whole, part = store.range(2, 0), store.range(1, 0, 5000, 24_999)
        everything = store.to_table()
        for table, first in ((whole, 2.0), (part, 5001.0)):
            (flat,) = flat_vectors(table)
            assert mapped_from(flat) == str(chunk)
            assert flat[0] == first
        assert {mapped_from(flat) for flat in flat_vectors(everything)} == {str(chunk)}
        assert everything.num_rows == 2 * rows
        store.delete_range(1, 0, 0, 9999)
        store.write(2, 0, np.arange(rows), vectors([7] * rows))
        store.compact()
        assert not chunk.exists()
        assert set(numbers_of(store.range(2, 0))) == {7.0}
        assert mapped_from(flat_vectors(whole)[0]) == f"{chunk} (deleted)"
        engine.drop("w")
    assert numbers_of(whole) == (np.arange(rows) + 2).tolist()
    assert numbers_of(part) == (np.arange(5000, 25_000) + 1).tolist()
    assert everything["timestamp"].to_pylist() == [*range(rows), *range(rows)]


class Overtaken:
    """Opens chunks for a handle, but another host has compacted the store just before."""

    def __init__(self, store: holdfast.Warm, other: holdfast.Warm, times: int) -> None:
        self.count = 0
        self._opening = store._maps._open
        self._other = other
        self._times = times
        store._maps._open = self  # type: ignore[method-assign] # the moment between

    def __call__(self, number: int, meant: bytes) -> pa.RecordBatch:
        if self.count < self._times:
            self.count += 1
            self._other.put(0, TemporalPoint(9, 0, vectors(1)[0]))
            self._other.compact()
        return self._opening(number, meant)


@pytest.mark.parametrize("times", [1, 3, 9], ids=lambda n: f"{n} times")
def test_a_chunk_that_goes_before_it_is_mapped(tmp_path: Path, times: int) -> None:
    """An answer whose chunk was merged away on its way is asked for again, and comes in the end."""
    rows = 20_000
    with holdfast.open(tmp_path) as engine, holdfast.open(tmp_path) as rival:
        other = rival.warm("w", dimension=DIMENSION)
        other.write(1, 0, np.arange(rows), vectors([3] * rows))
        other.flush()
        for attempt in range(2):
            store = engine.warm("w")
            overtaken = Overtaken(store, other, times)
            table = store.range(1, 0) if attempt else store.to_table()
            assert overtaken.count == min(times, 3), "at last the rows themselves are asked for"
            assert numbers_of(table)[:rows] == [3.0] * rows


# --- faces -------------------------------------------------------------------------------------


def test_what_is_written_later_changes_nothing_earlier(tmp_path: Path) -> None:
    """Batches that come through the same pipe do not get mixed up in the worker's memory."""
    with holdfast.open(tmp_path) as engine:
        store = engine.warm("w", dimension=DIMENSION)
        for entity in range(6):
            store.write(
                entity, 0, np.arange(1000), vectors([entity] * 1000), [{"e": str(entity)}] * 1000
            )
        for flushed in (False, True):
            for entity in range(6):
                table = store.range(entity, 0)
                assert set(numbers_of(table)) == {float(entity)}
                assert table["timestamp"].to_pylist() == list(range(1000))
                assert table["metadata"].to_pylist() == [[("e", str(entity))]] * 1000
            if not flushed:
                store.flush()


def test_asyncio_gives_the_same_answers(tmp_path: Path) -> None:
    """The awaitable face, with sixteen queries in flight, each answered by what it asked for."""
    rows = 4000
    with holdfast.open(tmp_path) as engine:
        store = engine.warm("w", dimension=DIMENSION)
        for entity in range(16):
            store.write(entity, 0, np.arange(rows), vectors(np.arange(rows) * 16 + entity))
        blocking = [store.range(entity, 0, 10, 19) for entity in range(16)]

        async def play() -> None:
            async with holdfast.aio.open(tmp_path) as aengine:
                warm = await aengine.warm("w")
                for _ in range(3):
                    near, ranges, whole, points = await asyncio.gather(
                        asyncio.gather(*(warm.nearest(vectors(n * 100)[0], 1) for n in range(16))),
                        asyncio.gather(*(warm.range(n, 0, 10, 19) for n in range(16))),
                        asyncio.gather(*(warm.range(n, 0) for n in range(16))),
                        asyncio.gather(*(warm.get(n, 0, n) for n in range(16))),
                    )
                    assert [numbers_of(table) for table in near] == [[n * 100.0] for n in range(16)]
                    assert ranges == blocking
                    assert [numbers_of(table)[-1] for table in whole] == [
                        (rows - 1) * 16.0 + n for n in range(16)
                    ]
                    assert [float(p.vector[0]) for p in points if p] == [
                        n * 17.0 for n in range(16)
                    ]
                    await warm.flush()
                pages = [table async for table in warm.scan(batch_rows=rows)]
                assert sum(table.num_rows for table in pages) == 16 * rows
                assert max(table.num_rows for table in pages) <= rows
                assert await warm.to_table() == store.to_table()
                assert await warm.series() == store.series()
                assert (await warm.entities(0)).tolist() == list(range(16))
                assert (await warm.spaces()).tolist() == [0]
                assert (await warm.dataset()).count_rows() == 16 * rows
                assert await warm.delete_range(3, 0, 0, 99) == 100
                assert await warm.count() == len(store) == 16 * rows - 100

        asyncio.run(play())


def test_several_hosts_see_one_store(tmp_path: Path) -> None:
    """What one process has acknowledged, another one reads at once."""
    body = """
    import numpy as np
    with holdfast.open(sys.argv[1]) as engine:
        store = engine.warm("w")
        while (line := sys.stdin.readline()):
            number = int(line)
            point = store.latest(5, 0)
            print(point.timestamp, int(point.vector[0]), point.metadata["n"], flush=True)
            store.delete(5, 0, number)
    """
    with holdfast.open(tmp_path) as engine:
        store = engine.warm("w", dimension=DIMENSION)
        with running(body, str(tmp_path)) as other:
            for number in range(5):
                store.put(0, TemporalPoint(5, number, vectors(number * 2)[0], {"n": str(number)}))
                tell(other, str(number))
                assert hear(other) == f"{number} {number * 2} {number}"
                until(
                    lambda number=number: not store.contains(5, 0, number),  # type: ignore[misc] # a lambda's default
                    "the other has deleted it",
                )
        assert len(store) == 0
