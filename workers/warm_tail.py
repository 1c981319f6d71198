"""Where single points wait: a batch of a few rows is not worth a run of its own."""

import numpy as np
import pyarrow as pa

from holdfast.formats.limits import MIB
from holdfast.formats.points import Points, metadata_array, rows_of_metadata
from holdfast.workers.warm_runs import Rows, key_order

_ROWS_MAX = 1024
_BYTES_MAX = 4 * MIB

Key = tuple[int, int, int]
"""Space, entity, timestamp."""


class Tail:
    """Up to about a thousand points, by key."""

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension
        self.rows_max = max(1, min(_ROWS_MAX, _BYTES_MAX // (4 * dimension)))
        self._clear()

    def _clear(self) -> None:
        self._places: dict[Key, int] = {}
        self._vectors = np.empty((self.rows_max, self._dimension), np.float32)
        self._metadata: list[dict[str, str]] = []

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: Key) -> bool:
        return key in self._places

    def has_room(self, rows: int) -> bool:
        """Whether so many more points fit."""
        return len(self._metadata) + rows <= self.rows_max

    def get(
        self, key: Key
    ) -> "tuple[np.ndarray[tuple[int], np.dtype[np.float32]], dict[str, str]] | None":
        """Vector, which must be copied if kept, and metadata."""
        place = self._places.get(key)
        return None if place is None else (self._vectors[place], self._metadata[place])

    def put(self, points: Points) -> None:
        """Take points, in place of what has the same key."""
        start = len(self._metadata)
        rows = len(points)
        assert self.has_room(rows)
        self._vectors[start : start + rows] = points.vectors
        self._metadata += rows_of_metadata(points.metadata, rows)
        keys = zip(
            points.spaces.tolist(), points.entities.tolist(), points.timestamps.tolist(),
            strict=True,
        )  # fmt: skip
        self._places.update(zip(keys, range(start, start + rows), strict=True))

    def remove(self, key: Key) -> bool:
        """Let go of a point; False if there is none."""
        return self._places.pop(key, None) is not None

    def drain(self) -> Points | None:
        """All points, in order of key; the tail is empty then."""
        if not self._places:
            if self._metadata:
                self._clear()
            return None
        keys = list(self._places)
        places = np.fromiter(self._places.values(), np.int64, len(keys))
        spaces = np.array([key[0] for key in keys], np.uint32)
        entities = np.array([key[1] for key in keys], np.uint64)
        times = np.array([key[2] for key in keys], np.int64)
        order: Rows = key_order(spaces, entities, times)
        rows = [self._metadata[place] for place in places[order].tolist()]
        metadata: pa.MapArray | None = metadata_array(rows) if any(rows) else None
        points = Points(
            spaces[order], entities[order], times[order], self._vectors[places[order]], metadata
        )
        self._clear()
        return points
