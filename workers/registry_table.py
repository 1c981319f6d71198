"""A registry's artifacts in memory: their bytes, and what finds the nearest of them.

Distances are those of ``formats.fingerprint``, to the bit, computed for all artifacts at once: the
fields of all of them lie one behind the other, each with the number of its name, so that a few
array operations do for any number of artifacts.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.fingerprint import FieldStats, Fingerprint, combined, field_similarity

Number = TypeVar("Number", np.int64, np.float32)

_TICK_EVERY = 1024
_SPARE_NUMBERS = 4096  # numbers given to names that no artifact has any more


@dataclass(slots=True, eq=False)
class Stored:
    """One artifact as it is in the file: under its key, with the checksum of both."""

    key: bytes
    artifact: bytes
    checksum: int
    fingerprint: Fingerprint
    misfit: str | None
    """Why its parameters do not fit its fields, if they do not."""
    _is_plain: bool | None = None
    _columns: "_Columns | None" = field(default=None, repr=False)

    @property
    def size(self) -> int:
        """Bytes of its entry."""
        return len(self.key) + len(self.artifact)

    @property
    def is_plain(self) -> bool:
        """Whether its schema has no mappings."""
        if self._is_plain is None:
            self._is_plain = self.fingerprint.is_plain
        return self._is_plain


@dataclass(slots=True)
class _Columns:
    """One artifact's fields as arrays; the numbers are those of a ``Numbering``."""

    numbering: "_Numbering"
    names: NDArray[np.int64]
    null_rates: NDArray[np.float32]
    cardinalities: NDArray[np.float32]
    pairs: NDArray[np.int64]


class _Numbering:
    """Numbers for names, and for pairs of name and kind."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self.pairs: dict[tuple[str, str], int] = {}

    def columns(self, stored: Stored) -> _Columns:
        """An artifact's fields, new names numbered."""
        if stored._columns is None or stored._columns.numbering is not self:
            stored._columns = self._columns(stored.fingerprint)
        return stored._columns

    def _columns(self, fingerprint: Fingerprint) -> _Columns:
        names, pairs = self.names, self.pairs
        last = {stats.name: stats for stats in fingerprint.field_stats}
        return _Columns(
            self,
            np.array([names.setdefault(name, len(names)) for name in last], np.int64),
            np.array([stats.null_rate for stats in last.values()], np.float32),
            _cardinalities(last.values()),
            np.array(
                [pairs.setdefault(pair, len(pairs)) for pair in set(fingerprint.fields)], np.int64
            ),
        )


def _cardinalities(stats: Iterable[FieldStats]) -> NDArray[np.float32]:
    counts = np.array([one.cardinality for one in stats], np.uint64)
    return counts.astype(np.float32)


