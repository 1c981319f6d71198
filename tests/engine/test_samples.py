"""Statistics of samples: the original's, to the bit, from dicts and from tables of any make."""

import logging
import math
from collections import Counter
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import SchemaFingerprint
from holdfast.formats.errors import InvalidArgument, LimitExceeded
from holdfast.handles.samples import field_stats, text_of_float
from tests.formats.zsm_samples import expected, float_of, golden_fingerprint

pytestmark = pytest.mark.usefixtures("quiet")

SAMPLES = expected()["samples"]


def _value(told: dict[str, Any]) -> object:
    """A value of a golden record."""
    ((kind, value),) = told.items()
    if kind == "float_bits":
        return float_of(value)
    if kind == "uint":
        return np.uint64(value)
    if kind == "bytes":
        return bytes(value) if isinstance(value, list) else bytes.fromhex(value)
    return None if kind == "null" else value


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_of_the_original(name: str) -> None:
    """Hash, null rates, cardinalities and frequent values are the original's, to the bit."""
    case = SAMPLES[name]
    records = [{key: _value(told) for key, told in one.items()} for one in case["records"]]
    fields = [tuple(field) for field in case["fields"]]
    created = case["expected"]["created_at"]
    found = SchemaFingerprint.from_sample(fields, records, created_at=created)
    wanted = golden_fingerprint(case["expected"])
    assert found.schema_hash == wanted.schema_hash
    assert found.record_count == wanted.record_count
    assert found.created_at == wanted.created_at
    for one, other in zip(found.field_stats, wanted.field_stats, strict=True):
        assert one == other


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"),
        (-0.0, "-0"),
        (0.0, "0"),
        (1e21, "1" + 21 * "0"),
        (1.5e-7, "0.00000015"),
        (5e-324, "0." + 323 * "0" + "5"),
        (1.7976931348623157e308, "17976931348623157" + 292 * "0"),
        (0.1, "0.1"),
        (123456789012.5, "123456789012.5"),
        (1e16, "1" + 16 * "0"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (math.nan, "NaN"),
        (-math.nan, "NaN"),
    ],
)
def test_floats_as_text(value: float, text: str) -> None:
    """Shortest digits, never an exponent; the same from a column as from a dict."""
    assert text_of_float(value) == text
    stats, _ = field_stats([("x", "Numeric")], pa.table({"x": [value]}))
    assert stats[0].top_k == (text,)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_as_text(value: float) -> None:
    """The text is the float again, without an exponent, and no digit can be spared."""
    text = text_of_float(value)
    assert float(text) == value
    assert "e" not in text
    digits = repr(value).lower().split("e")[0]
    assert len(Decimal(text).normalize().as_tuple().digits) == len(
        Decimal(digits).normalize().as_tuple().digits
    )
    stats, _ = field_stats([("x", "Numeric")], pa.table({"x": pa.array([value], pa.float64())}))
    assert stats[0].top_k == (text,)


def _model(values: list[object]) -> tuple[int, int, tuple[str, ...]]:
    """Missing values, distinct ones and the most frequent, counted one by one."""
    texts: Counter[str] = Counter()
    for value in values:
        if isinstance(value, bool):
            texts[str(value).lower()] += 1
        elif isinstance(value, float):
            texts[text_of_float(value)] += 1
        elif isinstance(value, int | str) and value != "":
            texts[str(value)] += 1
    top = sorted(texts, key=lambda text: (-texts[text], text.encode()))
    return len(values) - texts.total(), len(texts), tuple(top[:10])


COLUMNS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (pa.string(), st.text(max_size=2)),
    (pa.large_string(), st.sampled_from(["", "a", "b", "\U00010000", "\uffff", "é"])),
    (pa.string_view(), st.text(max_size=1)),
    (pa.dictionary(pa.int8(), pa.string()), st.sampled_from(["", "x", "y"])),
    (pa.int64(), st.integers(-(1 << 63), (1 << 63) - 1)),
    (pa.int8(), st.integers(-12, 12)),
    (pa.float64(), st.one_of(st.floats(), st.sampled_from([0.0, -0.0, 1e300, 1e-300, 1.0]))),
    (pa.float32(), st.floats(width=32)),
    (pa.float16(), st.floats(width=16)),
    (pa.bool_(), st.booleans()),
    (pa.null(), st.none()),
]


