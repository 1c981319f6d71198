"""When a warm store flushes and which chunks it merges. Pure.

Chunks that were made together are a *run*: one behind the other in order of key. Runs are classed
by size, each class four times the one before, and four runs of a class become one: so every point
is written again a logarithm of times, and there are three runs of a class at most. Among runs above
two GiB only those are merged that have times in common, since a read of a range of time opens no
more of them otherwise. Besides, when more than half of all bytes are dead, the chunks with the most
of them are written anew without: so a store is no larger than twice its live bytes and a bit.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from holdfast.formats.limits import DEAD_BYTES_MIN, FLUSH_BYTES, FLUSH_ROWS
from holdfast.workers.warm_chunks import ChunkRun
from holdfast.workers.warm_table import WarmTable

_FANOUT = 4
_OVERDUE = 3 * _FANOUT
_SMALLEST_CLASS = -6
_LARGE_CLASS = 4


def is_full(table: WarmTable, log_bytes: int) -> bool:
    """Whether what is in memory is to become a chunk."""
    return table.memory_rows >= FLUSH_ROWS or log_bytes >= FLUSH_BYTES


def live_bytes(chunk: ChunkRun) -> int:
    """Of a chunk's file, for the rows that count."""
    return chunk.entry.bytes - dead_bytes(chunk)


def dead_bytes(chunk: ChunkRun) -> int:
    """Of a chunk's file, for the rows that do not."""
    return chunk.entry.bytes * chunk.dead_rows // chunk.rows


class Decision(NamedTuple):
    """The chunks to be merged next, if any, and whether reads suffer already."""

    chunks: list[ChunkRun]
    overdue: bool


def decide(chunks: Sequence[ChunkRun]) -> Decision:
    """What to merge next."""
    return Decision(next_compaction(chunks), is_overdue(chunks))


def next_compaction(chunks: Sequence[ChunkRun]) -> list[ChunkRun]:
    """The chunks to be merged next; none if there is nothing to gain."""
    dead = sum(map(dead_bytes, chunks))
    if dead > max(DEAD_BYTES_MIN, sum(map(live_bytes, chunks))):
        return [chunk for chunk in chunks if chunk.dead_rows * 2 > chunk.rows]
    empty = [chunk for chunk in chunks if chunk.dead_rows == chunk.rows]
    if empty:
        return empty
    for number, runs in sorted(_classes(chunks).items()):
        together = _overlapping(runs) if number >= _LARGE_CLASS else runs
        if len(together) >= _FANOUT:
            return [chunk for run in together for chunk in run]
    return []


def is_overdue(chunks: Sequence[ChunkRun]) -> bool:
    """Whether merging falls so far behind that reads suffer."""
    return any(
        len(runs) >= _OVERDUE for number, runs in _classes(chunks).items() if number < _LARGE_CLASS
    )


def _classes(chunks: Sequence[ChunkRun]) -> dict[int, list[list[ChunkRun]]]:
    """The runs of each class of size, oldest first."""
    runs: dict[int, list[ChunkRun]] = defaultdict(list)
    for chunk in chunks:
        runs[chunk.entry.run].append(chunk)
    classes: dict[int, list[list[ChunkRun]]] = defaultdict(list)
    for _, run in sorted(runs.items()):
        classes[_class_of(sum(chunk.entry.bytes for chunk in run))].append(run)
    return classes


def _class_of(size: int) -> int:
    number = _SMALLEST_CLASS
    while size > FLUSH_BYTES * 4.0**number:
        number += 1
    return number


def _overlapping(runs: Sequence[Sequence[ChunkRun]]) -> list[Sequence[ChunkRun]]:
    """The largest group of runs each of which has times in common with some other of it."""
    spans = sorted(
        (min(c.entry.min_time for c in run), max(c.entry.max_time for c in run), n)
        for n, run in enumerate(runs)
    )
    best: list[int] = []
    group: list[int] = []
    reach = 0
    for first, last, number in spans:
        if group and first <= reach:
            group.append(number)
            reach = max(reach, last)
        else:
            group, reach = [number], last
        if len(group) > len(best):
            best = list(group)
    return [runs[number] for number in best]
