"""What a filter means, and which rows it selects.

Arrow computes the expression, after it was changed where Arrow would deviate from what is promised:

* **SQL nulls.** Arrow's ``is_in`` is false, or even true, for a missing value. Here it is null, so
  that ``~field.isin(...)`` does not select rows that lack the field. A value set with a null in it
  follows SQL too: it matches nothing more than without, and what it does not match is null.
* **Exact comparisons.** Arrow brings a column and a constant to a common type first, which for
  uint64 and 5 is int64, for int64 and 2.5 is float32, and gives up on the first row that does not
  fit. Here the constant is brought to the column's type: ``x > 2.5`` is ``x > 2`` for integers.
* **Columns without values.** Arrow has no "null and true" for a column whose type is null.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from holdfast.formats.errors import InvalidArgument
from holdfast.formats.expression import Program, Step, take_apart, text_of
from holdfast.formats.tables import ARROW_REFUSALS, type_name

_FLIPPED = {
    "equal": "equal",
    "not_equal": "not_equal",
    "less": "greater",
    "less_equal": "greater_equal",
    "greater": "less",
    "greater_equal": "less_equal",
}
_LOGIC = {"and", "and_kleene", "and_not", "and_not_kleene", "invert", "or", "or_kleene", "xor"}
# How the names of functions begin that are on text.
_TEXT = (
    "ascii_",
    "binary_",
    "count_sub",
    "ends_with",
    "find_sub",
    "match_",
    "starts_with",
    "utf8_",
)
_RANGES = {pa.uint64(): (0, (1 << 64) - 1), pa.int64(): (-(1 << 63), (1 << 63) - 1)}
_FLOAT = pa.float64()
# What is_in may make of nulls, by Arrow's numbers: 0 finds them among the values, 1 finds them
# nowhere, 2 gives null for them, 3 also for what a null among the values might have been.
_AS_IN_SQL = {0: 3, 1: 2}


class Condition(NamedTuple):
    """A filter made ready for columns of certain types."""

    expression: pc.Expression
    names: tuple[str, ...]
    """Columns it refers to."""
    text: str
    """As it was given, for messages."""


def prepare(where: bytes, types: Mapping[str, pa.DataType]) -> Condition:
    """Make a filter ready for columns of these types (``id`` among them).

    Raises ``InvalidArgument`` for bytes that are no expression and for an unknown column.
    """
    given, program = take_apart(where)
    text = text_of(given)
    names = tuple(dict.fromkeys(step.value for step in program.steps if step.kind == "field_ref"))
    for name in names:
        if name not in types:
            raise InvalidArgument(
                f"where {text}: there is no column {name!r}; there are {', '.join(sorted(types))}"
            )
    changed = _Rewriter(program, types).program()
    expression = given if changed is None else changed.expression()
    return Condition(expression, names, text)


def select(condition: Condition, table: pa.Table, rows: int) -> NDArray[np.bool_]:
    """Where the condition is true, as a mask over the ``rows`` rows of ``table``.

    The table holds the columns that the condition names. Raises ``InvalidArgument`` when they do
    not allow the comparison or the result is not a bool.
    """
    import pyarrow.acero as acero  # takes 25 ms, which opening a store need not wait for

    if not condition.names:
        table = pa.table({"": pa.nulls(1)})  # a constant; a table without columns has no rows
    source = acero.Declaration("table_source", acero.TableSourceNodeOptions(table))
    options = acero.ProjectNodeOptions([condition.expression], [""])
    plan = acero.Declaration("project", options, [source])
    try:
        column = plan.to_table(use_threads=False).column(0)
    except ARROW_REFUSALS as error:
        given = ", ".join(f"{field.name} is {type_name(field.type)}" for field in table.schema)
        raise InvalidArgument(f"where {condition.text}: {error} ({given})") from error
    if column.type not in (pa.bool_(), pa.null()):
        raise InvalidArgument(
            f"where {condition.text} gives {type_name(column.type)} and not bool for each row"
        )
    mask = _as_mask(column)
    return mask if condition.names else np.repeat(mask, rows)


def _as_mask(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    """True where a column of type bool or null is true; several times faster than ``to_numpy``."""
    mask = np.zeros(len(column), np.bool_)
    if column.type == pa.null():
        return mask
    start = 0
    for chunk in column.chunks:
        part = mask[start : start + len(chunk)]
        validity, values = chunk.buffers()
        part[:] = _unpacked(values, chunk)
        if validity is not None:
            part &= _unpacked(validity, chunk)
        start += len(chunk)
    return mask


def _unpacked(bitmap: pa.Buffer, chunk: pa.BooleanArray) -> NDArray[np.bool_]:
    bits = np.unpackbits(
        np.frombuffer(bitmap, np.uint8), count=chunk.offset + len(chunk), bitorder="little"
    )
    return bits[chunk.offset :].view(np.bool_)


class _Rewriter:
    """Changes a program step by step into one that Arrow computes as promised."""

    def __init__(self, given: Program, types: Mapping[str, pa.DataType]) -> None:
        self._given = given.steps
        self._types = types
        self._constants = list(given.constants)
        self._steps: list[Step] = []
        self._changed = False

    def program(self) -> Program | None:
        """The changed program, or None when there is nothing to change."""
        callers = [""]  # the innermost last
        position = 0
        while position < len(self._given):
            step = self._given[position]
            if step.kind == "call" and (taken := self._direct_call(position)):
                position += taken
                continue
            if step.kind == "call":
                callers.append(step.value)
            elif step.kind == "end":
                callers.pop()
            self._steps.append(self._one(step, callers[-1]))
            position += 1
        return Program(tuple(self._steps), tuple(self._constants)) if self._changed else None

    def _one(self, step: Step, caller: str) -> Step:
        """A step that stands for itself."""
        if step.kind == "options":
            options = self._constants[int(step.value)]
            return self._options(options, _values_of(options)) if caller == "is_in" else step
        if step.kind == "literal":
            without_type = self._constants[int(step.value)].type == pa.null()
        else:
            without_type = step.kind == "field_ref" and self._types[step.value] == pa.null()
        if without_type and caller in _LOGIC:
            return self._literal(pa.scalar(None, pa.bool_()))
        if without_type and caller.startswith(_TEXT):
            return self._literal(pa.scalar(None, pa.string()))
        return step

    def _direct_call(self, position: int) -> int:
        """Rewrite a call on a column and a constant; how many steps it was, 0 if it is none."""
        call, *arguments = self._given[position : position + 4]
        kinds = [step.kind for step in arguments]
        if call.value == "is_in" and kinds == ["field_ref", "options", "end"]:
            self._membership(arguments[0].value, arguments[1])
            return 4
        if call.value not in _FLIPPED:
            return 0
        if kinds == ["field_ref", "literal", "end"]:
            column, constant, comparison = *arguments[:2], call.value
        elif kinds == ["literal", "field_ref", "end"]:
            constant, column, comparison = *arguments[:2], _FLIPPED[call.value]
        else:
            return 0
        return 4 if self._comparison(column.value, comparison, int(constant.value)) else 0

    def _comparison(self, name: str, comparison: str, constant: int) -> bool:
        """Compare a column of numbers with a number of another type; False: leave it to Arrow."""
        scalar = self._constants[constant][0]
        column = self._types[name]
        is_number = pa.types.is_integer(scalar.type) or pa.types.is_floating(scalar.type)
        if not is_number or not scalar.is_valid or scalar.type == column:
            return False
        if column not in _RANGES and column != _FLOAT:
            return False
        value = scalar.as_py()
        below = _greatest_not_above(value, column)
        if below is not None and below == value:
            self._compare(comparison, name, below)
        elif comparison in ("less", "less_equal") and below is not None:
            self._compare("less_equal", name, below)
        elif comparison in ("greater", "greater_equal") and below is not None:
            self._compare("greater", name, below)
        else:  # the same answer for every value
            never = comparison in ("equal", "less", "less_equal") or math.isnan(value)
            self._always(name, answer=comparison == "not_equal" or not never)
        return True

    def _always(self, name: str, *, answer: bool) -> None:
        """True or false wherever the column has a value, null elsewhere."""
        if answer:
            self._steps.append(Step("call", "invert"))
        column = self._types[name]
        self._compare("less", name, _RANGES[column][0] if column in _RANGES else -math.inf)
        if answer:
            self._steps.append(Step("end", "invert"))

    def _compare(self, comparison: str, name: str, value: float) -> None:
        literal = self._literal(pa.scalar(value, self._types[name]))
        self._steps += Step("call", comparison), Step("field_ref", name), literal
        self._steps.append(Step("end", comparison))

    def _membership(self, name: str, step: Step) -> None:
        """``is_in`` on a column: the values in its type, nulls as in SQL."""
        column = self._types[name]
        options = self._constants[int(step.value)]
        if column == pa.null():
            self._steps.append(self._literal(pa.scalar(None, pa.bool_())))
            return
        values = _in_type(_values_of(options), column)
        self._steps += Step("call", "is_in"), Step("field_ref", name)
        self._steps += self._options(options, values), Step("end", "is_in")

    def _options(self, options: pa.StructArray, values: pa.Array) -> Step:
        """The options of ``is_in`` with other values and with nulls as in SQL."""
        nulls = options.field("null_matching_behavior")
        behaviour = nulls[0].as_py()
        changed = {
            "value_set": pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values),
            "null_matching_behavior": pa.array([_AS_IN_SQL.get(behaviour, behaviour)], nulls.type),
        }
        names = [field.name for field in options.type]
        arrays = [changed.get(name, options.field(name)) for name in names]
        return self._constant("options", pa.StructArray.from_arrays(arrays, names))

    def _literal(self, scalar: pa.Scalar) -> Step:
        return self._constant("literal", pa.array([scalar.as_py()], scalar.type))

    def _constant(self, kind: str, array: pa.Array) -> Step:
        self._changed = True
        self._constants.append(array)
        return Step(kind, str(len(self._constants) - 1))


def _greatest_not_above(value: float, column: pa.DataType) -> float | None:
    """The greatest number of the column's type that is not above ``value``; None if there is none.

    Python compares ints and floats exactly.
    """
    if math.isnan(value):
        return None
    if column == _FLOAT:
        nearest = float(value)
        return nearest if nearest <= value else math.nextafter(nearest, -math.inf)
    least, greatest = _RANGES[column]
    if value >= greatest:
        return greatest
    return math.floor(value) if value >= least else None


def _values_of(options: pa.StructArray) -> pa.Array:
    """The values in the options of ``is_in``; raises ``InvalidArgument`` for other options."""
    try:
        return options.field("value_set").flatten()
    except KeyError as error:
        raise InvalidArgument("where has an is_in() with the options of something else") from error


def _in_type(values: pa.Array, column: pa.DataType) -> pa.Array:
    """The values that a column of this type can hold, in this type; others if that is no question.

    As ``is_in`` shall be what a chain of ``==`` is, floats lose NaN, and 0.0 comes with -0.0.
    """
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if values.type == pa.null():
        return pa.nulls(len(values), column)
    if column in _RANGES and pa.types.is_integer(values.type):
        try:
            return values.cast(column)
        except pa.ArrowInvalid:
            pass  # some do not fit
    numbers = pa.types.is_integer(values.type) or pa.types.is_floating(values.type)
    if numbers and (column in _RANGES or column == _FLOAT):
        return _numbers_in_type(values.to_pylist(), column)
    if column == pa.string() and values.type in (pa.large_string(), pa.string_view()):
        return values.cast(column)
    if column == pa.binary() and values.type in (pa.large_binary(), pa.binary_view()):
        return values.cast(column)
    return values


def _numbers_in_type(values: Sequence[float | None], column: pa.DataType) -> pa.Array:
    fitting: list[float | None] = []
    for value in values:
        if value is None:
            fitting.append(None)
        elif _greatest_not_above(value, column) == value:
            fitting += [0.0, -0.0] if column == _FLOAT and not value else [_exactly(value, column)]
    return pa.array(fitting, column)


def _exactly(value: float, column: pa.DataType) -> float:
    return float(value) if column == _FLOAT else int(value)
