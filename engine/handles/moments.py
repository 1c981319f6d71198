"""Moments as a caller may give them, as the microseconds since 1970-01-01 UTC that stores keep.

Integers are such microseconds. ``datetime.datetime`` needs a time zone: Python takes one without
for local time, and what that is differs from machine to machine. The ``datetime64`` of numpy, and
columns of pandas, polars and Arrow, are UTC where they have no zone, as numpy defines.

Nothing is rounded: what is no whole number of microseconds is refused, and so is what lies beyond
64 bits of them, by an error that names the first such value.
"""

import datetime
from typing import Any, TypeAlias, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from holdfast.formats.errors import InvalidArgument, LimitExceeded
from holdfast.formats.points import TIME_MAX, TIME_MIN
from holdfast.handles.arrays import Integers, as_integers, imported
from holdfast.handles.checks import as_number

Moment: TypeAlias = int | np.integer[Any] | datetime.datetime | np.datetime64
"""Microseconds since 1970-01-01 UTC, or a date and time."""

TIMESTAMPS = Integers("timestamps", np.int64, TIME_MIN, TIME_MAX, "-2**63 to 2**63 - 1")
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)
_MICROSECONDS = np.dtype("datetime64[us]")
_FINER = ("ns", "ps", "fs", "as")


def as_time(name: str, value: object) -> int:
    """A moment in microseconds."""
    if type(value) is int:
        return as_number(name, value, TIME_MIN, TIME_MAX)
    precise = getattr(value, "to_datetime64", None)  # pandas's Timestamp, which has nanoseconds
    if callable(precise):
        value = precise()
    if isinstance(value, np.datetime64):
        return int(_of_datetimes(np.array([value]), name, is_column=False)[0])
    if isinstance(value, datetime.datetime):
        return _of_datetime(name, value)
    return as_number(name, value, TIME_MIN, TIME_MAX)


def as_times(value: object) -> NDArray[np.int64]:
    """Moments in microseconds, (n,)."""
    if isinstance(value, range | int | np.integer):
        return cast("NDArray[np.int64]", as_integers(value, TIMESTAMPS))
    values = imported(value, TIMESTAMPS.what)
    if isinstance(values, pa.ChunkedArray) and pa.types.is_timestamp(values.type):
        if values.null_count:
            row = values.is_null().index(True).as_py()
            raise InvalidArgument(f"{TIMESTAMPS.what}[{row}] is null, which is no moment")
        return _of_datetimes(values.to_numpy(), TIMESTAMPS.what)
    if isinstance(values, np.ndarray):
        if values.dtype.kind == "M" and values.ndim == 1:
            return _of_datetimes(cast("NDArray[np.datetime64]", values), TIMESTAMPS.what)
        if values.dtype.kind == "O" and values.ndim == 1:
            values = values.tolist()
    if isinstance(values, list) and any(map(_is_datetime, values)):
        values = [as_time(f"{TIMESTAMPS.what}[{n}]", one) for n, one in enumerate(values)]
    return cast("NDArray[np.int64]", as_integers(values, TIMESTAMPS))


def as_some_times(value: object) -> NDArray[np.int64]:
    """As ``as_times``; a single moment becomes a list."""
    single = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if single or _is_datetime(value):
        return np.array([as_time("timestamp", value)], np.int64)
    return as_times(value)


def _is_datetime(value: object) -> bool:
    return isinstance(value, datetime.datetime | np.datetime64)


def _of_datetime(name: str, value: datetime.datetime) -> int:
    if value.utcoffset() is None:
        raise InvalidArgument(
            f"{name} is {value.isoformat()} without a time zone, so it is no moment: for UTC, use "
            "its .replace(tzinfo=datetime.UTC)"
        )
    return (value - _EPOCH) // _MICROSECOND


def _of_datetimes(
    values: NDArray[np.datetime64], name: str, *, is_column: bool = True
) -> NDArray[np.int64]:
    """Values of type datetime64, of whatever unit, (n,)."""

    def at(row: int) -> str:
        return f"{name}[{row}]" if is_column else name

    missing = np.isnat(values)
    if missing.any():
        raise InvalidArgument(f"{at(int(np.argmax(missing)))} is NaT, which is no moment")
    unit = np.datetime_data(values.dtype)[0]
    if unit == "generic":  # and so without values
        return np.empty(0, np.int64)
    found = values.astype(_MICROSECONDS)
    wrong = found.astype(values.dtype) != values
    if wrong.any():
        row = int(np.argmax(wrong))
        if unit in _FINER:
            raise InvalidArgument(
                f"{at(row)} is {values[row]}, no whole number of microseconds; round it first, for "
                "example with .astype('datetime64[us]')"
            )
        raise LimitExceeded(f"{at(row)} is {values[row]}, over 64 bits of microseconds")
    return found.view(np.int64)
