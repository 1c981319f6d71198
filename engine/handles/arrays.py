"""Ids and vectors as a caller may give them, as the arrays that travel to the worker.

Taken are numpy arrays, lists, Arrow arrays and anything with Arrow's capsules or DLPack. What
already has the right type and layout is passed on without copying. Every refusal is an
``InvalidArgument`` that names the first offending row or value.
"""

import array
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, NoReturn, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from holdfast.formats.errors import InvalidArgument, LimitExceeded
from holdfast.formats.tables import ARROW_REFUSALS

ID_MAX = (1 << 64) - 1
_FINITE_BLOCK_VALUES = 1 << 16
_IMPORT_ERRORS = (
    *ARROW_REFUSALS,
    AttributeError,
    BufferError,
    RuntimeError,
    TypeError,
    ValueError,
)


class Integers(NamedTuple):
    """Which integers are meant: what they are called, their type and their bounds."""

    what: str
    dtype: type[np.uint64] | type[np.int64]
    low: int
    high: int
    bounds: str


IDS = Integers("ids", np.uint64, 0, ID_MAX, "0 to 2**64 - 1")


def as_ids(value: object) -> NDArray[np.uint64]:
    """Ids as a contiguous array (n,); see ``as_integers``."""
    return cast("NDArray[np.uint64]", as_integers(value, IDS))


def as_integers(value: object, meant: Integers) -> "NDArray[np.uint64] | NDArray[np.int64]":
    """Integers as a contiguous array (n,).

    Raises ``InvalidArgument`` for what is no list of integers, ``LimitExceeded`` for integers out
    of range, both naming index and value.
    """
    if isinstance(value, range):
        return _of_range(value, meant)
    if isinstance(value, int | np.integer):
        raise InvalidArgument(f"{meant.what} is a list, for one of them write [{value}]")
    values = imported(value, meant.what)
    if isinstance(values, pa.ChunkedArray):
        return _of_arrow(values, meant)
    if isinstance(values, np.ndarray):
        return _of_numpy(values, meant)
    return _of_list(values, meant)


def as_vectors(value: object, dimension: int | None, what: str = "vectors") -> NDArray[np.float32]:
    """Vectors as a C-contiguous array (n, dimension), n possibly 0.

    Without ``dimension`` all that is asked for is that they are equally long. float64 values beyond
    float32 become infinite, for ``first_non_finite`` to find. Raises ``InvalidArgument`` naming
    the row, what it has and what was expected.
    """
    numbers = _numbers(value, dimension, what)
    if numbers.ndim == 1 and numbers.size:
        raise InvalidArgument(
            f"{what} is a list of vectors, for one of {numbers.size} numbers write [vector]"
        )
    return _checked_matrix(numbers, dimension, what)


def as_vector(value: object) -> NDArray[np.float32]:
    """One vector as a C-contiguous array (d,); ``InvalidArgument`` for what is none."""
    if type(value) is np.ndarray and value.dtype == np.float32 and value.ndim == 1:
        return np.ascontiguousarray(value)  # and no masked array, which is looked at below
    numbers = _numbers(value, None, "vector")
    if numbers.ndim != 1:
        raise InvalidArgument(f"vector has shape {numbers.shape}, expected one row of numbers")
    return numbers


def as_queries(value: object, dimension: int | None) -> tuple[NDArray[np.float32], bool]:
    """Query vectors as a C-contiguous array (q, dimension), and whether it was a single vector.

    Otherwise as ``as_vectors``.
    """
    numbers = _numbers(value, dimension, "query")
    single = numbers.ndim == 1 and numbers.size > 0
    if single:
        if dimension is not None and numbers.size != dimension:
            raise InvalidArgument(
                f"the query vector has {numbers.size} numbers, expected {dimension}"
            )
        numbers = numbers[None]
    return _checked_matrix(numbers, dimension, "query"), single


