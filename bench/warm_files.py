"""Warm stores apart from reading and writing: opening, memory, import, compaction, compression."""

import os
import signal
import time
from collections.abc import Iterator
from functools import partial

import psutil

import holdfast
from holdfast.bench import bare, warm_data
from holdfast.bench.bare_processes import forking
from holdfast.bench.measure import (
    Measurement,
    Row,
    at_most,
    in_turn,
    median,
    medians,
    seconds,
    unique_memory,
)
from holdfast.bench.run import Run
from holdfast.bench.runtime import KILLED
from holdfast.bench.warm import filled, mean_ms, ranging, settle
from holdfast.bench.warm_data import DIMENSION, POINT_BYTES, SPACE, Sample, sample
from holdfast.bench.warm_write import BATCH, empty, write_all
from holdfast.formats import warm_log
from holdfast.formats.limits import FLUSH_ROWS
from holdfast.formats.warm_terms import COMPRESSIONS
from holdfast.workers.warm_files import WarmFiles
from holdfast.workers.warm_runs import in_key_order

_OPEN_MS = 30.0
_LOOK_EVERY_S = 0.01
_SMAPS = "/proc/{}/smaps_rollup"


# --- opening -----------------------------------------------------------------------------------


def opening(run: Run) -> list[Row]:
    """From a worker's start to its first answer; the supervisor has had warm stores before."""
    sizes = run.sizes.warm
    small, large = (sample(count, sizes.entities) for count in (sizes.small_rows, sizes.rows))
    with run.fresh() as few, run.fresh() as many, forking() as bare_host:
        _close_with(few, small)
        _close_with(many, large)
        samples = in_turn(
            {
                "small": partial(_first_answer, few, small),
                "large": partial(_first_answer, many, large),
                "fresh": partial(_first_answer, many, large, fresh=True),
                "bare": lambda: bare_host("fork") * 1e3,
            },
            sizes.repetitions,
        )
    middle = medians(samples)
    what = "to the first get, reopening"
    limit = ("a bare process forked, and its first byte", middle["bare"])
    return [
        Row("warm-open-small", f"{what} {small}", middle["small"], "ms", budget=at_most(_OPEN_MS),
            limit=limit, samples=samples),
        Row("warm-open-large", f"{what} {large}", middle["large"], "ms", budget=at_most(_OPEN_MS),
            limit=limit),
        Row("warm-open-growth", f"{what} {large}", middle["large"], "ms",
            f"reopening {len(small.points):,}", middle["small"], at_most(1.5)),
        Row("warm-open-fresh", f"{what} {large}, the supervisor's first warm store",
            middle["fresh"], "ms"),
        *_replaying(run),
    ]  # fmt: skip


def _close_with(directory: str, given: Sample) -> None:
    with holdfast.open(directory) as engine:
        store = engine.warm("points", dimension=DIMENSION, durability="never")
        write_all(store, list(given.batches(BATCH, "time")))
        settle(store)


def _first_answer(directory: str, given: Sample, *, fresh: bool = False) -> float:
    with holdfast.open(directory) as engine:
        engine.processes()
        if not fresh:
            engine.warm("other", dimension=1).count()
        return seconds(lambda: _get(engine.warm("points"), given)) * 1e3


