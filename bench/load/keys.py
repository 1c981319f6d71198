"""Which key is next: each as often as any other, or a few much more often than the rest."""

import numpy as np
from numpy.typing import NDArray

from holdfast.bench.load.profile import StoreLoad

_AT_ONCE = 4096


class Keys:
    """Keys from 0 to ``load.keys``, drawn at random.

    With ``zipfian``, the key of rank r is drawn in proportion to 1 / r ** exponent (YCSB's choice,
    Cooper et al. 2010), and ranks are scattered over the keys, by the same permutation for all.
    """

    def __init__(self, load: StoreLoad, generator: np.random.Generator) -> None:
        self._generator = generator
        self._count = load.keys
        self._ranked: NDArray[np.float64] | None = None
        if load.distribution == "zipfian":
            weights = np.arange(1, load.keys + 1, dtype=np.float64) ** -load.exponent
            self._ranked = np.cumsum(weights / weights.sum())
            self._scattered = np.random.default_rng(load.keys).permutation(load.keys)
        self._drawn: list[int] = []

    def next(self) -> int:
        """One key."""
        if not self._drawn:
            self._drawn = self._draw(_AT_ONCE).tolist()
        return self._drawn.pop()

    def several(self, count: int) -> list[int]:
        """Up to ``count`` different keys, in the order in which they were drawn."""
        return list(dict.fromkeys(self.next() for _ in range(count)))

    def _draw(self, count: int) -> NDArray[np.int64]:
        if self._ranked is None:
            return self._generator.integers(0, self._count, count)
        ranks = np.searchsorted(self._ranked, self._generator.random(count))
        drawn: NDArray[np.int64] = self._scattered[np.minimum(ranks, self._count - 1)]
        return drawn


def owned(key: int, client: int, clients: int, keys: int) -> int:
    """The key nearest to ``key`` that this client, of so many, writes; there must be one."""
    mine = key - key % clients + client
    return mine if mine < keys else mine - clients
