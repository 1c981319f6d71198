"""Which libraries and stores searching vectors is measured against, and how each is made."""

from functools import partial

from holdfast.bench.measure import version_of
from holdfast.bench.peers import nearest, vector_stores
from holdfast.bench.peers.kinds import Kind
from holdfast.bench.peers.vector_stores import Store, filled

Kinds = dict[str, Kind[nearest.Peer]]

LIMITS: Kinds = {
    "numpy": Kind((), nearest.Numpy),
    "faiss": Kind(("faiss-cpu",), nearest.FaissFlat),
}
"""What exact search is a multiple of."""
EXACT: Kinds = {
    "usearch": Kind(("usearch",), nearest.UsearchExact),
    "sqlite-vec": Kind(
        ("sqlite-vec", "apsw"), filled(partial(vector_stores.SqliteVec, synced=False))
    ),
    "DuckDB": Kind(("duckdb",), filled(vector_stores.DuckDb)),
    "LanceDB": Kind(("lancedb",), filled(vector_stores.LanceDb)),
}
LIBRARY: Kinds = {"faiss IVF-PQ": Kind(("faiss-cpu",), nearest.Library)}
"""What approximate search is a multiple of."""
APPROXIMATE: Kinds = {
    "faiss HNSW": Kind(("faiss-cpu",), nearest.FaissGraph),
    "faiss IVF-Flat": Kind(("faiss-cpu",), nearest.FaissLists),
    "hnswlib": Kind(("hnswlib",), nearest.HnswlibGraph),
    "usearch HNSW": Kind(("usearch",), nearest.UsearchGraph),
    "LanceDB IVF-Flat": Kind(("lancedb",), filled(vector_stores.LanceDbLists)),
    "Chroma HNSW": Kind(("chromadb",), filled(vector_stores.Chroma)),
}
SYNCED: dict[str, Kind[Store]] = {
    "sqlite-vec": Kind(("sqlite-vec", "apsw"), partial(vector_stores.SqliteVec, synced=True)),
    "DuckDB": Kind(("duckdb",), vector_stores.DuckDb),
    "Chroma": Kind(("chromadb",), vector_stores.Chroma),
}
"""Stores that sync every batch, made in a directory, with a dimension."""
UNSYNCED: dict[str, Kind[Store]] = {
    "sqlite-vec": Kind(("sqlite-vec", "apsw"), partial(vector_stores.SqliteVec, synced=False)),
    "LanceDB": Kind(("lancedb",), vector_stores.LanceDb),
}
"""Stores that never sync by order, made likewise."""


def has_faiss() -> bool:
    """Whether faiss is there, without which nothing here is approximate."""
    return version_of("faiss-cpu") is not None
