"""What a search of an index gives back, as arrays and as an Arrow table."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import holdfast
from holdfast import PersistedIndex

ROWS = np.array([[0, 0], [1, 0], [3, 0]], np.float32)


@pytest.fixture
def index(tmp_path: Path) -> PersistedIndex:
    """Three rows with metadata, which is a little different in each."""
    index = PersistedIndex.open(tmp_path / "i.iqdb", dimension=2, metric="euclidean")
    index.insert_batch([5, 6, 7], ROWS, [{"n": 1, "id": "x"}, None, {"n": 3}])
    return index


def test_metadata_lies_where_it_is_documented(index: PersistedIndex) -> None:
    """That of the id at [a, b] of a batch is at ``a * m + b``."""
    hits = index.search(ROWS[::-1], 2, metadata=True)
    assert hits.metadata is not None
    for a, ids in enumerate(hits.ids.tolist()):
        for b, id_ in enumerate(ids):
            (row,) = index.get([id_])
            assert hits.metadata[a * hits.ids.shape[1] + b] == row.metadata


def test_a_batch_as_a_table(index: PersistedIndex) -> None:
    """One row a hit, with the query's number, and fields beside columns of the same name."""
    table = index.search(ROWS[:2], 2, metadata=True).to_arrow()
    assert table.schema.names == ["query", "id", "distance", "metadata.id", "n"]
    assert table.schema.field("query").type == pa.uint32()
    assert table.schema.field("id").type == pa.uint64()
    assert table.to_pydict() == {
        "query": [0, 0, 1, 1],
        "id": [5, 6, 6, 5],
        "distance": [0, 1, 0, 1],
        "n": [1, None, None, 1],
        "metadata.id": ["x", None, None, "x"],
    }


def test_ids_of_bytes_have_a_column_of_their_own(index: PersistedIndex) -> None:
    """It is there where some are bytes only; each row has its id in one of the two."""
    index.insert(b"key", [1, 0.5])
    table = index.search([1, 0], 3).to_arrow()
    assert table.schema.names == ["query", "id", "id_bytes", "distance"]
    assert table["id"].to_pylist() == [6, None, 5]
    assert table["id_bytes"].to_pylist() == [None, b"key", None]


def test_nothing_found_is_a_table_without_rows(index: PersistedIndex) -> None:
    """Of one query or of many, with metadata or without."""
    for queries in (ROWS[0], ROWS):
        for metadata in (False, True):
            hits = index.search(queries, 2, where=pc.field("n") == 9, metadata=metadata)
            assert hits.to_arrow().num_rows == 0
            assert hits.to_arrow().schema.names == ["query", "id", "distance"]


def test_a_field_of_several_types_is_no_column(index: PersistedIndex) -> None:
    """Metadata that a table cannot have is a typed error that names the field."""
    index.upsert(6, ROWS[1], {"n": "text"})
    hits = index.search(ROWS[0], 3, metadata=True)
    with pytest.raises(holdfast.InvalidArgument, match="'n'"):
        hits.to_arrow()


def test_all_kinds_of_store_refuse_the_same_ids_and_take_the_same_metadata(tmp_path: Path) -> None:
    """An id beyond its range is ``LimitExceeded``; ``None`` is a row without metadata."""
    with holdfast.open(tmp_path) as engine:
        vectors = engine.vectors("v", dimension=2)
        index = engine.index("i", dimension=2)
        warm = engine.warm("w", dimension=2)
        for id_ in (-1, 1 << 64):
            with pytest.raises(holdfast.LimitExceeded):
                vectors.ingest([id_], ROWS[:1])
            with pytest.raises(holdfast.LimitExceeded):
                warm.write(id_, 0, [1], ROWS[:1])
            for write in (index.insert, index.upsert):
                with pytest.raises(holdfast.LimitExceeded):
                    write(id_, ROWS[0])
            for ids in ([id_], [b"key", id_]):
                with pytest.raises(holdfast.LimitExceeded):
                    index.insert_batch(ids, ROWS[: len(ids)])
                with pytest.raises(holdfast.LimitExceeded):
                    index.get(ids)
        vectors.ingest([1], ROWS[:1], [None])
        index.insert_batch([1], ROWS[:1], [None])
        warm.write(1, 0, [1], ROWS[:1], [None])
        assert vectors.count() == index.count() == warm.count() == 1
