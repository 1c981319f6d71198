"""The artifact's manifest: exact bytes out, and every refusal on the way in."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast.formats import fold_log
from holdfast.formats.artifact import (
    MANIFEST_BYTES_MAX,
    Manifest,
    check_payload,
    decode_manifest,
    encode_manifest,
    scan_payload,
)
from holdfast.formats.errors import ArtifactInvalid, InvalidFormat, StoreCorrupt
from holdfast.formats.values import Cursor

GOLDEN = Path(__file__).resolve().parent.parent / "data" / "fold" / "artifacts"
GOOD = (GOLDEN / "good" / "MANIFEST.json").read_bytes()
DIGEST = "405785836cefccfecf649a6ab553748b187e692b702e6e6611c478e4a5051c05"
GOOD_MANIFEST = Manifest(Cursor.from_u64(142), 1_765_400_000, 1262, DIGEST)


def altered(change: Callable[[dict[str, Any]], object]) -> bytes:
    """The good manifest with ``change`` made to its fields."""
    fields = json.loads(GOOD)
    change(fields)
    return json.dumps(fields).encode()


def with_field(name: str, value: object) -> bytes:
    """The good manifest with another value in one field; ``files[0].x`` is a file's field."""
    inner = name.removeprefix("files[0].")
    if inner != name:
        return altered(lambda fields: fields["files"][0].__setitem__(inner, value))
    return altered(lambda fields: fields.__setitem__(name, value))


def refusal(data: bytes) -> str:
    """Why ``data`` is refused."""
    with pytest.raises(ArtifactInvalid) as caught:
        decode_manifest(data, "there/MANIFEST.json")
    assert caught.value.path == "there/MANIFEST.json"
    assert caught.value.message.startswith("'there/MANIFEST.json': ")
    return caught.value.message


# --- encoding ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["good", "good-cursor10", "good-empty"])
def test_a_good_manifest_is_written_as_it_was_read(name: str) -> None:
    """Decoding a golden manifest and encoding it again gives the same bytes."""
    data = (GOLDEN / name / "MANIFEST.json").read_bytes()
    assert encode_manifest(decode_manifest(data)) == data


def test_the_good_manifest_says_what_it_says() -> None:
    """The decoded fields are those of the golden manifest."""
    assert decode_manifest(GOOD) == GOOD_MANIFEST


@given(
    st.binary(max_size=10),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.text(st.characters(exclude_categories=["Cs"])),
)
def test_any_manifest_survives_encoding(token: bytes, created: int, size: int, digest: str) -> None:
    """Every manifest that can be written is read back equal."""
    manifest = Manifest(Cursor(token), created, size, digest)
    assert decode_manifest(encode_manifest(manifest)) == manifest


# --- refusals ----------------------------------------------------------------------------------

GOLDEN_REFUSALS = {
    "bad-backend": "backend is 'fjall', expected 'append-log'",
    "bad-backend-version": "backend_version is '1', this release reads '2'",
    "bad-schema-version": "schema_version 2 is a newer schema, this release reads 1",
    "cursor-11-bytes": "cursor_hex is 11 bytes, over the limit of 10",
    "cursor-bad-hex": "cursor_hex is 'zz', expected pairs of hex digits",
    "cursor-odd-hex": "cursor_hex is 'abc', expected pairs of hex digits",
    "extra-declared-file": "found 2: 'data/fold.snap', 'data/extra.bin'",
    "malformed-json": "malformed JSON: ",
    "missing-field": "the manifest has no field 'created_at_unix'",
    "path-absolute": "file path '/etc/passwd' is not under data/",
    "path-backslash": r"file path 'data\\fold.snap' is not under data/",
    "path-traversal": "file path 'data/../../escape' contains '..'",
    "schema2-with-new-field": "schema_version 2 is a newer schema, this release reads 1",
    "unknown-field": "the manifest has the unknown field 'comment'",
}


@pytest.mark.parametrize("name", GOLDEN_REFUSALS)
def test_a_bad_golden_manifest_is_refused_by_name(name: str) -> None:
    """The refusal names the field, the value found and what was expected."""
    data = (GOLDEN / name / "MANIFEST.json").read_bytes()
    assert GOLDEN_REFUSALS[name] in refusal(data)


@pytest.mark.parametrize(
    "path", sorted(GOLDEN.glob("*/MANIFEST.json")), ids=lambda p: p.parent.name
)
def test_no_other_golden_manifest_is_refused(path: Path) -> None:
    """A golden manifest that is not in the table above is well formed."""
    if path.parent.name not in GOLDEN_REFUSALS:
        assert decode_manifest(path.read_bytes()).payload_bytes in (1, 6, 805, 1259, 1262)


