"""Reading a directory of the original's into a warm store.

Everything is looked at before anything is written. The points are then written batch by batch, each
a durable unit of its own; a crash on the way leaves some of them, and an import that is sent again
begins anew, which changes nothing that is there.
"""

from collections.abc import Callable, Generator

import numpy as np

from holdfast.formats import warm_log
from holdfast.formats.errors import InvalidArgument
from holdfast.formats.points import Points, metadata_array, metadata_to_ipc
from holdfast.workers import chronos
from holdfast.workers.chronos_points import ChronosBatch, points
from holdfast.workers.chronos_report import ChronosReport
from holdfast.workers.messages import Progress
from holdfast.workers.raw_arrays import raw
from holdfast.workers.warm_messages import WarmImport, WarmImported
from holdfast.workers.warm_store import WarmStore

Relief = Callable[[], Generator[Progress | None, None, None]]


def import_steps(
    store: WarmStore, request: WarmImport, relieve: Relief, tick: Callable[[], None]
) -> Generator[Progress | None, None, WarmImported]:
    """Import what ``request`` names. ``relieve`` flushes what has collected, if it is much."""
    report = chronos.survey(store.disk, request.directory, tick)
    yield None
    dimension = store.table.dimension
    _refuse(report, request, dimension)
    total = report.dimensions.get(dimension, 0)
    written = duplicates = replaced = 0
    for batch in points(
        store.disk,
        request.directory,
        report,
        request.duplicates,
        request.salvage,
        dimension,
        tick,
    ):
        replaced += _write(store, batch)
        written += len(batch.timestamps)
        duplicates += batch.duplicates
        yield Progress("import", (written + duplicates) * dimension * 4, total * dimension * 4)
        yield from relieve()
    store.group.commit()
    skipped = report.points_of_other_dimensions(dimension)
    return WarmImported(written, replaced, duplicates, skipped, report)


def _refuse(report: ChronosReport, request: WarmImport, dimension: int) -> None:
    """Raise for what the caller did not ask to be passed over."""
    if not request.salvage:
        chronos.refuse_damage(report, request.directory)
    others = report.points_of_other_dimensions(dimension)
    if others and request.other_dimensions == "refuse":
        raise InvalidArgument(
            f"{request.directory!r} has {others} points of other dimensions than {dimension}: "
            f"{report.dimensions}; other_dimensions='skip' leaves them out",
            path=request.directory,
        )
    wild = sum(file.non_finite for file in report.files)
    if wild and not request.accept_non_finite:
        raise InvalidArgument(
            f"{request.directory!r} has {wild} points with values that are not finite; "
            "non_finite='accept' takes them",
            path=request.directory,
        )


def _write(store: WarmStore, batch: ChronosBatch) -> int:
    """Log a batch and take it over; returns how many of its keys were there."""
    rows = len(batch.timestamps)
    metadata = None if batch.metadata is None else metadata_array(batch.metadata)
    ids = np.array([batch.entity], np.uint64)
    plan = store.table.plan_write(
        Points(
            np.full(rows, batch.space, np.uint32),
            np.full(rows, batch.entity, np.uint64),
            batch.timestamps,
            batch.vectors,
            metadata,
        )
    )
    record = warm_log.encode_write(
        store.sequence + 1,
        batch.space,
        raw(ids),
        raw(batch.timestamps),
        raw(batch.vectors),
        metadata_to_ipc(metadata),
    )
    store.log_change(record, plan, None)
    return plan.replaced
