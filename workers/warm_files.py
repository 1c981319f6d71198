"""The files in a warm store's directory: every name, in one place.

::

    sensors.warm/
      MANIFEST                 which chunks count (formats.warm_manifest)
      LOG                      what is not in a chunk yet (formats.warm_log)
      LOG.ledger, LOG.cut1 ..  as for every log
      OWNER                    who has the store open; the lock on it is the system's
      0000000007.arrow         a chunk (formats.warm_chunk)
      0000000007.zone          its zone map (formats.zone_map)
      0000000009.dead          the dead rows of some chunk, which the manifest names
"""

import os
import re
from collections.abc import Iterable, Sequence

from holdfast.workers.disk import TEMPORARY_SUFFIX

MANIFEST, LOG, OWNER = "MANIFEST", "LOG", "OWNER"
CHUNK_SUFFIX, ZONE_SUFFIX, DEAD_SUFFIX = ".arrow", ".zone", ".dead"
CHRONOS = "a directory of chronos-vector; import_chronos or 'holdfast import' reads it into a store"
_NUMBERED = re.compile(r"(\d{10,20})\.(?:arrow|zone|dead)")


class WarmFiles:
    """The paths of one store."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.manifest = os.path.join(directory, MANIFEST)
        self.log = os.path.join(directory, LOG)
        self.owner = os.path.join(directory, OWNER)

    def chunk(self, number: int) -> str:
        """Path of a chunk's Arrow file."""
        return self._numbered(number, CHUNK_SUFFIX)

    def zone(self, number: int) -> str:
        """Path of a chunk's zone map."""
        return self._numbered(number, ZONE_SUFFIX)

    def dead(self, number: int) -> str:
        """Path of a file of dead rows."""
        return self._numbered(number, DEAD_SUFFIX)

    def path(self, name: str) -> str:
        """Path of a file of this name."""
        return os.path.join(self.directory, name)

    def _numbered(self, number: int, suffix: str) -> str:
        return os.path.join(self.directory, f"{number:010d}{suffix}")


def is_numbered(name: str) -> bool:
    """Whether a file's name is that of a chunk, a zone map or dead rows, finished or not."""
    return _NUMBERED.fullmatch(name.removesuffix(TEMPORARY_SUFFIX)) is not None


def number_of(name: str, suffix: str) -> int | None:
    """The number in a file's name that ends with ``suffix``."""
    if not name.endswith(suffix) or not is_numbered(name):
        return None
    return int(name.removesuffix(suffix))


def foreign(names: Sequence[str]) -> str | None:
    """Why a directory with these names in it is no warm store of ours, if it is none."""
    if MANIFEST in names or LOG in names or any(map(is_numbered, names)):
        return None
    others = [name for name in names if not name.startswith((OWNER, MANIFEST, LOG))]
    if not others:
        return None
    if is_chronos(others):
        return f"is {CHRONOS}"
    return f"is not a warm store: it has no {MANIFEST}, but {others[0]!r}"


def is_chronos(names: Iterable[str]) -> bool:
    """Whether these are the names in a directory of the original's."""
    return any(name.startswith("entity_") for name in names)
