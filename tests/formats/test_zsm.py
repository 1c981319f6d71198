"""The registry's file: golden files, an independent reader, every cut and every flipped bit."""

import dataclasses
import math
import random
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats import model_artifact, zsm
from holdfast.formats.bincode import Malformed
from holdfast.formats.errors import InvalidArgument, LimitExceeded
from holdfast.formats.fingerprint import FieldStats, Fingerprint
from holdfast.formats.model_artifact import ModelArtifact
from holdfast.formats.zsm import Content
from tests.formats.zsm_samples import (
    check_checks,
    content,
    expected,
    hex_of,
    read_artifact,
    read_file,
)

FILES = expected()["files"]
# Of what: the problem with the header, or the offset at which reading stops.
REFUSED: dict[str, int | str] = {
    "bad-3bytes.zsm": "too few",
    "bad-empty-file.zsm": "too few",
    "bad-magic.zsm": "version 2",
    "bad-magic-only.zsm": 4,
    "bad-map-count-2.zsm": 3101,
    "bad-map-count-huge.zsm": 3101,
    "bad-fieldstats-len-huge.zsm": 76,
    "bad-kind-12.zsm": 4 + 8 + 32 + 32 + 8 + 8 + len("bsn"),
    "bad-name-utf8.zsm": 94,
    "bad-option-tag-2.zsm": 3065,
    "bad-truncated.zsm": 3085,
}


def tick() -> None:
    """Nobody watches whether a test makes progress."""


def read(data: bytes) -> Content:
    """What a file holds."""
    return zsm.read(memoryview(data), tick)


@pytest.mark.parametrize("name", [name for name in FILES if FILES[name]["ok"]])
def test_files_of_the_original(name: str) -> None:
    """Every artifact is read as the original reads it, and written with the same bytes."""
    data = content(name)
    assert zsm.header_problem(data) is None
    found = read(data)
    assert not found.flaws
    assert not found.checked
    view = memoryview(data)
    artifacts = {
        entry.key: model_artifact.decode(entry.artifact(view)) for entry in found.by_key().values()
    }
    wanted = {bytes.fromhex(one["artifact_bytes_hex"]): one for one in FILES[name]["artifacts"]}
    assert {model_artifact.encode(one) for one in artifacts.values()} == set(wanted)
    for artifact in artifacts.values():
        one = wanted[model_artifact.encode(artifact)]
        assert [[hex_of(x) for x in row] for row in artifact.m] == one["m_bits"]
        assert [[hex_of(x) for x in row] for row in artifact.u] == one["u_bits"]
        assert hex_of(artifact.log_prior_odds) == one["log_prior_odds_bits"]
        assert hex_of(artifact.upper_threshold) == one["upper_threshold_bits"]
        assert hex_of(artifact.lower_threshold) == one["lower_threshold_bits"]
        assert artifact.tag == one["tag"]
        assert artifact.trained_on == one["trained_on"]
        assert artifact.em_iterations == one["em_iterations"]
        assert artifact.fingerprint.record_count == one["fingerprint"]["record_count"]


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_the_original_refuses(name: str) -> None:
    """They are refused here, too, with the place and the reason."""
    assert not FILES[name]["ok"]
    where = REFUSED[name]
    if isinstance(where, str):
        assert where in (zsm.header_problem(content(name)) or "")
    else:
        assert zsm.header_problem(content(name)) is None
        assert read(content(name)).flaws[0].offset == where


def test_every_golden_file_is_judged() -> None:
    """No golden file is left out of the two tests above."""
    assert {name for name in FILES if not FILES[name]["ok"]} == set(REFUSED)


def test_oddities_of_the_original() -> None:
    """A repeated key counts once, the last; few bytes behind the entries are counted."""
    assert len(read(content("odd-duplicate-key.zsm")).entries) == 2
    assert len(read(content("odd-duplicate-key.zsm")).by_key()) == 1
    assert read(content("odd-trailing-junk.zsm")).trailing_bytes == 4
    assert read(content("odd-map-count-0-with-body.zsm")).trailing_bytes == 3089


# --- written here ------------------------------------------------------------------------------


