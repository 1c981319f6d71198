"""What can be done with a file, and what is wrong with it, whatever its format."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from holdfast.formats.fold_log import Ending

UNKNOWN = "unknown"
"""The format of what is none of ours."""


class Standing(IntEnum):
    """What can be done with a file: the exit codes of ``holdfast verify``, for every format."""

    CLEAN = 0
    RECOVERABLE = 1
    DAMAGED = 2
    NOT_OURS = 3


STANDINGS = {
    Ending.CLEAN: Standing.CLEAN,
    Ending.TORN: Standing.RECOVERABLE,
    Ending.CORRUPT: Standing.DAMAGED,
    Ending.INVALID: Standing.DAMAGED,
}


class Flaw(NamedTuple):
    """Something that is missing or cannot be trusted.

    ``offset`` is None for what lies in another file. ``rows`` are those that are lost with it, as
    far as the damage lets one count, superseded and deleted ones included. ``file`` is the name of
    the file in a store that is a directory.
    """

    offset: int | None
    reason: str
    rows: int = 0
    file: str | None = None

    def __str__(self) -> str:
        place = "" if self.offset is None else f"offset {self.offset}: "
        if self.file is not None:  # whose reason tells of rows
            return f"{self.file}: {place}{self.reason}"
        count = f"; it has {self.rows} rows" if self.rows else ""
        return f"{place}{self.reason}{count}"

    def fields(self) -> dict[str, object]:
        """As JSON has it."""
        fields = self._asdict()
        if self.file is None:
            del fields["file"]
        return fields


@dataclass(slots=True)
class Rewriting:
    """A store to be written anew from what is intact of it."""

    write: Callable[[str], None]
    """Writes it, synced, beside this path: under its temporary name. To be called once."""
    rows: int
    """A fold's entries, or the rows or points that a store itself has; a branch shows more."""
    salvaged_rows: int = 0
    """Of these, rows that belonged to no commit."""
    lost: list[Flaw] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    is_branch: bool = False
    readers: list[str] = field(default_factory=list)
    """Paths of the branches that read the old file at fixed places."""
