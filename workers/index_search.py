"""The rows of an index nearest to a query, exactly, by the distances of the index family.

Lower is nearer. With dot, |x| and sums in float64, rounded to float32 once:

===========  ======================================================================================
cosine       1 - xy / (|x||y|), and 1 where |x||y| is at most the smallest normal float32
dot          -xy
euclidean    |x - y|
manhattan    sum of |x_i - y_i|
hamming      how many components differ in any of their 32 bits, so -0 from 0
===========  ======================================================================================

NaN comes last, -0 before 0, and ties are decided by storage order. Where every row is tame, cosine,
dot and Euclidean searches go through ``search.nearest``: the same rows, ten times faster.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.iqdb_values import Metric
from holdfast.workers import search
from holdfast.workers.index_table import IndexTable

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Slots = NDArray[np.int64]

_AT_ONCE = 1 << 17  # doubles
_TAME = 2.0**120  # squared norms within float32, and so are their products with others of these
_FAINT = 2.0**-20  # squared norms above this are nowhere near the cosine's two ways of being 1
_MORE = 8
_CLOSE = np.float32(2.0**-20)
_LEAST = np.float32(2.0**-50)  # Euclidean distances from here on have squares that are normal
_APART: dict[Metric, np.float32] = {  # far above where numbers get coarse
    "cosine": np.float32(2.0**-48),  # the difference of two doubles near 1
    "dot": np.float32(2.0**-100),
    "euclidean": np.float32(2.0**-100),
}
_SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)
_FAST: dict[Metric, search.Metric] = {"cosine": "cosine", "dot": "ip", "euclidean": "l2"}


class Nearest(NamedTuple):
    """For each of q queries its rows, nearest first: slots and distances, (q, m)."""

    slots: Slots
    distances: Floats


def measure(vectors: Floats, query: Floats, metric: Metric) -> Floats:
    """Distances (n,) of vectors (n, d) to a query (d,)."""
    result = np.empty(len(vectors), np.float32)
    step = max(1, _AT_ONCE // max(1, vectors.shape[1]))
    double = query.astype(np.float64)
    with np.errstate(all="ignore"):
        for start in range(0, len(vectors), step):
            part = vectors[start : start + step]
            result[start : start + step] = _measured(part, query, double, metric)
    return result


def _measured(part: Floats, query: Floats, double: Doubles, metric: Metric) -> Doubles:
    if metric == "hamming":
        differ = np.ascontiguousarray(part).view(np.uint32) != query.view(np.uint32)
        return _sums(differ.astype(np.float64))
    if metric in ("euclidean", "manhattan"):
        terms = np.subtract(part, double, dtype=np.float64)
        if metric == "manhattan":
            return _sums(np.abs(terms, out=terms))
        return np.sqrt(_sums(np.multiply(terms, terms, out=terms)))
    doubles = part.astype(np.float64)
    dots = _sums(doubles * double)
    if metric == "dot":
        return np.negative(dots)
    roots = np.sqrt(_sums(np.multiply(doubles, doubles, out=doubles)))
    roots *= np.sqrt(_sums(np.square(double[None]))[0])
    return np.where(roots <= _SMALLEST_NORMAL, 1.0, 1.0 - dots / roots)


def _sums(terms: Doubles) -> Doubles:
    """The sum of each row; each for itself, so that it depends on nothing else."""
    sums: Doubles = np.add.reduce(terms, axis=1)
    return sums


def best(distances: Floats, slots: Slots, k: int) -> tuple[Slots, Floats]:
    """The ``k`` nearest of these: by distance in IEEE total order, NaN last, then by slot."""
    keys = _total_order(distances)
    if len(keys) > 4 * k:
        within = keys <= np.partition(keys, k - 1)[k - 1]
        keys, slots, distances = keys[within], slots[within], distances[within]
    order = np.lexsort((slots, keys))[:k]
    return slots[order], distances[order]


def _total_order(distances: Floats) -> "NDArray[np.int64]":
    bits = distances.view(np.int32).astype(np.int64)
    keys = np.where(bits < 0, -(bits & 0x7FFF_FFFF) - 1, bits)
    keys[np.isnan(distances)] = 1 << 40
    return keys


class ExactSearch:
    """Searches a table; remembers what it learns about the rows until they change."""

    def __init__(self, table: IndexTable, metric: Metric) -> None:
        self._table = table
        self._metric = metric
        self._version = -1
        self._rows: search.Rows | None = None
        self._norms = np.empty(0, np.float32)  # squared, by slot
        self._known = 0  # slots below this have their norm in there, but for the stale ones
        self._stale: set[int] = set()
        table.watchers.append(self)

    def changed(self, slots: Sequence[int]) -> None:
        if not isinstance(slots, range):  # those are new, and beyond what is known
            self._stale.update(slot for slot in slots if slot < self._known)

    def moved(self, source: int, target: int) -> None:
        if target < self._known:
            self._stale.add(target)
        if source < self._known:
            self._known = source
            self._stale.discard(source)

    def nearest(
        self,
        queries: Floats,
        k: int,
        mask: "NDArray[np.bool_] | None",
        tick: Callable[[], None],
    ) -> Nearest:
        """The ``k`` rows nearest to each query (q, d), of those in ``mask``, or all there are."""
        count = len(self._table) if mask is None else int(mask.sum())
        each = min(k, count)
        if not each or not len(queries):
            shape = (len(queries), each)
            return Nearest(np.empty(shape, np.int64), np.empty(shape, np.float32))
        fast = _FAST.get(self._metric)
        if fast is not None and self._are_tame(queries):
            found = self._through_products(queries, each, count, fast, mask, tick)
            if found is not None:
                return found
        among = np.arange(len(self._table)) if mask is None else np.flatnonzero(mask)
        vectors = self._table.vectors if mask is None else self._table.vectors[among]
        slots = np.empty((len(queries), each), np.int64)
        distances = np.empty((len(queries), each), np.float32)
        for number, query in enumerate(queries):
            measured = measure(vectors, query, self._metric)
            slots[number], distances[number] = best(measured, among, each)
            tick()
        return Nearest(slots, distances)

    def among(self, queries: Floats, candidates: list[Slots], k: int) -> Nearest:
        """The ``k`` nearest of each query's candidates, of which each has as many."""
        slots, distances = [], []
        for query, mine in zip(queries, candidates, strict=True):
            measured = measure(self._table.vectors[mine], query, self._metric)
            chosen, near = best(measured, mine, k)
            slots.append(chosen)
            distances.append(near)
        return Nearest(np.array(slots, np.int64), np.array(distances, np.float32))

    def _through_products(
        self,
        queries: Floats,
        each: int,
        count: int,
        metric: search.Metric,
        mask: "NDArray[np.bool_] | None",
        tick: Callable[[], None],
    ) -> Nearest | None:
        """The same by ``search``, unless rows at the limit are so close that it may choose others.

        Its distances are rounded elsewhere, so a few more rows are measured in this family's way.
        """
        assert self._rows is not None
        most = min(count, each + _MORE)
        rows = search.nearest([self._rows], queries, most, metric, mask, tick=tick).rows
        found = self.among(queries, list(rows), most)
        last, limit = found.distances[:, -1], found.distances[:, each - 1]
        if most < count:
            beyond = limit + np.maximum(_CLOSE * np.abs(limit), _APART[self._metric])
            if self._metric == "euclidean":
                # It ranks by squares: those of lesser distances are all alike to it.
                beyond = np.maximum(beyond, _LEAST)
            if not (last > beyond).all():
                return None
        return Nearest(found.slots[:, :each], found.distances[:, :each])

    def _squared_norms(self, vectors: Floats) -> Floats:
        """Those of all rows; computed of the rows that are new or changed."""
        rows = len(vectors)
        if rows > len(self._norms):
            self._norms = np.append(
                self._norms,
                np.empty(max(rows, 2 * len(self._norms)) - len(self._norms), np.float32),
            )
        stale = np.array([*self._stale], np.int64)
        self._norms[stale] = search.squared_norms(vectors[stale])
        self._norms[self._known : rows] = search.squared_norms(vectors[self._known :])
        self._known = rows
        self._stale.clear()
        return self._norms[:rows]

    def _are_tame(self, queries: Floats) -> bool:
        """Whether rows and queries are such that both definitions order them alike."""
        if self._version != self._table.version:
            vectors = self._table.vectors
            ids = np.arange(len(vectors), dtype=np.uint64)
            self._rows = search.Rows(0, ids, vectors, self._squared_norms(vectors))
            self._version = self._table.version
        assert self._rows is not None
        norms = self._rows.squared_norms
        least = _FAINT if self._metric == "cosine" else 0.0
        of_queries = search.squared_norms(queries)
        return bool(
            norms.max(initial=0) <= _TAME
            and norms.min(initial=np.inf) >= least
            and of_queries.max(initial=0) <= _TAME
            and of_queries.min(initial=np.inf) >= least
        )
