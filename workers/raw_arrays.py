"""Arrays as messages carry them: little-endian bytes, row by row."""

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.errors import InvalidArgument


def ids_of(data: memoryview) -> NDArray[np.uint64]:
    """Ids, (n,)."""
    if len(data) % 8:
        raise InvalidArgument(f"ids of {len(data)} bytes are not a number of u64")
    return np.frombuffer(data, "<u8")


def matrix(data: memoryview, rows: int, dimension: int, what: str) -> NDArray[np.float32]:
    """Vectors, (rows, dimension)."""
    if len(data) != rows * dimension * 4:
        got = len(data) // (4 * rows) if rows else 0
        raise InvalidArgument(
            f"{what} have dimension {got}, the store has {dimension}"
            if rows and not len(data) % (4 * rows)
            else f"{what} of {len(data)} bytes are not {rows} rows of dimension {dimension}"
        )
    return np.frombuffer(data, "<f4").reshape(rows, dimension)


def raw(array: NDArray[np.generic]) -> memoryview:
    """The array's bytes, little-endian and row-major."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).reshape(-1).view(np.uint8).data
