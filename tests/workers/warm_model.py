"""What a warm store must hold, as a plain dictionary, and how a test talks to its actor."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from holdfast.bench.faults import Crash
from holdfast.formats.errors import HoldfastError
from holdfast.formats.points import (
    METADATA,
    TIME_MAX,
    TIME_MIN,
    metadata_array,
    metadata_from_ipc,
    metadata_to_ipc,
    no_metadata,
    rows_of_metadata,
)
from holdfast.formats.rvf.terms import Metric
from holdfast.formats.warm_chunk import ENTITY, SPACE, TIMESTAMP, VECTOR
from holdfast.formats.warm_terms import Compression
from holdfast.workers import (
    warm,
    warm_answers,
    warm_merge,
    warm_policy,
    warm_queries,
    warm_table,
    warm_tail,
    warm_writing,
)
from holdfast.workers import warm_messages as wm
from holdfast.workers.actor import Caller
from holdfast.workers.disk import Disk
from holdfast.workers.message import Durability
from holdfast.workers.messages import Reply, Request, StoreSpec
from holdfast.workers.raw_arrays import raw
from holdfast.workers.warm import WarmActor, open_warm
from holdfast.workers.warm_files import WarmFiles, is_numbered
from tests.workers.vector_model import POLICIES, READER, distance, tick

__all__ = ["POLICIES", "READER"]

R = TypeVar("R")

PATH = "/data/w.warm"
DIMENSION = 2
PAGE_ROWS = 3

Key = tuple[int, int, int]
"""Space, entity, timestamp."""


def warm_spec(
    path: str = PATH, durability: Durability = "always", compression: Compression | None = None
) -> StoreSpec:
    """How the tests open a store; an interval is never over within a test."""
    options = wm.WarmOptions(DIMENSION, compression)
    return StoreSpec(
        "w", "warm", path, durability=durability, interval_s=3600.0, options=options
    )  # fmt: skip


def opened(
    disk: Disk,
    path: str = PATH,
    durability: Durability = "always",
    compression: Compression | None = None,
) -> WarmActor:
    """The store at ``path``, recovered."""
    return open_warm(disk, warm_spec(path, durability, compression), tick)


def with_small_limits(monkeypatch: pytest.MonkeyPatch, *, by_time: bool = False) -> None:
    """Have a few points do what takes thousands otherwise: flushes, merges, pages, mapped spans.

    ``by_time`` has every run count as a large one, of which only those are merged that overlap.
    """
    for module, name, value in (
        (warm, "_RETRY_S", 0.0),
        (warm, "_WORTH_A_CHUNK_ROWS", 6),
        (warm_policy, "FLUSH_ROWS", 12),
        (warm_policy, "DEAD_BYTES_MIN", 1500),
        (warm_policy, "_LARGE_CLASS", -6 if by_time else 4),
        (warm_tail, "_ROWS_MAX", 4),
        (warm_table, "_TAIL_BATCH_ROWS_MAX", 2),
        (warm_table, "_FORGOTTEN_ONE_BY_ONE_MAX", 2),
        (warm_table, "_CACHED_SERIES_MAX", 5),
        (warm_merge, "_SLICE_ROWS", 4),
        (warm_merge, "CHUNK_ROWS_MAX", 7),
        (warm_writing, "_WRITE_BYTES", 512),
        (warm_writing, "_SYNC_EVERY_BYTES", 1024),
        (warm_queries, "_SLICE_ROWS", 3),
        (warm_queries, "_PAGE_STEPS", 2),
        (warm_queries, "_SERIES_PAGE", 2),
        (warm_queries, "_NEAREST_ROWS", 3),
        (warm_queries, "MAPPED_BYTES_MIN", 60),
        (warm_answers, "MAPPED_BYTES_MIN", 60),
        (warm_answers, "_COMPRESSED_WORTH", 1),
    ):
        monkeypatch.setattr(module, name, value)


# --- what a store holds ------------------------------------------------------------------------


class Point(NamedTuple):
    """A vector and its metadata."""

    vector: tuple[float, ...]
    metadata: tuple[tuple[str, str], ...] = ()


State = Mapping[Key, Point]
"""Every point by its key."""


def point(x: float, y: float = 0.0, **metadata: str) -> Point:
    """A point's values."""
    return Point((float(x), float(y)), tuple(sorted(metadata.items())))


