"""Our side of the tests with the original: stores by path, and what all must agree on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

import holdfast
from holdfast.formats.rvf.scan import walk
from holdfast.formats.rvf.segment import HEADER_BYTES
from holdfast.formats.rvf.terms import Metric
from holdfast.handles.vectors import Vectors
from tests.interop.original import OriginalStore
from tests.process.harness import until

DIMENSION = 8
INDEXED_ROWS = 1024
"""The original searches a store of so many rows approximately."""

Vector: TypeAlias = NDArray[np.float32]
Rows: TypeAlias = dict[int, Vector]
"""What a store has to hold, by id."""


@contextmanager
def engine_in(directory: Path) -> Iterator[holdfast.Engine]:
    """An engine; behind the block the original may write, since its lock files are gone."""
    with holdfast.open(directory) as engine:
        yield engine
    until(lambda: not list(directory.glob("*.lock")), "the lock files are gone")


def random_vectors(count: int, seed: int, dimension: int = DIMENSION) -> Vector:
    """(count, dimension) float32, normally distributed."""
    return np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)


def put(rows: Rows, ids: range | list[int], vectors: Vector) -> None:
    """Note that rows were ingested."""
    rows.update(zip(ids, vectors, strict=True))


def remove(rows: Rows, ids: range | list[int]) -> None:
    """Note that rows were deleted."""
    for number in ids:
        rows.pop(number, None)


def check_ours(store: Vectors, rows: Rows) -> None:
    """Fails unless our store holds exactly these rows, and is intact."""
    ids = sorted(rows)
    held = store.get(ids)
    assert held.ids.tolist() == ids
    assert held.vectors is not None
    assert held.vectors.tolist() == [rows[number].tolist() for number in ids]
    assert store.count() == len(rows)
    probe = random_vectors(1, 99, store.dimension)[0]
    found = store.query(probe, len(rows) + 10, exact=True)
    mine = dict(zip(found.ids.tolist(), found.distances.tolist(), strict=True))
    _check_distances(mine, rows, probe, store.metric)
    assert store.verify().problems == []


def check_theirs(store: OriginalStore, rows: Rows, metric: Metric = "l2") -> None:
    """Fails unless the original sees exactly these rows, as far away as they are."""
    dimension: int = store.ask("identity")["dimension"]
    probe = random_vectors(1, 99, dimension)[0]
    _check_distances(store.distances(probe), rows, probe, metric)
    if len(rows) < INDEXED_ROWS:
        assert [number for number, _ in store.query(probe, 10)] == nearest(rows, probe, metric)[:10]


def nearest(rows: Rows, probe: Vector, metric: Metric = "l2") -> list[int]:
    """The ids by distance."""
    expected = _distances(rows, probe, metric)
    return sorted(expected, key=expected.__getitem__)


def _check_distances(found: dict[int, float], rows: Rows, probe: Vector, metric: Metric) -> None:
    expected = _distances(rows, probe, metric)
    assert found.keys() == expected.keys()
    ids = sorted(expected)
    # Terms of either sign cancel out where a distance is about zero, hence the absolute part.
    np.testing.assert_allclose(
        [found[number] for number in ids],
        [expected[number] for number in ids],
        rtol=1e-5,
        atol=2e-6,
    )


def _distances(rows: Rows, probe: Vector, metric: Metric) -> dict[int, float]:
    """RVF 8, in float64."""
    ids = list(rows)
    held = np.array([rows[number] for number in ids], np.float64).reshape(len(ids), len(probe))
    wide = probe.astype(np.float64)
    match metric:
        case "l2":
            found = ((held - wide) ** 2).sum(axis=1)
        case "ip":
            found = -(held @ wide)
        case "cosine":
            lengths = np.linalg.norm(held, axis=1) * np.linalg.norm(wide)
            found = 1 - held @ wide / lengths
    return dict(zip(ids, found.tolist(), strict=True))


def metadata_of(store: Vectors) -> dict[int, dict[str, object]]:
    """The metadata of every row, by id."""
    pages = store.scan(include=["metadata"])
    return {row.pop("id"): row for page in pages for row in page.to_pylist()}


def segments_of(path: Path) -> list[tuple[int, bytes]]:
    """Type and payload of every segment in a file, listed or not."""
    data = memoryview(path.read_bytes())
    return [
        (header.type, bytes(data[start : start + header.payload_bytes]))
        for start, header in ((at + HEADER_BYTES, header) for at, header in walk(data))
    ]
