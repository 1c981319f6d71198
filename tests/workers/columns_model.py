"""What filters over rows select, computed row by row in Python; and filters to try it with."""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import strategies as st
from numpy.typing import NDArray

from holdfast.formats.expression import encode_expression
from holdfast.workers.columns import Columns

F = pc.field
U64_MAX = (1 << 64) - 1
TYPES = {
    "u": pa.uint64(),
    "i": pa.int64(),
    "f": pa.float64(),
    "s": pa.string(),
    "b": pa.bool_(),
    "y": pa.binary(),
}
Value = int | float | str | bytes | bool | None
Row = dict[str, Value]


def table(rows: Sequence[Row], names: Sequence[str]) -> pa.Table:
    return pa.table(
        {name: pa.array([row.get(name) for row in rows], TYPES[name]) for name in names}
    )


def ids_of(count: int) -> list[NDArray[np.uint64]]:
    return [np.arange(count, dtype=np.uint64)]


def selected(columns: Columns, where: pc.Expression, ids: Sequence[int] | None = None) -> list[int]:
    """Numbers of the rows that a filter selects."""
    given = ids_of(columns.rows) if ids is None else [np.array(ids, np.uint64)]
    mask = columns.evaluate(encode_expression(where), given)
    assert mask.shape == (columns.rows,)
    assert mask.dtype == np.bool_
    found: list[int] = np.flatnonzero(mask).tolist()
    return found


INTEGERS = [0, 1, 2, 5, (1 << 53) - 1, 1 << 53, (1 << 53) + 1, (1 << 63) - 1]
U64 = [*INTEGERS, 1 << 63, (1 << 63) + 1, U64_MAX]
I64 = [*INTEGERS, -1, -2, -(1 << 53) - 1, -(1 << 63)]
FLOATS = [0.0, -0.0, 0.5, 1.0, 2.5, -1.5, 16777217.0, 1e8, 2.0**53, 2.0**63, 2.0**64, 1e300]
FLOATS += [-(2.0**63), 5e-324, math.inf, -math.inf, math.nan]
TEXT = ["", "a", "b", "ab", "\u00e9\U0001f600"]
NUMBERS = st.sampled_from([*U64, *I64, *FLOATS])
POOLS: dict[str, st.SearchStrategy[Value]] = {
    "u": st.sampled_from(U64) | st.integers(0, U64_MAX),
    "i": st.sampled_from(I64) | st.integers(-(1 << 63), (1 << 63) - 1),
    "f": st.sampled_from(FLOATS) | st.floats(),
    "s": st.sampled_from(TEXT),
    "b": st.booleans(),
    "y": st.sampled_from([b"", b"a", b"\xff", b"a\0"]),
    "id": st.sampled_from(U64) | st.integers(0, U64_MAX),
}
# What each kind of column may be compared with.
OTHERS = {**POOLS, "u": NUMBERS, "i": NUMBERS, "f": NUMBERS, "id": NUMBERS}
ROWS = st.lists(
    st.fixed_dictionaries(
        {"id": POOLS["id"]},
        optional={name: st.none() | POOLS[name] for name in TYPES},
    ),
    max_size=20,
)
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}


class Leaf(NamedTuple):
    """One of the original's eight operators on a column."""

    operator: str
    column: str
    values: tuple[Value, ...]


class Joined(NamedTuple):
    """And, Or or Not of other filters."""

    how: Literal["and", "or", "not"]
    parts: tuple["Leaf | Joined", ...]


@st.composite
def leaves(draw: st.DrawFn) -> Leaf:
    column = draw(st.sampled_from([*TYPES, "id"]))
    kinds = ["eq", "ne", "in"] if column == "b" else [*COMPARISONS, "in", "range"]
    kind = draw(st.sampled_from(kinds))
    if kind == "in":
        # One array has one type, so that numbers of one kind come together.
        pools = [POOLS["u"], POOLS["i"], POOLS["f"]] if column in "uif" or column == "id" else []
        pool = draw(st.sampled_from(pools)) if pools else POOLS[column]
        return Leaf(kind, column, tuple(draw(st.lists(st.none() | pool, max_size=4))))
    count = 2 if kind == "range" else 1
    return Leaf(kind, column, tuple(draw(OTHERS[column]) for _ in range(count)))


FILTERS: st.SearchStrategy[Leaf | Joined] = st.recursive(
    leaves(),
    lambda inner: st.one_of(
        st.builds(Joined, st.just("not"), st.tuples(inner)),
        st.builds(Joined, st.sampled_from(["and", "or"]), st.tuples(inner, inner)),
    ),
    max_leaves=5,
)


def literal(value: Value) -> pc.Expression:
    """A value as a constant: Python's own where pyarrow takes it."""
    if isinstance(value, int) and value > (1 << 63) - 1:
        return pc.scalar(pa.scalar(value, pa.uint64()))
    return pc.scalar(value)


def expression(node: Leaf | Joined) -> pc.Expression:
    """The filter as a caller writes it."""
    if isinstance(node, Joined):
        parts = [expression(part) for part in node.parts]
        if node.how == "not":
            return ~parts[0]
        return parts[0] & parts[1] if node.how == "and" else parts[0] | parts[1]
    column, values = F(node.column), node.values
    if node.operator == "range":
        return (column >= literal(values[0])) & (column < literal(values[1]))
    if node.operator == "in":
        large = any(isinstance(value, int) and value > (1 << 63) - 1 for value in values)
        return column.isin(pa.array(values, pa.uint64()) if large else list(values))
    return COMPARISONS[node.operator](column, literal(values[0]))


def truth(node: Leaf | Joined, row: Row) -> bool | None:
    """The filter for one row, in the three values of SQL."""
    if isinstance(node, Joined):
        parts = [truth(part, row) for part in node.parts]
        if node.how == "not":
            return None if parts[0] is None else not parts[0]
        decisive = node.how == "or"
        return decisive if decisive in parts else None if None in parts else not decisive
    value = row.get(node.column)
    if value is None:
        return None
    if node.operator == "range":
        return COMPARISONS["ge"](value, node.values[0]) and COMPARISONS["lt"](value, node.values[1])
    if node.operator == "in":
        return (
            True if any(value == v for v in node.values) else None if None in node.values else False
        )
    return COMPARISONS[node.operator](value, node.values[0])
