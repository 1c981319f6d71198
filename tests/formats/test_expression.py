"""Expressions come back as they were, and damaged bytes are refused before pyarrow sees them."""

import functools
import operator
import random
import struct
import zlib

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats.errors import InvalidArgument
from holdfast.formats.expression import (
    DEPTH_MAX,
    Program,
    Step,
    decode_expression,
    encode_expression,
    take_apart,
    text_of,
)

F = pc.field
EXPRESSIONS = [
    F("b"),
    pc.scalar(True),
    F("b") & ~F("b") | F("b"),
    F("a").isin([1, 2, None]),
    F("s").isin(["x", "y"]),
    F("a").is_null(),
    F("f").is_null(nan_is_null=True),
    F("a").is_valid(),
    pc.match_substring(F("s"), "sub"),
    pc.match_like(F("s"), "%x_"),
    pc.starts_with(F("s"), "x", ignore_case=True),
    (F("a") >= 1) & (F("a") < 3),
    F("a").cast("float64") / 2 > 1.5,
    pc.if_else(F("b"), F("a"), 2) != 1,
    F("u") == pa.scalar((1 << 64) - 1, pa.uint64()),
    F("i") < -(1 << 63),
    F("f") <= float("inf"),
    F("s") == "text",
    F("y") == b"\x00\xff",
    F("b") == True,  # noqa: E712 - an expression, which `is` would not make
    F("a") == pa.scalar(None),
    F("odd (name) 'with' \n all \u00e9\U0001f600") > 1,
]


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=text_of)
def test_round_trip(expression: pc.Expression) -> None:
    """An expression comes back equal, whole as well as from its parts."""
    data = encode_expression(expression)
    assert decode_expression(data).equals(expression)
    assert decode_expression(memoryview(bytearray(data))).equals(expression)
    assert take_apart(data)[1].expression().equals(expression)


def test_layout() -> None:
    """Magic and checksum lie where the table says, and the steps are in prefix notation."""
    data = encode_expression((F("a") > 3) & F("s").isin(["x"]))
    assert data[:4] == b"HFEX"
    assert struct.unpack_from("<I", data, 4) == (zlib.crc32(data[8:]),)
    _, program = take_apart(data)
    assert program.steps == (
        Step("call", "and_kleene"),
        Step("call", "greater"),
        Step("field_ref", "a"),
        Step("literal", "0"),
        Step("end", "greater"),
        Step("call", "is_in"),
        Step("field_ref", "s"),
        Step("options", "1"),
        Step("end", "is_in"),
        Step("end", "and_kleene"),
    )
    assert program.constants[0].to_pylist() == [3]
    assert program.constants[1].field("value_set").to_pylist() == [["x"]]


@pytest.mark.parametrize("where", [None, True, "a > 3", b"", {"a": 3}, pa.scalar(1)])
def test_only_expressions_are_taken(where: object) -> None:
    """Anything that is no expression is refused by the name of its type."""
    with pytest.raises(InvalidArgument, match=f"not {type(where).__name__}"):
        encode_expression(where)


def test_columns_by_number_are_refused() -> None:
    """A column is referred to by name, since numbers of columns mean nothing here."""
    with pytest.raises(InvalidArgument, match="by name"):
        encode_expression(F(0) > 1)
    nested = F("a", "b") > 1
    with pytest.raises(InvalidArgument):
        decode_expression(encode_expression(nested))


def test_nesting_is_limited() -> None:
    """An expression as deep as the limit passes; one deeper is refused, however deep."""
    deep = functools.reduce(operator.or_, [F("a") == n for n in range(DEPTH_MAX)])
    assert decode_expression(encode_expression(deep)).equals(deep)
    with pytest.raises(InvalidArgument, match="isin"):
        decode_expression(encode_expression(deep | F("b") | F("b")))


def test_every_truncation_and_bit_flip_is_refused() -> None:
    """No damaged bytes reach pyarrow, whose reader may crash on them."""
    data = encode_expression((F("a") > 3) & F("s").isin(["x", None]))
    for size in range(len(data)):
        with pytest.raises(InvalidArgument):
            decode_expression(data[:size])
    for bit in range(0, len(data) * 8, 7):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(InvalidArgument):
            decode_expression(bytes(damaged))


def _sealed(body: bytes) -> bytes:
    return struct.pack("<4sI", b"HFEX", zlib.crc32(body)) + body


@pytest.mark.parametrize("expression", EXPRESSIONS[3:13], ids=text_of)
def test_damage_under_a_good_checksum(expression: pc.Expression) -> None:
    """Bytes that were damaged before they were sealed give an expression or a refusal."""
    body = encode_expression(expression)[8:]
    chance = random.Random(len(body))
    for _ in range(300):
        damaged = bytearray(body)
        for _ in range(chance.choice([1, 1, 2, 5])):
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        try:
            found = decode_expression(_sealed(bytes(damaged)))
        except InvalidArgument:
            continue
        assert str(found)


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    """Nothing but an ``InvalidArgument`` comes of bytes that are no expression."""
    for candidate in (data, _sealed(data), _sealed(b"ARROW1\0\0" + data + b"ARROW1")):
        with pytest.raises(InvalidArgument):
            decode_expression(candidate)


BROKEN = [
    [],
    [("call", "invert"), ("field_ref", "a")],
    [("end", "invert")],
    [("call", "invert"), ("field_ref", "a"), ("end", "or")],
    [("field_ref", "a"), ("field_ref", "a")],
    [("literal", "1")],
    [("literal", "-1")],
    [("literal", "9" * 5000)],
    [("options", "0")],
    [("call", "is_in"), ("options", "0"), ("field_ref", "a"), ("end", "is_in")],
    [("call", "is_in"), ("field_ref", "a"), ("options", "0"), ("end", "is_in")],
    [("nested_field_ref", "2")],
]


@pytest.mark.parametrize("steps", BROKEN, ids=str)
def test_broken_programs_are_refused(steps: list[tuple[str, str]]) -> None:
    """Well-formed Arrow data whose steps are no expression is refused."""
    constant = pa.array([1])
    schema = pa.schema([pa.field("", constant.type)], metadata=pa.KeyValueMetadata(steps))
    batch = pa.RecordBatch.from_arrays([constant], schema=schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(batch)
    data = _sealed(sink.getvalue().to_pybytes())
    with pytest.raises(InvalidArgument):
        decode_expression(data)


def test_text_is_one_short_line() -> None:
    """What messages show of an expression is one line of bounded length."""
    text = text_of(F("s").isin([f"value {n}" for n in range(1000)]))
    assert "\n" not in text
    assert len(text) <= 203


def test_programs_are_built_from_parts() -> None:
    """Steps and constants of one's own make an expression, also without any constant."""
    steps = (Step("call", "invert"), Step("field_ref", "b"), Step("end", "invert"))
    assert Program(steps, ()).expression().equals(~F("b"))
