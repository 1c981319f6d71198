"""Vector stores apart from searching: ingest, building the index, opening, restarts, memory."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

import numpy as np
import psutil

import holdfast
from holdfast.bench import vector_data
from holdfast.bench.bare import read_files
from holdfast.bench.bare_processes import forking
from holdfast.bench.callers import spawning
from holdfast.bench.large import kill_to_reply
from holdfast.bench.measure import (
    Row,
    at_least,
    at_most,
    in_turn,
    median,
    medians,
    seconds,
)
from holdfast.bench.peers.nearest import Library
from holdfast.bench.peers.vector_kinds import has_faiss
from holdfast.bench.run import Run
from holdfast.bench.vector_data import Floats, K, Sample
from holdfast.bench.vectors import DIMENSION, filled, wait_for_index
from holdfast.workers.message import Durability

BATCH = 1000
_ROW_HEAD_BYTES = 8  # the id
_DEAD_BYTES_LEFT = 2 << 20  # a file with less that is dead is left alone
_SETTLE_WAIT_S = 60.0
_ORIGINAL_ROWS_PER_S = 355_000


# --- writing -----------------------------------------------------------------------------------


def ingest(run: Run) -> list[Row]:
    """Batches of 1,000 rows, each durable before the next, against writing and syncing as much."""
    sample = _sample(run)

    def engine(*, index: bool) -> float:
        with _empty(run, "always") as store:
            if not index:
                store.cancel_index()
            return len(sample.rows) / seconds(lambda: _ingest(store, sample.rows))

    def bare() -> float:
        with run.fresh() as directory:
            pieces = [_piece(sample.rows, start) for start in _starts(sample.rows)]
            took = seconds(lambda: _write_each(os.path.join(directory, "rows"), pieces))
            return len(sample.rows) / took

    samples = in_turn(
        {"engine": lambda: engine(index=False), "bare": bare, "index": lambda: engine(index=True)},
        run.sizes.repetitions,
    )
    middle = medians(samples)
    what = f"ingest of {len(sample.rows):,} x {DIMENSION} by {BATCH:,}, always"
    against = "writing the same bytes, a sync per batch"
    return [
        Row("vectors-ingest", what, middle["engine"], "rows/s", against, middle["bare"],
            at_least(0.5), f"the original, on another machine: {_ORIGINAL_ROWS_PER_S:,} rows/s",
            samples),
        Row("vectors-ingest-index", f"{what}, the index coming by itself", middle["index"],
            "rows/s", against, middle["bare"]),
    ]  # fmt: skip


def _piece(rows: Floats, start: int) -> bytes:
    """The bytes of a batch: ids and vectors."""
    part = rows[start : start + BATCH]
    return np.arange(start, start + len(part), dtype=np.uint64).tobytes() + part.tobytes()


def _write_each(path: str, pieces: list[bytes]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        for piece in pieces:
            os.write(descriptor, piece)
            if sys.platform == "darwin":
                os.fsync(descriptor)
            else:
                os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def commits(run: Run) -> list[Row]:
    """How long a file gets by commits of one row, once upkeep has come to rest."""
    count = run.sizes.vectors.commits
    rows = vector_data.clustered(count, DIMENSION, 1).rows
    longest = 0
    with _empty(run, "never") as store:
        for number in range(count):
            store.ingest([number], rows[number : number + 1])
            if not number % 50:
                longest = max(longest, os.path.getsize(store.path))
        status = _settled(store)
        size = os.path.getsize(store.path)
    note = f"{status.compactions} compactions; {longest / 2**20:.1f} MiB at the longest"
    return [
        Row("vectors-commits", f"file after {count:,} commits of one row of {DIMENSION}",
            size / 2**20, "MiB", "the rows", count * (_ROW_HEAD_BYTES + 4 * DIMENSION) / 2**20,
            at_most(5.0), note)
    ]  # fmt: skip


def _settled(store: holdfast.Vectors) -> holdfast.VectorStatus:
    """The status once no more is dead than is left alone."""
    give_up = time.monotonic() + _SETTLE_WAIT_S
    while True:
        status = store.status()
        if status.dead_bytes <= max(_DEAD_BYTES_LEFT, status.live_bytes):
            return status
        if time.monotonic() > give_up:
            raise TimeoutError(f"{store.path} is not compacted after {_SETTLE_WAIT_S:g} s")
        time.sleep(0.02)


# --- the index ---------------------------------------------------------------------------------


def index(run: Run) -> list[Row]:
    """Building the index of a store that is there, with queries, or with ingest, meanwhile."""
    if not has_faiss():
        run.say("  faiss is not installed, so there is no index")
        return []
    sample = _sample(run)
    built, waits, bare = [], [], []
    slowed: dict[str, list[float]] = {"building": [], "alone": []}
    for _ in range(run.sizes.long_repetitions):
        with filled(run, sample) as store:
            took, asked = _build(store, sample)
            built.append(took)
            waits += asked
        bare.append(seconds(lambda: Library("", sample.rows)))
        with filled(run, sample) as store:
            rates = _ingest_rates(store, sample)
            slowed["building"].append(rates[0])
            slowed["alone"].append(rates[1])
    middle = medians(slowed)
    rows = f"{len(sample.rows):,} x {DIMENSION}"
    note = f"exact answers meanwhile: {len(waits)}, the slowest in {max(waits) * 1e3:.0f} ms"
    return [
        Row("vectors-index", f"index of {rows} from its order to ready", median(built), "s",
            budget=at_most(5.0), note=note, samples={"built": built, "bare": bare},
            limit=("faiss alone, all threads, in this process", median(bare))),
        Row("vectors-index-ingest", f"ingest by {BATCH:,} while an index of {rows} is built",
            middle["building"], "rows/s", "the same without", middle["alone"], at_least(0.5),
            samples=slowed),
    ]  # fmt: skip


def _build(store: holdfast.Vectors, sample: Sample) -> tuple[float, list[float]]:
    """Seconds until an index is ready, and those of the exact answers until then."""
    expected = vector_data.nearest(sample)
    waits: list[float] = []
    began = time.perf_counter()
    store.build_index()
    while store.status().index != "ready":
        asked = time.perf_counter()
        found = store.query(sample.queries[0], K, exact=True).ids
        waits.append(time.perf_counter() - asked)
        assert vector_data.recall(found[None], expected[:1]) == 1.0, "it is not exact"
        time.sleep(0.02)
    return time.perf_counter() - began, waits or [0.0]


def _ingest_rates(store: holdfast.Vectors, sample: Sample) -> tuple[float, float]:
    """Rows a second while an index is built, and then for as many batches without."""
    starts = iter(range(len(sample.rows), 1 << 40, BATCH))

    def rate(going_on: Callable[[int], bool]) -> tuple[float, int]:
        began, batches = time.perf_counter(), 0
        while going_on(batches):
            start = next(starts)
            rows = sample.rows[np.arange(start, start + BATCH) % len(sample.rows)]
            store.ingest(range(start, start + BATCH), rows)
            batches += 1
        return batches * BATCH / (time.perf_counter() - began), batches

    store.build_index()
    building, batches = rate(lambda done: not done or store.status().index != "ready")
    store.cancel_index()
    alone, _ = rate(lambda done: store.status().index != "building" and done < batches)
    return building, alone


# --- opening and restarting --------------------------------------------------------------------


def opening(run: Run) -> list[Row]:
    """From ``Engine.vectors`` to the first answer, with an index cache.

    The engine is fresh, and so is its supervisor, which is up but has never had a vector store: it
    has numpy, Arrow and faiss to load first.
    """
    sample = _sample(run)
    with _closed(run, sample) as directory, forking() as bare_host:
        paths = [entry.path for entry in os.scandir(directory) if entry.is_file()]
        samples = in_turn(
            {
                "exact": lambda: _first_answer(directory, sample, exact=True),
                "index": lambda: _first_answer(directory, sample, exact=None),
                "again": lambda: _first_answer(directory, sample, exact=None, again=True),
                "process": lambda: _first_answer_of_process(directory),
                "bare": lambda: bare_host("fork") + seconds(lambda: read_files(paths)),
            },
            run.sizes.repetitions,
        )
    middle = medians(samples)
    what = f"opening {len(sample.rows):,} x {DIMENSION} with the index cache, to the first"
    limit = ("a bare process forked, and reading the files", middle["bare"])
    return [
        Row("vectors-open-exact", f"{what} exact answer", middle["exact"], "s",
            budget=at_most(0.2), note="a fresh engine whose supervisor is up", samples=samples,
            limit=limit),
        Row("vectors-open-index", f"{what} approximate answer", middle["index"], "s",
            budget=at_most(0.3), limit=limit),
        Row("vectors-open-again", f"{what} approximate answer, the supervisor having had a vector "
            "store", middle["again"], "s"),
        Row("vectors-open-process", f"{what} approximate answer, in a fresh process, that of "
            "holdfast.open and of starting a supervisor with it", middle["process"], "s"),
    ]  # fmt: skip


@contextlib.contextmanager
def _closed(run: Run, sample: Sample) -> Iterator[str]:
    """A directory with a store of a sample, which has an index cache if faiss is there."""
    with run.fresh() as directory:
        with holdfast.open(directory) as engine:
            store = engine.vectors("rows", dimension=DIMENSION, durability="never")
            store.cancel_index()
            _ingest(store, sample.rows)
            if store.status().index != "unavailable":
                store.build_index()
                wait_for_index(store)
        yield directory


def _first_answer(
    directory: str, sample: Sample, *, exact: bool | None, again: bool = False
) -> float:
    with holdfast.open(directory) as engine:
        engine.processes()
        if again:
            engine.vectors("other", dimension=1).count()
        stores: list[holdfast.Vectors] = []

        def answer() -> None:
            stores.append(engine.vectors("rows"))
            stores[0].query(sample.queries[0], K, exact=exact)

        took = seconds(answer)
        assert stores[0].status().index in ("ready", "unavailable"), "the cache was not used"
    return took


def _first_answer_of_process(directory: str) -> float:
    ours, theirs = spawning.Pipe()
    child = spawning.Process(target=_answer_once, args=(theirs, directory))
    child.start()
    theirs.close()
    took = float(ours.recv())
    child.join()
    ours.close()
    return took


def _answer_once(pipe: Connection, directory: str) -> None:
    """Body of a process that opens a store, asks it once, and says how long that took."""
    query = np.zeros(DIMENSION, np.float32)
    began = time.perf_counter()
    with holdfast.open(directory) as engine:
        engine.vectors("rows").query(query, K)
        pipe.send(time.perf_counter() - began)


def restart(run: Run) -> list[Row]:
    """From a worker's ``SIGKILL`` to its successor's first answer; a fold's beside vectors, too."""
    sample, count = _sample(run), run.sizes.kills
    with _closed(run, sample) as directory, holdfast.open(directory) as engine:
        full = [_kill_to_answer(engine.vectors("rows"), sample) for _ in range(count)]
        small = engine.vectors("small", dimension=DIMENSION)
        small.ingest([0], sample.rows[:1])
        empty = [_kill_to_answer(small, sample) for _ in range(count)]
        beside = [_fold_restart(engine) for _ in range(count)]
    with run.fresh() as directory, holdfast.open(directory) as engine:
        alone = [_fold_restart(engine) for _ in range(count)]
    samples = {"full": full, "empty": empty, "beside": beside, "alone": alone}
    middle = medians(samples)
    rows = f"{len(sample.rows):,} x {DIMENSION}"
    return [
        Row("vectors-kill", f"SIGKILL of a vector worker of {rows} to first answer",
            middle["full"], "ms", note=f"worst {max(full):.0f} ms", samples=samples),
        Row("vectors-kill-small", "SIGKILL of a vector worker of one row to first answer",
            middle["empty"], "ms"),
        Row("vectors-kill-fold", "SIGKILL of a fold's worker, vector stores in the engine",
            middle["beside"], "ms", "the same without vector stores", middle["alone"]),
    ]  # fmt: skip