def first_non_finite(vectors: NDArray[np.float32]) -> int | None:
    """The first row of a C-contiguous (n, d) array with a NaN or an infinity, if any.

    A sum of squares is finite only if all its terms are. It takes one pass in which nothing is
    written, and only a block whose sum is not finite is looked at value by value.
    """
    rows, dimension = vectors.shape
    step = max(1, _FINITE_BLOCK_VALUES // max(1, dimension))
    with np.errstate(all="ignore"):
        for start in range(0, rows, step):
            block = vectors[start : start + step].reshape(-1)
            if not np.isfinite(np.dot(block, block)):
                finite = np.isfinite(vectors[start : start + step]).all(axis=1)
                if not finite.all():
                    return start + int(np.argmin(finite))
    return None


def imported(value: object, what: str) -> "NDArray[np.generic] | pa.ChunkedArray | list[object]":
    """Values in one of three forms, none of which is a copy, whatever they came in.

    Raises ``InvalidArgument`` naming ``what`` for anything else.
    """
    if isinstance(value, np.ndarray):
        if np.ma.is_masked(value):
            raise InvalidArgument(f"{what} is an array with masked values")
        return np.asarray(value)
    if isinstance(value, list | tuple):
        return list(value)
    try:
        if isinstance(value, pa.ChunkedArray):
            return value
        if isinstance(value, pa.Array):
            return pa.chunked_array([value])
        if hasattr(value, "__arrow_c_stream__"):
            chunked = pa.chunked_array(value)
            # A data frame is a struct to Arrow, and a matrix to numpy.
            is_frame = pa.types.is_struct(chunked.type) and hasattr(value, "__array__")
            if isinstance(value, pa.Table) or not is_frame:
                return chunked
        elif hasattr(value, "__arrow_c_array__"):
            return pa.chunked_array([pa.array(value)])
        elif hasattr(value, "__dlpack__"):
            return np.from_dlpack(value)
        if hasattr(value, "__array__") or isinstance(value, array.array | memoryview):
            return np.asarray(value)
    except _IMPORT_ERRORS as error:
        raise InvalidArgument(f"{what} as {type(value).__name__}: {error}") from error
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | bytearray | Mapping):
        return list(value)
    raise InvalidArgument(
        f"{what} is a list, a numpy or Arrow array, or something with DLPack, "
        f"not {type(value).__name__}"
    )


# --- integers -----------------------------------------------------------------------------------

_Array = NDArray[np.uint64] | NDArray[np.int64]


def _of_range(value: range, meant: Integers) -> _Array:
    if not value:
        return cast("_Array", np.empty(0, meant.dtype))
    for index in (0, len(value) - 1):
        if not meant.low <= value[index] <= meant.high:
            _refuse_integer(index if index == 0 else _first_outside(value, meant), value, meant)
    # Modulo 2**64, where a step down is a large step up.
    steps = np.arange(len(value), dtype=np.uint64) * np.uint64(value.step % (1 << 64))
    return _typed(steps + np.uint64(value.start % (1 << 64)), meant)


def _first_outside(value: range, meant: Integers) -> int:
    """The first index of a range that starts within the limits at which it leaves them."""
    bound = meant.high if value.step > 0 else meant.low
    return (bound - value.start) // value.step + 1


def _of_numpy(values: NDArray[np.generic], meant: Integers) -> _Array:
    if values.ndim != 1:
        raise InvalidArgument(
            f"{meant.what} is a list of integers, not an array of shape {values.shape}"
        )
    kind = values.dtype.kind
    if kind == "O":
        return _of_list(values.tolist(), meant)
    if kind in "mM":
        raise InvalidArgument(f"{meant.what} are of type {values.dtype}, expected integers")
    if kind not in "iu" and values.size:
        _refuse_integer(0, values, meant)
    if values.size and kind == "i" and meant.low == 0 and values.min() < 0:
        _refuse_integer(int(np.argmax(np.less(values, 0))), values, meant)
    if values.size and kind == "u" and values.max() > meant.high:
        _refuse_integer(int(np.argmax(np.greater(values, np.uint64(meant.high)))), values, meant)
    return _typed(values, meant)


