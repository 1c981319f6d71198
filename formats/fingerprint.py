"""What a table looks like, as far as models care: its fields, some statistics, and a hash.

The hash is the SHA-256 of this byte string, which has no lengths and no escapes::

    for each field, in stable order of the names' bytes:
        name, ":", code of its kind as u32 little-endian, "|"
    and only if there are mappings:
        "mappings:", then for each, in stable order of the first name's bytes:
            first name, ":", second name, "|"

So names that contain ``:``, ``|`` or NUL can make two schemas hash alike; ``ambiguous_name`` finds
them. Statistics do not enter the hash.

The distance of two schemas goes from 0, the same, to 1, and is made of float32 operations, each
rounded by itself. The one sum in it is taken exactly and rounded once, so that it does not depend
on an order::

    J = 1 if neither has fields, else common / all, over the pairs of name and kind
    S = 1 if either counts no records, else the mean over the names both have, 0 if there are none:
        ((1 - min(|null rates' difference|, 1)) + c) / 2, where
        c = 1 if both cardinalities are 0, else 1 - |difference| / larger one
    distance = (1 - J) * 0.7 + (1 - S) * 0.3, but 0 where the hashes are equal
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.bincode import U64_MAX
from holdfast.formats.errors import InvalidArgument, LimitExceeded
from holdfast.formats.limits import FIELDS_MAX, HASH_BYTES, TOP_K_MAX

FieldKind = Literal[
    "Name",
    "Date",
    "Address",
    "Phone",
    "Id",
    "FreeText",
    "Numeric",
    "Categorical",
    "Alias",
    "LicensePlate",
    "GpsCoordinate",
    "Timestamp",
]
KINDS: tuple[FieldKind, ...] = get_args(FieldKind)
"""The kinds in the order of their codes."""
CODES: dict[str, int] = {kind: code for code, kind in enumerate(KINDS)}

Mapping = tuple[str, str]
"""A field of one source and the field of the other that it is compared with."""

Floats = TypeVar("Floats", np.float32, NDArray[np.float32])

_SEPARATORS = (":", "|", "\0")
_ONE = np.float32(1)
_TWO = np.float32(2)
_FIELDS_SHARE = np.float32(0.7)
_STATS_SHARE = np.float32(0.3)


@dataclass(frozen=True, slots=True)
class FieldStats:
    """One field, and what a sample of records showed of it.

    ``null_rate`` is the share of records without a value, a float32; ``cardinality`` the number of
    distinct values as text; ``top_k`` the most frequent of them, at most 10.
    """

    name: str
    kind: FieldKind
    null_rate: float = 0.0
    cardinality: int = 0
    top_k: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A schema by its hash, and the statistics of a sample of ``record_count`` records.

    ``field_stats`` are in the order of the schema; ``created_at`` is in seconds since 1970.
    """

    schema_hash: bytes
    field_stats: tuple[FieldStats, ...]
    record_count: int = 0
    created_at: int = 0

    @property
    def fields(self) -> list[tuple[str, FieldKind]]:
        """Names and kinds in the order of the schema."""
        return [(stats.name, stats.kind) for stats in self.field_stats]

    @property
    def is_plain(self) -> bool:
        """Whether the hash is that of the fields alone, so that no mappings are in it."""
        return self.schema_hash == schema_hash(self.fields)

    def distance_to(self, other: "Fingerprint") -> float:
        """How far the other is, 0 to 1: a float32, the same in either direction."""
        return distance(self, other)


def hash_preimage(fields: Iterable[tuple[str, str]], mappings: Iterable[Mapping] = ()) -> bytes:
    """The byte string whose SHA-256 identifies a schema."""
    parts = [
        b"%s:%s|" % (name.encode(), CODES[kind].to_bytes(4, "little"))
        for name, kind in sorted(fields, key=_name)  # by code points, which is by UTF-8 bytes
    ]
    paired = [b"%s:%s|" % (a.encode(), b.encode()) for a, b in sorted(mappings, key=_name)]
    if paired:
        parts += [b"mappings:", *paired]
    return b"".join(parts)


def schema_hash(fields: Iterable[tuple[str, str]], mappings: Iterable[Mapping] = ()) -> bytes:
    """What identifies a schema: 32 bytes."""
    return hashlib.sha256(hash_preimage(fields, mappings)).digest()


def _name(pair: tuple[str, str]) -> str:
    return pair[0]


def ambiguous_name(names: Iterable[str]) -> str | None:
    """The first name with which another schema could hash alike, if there is one."""
    return next((name for name in names if any(part in name for part in _SEPARATORS)), None)


def distance(one: Fingerprint, other: Fingerprint) -> float:
    """How far two schemas are from each other; see above."""
    if one.schema_hash == other.schema_hash:
        return 0.0
    pairs, others = set(one.fields), set(other.fields)
    either = len(pairs | others)
    fields = np.float32(len(pairs & others)) / np.float32(either) if either else _ONE
    return float(combined(fields, _stats_similarity(one, other)))


