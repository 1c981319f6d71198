"""The rows nearest to a query, exactly.

``distances`` says what the distance of a row is. Measuring all rows by it would take ten times as
long as one product of BLAS, so ``nearest`` measures few: the product gives each row a *score* in
float32, which bounds the distance from below but for rounding, and ``_Scoring`` bounds that. The 2k
rows of best score, each from another group of rows, are measured: the k-th best of them is the
*limit* that no row of the answer exceeds. Then all other rows are measured whose score admits a
distance within it, mostly none. What comes out is what measuring and sorting all rows gives, to
the bit.

Rows that float32 arithmetic may not survive (squared norm above 2^120, infinite or NaN: *wild*)
are measured always, and for a query like that all rows are.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
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
_NORMS_AT_ONCE = 1 << 15  # doubles: more would be memory taken anew from the system each time
_SCORES_AT_ONCE = 1 << 21  # 8 MiB
_GATHERED_AT_ONCE = 1 << 22  # floats, 16 MiB
_WORK_AT_ONCE = 1 << 30  # multiplications, between two ticks: some 20 ms
_QUERIES_AT_ONCE = 128
_PAIRS_AT_ONCE = 1 << 19  # of a query and a row
_MOST_DEPTH = 64
_GROUPS_PER_HIT = 16
# One dot product a row reads memory twice as fast as a matrix-vector product of OpenBLAS, if rows
# are long; with more queries, or shorter rows, the matrix product wins. Neither copies the view.
_FEW_QUERIES = 4
_LONG_ROW = 64

_UNIT = 2.0**-24  # unit roundoff of float32
_WILD = 2.0**120  # squared norms up to here: no score or part of one is above 2^122
_FAINT = 2.0**-80  # squared norms below here are too coarse to divide by
_WORST_SCORE = np.float32(2.0**125)  # no row that counts has one
_SMALLEST_FLOAT = float(np.finfo(np.float32).min)
_LARGEST_DOUBLE = float(np.finfo(np.float64).max)
_OUT = np.float32(2.0**127)  # added to a score, puts the row beyond the worst


class _Norms:
    """Squared norms (n,) float32 of rows, and what scoring needs to know of them."""

    def __init__(self, squared: Floats) -> None:
        self.squared = squared

    @cached_property
    def wild(self) -> Indices:
        """Rows whose squared norm is above the bound, infinite or NaN."""
        return np.flatnonzero(~(self.squared <= _WILD))

    @cached_property
    def faint(self) -> Indices:
        """Rows whose squared norm is next to nothing."""
        return np.flatnonzero(self.squared < _FAINT)

    @cached_property
    def most(self) -> float:
        """The largest squared norm that is not wild."""
        return float(self.squared.max(where=self.squared <= _WILD, initial=0))

    @cached_property
    def least(self) -> float:
        """The smallest squared norm that is not faint."""
        return float(self.squared.min(where=self.squared >= _FAINT, initial=np.inf))

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

    Ids (n,), vectors (n, d), contiguous within a row though rows may be further apart, and what
    ``squared_norms`` gives for them (n,). ``first_row`` is the number of row 0 among the rows of
    all blocks. Keep the object as long as the rows: it remembers what it learns about the norms.
    """

    first_row: int
    ids: NDArray[np.uint64]
    vectors: Floats
    squared_norms: Floats

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
    """For each of q queries its m best rows, by (distance, NaN last; id), all (q, m)."""

    ids: NDArray[np.uint64]
    distances: Floats
    rows: Indices


class _Found(NamedTuple):
    """Rows, each with the number of the query it was measured for, all (n,)."""

    queries: Indices
    distances: Floats
    ids: NDArray[np.uint64]
    rows: Indices


def _sums(terms: Doubles) -> Doubles:
    """The sum of each row, (n, d) -> (n,).

    NumPy adds up each row for itself in an order that depends on d alone; BLAS would not, and a
    row's distance must not depend on which others are measured with it.
    """
    sums: Doubles = np.add.reduce(terms, axis=1)
    return sums


