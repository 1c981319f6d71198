"""An index store in the caller's own process: one call at a time, and none once one is broken off.

A worker that cannot tell how far a change got ends, and its successor recovers the files. Here no
process ends: the files are let go of as if it had, and opening them again recovers them.
"""

import os
import threading
import weakref
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Self, TypeVar, cast

from holdfast.forks import watch
from holdfast.formats.errors import (
    EngineClosed,
    HoldfastError,
    StoreIOError,
    from_os_error,
    typed_errors,
)
from holdfast.workers.index_store import IndexStore
from holdfast.workers.log_file import Fatal

T = TypeVar("T")


class OwnedIndex:
    """What there is to an index in this process besides what it holds."""

    def __init__(self, store: IndexStore) -> None:
        self._store = store
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._closed = False
        self._failure: str | None = None
        """Why it serves no longer; also while a change is under way."""
        self._timer: threading.Timer | None = None
        self._finalizer = weakref.finalize(self, _close_forgotten, store, self._pid)
        watch(self)

    @property
    def path(self) -> str:
        """Path of the snapshot; the log is beside it, with ``.wal`` at the end."""
        return self._store.path

    def close(self) -> None:
        """Sync and let go of the files. A second call does nothing."""
        with self._lock:
            if self._closed or os.getpid() != self._pid:
                return
            close = self._store.close if self._failure is None else self._store.abandon

            def closed() -> None:
                self._closed = True
                if self._timer is not None:
                    self._timer.cancel()
                self._finalizer.detach()
                close()

            self._guarded(closed)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- how -------------------------------------------------------------------------------

    def _write(self, change: Callable[[], T]) -> T:
        """Make a change, make it as durable as the policy says, and checkpoint if it is time."""

        def written() -> T:
            with typed_errors("write to", self.path):
                result = change()
            self._store.group.commit()
            if self._store.needs_checkpoint():
                finish(self._store.quiet_checkpoint())
            self._set_timer()
            return result

        return self._change(written)

    def _read(self, action: Callable[[], T]) -> T:
        """Do what changes neither files nor index, and so may be broken off anywhere."""
        with self._lock:
            self._check_open()
            return action()

    def _change(self, action: Callable[[], T]) -> T:
        with self._lock:
            self._check_open()
            return self._guarded(action)

    def _check_open(self) -> None:
        if os.getpid() != self._pid:
            raise EngineClosed(f"{self.path!r} was opened in another process: open it here")
        if self._closed:
            raise EngineClosed(f"{self.path!r} was closed")
        if self._failure is not None:
            raise StoreIOError(f"{self._failure}; open it again", path=self.path)

    def _guarded(self, action: Callable[[], T]) -> T:
        """Do what changes files and index. After a typed error both are as they were.

        Anything else leaves unknown how far either got: Ctrl-C may fall between a record that is
        logged and the row that it adds, and the next row would be logged under the same number. So
        the rest is left to recovery, as when a process dies.
        """
        try:
            self._failure = f"a call that changes {self.path!r} was broken off"
            result = action()
            self._failure = None
            return result
        except HoldfastError:
            self._failure = None
            raise
        except BaseException as error:
            if isinstance(error, OSError):
                self._failure = str(from_os_error(error, "use", self.path))
            elif isinstance(error, Fatal):
                self._failure = str(error)
            self._finalizer.detach()
            self._store.abandon()
            if isinstance(error, Fatal | OSError):
                raise StoreIOError(f"{self._failure}; open it again", path=self.path) from error
            raise

    def _leave_to_parent(self) -> None:
        """In a forked child: let go of the files, whose locks are the parent's."""
        self._lock = threading.RLock()  # another thread may have had it, which is not here
        self._timer = None
        if self._finalizer.detach() is not None:  # it was neither closed nor failed
            self._store.abandon()

    def _set_timer(self) -> None:
        due = self._store.group.due_in()
        if due is None or self._timer is not None:
            return
        self._timer = threading.Timer(due, self._sync_due)
        self._timer.daemon = True
        self._timer.start()

    def _sync_due(self) -> None:
        with self._lock:
            self._timer = None
            if self._closed or self._failure is not None:
                return
            try:
                self._guarded(self._store.group.commit)
            except StoreIOError:
                return  # the next call says so
            self._set_timer()


def _close_forgotten(store: IndexStore, pid: int) -> None:
    """Close an index that nobody has any more."""
    if os.getpid() != pid:
        return
    try:
        store.close()
    except (Fatal, HoldfastError, OSError):
        store.abandon()  # nobody is left to be told, and a successor recovers what there is


def finish(steps: Generator[object, None, T]) -> T:
    """Do long work to its end, with nobody to be served between its slices."""
    while True:
        try:
            next(steps)
        except StopIteration as finished:
            return cast("T", finished.value)
