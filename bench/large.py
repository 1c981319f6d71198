"""A fold of 1,000,000 entries: reopening it, recovering it, ranges in it, compacting it."""

import contextlib
import os
import signal
import time
from collections.abc import Callable

import holdfast
from holdfast.bench import bare, data
from holdfast.bench.bare_processes import forking
from holdfast.bench.measure import (
    Measurement,
    Row,
    at_most,
    in_turn,
    medians,
    seconds,
    seconds_per_call,
    unique_memory,
    version_of,
)
from holdfast.bench.peers.key_value_stores import Lmdb
from holdfast.bench.run import Run, wait_for_index

_TOUCHED = 20_000
_READ = "reading the cache"


def reopen(run: Run) -> list[Row]:
    """From ``Engine.fold`` to the first get's reply, with and without the index cache.

    The supervisor is up already, and the log in the page cache. Without the cache the limit is a
    bare loop over the same file.
    """
    index = run.large_log + ".index"

    def without_cache() -> float:
        with contextlib.suppress(FileNotFoundError):
            os.remove(index)
        return _first_reply(run)

    samples = in_turn(
        {
            "without the cache": without_cache,
            "bare loop": lambda: seconds(lambda: bare.read_log(run.large_log)),
        },
        run.sizes.long_repetitions,
    )
    run.index_large()
    with forking() as bare_host:
        samples |= in_turn(
            {
                "with the cache": lambda: _first_reply(run),
                "bare": lambda: bare_host("fork") + _reading(index),
            },
            run.sizes.repetitions,
        )
    middle = medians(samples)
    entries = f"{run.sizes.entries:,} entries"
    return [
        Row("reopen", f"reopening {entries} without the cache", middle["without the cache"], "s",
            "bare loop over the same file", middle["bare loop"], at_most(1.3), samples=samples),
        Row("reopen-cached", f"reopening {entries} with the cache", middle["with the cache"], "s",
            budget=at_most(0.35), limit=(f"a bare process forked, and {_READ}", middle["bare"])),
        *_recovery(run),
    ]  # fmt: skip


def _reading(path: str) -> float:
    return seconds(lambda: bare.read_files([path]))


def _first_reply(run: Run) -> float:
    with holdfast.open(run.large) as engine:
        engine.processes()
        return seconds(lambda: engine.fold("config").get(data.key(0)))


def _recovery(run: Run) -> list[Row]:
    """A crashed worker's successor, and how much memory it takes."""
    entries = f"{run.sizes.entries:,} entries"
    size = os.path.getsize(run.large_log)
    with holdfast.open(run.large) as engine:
        fold = engine.fold("config")
        wait_for_index(fold)
        index = fold.path + ".index"
        with forking() as bare_host:
            samples = in_turn(
                {
                    "worker": lambda: kill_to_reply(fold),
                    "bare": lambda: bare_host("kill") + _reading(index),
                },
                run.sizes.repetitions,
            )
        memory = unique_memory(fold.status().pid)
        for number in range(0, run.sizes.entries, max(1, run.sizes.entries // _TOUCHED)):
            fold.get(data.key(number))
        touched = unique_memory(fold.status().pid)
    middle = medians(samples)
    note = "unique memory counts the pages of the mapped log that were read, which can be dropped"
    return [
        Row("recover-cached", f"SIGKILL to first reply, {entries}, with the cache",
            middle["worker"], "s", budget=at_most(0.35), samples=samples,
            limit=(f"that of a bare process, and {_READ}", middle["bare"])),
        Row("large-memory", f"worker's unique memory, {entries}, reopened", memory / 2**20, "MiB",
            "the file", size / 2**20, at_most(0.6)),
        Row("large-memory-read", f"the same after {_TOUCHED:,} scattered gets", touched / 2**20,
            "MiB", "the file", size / 2**20, note=note),
    ]  # fmt: skip


def kill_to_reply(fold: holdfast.Fold) -> float:
    """Seconds from the worker's ``SIGKILL`` to its successor's first reply."""
    pid = fold.status().pid
    began = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    fold.get(data.key(0))
    took = time.perf_counter() - began
    assert fold.status().pid != pid, "the worker survived"
    return took


def ranges(run: Run) -> list[Row]:
    """``range`` of 1,000 entries under one prefix; LMDB in this process for comparison."""
    groups = run.sizes.entries // data.GROUP
    state = {"group": 0}

    def next_prefix() -> str:
        state["group"] = (state["group"] + 7) % groups
        return data.prefix(state["group"])

    def mean_ms(read: Callable[[], list[object]]) -> float:
        assert len(read()) == data.GROUP
        return seconds_per_call(read, 20) * 1e3

    run.index_large()
    with contextlib.ExitStack() as stack:
        fold = stack.enter_context(holdfast.open(run.large)).fold("config")
        measurements: dict[str, Measurement] = {
            "fold": lambda: mean_ms(lambda: list(fold.range(next_prefix()))),
        }
        if version_of("lmdb"):
            directory = stack.enter_context(run.fresh())
            peer = Lmdb(directory, synced=False)
            stack.callback(peer.close)
            numbers = range(run.sizes.entries)
            peer.put_batch([(data.key(n).encode(), data.value(n)) for n in numbers])
            measurements["LMDB"] = lambda: mean_ms(lambda: list(peer.range(next_prefix().encode())))
        samples = in_turn(measurements, 3 * run.sizes.repetitions)
    middle = medians(samples)
    what = f"range of 1,000 entries in {run.sizes.entries:,}"
    limit = ("LMDB in this process", middle["LMDB"]) if "LMDB" in middle else None
    rows = [
        Row("range", what, middle["fold"], "ms", budget=at_most(2.5), limit=limit, samples=samples)
    ]
    if "LMDB" in middle:
        rows.append(
            Row("range-lmdb", what, middle["fold"], "ms", "LMDB in this process", middle["LMDB"])
        )
    return rows


def compaction(run: Run) -> list[Row]:
    """Compacting after a tenth was overwritten, against writing and syncing as many bytes."""
    with run.fresh() as directory:
        log = os.path.join(directory, "config.snap")
        data.write_log(log, run.sizes.entries)
        with holdfast.open(directory) as engine:
            fold = engine.fold("config")
            fold.get("")
            numbers = list(data.scattered(run.sizes.entries))[: run.sizes.entries // 10]

            def compact() -> float:
                _overwrite(fold, numbers)
                return seconds(lambda: fold.compact(timeout=600))

            def write() -> float:
                beside = os.path.join(directory, "same-bytes")
                took = seconds(lambda: bare.write_and_sync(beside, os.path.getsize(log)))
                os.remove(beside)
                return took

            samples = in_turn({"compaction": compact, "write": write}, run.sizes.long_repetitions)
    middle = medians(samples)
    return [
        Row("compaction", f"compaction of {run.sizes.entries:,} entries", middle["compaction"],
            "s", "writing the same bytes and a sync", middle["write"], at_most(2.0),
            samples=samples)
    ]  # fmt: skip


def _overwrite(fold: holdfast.Fold, numbers: list[int]) -> None:
    """Make a tenth of the log garbage, and wait until upkeep has nothing left to do."""
    for start in range(0, len(numbers), data.BATCH):
        batch = data.puts(numbers[start : start + data.BATCH], salt=1)
        fold.apply(batch, holdfast.Cursor.from_u64(start))
    time.sleep(0.5)
