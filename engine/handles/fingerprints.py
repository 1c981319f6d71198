"""Fingerprints of the tables that an application has."""

import time
from collections.abc import Iterable, Sequence
from typing import Literal, Self, cast

from holdfast.formats.errors import InvalidArgument
from holdfast.formats.fingerprint import (
    FieldKind,
    FieldStats,
    Fingerprint,
    Mapping,
    ambiguous_name,
    check_fields,
    check_text,
    check_u64,
    schema_hash,
)
from holdfast.handles.checks import check_choice

AmbiguousNames = Literal["refuse", "accept"]


class SchemaFingerprint(Fingerprint):
    """What a registry finds models by: a schema's hash, and statistics of a sample.

    Made by ``from_schema`` or ``from_sample``. ``fields`` are pairs of name and kind, a kind being
    one of ``Name``, ``Date``, ``Address``, ``Phone``, ``Id``, ``FreeText``, ``Numeric``,
    ``Categorical``, ``Alias``, ``LicensePlate``, ``GpsCoordinate``, ``Timestamp``. The order of
    fields does not change the hash, unless a name is repeated. ``mappings`` are pairs of names,
    a field of one source and what it is compared with in the other; they enter the hash.

    The hash is the original's, which writes names without escaping them: two schemas can hash alike
    if a name has ``:``, ``|`` or NUL in it. Such names are refused unless
    ``ambiguous_names="accept"``.
    """

    __slots__ = ()

    @classmethod
    def from_schema(
        cls,
        fields: Iterable[tuple[str, str]],
        *,
        mappings: Iterable[Mapping] = (),
        created_at: int | None = None,
        ambiguous_names: AmbiguousNames = "refuse",
    ) -> Self:
        """The fingerprint of a schema of which no records have been seen.

        ``created_at`` is in seconds since 1970, None: now. Raises ``InvalidArgument`` or
        ``LimitExceeded`` naming the field.
        """
        checked, digest = _checked(fields, mappings, ambiguous_names)
        stats = tuple(FieldStats(name, kind) for name, kind in checked)
        return cls(digest, stats, 0, _moment(created_at))

    @classmethod
    def from_sample(
        cls,
        fields: Iterable[tuple[str, str]],
        records: object,
        *,
        mappings: Iterable[Mapping] = (),
        created_at: int | None = None,
        ambiguous_names: AmbiguousNames = "refuse",
    ) -> Self:
        """The fingerprint of a schema and of these records.

        ``records`` are dicts, an Arrow table, or anything with Arrow's capsules (pandas and polars
        frames); what they have beside ``fields`` is ignored. See ``holdfast.handles.samples`` for
        how values are compared. The columns of a table are counted one at a time, and a stream is
        read whole.
        """
        from holdfast.handles.samples import field_stats

        checked, digest = _checked(fields, mappings, ambiguous_names)
        moment = _moment(created_at)
        stats, total = field_stats(checked, records)
        return cls(digest, stats, total, moment)


def _moment(created_at: int | None) -> int:
    """A time that was given, or now. Raises ``InvalidArgument`` or ``LimitExceeded``."""
    if created_at is None:
        return max(0, int(time.time()))
    check_u64("created_at", created_at)
    return created_at


def _checked(
    fields: Iterable[tuple[str, str]],
    mappings: Iterable[Mapping],
    ambiguous_names: AmbiguousNames,
) -> tuple[list[tuple[str, FieldKind]], bytes]:
    """The fields as a list, and the hash of the schema."""
    listed = _listed("fields", fields)
    check_fields(listed)
    pairs = _listed("mappings", mappings)
    for number, pair in enumerate(pairs):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise InvalidArgument(f"mappings[{number}] is not a pair of names: {pair!r:.80}")
        for name in pair:
            check_text(f"mappings[{number}] has the name", name)
    check_choice("ambiguous_names", ambiguous_names, ("refuse", "accept"))
    if ambiguous_names == "refuse":
        names = [*(name for name, _ in listed), *(name for pair in pairs for name in pair)]
        bad = ambiguous_name(names)
        if bad is not None:
            raise InvalidArgument(
                f"the name {bad!r} has ':', '|' or NUL in it, with which another schema can have "
                'the same hash; ambiguous_names="accept" takes it all the same'
            )
    known = [(name, cast("FieldKind", kind)) for name, kind in listed]
    return known, schema_hash(known, [(one, other) for one, other in pairs])


def _listed(what: str, values: object) -> Sequence[tuple[str, str]]:
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InvalidArgument(f"{what} are pairs in a list, not {type(values).__name__}")
    return list(values)
