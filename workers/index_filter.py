"""Which rows of an index a filter selects, by the rules of the index family.

A filter is a ``pyarrow.compute`` expression of comparisons, ``isin``, ``is_null``, ``is_valid``,
``&``, ``|`` and ``~`` over metadata. A comparison is true only of a value of the constant's own
type that is there: of a row without the field it is false, ``!=`` as well, and an int never equals
a float. ``~`` turns that around, so ``~(field == 1)`` is true of a row that lacks the field. Texts
compare bytewise, false is less than true, NaN equals nothing. ``is_null`` is true of a row without
the field, too; ``field == None`` only of one where it is there and null. A field by itself is a
condition where it is bool in all rows that have it.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.errors import InvalidArgument
from holdfast.formats.expression import Program, Step, take_apart, text_of
from holdfast.formats.iqdb_values import Tag, Value, decode_metadata
from holdfast.workers.index_table import IndexTable

Mask: TypeAlias = "NDArray[np.bool_]"

DEPTH_MAX = 64
VALUES_MAX = 1024
_ABSENT = 255
_FLIPPED = {"less": "greater", "less_equal": "greater_equal"}
_FLIPPED |= {"greater": "less", "greater_equal": "less_equal"}
_COMPARE: dict[str, Callable[..., Mask]] = {
    "equal": np.equal,
    "not_equal": np.not_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
}
_CONNECTIVES = {"and_kleene": np.logical_and, "or_kleene": np.logical_or}


def tag_of(value: Value) -> Tag:
    """The type of a metadata value."""
    if isinstance(value, bool):
        return Tag.BOOL
    if isinstance(value, str):
        return Tag.STRING
    if isinstance(value, int):
        return Tag.INT
    return Tag.NULL if value is None else Tag.FLOAT


class _Column:
    """One field of all rows: the type of each value, and the values themselves."""

    def __init__(self, field: str) -> None:
        self._field = field
        self._tags = np.empty(0, np.uint8)
        self._values = np.empty(0, object)

    def fill(self, slots: Sequence[int], metadata: Sequence[bytes | None], room: int) -> None:
        """Look the field up anew in the rows of these slots."""
        if room > len(self._tags):
            more = max(room, 2 * len(self._tags)) - len(self._tags)
            self._tags = np.append(self._tags, np.full(more, _ABSENT, np.uint8))
            self._values = np.append(self._values, np.empty(more, object))
        for slot in slots:
            entries = metadata[slot]
            found = {} if entries is None else decode_metadata(entries)[0]
            value = found.get(self._field)
            self._values[slot] = value
            self._tags[slot] = tag_of(value) if self._field in found else _ABSENT

    def move(self, source: int, target: int) -> None:
        """The row of one slot is in another now."""
        self._tags[target] = self._tags[source]
        self._values[target] = self._values[source]
        self._tags[source], self._values[source] = _ABSENT, None

    def nulls(self, rows: int, *, and_nan: bool) -> Mask:
        """The rows that have no value: no such field, or null, or ``and_nan`` one that is NaN."""
        tags = self._tags[:rows]
        chosen: Mask = (tags == _ABSENT) | (tags == Tag.NULL)
        if and_nan:
            among = np.flatnonzero(tags == Tag.FLOAT)
            chosen[among] = np.isnan(self._values[among].astype(np.float64))
        return chosen

    def other_than_bool(self, rows: int) -> Value:
        """Some value that is neither bool nor null; None if there is none."""
        others = ~np.isin(self._tags[:rows], (Tag.BOOL, Tag.NULL, _ABSENT))
        found: Value = self._values[int(np.argmax(others))] if others.any() else None
        return found

    def compare(self, operation: str, value: Value, rows: int) -> Mask:
        """The rows of which a comparison with a constant is true."""
        chosen = np.zeros(rows, np.bool_)
        among = np.flatnonzero(self._tags[:rows] == tag_of(value))
        if value is None:
            chosen[among] = operation in ("equal", "less_equal", "greater_equal")
        elif len(among):
            with np.errstate(invalid="ignore"):  # NaN compares false, which is what is meant
                chosen[among] = _COMPARE[operation](self._values[among], value).astype(np.bool_)
        return chosen


class Fields:
    """The fields of a table's rows that filters have asked for, kept up to date."""

    def __init__(self, table: IndexTable) -> None:
        self._table = table
        self._columns: dict[str, _Column] = {}
        table.watchers.append(self)

    def changed(self, slots: Sequence[int]) -> None:
        for column in self._columns.values():
            column.fill(slots, self._table.metadata, len(self._table.ids))

    def moved(self, source: int, target: int) -> None:
        for column in self._columns.values():
            column.move(source, target)

    def column(self, field: str) -> _Column:
        """The column of a field, made of all rows at its first use."""
        found = self._columns.get(field)
        if found is None:
            found = _Column(field)
            rows = len(self._table.ids)
            found.fill(range(rows), self._table.metadata, rows)
            self._columns[field] = found
        return found

    def select(self, where: bytes) -> Mask:
        """The rows (n,) that a filter, as ``formats.expression`` encodes it, is true of.

        Raises ``InvalidArgument`` for bytes that are no filter, or one this family has not.
        """
        expression, program = take_apart(where)
        evaluation = _Evaluation(self, program, len(self._table.ids), text_of(expression))
        return evaluation.run()


