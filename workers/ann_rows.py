"""The rows that an approximate index is made of, for the thread that makes it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from holdfast.workers.search import Rows

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]
Booleans = NDArray[np.bool_]
Progress = Callable[[str, int, int], None]

FLOATS_PER_SLICE = 1 << 20


class Cancelled(Exception):
    """The task is not wanted any more."""


@dataclass(frozen=True, eq=False)
class Task:
    """Work on a snapshot of the rows; it reports how far it is, and can be cancelled.

    ``live`` is of all rows of ``blocks``. ``progress`` is given a stage's name, how much of it is
    done, and how much there is.
    """

    blocks: Sequence[Rows]
    live: Booleans
    progress: Progress
    cancelled: Callable[[], bool]

    def report(self, stage: str, done: int, total: int) -> None:
        """Say how far it is; raises ``Cancelled``."""
        if self.cancelled():
            raise Cancelled
        self.progress(stage, done, total)

    def slices(self, stage: str) -> Iterator[tuple[int, Floats, Booleans]]:
        """First row, vectors and liveness of some 4 MiB of rows after the other."""
        total = len(self.live)
        for first_row, vectors in _slices(self.blocks):
            self.report(stage, first_row, total)
            yield first_row, vectors, self.live[first_row : first_row + len(vectors)]
        self.report(stage, total, total)


def gather(blocks: Sequence[Rows], rows: Indices) -> Floats:
    """The vectors of these rows, which ascend, (n, d)."""
    firsts = np.array([block.first_row for block in blocks])
    bounds = [*np.searchsorted(rows, firsts).tolist(), len(rows)]
    parts = [
        block.vectors[rows[start:stop] - block.first_row]
        for block, (start, stop) in zip(blocks, pairwise(bounds), strict=True)
        if start < stop
    ]
    return np.concatenate(parts)


def _slices(blocks: Sequence[Rows]) -> Iterator[tuple[int, Floats]]:
    """First row and vectors; blocks of few rows are put together."""
    waiting: list[Floats] = []
    first_row = rows = 0
    for block in blocks:
        step = max(1, FLOATS_PER_SLICE // block.vectors.shape[1])
        for start in range(0, len(block.vectors), step):
            part = block.vectors[start : start + step]
            if waiting and rows + len(part) > step:
                yield first_row, waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
                first_row, rows, waiting = first_row + rows, 0, []
            waiting.append(part)
            rows += len(part)
    if waiting:
        yield first_row, waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
