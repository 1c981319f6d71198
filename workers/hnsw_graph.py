"""The graph of an index of kind "hnsw": made of the rows by faiss, never stored.

Rows enter the graph in slices, in quiet moments; until then they are *pending*, and a search looks
at each of them. A replaced or deleted row leaves a dead vertex behind, which searches pass through
but never return; when the dead outnumber the living the graph is made anew. What the graph finds
are candidates: they are measured again, as every row of an exact search is.

faiss has no Hamming distance between floats, so such an index is searched exactly, and so is any
where faiss is not installed.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.iqdb_values import HnswParameters, Metric
from holdfast.formats.limits import INDEX_GRAPH_ROWS_MIN
from holdfast.workers import faiss_library
from holdfast.workers.index_table import IndexTable

Floats = NDArray[np.float32]
Slots = NDArray[np.int64]

_ROWS_PER_STEP = 256
_PENDING_MAX = 4096  # beyond this the exact search of what is pending would take longer than all
_DEAD = -1
_M_MAX, _EF_MAX = 512, 4096


class HnswGraph:
    """The graph of one table."""

    def __init__(self, table: IndexTable, metric: Metric, parameters: HnswParameters) -> None:
        self._table = table
        self._metric = metric
        self._parameters = parameters
        self._graph: faiss_library.GraphIndex | None = None
        self._slot_of = np.empty(0, np.int64)  # by vertex
        self._vertex_of = np.empty(0, np.int64)  # by slot
        self._vertices = 0
        self._alive = 0
        self._next = 0  # slots below this have a vertex, or are among the holes
        self._holes: set[int] = set()
        table.watchers.append(self)

    @property
    def rows(self) -> int:
        """How many rows are in the graph."""
        return self._alive

    # --- what happens to the rows ----------------------------------------------------------

    def changed(self, slots: Sequence[int]) -> None:
        if isinstance(slots, range):
            return  # new rows at the end
        for slot in slots:
            if slot < self._next:
                self._lose(slot)
                self._holes.add(slot)

    def moved(self, source: int, target: int) -> None:
        if target < self._next:
            self._lose(target)
            self._holes.discard(target)
        if source < self._next:
            self._next = source
            in_hole = source in self._holes
            self._holes.discard(source)
            if source != target:
                vertex = int(self._vertex_of[source])
                self._vertex_of[source] = _DEAD
                self._vertex_of[target] = vertex
                if vertex != _DEAD:
                    self._slot_of[vertex] = target
                if in_hole:
                    self._holes.add(target)
        elif target < self._next:
            self._holes.add(target)  # the last row had not entered yet

    def _lose(self, slot: int) -> None:
        vertex = self._vertex_of[slot]
        if vertex != _DEAD:
            self._slot_of[vertex] = _DEAD
            self._vertex_of[slot] = _DEAD
            self._alive -= 1

    # --- building --------------------------------------------------------------------------

    def step(self) -> bool:
        """Have some rows enter; False when there is nothing to do."""
        rows = len(self._table)
        if (
            self._metric == "hamming"
            or rows < INDEX_GRAPH_ROWS_MIN
            or not faiss_library.available()
        ):
            return False
        if self._graph is not None and self._vertices > max(2 * self._alive, INDEX_GRAPH_ROWS_MIN):
            self._forget()
        holes = [self._holes.pop() for _ in range(min(len(self._holes), _ROWS_PER_STEP))]
        more = range(self._next, min(rows, self._next + _ROWS_PER_STEP - len(holes)))
        slots = np.array([*holes, *more], np.int64)
        if not len(slots):
            return False
        self._next = more.stop
        self._enter(slots)
        return True

    def _enter(self, slots: Slots) -> None:
        faiss = faiss_library.library()
        if self._graph is None:
            kind = {
                "manhattan": faiss.METRIC_L1,
                "dot": faiss.METRIC_INNER_PRODUCT,
            }.get(self._metric, faiss.METRIC_L2)
            m = min(max(2, self._parameters.m), _M_MAX)
            self._graph = faiss.IndexHNSWFlat(self._table.dimension, m, kind)
            breadth = min(max(m, self._parameters.ef_construction), _EF_MAX)
            self._graph.hnsw.efConstruction = breadth
        self._graph.add(self._prepared(self._table.vectors[slots]))
        first, stop = self._vertices, self._vertices + len(slots)
        self._slot_of = _roomy(self._slot_of, stop)
        self._vertex_of = _roomy(self._vertex_of, len(self._table))
        self._slot_of[first:stop] = slots
        self._vertex_of[slots] = np.arange(first, stop)
        self._vertices = stop
        self._alive += len(slots)

    def _forget(self) -> None:
        self._graph = None
        self._slot_of[:] = _DEAD
        self._vertex_of[:] = _DEAD
        self._vertices = self._alive = self._next = 0
        self._holes.clear()

    def _prepared(self, vectors: Floats) -> Floats:
        """Vectors as the graph compares them: of length one, if only their direction counts."""
        if self._metric != "cosine":
            return np.ascontiguousarray(vectors)
        norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        return (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)

    # --- searching -------------------------------------------------------------------------

    def candidates(
        self, queries: Floats, k: int, ef: int | None, mask: "NDArray[np.bool_] | None"
    ) -> list[Slots] | None:
        """Slots (k at least) that may be among the nearest of each query; None to look at all."""
        pending = self._pending()
        if self._graph is None or not k or len(pending) > max(_PENDING_MAX, self._alive // 8):
            return None
        wanted = k
        alive = self._slot_of[: self._vertices] != _DEAD
        if mask is not None:
            pending = pending[mask[pending]]
            alive[alive] = mask[self._slot_of[: self._vertices][alive]]
            wanted *= max(1, min(self._parameters.filter_widen, 64))
        count = int(alive.sum())
        if count < max(INDEX_GRAPH_ROWS_MIN, 8 * wanted):
            return None  # few rows pass: looking at each is faster, and exact
        faiss = faiss_library.library()
        bits = np.packbits(alive, bitorder="little")
        breadth = max(wanted, min(ef or self._parameters.ef_search, count))
        among = faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))
        parameters = faiss.SearchParametersHNSW(efSearch=breadth, sel=among)
        _, found = self._graph.search(self._prepared(queries), wanted, params=parameters)
        each = []
        for vertices in found:
            here = vertices[vertices >= 0]
            if len(here) < k:
                return None
            each.append(np.concatenate([self._slot_of[here], pending]))
        return each

    def _pending(self) -> Slots:
        fresh = np.arange(self._next, len(self._table), dtype=np.int64)
        if not self._holes:
            return fresh
        return np.concatenate([np.fromiter(self._holes, np.int64, len(self._holes)), fresh])

    def check_invariants(self) -> None:
        """Assert that graph and rows agree; for tests."""
        slots = self._slot_of[: self._vertices]
        living = slots[slots != _DEAD]
        assert len(living) == self._alive
        assert sorted([*living.tolist(), *self._pending().tolist()]) == list(
            range(len(self._table))
        )


def _roomy(array: "NDArray[np.int64]", size: int) -> "NDArray[np.int64]":
    """The array with room for ``size`` numbers; what is new in it is dead."""
    if size <= len(array):
        return array
    grown = np.full(max(size, 2 * len(array)), _DEAD, np.int64)
    grown[: len(array)] = array
    return grown
