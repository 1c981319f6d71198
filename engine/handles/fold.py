"""The fold's handles, blocking and asyncio."""

import os
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from typing import Literal, TypeVar, cast

from holdfast.call import Call, ProgressCallback, awaitable, operation
from holdfast.formats.errors import InvalidArgument, LimitExceeded, from_os_error
from holdfast.formats.limits import KEY_BYTES_MAX, TOKEN_BYTES_MAX, VALUE_BYTES_MAX
from holdfast.formats.values import (
    AnyUpdate,
    Cursor,
    Delete,
    KvEntry,
    Purge,
    Put,
    Update,
    Version,
)
from holdfast.handles.base import AsyncHandle, Handle, Sized, expecting
from holdfast.handles.checks import check_choice, check_count
from holdfast.workers import fold_messages, messages

T = TypeVar("T")
StalePolicy = Literal["accept", "refuse"]

_bytes_like = (bytes, bytearray, memoryview)

_done = expecting(messages.Done, lambda _: None)
_entry = expecting(fold_messages.Entry, lambda reply: reply.entry)
_maybe_entries = expecting(fold_messages.MaybeEntries, lambda reply: reply.entries)
_entries = expecting(fold_messages.Entries, lambda reply: reply.entries)
_whole_page = expecting(fold_messages.Page, lambda page: page)
_cursor = expecting(fold_messages.CursorIs, lambda reply: reply.cursor)
_keys = expecting(fold_messages.Keys, lambda reply: reply.keys)
_compacted = expecting(messages.Compacted, lambda reply: reply)
_exported = expecting(fold_messages.Exported, lambda reply: reply)
_status = expecting(fold_messages.Status, lambda reply: reply)
_count = expecting(fold_messages.Status, lambda reply: reply.entries)