def artifact(name: str, tag: str | None = None) -> ModelArtifact:
    """A small model."""
    stats = (FieldStats(name, "Name", 0.5, 3, ("x", "y")), FieldStats("é", "Id"))
    digest = name.encode().ljust(32, b"\0")
    return ModelArtifact(
        Fingerprint(digest, stats, 7, 8),
        ([0.5, 0.25], [1.0]),
        ([0.5, 0.75], [0.0]),
        -1.5,
        0.9,
        -0.0,
        tag,
        trained_on=9,
    )


def written(*artifacts: ModelArtifact) -> bytes:
    """A file of these, sorted by key."""
    entries = []
    for one in sorted(artifacts, key=lambda a: a.schema_hash):
        data = model_artifact.encode(one)
        entries.append((one.schema_hash, data, zsm.checksum_of(one.schema_hash, data)))
    return b"".join(zsm.encode(entries))


SAMPLE = (artifact("a"), artifact("b", "tag"), artifact("c", ""))
FILE = written(*SAMPLE)


def test_written_files_by_an_independent_reader() -> None:
    """What is written says, byte for byte, what the specification makes of the artifacts."""
    found, end = read_file(FILE)
    check_checks(FILE, end)
    assert list(found) == sorted(found)
    assert [found[a.schema_hash.hex()]["tag"] for a in SAMPLE] == [None, "tag", ""]
    assert found[SAMPLE[0].schema_hash.hex()] == {
        "schema_hash": SAMPLE[0].schema_hash.hex(),
        "fields": [
            {
                "name": "a",
                "kind": "Name",
                "null_rate": "3f000000",
                "cardinality": 3,
                "top_k": ["x", "y"],
            },
            {"name": "é", "kind": "Id", "null_rate": "00000000", "cardinality": 0, "top_k": []},
        ],
        "record_count": 7,
        "created_at": 8,
        "m": [["3f000000", "3e800000"], ["3f800000"]],
        "u": [["3f000000", "3f400000"], ["00000000"]],
        "log_prior_odds": "bfc00000",
        "upper_threshold": "3f666666",
        "lower_threshold": "80000000",
        "tag": None,
        "trained_on": 9,
        "em_iterations": 0,
    }
    end = read_file(written())[1]
    check_checks(written(), end)
    assert written()[:12] == content("reg-0.zsm")


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("reg-")])
def test_entries_are_the_bytes_of_the_original(name: str) -> None:
    """Up to the order of entries, a file written again is the original's, and checks behind it."""
    data = content(name)
    view = memoryview(data)
    entries = [
        (key, bytes(entry.artifact(view)), zsm.checksum_of(key, bytes(entry.artifact(view))))
        for key, entry in read(data).by_key().items()
    ]
    again = b"".join(zsm.encode(entries))
    assert len(again) == len(data) + 8 + 12 * len(entries) + 28
    if len(entries) < 2:
        assert again.startswith(data)
    assert read_file(again)[0] == read_file(data)[0]


def _artifacts(found: Content, data: bytes) -> list[bytes]:
    return [bytes(entry.artifact(memoryview(data))) for entry in found.entries]


WHOLE = _artifacts(read(FILE), FILE)


def test_every_truncation() -> None:
    """A cut is seen, unless it takes all checks and nothing else; entries before it are found."""
    end = read_file(FILE)[1]
    ends = [entry.end for entry in read(FILE).entries]
    for cut in range(len(FILE)):
        data = FILE[:cut]
        if cut < 4:
            assert zsm.header_problem(data)
            continue
        found = read(data)
        assert bool(found.flaws) == (cut != end), cut
        assert _artifacts(found, data) == WHOLE[: sum(cut >= e for e in ends)]
        for flaw in found.flaws:
            assert flaw.offset <= cut
            assert flaw.reason


