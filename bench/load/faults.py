"""What is wrong with values from a file of the user's, in words: where, what is there, what may be.

What may be there is read from the types that the values are for, so it is said in one place only.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
from msgspec import inspect

_SHOWN_MAX = 60


def fault(raw: Mapping[str, Any], wanted: type[msgspec.Struct], *, but: str) -> str | None:
    """The first thing that keeps ``raw`` from being a ``wanted``; None: it is one.

    ``but`` is a field that no file may have. Understood are structs, lists of structs that a tag
    tells apart, tables of numbers, whole and other numbers, words of a choice, and text.
    """
    found = inspect.type_info(wanted)
    assert isinstance(found, inspect.StructType)
    fields = [field for field in found.fields if field.name != but]
    return next(_of_fields("", raw, fields, ()), None)


def shown(value: object) -> str:
    """A value as the file has it, or nearly so; only the beginning of a long one."""
    try:
        text = str(value).lower() if isinstance(value, bool) else repr(value)
    except ValueError:  # Python does not print numbers of thousands of digits
        text = "a number of thousands of digits"
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}..."


def _of_fields(
    where: str, raw: Mapping[str, Any], fields: Iterable[inspect.Field], more: Iterable[str]
) -> Iterator[str]:
    known = {field.name: field for field in fields}
    for key, value in raw.items():
        if key in known:
            yield from _of_value(where, key, value, known[key].type)
        elif key not in more:
            names = ", ".join(sorted([*known, *more]))
            yield f"{where}{key} = {shown(value)}: there is no such key; there are {names}"
    for field in known.values():
        if field.required and field.name not in raw:
            yield f"{where}{field.name} is missing: {_words(field.name, field.type)}"


def _of_value(where: str, key: str, value: object, wanted: inspect.Type) -> Iterator[str]:
    if not _fits(value, wanted):
        yield f"{where}{key} = {shown(value)} is not {_words(key, wanted)}"
    elif isinstance(value, dict) and isinstance(wanted, inspect.DictType):
        for name, one in value.items():
            yield from _of_value(f"{where}{key}.", name, one, wanted.value_type)
    elif isinstance(value, list) and isinstance(wanted, inspect.VarTupleType):
        for number, one in enumerate(value):
            yield from _of_item(f"{where}{key}[{number}]", one, wanted.item_type)


def _of_item(where: str, value: object, wanted: inspect.Type) -> Iterator[str]:
    assert isinstance(wanted, inspect.UnionType)
    kinds = {one.tag: one for one in wanted.types if isinstance(one, inspect.StructType)}
    (key,) = {str(one.tag_field) for one in kinds.values()}
    among = f"one of {', '.join(map(str, kinds))}"
    if not isinstance(value, dict):
        yield f"{where} = {shown(value)} is not a table"
    elif key not in value:
        yield f"{where}: {key} is missing: {among}"
    elif not isinstance(value[key], str) or value[key] not in kinds:
        yield f"{where}: {key} = {shown(value[key])} is not {among}"
    else:
        fields = kinds[value[key]].fields
        yield from _of_fields(f"{where} ({value[key]}): ", value, fields, (key,))


def _fits(value: object, wanted: inspect.Type) -> bool:
    """Whether a value is of that type and in its range, whatever is in it."""
    match wanted:
        case inspect.IntType():
            return isinstance(value, int) and not isinstance(value, bool) and _within(value, wanted)
        case inspect.FloatType():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            return number and _within(value, wanted)
        case inspect.LiteralType():
            return isinstance(value, str) and value in wanted.values
        case inspect.DictType():
            return isinstance(value, dict)
        case inspect.VarTupleType():
            return isinstance(value, list) and len(value) >= (wanted.min_length or 0)
    return isinstance(value, str)


def _within(value: Any, wanted: inspect.IntType | inspect.FloatType) -> bool:
    return (
        (wanted.ge is None or value >= wanted.ge)
        and (wanted.gt is None or value > wanted.gt)
        and (wanted.le is None or value <= wanted.le)
        and (wanted.lt is None or value < wanted.lt)
    )


def _words(key: str, wanted: inspect.Type) -> str:
    """What may be there."""
    match wanted:
        case inspect.IntType():
            return f"a whole number {_range(wanted)}"
        case inspect.FloatType():
            return f"a number {_range(wanted)}"
        case inspect.LiteralType():
            return f"one of {', '.join(map(str, wanted.values))}"
        case inspect.DictType():
            return f"a table of names, each with {_words(key, wanted.value_type)}"
        case inspect.VarTupleType():
            return f"a list of one table or more, each begun with [[{key}]]"
    return "text"


def _range(wanted: inspect.IntType | inspect.FloatType) -> str:
    low = f"from {wanted.ge:,g}" if wanted.ge is not None else f"above {wanted.gt:,g}"
    if wanted.le is None:
        return f"{low} and below {wanted.lt:,g}"
    most = f"{wanted.le:,.0f}"
    return f"{low} to {most}" if wanted.ge is not None else f"{low} and at most {most}"
