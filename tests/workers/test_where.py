"""Filters against an oracle: the original's operators with the nulls of SQL, and what is beyond."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats.errors import InvalidArgument
from holdfast.formats.expression import Program, Step, encode_expression, take_apart
from holdfast.workers.columns import Columns
from tests.workers.columns_model import (
    COMPARISONS,
    FILTERS,
    FLOATS,
    I64,
    ROWS,
    TYPES,
    U64,
    U64_MAX,
    F,
    Joined,
    Leaf,
    Row,
    Value,
    expression,
    ids_of,
    literal,
    selected,
    table,
    truth,
)

_ARROW_NAMES = {
    "eq": "equal",
    "ne": "not_equal",
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
}


@given(ROWS, FILTERS, st.data())
def test_filters_are_those_of_the_oracle(
    rows: list[Row], node: Leaf | Joined, data: st.DataObject
) -> None:
    """Every filter selects just the rows for which it is true, however the rows were appended."""
    columns = Columns()
    done = 0
    while done < len(rows):
        count = data.draw(st.integers(1, len(rows) - done))
        part = rows[done : done + count]
        names = [name for name in TYPES if any(row.get(name) is not None for row in part)]
        columns.append(columns.check(table(part, names), count) if names else None, count)
        done += count
        if data.draw(st.booleans()):
            columns.take(np.arange(done))  # merges
    # Every column has to be known, and one that never had a value may be of any type.
    columns.append(pa.table({name: pa.nulls(0, TYPES[name]) for name in TYPES}), 0)
    ids = [int(row["id"] or 0) for row in rows]
    expected = [n for n, row in enumerate(rows) if truth(node, row)]
    assert selected(columns, expression(node), ids) == expected


@pytest.mark.parametrize("column", ["u", "i", "f", "id"])
def test_numbers_compare_exactly(column: str) -> None:
    """Every operator agrees with Python on columns and constants of all kinds of numbers."""
    pools: dict[str, list[Value]] = {"u": [*U64], "i": [*I64], "f": [*FLOATS], "id": [*U64]}
    values = [*pools[column], None]
    rows: list[Row] = [{"id": n, column: value} for n, value in enumerate(values)]
    if column == "id":
        rows.pop()
    columns = Columns()
    columns.append(None if column == "id" else table(rows, [column]), len(rows))
    ids = [int(row["id"] or 0) for row in rows]
    for value in [*U64, *I64, *FLOATS]:
        constant = literal(value)
        for name, compare in COMPARISONS.items():
            expected = [n for n, row in enumerate(rows) if truth(Leaf(name, column, (value,)), row)]
            assert selected(columns, compare(F(column), constant), ids) == expected, (name, value)
            flipped = getattr(pc, _ARROW_NAMES[name])(constant, F(column))
            opposite = [
                n
                for n, row in enumerate(rows)
                if row[column] is not None and compare(value, row[column])
            ]
            assert selected(columns, flipped, ids) == opposite, (name, value)
        for others in ([value], [value, None], [value, value]):
            node = Leaf("in", column, tuple(others))
            expected = [n for n, row in enumerate(rows) if truth(node, row)]
            assert selected(columns, expression(node), ids) == expected, others
            expected = [n for n, row in enumerate(rows) if truth(node, row) is False]
            assert selected(columns, ~expression(node), ids) == expected, others


@pytest.mark.parametrize("size", [0, 1, 100_001, 3 * 65_536 + 7])
def test_masks_of_many_rows(size: int) -> None:
    """A mask is right over batches and chunks of any size, with nulls at odd places."""
    columns = Columns()
    numbers = np.arange(size)
    values = pa.array(numbers % 1000, mask=numbers % 7 == 0)
    for start in range(0, size, 33_333):
        part = values.slice(start, 33_333)
        columns.append(pa.table({"n": part}), len(part))
    if not size:
        columns.append(pa.table({"n": values}), 0)
    expected = (numbers % 1000 < 500) & (numbers % 7 != 0)
    found = columns.evaluate(encode_expression(F("n") < 500), ids_of(size))
    np.testing.assert_array_equal(found, expected)
    blocks = [part.astype(np.uint64) for part in np.array_split(numbers, 50)]
    found = columns.evaluate(encode_expression((F("id") < 70_000) & (F("n") < 500)), blocks)
    np.testing.assert_array_equal(found, expected & (numbers < 70_000))


def some() -> Columns:
    """Three rows: a column of each type, nulls in the last row."""
    columns = Columns()
    rows: list[Row] = [
        {"u": U64_MAX, "i": -1, "f": 0.5, "s": "one", "b": True, "y": b"1"},
        {"u": 2, "i": 1 << 62, "f": 2.0, "s": "two", "b": False, "y": b"2"},
    ]
    columns.append(columns.check(table(rows, list(TYPES)), 2), 2)
    columns.append(columns.check(pa.table({"n": pa.nulls(1)}), 1), 1)
    return columns


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (pc.scalar(True), [0, 1, 2]),
        (pc.scalar(False), []),
        (pc.scalar(None), []),
        (F("b"), [0]),
        (~F("b"), [1]),
        (F("n"), []),
        (~F("n"), []),
        (F("n") | F("b"), [0]),
        (F("n") | pc.scalar(True), [0, 1, 2]),
        (F("n").is_null() & F("b").is_null(), [2]),
        (F("n") > 5, []),
        (F("n").isin([1]) | F("b"), [0]),
        (~F("n").isin([1]), []),
        (pc.match_substring(F("n"), "x") | F("b"), [0]),
        (F("b") & pc.scalar(None), []),
        (F("i").is_null(), [2]),
        (F("i").is_valid(), [0, 1]),
        (F("i") == pc.scalar(None), []),
        (~F("s").isin(["one"]), [1]),
        (F("s").isin(["one", None]), [0]),
        (~F("s").isin(["one", None]), []),
        (~pc.is_in(F("s"), pa.array(["one", None]), skip_nulls=True), [1]),
        (~pc.is_in(pc.utf8_upper(F("s")), pa.array(["ONE"])), [1]),
        (F("s").isin([]), []),
        (~F("s").isin([]), [0, 1]),
        (F("s").isin(pa.array(["one"], pa.large_string())), [0]),
        (F("s").isin(pa.array(["one"]).dictionary_encode()), [0]),
        (F("y").isin(pa.array([b"2"], pa.large_binary())), [1]),
        (F("s") == pa.scalar("two", pa.large_string()), [1]),
        (pc.starts_with(F("s"), "t"), [1]),
        (pc.match_substring_regex(F("s"), "^o"), [0]),
        (F("b").cast("int64") + 1 > 1.5, [0]),
        (pc.if_else(F("b"), F("f"), 5.0) > 1, [1]),
        (pc.scalar(0) < F("i"), [1]),
        (F("f") > F("f") - 1, [0, 1]),
        (F("i") > 2.5, [1]),
        (F("i") != math.nan, [0, 1]),
        (F("i") == math.nan, []),
        (F("u") > -1, [0, 1]),
        (F("u") > pa.scalar(1, pa.int8()), [0, 1]),
        (F("f") == pa.scalar(0.5, pa.float32()), [0]),
        (F("id") == 1, [1]),
        (F("id").isin([0, 2, -1]), [0, 2]),
    ],
    ids=str,
)
def test_what_a_filter_selects(where: pc.Expression, expected: list[int]) -> None:
    """Filters beyond the original's operators select what the comments in ``where`` promise."""
    assert selected(some(), where) == expected


