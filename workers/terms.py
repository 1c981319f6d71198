"""On what terms a store is asked for, and whether they are those on which it is served. Pure."""

from msgspec import structs

from holdfast.formats.errors import HoldfastError, OptionsConflict, WrongKind
from holdfast.workers.messages import (
    DEFAULT_DURABILITY,
    DEFAULT_INTERVAL_S,
    Properties,
    StoreSpec,
)


def asked_for(spec: StoreSpec) -> tuple[str, bool, str | None]:
    """Where a store is to be, and how it is to come about if it is not there."""
    return spec.path, spec.create, spec.import_from


def with_defaults(spec: StoreSpec) -> StoreSpec:
    """What the worker of a store is told that was asked for so."""
    return structs.replace(
        spec,
        by_name=False,
        properties=None,
        durability=spec.durability or DEFAULT_DURABILITY,
        interval_s=spec.interval_s or DEFAULT_INTERVAL_S,
    )


def conflict(held: StoreSpec, asked: StoreSpec) -> HoldfastError | None:
    """Why a store that is open as ``held`` cannot be opened as ``asked``."""
    if asked.kind != held.kind:
        return WrongKind(
            f"store {held.name!r} is a {held.kind}, not a {asked.kind}", store=held.name
        )
    for option, has, wants in (
        ("path", held.path, None if asked.by_name else asked.path),
        ("durability", held.durability, asked.durability),
        ("interval", held.interval_s, asked.interval_s),
    ):
        if wants is not None and wants != has:
            return OptionsConflict(
                f"store {held.name!r} is open with {option}={has!r}, not {wants!r}",
                store=held.name,
            )
    return None


def made_anew(held: StoreSpec, known: Properties) -> OptionsConflict:
    """The error for whoever knows another store of this name than the one that is served."""
    has, had = structs.asdict(held.properties), structs.asdict(known)  # type: ignore[arg-type]
    changed = ", ".join(
        f"{what}={has[what]!r}, not {was!r}" for what, was in had.items() if has[what] != was
    )
    return OptionsConflict(
        f"store {held.name!r} has {changed}: it was dropped and made anew since this handle was "
        "opened; open it again",
        store=held.name,
    )