def _stats_similarity(one: Fingerprint, other: Fingerprint) -> np.float32:
    if not one.record_count or not other.record_count:
        return _ONE
    stats = {field.name: field for field in one.field_stats}  # of a repeated name the last
    others = {field.name: field for field in other.field_stats}
    common = stats.keys() & others.keys()
    if not common:
        return np.float32(0)
    values = (
        field_similarity(
            np.float32(stats[name].null_rate),
            np.float32(others[name].null_rate),
            np.float32(stats[name].cardinality),
            np.float32(others[name].cardinality),
        )
        for name in common
    )
    return np.float32(math.fsum(float(value) for value in values)) / np.float32(len(common))


def field_similarity(
    null_rate: Floats, other_null_rate: Floats, cardinality: Floats, other_cardinality: Floats
) -> Floats:
    """How alike the statistics of one field are, 0 to 1; of many fields, as arrays."""
    with np.errstate(invalid="ignore"):  # NaN and infinite rates count as wholly different
        nulls = _ONE - np.fmin(np.abs(null_rate - other_null_rate), _ONE)
        larger = np.maximum(np.maximum(cardinality, other_cardinality), _ONE)
        counts = _ONE - np.abs(cardinality - other_cardinality) / larger
    similarity: Floats = (nulls + counts) / _TWO
    return similarity


def combined(fields: Floats, stats: Floats) -> Floats:
    """The distance, from the similarities of fields and of statistics; of many, as arrays."""
    found: Floats = (_ONE - fields) * _FIELDS_SHARE + (_ONE - stats) * _STATS_SHARE
    return found


def check_fields(fields: Sequence[tuple[str, str]]) -> None:
    """Raise ``InvalidArgument`` naming the first field that is none, or ``LimitExceeded``."""
    if not fields:
        raise InvalidArgument("a schema has at least one field")
    if len(fields) > FIELDS_MAX:
        raise LimitExceeded(f"a schema of {len(fields)} fields is over the limit of {FIELDS_MAX}")
    for number, field in enumerate(fields):
        if not isinstance(field, tuple | list) or len(field) != 2:
            raise InvalidArgument(f"fields[{number}] is not a pair of name and kind: {field!r:.80}")
        check_text(f"fields[{number}] is named by", field[0])
        if not isinstance(field[1], str) or field[1] not in CODES:
            raise InvalidArgument(
                f"fields[{number}] {field[0]!r:.80} is of the kind {field[1]!r:.80}, which is none "
                f"of {', '.join(KINDS)}"
            )


def check_fingerprint(fingerprint: Fingerprint) -> None:
    """Raise ``InvalidArgument`` or ``LimitExceeded`` naming what cannot be stored or compared."""
    digest = fingerprint.schema_hash
    if not isinstance(digest, bytes) or len(digest) != HASH_BYTES:
        raise InvalidArgument(f"schema_hash is {HASH_BYTES} bytes, not {digest!r:.80}")
    check_u64("record_count", fingerprint.record_count)
    check_u64("created_at", fingerprint.created_at)
    for number, stats in enumerate(fingerprint.field_stats):
        if not isinstance(stats, FieldStats):
            raise InvalidArgument(
                f"field_stats[{number}] is a FieldStats, not {type(stats).__name__}"
            )
        _check_stats(f"field_stats[{number}]", stats)
    check_fields(fingerprint.fields)


def _check_stats(what: str, stats: FieldStats) -> None:
    check_u64(f"{what}.cardinality", stats.cardinality)
    rate = stats.null_rate
    if isinstance(rate, bool) or not isinstance(rate, int | float | np.floating):
        raise InvalidArgument(f"{what}.null_rate is a number, not {type(rate).__name__}")
    if not 0.0 <= rate <= 1.0:
        raise InvalidArgument(f"{what}.null_rate is {rate}, and a share is from 0 to 1")
    if len(stats.top_k) > TOP_K_MAX:
        raise LimitExceeded(
            f"{what}.top_k has {len(stats.top_k)} values, over the limit of {TOP_K_MAX}"
        )
    for place, value in enumerate(stats.top_k):
        check_text(f"{what}.top_k[{place}] is", value)


def check_u64(what: str, number: object) -> None:
    """Raise unless this is an integer that fits in a u64."""
    if isinstance(number, bool) or not isinstance(number, int):
        raise InvalidArgument(f"{what} is an int, not {type(number).__name__}")
    if not 0 <= number <= U64_MAX:
        raise LimitExceeded(f"{what} is {number}, which does not fit in a u64 (0 to {U64_MAX})")


def check_text(what: str, value: object) -> None:
    """Raise unless this is text that UTF-8 can say."""
    if not isinstance(value, str):
        raise InvalidArgument(f"{what} a str, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(
            f"{what} {value[:80]!r}, which is not text: it holds a lone surrogate at index "
            f"{error.start}"
        ) from None
