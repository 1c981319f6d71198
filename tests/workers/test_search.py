"""Search against the oracle: every row measured by ``distances``, then sorted."""

import math
import tracemalloc
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, get_args
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from holdfast.workers import search
from holdfast.workers.search import (
    Hits,
    Metric,
    Rows,
    distances,
    nearest,
    nearest_among,
    squared_norms,
)

Floats = NDArray[np.float32]
METRICS: tuple[Metric, ...] = get_args(Metric)
SPECIAL: list[float] = np.array(
    [0, -0.0, 1, -1, 1e-45, -1e-38, 1e-20, 3.45e-4, 1e19, 3e38, -3e38, np.inf, -np.inf, np.nan],
    np.float32,
).tolist()
# With these, a few hundred rows cross every border that a few million cross otherwise.
TINY: dict[str, Any] = {
    "_SCORES_AT_ONCE": 500,
    "_PAIRS_AT_ONCE": 60,
    "_DOUBLES_AT_ONCE": 300,
    "_GATHERED_AT_ONCE": 400,
    "_QUERIES_AT_ONCE": 3,
}


def limits(*, tiny: bool) -> AbstractContextManager[object]:
    """The module's real limits, or tiny ones."""
    return patch.multiple(search, **TINY) if tiny else nullcontext()


def floats(*values: object) -> Floats:
    return np.array(values, np.float32)


def block(first_row: int, ids: NDArray[np.uint64], vectors: Floats, spare: int = 0) -> Rows:
    """Rows whose vectors lie ``spare`` floats apart, as in a mapped file."""
    apart = np.full((len(vectors), vectors.shape[1] + spare), np.nan, np.float32)
    apart[:, spare:] = vectors
    return Rows(first_row, ids, apart[:, spare:], squared_norms(vectors))


def blocks_of(ids: NDArray[np.uint64], vectors: Floats, *cuts: int) -> list[Rows]:
    """All rows, in blocks that end at the cuts and differ in how far rows are apart."""
    edges = [0, *sorted(cuts), len(ids)]
    return [
        block(start, ids[start:stop], vectors[start:stop], number % 3)
        for number, (start, stop) in enumerate(pairwise(edges))
    ]


@dataclass
class Case:
    """Rows in blocks, queries, and which rows count."""

    ids: NDArray[np.uint64]
    vectors: Floats
    cuts: list[int]
    queries: Floats
    mask: NDArray[np.bool_] | None

    def check(self, k: int, metric: Metric, *, tiny: bool = False) -> None:
        """Both searches answer as the oracle does, to the bit."""
        blocks = blocks_of(self.ids, self.vectors, *self.cuts)
        counting = np.arange(len(self.ids))
        if self.mask is not None:
            counting = counting[self.mask]
        with limits(tiny=tiny):
            found = nearest(blocks, self.queries, k, metric, self.mask)
            among = nearest_among(blocks, counting, self.queries, k, metric)
        shape = (len(self.queries), min(k, len(counting)))
        for hits in (found, among):
            assert hits.ids.shape == hits.distances.shape == hits.rows.shape == shape
            assert hits.ids.dtype == np.uint64
            for number, query in enumerate(self.queries):
                self.check_one(hits, number, counting, distances(self.vectors, query, metric))

    def check_one(
        self, hits: Hits, number: int, counting: NDArray[np.int64], measured: Floats
    ) -> None:
        """The hits of one query are the first of all rows, in order."""
        order = counting[np.lexsort((counting, self.ids[counting], measured[counting]))]
        rows = order[: hits.rows.shape[1]]
        np.testing.assert_array_equal(hits.distances[number], measured[rows])
        np.testing.assert_array_equal(hits.ids[number], self.ids[rows])
        np.testing.assert_array_equal(hits.rows[number], rows)