def test_every_bit_flip() -> None:
    """A flipped bit is seen, and every entry that it is not in is found."""
    end = read_file(FILE)[1]
    entries = read(FILE).entries
    for bit in range(8 * len(FILE)):
        at = bit // 8
        data = bytearray(FILE)
        data[at] ^= 1 << bit % 8
        if at < 4:
            assert zsm.header_problem(data)
            continue
        found = read(bytes(data))
        assert found.flaws, bit
        intact = [a for a, e in zip(WHOLE, entries, strict=True) if not e.start <= at < e.end]
        assert _artifacts(found, bytes(data)) == intact, bit
        if 12 <= at < end:
            hit = next(e for e in entries if e.start <= at < e.end)
            assert (found.flaws[0].offset, found.flaws[0].end) == (hit.start, hit.end)


def test_bytes_that_are_missing_from_the_middle() -> None:
    """What is left out of a file, up to its last eight bytes, is seen; so the last entry never
    takes the rest of the checks for its own."""
    for start in range(4, len(FILE) - 8, 3):
        for stop in {*range(start + 1, min(start + 20, len(FILE) - 8), 5), len(FILE) - 19,
                     len(FILE) - 8} - {*range(start + 1)}:  # fmt: skip
            data = FILE[:start] + FILE[stop:]
            assert zsm.header_problem(data) or read(data).flaws, (start, stop)


@pytest.mark.parametrize("filling", ["zeros", "noise"])
def test_every_tail_of_something_else(filling: str) -> None:
    """What replaces the end of a file is seen, wherever it begins, though all checks go with it."""
    for start in range(4, len(FILE)):
        length = len(FILE) - start
        tail = bytes(length) if filling == "zeros" else random.Random(start).randbytes(length)
        flaws = read(FILE[:start] + tail).flaws
        assert flaws, start
        assert flaws[0].reason


def test_entries_of_zeros_are_none() -> None:
    """Zeros behind the header are no model for no schema, however many fit."""
    fingerprint = Fingerprint(bytes(32), (), 0, 0)
    nothing = ModelArtifact(fingerprint, [], [], 0.0, 0.0, 0.0, None, trained_on=0)
    zeros = bytes(32) + model_artifact.encode(nothing)
    assert not any(zeros)
    flaws = read(zsm.MAGIC + (3).to_bytes(8, "little") + 3 * zeros).flaws
    assert [(flaw.offset, flaw.reason) for flaw in flaws] == [(12, "the key is all zeros")]


def test_every_flip_of_a_file_without_checks() -> None:
    """Without checks a flip is refused or read as what it says; nothing else happens."""
    data = content("reg-tie.zsm")
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        if zsm.header_problem(flipped) is None:
            found = read(bytes(flipped))
            for entry in found.entries:
                model_artifact.decode(entry.artifact(memoryview(flipped)))


@given(st.binary(max_size=300), st.integers(0, 3))
def test_arbitrary_bytes(data: bytes, kind: int) -> None:
    """Whatever the bytes, reading ends, and what it finds lies within them."""
    heads = (b"ZSM\x01", b"ZSM\x01" + struct.pack("<Q", 1), FILE[:40], FILE[:200])
    data = heads[kind] + data
    found = read(data)
    assert all(12 <= entry.start < entry.end <= len(data) for entry in found.entries)


