"""The warm store, as drills see it."""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from holdfast.bench.drill.plan import StoreKind
from holdfast.bench.drill.subjects.base import (
    HOME,
    INTERVAL_S,
    Contradiction,
    Operation,
    State,
    Turn,
    Write,
    agree,
    ask,
    die,
    examined,
    reopen,
    tick,
)
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
from holdfast.formats.warm_chunk import ENTITY, SPACE, TIMESTAMP, VECTOR
from holdfast.workers import warm_messages as wm
from holdfast.workers.actor import Actor
from holdfast.workers.disk import Disk
from holdfast.workers.message import Durability
from holdfast.workers.messages import StoreSpec
from holdfast.workers.raw_arrays import raw
from holdfast.workers.standing import Standing
from holdfast.workers.warm import open_warm
from holdfast.workers.warm_files import WarmFiles

_DIMENSION = 2
_SPACE = 3

Key = tuple[int, int]
"""Entity and time."""
Point = tuple[float, float, str]
"""Two components, and a metadata value; empty for none."""


def _name(entity: int, time: int) -> str:
    return f"point {entity} at {time}"


def _write(state: State, points: dict[Key, Point]) -> Write:
    rows = [{"m": value[2]} if value[2] else {} for value in points.values()]
    request = wm.WarmWrite(
        _SPACE,
        raw(np.array([entity for entity, _ in points], np.uint64)),
        raw(np.array([time for _, time in points], np.int64)),
        raw(np.array([value[:2] for value in points.values()], np.float32)),
        memoryview(metadata_to_ipc(metadata_array(rows))),
    )
    return Write(request, {**state, **{_name(*key): value for key, value in points.items()}})


def _without(state: State, keys: Sequence[Key]) -> State:
    gone = {_name(*key) for key in keys}
    return {name: value for name, value in state.items() if name not in gone}


def _delete(state: State, keys: Sequence[Key]) -> Write:
    request = wm.WarmDelete(
        _SPACE,
        raw(np.array([entity for entity, _ in keys], np.uint64)),
        raw(np.array([time for _, time in keys], np.int64)),
    )
    return Write(request, _without(state, keys))


def _append(number: int, state: State) -> Turn:
    """Points that come in order of time."""
    points: dict[Key, Point] = {
        (1, 10 * number): (float(number), 0.0, ""),
        (1, 10 * number + 1): (float(number), 1.0, f"m{number}"),
        (2, 10 * number): (float(number), 2.0, ""),
    }
    return Turn((_write(state, points),))


def _replace(number: int, state: State) -> Turn:
    """The same key anew, with one over several sectors."""
    points: dict[Key, Point] = {
        (1, 10): (float(number), 7.0, "replaced"),
        (5, number): (0.0, 1.0, f"long {number} " * 150),
    }
    return Turn((_write(state, points),))


def _delete_some(number: int, state: State) -> Turn:
    return Turn((_delete(state, [(1, 10), (1, 20), (2, 10), (9, 9)]),))


def _delete_range(number: int, state: State) -> Turn:
    """All of one entity up to some time."""
    keys = [(1, time) for time in range(22)]
    request = wm.WarmDeleteRange(_SPACE, 1, TIME_MIN, 21)
    return Turn((Write(request, _without(state, keys)),))


def _pair(number: int, state: State) -> Turn:
    """Two requests that share a commit."""
    first = _write(state, {(1, 10): (0.5, float(number), "p"), (4, 4): (4.0, 4.0, "")})
    return Turn((first, _delete(first.after, [(4, 4)])))


def _flush(number: int, state: State) -> Turn:
    return Turn(long=wm.WarmFlush())


def _compact(number: int, state: State) -> Turn:
    return Turn(long=wm.WarmCompact())


