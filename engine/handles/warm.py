"""The warm store's blocking handle; ``async_warm`` has the other."""

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from holdfast.call import Call, ProgressCallback, operation
from holdfast.coordinator import Coordinator
from holdfast.formats.errors import NOT_FINITE, InvalidArgument
from holdfast.formats.points import METADATA, TIME_MAX, TIME_MIN
from holdfast.formats.rvf.terms import Metric
from holdfast.formats.warm_chunk import ENTITY, SPACE, VECTOR
from holdfast.handles.arrays import as_queries, first_non_finite
from holdfast.handles.base import Handle, Sized, expecting
from holdfast.handles.checks import check_choice, check_count
from holdfast.handles.fold import absolute
from holdfast.handles.moments import Moment, as_some_times, as_time
from holdfast.handles.warm_calls import (
    ALL_COLUMNS,
    RANGE_COLUMNS,
    NonFinite,
    ScanKey,
    ScanPage,
    WarmCalls,
    check_columns,
    cut,
    last_series,
    range_message,
)
from holdfast.handles.warm_input import (
    TemporalPoint,
    any_batch,
    as_entities,
    as_entity,
    as_space,
    point_batch,
    series_batch,
)
from holdfast.handles.warm_results import hits_of, point_of, series_of
from holdfast.handles.warm_transfer import FileFormat, PartitionWriter, WarmExported, batches_of
from holdfast.workers import messages
from holdfast.workers import warm_messages as wm
from holdfast.workers.messages import StoreSpec
from holdfast.workers.raw_arrays import raw

if TYPE_CHECKING:
    import pyarrow.dataset

_deleted = expecting(wm.WarmDeleted, lambda reply: reply.deleted)
_counted = expecting(wm.WarmCounted, lambda reply: reply.points)
_compacted = expecting(messages.Compacted, lambda reply: reply)
_done = expecting(messages.Done, lambda _: None)
_status = expecting(wm.WarmStatus, lambda reply: reply)
_verified = expecting(wm.WarmVerified, lambda reply: reply)


