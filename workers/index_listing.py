"""Pages of an index's rows in order of id, in bounded memory, while the index changes.

u64 ids come first, ascending, then ids of bytes. Slots would be no order to go on in: a row moves
to a lower one when another is deleted. So the ids are sorted when a listing begins, and what is
gone since is passed over: a row that is there all the time comes once, and no row twice.
"""

from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.iqdb_values import Id
from holdfast.formats.limits import SCAN_PAGE_BYTES, SCAN_PAGE_ENTRIES
from holdfast.workers.index_table import IndexTable

_PAGE_BYTES = 8 * SCAN_PAGE_BYTES
_PAGE_ROWS = 4 * SCAN_PAGE_ENTRIES
_AROUND_ROW_BYTES = 16


class Page(NamedTuple):
    """Ids of one page."""

    ids: list[Id]
    more: bool
    """Whether another page may follow."""


class Listing:
    """The ids of a table, sorted for whoever lists them."""

    def __init__(self, table: IndexTable) -> None:
        self._table = table
        self._sorted: tuple[NDArray[np.uint64], list[bytes]] | None = None

    def page(self, after: Id | None, *, rows: bool) -> Page:
        """The ids from behind ``after`` on, as many as fit into a page; of whole ``rows``, if so.

        A page has one row at least, if there is any.
        """
        if after is None or self._sorted is None:
            self._sort()
        table, found, room = self._table, list[Id](), _PAGE_BYTES
        for id_ in self._behind(after):
            slot = table.slots.get(id_)
            if slot is None:
                continue  # it is gone since the listing began
            size = _AROUND_ROW_BYTES + (len(id_) if isinstance(id_, bytes) else 0)
            if rows:
                size += 4 * table.dimension + len(table.metadata[slot] or b"")
            if found and (room < size or len(found) == _PAGE_ROWS):
                return Page(found, True)
            room -= size
            found.append(id_)
        self._sorted = None  # until somebody lists again
        return Page(found, False)

    def _sort(self) -> None:
        names = sorted(id_ for id_ in self._table.ids if isinstance(id_, bytes))
        numbers = (id_ for id_ in self._table.ids if not isinstance(id_, bytes))
        self._sorted = np.sort(np.fromiter(numbers, np.uint64)), names

    def _behind(self, after: Id | None) -> Iterator[Id]:
        assert self._sorted is not None
        numbers, names = self._sorted
        first = 0
        if isinstance(after, bytes):
            first = len(numbers)
        elif after is not None:
            first = int(np.searchsorted(numbers, np.uint64(after), "right"))
        for start in range(first, len(numbers), _PAGE_ROWS):
            yield from numbers[start : start + _PAGE_ROWS].tolist()
        first = bisect_right(names, after) if isinstance(after, bytes) else 0
        for place in range(first, len(names)):
            yield names[place]
