"""Metadata in every form a caller may have; what cannot be kept is refused by its column."""

import datetime
import decimal
import sys

import numpy as np
import pyarrow as pa
import pytest

from holdfast.formats.errors import InvalidArgument
from holdfast.formats.tables import type_name
from holdfast.handles.metadata import as_metadata

U64_MAX = (1 << 64) - 1
EXPECTED = {"n": [1, None, 3], "s": ["a", "b", None]}


class Stream:
    """A data frame of another library, reachable through its capsule only."""

    def __init__(self, data: pa.Table) -> None:
        self._data = data

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._data.__arrow_c_stream__(requested_schema)


def made(value: object, rows: int) -> pa.Table:
    table = as_metadata(value, rows)
    assert table is not None
    return table


TABLE = pa.table(EXPECTED)
FORMS: list[object] = [
    TABLE,
    TABLE.to_batches()[0],
    pa.concat_tables([TABLE.slice(0, 1), TABLE.slice(1)]),
    Stream(TABLE),
    EXPECTED,
    {"n": TABLE["n"], "s": TABLE["s"].chunk(0)},
    {"n": np.ma.masked_array([1, 2, 3], [False, True, False]), "s": np.array(["a", "b", None])},
    {"n": Stream(TABLE["n"]), "s": ("a", "b", None)},
    [{"n": 1, "s": "a"}, {"s": "b"}, {"s": None, "n": 3}],
    ({"n": 1, "s": "a"}, {"s": "b"}, {"n": 3}),
    ({"n": 1, "s": "a"}, {"s": "b"}, {"n": 3}),
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: type(form).__name__)
def test_every_form(form: object) -> None:
    """Tables, frames, columns and rows become the same table, of one piece a column."""
    table = made(form, 3)
    assert table.to_pydict() == EXPECTED
    assert table.schema.types == [pa.int64(), pa.string()]
    assert all(column.num_chunks == 1 for column in table.columns)


def test_a_row_without_metadata_is_none() -> None:
    """``None`` in the place of a dict is a row of nulls, first, last or between others."""
    table = as_metadata([None, {"n": 1}, None, {"s": "a"}, None], 5)
    assert table is not None
    assert table.to_pydict() == {"n": [None, 1, None, None, None], "s": [None] * 3 + ["a", None]}


@pytest.mark.parametrize(
    "nothing", [None, {}, pa.table({}), [{}, {}, {}], [None, {}, None]], ids=str
)
def test_no_columns(nothing: object) -> None:
    """Nothing is given by None and by what has no columns."""
    rows = 0 if isinstance(nothing, pa.Table) else 3
    assert as_metadata(nothing, rows) is None


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([1, None], "int64"),
        ([(1 << 63) - 1, -(1 << 63)], "int64"),
        ([U64_MAX, None, 0], "uint64"),
        (np.array([1], np.uint8), "uint64"),
        (np.array([1], np.int8), "int64"),
        (np.array([1.5], np.float16), "float64"),
        (np.array([1.5], np.float32), "float64"),
        ([1, 2.5], "float64"),
        ([float("nan"), None], "float64"),
        (["a", None], "string"),
        (np.array(["a", "bc"]), "string"),
        ([b"a", None], "binary"),
        (np.array([b"a", b"bc"]), "binary"),
        ([True, None], "bool"),
        (np.array([True]), "bool"),
        ([None, None], "null"),
        (range(3), "int64"),
        (pa.array(["a"], pa.large_string()), "string"),
        (pa.array(["a", "b", "a"]).dictionary_encode(), "string"),
        (iter([1, 2]), "int64"),
    ],
)
def test_types(values: object, kept: str) -> None:
    """A column's type is the widest of its kind; integers are signed while they can be."""
    rows = len(values) if hasattr(values, "__len__") else 2
    table = made({"a": values}, rows)
    assert type_name(table.schema.field("a").type) == kept