class _Evaluation:
    """One filter on its way through the rows."""

    def __init__(self, fields: Fields, program: Program, rows: int, text: str) -> None:
        self._fields = fields
        self._program = program
        self._rows = rows
        self._text = text
        self._next = 0

    def run(self) -> Mask:
        return self._condition(0)

    def _step(self) -> Step:
        step = self._program.steps[self._next]
        self._next += 1
        return step

    def _condition(self, depth: int) -> Mask:
        if depth > DEPTH_MAX:
            raise self._refused(f"it is nested more than {DEPTH_MAX} deep")
        kind, name = self._step()
        if kind == "literal":
            value = self._value(name)
            if not isinstance(value, bool):
                raise self._refused(f"{value!r} is no condition")
            return np.full(self._rows, value, np.bool_)
        if kind == "field_ref":
            return self._bool(name)
        if name in _CONNECTIVES:
            left, right = self._condition(depth + 1), self._condition(depth + 1)
            found: Mask = _CONNECTIVES[name](left, right)
        elif name == "invert":
            found = ~self._condition(depth + 1)
        elif name in _COMPARE:
            found = self._comparison(name)
        elif name == "is_in":
            found = self._membership()
        elif name in ("is_null", "is_valid"):
            found = self._presence(name)
        else:
            known = "comparisons, isin, is_null, is_valid, &, |, ~"
            raise self._refused(f"there is no {name!r} for an index: {known}")
        self._end()
        return found

    def _end(self) -> None:
        if self._step().kind != "end":
            raise self._refused("a call has options that an index does not know")

    def _bool(self, field: str) -> Mask:
        """The rows where a field, by itself, is true."""
        column = self._fields.column(field)
        other = column.other_than_bool(self._rows)
        if other is not None:
            raise self._refused(f"{field!r} by itself is no condition: it is {other!r} in some row")
        return column.compare("equal", True, self._rows)

    def _presence(self, operation: str) -> Mask:
        field = self._step()
        if field.kind != "field_ref":
            raise self._refused(f"{operation} is of a field")
        and_nan = False
        if self._program.steps[self._next].kind == "options":
            options = self._program.constants[int(self._step().value)][0].as_py()
            and_nan = isinstance(options, dict) and options.get("nan_is_null") is True
        nulls = self._fields.column(field.value).nulls(self._rows, and_nan=and_nan)
        return nulls if operation == "is_null" else ~nulls

    def _comparison(self, operation: str) -> Mask:
        left, right = self._step(), self._step()
        if (left.kind, right.kind) == ("literal", "field_ref"):
            left, right = right, left
            operation = _FLIPPED.get(operation, operation)
        if (left.kind, right.kind) != ("field_ref", "literal"):
            raise self._refused("a comparison is of a field and a constant")
        value = self._value(right.value)
        return self._fields.column(left.value).compare(operation, value, self._rows)

    def _membership(self) -> Mask:
        field, options = self._step(), self._step()
        if field.kind != "field_ref" or options.kind != "options":
            raise self._refused("isin is of a field")
        given = self._program.constants[int(options.value)][0].as_py()
        values = given.get("value_set") if isinstance(given, dict) else None
        if not isinstance(values, list) or len(values) > VALUES_MAX:
            raise self._refused(f"isin takes up to {VALUES_MAX} values")
        chosen = np.zeros(self._rows, np.bool_)
        column = self._fields.column(field.value)
        for value in values:
            chosen |= column.compare("equal", self._checked(value), self._rows)
        return chosen

    def _value(self, constant: str) -> Value:
        return self._checked(self._program.constants[int(constant)][0].as_py())

    def _checked(self, value: object) -> Value:
        if value is None or isinstance(value, str | int | float):
            return value
        raise self._refused(f"{value!r} is no value that metadata can have")

    def _refused(self, reason: str) -> InvalidArgument:
        return InvalidArgument(f"where {self._text}: {reason}")
