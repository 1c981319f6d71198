"""The built-in index: rows in memory, searched exactly or through a graph.

It is a ``Persistable`` like any other, with more behind it: whole batches, filters, slices of a
snapshot while it changes. Its payload is that of the index family's own files, whatever the kind of
index; a file of kind IVF keeps its parameters and is searched exactly.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from holdfast.formats import iqdb_core
from holdfast.formats.iqdb_core import CoreHeader
from holdfast.formats.iqdb_values import (
    Buffer,
    FlatParameters,
    Flaw,
    HnswParameters,
    Id,
    IndexFlaw,
    IvfParameters,
    Metric,
    Parameters,
    Value,
    decode_metadata,
    encode_metadata,
)
from holdfast.workers.hnsw_graph import HnswGraph
from holdfast.workers.index_filter import Fields
from holdfast.workers.index_listing import Listing
from holdfast.workers.index_search import ExactSearch, Nearest
from holdfast.workers.index_table import IndexTable
from holdfast.workers.persistable import Hit, Reader, Writer

Floats = NDArray[np.float32]

_CHUNK_BYTES = 1 << 18
_SPARE_SHARE_MAX = 0.1  # of a payload, ids and metadata, that may stay with its vectors


class Found(NamedTuple):
    """For each of q queries, ids and distances (q, m), nearest first, and the rows' metadata."""

    ids: list[list[Id]]
    distances: Floats
    metadata: list[list[bytes | None]] | None
    """None if the index does not give any back."""
    approximate: bool


def _no_tick() -> None:
    pass


