"""Every error holdfast raises, in one tree, with what to do and what state is left behind.

All of them carry ``store``, ``path`` and ``offset`` where they have one, survive pickling, and
cross the wire by name (``from_wire``). An error raised in a worker arrives in the caller
with the worker's traceback as ``__cause__``.
"""

import contextlib
import errno as errno_codes
from collections.abc import Iterator
from typing import ClassVar, Self

Detail = str | int | float | bool | None


class WorkerTraceback(Exception):
    """The traceback of an error in a worker process, as text; only ever seen as a ``__cause__``."""


class HoldfastError(Exception):
    """Root of the tree. ``except holdfast.HoldfastError`` catches everything below and no more."""

    details: ClassVar[tuple[str, ...]] = ("store", "path", "offset")

    store: str | None
    """Name of the store concerned."""
    path: str | None
    """File or directory concerned."""
    offset: int | None
    """Byte offset in ``path``."""

    def __init__(self, message: str, **details: Detail) -> None:
        super().__init__(message)
        self.message = message
        unknown = details.keys() - set(self.details)
        assert not unknown, f"{type(self).__name__} has no {unknown}"
        for name in self.details:
            setattr(self, name, details.get(name))

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.wire_details()), {})

    def wire_details(self) -> dict[str, Detail]:
        """The details that are set, by name."""
        values = {name: getattr(self, name) for name in self.details}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def rebuilt(cls, message: str, details: dict[str, Detail]) -> Self:
        """The error again, from what ``wire_details`` gave; unknown details are dropped."""
        return cls(message, **{k: v for k, v in details.items() if k in cls.details})


def _rebuild(cls: type[HoldfastError], message: str, details: dict[str, Detail]) -> HoldfastError:
    return cls.rebuilt(message, details)


# --- the caller's mistake: nothing was changed -------------------------------------------------


class InvalidArgument(HoldfastError, ValueError):
    """A value of the wrong type, form or range. Nothing was changed; correct it and call again."""


class LimitExceeded(InvalidArgument):
    """A value is larger than a named limit. Nothing was changed."""


class ResultTooLarge(LimitExceeded):
    """The answer would exceed what one reply may hold. Use ``scan`` or a ``limit``."""


class StaleUpdate(InvalidArgument):
    """``stale="refuse"`` met a cursor or version older than the stored one. Nothing was changed."""


class Duplicate(InvalidArgument, KeyError):
    """An insert met an id that is in the index. Nothing was changed; ``upsert`` replaces."""


class NotFound(HoldfastError, KeyError):
    """A delete met an id that is not in the index. Nothing was changed."""


class InvalidName(InvalidArgument):
    """A store's name that is not safe as a file name on Linux and macOS. Nothing was created."""


class EngineClosed(HoldfastError, RuntimeError):
    """The engine was closed before the call. Open another with ``holdfast.open``."""


class StoreNotFound(HoldfastError, KeyError):
    """No store of that name is in the directory."""


class StoreExists(HoldfastError, FileExistsError):
    """The destination already holds something. Nothing was changed; choose another name."""


class WrongKind(InvalidArgument):
    """The name belongs to a store of another kind. Nothing was changed."""


class OptionsConflict(InvalidArgument):
    """The store is already open with other options. Nothing was changed."""


# --- the world: files, disks, processes --------------------------------------------------------


class StoreLocked(HoldfastError, BlockingIOError):
    """Another process owns the file. ``pid``, ``command`` and ``since`` say which.

    Nothing was changed. The lock goes when its owner goes; there is never a file to delete by hand.
    """

    details = (*HoldfastError.details, "pid", "command", "since")
    pid: int | None
    command: str | None
    since: str | None


class StoreCorrupt(HoldfastError):
    """A file is damaged before records that are intact; ``reason`` says how.

    The file was not touched. ``holdfast inspect PATH`` shows what can still be read, and
    ``holdfast repair PATH`` writes that to a new file.
    """

    details = (*HoldfastError.details, "reason")
    reason: str | None


class InvalidFormat(StoreCorrupt):
    """A file is not what its name says: foreign, of another version, or breaking its format.

    The file was not touched.
    """


class ArtifactInvalid(HoldfastError, ValueError):
    """An export artifact is bad, or has no place to go to; nothing appears at its destination."""


class StoreFrozen(HoldfastError, PermissionError):
    """The store was frozen: it can be read and branched, never again written. Nothing was changed.

    Make a branch and write there.
    """