class Op:
    """A write: its request, what it does to a state, what its reply must say."""

    def request(self) -> wm.WarmWrite | wm.WarmDelete | wm.WarmDeleteRange:
        """As it travels."""
        raise NotImplementedError

    def after(self, state: State) -> State:
        """The state once it took effect."""
        raise NotImplementedError

    def changes(self, state: State) -> bool:
        """Whether it leaves a trace: one that does not is done anew when it is sent again."""
        return self.after(state) != state

    def reply(self, before: State) -> wm.WarmWritten | wm.WarmDeleted:
        """What it is to be answered with."""
        return wm.WarmDeleted(len(before) - len(self.after(before)))


@dataclass(frozen=True)
class Write(Op):
    """Add points of one space; of equal keys the last counts."""

    space: int
    points: tuple[tuple[int, int, Point], ...]
    """Entity, timestamp, values."""

    def request(self) -> wm.WarmWrite:
        entities = sorted({entity for entity, _, _ in self.points})
        ids = entities if len(entities) == 1 else [entity for entity, _, _ in self.points]
        vectors = np.array([found.vector for _, _, found in self.points], np.float32)
        rows = [dict(found.metadata) for _, _, found in self.points]
        return wm.WarmWrite(
            self.space,
            raw(np.array(ids, np.uint64)),
            raw(np.array([time for _, time, _ in self.points], np.int64)),
            raw(vectors),
            memoryview(metadata_to_ipc(metadata_array(rows) if any(rows) else None)),
        )

    def after(self, state: State) -> State:
        return {**state, **self._by_key()}

    def changes(self, state: State) -> bool:
        return bool(self.points)

    def reply(self, before: State) -> wm.WarmWritten:
        return wm.WarmWritten(len(self.points), len(self._by_key().keys() & before.keys()))

    def _by_key(self) -> dict[Key, Point]:
        return {(self.space, entity, time): found for entity, time, found in self.points}


@dataclass(frozen=True)
class Delete(Op):
    """Delete points by key."""

    space: int
    keys: tuple[tuple[int, int], ...]
    """Entity, timestamp."""

    def request(self) -> wm.WarmDelete:
        return wm.WarmDelete(
            self.space,
            raw(np.array([entity for entity, _ in self.keys], np.uint64)),
            raw(np.array([time for _, time in self.keys], np.int64)),
        )

    def after(self, state: State) -> State:
        gone = {(self.space, *key) for key in self.keys}
        return {key: found for key, found in state.items() if key not in gone}


@dataclass(frozen=True)
class DeleteRange(Op):
    """Delete a range of time, of one series or, where None, of all."""

    space: int | None
    entity: int | None
    start: int
    end: int

    def request(self) -> wm.WarmDeleteRange:
        return wm.WarmDeleteRange(self.space, self.entity, self.start, self.end)

    def after(self, state: State) -> State:
        return {key: found for key, found in state.items() if not self._covers(key)}

    def _covers(self, key: Key) -> bool:
        space, entity, time = key
        return (
            self.space in (None, space)
            and self.entity in (None, entity)
            and self.start <= time <= self.end
        )


# --- asking ------------------------------------------------------------------------------------


def ask(actor: WarmActor, request: Request, kind: type[R], caller: Caller = READER) -> R:
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


