"""What a store does of its own accord, and what becomes of it when it fails.

The same for every kind of store:

======================================  ========================================================
a typed error, such as of a full disk   put off, with a warning: serving goes on with the files as
or of damage                            they are, and each kind says when it is tried again
anything else                           ends the worker, and its successor recovers the store:
                                        nobody can tell any more what is in place (``Fatal``), or
                                        it is a defect
======================================  ========================================================

What the system or a damaged record raises has been made a typed error by then, as in work that was
asked for.
"""

from collections.abc import Callable, Generator
from logging import Logger
from typing import TypeVar

from holdfast.formats.errors import HoldfastError

Y = TypeVar("Y")


def quietly(
    work: Generator[Y, None, object],
    what: str,
    path: str,
    log: Logger,
    put_off: Callable[[], None],
) -> Generator[Y, None, None]:
    """Do ``work``, for which nobody waits; ``put_off`` is called when it fails."""
    try:
        yield from work
    except HoldfastError as error:
        put_off()
        log.warning("%s: %s failed and is put off: %s", path, what, error)
