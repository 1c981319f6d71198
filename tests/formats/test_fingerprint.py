"""Hashes and distances of schemas, against the original's and against the definition."""

import hashlib
import itertools
import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats.errors import InvalidArgument, LimitExceeded
from holdfast.formats.fingerprint import (
    KINDS,
    FieldStats,
    Fingerprint,
    ambiguous_name,
    check_fingerprint,
    hash_preimage,
    schema_hash,
)
from holdfast.formats.limits import FIELDS_MAX
from tests.formats.zsm_samples import KINDS as SPECIFIED_KINDS
from tests.formats.zsm_samples import bits, expected, golden_fingerprint, hex_of

SCHEMAS = expected()["schema_hashes"]


@pytest.mark.parametrize("name", SCHEMAS)
def test_hash_of_the_original(name: str) -> None:
    """Preimage and hash are the original's, whatever the order of fields and mappings."""
    case = SCHEMAS[name]
    fields = [tuple(field) for field in case["fields"]]
    mappings = [tuple(mapping) for mapping in case["mappings"]]
    preimage = bytes.fromhex(case["sha256_preimage_hex"])
    assert hash_preimage(fields, mappings) == preimage
    assert schema_hash(fields, mappings).hex() == case["schema_hash"]
    assert hashlib.sha256(preimage).hexdigest() == case["schema_hash"]


def test_kinds_have_the_original_codes() -> None:
    """The kinds are those of the specification, in the order of their codes."""
    assert list(KINDS) == SPECIFIED_KINDS


def test_repeated_names_keep_their_order() -> None:
    """Fields of one name are hashed in the order of the schema, others in the order of names."""
    one = schema_hash([("x", "Name"), ("x", "Date"), ("a", "Id")])
    assert one == schema_hash([("a", "Id"), ("x", "Name"), ("x", "Date")])
    assert one != schema_hash([("x", "Date"), ("x", "Name"), ("a", "Id")])


def test_names_sort_by_their_bytes() -> None:
    """The order of code points is the order of UTF-8 bytes, also beyond the first plane."""
    names = ["\uffff", "\U00010000", "Z", "a", "é", "中"]
    preimage = hash_preimage([(name, "Name") for name in names])
    found = [part.split(b":")[0] for part in preimage.split(b"|")[:-1]]
    assert found == sorted(name.encode() for name in names)


def test_names_that_make_hashes_ambiguous_are_found() -> None:
    """Two schemas with the same hash are possible, and a name in one of them is reported."""
    one = [("a:\0\0\0\0|b", "Name")]
    other = [("a", "Name"), ("b", "Name")]
    assert schema_hash(one) == schema_hash(other)
    assert ambiguous_name(name for name, _ in one) == one[0][0]
    assert ambiguous_name(name for name, _ in other) is None
    assert ambiguous_name(["é", "a|b", "c:"]) == "a|b"


def test_plain_means_without_mappings() -> None:
    """A fingerprint is plain when its hash is that of its fields alone."""
    fields = [("a", "Name"), ("b", "Id")]
    stats = (FieldStats("a", "Name"), FieldStats("b", "Id"))
    assert Fingerprint(schema_hash(fields), stats).is_plain
    assert not Fingerprint(schema_hash(fields, [("a", "b")]), stats).is_plain


PAIRS = expected()["distances"]


@pytest.mark.parametrize("pair", PAIRS)
def test_distance_of_the_original(pair: str) -> None:
    """The distance has bits that the original was seen to give, and is the same both ways."""
    one, other = (golden_fingerprint(expected()["fingerprints"][name]) for name in pair.split("|"))
    found = one.distance_to(other)
    assert hex_of(found) in PAIRS[pair]["bits_seen_in_300_calls"]
    assert abs(found - PAIRS[pair]["value"]) <= 1e-6
    assert hex_of(other.distance_to(one)) == hex_of(found)


RATES = st.one_of(
    st.floats(0, 1, width=32), st.sampled_from([math.nan, math.inf, -math.inf, -5.0, 1e30])
)
STATS = st.builds(
    FieldStats,
    st.sampled_from(["a", "b", "c", "d", "é"]),
    st.sampled_from(["Name", "Id"]),
    RATES,
    st.one_of(st.integers(0, 20), st.integers(0, (1 << 64) - 1)),
    st.just(()),
)
FINGERPRINTS = st.builds(
    Fingerprint,
    st.sampled_from([bytes([n]) * 32 for n in range(9)]),
    st.lists(STATS, max_size=8).map(tuple),
    st.sampled_from([0, 1, 1000]),
)


