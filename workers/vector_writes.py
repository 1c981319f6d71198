"""Writing to a vector store: batches of rows and deletes, each one durable unit."""

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.errors import NOT_FINITE, InvalidArgument
from holdfast.formats.tables import ipc_to_table
from holdfast.workers import sets
from holdfast.workers import vector_messages as messages
from holdfast.workers.actor import Caller
from holdfast.workers.id_map import ABSENT, ascends
from holdfast.workers.raw_arrays import ids_of, matrix
from holdfast.workers.search import squared_norms
from holdfast.workers.vector_branches import hide
from holdfast.workers.vector_messages import RejectedRow
from holdfast.workers.vector_queries import select
from holdfast.workers.vector_store import VectorStore

_REPEATED = "the id comes again later in the batch"


def ingest(
    store: VectorStore, request: messages.VectorsIngest, caller: Caller
) -> messages.Ingested:
    """Insert or replace rows. On an error nothing has changed."""
    ids = ids_of(request.ids)
    vectors = matrix(request.vectors, len(ids), store.dimension, "vectors", store.vectors_scratch)
    norms = squared_norms(vectors)
    metadata = None if request.metadata is None else ipc_to_table(request.metadata)
    rejected = _rejected(ids, vectors, norms, accept_non_finite=request.accept_non_finite)
    if rejected and not request.skip_invalid:
        first = rejected[0]
        raise InvalidArgument(
            f"row {first.row} (id {first.id}): {first.reason}; {len(rejected)} such rows in all"
        )
    before = store.counted_before(caller)
    if before is not None:
        return messages.Ingested(len(ids) - len(rejected), before[0], rejected, before[1])
    if metadata is not None:
        metadata = store.columns.check(metadata, len(ids))
    if rejected:
        kept = np.ones(len(ids), np.bool_)
        kept[[row.row for row in rejected]] = False
        ids, vectors, norms = ids[kept], vectors[kept], norms[kept]
        metadata = None if metadata is None else metadata.filter(kept)
    if not len(ids):
        return messages.Ingested(0, 0, rejected, store.catalog.epoch)
    old = store.table.find_live(ids)
    old = old[old != ABSENT]
    own_live = store.own_live_rows() - int(np.count_nonzero(old >= store.inherited_rows))
    commit = store.begin()
    commit.catalog.epoch += 1
    if commit.catalog.deleted:
        commit.catalog.deleted.difference_update(ids.tolist())
    commit.vectors(ids, vectors, store.table.rows, store.payload_scratch)
    if metadata is not None and metadata.num_columns:
        store.add_metadata(commit, ids, metadata)
    elif store.columns.has_columns:
        # Nulls, in place of what these ids may have had before.
        store.add_metadata(commit, ids, store.columns.take(np.empty(0, np.int64), []))
    commit.witness(f"ingest:count={len(ids)},epoch={commit.catalog.epoch}")
    counted = (len(old), commit.catalog.epoch)
    store.write(commit, own_live + len(ids), caller, counted)
    store.table.add(ids, vectors, norms)
    store.columns.append(metadata, len(ids))
    if store.deleted_since is not None:
        store.deleted_since.difference_update(ids.tolist())
    store.shorten_manifest()
    return messages.Ingested(len(ids), len(old), rejected, commit.catalog.epoch)


def _rejected(
    ids: NDArray[np.uint64],
    vectors: NDArray[np.float32],
    norms: NDArray[np.float32],
    *,
    accept_non_finite: bool,
) -> list[RejectedRow]:
    """The rows of a batch that cannot be taken, in order."""
    reasons: dict[int, str] = {}
    if not accept_non_finite:
        # A norm is finite unless a number is not, or it is too large, which is looked into.
        doubtful = np.flatnonzero(~np.isfinite(norms))
        bad = doubtful[~np.isfinite(vectors[doubtful]).all(axis=1)]
        reasons.update(dict.fromkeys(bad.tolist(), NOT_FINITE))
    if not ascends(ids):
        # Among those that can be taken: a row is not given up for one that is left out itself.
        takeable = np.delete(np.arange(len(ids)), list(reasons))
        order = takeable[np.argsort(ids[takeable], kind="stable")]
        again = order[:-1][ids[order[1:]] == ids[order[:-1]]]
        reasons.update(dict.fromkeys(again.tolist(), _REPEATED))
    return [RejectedRow(row, int(ids[row]), reasons[row]) for row in sorted(reasons)]


def delete(store: VectorStore, ids: NDArray[np.uint64], caller: Caller) -> messages.Deleted:
    """Delete the rows of these ids; ids that are not there are passed over."""
    before = store.counted_before(caller)
    if before is not None:
        return messages.Deleted(*before)
    ids = sets.unique(ids)
    rows = store.table.find_live(ids)
    there = rows != ABSENT
    ids, rows = ids[there], rows[there]
    if not len(ids):
        return messages.Deleted(0, store.catalog.epoch)
    own = rows >= store.inherited_rows
    commit = store.begin()
    catalog = commit.catalog
    catalog.epoch += 1
    catalog.deleted.update(ids[own].tolist())
    hidden = store.hidden
    if store.ancestors:  # else a row of the parent would show once the own one is compacted away
        hidden = hide(commit, store.inherited_ids, hidden, ids, store.tick)
    commit.witness(f"delete:count={len(ids)},epoch={catalog.epoch}", delete=True)
    counted = (len(ids), catalog.epoch)
    store.write(commit, store.own_live_rows() - int(np.count_nonzero(own)), caller, counted)
    store.hidden = hidden
    store.table.kill(rows)
    if store.deleted_since is not None:
        store.deleted_since.update(ids[own].tolist())
    store.shorten_manifest()
    return messages.Deleted(*counted)


def delete_where(store: VectorStore, where: bytes, caller: Caller) -> messages.Deleted:
    """Delete the rows for which an expression is true."""
    before = store.counted_before(caller)
    if before is not None:
        return messages.Deleted(*before)
    mask = select(store, where).mask
    return delete(store, store.table.ids[np.flatnonzero(mask)], caller)
