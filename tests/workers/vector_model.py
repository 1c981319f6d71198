"""What a vector store must hold, as dictionaries searched by brute force; and how to ask it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from holdfast.formats.errors import HoldfastError
from holdfast.formats.expression import encode_expression
from holdfast.formats.rvf.terms import Metric
from holdfast.formats.tables import ID, ipc_to_table, table_to_ipc
from holdfast.workers import (
    row_table,
    upstream_lock,
    vector_compaction,
    vector_loading,
    vector_queries,
    vector_store,
    vectors,
)
from holdfast.workers import vector_messages as vm
from holdfast.workers.actor import Caller
from holdfast.workers.disk import Disk
from holdfast.workers.message import Durability
from holdfast.workers.messages import Done, Reply, Request, StoreSpec, StoreStatus
from holdfast.workers.raw_arrays import raw
from holdfast.workers.vectors import VectorsActor, open_vectors
from tests.workers.columns_model import TYPES, Joined, Leaf, Value, expression, truth
from tests.workers.columns_model import table as table_of

R = TypeVar("R")
Filter = Leaf | Joined

PATH = "/data/v.rvf"
DIMENSION = 2
READER = Caller(99, 0)
PAGE_ROWS = 3
POLICIES: tuple[Durability, ...] = ("always", "interval", "never")


def tick() -> None:
    """Nobody watches whether a test makes progress."""


def vectors_spec(
    path: str = PATH,
    durability: Durability = "always",
    *,
    metric: Metric | None = None,
    dimension: int | None = DIMENSION,
    read_only: bool = False,
) -> StoreSpec:
    """How the tests open a store; an interval is never over within a test."""
    options = vm.VectorOptions(dimension=dimension, metric=metric, read_only=read_only)
    return StoreSpec(
        "v", "vectors", path, durability=durability, interval_s=3600.0, options=options
    )


def opened(
    disk: Disk,
    path: str = PATH,
    durability: Durability = "always",
    *,
    metric: Metric | None = None,
    dimension: int | None = DIMENSION,
) -> VectorsActor:
    """The store at ``path``, recovered."""
    spec = vectors_spec(path, durability, metric=metric, dimension=dimension)
    return open_vectors(disk, spec, tick)


def opened_read_only(disk: Disk, path: str = PATH) -> VectorsActor:
    """The store at ``path`` as it is, without its lock."""
    return open_vectors(disk, vectors_spec(path, dimension=None, read_only=True), tick)


def with_small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a few rows do what takes thousands otherwise: merges, chunks, pages, several blocks."""
    for module, name, value in (
        (vector_store, "_VECS_MAX", 4),
        (vector_store, "_VECS_LEFT", 2),
        (vector_store, "_METAS_MAX", 8),
        (vector_store, "_HIDDEN_MAX", 3),
        (vector_store, "_DELETED_MAX", 3),
        (vector_store, "_DELETED_LEFT", 1),
        (vector_compaction, "_SEGMENT_BYTES", 40),
        (vector_compaction, "_META_ROWS", 3),
        (vector_compaction, "_META_BYTES", 30),
        (vector_compaction, "_COPY_BYTES", 500),
        (vector_compaction, "_FLUSH_BYTES", 100),
        (vector_compaction, "_SYNC_EVERY_BYTES", 300),
        (vector_compaction, "MAPPED_BYTES_MIN", 40),
        (vector_loading, "MAPPED_BYTES_MIN", 40),
        (vectors, "_DEAD_BYTES_MIN", 3000),
        (row_table, "_POOL_BYTES", 40),
        (row_table, "_FIRST_CAPACITY", 4),
        (row_table, "_LOOK_AT_ROWS", 2),
        (vector_queries, "SCAN_PAGE_ENTRIES", 2),
    ):
        monkeypatch.setattr(module, name, value)
    without_waiting(monkeypatch)


