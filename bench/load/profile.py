"""A mix of work, as a TOML file says it.

::

    description = "what it stands for"
    rate = 400                    # calls a second of all clients, if the user says no other
    durability = "always"

    [[stores]]
    kind = "fold"                 # fold, vectors, warm, index or registry
    share = 2.0                   # of all operations, against the shares of the other stores
    keys = 20000
    distribution = "zipfian"      # or "uniform"
    exponent = 0.99               # of zipfian
    operations = { apply = 1, get = 8, prefix = 1 }      # weights
    batch = 16                    # keys of an operation that takes several
"""

import os
import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from holdfast.bench.load.faults import fault, shown
from holdfast.formats.errors import InvalidArgument
from holdfast.workers.message import Durability

Count = Annotated[int, Meta(ge=1, le=10_000_000)]
Batch = Annotated[int, Meta(ge=1, le=100_000)]
Dimension = Annotated[int, Meta(ge=2, le=4096)]
Share = Annotated[float, Meta(gt=0, le=1e6)]
Distribution = Literal["uniform", "zipfian"]
Weight = Annotated[float, Meta(ge=0, le=1e6)]
Rate = Annotated[float, Meta(gt=0, le=1e6)]
_SUFFIX = ".toml"


class StoreLoad(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """What is done to one store. ``batch`` is how many keys or rows an operation takes at once."""

    operations: dict[str, Weight]
    share: Share = 1.0
    keys: Count = 10_000
    """Keys, rows, series or models; all are written before the load begins."""
    distribution: Distribution = "uniform"
    exponent: Annotated[float, Meta(gt=0, lt=10)] = 0.99
    batch: Batch = 16

    @property
    def kind(self) -> str:
        """Of which kind the store is."""
        return str(type(self).__struct_config__.tag)


class FoldLoad(StoreLoad, frozen=True, tag="fold"):
    """Entries of ``value_bytes``; ``apply``, ``delete``, ``get``, ``get_many``, ``prefix``."""

    value_bytes: Annotated[int, Meta(ge=16, le=1 << 20)] = 200


class VectorsLoad(StoreLoad, frozen=True, tag="vectors"):
    """Rows; ``upsert``, ``delete``, ``get``, ``query`` and ``filtered`` for the ``k`` nearest."""

    dimension: Dimension = 64
    k: Batch = 10


class WarmLoad(StoreLoad, frozen=True, tag="warm"):
    """``keys`` series; ``append``, ``expire``, ``latest``, ``point``, ``range``.

    A series holds about ``kept`` points when ``expire`` keeps up with ``append``.
    """

    dimension: Dimension = 16
    kept: Count = 1_000


class IndexLoad(StoreLoad, frozen=True, tag="index"):
    """Rows; ``upsert``, ``delete``, ``get``, ``search`` for the ``k`` nearest."""

    dimension: Dimension = 64
    k: Batch = 10


class RegistryLoad(StoreLoad, frozen=True, tag="registry"):
    """Models of ``fields`` fields; ``save``, ``exact`` and ``nearest``."""

    fields: Annotated[int, Meta(ge=1, le=200)] = 12


AnyLoad = FoldLoad | VectorsLoad | WarmLoad | IndexLoad | RegistryLoad

OPERATIONS: Mapping[str, frozenset[str]] = {
    "fold": frozenset({"apply", "delete", "get", "get_many", "prefix"}),
    "vectors": frozenset({"upsert", "delete", "get", "query", "filtered"}),
    "warm": frozenset({"append", "expire", "latest", "point", "range"}),
    "index": frozenset({"upsert", "delete", "get", "search"}),
    "registry": frozenset({"save", "exact", "nearest"}),
}


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mix of work over one store of each kind that is listed."""

    stores: Annotated[tuple[AnyLoad, ...], Meta(min_length=1)]
    description: str = ""
    rate: Rate = 200.0
    durability: Durability = "always"
    name: str = ""


def shipped() -> list[str]:
    """The names of the profiles that come with this."""
    names = [entry.name for entry in _folder().iterdir() if entry.name.endswith(_SUFFIX)]
    return sorted(name.removesuffix(_SUFFIX) for name in names)


def load(name: str) -> Profile:
    """The profile of that name, or in that ``.toml`` file.

    Raises ``InvalidArgument`` naming the file, the store, the key or operation, its value, and what
    may be there.
    """
    if name.endswith(_SUFFIX):
        try:
            with open(name, "rb") as file:
                content = file.read()
        except OSError as error:
            raise InvalidArgument(f"profile {name!r}: {error.strerror}", path=name) from error
    elif name in shipped():
        content = _folder().joinpath(name + _SUFFIX).read_bytes()
    else:
        raise InvalidArgument(
            f"there is no profile {name!r}; there are {', '.join(shipped())}, or a {_SUFFIX} file"
        )
    return parse(content, name)


def parse(content: bytes, name: str) -> Profile:
    """The profile that a TOML file holds; raises ``InvalidArgument``."""
    try:
        raw = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:  # also of a number with thousands of digits
        raise InvalidArgument(f"profile {name!r}: {error}") from error
    wrong = fault(raw, Profile, but="name")
    if wrong is not None:
        raise InvalidArgument(f"profile {name!r}: {wrong}")
    profile = msgspec.convert(raw, Profile)
    kinds = [store.kind for store in profile.stores]
    for number, store in enumerate(profile.stores):
        where = f"profile {name!r}: stores[{number}] ({store.kind})"
        if kinds.count(store.kind) > 1:
            raise InvalidArgument(f"{where}: there is more than one of that kind")
        _check_work(where, store)
    return msgspec.structs.replace(profile, name=os.path.basename(name).removesuffix(_SUFFIX))


def _check_work(where: str, store: StoreLoad) -> None:
    known = OPERATIONS[store.kind]
    for operation, weight in store.operations.items():
        if operation not in known:
            raise InvalidArgument(
                f"{where}: operations.{operation} = {weight:g}: there is no such operation; "
                f"there are {', '.join(sorted(known))}"
            )
    if not sum(store.operations.values()):
        raise InvalidArgument(
            f"{where}: operations = {shown(store.operations)}: none has a weight above 0"
        )
    if store.batch > store.keys:
        raise InvalidArgument(f"{where}: batch = {store.batch} is over its {store.keys} keys")


def only(profile: Profile, kinds: tuple[str, ...]) -> Profile:
    """The profile without the stores of other kinds; raises ``InvalidArgument`` if none is left."""
    stores = tuple(store for store in profile.stores if store.kind in kinds)
    if not stores:
        has = ", ".join(store.kind for store in profile.stores)
        raise InvalidArgument(f"profile {profile.name!r} has stores of {has} only")
    return msgspec.structs.replace(profile, stores=stores)


def _folder() -> "resources.abc.Traversable":
    return resources.files("holdfast.bench.load").joinpath("profiles")
