"""What an engine, and a store, is opened with."""

import os
from dataclasses import dataclass
from typing import get_args

from holdfast.formats.errors import InvalidArgument
from holdfast.handles.checks import check_choice, check_flag
from holdfast.workers.message import Durability
from holdfast.workers.messages import DEFAULT_HUNG_AFTER_S, Kind, Options, StoreSpec
from holdfast.workers.places import DIRECTORIES

DEFAULT_TIMEOUT_S = 60.0
_DURABILITIES = get_args(Durability)


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Checked options of ``holdfast.open``; all times in seconds."""

    timeout_s: float = DEFAULT_TIMEOUT_S
    hung_after_s: float = DEFAULT_HUNG_AFTER_S
    allow_network_fs: bool = False

    def __post_init__(self) -> None:
        for name in ("timeout_s", "hung_after_s"):
            check_seconds(name.removesuffix("_s"), getattr(self, name))
        check_flag("allow_network_fs", self.allow_network_fs)


def check_durability(durability: object, interval: object) -> float | None:
    """The interval in seconds, if one is given; ``InvalidArgument`` unless the two go together."""
    if durability is not None:
        check_choice("durability", durability, _DURABILITIES)
    if interval is None:
        return None
    seconds = check_seconds("interval", interval)
    if durability != "interval":
        raise InvalidArgument(
            f'interval={interval!r} goes with durability="interval", not with '
            f"durability={durability!r}"
        )
    return seconds


def check_seconds(name: str, value: object) -> float:
    """A time in seconds given by the caller, if it is one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidArgument(f"{name} is a number of seconds, not {type(value).__name__}")
    if not 0 < value < 1e9:
        raise InvalidArgument(f"{name}={value!r} is not a positive number of seconds below 1e9")
    return float(value)


def store_spec(
    kind: Kind,
    name: str,
    where: str,
    durability: Durability | None,
    interval: float | None,
    *,
    import_from: str | None = None,
    create: bool = True,
    options: Options | None = None,
    by_name: bool = False,
) -> StoreSpec:
    """A checked description of the store at the absolute path ``where``."""
    check_flag("create", create)
    interval = check_durability(durability, interval)
    is_right = os.path.isdir if kind in DIRECTORIES else os.path.isfile
    if os.path.exists(where) and not is_right(where):
        wanted = "directory" if kind in DIRECTORIES else "regular file"
        raise InvalidArgument(f"{where!r} is not a {wanted}", store=name, path=where)
    return StoreSpec(
        name, kind, os.path.realpath(where), durability, interval, import_from, create, options,
        by_name=by_name,
    )  # fmt: skip