@given(FINGERPRINTS, FINGERPRINTS)
def test_distance_by_its_definition(one: Fingerprint, other: Fingerprint) -> None:
    """The distance is what the definition says, in exact arithmetic up to float32's roundings."""
    found = one.distance_to(other)
    assert 0 <= found <= 1
    assert found == other.distance_to(one)
    assert np.float32(found) == found
    if one.schema_hash == other.schema_hash:
        assert found == 0
        return
    fields, others = ({(s.name, s.kind) for s in f.field_stats} for f in (one, other))
    similarity = len(fields & others) / len(fields | others) if fields | others else 1.0
    assert abs(found - (0.7 * (1 - similarity) + 0.3 * (1 - _stats(one, other)))) < 2e-6


def _stats(one: Fingerprint, other: Fingerprint) -> float:
    if not one.record_count or not other.record_count:
        return 1.0
    mine, theirs = ({s.name: s for s in f.field_stats} for f in (one, other))
    values = []
    for name in mine.keys() & theirs.keys():
        a, b = mine[name], theirs[name]
        gap = abs(a.null_rate - b.null_rate)
        nulls = 0.0 if math.isnan(gap) else 1 - min(gap, 1)
        larger = max(a.cardinality, b.cardinality)
        counts = 1 - abs(a.cardinality - b.cardinality) / larger if larger else 1.0
        values.append((nulls + counts) / 2)
    return sum(values) / len(values) if values else 0.0


def test_distance_does_not_depend_on_an_order() -> None:
    """Every order of the fields gives the same bits."""
    rng = np.random.default_rng(5)
    stats = [
        FieldStats(str(n), "Name", float(np.float32(rng.random())), int(rng.integers(1, 1000)))
        for n in range(6)
    ]
    other = Fingerprint(bytes(32), tuple(FieldStats(s.name, s.kind, 0.25, 77) for s in stats), 10)
    found = {
        struct.pack("<f", Fingerprint(b"\1" * 32, tuple(order), 10).distance_to(other))
        for order in itertools.permutations(stats)
    }
    assert len(found) == 1


def test_the_boundary_of_a_warm_start() -> None:
    """9 of 14 common fields without samples are at a distance of 0.25 exactly."""
    fourteen = tuple(FieldStats(str(n), "Name") for n in range(14))
    whole = Fingerprint(bytes(32), fourteen)
    assert hex_of(whole.distance_to(Fingerprint(b"\1" * 32, fourteen[:9]))) == "3e800000"
    assert whole.distance_to(Fingerprint(b"\1" * 32, fourteen[:8])) == bits("3e999999")


BAD: dict[str, tuple[Fingerprint, str]] = {
    "short hash": (Fingerprint(b"x" * 31, (FieldStats("a", "Name"),)), "schema_hash"),
    "no fields": (Fingerprint(bytes(32), ()), "at least one field"),
    "record count": (Fingerprint(bytes(32), (FieldStats("a", "Name"),), -1), "record_count"),
    "created": (Fingerprint(bytes(32), (FieldStats("a", "Name"),), 0, 1 << 64), "created_at"),
    "kind": (Fingerprint(bytes(32), (FieldStats("a", "Nam"),)), "'Nam'"),  # type: ignore[arg-type]
    "rate": (Fingerprint(bytes(32), (FieldStats("a", "Name", 1.5),)), "null_rate is 1.5"),
    "nan": (Fingerprint(bytes(32), (FieldStats("a", "Name", math.nan),)), "null_rate is nan"),
    "cardinality": (Fingerprint(bytes(32), (FieldStats("a", "Name", 0, -1),)), "cardinality"),
    "top k": (
        Fingerprint(bytes(32), (FieldStats("a", "Name", 0, 1, ("x",) * 11),)),
        "top_k has 11",
    ),
    "surrogate": (Fingerprint(bytes(32), (FieldStats("\ud800", "Name"),)), "lone surrogate"),
    "too many": (
        Fingerprint(bytes(32), (FieldStats("a", "Name"),) * (FIELDS_MAX + 1)),
        str(FIELDS_MAX),
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_fingerprints_are_named(name: str) -> None:
    """What is wrong with a fingerprint is said, with the value and the limit."""
    fingerprint, text = BAD[name]
    with pytest.raises(InvalidArgument, match=text) as caught:
        check_fingerprint(fingerprint)
    assert isinstance(caught.value, LimitExceeded) == (
        name in ("record count", "created", "cardinality", "top k", "too many")
    )
