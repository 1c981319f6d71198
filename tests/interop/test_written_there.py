"""Files of the original's in our hands, and back."""

from pathlib import Path

import numpy as np
import pytest

from holdfast.formats.rvf.terms import Metric
from tests.interop.original import Original
from tests.interop.ours import (
    DIMENSION,
    Rows,
    check_ours,
    check_theirs,
    engine_in,
    put,
    random_vectors,
    remove,
)

METRICS: dict[Metric, str] = {"l2": "l2", "ip": "inner_product", "cosine": "cosine"}


@pytest.mark.parametrize("metric", METRICS)
def test_we_go_on_where_it_stopped(metric: Metric, original: Original, tmp_path: Path) -> None:
    """Plain, deleted, upserted, compacted and reopened: we read its file, write on, it reads."""
    path = tmp_path / "docs.rvf"
    rows: Rows = {}
    vectors = random_vectors(60, 1)
    with original.create(path, DIMENSION, METRICS[metric]) as there:
        there.ingest(range(50), vectors[:50])
        put(rows, range(50), vectors[:50])
        there.delete([5, 6, 7])
        remove(rows, [5, 6, 7])
        there.ingest(range(40, 50), vectors[50:])
        put(rows, range(40, 50), vectors[50:])
        check_theirs(there, rows, metric)
    with engine_in(tmp_path) as engine:
        store = engine.vectors("docs")
        assert (store.metric, store.dimension) == (metric, DIMENSION)
        check_ours(store, rows)
    with original.open(path) as there:
        there.ask("compact")
        there.ingest([100], vectors[:1])
        put(rows, [100], vectors[:1])
        there.delete([8])
        remove(rows, [8])
    with engine_in(tmp_path) as engine:
        store = engine.vectors("docs")
        check_ours(store, rows)
        store.ingest([5, 8, 9], vectors[:3], metadata={"name": ["five", "eight", "nine"]})
        put(rows, [5, 8, 9], vectors[:3])
        store.delete([10, 100])
        remove(rows, [10, 100])
        check_ours(store, rows)
    with original.open(path) as there:
        check_theirs(there, rows, metric)
    with engine_in(tmp_path) as engine:
        store = engine.vectors("docs")
        store.compact()
        check_ours(store, rows)
        assert store.metric == metric
    with original.open(path) as there:
        check_theirs(there, rows, metric)
        assert there.ask("identity")["metric"] == METRICS[metric]


def test_an_index_of_its_own_never_answers_for_rows_that_are_gone(
    original: Original, tmp_path: Path
) -> None:
    """What its index knew before we wrote does not come back, not even by its compaction."""
    path = tmp_path / "docs.rvf"
    count = 1500
    vectors = random_vectors(count + 20, 1)
    rows: Rows = {}
    with original.create(path, DIMENSION) as there:
        there.ingest(range(count), vectors[:count])
        put(rows, range(count), vectors[:count])
        there.query(vectors[0], 1)  # which builds it
        assert there.ask("index")["indexedVectors"] == count
    with original.open(path) as there:
        assert "index" in [segment["segType"] for segment in there.ask("segments")]
    with engine_in(tmp_path) as engine:
        store = engine.vectors("docs")
        check_ours(store, rows)
        store.delete([5, 6])
        remove(rows, [5, 6])
        store.ingest([7, 2000], vectors[count : count + 2][::-1])
        put(rows, [7, 2000], vectors[count : count + 2][::-1])
        check_ours(store, rows)
    with original.open(path) as there:
        check_theirs(there, rows)
        for _ in range(2):
            found = dict(there.query(vectors[5], count))
            assert found.keys() <= rows.keys()
            assert there.query(vectors[count + 1], 1)[0][0] == 7
            assert there.query(vectors[count], 1)[0][0] == 2000
            there.ask("compact")
            check_theirs(there, rows)
    with engine_in(tmp_path) as engine:
        store = engine.vectors("docs")
        check_ours(store, rows)
        store.delete([8])
        remove(rows, [8])
    with original.open(path) as there:
        assert dict(there.query(vectors[8], count)).keys() <= rows.keys()
        there.ask("compact")
    with original.open(path) as there:
        found = dict(there.query(vectors[8], count))
        assert found.keys() <= rows.keys()
        assert len(found) > 0.9 * len(rows)
        check_theirs(there, rows)


def test_what_only_it_accepts_is_read(original: Original, tmp_path: Path) -> None:
    """Of an id that comes twice in a batch the last row counts; values may be NaN or infinite."""
    vectors = random_vectors(4, 1)
    vectors[1, 0] = np.nan
    vectors[2, 0] = np.inf
    with original.create(tmp_path / "docs.rvf", DIMENSION) as there:
        assert there.ingest([1, 2, 3, 1], vectors)["accepted"] == 4
        assert there.distances(vectors[0]).keys() == {1, 2, 3}
    with engine_in(tmp_path) as engine:
        store = engine.vectors("docs")
        for _ in range(2):
            held = store.get([1, 2, 3]).vectors
            assert held is not None
            np.testing.assert_array_equal(held, vectors[[3, 1, 2]])
            assert store.query(vectors[3], 3).ids.tolist() == [1, 3, 2]
            store.compact()
            assert store.verify().problems == []


def test_a_torn_commit_of_its_own_is_cut(original: Original, tmp_path: Path) -> None:
    """Killed in the middle of a write it leaves a tail; we cut it, write on, and it reads that."""
    path = tmp_path / "docs.rvf"
    rows: Rows = {}
    vectors = random_vectors(2000, 1)
    with original.create(path, DIMENSION) as there:
        there.ingest(range(50), vectors[:50])
        put(rows, range(50), vectors[:50])
        there.ingest(range(50, 2000), vectors[50:])
    whole = path.read_bytes()
    for cut in (1, 100, 50_000):
        torn = tmp_path / f"torn{cut}.rvf"
        torn.write_bytes(whole[:-cut])
        expected = dict(rows)
        with engine_in(tmp_path) as engine:
            store = engine.vectors(torn.stem)
            assert store.status().recovered_torn_bytes > 0
            check_ours(store, expected)
            store.ingest([7], vectors[60:61])
            put(expected, [7], vectors[60:61])
            check_ours(store, expected)
        with original.open(torn) as there:
            check_theirs(there, expected)


def test_profiles_and_identity_stay_its_own(original: Original, tmp_path: Path) -> None:
    """Hardware profile, file id, and the domain that the file's extension says."""
    path = tmp_path / "notes.rvtext"
    with original.create(path, DIMENSION, "cosine", profile=2) as there:
        there.ingest([1], random_vectors(1, 1))
        identity = there.ask("identity")
    with engine_in(tmp_path) as engine:
        store = engine.vectors("notes", path=path)
        assert (store.profile, store.metric) == ("text", "cosine")
        assert store.identity().file_id == identity["fileId"]
        store.ingest([2], random_vectors(1, 2))
        store.compact()
    with original.open(path) as there:
        assert there.ask("identity") == identity
        assert there.ask("status")["profileId"] == 2
