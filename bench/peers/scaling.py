"""How the engine's cost of one operation grows with clients, stores, rows and histories.

A curve says whether the design promises that it stays flat. Its slope is that of the line of least
squares through the medians, both axes logarithmic: 0 where the cost does not grow, 1 where it grows
in proportion.
"""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import psutil

import holdfast
from holdfast.bench import data, vector_data
from holdfast.bench.callers import OneCall, fold_callers, seconds_for_all
from holdfast.bench.measure import Measurement, in_turn, seconds, seconds_per_call
from holdfast.bench.peers.contest import Figure
from holdfast.bench.peers.own_vectors import Index, Vectors
from holdfast.bench.peers.sizes import Sizes
from holdfast.bench.peers.vector_stores import fill
from holdfast.bench.run import Run
from holdfast.bench.warm import settle
from holdfast.bench.warm_data import DIMENSION as WARM_DIMENSION
from holdfast.bench.warm_data import SPACE, Window, sample
from holdfast.bench.warm_write import BATCH, write_all

FLAT_SLOPE = 0.15
"""What a curve that is said to be flat may have: half as much again for each factor of 15."""

_DIMENSION = 32
_KEYS = 1000
_WINDOW = 100
_ROW_BYTES = {"fold": 900, "warm": 900, "vectors": 24 * _DIMENSION, "index": 24 * _DIMENSION}
"""What a row takes here and in the worker while it is written, generously."""
_MEMORY_SHARE = 0.5
_PATIENCE_S = 600.0

Ladder = Mapping[int, Measurement]
"""What is on the horizontal axis, to the seconds of one operation there."""


@dataclass(frozen=True, slots=True)
class Curve:
    """The seconds of one operation over what grows."""

    name: str
    what: str
    over: str
    flat: bool
    points: Mapping[int, Figure]

    @property
    def slope(self) -> float:
        """Of the medians, both axes logarithmic; 0 of a single point."""
        if len(self.points) < 2:
            return 0.0
        heights = [figure.median for figure in self.points.values()]
        return float(np.polyfit(np.log(list(self.points)), np.log(heights), 1)[0])

    @property
    def holds(self) -> bool | None:
        """Whether a curve that is to be flat is; None where the design lets it grow."""
        return self.slope <= FLAT_SLOPE if self.flat else None

    def as_json(self) -> dict[str, object]:
        """The curve as plain values, with what follows from them."""
        return {
            "name": self.name,
            "what": self.what,
            "over": self.over,
            "flat_by_design": self.flat,
            "slope": self.slope,
            "holds": self.holds,
            "points": {str(at): figure.as_json() for at, figure in self.points.items()},
        }


@dataclass(slots=True)
class _Drawing:
    """Curves as they are measured."""

    run: Run
    sizes: Sizes
    curves: list[Curve]

    def draw(self, name: str, what: str, over: str, ladder: Ladder, *, flat: bool) -> None:
        """Measure all points of a curve in turn."""
        self.run.say(f"  {name}")
        steps = {str(at): measure for at, measure in ladder.items()}
        in_turn(steps, 1)
        samples = in_turn(steps, self.sizes.long_repetitions)
        points = {at: Figure(samples[str(at)]) for at in ladder}
        self.curves.append(Curve(name, what, over, flat, points))

    def fitting(self, kind: str, counts: Sequence[int]) -> list[int]:
        """Those of the counts whose rows fit into this machine's free memory."""
        room = _MEMORY_SHARE * psutil.virtual_memory().available
        fit = [count for count in counts if count * _ROW_BYTES[kind] <= room]
        for count in counts[len(fit) :]:
            self.run.say(f"  {kind}: {count:,} rows left out, for want of memory")
        return fit


def curves(run: Run, sizes: Sizes) -> list[Curve]:
    """All curves."""
    drawing = _Drawing(run, sizes, [])
    for draw in (_clients, _stores, _fold_rows, _histories, _warm_rows, _vector_rows, _index_rows):
        draw(drawing)
    return drawing.curves


# --- clients and stores ------------------------------------------------------------------------


def _clients(drawing: _Drawing) -> None:
    sizes = drawing.sizes
    with drawing.run.fresh() as directory, holdfast.open(directory) as engine:
        fold = engine.fold("config")
        fold.apply(data.puts(range(max(sizes.clients))), holdfast.Cursor.from_u64(1))

        def getting(number: int) -> OneCall:
            key = data.key(number)
            return lambda _: fold.get(key)

        over = "clients (threads)"
        drawing.draw("clients-get", "fold.get, time per call of all", over,
                     {n: _at_once([getting(i) for i in range(n)], sizes.shared_calls)
                      for n in sizes.clients},
                     flat=True)  # fmt: skip
        drawing.draw("clients-put", "durable fold.apply of one put, time per call of all", over,
                     {n: _at_once(fold_callers(fold, n), sizes.shared_puts) for n in sizes.clients},
                     flat=True)  # fmt: skip


