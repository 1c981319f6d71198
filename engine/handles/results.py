"""What a vector store answers with: numpy arrays, with the way to Arrow."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from holdfast.formats.tables import ID, VECTOR


@dataclass(frozen=True, eq=False, repr=False)
class QueryResult:
    """The nearest rows, nearest first, equally near ones by id.

    For a batch of q queries the arrays have one row a query; for a single vector they lack that
    first dimension.
    """

    ids: NDArray[np.uint64]
    """(q, m), m being the ``k`` asked for, or fewer when fewer rows count."""
    distances: NDArray[np.float32]
    """(q, m); lower is nearer, whatever the metric."""
    metadata: pa.Table | None = None
    """If asked for: a row for each id, in the order of ``ids`` flattened."""
    vectors: NDArray[np.float32] | None = None
    """If asked for: (q, m, dimension)."""

    def __len__(self) -> int:
        """Queries of a batch; hits of a single vector."""
        return len(self.ids)

    def __repr__(self) -> str:
        return f"<QueryResult {_shape(self.ids)}{_extras(self.metadata, self.vectors)}>"

    def to_arrow(self) -> pa.Table:
        """One row a hit: ``query`` (uint32), ``id``, ``distance``, the metadata, ``vector``.

        A metadata column named like one of these is called ``metadata.<name>``.
        """
        columns = {"query": queries_of(self.ids), ID: pa.array(self.ids.reshape(-1))}
        columns["distance"] = pa.array(self.distances.reshape(-1))
        return with_rest(columns, self.metadata, self.vectors)


@dataclass(frozen=True, eq=False, repr=False)
class Rows:
    """Rows of a store, as many as ``ids`` has."""

    ids: NDArray[np.uint64]
    """(n,)"""
    vectors: NDArray[np.float32] | None = None
    """(n, dimension), unless left out."""
    metadata: pa.Table | None = None
    """A row for each id, unless left out."""

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"<Rows {_shape(self.ids)}{_extras(self.metadata, self.vectors)}>"

    def to_arrow(self) -> pa.Table:
        """One row each: ``id``, the metadata, ``vector``; names as in ``QueryResult.to_arrow``."""
        return with_rest({ID: pa.array(self.ids)}, self.metadata, self.vectors)


def _shape(ids: NDArray[np.uint64]) -> str:
    return " x ".join(map(str, ids.shape))


def _extras(metadata: pa.Table | None, vectors: NDArray[np.float32] | None) -> str:
    names = [] if metadata is None else list(metadata.schema.names)
    if vectors is not None:
        names.append(f"vectors of {vectors.shape[-1]}")
    return f" with {', '.join(names)}" if names else ""


def queries_of(ids: NDArray[Any]) -> pa.Array:
    """Number of the query of each hit, of ids (m,) or (q, m)."""
    hits = ids.shape[-1]
    queries = ids.size // hits if hits else 0
    return pa.array(np.repeat(np.arange(queries, dtype=np.uint32), hits))


def with_rest(
    columns: dict[str, pa.Array], metadata: pa.Table | None, vectors: NDArray[np.float32] | None
) -> pa.Table:
    """A table of these columns, the metadata and the vectors."""
    taken = {*columns, VECTOR}
    if metadata is not None:
        for name, column in zip(metadata.schema.names, metadata.columns, strict=True):
            free = name
            while free in taken:
                free = f"metadata.{free}"
            taken.add(free)
            columns[free] = column
    if vectors is not None:
        flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
        columns[VECTOR] = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[-1])
    return pa.table(columns)
