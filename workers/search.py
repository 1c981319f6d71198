"""The rows nearest to a query, exactly.

``distances`` says what the distance of a row is. Measuring all rows by it would take ten times as
long as one product of BLAS, so ``nearest`` measures few: the product gives each row a *score* in
float32, a lower bound of its distance up to the bound on rounding in ``_Scoring``. The k rows of
best score, each from another group of rows, are measured and give a *limit* that the k-th best
distance cannot exceed; then all rows are measured whose score admits a distance within the limit.
What comes out is what measuring and sorting all rows gives, to the bit.

Rows that float32 arithmetic may not survive (squared norm above 2^120, infinite or NaN: *wild*)
are measured always, and for a query like that all rows are.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Metric = Literal["l2", "ip", "cosine"]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Indices = NDArray[np.int64]

COSINE_LEAST_ROOT = 2.0**-23
"""Where sqrt(|x|^2 |y|^2) is below this, the cosine distance is 1 (RVF 8)."""

_DOUBLES_AT_ONCE = 1 << 17  # what is measured together stays in the L2 cache
_SCORES_AT_ONCE = 1 << 22  # 16 MiB
_FLOATS_AT_ONCE = 1 << 26  # between two ticks: some 10 ms of reading
_QUERIES_AT_ONCE = 128
_PAIRS_AT_ONCE = 1 << 19  # of a query and a row
_MOST_DEPTH = 64
_GROUPS_PER_HIT = 32

_UNIT = 2.0**-24  # unit roundoff of float32
_WILD = 2.0**120  # squared norms up to here: no score or part of one is above 2^122
_FAINT = 2.0**-80  # squared norms below here are too coarse to divide by
_WORST_SCORE = np.float32(2.0**125)  # no row that counts has one
_OUT = np.float32(2.0**127)  # added to a score, puts the row beyond the worst


class _Norms:
    """Squared norms (n,) float32 of rows, and what scoring needs to know of them."""

    def __init__(self, squared: Floats) -> None:
        self.squared = squared

    @cached_property
    def wild(self) -> Indices:
        """Rows whose squared norm is above the bound, infinite or NaN."""
        if self.squared.max(initial=0) <= _WILD:
            return np.empty(0, np.int64)
        return np.flatnonzero(~(self.squared <= _WILD))

    @cached_property
    def faint(self) -> Indices:
        """Rows whose squared norm is next to nothing."""
        if self.squared.min(initial=1) >= _FAINT:
            return np.empty(0, np.int64)
        return np.flatnonzero(self.squared < _FAINT)

    @cached_property
    def most(self) -> float:
        """The largest squared norm that is not wild."""
        squared = np.delete(self.squared, self.wild) if len(self.wild) else self.squared
        return float(squared.max(initial=0))

    @cached_property
    def least(self) -> float:
        """The smallest squared norm that is not faint."""
        squared = self.squared
        if len(self.wild) or len(self.faint):
            squared = squared[squared >= _FAINT]
        return float(squared.min(initial=np.inf))

    @cached_property
    def inverse(self) -> Floats:
        """One by the norm; 0 for rows that are faint or wild."""
        inverse: Floats = np.divide(np.float32(1), np.sqrt(self.squared))
        inverse[self.faint] = 0
        inverse[self.wild] = 0
        return inverse


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows that lie together, such as those of one VEC segment.

    ``vectors`` may be a view whose rows are further apart than they are long. Keep the object as
    long as the rows: it remembers what it found out about the norms.
    """

    first_row: int
    """Number of row 0 among the rows of all blocks."""
    ids: NDArray[np.uint64]
    """(n,)"""
    vectors: Floats
    """(n, d), contiguous within a row."""
    squared_norms: Floats
    """(n,), as ``squared_norms`` gives them."""

    @cached_property
    def norms(self) -> _Norms:
        return _Norms(self.squared_norms)

    def part(self, start: int, stop: int) -> "Rows":
        """Rows ``start`` to ``stop``, without a copy."""
        here = slice(start, stop)
        return Rows(
            self.first_row + start, self.ids[here], self.vectors[here], self.squared_norms[here]
        )


class Hits(NamedTuple):
    """For each of q queries its m best rows, by (distance, NaN last; id)."""

    ids: NDArray[np.uint64]
    """(q, m)"""
    distances: Floats
    """(q, m)"""
    rows: Indices
    """(q, m), the numbers of the rows"""


def _sums(terms: Doubles) -> Doubles:
    """The sum of each row, (n, d) -> (n,).

    NumPy adds up each row for itself in an order that depends on d alone; BLAS would not, and a
    row's distance must not depend on which others are measured with it.
    """
    sums: Doubles = np.add.reduce(terms, axis=1)
    return sums


