"""Columns against rows as dicts: what is taken, what comes back, chunks and numbers."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats.errors import InvalidArgument, LimitExceeded
from holdfast.formats.rvf.meta import FIELD_ID, numbered
from holdfast.workers.columns import Columns
from tests.workers.columns_model import TYPES, U64_MAX, F, Row, Value, selected, table


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (pa.array([1, None], pa.uint8()), "uint64"),
        (pa.array([1, None], pa.int16()), "int64"),
        (pa.array([1.5, None], pa.float32()), "float64"),
        (pa.array([np.float16(1.5), None], pa.float16()), "float64"),
        (pa.array(["a", None], pa.large_string()), "string"),
        (pa.array(["a", None], pa.string_view()), "string"),
        (pa.array(["a", None]).dictionary_encode(), "string"),
        (pa.array([5, None]).dictionary_encode(), "int64"),
        (pa.array([b"a", None], pa.large_binary()), "binary"),
        (pa.array([b"a", None], pa.binary(1)), "binary"),
        (pa.array([True, None]), "bool"),
        (pa.nulls(2), "null"),
    ],
    ids=str,
)
def test_types_are_widened(given: pa.Array, kept: str) -> None:
    """A column is kept in the widest type of its kind, without changing a value."""
    columns = Columns()
    checked = columns.check(pa.table({"a": given}), 2)
    assert columns.fields() == {}
    columns.append(checked, 2)
    assert columns.fields() == {"a": (0, kept)}
    assert columns.take(np.arange(2)).column("a").to_pylist() == given.to_pylist()


@pytest.mark.parametrize(
    "given",
    [
        pa.array([1], pa.timestamp("s")),
        pa.array([[1]]),
        pa.array([{"x": 1}]),
        pa.array([1], pa.decimal128(5)),
        pa.array([1], pa.date32()),
        pa.array([1], pa.duration("s")),
    ],
    ids=str,
)
def test_other_types_are_refused(given: pa.Array) -> None:
    """A type that no store keeps is refused by column and type."""
    with pytest.raises(InvalidArgument, match=r"'when'.*is of type"):
        Columns().check(pa.table({"when": given}), 1)


@pytest.mark.parametrize(
    ("first", "then", "kept"),
    [
        (pa.array([1], pa.uint64()), pa.array([1, None], pa.int64()), [1, 1, None]),
        (pa.array([-1]), pa.array([(1 << 63) - 1], pa.uint64()), [-1, (1 << 63) - 1]),
        (pa.array([0.5]), pa.array([1 << 53, None]), [0.5, 2.0**53, None]),
        (pa.array([0.5]), pa.array([1 << 60]), [0.5, 2.0**60]),
        (pa.array(["a"]), pa.nulls(2), ["a", None, None]),
        (pa.nulls(1), pa.array([5]), [None, 5]),
        (pa.array([1]), pa.array([1.0]), None),
        (pa.array([1], pa.uint64()), pa.array([-1]), None),
        (pa.array([-1]), pa.array([1 << 63], pa.uint64()), None),
        (pa.array([0.5]), pa.array([(1 << 53) + 1]), None),
        (pa.array([0.5]), pa.array([(1 << 63) - 1]), None),
        (pa.array([0.5]), pa.array([U64_MAX], pa.uint64()), None),
        (pa.array(["1"]), pa.array([1]), None),
        (pa.array(["1"]), pa.array([b"1"]), None),
        (pa.array([True]), pa.array([1]), None),
    ],
    ids=str,
)
def test_later_values_of_another_type(
    first: pa.Array, then: pa.Array, kept: list[Value] | None
) -> None:
    """They are converted when that loses nothing, and else refused naming both types."""
    columns = Columns()
    columns.append(pa.table({"a": first}), len(first))
    before = columns.fields()
    if kept is None:
        with pytest.raises(InvalidArgument, match=r"'a', type clash: .* are .*, these"):
            columns.append(pa.table({"a": then}), len(then))
        assert columns.rows == len(first)
        assert columns.fields() == before
    else:
        columns.append(columns.check(pa.table({"a": then}), len(then)), len(then))
        assert columns.take(np.arange(columns.rows)).column("a").to_pylist() == kept


@pytest.mark.parametrize("name", ["", "id", "a\0b"])
def test_names_that_no_column_may_have(name: str) -> None:
    """Empty, reserved and unwritable names are refused, and one that comes twice."""
    with pytest.raises(InvalidArgument, match="column"):
        Columns().check(pa.table({name: [1]}), 1)
    with pytest.raises(InvalidArgument, match="'a' appears twice"):
        Columns().check(pa.table([[1], [2]], ["a", "a"]), 1)


def test_rows_are_counted() -> None:
    """Metadata for another number of rows is refused with both numbers."""
    with pytest.raises(InvalidArgument, match="2 rows, and there are 3"):
        Columns().check(pa.table({"a": [1, 2]}), 3)


# --- chunks and numbers -----------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.sets(st.sampled_from(list(TYPES)))),
        min_size=1,
        max_size=40,
    ),
    st.data(),
)
def test_take_gives_the_rows(parts: list[tuple[int, set[str]]], data: st.DataObject) -> None:
    """Rows come back in any order and number, null where their append lacked the column."""
    columns = Columns()
    rows: list[Row] = []
    for count, names in parts:
        batch: list[Row] = [
            {"u": n, "i": -n, "f": n / 2, "s": str(n), "b": n % 3 == 0, "y": b"%d" % n}
            for n in range(len(rows), len(rows) + count)
        ]
        columns.append(table(batch, sorted(names)) if names else None, count)
        rows += [{name: row[name] for name in names} for row in batch]
        if data.draw(st.booleans()):
            assert columns.take(np.empty(0, np.int64)).num_rows == 0
    assert columns.rows == len(rows)
    known = columns.schema.names
    wanted = data.draw(st.lists(st.integers(0, len(rows) - 1))) if rows else []
    taken = columns.take(np.array(wanted, np.int64))
    assert taken.schema.equals(columns.schema, check_metadata=True)
    if known:
        expected = [{name: rows[n].get(name) for name in known} for n in wanted]
        assert taken.to_pylist() == expected
        first = columns.take(np.array(wanted, np.int64), known[:1])
        assert first.to_pylist() == [{known[0]: row[known[0]]} for row in expected]
    with pytest.raises(InvalidArgument, match="no metadata column 'id'"):
        columns.take(np.empty(0, np.int64), ["id"])


def test_take_sees_an_append_that_merges_nothing() -> None:
    """Rows that came after a look at the chunks are found, whether chunks were merged or not."""
    columns = Columns()
    for start, count in ((0, 100), (100, 1), (101, 100), (201, 0), (201, 1)):
        columns.append(pa.table({"a": np.arange(start, start + count)}), count)
        rows = np.arange(columns.rows)[::-1]
        assert columns.take(rows).column("a").to_pylist() == rows.tolist()


def test_many_small_appends_leave_few_chunks() -> None:
    """2,000 appends of a row leave chunks by the logarithm, and large ones are never rewritten."""
    columns = Columns()
    for number in range(2000):
        columns.append(pa.table({"a": [number], "s": [str(number)]}), 1)
        assert len(columns._chunks) <= 64 + 12
    assert selected(columns, F("a") == 1234) == [1234]
    assert len(columns._chunks) <= 12
    for number in range(50):
        columns.append(pa.table({"a": [number]}), 1)
    columns.append(pa.table({"a": np.arange(1 << 16)}), 1 << 16)
    assert len(columns._chunks) <= 12 + 1
    large = columns._chunks[-1]
    for number in range(200):
        columns.append(pa.table({"a": [number]}), 1)
        assert selected(columns, F("a") < 0) == []
    assert large in columns._chunks
    assert len(columns._chunks) <= 12 + 1 + 8
    assert columns.rows == sum(chunk.rows for chunk in columns._chunks) == 2250 + (1 << 16)
    assert columns.nbytes >= 8 * columns.rows


def test_numbers_of_columns_are_stable() -> None:
    """Columns are numbered as they appear, keep a number they carry, and never share one."""
    columns = Columns()
    assert not columns.has_columns
    columns.append(columns.check(pa.table({"a": [1], "b": [2]}), 1), 1)
    columns.append(columns.check(pa.table({"c": pa.nulls(1), "a": [1]}), 1), 1)
    assert columns.fields() == {"a": (0, "int64"), "b": (1, "int64"), "c": (2, "null")}
    columns.append(columns.check(pa.table({"c": [0.5]}), 1), 1)
    assert columns.fields()["c"] == (2, "float64")
    carried = pa.schema(
        [numbered("e", pa.string(), 9), numbered("f", pa.string(), 1), numbered("a", pa.int64(), 7)]
    )
    columns.append(columns.check(pa.table([["x"], ["y"], [5]], schema=carried), 1), 1)
    assert columns.fields()["e"] == (9, "string")
    assert columns.fields()["f"] == (10, "string")
    assert columns.fields()["a"] == (0, "int64")
    assert [int(field.metadata[FIELD_ID]) for field in columns.schema] == [0, 1, 2, 9, 10]
    assert columns.has_columns


def test_a_refused_check_changes_nothing() -> None:
    """Checking neither adds columns nor fixes types, whether it passes or not."""
    columns = Columns()
    columns.append(pa.table({"a": [1]}), 1)
    columns.check(pa.table({"b": [1]}), 1)
    with pytest.raises(InvalidArgument):
        columns.check(pa.table({"c": [1], "a": ["x"]}), 1)
    assert columns.fields() == {"a": (0, "int64")}
    assert columns.rows == 1


def test_columns_have_a_limit() -> None:
    """A column beyond the numbers there are is refused."""
    columns = Columns()
    columns.append(pa.Table.from_arrays([pa.array([1])], schema=_last()), 1)
    columns.append(columns.check(pa.table({"b": [1]}), 1), 1)
    assert columns.fields()["b"] == (0, "int64")
    wide = pa.table({f"c{n}": pa.nulls(1) for n in range(1 << 16)})
    with pytest.raises(LimitExceeded, match="65536 columns"):
        columns.check(wide, 1)


def _last() -> pa.Schema:
    return pa.schema([numbered("a", pa.int64(), 0xFFFF)])
