"""Plain arguments, checked: whole numbers (int, numpy's, whatever is an index), choices, flags.

Nothing here needs numpy, which a fold never loads.
"""

import operator
from collections.abc import Collection
from typing import cast

from holdfast.formats.errors import InvalidArgument, LimitExceeded

COUNT_MAX = (1 << 63) - 1


def as_number(name: str, value: object, low: int, high: int) -> int:
    """An integer given by the caller, if it is one within its bounds; a bool is none."""
    number = _as_int(name, value)
    if not low <= number <= high:
        raise LimitExceeded(f"{name} {number} is not from {low} to {high}")
    return number


def check_count(what: str, value: object, least: int = 1) -> int:
    """The number, if it is a whole one from ``least`` on."""
    number = _as_int(what, value)
    if number < least:
        raise InvalidArgument(f"{what}={number} is not at least {least}")
    if number > COUNT_MAX:
        raise LimitExceeded(f"{what}={number} is over the limit of {COUNT_MAX}")
    return number


def check_choice(what: str, value: object, choices: Collection[str]) -> None:
    """Raise ``InvalidArgument`` unless ``value`` is one of ``choices``."""
    if not isinstance(value, str) or value not in choices:
        raise InvalidArgument(f"{what}={value!r:.80} is none of {tuple(choices)}")


def check_flag(what: str, value: object) -> bool:
    """The flag, if it is a bool."""
    if not isinstance(value, bool):
        raise InvalidArgument(f"{what} is a bool, not {type(value).__name__}")
    return value


def _as_int(name: str, value: object) -> int:
    if isinstance(value, bool) or type(value).__name__ == "bool_":  # numpy's, before 2.0
        raise InvalidArgument(f"{name} is an integer, not a bool")
    try:
        return operator.index(cast("int", value))
    except TypeError:
        raise InvalidArgument(
            f"{name} is an integer, not {value!r:.80} ({type(value).__name__})"
        ) from None
