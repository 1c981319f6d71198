"""The metadata of all rows of a store, in columns, aligned with the rows' global numbers.

Rows are only ever appended. They lie in chunks, each with the same rows of every column that has a
value in it. Small chunks are merged into larger ones as in a log-structured tree, so that each row
is copied a logarithmic number of times: at once when somebody reads, else after every 64 appends.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from holdfast.formats.errors import InvalidArgument, LimitExceeded
from holdfast.formats.limits import MIB
from holdfast.formats.rvf.meta import FIELD_ID_MAX, field_number, numbered
from holdfast.formats.tables import (
    ID,
    arrow_of,
    check_names,
    numbers_of,
    type_name,
    widened,
)
from holdfast.workers.where import Condition, prepare, select

T = TypeVar("T")

_LOOSE_CHUNKS_MAX = 64
# Larger chunks stay as they are: Arrow computes in batches of half as many rows, and text columns
# end at 2 GiB a chunk.
_MERGED_ROWS = 1 << 16
_MERGED_BYTES = 32 * MIB
_MASKS_MAX = 8
_CONDITIONS_MAX = 64
_SMALL_BLOCK_ROWS = 4096


class _Chunk(NamedTuple):
    """Some rows; a column that is not in ``arrays`` is null in all of them."""

    rows: int
    nbytes: int
    arrays: dict[str, pa.Array]

    @property
    def is_large(self) -> bool:
        return self.rows >= _MERGED_ROWS or self.nbytes >= _MERGED_BYTES


class Columns:
    """Typed metadata columns of rows 0 to ``rows - 1``; one that a row lacks is null for it."""

    def __init__(self) -> None:
        self.rows = 0
        self.schema: pa.Schema = pa.schema([])
        """The columns in order of appearance, with their numbers (``formats.rvf.meta``)."""
        self._types: dict[str, pa.DataType] = {}
        self._numbers: dict[str, int] = {}
        self._chunks: list[_Chunk] = []
        self._loose = 0  # chunks appended since the last merge
        self._starts: NDArray[np.int64] | None = None
        self._fitting: pa.Schema | None = None
        self._masks: dict[bytes, NDArray[np.bool_]] = {}
        self._conditions: dict[bytes, Condition] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of the columns in memory."""
        return sum(chunk.nbytes for chunk in self._chunks)

    @property
    def has_columns(self) -> bool:
        """Whether there is any column."""
        return bool(self._types)

    def fields(self) -> dict[str, tuple[int, str]]:
        """Number and type of each column, by name."""
        return {
            name: (self._numbers[name], type_name(type_)) for name, type_ in self._types.items()
        }

    def check(self, table: pa.Table, rows: int) -> pa.Table:
        """What ``append`` would take over of metadata for ``rows`` rows; changes nothing.

        Columns come in one piece each, in the store's types, with their numbers. A new column keeps
        the number it carries if no other has it. Raises ``InvalidArgument`` naming the column for a
        type that no store keeps or that its earlier values do not have, and for another number of
        rows; ``LimitExceeded`` for more than 65,536 columns.
        """
        if not table.num_columns:
            return table
        schema, arrays = self._fitted(table, rows)
        return pa.Table.from_arrays(arrays, schema=schema)

    def append(self, table: pa.Table | None, count: int) -> None:
        """Take over the metadata of ``count`` further rows; None when they have none.

        Raises as ``check`` does, and then has changed nothing.
        """
        arrays: dict[str, pa.Array] = {}
        nbytes = 0
        if table is not None and table.num_columns:
            schema, columns = self._fitted(table, count)
            if schema is not self._fitting:
                self._adopt(schema)
            for name, column in zip(schema.names, columns, strict=True):
                if column.null_count < count:
                    arrays[name] = array = column.chunk(0)
                    nbytes += array.nbytes
        if not count:
            return
        chunk = _Chunk(count, nbytes, arrays)
        if chunk.is_large:
            self._merge()  # later merges will not look behind it
        self._chunks.append(chunk)
        self.rows += count
        self._masks.clear()
        self._starts = None
        self._loose += 1
        if self._loose > _LOOSE_CHUNKS_MAX:
            self._merge()

    def take(self, rows: NDArray[np.int64], columns: Sequence[str] | None = None) -> pa.Table:
        """These rows in this order, all columns or those named. Raises ``InvalidArgument``."""
        schema = self.schema
        if columns is not None:
            for name in columns:
                if name not in self._types:
                    raise InvalidArgument(
                        f"there is no metadata column {name!r}; there are "
                        f"{', '.join(self._types) or 'none'}"
                    )
            schema = pa.schema([schema.field(name) for name in columns])
        assert not len(rows) or (rows.min() >= 0 and rows.max() < self.rows), rows
        self._merge()
        if self._starts is None:
            counts = [chunk.rows for chunk in self._chunks]
            self._starts = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        of_chunk = np.searchsorted(self._starts, rows, side="right") - 1
        order = None
        if np.any(of_chunk[1:] < of_chunk[:-1]):
            order = np.argsort(of_chunk, kind="stable")
            rows, of_chunk = rows[order], of_chunk[order]
        parts = []
        edges = [0, *(np.flatnonzero(np.diff(of_chunk)) + 1).tolist(), len(rows)]
        for start, end in pairwise(edges):
            if start < end:
                number = int(of_chunk[start])
                local = arrow_of(rows[start:end] - self._starts[number])
                parts.append((self._chunks[number], local))
        back = None if order is None else arrow_of(np.argsort(order))
        return pa.Table.from_arrays([_taken(field, parts, back) for field in schema], schema=schema)

    def evaluate(self, where: bytes, ids: Sequence[NDArray[np.uint64]]) -> NDArray[np.bool_]:
        """Where an expression (``formats.expression``) is true, as a read-only mask over all rows.

        A row where it is false or null is not selected, as in SQL. ``ids`` are the ids of all rows
        in order, which the expression knows as column ``id``. Raises ``InvalidArgument`` naming the
        expression, and the column if one is unknown.
        """
        mask = self._masks.pop(where, None)
        if mask is None:
            condition = self._conditions.get(where)
            if condition is None:
                condition = prepare(where, {ID: pa.uint64(), **self._types})
                _put_newest(self._conditions, where, condition, _CONDITIONS_MAX)
            self._merge()
            mask = select(condition, self._table(condition.names, ids), self.rows)
            mask.flags.writeable = False
        _put_newest(self._masks, where, mask, _MASKS_MAX)
        return mask

    def _fitted(self, table: pa.Table, rows: int) -> tuple[pa.Schema, Sequence[pa.ChunkedArray]]:
        """Schema and columns as ``check`` gives them."""
        if table.num_rows != rows:
            raise InvalidArgument(f"metadata has {table.num_rows} rows, and there are {rows} rows")
        given = table.schema
        columns: list[pa.ChunkedArray] = table.columns
        if self._fitting is not None and given.equals(self._fitting, check_metadata=True):
            if all(column.num_chunks == 1 for column in columns):
                return self._fitting, columns
            return self._fitting, [
                widened(name, column) for name, column in zip(given.names, columns, strict=True)
            ]
        check_names(given.names)
        fitted, fields = [], []
        taken = set(self._numbers.values())
        free = _free_numbers(taken)
        for field, column in zip(given, columns, strict=True):
            known = self._types.get(field.name)
            column = widened(field.name, column)
            if known is not None and known != column.type:
                column = _converted(field.name, column, known)
            number = self._numbers.get(field.name)
            if number is None:
                carried = field_number(field)
                number = next(free, None) if carried is None or carried in taken else carried
                if number is None:
                    raise LimitExceeded(
                        f"metadata column {field.name!r}: there are {FIELD_ID_MAX + 1} columns, "
                        "which is the limit"
                    )
                taken.add(number)
            fields.append(numbered(field.name, column.type, number))
            fitted.append(column)
        return pa.schema(fields), fitted

    def _adopt(self, schema: pa.Schema) -> None:
        """Take over columns that are new, or had no type yet."""
        changed = False
        for field in schema:
            if self._types.get(field.name) != field.type:
                changed = True
                self._types[field.name] = field.type
                number = field_number(field)
                assert number is not None, field
                self._numbers.setdefault(field.name, number)
        if changed:
            self.schema = pa.schema(
                [numbered(name, type_, self._numbers[name]) for name, type_ in self._types.items()]
            )
            self._conditions.clear()
        self._fitting = schema

    def _merge(self) -> None:
        """Merge the youngest chunks while the next older one is not larger than they together."""
        if not self._loose:
            return
        chunks = self._chunks
        start = len(chunks)
        rows = nbytes = 0
        while start and not chunks[start - 1].is_large and nbytes < _MERGED_BYTES:
            chunk = chunks[start - 1]
            if chunk.rows > rows and len(chunks) - start >= self._loose:
                break
            rows, nbytes, start = rows + chunk.rows, nbytes + chunk.nbytes, start - 1
        if len(chunks) - start > 1:
            chunks[start:] = [self._merged(chunks[start:], rows)]
            self._starts = None
        self._loose = 0

    def _merged(self, chunks: list[_Chunk], rows: int) -> _Chunk:
        arrays = {}
        for name, type_ in self._types.items():
            if any(name in chunk.arrays for chunk in chunks):
                arrays[name] = pa.concat_arrays([_array(chunk, name, type_) for chunk in chunks])
        return _Chunk(rows, sum(array.nbytes for array in arrays.values()), arrays)

    def _table(self, names: Sequence[str], ids: Sequence[NDArray[np.uint64]]) -> pa.Table:
        """These columns, ``id`` among them if it is named."""
        columns = []
        for name in names:
            if name == ID:
                columns.append(pa.chunked_array(_id_arrays(ids), pa.uint64()))
            else:
                type_ = self._types[name]
                pieces = [_array(chunk, name, type_) for chunk in self._chunks]
                columns.append(pa.chunked_array(pieces, type_))
        return pa.Table.from_arrays(columns, list(names))


