"""Durable keys and values: the fold beside LMDB, RocksDB, SQLite and diskcache."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence

import holdfast
from holdfast.bench import data
from holdfast.bench.callers import OneCall, seconds_for_all
from holdfast.bench.measure import Measurement, seconds, seconds_per_call
from holdfast.bench.peers import limits
from holdfast.bench.peers.contest import OURS, Contest, Work
from holdfast.bench.peers.key_value_stores import PEERS, Item, Ordered, Peer
from holdfast.bench.peers.kinds import Kind
from holdfast.bench.peers.sizes import Sizes

THREADS = 64
_NUMBER = holdfast.Cursor.from_u64
SYNCED = "synced before it returns: survives a power loss"
UNSYNCED = "written, not synced: survives the end of the process"
READ = "a read"

Making = Callable[[], contextlib.AbstractContextManager[Peer]]


class Fold:
    """The engine's fold, with the worker up."""

    def __init__(self, directory: str, *, synced: bool) -> None:
        self._engine = holdfast.open(directory)
        self._fold = self._engine.fold("peer", durability="always" if synced else "never")
        self._fold.cursor()
        self._numbers = itertools.count(1)

    def put(self, key: bytes, value: bytes) -> None:
        self._fold.apply([holdfast.Put(key.decode(), value)], _NUMBER(next(self._numbers)))

    def put_batch(self, items: Sequence[Item]) -> None:
        updates = [holdfast.Put(key.decode(), value) for key, value in items]
        self._fold.apply(updates, _NUMBER(next(self._numbers)))

    def get(self, key: bytes) -> bytes | None:
        found = self._fold.get(key.decode())
        return None if found is None else found.value

    def range(self, prefix: bytes) -> list[Item]:
        return [(found.key.encode(), found.value) for found in self._fold.range(prefix.decode())]

    def close(self) -> None:
        self._engine.close()


KINDS: dict[str, Kind[Peer]] = {f"{OURS} fold": Kind((), Fold), **PEERS}


def compare(contest: Contest, sizes: Sizes) -> None:
    """All rows of this area."""
    _puts(contest, sizes)
    _puts_at_once(contest, sizes)
    _batches(contest, sizes)
    _reads(contest, sizes)


def item(number: int) -> Item:
    """An entry of 60 and 200 bytes."""
    return data.key(number).encode(), data.value(number)


@contextlib.contextmanager
def _fresh(contest: Contest, name: str, *, synced: bool) -> Iterator[Peer]:
    with (
        contest.run.fresh() as directory,
        contextlib.closing(KINDS[name].make(directory, synced=synced)) as peer,
    ):
        yield peer


def _makers(contest: Contest, *, synced: bool) -> dict[str, Making]:
    def making(name: str) -> Making:
        return lambda: _fresh(contest, name, synced=synced)

    return {name: making(name) for name in contest.entrants(KINDS)}


def _puts(contest: Contest, sizes: Sizes) -> None:
    items = [item(number) for number in data.scattered(sizes.puts)]
    for synced in (True, False):
        how = "synced" if synced else "unsynced"
        limit = "append + fdatasync" if synced else "append"
        contest.compare(
            Work(f"put-{how}", f"{sizes.puts} puts of 60 + 200 B into an empty store, one by one",
                 "put", SYNCED if synced else UNSYNCED, f"{limit} of the same bytes"),
            {name: _putting(make, items) for name, make in _makers(contest, synced=synced).items()},
            limits.appended(contest.run, [b"".join(pair) for pair in items], len(items),
                            synced=synced),
            sizes.repetitions,
        )  # fmt: skip


def _putting(make: Making, items: Sequence[Item]) -> Measurement:
    def measure() -> float:
        with make() as peer:

            def every() -> None:
                for key, value in items:
                    peer.put(key, value)

            took = seconds(every)
            _check(peer, items)
        return took / len(items)

    return measure