def some_vectors(random: np.random.Generator, kind: str, rows: int, dimension: int) -> Floats:
    """Vectors that are hard to tell apart, or hard for float32, in one way or another."""
    shape = (rows, dimension)
    scale = 10.0 ** random.integers(-22, 19)
    normal = random.standard_normal(shape)
    vectors: Any = normal * scale
    if kind == "special":
        vectors = random.choice(SPECIAL, shape)
    elif kind == "repeated":
        vectors = vectors[random.integers(0, min(4, rows), rows)] if rows else vectors
    elif kind == "signs":
        vectors = random.integers(-1, 2, shape)
    elif kind == "far from zero":
        vectors = random.standard_normal(dimension) * 1e3 + normal * 1e-3
    elif kind == "last bits":
        centre = (random.standard_normal(dimension) * scale).astype(np.float32)
        vectors = centre + random.integers(-2, 3, shape) * np.spacing(centre)
    elif kind == "all magnitudes":
        vectors = normal * 10.0 ** random.integers(-38, 38, (rows, 1))
    elif kind == "ever nearer":
        vectors = normal * np.linspace(2, 1, rows)[:, None]
    elif kind == "a few wild":
        wild = random.random(rows) < 0.1
        vectors[wild] = random.choice(SPECIAL, (int(wild.sum()), dimension))
    with np.errstate(all="ignore"):
        return np.asarray(vectors, np.float32)


KINDS = ["scaled", "special", "repeated", "signs", "far from zero", "last bits"]
KINDS += ["all magnitudes", "ever nearer", "a few wild"]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Rows and queries of one kind; some queries are rows, or almost."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows, dimension = draw(st.integers(0, 400)), draw(st.sampled_from([1, 2, 3, 7, 64, 130]))
    vectors = some_vectors(random, draw(st.sampled_from(KINDS)), rows, dimension)
    ids = random.integers(0, 2**64, rows, dtype=np.uint64)
    if draw(st.booleans()):  # ids that repeat, up to the largest
        ids = np.uint64(2**64 - 1) - ids % np.uint64(9)
    queries = some_vectors(random, draw(st.sampled_from(KINDS)), draw(st.integers(1, 7)), dimension)
    if rows:
        for number in range(0, len(queries), 2):
            queries[number] = vectors[random.integers(rows)]
        with np.errstate(all="ignore"):
            queries[::4] *= np.float32(1 + 1e-6)
    mask = None
    if draw(st.booleans()):
        mask = random.random(rows) < draw(st.sampled_from([0.0, 0.05, 0.5, 0.95, 1.0]))
    cuts = draw(st.lists(st.integers(0, rows), max_size=5))
    return Case(ids, vectors, cuts, queries, mask)


COUNTS = st.sampled_from([0, 1, 2, 3, 10, 40, 1000])


@given(cases(), COUNTS, st.sampled_from(METRICS), st.booleans())
@settings(max_examples=4 * settings().max_examples)
def test_search_equals_the_oracle(case: Case, k: int, metric: Metric, tiny: bool) -> None:
    """Whatever the values, blocks, mask and k."""
    case.check(k, metric, tiny=tiny)


VALUES = st.one_of(st.sampled_from(SPECIAL), st.floats(width=32))


