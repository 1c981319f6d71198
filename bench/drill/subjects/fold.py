"""The fold, as drills see it."""

from collections.abc import Hashable, Mapping, Sequence

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
    is_of_once_written,
    reopen,
    tick,
)
from holdfast.formats.values import AnyUpdate, Cursor, Delete, Purge, Put, Version
from holdfast.workers import fold_messages as fm
from holdfast.workers.actor import Actor
from holdfast.workers.disk import Disk
from holdfast.workers.fold import open_fold
from holdfast.workers.message import Durability
from holdfast.workers.messages import StoreSpec
from holdfast.workers.standing import Standing

_CURSOR = "cursor"


def _apply(state: State, updates: Sequence[AnyUpdate], cursor: int) -> Write:
    """A batch; a power loss may leave its first updates under the old cursor."""
    moved = Cursor.from_u64(cursor)
    rows = dict(state)
    parts: list[State] = []
    for update in updates:
        if isinstance(update, Put):
            rows[f"key {update.key}"] = (update.value, update.version.token)
        else:
            rows.pop(f"key {update.key}", None)
        parts.append(dict(rows))
    request = fm.FoldApply(list(updates), moved)
    return Write(request, {**rows, _CURSOR: moved.token}, tuple(parts))


def _put_small(number: int, state: State) -> Turn:
    put = Put("a", b"small %d" % number, Version.from_u64(number))
    return Turn((_apply(state, [put], number),))


def _put_large(number: int, state: State) -> Turn:
    put = Put("b", (b"over several sectors %d, " % number) * 60)
    return Turn((_apply(state, [put], number),))


def _batch(number: int, state: State) -> Turn:
    updates: list[AnyUpdate] = [
        Put("a", b"of a batch %d" % number),
        Delete("b"),
        Put("c", b"%d" % number * 500),
        Put("", b"the empty key"),
    ]
    return Turn((_apply(state, updates, number),))


def _delete(number: int, state: State) -> Turn:
    return Turn((_apply(state, [Delete("a"), Purge("c")], number),))


def _move_cursor(number: int, state: State) -> Turn:
    return Turn((_apply(state, [], number),))


def _pair(number: int, state: State) -> Turn:
    """Two requests that share a commit."""
    first = _apply(state, [Put("a", b"first %d" % number), Put("d", b"d")], 1000 + number)
    second = _apply(first.after, [Put("a", b"second %d" % number), Delete("d")], number)
    return Turn((first, second))


def _compact(number: int, state: State) -> Turn:
    return Turn(long=fm.FoldCompact())


class FoldSubject:
    """The fold. See ``base.Subject``."""

    kind: StoreKind = "fold"
    path = f"{HOME}/drill.snap"
    alphabet: Mapping[str, Operation] = {
        "put-small": _put_small,
        "put-large": _put_large,
        "batch": _batch,
        "delete": _delete,
        "move-cursor": _move_cursor,
        "pair": _pair,
        "compact": _compact,
        "reopen": reopen,
        "die": die,
    }

    def open(self, disk: Disk, durability: Durability) -> Actor:
        spec = StoreSpec("drill", "fold", self.path, durability=durability, interval_s=INTERVAL_S)
        return open_fold(disk, spec, tick)

    def read(self, disk: Disk, actor: Actor) -> State:
        entries = ask(actor, fm.FoldRange(""), fm.Entries).entries
        keys = [entry.key for entry in entries]
        agree("order of keys", keys, sorted(set(keys), key=str.encode))
        agree("get_many", ask(actor, fm.FoldGetMany(keys), fm.MaybeEntries).entries, entries)
        for entry in entries:
            agree("get", ask(actor, fm.FoldGet(entry.key), fm.Entry).entry, entry)
        cursor = ask(actor, fm.FoldCursor(), fm.CursorIs).cursor.token
        state: dict[str, Hashable] = {
            f"key {entry.key}": (entry.value, entry.version.token) for entry in entries
        }
        return {**state, **({_CURSOR: cursor} if cursor else {})}

    def rival(self, state: State) -> Write:
        return _apply(state, [Put(key, b"rival") for key in ("", "a", "b", "c", "d")], 1 << 40)

    def verify(self, disk: Disk) -> Standing:
        return examined(disk, self.path)

    def undetectable(self, word: str, found: State, states: Sequence[State]) -> bool:
        """Records are not chained, so whole ones may come and go; nor does a log tell its end.

        A compacted log that is cut holds its first keys, and no cursor yet: the stream comes anew.
        """
        if word in ("swap", "repeat", "drop"):
            return is_of_once_written(found, states)
        if word == "flip":
            bare = [{k: v for k, v in state.items() if k != _CURSOR} for state in states]
            return found in bare
        if word in ("cut", "zero", "noise"):
            return _CURSOR not in found and any(found.items() <= state.items() for state in states)
        return False