FIELDS = ["schema_version", "backend", "backend_version", "cursor_hex", "created_at_unix", "files"]
FILE_FIELDS = ["path", "size", "blake3"]


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_is_required(name: str) -> None:
    """A manifest without one of its fields is refused."""
    assert f"the manifest has no field '{name}'" in refusal(altered(lambda m: m.pop(name)))


@pytest.mark.parametrize("name", FILE_FIELDS)
def test_every_field_of_a_file_is_required(name: str) -> None:
    """A file without one of its fields is refused, by its number."""
    data = altered(lambda fields: fields["files"][0].pop(name))
    assert f"files[0] has no field '{name}'" in refusal(data)


@pytest.mark.parametrize("name", [*FIELDS, *FILE_FIELDS])
def test_a_repeated_field_is_refused(name: str) -> None:
    """A field that occurs twice is refused, even with the same value."""
    line = next(
        line for line in GOOD.splitlines() if line.strip().startswith(b'"%b"' % name.encode())
    )
    value = b"[]," if name == "files" else line.strip().split(b": ")[1].rstrip(b",") + b","
    doubled = GOOD.replace(line, b'"%b": %b\n%b' % (name.encode(), value, line))
    assert f"field '{name}' is repeated" in refusal(doubled)


def test_an_unknown_field_of_a_file_is_refused() -> None:
    """A file's object has no room for more than its three fields."""
    assert "files[0] has the unknown field 'mode'" in refusal(with_field("files[0].mode", 420))


WRONG_TYPES: list[tuple[str, object, str]] = [
    ("schema_version", "1", "schema_version is a string, expected an integer from 0 to 4294967295"),
    ("schema_version", True, "schema_version is true"),
    ("schema_version", 1.0, "schema_version is 1.0"),
    ("schema_version", -1, "schema_version is -1.0"),
    ("schema_version", 0, "schema_version 0 is not 1"),
    ("backend", None, "backend is null, expected a string"),
    ("backend", {}, "backend is an object"),
    ("backend_version", 2, "backend_version is a number"),
    ("cursor_hex", ["00"], "cursor_hex is an array"),
    ("created_at_unix", -1, "created_at_unix is -1.0"),
    ("created_at_unix", 2**64, "created_at_unix is 18446744073709551616"),
    ("created_at_unix", 10**400, "created_at_unix is inf"),
    ("created_at_unix", None, "created_at_unix is null"),
    ("files", {}, "files is an object, expected an array"),
    ("files", [], "files must be 'data/fold.snap' alone, found 0: none"),
    ("files", ["data/fold.snap"], "files[0] is a string, expected an object"),
    ("files[0].size", "6", "size is a string"),
    ("files[0].size", 2**64, "size is 18446744073709551616"),
    ("files[0].blake3", 7, "blake3 is a number"),
    ("files[0].path", False, "path is false"),
    ("files[0].path", "\ud800", r"path is '\ud800', which is not valid Unicode"),
    ("files[0].path", "data/", "file path 'data/' is not under data/"),
    ("files[0].path", "data/..", "contains '..'"),
    ("files[0].path", "data//fold.snap", "found 1: 'data//fold.snap'"),
    ("files[0].path", "data/" + "x" * 200, "'data/" + "x" * 74 + "..."),
]


@pytest.mark.parametrize(("name", "value", "message"), WRONG_TYPES)
def test_a_wrong_value_is_refused(name: str, value: object, message: str) -> None:
    """A value of another type or out of range is refused with the field's name and the value."""
    assert message in refusal(with_field(name, value))


MALFORMED: list[tuple[bytes, str]] = [
    (b"", "malformed JSON"),
    (b"null", "the manifest is null, expected an object"),
    (b"[]", "the manifest is an array, expected an object"),
    (GOOD + b",", "malformed JSON: Extra data"),
    (GOOD + GOOD, "malformed JSON: Extra data"),
    (b"\xef\xbb\xbf" + GOOD, "malformed JSON"),
    (GOOD.decode().encode("utf-16"), "malformed JSON: 'utf-8' codec"),
    (GOOD.replace(b"append", b"app\xff"), "malformed JSON: 'utf-8' codec"),
    (GOOD.replace(b"1765400000", b"NaN"), "NaN is not JSON"),
    (GOOD.replace(b"1765400000", b"-0"), "created_at_unix is -0.0"),
    (GOOD.replace(b"1765400000", b"9" * 5000), "created_at_unix is inf"),
    (GOOD.replace(b"1765400000", b"01"), "malformed JSON"),
    (b"[" * 100_000, "nested too deeply"),
    (b'{"a":' * 100_000, "nested too deeply"),
    (GOOD.replace(b"1765400000", b"[" * 500 + b"]" * 500), "created_at_unix is an array"),
    (b'{"' + b'": 1, "'.join(b"%d" % n for n in range(80_000)) + b'": 1}', "unknown field '0'"),
    (b'{"a": 1' + b', "b": 1' * 90_000 + b"}", "field 'b' is repeated"),
]