def do(actor: WarmActor, op: Op, caller: Caller, before: State) -> wm.WarmWritten | wm.WarmDeleted:
    """Have a write done; its reply is right."""
    reply = ask(actor, op.request(), wm.WarmWritten | wm.WarmDeleted, caller)  # type: ignore[arg-type]  # a union will do
    assert reply == op.reply(before)
    return reply


class Rows(NamedTuple):
    """Points of a reply in their order; keys are without those parts that were not sent."""

    keys: list[Key]
    points: list[Point]

    def items(self) -> list[tuple[Key, Point]]:
        """Keys with values."""
        return list(zip(self.keys, self.points, strict=True))


def rows_in(disk: Disk, reply: wm.WarmRows, space: int = 0, entity: int = 0) -> Rows:
    """Points of a reply, those in a chunk read from its file; of one series if it says none."""
    rows = Rows([], [])
    for segment in reply.segments:
        if isinstance(segment, wm.RowsInChunk):
            batch = _batch(disk, segment)
            columns = [batch.column(name).to_pylist() for name in (SPACE, ENTITY, TIMESTAMP)]
            vectors: Sequence[Sequence[float]] = batch.column(VECTOR).to_pylist()
            metadata = batch.column(METADATA)
        else:
            times = np.frombuffer(segment.timestamps, "<i8").tolist()
            spaces = np.frombuffer(segment.spaces, "<u4").tolist() or [space] * len(times)
            entities = np.frombuffer(segment.entities, "<u8").tolist() or [entity] * len(times)
            columns = [spaces, entities, times]
            flat = np.frombuffer(segment.vectors, "<f4")
            vectors = flat.reshape(len(times), DIMENSION).tolist()
            found = metadata_from_ipc(segment.metadata, len(times))
            metadata = no_metadata(len(times)) if found is None else found
        keys = list(zip(*columns, strict=True))
        assert keys, "no segment is empty"
        rows.keys.extend(keys)
        rows.points.extend(_points(vectors, metadata))
    return rows


def _batch(disk: Disk, segment: wm.RowsInChunk) -> pa.RecordBatch:
    file = disk.open(WarmFiles(PATH).chunk(segment.chunk))
    try:
        batch = pa.ipc.open_file(pa.py_buffer(file.map())).get_batch(0)
    finally:
        file.close()
    assert 0 <= segment.start < segment.stop <= batch.num_rows
    return batch.slice(segment.start, segment.stop - segment.start)


def _points(vectors: Sequence[Sequence[float]], metadata: pa.MapArray) -> Iterator[Point]:
    maps = rows_of_metadata(metadata, len(vectors))
    for vector, found in zip(vectors, maps, strict=True):
        yield Point(tuple(vector), tuple(sorted(found.items())))


def range_request(
    entities: Sequence[int], space: int, start: int = TIME_MIN, end: int = TIME_MAX, **more: object
) -> wm.WarmRange:
    """A request for a range."""
    return wm.WarmRange(space, raw(np.array(entities, np.uint64)), start, end, **more)  # type: ignore[arg-type]  # for tests


def pages(actor: WarmActor, limit: int, *, mapped: bool = True) -> Iterator[wm.WarmRows]:
    """The pages of a scan."""
    after, more = None, True
    while more:
        page = ask(actor, wm.WarmScan(after, limit, mapped=mapped), wm.WarmRows)
        yield page
        more, after = page.more, page.last


def state_of(disk: Disk, actor: WarmActor) -> State:
    """All that the actor answers with, asked for in several ways."""
    rows: list[tuple[Key, Point]] = []
    for page in pages(actor, PAGE_ROWS):
        rows += rows_in(disk, page).items()
    keys = [key for key, _ in rows]
    assert keys == sorted(set(keys)), "in order of key, each once"
    state = dict(rows)
    sent = [rows_in(disk, page, 0, 0).items() for page in pages(actor, 0, mapped=False)]
    assert list(itertools.chain(*sent)) == rows
    assert ask(actor, wm.WarmCount(), wm.WarmCounted).points == len(state)
    series = _series_of(actor)
    assert series == series_in(state)
    for space, entity, _, _, _ in series:
        reply = ask(actor, range_request([entity], space), wm.WarmRows)
        found = rows_in(disk, reply, space, entity).items()
        assert found == [item for item in rows if item[0][:2] == (space, entity)]
    return state