def without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock file that is cut short is not waited for: nobody is about to write the rest of it."""
    monkeypatch.setattr(upstream_lock, "_SETTLE_S", 0.0)


# --- what a store holds ------------------------------------------------------------------------


class Row(NamedTuple):
    """A vector, and the metadata that are not null, by name."""

    vector: tuple[float, ...]
    metadata: tuple[tuple[str, Value], ...] = ()


def row(*vector: float, **metadata: Value) -> Row:
    """A row as a test writes it."""
    return Row(vector, tuple(sorted(metadata.items())))


@dataclass(frozen=True)
class State:
    """All that a store holds. ``inherited`` are the ids whose rows are the parent's."""

    rows: Mapping[int, Row] = field(default_factory=dict)
    columns: frozenset[str] = frozenset()
    frozen: bool = False
    inherited: frozenset[int] = frozenset()
    kernel: bytes | None = None
    """The newest kernel image."""
    children: Mapping[str, "State"] = field(default_factory=dict)
    """Branches and derived files by path, as they were made."""

    def branch(self, include: Sequence[int] | None, exclude: Sequence[int] | None) -> "State":
        """What a branch made now shows."""
        shown = frozenset(n for n in self.rows if _lets_through(n, include, exclude))
        rows = {number: self.rows[number] for number in shown}
        return State(rows, self.columns, inherited=shown)


def _lets_through(
    number: int, include: Sequence[int] | None, exclude: Sequence[int] | None
) -> bool:
    return (include is None or number in include) and (exclude is None or number not in exclude)


def passes(where: Filter, number: int, found: Row) -> bool:
    """Whether a filter is true for a row."""
    return truth(where, {ID: number, **dict(found.metadata)}) is True


# --- what changes it ---------------------------------------------------------------------------


class Op:
    """A request that writes, what it does, and what the answer must be."""

    def request(self) -> Request:
        """The message."""
        raise NotImplementedError

    def after(self, state: State) -> State:
        """What the store holds afterwards."""
        raise NotImplementedError

    def check(self, reply: object, before: State) -> None:
        """Assert that the reply is right."""
        assert reply == Done()


def _ids(numbers: Sequence[int]) -> NDArray[np.uint64]:
    return np.array(list(numbers), np.uint64)


@dataclass(frozen=True)
class Ingest(Op):
    """Insert or replace rows; columns are those that any of them has a value in, and ``nulls``."""

    rows: Mapping[int, Row]
    nulls: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """The metadata columns that are sent."""
        named = {name for found in self.rows.values() for name, _ in found.metadata}
        return sorted(named | set(self.nulls))

    def request(self) -> vm.VectorsIngest:
        metadata = None
        if self.columns:
            rows = [dict(found.metadata) for found in self.rows.values()]
            metadata = memoryview(table_to_ipc(table_of(rows, self.columns)))
        vectors = np.array([found.vector for found in self.rows.values()], np.float32)
        return vm.VectorsIngest(raw(_ids(list(self.rows))), raw(vectors), metadata)

    def after(self, state: State) -> State:
        return replace(
            state,
            rows={**state.rows, **self.rows},
            columns=state.columns | set(self.columns),
            inherited=state.inherited - set(self.rows),
        )

    def check(self, reply: object, before: State) -> None:
        assert isinstance(reply, vm.Ingested)
        replaced = len(self.rows.keys() & before.rows.keys())
        assert (reply.accepted, reply.replaced) == (len(self.rows), replaced)
        assert reply.rejected == []


def ingest(**rows: Row) -> Ingest:
    """Rows by id: ``ingest(_1=row(0, 0))``."""
    return Ingest({int(name[1:]): found for name, found in rows.items()})


@dataclass(frozen=True)
class Delete(Op):
    """Delete rows by id."""

    ids: tuple[int, ...]

    def request(self) -> vm.VectorsDelete:
        return vm.VectorsDelete(raw(_ids(self.ids)))

    def _gone(self, state: State) -> set[int]:
        return state.rows.keys() & set(self.ids)

    def after(self, state: State) -> State:
        gone = self._gone(state)
        rows = {number: found for number, found in state.rows.items() if number not in gone}
        return replace(state, rows=rows, inherited=state.inherited - gone)

    def check(self, reply: object, before: State) -> None:
        assert isinstance(reply, vm.Deleted)
        assert reply.deleted == len(self._gone(before))