def _of_arrow(values: pa.ChunkedArray, meant: Integers) -> _Array:
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if values.null_count:
        _refuse_integer(values.is_null().index(True).as_py(), values, meant)
    if pa.types.is_temporal(values.type):
        raise InvalidArgument(f"{meant.what} are of type {values.type}, expected integers")
    if len(values) and not pa.types.is_integer(values.type):
        _refuse_integer(0, values, meant)
    parts = [_of_numpy(part.to_numpy(zero_copy_only=False), meant) for part in values.chunks]
    return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, meant.dtype), *parts])


def _of_list(values: Sequence[object], meant: Integers) -> _Array:
    if set(map(type, values)) <= {int}:
        numbers: list[int] = list(values)  # type: ignore[arg-type]  # checked in bulk just above
    else:
        numbers = []
        for index, value in enumerate(values):
            if isinstance(value, bool | np.bool_):
                _refuse_integer(index, values, meant)
            try:
                numbers.append(operator.index(value))  # type: ignore[arg-type]  # raises TypeError
            except TypeError:
                _refuse_integer(index, values, meant)
    low, high = meant.low, meant.high
    if numbers and not (min(numbers) >= low and max(numbers) <= high):
        outside = next(i for i, n in enumerate(numbers) if not low <= n <= high)
        _refuse_integer(outside, numbers, meant)
    return cast("_Array", np.array(numbers, meant.dtype))


def _typed(values: NDArray[np.generic], meant: Integers) -> _Array:
    """Integers that are within the bounds, as the type they are meant to have."""
    return cast("_Array", np.require(values, meant.dtype, ("C", "A")))


def _refuse_integer(
    index: int, values: "Sequence[object] | NDArray[np.generic]", meant: Integers
) -> NoReturn:
    value = values[index]
    if isinstance(value, np.generic):
        value = value.item()
    elif isinstance(value, pa.Scalar):
        value = value.as_py()
    what = meant.what
    if isinstance(value, int) and not isinstance(value, bool):
        raise LimitExceeded(f"{what}[{index}] is {value}, {what} are from {meant.bounds}")
    raise InvalidArgument(
        f"{what}[{index}] is {value!r} ({type(value).__name__}), {what} are integers from "
        f"{meant.bounds}"
    )


# --- vectors ------------------------------------------------------------------------------------


def _numbers(value: object, dimension: int | None, what: str) -> NDArray[np.float32]:
    """Numbers as a C-contiguous array, of one or two dimensions."""
    values = imported(value, what)
    if isinstance(values, pa.ChunkedArray):
        return _numbers_of_arrow(values, dimension, what)
    if isinstance(values, np.ndarray):
        return _numbers_of_numpy(values, what)
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        _refuse_ragged([_length(row) for row in values], dimension, what)
        raise InvalidArgument(f"{what}: {error}") from error
    return _numbers_of_numpy(array, what)


def _numbers_of_numpy(array: NDArray[np.generic], what: str) -> NDArray[np.float32]:
    if array.ndim not in (1, 2):
        raise InvalidArgument(
            f"{what} has shape {array.shape}, expected one row of numbers a vector"
        )
    if array.dtype.kind == "O":
        array = _numbers_of_objects(array, what)
    elif array.dtype.kind not in "fiu":
        raise InvalidArgument(f"{what} has values of type {array.dtype}, expected numbers")
    with np.errstate(over="ignore"):
        return np.require(array, np.float32, ("C", "A"))