def get(actor: WarmActor, key: Key) -> Point | None:
    """The point of a key."""
    return point_in(ask(actor, wm.WarmGet(*key), wm.WarmPoint))


def point_in(reply: wm.WarmPoint) -> Point | None:
    """The values of a point in a reply."""
    if reply.vector is None:
        return None
    vector: NDArray[np.float32] = np.frombuffer(reply.vector, "<f4")
    return Point(tuple(vector.tolist()), tuple(sorted(reply.metadata.items())))


SeriesRow = tuple[int, int, int, int, int]
"""Space, entity, count, first and last time."""


def _series_of(actor: WarmActor) -> list[SeriesRow]:
    rows: list[SeriesRow] = []
    after, more = None, True
    while more:
        page = ask(actor, wm.WarmSeries(None, after), wm.WarmSeriesAre)
        rows += series_rows(page)
        after, more = rows[-1][:2] if rows else None, page.more
    return rows


def series_rows(page: wm.WarmSeriesAre) -> list[SeriesRow]:
    """The series of a page."""
    columns = [
        np.frombuffer(page.spaces, "<u4"),
        np.frombuffer(page.entities, "<u8"),
        np.frombuffer(page.counts, "<i8"),
        np.frombuffer(page.first_times, "<i8"),
        np.frombuffer(page.last_times, "<i8"),
    ]
    return list(zip(*(column.tolist() for column in columns), strict=True))


def series_in(state: State) -> list[SeriesRow]:
    """The series of a state."""
    found = []
    for series, keys in itertools.groupby(sorted(state), lambda key: key[:2]):
        times = [time for _, _, time in keys]
        found.append((*series, len(times), times[0], times[-1]))
    return found


def check_nearest(
    actor: WarmActor,
    state: State,
    query: Sequence[float],
    k: int,
    metric: Metric = "l2",
    *,
    start: int = TIME_MIN,
    end: int = TIME_MAX,
    space: int | None = None,
    entities: Sequence[int] | None = None,
) -> None:
    """Assert that the nearest points are those that measuring all of them gives."""
    request = wm.WarmNearest(
        raw(np.array(query, np.float32)), k, metric, start, end, space,
        None if entities is None else raw(np.array(entities, np.uint64)),
    )  # fmt: skip
    hits = ask(actor, request, wm.WarmHits)
    keys = list(
        zip(
            np.frombuffer(hits.spaces, "<u4").tolist(),
            np.frombuffer(hits.entities, "<u8").tolist(),
            np.frombuffer(hits.timestamps, "<i8").tolist(),
            strict=True,
        )
    )
    counted = {
        key: found
        for key, found in state.items()
        if start <= key[2] <= end
        and space in (None, key[0])
        and (entities is None or key[1] in entities)
    }
    right = {key: distance(metric, query, found.vector) for key, found in counted.items()}
    best = sorted((float(np.float32(far)), key) for key, far in right.items())[:k]
    distances = np.frombuffer(hits.distances, "<f4").tolist()
    if metric == "cosine":  # the last bit may differ, and with it the order
        assert distances == pytest.approx([far for far, _ in best], rel=1e-5, abs=1e-6)
        assert distances == pytest.approx([right[key] for key in keys], rel=1e-5, abs=1e-6)
    else:
        assert list(zip(distances, keys, strict=True)) == best
    vectors = np.frombuffer(hits.vectors, "<f4").reshape(len(keys), DIMENSION).tolist()
    metadata = metadata_from_ipc(hits.metadata, len(keys)) or no_metadata(len(keys))
    assert list(_points(vectors, metadata)) == [counted[key] for key in keys]