@dataclass(frozen=True)
class DeleteWhere(Op):
    """Delete the rows that pass a filter."""

    where: Filter

    def request(self) -> vm.VectorsDeleteWhere:
        return vm.VectorsDeleteWhere(encode_expression(expression(self.where)))

    def _delete(self, state: State) -> Delete:
        return Delete(tuple(n for n, found in state.rows.items() if passes(self.where, n, found)))

    def after(self, state: State) -> State:
        return self._delete(state).after(state)

    def check(self, reply: object, before: State) -> None:
        self._delete(before).check(reply, before)


@dataclass(frozen=True)
class Embed(Op):
    """Store a kernel image; the payload's content is no concern of the store."""

    payload: bytes

    def request(self) -> vm.VectorsEmbed:
        return vm.VectorsEmbed("kernel", memoryview(self.payload))

    def after(self, state: State) -> State:
        return replace(state, kernel=self.payload)


@dataclass(frozen=True)
class Freeze(Op):
    """Refuse writes from now on."""

    def request(self) -> vm.VectorsFreeze:
        return vm.VectorsFreeze()

    def after(self, state: State) -> State:
        return replace(state, frozen=True)


def _raw_or_none(numbers: Sequence[int] | None) -> memoryview | None:
    return None if numbers is None else raw(_ids(numbers))


@dataclass(frozen=True)
class Limit(Op):
    """Limit what a branch shows of its parent."""

    include: tuple[int, ...] | None = None
    exclude: tuple[int, ...] | None = None

    def request(self) -> vm.VectorsMembers:
        return vm.VectorsMembers(_raw_or_none(self.include), _raw_or_none(self.exclude), True)

    def after(self, state: State) -> State:
        shown = {n for n in state.inherited if _lets_through(n, self.include, self.exclude)}
        rows = {n: r for n, r in state.rows.items() if n in shown or n not in state.inherited}
        return replace(state, rows=rows, inherited=frozenset(shown))

    def check(self, reply: object, before: State) -> None:
        assert isinstance(reply, vm.Membership)
        assert reply.visible_rows == len(self.after(before).inherited)


@dataclass(frozen=True)
class Branch(Op):
    """Make a branch."""

    path: str
    include: tuple[int, ...] | None = None
    exclude: tuple[int, ...] | None = None

    def request(self) -> vm.VectorsBranch:
        return vm.VectorsBranch(self.path, _raw_or_none(self.include), _raw_or_none(self.exclude))

    def after(self, state: State) -> State:
        child = state.branch(self.include, self.exclude)
        return replace(state, children={**state.children, self.path: child})


@dataclass(frozen=True)
class Derive(Op):
    """Make an empty child."""

    path: str

    def request(self) -> vm.VectorsDerive:
        return vm.VectorsDerive(self.path, "averages")

    def after(self, state: State) -> State:
        return replace(state, children={**state.children, self.path: State()})


# --- asking ------------------------------------------------------------------------------------


def ask(actor: VectorsActor, request: Request, kind: type[R], caller: Caller = READER) -> R:
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


def do(actor: VectorsActor, op: Op, caller: Caller, before: State) -> object:
    """Have a write done; returns the reply, which is right."""
    reply = ask(actor, op.request(), object, caller)
    op.check(reply, before)
    return reply


def ids_in(data: memoryview) -> list[int]:
    """Ids of a reply."""
    found: list[int] = np.frombuffer(data, "<u8").tolist()
    return found


def rows_in(reply: vm.VectorRows) -> dict[int, Row]:
    """Rows of a reply with vectors and metadata, by id, in the order they came."""
    assert reply.vectors is not None
    assert reply.metadata is not None
    numbers = ids_in(reply.ids)
    flat = np.frombuffer(reply.vectors, "<f4")
    vectors = flat.reshape(len(numbers), -1).tolist() if numbers else []
    metadata = ipc_to_table(reply.metadata).to_pylist() if numbers else []
    metadata = metadata or [{}] * len(numbers)  # a table without columns has no rows
    found = {
        number: Row(
            tuple(vector),
            tuple(sorted((name, value) for name, value in values.items() if value is not None)),
        )
        for number, vector, values in zip(numbers, vectors, metadata, strict=True)
    }
    assert len(found) == len(numbers)
    return found