class Warm(WarmCalls, Handle, Sized):
    """A warm store: temporal points (entity, space, time, vector, metadata) in Arrow chunks.

    Obtained from ``Engine.warm``. A point's key is (entity, space, timestamp), and the last write
    of a key wins. Entities are u64, spaces u32, timestamps i64 in microseconds since 1970-01-01
    UTC, vectors float32, metadata text -> text. Dates and times are taken wherever timestamps are,
    as ``holdfast.handles.moments`` says: to the microsecond or not at all.

    All methods take ``timeout`` in seconds (None: the engine's) and raise ``CallTimeout``,
    ``WorkerCrashed``, ``StoreFailed``, ``StoreCorrupt`` or ``EngineClosed`` besides what they name;
    writes raise ``StoreFull``. Bad arguments raise ``InvalidArgument``, integers out of range
    ``LimitExceeded``; nothing has changed then.
    """

    def __init__(self, coordinator: Coordinator, spec: StoreSpec, properties: wm.WarmIs) -> None:
        Handle.__init__(self, coordinator, spec)
        WarmCalls.__init__(self, spec, properties)

    # --- writing ---------------------------------------------------------------------------

    @operation
    def write(
        self,
        entity: int,
        space: int,
        timestamps: object,
        vectors: object,
        metadata: object = None,
        *,
        non_finite: NonFinite = "refuse",
        timeout: float | None = None,
    ) -> Call[wm.WarmWritten]:
        """Write points of one entity, in place of those at the same times: one durable unit.

        ``timestamps`` (n,) are moments in any order; of equal ones the last counts. ``vectors``
        are (n, dimension): numpy, Arrow fixed-size lists, DLPack or lists. ``metadata`` is a list
        of n dicts of text, or an Arrow column of maps. Vectors with NaN, infinities or numbers
        beyond float32, which are infinite there, are refused unless ``non_finite="accept"``.
        """
        batch = series_batch(entity, timestamps, vectors, metadata, self.dimension)
        return self._write_call(space, batch, non_finite, timeout)

    @operation
    def write_batch(
        self,
        space: int,
        points: object,
        *,
        non_finite: NonFinite = "refuse",
        timeout: float | None = None,
    ) -> Call[wm.WarmWritten]:
        """Write points of any entities of one space, in any order: one durable unit.

        ``points`` is an Arrow table, or anything with Arrow's stream capsule (a data frame), or a
        dict, with the columns ``entity``, ``timestamp``, ``vector`` and perhaps ``metadata``; or
        ``TemporalPoint``s. Otherwise as ``write``.
        """
        return self._write_call(space, any_batch(points, self.dimension), non_finite, timeout)

    @operation
    def put(
        self,
        space: int,
        point: TemporalPoint,
        *,
        non_finite: NonFinite = "refuse",
        timeout: float | None = None,
    ) -> Call[wm.WarmWritten]:
        """Write one point."""
        return self._write_call(space, point_batch(point, self.dimension), non_finite, timeout)

    @operation
    def delete(
        self, entity: int, space: int, timestamps: object, *, timeout: float | None = None
    ) -> Call[int]:
        """Delete the points of an entity at these times, or at this one; returns how many."""
        ids = np.array([as_entity(entity)], np.uint64)
        message = wm.WarmDelete(as_space(space), raw(ids), raw(as_some_times(timestamps)))
        return Call(message, _deleted, timeout)

    @operation
    def delete_range(
        self, entity: int, space: int, start: Moment, end: Moment, *, timeout: float | None = None
    ) -> Call[int]:
        """Delete an entity's points from ``start`` to ``end``, both included; returns how many."""
        message = wm.WarmDeleteRange(
            as_space(space), as_entity(entity), as_time("start", start), as_time("end", end)
        )
        return Call(message, _deleted, timeout)

    @operation
    def retain(self, before: Moment, *, timeout: float | None = None) -> Call[int]:
        """Delete every point older than ``before``, of all series; returns how many there were."""
        first = as_time("before", before)
        if first == TIME_MIN:  # nothing is older
            return Call(wm.WarmDeleteRange(None, None, 0, -1), _deleted, timeout)
        return Call(wm.WarmDeleteRange(None, None, TIME_MIN, first - 1), _deleted, timeout)

    # --- points ----------------------------------------------------------------------------

    @operation
    def get(
        self, entity: int, space: int, timestamp: Moment, *, timeout: float | None = None
    ) -> Call[TemporalPoint | None]:
        """The point of this key, or None."""
        entity = as_entity(entity)
        message = wm.WarmGet(as_space(space), entity, as_time("timestamp", timestamp))
        found = expecting(wm.WarmPoint, lambda reply: point_of(reply, entity))
        return Call(message, found, timeout)

    @operation
    def contains(
        self, entity: int, space: int, timestamp: Moment, *, timeout: float | None = None
    ) -> Call[bool]:
        """Whether there is a point of this key."""
        message = wm.WarmGet(as_space(space), as_entity(entity), as_time("timestamp", timestamp))
        return Call(message, expecting(wm.WarmPoint, lambda r: r.vector is not None), timeout)

    @operation
    def latest(
        self,
        entity: int,
        space: int,
        at: Moment | None = None,
        *,
        timeout: float | None = None,
    ) -> Call[TemporalPoint | None]:
        """The newest point of an entity; with ``at``, the newest that is not newer than that."""
        entity = as_entity(entity)
        moment = TIME_MAX if at is None else as_time("at", at)
        message = wm.WarmLatest(as_space(space), entity, moment)
        found = expecting(wm.WarmPoint, lambda reply: point_of(reply, entity))
        return Call(message, found, timeout)

    @operation
    def count(self, *, timeout: float | None = None) -> Call[int]:
        """How many points there are; so does ``len``."""
        return Call(wm.WarmCount(), _counted, timeout)

    # --- ranges ----------------------------------------------------------------------------

    @operation
    def range(
        self,
        entity: int,
        space: int,
        start: Moment = TIME_MIN,
        end: Moment = TIME_MAX,
        *,
        limit: int | None = None,
        reverse: bool = False,
        columns: Iterable[str] = RANGE_COLUMNS,
        timeout: float | None = None,
    ) -> Call[pa.Table]:
        """An entity's points from ``start`` to ``end``, both included, by ascending time.

        A table of ``timestamp`` (int64), ``vector`` (fixed-size list of float32) and ``metadata``
        (map of text to text), or of those ``columns``. ``reverse`` gives descending time;
        ``limit`` cuts behind so many points. Empty if ``start`` is above ``end``.

        Large results are not copied but mapped from the store's files, and stay valid whatever
        happens to these. Raises ``ResultTooLarge`` when more than 1 GiB would have to be copied.
        """
        ids = np.array([as_entity(entity)], np.uint64)
        wanted = check_columns(columns, RANGE_COLUMNS)
        message = range_message(space, ids, start, end, limit, reverse, wanted)
        return self._range_call(message, wanted, int(ids[0]), timeout)

    @operation
    def range_many(
        self,
        entities: object,
        space: int,
        start: Moment = TIME_MIN,
        end: Moment = TIME_MAX,
        *,
        limit: int | None = None,
        columns: Iterable[str] = (ENTITY, *RANGE_COLUMNS),
        timeout: float | None = None,
    ) -> Call[pa.Table]:
        """As ``range`` for several entities, in their order, at most ``limit`` points of each.

        The table has the column ``entity`` besides. All of it is one moment's state.
        """
        ids = as_entities(entities)
        wanted = check_columns(columns, (ENTITY, *RANGE_COLUMNS))
        message = range_message(space, ids, start, end, limit, False, wanted)
        return self._range_call(message, wanted, int(ids[0]) if len(ids) == 1 else None, timeout)

    # --- everything ------------------------------------------------------------------------

    @operation
    def _page(
        self,
        after: ScanKey | None,
        wanted: tuple[str, ...],
        limit: int,
        *,
        timeout: float | None = None,
    ) -> Call[ScanPage]:
        message = wm.WarmScan(after, limit, VECTOR in wanted, METADATA in wanted)
        return self._page_call(message, wanted, timeout)

    def scan(
        self,
        *,
        columns: Iterable[str] = ALL_COLUMNS,
        batch_rows: int | None = None,
        timeout: float | None = None,
    ) -> Iterator[pa.Table]:
        """All points by ascending (space, entity, timestamp), as Arrow tables.

        The columns are ``space``, ``entity``, ``timestamp``, ``vector`` and ``metadata``, or those
        of ``columns``. Bounded memory; each table is one moment's state, of at most ``batch_rows``
        rows (None: as it comes). ``timeout`` is per table.
        """
        wanted = check_columns(columns, ALL_COLUMNS)
        limit = 0 if batch_rows is None else check_count("batch_rows", batch_rows)
        return self._scan(wanted, limit, timeout)

    def _scan(
        self, wanted: tuple[str, ...], limit: int, timeout: float | None
    ) -> Iterator[pa.Table]:
        after = None
        while True:
            table, after = self._page(after, wanted, limit, timeout=timeout)
            yield from cut(table, limit)
            if after is None:
                return

    def to_table(
        self, *, columns: Iterable[str] = ALL_COLUMNS, timeout: float | None = None
    ) -> pa.Table:
        """All points in one table, most of it mapped from the store's files.

        As with ``scan``, each part of it is one moment's state, and not the whole.
        """
        wanted = check_columns(columns, ALL_COLUMNS)
        tables = list(self._scan(wanted, 0, timeout))
        return pa.concat_tables(tables) if tables else self._empty(wanted)

    def dataset(self, *, timeout: float | None = None) -> "pyarrow.dataset.Dataset":
        """All points as a pyarrow dataset; what ``to_table`` says holds."""
        import pyarrow.dataset

        return pyarrow.dataset.dataset(self.to_table(timeout=timeout))

    @operation
    def _series_page(
        self,
        space: int | None,
        after: tuple[int, int] | None,
        *,
        timeout: float | None = None,
    ) -> Call[tuple[pa.Table, bool]]:
        return Call(
            wm.WarmSeries(None if space is None else as_space(space), after),
            expecting(wm.WarmSeriesAre, lambda reply: (series_of(reply), reply.more)),
            timeout,
        )

    def series(self, space: int | None = None, *, timeout: float | None = None) -> pa.Table:
        """Every series that has points, by space and entity.

        A table of ``space``, ``entity``, ``count``, and the times ``first`` and ``last``.
        """
        pages = []
        after, more = None, True
        while more:
            page, more = self._series_page(space, after, timeout=timeout)
            pages.append(page)
            after = last_series(page) if more else None
        return pa.concat_tables(pages)

    def entities(
        self, space: int | None = None, *, timeout: float | None = None
    ) -> NDArray[np.uint64]:
        """The entities that have points, ascending, (n,); of all spaces or of one."""
        return np.unique(self.series(space, timeout=timeout)[ENTITY].to_numpy())

    def spaces(self, *, timeout: float | None = None) -> NDArray[np.uint32]:
        """The spaces that have points, ascending, (n,)."""
        return np.unique(self.series(timeout=timeout)[SPACE].to_numpy())

    @operation
    def nearest(
        self,
        vector: object,
        k: int = 10,
        start: Moment = TIME_MIN,
        end: Moment = TIME_MAX,
        *,
        space: int | None = None,
        entities: object = None,
        metric: Metric = "l2",
        progress: ProgressCallback | None = None,
        timeout: float | None = None,
    ) -> Call[pa.Table]:
        """The ``k`` points nearest to a vector among those from ``start`` to ``end``, exactly.

        A table of ``space``, ``entity``, ``timestamp``, ``distance`` (float32, lower is nearer),
        ``vector`` and ``metadata``, nearest first, equally near ones by key. ``metric`` is as for a
        vector store: ``l2``, ``ip`` or ``cosine``.
        """
        queries, single = as_queries(vector, self.dimension)
        if not single:
            raise InvalidArgument(f"vector is one vector, not {len(queries)} of them")
        if first_non_finite(queries) is not None:
            raise InvalidArgument(f"vector has values that are {NOT_FINITE}")
        check_choice("metric", metric, get_args(Metric))
        message = wm.WarmNearest(
            raw(queries),
            check_count("k", k),
            metric,
            as_time("start", start),
            as_time("end", end),
            None if space is None else as_space(space),
            None if entities is None else raw(as_entities(entities)),
        )
        dimension = self.dimension
        return Call(
            message, expecting(wm.WarmHits, lambda r: hits_of(r, dimension)), timeout, progress
        )

    # --- to and from elsewhere -------------------------------------------------------------

    @operation
    def import_chronos(
        self,
        directory: str | os.PathLike[str],
        *,
        duplicates: Literal["first", "last"] = "last",
        damaged: Literal["refuse", "salvage"] = "refuse",
        other_dimensions: Literal["refuse", "skip"] = "refuse",
        non_finite: NonFinite = "refuse",
        progress: ProgressCallback | None = None,
        timeout: float | None = None,
    ) -> Call[wm.WarmImported]:
        """Read a directory of chronos-vector's warm tier, which is not changed.

        Of points with the same key the ``duplicates`` one counts, as the files have them in order.
        Damage, points of ``other_dimensions`` and values that are not finite are refused before
        anything is written, unless asked for otherwise; the report says what was found in each
        file. What its program deleted comes back, since its deletes are in no file.

        Raises ``StoreCorrupt`` with file and offset of the first damage, or ``InvalidFormat``.
        """
        check_choice("duplicates", duplicates, ("first", "last"))
        check_choice("damaged", damaged, ("refuse", "salvage"))
        check_choice("other_dimensions", other_dimensions, ("refuse", "skip"))
        check_choice("non_finite", non_finite, ("refuse", "accept"))
        message = wm.WarmImport(
            absolute(directory),
            duplicates,
            damaged == "salvage",
            other_dimensions,
            non_finite == "accept",
        )
        return Call(message, expecting(wm.WarmImported, lambda reply: reply), timeout, progress)

    def import_file(
        self,
        source: str | os.PathLike[str],
        *,
        space: int | None = None,
        format: FileFormat | None = None,
        non_finite: NonFinite = "refuse",
        timeout: float | None = None,
    ) -> int:
        """Write the points of a Parquet or Arrow file, or of a directory such as ``export`` makes.

        Columns as for ``write_batch``, and ``space`` unless it is given. Returns how many points
        were written. Each batch of up to 65,536 is a durable unit of its own, and ``timeout`` is
        per batch; importing again what was imported changes nothing.
        """
        written = 0
        for number, points in batches_of(absolute(source), space, format):
            done = self.write_batch(number, points, non_finite=non_finite, timeout=timeout)
            written += done.points
        return written

    def export(
        self,
        directory: str | os.PathLike[str],
        *,
        format: FileFormat = "parquet",
        timeout: float | None = None,
    ) -> WarmExported:
        """Write all points to a directory that is absent or empty, one folder a space.

        ``format`` is ``"parquet"`` or ``"arrow"``. Any reader of partitioned datasets reads it, and
        so does ``import_file``. It is there as a whole or not at all; as with ``scan``, each table
        in it is one moment's state. Raises ``StoreExists``, ``StoreFull``, ``StoreIOError``, and
        ``ArtifactInvalid`` while another export to the same place is under way.
        """
        writer = PartitionWriter(absolute(directory), format)
        try:
            for table in self._scan(ALL_COLUMNS, 0, timeout):
                writer.write(table)
            return writer.finish()
        except BaseException:
            writer.discard()
            raise

    # --- the files -------------------------------------------------------------------------

    @operation
    def flush(self, *, timeout: float | None = None) -> Call[None]:
        """Write to chunks what is only in the log; the store does so by itself in time."""
        return Call(wm.WarmFlush(), _done, timeout)

    @operation
    def compact(
        self, *, progress: ProgressCallback | None = None, timeout: float | None = None
    ) -> Call[messages.Compacted]:
        """Write all points to as few chunks as can be, without what is dead.

        Reads and writes go on meanwhile, and results that map a removed chunk stay valid.
        """
        return Call(wm.WarmCompact(), _compacted, timeout, progress)

    @operation
    def verify(self, *, timeout: float | None = None) -> Call[wm.WarmVerified]:
        """Check every byte of every file; what is wrong is in ``flaws``."""
        return Call(wm.WarmVerify(), _verified, timeout)

    @operation
    def status(self, *, timeout: float | None = None) -> Call[wm.WarmStatus]:
        """Figures of the store: points, series, chunks, bytes live and dead, log, last sync."""
        return Call(messages.StoreStatus(), _status, timeout)
