"""Points for the tests of the warm store's formats, and how to damage what was made of them."""

from collections.abc import Iterator

import numpy as np
from hypothesis import strategies as st

from holdfast.formats.points import Points, metadata_array, rows_of_metadata

STORE_ID = bytes(range(16))
DIMENSION = 3
SPACES = st.sampled_from([0, 1, 2, (1 << 32) - 1])
ENTITIES = st.sampled_from([0, 1, 7, 1 << 63, (1 << 64) - 1])
TIMES = st.one_of(st.integers(-3, 3), st.sampled_from([-(1 << 63), (1 << 63) - 1]))
FLOATS = st.floats(width=32, allow_nan=False)
METADATA = st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=3)

Key = tuple[int, int, int]
"""Space, entity, timestamp."""
Row = tuple[bytes, dict[str, str]]
"""A vector's bytes, and metadata."""
Rows = dict[Key, Row]

KEYS = st.tuples(SPACES, ENTITIES, TIMES)
VALUES = st.tuples(
    st.lists(FLOATS, min_size=DIMENSION, max_size=DIMENSION).map(
        lambda values: np.array(values, "<f4").tobytes()
    ),
    METADATA,
)


def rows(min_size: int = 0, max_size: int = 12) -> st.SearchStrategy[Rows]:
    """Rows by key, in order of key."""
    found = st.dictionaries(KEYS, VALUES, min_size=min_size, max_size=max_size)
    return found.map(lambda some: dict(sorted(some.items())))


def points_of(some: Rows, dimension: int = DIMENSION) -> Points:
    """Rows as columns, in the order they are in."""
    keys = list(some)
    vectors = np.frombuffer(b"".join(vector for vector, _ in some.values()), "<f4")
    metadata = [metadata for _, metadata in some.values()]
    return Points(
        np.array([space for space, _, _ in keys], np.uint32),
        np.array([entity for _, entity, _ in keys], np.uint64),
        np.array([time for _, _, time in keys], np.int64),
        vectors.reshape(len(keys), dimension),
        metadata_array(metadata) if any(metadata) else None,
    )


def rows_in(points: Points) -> Rows:
    """The rows that columns hold, in their order."""
    keys = zip(
        points.spaces.tolist(), points.entities.tolist(), points.timestamps.tolist(), strict=True
    )
    vectors = [np.ascontiguousarray(vector).tobytes() for vector in points.vectors]
    return dict(
        zip(keys, zip(vectors, rows_of_metadata(points.metadata, len(points)), strict=True),
            strict=True)
    )  # fmt: skip


def flips(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The bytes with each bit flipped, and which bit it was."""
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        yield bit, bytes(damaged)
