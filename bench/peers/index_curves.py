"""How the costs of a flat index grow with its rows, and with its file."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

import holdfast
from holdfast.bench.peers.curves import (
    FILE_SIZE,
    PATIENCE_S,
    Drawing,
    Ladder,
    file_bytes,
    reopening,
    repeated,
)
from holdfast.bench.peers.vector_curves import AT_ONCE, DIMENSION
from holdfast.bench.vector_data import Clusters, Floats, K
from holdfast.bench.warm import settle

_NAME = "rows"
_PARTS = 100
_Indexes = dict[int, tuple[holdfast.Engine, holdfast.Index]]


def draw(drawing: Drawing) -> None:
    """A search, a row inserted; a worker started anew, of plain rows and of rows with a field."""
    sizes = drawing.sizes
    counts = drawing.fitting("index", sizes.searched)
    with _filled(drawing, counts, described=False) as indexes:
        asked = {n: Clusters(n, DIMENSION).queries(sizes.queries) for n in indexes}
        drawing.draw("index-search", "index.search, flat: the 10 nearest, exactly", "rows",
                     {n: repeated(_searching(index, asked[n]), sizes.queries)
                      for n, (_, index) in indexes.items()}, flat=False)  # fmt: skip
        drawing.draw("index-insert", "durable index.insert_batch of one row", "rows",
                     {n: repeated(_inserting(index, asked[n], n), sizes.queries)
                      for n, (_, index) in indexes.items()}, flat=True)  # fmt: skip
        drawing.draw("index-reopen", "index: a worker started anew, to its first answer",
                     FILE_SIZE, _reopenings(indexes), flat=False)  # fmt: skip
    # Without the largest, as each row's metadata is read by itself.
    with _filled(drawing, counts[:-1], described=True) as indexes:
        drawing.draw("index-reopen-described", "index with metadata: a worker started anew",
                     FILE_SIZE, _reopenings(indexes), flat=False)  # fmt: skip


@contextlib.contextmanager
def _filled(drawing: Drawing, counts: Sequence[int], *, described: bool) -> Iterator[_Indexes]:
    """Indexes of so many rows, each with a field if they are ``described``."""
    with contextlib.ExitStack() as stack:
        found: _Indexes = {}
        for count in counts:
            drawing.run.say(f"  an index of {count:,} rows{' with a field' * described}")
            directory = stack.enter_context(drawing.run.fresh())
            engine = stack.enter_context(holdfast.open(directory, timeout=PATIENCE_S))
            index = engine.index(_NAME, kind="flat", dimension=DIMENSION, metric="euclidean")
            for first, rows in Clusters(count, DIMENSION).pieces(AT_ONCE):
                numbers = np.arange(first, first + len(rows))
                metadata = {"part": numbers % _PARTS} if described else None
                index.insert_batch(numbers, rows, metadata)
            index.checkpoint()
            settle(index)
            found[count] = engine, index
        yield found


def _reopenings(indexes: _Indexes) -> Ladder:
    return {
        file_bytes(index.path): reopening(engine, _NAME, _getting(index, count))
        for count, (engine, index) in indexes.items()
    }


def _getting(index: holdfast.Index, count: int) -> Callable[[], object]:
    numbers = itertools.cycle(np.random.default_rng(0).integers(0, count, 1000).tolist())

    def get() -> None:
        assert len(index.get([next(numbers)])) == 1, "it is not there"

    return get


def _searching(index: holdfast.Index, queries: Floats) -> Callable[[], object]:
    turns = itertools.cycle(queries)
    return lambda: index.search(next(turns), K)


def _inserting(index: holdfast.Index, vectors: Floats, count: int) -> Callable[[], object]:
    numbers = itertools.count(count)
    return lambda: index.insert_batch([next(numbers)], vectors[:1])
