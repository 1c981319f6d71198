"""The vector store's handles, blocking and asyncio."""

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from holdfast.call import Call, ProgressCallback, operation
from holdfast.coordinator import Coordinator
from holdfast.formats.errors import NOT_FINITE, InvalidArgument
from holdfast.formats.expression import encode_expression
from holdfast.formats.rvf.terms import Metric, Profile
from holdfast.formats.tables import VECTOR, table_to_ipc
from holdfast.handles.arrays import as_ids, as_queries, as_vectors, first_non_finite
from holdfast.handles.base import Sized, expecting
from holdfast.handles.checks import check_choice, check_count, check_flag
from holdfast.handles.images import ImageOperations
from holdfast.handles.metadata import as_metadata
from holdfast.handles.results import QueryResult, Rows
from holdfast.handles.vector_parts import (
    Difference,
    Digests,
    Include,
    Membership,
    check_derivation,
    condition,
    digest_page,
    included,
    membership,
    names,
    query_result,
    raw_ids,
)
from holdfast.handles.vector_parts import rows as rows_of
from holdfast.workers import messages
from holdfast.workers import vector_messages as vm
from holdfast.workers.messages import StoreSpec
from holdfast.workers.raw_arrays import raw

T = TypeVar("T")
Ids = object
"""u64 ids: numpy or Arrow integers, DLPack, a range or a list of int."""

_done = expecting(messages.Done, lambda _: None)
_ingested = expecting(vm.Ingested, lambda reply: reply)
_deleted = expecting(vm.Deleted, lambda reply: reply.deleted)
_counted = expecting(vm.Counted, lambda reply: reply.rows)
_compacted = expecting(messages.Compacted, lambda reply: reply)
_segments = expecting(vm.Segments, lambda reply: reply.segments)
_lineage = expecting(vm.Lineage, lambda reply: reply)
_identity = expecting(vm.Lineage, lambda reply: reply.identity)
_cow = expecting(vm.CowStats, lambda reply: reply)
_verified = expecting(vm.Verified, lambda reply: reply)
_status = expecting(vm.VectorStatus, lambda reply: reply)
_measured = expecting(vm.Measured, lambda reply: reply.recall)
_membership = expecting(vm.Membership, membership)


class Family(Protocol):
    """Where a store's children go: the engine it belongs to."""

    def path_of(self, name: str) -> str:
        """Path of the vector store ``name``; raises unless the name is free."""
        ...

    def open(self, name: str) -> "Vectors":
        """The vector store ``name``, which is there."""
        ...


