"""Where things lie in an engine's directory; every file name holdfast invents, in one place."""

import os
import re
from collections.abc import Iterable

from holdfast.formats.errors import InvalidName, StoreLocked
from holdfast.formats.limits import NAME_CHARS_MAX
from holdfast.workers.messages import Kind, StoreSpec
from holdfast.workers.vector_messages import VectorOptions

# A name belongs to one store whatever its kind.
SUFFIXES: dict[Kind, str] = {
    "fold": ".snap",
    "vectors": ".rvf",
    "warm": ".warm",
    "index": ".iqdb",
    "registry": ".zsm",
}
DIRECTORIES = frozenset({"warm"})
"""The kinds of store that are a directory and not a file."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Places:
    """The paths in one engine's directory."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.private = os.path.join(directory, ".holdfast")
        self.lock = os.path.join(self.private, "supervisor.lock")
        self.socket = os.path.join(self.private, "control.sock")
        self.log = os.path.join(self.private, "supervisor.log")
        self.older_log = self.log + ".previous"

    def store(self, name: str, kind: Kind) -> str:
        """Path of a store's file."""
        return os.path.join(self.directory, name + SUFFIXES[kind])


def check_name(name: object) -> str:
    """A store's name, if it is safe as a file name on Linux and macOS; ``InvalidName`` if not."""
    if not isinstance(name, str):
        raise InvalidName(f"a store's name is a str, not {type(name).__name__}")
    if not _NAME.fullmatch(name) or name.endswith("."):
        raise InvalidName(
            f"{name!r} is not a store's name: letters, digits, '.', '_' and '-' only, beginning "
            "with a letter or digit and not ending with '.'"
        )
    if len(name) > NAME_CHARS_MAX:
        raise InvalidName(
            f"a store's name of {len(name)} characters is over the limit of {NAME_CHARS_MAX}"
        )
    return name


def split_store(file_name: str) -> tuple[str, Kind] | None:
    """Name and kind of the store that a file belongs to by its name, if it does."""
    for kind, suffix in SUFFIXES.items():
        name = file_name.removesuffix(suffix)
        if name != file_name and _NAME.fullmatch(name):
            return name, kind
    return None


def taken_by_another(
    spec: StoreSpec, served: Iterable[tuple[StoreSpec, int | None]]
) -> StoreLocked | None:
    """The error for a file that one of these stores has, each with its worker's process id.

    A store that is read only takes no lock, and so is in nobody's way.
    """
    if _takes_no_lock(spec):
        return None
    for other, pid in served:
        if other.path == spec.path and not _takes_no_lock(other):
            return StoreLocked(
                f"{spec.path!r} is open in this engine as store {other.name!r}",
                store=other.name,
                path=spec.path,
                pid=pid,
            )
    return None


def _takes_no_lock(spec: StoreSpec) -> bool:
    return isinstance(spec.options, VectorOptions) and spec.options.read_only
