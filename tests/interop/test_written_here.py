"""Files of ours in the hands of the original, and back."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from holdfast.formats.rvf.scan import walk
from holdfast.formats.rvf.segment import HEADER_BYTES
from holdfast.formats.rvf.terms import Metric
from holdfast.handles.vectors import Vectors
from tests.interop.original import Original
from tests.interop.ours import (
    DIMENSION,
    Rows,
    check_ours,
    check_theirs,
    engine_in,
    metadata_of,
    put,
    random_vectors,
    remove,
)

# --- what is written here ----------------------------------------------------------------------


def _plain(store: Vectors) -> Rows:
    rows: Rows = {}
    vectors = random_vectors(100, 1)
    store.ingest(range(100), vectors)
    put(rows, range(100), vectors)
    return rows


def _empty(store: Vectors) -> Rows:
    return {}


def _deleted(store: Vectors) -> Rows:
    rows = _plain(store)
    store.delete(range(10, 30))
    remove(rows, range(10, 30))
    return rows


def _upserted(store: Vectors) -> Rows:
    """Live ids and deleted ids are given other rows."""
    rows = _deleted(store)
    vectors = random_vectors(30, 2)
    store.ingest(range(20, 50), vectors)
    put(rows, range(20, 50), vectors)
    return rows


def _compacted(store: Vectors) -> Rows:
    rows = _upserted(store)
    store.compact()
    return rows


def _compacted_and_more(store: Vectors) -> Rows:
    rows = _compacted(store)
    vectors = random_vectors(20, 3)
    store.ingest(range(90, 110), vectors)
    put(rows, range(90, 110), vectors)
    store.delete([0, 100])
    remove(rows, [0, 100])
    return rows


def _extreme_ids(store: Vectors) -> Rows:
    """As large as Node's numbers are exact."""
    rows = _plain(store)
    ids = [(1 << 32) - 1, 1 << 32, (1 << 53) - 1]
    vectors = random_vectors(3, 4)
    store.ingest(ids, vectors)
    put(rows, ids, vectors)
    return rows


def _with_metadata(store: Vectors) -> Rows:
    rows: Rows = {}
    vectors = random_vectors(100, 1)
    store.ingest(range(100), vectors, metadata=[_metadata(number) for number in range(100)])
    put(rows, range(100), vectors)
    store.delete([3, 4])
    remove(rows, [3, 4])
    return rows


def _metadata(number: int) -> dict[str, object]:
    return {
        "number": number,
        "share": number / 7,
        "name": None if number % 5 == 0 else f"row {number}",
        "even": number % 2 == 0,
        "raw": bytes([number]),
    }


def _many_commits(store: Vectors) -> Rows:
    """2,000 commits of one row."""
    rows: Rows = {}
    vectors = random_vectors(2000, 5)
    for number in range(2000):
        store.ingest([number], vectors[number : number + 1])
    put(rows, range(2000), vectors)
    return rows


def _many_deletes(store: Vectors) -> Rows:
    """9,000 deletes, all by themselves more than the original's source tree can read."""
    rows: Rows = {}
    vectors = random_vectors(10_000, 6)
    store.ingest(range(10_000), vectors)
    put(rows, range(10_000), vectors)
    store.delete(range(0, 8000))
    for start in range(8000, 9000, 100):
        store.delete(range(start, start + 100))
    remove(rows, range(9000))
    return rows


SCENARIOS: list[Callable[[Vectors], Rows]] = [
    _plain,
    _empty,
    _deleted,
    _upserted,
    _compacted,
    _compacted_and_more,
    _extreme_ids,
    _with_metadata,
    _many_commits,
    _many_deletes,
]