class Vectors(ImageOperations, Sized):
    """A vector store: nearest neighbours, filters, branches, in one ``.rvf`` file.

    Obtained from ``Engine.vectors``. All methods take ``timeout`` in seconds (None: the engine's)
    and raise ``CallTimeout``, ``WorkerCrashed``, ``StoreFailed``, ``StoreCorrupt`` or
    ``EngineClosed`` besides what they name; writes raise ``StoreFrozen``, ``StoreReadOnly`` or
    ``StoreFull``. Ids are u64, vectors float32. Distances are lower for nearer rows: ``l2`` is the
    squared Euclidean distance, ``ip`` the negative inner product, ``cosine`` one minus the cosine.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        spec: StoreSpec,
        properties: vm.VectorsAre,
        family: "Family",
    ) -> None:
        super().__init__(coordinator, spec)
        self._properties = properties
        self._family = family

    @property
    def dimension(self) -> int:
        """Of every vector."""
        return self._properties.dimension

    @property
    def metric(self) -> Metric:
        """``l2``, ``ip`` or ``cosine``."""
        return self._properties.metric

    @property
    def profile(self) -> Profile:
        """What the vectors are about."""
        return self._properties.profile

    # --- rows ------------------------------------------------------------------------------

    @operation
    def ingest(
        self,
        ids: Ids,
        vectors: object,
        metadata: object = None,
        *,
        non_finite: Literal["refuse", "accept"] = "refuse",
        invalid: Literal["raise", "skip"] = "raise",
        timeout: float | None = None,
    ) -> Call[vm.Ingested]:
        """Insert rows, or replace those whose id is there already: one durable unit.

        ``vectors`` are n rows of float32: numpy, Arrow fixed-size lists, DLPack, anything with the
        Arrow capsule interface, or lists. ``metadata`` gives each row named values: an Arrow table,
        a dict of columns, or a list of dicts; types are u64, i64, f64, string, bool, bytes and
        null, and a column keeps the type of its first values. No column is called ``id`` or
        ``vector``, as those of ``scan``. A replaced row keeps nothing.

        Rows with NaN, infinities or numbers beyond float32, which are infinite there, are invalid
        unless ``non_finite="accept"``, and so is a row whose id comes again later in the batch, in
        a row that is not invalid itself. One invalid row makes the call raise, or, with
        ``invalid="skip"``, only that row is left out and told of in ``rejected``.

        Raises ``InvalidArgument`` or ``LimitExceeded`` naming row or column; nothing has changed.
        """
        check_choice("non_finite", non_finite, ("refuse", "accept"))
        check_choice("invalid", invalid, ("raise", "skip"))
        numbers = as_ids(ids)
        rows = as_vectors(vectors, self.dimension)
        if len(numbers) != len(rows):
            raise InvalidArgument(f"{len(numbers)} ids for {len(rows)} vectors")
        table = as_metadata(metadata, len(rows))
        if table is not None and VECTOR in table.schema.names:
            raise InvalidArgument(
                f"metadata column {VECTOR!r}: this name means the vector of a row"
            )
        return _call(
            vm.VectorsIngest(
                raw(numbers),
                raw(rows),
                None if table is None else memoryview(table_to_ipc(table)),
                non_finite == "accept",
                invalid == "skip",
            ),
            _ingested,
            timeout,
        )

    @operation
    def query(
        self,
        vectors: object,
        k: int = 10,
        *,
        where: pc.Expression | None = None,
        exact: bool | None = None,
        ef: int | None = None,
        include: Iterable[Include] = (),
        columns: Iterable[str] | None = None,
        timeout: float | None = None,
    ) -> Call[QueryResult]:
        """The ``k`` nearest live rows of one vector, or of each row of a batch.

        ``where`` is a ``pyarrow.compute`` expression over the metadata and ``id``: only rows for
        which it is true count; comparing with a missing value is not true. Filters hold exactly,
        whichever way is searched. ``exact=True`` looks at every row; None uses the index once the
        store is large and the index is ready; ``ef`` is how much of the index is looked at, more
        being slower and nearer to exact. ``include`` adds metadata (all, or ``columns``) and
        vectors. Fewer than ``k`` rows are given when fewer count.

        Raises ``InvalidArgument`` for another dimension, values that are not finite, ``k`` below 1,
        and an expression over columns or types that are not there.
        """
        k = check_count("k", k)
        if ef is not None:
            ef = check_count("ef", ef)
        if exact is not None:
            check_flag("exact", exact)
        wanted = included(include)
        queries, single = as_queries(vectors, self.dimension)
        bad = first_non_finite(queries)
        if bad is not None:
            raise InvalidArgument(f"query {bad} has values that are {NOT_FINITE}")
        dimension = self.dimension
        message = vm.VectorsQuery(
            raw(queries),
            len(queries),
            k,
            condition(where),
            exact,
            ef,
            "metadata" in wanted or columns is not None,
            None if columns is None else names(columns),
            "vectors" in wanted,
        )
        return _call(
            message,
            expecting(vm.Hits, lambda hits: query_result(hits, len(queries), dimension, single)),
            timeout,
        )

    @operation
    def get(
        self,
        ids: Ids,
        *,
        include: Iterable[Include] = ("metadata", "vectors"),
        timeout: float | None = None,
    ) -> Call[Rows]:
        """The rows of these ids, in that order; ids that are not there are left out."""
        wanted = included(include)
        message = vm.VectorsGet(raw(as_ids(ids)), "metadata" in wanted, "vectors" in wanted)
        dimension = self.dimension
        return _call(message, expecting(vm.VectorRows, lambda r: rows_of(r, dimension)), timeout)

    @operation
    def delete(self, ids: Ids, *, timeout: float | None = None) -> Call[int]:
        """Delete rows; returns how many there were. Ids that are not there are no error."""
        return _call(vm.VectorsDelete(raw(as_ids(ids))), _deleted, timeout)

    @operation
    def delete_where(self, where: pc.Expression, *, timeout: float | None = None) -> Call[int]:
        """Delete the rows for which an expression is true, as in ``query``; returns how many."""
        return _call(vm.VectorsDeleteWhere(encode_expression(where)), _deleted, timeout)

    @operation
    def count(
        self, where: pc.Expression | None = None, *, timeout: float | None = None
    ) -> Call[int]:
        """How many live rows there are, as ``len``; or for how many an expression is true."""
        message = vm.VectorsCount(condition(where))
        return _call(message, _counted, timeout)

    @operation
    def _page(
        self,
        after: int | None,
        where: bytes | None,
        wanted: frozenset[str],
        limit: int,
        *,
        timeout: float | None = None,
    ) -> Call[tuple[Rows, bool]]:
        message = vm.VectorsScan(after, limit, where, "metadata" in wanted, "vectors" in wanted)
        dimension = self.dimension
        return _call(
            message, expecting(vm.VectorRows, lambda r: (rows_of(r, dimension), r.more)), timeout
        )

    def scan(
        self,
        *,
        where: pc.Expression | None = None,
        include: Iterable[Include] = ("metadata", "vectors"),
        batch_rows: int | None = None,
        timeout: float | None = None,
    ) -> Iterator[pa.Table]:
        """All rows by ascending id, as Arrow tables of ``id``, metadata and ``vector``.

        Bounded memory; each table is one moment's state, of at most ``batch_rows`` rows (None: some
        megabytes). ``timeout`` is per table.
        """
        if batch_rows is not None:
            batch_rows = check_count("batch_rows", batch_rows)
        return self._scan(condition(where), included(include), batch_rows or 0, timeout)

    def _scan(
        self, where: bytes | None, wanted: frozenset[str], limit: int, timeout: float | None
    ) -> Iterator[pa.Table]:
        after = None
        while True:
            rows, more = self._page(after, where, wanted, limit, timeout=timeout)
            if len(rows):
                yield rows.to_arrow()
                after = int(rows.ids[-1])
            if not more:
                return

    # --- the file --------------------------------------------------------------------------

    @operation
    def compact(
        self, *, progress: ProgressCallback | None = None, timeout: float | None = None
    ) -> Call[messages.Compacted]:
        """Rewrite the file without what is dead; reads and writes go on meanwhile.

        Rows are in order of id then. Raises ``HasBranches`` while branches read the file.
        """
        return _call(vm.VectorsCompact(), _compacted, timeout, progress)

    @operation
    def segments(self, *, timeout: float | None = None) -> Call[list[vm.Segment]]:
        """The segments that the file's directory lists: id, offset, length, type, name."""
        return _call(vm.VectorsSegments(), _segments, timeout)

    @operation
    def status(self, *, timeout: float | None = None) -> Call[vm.VectorStatus]:
        """Figures of the store: rows, bytes live and dead, epoch, index, durability, last sync."""
        return _call(messages.StoreStatus(), _status, timeout)

    @operation
    def verify(
        self, *, progress: ProgressCallback | None = None, timeout: float | None = None
    ) -> Call[vm.Verified]:
        """Check every segment, the witness chain, the directory, and the parents."""
        return _call(vm.VectorsVerify(), _verified, timeout, progress)

    @operation
    def refresh(self, *, timeout: float | None = None) -> Call[int]:
        """See what others have committed since, on a store opened read-only; returns its rows."""
        return _call(vm.VectorsRefresh(), _counted, timeout)

    @operation
    def freeze(self, *, timeout: float | None = None) -> Call[None]:
        """Refuse every write from now on, for good. Branches can still be made."""
        return _call(vm.VectorsFreeze(), _done, timeout)

    # --- the index -------------------------------------------------------------------------

    @operation
    def build_index(self, *, timeout: float | None = None) -> Call[int]:
        """Start building the index in the background, if there is none; ``status`` has progress.

        Needs the extra ``holdfast[ann]``; large stores do it by themselves.
        """
        return _call(vm.VectorsIndex("build"), _counted, timeout)

    @operation
    def cancel_index(self, *, timeout: float | None = None) -> Call[int]:
        """Stop building the index, and do not begin again by itself."""
        return _call(vm.VectorsIndex("cancel"), _counted, timeout)

    @operation
    def measure_recall(self, *, timeout: float | None = None) -> Call[float | None]:
        """Share of the exact 10 nearest that the index finds, on a sample; None without one."""
        return _call(vm.VectorsIndex("recall"), _measured, timeout)

    # --- where it comes from ---------------------------------------------------------------

    @operation
    def identity(self, *, timeout: float | None = None) -> Call[vm.Identity]:
        """Who this file is, and its parent, by id and hash."""
        return _call(vm.VectorsLineage(), _identity, timeout)

    @operation
    def lineage(self, *, timeout: float | None = None) -> Call[vm.Lineage]:
        """The chain of parents from the nearest on; each is looked for and its hash checked."""
        return _call(vm.VectorsLineage(), _lineage, timeout)

    @operation
    def cow_stats(self, *, timeout: float | None = None) -> Call[vm.CowStats]:
        """Rows and bytes a branch inherits, has of its own, overrides and hides."""
        return _call(vm.VectorsCow(), _cow, timeout)

    @operation
    def membership(self, *, timeout: float | None = None) -> Call[Membership]:
        """What a branch shows of its parent."""
        return _call(vm.VectorsMembers(), _membership, timeout)

    @operation
    def limit(
        self,
        *,
        include: Ids | None = None,
        exclude: Ids | None = None,
        timeout: float | None = None,
    ) -> Call[Membership]:
        """Limit what a branch shows of its parent: only (``include``), or all but, these ids.

        What is hidden stays hidden. The branch's own rows are not concerned.
        """
        message = vm.VectorsMembers(raw_ids(include), raw_ids(exclude), True)
        return _call(message, _membership, timeout)

    @operation
    def _branch(
        self, path: str, include: Ids | None, exclude: Ids | None, *, timeout: float | None = None
    ) -> Call[None]:
        message = vm.VectorsBranch(path, raw_ids(include), raw_ids(exclude))
        return _call(message, _done, timeout)

    def branch(
        self,
        name: str,
        *,
        include: Ids | None = None,
        exclude: Ids | None = None,
        timeout: float | None = None,
    ) -> "Vectors":
        """Make the store ``name``: it shows this one's rows as they are now, and copies none.

        Writes to either do not show in the other. ``include`` and ``exclude`` limit what it shows.
        Until the branch is dropped this store cannot be compacted. Raises ``StoreExists``.
        """
        child = self._family.path_of(name)
        self._branch(child, include, exclude, timeout=timeout)
        return self._family.open(name)

    @operation
    def _derive(
        self, path: str, kind: str, dimension: int | None, *, timeout: float | None = None
    ) -> Call[None]:
        return _call(vm.VectorsDerive(path, kind, dimension), _done, timeout)

    def derive(
        self, name: str, kind: str, *, dimension: int | None = None, timeout: float | None = None
    ) -> "Vectors":
        """Make the empty store ``name``; it remembers what it was made from, and how (``kind``)."""
        dimension = check_derivation(kind, dimension)
        child = self._family.path_of(name)
        self._derive(child, kind, dimension, timeout=timeout)
        return self._family.open(name)

    @operation
    def _digests(
        self, after: int | None, *, timeout: float | None = None
    ) -> Call[tuple[NDArray[np.uint64], NDArray[np.void], bool]]:
        return _call(vm.VectorsDigests(after), expecting(vm.Digests, digest_page), timeout)

    def _all_digests(self, timeout: float | None) -> Digests:
        found = Digests()
        while not found.complete:
            found.add(*self._digests(found.last, timeout=timeout))
        return found

    def diff(self, other: "Vectors", *, timeout: float | None = None) -> Difference:
        """Which ids ``other`` has more, with other content, or less than this store."""
        if not isinstance(other, Vectors):
            raise InvalidArgument(f"diff takes another Vectors, not {type(other).__name__}")
        return self._all_digests(timeout).compared(other._all_digests(timeout))


def _call(
    message: object,
    unwrap: Callable[[object], T],
    timeout: float | None,
    progress: ProgressCallback | None = None,
) -> Call[T]:
    return Call(message, unwrap, timeout, progress)