def _get(store: holdfast.Warm, given: Sample) -> None:
    point = given.point(len(given.points) // 2)
    assert store.get(point.entity, SPACE, point.timestamp) is not None, "it is not there"


def _replaying(run: Run) -> list[Row]:
    """After a kill, with as much in the log as there can be, and with next to nothing."""
    sizes = run.sizes.warm
    given = sample(min(sizes.rows, FLUSH_ROWS - BATCH), sizes.entities)
    with empty(run, "never") as store, empty(run, "never") as other, forking() as bare_host:
        write_all(store, list(given.batches(BATCH, "time")))
        last = given.point(len(given.points) // 2)
        other.put(SPACE, last)
        log = WarmFiles(store.path).log
        size = os.path.getsize(log)
        samples = in_turn(
            {
                "full": lambda: _kill_to_answer(store, given),
                "empty": lambda: _kill_to_answer(other, given),
                "read": lambda: seconds(lambda: _read_log(log)) * 1e3,
                "bare": lambda: bare_host("kill") * 1e3,
            },
            sizes.repetitions,
        )
        assert os.path.getsize(log) == size, "the log was shortened meanwhile"
    middle = medians(samples)
    what = "SIGKILL to the first get,"
    return [
        Row("warm-open-killed", f"{what} {len(given.points):,} points in the log "
            f"({size / 2**20:.0f} MiB)", middle["full"], "ms", "the same with 1 point, and reading "
            "and sorting the log's points", middle["empty"] + middle["read"], at_most(1.2),
            f"reading and sorting {middle['read']:.1f} ms", samples),
        Row("warm-open-killed-empty", f"{what} 1 point in the log", middle["empty"], "ms",
            budget=at_most(_OPEN_MS), limit=(KILLED, middle["bare"])),
    ]  # fmt: skip


def _kill_to_answer(store: holdfast.Warm, given: Sample) -> float:
    pid = store.status().pid
    began = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    _get(store, given)
    took = (time.perf_counter() - began) * 1e3
    assert store.status().pid != pid, "the worker survived"
    return took


def _read_log(path: str) -> None:
    """Read a log's records, check them, and put the points of each in order."""
    with open(path, "rb") as file:
        log = memoryview(file.read())
    header = warm_log.decode_header(log)
    assert not isinstance(header, str), header
    for record in warm_log.scan(log, header).records:
        in_key_order(warm_log.write_of(record, DIMENSION))


# --- memory ------------------------------------------------------------------------------------


def memory(run: Run) -> list[Row]:
    """What a worker has for itself, apart from pages of its files: at most, and at rest."""
    given = sample(run.sizes.warm.rows, run.sizes.warm.entities)
    with run.fresh() as directory:
        with holdfast.open(directory) as engine:
            store = engine.warm("points", dimension=DIMENSION, durability="never")
            store.count()
            pid = store.status().pid
            idle = own_memory(pid)
            peak = 0
            for piece in given.batches(BATCH, "time"):
                write_all(store, [piece])
                peak = max(peak, own_memory(pid))
            give_up = time.monotonic() + 0.5
            while time.monotonic() < give_up:  # flushes and compactions go on
                peak = max(peak, own_memory(pid))
                time.sleep(_LOOK_EVERY_S)
            settle(store)
            rest = own_memory(pid)
        with holdfast.open(directory) as engine:
            store = engine.warm("points")
            assert store.to_table().num_rows == len(given.points)
            reopened = own_memory(store.status().pid)
            resident = psutil.Process(store.status().pid).memory_info().rss
    size = len(given.points) * POINT_BYTES / 2**20
    what, against = f"worker's own memory, {given}", "the points"
    note = f"{idle / 2**20:.0f} MiB with no points"
    return [
        Row("warm-memory-writing", f"{what}, at most while they are written", peak / 2**20, "MiB",
            against, size, note=note),
        Row("warm-memory", f"{what}, written and at rest", rest / 2**20, "MiB", against, size),
        Row("warm-memory-reopened", f"{what}, reopened and scanned", reopened / 2**20, "MiB",
            against, size, note=f"resident with the files' pages {resident / 2**20:.0f} MiB"),
    ]  # fmt: skip


def own_memory(pid: int) -> int:
    """Bytes of memory that are of no file, those shared with other processes in part.

    Where the system does not tell, all that only this process has, pages of files included.
    """
    try:
        with open(_SMAPS.format(pid), encoding="ascii") as file:
            for line in file:
                if line.startswith("Pss_Anon:"):
                    return int(line.split()[1]) * 1024
    except FileNotFoundError:
        pass
    return unique_memory(pid)


# --- import ------------------------------------------------------------------------------------


def importing(run: Run) -> list[Row]:
    """A directory of the original's, against reading its bytes and writing as many."""
    given = sample(run.sizes.warm.rows, run.sizes.warm.entities)
    with run.fresh() as source:
        warm_data.write_original(source, given)
        samples = in_turn(
            {"import": lambda: _import(run, source, given)}, run.sizes.warm.long_repetitions
        )
    return [
        Row("warm-import", f"import of the original's directory, {given}",
            median(samples["import"]), "points/s", samples=samples)
    ]  # fmt: skip


def _import(run: Run, source: str, given: Sample) -> float:
    with empty(run, "never") as store:
        took = seconds(lambda: store.import_chronos(source, timeout=600))
        assert len(store) == len(given.points), "some are missing"
    return len(given.points) / took


# --- compaction --------------------------------------------------------------------------------


def compaction(run: Run) -> list[Row]:
    """Compacting what was written in no order, against copying as many bytes, and what it wrote."""
    given = sample(run.sizes.warm.rows, run.sizes.warm.entities)
    times: dict[str, list[float]] = {"compact": [], "write": []}
    amplification: dict[str, float] = {}
    for _ in range(run.sizes.warm.long_repetitions):
        with filled(run, given, "shuffled") as store:
            amplification["shuffled"] = store.status().write_amplification
            times["compact"].append(seconds(lambda: store.compact(timeout=600)))
            size = store.status().live_bytes
        with run.fresh() as directory:
            times["write"].append(_write_and_sync(os.path.join(directory, "bytes"), size))
    with filled(run, given, "time") as store:
        amplification["time"] = store.status().write_amplification
    middle = medians(times)
    rates = {name: len(given.points) / took for name, took in middle.items()}
    what = f"of {given}"
    return [
        Row("warm-compaction", f"compaction {what}, written in no order", rates["compact"],
            "points/s", "writing and syncing as many bytes", rates["write"], samples=times),
        Row("warm-amplification", f"write amplification {what} by {BATCH:,} in order of time",
            amplification["time"], "bytes/byte", note="log and chunks; it has come to rest"),
        Row("warm-amplification-shuffled", f"write amplification {what} by {BATCH:,} in no order",
            amplification["shuffled"], "bytes/byte"),
    ]  # fmt: skip


def _write_and_sync(path: str, size: int) -> float:
    return seconds(lambda: bare.write_and_sync(path, size))


# --- compression -------------------------------------------------------------------------------


def compression(run: Run) -> list[Row]:
    """Sizes, and the speeds of writing and of reading, of vectors with a pattern and without."""
    return [*_compression(run, "noise"), *_compression(run, "walk")]


def _compression(run: Run, pattern: warm_data.Pattern) -> Iterator[Row]:
    sizes = run.sizes.warm
    given = sample(sizes.rows, sizes.entities, pattern)
    windows = given.windows(sizes.reads // 10 + 1, max(1, given.length // 100))
    for kind in COMPRESSIONS:
        began = time.perf_counter()
        with filled(run, given, "time", kind) as store:
            store.compact(timeout=600)
            rate = len(given.points) / (time.perf_counter() - began)
            read: dict[str, Measurement] = {
                "range": mean_ms(ranging(store), windows),
                "scan": partial(_scan_rate, store, given),
            }
            in_turn(read, 1)
            middle = medians(in_turn(read, sizes.long_repetitions))
            size = store.status().live_bytes
        note = (
            f"written until at rest and compacted {rate:,.0f} points/s, "
            f"scanned {middle['scan']:,.0f}, range of {windows[0].rows:,} {middle['range']:.3f} ms"
        )
        yield Row(f"warm-compression-{kind}-{pattern}", f"chunks of {given}, {pattern}, {kind}",
                  size / 2**20, "MiB", "the points", len(given.points) * POINT_BYTES / 2**20,
                  note=note)  # fmt: skip


def _scan_rate(store: holdfast.Warm, given: Sample) -> float:
    return len(given.points) / seconds(store.to_table)
