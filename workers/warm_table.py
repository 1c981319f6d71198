"""All points of a warm store: which runs there are, and what a write or a delete changes in them.

Changes are planned first and applied after they were logged: planning reads the runs concerned, so
that what is damaged shows before anything is written, and replaying a log takes the same two steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.points import Points, concatenated
from holdfast.formats.zone_map import Series, series_of
from holdfast.workers.warm_chunks import ChunkRun
from holdfast.workers.warm_runs import (
    MemoryRun,
    Rows,
    Run,
    Span,
    Times,
    find_row,
    find_series,
    in_key_order,
    key_order,
    live_rows,
    live_rows_between,
    live_rows_of,
    series_slice,
    total_live,
    within,
)
from holdfast.workers.warm_tail import Key, Tail

_TAIL_BATCH_ROWS_MAX = 64
_MERGED_ROWS_MAX = 16_384  # larger runs wait for the flush, which merges them all
_MERGED_METADATA_BYTES_MAX = 32 << 20
_CACHED_SERIES_MAX = 1 << 16
_FORGOTTEN_ONE_BY_ONE_MAX = 256


@dataclass(slots=True)
class Plan:
    """What a write or a delete will change. Valid until the next change."""

    points: Points | None = None
    """To be added, in order of key unless they go to the tail."""
    to_tail: bool = False
    kills: list[tuple[Run, Rows]] = field(default_factory=list)
    from_tail: list[Key] = field(default_factory=list)
    """Keys to be deleted from the tail."""
    replaced: int = 0
    """How many points that were there are written again, or deleted."""


class Place(NamedTuple):
    """Where a live point lies."""

    run: Run
    row: int


class WarmTable:
    """The runs of a store. ``chunks`` are those on disk."""

    def __init__(self, dimension: int, chunks: Sequence[ChunkRun]) -> None:
        self.dimension = dimension
        self.chunks = list(chunks)
        self.memory: list[MemoryRun] = []
        self.frozen = 0
        """So many of the first runs in memory are being written to chunks, and stay as they are."""
        self.tail = Tail(dimension)
        self.chunk_changes = 0
        """Grows whenever there are other chunks, or more dead rows in one."""
        self._spans: dict[tuple[int, int], list[Span]] = {}

    # --- figures ---------------------------------------------------------------------------

    @property
    def points(self) -> int:
        """Live points."""
        return total_live(self.chunks) + total_live(self.memory) + len(self.tail)

    @property
    def memory_rows(self) -> int:
        """Rows that are in no chunk yet, dead ones included."""
        return sum(run.rows for run in self.memory) + len(self.tail)

    def runs(self) -> list[Run]:
        """Every run; the tail becomes one."""
        self.seal()
        return self._all()

    def _all(self) -> list[Run]:
        """Every run; the tail is none."""
        return [*self.chunks, *self.memory]

    # --- reading ---------------------------------------------------------------------------

    def get(self, space: int, entity: int, timestamp: int) -> Place | None:
        """Where this point lies, if it is there and not in the tail."""
        for span in self.spans(space, entity):
            row = find_row(span, timestamp)
            if row is not None:
                return Place(span.run, row)
        return None

    def spans(self, space: int, entity: int) -> list[Span]:
        """The rows of a series in every run that has any; the tail apart."""
        key = (space, entity)
        found = self._spans.get(key)
        if found is None:
            if len(self._spans) >= _CACHED_SERIES_MAX:
                self._spans.clear()
            spans = (find_series(run, space, entity) for run in self._all())
            found = self._spans[key] = [span for span in spans if span is not None]
        return found

    # --- planning --------------------------------------------------------------------------

    def plan_write(self, points: Points) -> Plan:
        """Add points, in place of those with the same keys."""
        rows = len(points)
        if not rows:
            return Plan()
        if rows <= min(_TAIL_BATCH_ROWS_MAX, self.tail.rows_max):
            if not self.tail.has_room(rows):
                self.seal()
            return self._plan_small(points)
        self.seal()
        points = in_key_order(points)
        keys = series_of(points.spaces, points.entities, points.timestamps)
        plan = self._plan_kills(keys, points.timestamps)
        plan.points = points
        return plan

    def plan_delete(self, space: int, entities: NDArray[np.uint64], timestamps: Times) -> Plan:
        """Delete the points with these keys."""
        rows = len(timestamps)
        if rows <= _TAIL_BATCH_ROWS_MAX:
            return self._plan_small_delete(space, entities.tolist(), timestamps.tolist())
        self.seal()
        order = key_order(None, entities, timestamps)
        entities, timestamps = entities[order], timestamps[order]
        new = np.append(True, (entities[1:] != entities[:-1]) | (timestamps[1:] != timestamps[:-1]))
        entities, timestamps = entities[new], timestamps[new]
        spaces = np.full(len(entities), space, np.uint32)
        return self._plan_kills(series_of(spaces, entities, timestamps), timestamps)

    def plan_delete_range(
        self, space: int | None, entity: int | None, start: int, end: int
    ) -> Plan:
        """Delete the points from ``start`` to ``end``, both included; None means every one."""
        self.seal()
        plan = Plan()
        if start > end:
            return plan
        for run in self._all():
            if isinstance(run, ChunkRun) and (
                run.entry.max_time < start or run.entry.min_time > end
            ):
                continue
            rows = _rows_in_range(run, space, entity, start, end)
            if len(rows):
                plan.kills.append((run, rows))
                plan.replaced += len(rows)
        return plan

    def _plan_kills(self, keys: Series, timestamps: Times) -> Plan:
        plan = Plan()
        first, last = int(keys.first_times.min()), int(keys.last_times.max())
        for run in self._all():
            if not _may_hold(run, first, last):
                continue
            rows = live_rows_of(run, keys, timestamps)
            if len(rows):
                plan.kills.append((run, rows))
                plan.replaced += len(rows)
        return plan

    def _plan_small(self, points: Points) -> Plan:
        plan = Plan(points, to_tail=True)
        keys = set(
            zip(
                points.spaces.tolist(), points.entities.tolist(), points.timestamps.tolist(),
                strict=True,
            )
        )  # fmt: skip
        self._look_up(keys, plan)
        return plan

    def _plan_small_delete(self, space: int, entities: list[int], timestamps: list[int]) -> Plan:
        plan = Plan()
        keys = {(space, entity, time) for entity, time in zip(entities, timestamps, strict=True)}
        self._look_up(keys, plan)
        plan.from_tail = [key for key in keys if key in self.tail]
        return plan

    def _look_up(self, keys: set[Key], plan: Plan) -> None:
        """Plan the death of those of ``keys`` that are in a run, and count those in the tail."""
        found: dict[int, tuple[Run, list[int]]] = {}
        for key in keys:
            if key in self.tail:
                plan.replaced += 1
                continue
            place = self.get(*key)
            if place is not None:
                found.setdefault(id(place.run), (place.run, []))[1].append(place.row)
                plan.replaced += 1
        plan.kills = [(run, np.array(rows, np.int64)) for run, rows in found.values()]

    # --- changing --------------------------------------------------------------------------

    def apply(self, plan: Plan) -> None:
        """Do what was planned."""
        for run, rows in plan.kills:
            run.kill(rows)
            if isinstance(run, ChunkRun):
                self.chunk_changes += 1
        for key in plan.from_tail:
            self.tail.remove(key)
        if plan.points is None:
            return
        if plan.to_tail:
            self.tail.put(plan.points)
        else:
            self._add(MemoryRun(plan.points))

    def seal(self) -> None:
        """Make the tail a run."""
        points = self.tail.drain()
        if points is not None:
            self._add(MemoryRun(points))

    def _add(self, run: MemoryRun) -> None:
        """Add a run, and merge the youngest as long as they are of similar size.

        So their number stays a logarithm of their rows.
        """
        self.memory.append(run)
        self._forget(run.series)
        merged = 1
        rows, metadata_bytes = run.rows, run.points.metadata_bytes
        while len(self.memory) - merged > self.frozen:
            older = self.memory[-merged - 1]
            metadata_bytes += older.points.metadata_bytes
            if older.rows >= 2 * rows or rows + older.rows > _MERGED_ROWS_MAX:
                break
            if metadata_bytes > _MERGED_METADATA_BYTES_MAX:
                break
            merged += 1
            rows += older.rows
        if merged > 1:
            together = merge_in_memory(self.memory[-merged:])
            del self.memory[-merged:]
            if together is not None:
                self.memory.append(together)
            self._spans.clear()

    def _forget(self, series: Series) -> None:
        """Some series lie in one more run now."""
        if len(series) > _FORGOTTEN_ONE_BY_ONE_MAX:
            self._spans.clear()
            return
        for key in zip(series.spaces.tolist(), series.entities.tolist(), strict=True):
            self._spans.pop(key, None)

    def freeze(self) -> list[MemoryRun]:
        """All runs in memory, which are to become chunks; they take no more points."""
        self.seal()
        self.frozen = len(self.memory)
        return list(self.memory)

    def thaw(self) -> None:
        """The runs did not become chunks."""
        self.frozen = 0

    def exchange(self, gone: Sequence[Run], come: Sequence[ChunkRun]) -> None:
        """Take chunks in place of the runs that they were merged from."""
        self.chunk_changes += 1
        lost = {id(run) for run in gone}
        self.chunks = [run for run in self.chunks if id(run) not in lost] + list(come)
        kept = [run for run in self.memory if id(run) not in lost]
        if len(kept) != len(self.memory):
            self.memory, self.frozen = kept, 0
        self._spans.clear()

    def check_invariants(self) -> None:
        """Assert that every key is live once, and every mask counts what it marks; for tests."""
        seen: set[Key] = set(self.tail._places)
        count = len(self.tail)
        for run in self._all():
            dead = run.dead
            assert run.dead_rows == (0 if dead is None else int(np.count_nonzero(dead)))
            rows = live_rows(run, 0, run.rows)
            rows = np.arange(run.rows) if rows is None else rows
            series = np.repeat(np.arange(len(run.series)), np.diff(run.series.starts))[rows]
            seen.update(
                zip(
                    run.series.spaces[series].tolist(),
                    run.series.entities[series].tolist(),
                    run.timestamps[rows].tolist(),
                    strict=True,
                )
            )
            count += len(rows)
        assert len(seen) == count == self.points


def _may_hold(run: Run, start: int, end: int) -> bool:
    """Whether a run can have points of these times, as far as the manifest tells."""
    if not isinstance(run, ChunkRun):
        return True
    return run.entry.max_time >= start and run.entry.min_time <= end


def _rows_in_range(run: Run, space: int | None, entity: int | None, start: int, end: int) -> Rows:
    """The live rows of a run in a range of time, of one series, one space or all."""
    if space is not None and entity is not None:
        span = find_series(run, space, entity)
        if span is None or span.first > end or span.last < start:
            return np.empty(0, np.int64)
        low, high = within(span, start, end)
        rows = np.arange(low, high)
        return rows if run.dead is None else rows[~run.dead[rows]]
    series = run.series
    low, high = (0, len(series)) if space is None else series_slice(series, space)
    places = np.arange(low, high)
    if entity is not None:
        places = places[series.entities[low:high] == np.uint64(entity)]
    return live_rows_between(run, places, start, end)


def merge_in_memory(runs: Sequence[MemoryRun]) -> MemoryRun | None:
    """One run of the live points of several; None when there are none."""
    parts: list[Points] = []
    for run in runs:
        rows = live_rows(run, 0, run.rows)
        parts.append(run.points if rows is None else run.points.take(rows))
    points = sorted_together(parts)
    return MemoryRun(points) if len(points) else None


def sorted_together(parts: Sequence[Points]) -> Points:
    """The points of several parts, no two with the same key, in order of key."""
    if len(parts) == 1:
        return parts[0]
    together = concatenated(parts)
    spaces, entities = together.spaces, together.entities
    one_space = len(spaces) < 2 or bool((spaces == spaces[0]).all())
    one_series = one_space and (len(spaces) < 2 or bool((entities == entities[0]).all()))
    order = key_order(
        None if one_space else spaces, None if one_series else entities, together.timestamps
    )
    return together.take(order)
