"""Where things lie in an engine's directory; every file name holdfast invents, in one place."""

import os
import re

from holdfast.formats.errors import InvalidName
from holdfast.formats.limits import NAME_CHARS_MAX
from holdfast.workers.messages import Kind

# Suffixes of all kinds of store, also of those this release does not serve, since a name belongs to
# one store whatever its kind.
SUFFIXES = {
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
    """A store's name, if it is safe as a file name on every file system; ``InvalidName`` if not."""
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


def split_store(file_name: str) -> tuple[str, str] | None:
    """Name and kind of the store that a file belongs to by its name, if it does."""
    for kind, suffix in SUFFIXES.items():
        name = file_name.removesuffix(suffix)
        if name != file_name and _NAME.fullmatch(name):
            return name, kind
    return None
