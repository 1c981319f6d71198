"""Arrays as messages carry them: little-endian bytes, row by row.

What is read from a message is copied, once: its bytes go with the frame they came in, and they lie
there at any offset, where numpy is tens of times slower than on aligned numbers.
"""

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.errors import InvalidArgument


def ids_of(data: memoryview, what: str = "ids") -> NDArray[np.uint64]:
    """Ids, (n,), in memory of their own."""
    if len(data) % 8:
        raise InvalidArgument(f"{what} of {len(data)} bytes are not a number of u64")
    return np.frombuffer(data, "<u8").copy()


def times_of(data: memoryview) -> NDArray[np.int64]:
    """Timestamps, (n,), in memory of their own."""
    if len(data) % 8:
        raise InvalidArgument(f"timestamps of {len(data)} bytes are not a number of i64")
    return np.frombuffer(data, "<i8").copy()


def matrix(data: memoryview, rows: int, dimension: int, what: str) -> NDArray[np.float32]:
    """Vectors, (rows, dimension), in memory of their own."""
    if len(data) != rows * dimension * 4:
        got = len(data) // (4 * rows) if rows else 0
        raise InvalidArgument(
            f"{what} have dimension {got}, the store has {dimension}"
            if rows and not len(data) % (4 * rows)
            else f"{what} of {len(data)} bytes are not {rows} rows of dimension {dimension}"
        )
    return np.frombuffer(data, "<f4").reshape(rows, dimension).copy()


def raw(array: NDArray[np.generic]) -> memoryview:
    """The array's bytes, little-endian and row-major."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).reshape(-1).view(np.uint8).data