def _at_once(callers: list[OneCall], calls: int) -> Measurement:
    """So many calls, shared out among the callers; seconds for each of all."""
    each = max(1, calls // len(callers))
    return lambda: seconds_for_all(callers, each) / (each * len(callers))


def _stores(drawing: _Drawing) -> None:
    sizes = drawing.sizes
    with drawing.run.fresh() as directory, holdfast.open(directory) as engine:
        folds = [engine.fold(f"config-{number}") for number in range(max(sizes.stores))]

        def putting(count: int) -> Measurement:
            callers = [fold_callers(fold, 1)[0] for fold in folds[:count]]
            return _at_once(callers, sizes.shared_puts)

        drawing.draw("stores-put", "durable fold.apply, one client a store, time per call of all",
                     "stores", {count: putting(count) for count in sizes.stores},
                     flat=True)  # fmt: skip


# --- rows --------------------------------------------------------------------------------------


def _fold_rows(drawing: _Drawing) -> None:
    sizes = drawing.sizes
    counts = drawing.fitting("fold", sizes.grown)
    with contextlib.ExitStack() as stack:
        engines = {}
        for count in counts:
            directory = stack.enter_context(drawing.run.fresh())
            drawing.run.say(f"  a fold of {count:,} entries")
            data.write_log(os.path.join(directory, "config.snap"), count)
            engine = holdfast.open(directory, timeout=_PATIENCE_S)
            engines[count] = stack.enter_context(engine)
            settle(engines[count].fold("config"))
        folds = {count: engine.fold("config") for count, engine in engines.items()}
        over = "entries"
        drawing.draw("fold-get", "fold.get of any entry", over,
                     {n: _repeated(_fold_get(fold, n), sizes.calls) for n, fold in folds.items()},
                     flat=True)  # fmt: skip
        drawing.draw("fold-put", "durable fold.apply of one put", over,
                     {n: _repeated(_fold_put(fold, n), sizes.puts) for n, fold in folds.items()},
                     flat=True)  # fmt: skip
        drawing.draw("fold-reopen", "fold: a worker started anew, to its first answer", over,
                     {n: _reopening(engine, "config", _fold_get(engine.fold("config"), n))
                      for n, engine in engines.items()}, flat=False)  # fmt: skip


def _repeated(work: Callable[[], object], calls: int) -> Measurement:
    return lambda: seconds_per_call(work, calls)


def _fold_get(fold: holdfast.Fold, count: int) -> Callable[[], object]:
    numbers = itertools.cycle(np.random.default_rng(0).integers(0, count, 10_000).tolist())

    def get() -> None:
        assert fold.get(data.key(next(numbers))) is not None, "it is not there"

    return get


def _fold_put(fold: holdfast.Fold, count: int) -> Callable[[], object]:
    numbers = itertools.cycle(np.random.default_rng(1).integers(0, count, 10_000).tolist())
    cursors = itertools.count(count)

    def put() -> None:
        fold.apply(data.puts([next(numbers)], salt=1), holdfast.Cursor.from_u64(next(cursors)))

    return put


def _reopening(engine: holdfast.Engine, name: str, get: Callable[[], object]) -> Measurement:
    def reopen() -> None:
        engine.restart(name, timeout=_PATIENCE_S)
        get()

    return lambda: seconds(reopen)


def _histories(drawing: _Drawing) -> None:
    sizes = drawing.sizes
    with contextlib.ExitStack() as stack:
        folds: dict[int, holdfast.Fold] = {}
        for length in sizes.histories:
            directory = stack.enter_context(drawing.run.fresh())
            engine = stack.enter_context(holdfast.open(directory))
            fold = folds[length] = engine.fold("config", durability="never")
            for number in range(length):
                fold.apply(data.puts(range(_KEYS), number), holdfast.Cursor.from_u64(number))
            settle(fold)
        drawing.draw("history-get", f"fold.get of one of {_KEYS:,} keys", "updates of each key",
                     {n: _repeated(_fold_get(f, _KEYS), sizes.calls) for n, f in folds.items()},
                     flat=True)  # fmt: skip
        drawing.draw("history-put", "fold.apply of one put, not synced", "updates of each key",
                     {n: _repeated(_fold_put(f, _KEYS), sizes.calls) for n, f in folds.items()},
                     flat=True)  # fmt: skip


def _warm_rows(drawing: _Drawing) -> None:
    sizes = drawing.sizes
    ranges: dict[int, Measurement] = {}
    gets: dict[int, Measurement] = {}
    puts: dict[int, Measurement] = {}
    reopenings: dict[int, Measurement] = {}
    with contextlib.ExitStack() as stack:
        for count in drawing.fitting("warm", sizes.grown):
            drawing.run.say(f"  a warm store of {count:,} points")
            given = sample(count, sizes.entities)
            engine = stack.enter_context(holdfast.open(stack.enter_context(drawing.run.fresh())))
            store = engine.warm("points", dimension=WARM_DIMENSION)
            write_all(store, list(given.batches(BATCH, "entity")))
            store.compact(timeout=_PATIENCE_S)
            settle(store)
            windows = itertools.cycle(given.windows(100, min(_WINDOW, given.length)))
            ranges[count] = _repeated(_warm_range(store, windows), sizes.windows)
            points = [given.point(row) for row in range(0, count, max(1, count // 100))]
            gets[count] = _repeated(_warm_get(store, itertools.cycle(points)), sizes.windows)
            puts[count] = _repeated(_warm_put(store, itertools.cycle(points)), sizes.windows)
            get = _warm_get(store, itertools.cycle(points))
            reopenings[count] = _reopening(engine, "points", get)
        over = "points"
        drawing.draw("warm-range", f"warm.range of {_WINDOW} points", over, ranges, flat=True)
        drawing.draw("warm-get", "warm.get of any point", over, gets, flat=True)
        drawing.draw("warm-put", "durable warm.put of one point", over, puts, flat=True)
        drawing.draw("warm-reopen", "warm: a worker started anew, to its first answer", over,
                     reopenings, flat=True)  # fmt: skip


def _warm_range(store: holdfast.Warm, windows: Iterator[Window]) -> Callable[[], object]:
    def read() -> None:
        entity, start, end, rows = next(windows)
        assert store.range(entity, SPACE, start, end).num_rows == rows, "some are missing"

    return read


def _warm_get(
    store: holdfast.Warm, points: Iterator[holdfast.TemporalPoint]
) -> Callable[[], object]:
    def get() -> None:
        point = next(points)
        assert store.get(point.entity, SPACE, point.timestamp) is not None, "it is not there"

    return get


def _warm_put(
    store: holdfast.Warm, points: Iterator[holdfast.TemporalPoint]
) -> Callable[[], object]:
    return lambda: store.put(SPACE, next(points))


def _vector_rows(drawing: _Drawing) -> None:
    sizes = drawing.sizes
    with contextlib.ExitStack() as stack:
        stores: dict[int, Vectors] = {}
        samples: dict[int, vector_data.Sample] = {}
        for count in drawing.fitting("vectors", sizes.searched):
            drawing.run.say(f"  a vector store of {count:,} rows")
            given = samples[count] = vector_data.clustered(count, _DIMENSION, sizes.queries)
            directory = stack.enter_context(drawing.run.fresh())
            stores[count] = stack.enter_context(
                contextlib.closing(Vectors(directory, _DIMENSION, "never"))
            )
            fill(stores[count], given.rows)
        over = "rows"
        drawing.draw("vectors-get", "vectors.get of one row", over,
                     {n: _repeated(_row_of(store, n), sizes.queries)
                      for n, store in stores.items()}, flat=True)  # fmt: skip
        drawing.draw("vectors-exact", "the 10 nearest, exactly", over,
                     _searching(stores, samples), flat=False)  # fmt: skip
        for store in stores.values():
            store.look_at(1)
        drawing.draw("vectors-index", "the 10 nearest, by the index", over,
                     _searching(stores, samples), flat=False)  # fmt: skip


def _row_of(store: Vectors, count: int) -> Callable[[], object]:
    numbers = itertools.cycle(np.random.default_rng(0).integers(0, count, 1000).tolist())

    def get() -> None:
        assert store.has(next(numbers)), "it is not there"

    return get


def _searching(
    stores: Mapping[int, Vectors | Index], samples: Mapping[int, vector_data.Sample]
) -> Ladder:
    def one(count: int) -> Measurement:
        queries = itertools.cycle(samples[count].queries)
        return _repeated(lambda: stores[count].search(next(queries)), len(samples[count].queries))

    return {count: one(count) for count in stores}


def _index_rows(drawing: _Drawing) -> None:
    sizes = drawing.sizes
    with contextlib.ExitStack() as stack:
        stores: dict[int, Index] = {}
        samples: dict[int, vector_data.Sample] = {}
        for count in drawing.fitting("index", sizes.searched):
            drawing.run.say(f"  an index of {count:,} rows")
            given = samples[count] = vector_data.clustered(count, _DIMENSION, sizes.queries)
            directory = stack.enter_context(drawing.run.fresh())
            stores[count] = stack.enter_context(
                contextlib.closing(Index(directory, _DIMENSION, "flat", "always"))
            )
            fill(stores[count], given.rows)
        drawing.draw("index-search", "index.search, flat: the 10 nearest, exactly", "rows",
                     _searching(stores, samples), flat=False)  # fmt: skip
        drawing.draw("index-insert", "durable index.insert_batch of one row", "rows",
                     {n: _repeated(_inserting(store, samples[n], n), sizes.queries)
                      for n, store in stores.items()}, flat=True)  # fmt: skip


def _inserting(store: Index, given: vector_data.Sample, first: int) -> Callable[[], object]:
    numbers = itertools.count(first)
    return lambda: store.add(next(numbers), given.rows[:1])
