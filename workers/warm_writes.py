"""Writing to a warm store: requests checked, planned, logged."""

import numpy as np
from numpy.typing import NDArray

from holdfast.formats import warm_log
from holdfast.formats.errors import NOT_FINITE, InvalidArgument, InvalidFormat, LimitExceeded
from holdfast.formats.limits import BATCH_BYTES_MAX
from holdfast.formats.points import Points, metadata_from_ipc
from holdfast.workers.actor import Caller
from holdfast.workers.raw_arrays import ids_of, matrix, times_of
from holdfast.workers.warm_messages import (
    WarmDelete,
    WarmDeleted,
    WarmDeleteRange,
    WarmWrite,
    WarmWritten,
)
from holdfast.workers.warm_store import WarmStore


def write(store: WarmStore, request: WarmWrite, caller: Caller) -> WarmWritten:
    """Add points; one durable unit."""
    rows = len(request.timestamps) // 8
    if store.ledger.took_effect(*caller):
        return WarmWritten(rows, store.ledger.counted(*caller)[1])
    points = checked(request, store.table.dimension)
    if not rows:
        return WarmWritten(0, 0)
    plan = store.table.plan_write(points)
    record = warm_log.encode_write(
        store.sequence + 1, request.space, request.entities, request.timestamps,
        request.vectors, request.metadata,
    )  # fmt: skip
    store.log_change(record, plan, caller)
    return WarmWritten(rows, plan.replaced)


def checked(request: WarmWrite, dimension: int) -> Points:
    """The points of a request, in memory of their own, since the table keeps them.

    Raises ``InvalidArgument`` or ``LimitExceeded``.
    """
    size = sum(map(len, (request.timestamps, request.entities, request.vectors, request.metadata)))
    if size > BATCH_BYTES_MAX:
        raise LimitExceeded(f"a batch of {size} bytes is over the limit of {BATCH_BYTES_MAX}")
    entities, timestamps = _keys(request.entities, request.timestamps)
    rows = len(timestamps)
    vectors = matrix(request.vectors, rows, dimension, "vectors")
    if not request.accept_non_finite:
        _refuse_non_finite(vectors)
    try:
        metadata = metadata_from_ipc(memoryview(bytes(request.metadata)), rows)
    except InvalidFormat as error:
        raise InvalidArgument(str(error)) from error
    return Points(np.full(rows, request.space, np.uint32), entities, timestamps, vectors, metadata)


def _keys(entities: memoryview, timestamps: memoryview) -> tuple[
    NDArray[np.uint64], NDArray[np.int64]
]:  # fmt: skip
    times = times_of(timestamps)
    if len(entities) not in (8, 8 * len(times)):
        raise InvalidArgument(f"entities of {len(entities)} bytes for {len(times)} timestamps")
    ids = ids_of(entities, "entities")
    return (np.full(len(times), ids[0], np.uint64) if len(ids) != len(times) else ids), times


def _refuse_non_finite(vectors: NDArray[np.float32]) -> None:
    with np.errstate(all="ignore"):
        flat = vectors.reshape(-1)
        if np.isfinite(np.dot(flat, flat)):  # one pass, nothing written
            return
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise InvalidArgument(
            f"vectors, row {row}: a value is {NOT_FINITE}; non_finite='accept' takes it"
        )


def delete(store: WarmStore, request: WarmDelete, caller: Caller) -> WarmDeleted:
    """Delete points by key."""
    if store.ledger.took_effect(*caller):
        return WarmDeleted(store.ledger.counted(*caller)[1])
    entities, timestamps = _keys(request.entities, request.timestamps)
    plan = store.table.plan_delete(request.space, entities, timestamps)
    if plan.replaced:
        record = warm_log.encode_delete(
            store.sequence + 1, request.space, request.entities, request.timestamps
        )
        store.log_change(record, plan, caller)
    return WarmDeleted(plan.replaced)


def delete_range(store: WarmStore, request: WarmDeleteRange, caller: Caller) -> WarmDeleted:
    """Delete the points in a range of time."""
    if store.ledger.took_effect(*caller):
        return WarmDeleted(store.ledger.counted(*caller)[1])
    where = (request.space, request.entity, request.start, request.end)
    plan = store.table.plan_delete_range(*where)
    if plan.replaced:
        store.log_change(warm_log.encode_delete_range(store.sequence + 1, *where), plan, caller)
    return WarmDeleted(plan.replaced)
