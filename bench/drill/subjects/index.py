"""The index store, as drills see it."""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

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
from holdfast.formats.iqdb_values import Id, Value, decode_metadata, encode_metadata
from holdfast.workers import index_messages as im
from holdfast.workers.actor import Actor
from holdfast.workers.disk import Disk
from holdfast.workers.index import open_index
from holdfast.workers.message import Durability
from holdfast.workers.messages import StoreSpec
from holdfast.workers.raw_arrays import raw
from holdfast.workers.standing import Standing

_DIMENSION = 4
_MORE = 5
"""Asked for beyond the rows there should be, so that surplus ones show."""

Row = tuple[tuple[float, ...], tuple[tuple[str, Value], ...] | None]


def _name(id_: Id) -> str:
    return f"row {id_!r}"


IDS: tuple[Id, ...] = (1, 2, 3, 4, 5, b"name", b"other")
"""Every id that the alphabet writes."""


def _insert(state: State, rows: Mapping[Id, tuple[float, Mapping[str, Value] | None]]) -> Write:
    vectors = np.zeros((len(rows), _DIMENSION), np.float32)
    held: dict[str, Hashable] = {}
    for place, (id_, (first, metadata)) in enumerate(rows.items()):
        vectors[place, :2] = first, place + 1
        plain = None if metadata is None else tuple(sorted(metadata.items()))
        held[_name(id_)] = (tuple(vectors[place].tolist()), plain)
    entries = [None if m is None else encode_metadata(m) for _, m in rows.values()]
    ids = list(rows)
    sent = raw(np.array(ids, np.uint64)) if all(isinstance(i, int) for i in ids) else ids
    return Write(im.IndexInsert(sent, raw(vectors), entries, replace=True), {**state, **held})


def _delete(state: State, ids: Sequence[Id]) -> Write:
    gone = {_name(id_) for id_ in ids}
    kept = {name: row for name, row in state.items() if name not in gone}
    return Write(im.IndexDelete(list(ids), missing_ok=True), kept)


def _one(number: int, state: State) -> Turn:
    return Turn((_insert(state, {1: (number, {"n": number, "s": "one"})}),))


def _batch(number: int, state: State) -> Turn:
    rows: dict[Id, tuple[float, Mapping[str, Value] | None]] = {
        id_: (10.0 * number, {"text": f"{number} " * 90}) for id_ in (1, 2, 3)
    }
    return Turn((_insert(state, {**rows, 4: (0.5, None)}),))


def _named(number: int, state: State) -> Turn:
    """Rows whose ids are bytes."""
    return Turn((_insert(state, {b"name": (number, {"b": True}), 5: (7.0, None)}),))


def _delete_some(number: int, state: State) -> Turn:
    return Turn((_delete(state, [1, 3, b"name"]),))


def _pair(number: int, state: State) -> Turn:
    """Two requests that share a commit."""
    first = _insert(state, {b"other": (number, None), 1: (100.0 + number, None)})
    return Turn((first, _delete(first.after, [b"other", 2])))


def _checkpoint(number: int, state: State) -> Turn:
    return Turn(long=im.IndexCheckpoint())


def _snapshot(number: int, state: State) -> Turn:
    """A snapshot, and the log stays as it is."""
    return Turn(long=im.IndexCheckpoint(reset=False))


class IndexSubject:
    """The index store, with an exact index. See ``base.Subject``."""

    kind: StoreKind = "index"
    path = f"{HOME}/drill.iqdb"
    alphabet: Mapping[str, Operation] = {
        "insert": _one,
        "batch": _batch,
        "named": _named,
        "delete": _delete_some,
        "pair": _pair,
        "checkpoint": _checkpoint,
        "snapshot": _snapshot,
        "reopen": reopen,
        "die": die,
    }

    def open(self, disk: Disk, durability: Durability) -> Actor:
        options = im.IndexOptions(kind="flat", dimension=_DIMENSION, metric="euclidean")
        spec = StoreSpec(
            "drill", "index", self.path, durability=durability, interval_s=INTERVAL_S,
            options=options,
        )  # fmt: skip
        return open_index(disk, spec, tick)

    def read(self, disk: Disk, actor: Actor) -> State:
        found = ask(actor, im.IndexGet(list(IDS)), im.IndexRows)
        ids = _ids_in(found.ids)
        vectors = np.frombuffer(found.vectors, "<f4").reshape(len(ids), _DIMENSION).tolist()
        state: dict[str, Hashable] = {
            _name(id_): (tuple(vector), _plain(entry))
            for id_, vector, entry in zip(ids, vectors, found.metadata, strict=True)
        }
        origin = raw(np.zeros((1, _DIMENSION), np.float32))
        hits = ask(actor, im.IndexSearch(origin, 1, len(IDS) + _MORE, exact=True), im.IndexHits)
        agree("search", sorted(map(_name, _ids_in(hits.ids))), sorted(state))
        lengths = {_name(i): float(np.linalg.norm(v)) for i, v in zip(ids, vectors, strict=True)}
        agree("order", [lengths[_name(i)] for i in _ids_in(hits.ids)], sorted(lengths.values()))
        return state

    def rival(self, state: State) -> Write:
        return _insert(state, {id_: (9.0, {"s": "rival"}) for id_ in (1, 2, 3, b"name", b"other")})

    def verify(self, disk: Disk) -> Standing:
        return examined(disk, self.path)

    def undetectable(self, word: str, found: State, states: Sequence[State]) -> bool:
        return False


def _ids_in(ids: im.Ids) -> list[Id]:
    if isinstance(ids, memoryview):
        return list(np.frombuffer(ids, "<u8").tolist())
    return list(ids)


def _plain(entry: bytes | None) -> tuple[tuple[str, Value], ...] | None:
    return None if entry is None else tuple(sorted(decode_metadata(entry)[0].items()))