def _array(chunk: _Chunk, name: str, type_: pa.DataType) -> pa.Array:
    array = chunk.arrays.get(name)
    return pa.nulls(chunk.rows, type_) if array is None else array


def _taken(
    field: pa.Field, parts: list[tuple[_Chunk, pa.Array]], back: pa.Array | None
) -> pa.ChunkedArray:
    """The rows of one column, ``parts`` being rows by chunk and ``back`` the order asked for."""
    pieces = []
    for chunk, local in parts:
        array = chunk.arrays.get(field.name)
        pieces.append(pa.nulls(len(local), field.type) if array is None else array.take(local))
    if back is not None:
        pieces = [pa.concat_arrays(pieces).take(back)]
    return pa.chunked_array(pieces, field.type)


def _id_arrays(ids: Sequence[NDArray[np.uint64]]) -> list[pa.Array]:
    """Ids as Arrow arrays without copying, or in one piece where the pieces are many and small."""
    if sum(map(len, ids)) < len(ids) * _SMALL_BLOCK_ROWS:
        ids = [np.concatenate([np.empty(0, np.uint64), *ids])]
    return [arrow_of(block) for block in ids]


def _free_numbers(taken: set[int]) -> Iterator[int]:
    """Numbers for new columns; ``taken`` may grow meanwhile."""
    above = max(taken, default=-1) + 1
    for number in chain(range(above, FIELD_ID_MAX + 1), range(above)):
        if number not in taken:
            yield number


