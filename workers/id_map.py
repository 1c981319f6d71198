"""Which row holds an id: sorted runs of (id, row), the newest winning, merged so that few remain.

The structure of a log-structured merge tree in memory: adding a batch costs a sort of the batch and
now and then a merge, looking up a batch costs one bisection per run, and each entry takes 16 bytes.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ABSENT = -1


class Run(NamedTuple):
    """Ids, strictly ascending, each with its row."""

    ids: NDArray[np.uint64]
    rows: NDArray[np.int64]


class IdMap:
    """Id to row number. An id is never removed, only given another row."""

    def __init__(self) -> None:
        self._runs: list[Run] = []

    def find(self, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The row of each id, ``ABSENT`` where there is none."""
        rows = np.full(len(ids), ABSENT, np.int64)
        if not len(ids):
            return rows
        low, high = ids.min(), ids.max()
        open_: NDArray[np.int64] | None = None  # which of them are not found yet; None: all
        for run in reversed(self._runs):
            if high < run.ids[0] or low > run.ids[-1]:  # as for ids that go on ascending
                continue
            wanted = ids if open_ is None else ids[open_]
            places = np.searchsorted(run.ids, wanted)
            places[places == len(run.ids)] = 0
            hit = run.ids[places] == wanted
            if open_ is None:
                rows[hit] = run.rows[places[hit]]
                open_ = np.flatnonzero(~hit)
            else:
                rows[open_[hit]] = run.rows[places[hit]]
                open_ = open_[~hit]
            if not len(open_):
                break
        return rows

    def add(self, ids: NDArray[np.uint64], first_row: int) -> int:
        """Give ``ids`` the rows from ``first_row`` on; of an id given twice the last counts.

        Returns how many ids these are.
        """
        if not len(ids):
            return 0
        rows = np.arange(first_row, first_row + len(ids), dtype=np.int64)
        run = _sorted_run(ids.copy(), rows)
        self._runs.append(run)
        while len(self._runs) > 1 and len(self._runs[-2].ids) <= 2 * len(self._runs[-1].ids):
            self._merge_last()
        return len(run.ids)

    def merged(self) -> Run:
        """All of it as one run."""
        while len(self._runs) > 1:
            self._merge_last()
        if not self._runs:
            return Run(np.empty(0, np.uint64), np.empty(0, np.int64))
        return self._runs[0]

    def _merge_last(self) -> None:
        newer = self._runs.pop()
        older = self._runs.pop()
        self._runs.append(
            _sorted_run(
                np.concatenate((older.ids, newer.ids)), np.concatenate((older.rows, newer.rows))
            )
        )

    def check_invariants(self) -> None:
        """Assert that runs are ascending and shrink."""
        for run in self._runs:
            assert len(run.ids) == len(run.rows) > 0
            assert np.all(run.ids[1:] > run.ids[:-1])
        for older, newer in zip(self._runs, self._runs[1:], strict=False):
            assert len(older.ids) > 2 * len(newer.ids)


def ascends(ids: NDArray[np.uint64]) -> bool:
    """Whether each id is greater than the one before, and so none comes again."""
    return bool(np.all(ids[1:] > ids[:-1]))


def _sorted_run(ids: NDArray[np.uint64], rows: NDArray[np.int64]) -> Run:
    if ascends(ids):
        return Run(ids, rows)
    order = np.argsort(ids, kind="stable")
    ids, rows = ids[order], rows[order]
    last = np.empty(len(ids), np.bool_)
    last[-1] = True
    np.not_equal(ids[1:], ids[:-1], out=last[:-1])
    return Run(ids, rows) if last.all() else Run(ids[last], rows[last])