@pytest.mark.parametrize(("data", "message"), MALFORMED, ids=lambda value: str(value)[:30])
def test_what_is_not_a_json_object_is_refused(data: bytes, message: str) -> None:
    """Bytes that are not one object of JSON in UTF-8 are refused, however deep or long."""
    assert message in refusal(data)


def test_the_size_of_a_manifest_is_bounded() -> None:
    """Padding is accepted up to the limit and refused from there on, with size and limit named."""
    padded = GOOD.ljust(MANIFEST_BYTES_MAX)
    assert decode_manifest(padded) == GOOD_MANIFEST
    assert f"{len(padded) + 1} bytes are over the limit of {len(padded)}" in refusal(padded + b" ")


def test_refusals_come_in_the_format_s_order() -> None:
    """Of several mistakes the earlier check's is reported, until all are mended."""
    fields = json.loads(GOOD)
    wrong: dict[str, Any] = {
        "schema_version": 0,
        "backend": "fjall",
        "backend_version": "1",
        "cursor_hex": "zz",
        "created_at_unix": None,
        "files": [{"path": "/x", "size": 1, "blake3": ""}, {"path": "x", "size": 1, "blake3": ""}],
    }
    expected = [
        ("created_at_unix", "created_at_unix is null"),
        ("schema_version", "schema_version 0"),
        ("files", "file path '/x'"),
        ("files", "file path 'x'"),
        ("cursor_hex", "cursor_hex is 'zz'"),
        ("backend", "backend is 'fjall'"),
        ("backend_version", "backend_version is '1'"),
        ("files", "files must be"),
    ]
    broken = {**fields, **wrong}
    mended: dict[str, list[object]] = {
        "files": [[{**wrong["files"][1], "path": path}] * 2 for path in ("x", "data/x")],
    }
    for name, message in expected:
        assert message in refusal(json.dumps(broken).encode())
        broken[name] = (mended.get(name) or [fields[name]]).pop(0)
    assert decode_manifest(json.dumps(broken).encode()) == GOOD_MANIFEST


def test_a_newer_schema_is_named_whatever_else_it_brings() -> None:
    """A manifest of a later schema is refused as such, with fields that mean nothing here."""
    data = altered(lambda m: m.update(schema_version=7, files={"a": 1}, backend=None, more=[1.5]))
    assert "schema_version 7 is a newer schema, this release reads 1" in refusal(data)


# --- what is accepted --------------------------------------------------------------------------

CURSORS = [
    ("", b""),
    ("000000000000008e", Cursor.from_u64(142).token),
    ("000000000000008E", Cursor.from_u64(142).token),
    ("+0+0+0+0+0+0+08e", Cursor.from_u64(142).token),
    ("+f", b"\x0f"),
    ("00" * 10, bytes(10)),
]


@pytest.mark.parametrize(("text", "token"), CURSORS)
def test_a_cursor_is_read_as_loosely_as_ever(text: str, token: bytes) -> None:
    """Upper-case digits and a plus sign in front of a pair's only digit are accepted."""
    assert decode_manifest(with_field("cursor_hex", text)).cursor == Cursor(token)


@pytest.mark.parametrize(
    "text", ["0", "0+", "++", "-1", "+", "0x", " 1", "1 ", "é", "éé", "٣٣", "1_"]
)
def test_a_cursor_that_is_not_hex_is_refused(text: str) -> None:
    """Nothing else that Python would take for a number is a pair of hex digits."""
    assert "expected pairs of hex digits" in refusal(with_field("cursor_hex", text))


def test_order_and_spacing_do_not_matter() -> None:
    """The fields may come in any order, on one line or with space around them."""
    fields = dict(reversed(json.loads(GOOD).items()))
    assert decode_manifest(json.dumps(fields, separators=(",", ":")).encode()) == GOOD_MANIFEST
    assert decode_manifest(b"\r\n\t " + json.dumps(fields, indent=7).encode()) == GOOD_MANIFEST