def let_go(actor: WarmActor) -> None:
    """Have a dead process's work come to nothing now, and not whenever it is collected."""
    for work in (actor._flush, actor._compaction, actor._asked):
        if work is not None:
            with contextlib.suppress(Crash):
                work.close()


def stray_files(disk: Disk, actor: WarmActor) -> list[str]:
    """Numbered files in the store's directory that its manifest does not list."""
    files = WarmFiles(PATH)
    listed = {
        path
        for chunk in actor._store.manifest.chunks
        for path in actor._store._files_of(chunk)
    }  # fmt: skip
    names = [name for name, _ in disk.list(PATH) if is_numbered(name)]
    return sorted(name for name in names if files.path(name) not in listed)


# --- what was sent and answered ----------------------------------------------------------------


class Sent(NamedTuple):
    """A write that was handed to the actor; ``reply`` is None while it is being handled."""

    caller: Caller
    op: Op
    before: State
    reply: wm.WarmWritten | wm.WarmDeleted | None


@dataclass
class History:
    """What was sent and answered, and so what may be there after what kind of end."""

    durability: Durability = "always"
    first: State = field(default_factory=dict)
    sent: list[Sent] = field(default_factory=list)
    answered: int = 0
    """How many of those were answered."""
    durable: int = 0
    """How many of those a power loss must not undo."""
    closed: int = 0
    """How many of those nobody will send again."""
    requests: int = 0

    @property
    def state(self) -> State:
        """Everything handled took effect."""
        return self.states()[-1]

    def states(self) -> list[State]:
        """The states gone through; the last one may be that of a write that is being handled."""
        return [self.first, *(sent.op.after(sent.before) for sent in self.sent)]

    def send(self, actor: WarmActor, op: Op) -> object:
        """Hand a write to the actor; it is unanswered until ``commit``."""
        self.requests += 1
        caller, before = Caller(7, self.requests), self.state
        self.sent.append(Sent(caller, op, before, None))
        try:
            reply = do(actor, op, caller, before)
        except HoldfastError:
            self.sent.pop()
            raise
        self.sent[-1] = self.sent[-1]._replace(reply=reply)
        return reply

    def resend(self, actor: WarmActor) -> None:
        """Send again what a host would after a death, which takes effect once."""
        for number in range(max(self.closed, self.answered - 1), len(self.sent)):
            sent = self.sent[number]
            handled = sent.reply is not None
            if handled and not sent.op.changes(sent.before):
                continue  # it left no trace, so it would count as having come later
            reply = ask(actor, sent.op.request(), wm.WarmWritten | wm.WarmDeleted, sent.caller)  # type: ignore[arg-type]  # a union will do
            assert reply == sent.op.reply(sent.before), (reply, sent)
            self.sent[number] = sent._replace(reply=reply)

    def commit(self, actor: WarmActor) -> None:
        """Commit, which answers everything sent."""
        actor.commit()
        assert all(sent.reply is not None for sent in self.sent)
        self.answered = len(self.sent)
        if self.durability == "always":
            self.synced()

    def synced(self) -> None:
        """What was handled is on stable storage, whatever the policy."""
        self.durable = len(self.sent)

    def close(self, actor: WarmActor) -> None:
        """Close the actor: whoever does has every answer."""
        self.closed = len(self.sent)
        actor.close()
        self.synced()

    def after_death(self) -> list[State]:
        """What may be there after the death of the process: all that was handled, at least."""
        handled = sum(sent.reply is not None for sent in self.sent)
        return self.states()[handled:]

    def after_power_loss(self) -> list[State]:
        """What may be there after a power loss: whole batches, in their order."""
        return self.states()[self.durable :]


Step = Callable[[Disk, WarmActor, History], WarmActor]
"""A part of a workload; returns the actor to go on with."""
