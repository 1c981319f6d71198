"""The space of an approximate index: squared distance there orders rows as the metric does."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holdfast.workers.search import Metric

Floats = NDArray[np.float32]
Booleans = NDArray[np.bool_]

_ROTATION_SIDE_MAX = 256  # a query pays side * width multiplications
_OUTLIER = 4.0  # times the 99.9th percentile of lengths: too far off to be coded
_LARGEST_SQUARE = 1e30
_LEAST_LENGTH = 1e-30  # of what is scaled to 1, so that the factor is a float32
_CENTER_ROWS = 4096


def shape_of(metric: Metric, dimension: int) -> tuple[int, int]:
    """Coordinates of the space, and how many of them are rotated together; both are even."""
    wanted = dimension + (metric != "l2")
    groups = -(-wanted // _ROTATION_SIDE_MAX)
    side = -(-wanted // groups)
    side += side % 2
    return groups * side, side


@dataclass(frozen=True, eq=False)
class Space:
    """Maps vectors (n, dimension) to points (n, width).

    They are brought to a scale of about 1. For ``ip`` and ``cosine`` a further coordinate makes all
    rows equally long, so that the nearest has the greatest product with a query, which has 0 there
    (Bachrach et al., "Speeding up the Xbox recommender system", RecSys 2014). A random rotation
    then spreads what matters over all coordinates, since each gets as many bits.
    """

    metric: Metric
    dimension: int
    center: Floats
    """(width,), subtracted before the rotation."""
    rotation: Floats
    """(side, side), applied to every ``side`` coordinates."""
    scale: float
    """Multiplies vectors: 1 / their spread for l2, 1 / the greatest length for ip."""
    query_length: float
    """What ip queries are brought to. Their length is free, yet decides which lists are near."""
    limit: float
    """Rows of a greater squared length are outside."""

    @property
    def width(self) -> int:
        """Coordinates of a point."""
        return len(self.center)

    @classmethod
    def fit(cls, metric: Metric, sample: Floats, rng: np.random.Generator) -> "Space":
        """The space for rows like those of ``sample`` (n, dimension), all finite."""
        width, side = shape_of(metric, sample.shape[1])
        rotation = np.linalg.qr(rng.standard_normal((side, side)))[0].astype(np.float32)
        center = np.zeros(width, np.float32)
        scale = query_length = 1.0
        if metric == "l2":
            middle = np.median(sample[:_CENTER_ROWS], axis=0)
            spread = float(np.median(_lengths(sample - middle)))
            scale = 1 / max(spread, _LEAST_LENGTH) if spread > 0 else 1.0
        elif metric == "ip":
            lengths = _lengths(sample)
            longest = min(float(lengths.max()), _OUTLIER * float(np.quantile(lengths, 0.999)))
            scale = 1 / max(longest, _LEAST_LENGTH) if longest > 0 else 1.0
            query_length = float(np.median(lengths)) * scale or 1.0
        raw = cls(metric, sample.shape[1], center, rotation, scale, query_length, _LARGEST_SQUARE)
        points, inside = raw._raised(sample)
        points = points[inside]
        if len(points):
            center = np.median(points[:_CENTER_ROWS], axis=0).astype(np.float32)
            squares = _lengths(points - center) ** 2
            limit = _OUTLIER**2 * float(np.quantile(squares, 0.999))
        else:
            limit = 1.0
        limit = min(max(limit, 1e-12), _LARGEST_SQUARE)
        return cls(metric, sample.shape[1], center, rotation, scale, query_length, limit)

    def rows(self, vectors: Floats) -> tuple[Floats, Booleans]:
        """Points of rows (n, dimension), and which rows are inside: finite, and not too far off."""
        with np.errstate(all="ignore"):
            points, inside = self._raised(vectors)
            points -= self.center
            inside &= _squares(points) <= self.limit
            return self._rotated(points), inside

    def queries(self, vectors: Floats) -> tuple[Floats, list[int]]:
        """Points of queries (q, dimension), and the numbers of those that cannot be compared."""
        points = np.zeros((len(vectors), self.width), np.float32)
        with np.errstate(all="ignore"):
            if self.metric == "l2":
                np.multiply(vectors, np.float32(self.scale), out=points[:, : self.dimension])
            else:
                lengths = _lengths(vectors)
                factors = self.query_length / np.where(lengths > 0, lengths, 1)
                points[:, : self.dimension] = vectors * factors[:, None]
            points -= self.center
            if len(points) == 1 and np.vdot(points, points) <= _LARGEST_SQUARE:  # as it mostly is
                return self._rotated(points), []
            unsound = np.flatnonzero(~(_squares(points) <= _LARGEST_SQUARE)).tolist()
            points[unsound] = 0
            return self._rotated(points), unsound

    def _raised(self, vectors: Floats) -> tuple[Floats, Booleans]:
        """Scaled, with the coordinate that makes lengths equal; which rows are not too long."""
        points = np.zeros((len(vectors), self.width), np.float32)
        points[:, : self.dimension] = vectors
        if self.metric == "l2":
            points *= np.float32(self.scale)
            return points, np.isfinite(_squares(points))
        if self.metric == "cosine":
            lengths = _lengths(points)
            points /= np.where(lengths > 0, lengths, 1)[:, None]
        else:
            points *= np.float32(self.scale)
        squares = _squares(points)
        points[:, self.dimension] = np.sqrt(np.maximum(1 - squares, 0))
        return points, squares <= 1.001

    def _rotated(self, points: Floats) -> Floats:
        return (points.reshape(-1, len(self.rotation)) @ self.rotation).reshape(points.shape)


def _lengths(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    with np.errstate(all="ignore"):
        squares: NDArray[np.float64] = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
        return np.sqrt(squares)


def _squares(points: Floats) -> Floats:
    squares: Floats = np.einsum("ij,ij->i", points, points)
    return squares
