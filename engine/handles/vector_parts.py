"""What the handles of vector stores put into messages, and make of replies."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast, get_args

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from holdfast.formats.errors import InvalidArgument, LimitExceeded, OptionsConflict
from holdfast.formats.expression import encode_expression
from holdfast.formats.limits import DIMENSION_MAX
from holdfast.formats.rvf.terms import Metric, Profile
from holdfast.formats.tables import ipc_to_table
from holdfast.handles.arrays import as_ids
from holdfast.handles.checks import check_choice, check_count, check_flag
from holdfast.handles.results import QueryResult, Rows
from holdfast.workers import sets
from holdfast.workers import vector_messages as vm
from holdfast.workers.messages import StoreSpec
from holdfast.workers.raw_arrays import raw

Include = Literal["metadata", "vectors"]

_DERIVATION_CHARS_MAX = 1000
_DIGEST = np.dtype("V16")


@dataclass(frozen=True, eq=False)
class Membership:
    """What a branch shows of its parent."""

    parent_rows: int
    """Live rows of the parent at the branch point."""
    visible_rows: int
    """Of these, shown: neither hidden nor replaced by a row of the branch's own."""
    hidden: NDArray[np.uint64]
    """(n,) ids of the parent that are not shown, ascending."""


@dataclass(frozen=True, eq=False)
class Difference:
    """How another store differs from this one; ids ascending, (n,) each."""

    added: NDArray[np.uint64]
    changed: NDArray[np.uint64]
    """The vector or the metadata is another."""
    deleted: NDArray[np.uint64]


class Digests:
    """Every id of a store with a digest of its row, page by page."""

    def __init__(self) -> None:
        self.complete = False
        self._ids = [np.empty(0, np.uint64)]
        self._digests = [np.empty(0, _DIGEST)]

    @property
    def last(self) -> int | None:
        """The last id so far."""
        return int(self._ids[-1][-1]) if len(self._ids[-1]) else None

    def add(self, ids: NDArray[np.uint64], digests: NDArray[np.void], more: bool) -> None:
        """The next page."""
        if len(ids):
            self._ids.append(ids)
            self._digests.append(digests)
        self.complete = not more

    def compared(self, other: "Digests") -> Difference:
        """How ``other`` differs."""
        mine, theirs = np.concatenate(self._ids), np.concatenate(other._ids)
        both, here, there = np.intersect1d(mine, theirs, assume_unique=True, return_indices=True)
        same = np.concatenate(self._digests)[here] == np.concatenate(other._digests)[there]
        return Difference(sets.difference(theirs, mine), both[~same], sets.difference(mine, theirs))


# --- arguments ---------------------------------------------------------------------------------


def raw_ids(ids: object | None) -> memoryview | None:
    """Ids that may be left out."""
    return None if ids is None else raw(as_ids(ids))


def check_dimension(value: object) -> int:
    """The dimension, if the format has room for it."""
    dimension = check_count("dimension", value)
    if dimension > DIMENSION_MAX:
        raise LimitExceeded(f"dimension {dimension} is over the limit of {DIMENSION_MAX}")
    return dimension


def check_derivation(kind: object, dimension: object) -> int | None:
    """The dimension a derived store is made with; raises unless these can be."""
    if not isinstance(kind, str) or not 0 < len(kind) <= _DERIVATION_CHARS_MAX:
        raise InvalidArgument(f"kind is 1 to {_DERIVATION_CHARS_MAX} characters, not {kind!r:.80}")
    return None if dimension is None else check_dimension(dimension)


def included(include: Iterable[str]) -> frozenset[str]:
    """What an answer is to contain besides ids."""
    wanted = frozenset(_listed("include", include))
    unknown = wanted - {"metadata", "vectors"}
    if unknown:
        raise InvalidArgument(f"include has {sorted(unknown)}, known are 'metadata' and 'vectors'")
    return wanted


def names(columns: Iterable[str]) -> list[str]:
    """Names of metadata columns."""
    return _listed("columns", columns)


def _listed(what: str, names: object) -> list[str]:
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise InvalidArgument(f"{what} is an iterable of names, not {names!r:.80}")
    listed = []
    for name in names:
        if not isinstance(name, str):
            raise InvalidArgument(f"{what} has names that are str, not {type(name).__name__}")
        listed.append(str(name))  # numpy's text does not travel
    return listed


def condition(where: pc.Expression | None) -> bytes | None:
    """A filter that may be left out."""
    return None if where is None else encode_expression(where)


def agreed(opened: StoreSpec, asked: vm.VectorOptions) -> vm.VectorsAre:
    """The properties of a store, if they are what was asked for; ``OptionsConflict`` if not."""
    properties, name = opened.properties, opened.name
    assert isinstance(properties, vm.VectorsAre)
    for what in ("dimension", "metric", "profile", "read_only"):
        wanted, found = getattr(asked, what), getattr(properties, what)
        if wanted is not None and wanted != found:
            raise OptionsConflict(
                f"store {name!r} has {what}={found!r}, not {wanted!r}", store=name
            )
    return properties


def options(
    dimension: int | None, metric: str | None, profile: str | None, read_only: bool
) -> vm.VectorOptions:
    """Checked options of a vector store."""
    if dimension is not None:
        check_dimension(dimension)
    if metric is not None:
        check_choice("metric", metric, get_args(Metric))
    if profile is not None:
        check_choice("profile", profile, get_args(Profile))
    check_flag("read_only", read_only)
    return vm.VectorOptions(
        None if dimension is None else int(dimension),
        cast("Metric | None", metric),
        cast("Profile | None", profile),
        read_only,
    )


# --- replies -----------------------------------------------------------------------------------


def query_result(hits: vm.Hits, queries: int, dimension: int, single: bool) -> QueryResult:
    """The arrays of a reply, copied out of its frame."""
    shape = (hits.each,) if single else (queries, hits.each)
    vectors = None
    if hits.vectors is not None:
        vectors = np.frombuffer(hits.vectors, "<f4").astype(np.float32)
        vectors = vectors.reshape(*shape, dimension)
    return QueryResult(
        np.frombuffer(hits.ids, "<u8").astype(np.uint64).reshape(shape),
        np.frombuffer(hits.distances, "<f4").astype(np.float32).reshape(shape),
        None if hits.metadata is None else ipc_to_table(bytes(hits.metadata)),
        vectors,
    )


def rows(reply: vm.VectorRows, dimension: int) -> Rows:
    """The arrays of a reply, copied out of its frame."""
    vectors = None
    if reply.vectors is not None:
        vectors = np.frombuffer(reply.vectors, "<f4").astype(np.float32).reshape(-1, dimension)
    return Rows(
        np.frombuffer(reply.ids, "<u8").astype(np.uint64),
        vectors,
        None if reply.metadata is None else ipc_to_table(bytes(reply.metadata)),
    )


def membership(reply: vm.Membership) -> Membership:
    """The reply with its ids as an array."""
    hidden = np.frombuffer(reply.hidden, "<u8").astype(np.uint64)
    return Membership(reply.parent_rows, reply.visible_rows, hidden)


def digest_page(reply: vm.Digests) -> tuple[NDArray[np.uint64], NDArray[np.void], bool]:
    """The arrays of a reply, copied out of its frame."""
    ids = np.frombuffer(reply.ids, "<u8").astype(np.uint64)
    return ids, np.frombuffer(bytes(reply.digests), _DIGEST), reply.more