def columns_of(actor: VectorsActor) -> frozenset[str]:
    """The metadata columns, whose types are those of the model."""
    reply = ask(actor, vm.VectorsGet(raw(_ids([]))), vm.VectorRows)
    assert reply.metadata is not None
    schema: pa.Schema = ipc_to_table(reply.metadata).schema
    assert all(field.type == TYPES[field.name] for field in schema)
    return frozenset(schema.names)


def state_of(disk: Disk, actor: VectorsActor, children: Sequence[str] = ()) -> State:
    """All that the actor answers with, rows asked for in two ways."""
    rows: dict[int, Row] = {}
    more, after = True, None
    while more:
        page = ask(actor, vm.VectorsScan(after, PAGE_ROWS), vm.VectorRows)
        found = rows_in(page)
        assert not rows.keys() & found.keys()
        assert list(found) == sorted(found)
        assert len(found) == PAGE_ROWS or not page.more
        rows |= found
        more, after = page.more, max(found, default=None)
    backwards = sorted(rows, reverse=True)
    got = ask(actor, vm.VectorsGet(raw(_ids([*backwards, 1 << 63]))), vm.VectorRows)
    assert list(rows_in(got).items()) == [(number, rows[number]) for number in backwards]
    assert ask(actor, vm.VectorsCount(), vm.Counted).rows == len(rows)
    image = ask(actor, vm.VectorsExtract("kernel"), vm.Image).payload
    made = {}
    for path in children:
        if disk.inode_at(path) is not None:
            child = opened_read_only(disk, path)
            made[path] = state_of(disk, child)
            child.close()
    return State(
        rows,
        columns_of(actor),
        _is_frozen(actor),
        _inherited(actor, rows),
        None if image is None else bytes(image),
        made,
    )


def _is_frozen(actor: VectorsActor) -> bool:
    return ask(actor, StoreStatus(), vm.VectorStatus).frozen


def _inherited(actor: VectorsActor, rows: Mapping[int, Row]) -> frozenset[int]:
    """The ids whose rows are the parent's, which the figures about it agree with."""
    members = ask(actor, vm.VectorsMembers(), vm.Membership)
    stats = ask(actor, vm.VectorsCow(), vm.CowStats)
    hidden = set(ids_in(members.hidden))
    assert stats.inherited_rows == members.visible_rows
    assert stats.inherited_rows + stats.local_rows == len(rows)
    assert stats.inherited_rows + stats.overridden_rows + stats.hidden_rows == members.parent_rows
    table = actor._store.table
    live = table.live_in_id_order()
    shown = frozenset(table.ids[live[live < actor._store.inherited_rows]].tolist())
    assert len(shown) == stats.inherited_rows
    assert not shown & hidden
    return shown


# --- nearest rows ------------------------------------------------------------------------------


def distance(metric: Metric, x: Sequence[float], y: Sequence[float]) -> float:
    """RVF 8, in Python's floats."""
    if metric == "l2":
        return math.fsum((a - b) ** 2 for a, b in zip(x, y, strict=True))
    dot = math.fsum(a * b for a, b in zip(x, y, strict=True))
    if metric == "ip":
        return -dot
    root = math.sqrt(math.fsum(a * a for a in x) * math.fsum(b * b for b in y))
    return 1.0 if root < 2.0**-23 else 1.0 - dot / root


