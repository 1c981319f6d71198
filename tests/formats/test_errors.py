"""The error tree: documented, picklable, and the same on both sides of the wire."""

import errno
import pickle

import pytest

from holdfast.formats import errors
from holdfast.formats.errors import (
    ALL_ERRORS,
    HoldfastError,
    StoreFull,
    StoreIOError,
    StoreReadOnly,
    WorkerTraceback,
    from_os_error,
    from_wire,
)

EVERY = pytest.mark.parametrize("cls", ALL_ERRORS, ids=lambda cls: cls.__name__)
SAMPLES: dict[str, errors.Detail] = {
    "store": "config",
    "path": "/data/config.snap",
    "offset": 17,
    "reason": "checksum mismatch",
    "pid": 4711,
    "command": "python app.py",
    "since": "2026-01-01T00:00:00+00:00",
    "errno": errno.ENOSPC,
    "request": "apply",
    "cause": "signal 9",
    "may_have_happened": True,
}


def _made(cls: type[HoldfastError]) -> HoldfastError:
    return cls("what happened", **{name: SAMPLES[name] for name in cls.details})


@EVERY
def test_documented(cls: type[HoldfastError]) -> None:
    """Each class says in words of its own when it is raised and what state is left."""
    assert cls.__doc__
    assert len(cls.__doc__.split()) >= 8
    parents = [base.__doc__ for base in cls.__mro__[1:]]
    assert cls.__doc__ not in parents


@EVERY
def test_all_details_have_a_sample(cls: type[HoldfastError]) -> None:
    """A new detail has to be added to this test, or it would not be tested."""
    assert set(cls.details) <= SAMPLES.keys()


@EVERY
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles(cls: type[HoldfastError], protocol: int) -> None:
    """Class, message and details survive, also those inherited from OSError or KeyError."""
    error = _made(cls)
    found = pickle.loads(pickle.dumps(error, protocol))
    assert type(found) is cls
    assert str(found) == str(error) == "what happened"
    assert found.wire_details() == error.wire_details()


@EVERY
def test_crosses_the_wire(cls: type[HoldfastError]) -> None:
    """The error that a worker raised is the error that its caller gets, with the traceback."""
    error = _made(cls)
    found = from_wire(cls.__name__, error.message, error.wire_details(), "Traceback ...")
    assert type(found) is cls
    assert (
        found.wire_details()
        == error.wire_details()
        == {name: SAMPLES[name] for name in cls.details}
    )
    assert isinstance(found.__cause__, WorkerTraceback)
    assert from_wire(cls.__name__, "m", {}).__cause__ is None


@EVERY
def test_details_are_optional(cls: type[HoldfastError]) -> None:
    """What is not known is None and does not travel."""
    error = cls("message")
    assert all(getattr(error, name) is None for name in cls.details)
    assert error.wire_details() == {}


def test_names_are_unique_and_public() -> None:
    """The wire knows errors by name, so each name is one class of this module."""
    assert len({cls.__name__ for cls in ALL_ERRORS}) == len(ALL_ERRORS)
    assert all(getattr(errors, cls.__name__) is cls for cls in ALL_ERRORS)


def test_unknown_errors_become_the_root() -> None:
    """A name or a detail from a newer release does no harm."""
    found = from_wire("FromTheFuture", "message", {"path": "p", "colour": "blue"})
    assert type(found) is HoldfastError
    assert found.path == "p"


@pytest.mark.parametrize(
    ("code", "cls"),
    [
        (errno.ENOSPC, StoreFull),
        (errno.EDQUOT, StoreFull),
        (errno.EFBIG, StoreFull),
        (errno.EROFS, StoreReadOnly),
        (errno.EACCES, StoreReadOnly),
        (errno.EPERM, StoreReadOnly),
        (errno.EIO, StoreIOError),
        (errno.ENOLCK, StoreIOError),
    ],
)
def test_from_os_error(code: int, cls: type[StoreIOError]) -> None:
    """Path, errno and its name are kept, and the class fits."""
    error = from_os_error(OSError(code, "why"), "append to", "/data/f", 9)
    assert type(error) is cls
    assert (error.path, error.offset, error.errno) == ("/data/f", 9, code)
    assert errno.errorcode[code] in str(error)
    assert "append to" in str(error)


def test_from_os_error_without_a_code() -> None:
    """An OSError made by hand has neither errno nor text, and is reported all the same."""
    error = from_os_error(OSError("by hand"), "read", "/data/f")
    assert "by hand" in str(error)
