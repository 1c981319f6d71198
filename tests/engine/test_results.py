"""Results of queries and look-ups, and their way to Arrow."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from holdfast.handles.results import QueryResult, Rows

IDS = np.array([[5, 1], [7, 5]], np.uint64)
DISTANCES = np.array([[0.0, 0.5], [0.25, 1.0]], np.float32)
METADATA = pa.table({"name": ["five", "one", "seven", "five"], "distance": [1, 2, 3, 4]})
VECTORS = np.arange(12, dtype=np.float32).reshape(2, 2, 3)


def test_a_batch_to_arrow() -> None:
    """Each hit is a row with its query; a metadata column with a taken name is told apart."""
    result = QueryResult(IDS, DISTANCES, METADATA, VECTORS)
    table = result.to_arrow()
    assert table.to_pydict() == {
        "query": [0, 0, 1, 1],
        "id": [5, 1, 7, 5],
        "distance": [0.0, 0.5, 0.25, 1.0],
        "name": ["five", "one", "seven", "five"],
        "metadata.distance": [1, 2, 3, 4],
        "vector": [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]],
    }
    assert table.schema.field("query").type == pa.uint32()
    assert table.schema.field("vector").type == pa.list_(pa.float32(), 3)
    assert len(result) == 2
    assert repr(result) == "<QueryResult 2 x 2 with name, distance, vectors of 3>"


def test_a_single_vector_to_arrow() -> None:
    """A single query is query 0, and its length is its number of hits."""
    result = QueryResult(IDS[0], DISTANCES[0])
    assert result.to_arrow().to_pydict() == {
        "query": [0, 0],
        "id": [5, 1],
        "distance": [0.0, 0.5],
    }
    assert len(result) == 2
    assert repr(result) == "<QueryResult 2>"


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 0), (0, 5)])
def test_no_hits(shape: tuple[int, ...]) -> None:
    """Nothing found is a table of no rows and all columns."""
    result = QueryResult(
        np.empty(shape, np.uint64),
        np.empty(shape, np.float32),
        METADATA.slice(0, 0),
        np.empty((*shape, 3), np.float32),
    )
    table = result.to_arrow()
    assert table.num_rows == 0
    assert table.column_names == ["query", "id", "distance", "name", "metadata.distance", "vector"]
    assert len(result) == shape[0]


def test_rows_to_arrow() -> None:
    """Rows are a table too, with what was asked for."""
    rows = Rows(IDS[0], VECTORS[0], pa.table({"vector": [1, 2]}))
    assert rows.to_arrow().to_pydict() == {
        "id": [5, 1],
        "metadata.vector": [1, 2],
        "vector": [[0, 1, 2], [3, 4, 5]],
    }
    assert len(rows) == 2
    assert repr(rows) == "<Rows 2 with vector, vectors of 3>"
    assert Rows(IDS[0]).to_arrow().column_names == ["id"]


def test_results_are_frozen() -> None:
    """A result cannot be given other arrays."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        QueryResult(IDS, DISTANCES).ids = IDS  # type: ignore[misc]  # the point of the test
