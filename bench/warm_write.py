"""Writing to warm stores: batches, beside limits and other stores, and single durable points."""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import pyarrow as pa

import holdfast
from holdfast.bench.bare import sync
from holdfast.bench.measure import (
    Measurement,
    Row,
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
from holdfast.bench.warm_data import DIMENSION, SPACE, STEP_US, Columns, Order, Sample, sample
from holdfast.formats.warm_log import encode_write
from holdfast.workers.message import Durability

BATCH = 10_000
_Writing = Callable[[str, Sequence[Columns], Callable[[int], None]], None]
_ORDERS: dict[Order, str] = {"time": "in order of time", "entity": "one entity a batch"}
_LEAST: dict[Durability, float] = {"never": 1_200_000, "always": 800_000}


def batches_never(run: Run) -> list[Row]:
    """``write_batch`` of 10,000 points a call, never synced by order."""
    return list(_all_batches(run, "never"))


def batches_always(run: Run) -> list[Row]:
    """``write_batch`` of 10,000 points a call, each synced before the next."""
    return list(_all_batches(run, "always"))


def _all_batches(run: Run, policy: Durability) -> Iterator[Row]:
    sizes = run.sizes.warm
    many = sample(sizes.rows, sizes.entities)
    yield from _batches(run, policy, "many", many, "time")
    yield from _batches(run, policy, "each", many, "entity")
    yield from _batches(run, policy, "one", sample(sizes.rows, 1), "entity")


def _batches(run: Run, policy: Durability, name: str, given: Sample, order: Order) -> Iterator[Row]:
    pieces = list(given.batches(min(BATCH, given.length * given.entities), order))
    synced = policy == "always"
    measurements: dict[str, Measurement] = {"engine": lambda: _engine(run, policy, pieces)}
    limits: dict[str, _Writing] = {
        "the same bytes": _bytes_written,
        "an encoded log": _log_written,
        "Arrow files": _arrow_written,
    }
    for limit, write in limits.items():
        measurements[limit] = partial(_bare, run, write, pieces, synced=synced)
    measurements["SQLite"] = lambda: _peer(
        run, lambda path: point_stores.Sqlite(path, synced=synced), pieces
    )
    if "DuckDB" in installed(point_stores.READERS):
        measurements["DuckDB"] = lambda: _peer(run, point_stores.DuckDb, pieces)
    samples = in_turn(measurements, run.sizes.warm.long_repetitions)
    middle = medians(samples)
    full = f"write_batch of {len(pieces[0]):,}, {policy}: {given}, {_ORDERS[order]}"
    slug = f"warm-write-{policy}-{name}"
    yield Row(slug, full, middle["engine"], "points/s", budget=at_least(_LEAST[policy]),
              limit=("writing the same bytes", middle["the same bytes"]),
              note=missing(point_stores.READERS), samples=samples)  # fmt: skip
    for other in list(measurements)[1:]:
        tail = other.lower().replace(" ", "-")
        note = "syncs every commit" if other == "DuckDB" and not synced else ""
        yield Row(f"{slug}-{tail}", f"{full}: {other}", middle[other], "points/s", "the engine",
                  middle["engine"], note=note)  # fmt: skip


def _engine(run: Run, policy: Durability, pieces: Sequence[Columns]) -> float:
    with empty(run, policy) as store:
        took = seconds(lambda: write_all(store, pieces))
        count = sum(map(len, pieces))
        assert len(store) == count, "it does not have them all"
    return count / took


def write_all(store: holdfast.Warm, pieces: Sequence[Columns]) -> None:
    """Write batches of any entities, or of one, whichever they are."""
    for piece in pieces:
        if len(piece) and (piece.entities == piece.entities[0]).all():
            store.write(int(piece.entities[0]), SPACE, piece.timestamps, piece.vectors)
        else:
            store.write_batch(SPACE, piece.named())


def _peer(
    run: Run, make: Callable[[str], point_stores.Written], pieces: Sequence[Columns]
) -> float:
    with run.fresh() as directory:
        peer = make(directory)

        def every() -> None:
            for piece in pieces:
                peer.write(piece)

        took = seconds(every)
        peer.close()
    return sum(map(len, pieces)) / took


# --- limits ------------------------------------------------------------------------------------


def _bare(
    run: Run,
    write: _Writing,
    pieces: Sequence[Columns],
    *,
    synced: bool,
) -> float:
    settle = sync if synced else _leave
    with run.fresh() as directory:
        took = seconds(lambda: write(directory, pieces, settle))
    return sum(map(len, pieces)) / took


def _leave(descriptor: int) -> None:
    """Let the system decide when."""


@contextlib.contextmanager
def _appending(directory: str) -> Iterator[int]:
    path = os.path.join(directory, "bytes")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _bytes_written(
    directory: str, pieces: Sequence[Columns], settle: Callable[[int], None]
) -> None:
    with _appending(directory) as descriptor:
        for piece in pieces:
            os.writev(descriptor, piece.pieces)
            settle(descriptor)


def _log_written(directory: str, pieces: Sequence[Columns], settle: Callable[[int], None]) -> None:
    with _appending(directory) as descriptor:
        for number, piece in enumerate(pieces):
            entities, timestamps, vectors = piece.pieces
            os.writev(descriptor, encode_write(number + 1, SPACE, entities, timestamps, vectors))
            settle(descriptor)


def _arrow_written(
    directory: str, pieces: Sequence[Columns], settle: Callable[[int], None]
) -> None:
    """A sorted file a batch."""
    for number, piece in enumerate(pieces):
        table = point_stores.table(piece).sort_by([("entity", "ascending"), ("time", "ascending")])
        path = os.path.join(directory, f"{number}.arrow")
        with open(path, "wb") as file:
            with pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
            file.flush()
            settle(file.fileno())


# --- single points -----------------------------------------------------------------------------


def puts(run: Run) -> list[Row]:
    """A durable point at a time, into a store that is empty and into one that is not."""
    given = sample(run.sizes.warm.rows, run.sizes.warm.entities)
    with contextlib.ExitStack() as stack:
        small = stack.enter_context(empty(run, "always"))
        large = stack.enter_context(empty(run, "always"))
        write_all(large, list(given.batches(BATCH, "time")))
        large.compact()
        descriptor = stack.enter_context(_appending(stack.enter_context(run.fresh())))
        sqlite = point_stores.Sqlite(stack.enter_context(run.fresh()), synced=True)
        stack.callback(sqlite.close)
        calls = run.sizes.warm.puts
        measurements = {
            "small": _calls(_putting(small, given), calls),
            "large": _calls(_putting(large, given), calls),
            "bytes": _calls(_appending_points(descriptor, given), calls),
            "SQLite": _calls(_inserting(sqlite, given), calls),
        }
        in_turn(measurements, 1)
        samples = in_turn(measurements, run.sizes.warm.repetitions)
    middle = medians(samples)
    what = f"a durable put, {len(given.points):,} points there"
    return [
        Row("warm-put", what, middle["large"], "us", "the same into an empty store",
            middle["small"], at_most(1.5), samples=samples),
        Row("warm-put-bytes", what, middle["large"], "us", "append and fdatasync of the bytes",
            middle["bytes"]),
        Row("warm-put-sqlite", f"{what}: SQLite, empty at first", middle["SQLite"], "us",
            "the engine", middle["large"]),
    ]  # fmt: skip


def _calls(work: Callable[[], object], calls: int) -> Measurement:
    return lambda: seconds_per_call(work, calls) * 1e6


def _points(given: Sample) -> Iterator[holdfast.TemporalPoint]:
    """Points that continue the series, of one entity after the other."""
    for number in itertools.count():
        row = (number % given.entities + 1) * given.length - 1
        last = given.point(row)
        yield replace(last, timestamp=last.timestamp + STEP_US * (1 + number // given.entities))


def _putting(store: holdfast.Warm, given: Sample) -> Callable[[], object]:
    points = _points(given)
    return lambda: store.put(SPACE, next(points))


def _appending_points(descriptor: int, given: Sample) -> Callable[[], object]:
    points = _points(given)

    def append() -> None:
        point = next(points)
        os.write(descriptor, bytes(16) + point.vector.tobytes())
        sync(descriptor)

    return append


def _inserting(peer: point_stores.Sqlite, given: Sample) -> Callable[[], object]:
    rows = itertools.cycle(range(len(given.points)))

    def insert() -> None:
        row = next(rows)
        peer.write(given.points.rows(slice(row, row + 1)))

    return insert


# --- common ------------------------------------------------------------------------------------


@contextlib.contextmanager
def empty(run: Run, durability: Durability) -> Iterator[holdfast.Warm]:
    """A new store whose worker is up."""
    with run.fresh() as directory, holdfast.open(directory) as engine:
        store = engine.warm("points", dimension=DIMENSION, durability=durability)
        store.count()
        yield store
