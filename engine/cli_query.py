"""Searching an RVF file from the command line: no engine, no lock, nothing written."""

import math
import os

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.errors import NOT_FINITE, InvalidArgument, InvalidFormat
from holdfast.handles.arrays import as_queries, first_non_finite
from holdfast.handles.checks import check_count
from holdfast.workers.actor import Caller
from holdfast.workers.disk import OsDisk
from holdfast.workers.messages import StoreSpec
from holdfast.workers.raw_arrays import raw
from holdfast.workers.vector_messages import (
    Hits,
    VectorOptions,
    VectorsQuery,
)
from holdfast.workers.vectors import open_vectors

_NOBODY = Caller(0, 0)


def _no_tick() -> None:
    pass


def search_file(
    path: str, queries_path: str, k: int, *, exact: bool
) -> list[dict[str, list[object]]]:
    """The ``k`` rows nearest to each query of a ``.npy`` file: ids and distances, nearest first.

    A distance that JSON has no number for is None. Raises what opening a store does, and
    ``InvalidArgument`` for queries that do not fit.
    """
    k = check_count("k", k)
    if os.path.isdir(path):
        raise InvalidArgument(f"{path!r} is a directory, not a vector store's file", path=path)
    given = _load_array(queries_path)
    options = VectorOptions(read_only=True)
    spec = StoreSpec(os.path.basename(path), "vectors", path, create=False, options=options)
    actor = open_vectors(OsDisk(), spec, _no_tick)
    try:
        queries, _ = as_queries(given, actor.properties().dimension)
        bad = first_non_finite(queries)
        if bad is not None:
            raise InvalidArgument(
                f"query {bad} has values that are {NOT_FINITE}", path=queries_path
            )
        request = VectorsQuery(raw(queries), len(queries), k, exact=True if exact else None)
        hits = actor.handle(request, _NOBODY)
        assert isinstance(hits, Hits)
    finally:
        actor.close()
    shape = (len(queries), hits.each)
    ids = np.frombuffer(hits.ids, "<u8").reshape(shape).tolist()
    distances = np.frombuffer(hits.distances, "<f4").reshape(shape).tolist()
    return [
        {"ids": some, "distances": [d if math.isfinite(d) else None for d in measured]}
        for some, measured in zip(ids, distances, strict=True)
    ]


def _load_array(path: str) -> "NDArray[np.generic]":
    """The array in a ``.npy`` file; pickled objects are refused."""
    if not os.path.isfile(path):
        raise InvalidArgument(f"{path!r} is no file", path=path)
    try:
        # Mapped, so that a header that lies about the size costs no memory.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # of many kinds, none documented, if the header is not one
        raise InvalidFormat(f"{path!r} is not an array in .npy format", path=path) from error
    if not isinstance(array, np.ndarray):
        raise InvalidFormat(f"{path!r} is an archive, not one array in .npy format", path=path)
    return array
