"""Sets of ids or rows as sorted arrays without repetition.

numpy has these, too, but finds repetitions by hashing, which for large sets takes many times as
long as a sort.
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

N = TypeVar("N", np.uint64, np.int64)


def unique(values: NDArray[N]) -> NDArray[N]:
    """The set of any values."""
    ordered = np.sort(values)
    first = np.empty(len(ordered), np.bool_)
    first[:1] = True
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return ordered if first.all() else ordered[first]


def contains(members: NDArray[N], values: NDArray[N]) -> NDArray[np.bool_]:
    """Which of ``values``, in any order, are in the set ``members``."""
    if not len(members):
        return np.zeros(len(values), np.bool_)
    places = np.searchsorted(members, values)
    places[places == len(members)] = 0
    found: NDArray[np.bool_] = members[places] == values
    return found


def union(one: NDArray[N], other: NDArray[N]) -> NDArray[N]:
    """What is in either set."""
    return unique(np.concatenate((one, other)))


def difference(one: NDArray[N], other: NDArray[N]) -> NDArray[N]:
    """What is in the first set and not in the other."""
    return one[~contains(other, one)]


def intersection(one: NDArray[N], other: NDArray[N]) -> NDArray[N]:
    """What is in both sets."""
    return one[contains(other, one)]
