"""How many lists to look at, and how many candidates to take: measured on a sample of rows."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.ann_cache import OUTSIDE

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

RANKS = (10, 100)
"""Numbers of results that a tuning is measured for."""
DEPTHS_MAX = (512, 1024)
RECALL_AIM = 0.97
"""On the sample, so that queries not seen get 0.95."""

_SHARES = (0.975, 0.985, 0.995)  # of the nearest rows that are to be in the lists looked at
BEYOND_SHARE = 0.05
"""Of the queries for which it is worth looking beyond the lists that are mostly enough."""
_LEAST_PRODUCT = np.float32(1e-30)
_FARTHEST = np.float32(1e18)  # keeps a quotient within float32
_TIE = 1e-5  # relative: rows this close to each other may change places by rounding


@dataclass(frozen=True, slots=True)
class Tuning:
    """Lists to look at, and candidates to take, for 10 and for 100 results."""

    breadths: tuple[int, int]
    depths: tuple[int, int]
    usual: float
    """Squared distance within which most queries find their tenth row, as estimated."""
    slant: float
    """Lists that may hold one of the nearest rows by no more of it are looked at as well."""
    recall: float
    """At 10, on the sample."""
    cost: float
    """Of a query, estimated, in microseconds."""

    @property
    def is_enough(self) -> bool:
        """Whether it finds what it should."""
        return self.recall >= RECALL_AIM

    def is_better_than(self, other: "Tuning | None") -> bool:
        """Enough before not enough, then cheaper, or finding more if neither finds enough."""
        if other is None or self.is_enough != other.is_enough:
            return other is None or self.is_enough
        return self.cost < other.cost if self.is_enough else self.recall > other.recall

    def breadth(self, rank: float) -> int:
        """Lists to look at for ``rank`` results."""
        return _between(self.breadths, rank)

    def depth(self, rank: float) -> int:
        """Candidates to take for ``rank`` results."""
        return _between(self.depths, rank)


def _between(values: tuple[int, int], rank: float) -> int:
    """On the power law through the values for 10 and 100, and not below that for 10."""
    exponent = math.log10(max(rank / RANKS[0], 1))
    return math.ceil(values[0] * math.pow(values[1] / values[0], exponent))


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Points (q, width) of queries that are rows, and the other rows nearest to each, in order.

    Each query is left out of its own answer, which no index would miss.
    """

    queries: Floats
    origins: Indices
    """(q,): the queries' own rows."""
    nearest: Indices
    """(q, RANKS[1]), of any row where ``distances`` is infinite."""
    distances: Floats

    def wanted(self, rank: int) -> list[Indices]:
        """For each query the rows as near as its ``rank``-th nearest; more of them in a tie."""
        bounds = self.distances[:, min(rank, self.distances.shape[1]) - 1] * np.float32(1 + _TIE)
        return [
            rows[np.isfinite(distances) & (distances <= bound)]
            for rows, distances, bound in zip(self.nearest, self.distances, bounds, strict=True)
        ]

    def curve(self, found: Indices, rank: int) -> NDArray[np.float64]:
        """Recall at ``rank`` if only the first 1, 2, ... of the candidates ``found`` are taken."""
        total = np.zeros(found.shape[1])
        counted = 0
        for wanted, rows, own in zip(self.wanted(rank), found, self.origins, strict=True):
            if len(wanted):
                most = min(rank, len(wanted))
                others = rows != own
                hits = np.cumsum(np.isin(rows, wanted) & others).clip(max=most) / most
                total += hits
                counted += 1
        return total / counted if counted else np.ones(found.shape[1])


@dataclass(frozen=True, slots=True)
class Reach:
    """Lists to look at for 10 and for 100 results, and how many rows the former have."""

    breadths: tuple[int, int]
    scanned: float

    def cost(self, depth: int, *, width: int, subspaces: int, residual: bool) -> float:
        """About how many microseconds a query takes; what counts is how the parts compare."""
        cost = 7e-5 * self.scanned * subspaces + 1e-3 * depth * width
        return cost + 0.035 * self.breadths[0] * subspaces if residual else cost


def reaches(sample: Sample, homes: NDArray[np.uint32], order: Indices) -> list[Reach]:
    """What is worth trying.

    ``homes`` (rows,) is each row's list, ``order`` (q, lists) the lists by distance.
    """
    lists = order.shape[1]
    places = np.empty_like(order)
    np.put_along_axis(places, order, np.arange(lists)[None, :], axis=1)
    sizes = np.bincount(homes[homes < OUTSIDE], minlength=lists)
    scanned = np.cumsum(sizes[order], axis=1).mean(axis=0)
    few, many = (_breadths(sample.wanted(rank), homes, places) for rank in RANKS)
    return [Reach((a, max(a, b)), float(scanned[a - 1])) for a, b in zip(few, many, strict=True)]


def _breadths(wanted: list[Indices], homes: NDArray[np.uint32], places: Indices) -> list[int]:
    """How many lists hold each of ``_SHARES`` of the rows wanted."""
    found = [
        place[homes[rows][homes[rows] < OUTSIDE]]
        for place, rows in zip(places, wanted, strict=True)
    ]
    pooled = np.concatenate(found)
    if not len(pooled):
        return [1 for _ in _SHARES]
    return [int(place) + 1 for place in np.quantile(pooled, _SHARES, method="higher")]


def slants(squares: Floats, spreads: Floats, farthest: Floats) -> Floats:
    """How far lists lie from holding a row as near as the farthest found.

    That row would be to its centroid, seen from there, in the direction of the query with a cosine
    of at least this. ``squares`` are squared distances of query and centroid, ``spreads`` the mean
    squared distance of a list's rows from its centroid, ``farthest`` what is to be reached.
    """
    product = np.sqrt(np.maximum(squares * spreads, _LEAST_PRODUCT))
    missing = np.clip(squares + spreads - farthest, -_FARTHEST, _FARTHEST)
    needed: Floats = missing / (2 * product)
    return needed


def usual_slant(
    sample: Sample, needed: Floats, homes: NDArray[np.uint32], order: Indices, breadth: int
) -> float:
    """The slant to look for, where ``breadth`` lists are enough for most queries.

    ``needed`` (q, lists) is what ``slants`` gives for the lists in their ``order``. It is such that
    the nearest rows of the sample are found, but that few of its queries go beyond twice as many
    lists, since on the whole they need not.
    """
    places = np.empty_like(order)
    np.put_along_axis(places, order, np.arange(order.shape[1])[None, :], axis=1)
    pairs = [
        slant[place[homes[rows][homes[rows] < OUTSIDE]]]
        for slant, place, rows in zip(needed, places, sample.wanted(RANKS[0]), strict=True)
    ]
    behind = needed[:, min(2 * breadth, needed.shape[1] - 1)]
    most = float(np.quantile(behind, BEYOND_SHARE))
    pooled = np.concatenate(pairs)
    return min(most, float(np.quantile(pooled, _SHARES[-1]))) if len(pooled) else most


def depth_of(curve: NDArray[np.float64], rank: int) -> tuple[int, float]:
    """The least depth from ``rank`` on that is enough, or the greatest; and the recall there."""
    enough = np.flatnonzero(curve >= RECALL_AIM)
    depth = max(rank, int(enough[0]) + 1 if len(enough) else len(curve))
    return depth, float(curve[min(depth, len(curve)) - 1])
