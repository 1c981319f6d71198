"""The seam of the index store: what a class must have to be made durable, and how it is found.

A class of the user's own needs these few methods, and is named ``"package.module:Class"``; the
worker imports it. It is made as ``Class(dimension, metric)``, or ``load_from`` a payload that
``save_to`` wrote. Header, checksum, compression, log and recovery are the store's business.
"""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.errors import InvalidArgument
from holdfast.formats.iqdb_values import (
    FlatParameters,
    HnswParameters,
    Id,
    Metric,
    Parameters,
    Value,
)
from holdfast.formats.limits import INDEX_TYPE_BYTES_MAX

_NEEDED = (
    "INDEX_TYPE",
    "__len__",
    "__contains__",
    "insert",
    "delete",
    "search",
    "save_to",
    "load_from",
)


class Hit(NamedTuple):
    """A row found: its id, and its distance, lower being nearer."""

    id: Id
    distance: float


class Writer(Protocol):
    """Takes a payload, in pieces of any size."""

    def write(self, data: bytes, /) -> object:
        """Take more bytes."""
        ...


class Reader(Protocol):
    """Gives a payload back."""

    def read(self, size: int = -1, /) -> bytes:
        """Up to ``size`` bytes, or all that are left; fewer only at the end."""
        ...


@runtime_checkable
class Persistable(Protocol):
    """An index in memory that can be made durable.

    ``Engine.index(kind="package.module:Class")`` makes a new one as ``Class(dimension, metric)``,
    and any later time calls ``load_from``; ``dimension`` and ``metric`` then are what it was given.
    ``PersistedIndex.open_with`` takes an object that was made in any other way.

    Ids are u64 or non-empty bytes, vectors float32 arrays (dimension,), metadata a mapping of text
    to str, int, float, bool or None, or None. The store asks ``in`` before it inserts or deletes,
    so that nothing is logged that the index would refuse.

    Rows are not asked back from such a class: ``get``, ``search(metadata=True)``, ``where`` and
    ``ef`` are for the built-in kinds.
    """

    @property
    def INDEX_TYPE(self) -> str:
        """What the file says it holds, up to 4096 bytes of UTF-8: an attribute of the class."""
        ...

    @property
    def dimension(self) -> int:
        """Of every vector, 1 to 2**20."""
        ...

    @property
    def metric(self) -> Metric:
        """``cosine``, ``dot``, ``euclidean``, ``manhattan`` or ``hamming``."""
        ...

    def __len__(self) -> int:
        """How many rows there are."""
        ...

    def __contains__(self, id: object, /) -> bool:
        """Whether there is a row of this id."""
        ...

    def insert(
        self, id: Id, vector: NDArray[np.float32], metadata: Mapping[str, Value] | None, /
    ) -> None:
        """Add a row whose id is not there.

        An exception refuses it, and has to leave the index as it was; its text is in the error that
        the caller gets.
        """
        ...

    def delete(self, id: Id, /) -> None:
        """Remove a row that is there."""
        ...

    def search(self, vector: NDArray[np.float32], k: int, /) -> Sequence[tuple[Id, float]]:
        """The ``k`` nearest rows, nearest first, as (id, distance).

        Fewer where there are fewer. A batch of queries needs as many hits for each of them.
        """
        ...

    def save_to(self, writer: Writer, /) -> None:
        """Write everything, so that ``load_from`` needs nothing else.

        It is loaded to see whether that is so, before a former snapshot goes.
        """
        ...

    @classmethod
    def load_from(cls, reader: Reader, /) -> Self:
        """The index again. An exception means that the payload is none of this class."""
        ...


def parameters_of(kind: str) -> Parameters | None:
    """The default parameters of a built-in kind of index; None for other kinds."""
    if kind == "flat":
        return FlatParameters()
    return HnswParameters() if kind == "hnsw" else None


def class_of(kind: str) -> type[Persistable]:
    """The class that ``"package.module:Class"`` names. Raises ``InvalidArgument`` saying why not.

    Importing runs the module's code, as any import does.
    """
    module_name, colon, name = kind.partition(":")
    if not (colon and module_name and name):
        raise InvalidArgument(
            f"kind {kind!r} is neither 'flat', 'hnsw' nor of the form 'package.module:Class'"
        )
    try:
        found: Any = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # whatever the module's own code raises
        hint = ""
        if module_name == "__main__":
            hint = "; a worker is not the script that runs: move the class to a module of its own"
        raise InvalidArgument(f"kind {kind!r} cannot be imported: {error!r}{hint}") from error
    check_class(found, f"kind {kind!r}")
    return cast("type[Persistable]", found)


def type_of(cls: type[Persistable]) -> str:
    """What files say that hold an index of a class."""
    return cast("str", cls.INDEX_TYPE)  # the class itself has text there


def check_class(found: object, what: str) -> None:
    """Raise ``InvalidArgument`` naming what a class lacks to be made durable."""
    if not isinstance(found, type):
        raise InvalidArgument(f"{what} is no class")
    missing = [name for name in _NEEDED if not hasattr(found, name)]
    if missing:
        raise InvalidArgument(f"{what} has no {', '.join(missing)}")
    index_type = getattr(found, "INDEX_TYPE", None)
    if not isinstance(index_type, str) or not 0 < len(index_type.encode()) <= INDEX_TYPE_BYTES_MAX:
        raise InvalidArgument(
            f"{what}: INDEX_TYPE is text of 1 to {INDEX_TYPE_BYTES_MAX} bytes, not {index_type!r}"
        )
