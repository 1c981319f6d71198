"""Which of several chunks decides on a key, where no manifest or no mask of dead rows tells.

A key can then have rows in several chunks. It is decided by *runs*, which are numbered in the order
in which they were begun. All that is live in a run was so when its number was taken, whether the
run was a flush or a merge. So the newest run that has a row of a key knows of it best, also when
that row is dead. Only what died during a merge that was never finished is not known to its chunks.
"""

from collections.abc import Sequence

import numpy as np

from holdfast.formats.zone_map import Series
from holdfast.workers.standing import Flaw
from holdfast.workers.warm_files import (
    CHUNK_SUFFIX,
)
from holdfast.workers.warm_merge import key_at
from holdfast.workers.warm_parts import Part, Tick
from holdfast.workers.warm_queries import live_series
from holdfast.workers.warm_runs import (
    Mask,
    Run,
    Times,
    live_points,
    live_rows,
    live_rows_of,
    shared_series,
    span_of,
    within,
)


def leave_out_what_overlaps(parts: Sequence[Part], flaws: list[Flaw]) -> None:
    """Chunks of a run are in order of key: one that is not was not made with the others."""
    ends: dict[int, tuple[int, tuple[int, int, int]]] = {}
    for part in parts:
        if part.run is None:
            continue
        entry, last = part.entry, part.run.rows - 1
        before = ends.get(entry.run)
        if before is not None and key_at(part.run, 0) <= before[1]:
            live = live_points(part.run)
            reason = f"its keys are not behind those of chunk {before[0]}, which is of the same run"
            name = f"{entry.number:010d}{CHUNK_SUFFIX}"
            flaws.append(Flaw(None, f"{reason}; {live} points are lost", live, name))
            part.run, part.lost = None, part.lost + live
        else:
            ends[entry.run] = entry.number, key_at(part.run, last)


def limit_leftovers(parts: Sequence[Part]) -> None:
    """Let die, in what is not listed, all that no listed chunk can have lost."""
    lossy = [part for part in parts if part.listed and part.lost]
    for part in parts:
        run = part.run
        if run is None or part.listed:
            continue
        wanted = np.zeros(run.rows, np.bool_)
        for other in lossy if live_points(run) else ():
            wanted |= _may_be_from(run, other)
        if run.dead is not None:
            wanted |= run.dead
        run.kill(np.flatnonzero(~wanted))


def _may_be_from(run: Run, other: Part) -> Mask:
    """Which rows of a run lie within series and times of a chunk, as far as these are known."""
    times = run.timestamps
    if other.zone is None:
        return (times >= other.entry.min_time) & (times <= other.entry.max_time)
    found = np.zeros(run.rows, np.bool_)
    mine, theirs = shared_series(run, other.zone.series)
    for place, wanted in zip(mine.tolist(), theirs.tolist(), strict=True):
        low, high = within(
            span_of(run, place),
            int(other.zone.series.first_times[wanted]),
            int(other.zone.series.last_times[wanted]),
        )
        found[low:high] = True
    return found


def settle(parts: Sequence[Part], tick: Tick) -> list[str]:
    """Let die, where it is not known, what died or was merged: see this module."""
    trusted = [part for part in parts if part.run and part.listed and part.has_mask]
    doubtful = [part for part in parts if part.run and not (part.listed and part.has_mask)]
    doubtful.sort(key=lambda part: part.entry.run, reverse=True)
    notes = []
    for number, part in enumerate(doubtful):
        assert part.run is not None
        before = live_points(part.run)
        for other in [*trusted, *doubtful[:number]]:
            assert other.run is not None
            newer = other.entry.run > part.entry.run or not part.listed
            _kill_those_of(part.run, other.run, live_only=not newer)
            tick()
        note = _note_on(part, before - live_points(part.run))
        notes += [note] if note else []
    return notes


def _kill_those_of(run: Run, other: Run, *, live_only: bool) -> None:
    """Let die in a run the rows whose keys the other one has."""
    if not live_points(other) and live_only:
        return
    keys, times = _live_keys(other) if live_only else (other.series, other.timestamps)
    rows = np.unique(live_rows_of(run, keys, times))
    if len(rows):
        run.kill(rows)


def _live_keys(run: Run) -> tuple[Series, Times]:
    rows = live_rows(run, 0, run.rows)
    return live_series(run), run.timestamps if rows is None else run.timestamps[rows]


def _note_on(part: Part, superseded: int) -> str | None:
    """What the user has to know about how a chunk was settled."""
    assert part.run is not None
    number = part.entry.number
    if part.listed:
        assert part.entry.dead is not None
        unknown = max(0, part.entry.dead.rows - superseded - part.lost)
        if not unknown:
            return None
        return f"up to {unknown} deleted points of chunk {number} are back"
    if superseded and not live_points(part.run):
        return f"chunk {number} is superseded: newer runs have all that was live in it"
    if superseded:
        return f"chunk {number}: newer runs decide on {superseded} of its points"
    return None
