"""What an index answers, as messages have it: for its actor, and for ``PersistedIndex``."""

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.errors import InvalidArgument, ResultTooLarge
from holdfast.formats.iqdb_values import Id
from holdfast.formats.limits import RESULT_BYTES_MAX
from holdfast.workers import index_messages as im
from holdfast.workers.core_index import CoreIndex, Found
from holdfast.workers.index_snapshot import StoredIndex
from holdfast.workers.index_store import IndexStore
from holdfast.workers.raw_arrays import raw


def found_reply(found: Found, metadata: bool) -> im.IndexHits:
    """What was found, as a message has it; ``InvalidArgument`` where metadata is not to be had."""
    entries = None
    if metadata:
        if found.metadata is None:
            raise InvalidArgument("an index of a class of your own does not give metadata back")
        entries = [row for hits in found.metadata for row in hits]
    ids = sent([id_ for hits in found.ids for id_ in hits])
    each = found.distances.shape[1]
    return im.IndexHits(each, ids, raw(found.distances), entries, found.approximate)


def check_size(ids: Sequence[Id], entries: Sequence[bytes | None], width: int, what: str) -> None:
    """Raise ``ResultTooLarge`` unless an answer may be sent; ``width`` is that of a row's numbers.

    A list of ids or metadata takes up to 9 bytes an entry beside the entry's own.
    """
    size = len(ids) * (9 + width) + 9 * len(entries)
    size += sum(len(id_) for id_ in ids if isinstance(id_, bytes))
    size += sum(len(row) for row in entries if row is not None)
    if size > RESULT_BYTES_MAX:
        raise ResultTooLarge(
            f"{what} would take {size} bytes, over the limit of {RESULT_BYTES_MAX}: ask for fewer, "
            "or without metadata"
        )


def rows_reply(index: StoredIndex, ids: "NDArray[np.uint64] | list[Id]") -> im.IndexRows:
    """The rows of these ids that are there. Raises ``ResultTooLarge``, ``InvalidArgument``."""
    listed: list[Id] = ids if isinstance(ids, list) else ids.tolist()
    if len(listed) * index.dimension * 4 > RESULT_BYTES_MAX:
        raise ResultTooLarge(f"{len(listed)} rows would give more than {RESULT_BYTES_MAX} bytes")
    rows = [row for row in index.take(listed) if row is not None]
    found, entries = [row[0] for row in rows], [row[2] for row in rows]
    check_size(found, entries, 4 * index.dimension, f"{len(rows)} rows")
    vectors = np.empty((len(rows), index.dimension), np.float32)
    for place, (_, vector, _) in enumerate(rows):
        vectors[place] = vector
    return im.IndexRows(sent(found), raw(vectors), entries)


def page_reply(index: StoredIndex, after: Id | None, *, rows: bool) -> im.IndexRows:
    """A page of rows, or of ids alone, from behind ``after``. Raises ``InvalidArgument``."""
    if not isinstance(index, CoreIndex):
        raise InvalidArgument("an index of a class of your own does not list its rows")
    page = index.listing.page(after, rows=rows)
    if not rows:
        return im.IndexRows(sent(page.ids), memoryview(b""), [], page.more)
    reply = rows_reply(index, page.ids)
    return im.IndexRows(reply.ids, reply.vectors, reply.metadata, page.more)


def status_of(store: IndexStore) -> im.IndexStatus:
    """The figures of an index."""
    index = store.index
    return im.IndexStatus(
        kind="index",
        path=store.path,
        durability=store.group.policy,
        index=index.kind,
        index_type=index.index_type,
        dimension=index.dimension,
        metric=index.metric,
        live_rows=len(index),
        graph_rows=index.graph_rows,
        file_bytes=store.snapshot_bytes,
        log_bytes=store.log.end,
        checkpoints=store.checkpoints,
        synced_age_s=store.synced_age_s(),
        unsynced_bytes=store.log.unsynced_bytes,
        recovered_torn_bytes=store.torn_bytes,
        recovered_records=store.recovered_records,
        pid=os.getpid(),
    )


def sent(ids: Sequence[Id]) -> im.Ids:
    """Ids as messages carry them."""
    if any(isinstance(id_, bytes) for id_ in ids):
        return list(ids)
    return raw(np.array(ids, np.uint64))