def _numbers_of_objects(array: NDArray[np.generic], what: str) -> NDArray[np.float64]:
    """Python objects that may all be numbers: integers beyond 64 bits, for example."""
    for place, value in np.ndenumerate(array):
        number = isinstance(value, int | float | np.integer | np.floating)
        if not number or isinstance(value, bool):
            length = _length(value)
            if length is not None and array.ndim == 1:  # rows, not numbers
                _refuse_ragged([_length(row) for row in array.tolist()], None, what)
            at = f"row {place[0]}" + (f", number {place[1]}" if array.ndim == 2 else "")
            raise InvalidArgument(f"{what}, {at}: {value!r} is no number")
    try:
        return array.astype(np.float64)
    except OverflowError as error:
        raise InvalidArgument(f"{what}: {error}") from error


def _numbers_of_arrow(
    column: pa.ChunkedArray, dimension: int | None, what: str
) -> NDArray[np.float32]:
    """A column of lists of numbers (n, d), or of numbers (n,)."""
    parts = column.chunks
    if isinstance(column.type, pa.BaseExtensionType):
        parts = [part.storage for part in parts]
    type_ = parts[0].type if parts else column.type
    if pa.types.is_null(type_) and not len(column):  # as a frame of no rows has it
        return np.empty((0, dimension or 0), np.float32)
    width = None
    is_list = pa.types.is_list(type_) or pa.types.is_large_list(type_)
    if pa.types.is_fixed_size_list(type_):
        width = type_.list_size
    elif is_list:
        lengths = [n for part in parts for n in part.value_lengths().to_pylist()]
        _refuse_ragged(lengths, dimension, what)
        width = lengths[0] if lengths else dimension or 0
    values = type_ if width is None else type_.value_type
    if not (pa.types.is_integer(values) or pa.types.is_floating(values)):
        raise InvalidArgument(f"{what} is of Arrow type {type_}, expected lists of numbers")
    arrays, start = [], 0
    for part in parts:
        arrays.append(_part_of_arrow(part, width, start, what))
        start += len(part)
    if len(arrays) == 1:
        return arrays[0]
    empty = np.empty((0,) if width is None else (0, width), np.float32)
    return np.concatenate([empty, *arrays])


def _part_of_arrow(part: pa.Array, width: int | None, start: int, what: str) -> NDArray[np.float32]:
    """One chunk, whose first row is row ``start``."""
    if part.null_count:
        row = start + part.is_null().index(True).as_py()
        raise InvalidArgument(f"{what}, row {row}: null instead of numbers")
    flat = part if width is None else part.flatten()
    if flat.null_count:
        place = flat.is_null().index(True).as_py()
        raise InvalidArgument(f"{what}, row {start + place // (width or 1)}: a number is null")
    numbers = _numbers_of_numpy(flat.to_numpy(zero_copy_only=False), what)
    return numbers if width is None else numbers.reshape(len(part), width)


def _checked_matrix(
    numbers: NDArray[np.float32], dimension: int | None, what: str
) -> NDArray[np.float32]:
    """A matrix of that many columns; nothing at all becomes no rows."""
    if numbers.ndim == 1:
        return numbers.reshape(0, dimension or 0)
    if dimension is not None and len(numbers) and numbers.shape[1] != dimension:
        _refuse_width(0, numbers.shape[1], dimension, what)
    return numbers if len(numbers) or dimension is None else numbers.reshape(0, dimension)


def _length(row: object) -> int | None:
    """How many numbers a row has; None for what is no row."""
    if isinstance(row, str | bytes) or not hasattr(row, "__len__"):
        return None
    length: int = row.__len__()
    return length


def _refuse_ragged(lengths: Sequence[int | None], dimension: int | None, what: str) -> None:
    """Raise for the first row that is not as long as it should be, or as the first."""
    expected = dimension if dimension is not None else next(iter(lengths), None)
    for row, length in enumerate(lengths):
        if length != expected:
            _refuse_width(row, length, expected, what)


def _refuse_width(row: int, length: int | None, expected: int | None, what: str) -> NoReturn:
    got = "no list of numbers" if length is None else f"{length} numbers"
    raise InvalidArgument(f"{what}, row {row}: {got}, expected {expected}")