@given(st.data(), st.integers(1, 3), st.integers(1, 4), st.sampled_from(METRICS))
def test_search_equals_the_oracle_for_any_floats(
    data: st.DataObject, dimension: int, k: int, metric: Metric
) -> None:
    """Values that Hypothesis chooses, one by one."""
    rows = data.draw(st.integers(1, 8))
    vectors = data.draw(arrays(np.float32, (rows, dimension), elements=VALUES))
    queries = data.draw(arrays(np.float32, (2, dimension), elements=VALUES))
    ids = np.arange(rows, dtype=np.uint64)[::-1].copy()
    Case(ids, vectors, [rows // 2], queries, None).check(k, metric)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("count", [1, 3, 150])
def test_many_rows(metric: Metric, count: int) -> None:
    """At sizes where most rows are never measured, with row strides as in a file."""
    random = np.random.default_rng(1)
    vectors = random.standard_normal((20_000, 128), dtype=np.float32)
    queries = vectors[random.integers(0, len(vectors), count)] * np.float32(1.01)
    ids = random.permutation(len(vectors)).astype(np.uint64)
    mask = random.random(len(vectors)) < 0.9
    real, measured = search._measure, 0

    def counted(*args: Any) -> Floats:
        nonlocal measured
        measured += len(args[0])
        return real(*args)

    blocks = blocks_of(ids, vectors, 300, 301, 9000)
    with patch.object(search, "_measure", counted):
        hits = nearest(blocks, queries, 10, metric, mask)
    assert measured < 200 * count
    counting = np.flatnonzero(mask)
    case = Case(ids, vectors, [], queries, mask)
    for number in range(0, count, 7):
        case.check_one(hits, number, counting, distances(vectors, queries[number], metric))


@pytest.mark.parametrize("metric", METRICS)
def test_rows_are_read_where_they_lie(metric: Metric) -> None:
    """A view with a row stride is not copied, and what is allocated is small."""
    random = np.random.default_rng(1)
    for count, dimension in ((1, 4), (1, 30), (1, 256), (2, 256), (40, 31)):
        rows = 8_000_000 // dimension
        view = random.random((rows, dimension + 2), dtype=np.float32)[:, 2:]
        blocks = [Rows(0, np.arange(rows, dtype=np.uint64), view, squared_norms(view))]
        queries = random.random((count, dimension), dtype=np.float32)
        nearest(blocks, queries, 5, metric)  # what is kept with the rows is not counted
        tracemalloc.start()
        nearest(blocks, queries, 5, metric)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 12 << 20, (count, dimension)


@pytest.mark.parametrize("dimension", [1, 2, 7, 8, 100, 128, 8191, 8193, 20_000])
def test_a_distance_does_not_depend_on_the_company(dimension: int) -> None:
    """A row measured alone, among others, or from a view, is as far, to the bit."""
    random = np.random.default_rng(dimension)
    apart = random.standard_normal((40, dimension + 2), dtype=np.float32)
    view = apart[:, 2:]
    doubles = view.astype(np.float64)
    sums = search._sums(doubles)
    for row in range(len(view)):
        assert search._sums(doubles[row : row + 1])[0] == sums[row]
        assert search._sums(doubles[row::7].copy())[0] == sums[row]
    for metric in METRICS:
        measured = distances(view, view[0], metric)
        for row in range(0, len(view), 3):
            assert distances(view[row : row + 1].copy(), view[0], metric)[0] == measured[row]


def test_distances_follow_the_formulas() -> None:
    """Against sums without rounding."""
    random = np.random.default_rng(3)
    vectors = random.standard_normal((50, 33), dtype=np.float32)
    query = random.standard_normal(33, dtype=np.float32)
    x, y = vectors.astype(float).tolist(), query.astype(float).tolist()
    square = math.fsum(b * b for b in y)
    for row, values in enumerate(x):
        pairs = list(zip(values, y, strict=True))
        dot = math.fsum(a * b for a, b in pairs)
        root = math.sqrt(math.fsum(a * a for a in values) * square)
        expected = {
            "l2": math.fsum((a - b) ** 2 for a, b in pairs),
            "ip": -dot,
            "cosine": 1 - dot / root,
        }
        for metric in METRICS:
            found = distances(vectors, query, metric)[row]
            assert found == pytest.approx(expected[metric], rel=1e-7, abs=1e-14)


def test_distances_at_the_edges() -> None:
    """Overflow is infinite without a warning; the cosine of next to nothing is one."""
    huge = np.full((1, 4), 3e38, np.float32)
    assert distances(huge, -huge[0], "l2")[0] == np.inf
    assert distances(huge, huge[0], "ip")[0] == -np.inf
    assert distances(huge, huge[0], "cosine")[0] == 0
    assert distances(huge, floats(0, 0, 0, 0), "cosine")[0] == 1
    side = floats([2.0**-12, 0])
    assert distances(side, floats(2.0**-11, 0), "cosine")[0] == 0  # the root is the bound
    assert distances(side, floats(2.0**-11.01, 0), "cosine")[0] == 1
    assert np.isnan(distances(huge, floats(np.nan, 0, 0, 0), "l2")[0])
    assert distances(np.empty((0, 4), np.float32), huge[0], "l2").shape == (0,)


@given(st.sampled_from(KINDS), st.integers(0, 99), st.sampled_from([1, 5, 200]), st.booleans())
def test_squared_norms(kind: str, seed: int, dimension: int, tiny: bool) -> None:
    """They are distances from zero."""
    vectors = some_vectors(np.random.default_rng(seed), kind, 30, dimension)
    with limits(tiny=tiny):
        norms = squared_norms(vectors)
    np.testing.assert_array_equal(norms, distances(vectors, np.zeros(dimension, np.float32), "l2"))


def test_ties_are_ordered_by_id() -> None:
    """Also over the edge of k, over blocks, and for the largest ids."""
    ids = np.uint64(2**64 - 1) - np.random.default_rng(5).permutation(300).astype(np.uint64)
    vectors = np.ones((300, 64), np.float32)
    hits = nearest(blocks_of(ids, vectors, 100, 100, 250), vectors[:1], 7, "l2")
    assert hits.ids.tolist() == [sorted(ids.tolist())[:7]]
    assert hits.distances.tolist() == [[0.0] * 7]


def test_a_difference_that_cancels_in_the_product() -> None:
    """The nearest is told apart although norms of 10^12 hide distances of 10^-2."""
    steps = np.random.default_rng(6).permutation(1000)
    vectors = np.full((1000, 2), 2.0**20, np.float32)
    vectors[:, 1] += steps / np.float32(8)
    ids = np.arange(1000, dtype=np.uint64)
    hits = nearest(blocks_of(ids, vectors), floats([2.0**20, 2.0**20]), 5, "l2")
    assert steps[hits.rows[0]].tolist() == [0, 1, 2, 3, 4]
    assert hits.distances[0].tolist() == [(step / 8) ** 2 for step in range(5)]


@pytest.mark.parametrize("scale", [1.0, 1e-22, 1e18])
def test_products_that_cancel(scale: float) -> None:
    """Inner products far below what rounding does to a float32 sum of their terms."""
    random = np.random.default_rng(7)
    half = (random.standard_normal((500, 64)) * scale).astype(np.float32)
    vectors = np.concatenate([half, -half], axis=1)[:, random.permutation(128)]
    vectors += random.integers(-2, 3, vectors.shape) * np.spacing(vectors)
    ids = np.arange(500, dtype=np.uint64)
    for query in (floats([1.0] * 128), vectors[:1] * 0 + 1e-3):
        Case(ids, vectors, [100], np.asarray(query, np.float32), None).check(10, "ip")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [1e-19, 1e-21, 3e-23])
def test_products_that_underflow(scale: float, metric: Metric) -> None:
    """Where float32 products lose all their bits, distances still differ, or are all the same."""
    random = np.random.default_rng(9)
    centre = (random.standard_normal(8) * scale).astype(np.float32)
    steps = random.integers(-2, 3, (1000, 8)).astype(np.float32)
    ids = random.permutation(1000).astype(np.uint64)
    for vectors in (centre + steps * np.spacing(centre), steps * np.float32(scale)):
        Case(ids, vectors, [600], vectors[:3].copy(), None).check(3, metric)


@pytest.mark.parametrize("faint", [1e-13, 1e-18, 1e-21])
@pytest.mark.parametrize("strong", [1e2, 1e6, 1e10, 1e16])
def test_cosines_of_faint_rows(faint: float, strong: float) -> None:
    """The root may be above or below its bound, whatever the norm of either vector."""
    random = np.random.default_rng(8)
    vectors = (random.standard_normal((300, 8)) * faint).astype(np.float32)
    vectors[::7] = 0
    vectors[::5] = random.standard_normal((60, 8))
    queries = (random.standard_normal((3, 8)) * strong).astype(np.float32)
    ids = np.arange(300, dtype=np.uint64)
    for k in (5, 150, 290):
        Case(ids, vectors, [50], queries, None).check(k, "cosine")


def test_nothing_to_find() -> None:
    """No blocks, empty blocks, no queries, k = 0, no row that counts."""
    some = blocks_of(np.arange(3, dtype=np.uint64), np.eye(3, dtype=np.float32), 0, 2, 2, 3)
    query, nothing = np.ones((2, 3), np.float32), np.empty(0, np.int64)
    for metric in METRICS:
        assert nearest([], query, 3, metric).ids.shape == (2, 0)
        assert nearest(some[:1], query, 3, metric).ids.shape == (2, 0)
        assert nearest(some, query[:0], 3, metric).ids.shape == (0, 0)
        assert nearest(some, query, 0, metric).ids.shape == (2, 0)
        assert nearest(some, query, 3, metric, np.zeros(3, np.bool_)).ids.shape == (2, 0)
        assert nearest_among(some, nothing, query, 3, metric).rows.shape == (2, 0)
        assert nearest(some, query, 9, metric).rows.tolist() == [[0, 1, 2]] * 2


def test_the_tick_may_stop_a_search() -> None:
    """It is called between the parts of the work, and what it raises gets out."""
    calls = 0

    def tick() -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt

    vectors = np.ones((200, 8), np.float32)
    blocks = blocks_of(np.arange(200, dtype=np.uint64), vectors)
    with limits(tiny=True), pytest.raises(KeyboardInterrupt):
        nearest(blocks, vectors[:1], 3, "l2", tick=tick)
    with limits(tiny=True):
        nearest_among(blocks, np.arange(0, 200, 2), vectors[:1], 3, "l2", tick=tick)
    assert calls > 6
