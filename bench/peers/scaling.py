"""How the engine's cost of one operation grows with clients, stores, rows, files and histories."""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator

import numpy as np

import holdfast
from holdfast.bench import data
from holdfast.bench.callers import OneCall, fold_callers, seconds_for_all
from holdfast.bench.measure import Measurement
from holdfast.bench.peers import index_curves, registry_curves, vector_curves
from holdfast.bench.peers.curves import (
    FILE_SIZE,
    PATIENCE_S,
    Drawing,
    file_bytes,
    reopening,
    repeated,
)
from holdfast.bench.peers.sizes import Sizes
from holdfast.bench.run import Run
from holdfast.bench.warm import settle
from holdfast.bench.warm_data import DIMENSION as WARM_DIMENSION
from holdfast.bench.warm_data import SPACE, Window, sample
from holdfast.bench.warm_write import BATCH, write_all

_KEYS = 1000
_WINDOW = 100


def draw(run: Run, sizes: Sizes) -> Drawing:
    """All curves."""
    drawing = Drawing(run, sizes)
    _clients(drawing)
    _stores(drawing)
    _fold_rows(drawing)
    _histories(drawing)
    _warm_rows(drawing)
    vector_curves.draw(drawing)
    index_curves.draw(drawing)
    registry_curves.draw(drawing)
    return drawing


# --- clients and stores ------------------------------------------------------------------------


def _clients(drawing: Drawing) -> None:
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


def _stores(drawing: Drawing) -> None:
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


def _fold_rows(drawing: Drawing) -> None:
    sizes = drawing.sizes
    counts = drawing.fitting("fold", sizes.grown)
    with contextlib.ExitStack() as stack:
        engines = {}
        for count in counts:
            directory = stack.enter_context(drawing.run.fresh())
            drawing.run.say(f"  a fold of {count:,} entries")
            data.write_log(os.path.join(directory, "config.snap"), count)
            engine = holdfast.open(directory, timeout=PATIENCE_S)
            engines[count] = stack.enter_context(engine)
            settle(engines[count].fold("config"))
        folds = {count: engine.fold("config") for count, engine in engines.items()}
        over = "entries"
        drawing.draw("fold-get", "fold.get of any entry", over,
                     {n: repeated(_fold_get(fold, n), sizes.calls) for n, fold in folds.items()},
                     flat=True)  # fmt: skip
        drawing.draw("fold-put", "durable fold.apply of one put", over,
                     {n: repeated(_fold_put(fold, n), sizes.puts) for n, fold in folds.items()},
                     flat=True)  # fmt: skip
        drawing.draw("fold-reopen", "fold: a worker started anew, to its first answer", FILE_SIZE,
                     {file_bytes(fold.path): reopening(engines[n], "config", _fold_get(fold, n))
                      for n, fold in folds.items()}, flat=False)  # fmt: skip


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


def _histories(drawing: Drawing) -> None:
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
                     {n: repeated(_fold_get(f, _KEYS), sizes.calls) for n, f in folds.items()},
                     flat=True)  # fmt: skip
        drawing.draw("history-put", "fold.apply of one put, not synced", "updates of each key",
                     {n: repeated(_fold_put(f, _KEYS), sizes.calls) for n, f in folds.items()},
                     flat=True)  # fmt: skip


def _warm_rows(drawing: Drawing) -> None:
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
            store.compact(timeout=PATIENCE_S)
            settle(store)
            windows = itertools.cycle(given.windows(100, min(_WINDOW, given.length)))
            ranges[count] = repeated(_warm_range(store, windows), sizes.windows)
            points = [given.point(row) for row in range(0, count, max(1, count // 100))]
            gets[count] = repeated(_warm_get(store, itertools.cycle(points)), sizes.windows)
            puts[count] = repeated(_warm_put(store, itertools.cycle(points)), sizes.windows)
            get = _warm_get(store, itertools.cycle(points))
            reopenings[file_bytes(store.path)] = reopening(engine, "points", get)
        over = "points"
        drawing.draw("warm-range", f"warm.range of {_WINDOW} points", over, ranges, flat=True)
        drawing.draw("warm-get", "warm.get of any point", over, gets, flat=True)
        drawing.draw("warm-put", "durable warm.put of one point", over, puts, flat=True)
        drawing.draw("warm-reopen", "warm: a worker started anew, to its first answer", FILE_SIZE,
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