def _kill_to_answer(store: holdfast.Vectors, sample: Sample) -> float:
    pid = store.status().pid
    began = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    store.query(sample.queries[0], K)
    took = (time.perf_counter() - began) * 1e3
    assert store.status().pid != pid, "the worker survived"
    return took


def _fold_restart(engine: holdfast.Engine) -> float:
    return kill_to_reply(engine.fold("config")) * 1e3


# --- memory ------------------------------------------------------------------------------------


def memory(run: Run) -> list[Row]:
    """A worker's resident memory above that of a worker without rows, index apart."""
    sample = _sample(run)
    with run.fresh() as directory:
        with holdfast.open(directory) as engine:
            bare = _resident(engine.vectors("none", dimension=DIMENSION), sample)
            store = engine.vectors("rows", dimension=DIMENSION, durability="never")
            store.cancel_index()
            _ingest(store, sample.rows)
            ingested = _resident(store, sample) - bare
        with holdfast.open(directory) as engine:
            bare = _resident(engine.vectors("none"), sample)
            store = engine.vectors("rows")
            store.cancel_index()
            reopened = _resident(store, sample) - bare
    what = f"worker's memory for {len(sample.rows):,} x {DIMENSION}"
    size = sample.rows.nbytes / 2**20
    note = "resident, above a worker with no rows; pages of the mapped file count"
    return [
        Row("vectors-memory", f"{what} after ingest", ingested / 2**20, "MiB", "the vectors", size,
            at_most(2.0), note),
        Row("vectors-memory-reopened", f"{what} reopened", reopened / 2**20, "MiB", "the vectors",
            size, at_most(2.0)),
    ]  # fmt: skip


def _resident(store: holdfast.Vectors, sample: Sample) -> int:
    """Bytes of memory of a store's worker, after it has looked at every row."""
    store.query(sample.queries[0], K, exact=True)
    return int(psutil.Process(store.status().pid).memory_info().rss)


# --- common ------------------------------------------------------------------------------------


def _sample(run: Run) -> Sample:
    return vector_data.clustered(run.sizes.vectors.rows, DIMENSION, 10)


def _starts(rows: Floats) -> range:
    return range(0, len(rows), BATCH)


def _ingest(store: holdfast.Vectors, rows: Floats) -> None:
    for start in _starts(rows):
        part = rows[start : start + BATCH]
        store.ingest(range(start, start + len(part)), part)


@contextlib.contextmanager
def _empty(run: Run, durability: Durability) -> Iterator[holdfast.Vectors]:
    """A new store whose worker is up."""
    with run.fresh() as directory, holdfast.open(directory) as engine:
        yield engine.vectors("rows", dimension=DIMENSION, durability=durability)
