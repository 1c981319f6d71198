"""What a sample of records shows of each field: missing values, distinct values, frequent ones.

Values are compared as the text that the original makes of them::

    text             as it is; the empty text counts as missing
    signed integer   in decimal
    float            the shortest digits that give the same float64 again, never an exponent:
                     1.0 is "1", 1e21 is a 1 and 21 zeros; "inf", "-inf" and "NaN"
    bool             "true" or "false"
    missing or null, unsigned integer, bytes: count as missing

So 1, 1.0 and "1" are the same value, and a column of unsigned integers looks empty, which is logged
as a warning. Other types are refused: how they would read as text is the caller's to say.

Tables are counted column by column and in Arrow's kernels; what that needs beside the table is a
few times the distinct values of one column.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.formats.errors import InvalidArgument, LimitExceeded
from holdfast.formats.fingerprint import FieldKind, FieldStats
from holdfast.formats.limits import TOP_K_MAX
from holdfast.formats.tables import ARROW_REFUSALS

log = logging.getLogger("holdfast.fingerprint")

_I64_END = 1 << 63
_U64_END = 1 << 64
_EXPONENT = "e"


class Seen(NamedTuple):
    """What was seen of one field."""

    missing: int
    distinct: int
    top_k: tuple[str, ...]
    unsigned: bool = False
    """Whether unsigned integers or bytes were among what counts as missing."""


def field_stats(
    fields: Iterable[tuple[str, FieldKind]], records: object
) -> tuple[tuple[FieldStats, ...], int]:
    """The statistics of each field over ``records``, and how many records there are.

    Records are a list of dicts (or any iterable of them), an Arrow table or record batch, or
    anything with Arrow's stream capsule, such as a pandas or polars frame. Raises
    ``InvalidArgument`` naming the field and the record or type.
    """
    fields = list(fields)
    names = list(dict.fromkeys(name for name, _ in fields))
    if _is_table(records):
        seen, total = _seen_in_table(names, records)
    else:
        seen, total = _seen_in_dicts(names, records)
    for name, found in seen.items():
        if found.unsigned:
            log.warning(
                "field %r has unsigned integers or bytes, which count as missing values; make "
                "them signed or text if they are to count",
                name,
            )
    rates = {
        name: float(np.float32(found.missing) / np.float32(total)) if total else 0.0
        for name, found in seen.items()
    }
    stats = tuple(
        FieldStats(name, kind, rates[name], seen[name].distinct, seen[name].top_k)
        for name, kind in fields
    )
    return stats, total


# --- dicts -------------------------------------------------------------------------------------


def _seen_in_dicts(names: Sequence[str], records: object) -> tuple[dict[str, Seen], int]:
    if isinstance(records, Mapping | str | bytes) or not isinstance(records, Iterable):
        raise InvalidArgument(
            "records are dicts in a list, an Arrow table or a data frame, not "
            f"{type(records).__name__}"
        )
    counters = [_Texts(name) for name in names]
    total = 0
    for number, record in enumerate(records):
        if not isinstance(record, Mapping):
            raise InvalidArgument(f"records[{number}] is a dict, not {type(record).__name__}")
        for counter in counters:
            counter.add(number, record.get(counter.name))
        total = number + 1
    return {counter.name: counter.seen(total) for counter in counters}, total


class _Texts:
    """Counts the values of one field of dicts."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._counts: Counter[str] = Counter()
        self._unsigned = False

    def add(self, number: int, value: object) -> None:
        """Count one record's value."""
        if value is None:
            return
        write = _WRITERS.get(type(value))
        if write is None:
            self._add_unusual(number, value)
        else:
            self._count(number, write, value)

    def _count(self, number: int, write: "_Writer", value: object) -> None:
        try:
            text = write(value)
            if text is None:
                self._unsigned = True
            elif text:
                self._counts[text] += 1
        except (InvalidArgument, UnicodeEncodeError) as error:
            raise InvalidArgument(f"records[{number}], field {self.name!r}: {error}") from None

    def _add_unusual(self, number: int, value: object) -> None:
        """A value of numpy's, or of a class derived from one of the usual."""
        if isinstance(value, np.generic):
            if isinstance(value, np.unsignedinteger):
                self._unsigned = True
            else:
                self.add(number, value.item())
            return
        for usual, write in _WRITERS.items():
            if isinstance(value, usual):
                self._count(number, write, value)
                return
        raise InvalidArgument(
            f"records[{number}], field {self.name!r}: a {type(value).__name__} is neither text, "
            "number, bool nor bytes; make it text"
        )

    def seen(self, total: int) -> Seen:
        """What was seen in ``total`` records."""
        top = sorted(self._counts.items(), key=lambda item: (-item[1], item[0].encode()))
        texts = tuple(text for text, _ in top[:TOP_K_MAX])
        missing = total - self._counts.total()
        return Seen(missing, len(self._counts), texts, self._unsigned)


def _text_of_str(value: Any) -> str:
    value.encode()
    return str.__str__(value)


