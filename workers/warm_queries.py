"""Reading a warm store: what the requests that change nothing are answered with."""

import sys
from collections.abc import Callable, Generator, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.limits import MAPPED_BYTES_MIN
from holdfast.formats.points import Points, concatenated, metadata_to_ipc, rows_of_metadata
from holdfast.formats.zone_map import Series
from holdfast.workers import search, warm_messages
from holdfast.workers.messages import Progress
from holdfast.workers.raw_arrays import matrix, raw
from holdfast.workers.warm_answers import Answer, Piece
from holdfast.workers.warm_chunks import ChunkRun
from holdfast.workers.warm_merge import Cursor, heads, key_at, points_of, rows_up_to, take_bounded
from holdfast.workers.warm_messages import WarmPoint, WarmRows, WarmSeriesAre
from holdfast.workers.warm_runs import (
    Run,
    Span,
    live_points,
    live_rows,
    live_rows_between,
    series_slice,
    within,
)
from holdfast.workers.warm_store import WarmStore
from holdfast.workers.warm_table import WarmTable
from holdfast.workers.warm_tail import Key

_PAGE_BYTES = 4 << 20
_PAGE_MAPPED_BYTES = 64 << 20  # which may have to be checked first
_PAGE_STEPS = 256
_SLICE_ROWS = 8192
_SERIES_PAGE = 1 << 18
_COSINE_VALUES = 1 << 20
_NEAREST_ROWS = 1 << 16
_NO_POINT = WarmPoint(0, None)


# --- single points ------------------------------------------------------------------------------


def get(table: WarmTable, request: warm_messages.WarmGet) -> WarmPoint:
    """The point of a key."""
    space, entity, timestamp = request.space, request.entity, request.timestamp
    waiting = table.tail.get((space, entity, timestamp))
    if waiting is not None:
        vector, metadata = waiting
        return WarmPoint(timestamp, raw(vector.copy()), metadata)
    place = table.get(space, entity, timestamp)
    return _NO_POINT if place is None else _point_at(place.run, place.row)


def _point_at(run: Run, row: int) -> WarmPoint:
    column = run.metadata(row, row + 1)
    metadata = {} if column is None else rows_of_metadata(column, 1)[0]
    vector = run.vectors(row, row + 1)[0]
    return WarmPoint(int(run.timestamps[row]), raw(vector.copy()), metadata)


def latest(table: WarmTable, request: warm_messages.WarmLatest) -> WarmPoint:
    """The newest point of a series that is not newer than ``at``."""
    table.seal()
    best: tuple[int, Run, int] | None = None
    for span in table.spans(request.space, request.entity):
        if best is not None and span.last <= best[0]:
            continue
        row = _last_live(span, request.at)
        if row is not None and (best is None or span.run.timestamps[row] > best[0]):
            best = int(span.run.timestamps[row]), span.run, row
    return _NO_POINT if best is None else _point_at(best[1], best[2])


def _last_live(span: Span, at: int) -> int | None:
    """The last live row of a span that is not newer than ``at``."""
    if span.first > at:
        return None
    start, stop = within(span, span.first, at)
    rows = live_rows(span.run, start, stop)
    if rows is None:
        return stop - 1 if stop > start else None
    return int(rows[-1]) if len(rows) else None


# --- ranges -------------------------------------------------------------------------------------


def in_range(store: WarmStore, request: warm_messages.WarmRange) -> WarmRows:
    """The points of some series within a range of time."""
    table = store.table
    table.seal()
    entities = np.frombuffer(request.entities, "<u8").tolist()
    answer = Answer(
        table.dimension,
        vectors=request.vectors,
        metadata=request.metadata,
        mapped=request.mapped,
        keys=len(entities) != 1,
    )
    for entity in entities:
        pieces = _pieces(table, request, entity)
        for group in _apart(pieces):
            if len(group) == 1:
                answer.add(group[0])
            else:
                answer.add_merged(group)
    return rows_of(store, answer)


