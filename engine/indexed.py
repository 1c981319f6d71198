"""The files' vectors once more, in an index: the demonstration's example of a durable one.

Half of the rows get into a snapshot, the rest into its log; then the worker is killed. What comes
back is asked the same as the vector store that the rows are from.
"""

import os
import signal
import time
from dataclasses import dataclass

import numpy as np

from holdfast.engine import Engine
from holdfast.formats.errors import Duplicate
from holdfast.handles.index import Index
from holdfast.handles.vectors import Vectors

_NAME = "resemblance-index"
_NEIGHBOURS = 5
_QUERIES = 20


@dataclass(frozen=True, slots=True)
class Indexed:
    """What became of the index."""

    rows: int
    insert_s: float
    snapshot_bytes: int
    log_bytes: int
    """When the worker was killed."""
    recovered_s: float
    """From the kill to the first answer of the successor."""
    complete: bool
    """Every row came back, and none can be inserted a second time."""
    same: bool
    """It finds the rows that the vector store finds."""
    checkpointed: bool
    """A checkpoint took the log's rows into the snapshot."""


def make_index(engine: Engine, vectors: Vectors) -> Indexed | None:
    """Index the rows of a vector store, kill the worker, ask both; None without rows."""
    tables = [table for table in vectors.scan() if len(table)]
    if not tables:
        return None
    index = engine.index(
        _NAME, kind="hnsw", dimension=vectors.dimension, metric="cosine", compression="zstd"
    )
    began = time.perf_counter()
    rows = 0
    for table in tables:
        names = [name.encode() for name in table.column("file").to_pylist()]
        sizes = [{"size": size} for size in table.column("size").to_pylist()]
        half = len(names) // 2
        given = table.column("vector").combine_chunks()
        index.insert_batch(names[:half], given[:half], sizes[:half])
        index.save()
        index.insert_batch(names[half:], given[half:], sizes[half:])
        rows += len(names)
    inserted = time.perf_counter()
    before = index.header()
    os.kill(_worker(engine), signal.SIGKILL)
    killed = time.perf_counter()
    count = index.count()
    recovered = time.perf_counter()
    first = tables[0].column("file")[0].as_py().encode()
    refused = _is_refused(index, first, vectors.dimension)
    same = _same(index, vectors)
    index.checkpoint()
    after = index.header()
    return Indexed(
        rows,
        inserted - began,
        after.file_bytes,
        before.log_bytes,
        recovered - killed,
        count == rows and refused,
        same,
        after.count == rows and after.log_bytes < before.log_bytes,
    )


def _worker(engine: Engine) -> int:
    return next(process.pid for process in engine.processes() if process.store == _NAME)


def _is_refused(index: Index, name: bytes, dimension: int) -> bool:
    """Whether a row that came back cannot be inserted again."""
    try:
        index.insert(name, np.ones(dimension, np.float32))
    except Duplicate:
        return True
    return False


def _same(index: Index, vectors: Vectors) -> bool:
    """Whether both find the same distances for some of the rows."""
    table = next(vectors.scan())
    queries = np.stack(table.column("vector").to_pylist()[:_QUERIES]).astype(np.float32)
    mine = index.search(queries, _NEIGHBOURS, exact=True)
    theirs = vectors.query(queries, _NEIGHBOURS, exact=True)
    return bool(np.allclose(mine.distances, theirs.distances, atol=1e-6))