@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize(("limit", "value"), [("ARTIFACTS_MAX", 2), ("REGISTRY_BYTES_MAX", 300)])
def test_files_over_the_limits(
    limit: str, value: int, checked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than the limits allow is refused, with the limit, before all of it is in memory."""
    data = FILE if checked else FILE[: read_file(FILE)[1]]
    monkeypatch.setattr(zsm, limit, value)
    found = read(data)
    assert str(value) in found.flaws[0].reason
    assert len(found.entries) <= 3
    assert len(found.flaws) == 1


def test_checks_that_lie_are_not_believed() -> None:
    """Checks with a right checksum, but places that go backwards or beyond, are no checks."""
    end = read_file(FILE)[1]
    for ends in ([20, 10, end], [12, 20, end], [20, 30, end + 1]):
        data = FILE[:end] + _checks(FILE[:12], ends, end)
        found = read(data)
        assert found.flaws
        assert not found.checked


def _checks(header: bytes, ends: list[int], end: int) -> bytes:
    magic = b"HFZCHK\x00\x01"
    table = b"".join(struct.pack("<QI", one, 0) for one in ends)
    checks = magic + table + struct.pack("<QQ", len(ends), end)
    return checks + struct.pack("<I", zlib.crc32(header + checks)) + magic


# --- artifacts ---------------------------------------------------------------------------------

ARTIFACTS = st.builds(
    lambda names, rows, floats, tag, numbers: ModelArtifact(
        Fingerprint(
            bytes(32),
            tuple(FieldStats(n, "Name", 0.5, numbers[0], (n,)) for n in names),
            numbers[1],
            numbers[2],
        ),
        rows,
        rows[::-1],
        floats[0],
        floats[1],
        floats[2],
        tag,
        trained_on=numbers[0],
        em_iterations=numbers[1],
    ),
    st.lists(st.text(max_size=5), max_size=3),
    st.lists(st.lists(st.floats(width=32), max_size=4), max_size=3),
    st.tuples(*[st.floats(width=32)] * 3),
    st.none() | st.text(max_size=4),
    st.tuples(*[st.integers(0, (1 << 64) - 1)] * 3),
)


@given(ARTIFACTS)
def test_artifacts_round_trip(one: ModelArtifact) -> None:
    """An artifact is read as it was written, by this reader and by an independent one."""
    data = model_artifact.encode(one)
    again = model_artifact.decode(data)
    assert again == one
    assert model_artifact.encode(again) == data
    fields, end = read_artifact(data)
    assert end == len(data)
    assert fields["m"] == [[hex_of(x) for x in row] for row in one.m]
    assert fields["tag"] == one.tag


def test_every_cut_of_an_artifact() -> None:
    """An artifact that is cut short, or goes on, is malformed."""
    data = model_artifact.encode(SAMPLE[1])
    for cut in range(len(data)):
        with pytest.raises(Malformed) as caught:
            model_artifact.decode(data[:cut])
        assert caught.value.offset <= cut
    with pytest.raises(Malformed, match="1 bytes are left"):
        model_artifact.decode(data + b"\0")


def test_equality_is_of_bytes() -> None:
    """Artifacts with the same bytes are equal, also with NaN in them; others are not."""
    assert artifact("a") == artifact("a")
    assert hash(artifact("a")) == hash(artifact("a"))
    assert artifact("a") != artifact("a", "t")
    assert artifact("a") != "a"
    special = read(content("reg-special.zsm")).entries[0]
    one, other = (
        model_artifact.decode(special.artifact(memoryview(content("reg-special.zsm"))))
        for _ in range(2)
    )
    assert math.isnan(one.upper_threshold)
    assert one == other


def test_a_signalling_nan_is_read_as_a_quiet_one() -> None:
    """A lone float that is a signalling NaN is read, and written as the quiet NaN it became."""
    data = model_artifact.encode(dataclasses.replace(artifact("a"), upper_threshold=math.nan))
    quiet = struct.pack("<f", math.nan)
    assert data.count(quiet) == 1
    found = model_artifact.decode(data.replace(quiet, bytes.fromhex("0100807f")))
    assert math.isnan(found.upper_threshold)
    again = model_artifact.encode(found)
    assert again == data.replace(quiet, bytes.fromhex("0100c07f"))
    assert model_artifact.decode(again) == found


def test_rows_are_taken_from_anything() -> None:
    """A matrix, lists and integers become float32 rows that nobody can change."""
    whole = np.array([[0.5, 0.25], [1, 0]])
    one = ModelArtifact(
        SAMPLE[0].fingerprint, whole, [[1, 0], (0, 1)], 0, 1, np.float32(0.1), trained_on=0
    )
    assert all(row.dtype == np.float32 and not row.flags.writeable for row in one.m + one.u)
    whole[:] = 7
    assert one.m[0].tolist() == [0.5, 0.25]
    assert one.misfit is None
    changed = dataclasses.replace(one, tag="new")
    assert (changed.tag, changed.m[0].tolist()) == ("new", [0.5, 0.25])


BAD: dict[str, tuple[dict[str, object], str]] = {
    "fingerprint": ({"fingerprint": "x"}, "fingerprint is a SchemaFingerprint"),
    "text": ({"m": "text"}, "m is a matrix"),
    "number": ({"m": 7}, "m is a matrix"),
    "row of text": ({"u": [["a"], [1]]}, r"u\[0\] is a row of numbers"),
    "bools": ({"u": [[True], [1]]}, r"u\[0\] is a row of numbers"),
    "ragged": ({"m": [[1, [2]], [1]]}, r"m\[0\] is a row of numbers"),
    "deep": ({"m": np.zeros((2, 2, 2))}, r"m\[0\] is a row of numbers, and has 2"),
    "large": ({"m": [[1.0, 1e39], [1.0]]}, r"m\[0\]\[1\] is 1e\+39"),
    "prior": ({"log_prior_odds": "x"}, "log_prior_odds is a number"),
    "bool": ({"upper_threshold": True}, "upper_threshold is a number"),
    "large threshold": ({"upper_threshold": 1e39}, "upper_threshold is 1e"),
    "huge threshold": ({"upper_threshold": 10**400}, "upper_threshold is 1000"),
    "tag": ({"tag": 7}, "tag is a str"),
    "surrogate": ({"tag": "\ud800"}, "lone surrogate"),
    "trained": ({"trained_on": -1}, "trained_on is -1"),
    "float time": ({"trained_on": 1.5}, "trained_on is an int"),
    "iterations": ({"em_iterations": 1 << 64}, "em_iterations is"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_values_are_named(name: str) -> None:
    """A value of the wrong type or range is refused at once, by its name."""
    good = SAMPLE[0]
    values: dict[str, object] = {
        "fingerprint": good.fingerprint,
        "m": good.m,
        "u": good.u,
        "log_prior_odds": 0.0,
        "upper_threshold": 0.0,
        "lower_threshold": 0.0,
        "trained_on": 0,
    }
    changed, text = BAD[name]
    with pytest.raises(InvalidArgument, match=text) as caught:
        ModelArtifact(**(values | changed))  # type: ignore[arg-type]
    large = name in ("large", "large threshold", "huge threshold", "trained", "iterations")
    assert isinstance(caught.value, LimitExceeded) == large


UNFIT: dict[str, tuple[dict[str, object], str]] = {
    "no rows": ({"m": []}, "m has 0 rows, and the schema has 2 fields"),
    "one row": ({"u": [[1.0, 2.0]]}, "u has 1 rows"),
    "levels": ({"u": [[0.5], [0.5]]}, r"m\[0\] has 2 levels, and u\[0\] has 1"),
    "no levels": ({"m": [[], []], "u": [[], []]}, r"m\[0\] has no levels"),
    "nan": ({"m": [[1.0, math.nan], [1.0]]}, r"m\[0\]\[1\] is nan"),
    "infinite": ({"u": [[1.0, 1.0], [math.inf]]}, r"u\[1\]\[0\] is inf"),
    "negative": ({"m": [[1.0, 0.0], [-1.0]]}, r"m\[1\]\[0\] is -1.0, which is no probability"),
    "over one": ({"u": [[1.0, 1.00001], [1.0]]}, r"u\[0\]\[1\] is 1.00001"),
    "threshold": ({"lower_threshold": math.nan}, "lower_threshold is not a number"),
    "thresholds": ({"lower_threshold": 0.5}, "upper_threshold 0.0 is below lower_threshold 0.5"),
    "prior": ({"log_prior_odds": math.inf}, "log_prior_odds is inf"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_models_of_no_use_are_not_saved(name: str) -> None:
    """Parameters that do not fit the fields, or cannot be true, are refused, by their place."""
    good = SAMPLE[0]
    values: dict[str, object] = {
        "fingerprint": good.fingerprint,
        "m": [[0.0, 1.0], [np.nextafter(np.float32(1), np.float32(2))]],
        "u": [[0.5, 0.5], [1.0]],
        "log_prior_odds": -3.5,
        "upper_threshold": 0.0,
        "lower_threshold": 0.0,
        "trained_on": 0,
    }
    model_artifact.check_savable(ModelArtifact(**values))  # type: ignore[arg-type]
    changed, text = UNFIT[name]
    with pytest.raises(InvalidArgument, match=text):
        model_artifact.check_savable(ModelArtifact(**(values | changed)))  # type: ignore[arg-type]
