"""Which peers there are, which of them are installed, and what to say of the others."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from holdfast.bench.measure import version_of

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Kind(Generic[T_co]):
    """A peer: the distributions it needs, and how to make one."""

    packages: tuple[str, ...]
    make: Callable[..., T_co]


def installed(kinds: Mapping[str, Kind[Any]]) -> list[str]:
    """The names of those that can be used."""
    return [name for name, kind in kinds.items() if all(map(version_of, kind.packages))]


def absent(kinds: Mapping[str, Kind[Any]]) -> list[str]:
    """The names of those that cannot."""
    return [name for name in kinds if name not in installed(kinds)]


def missing(kinds: Mapping[str, Kind[Any]]) -> str:
    """A note about those that cannot be used; empty when all can."""
    names = absent(kinds)
    return f"not installed, so not compared: {', '.join(names)}" if names else ""
