"""A small warm store in known files, and every way of reading it with what is right."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pytest

from holdfast.bench.faults import MemoryDisk
from holdfast.formats.errors import StoreCorrupt
from holdfast.formats.limits import GIB
from holdfast.formats.points import (
    TIME_MAX,
    TIME_MIN,
    Points,
    metadata_array,
    metadata_from_ipc,
    metadata_to_ipc,
    rows_of_metadata,
)
from holdfast.formats.warm_terms import Compression
from holdfast.workers import warm_answers, warm_queries
from holdfast.workers import warm_messages as wm
from holdfast.workers.actor import Caller
from holdfast.workers.disk import Disk
from holdfast.workers.message import Durability
from holdfast.workers.messages import Done, Reply, Request, StoreSpec
from holdfast.workers.raw_arrays import raw
from holdfast.workers.warm import WarmActor, open_warm
from holdfast.workers.warm_files import WarmFiles

R = TypeVar("R")

PATH = "/data/w.warm"
FILES = WarmFiles(PATH)
DIMENSION = 2

Key = tuple[int, int, int]
"""Space, entity, timestamp."""
Row = tuple[bytes, dict[str, str]]
"""A vector's bytes, and metadata."""
State = dict[Key, Row]
Look = Callable[[Disk, WarmActor], object]


def tick() -> None:
    """Nobody watches whether a test makes progress."""


def opened(
    disk: Disk,
    path: str = PATH,
    durability: Durability = "always",
    compression: Compression | None = None,
) -> WarmActor:
    """The store at ``path``, recovered or made."""
    options = wm.WarmOptions(DIMENSION, compression)
    spec = StoreSpec(
        "w", "warm", path, durability=durability, interval_s=3600.0, options=options
    )  # fmt: skip
    return open_warm(disk, spec, tick)


def ask(
    actor: WarmActor,
    request: Request,
    kind: type[R],
    caller: Caller = Caller(99, 0),  # noqa: B008  # a value
) -> R:
    """The reply to ``request``, long work done to its end, of the kind expected."""
    outcome = actor.handle(request, caller)
    if not isinstance(outcome, Reply):
        while True:
            try:
                next(outcome)
            except StopIteration as finished:
                outcome = finished.value
                break
    assert isinstance(outcome, kind)
    return outcome


def flush(actor: WarmActor) -> None:
    """Have everything written to chunks."""
    ask(actor, wm.WarmFlush(), Done)


