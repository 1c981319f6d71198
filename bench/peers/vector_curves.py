"""How the costs of a vector store grow with its rows, and with its file."""

import contextlib
import itertools
from collections.abc import Callable, Mapping

import numpy as np

import holdfast
from holdfast.bench.measure import Measurement
from holdfast.bench.peers.curves import (
    FILE_SIZE,
    PATIENCE_S,
    Drawing,
    Ladder,
    file_bytes,
    reopening,
    repeated,
)
from holdfast.bench.vector_data import Clusters, Floats, K
from holdfast.bench.vectors import wait_for_index
from holdfast.bench.warm import settle
from holdfast.workers.ann import available

DIMENSION = 32
AT_ONCE = 50_000
"""Rows that are made and written at once, so that this process never holds many."""

_NAME = "rows"
_OVER = "rows"


def draw(drawing: Drawing) -> None:
    """A row read, a row written; the nearest, exactly and by the index; a worker started anew."""
    sizes = drawing.sizes
    engines: dict[int, holdfast.Engine] = {}
    stores: dict[int, holdfast.Vectors] = {}
    queries: dict[int, Floats] = {}
    with contextlib.ExitStack() as stack:
        for count in drawing.fitting("vectors", sizes.searched):
            drawing.run.say(f"  a vector store of {count:,} rows")
            directory = stack.enter_context(drawing.run.fresh())
            engine = stack.enter_context(holdfast.open(directory, timeout=PATIENCE_S))
            engines[count] = engine
            stores[count], queries[count] = _filled(engine, count, sizes.queries)
        drawing.draw("vectors-get", "vectors.get of one row", _OVER,
                     {n: repeated(_getting(store, n), sizes.queries)
                      for n, store in stores.items()}, flat=True)  # fmt: skip
        drawing.draw("vectors-exact", "the 10 nearest, exactly", _OVER,
                     _searching(stores, queries, exact=True), flat=False)  # fmt: skip
        drawing.draw("vectors-put", "durable vectors.ingest of one row", _OVER,
                     {n: repeated(_putting(store, queries[n], n), sizes.queries)
                      for n, store in stores.items()}, flat=True)  # fmt: skip
        if available():
            _index(drawing, stores)
            drawing.draw("vectors-index", "the 10 nearest, by the index", _OVER,
                         _searching(stores, queries, exact=False), flat=False)  # fmt: skip
        else:
            drawing.leave_out("vectors: the index, as holdfast[ann] is not installed")
        drawing.draw("vectors-reopen", "vectors: a worker started anew, to its first answer",
                     FILE_SIZE,
                     {file_bytes(store.path): reopening(engines[n], _NAME, _getting(store, n))
                      for n, store in stores.items()}, flat=False)  # fmt: skip


def _filled(engine: holdfast.Engine, count: int, queries: int) -> tuple[holdfast.Vectors, Floats]:
    """A store of so many rows without an index, and what to ask for."""
    store = engine.vectors(_NAME, dimension=DIMENSION)
    store.cancel_index()
    clusters = Clusters(count, DIMENSION)
    for first, rows in clusters.pieces(AT_ONCE):
        store.ingest(np.arange(first, first + len(rows)), rows)
    settle(store)
    return store, clusters.queries(queries)


def _index(drawing: Drawing, stores: Mapping[int, holdfast.Vectors]) -> None:
    """One after the other, so that only one takes the memory that it takes."""
    for count, store in stores.items():
        drawing.run.say(f"  the approximate index of {count:,} rows")
        store.build_index()
        wait_for_index(store)
        settle(store)  # it is written beside the file, which a worker started anew reads


def _getting(store: holdfast.Vectors, count: int) -> Callable[[], object]:
    numbers = itertools.cycle(np.random.default_rng(0).integers(0, count, 1000).tolist())

    def get() -> None:
        assert len(store.get([next(numbers)]).ids) == 1, "it is not there"

    return get


def _putting(store: holdfast.Vectors, vectors: Floats, count: int) -> Callable[[], object]:
    numbers = itertools.count(count)
    return lambda: store.ingest([next(numbers)], vectors[:1])


def _searching(
    stores: Mapping[int, holdfast.Vectors], queries: Mapping[int, Floats], *, exact: bool
) -> Ladder:
    def one(store: holdfast.Vectors, asked: Floats) -> Measurement:
        turns = itertools.cycle(asked)
        return repeated(lambda: store.query(next(turns), K, exact=exact), len(asked))

    return {count: one(store, queries[count]) for count, store in stores.items()}