def squared_norms(vectors: Floats) -> Floats:
    """|x|^2 of each row, (n, d) -> (n,), computed in float64; overflow gives inf."""
    norms = np.empty(len(vectors), np.float32)
    step = max(1, _DOUBLES_AT_ONCE // max(1, vectors.shape[1]))
    with np.errstate(all="ignore"):
        for start in range(0, len(vectors), step):
            block = vectors[start : start + step].astype(np.float64)
            norms[start : start + step] = _sums(np.multiply(block, block, out=block))
    return norms


def _measure(vectors: Floats, queries: Doubles, query_norms: Doubles, metric: Metric) -> Floats:
    """Distances (n,) of vectors (n, d) to one query (d,) and (), or each to its own.

    All in float64, whose range no intermediate of float32 input leaves, then rounded once.
    """
    if metric == "l2":
        terms = np.subtract(vectors, queries, dtype=np.float64, order="C")
        return _sums(np.multiply(terms, terms, out=terms)).astype(np.float32)
    doubles = vectors.astype(np.float64, order="C")
    dots = _sums(doubles * queries)
    if metric == "ip":
        return np.negative(dots).astype(np.float32)
    roots = np.sqrt(_sums(np.multiply(doubles, doubles, out=doubles)) * query_norms)
    cosine = np.where(roots < COSINE_LEAST_ROOT, 1.0, 1.0 - dots / roots)
    return cosine.astype(np.float32)


def distances(vectors: Floats, query: Floats, metric: Metric) -> Floats:
    """The distances of rows (n, d) to a query (d,), as RVF 8 defines them: (n,).

    Computed in float64 and rounded to float32 once; beyond its range they are infinite.
    """
    result = np.empty(len(vectors), np.float32)
    step = max(1, _DOUBLES_AT_ONCE // max(1, vectors.shape[1]))
    with np.errstate(all="ignore"):
        double = query.astype(np.float64)
        norm = _sums(np.square(double[None]))[0]
        for start in range(0, len(vectors), step):
            block = vectors[start : start + step]
            result[start : start + step] = _measure(block, double, norm, metric)
    return result


class _Scoring:
    """How queries (q, d) score rows, and what a score says about the distance.

    With u = 2^-24 and g = c u / (1 - c u), a float32 dot product of d terms is off by at most
    g |x||y| for c = d, in whatever order and with whatever fused steps it is summed (Higham,
    Accuracy and Stability of Numerical Algorithms, 2nd ed., 3.1); below, c = d + 16 takes in the
    few roundings before and after the product. Underflow adds at most 2^-125 a term.

    - l2: the score is N - 2sP for N = |x|^2, P = xy, Q = |y|^2. Since 2|P| <= N + Q, it is off by
      at most sg(N + Q). With s = 1 / (1 - g) that is: score <= s (N + Q - 2P) - Q, whatever N is.
    - ip: the score is -P, off by at most g |x||y|; the largest |x| of the rows is taken.
    - cosine: the score is -P / (|x||y|), off by at most g. Rows of next to no norm score 0.
    """

    def __init__(self, queries: Doubles, norms: Doubles, metric: Metric) -> None:
        self.metric = metric
        self.norms = norms
        dimension = queries.shape[1]
        self.error = (dimension + 16) * _UNIT / (1 - (dimension + 16) * _UNIT)
        self.slope = 1.0
        if metric == "l2":
            self.slope = 1 / (1 - self.error)
            weights = -2 * self.slope * queries
            offsets = norms * (2.0**-30 - 1)
        elif metric == "ip":
            weights = -queries
            offsets = np.zeros_like(norms)
        else:
            weights = -queries / np.sqrt(np.where(norms > 0, norms, 1.0))[:, None]
            offsets = np.full_like(norms, self.error - 1)
        wild = ~(norms <= (np.finfo(np.float64).max if metric == "cosine" else _WILD))
        weights[wild] = 0
        offsets[wild] = np.inf
        self.least = float(norms[~wild].min(initial=np.inf))
        self.most = float(norms[~wild].max(initial=0))
        self.offsets = offsets + (dimension + 16) * 2.0**-120
        self.weights = np.ascontiguousarray(weights.T.astype(np.float32))

    def score(self, parts: Sequence[Rows], norms: _Norms, scores: Floats) -> None:
        """Fill in the scores (n, q) of the rows, all but those of ``unscored``."""
        start = 0
        for part in parts:
            stop = start + len(part.ids)
            np.matmul(part.vectors, self.weights, out=scores[start:stop])
            start = stop
        if self.metric == "l2":
            scores += norms.squared[:, None]
        elif self.metric == "cosine":
            scores *= norms.inverse[:, None]
            if norms.least * self.least < 4 * COSINE_LEAST_ROOT**2:
                # Some distances may be 1 for the smallness of the root, whatever the score.
                np.minimum(scores, 0, out=scores)

    def unscored(self, norms: _Norms) -> Indices:
        """Rows whose scores say nothing."""
        if self.metric == "cosine" and self.most >= 2.0**33:
            return np.union1d(norms.wild, norms.faint)  # the root need not be small for faint ones
        return norms.wild

    def cutoffs(self, limits: Doubles, norms: _Norms) -> Floats:
        """The scores (q,) above which a distance is above the limit, also before rounding it."""
        reached = np.where(np.isfinite(limits), self.slope * limits, np.inf)
        reached += np.abs(reached) * 2.0**-22 + self.offsets
        if self.metric == "ip":
            reached += self.error * np.sqrt(norms.most * self.norms)
        above = np.nextafter(reached.astype(np.float32), np.float32(np.inf))
        return np.minimum(above, _WORST_SCORE)


def _runs(blocks: Sequence[Rows], rows: Indices) -> Iterator[tuple[Rows, slice]]:
    """Where in ``rows`` there are rows of which block; few runs if ``rows`` ascends."""
    if len(blocks) == 1:
        yield blocks[0], slice(0, len(rows))
    elif len(rows):
        starts = np.array([block.first_row for block in blocks])
        which = np.searchsorted(starts, rows, side="right") - 1
        cuts = np.flatnonzero(which[1:] != which[:-1]) + 1
        for start, stop in pairwise([0, *cuts.tolist(), len(rows)]):
            yield blocks[which[start]], slice(start, stop)


def _gather(blocks: Sequence[Rows], rows: Indices) -> tuple[Floats, NDArray[np.uint64]]:
    """Vectors (n, d) and ids (n,) of rows, which should ascend."""
    if len(blocks) == 1:
        inside = rows - blocks[0].first_row
        return blocks[0].vectors[inside], blocks[0].ids[inside]
    ids = np.empty(len(rows), np.uint64)
    vectors = np.empty((len(rows), blocks[0].vectors.shape[1]), np.float32)
    for block, here in _runs(blocks, rows):
        inside = rows[here] - block.first_row
        vectors[here] = block.vectors[inside]
        ids[here] = block.ids[inside]
    return vectors, ids


def _tiles(blocks: Sequence[Rows], most: int) -> Iterator[list[Rows]]:
    """All rows in order, ``most`` at a time."""
    parts: list[Rows] = []
    room = most
    for block in blocks:
        length, start = len(block.ids), 0
        while start < length:
            stop = min(length, start + room)
            parts.append(block if stop - start == length else block.part(start, stop))
            room -= stop - start
            start = stop
            if not room:
                yield parts
                parts, room = [], most
    if parts:
        yield parts


class _Search:
    """The best rows of those seen so far, for each of a few queries."""

    def __init__(self, queries: Floats, k: int, metric: Metric, tick: Callable[[], object]) -> None:
        self.k = k
        self.metric = metric
        self.tick = tick
        self.queries = queries.astype(np.float64)
        self.query_norms = _sums(np.square(self.queries))
        self.scoring = _Scoring(self.queries, self.query_norms, metric)
        self.limits = np.full(len(queries), np.inf)  # the k-th best is not further than this
        # The best so far, in the order of the answer; which query's, distance, id, row.
        self.of = np.empty(0, np.int64)
        self.distances = np.empty(0, np.float32)
        self.ids = np.empty(0, np.uint64)
        self.rows = np.empty(0, np.int64)

    def scan(self, parts: Sequence[Rows], keep: NDArray[np.bool_] | None) -> None:
        """See more rows; of these only those in ``keep`` count."""
        norms = parts[0].norms
        if len(parts) > 1:
            norms = _Norms(np.concatenate([part.squared_norms for part in parts]))
        length, queries = len(norms.squared), len(self.queries)
        # Row i is in group i mod ``groups``: neighbours, often alike, are in different ones.
        depth = min(_MOST_DEPTH, max(1, length // (_GROUPS_PER_HIT * self.k)))
        groups = -(-length // depth)
        scores = np.empty((groups * depth, queries), np.float32)
        scores[length:] = np.inf
        self.scoring.score(parts, norms, scores[:length])
        unscored = self.scoring.unscored(norms)
        if keep is not None:
            scores[:length] += np.multiply(~keep, _OUT, dtype=np.float32)[:, None]
            unscored = unscored[keep[unscored]]
        scores[self.scoring.unscored(norms)] = np.inf
        grouped = scores.reshape(depth, groups, queries)
        best = np.minimum.reduce(grouped, axis=0)
        cutoffs = self.scoring.cutoffs(self.limits, norms)
        crowded = np.count_nonzero(best <= cutoffs, axis=0) > 2 * self.k
        if crowded.any():
            self._lower_limits(parts, grouped, best, np.flatnonzero(crowded))
            cutoffs = self.scoring.cutoffs(self.limits, norms)
        if len(unscored):
            scores[unscored] = -np.inf
            best[unscored % groups] = -np.inf
        group, query = np.nonzero(best <= cutoffs)
        step = max(1, _PAIRS_AT_ONCE // depth)
        for start in range(0, len(group), step):
            some, whose = group[start : start + step], query[start : start + step]
            place, pair = np.nonzero(grouped[:, some, whose] <= cutoffs[whose])
            self._settle(parts, place * groups + some[pair], whose[pair])

    def _lower_limits(
        self, parts: Sequence[Rows], grouped: NDArray[np.float32], best: Floats, of: Indices
    ) -> None:
        """Measure k rows of good score for these queries: the k-th best is not further."""
        depth, groups, _ = grouped.shape
        if groups < self.k:
            return
        group = np.argpartition(best[:, of], self.k - 1, axis=0)[: self.k]
        counting = (best[group, of] <= _WORST_SCORE).all(axis=0)
        of, group = of[counting], group[:, counting].ravel()
        if len(of):
            query = np.tile(of, self.k)
            row = grouped[:, group, query].argmin(axis=0) * groups + group
            furthest = self._measured(parts, row, query)[0].reshape(self.k, -1).max(axis=0)
            self.limits[of] = np.fmin(self.limits[of], furthest)

    def _measured(
        self, parts: Sequence[Rows], rows: Indices, of: Indices
    ) -> tuple[Floats, NDArray[np.uint64]]:
        """Distance and id of each row, counted from the first of ``parts``, to its query."""
        vectors, ids = _gather(parts, rows + parts[0].first_row)
        if len(self.queries) == 1:
            queries, norms = self.queries[0], self.query_norms
        else:
            queries, norms = self.queries[of], self.query_norms[of]
        return _measure(vectors, queries, norms, self.metric), ids

    def _settle(self, parts: Sequence[Rows], rows: Indices, of: Indices) -> None:
        """Measure rows, each for one query, and take in those within the limits."""
        step = max(1, _DOUBLES_AT_ONCE // self.queries.shape[1])
        for start in range(0, len(rows), step):
            some, query = rows[start : start + step], of[start : start + step]
            measured, ids = self._measured(parts, some, query)
            near = np.flatnonzero(~(measured > self.limits[query]))
            if len(near):
                row = some[near] + parts[0].first_row
                self._take(query[near], measured[near], ids[near], row)
            self.tick()

    def _take(
        self, of: Indices, measured: Floats, ids: NDArray[np.uint64], rows: Indices
    ) -> None:
        of = np.concatenate([self.of, of])
        measured = np.concatenate([self.distances, measured])
        ids = np.concatenate([self.ids, ids])
        rows = np.concatenate([self.rows, rows])
        order = np.lexsort((rows, ids, measured, of))
        of = of[order]
        rank = np.arange(len(of)) - np.searchsorted(of, of)
        top = rank < self.k
        order = order[top]
        self.of, self.distances = of[top], measured[order]
        self.ids, self.rows = ids[order], rows[order]
        last = rank[top] == self.k - 1
        whose = self.of[last]
        self.limits[whose] = np.fmin(self.limits[whose], self.distances[last])

    def hits(self) -> Hits:
        """The best rows seen."""
        shape = (len(self.queries), -1)
        return Hits(
            self.ids.reshape(shape), self.distances.reshape(shape), self.rows.reshape(shape)
        )


def _nothing() -> None:
    pass


def nearest(
    blocks: Sequence[Rows],
    queries: Floats,
    k: int,
    metric: Metric,
    mask: NDArray[np.bool_] | None = None,
    *,
    tick: Callable[[], object] = _nothing,
) -> Hits:
    """The ``k`` rows nearest to each query (q, d), or all if they are fewer.

    ``mask``, over the rows of all blocks, says which count. ``tick`` is called every few ms.
    """
    none = np.empty((len(queries), 0))
    found = [Hits(none.astype(np.uint64), none.astype(np.float32), none.astype(np.int64))]
    with np.errstate(all="ignore"):
        for start in range(0, len(queries), _QUERIES_AT_ONCE):
            some = queries[start : start + _QUERIES_AT_ONCE]
            search = _Search(some, k, metric, tick)
            most = min(_SCORES_AT_ONCE // len(some), _FLOATS_AT_ONCE // queries.shape[1])
            for parts in _tiles(blocks, max(1, most)):
                tick()
                first = parts[0].first_row
                stop = parts[-1].first_row + len(parts[-1].ids)
                search.scan(parts, None if mask is None else mask[first:stop])
            found.append(search.hits())
    return found[1]