# --- back and forth ----------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__[1:])
def test_both_sides_read_and_write_in_turn(
    scenario: Callable[[Vectors], Rows], original: Original, tmp_path: Path
) -> None:
    """Whatever we wrote, it reads, adds to, deletes from and compacts, and so do we after it."""
    with engine_in(tmp_path) as engine:
        store = engine.vectors("docs", dimension=DIMENSION)
        rows = scenario(store)
        check_ours(store, rows)
        live = sorted(rows)
        before = metadata_of(store)
        epoch = store.status().epoch
    path = tmp_path / "docs.rvf"

    there = original.open(path)
    check_theirs(there, rows)
    status = there.ask("status")
    assert (status["totalVectors"], status["currentEpoch"]) == (len(rows), epoch)
    vectors = random_vectors(20, 7)
    new = range(1_000_000, 1_000_010)
    theirs = [*new, *live[-10:]]
    vectors = vectors[: len(theirs)]
    there.ingest(theirs, vectors)
    put(rows, theirs, vectors)
    gone = live[40:50]
    assert there.delete(gone) == len(gone)
    remove(rows, gone)
    check_theirs(there, rows)
    there.close()

    with engine_in(tmp_path) as engine:
        check_ours(engine.vectors("docs"), rows)

    there = original.open(path)
    there.ask("compact")
    check_theirs(there, rows)
    there.ingest([77], random_vectors(1, 8))
    put(rows, [77], random_vectors(1, 8))
    check_theirs(there, rows)
    there.close()

    with engine_in(tmp_path) as engine:
        store = engine.vectors("docs")
        check_ours(store, rows)
        for number, row in metadata_of(store).items():
            assert row == before.get(number, dict.fromkeys(row))
        more = random_vectors(15, 9)
        ids = [*range(5, 15), *range(2_000_000, 2_000_005)]
        store.ingest(ids, more)
        put(rows, ids, more)
        store.delete([1_000_001, 2_000_000])
        remove(rows, [1_000_001, 2_000_000])
        check_ours(store, rows)

    there = original.open(path, read_only=True)
    check_theirs(there, rows)
    there.close()

    with engine_in(tmp_path) as engine:
        store = engine.vectors("docs")
        store.compact()
        check_ours(store, rows)
        there = original.open(path, read_only=True)
        check_theirs(there, rows)
        there.close()


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("dimension", [2, 5, 384])
def test_metric_and_dimension_survive_both_sides(
    metric: Metric, dimension: int, original: Original, tmp_path: Path
) -> None:
    """It measures with our metric, and after its compaction the metric is still there."""
    rows: Rows = {}
    vectors = random_vectors(50, 1, dimension)
    with engine_in(tmp_path) as engine:
        store = engine.vectors("docs", dimension=dimension, metric=metric, profile="text")
        store.ingest(range(50), vectors)
        put(rows, range(50), vectors)
        check_ours(store, rows)
    with original.open(tmp_path / "docs.rvf") as there:
        name = {"ip": "inner_product"}.get(metric, metric)
        assert there.ask("identity")["metric"] == name
        check_theirs(there, rows, metric)
        there.delete([1])
        remove(rows, [1])
        there.ask("compact")
        check_theirs(there, rows, metric)
    with engine_in(tmp_path) as engine:
        store = engine.vectors("docs")
        assert (store.metric, store.dimension, store.profile) == (metric, dimension, "text")
        check_ours(store, rows)


def test_its_rows_can_be_given_metadata(original: Original, tmp_path: Path) -> None:
    """Rows that it added have no metadata until we ingest them again with some."""
    with engine_in(tmp_path) as engine:
        store = engine.vectors("docs", dimension=DIMENSION)
        store.ingest([1], random_vectors(1, 1), metadata={"name": ["one"]})
    with original.open(tmp_path / "docs.rvf") as there:
        there.ingest([2, 3], random_vectors(2, 2))
    with engine_in(tmp_path) as engine:
        store = engine.vectors("docs")
        assert metadata_of(store) == {1: {"name": "one"}, 2: {"name": None}, 3: {"name": None}}
        store.ingest([3], random_vectors(1, 3), metadata={"name": ["three"]})
        assert metadata_of(store)[3] == {"name": "three"}
    with original.open(tmp_path / "docs.rvf") as there:
        there.ask("compact")
    with engine_in(tmp_path) as engine:
        store = engine.vectors("docs")
        assert metadata_of(store) == {1: {"name": "one"}, 2: {"name": None}, 3: {"name": "three"}}


