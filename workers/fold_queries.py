"""What a fold answers: entries by key, by prefix, page by page.

Values are never held in memory: a read goes to the mapped log and checks the record there. All of
these raise ``DamagedRecord``.
"""

import itertools
import sys
from collections.abc import Callable, Iterable

from holdfast.formats import fold_log
from holdfast.formats.errors import ResultTooLarge
from holdfast.formats.fold_log import SPAN_LENGTH_MASK, DamagedRecord, unpack_span
from holdfast.formats.limits import RESULT_BYTES_MAX, SCAN_PAGE_BYTES, SCAN_PAGE_ENTRIES
from holdfast.formats.values import KvEntry
from holdfast.workers.fold_messages import Page
from holdfast.workers.fold_table import FoldTable
from holdfast.workers.log_file import LogFile


class FoldQueries:
    """Reads of one fold, as it is at each call; ``tick`` is called now and then."""

    def __init__(self, log: LogFile, table: FoldTable, tick: Callable[[], None]) -> None:
        self._log = log
        self._table = table
        self._tick = tick

    def get(self, key: str) -> KvEntry | None:
        """The entry under ``key``."""
        span = self._table.find(key.encode())
        if not span:
            return None
        offset, length = unpack_span(span)
        record = memoryview(bytes(self._log.read(offset, length)))
        try:
            return fold_log.decode_puts(record, (length,))[0]  # the span of its own beginning
        except DamagedRecord:
            raise DamagedRecord(offset) from None

    def _entries(self, spans: Iterable[int]) -> list[KvEntry]:
        """The entries at ``spans``, checked."""
        return fold_log.decode_puts(self._log.remap(), spans)

    def get_many(self, keys: list[str]) -> list[KvEntry | None]:
        """The entry under each of ``keys``; ``ResultTooLarge`` above 1 GiB."""
        found: list[KvEntry | None] = []
        budget = RESULT_BYTES_MAX
        for key in keys:
            entry = self.get(key)
            found.append(entry)
            budget -= len(entry.value) + len(key) if entry else 0
            if budget < 0:
                raise _too_large(f"get_many of {len(keys)} keys")
            if not len(found) % SCAN_PAGE_ENTRIES:
                self._tick()
        return found

    def range(self, prefix: str, limit: int | None) -> list[KvEntry]:
        """The first entries under ``prefix``, in key order; ``ResultTooLarge`` above 1 GiB."""
        found: list[KvEntry] = []
        budget = RESULT_BYTES_MAX
        spans = itertools.islice(self._table.spans(prefix.encode()), _count(limit))
        while page := list(itertools.islice(spans, SCAN_PAGE_ENTRIES)):
            budget -= sum(span & SPAN_LENGTH_MASK for span in page)
            if budget < 0:
                raise _too_large(f"range of {prefix!r}")
            found += self._entries(page)
            self._tick()
        return found

    def scan(self, prefix: str, after: str | None) -> Page:
        """A page of the entries under ``prefix``, from behind ``after``."""
        behind = None if after is None else after.encode()
        page: list[int] = []
        size = 0
        more = False
        for span in self._table.spans(prefix.encode(), behind):
            if size >= SCAN_PAGE_BYTES or len(page) >= SCAN_PAGE_ENTRIES:
                more = True
                break
            page.append(span)
            size += span & SPAN_LENGTH_MASK
        return Page(self._entries(page), more)

    def stale_keys(self, keys: list[str]) -> list[str]:
        """The keys held that are not among these."""
        current = set(keys)
        stale: list[str] = []
        spans = self._table.spans(b"")
        while page := list(itertools.islice(spans, SCAN_PAGE_ENTRIES)):
            stale += [entry.key for entry in self._entries(page) if entry.key not in current]
            self._tick()
        return stale


def _count(limit: int | None) -> int | None:
    return None if limit is None else min(limit, sys.maxsize)


def _too_large(what: str) -> ResultTooLarge:
    return ResultTooLarge(
        f"the result of {what} is over the limit of {RESULT_BYTES_MAX} bytes; use scan() or a limit"
    )