@given(st.data(), st.sampled_from(range(len(COLUMNS))))
def test_tables_count_like_dicts(data: st.DataObject, which: int) -> None:
    """A column of a table, in chunks, gives what the same values in dicts give, and a model."""
    type_, values = COLUMNS[which]
    chunks = data.draw(st.lists(st.lists(st.none() | values, max_size=30), max_size=3))
    if pa.types.is_float16(type_):
        chunks = [[None if v is None else float(np.float16(v)) for v in chunk] for chunk in chunks]
    arrays = [
        pa.array([None if v is None else np.float16(v) for v in chunk], type_)
        if pa.types.is_float16(type_)
        else pa.array(chunk, type_)
        for chunk in chunks
    ]
    flat = [value for chunk in chunks for value in chunk]
    table = pa.table({"x": pa.chunked_array(arrays, type_)})
    from_table = field_stats([("x", "Id")], table)
    from_dicts = field_stats([("x", "Id")], [{"x": value} for value in flat])
    assert from_table == from_dicts
    ((stats,), total) = from_table
    missing, distinct, top = _model(flat)
    assert (total, stats.cardinality, stats.top_k) == (len(flat), distinct, top)
    rate = np.float32(missing) / np.float32(total) if total else 0
    assert stats.null_rate == rate


def test_values_of_different_types_are_one_text() -> None:
    """1, 1.0 and "1" are one value; true and "true" are another."""
    values: list[object] = [1, 1.0, "1", np.int8(1), np.float32(1), True, "true", np.bool_(True)]
    ((stats,), _) = field_stats([("x", "Id")], [{"x": value} for value in values])
    assert (stats.cardinality, stats.top_k) == (2, ("1", "true"))


def test_values_of_derived_classes() -> None:
    """What derives from text or numbers counts as what it derives from."""

    class Text(str):
        def __str__(self) -> str:
            return "lies"

    class Number(int):
        def __repr__(self) -> str:
            return "lies"

    ((stats,), _) = field_stats([("x", "Id")], [{"x": Text("a")}, {"x": Number(7)}])
    assert stats.top_k == ("7", "a")


def test_repeated_and_missing_fields() -> None:
    """A repeated field has the same statistics twice; one that no record has is all missing."""
    for records in ([{"a": "x"}, {}], pa.table({"a": ["x", None]})):
        stats, total = field_stats([("a", "Name"), ("b", "Id"), ("a", "Date")], records)
        assert total == 2
        assert [(s.name, s.kind, s.null_rate) for s in stats] == [
            ("a", "Name", 0.5),
            ("b", "Id", 1.0),
            ("a", "Date", 0.5),
        ]


class Frame:
    """A data frame of another library: all that is known of it is Arrow's stream capsule."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)


def test_every_kind_of_table() -> None:
    """Table, record batch, reader and a frame of another library give the same."""
    table = pa.table({"a": ["x", "y", "x"], "b": [1, 2, None]})
    fields = [("a", "Name"), ("b", "Numeric")]
    wanted = field_stats(fields, table)  # type: ignore[arg-type]
    records: list[object] = [
        table.to_batches()[0],
        pa.RecordBatchReader.from_batches(table.schema, table.to_batches()),
        Frame(table),
        table.to_pylist(),
        iter(table.to_pylist()),
    ]
    for one in records:
        assert field_stats(fields, one) == wanted  # type: ignore[arg-type]


@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize("value", [np.uint8(3), b"bytes", 1 << 63], ids=["uint", "bytes", "large"])
def test_what_counts_as_missing_is_told(
    value: object, table: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Unsigned integers and bytes count as missing, as in the original, and that is logged."""
    caplog.set_level(logging.WARNING, "holdfast")
    type_ = pa.binary() if isinstance(value, bytes) else pa.uint64()
    whole = value if isinstance(value, bytes) else int(value)  # type: ignore[call-overload]
    records = pa.table({"x": pa.array([whole], type_)}) if table else [{"x": value}]
    ((stats,), _) = field_stats([("x", "Id")], records)
    assert (stats.null_rate, stats.cardinality) == (1.0, 0)
    assert "field 'x'" in caplog.text
    caplog.clear()
    empty = pa.table({"x": pa.array([None], type_)}) if table else [{"x": None}]
    field_stats([("x", "Id")], empty)
    assert not caplog.text


X = [("x", "Id")]
BAD: dict[str, tuple[object, object, str]] = {
    "no fields": ([], [], "at least one field"),
    "fields": ("x", [], "fields are pairs"),
    "field": (["x"], [], r"fields\[0\] is not a pair"),
    "name": ([(7, "Id")], [], r"fields\[0\] is named by a str"),
    "kind": ([("x", "id")], [], "kind 'id', which is none of Name, Date"),
    "separator": ([("a:b", "Id")], [], "'a:b' has"),
    "surrogate": ([("\udc00", "Id")], [], "lone surrogate"),
    "number": (X, 7, "records are dicts"),
    "dict": (X, {"x": [1]}, "records are dicts"),
    "text": (X, "text", "records are dicts"),
    "record": (X, [{"x": 1}, ("x", 1)], r"records\[1\] is a dict"),
    "value": (X, [{}, {"x": object()}], r"records\[1\], field 'x': a object"),
    "list": (X, [{"x": [1]}], r"records\[0\], field 'x': a list"),
    "huge": (X, [{"x": 1 << 64}], r"records\[0\], field 'x': 18446744073709551616 fits"),
    "lone": (X, [{"x": "\ud800"}], r"records\[0\], field 'x'"),
    "date": (X, pa.table({"x": pa.array([0], pa.date32())}), "'x' is a column of date32"),
    "nested": (X, pa.table({"x": [[1]]}), "'x' is a column of list"),
    "twice": (X, pa.table([[1], [2]], names=["x", "x"]), "2 columns 'x'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_samples_are_named(name: str) -> None:
    """What is wrong is said with its field and its place."""
    fields, records, text = BAD[name]
    with pytest.raises(InvalidArgument, match=text):
        SchemaFingerprint.from_sample(fields, records)  # type: ignore[arg-type]


def test_damaged_text_of_a_table() -> None:
    """A column of text that is no UTF-8 is refused by its name."""
    broken = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.array([0, 1], pa.int32()).buffers()[1], pa.py_buffer(b"\xff")]
    )
    with pytest.raises(InvalidArgument, match="field 'x'"):
        field_stats([("x", "Id")], pa.table({"x": broken}))