class CoreIndex:
    """Rows of ids, vectors and metadata. See ``holdfast.workers.persistable``."""

    INDEX_TYPE: ClassVar[str] = iqdb_core.INDEX_TYPE

    def __init__(
        self,
        dimension: int,
        metric: Metric = "cosine",
        parameters: Parameters = FlatParameters(),  # noqa: B008  # frozen
    ) -> None:
        self.index_type = self.INDEX_TYPE
        """What a file says it holds; one that was read keeps its own."""
        self.metric = metric
        self.parameters = parameters
        self.table = IndexTable(dimension)
        self._fields = Fields(self.table)
        self.listing = Listing(self.table)
        self._exact = ExactSearch(self.table, metric)
        self._graph: HnswGraph | None = None
        if isinstance(parameters, HnswParameters):
            self._graph = HnswGraph(self.table, metric, parameters)

    @property
    def dimension(self) -> int:
        """Of every vector."""
        return self.table.dimension

    @property
    def kind(self) -> str:
        """``flat``, ``hnsw`` or ``ivf``."""
        if isinstance(self.parameters, IvfParameters):
            return "ivf"
        return "flat" if self._graph is None else "hnsw"

    @property
    def hnsw(self) -> HnswParameters | None:
        """The parameters of the graph, if there is one."""
        return self.parameters if isinstance(self.parameters, HnswParameters) else None

    @property
    def graph_rows(self) -> int:
        """How many rows are in the graph, if there is one."""
        return 0 if self._graph is None else self._graph.rows

    def __len__(self) -> int:
        return len(self.table)

    def __contains__(self, id_: object) -> bool:
        return id_ in self.table.slots

    # --- one row at a time -----------------------------------------------------------------

    def insert(self, id_: Id, vector: Floats, metadata: Mapping[str, Value] | None = None) -> None:
        """Add a row, or replace that of the same id."""
        encoded = None if metadata is None else encode_metadata(metadata)
        self.put([id_], vector[None], [encoded])

    def delete(self, id_: Id) -> None:
        """Remove a row."""
        self.table.remove(id_)

    def search(self, vector: Floats, k: int) -> Sequence[Hit]:
        """The ``k`` nearest rows."""
        found = self.find(vector[None], k)
        return [
            Hit(id_, distance)
            for id_, distance in zip(found.ids[0], found.distances[0].tolist(), strict=True)
        ]

    # --- batches ---------------------------------------------------------------------------

    def put(
        self, ids: Sequence[Id], vectors: Floats, metadata: Sequence[bytes | None] | None
    ) -> int:
        """Insert or replace rows with encoded metadata; returns how many were replaced."""
        return self.table.put(ids, vectors, metadata)

    def remove(self, ids: Sequence[Id]) -> int:
        """Remove the rows that are there; returns how many."""
        return sum(map(self.table.remove, ids))

    def take(self, ids: Sequence[Id]) -> list[tuple[Id, Floats, bytes | None] | None]:
        """Rows by id; None for what is not there."""
        table = self.table
        slots = [table.slots.get(id_) for id_ in ids]
        return [
            None if slot is None else (id_, table.vectors[slot], table.metadata[slot])
            for id_, slot in zip(ids, slots, strict=True)
        ]

    def find(
        self,
        queries: Floats,
        k: int,
        *,
        where: bytes | None = None,
        exact: bool = False,
        ef: int | None = None,
        tick: Callable[[], None] = _no_tick,
    ) -> Found:
        """The ``k`` nearest rows of each query (q, d) of which ``where`` is true.

        Raises ``InvalidArgument`` for a filter that an index has not.
        """
        mask = None if where is None else self._fields.select(where)
        count = len(self.table) if mask is None else int(mask.sum())
        near: Nearest | None = None
        if self._graph is not None and not exact and len(queries):
            each = min(k, count)
            candidates = self._graph.candidates(queries, each, ef, mask)
            if candidates is not None:
                near = self._exact.among(queries, candidates, each)
        approximate = near is not None
        if near is None:
            near = self._exact.nearest(queries, k, mask, tick)
        table = self.table
        return Found(
            [[table.ids[slot] for slot in slots] for slots in near.slots.tolist()],
            near.distances,
            [[table.metadata[slot] for slot in slots] for slots in near.slots.tolist()],
            approximate,
        )

    def optimize_step(self) -> bool:
        """Have some more rows enter the graph; False when all have."""
        return self._graph is not None and self._graph.step()

    # --- the payload -----------------------------------------------------------------------

    def payload(self) -> Iterator[Buffer]:
        """The payload of the rows as they are at the first piece, whatever happens meanwhile."""
        frozen = self.table.freeze()
        try:
            header = CoreHeader(self.parameters, self.dimension, self.metric, frozen.rows)
            yield iqdb_core.encode_header(header)
            rows = max(1, _CHUNK_BYTES // (4 * self.dimension + 11))
            for ids, vectors, metadata in frozen.chunks(rows):
                yield iqdb_core.encode_rows(ids, vectors, metadata)
        finally:
            self.table.thaw()

    def save_to(self, writer: Writer) -> None:
        """Write the payload."""
        for piece in self.payload():
            writer.write(bytes(piece))

    @classmethod
    def load_from(cls, reader: Reader) -> Self:
        """The index in a payload. Raises ``IndexFlaw``."""
        return cls.load(memoryview(reader.read()))

    @classmethod
    def load(
        cls, payload: memoryview, tick: Callable[[], None] = _no_tick, *, consume: bool = False
    ) -> Self:
        """The index in a payload. Raises ``IndexFlaw``.

        With ``consume`` the payload's memory becomes that of the vectors, if it is about as large,
        since fresh memory costs more than all else that loading does; the payload is void then.
        """
        header, start = iqdb_core.decode_header(payload)
        index = cls(header.dimension, header.metric, header.parameters)
        spare = len(payload) - 4 * header.rows * header.dimension
        if consume and not payload.readonly and spare <= len(payload) * _SPARE_SHARE_MAX:
            index.table.adopt(payload)
        else:
            index.table.reserve(header.rows)
        for batch in iqdb_core.decode_rows(payload, start, header, tick):
            index.put(*batch)
        if len(index) != header.rows:
            reason = f"{header.rows} rows, of which only {len(index)} have ids of their own"
            raise IndexFlaw(Flaw.PAYLOAD, reason, start)
        return index

    def check_invariants(self) -> None:
        """Assert that the state is consistent; for tests."""
        self.table.check_invariants()
        if self._graph is not None:
            self._graph.check_invariants()


def decoded(metadata: bytes | None) -> dict[str, Value] | None:
    """Metadata as a dictionary."""
    return None if metadata is None else decode_metadata(metadata)[0]
