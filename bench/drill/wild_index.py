"""An index class of a user's that, asked for it, never comes back or breaks: what drills load by
its name, as any user's class is loaded, to have a worker loop or die in the middle of a request."""

import os
import struct
from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.iqdb_values import Id, Metric
from holdfast.workers.persistable import Reader, Writer

NAME = f"{__name__}:WildIndex"
EXIT_CODE = 3
WELL, LOOPS, RAISES, EXITS = (np.array([number, 0], np.float32) for number in range(4))
"""Vectors: searching for the first is well, for the others it is not."""


class WildIndex:
    """Ids and nothing else."""

    INDEX_TYPE: ClassVar[str] = "wild"
    dimension = 2
    metric: Metric = "euclidean"

    def __init__(self, dimension: int, metric: Metric) -> None:
        self._ids: dict[Id, None] = {}

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, id_: object) -> bool:
        return id_ in self._ids

    def insert(
        self, id_: Id, vector: NDArray[np.float32], metadata: Mapping[str, object] | None
    ) -> None:
        """Keep the id."""
        self._ids[id_] = None

    def delete(self, id_: Id) -> None:
        """Forget the id."""
        del self._ids[id_]

    def search(self, vector: NDArray[np.float32], k: int) -> Sequence[tuple[Id, float]]:
        """The first ids, unless the vector is one of the wild ones."""
        while vector[0] == LOOPS[0]:
            pass
        if vector[0] == RAISES[0]:
            raise ArithmeticError("as it was asked to")
        if vector[0] == EXITS[0]:
            os._exit(EXIT_CODE)  # a SystemExit would be a typed error
        return [(id_, 0.0) for id_ in list(self._ids)[:k]]

    def save_to(self, writer: Writer) -> None:
        """Write the ids, which are numbers here."""
        for id_ in self._ids:
            assert isinstance(id_, int)
            writer.write(struct.pack("<Q", id_))

    @classmethod
    def load_from(cls, reader: Reader) -> Self:
        """The ids again."""
        index = cls(cls.dimension, cls.metric)
        index._ids = dict.fromkeys(id_ for (id_,) in struct.iter_unpack("<Q", reader.read()))
        return index