def test_it_cannot_revive_what_was_deleted(original: Original, tmp_path: Path) -> None:
    """A row that it takes for a deleted id stays invisible on both sides, as it always did."""
    with engine_in(tmp_path) as engine:
        store = engine.vectors("docs", dimension=DIMENSION)
        rows = _deleted(store)
    vectors = random_vectors(1, 2)
    with original.open(tmp_path / "docs.rvf") as there:
        assert there.ingest([10], vectors)["accepted"] == 1
        check_theirs(there, rows)
    with engine_in(tmp_path) as engine:
        store = engine.vectors("docs")
        check_ours(store, rows)
        store.ingest([10], vectors)
        put(rows, [10], vectors)
        check_ours(store, rows)
    with original.open(tmp_path / "docs.rvf") as there:
        check_theirs(there, rows)


def test_large_and_padded_segments_are_read(original: Original, tmp_path: Path) -> None:
    """Zeros in front of VEC segments, and segments that we search in place, do not disturb it."""
    rows: Rows = {}
    with engine_in(tmp_path) as engine:
        store = engine.vectors("docs", dimension=384)
        for batch, count in enumerate([1, 7, 3000, 2]):  # 3,000 rows are 4.6 MB
            vectors = random_vectors(count, batch, 384)
            ids = range(batch * 10_000, batch * 10_000 + count)
            store.ingest(ids, vectors)
            put(rows, ids, vectors)
        vec = [segment.offset for segment in store.segments() if segment.name == "vec"]
        check_ours(store, rows)
    path = tmp_path / "docs.rvf"
    data = memoryview(path.read_bytes())
    ends = [offset + HEADER_BYTES + header.payload_bytes for offset, header in walk(data)]
    assert not set(vec) <= {0, *ends}, "no segment is padded"
    with original.open(path) as there:
        check_theirs(there, rows)
        there.ask("compact")
        check_theirs(there, rows)
    with engine_in(tmp_path) as engine:
        check_ours(engine.vectors("docs"), rows)


def test_short_vectors_are_as_far_as_the_formula_says(original: Original, tmp_path: Path) -> None:
    """Below a length the cosine is taken for zero; both sides draw the line at the same place."""
    vectors = random_vectors(12, 1)
    vectors[0] = 0
    vectors[1:11] *= np.logspace(-1, -10, 10, dtype=np.float32)[:, None]
    with engine_in(tmp_path) as engine:
        store = engine.vectors("docs", dimension=DIMENSION, metric="cosine")
        store.ingest(range(12), vectors)
        with original.open(tmp_path / "docs.rvf", read_only=True) as there:
            for probe in vectors:
                mine = store.query(probe, 12)
                theirs = there.distances(probe)
                expected = [theirs[number] for number in mine.ids.tolist()]
                np.testing.assert_allclose(mine.distances, expected, rtol=1e-5, atol=2e-6)
                assert 1.0 in expected


def test_a_torn_commit_of_ours_is_gone_for_both(original: Original, tmp_path: Path) -> None:
    """It falls back to the commit before, and builds behind what is torn; we read that, too."""
    path = tmp_path / "docs.rvf"
    with engine_in(tmp_path) as engine:
        store = engine.vectors("docs", dimension=DIMENSION)
        rows = _plain(store)
        store.delete([1])
        remove(rows, [1])
        store.ingest([200], random_vectors(1, 2))
    whole = path.read_bytes()
    for cut in (1, 150, 400):
        torn = tmp_path / f"torn{cut}.rvf"
        torn.write_bytes(whole[:-cut])
        expected = dict(rows)
        with original.open(torn) as there:
            check_theirs(there, expected)
            there.ingest([300], random_vectors(1, 3))
            put(expected, [300], random_vectors(1, 3))
            check_theirs(there, expected)
        with engine_in(tmp_path) as engine:
            store = engine.vectors(torn.stem)
            held = store.get(sorted(expected))
            assert held.ids.tolist() == sorted(expected)
            store.ingest([301], random_vectors(1, 4))
            put(expected, [301], random_vectors(1, 4))
            store.compact()
            check_ours(store, expected)
        with original.open(torn) as there:
            check_theirs(there, expected)