def _pieces(table: WarmTable, request: warm_messages.WarmRange, entity: int) -> list[Piece]:
    """What the runs have of a series in a range, by time of the first point."""
    start, end, limit = request.start, request.end, request.limit
    pieces = []
    for span in table.spans(request.space, entity):
        if span.first > end or span.last < start:
            continue
        piece = Piece(span.run, *within(span, start, end))
        if limit is not None:
            (piece.last_rows if request.reverse else piece.first_rows)(limit)
        if len(piece):
            pieces.append(piece)
    pieces.sort(key=lambda piece: piece.first)
    if limit is None or sum(map(len, pieces)) <= limit:
        return pieces
    return _limited(pieces, limit, reverse=request.reverse)


def _limited(pieces: list[Piece], limit: int, *, reverse: bool) -> list[Piece]:
    """Keep no more than ``limit`` points in all, the first ones or the last ones."""
    times = np.concatenate([piece.times() for piece in pieces])
    if reverse:
        bound = int(np.partition(times, len(times) - limit)[len(times) - limit]) if limit else 0
    else:
        bound = int(np.partition(times, limit - 1)[limit - 1]) if limit else 0
    kept = []
    for piece in pieces if limit else ():
        found = piece.times()
        if reverse:
            piece.last_rows(int(np.count_nonzero(found >= bound)))
        else:
            piece.first_rows(int(np.count_nonzero(found <= bound)))
        if len(piece):
            kept.append(piece)
    return sorted(kept, key=lambda piece: piece.first)