def with_small_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rows are mapped by readers already, and none of a compressed chunk."""
    monkeypatch.setattr(warm_answers, "MAPPED_BYTES_MIN", 60)
    monkeypatch.setattr(warm_queries, "MAPPED_BYTES_MIN", 60)
    monkeypatch.setattr(warm_answers, "_COMPRESSED_WORTH", GIB)


# --- what is in it ------------------------------------------------------------------------------


def row(x: float, y: float = 0.5, **metadata: str) -> Row:
    """A row as a test writes it."""
    return np.array([x, y], "<f4").tobytes(), metadata


class Write(NamedTuple):
    """Write points of a space: (entity, timestamp) and row."""

    space: int
    rows: dict[tuple[int, int], Row]

    def send(self, actor: WarmActor, caller: Caller) -> None:
        """Have it done."""
        keys, rows = list(self.rows), list(self.rows.values())
        vectors = np.frombuffer(b"".join(vector for vector, _ in rows), "<f4")
        maps = [metadata for _, metadata in rows]
        request = wm.WarmWrite(
            self.space,
            raw(np.array([entity for entity, _ in keys], np.uint64)),
            raw(np.array([time for _, time in keys], np.int64)),
            raw(vectors),
            memoryview(metadata_to_ipc(metadata_array(maps) if any(maps) else None)),
        )
        ask(actor, request, wm.WarmWritten, caller)

    def after(self, state: State) -> State:
        """What it makes of a state."""
        return state | {(self.space, *key): row for key, row in self.rows.items()}


class Delete(NamedTuple):
    """Delete a range of one series."""

    space: int
    entity: int
    start: int
    end: int

    def send(self, actor: WarmActor, caller: Caller) -> None:
        """Have it done."""
        ask(actor, wm.WarmDeleteRange(*self), wm.WarmDeleted, caller)

    def after(self, state: State) -> State:
        """What it makes of a state."""
        space, entity, start, end = self
        gone = {k for k in state if k[:2] == (space, entity) and start <= k[2] <= end}
        return {key: row for key, row in state.items() if key not in gone}


Change = Write | Delete
FIRST: tuple[Change, ...] = (
    Write(0, {(1, time): row(time, n=str(time)) for time in range(10)}),
    Write(0, {(2, time): row(-time) for time in range(5)}),
    Write(3, {(1, time): row(time, 3, ü="") for time in range(3)}),
)
"""Chunk 1."""
SECOND: tuple[Change, ...] = (
    Write(0, {(1, time): row(time, 7, again="yes") for time in range(8, 13)}),
    Write(0, {(5, time): row(time, 5) for time in range(100, 104)}),
    Write((1 << 32) - 1, {((1 << 64) - 1, time): row(0) for time in (TIME_MIN, 0, TIME_MAX)}),
    Delete(0, 2, 3, 3),
)
"""Chunk 2; file 3 has the dead rows of chunk 1."""
LOGGED: tuple[Change, ...] = (
    Write(0, {(1, 20): row(20, a="b"), (1, 21): row(21)}),
    Delete(0, 5, 100, 101),
    Write(3, {(1, 1): row(9, 9)}),
)
"""In the log only."""


def states_of(*changes: Change) -> list[State]:
    """The states gone through, beginning with nothing."""
    states: list[State] = [{}]
    for change in changes:
        states.append(change.after(states[-1]))
    return states


FLUSHED = states_of(*FIRST, *SECOND)[-1]
"""What the chunks of the store hold."""
STATES = states_of(*FIRST, *SECOND, *LOGGED)[len(FIRST) + len(SECOND) :]
"""From that on, what it holds after each record of the log."""


def build(
    disk: MemoryDisk,
    *,
    logged: tuple[Change, ...] = LOGGED,
    path: str = PATH,
    compression: Compression | None = None,
) -> WarmActor:
    """Make the store: two chunks, dead rows of the first, and ``logged``. Committed, and open."""
    actor = opened(disk, path, compression=compression)
    number = 0
    for part in (FIRST, SECOND):
        for change in part:
            change.send(actor, Caller(1, number := number + 1))
        flush(actor)
    for change in logged:
        change.send(actor, Caller(1, number := number + 1))
    actor.commit()
    return actor


# --- every way of reading -----------------------------------------------------------------------


def _rows(disk: Disk, reply: wm.WarmRows, space: int = 0, entity: int = 0) -> State:
    """Points of a reply, those in a chunk read from its file as a caller would."""
    found: list[tuple[Key, Row]] = []
    for segment in reply.segments:
        if isinstance(segment, wm.RowsInChunk):
            points = _mapped(disk, segment)
        else:
            times = np.frombuffer(segment.timestamps, "<i8")
            count = len(times)
            points = Points(
                np.frombuffer(segment.spaces, "<u4") if segment.spaces else np.full(count, space),
                np.frombuffer(segment.entities, "<u8")
                if segment.entities
                else np.full(count, entity),
                times,
                np.frombuffer(segment.vectors, "<f4").reshape(count, DIMENSION),
                metadata_from_ipc(segment.metadata, count),
            )
        found += items_of(points)
    assert len(dict(found)) == len(found), "each key once"
    assert list(dict(found)) == [key for key, _ in sorted(found, key=lambda item: item[0])]
    return dict(found)


def _mapped(disk: Disk, segment: wm.RowsInChunk) -> Points:
    file = disk.open(FILES.chunk(segment.chunk))
    try:
        batch = pa.ipc.open_file(pa.py_buffer(file.map())).get_batch(0)
    finally:
        file.close()
    batch = batch.slice(segment.start, segment.stop - segment.start)
    return Points(
        batch.column("space").to_numpy(),
        batch.column("entity").to_numpy(),
        batch.column("timestamp").to_numpy(),
        batch.column("vector").flatten().to_numpy().reshape(-1, DIMENSION),
        batch.column("metadata"),
    )


def items_of(points: Points) -> list[tuple[Key, Row]]:
    """Points as rows with their keys, in order."""
    columns = (points.spaces, points.entities, points.timestamps)
    keys = zip(*(column.tolist() for column in columns), strict=True)
    vectors = [np.ascontiguousarray(vector).tobytes() for vector in points.vectors]
    maps = rows_of_metadata(points.metadata, len(points))
    return list(zip(keys, zip(vectors, maps, strict=True), strict=True))


def scanned(disk: Disk, actor: WarmActor, *, mapped: bool = True) -> State:
    """Everything, as a scan gives it."""
    found: State = {}
    after, more = None, True
    while more:
        page = ask(actor, wm.WarmScan(after, mapped=mapped), wm.WarmRows)
        rows = _rows(disk, page)
        assert not rows.keys() & found.keys()
        assert not found or not rows or max(found) < min(rows)
        found |= rows
        after, more = page.last, page.more
    return found


def _ranged(space: int, entity: int, start: int, end: int, *, mapped: bool) -> Look:
    request = wm.WarmRange(space, raw(np.array([entity], np.uint64)), start, end, mapped=mapped)
    return lambda disk, actor: _rows(disk, ask(actor, request, wm.WarmRows), space, entity)


def _point(request: wm.WarmGet | wm.WarmLatest) -> Look:
    def look(disk: Disk, actor: WarmActor) -> object:
        found = ask(actor, request, wm.WarmPoint)
        return found.vector and (found.timestamp, found.vector.tobytes(), found.metadata)

    return look


def _series(disk: Disk, actor: WarmActor) -> object:
    page = ask(actor, wm.WarmSeries(), wm.WarmSeriesAre)
    forms = zip(("<u4", "<u8", "<i8", "<i8", "<i8"),
                (page.spaces, page.entities, page.counts, page.first_times, page.last_times),
                strict=True)  # fmt: skip
    return list(zip(*(np.frombuffer(data, form).tolist() for form, data in forms), strict=True))


def _nearest(disk: Disk, actor: WarmActor) -> object:
    query = raw(np.array([4.2, 4.5], np.float32))
    hits = ask(actor, wm.WarmNearest(query, 3, "l2", TIME_MIN, TIME_MAX), wm.WarmHits)
    forms = zip(("<u4", "<u8", "<i8"), (hits.spaces, hits.entities, hits.timestamps), strict=True)
    return list(zip(*(np.frombuffer(data, form).tolist() for form, data in forms), strict=True))


def _nearest_in(state: State) -> list[Key]:
    def distance(item: tuple[Key, Row]) -> tuple[float, Key]:
        x, y = np.frombuffer(item[1][0], "<f4").tolist()
        return (x - 4.2) ** 2 + (y - 4.5) ** 2, item[0]

    return [key for key, _ in sorted(state.items(), key=distance)[:3]]


def reads(state: State) -> list[tuple[str, Look, object]]:
    """Ways of reading a store that holds ``state``, each with its name and what is right."""
    ordered = dict(sorted(state.items()))
    found: list[tuple[str, Look, object]] = [
        ("scan mapped", scanned, ordered),
        ("scan sent", lambda disk, actor: scanned(disk, actor, mapped=False), ordered),
        ("count", lambda disk, actor: ask(actor, wm.WarmCount(), wm.WarmCounted).points,
         len(state)),
        ("nearest", _nearest, _nearest_in(state)),
    ]  # fmt: skip
    series: dict[tuple[int, int], list[int]] = {}
    for space, entity, time in ordered:
        series.setdefault((space, entity), []).append(time)
    listed = [(*key, len(times), times[0], times[-1]) for key, times in series.items()]
    found.append(("series", _series, listed))
    for (space, entity), times in series.items():
        name = f"{space}/{entity}"
        for start, end in ((TIME_MIN, TIME_MAX), (times[0] + 1, times[-1] - 1)):
            rows = {
                key: row
                for key, row in ordered.items()
                if key[:2] == (space, entity) and start <= key[2] <= end
            }
            found += [
                (f"range {name}", _ranged(space, entity, start, end, mapped=mapped), rows)
                for mapped in (True, False)
            ]
        last = ordered[space, entity, times[-1]]
        found.append((f"latest {name}", _point(wm.WarmLatest(space, entity, TIME_MAX)),
                      (times[-1], *last)))  # fmt: skip
    for key, (vector, metadata) in ordered.items():
        space, entity, time = key
        found.append((f"get {space}/{entity}", _point(wm.WarmGet(*key)), (time, vector, metadata)))
    for absent in ((0, 2, 3), (0, 1, 99), (1, 1, 1), (9, 9, 9)):
        assert absent not in ordered
        found.append(("get absent", _point(wm.WarmGet(*absent)), None))
    return found


def checked(error: StoreCorrupt) -> StoreCorrupt:
    """The error, which says what is wrong where."""
    assert error.path
    assert error.reason
    assert error.path in str(error)
    return error


def look_at(disk: Disk, actor: WarmActor, state: State) -> dict[str, StoreCorrupt]:
    """Read in every way: what is right, or an error that names a file. Returns the errors."""
    errors: dict[str, StoreCorrupt] = {}
    for name, look, right in reads(state):
        try:
            found = look(disk, actor)
        except StoreCorrupt as error:
            errors[name] = checked(error)
            continue
        assert found == right, name
        if isinstance(found, dict) and isinstance(right, dict):
            assert list(found) == list(right), name
    return errors
