"""What an engine is opened with."""

from dataclasses import dataclass
from typing import get_args

from holdfast.formats.errors import InvalidArgument
from holdfast.handles.checks import check_choice, check_flag
from holdfast.workers.message import Durability
from holdfast.workers.messages import DEFAULT_HUNG_AFTER_S

DEFAULT_TIMEOUT_S = 60.0


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
        check_choice("durability", durability, get_args(Durability))
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
