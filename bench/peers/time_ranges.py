"""Points in time: the warm store beside DuckDB, datasets of Parquet, and SQLite."""

import contextlib
import itertools
from collections.abc import Callable, Sequence

import numpy as np

import holdfast
from holdfast.bench.measure import Measurement, seconds, seconds_per_call
from holdfast.bench.peers import limits
from holdfast.bench.peers import point_stores as stores
from holdfast.bench.peers.contest import OURS, Contest, Work
from holdfast.bench.peers.key_value import READ, SYNCED, UNSYNCED
from holdfast.bench.peers.kinds import Kind
from holdfast.bench.peers.sizes import Sizes
from holdfast.bench.run import Run
from holdfast.bench.warm import mean_ms, settle
from holdfast.bench.warm_data import DIMENSION, POINT_BYTES, SPACE, Columns, Sample, Window, sample
from holdfast.bench.warm_write import BATCH, write_all
from holdfast.workers.message import Durability

Windows = Sequence[Window]


class Warm:
    """The engine's warm store, with the worker up."""

    def __init__(self, directory: str, durability: Durability) -> None:
        self._engine = holdfast.open(directory)
        self._store = self._engine.warm("points", dimension=DIMENSION, durability=durability)

    @classmethod
    def filled(cls, directory: str, given: Sample) -> "Warm":
        """One with these points, written as they come in time, compacted."""
        peer = cls(directory, "never")
        write_all(peer._store, list(given.batches(BATCH, "time")))
        peer._store.compact()
        settle(peer._store)
        return peer

    def write(self, batch: Columns) -> None:
        self._store.write_batch(SPACE, batch.named())

    def range(self, window: Window) -> int:
        found = self._store.range(
            window.entity, SPACE, window.start, window.end, columns=("timestamp", "vector")
        )
        return int(found.num_rows)

    def scan(self) -> int:
        return int(self._store.to_table().num_rows)

    def get(self, entity: int, time: int) -> int:
        found = self._store.get(entity, SPACE, time)
        return 0 if found is None else len(found.vector)

    def close(self) -> None:
        self._engine.close()


_OWN = f"{OURS} warm"
READERS: dict[str, Kind[stores.Read]] = {_OWN: Kind((), Warm.filled), **stores.READERS}
WRITERS: dict[bool, dict[str, Kind[stores.Written]]] = {
    True: {_OWN: Kind((), lambda directory: Warm(directory, "always")), **stores.SYNCED},
    False: {_OWN: Kind((), lambda directory: Warm(directory, "never")), **stores.UNSYNCED},
}
"""By whether every batch is synced."""


def compare(contest: Contest, sizes: Sizes) -> None:
    """All rows of this area."""
    given = sample(sizes.points, sizes.entities)
    for synced in (True, False):
        _writes(contest, sizes, given, synced=synced)
    with contextlib.ExitStack() as stack:

        def make(_: str, kind: Kind[stores.Read]) -> stores.Read:
            made = kind.make(stack.enter_context(contest.run.fresh()), given)
            stack.callback(made.close)
            return made

        _reads(contest, sizes, given, contest.enter(READERS, make))


def _writes(contest: Contest, sizes: Sizes, given: Sample, *, synced: bool) -> None:
    batches = list(given.batches(BATCH, "time"))
    count = len(given.points)
    contest.compare(
        Work("write-synced" if synced else "write-unsynced",
             f"{given}, in batches of {BATCH:,} in order of time", "point",
             SYNCED if synced else UNSYNCED,
             f"{'append + fdatasync' if synced else 'append'} of the same bytes"),
        {
            name: _writing(contest.run, WRITERS[synced][name], batches)
            for name in contest.entrants(WRITERS[synced])
        },
        limits.appended(contest.run, [b"".join(batch.pieces) for batch in batches], count,
                        synced=synced),
        sizes.long_repetitions,
    )  # fmt: skip


def _writing(run: Run, kind: Kind[stores.Written], batches: Sequence[Columns]) -> Measurement:
    def measure() -> float:
        with run.fresh() as directory, contextlib.closing(kind.make(directory)) as peer:

            def every() -> None:
                for batch in batches:
                    peer.write(batch)

            took = seconds(every)
        return took / sum(map(len, batches))

    return measure


def _reads(contest: Contest, sizes: Sizes, given: Sample, peers: dict[str, stores.Read]) -> None:
    some = given.windows(sizes.windows, max(1, given.length // 100))
    whole = given.windows(sizes.windows, given.length)
    with limits.piped() as ask:
        for name, what, windows in (
            ("range", f"1 % of one entity of {given}", some),
            ("entity", f"all points of one entity of {given}", whole),
        ):
            contest.compare(
                Work(name, what, "range", READ, "a round trip of 100 B over a Pipe, and a copy of "
                     "the points in memory"),
                {other: _ranging(peer, windows) for other, peer in peers.items()},
                _asked_and_copied(ask, windows[0].rows * POINT_BYTES, sizes.windows),
                sizes.repetitions,
            )  # fmt: skip
        contest.compare(
            Work("get", f"one point of {given}", "get", READ, "a round trip of as many bytes over "
                 "a Pipe to another process"),
            {other: _getting(peer, given, sizes.windows) for other, peer in peers.items()},
            limits.asked(ask, bytes(16), POINT_BYTES, sizes.windows),
            sizes.repetitions,
        )  # fmt: skip
    contest.compare(
        Work("scan", f"all of {given}, as columns", "point", READ,
             "a copy of the points in memory"),
        {other: _scanning(peer, len(given.points)) for other, peer in peers.items()},
        limits.copied(len(given.points) * POINT_BYTES, len(given.points)),
        sizes.long_repetitions,
        note="holdfast and mapped Arrow answer with a mapping of the file, so nothing is copied",
    )  # fmt: skip


def _asked_and_copied(ask: limits.Ask, size: int, calls: int) -> Measurement:
    asked, copied = limits.asked(ask, bytes(100), 100, calls), limits.copied(size)
    return lambda: asked() + copied()


def _ranging(peer: stores.Read, windows: Windows) -> Measurement:
    measure = mean_ms(peer.range, windows)
    return lambda: measure() / 1e3


def _getting(peer: stores.Read, given: Sample, calls: int) -> Measurement:
    rows = np.random.default_rng(4).integers(0, len(given.points), calls)
    turns = itertools.cycle([given.point(int(row)) for row in rows])

    def get() -> None:
        point = next(turns)
        assert peer.get(point.entity, point.timestamp) == DIMENSION, "it is not there"

    return lambda: seconds_per_call(get, calls)


def _scanning(peer: stores.Read, count: int) -> Measurement:
    def scan() -> None:
        assert peer.scan() == count, "some are missing"

    return _each(scan, count)


def _each(work: Callable[[], object], count: int) -> Measurement:
    return lambda: seconds(work) / count
