"""Witnesses, journals and the fingerprint: layouts, round trips, and damage."""

import struct
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats.errors import InvalidArgument, InvalidFormat
from holdfast.formats.rvf import addrot as addrot_module
from holdfast.formats.rvf.addrot import addrot
from holdfast.formats.rvf.journal import Journal, decode_journal, encode_journal
from holdfast.formats.rvf.witness import (
    CHAIN_START,
    Witness,
    decode_witness,
    encode_witness,
    entry_hash,
)

U32, U64 = st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1)
HASH = st.binary(min_size=32, max_size=32)
WITNESSES = st.builds(Witness, st.integers(0, 255), U64, st.text(max_size=40), HASH)
SAMPLE = Witness(1, 123, "ingest:count=3,epoch=1", CHAIN_START)


def plain_addrot(data: bytes) -> bytes:
    """The fingerprint byte by byte, as RVF 6 says it."""
    out = [0] * 32
    for number, byte in enumerate(data):
        here, there = number % 32, (number + 13) % 32
        out[here] = (out[here] + byte) % 256
        out[there] = (out[there] + (out[here] << 3 | out[here] >> 5)) % 256
    return bytes(out)


@given(st.binary(max_size=1500))
def test_addrot(data: bytes) -> None:
    """Thirteen bytes at once give what one at a time gives."""
    assert addrot(data) == addrot(memoryview(bytearray(data))) == plain_addrot(data)


def test_addrot_of_every_short_length() -> None:
    """No length up to several turns is special, with the bytes that make the largest sums."""
    for size in range(200):
        assert addrot(b"\xff" * size) == plain_addrot(b"\xff" * size)


def test_addrot_ticks() -> None:
    """A long computation calls out on its way, and its parts add up."""
    data = np.arange(3 * addrot_module._BYTES_PER_TICK + 5, dtype=np.uint32).astype(np.uint8)
    ticks: list[int] = []
    assert addrot(data.tobytes(), lambda: ticks.append(1)) == plain_addrot(data.tobytes())
    assert len(ticks) == 3
    assert addrot_module._BYTES_PER_TICK <= 2_000_000


def test_witness_layout() -> None:
    """Fields lie where the table says."""
    payload = encode_witness(SAMPLE._replace(previous_hash=b"P" * 32))
    assert struct.unpack_from("<BQI", payload) == (1, 123, 22)
    assert payload[13:] == b"ingest:count=3,epoch=1" + b"P" * 32


@given(WITNESSES)
def test_witness_round_trip(witness: Witness) -> None:
    """What was written is read back; the hash is that of all its bytes."""
    payload = encode_witness(witness)
    assert decode_witness(payload) == decode_witness(memoryview(payload)) == witness
    assert entry_hash(payload) == plain_addrot(payload)


def test_witness_of_every_length() -> None:
    """A payload that is cut short or too long is refused."""
    payload = encode_witness(SAMPLE)
    for size in range(len(payload)):
        with pytest.raises(InvalidFormat):
            decode_witness(payload[:size])
    with pytest.raises(InvalidFormat, match="says 22 bytes of action and has room for 23"):
        decode_witness(payload + b"\0")


def test_witness_problems() -> None:
    """An action that is no text, and a previous hash of another length, are named."""
    payload = bytearray(encode_witness(SAMPLE))
    payload[13] = 0xFF
    with pytest.raises(InvalidFormat, match="not UTF-8"):
        decode_witness(payload)
    with pytest.raises(InvalidArgument, match="31 bytes"):
        encode_witness(SAMPLE._replace(previous_hash=bytes(31)))


@given(st.binary(max_size=100))
def test_witness_of_any_bytes(data: bytes) -> None:
    """Whatever the bytes are, they are a witness or raise InvalidFormat."""
    with suppress(InvalidFormat):
        assert encode_witness(decode_witness(data)) == data


def test_journal_layout() -> None:
    """Fields lie where the table says."""
    payload = encode_journal(Journal(6, np.array([9, 3], np.uint64)))
    assert struct.unpack_from("<IIQ", payload) == (2, 6, 0)
    assert struct.unpack_from("<BBHQ", payload, 16) == (1, 0, 8, 9)
    assert struct.unpack_from("<BBHQ", payload, 28) == (1, 0, 8, 3)
    assert len(payload) == 40


@given(U32, st.lists(U64, max_size=8))
def test_journal_round_trip(epoch: int, ids: list[int]) -> None:
    """Ids come back in the order they were given, repetitions included."""
    journal = decode_journal(encode_journal(Journal(epoch, np.array(ids, np.uint64))))
    assert (journal.epoch, journal.ids.tolist()) == (epoch, ids)


def test_journal_problems() -> None:
    """A journal that is cut short, or has other entries than deletes, is refused."""
    payload = encode_journal(Journal(6, np.array([9, 3], np.uint64)))
    for size in range(len(payload)):
        with pytest.raises(InvalidFormat):
            decode_journal(payload[:size])
    for place in (16, 18, 28):
        damaged = bytearray(payload)
        damaged[place] ^= 2
        with pytest.raises(InvalidFormat, match="other than deletes"):
            decode_journal(damaged)
    with pytest.raises(InvalidFormat, match="4294967295 entries"):
        decode_journal(b"\xff" * 100)


@given(st.binary(max_size=100))
def test_journal_of_any_bytes(data: bytes) -> None:
    """Whatever the bytes are, they are a journal or raise InvalidFormat."""
    with suppress(InvalidFormat):
        decode_journal(data)