def _check(peer: Peer, items: Sequence[Item]) -> None:
    for key, value in items[:: max(1, len(items) // 20)]:
        assert peer.get(key) == value, "it does not have what it was given"


def _puts_at_once(contest: Contest, sizes: Sizes) -> None:
    bodies = [b"".join(item(number)) for number in range(sizes.puts)]
    contest.compare(
        Work("put-at-once",
             f"{sizes.puts_at_once} puts of 60 + 200 B by each of {THREADS} threads at once",
             "put", SYNCED,
             "append + fdatasync of the same bytes, one by one"),
        {
            name: _putting_at_once(make, sizes.puts_at_once)
            for name, make in _makers(contest, synced=True).items()
        },
        limits.appended(contest.run, bodies, len(bodies), synced=True),
        sizes.long_repetitions,
    )  # fmt: skip


def _putting_at_once(make: Making, each: int) -> Measurement:
    def measure() -> float:
        with make() as peer:

            def caller(number: int) -> OneCall:
                key, value = item(number)
                return lambda _: peer.put(key, value)

            took = seconds_for_all([caller(number) for number in range(THREADS)], each)
            _check(peer, [item(number) for number in range(THREADS)])
        return took / (each * THREADS)

    return measure


def _batches(contest: Contest, sizes: Sizes) -> None:
    count = sizes.batches * data.BATCH
    items = [item(number) for number in data.scattered(count)]
    batches = [items[start : start + data.BATCH] for start in range(0, count, data.BATCH)]
    bodies = [b"".join(itertools.chain.from_iterable(batch)) for batch in batches]
    for synced in (True, False):
        how = "synced" if synced else "unsynced"
        limit = "append + fdatasync" if synced else "append"
        contest.compare(
            Work(f"batch-{how}", f"{sizes.batches} batches of {data.BATCH:,} entries, each atomic",
                 "entry", SYNCED if synced else UNSYNCED, f"{limit} of the same bytes"),
            {
                name: _putting_batches(make, batches)
                for name, make in _makers(contest, synced=synced).items()
            },
            limits.appended(contest.run, bodies, count, synced=synced),
            sizes.long_repetitions,
        )  # fmt: skip


def _putting_batches(make: Making, batches: Sequence[Sequence[Item]]) -> Measurement:
    def measure() -> float:
        with make() as peer:

            def every() -> None:
                for batch in batches:
                    peer.put_batch(batch)

            took = seconds(every)
            _check(peer, [batch[-1] for batch in batches])
        return took / sum(map(len, batches))

    return measure


def _reads(contest: Contest, sizes: Sizes) -> None:
    items = [item(number) for number in data.scattered(sizes.entries)]
    with contextlib.ExitStack() as stack:
        peers: dict[str, Peer] = {}
        for name, make in _makers(contest, synced=False).items():
            with contest.excusing(name):
                peers[name] = stack.enter_context(make())
                for start in range(0, len(items), data.BATCH):
                    peers[name].put_batch(items[start : start + data.BATCH])
        ask = stack.enter_context(limits.piped())
        contest.compare(
            Work("get", f"get of one of {sizes.entries:,} entries", "get", READ,
                 "a round trip of as many bytes over a Pipe to another process"),
            {name: _getting(peer, items, sizes.calls) for name, peer in peers.items()},
            limits.asked(ask, bytes(data.KEY_BYTES), data.VALUE_BYTES, sizes.calls),
            sizes.repetitions,
        )  # fmt: skip
        each = data.KEY_BYTES + data.VALUE_BYTES
        contest.compare(
            Work("prefix", f"the {data.GROUP:,} entries under a prefix, of {sizes.entries:,}",
                 "range", READ, "a round trip of as many bytes over a Pipe to another process"),
            {
                name: _ranging(peer, sizes.entries // data.GROUP)
                for name, peer in peers.items() if isinstance(peer, Ordered)
            },
            limits.asked(ask, b"", data.GROUP * each, 20),
            sizes.repetitions,
        )  # fmt: skip


def _getting(peer: Peer, items: Sequence[Item], calls: int) -> Measurement:
    turns = itertools.cycle(items)

    def get() -> None:
        key, value = next(turns)
        assert peer.get(key) == value, "another value"

    return lambda: seconds_per_call(get, calls)


def _ranging(peer: Ordered, groups: int) -> Measurement:
    turns = itertools.cycle(range(groups))

    def read() -> None:
        found = peer.range(data.prefix(next(turns)).encode())
        assert len(found) == data.GROUP, "some are missing"

    return lambda: seconds_per_call(read, 20)