class WarmSubject:
    """The warm store. See ``base.Subject``."""

    kind: StoreKind = "warm"
    path = f"{HOME}/drill.warm"
    alphabet: Mapping[str, Operation] = {
        "append": _append,
        "replace": _replace,
        "delete": _delete_some,
        "delete-range": _delete_range,
        "pair": _pair,
        "flush": _flush,
        "compact": _compact,
        "reopen": reopen,
        "die": die,
    }

    def open(self, disk: Disk, durability: Durability) -> Actor:
        spec = StoreSpec(
            "drill", "warm", self.path, durability=durability, interval_s=INTERVAL_S,
            options=wm.WarmOptions(_DIMENSION),
        )  # fmt: skip
        return open_warm(disk, spec, tick)

    def read(self, disk: Disk, actor: Actor) -> State:
        points: dict[Key, Point] = {}
        after, more = None, True
        while more:
            page = ask(actor, wm.WarmScan(after, 3), wm.WarmRows)
            points |= self._points(disk, page)
            more, after = page.more, page.last
        agree("count", ask(actor, wm.WarmCount(), wm.WarmCounted).points, len(points))
        found: dict[Key, Point] = {}
        for entity in sorted({entity for entity, _ in points}):
            request = wm.WarmRange(_SPACE, raw(np.array([entity], np.uint64)), TIME_MIN, TIME_MAX)
            found |= self._points(disk, ask(actor, request, wm.WarmRows), entity)
        agree("range", found, points)
        for (entity, time), value in points.items():
            got = ask(actor, wm.WarmGet(_SPACE, entity, time), wm.WarmPoint)
            agree("get", _point(got), value)
        agree("flaws", ask(actor, wm.WarmVerify(), wm.WarmVerified).flaws, [])
        return {_name(*key): value for key, value in points.items()}

    def _points(self, disk: Disk, reply: wm.WarmRows, entity: int = -1) -> dict[Key, Point]:
        """The points of a reply; of ``entity`` where it does not say of which."""
        points: dict[Key, Point] = {}
        for segment in reply.segments:
            if isinstance(segment, wm.RowsInChunk):
                rows = self._rows_in_chunk(disk, segment)
            else:
                rows = _rows_here(segment, entity)
            for space, whose, time, vector, metadata in rows:
                agree("space", space, _SPACE)
                points[whose, time] = (vector[0], vector[1], metadata.get("m", ""))
        return points

    def _rows_in_chunk(self, disk: Disk, segment: wm.RowsInChunk) -> "list[_Row]":
        file = disk.open(WarmFiles(self.path).chunk(segment.chunk))
        try:
            batch = pa.ipc.open_file(pa.py_buffer(file.map())).get_batch(0)
        finally:
            file.close()
        batch = batch.slice(segment.start, segment.stop - segment.start)
        columns = [batch.column(name).to_pylist() for name in (SPACE, ENTITY, TIMESTAMP, VECTOR)]
        maps = rows_of_metadata(batch.column(METADATA), batch.num_rows)
        return list(zip(*columns, maps, strict=True))

    def rival(self, state: State) -> Write:
        keys = [(1, 10), (1, 11), (2, 10), (4, 4), (5, 1)]
        return _write(state, {key: (9.0, 9.0, "rival") for key in keys})

    def verify(self, disk: Disk) -> Standing:
        return examined(disk, self.path)

    def undetectable(self, word: str, found: State, states: Sequence[State]) -> bool:
        return False


_Row = tuple[int, int, int, list[float], dict[str, str]]


def _rows_here(segment: wm.RowsHere, entity: int) -> list[_Row]:
    times = np.frombuffer(segment.timestamps, "<i8").tolist()
    spaces = np.frombuffer(segment.spaces, "<u4").tolist() or [_SPACE] * len(times)
    entities = np.frombuffer(segment.entities, "<u8").tolist() or [entity] * len(times)
    vectors = np.frombuffer(segment.vectors, "<f4").reshape(len(times), _DIMENSION).tolist()
    found = metadata_from_ipc(segment.metadata, len(times))
    maps = rows_of_metadata(no_metadata(len(times)) if found is None else found, len(times))
    return list(zip(spaces, entities, times, vectors, maps, strict=True))


def _point(reply: wm.WarmPoint) -> Hashable:
    if reply.vector is None:
        raise Contradiction("a point that a scan shows is not there for get")
    return (*np.frombuffer(reply.vector, "<f4").tolist(), reply.metadata.get("m", ""))