@pytest.mark.parametrize(
    ("where", "complaint"),
    [
        (F("nowhere") > 1, "no column 'nowhere'.* b, f, i, id"),
        (F("i"), "gives int64 and not bool"),
        (F("s"), "gives string and not bool"),
        (F("s") > 1, "s is string"),
        (F("i") == "one", "i is int64"),
        (F("b") & F("i"), "b is bool, i is int64"),
        (F("i").isin(["one"]), "i is int64"),
        (F("i") / 0 > 1, "divide by zero"),
        (F("s").cast("int64") > 1, "Failed to parse string"),
        (F("i") > pa.scalar(1, pa.timestamp("s")), "timestamp"),
        (pc.cumulative_sum(F("i")) > 1, "cumulative_sum"),
    ],
    ids=str,
)
def test_filters_that_make_no_sense(where: pc.Expression, complaint: str) -> None:
    """What cannot be computed is refused with the expression and the reason, also without rows."""
    columns = some()
    with pytest.raises(InvalidArgument, match=complaint):
        selected(columns, where)


def test_calls_that_pyarrow_would_not_make() -> None:
    """A function that does not exist, or has the options of another, is refused and no defect."""
    columns = some()
    unknown = (Step("call", "nothing"), Step("field_ref", "b"), Step("end", "nothing"))
    with pytest.raises(InvalidArgument, match="nothing"):
        selected(columns, Program(unknown, ()).expression())
    _, program = take_apart(encode_expression(pc.match_substring(F("s"), "x")))
    steps = (Step("call", "is_in"), *program.steps[1:-1], Step("end", "is_in"))
    with pytest.raises(InvalidArgument, match="options of something else"):
        selected(columns, Program(steps, program.constants).expression())


def test_filters_without_rows_or_columns() -> None:
    """An empty store answers filters over ids and constants, and knows which columns it lacks."""
    columns = Columns()
    for rows in (0, 3):
        columns.append(None, rows)
        assert selected(columns, F("id") >= 1) == list(range(1, rows))
        assert selected(columns, pc.scalar(True)) == list(range(rows))
        with pytest.raises(InvalidArgument, match="no column 'a'"):
            selected(columns, F("a") == 1)
        with pytest.raises(InvalidArgument, match="not bool"):
            selected(columns, F("id"))
        with pytest.raises(InvalidArgument):
            columns.evaluate(b"no expression", ids_of(rows))


def test_masks_are_kept_until_the_next_append() -> None:
    """The same filter gives the same read-only mask again, until rows or columns come."""
    columns = Columns()
    columns.append(pa.table({"a": [1, 2]}), 2)
    where = encode_expression(F("a") == 1)
    mask = columns.evaluate(where, ids_of(2))
    assert columns.evaluate(where, ids_of(2)) is mask
    with pytest.raises(ValueError, match="read-only"):
        mask[0] = False
    for number in range(100):
        columns.evaluate(encode_expression(F("a") == number), ids_of(2))
    assert columns.evaluate(where, ids_of(2)).tolist() == [True, False]
    columns.append(pa.table({"a": [1]}), 1)
    assert columns.evaluate(where, ids_of(3)).tolist() == [True, False, True]


def test_a_filter_on_a_column_that_gets_its_type() -> None:
    """A filter that was prepared for a column without values is prepared anew when they come."""
    columns = Columns()
    columns.append(pa.table({"a": pa.nulls(1)}), 1)
    assert selected(columns, F("a").isin(["x"])) == []
    columns.append(pa.table({"a": ["x"]}), 1)
    assert selected(columns, F("a").isin(["x"])) == [1]