def _steps(length: int, dimension: int) -> Iterator[slice]:
    """Slices of as many rows as are measured together."""
    step = max(1, _DOUBLES_AT_ONCE // dimension)
    return (slice(start, start + step) for start in range(0, length, step))


def squared_norms(vectors: Floats) -> Floats:
    """|x|^2 of each row, (n, d) -> (n,), computed in float64; overflow gives inf."""
    norms = np.empty(len(vectors), np.float32)
    step = max(1, _NORMS_AT_ONCE // vectors.shape[1])
    with np.errstate(all="ignore"):
        for start in range(0, len(vectors), step):
            doubles = vectors[start : start + step].astype(np.float64, order="C")
            products = np.matmul(doubles[:, None, :], doubles[:, :, None])
            norms[start : start + step] = products[:, 0, 0]
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
    with np.errstate(all="ignore"):
        double = query.astype(np.float64)
        norm = _sums(np.square(double[None]))[0]
        for here in _steps(*vectors.shape):
            result[here] = _measure(vectors[here], double, norm, metric)
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
        dimension = queries.shape[1]
        roundings = (dimension + 16) * _UNIT
        error = roundings / (1 - roundings)
        self.slope = 1.0
        tame = norms <= (_LARGEST_DOUBLE if metric == "cosine" else _WILD)
        if metric == "l2":
            self.slope = 1 / (1 - error)
            weights = queries * (-2 * self.slope)
            offsets = norms * (2.0**-22 - 1)
        elif metric == "ip":
            weights = -queries
            offsets = np.zeros_like(norms)
            self.reach = error * np.sqrt(np.where(tame, norms, 0.0))
        else:
            weights = queries / -np.sqrt(np.where(norms > 0, norms, 1.0))[:, None]
            offsets = np.full_like(norms, error - 1)
            self.least = norms[tame].min(initial=np.inf)
            self.most = norms[tame].max(initial=0)
        if not tame.all():
            weights[~tame] = 0
            offsets[~tame] = np.inf
        self.offsets = offsets + (dimension + 16) * 2.0**-120
        self.weights = weights.astype(np.float32)
        self.row_by_row = len(queries) <= min(_FEW_QUERIES, dimension // _LONG_ROW)

    def score(self, tile: "_Tile", scores: Floats) -> None:
        """Fill in the scores (n, q) of the rows; those of ``unscored`` are arbitrary."""
        norms = tile.norms
        start = 0
        for part in tile.parts:
            stop = start + len(part.ids)
            rows, out = part.vectors, scores[start:stop]
            if self.row_by_row:
                rows, out = rows[:, None, None, :], out[:, :, None, None]
                np.matmul(rows, self.weights[:, :, None], out=out)
            else:
                np.matmul(rows, self.weights.T, out=out)
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
        limits = np.maximum(limits, _SMALLEST_FLOAT)
        reached = self.slope * limits + 2.0**-20 * np.abs(limits) + self.offsets
        if self.metric == "ip":
            reached += math.sqrt(norms.most) * self.reach
        cutoffs: Floats = np.minimum(reached, _WORST_SCORE).astype(np.float32)
        return cutoffs


class _Tile:
    """Rows of one or more blocks that are scored together."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self.parts = parts
        self.first_row = parts[0].first_row
        if len(parts) > 1:
            self.starts = np.array([part.first_row for part in parts])

    def __len__(self) -> int:
        last = self.parts[-1]
        return last.first_row + len(last.ids) - self.first_row

    @cached_property
    def norms(self) -> _Norms:
        if len(self.parts) == 1:
            return self.parts[0].norms
        return _Norms(np.concatenate([part.squared_norms for part in self.parts]))

    def gather(self, rows: Indices) -> tuple[NDArray[np.uint64], Floats, Floats]:
        """Ids, vectors and squared norms of rows, by their numbers, in any order."""
        if len(self.parts) == 1:
            part, inside = self.parts[0], rows - self.first_row
            return part.ids[inside], part.vectors[inside], part.squared_norms[inside]
        ids = np.empty(len(rows), np.uint64)
        vectors = np.empty((len(rows), self.parts[0].vectors.shape[1]), np.float32)
        norms = np.empty(len(rows), np.float32)
        order = np.argsort(rows, kind="stable")
        owners = self.starts.searchsorted(rows[order], side="right") - 1
        cuts = (owners[1:] != owners[:-1]).nonzero()[0] + 1
        for start, stop in pairwise([0, *cuts.tolist(), len(rows)]):
            part, here = self.parts[owners[start]], order[start:stop]
            inside = rows[here] - part.first_row
            ids[here] = part.ids[inside]
            vectors[here] = part.vectors[inside]
            norms[here] = part.squared_norms[inside]
        return ids, vectors, norms


class _Search:
    """The best rows of those seen so far, for each of a few queries."""

    def __init__(self, queries: Floats, k: int, metric: Metric, tick: Callable[[], object]) -> None:
        self.k = k
        self.metric = metric
        self.tick = tick
        self.queries = queries.astype(np.float64)
        self.query_norms = _sums(np.square(self.queries))
        self.scoring = _Scoring(self.queries, self.query_norms, metric)
        self.limits = np.full(len(queries), np.inf)  # the k-th best distance seen
        none = np.empty(0, np.int64)
        self.found = _Found(none, none.astype(np.float32), none.astype(np.uint64), none)

    def scan(self, tile: _Tile, mask: NDArray[np.bool_] | None) -> None:
        """See more rows, of which those in ``mask`` count."""
        norms, length, queries = tile.norms, len(tile), len(self.queries)
        # Row i is in group i mod ``groups``: neighbours, often alike, are in different ones.
        depth = min(_MOST_DEPTH, max(1, length // (_GROUPS_PER_HIT * self.k)))
        groups = -(-length // depth)
        scores = np.empty((groups * depth, queries), np.float32)
        scores[length:] = np.inf
        self.scoring.score(tile, scores[:length])
        unscored = self.scoring.unscored(norms)
        scores[unscored] = np.inf
        if mask is not None and not mask.all():
            scores[:length] += np.multiply(~mask, _OUT, dtype=np.float32)[:, None]
            unscored = unscored[mask[unscored]]
        grouped = scores.reshape(depth, groups, queries)
        best = np.minimum.reduce(grouped, axis=0)
        crowded = np.arange(queries)
        if len(self.found.queries):
            passing = best <= self.scoring.cutoffs(self.limits, norms)
            crowded = (np.add.reduce(passing, axis=0) > 2 * self.k).nonzero()[0]
        if len(crowded):
            self._settle_best(tile, grouped, best, crowded)
        if len(unscored):
            scores[unscored] = -np.inf
            best[unscored % groups] = -np.inf
        cutoffs = self.scoring.cutoffs(self.limits, norms)
        group, of = (best <= cutoffs).nonzero()
        step = max(1, _PAIRS_AT_ONCE // depth)
        for start in range(0, len(of), step):
            some, whose = group[start : start + step], of[start : start + step]
            place, pair = (grouped[:, some, whose] <= cutoffs[whose]).nonzero()
            self._settle(tile, place * groups + some[pair], whose[pair])

    def _settle_best(self, tile: _Tile, grouped: Floats, best: Floats, queries: Indices) -> None:
        """Settle the best rows of the best groups for these queries, for the sake of the limit."""
        groups = len(best)
        count = min(groups, 2 * self.k)
        group = np.argpartition(best[:, queries], count - 1, axis=0)[:count]
        nth, which = (best[group, queries] <= _WORST_SCORE).nonzero()
        group, of = group[nth, which], queries[which]
        place = grouped[:, group, of].argmin(axis=0)
        grouped[place, group, of] = np.inf  # done with
        self._settle(tile, place * groups + group, of)

    def _settle(self, tile: _Tile, rows: Indices, of: Indices) -> None:
        """Measure rows, numbered within the tile, each for one query; keep the best."""
        rows = rows + tile.first_row
        near: list[_Found] = []
        waiting = 0
        for here in _steps(len(rows), self.queries.shape[1]):
            row, query = rows[here], of[here]
            ids, vectors, _ = tile.gather(row)
            whose: Indices | int = query if len(self.queries) > 1 else 0
            measured = _measure(vectors, self.queries[whose], self.query_norms[whose], self.metric)
            within = (~(measured > self.limits[query])).nonzero()[0]
            near.append(_Found(query[within], measured[within], ids[within], row[within]))
            waiting += len(within)
            if waiting > len(self.found.queries):  # merging sorts these too
                self._keep(near)
                near, waiting = [], 0
            self.tick()
        if waiting:
            self._keep(near)

    def _keep(self, near: list[_Found]) -> None:
        """Merge into the best seen."""
        found = zip(self.found, *near, strict=True)
        of, measured, ids, rows = (np.concatenate(values) for values in found)
        order = np.lexsort((rows, ids, measured, of))
        of = of[order]
        rank = np.arange(len(of)) - of.searchsorted(of)
        top = rank < self.k
        best = order[top]
        self.found = _Found(of[top], measured[best], ids[best], rows[best])
        last = rank[top] == self.k - 1
        self.limits[of[top][last]] = np.fmin(np.inf, measured[best][last])

    def hits(self) -> Hits:
        """The best rows seen."""
        shape = (len(self.queries), -1)
        _, measured, ids, rows = self.found
        return Hits(ids.reshape(shape), measured.reshape(shape), rows.reshape(shape))


def _scanned(blocks: Sequence[Rows], most: int) -> Iterator[_Tile]:
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
                yield _Tile(parts)
                parts, room = [], most
    if parts:
        yield _Tile(parts)


def _gathered(blocks: Sequence[Rows], rows: Indices, most: int) -> Iterator[_Tile]:
    """Copies of these rows, ``most`` at a time, numbered as they are in ``rows``."""
    if len(rows):
        whole = _Tile(blocks)
        for start in range(0, len(rows), most):
            yield _Tile([Rows(start, *whole.gather(rows[start : start + most]))])


def _nothing() -> None:
    pass


def _search(
    tiles: Callable[[int], Iterable[_Tile]],
    queries: Floats,
    k: int,
    metric: Metric,
    mask: NDArray[np.bool_] | None,
    tick: Callable[[], object],
) -> Hits:
    found: list[Hits] = []
    for start in range(0, len(queries) if k > 0 else 0, _QUERIES_AT_ONCE):
        search = _Search(queries[start : start + _QUERIES_AT_ONCE], k, metric, tick)
        count = len(search.queries)
        # Reading a row takes as long as multiplying it with 16 queries.
        work = (count + 15) * queries.shape[1]
        for tile in tiles(max(1, min(_SCORES_AT_ONCE // count, _WORK_AT_ONCE // work))):
            tick()
            stop = tile.first_row + len(tile)
            search.scan(tile, None if mask is None else mask[tile.first_row : stop])
        found.append(search.hits())
    if not found:
        shape = (len(queries), 0)
        return Hits(
            np.empty(shape, np.uint64), np.empty(shape, np.float32), np.empty(shape, np.int64)
        )
    ids, measured, rows = (np.concatenate(values) for values in zip(*found, strict=True))
    return Hits(ids, measured, rows)


def nearest(
    blocks: Sequence[Rows],
    queries: Floats,
    k: int,
    metric: Metric,
    mask: NDArray[np.bool_] | None = None,
    *,
    tick: Callable[[], object] = _nothing,
) -> Hits:
    """The ``k`` rows nearest to each query (q, d), or as many as there are.

    ``mask``, over the rows of all blocks, says which rows count. ``tick`` is called every
    20 ms or so, and often where many rows have to be measured.
    """
    with np.errstate(all="ignore"):
        return _search(lambda most: _scanned(blocks, most), queries, k, metric, mask, tick)


def nearest_among(
    blocks: Sequence[Rows],
    rows: Indices,
    queries: Floats,
    k: int,
    metric: Metric,
    *,
    tick: Callable[[], object] = _nothing,
) -> Hits:
    """As ``nearest``, but only these rows count. Faster where they are up to a tenth of all."""
    room = max(1, _GATHERED_AT_ONCE // queries.shape[1])
    with np.errstate(all="ignore"):
        hits = _search(
            lambda most: _gathered(blocks, rows, min(room, most)), queries, k, metric, None, tick
        )
    return hits._replace(rows=rows[hits.rows])
