"""Small warm stores for tests that look at files: made by an actor, and damaged by hand."""

from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.formats.points import metadata_array, metadata_to_ipc
from holdfast.formats.warm_terms import Compression
from holdfast.workers import warm_messages as wm
from holdfast.workers.actor import Caller
from holdfast.workers.disk import Disk, OsDisk
from holdfast.workers.messages import StoreSpec
from holdfast.workers.raw_arrays import raw
from holdfast.workers.warm import WarmActor, open_warm
from holdfast.workers.warm_inspection import WarmRow

DIMENSION = 3

Key = tuple[int, int, int]
Content = dict[Key, tuple[list[float], dict[str, str]]]
"""Vector and metadata by space, entity and timestamp."""

_numbers = iter(range(1, 1 << 40))


def tick() -> None:
    """Nobody watches whether a test makes progress."""


def opened(
    path: Path,
    disk: Disk | None = None,
    dimension: int | None = None,
    compression: Compression | None = None,
) -> WarmActor:
    """The store at ``path``, recovered; made if a dimension is given."""
    options = wm.WarmOptions(dimension, compression)
    create = dimension is not None
    spec = StoreSpec("s", "warm", str(path), "never", create=create, options=options)
    return open_warm(OsDisk() if disk is None else disk, spec, tick)


def ask(actor: WarmActor, request: Any) -> Any:
    """A request's reply, once all its steps are done."""
    reply = actor.handle(request, Caller(7, next(_numbers)))
    if not isinstance(reply, Generator):
        return reply
    while True:
        try:
            next(reply)
        except StopIteration as end:
            return end.value


def vector_of(key: Key, version: int, dimension: int = DIMENSION) -> list[float]:
    """The vector of a key, different in every version."""
    space, entity, time = key
    return [float(version), float(space * 1000 + entity), float(time)][:dimension] + [0.5] * max(
        0, dimension - 3
    )


def write(
    actor: WarmActor,
    entity: int,
    times: Sequence[int],
    version: int = 0,
    *,
    space: int = 0,
    notes: bool = False,
    dimension: int = DIMENSION,
) -> Content:
    """Write points of one entity, with metadata if asked; returns them."""
    keys = [(space, entity, time) for time in times]
    vectors = [vector_of(key, version, dimension) for key in keys]
    metadata = [{"note": f"{version}:{time}"} if notes else {} for time in times]
    column = memoryview(metadata_to_ipc(metadata_array(metadata))) if notes else wm.EMPTY
    ask(
        actor,
        wm.WarmWrite(
            space,
            raw(np.array([entity], np.uint64)),
            raw(np.array(times, np.int64)),
            raw(np.array(vectors, np.float32)),
            column,
        ),
    )
    return dict(zip(keys, zip(vectors, metadata, strict=True), strict=True))


def delete(actor: WarmActor, entity: int, times: Sequence[int], space: int = 0) -> None:
    """Delete points of one entity."""
    ids = raw(np.array([entity], np.uint64))
    ask(actor, wm.WarmDelete(space, ids, raw(np.array(times, np.int64))))


def flush(actor: WarmActor) -> None:
    """Write to chunks what is only in memory."""
    ask(actor, wm.WarmFlush())


def make(path: Path, compression: Compression | None = None) -> Content:
    """A store of three chunks, dead rows in the first, and a log; returns its points.

    Chunk 1 has entities 1 and 2 at times 0 to 9, of which entity 1 at times 0 to 4 is written again
    in chunk 3, and entity 2 at time 9 is deleted. Chunk 2 has entity 3 with metadata. The log has
    entity 4, and a newer point of entity 3.
    """
    actor = opened(path, dimension=DIMENSION, compression=compression)
    points = write(actor, 1, range(10)) | write(actor, 2, range(10))
    flush(actor)
    points |= write(actor, 3, range(5), notes=True)
    flush(actor)
    points |= write(actor, 1, range(5), 1)
    delete(actor, 2, [9])
    del points[0, 2, 9]
    flush(actor)
    points |= write(actor, 4, [7, 8]) | write(actor, 3, [2], 1, notes=True)
    actor.close()
    return points


def make_large(path: Path, *, notes: bool = False) -> Content:
    """A store of one chunk of several blocks: entities 1 to 4, 10,000 points of 32 each."""
    actor = opened(path, dimension=32)
    points: Content = {}
    for entity in range(1, 5):
        points |= write(actor, entity, range(10_000), notes=notes and entity == 4, dimension=32)
    flush(actor)
    actor.close()
    return points


def content(rows: Iterable[WarmRow]) -> Content:
    """Points by key; each has to be there once, in order of key."""
    found: Content = {}
    last: Key | None = None
    for row in rows:
        key = (row.space, row.entity, row.timestamp)
        assert last is None or key > last
        last = key
        found[key] = np.frombuffer(row.vector, "<f4").tolist(), row.metadata
    return found


def flip(path: Path, offset: int) -> None:
    """Change a bit."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
