"""The approximate index against a brute-force answer: it may miss a row, and nothing else."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from numpy.typing import NDArray

from holdfast.formats import ann_cache
from holdfast.formats.errors import InvalidArgument, InvalidFormat
from holdfast.workers import ann, search
from holdfast.workers.ann import ROWS_MIN, AnnIndex
from holdfast.workers.search import Metric, Rows

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]
Booleans = NDArray[np.bool_]

METRICS: tuple[Metric, ...] = ("l2", "ip", "cosine")
DIMENSION = 24
FILE_ID, FINGERPRINT = b"f" * 16, b"p" * 32


@pytest.fixture(scope="module", autouse=True)
def _faiss() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of its own bindings when it is imported
        pytest.importorskip("faiss", reason="approximate search needs the extra holdfast[ann]")


def _draw(rng: np.random.Generator, rows: int, dimension: int = DIMENSION) -> Floats:
    """Rows of about fifty overlapping clusters."""
    centers = np.random.default_rng(7).standard_normal((50, dimension))
    vectors = centers[rng.integers(0, 50, rows)] + 0.5 * rng.standard_normal((rows, dimension))
    return vectors.astype(np.float32)


def _blocks(vectors: Floats, step: int = 500) -> list[Rows]:
    """Blocks as of a mapped file, whose rows are further apart than they are long."""
    blocks = []
    for start in range(0, len(vectors), step):
        part = vectors[start : start + step]
        spaced = np.zeros((len(part), part.shape[1] + 2), np.float32)[:, 2:]
        spaced[:] = part
        ids = np.arange(start, start + len(part), dtype=np.uint64)
        blocks.append(Rows(start, ids, spaced, search.squared_norms(part)))
    return blocks


def _build(vectors: Floats, metric: Metric = "l2", live: Booleans | None = None) -> AnnIndex:
    built = AnnIndex.build(
        _blocks(vectors),
        np.ones(len(vectors), np.bool_) if live is None else live,
        metric,
        progress=lambda *_: None,
        cancelled=lambda: False,
    )
    assert built is not None
    return built


def _recall(
    index: AnnIndex,
    vectors: Floats,
    queries: Floats,
    metric: Metric,
    mask: Booleans | None = None,
    k: int = 10,
) -> float:
    """Share of the k nearest that are candidates; what else must hold of them is asserted."""
    packed = None if mask is None else np.packbits(mask, bitorder="little")
    found = index.search(queries, k, allowed=packed, allowed_count=0 if mask is None else len(mask))
    assert found.shape[0] == len(queries)
    rows = np.arange(len(vectors)) if mask is None else np.flatnonzero(mask)
    hits = 0
    for query, candidates in zip(queries, found, strict=True):
        candidates = candidates[candidates >= 0]
        assert len(set(candidates.tolist())) == len(candidates)
        assert np.isin(candidates, rows).all()
        farthest = np.sort(search.distances(vectors[rows], query, metric))[k - 1]
        near = search.distances(vectors[candidates], query, metric) <= farthest
        hits += min(k, int(np.count_nonzero(near)))
    return hits / (k * len(queries))


@pytest.fixture(scope="module")
def vectors() -> Floats:
    return _draw(np.random.default_rng(1), 4000)


@pytest.fixture(scope="module")
def queries() -> Floats:
    return _draw(np.random.default_rng(2), 60)


@pytest.fixture(scope="module", params=METRICS)
def metric(request: pytest.FixtureRequest) -> Metric:
    return next(metric for metric in METRICS if metric == request.param)


@pytest.fixture(scope="module")
def index(vectors: Floats, metric: Metric) -> AnnIndex:
    """Not to be added to."""
    return _build(vectors, metric)


def test_recall(index: AnnIndex, vectors: Floats, queries: Floats, metric: Metric) -> None:
    """Queries not seen find their nearest, for one result and for many."""
    assert index.rows == len(vectors) == index.trained_rows
    assert 1 <= index.breadth <= index.lists
    assert index.measured_recall >= 0.95
    for k in (1, 10, 100):
        assert _recall(index, vectors, queries, metric, k=k) >= 0.93, k
    blocks, live = _blocks(vectors), np.ones(len(vectors), np.bool_)
    assert index.recall(blocks, live) >= 0.93


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.999])
def test_filtered(
    index: AnnIndex, vectors: Floats, queries: Floats, metric: Metric, share: float
) -> None:
    """Rows that may not be given are not, and the nearest of the others are found."""
    mask = np.random.default_rng(3).random(len(vectors)) < share
    assert _recall(index, vectors, queries, metric, mask) >= 0.93


def test_a_filter_that_passes_only_what_is_far_off(vectors: Floats) -> None:
    """Where nothing near a query passes, the index looks on."""
    rng = np.random.default_rng(4)
    centers = 4 * rng.standard_normal((40, DIMENSION))
    home = rng.integers(0, 40, 4000)
    rows = (centers[home] + 0.3 * rng.standard_normal((4000, DIMENSION))).astype(np.float32)
    queries = (centers[:20] + 0.3 * rng.standard_normal((20, DIMENSION))).astype(np.float32)
    index = _build(rows)
    assert index.breadth < index.lists / 4
    assert _recall(index, rows, queries, "l2", home >= 20) >= 0.9
    nothing = np.zeros(len(rows), np.bool_)
    packed = np.packbits(nothing, bitorder="little")
    assert (index.search(queries, 3, allowed=packed, allowed_count=len(rows)) == -1).all()


def test_one_query_is_as_good_as_many(index: AnnIndex, queries: Floats) -> None:
    """A batch answers each of its queries as if it were alone."""
    together = index.search(queries, 10)
    for query, found in zip(queries, together, strict=True):
        alone = index.search(query[None], 10)[0]
        assert len(np.intersect1d(alone, found[found >= 0])) >= 0.95 * len(alone)


def test_breadth(index: AnnIndex, vectors: Floats, queries: Floats) -> None:
    """More lists find more; any breadth is served."""
    for breadth in (1, 5, index.lists, 10**6, 0):
        found = index.search(queries, 10, breadth=breadth)
        assert found.shape[1] >= 10
        assert ((found >= -1) & (found < len(vectors))).all()
    one, all_ = (
        np.count_nonzero(index.search(queries, 500, breadth=breadth) >= 0)
        for breadth in (1, index.lists)
    )
    assert one < all_


def test_more_results_than_rows(vectors: Floats) -> None:
    """All rows there are, then -1."""
    index = _build(vectors[:ROWS_MIN])
    found = index.search(vectors[:2], 5000)
    assert sorted(found[0][found[0] >= 0].tolist()) == list(range(ROWS_MIN))


def test_rows_added_later(vectors: Floats, queries: Floats, metric: Metric) -> None:
    """They are found like the others, however they arrive."""
    index = _build(vectors[:2000], metric)
    index.add(2000, vectors[2000:3500])
    for row in range(3500, 3550):
        index.add(row, vectors[row : row + 1])
    index.add(3550, vectors[3550:])
    assert index.rows == len(vectors)
    assert _recall(index, vectors, queries, metric) >= 0.9


def test_dead_rows(vectors: Floats, queries: Floats) -> None:
    """Dead before it was built, they are not there; dead later, they are masked."""
    rng = np.random.default_rng(5)
    live = rng.random(len(vectors)) < 0.7
    index = _build(vectors, live=live)
    assert index.trained_rows == np.count_nonzero(live)
    found = index.search(queries, 10)
    assert live[found[found >= 0]].all()
    live &= rng.random(len(vectors)) < 0.5
    assert _recall(index, vectors, queries, "l2", live) >= 0.93
    assert index.recall(_blocks(vectors), live) >= 0.93
    assert index.recall(_blocks(vectors), np.zeros(len(vectors), np.bool_)) == 1.0


def test_rows_outside(vectors: Floats, queries: Floats, metric: Metric) -> None:
    """Rows that cannot be coded are candidates of every query, if they are allowed."""
    rows = vectors.copy()
    strange: dict[int, float] = {5: np.nan, 900: np.inf, 901: -np.inf, 3999: 3e38}
    for row, value in strange.items():
        rows[row, 3] = value
    index = _build(rows, metric)
    assert index.outside.tolist()[:3] == [5, 900, 901]
    index.add(4000, np.full((2, DIMENSION), np.nan, np.float32))
    assert {5, 900, 901, 4000, 4001} <= set(index.outside.tolist())
    if metric != "cosine":  # whose rows are as long as each other
        assert 3999 in index.outside
    for found in index.search(queries, 10):
        assert {5, 900, 901} <= set(found.tolist())
    mask = np.ones(4002, np.bool_)
    mask[[5, 4001]] = False
    packed = np.packbits(mask, bitorder="little")
    for found in index.search(queries, 10, allowed=packed, allowed_count=4002):
        assert not {5, 4001} & set(found.tolist())
        assert {900, 901, 4000} <= set(found.tolist())


def test_zero_vectors(metric: Metric) -> None:
    """Rows and queries of zeros are answered like any other."""
    rng = np.random.default_rng(6)
    rows = _draw(rng, 2000)
    rows[::50] = 0
    index = _build(rows, metric)
    assert not len(index.outside)
    queries = _draw(rng, 40)
    assert _recall(index, rows, queries, metric) >= 0.9
    assert len(index.search(np.zeros((1, DIMENSION), np.float32), 10)[0]) >= 10
    same = _build(np.zeros((300, DIMENSION), np.float32), metric)
    assert np.count_nonzero(same.search(queries[:1], 10) >= 0) >= 10


@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1e12, 1e17])
def test_scale_does_not_matter(
    vectors: Floats, queries: Floats, metric: Metric, scale: float
) -> None:
    """Neither tiny nor large numbers are lost."""
    factor = np.float32(scale)
    index = _build(vectors * factor, metric)
    assert not len(index.outside)
    found = index.search(queries * factor, 10)
    usual = _build(vectors, metric).search(queries, 10)
    hits = 0
    for query, rows, candidates in zip(queries, usual, found, strict=True):
        near = rows[np.argsort(search.distances(vectors[rows], query, metric))[:10]]
        hits += int(np.count_nonzero(np.isin(near, candidates)))
    assert hits >= 0.95 * 10 * len(queries)


def test_queries_that_are_not_finite(index: AnnIndex, queries: Floats) -> None:
    """They have no candidates, and do not disturb the others."""
    mixed = queries[:4].copy()
    mixed[1, 0], mixed[2, 5] = np.nan, np.inf
    found = index.search(mixed, 10)
    assert (found[1:3] == -1).all()
    assert (np.count_nonzero(found[[0, 3]] >= 0, axis=1) >= 10).all()


@pytest.mark.parametrize("dimension", [1, 2, 3, 33, 300])
def test_dimensions(metric: Metric, dimension: int) -> None:
    """Any dimension is served."""
    rng = np.random.default_rng(8)
    rows = rng.standard_normal((1000, dimension)).astype(np.float32)
    queries = rng.standard_normal((30, dimension)).astype(np.float32)
    index = _build(rows, metric)
    assert _recall(index, rows, queries, metric) >= 0.85
    cache = index.to_cache(FILE_ID, FINGERPRINT)
    again = AnnIndex.from_cache(ann_cache.decode(ann_cache.encode(cache)), _blocks(rows))
    np.testing.assert_array_equal(again.search(queries, 10), index.search(queries, 10))


def test_small_blocks_are_put_together(vectors: Floats, queries: Floats) -> None:
    """How rows are cut into blocks does not matter."""
    live = np.ones(1000, np.bool_)
    one, other = (
        AnnIndex.build(
            _blocks(vectors[:1000], step), live, "l2",
            progress=lambda *_: None, cancelled=lambda: False,
        )
        for step in (1, 1000)
    )  # fmt: skip
    assert one is not None
    assert other is not None
    np.testing.assert_array_equal(one.search(queries, 10), other.search(queries, 10))


def test_too_few_rows(vectors: Floats) -> None:
    """An index needs rows to learn from."""
    live = np.zeros(len(vectors), np.bool_)
    live[: ROWS_MIN - 1] = True
    with pytest.raises(InvalidArgument, match=f"{ROWS_MIN - 1} rows are too few"):
        _build(vectors, live=live)
    live[ROWS_MIN] = True
    assert _build(vectors, live=live).trained_rows == ROWS_MIN


def test_progress_and_cancel(vectors: Floats) -> None:
    """Every stage is told of, and can be cancelled where it is told of."""
    heard: list[str] = []

    def build(stop_at: int | None) -> AnnIndex | None:
        heard.clear()

        def progress(stage: str, done: int, total: int) -> None:
            assert 0 <= done <= total
            heard.append(stage)

        return AnnIndex.build(
            _blocks(vectors), np.ones(len(vectors), np.bool_), "l2",
            progress=progress, cancelled=lambda: len(heard) == stop_at,
        )  # fmt: skip

    assert build(None) is not None
    stages = list(heard)
    assert list(dict.fromkeys(stages)) == ["train", "add", "measure"]
    for stop_at in range(len(stages)):
        assert build(stop_at) is None
        assert heard == stages[:stop_at]


def test_kept_and_taken_back(vectors: Floats, queries: Floats, metric: Metric) -> None:
    """An index from its cache answers as before, and goes on taking in rows."""
    rows = vectors.copy()
    rows[17] = np.nan
    live = np.ones(len(rows), np.bool_)
    live[100:200] = False
    index = _build(rows[:3000], metric, live[:3000])
    index.add(3000, rows[3000:3501])
    data = ann_cache.encode(index.to_cache(FILE_ID, FINGERPRINT))
    cache = ann_cache.decode(data)
    assert (cache.file_id, cache.fingerprint, cache.rows) == (FILE_ID, FINGERPRINT, 3501)
    assert cache.homes[17] == ann_cache.OUTSIDE
    assert (cache.homes[100:200] == ann_cache.ABSENT).all()
    again = AnnIndex.from_cache(cache, _blocks(rows))
    assert (again.rows, again.lists, again.breadth) == (3501, index.lists, index.breadth)
    assert again.outside.tolist() == [17]
    assert again.trained_rows == index.trained_rows
    assert ann_cache.encode(again.to_cache(FILE_ID, FINGERPRINT)) == data
    for both in (index, again):
        both.add(3501, rows[3501:])
    for breadth in (None, 1, index.lists):
        np.testing.assert_array_equal(
            again.search(queries, 10, breadth=breadth), index.search(queries, 10, breadth=breadth)
        )
    assert ann_cache.encode(again.to_cache(FILE_ID, FINGERPRINT)) == ann_cache.encode(
        index.to_cache(FILE_ID, FINGERPRINT)
    )


def test_a_cache_that_does_not_fit(
    vectors: Floats, monkeypatch: pytest.MonkeyPatch, index: AnnIndex
) -> None:
    """Of another dimension, or packed by another faiss, it is refused."""
    from holdfast.workers import faiss_library

    cache = index.to_cache(FILE_ID, FINGERPRINT)
    with pytest.raises(InvalidFormat, match="of dimension 24"):
        AnnIndex.from_cache(cache, _blocks(vectors[:, :23]))
    monkeypatch.setattr(faiss_library.library(), "__version__", "0.0.1")
    with pytest.raises(InvalidFormat, match="packed as"):
        AnnIndex.from_cache(cache, _blocks(vectors))


def test_available_without_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so where faiss cannot be found, and is not loaded before it is needed."""
    assert ann.available()
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert not ann.available()
    code = "import sys, holdfast.workers.ann as a; a.available(); assert 'faiss' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