def _text_of_int(value: Any) -> str | None:
    if -_I64_END <= value < _I64_END:
        return int.__repr__(value)
    if 0 <= value < _U64_END:
        return None  # only an unsigned integer holds it
    raise LimitExceeded(f"{value} fits in no 64-bit integer")


def text_of_float(value: float) -> str:
    """The shortest digits that give this float again, without an exponent."""
    if value != value:
        return "NaN"
    text = float.__repr__(value)
    if _EXPONENT in text:
        text = format(Decimal(text), "f")
    return text.removesuffix(".0")


_Writer = Callable[[Any], str | None]
_WRITERS: dict[type, _Writer] = {
    bool: lambda value: "true" if value else "false",  # before int, of which it is one
    str: _text_of_str,
    int: _text_of_int,
    float: text_of_float,
    bytes: lambda value: None,
    bytearray: lambda value: None,
    memoryview: lambda value: None,
}


# --- tables ------------------------------------------------------------------------------------


def _is_table(records: object) -> bool:
    if isinstance(records, pa.Table | pa.RecordBatch | pa.RecordBatchReader):
        return True
    return hasattr(records, "__arrow_c_stream__") or hasattr(records, "__arrow_c_array__")


def _seen_in_table(names: Sequence[str], records: object) -> tuple[dict[str, Seen], int]:
    try:
        if isinstance(records, pa.RecordBatchReader):
            table = records.read_all()
        elif isinstance(records, pa.Table):
            table = records
        else:
            table = pa.table(records)
    except (*ARROW_REFUSALS, TypeError, ValueError) as error:
        raise InvalidArgument(f"records as {type(records).__name__}: {error}") from error
    seen = {}
    for name in names:
        places = table.schema.get_all_field_indices(name)
        if len(places) > 1:
            raise InvalidArgument(f"the records have {len(places)} columns {name!r}")
        if places:
            seen[name] = _seen_in_column(name, table.column(places[0]))
        else:
            seen[name] = Seen(table.num_rows, 0, ())
    return seen, table.num_rows


def _seen_in_column(name: str, column: Any) -> Seen:
    """Count the values of a column."""
    try:
        column.validate(full=True)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if _counts_as_missing(column.type):
            unsigned = not pa.types.is_null(column.type) and column.null_count < len(column)
            return Seen(len(column), 0, (), unsigned)
        counted = pc.value_counts(_countable(name, column).drop_null())
        values, counts = counted.field("values"), counted.field("counts")
        return _top(len(column), _as_texts(column.type, values, counts))
    except ARROW_REFUSALS as error:
        raise InvalidArgument(f"field {name!r}: {error}") from error


def _counts_as_missing(type_: Any) -> bool:
    types = pa.types
    return any(
        test(type_)
        for test in (
            types.is_null,
            types.is_unsigned_integer,
            types.is_binary,
            types.is_large_binary,
            types.is_fixed_size_binary,
            types.is_binary_view,
        )
    )


def _countable(name: str, column: Any) -> Any:
    """The column as a type whose equal values are equal texts, or nearly; raises if it has none."""
    types = pa.types
    if types.is_floating(column.type):
        # As bits: 0.0 and -0.0 are two values, and Arrow's hashing is not clear about them.
        wide = column.cast(pa.float64())
        return pa.chunked_array([chunk.view(pa.int64()) for chunk in wide.chunks], pa.int64())
    if types.is_string_view(column.type):
        return column.cast(pa.large_string())
    if any(
        test(column.type)
        for test in (
            types.is_signed_integer,
            types.is_boolean,
            types.is_string,
            types.is_large_string,
        )
    ):
        return column
    raise InvalidArgument(
        f"field {name!r} is a column of {column.type}, which is neither text, number, bool nor "
        "bytes; cast it to text"
    )


def _as_texts(type_: Any, values: Any, counts: Any) -> Any:
    """A table of the texts that values make and how often each comes."""
    if pa.types.is_floating(type_):
        floats = values.view(pa.float64())
        texts = pc.cast(floats, pa.large_string())
        odd = pc.or_(pc.match_substring(texts, _EXPONENT), pc.is_nan(floats))
        if pc.any(odd).as_py():
            plain = [text_of_float(value) for value in floats.filter(odd).to_pylist()]
            texts = pc.replace_with_mask(texts, odd, pa.array(plain, pa.large_string()))
        table = pa.table({"text": texts, "count": counts})
        if (pc.sum(pc.is_nan(floats)).as_py() or 0) > 1:  # of other bits, but the same text
            table = table.group_by("text").aggregate([("count", "sum")])
            table = table.rename_columns({"count_sum": "count"})
        return table
    return pa.table({"text": pc.cast(values, pa.large_string()), "count": counts})


def _top(rows: int, table: Any) -> Seen:
    table = table.filter(pc.not_equal(table["text"], ""))
    if not table.num_rows:
        return Seen(rows, 0, ())
    keys = [("count", "descending"), ("text", "ascending")]
    top = table.take(pc.select_k_unstable(table, min(TOP_K_MAX, table.num_rows), keys))
    missing = rows - pc.sum(table["count"]).as_py()
    return Seen(missing, table.num_rows, tuple(top["text"].to_pylist()))
