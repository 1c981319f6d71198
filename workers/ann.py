"""Approximate nearest-neighbour search over row numbers, by faiss.

Every row is put into the list of its nearest centroid, found by k-means on a sample, as a code of 4
bits for every 2 coordinates (``ann_lists``). A query looks at the lists of the nearest ``breadth``
centroids. It sees estimates there, so it gives back more *candidates* than results were asked for
(``depth``), whose distances the caller measures.

Breadth and depth are the pair of least cost whose candidates hold 0.97 of the ten nearest of a
sample of rows that took no part in the training (``ann_tuning``). Filters and dead rows are masked
in the search. Rows too far off to be coded, or not finite, are *outside* the lists: they are
candidates of every query.

faiss lets other threads run while it works. Searches may run beside each other, but not beside
``add``.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.ann_cache import OUTSIDE, AnnCache
from holdfast.formats.errors import InvalidArgument, InvalidFormat
from holdfast.workers.ann_lists import EVERYTHING, CodedLists, Selection
from holdfast.workers.ann_rows import (
    FLOATS_PER_SLICE,
    Booleans,
    Cancelled,
    Floats,
    Indices,
    Progress,
    Task,
    gather,
)
from holdfast.workers.ann_space import Space, shape_of
from holdfast.workers.ann_tuning import (
    BEYOND_SHARE,
    DEPTHS_MAX,
    RANKS,
    Reach,
    Sample,
    Tuning,
    depth_of,
    reaches,
    slants,
    usual_slant,
)
from holdfast.workers.faiss_library import available, library
from holdfast.workers.search import Metric, Rows

__all__ = ["ROWS_MIN", "AnnIndex", "available"]

ROWS_MIN = 256
"""Fewer rows cannot be indexed."""

_SEED = 20_141
_SAMPLE_PER_LIST = 50
_TRAINING_ROUNDS = 6
_SAMPLE_QUERIES = 200
_DEPTH_GOOD = 100  # with this few candidates, other codes are not worth trying
_LEAST_SHARE = 1e-9
_MOST_SHARE = 0.9  # so many rows may be given that the nearest of all do
_DEPTH_GAIN_MAX = 4  # for a breadth above what is usually enough


class AnnIndex:
    """Candidates for the nearest rows, by global row number."""

    def __init__(self, space: Space, lists: CodedLists) -> None:
        """An index that covers no rows."""
        self._space = space
        self._lists = lists
        self._tuning = Tuning((1, 1), RANKS, 0.0, 0.0, 0.0, 0.0)
        self._selection = EVERYTHING
        self.rows = 0
        """Rows below it are in the lists, or outside, or were dead when their turn came."""
        self.trained_rows = 0
        """Live rows when the lists were made."""
        self.outside: Indices = np.empty(0, np.int64)
        """Rows that cannot be coded, ascending; candidates of every query."""

    @property
    def lists(self) -> int:
        """How many lists there are; no breadth is greater."""
        return len(self._lists)

    @property
    def breadth(self) -> int:
        """Lists looked at for 10 results without a filter."""
        return self._tuning.breadths[0]

    @property
    def measured_recall(self) -> float:
        """Recall at 10 when breadth and depth were chosen."""
        return self._tuning.recall

    # --- making --------------------------------------------------------------------------------

    @classmethod
    def build(
        cls,
        blocks: Sequence[Rows],
        live: Booleans,
        metric: Metric,
        *,
        progress: Progress,
        cancelled: Callable[[], bool],
    ) -> "AnnIndex | None":
        """An index of the rows of ``blocks`` that are ``live`` (n,); None when cancelled.

        ``progress`` is given a stage's name, how much of it is done, and how much there is. Raises
        ``InvalidArgument`` where fewer than ``ROWS_MIN`` live rows are finite.
        """
        try:
            return cls._built(Task(blocks, live, progress, cancelled), metric)
        except Cancelled:
            return None

    @classmethod
    def _built(cls, task: Task, metric: Metric) -> "AnnIndex":
        finite = np.concatenate([np.isfinite(block.squared_norms) for block in task.blocks])
        usable = np.flatnonzero(task.live & finite)
        if len(usable) < ROWS_MIN:
            raise InvalidArgument(f"{len(usable)} rows are too few to index, {ROWS_MIN} are needed")
        rng = np.random.default_rng(_SEED)
        lists = int(1.5 * len(usable) ** 0.5)
        chosen = rng.choice(
            usable, min(len(usable), lists * _SAMPLE_PER_LIST + _SAMPLE_QUERIES), replace=False
        )
        queries = min(_SAMPLE_QUERIES, len(chosen) // 4)
        origins = np.sort(chosen[:queries])
        training = gather(task.blocks, np.sort(chosen[queries:]))
        space = Space.fit(metric, training, rng)
        points, inside = space.rows(training)
        points = points[inside]
        if not len(points):
            raise InvalidArgument("the rows are too far apart to index")
        centroids, spreads = _centroids(points, lists, rng, task)
        ann = cls(space, CodedLists(centroids, spreads, residual=False))
        ann._fill(points, task)
        sample = ann._sampled(origins, task)
        worth_trying = ann._reaches(sample)
        ann._tuning = ann._tuned(sample, worth_trying)
        good = ann._tuning.is_enough and ann._tuning.depths[0] <= _DEPTH_GOOD
        if not good and (
            not ann._tuning.is_enough
            or min(ann._cost(reach, RANKS[0], residual=True) for reach in worth_trying)
            < ann._tuning.cost
        ):
            other = cls(space, CodedLists(centroids, spreads, residual=True))
            other._fill(points, task)
            other._tuning = other._tuned(sample, worth_trying)
            if other._tuning.is_better_than(ann._tuning):
                ann = other
        ann.trained_rows = len(usable)
        return ann

    def _fill(self, training: Floats, task: Task) -> None:
        """Learn the codes from points (n, width), and take in all live rows."""
        self._lists.train(training)
        for first_row, vectors, live in task.slices("add"):
            self._add(first_row, vectors, live)

    def add(self, first_row: int, vectors: Floats) -> None:
        """Take in the rows (n, dimension) behind those covered; ``first_row`` is ``rows``."""
        assert first_row == self.rows
        step = max(1, FLOATS_PER_SLICE // self._space.width)
        for start in range(0, len(vectors), step):
            self._add(first_row + start, vectors[start : start + step], None)

    def _add(self, first_row: int, vectors: Floats, live: Booleans | None) -> None:
        numbers = np.arange(first_row, first_row + len(vectors))
        self.rows = first_row + len(vectors)
        if live is not None and not live.all():
            numbers, vectors = numbers[live], vectors[live]
        points, inside = self._space.rows(vectors)
        if not inside.all():
            self.outside = np.concatenate([self.outside, numbers[~inside]])
            points, numbers = points[inside], numbers[inside]
        if len(points):
            self._lists.add(points, numbers)

    # --- searching -----------------------------------------------------------------------------

    def search(
        self,
        queries: Floats,
        k: int,
        *,
        allowed: NDArray[np.uint8] | None = None,
        allowed_count: int = 0,
        breadth: int | None = None,
    ) -> Indices:
        """Candidates for the ``k`` nearest rows of each query (q, dimension): (q, at least k).

        In no order, each once, -1 where there are no more; where that leaves fewer than ``k``, as
        for a query that is not finite, the caller has to search exactly. ``allowed`` has a bit for
        each of ``allowed_count`` rows, set if it may be given, as ``np.packbits(mask,
        bitorder="little")`` packs them; None allows all. An array given again is taken to be
        unchanged. ``breadth`` is how many lists to look at, if not as many as were found to be
        enough.
        """
        tuning, selection, share = self._tuning, EVERYTHING, 1.0
        if allowed is not None:
            if self._selection.bits is not allowed:
                self._selection = Selection(allowed)
            selection = self._selection
            share = selection.count / max(allowed_count, 1)
            if selection.count == allowed_count >= self.rows:
                selection = EVERYTHING
        # The k-th best that passes is about this far down the list of all.
        rank = k / max(share, _LEAST_SHARE)
        enough = min(tuning.breadth(rank), self.lists)
        probed = enough if breadth is None else max(1, min(breadth, self.lists))
        gain = max(1, min(probed / enough, _DEPTH_GAIN_MAX))
        depth = max(1, min(max(k, int(tuning.depth(k) * gain)), self.rows))
        points, unsound = self._space.queries(queries)
        estimates, found = self._lists.candidates(points, depth, probed, selection)
        if breadth is None and probed < self.lists:
            farthest = estimates[:, min(k, depth) - 1]
            if share < _MOST_SHARE or farthest.max(initial=0) > tuning.usual:
                found = self._look_beyond(points, found, farthest, probed, selection)
        if unsound:
            found[unsound] = -1
        if not len(self.outside):
            return found
        others = selection.of(self.outside)
        return np.hstack([found, np.broadcast_to(others, (len(queries), len(others)))])

    def _look_beyond(
        self, points: Floats, found: Indices, farthest: Floats, probed: int, selection: Selection
    ) -> Indices:
        """Search again, in more lists, for queries whose nearest rows are far off.

        So they are when a filter leaves nothing where the query is, or no row is like the query.
        Among rows far off, many are about as far, so that more candidates are needed as well.
        """
        place = min(2 * probed, self.lists - 1)
        squares, numbers = self._lists.nearest(points, place + 1)
        spreads = self._lists.spreads[numbers[:, place]]
        beyond = np.flatnonzero(slants(squares[:, place], spreads, farthest) <= self._tuning.slant)
        if not len(beyond):
            return found
        depth = min(_DEPTH_GAIN_MAX * found.shape[1], self.rows)
        more = np.full((len(found), depth), -1, np.int64)
        more[:, : found.shape[1]] = found
        for query in beyond:
            here = slice(query, query + 1)
            squares, numbers = self._lists.nearest(points[here], self.lists)
            needed = slants(squares[0], self._lists.spreads[numbers[0]], farthest[here])
            breadth = max(place + 1, int(np.count_nonzero(needed <= self._tuning.slant)))
            more[here] = self._lists.candidates(points[here], depth, breadth, selection)[1]
        return more

    # --- measuring -----------------------------------------------------------------------------

    def recall(self, blocks: Sequence[Rows], live: Booleans) -> float:
        """Share of the ten nearest live rows that are among the candidates, of a sample of rows."""
        task = Task(blocks, live, lambda *_: None, lambda: False)
        origins = self._origins(live)
        if not len(origins):
            return 1.0
        sample = self._sampled(origins, task)
        covered = live[: self.rows]
        found = self.search(
            gather(blocks, origins),
            RANKS[0] + 1,  # one of them is the query itself
            allowed=np.packbits(covered, bitorder="little"),
            allowed_count=len(covered),
        )
        return float(sample.curve(found, RANKS[0])[-1])

    def _origins(self, live: Booleans) -> Indices:
        """Some rows in the lists, ascending."""
        counted = live[: self.rows].copy()
        counted[self.outside] = False
        rows = np.flatnonzero(counted)
        rng = np.random.default_rng(_SEED + self.rows)
        return np.sort(rng.choice(rows, min(_SAMPLE_QUERIES, len(rows)), replace=False))

    def _sampled(self, origins: Indices, task: Task) -> Sample:
        """Queries made of the rows ``origins``, and what is nearest to them in the lists."""
        faiss = library()
        queries, _ = self._space.queries(gather(task.blocks, origins))
        most = RANKS[1] + 1
        distances = np.full((len(queries), most), np.inf, np.float32)
        nearest = np.zeros((len(queries), most), np.int64)
        for first_row, vectors, live in task.slices("measure"):
            points, inside = self._space.rows(vectors)
            numbers = np.flatnonzero(inside & live)
            numbers = numbers[numbers + first_row < self.rows]
            if not len(numbers):
                continue
            near, places = faiss.knn(queries, points[numbers], min(most, len(numbers)))
            rows = numbers[places] + first_row
            near[rows == origins[:, None]] = np.inf
            distances, nearest = np.hstack([distances, near]), np.hstack([nearest, rows])
            order = np.argsort(distances, axis=1, kind="stable")[:, :most]
            distances = np.take_along_axis(distances, order, axis=1)
            nearest = np.take_along_axis(nearest, order, axis=1)
        return Sample(queries, origins, nearest[:, : RANKS[1]], distances[:, : RANKS[1]])

    def _reaches(self, sample: Sample) -> list[Reach]:
        order = self._lists.nearest(sample.queries, self.lists)[1]
        return reaches(sample, self._homes(), order)

    def _tuned(self, sample: Sample, worth_trying: list[Reach]) -> Tuning:
        """The best of what is worth trying."""
        best: Tuning | None = None
        for reach in worth_trying:
            depth, recall = self._depth(sample, reach, 0)
            cost = self._cost(reach, depth, residual=self._lists.residual)
            tuning = Tuning(reach.breadths, (depth, depth), 0.0, 0.0, recall, cost)
            if tuning.is_better_than(best):
                best, best_reach = tuning, reach
        assert best is not None
        deeper = max(best.depths[0], self._depth(sample, best_reach, 1)[0])
        usual, slant = self._usual(sample, best.breadths[0])
        return replace(best, depths=(best.depths[0], deeper), usual=usual, slant=slant)

    def _usual(self, sample: Sample, breadth: int) -> tuple[float, float]:
        """How far off the tenth row of a query usually is, and the slant that goes with that."""
        squares, order = self._lists.nearest(sample.queries, self.lists)
        # Each query is a row, and finds itself first.
        estimates, _ = self._lists.candidates(sample.queries, RANKS[0] + 1, breadth)
        needed = slants(squares, self._lists.spreads[order], estimates[:, -1:])
        usual = float(np.quantile(estimates[:, -1], 1 - BEYOND_SHARE, method="lower"))
        return usual, usual_slant(sample, needed, self._homes(), order, breadth)

    def _depth(self, sample: Sample, reach: Reach, which: int) -> tuple[int, float]:
        """The least depth for ``RANKS[which]`` results that is enough, and the recall with it."""
        most = DEPTHS_MAX[which]
        _, found = self._lists.candidates(sample.queries, most, reach.breadths[which])
        return depth_of(sample.curve(found, RANKS[which]), RANKS[which])

    def _cost(self, reach: Reach, depth: int, *, residual: bool) -> float:
        width = self._space.width
        return reach.cost(depth, width=width, subspaces=self._lists.subspaces, residual=residual)

    # --- as it is kept -------------------------------------------------------------------------

    def _homes(self) -> NDArray[np.uint32]:
        """The list of every row, or ``ABSENT`` or ``OUTSIDE``."""
        homes = self._lists.homes(self.rows)
        homes[self.outside] = OUTSIDE
        return homes

    def to_cache(self, file_id: bytes, fingerprint: bytes) -> AnnCache:
        """What to keep of it beside the store's file."""
        space, tuning, lists = self._space, self._tuning, self._lists
        packer, block_rows, block_bytes, _ = lists.layout
        return AnnCache(
            file_id=file_id,
            fingerprint=fingerprint,
            trained_rows=self.trained_rows,
            dimension=space.dimension,
            metric=space.metric,
            residual=lists.residual,
            block_rows=block_rows,
            block_bytes=block_bytes,
            library=packer,
            scale=space.scale,
            query_length=space.query_length,
            limit=space.limit,
            usual=tuning.usual,
            slant=tuning.slant,
            recall=tuning.recall,
            breadths=tuning.breadths,
            depths=tuning.depths,
            center=space.center,
            rotation=space.rotation,
            centroids=lists.centroids,
            spreads=lists.spreads,
            codebook=lists.codebook(),
            homes=self._homes(),
            codes=lists.packed(),
        )

    @classmethod
    def from_cache(cls, cache: AnnCache, blocks: Sequence[Rows]) -> "AnnIndex":
        """The index ``to_cache`` was called of, over the first ``cache.rows`` rows of ``blocks``.

        The caller has compared file id and fingerprint. Raises ``InvalidFormat`` where this faiss
        packs codes in another way, or the cache is of other vectors.
        """
        if any(block.vectors.shape[1] != cache.dimension for block in blocks):
            raise InvalidFormat(f"the index cache is of vectors of dimension {cache.dimension}")
        shape = (cache.centroids.shape[1], len(cache.rotation))
        if shape != shape_of(cache.metric, cache.dimension):
            raise InvalidFormat(f"the index cache is of another space, {shape}")
        space = Space(
            cache.metric,
            cache.dimension,
            cache.center.astype(np.float32),
            cache.rotation.astype(np.float32),
            cache.scale,
            cache.query_length,
            cache.limit,
        )
        ann = cls(space, CodedLists.unpacked(cache))
        ann._tuning = Tuning(
            cache.breadths, cache.depths, cache.usual, cache.slant, cache.recall, 0.0
        )
        ann.rows = cache.rows
        ann.trained_rows = cache.trained_rows
        ann.outside = np.flatnonzero(cache.homes == OUTSIDE)
        return ann


def _centroids(
    points: Floats, lists: int, rng: np.random.Generator, task: Task
) -> tuple[Floats, Floats]:
    """Centroids (lists, width) by k-means, and the mean squared distance of points from each."""
    centroids = points[rng.choice(len(points), lists, replace=len(points) < lists)]
    for done in range(_TRAINING_ROUNDS):  # one by one, so that it can be cancelled
        task.report("train", done, _TRAINING_ROUNDS)
        kmeans = library().Kmeans(
            points.shape[1],
            lists,
            niter=1,
            seed=_SEED + done,
            min_points_per_centroid=1,
            max_points_per_centroid=len(points),
        )
        kmeans.train(points, init_centroids=centroids)
        centroids = kmeans.centroids
    squares, homes = library().knn(points, centroids, 1)
    sums = np.bincount(homes[:, 0], np.maximum(squares[:, 0], 0), minlength=lists)
    counts = np.bincount(homes[:, 0], minlength=lists)
    # A list of one point says nothing of those to come: some of all lists is mixed in.
    usual = sums.sum() / len(points)
    return centroids, ((sums + usual) / (counts + 1)).astype(np.float32)
