"""Store records and lists of hidden ids: there and back, and what is broken."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats.errors import InvalidFormat
from holdfast.formats.rvf.record import (
    HEAD_BYTES,
    HIDDEN_MAGIC,
    STORE_MAGIC,
    Child,
    Pin,
    StoreRecord,
    decode_hidden,
    decode_store,
    encode_hidden,
    encode_store,
)

U64_MAX = (1 << 64) - 1
U64 = st.integers(0, U64_MAX)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PINS = st.builds(Pin, TEXT, U64, U64)
RECORDS = st.builds(
    StoreRecord,
    st.sampled_from(["l2", "ip", "cosine"]),
    st.sampled_from(["generic", "dna", "text", "graph", "vision"]),
    st.booleans(),
    st.sampled_from(["root", "branch", "derived"]),
    st.none() | TEXT,
    st.none() | PINS,
    st.lists(st.builds(Child, TEXT, TEXT), max_size=4).map(tuple),
)
RECORD = StoreRecord(
    "cosine", "text", True, "branch", "mean", Pin("a.rvf", 7, 9), (Child("b.rvf", "00" * 16),)
)
STORE = encode_store(RECORD, 5)
HIDDEN = encode_hidden(np.array([1, 5, U64_MAX], np.uint64), 6, snapshot=True)


@given(RECORDS, U64)
def test_a_record_comes_back(record: StoreRecord, generation: int) -> None:
    """Every fact is kept, and the generation beside it."""
    payload = encode_store(record, generation)
    assert decode_store(payload) == (generation, record)
    assert decode_store(memoryview(b"\0" + payload)[1:]) == (generation, record)


@given(st.sets(U64, max_size=30), U64, st.booleans())
def test_hidden_ids_come_back(ids: set[int], generation: int, snapshot: bool) -> None:
    """All of them, in order."""
    given_ids = np.array(sorted(ids), np.uint64)
    found = decode_hidden(encode_hidden(given_ids, generation, snapshot=snapshot))
    assert found is not None
    assert (found.generation, found.snapshot) == (generation, snapshot)
    assert found.ids.dtype == np.uint64
    assert found.ids.tolist() == sorted(ids)


def test_layout() -> None:
    """The head is as the module draws it."""
    text = STORE[HEAD_BYTES:]
    assert STORE[:HEAD_BYTES] == struct.pack("<4sHHQQ", b"HFST", 1, 0, 5, len(text))
    assert json.loads(text) == {
        "metric": "cosine",
        "profile": "text",
        "frozen": True,
        "origin": "branch",
        "derivation": "mean",
        "parent": {"name": "a.rvf", "manifest": 7, "end": 9},
        "children": [{"name": "b.rvf", "file_id": "00" * 16}],
    }
    head = struct.pack("<4sHHQQ", b"HFHD", 1, 1, 6, 3)
    assert head + struct.pack("<3Q", 1, 5, U64_MAX) == HIDDEN


def test_changed_records() -> None:
    """A change leaves the rest, and the record it was made from."""
    other = (Child("c.rvf", "11" * 16),)
    assert RECORD.with_children(other).children == other
    assert RECORD.with_children(other).with_children(RECORD.children) == RECORD
    plain = StoreRecord("l2")
    assert plain.as_frozen() == StoreRecord("l2", frozen=True)
    assert not plain.frozen


@pytest.mark.parametrize("payload", [STORE, HIDDEN], ids=["store", "hidden"])
def test_every_truncation(payload: bytes) -> None:
    """Too short for a head: nobody's. Shorter or longer than it says: broken."""
    for size in range(len(payload)):
        cut = payload[:size]
        if size < HEAD_BYTES:
            assert decode_store(cut) is None
            assert decode_hidden(cut) is None
        else:
            _refused(cut)
    _refused(payload + b"\0")
    _refused(payload + bytes(8))


def _refused(payload: bytes) -> None:
    decode = decode_store if payload.startswith(STORE_MAGIC) else decode_hidden
    with pytest.raises(InvalidFormat):
        decode(payload)


def test_every_bit_flip() -> None:
    """Another's, broken, or another value: never any other exception."""
    for payload in (STORE, HIDDEN):
        for bit in range(8 * len(payload)):
            damaged = bytearray(payload)
            damaged[bit // 8] ^= 1 << bit % 8
            for decode in (decode_store, decode_hidden):
                try:
                    found = decode(bytes(damaged))
                except InvalidFormat:
                    continue
                assert found is None or bit // 8 >= 4


def test_somebody_else_s_segments() -> None:
    """The types are free for anyone; the magic says whose a segment is."""
    for payload in (b"", b"HFST", bytes(100), b"their own content, longer than a head is"):
        assert decode_store(payload) is None
        assert decode_hidden(payload) is None
    assert decode_store(HIDDEN) is None
    assert decode_hidden(STORE) is None


def test_another_version() -> None:
    """Is refused, since its fields may mean anything."""
    for payload, decode in ((STORE, decode_store), (HIDDEN, decode_hidden)):
        with pytest.raises(InvalidFormat, match="version 2"):
            decode(payload[:4] + b"\2\0" + payload[6:])


BROKEN_TEXTS: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"metric: l2",
    "no object": b"[]",
    "no metric": b"{}",
    "an unknown metric": b'{"metric":"l1"}',
    "an unknown field": b'{"metric":"l2","colour":"red"}',
    "a wrong type": b'{"metric":"l2","frozen":1}',
    "a negative offset": b'{"metric":"l2","parent":{"name":"a","manifest":"x","end":1}}',
    "not UTF-8": b'{"metric":"l2","derivation":"\xff"}',
    "nested without end": b'{"metric":' + b"[" * 100_000,
    "two of them": b'{"metric":"l2"}{"metric":"ip"}',
}


@pytest.mark.parametrize("text", BROKEN_TEXTS.values(), ids=BROKEN_TEXTS)
def test_broken_texts(text: bytes) -> None:
    """A record that this release cannot read in full is not read in part."""
    with pytest.raises(InvalidFormat, match="store record"):
        decode_store(struct.pack("<4sHHQQ", STORE_MAGIC, 1, 0, 1, len(text)) + text)


@pytest.mark.parametrize("ids", [[2, 1], [1, 1], [0, 5, 3], [U64_MAX, 0]])
def test_ids_out_of_order(ids: list[int]) -> None:
    """Lists are ascending, without repetitions."""
    payload = struct.pack(f"<4sHHQQ{len(ids)}Q", HIDDEN_MAGIC, 1, 0, 1, len(ids), *ids)
    with pytest.raises(InvalidFormat, match="ascending"):
        decode_hidden(payload)


def test_a_count_beyond_the_payload() -> None:
    """Costs no memory before it is refused."""
    for count in (1, U64_MAX, 1 << 61):
        with pytest.raises(InvalidFormat):
            decode_hidden(struct.pack("<4sHHQQ", HIDDEN_MAGIC, 1, 0, 1, count))