def test_a_column_of_one_type_needs_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists of one type become columns without a look for packages, which Arrow would take at
    every call."""
    sought: list[str] = []

    class Finder:
        """Is asked for what has not been imported yet."""

        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            sought.append(name)

    columns = {"s": ["a", None], "i": [1, 2], "f": [1.5, 2.5], "b": [True, None], "x": [b"a", b""]}
    made(columns, 2)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    made(columns, 2)
    made([{"s": "a", "i": 1}, {"i": 2}], 2)
    assert sought == []


def test_frames_leave_their_index_behind() -> None:
    """The column that pandas adds for its row labels is no metadata."""
    frame = TABLE.append_column("__index_level_0__", pa.array([5, 6, 7]))
    frame = frame.replace_schema_metadata({b"pandas": b"{}"})
    assert made(Stream(frame), 3).to_pydict() == EXPECTED
    assert made(frame.replace_schema_metadata(None), 3).num_columns == 3


def test_numbers_of_another_store_stay_behind() -> None:
    """What a field carries besides name and type is not taken along."""
    schema = pa.schema([pa.field("n", pa.int64(), metadata={b"holdfast.field_id": b"5"})])
    table = made(pa.table([[1]], schema=schema), 1)
    assert table.schema.field("n").metadata is None


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"a": [1, 2]}, "'a' has 2 values, and there are 3 rows"),
        (TABLE.slice(1), "2 rows, and there are 3"),
        ([{"a": 1}], "1 rows, and there are 3"),
        ([], "0 rows, and there are 3"),
        ([{"a": 1}, 5, {}], "row 1 is a int"),
        ({"a": 5}, "'a' .*not int"),
        ({"a": "abc"}, "'a' .*not str"),
        ({"a": {"b": 1}}, "'a' .*not dict"),
        ({"a": np.zeros((3, 2))}, "'a'"),
        ({"a": np.float64(1)}, "'a'"),
        ({"a": [1, "b", None]}, "'a'"),
        ({"a": [1, True, None]}, "'a'"),
        ({"a": ["x", b"x", None]}, "'a': text and bytes"),
        ({"a": [1 << 64, 0, 0]}, "'a'"),
        ({"a": [-1, U64_MAX, 0]}, "'a'"),
        ({"a": [object(), 1, 2]}, "'a'"),
        ({"a": [[1], [2], [3]]}, "'a' is of type list"),
        ({"a": [{"b": 1}] * 3}, "'a' is of type struct"),
        ({"a": [datetime.date(2020, 1, 1)] * 3}, "'a' is of type date"),
        ({"a": np.array(["2020-01-01"] * 3, "datetime64[s]")}, "'a' is of type timestamp"),
        ([{"a": decimal.Decimal(1)}] * 3, "'a' is of type decimal"),
        (pa.table({"a": pa.array([1, 2, 3], pa.duration("s"))}), "'a' is of type duration"),
        ({"id": [1, 2, 3]}, "'id'"),
        ([{"id": 1}] * 3, "'id'"),
        (pa.table({"id": [1, 2, 3]}), "'id'"),
        ({"": [1, 2, 3]}, "''"),
        ({"a\0": [1, 2, 3]}, "NUL"),
        ({"\ud800": [1, 2, 3]}, "UTF-8"),
        ({1: [1, 2, 3]}, "not int"),
        ([{1: 1}] * 3, "not int"),
        (pa.table([[1, 2, 3]] * 2, ["a", "a"]), "'a' appears twice"),
        (5, "not int"),
        ("abc", "not str"),
        (np.zeros(3), "not ndarray"),
        (pa.array([1, 2, 3]), "not"),
        (Stream(pa.chunked_array([[1, 2, 3]])), "Stream"),
    ],
)
def test_what_is_no_metadata(given: object, complaint: str) -> None:
    """Everything else is refused naming the column, the row or the type."""
    with pytest.raises(InvalidArgument, match=complaint):
        as_metadata(given, 3)


def test_text_that_is_no_unicode() -> None:
    """Arrow data that calls arbitrary bytes a string is refused."""
    broken = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")]
    )
    for form in (pa.table({"a": broken}), {"a": broken}):
        with pytest.raises(InvalidArgument, match="UTF8"):
            as_metadata(form, 1)