class Nearest:
    """Finds the artifacts nearest to a fingerprint, among those given to ``update``."""

    def __init__(self, tick: Callable[[], None]) -> None:
        self._tick = tick
        self._numbering = _Numbering()
        self._stored: list[Stored] = []

    def update(self, stored: Mapping[bytes, Stored]) -> None:
        """Look among these from now on."""
        self._stored = [stored[key] for key in sorted(stored)]
        columns = self._columns()
        used = sum([len(one.pairs) for one in columns])
        if len(self._numbering.pairs) > 2 * used + _SPARE_NUMBERS:
            self._numbering = _Numbering()
            columns = self._columns()
        names, pairs = [one.names for one in columns], [one.pairs for one in columns]
        self._names = _joined(names, np.int64)
        self._null_rates = _joined([one.null_rates for one in columns], np.float32)
        self._cardinalities = _joined([one.cardinalities for one in columns], np.float32)
        self._pairs = _joined(pairs, np.int64)
        self._pair_counts = np.array(list(map(len, pairs)), np.int64)
        places = np.arange(len(columns))
        self._name_owners = np.repeat(places, list(map(len, names)))
        self._pair_owners = np.repeat(places, self._pair_counts)
        fingerprints = [one.fingerprint for one in self._stored]
        self._sampled = np.array([one.record_count > 0 for one in fingerprints], np.bool_)
        self._hashes = [one.schema_hash for one in fingerprints]

    def _columns(self) -> list[_Columns]:
        columns = []
        for number, one in enumerate(self._stored):
            if not number % _TICK_EVERY:
                self._tick()
            columns.append(self._numbering.columns(one))
        return columns

    def find(
        self, fingerprint: Fingerprint, k: int, *, strict: bool = False, fitting: bool = False
    ) -> list[tuple[Stored, float]]:
        """The ``k`` nearest and their distances; of equally near ones the smaller key first.

        ``strict`` sees a model with mappings, or one without where the fingerprint has some, only
        if the hash is the same. ``fitting`` leaves out those whose parameters do not fit.
        """
        distances = self.distances(fingerprint)
        order = np.argsort(distances, kind="stable")
        if not strict and not fitting:
            order = order[:k]
        plain = strict and fingerprint.is_plain
        found: list[tuple[Stored, float]] = []
        for place in order.tolist():
            if len(found) == k:
                break
            stored = self._stored[place]
            if fitting and stored.misfit:
                continue
            same = stored.fingerprint.schema_hash == fingerprint.schema_hash
            if strict and not same and not (plain and stored.is_plain):
                continue
            found.append((stored, float(distances[place])))
        return found

    def distances(self, fingerprint: Fingerprint) -> NDArray[np.float32]:
        """The distance of each artifact, in order of their keys."""
        found: NDArray[np.float32] = combined(
            self._fields_similarity(fingerprint), self._stats_similarity(fingerprint)
        )
        digest = fingerprint.schema_hash
        found[[place for place, one in enumerate(self._hashes) if one == digest]] = 0
        return found

    def _fields_similarity(self, fingerprint: Fingerprint) -> NDArray[np.float32]:
        pairs = set(fingerprint.fields)
        wanted = np.zeros(len(self._numbering.pairs), np.bool_)
        numbers = self._numbering.pairs
        wanted[[numbers[pair] for pair in pairs if pair in numbers]] = True
        hits = self._pair_owners[wanted[self._pairs]]
        common = np.bincount(hits, minlength=len(self._stored))
        either = self._pair_counts + len(pairs) - common
        similarity: NDArray[np.float32] = common.astype(np.float32)
        similarity /= np.maximum(either, 1).astype(np.float32)
        similarity[either == 0] = 1
        return similarity

    def _stats_similarity(self, fingerprint: Fingerprint) -> NDArray[np.float32]:
        similarity = np.ones(len(self._stored), np.float32)
        if not fingerprint.record_count:
            return similarity
        numbers = self._numbering.names
        last = {s.name: s for s in fingerprint.field_stats if s.name in numbers}
        place_of = np.full(len(numbers), -1)
        place_of[[numbers[name] for name in last]] = np.arange(len(last))
        places = place_of[self._names]
        hits = np.flatnonzero(places >= 0)
        places, owners = places[hits], self._name_owners[hits]
        null_rates = np.array([stats.null_rate for stats in last.values()], np.float32)
        values = field_similarity(
            self._null_rates[hits],
            null_rates[places],
            self._cardinalities[hits],
            _cardinalities(last.values())[places],
        )
        # Each value is a multiple of 2**-25 and at most 1, so these float64 sums are exact.
        sums = np.bincount(owners, weights=values, minlength=len(self._stored))
        counts = np.bincount(owners, minlength=len(self._stored))
        means = sums.astype(np.float32) / np.maximum(counts, 1).astype(np.float32)
        similarity[self._sampled] = means[self._sampled]
        return similarity


def _joined(parts: list[NDArray[Number]], dtype: type[Number]) -> NDArray[Number]:
    return np.concatenate([np.empty(0, dtype), *parts])
