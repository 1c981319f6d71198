"""Arrays as messages carry them: little-endian bytes, row by row.

What is read from a message is copied, once: its bytes go with the frame they came in, and they lie
there at any offset, where numpy is tens of times slower than on aligned numbers.
"""

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.errors import InvalidArgument

_SCRATCH_BYTES_MAX = 4 << 20  # that are kept


class Scratch:
    """Memory for what is done with by the next ``take``.

    Taken anew from the system each time, a large piece costs more than the copy that fills it.
    """

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8).data

    def take(self, size: int) -> memoryview:
        """So many bytes, which say anything. What was taken before is void."""
        if size > _SCRATCH_BYTES_MAX:
            return np.empty(size, np.uint8).data
        if len(self._memory) < size:
            self._memory = np.empty(1 << (size - 1).bit_length(), np.uint8).data
        return self._memory[:size]


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


def matrix(
    data: memoryview, rows: int, dimension: int, what: str, scratch: Scratch | None = None
) -> NDArray[np.float32]:
    """Vectors, (rows, dimension), in memory of their own, or in ``scratch``."""
    if len(data) != rows * dimension * 4:
        got = len(data) // (4 * rows) if rows else 0
        raise InvalidArgument(
            f"{what} have dimension {got}, the store has {dimension}"
            if rows and not len(data) % (4 * rows)
            else f"{what} of {len(data)} bytes are not {rows} rows of dimension {dimension}"
        )
    if scratch is None:
        return np.frombuffer(data, "<f4").reshape(rows, dimension).copy()
    memory = scratch.take(len(data))
    memory[:] = data
    return np.frombuffer(memory, "<f4").reshape(rows, dimension)


def raw(array: NDArray[np.generic]) -> memoryview:
    """The array's bytes, little-endian and row-major."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).reshape(-1).view(np.uint8).data
