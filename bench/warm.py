"""Reading warm stores: ranges, whole entities, everything, single points, what is nearest."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import psutil

import holdfast
from holdfast.bench.callers import echoing
from holdfast.bench.measure import (
    Measurement,
    Row,
    Samples,
    at_least,
    at_most,
    in_turn,
    medians,
    seconds,
    seconds_per_call,
)
from holdfast.bench.peers import point_stores
from holdfast.bench.peers.kinds import installed, missing
from holdfast.bench.run import Run
from holdfast.bench.warm_data import DIMENSION, POINT_BYTES, SPACE, Order, Sample, Window, sample
from holdfast.bench.warm_write import BATCH, write_all
from holdfast.formats.warm_terms import Compression

ECHOES = 3
GIB = float(1 << 30)
_K = 10
_SETTLE_WAIT_S = 300.0
_LOOK_EVERY_S = 0.1
_QUIET_LOOKS = 3
_QUIET_SHARE = 0.1  # one tick of the system's clock
_RANGE_MS = 0.25
_GET_US = 120.0
_STATES: dict[str, Order] = {"written": "time", "shuffled": "shuffled", "compacted": "time"}


# --- ranges ------------------------------------------------------------------------------------


def ranges(run: Run) -> list[Row]:
    """1 % of one entity, in stores that are compacted, that are not, and elsewhere."""
    sizes = run.sizes.warm
    return [*_ranges(run, "many", sizes.entities), *_ranges(run, "one", 1)]


def _ranges(run: Run, name: str, entities: int) -> Iterator[Row]:
    given = sample(run.sizes.warm.rows, entities)
    windows = given.windows(run.sizes.warm.reads, max(1, given.length // 100))
    notes: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        measurements: dict[str, Measurement] = {}
        for state, order in _STATES.items():
            store = stack.enter_context(filled(run, given, order))
            if state == "compacted":
                store.compact()
            notes[state] = f"{store.status().chunks} chunks"
            measurements[state] = mean_ms(ranging(store), windows)
        for peer in installed(point_stores.READERS):
            made = point_stores.READERS[peer].make(stack.enter_context(run.fresh()), given)
            stack.callback(made.close)
            measurements[peer] = mean_ms(made.range, windows)
        in_turn(measurements, 1)
        samples = in_turn(measurements, run.sizes.warm.repetitions)
    yield from _range_rows(f"warm-range-{name}", given, windows, notes, samples)


def _range_rows(
    slug: str, given: Sample, windows: Sequence[Window], notes: dict[str, str], samples: Samples
) -> Iterator[Row]:
    middle = medians(samples)
    what = f"range of {windows[0].rows:,} of {given}"
    absent = missing(point_stores.READERS)
    limit = ("a mapped Arrow file", middle["mapped Arrow"])
    yield Row(slug, f"{what}, compacted", middle["compacted"], "ms", budget=at_most(_RANGE_MS),
              limit=limit,
              note="; ".join(filter(None, (notes["compacted"], absent))),
              samples=samples)  # fmt: skip
    yield Row(f"{slug}-written", f"{what}, as written by time", middle["written"], "ms",
              budget=at_most(_RANGE_MS), limit=limit, note=notes["written"])  # fmt: skip
    yield Row(f"{slug}-shuffled", f"{what}, as written in no order", middle["shuffled"], "ms",
              "compacted", middle["compacted"], note=notes["shuffled"])  # fmt: skip
    bounds = {"DuckDB": at_most(0.1), "Parquet dataset": at_most(0.1)}
    for peer in point_stores.READERS:
        if peer in middle:
            tail = peer.lower().replace(" ", "-")
            yield Row(f"{slug}-{tail}", f"{what}, compacted", middle["compacted"], "ms",
                      f"{peer} in this process", middle[peer], bounds.get(peer))  # fmt: skip


def ranging(store: holdfast.Warm) -> Callable[[Window], int]:
    """How to read a window of a store."""

    def read(window: Window) -> int:
        found = store.range(
            window.entity, SPACE, window.start, window.end, columns=("timestamp", "vector")
        )
        return int(found.num_rows)

    return read


def mean_ms(read: Callable[[Window], int], windows: Sequence[Window]) -> Measurement:
    """The mean time of reading these windows, each of which has to come whole."""

    def measure() -> float:
        def every() -> None:
            for window in windows:
                assert read(window) == window.rows, "some are missing"

        return seconds(every) / len(windows) * 1e3

    return measure


def whole(run: Run) -> list[Row]:
    """All points of an entity; the limit maps a file and slices it, and has to get there."""
    sizes = run.sizes.warm
    given = sample(sizes.rows, sizes.entities)
    windows = given.windows(sizes.reads, given.length)
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(filled(run, given, "time"))
        store.compact()
        mapped = point_stores.MappedArrow(stack.enter_context(run.fresh()), given, kept=False)
        measurements = {
            "engine": mean_ms(ranging(store), windows),
            "mapped": mean_ms(mapped.range, windows),
            "echo": stack.enter_context(echoing(bytes(100))),
        }
        in_turn(measurements, 1)
        samples = in_turn(measurements, sizes.repetitions)
    middle = medians(samples)
    echo = middle["echo"] / 1e3
    note = f"mapping and slicing {middle['mapped']:.3f} ms, an echo {echo:.3f} ms"
    return [
        Row("warm-whole", f"range of a whole entity of {given}, compacted", middle["engine"], "ms",
            f"mapping an Arrow file and slicing it, and {ECHOES} echoes",
            middle["mapped"] + ECHOES * echo, at_most(1.0), note, samples)
    ]  # fmt: skip


# --- everything --------------------------------------------------------------------------------


def scan(run: Run) -> list[Row]:
    """All points in one table, by a worker that has just started and by one that has not."""
    sizes = run.sizes.warm
    given = sample(sizes.rows, sizes.entities)
    with run.fresh() as directory:
        with holdfast.open(directory) as engine:
            store = engine.warm("points", dimension=DIMENSION, durability="never")
            write_all(store, list(given.batches(BATCH, "time")))
            store.compact()
        with holdfast.open(directory) as engine:
            store = engine.warm("points")
            size = store.to_table().nbytes
            source = np.ones(size, np.uint8)
            target = np.zeros_like(source)
            measurements: dict[str, Measurement] = {
                "first": lambda: size / _first_scan(engine, given) / GIB,
                "later": lambda: size / seconds(lambda: _scanned(store, given)) / GIB,
                "copied": lambda: (
                    size / seconds(lambda: _scanned(store, given).combine_chunks()) / GIB
                ),
                "memcpy": lambda: size / seconds(lambda: np.copyto(target, source)) / GIB,
                "fresh": lambda: size / seconds(source.copy) / GIB,
            }
            samples = in_turn(measurements, sizes.repetitions)
    middle = medians(samples)
    what = f"scan of {given} into one table"
    note = "a worker's first scan checks every block; nothing is copied"
    against, bound = "copying as many bytes", at_least(0.5)
    return [
        Row("warm-scan-first", f"{what}, the first of a worker", middle["first"], "GiB/s", against,
            middle["memcpy"], bound, note, samples),
        Row("warm-scan", f"{what}, a later one", middle["later"], "GiB/s", against,
            middle["memcpy"], bound),
        Row("warm-scan-copied", f"{what}, a later one, copied into one piece", middle["copied"],
            "GiB/s", "copying as many bytes to new memory", middle["fresh"]),
    ]  # fmt: skip


def _first_scan(engine: holdfast.Engine, given: Sample) -> float:
    engine.restart("points")
    store = engine.warm("points")
    store.count()
    return seconds(lambda: _scanned(store, given))


def _scanned(store: holdfast.Warm, given: Sample) -> Any:
    table = store.to_table()
    assert table.num_rows == len(given.points), "some are missing"
    return table


# --- single points -----------------------------------------------------------------------------


def gets(run: Run) -> list[Row]:
    """``get`` in series of different lengths in one store."""
    lengths = run.sizes.warm.lengths
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(run.fresh())
        engine = stack.enter_context(holdfast.open(directory))
        measurements: dict[str, Measurement] = {}
        for length in lengths:
            given = sample(length, 1)
            store = engine.warm(f"of-{length}", dimension=DIMENSION, durability="never")
            write_all(store, list(given.batches(BATCH, "entity")))
            store.compact()
            measurements[str(length)] = _getting(store, given, run.sizes.warm.reads)
        measurements["echo"] = stack.enter_context(echoing(bytes(POINT_BYTES)))
        in_turn(measurements, 1)
        samples = in_turn(measurements, run.sizes.warm.repetitions)
    middle = medians(samples)
    rows = [
        Row(f"warm-get-{length}", f"get in a series of {length:,}", middle[str(length)], "us",
            budget=at_most(_GET_US), limit=("an echo of a point over a pipe", middle["echo"]),
            samples=samples)
        for length in lengths
    ]  # fmt: skip
    first, last = lengths[0], lengths[-1]
    growth = Row("warm-get-growth", f"get in a series of {last:,}", middle[str(last)], "us",
                 f"in one of {first:,}", middle[str(first)], at_most(1.5))  # fmt: skip
    return [*rows, growth]


def _getting(store: holdfast.Warm, given: Sample, calls: int) -> Measurement:
    rng = np.random.default_rng(4)
    points = [given.point(int(row)) for row in rng.integers(0, len(given.points), calls)]
    turns = itertools.cycle(points)

    def get() -> None:
        point = next(turns)
        found = store.get(point.entity, SPACE, point.timestamp)
        assert found is not None, "it is not there"

    return lambda: seconds_per_call(get, calls) * 1e6


# --- what is nearest ---------------------------------------------------------------------------


def nearest(run: Run) -> list[Row]:
    """The 10 nearest in a window of a tenth of all time, against numpy with the same points."""
    sizes = run.sizes.warm
    given = sample(sizes.rows, sizes.entities)
    query = np.random.default_rng(5).standard_normal(DIMENSION).astype(np.float32)
    times = given.series(1).timestamps
    start, end = int(times[len(times) // 2]), int(times[len(times) // 2 + len(times) // 10])
    inside = (given.points.timestamps >= start) & (given.points.timestamps <= end)
    vectors = given.points.vectors[inside]
    norms = np.einsum("ij,ij->i", vectors, vectors)

    def product() -> float:
        return float(np.partition(norms - 2 * (vectors @ query), _K - 1)[:_K].max())

    with filled(run, given, "time") as store:
        store.compact()
        found = store.nearest(query, _K, start, end)
        reach = float(found["distance"].to_numpy().max())
        assert abs(reach - product() - float(query @ query)) < 1e-3, "others are nearer"
        measurements: dict[str, Measurement] = {
            "engine": lambda: seconds(lambda: store.nearest(query, _K, start, end)) * 1e3,
            "numpy": lambda: seconds(product) * 1e3,
        }
        in_turn(measurements, 1)
        samples = in_turn(measurements, sizes.repetitions)
    middle = medians(samples)
    return [
        Row("warm-nearest", f"{_K} nearest of {len(vectors):,} in a window of {given}",
            middle["engine"], "ms", "the product with these in this process", middle["numpy"],
            samples=samples)
    ]  # fmt: skip


# --- common ------------------------------------------------------------------------------------


@contextlib.contextmanager
def filled(
    run: Run, given: Sample, order: Order, compression: Compression = "none"
) -> Iterator[holdfast.Warm]:
    """A new store with these points, as it comes to rest."""
    with run.fresh() as directory, holdfast.open(directory) as engine:
        store = engine.warm(
            "points", dimension=DIMENSION, durability="never", compression=compression
        )
        write_all(store, list(given.batches(BATCH, order)))
        settle(store)
        yield store


def settle(store: holdfast.Warm | holdfast.Fold | holdfast.Vectors | holdfast.Index) -> None:
    """Wait until upkeep has nothing to do: until the worker takes no more time of any core."""
    process = psutil.Process(store.status().pid)
    quiet = 0
    give_up = time.monotonic() + _SETTLE_WAIT_S
    while quiet < _QUIET_LOOKS:
        if time.monotonic() > give_up:
            raise TimeoutError(f"{store.path} does not come to rest in {_SETTLE_WAIT_S:g} s")
        before = process.cpu_times()
        time.sleep(_LOOK_EVERY_S)
        after = process.cpu_times()
        worked = after.user + after.system - before.user - before.system
        quiet = quiet + 1 if worked <= _QUIET_SHARE * _LOOK_EVERY_S else 0
