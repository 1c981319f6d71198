"""Metadata as a caller may give it, as an Arrow table of the column types that a store keeps."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from holdfast.formats.errors import InvalidArgument
from holdfast.formats.tables import ARROW_REFUSALS, check_names, widened
from holdfast.handles.arrays import imported

_ARROW_TYPES = {
    str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_(), bytes: pa.binary(),
}  # fmt: skip
"""Of a list of values that are all of this type, apart from None."""
_PANDAS_INDEX = "__index_level_"


def as_metadata(value: object, rows: int) -> pa.Table | None:
    """Metadata of ``rows`` rows; None when there are no columns.

    Taken are Arrow tables and record batches, anything with Arrow's stream capsule (data frames),
    dicts of columns, and lists of dicts, where a missing key is a null and None is all nulls.
    Raises ``InvalidArgument`` naming the column, or the numbers of rows.
    """
    if value is None:
        return None
    if isinstance(value, Mapping):
        check_names(value)
        columns = {name: column_of(name, given) for name, given in value.items()}
        for name, column in columns.items():
            if len(column) != rows:
                raise InvalidArgument(
                    f"metadata column {name!r} has {len(column)} values, and there are {rows} rows"
                )
    else:
        table = _rows(value) if isinstance(value, list | tuple) else _table(value)
        if table.num_rows != rows:
            raise InvalidArgument(f"metadata has {table.num_rows} rows, and there are {rows} rows")
        check_names(table.schema.names)
        columns = dict(zip(table.schema.names, table.columns, strict=True))
    if not columns:
        return None
    widest = [widened(name, column) for name, column in columns.items()]
    return pa.Table.from_arrays(widest, list(columns))


def _rows(dicts: Sequence[object]) -> pa.Table:
    """A table of rows; columns in order of first appearance."""
    names: dict[str, None] = {}
    checked: list[Mapping[str, object]] = []
    for number, given in enumerate(dicts):
        row = {} if given is None else given
        if not isinstance(row, Mapping):
            raise InvalidArgument(
                "metadata as a list is a list of dicts or None, "
                f"row {number} is a {type(row).__name__}"
            )
        names.update(dict.fromkeys(row))
        checked.append(row)
    check_names(names)
    if not names:
        return pa.table({"": pa.nulls(len(checked))}).select([])
    return pa.table({name: column_of(name, [row.get(name) for row in checked]) for name in names})


def _table(value: object) -> pa.Table:
    """A table that is one already, in whichever library."""
    if not isinstance(value, pa.Table | pa.RecordBatch) and not hasattr(
        value, "__arrow_c_stream__"
    ):
        raise InvalidArgument(
            "metadata is an Arrow table, a data frame, a dict of columns or a list of dicts, "
            f"not {type(value).__name__}"
        )
    try:
        table = pa.table(value)
        table.validate(full=True)
    except (*ARROW_REFUSALS, TypeError, ValueError) as error:
        raise InvalidArgument(f"metadata as {type(value).__name__}: {error}") from error
    if b"pandas" in (table.schema.metadata or {}):
        names = [name for name in table.schema.names if not name.startswith(_PANDAS_INDEX)]
        table = table.select(names)
    return table


def column_of(name: str, value: object) -> pa.ChunkedArray:
    """One column of a dict. Raises ``InvalidArgument`` naming it."""
    what = f"metadata column {name!r}"
    values = value if np.ma.is_masked(value) else imported(value, what)
    try:
        if isinstance(values, pa.ChunkedArray):
            values.validate(full=True)
            return values
        array = _array_of_list(values) if isinstance(values, list) else pa.array(values)
    except (*ARROW_REFUSALS, OverflowError, TypeError, ValueError) as error:
        raise InvalidArgument(f"{what}: {error}") from error
    return pa.chunked_array([array])


def _array_of_list(values: list[object]) -> pa.Array:
    types = set(map(type, values)) - {type(None)}
    known = _ARROW_TYPES.get(types.pop()) if len(types) == 1 else None
    try:
        # A type that is not given is inferred, and for that Arrow looks for the package dateutil
        # at every call, which takes more than ten times what the array takes.
        array = pa.array(values, known)
    except OverflowError:  # integers above 2**63 - 1 are not inferred
        return pa.array(values, pa.uint64())
    if pa.types.is_binary(array.type) and any(isinstance(value, str) for value in values):
        raise TypeError("text and bytes in one column")
    return array