class Fold(Handle, Sized):
    """A key-value fold of an update stream, with the cursor to resume the stream from.

    Obtained from ``Engine.fold``. All methods take ``timeout`` in seconds (None: the engine's) and
    raise ``CallTimeout``, ``WorkerCrashed``, ``StoreFailed``, ``StoreCorrupt`` or ``EngineClosed``
    besides what they name. Format: append-only log version 2, see ``holdfast.formats.fold_log``.
    """

    @operation
    def apply(
        self,
        updates: Iterable[Update],
        cursor: Cursor | None = None,
        *,
        stale: StalePolicy = "accept",
        timeout: float | None = None,
    ) -> Call[None]:
        """Apply updates in order, then move the cursor: one durable unit.

        ``cursor`` is the position in the stream that this batch brings the fold to. Without one the
        cursor stays where it is, as for changes that come from no stream; ``Cursor.none()`` sets it
        back to the start. ``stale`` says what to do with what is seen to go backwards: ``"accept"``
        it (the last write wins, as in the original) or ``"refuse"`` the whole batch with
        ``StaleUpdate``. Seen to go backwards are a u64 cursor below the stored u64 one, the start
        where a cursor is stored, and a u64 version below the u64 one of the entry. Tokens of
        another length have no order, so they pass, and so does what comes after them; a deleted
        key has no version left to compare.

        Raises ``InvalidArgument`` or ``LimitExceeded`` naming the update, ``StoreFull`` when the
        disk is; nothing has changed then.
        """
        listed = updates if isinstance(updates, list) else _listed("updates", updates)
        batch = cast("list[AnyUpdate]", listed)  # the worker looks, and then check_updates says
        if cursor is not None:
            if type(cursor) is not Cursor:
                raise InvalidArgument(f"cursor is a Cursor or None, not {type(cursor).__name__}")
            _check_token("cursor", cursor.token)
        check_choice("stale", stale, ("accept", "refuse"))
        return _call(
            fold_messages.FoldApply(batch, cursor, stale == "refuse"),
            _done,
            timeout,
            explain=lambda: check_updates(batch),
        )

    @operation
    def get(self, key: str, *, timeout: float | None = None) -> Call[KvEntry | None]:
        """The entry under ``key``, or None. An empty value is a value."""
        _check_key("key", key)
        return _call(fold_messages.FoldGet(key), _entry, timeout)

    @operation
    def get_many(
        self, keys: Iterable[str], *, timeout: float | None = None
    ) -> Call[list[KvEntry | None]]:
        """The entries under ``keys``, in that order, None where there is none; one moment's state.

        Raises ``ResultTooLarge`` above 1 GiB.
        """
        wanted = _checked_keys(keys)
        return _call(
            fold_messages.FoldGetMany(wanted),
            _maybe_entries,
            timeout,
        )

    @operation
    def range(
        self, prefix: str = "", *, limit: int | None = None, timeout: float | None = None
    ) -> Call[list[KvEntry]]:
        """The entries whose key begins with ``prefix``, in the order of their UTF-8 bytes.

        All from one moment's state. At most ``limit`` entries; ``ResultTooLarge`` above 1 GiB.
        """
        _check_key("prefix", prefix)
        most = None if limit is None else check_count("limit", limit, least=0)
        return _call(
            fold_messages.FoldRange(prefix, most),
            _entries,
            timeout,
        )

    @operation
    def _page(
        self, prefix: str, after: str | None, *, timeout: float | None = None
    ) -> Call[fold_messages.Page]:
        return _call(fold_messages.FoldScan(prefix, after), _whole_page, timeout)

    def scan(self, prefix: str = "", *, timeout: float | None = None) -> Iterator[KvEntry]:
        """As ``range``, but streamed in pages: bounded memory, and stopping early costs nothing.

        Each page is one moment's state; writes in between may or may not be seen, and no key comes
        twice. ``timeout`` is per page.
        """
        _check_key("prefix", prefix)
        return self._scan(prefix, timeout)

    def _scan(self, prefix: str, timeout: float | None) -> Iterator[KvEntry]:
        after = None
        while True:
            page = self._page(prefix, after, timeout=timeout)
            yield from page.entries
            if not page.more:
                return
            after = page.entries[-1].key

    @operation
    def cursor(self, *, timeout: float | None = None) -> Call[Cursor]:
        """The cursor applied last, or ``Cursor.none()``: where to resume the stream."""
        return _call(
            fold_messages.FoldCursor(),
            _cursor,
            timeout,
        )

    @operation
    def count(self, *, timeout: float | None = None) -> Call[int]:
        """How many entries there are; so does ``len``."""
        return _call(messages.StoreStatus(), _count, timeout)

    @operation
    def stale_keys(self, keys: Iterable[str], *, timeout: float | None = None) -> Call[list[str]]:
        """The keys held that are not among ``keys``, sorted: what a full listing no longer has."""
        return _call(
            fold_messages.FoldStaleKeys(_checked_keys(keys)),
            _keys,
            timeout,
        )

    @operation
    def compact(
        self, *, progress: ProgressCallback | None = None, timeout: float | None = None
    ) -> Call[messages.Compacted]:
        """Rewrite the log without what is dead; reads and writes go on meanwhile.

        With no writes meanwhile the file is in its canonical form: the same state always gives the
        same bytes. ``progress`` is called about ten times a second.
        """
        return _call(
            fold_messages.FoldCompact(),
            _compacted,
            timeout,
            progress,
        )

    @operation
    def export(
        self,
        directory: str | os.PathLike[str],
        *,
        progress: ProgressCallback | None = None,
        timeout: float | None = None,
    ) -> Call[fold_messages.Exported]:
        """Write the state at this moment as an artifact: manifest, digests, canonical log.

        ``directory`` must be absent or empty, its parent must exist. Raises ``StoreExists`` when it
        is taken, ``ArtifactInvalid`` or ``StoreIOError`` when nothing can be made there. The
        directory appears whole or not at all.
        """
        return _call(
            fold_messages.FoldExport(absolute(directory)),
            _exported,
            timeout,
            progress,
        )

    @operation
    def status(self, *, timeout: float | None = None) -> Call[fold_messages.Status]:
        """Figures of the store: entries, bytes, durability, last sync."""
        return _call(messages.StoreStatus(), _status, timeout)


class AsyncFold(AsyncHandle):
    """``Fold`` for asyncio: the same operations, awaitable; ``scan`` is an async iterator."""

    apply = awaitable(Fold.apply)
    get = awaitable(Fold.get)
    get_many = awaitable(Fold.get_many)
    range = awaitable(Fold.range)
    cursor = awaitable(Fold.cursor)
    count = awaitable(Fold.count)
    stale_keys = awaitable(Fold.stale_keys)
    compact = awaitable(Fold.compact)
    export = awaitable(Fold.export)
    status = awaitable(Fold.status)
    _page = awaitable(Fold._page)

    def scan(self, prefix: str = "", *, timeout: float | None = None) -> AsyncIterator[KvEntry]:
        """See ``Fold.scan``."""
        _check_key("prefix", prefix)
        return self._scan(prefix, timeout)

    async def _scan(self, prefix: str, timeout: float | None) -> AsyncIterator[KvEntry]:
        after = None
        while True:
            page = await self._page(prefix, after, timeout=timeout)
            for entry in page.entries:
                yield entry
            if not page.more:
                return
            after = page.entries[-1].key