def _apart(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Groups of pieces whose times do not overlap, in order of time."""
    groups: list[list[Piece]] = []
    last = 0
    for piece in pieces:
        if groups and piece.first <= last:
            groups[-1].append(piece)
            last = max(last, piece.last)
        else:
            groups.append([piece])
            last = piece.last
    return groups


# --- everything ---------------------------------------------------------------------------------


def scan(store: WarmStore, request: warm_messages.WarmScan) -> WarmRows:
    """A page of all points in order of key; of about ``limit`` points if that is not 0."""
    table = store.table
    cursors = [Cursor(run) for run in table.runs() if live_points(run)]
    last = request.after
    if last is not None:
        for cursor in cursors:
            cursor.row = rows_up_to(cursor.run, last)
    answer = Answer(
        table.dimension,
        vectors=request.vectors,
        metadata=request.metadata,
        mapped=request.mapped,
        keys=True,
    )
    limit = request.limit or sys.maxsize
    added = steps = 0
    while (
        added < limit
        and answer.sent_bytes < _PAGE_BYTES
        and answer.mapped_bytes < _PAGE_MAPPED_BYTES
        and steps < _PAGE_STEPS
    ):
        taken = _next_rows(cursors, limit - added, answer.row_bytes)
        if not taken:
            break
        pieces = [Piece(cursor.run, start, stop) for cursor, start, stop in taken]
        if len(pieces) == 1:
            answer.add(pieces[0])
        else:
            answer.add_merged(pieces)
        added += sum(map(len, pieces))
        steps += 1
        last = max(key_at(cursor.run, stop - 1) for cursor, _, stop in taken)
    more = any(not cursor.is_done for cursor in cursors)
    return rows_of(store, answer, more, last)


def rows_of(
    store: WarmStore, answer: Answer, more: bool = False, last: Key | None = None
) -> WarmRows:
    """The message of an answer."""
    return WarmRows(
        answer.segments(),
        store.store_id,
        store.manifest.generation,
        more,
        last,
    )


def _next_rows(
    cursors: Sequence[Cursor], limit: int, row_bytes: int
) -> list[tuple[Cursor, int, int]]:
    """The rows that come next in order of key: many of one run if they lie together there."""
    waiting = heads(cursors)
    if not waiting:
        return []
    keys = sorted((key_at(cursor.run, cursor.row), n) for n, cursor in enumerate(waiting))
    first = waiting[keys[0][1]]
    start = first.row
    stop = first.run.rows
    if len(keys) > 1:
        stop = rows_up_to(first.run, keys[1][0])
        if stop > start and key_at(first.run, stop - 1) == keys[1][0]:
            stop -= 1  # dead here or there, and a page that ended with it would pass the other over
    stop = min(stop, start + limit)
    interleaved = len(keys) > 1 and (stop - start) * row_bytes < MAPPED_BYTES_MIN
    if interleaved or not isinstance(first.run, ChunkRun):  # these rows are sent
        return take_bounded(cursors, min(limit, _SLICE_ROWS))
    first.row = stop
    return [(first, start, stop)]


def series(table: WarmTable, request: warm_messages.WarmSeries) -> WarmSeriesAre:
    """A page of the series that have points."""
    found = all_series(table.runs())
    low, high = 0, len(found)
    if request.space is not None:
        low, high = series_slice(found, request.space)
    if request.after is not None:
        space, entity = request.after
        first, last = series_slice(found, space)
        if first == last:
            behind = int(found.spaces.searchsorted(np.uint32(space)))
        else:
            behind = first + int(
                found.entities[first:last].searchsorted(np.uint64(entity), "right")
            )
        low = max(low, behind)
    page = slice(low, min(high, low + _SERIES_PAGE))
    return WarmSeriesAre(
        raw(found.spaces[page]),
        raw(found.entities[page]),
        raw(np.diff(found.starts)[page]),
        raw(found.first_times[page]),
        raw(found.last_times[page]),
        page.stop < high,
    )


def all_series(runs: Iterable[Run]) -> Series:
    """Every series that has points: ``starts`` tells how many, times are of the live ones."""
    parts = [live_series(run) for run in runs if live_points(run)]
    if not parts:
        none = np.empty(0, np.int64)
        return Series(none.astype(np.uint32), none.astype(np.uint64), np.zeros(1, np.int64),
                      none, none)  # fmt: skip
    spaces = np.concatenate([part.spaces for part in parts])
    entities = np.concatenate([part.entities for part in parts])
    order = np.lexsort((entities, spaces))
    spaces, entities = spaces[order], entities[order]
    new = np.append(True, (spaces[1:] != spaces[:-1]) | (entities[1:] != entities[:-1]))
    heads = np.flatnonzero(new)
    counts = np.concatenate([np.diff(part.starts) for part in parts])[order]
    firsts = np.concatenate([part.first_times for part in parts])[order]
    lasts = np.concatenate([part.last_times for part in parts])[order]
    starts = np.append(0, np.cumsum(np.add.reduceat(counts, heads)))
    return Series(
        spaces[heads], entities[heads], starts,
        np.minimum.reduceat(firsts, heads), np.maximum.reduceat(lasts, heads),
    )  # fmt: skip


def live_series(run: Run) -> Series:
    """The series of a run's live rows; their rows are numbered without the dead ones."""
    if not run.dead_rows:
        return run.series
    rows = live_rows(run, 0, run.rows)
    assert rows is not None
    of_row = run.series.starts.searchsorted(rows, "right") - 1
    edges = np.flatnonzero(np.diff(of_row)) + 1
    starts = np.concatenate(([0], edges, [len(rows)]))
    places = of_row[starts[:-1]]
    times = run.timestamps[rows]
    return Series(
        run.series.spaces[places], run.series.entities[places], starts,
        times[starts[:-1]], times[starts[1:] - 1],
    )  # fmt: skip


# --- nearest ------------------------------------------------------------------------------------


def nearest(
    table: WarmTable, request: warm_messages.WarmNearest, tick: Callable[[], None]
) -> Generator[Progress | None, None, warm_messages.WarmHits]:
    """The points nearest to a vector within a range of time, exactly; equally near ones by key."""
    dimension = table.dimension
    query = matrix(request.query, 1, dimension, "the query")
    best: list[tuple[Points, NDArray[np.float32]]] = []
    # All of one moment: a point that is written again later is in a run that is not looked at.
    windows = [(run, _rows_in_window(run, request)) for run in table.runs()]
    for run, rows in windows:
        for start in range(0, len(rows), _NEAREST_ROWS):
            part = rows[start : start + _NEAREST_ROWS]
            found = _nearest_of(run, part, query, request, tick)
            best = [_best_of([*best, found], request.k)]
            yield None
    points, distances = best[0] if best else (_no_points(table.dimension), np.empty(0, np.float32))
    return warm_messages.WarmHits(
        raw(points.spaces),
        raw(points.entities),
        raw(points.timestamps),
        raw(distances),
        raw(points.vectors),
        memoryview(metadata_to_ipc(points.metadata)),
    )


def _rows_in_window(run: Run, request: warm_messages.WarmNearest) -> NDArray[np.int64]:
    """The live rows of a run that count."""
    series_ = run.series
    low, high = (0, len(series_)) if request.space is None else series_slice(series_, request.space)
    places = np.arange(low, high)
    if request.entities is not None:
        wanted = np.frombuffer(request.entities, "<u8")
        places = places[np.isin(series_.entities[places], wanted)]
    return live_rows_between(run, places, request.start, request.end)


def _nearest_of(
    run: Run,
    rows: NDArray[np.int64],
    query: NDArray[np.float32],
    request: warm_messages.WarmNearest,
    tick: Callable[[], None],
) -> tuple[Points, NDArray[np.float32]]:
    first, last = int(rows[0]), int(rows[-1]) + 1
    vectors = run.vectors(first, last)
    if last - first != len(rows):
        vectors = vectors[rows - first]
    if request.metric == "cosine":
        distances = _cosine_distances(vectors, query[0], tick)
        chosen = np.argsort(distances, kind="stable")[: request.k]  # ties by key, NaN last
        return points_of(run, first, last, rows[chosen]), distances[chosen]
    numbers = np.arange(len(rows), dtype=np.uint64)  # in order of key, which decides ties
    block = search.Rows(0, numbers, vectors, search.squared_norms(vectors))
    hits = search.nearest([block], query, request.k, request.metric, tick=tick)
    return points_of(run, first, last, rows[hits.rows[0]]), hits.distances[0]


def _cosine_distances(
    vectors: NDArray[np.float32], query: NDArray[np.float32], tick: Callable[[], None]
) -> NDArray[np.float32]:
    """One minus the cosine, computed in float64 and rounded once; 1 where a length is zero.

    Not by ``search``, whose cosine is the vector store's: its format calls short vectors unlike
    everything.
    """
    wide_query = query.astype(np.float64)
    length = np.sqrt((wide_query * wide_query).sum())
    found = np.empty(len(vectors), np.float32)
    step = max(1, _COSINE_VALUES // len(query))
    with np.errstate(all="ignore"):
        for start in range(0, len(vectors), step):
            wide = vectors[start : start + step].astype(np.float64)
            lengths = np.sqrt((wide * wide).sum(axis=1)) * length
            cosines = (wide * wide_query).sum(axis=1) / lengths
            found[start : start + step] = np.where(lengths == 0, 1.0, 1.0 - cosines)
            tick()
    return found


def _best_of(
    found: Sequence[tuple[Points, NDArray[np.float32]]], k: int
) -> tuple[Points, NDArray[np.float32]]:
    points = concatenated([part for part, _ in found])
    distances = np.concatenate([part for _, part in found])
    order = np.lexsort((points.timestamps, points.entities, points.spaces, distances))[:k]
    return points.take(order), distances[order]


def _no_points(dimension: int) -> Points:
    none = np.empty(0, np.int64)
    return Points(
        none.astype(np.uint32), none.astype(np.uint64), none,
        np.empty((0, dimension), np.float32), None,
    )  # fmt: skip