def check_query(
    actor: VectorsActor,
    state: State,
    queries: Sequence[Sequence[float]],
    k: int,
    metric: Metric,
    where: Filter | None = None,
) -> None:
    """Assert that a query finds what sorting all rows finds, ties by id."""
    encoded = None if where is None else encode_expression(expression(where))
    request = vm.VectorsQuery(
        raw(np.array(queries, np.float32)), len(queries), k, encoded, metadata=True, vectors=True
    )
    hits = ask(actor, request, vm.Hits)
    counted = {n: r for n, r in state.rows.items() if where is None or passes(where, n, r)}
    assert ask(actor, vm.VectorsCount(encoded), vm.Counted).rows == len(counted)
    assert hits.each == min(k, len(counted))
    assert not hits.approximate
    ids = np.frombuffer(hits.ids, "<u8").reshape(len(queries), hits.each)
    distances = np.frombuffer(hits.distances, "<f4").reshape(len(queries), hits.each)
    for query, numbers, found in zip(queries, ids.tolist(), distances.tolist(), strict=True):
        right = {n: np.float32(distance(metric, query, r.vector)) for n, r in counted.items()}
        assert list(zip(found, numbers, strict=True)) == sorted(zip(found, numbers, strict=True)), (
            "nearest first, ties by id"
        )
        best = sorted((float(d), n) for n, d in right.items())[: hits.each]
        if metric == "cosine":  # the last bit may differ, and with it the order
            assert found == pytest.approx([d for d, _ in best], rel=1e-5, abs=1e-6)
            assert found == pytest.approx([right[n] for n in numbers], rel=1e-5, abs=1e-6)
        else:
            assert list(zip(found, numbers, strict=True)) == best
    flat = ids.reshape(-1).tolist()
    assert hits.vectors is not None
    given = np.frombuffer(hits.vectors, "<f4").reshape(len(flat), len(queries[0])).tolist()
    assert given == [list(counted[number].vector) for number in flat]
    assert hits.metadata is not None
    table = ipc_to_table(hits.metadata)
    values = table.to_pylist() if table.num_columns else [{}] * len(flat)
    assert [
        tuple(sorted((name, value) for name, value in found.items() if value is not None))
        for found in values
    ] == [counted[number].metadata for number in flat]


# --- what was sent and answered ----------------------------------------------------------------


class Sent(NamedTuple):
    """A write that was handed to the actor; ``reply`` is None while it is being handled."""

    caller: Caller
    op: Op
    before: State
    reply: object | None

    @property
    def changes(self) -> bool:
        """Whether it leaves a trace: one that does not is done anew when it is sent again."""
        return isinstance(self.op, Derive) or self.op.after(self.before) != self.before


@dataclass
class History:
    """What was sent and answered, and so what may be there after what kind of end."""

    durability: Durability = "always"
    first: State = State()
    sent: list[Sent] = field(default_factory=list)
    answered: int = 0
    """How many of those were answered."""
    durable: int = 0
    """How many of those a power loss must not undo."""
    closed: int = 0
    """How many of those nobody will send again."""
    _requests: int = 0

    @property
    def state(self) -> State:
        """Everything handled took effect."""
        return self.states()[-1]

    def states(self) -> list[State]:
        """The states gone through; the last one may be that of a write that is being handled."""
        return [self.first, *(sent.op.after(sent.before) for sent in self.sent)]

    def send(self, actor: VectorsActor, op: Op) -> object:
        """Hand a write to the actor; it is unanswered until ``commit``."""
        self._requests += 1
        caller, before = Caller(7, self._requests), self.state
        self.sent.append(Sent(caller, op, before, None))
        try:
            reply = do(actor, op, caller, before)
        except HoldfastError:
            self.sent.pop()
            raise
        self.sent[-1] = self.sent[-1]._replace(reply=reply)
        if isinstance(op, Branch | Derive):  # a child never shows what its parent may lose
            self.durable = len(self.sent)
        return reply

    def commit(self, actor: VectorsActor) -> None:
        """Commit, which answers everything sent."""
        actor.commit()
        self.answer()

    def answer(self) -> None:
        """Every request sent took effect, for all that its caller knows."""
        assert all(sent.reply is not None for sent in self.sent)
        self.answered = len(self.sent)
        if self.durability == "always":
            self.synced()

    def synced(self) -> None:
        """What was handled is on stable storage, whatever the policy."""
        self.durable = len(self.sent)

    def close(self, actor: VectorsActor) -> None:
        """Close the actor: whoever does has every answer."""
        self.closed = len(self.sent)
        actor.close()
        self.synced()

    def after_death(self) -> list[State]:
        """What may be there after the death of the process: all that was handled, at least."""
        states = self.states()
        handled = sum(sent.reply is not None for sent in self.sent)
        return states[handled:]

    def after_power_loss(self) -> list[State]:
        """What may be there after a power loss: whole commits, in their order."""
        return self.states()[self.durable :]

    def to_resend(self) -> list[Sent]:
        """What the host sends again after a death: what is unanswered; and the last answer."""
        return self.sent[max(self.closed, self.answered - 1) :]
