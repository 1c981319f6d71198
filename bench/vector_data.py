"""The vectors that are searched, what is nearest among them, and how much of that was found.

Synthetic clusters flatter indexes of lists, and data without any structure no index can help much
with, so there are both, and beside them real vectors: the demonstration's, of the sources of the
standard library, cut into overlapping pieces.
"""

import glob
import os
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import SupportsInt

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.rvf.terms import Metric
from holdfast.resemblance import vector_of

Floats = NDArray[np.float32]
Ids = NDArray[np.uint64]
Numbers = NDArray[np.int64]

K = 10
"""How many nearest rows every query asks for."""

_ROWS_PER_CLUSTER = 100
_SPREAD = 0.3  # of a cluster, in units of the spread of their centres
_PIECE_BYTES = 2048
_STRIDE_BYTES = 1024
_WORK_AT_ONCE = 1 << 24  # numbers


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows (n, d) with ids 0 to n - 1, and queries (q, d) like them that are not among them."""

    name: str
    rows: Floats
    queries: Floats
    metric: Metric = "l2"

    @property
    def dimension(self) -> int:
        """Of every vector."""
        return int(self.rows.shape[1])

    def __str__(self) -> str:
        return f"{self.name} {len(self.rows):,} x {self.dimension}"


def clustered(rows: int, dimension: int, queries: int) -> Sample:
    """Gaussian clusters of 100 rows on average around Gaussian centres."""
    rng = np.random.default_rng(dimension)
    centres = _centres(rows, dimension, rng)
    vectors = _around(centres, rows + queries, rng)
    return Sample("clustered", vectors[:rows], vectors[rows:])


class Clusters:
    """Rows like those of ``clustered``, with ids 0 to ``rows`` - 1, made when they are asked for.

    So of many rows no more are held than are worked on.
    """

    def __init__(self, rows: int, dimension: int) -> None:
        self._rows = rows
        self._dimension = dimension
        self._centres = _centres(rows, dimension, np.random.default_rng(dimension))

    def pieces(self, at_once: int) -> Iterator[tuple[int, Floats]]:
        """All rows in order: the first one's id, and so many of them (n, d); fewer at the end."""
        for first in range(0, self._rows, at_once):
            yield first, self._near(first, min(at_once, self._rows - first))

    def queries(self, count: int) -> Floats:
        """Vectors (count, d) like the rows that are not among them."""
        return self._near(self._rows, count)

    def _near(self, first: int, count: int) -> Floats:
        return _around(self._centres, count, np.random.default_rng([self._dimension, first]))


def _centres(rows: int, dimension: int, rng: np.random.Generator) -> Floats:
    return rng.standard_normal((max(1, rows // _ROWS_PER_CLUSTER), dimension), np.float32)


def _around(centres: Floats, count: int, rng: np.random.Generator) -> Floats:
    """So many vectors, each near some centre."""
    vectors = rng.standard_normal((count, centres.shape[1]), np.float32)
    vectors *= np.float32(_SPREAD)
    vectors += centres[rng.integers(0, len(centres), count)]
    return vectors


def gaussian(rows: int, dimension: int, queries: int) -> Sample:
    """One Gaussian cloud."""
    vectors = np.random.default_rng(dimension).standard_normal(
        (rows + queries, dimension), np.float32
    )
    return Sample("gaussian", vectors[:rows], vectors[rows:])


def sources(rows: int, queries: int) -> Sample:
    """Pieces of the standard library's sources, of length one; fewer rows if there are no more."""
    texts = _pieces(rows + queries)
    vectors = np.stack([vector_of(text) for text in texts])
    order = np.random.default_rng(0).permutation(len(vectors))
    vectors = vectors[order]
    return Sample("stdlib", vectors[queries:], vectors[:queries], "cosine")


def _pieces(count: int) -> list[bytes]:
    """So many pieces of 2 KiB, each overlapping half of the one before, files in order."""
    found: list[bytes] = []
    for text in _texts():
        last = max(1, len(text) - _STRIDE_BYTES)
        found += [text[at : at + _PIECE_BYTES] for at in range(0, last, _STRIDE_BYTES)]
        if len(found) >= count:
            break
    return found[:count]


def _texts() -> Iterator[bytes]:
    library = sysconfig.get_path("stdlib")
    for path in sorted(glob.glob(os.path.join(library, "**", "*.py"), recursive=True)):
        if f"{os.sep}site-packages{os.sep}" not in path:
            with open(path, "rb") as file:
                yield file.read()


def nearest(sample: Sample, k: int = K) -> Ids:
    """The ids of the ``k`` rows nearest to each query, (q, k), computed in float64."""
    rows, queries = sample.rows, sample.queries.astype(np.float64)
    norms = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    found = np.empty((len(queries), k), np.uint64)
    step = max(1, _WORK_AT_ONCE // len(rows))
    double = rows.astype(np.float64)
    for start in range(0, len(queries), step):
        dots = queries[start : start + step] @ double.T
        if sample.metric == "cosine":  # the queries' lengths change no order
            far = -dots / np.sqrt(np.where(norms > 0, norms, 1))
        else:
            far = norms - 2 * dots
        found[start : start + step] = np.argsort(far, axis=1, kind="stable")[:, :k]
    return found


def recall(found: Iterable[Iterable[SupportsInt]], nearest: Ids) -> float:
    """The share of ``nearest`` (q, k) that is in ``found``, query by query."""
    pairs = zip(found, nearest.tolist(), strict=True)
    return sum(len({*map(int, mine)} & {*theirs}) for mine, theirs in pairs) / nearest.size