class TestSchemas:
    """Fingerprints without records."""

    def test_from_schema(self) -> None:
        """Fields keep their order, nothing is known of them, and the time is now or as given."""
        found = SchemaFingerprint.from_schema([("b", "Id"), ("a", "Name")], created_at=7)
        assert found.fields == [("b", "Id"), ("a", "Name")]
        assert (found.record_count, found.created_at) == (0, 7)
        assert all((s.null_rate, s.cardinality, s.top_k) == (0, 0, ()) for s in found.field_stats)
        assert found == SchemaFingerprint.from_sample(found.fields, [], created_at=7)
        assert SchemaFingerprint.from_schema(found.fields).created_at > 1_700_000_000

    @pytest.mark.parametrize("created_at", [-1, 1.5, "x", True, 1 << 64])
    def test_the_time_is_checked(self, created_at: object) -> None:
        """A time that no file can hold is refused at once, by its name."""
        given: Any = created_at
        with pytest.raises(InvalidArgument, match="created_at is"):
            SchemaFingerprint.from_schema(X, created_at=given)
        with pytest.raises(InvalidArgument, match="created_at is"):
            SchemaFingerprint.from_sample(X, [], created_at=given)

    def test_mappings(self) -> None:
        """Mappings change the hash, and are checked."""
        fields = [("a", "Name"), ("b", "Id")]
        plain = SchemaFingerprint.from_schema(fields)
        mapped = SchemaFingerprint.from_schema(fields, mappings=[("a", "x")])
        assert mapped.schema_hash != plain.schema_hash
        assert plain.is_plain
        assert not mapped.is_plain
        assert plain.distance_to(mapped) == 0
        for bad, text in (
            ("ab", "mappings are pairs"),
            ([("a",)], r"mappings\[0\] is not"),
            ([("a", 7)], r"mappings\[0\] has the name"),
            ([("a", "b|c")], "'b|c' has"),
        ):
            with pytest.raises(InvalidArgument, match=text):
                SchemaFingerprint.from_schema(fields, mappings=bad)  # type: ignore[arg-type]

    def test_ambiguous_names_on_request(self) -> None:
        """What the original takes can be had, by saying so."""
        case = expected()["schema_hashes"]["sep-collision-1"]
        fields = [tuple(field) for field in case["fields"]]
        found = SchemaFingerprint.from_schema(fields, ambiguous_names="accept")
        assert found.schema_hash.hex() == case["schema_hash"]
        with pytest.raises(InvalidArgument, match="ambiguous_names"):
            SchemaFingerprint.from_schema(fields, ambiguous_names="yes")  # type: ignore[arg-type]

    def test_too_many_fields(self) -> None:
        """The number of fields is limited, by name."""
        with pytest.raises(LimitExceeded, match="65536"):
            SchemaFingerprint.from_schema([(str(n), "Id") for n in range(65_537)])


def test_a_large_table_takes_seconds_and_no_copy() -> None:
    """A million rows of 20 columns: the memory used besides is that of one column's values."""
    rows = 1_000_000
    rng = np.random.default_rng(3)
    whole = np.arange(rows)
    columns: dict[str, Any] = {f"i{n}": rng.permutation(whole) for n in range(7)}
    columns |= {f"f{n}": rng.random(rows) for n in range(6)}
    texts = pa.array([f"text {n}" for n in range(rows)])
    columns |= {f"t{n}": texts.take(pa.array(rng.permutation(whole))) for n in range(7)}
    table = pa.table(columns)
    usual, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    fields = [(name, "Id") for name in columns]
    try:
        stats, total = field_stats(fields, table)  # type: ignore[arg-type]
    finally:
        pa.set_memory_pool(usual)
    assert total == rows
    assert len(stats) == 20
    assert all(s.cardinality == rows for s in stats if s.name[0] != "f")
    assert stats[0].top_k == ("0", "1", "10", "100", "1000", "10000", "100000", "100001", "100002",
                              "100003")  # fmt: skip
    assert 0 < pool.max_memory() < table.nbytes / 2