def _converted(name: str, column: pa.ChunkedArray, known: pa.DataType) -> pa.ChunkedArray:
    """A column in the type that its earlier values have, where that loses nothing."""
    given = column.type
    if given == pa.null() or known == pa.null():
        return column if known == pa.null() else column.cast(known)
    reason = ""
    if pa.types.is_integer(given) and pa.types.is_integer(known):
        try:
            return column.cast(known)
        except pa.ArrowInvalid as error:
            reason = f": {error}"
    elif pa.types.is_integer(given) and known == pa.float64():
        floats = column.cast(known, safe=False)
        inexact = _first_inexact(column, floats)
        if inexact is None:
            return floats
        reason = f": {inexact} is not exact as float64"
    raise InvalidArgument(
        f"metadata column {name!r}, type clash: its earlier values are {type_name(known)}, "
        f"these are {type_name(given)}{reason}"
    )


def _first_inexact(integers: pa.ChunkedArray, floats: pa.ChunkedArray) -> int | None:
    """The first integer that is not exactly its float, if any."""
    if not len(integers) or integers.null_count == len(integers):
        return None
    low, high = -(1 << 53), 1 << 53
    kind = np.uint64 if integers.type == pa.uint64() else np.int64
    values = numbers_of(integers.chunk(0).fill_null(0), kind)
    if low <= int(values.min()) and int(values.max()) <= high:
        return None
    pairs = zip(integers.to_pylist(), floats.to_pylist(), strict=True)
    return next((number for number, near in pairs if number is not None and number != near), None)


def _put_newest(cache: dict[bytes, T], key: bytes, value: T, limit: int) -> None:
    """Make this the newest entry of a cache, and drop the oldest beyond ``limit``."""
    cache[key] = value
    if len(cache) > limit:
        del cache[next(iter(cache))]
