"""The vector store, as drills see it."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.bench.drill.plan import StoreKind
from holdfast.bench.drill.subjects.base import (
    HOME,
    INTERVAL_S,
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
from holdfast.formats.expression import encode_expression
from holdfast.formats.tables import ipc_to_table, table_to_ipc
from holdfast.workers import upstream_lock
from holdfast.workers import vector_messages as vm
from holdfast.workers.actor import Actor
from holdfast.workers.disk import Disk
from holdfast.workers.message import Durability
from holdfast.workers.messages import StoreSpec
from holdfast.workers.raw_arrays import raw
from holdfast.workers.standing import Standing
from holdfast.workers.vectors import open_vectors

_DIMENSION = 2
_CHILD = f"{HOME}/child.rvf"
_IMAGE = "kernel"
_BRANCH = "branch"
_SCHEMA = pa.schema([("n", pa.int64()), ("s", pa.string())])

Row = tuple[float, float, int | None, str | None]
"""Two components, and the metadata ``n`` and ``s``."""


def _rows(state: State) -> dict[str, Hashable]:
    return {key: value for key, value in state.items() if key.startswith("row ")}


def _ids(numbers: Sequence[int]) -> memoryview:
    return raw(np.array(numbers, np.uint64))


def _ingest(state: State, rows: dict[int, Row]) -> Write:
    metadata: Any = pa.table(
        {
            "n": pa.array([row[2] for row in rows.values()], pa.int64()),
            "s": pa.array([row[3] for row in rows.values()], pa.string()),
        }
    )
    vectors = np.array([row[:2] for row in rows.values()], np.float32)
    request = vm.VectorsIngest(_ids(list(rows)), raw(vectors), memoryview(table_to_ipc(metadata)))
    return Write(request, {**state, **{f"row {number}": row for number, row in rows.items()}})


def _insert(number: int, state: State) -> Turn:
    return Turn((_ingest(state, {1: (float(number), 1.0, number, "one")}),))


def _batch(number: int, state: State) -> Turn:
    rows: dict[int, Row] = {
        number_of_row: (float(number), float(number_of_row), number_of_row, f"{number}" * 30)
        for number_of_row in (1, 2, 3, 4)
    }
    rows[3] = (float(number), 0.0, None, None)
    return Turn((_ingest(state, rows),))


def _delete(number: int, state: State) -> Turn:
    kept = {key: value for key, value in state.items() if key not in ("row 1", "row 2")}
    return Turn((Write(vm.VectorsDelete(_ids([1, 2, 99])), kept),))


def _delete_where(number: int, state: State) -> Turn:
    """Delete by metadata, or by id while no row has any: a filter needs its column."""
    rows = {key: row for key, row in _rows(state).items() if isinstance(row, tuple)}
    field = 2 if any(row[2] is not None for row in rows.values()) else None
    gone = {
        key
        for key, row in rows.items()
        if (int(key.split()[1]) if field is None else row[field] or 0) >= 4
    }
    where = encode_expression(pc.field("id" if field is None else "n") >= 4)
    kept = {key: value for key, value in state.items() if key not in gone}
    return Turn((Write(vm.VectorsDeleteWhere(where), kept),))


def _pair(number: int, state: State) -> Turn:
    """Two requests that share a commit."""
    first = _ingest(state, {5: (5.0, float(number), 5, None), 1: (1.0, float(number), 1, "p")})
    kept = {key: value for key, value in first.after.items() if key != "row 5"}
    return Turn((first, Write(vm.VectorsDelete(_ids([5])), kept)))


def _embed(number: int, state: State) -> Turn:
    image = b"image %d " % number * 90
    request = vm.VectorsEmbed("kernel", memoryview(image))
    return Turn((Write(request, {**state, _IMAGE: image}),))


def _branch(number: int, state: State) -> Turn:
    """Make a branch, once: it shows the rows as they are now, whatever comes."""
    if _BRANCH in state:
        return Turn()
    shown = tuple(sorted(_rows(state).items()))
    return Turn((Write(vm.VectorsBranch(_CHILD, None, None), {**state, _BRANCH: shown}),))


def _compact(number: int, state: State) -> Turn:
    """Compact; not while a branch reads the file, as that is refused."""
    return Turn() if _BRANCH in state else Turn(long=vm.VectorsCompact())


class VectorsSubject:
    """The vector store. See ``base.Subject``."""

    kind: StoreKind = "vectors"
    path = f"{HOME}/drill.rvf"
    alphabet: Mapping[str, Operation] = {
        "insert": _insert,
        "batch": _batch,
        "delete": _delete,
        "delete-where": _delete_where,
        "pair": _pair,
        "embed": _embed,
        "branch": _branch,
        "compact": _compact,
        "reopen": reopen,
        "die": die,
    }

    def __init__(self) -> None:
        # Nobody is about to write the rest of a lock file that is cut short.
        upstream_lock._SETTLE_S = 0.0

    def open(self, disk: Disk, durability: Durability) -> Actor:
        options = vm.VectorOptions(dimension=_DIMENSION)
        return self._open(disk, self.path, durability, options)

    def _open(
        self, disk: Disk, path: str, durability: Durability, options: vm.VectorOptions
    ) -> Actor:
        spec = StoreSpec(
            "drill", "vectors", path, durability=durability, interval_s=INTERVAL_S, options=options
        )
        return open_vectors(disk, spec, tick)

    def read(self, disk: Disk, actor: Actor) -> State:
        state: dict[str, Hashable] = dict(_read_rows(actor))
        image = ask(actor, vm.VectorsExtract("kernel"), vm.Image).payload
        if image is not None:
            state[_IMAGE] = bytes(image)
        if disk.inode_at(_CHILD) is not None:
            child = self._open(disk, _CHILD, "always", vm.VectorOptions(read_only=True))
            state[_BRANCH] = tuple(sorted(_read_rows(child).items()))
            child.close()
        return state

    def rival(self, state: State) -> Write:
        return _ingest(state, {number: (9.0, 9.0, 4, "rival") for number in (1, 2, 5, 70)})

    def verify(self, disk: Disk) -> Standing:
        there = [path for path in (self.path, _CHILD) if disk.inode_at(path) is not None]
        return max(examined(disk, path) for path in there)

    def undetectable(self, word: str, found: State, states: Sequence[State]) -> bool:
        """A branch's file may be taken away, or another store be put in its place.

        Nothing in that one says whose place it has; it shows its own rows.
        """
        if word not in ("gone", "foreign"):
            return False
        own = {key: value for key, value in found.items() if key != _BRANCH}
        rest = [{key: state[key] for key in state if key != _BRANCH} for state in states]
        shown = [tuple(sorted(_rows(state).items())) for state in states]
        return own in rest and (_BRANCH not in found or found[_BRANCH] in shown)


def _read_rows(actor: Actor) -> dict[str, Hashable]:
    """The rows, asked for page by page, by id, and by nearness."""
    rows: dict[int, Row] = {}
    after: int | None = None
    while True:
        page = ask(actor, vm.VectorsScan(after, 3), vm.VectorRows)
        rows |= _rows_in(page)
        if not page.more:
            break
        after = max(rows)
    got = ask(actor, vm.VectorsGet(_ids(sorted(rows))), vm.VectorRows)
    agree("get", _rows_in(got), dict(sorted(rows.items())))
    agree("count", ask(actor, vm.VectorsCount(), vm.Counted).rows, len(rows))
    query = vm.VectorsQuery(raw(np.zeros((1, _DIMENSION), np.float32)), 1, len(rows) + 1)
    hits = ask(actor, query, vm.Hits)
    nearest = sorted((row[0] ** 2 + row[1] ** 2, number) for number, row in rows.items())
    agree("query", np.frombuffer(hits.ids, "<u8").tolist(), [number for _, number in nearest])
    return {f"row {number}": row for number, row in rows.items()}


def _rows_in(reply: vm.VectorRows) -> dict[int, Row]:
    numbers = np.frombuffer(reply.ids, "<u8").tolist()
    if not numbers or reply.vectors is None:
        return {}
    vectors = np.frombuffer(reply.vectors, "<f4").reshape(len(numbers), _DIMENSION).tolist()
    columns = {} if reply.metadata is None else ipc_to_table(reply.metadata).to_pydict()
    absent = [None] * len(numbers)
    return {
        number: (*vector, n, s)
        for number, vector, n, s in zip(
            numbers, vectors, columns.get("n", absent), columns.get("s", absent), strict=True
        )
    }