class HasBranches(HoldfastError):
    """Branches read this store's file, so it may not be compacted or dropped. Nothing was changed.

    Drop the branches that the message names, or leave the store as it is.
    """


class ParentChanged(HoldfastError):
    """The file that a branch reads its inherited rows from is missing, replaced or damaged.

    Nothing was changed. Put the parent back under its name; ``path`` says where it has to be.
    """


class StoreIOError(HoldfastError, OSError):
    """The operating system refused a file operation; ``errno`` says why.

    The call took no effect and the store serves on, unless the message says otherwise.
    """

    details = (*HoldfastError.details, "errno")
    errno: int | None


class StoreFull(StoreIOError):
    """No space, quota or allowed file size left. Nothing was changed; make room and call again."""


class StoreReadOnly(StoreIOError, PermissionError):
    """The file or directory may not be written. Nothing was changed."""


class StoreFailed(HoldfastError):
    """The store's worker kept dying without getting anything done, so it is no longer restarted.

    The message lists the causes. Other stores go on; ``engine.restart(name)`` tries again.
    """


class WorkerCrashed(HoldfastError):
    """This request was being worked on each time its worker died, and is not tried again.

    ``cause`` says how the worker died; ``may_have_happened`` whether a write may be in the store.
    """

    details = (*HoldfastError.details, "request", "cause", "may_have_happened")
    request: str | None
    cause: str | None
    may_have_happened: bool | None


class CallTimeout(HoldfastError, TimeoutError):
    """No answer within the deadline. ``may_have_happened`` says whether a write may take effect."""

    details = (*HoldfastError.details, "may_have_happened")
    may_have_happened: bool | None


class EngineUnavailable(HoldfastError, ConnectionError):
    """The directory's supervisor could not be started or reached; the message says why."""


class UnsafeFileSystem(EngineUnavailable):
    """The directory is on a network file system, where locks and syncs cannot be relied on.

    ``holdfast.open(..., allow_network_fs=True)`` accepts the risk.
    """


class ProtocolError(HoldfastError):
    """A peer sent bytes that are not a frame or a message. The session is closed, nothing else."""


class InternalError(HoldfastError):
    """A defect in holdfast: an exception no rule foresaw. The worker's traceback is the cause."""


_BY_NAME: dict[str, type[HoldfastError]] = {}


def _register(cls: type[HoldfastError]) -> None:
    _BY_NAME[cls.__name__] = cls
    for child in cls.__subclasses__():
        _register(child)


_register(HoldfastError)
ALL_ERRORS = tuple(_BY_NAME.values())


def from_wire(
    name: str, message: str, details: dict[str, Detail], trace: str = ""
) -> HoldfastError:
    """The error a worker raised, rebuilt in the caller; an unknown name becomes the root."""
    error = _BY_NAME.get(name, HoldfastError).rebuilt(message, details)
    if trace:
        error.__cause__ = WorkerTraceback(trace)
    return error


NOT_FINITE = "not finite: NaN, infinite or beyond float32"
"""What is said of a number that a vector may not have."""

_FULL = {errno_codes.ENOSPC, errno_codes.EDQUOT, errno_codes.EFBIG}
_DENIED = {errno_codes.EROFS, errno_codes.EACCES, errno_codes.EPERM}


def from_os_error(error: OSError, doing: str, path: str, offset: int | None = None) -> StoreIOError:
    """The typed form of an ``OSError`` met while ``doing`` something to ``path``."""
    if isinstance(error, StoreIOError):
        return error
    cls = StoreIOError
    if error.errno in _FULL:
        cls = StoreFull
    elif error.errno in _DENIED:
        cls = StoreReadOnly
    code = errno_codes.errorcode.get(error.errno or 0, "?")
    reason = error.strerror or str(error)
    return cls(
        f"cannot {doing} {path!r}: {reason} ({code})", path=path, offset=offset, errno=error.errno
    )


def corrupt(
    path: str, offset: int | None, reason: str, cls: type[StoreCorrupt] = StoreCorrupt
) -> StoreCorrupt:
    """The error for damage at a place in a file, if that is known."""
    place = "" if offset is None else f" at offset {offset}"
    return cls(f"{path!r} is damaged{place}: {reason}", path=path, offset=offset, reason=reason)


@contextlib.contextmanager
def typed_errors(doing: str, path: str) -> Iterator[None]:
    """Raise ``OSError`` as its typed form; errors of the tree, some of which are one, pass."""
    try:
        yield
    except HoldfastError:
        raise
    except OSError as error:
        raise from_os_error(error, doing, path) from error