def _call(
    message: object,
    unwrap: Callable[[object], T],
    timeout: float | None,
    progress: ProgressCallback | None = None,
    explain: Callable[[], None] | None = None,
) -> Call[T]:
    return Call(message, unwrap, timeout, progress, explain)


def absolute(path: object) -> str:
    """A path of the caller's, made absolute here: a worker has another current directory."""
    try:
        text = os.fspath(path)  # type: ignore[call-overload]
    except TypeError:
        raise InvalidArgument(f"a path is a str or os.PathLike, not {type(path).__name__}") from (
            None
        )
    if not isinstance(text, str) or not text or "\0" in text:
        raise InvalidArgument(f"{text!r} is not a path")
    try:
        found = os.path.abspath(text)
        found.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"the path {text!r} is not text: its bytes are not UTF-8") from None
    except OSError as error:  # the current directory is gone
        raise from_os_error(error, "find", text) from error
    return found


def _check_token(what: str, token: object) -> None:
    if not isinstance(token, _bytes_like):
        raise InvalidArgument(f"{what} is made of bytes, not {type(token).__name__}: {token!r:.80}")
    if len(token) > TOKEN_BYTES_MAX:
        raise LimitExceeded(f"{what} is {len(token)} bytes, over the limit of {TOKEN_BYTES_MAX}")


def _check_key(what: str, key: object) -> None:
    if not isinstance(key, str):
        raise InvalidArgument(f"{what} is a str, not {type(key).__name__}")
    if len(key) * 4 > KEY_BYTES_MAX or not key.isascii():
        _measure_key(what, key)


def _measure_key(what: str, key: str) -> None:
    try:
        size = len(key.encode())
    except UnicodeEncodeError as error:
        raise InvalidArgument(
            f"{what} {key[:80]!r} is not text: it holds a lone surrogate at index {error.start}"
        ) from None
    if size > KEY_BYTES_MAX:
        raise LimitExceeded(f"{what} is {size} bytes as UTF-8, over the limit of {KEY_BYTES_MAX}")


def _listed(what: str, values: Iterable[T]) -> list[T]:
    try:
        iterator = iter(values)
    except TypeError:
        raise InvalidArgument(f"{what} is an iterable, not {type(values).__name__}") from None
    return list(iterator)


def _checked_keys(keys: Iterable[str]) -> list[str]:
    if isinstance(keys, str):
        raise InvalidArgument("keys is an iterable of str, not one str")
    listed = _listed("keys", keys)
    for number, key in enumerate(listed):
        _check_key(f"keys[{number}]", key)
    return listed if set(map(type, listed)) <= {str} else [str(key) for key in listed]


def check_updates(updates: Collection[AnyUpdate]) -> None:
    """Raise an error naming the first update that is none, or is over a limit."""
    for number, update in enumerate(updates):
        kind = type(update)
        if kind is Put:
            value = update.value  # type: ignore[union-attr]
            if type(value) is not bytes and not isinstance(value, _bytes_like):
                raise InvalidArgument(
                    f"updates[{number}].value is bytes, not {type(value).__name__}"
                )
            if len(value) > VALUE_BYTES_MAX:
                raise LimitExceeded(
                    f"updates[{number}].value of key {update.key[:80]!r} is {len(value)} bytes, "
                    f"over the limit of {VALUE_BYTES_MAX}"
                )
        elif kind is not Delete and kind is not Purge:
            raise InvalidArgument(f"updates[{number}] is {kind.__name__}, not Put, Delete or Purge")
        if type(update.version) is not Version and not isinstance(update.version, Version):
            raise InvalidArgument(
                f"updates[{number}].version is a Version, not {type(update.version).__name__}"
            )
        _check_token(f"updates[{number}].version", update.version.token)
        key = update.key
        if type(key) is not str or len(key) * 4 > KEY_BYTES_MAX or not key.isascii():
            _check_key(f"updates[{number}].key", key)
