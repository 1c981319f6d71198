"""What both handles of a warm store put into calls, and make of their answers."""

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, TypeVar

import numpy as np
import pyarrow as pa
from msgspec import structs
from numpy.typing import NDArray

from holdfast.call import Call
from holdfast.formats.errors import InvalidArgument, OptionsConflict
from holdfast.formats.limits import DIMENSION_MAX
from holdfast.formats.points import METADATA, metadata_to_ipc
from holdfast.formats.warm_chunk import ENTITY, SPACE, TIMESTAMP, VECTOR
from holdfast.formats.warm_terms import COMPRESSIONS, Compression
from holdfast.handles.base import expecting
from holdfast.handles.checks import as_number, check_choice, check_count, check_flag
from holdfast.handles.moments import as_time
from holdfast.handles.warm_input import Batch, as_space
from holdfast.handles.warm_results import ChunkMaps, reversed_table, schema_of, table_of
from holdfast.workers import warm_messages as wm
from holdfast.workers.messages import StoreSpec
from holdfast.workers.raw_arrays import raw

T = TypeVar("T")
NonFinite = Literal["refuse", "accept"]
"""What to do about NaN and infinities."""

RANGE_COLUMNS = (TIMESTAMP, VECTOR, METADATA)
ALL_COLUMNS = (SPACE, ENTITY, TIMESTAMP, VECTOR, METADATA)
# How often an answer is asked for again when chunks it refers to were merged away on the way.
_MAPPED_TRIES = 3

ScanKey = tuple[int, int, int]
ScanPage = tuple[pa.Table, ScanKey | None]
"""A page, and from behind which key the next one comes."""

_written = expecting(wm.WarmWritten, lambda reply: reply)


def options(dimension: object, compression: object) -> wm.WarmOptions:
    """Checked options of a warm store."""
    if compression is not None:
        check_choice("compression", compression, COMPRESSIONS)
    return wm.WarmOptions(
        None if dimension is None else as_number("dimension", dimension, 1, DIMENSION_MAX),
        compression,  # type: ignore[arg-type]  # checked just above
    )


def agreed(opened: StoreSpec, asked: wm.WarmOptions) -> wm.WarmIs:
    """The properties of a store, if they are what was asked for; ``OptionsConflict`` if not."""
    found, name = opened.properties, opened.name
    assert isinstance(found, wm.WarmIs)
    for what in ("dimension", "compression"):
        wanted, has = getattr(asked, what), getattr(found, what)
        if wanted is not None and wanted != has:
            raise OptionsConflict(f"store {name!r} has {what}={has!r}, not {wanted!r}", store=name)
    return found


def check_columns(columns: Iterable[str], known: tuple[str, ...]) -> tuple[str, ...]:
    """The columns that are asked for, if there are such."""
    if isinstance(columns, str):
        raise InvalidArgument(f"columns is a list of names, for one write [{columns!r}]")
    if not isinstance(columns, Iterable):
        raise InvalidArgument(f"columns is a list of names, not {type(columns).__name__}")
    wanted = tuple(columns)
    for name in wanted:
        if not isinstance(name, str) or name not in known:
            raise InvalidArgument(f"column {name!r:.80} is none of {', '.join(known)}")
    if not wanted or len(set(wanted)) != len(wanted):
        raise InvalidArgument(f"columns {list(wanted)} are not some different ones")
    return wanted


def range_message(
    space: object,
    ids: NDArray[np.uint64],
    start: object,
    end: object,
    limit: int | None,
    reverse: bool,
    wanted: tuple[str, ...],
) -> wm.WarmRange:
    """The request for a range, of checked arguments."""
    return wm.WarmRange(
        as_space(space),
        raw(ids),
        as_time("start", start),
        as_time("end", end),
        None if limit is None else check_count("limit", limit, least=0),
        check_flag("reverse", reverse),
        VECTOR in wanted,
        METADATA in wanted,
    )


def cut(table: pa.Table, rows: int) -> Iterator[pa.Table]:
    """The table in parts of at most so many rows; 0 means: whole. Nothing if it is empty."""
    step = rows or max(1, table.num_rows)
    for start in range(0, table.num_rows, step):
        yield table.slice(start, step)


def last_series(page: pa.Table) -> tuple[int, int]:
    """Space and entity of the last series of a page."""
    return page[SPACE][-1].as_py(), page[ENTITY][-1].as_py()


class WarmCalls:
    """The parts that the blocking and the asyncio handle have in common."""

    def __init__(self, spec: StoreSpec, properties: wm.WarmIs) -> None:
        self._properties = properties
        self._maps = ChunkMaps(spec.path, compressed=properties.compression != "none")

    @property
    def dimension(self) -> int:
        """Of every vector."""
        return self._properties.dimension

    @property
    def compression(self) -> Compression:
        """Of the chunks' buffers: ``none``, ``zstd`` or ``lz4``."""
        return self._properties.compression

    def _empty(self, wanted: tuple[str, ...]) -> pa.Table:
        return schema_of(wanted, self.dimension).empty_table()

    def _write_call(
        self, space: object, batch: Batch, non_finite: str, timeout: float | None
    ) -> Call[wm.WarmWritten]:
        check_choice("non_finite", non_finite, ("refuse", "accept"))
        message = wm.WarmWrite(
            as_space(space),
            raw(batch.entities),
            raw(batch.timestamps),
            raw(batch.vectors),
            memoryview(metadata_to_ipc(batch.metadata)),
            non_finite == "accept",
        )
        return Call(message, _written, timeout)

    def _range_call(
        self,
        message: wm.WarmRange,
        wanted: tuple[str, ...],
        entity: int | None,
        timeout: float | None,
    ) -> Call[pa.Table]:
        def unwrap(reply: wm.WarmRows) -> pa.Table:
            table = table_of(reply, self._maps, self.dimension, wanted, entity)
            return reversed_table(table) if message.reverse else table

        return _mapped_call(message, unwrap, timeout)

    def _page_call(
        self, message: wm.WarmScan, wanted: tuple[str, ...], timeout: float | None
    ) -> Call[ScanPage]:
        def unwrap(reply: wm.WarmRows) -> ScanPage:
            table = table_of(reply, self._maps, self.dimension, wanted)
            return table, reply.last if reply.more else None

        return _mapped_call(message, unwrap, timeout)


def _mapped_call(
    message: wm.WarmRange | wm.WarmScan,
    unwrap: Callable[[wm.WarmRows], T],
    timeout: float | None,
    tries: int = _MAPPED_TRIES,
) -> Call[T]:
    """Ask for rows; again when a file they lie in is gone, the last time for the rows themselves.

    That is so when chunks were merged between the answer and the moment it is looked at.
    """

    def again() -> Call[T]:
        asked = message if tries > 1 else structs.replace(message, mapped=False)
        return _mapped_call(asked, unwrap, timeout, tries - 1)

    return Call(message, expecting(wm.WarmRows, unwrap), timeout, instead=again)