# --- damage ------------------------------------------------------------------------------------


def test_every_truncation_is_refused() -> None:
    """No prefix of a manifest passes for a manifest."""
    for length in range(len(GOOD)):
        refusal(GOOD[:length])


def test_a_flipped_bit_is_refused_or_stays_inside_its_value() -> None:
    """A flipped bit is refused, or changes the value it is in and nothing beside it."""
    accepted = 0
    for at in range(len(GOOD)):
        for bit in range(8):
            flipped = bytearray(GOOD)
            flipped[at] ^= 1 << bit
            try:
                found = decode_manifest(bytes(flipped))
            except ArtifactInvalid:
                continue
            accepted += 1
            one_value = [
                replace(found, cursor=GOOD_MANIFEST.cursor),
                replace(found, created_at_unix=GOOD_MANIFEST.created_at_unix),
                replace(found, payload_bytes=GOOD_MANIFEST.payload_bytes),
                replace(found, payload_blake3=GOOD_MANIFEST.payload_blake3),
            ]
            assert GOOD_MANIFEST in one_value
    assert accepted  # values have no checksum of their own; the payload has to bear them out


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(FIELDS) | st.text(), inner),
    max_leaves=20,
)


@given(JSON)
@example({"schema_version": 10**30})
def test_arbitrary_json_is_refused_and_nothing_worse(value: object) -> None:
    """JSON that is no manifest raises ``ArtifactInvalid`` and no other exception."""
    refusal(json.dumps(value).encode())


@given(st.sampled_from([*FIELDS, "files[0].path", "files[0].size", "files[0].blake3"]), JSON)
def test_an_arbitrary_field_is_accepted_or_refused(name: str, value: object) -> None:
    """Whatever one field holds, the manifest is read or refused."""
    message = ""
    try:
        decode_manifest(with_field(name, value))
    except ArtifactInvalid as error:
        message = error.message
    assert len(message) < 400, "a value is shown in part only"


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    """Bytes that are no manifest raise ``ArtifactInvalid`` and no other exception."""
    refusal(data)


# --- the payload -------------------------------------------------------------------------------

LOG = (
    fold_log.HEADER
    + fold_log.encode_put(b"a", b"1", b"")
    + fold_log.encode_put(b"b", b"2", b"\x07")
    + fold_log.encode_cursor(Cursor.from_u64(142).token)
)


def judged(log: bytes) -> None:
    """Check ``log`` as the payload of the good manifest."""
    check_payload(scan_payload(memoryview(log), {}, lambda: None), GOOD_MANIFEST, "fold.snap")


def test_a_clean_payload_passes() -> None:
    """A clean log with the promised cursor is accepted."""
    judged(LOG)


def test_a_torn_payload_passes_with_its_cursor() -> None:
    """A torn tail behind the promised cursor is no reason to refuse."""
    judged(LOG + b"\0\0\0")
    judged(LOG + fold_log.encode_put(b"c", b"3", b"")[:-1])


DAMAGED: list[tuple[bytes, type[Exception]]] = [
    (b"", InvalidFormat),
    (LOG[:5], InvalidFormat),
    (b"X" + LOG[1:], InvalidFormat),
    (LOG[:4] + b"\x03" + LOG[5:], InvalidFormat),
    (LOG[:12] + b"\xff" + LOG[13:], StoreCorrupt),
]


@pytest.mark.parametrize(("log", "cause"), DAMAGED)
def test_a_damaged_payload_is_refused_with_its_cause(log: bytes, cause: type[Exception]) -> None:
    """The log's own error is the cause of the artifact's, and the offset is kept."""
    with pytest.raises(ArtifactInvalid) as caught:
        judged(log)
    assert isinstance(caught.value.__cause__, cause)
    assert caught.value.offset is not None
    assert caught.value.path == "fold.snap"


def test_a_payload_that_lost_its_tail_is_refused() -> None:
    """Every truncation of a payload leaves another cursor than the promised one."""
    for length in range(len(LOG)):
        with pytest.raises(ArtifactInvalid):
            judged(LOG[:length])


def test_a_payload_with_a_flipped_bit_is_refused() -> None:
    """Every single flipped bit of a payload is noticed, even if no digest were there."""
    for at in range(len(LOG)):
        for bit in range(8):
            flipped = bytearray(LOG)
            flipped[at] ^= 1 << bit
            with pytest.raises(ArtifactInvalid):
                judged(bytes(flipped))
