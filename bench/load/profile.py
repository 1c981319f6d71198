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
import re
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from holdfast.formats.errors import InvalidArgument
from holdfast.workers.message import Durability

Count = Annotated[int, Meta(ge=1, le=10_000_000)]
Batch = Annotated[int, Meta(ge=1, le=100_000)]
Dimension = Annotated[int, Meta(ge=2, le=4096)]
Share = Annotated[float, Meta(gt=0, le=1e6)]
Distribution = Literal["uniform", "zipfian"]
WEIGHT_MAX = 1e6
Rate = Annotated[float, Meta(gt=0, le=1e6)]
_SUFFIX = ".toml"


class StoreLoad(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """What is done to one store. ``batch`` is how many keys or rows an operation takes at once."""

    operations: dict[str, float]
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

_CHOICES: Mapping[str, Iterable[str]] = {
    "kind": OPERATIONS,
    "distribution": get_args(Distribution),
    "durability": get_args(Durability),
}
"""The words that a key may have."""


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

    Raises ``InvalidArgument`` naming the file, the key and the limit that something is wrong with.
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
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidArgument(f"profile {name!r}: {error}") from error
    try:
        profile = msgspec.convert(raw, Profile)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"profile {name!r}: {_with_value(str(error), raw)}") from error
    kinds = [store.kind for store in profile.stores]
    for number, store in enumerate(profile.stores):
        where = f"profile {name!r}: stores[{number}] ({store.kind})"
        if kinds.count(store.kind) > 1:
            raise InvalidArgument(f"{where}: there is more than one of that kind")
        known = OPERATIONS[store.kind]
        for operation in store.operations:
            if operation not in known:
                raise InvalidArgument(
                    f"{where}: {operation!r} is none of its operations, {', '.join(sorted(known))}"
                )
        for operation, weight in store.operations.items():
            if not 0 <= weight <= WEIGHT_MAX:
                raise InvalidArgument(
                    f"{where}: the weight of {operation!r}, {weight:g}, is not between 0 and "
                    f"{WEIGHT_MAX:g}"
                )
        if not sum(store.operations.values()):
            raise InvalidArgument(f"{where}: no operation has a weight above 0")
        if store.batch > store.keys:
            raise InvalidArgument(f"{where}: batch {store.batch} is over its {store.keys} keys")
    return msgspec.structs.replace(profile, name=os.path.basename(name).removesuffix(_SUFFIX))


def _with_value(complaint: str, raw: object) -> str:
    """What msgspec objects to, with the value that it found at the place it names."""
    _, _, place = complaint.rpartition(" - at `$")
    key = ""
    for key, number in re.findall(r"\.(\w+)|\[(\d+)\]", place):
        if isinstance(raw, dict) and key in raw:
            raw = raw[key]
        elif isinstance(raw, list) and number:
            raw = raw[int(number)]
        else:
            return complaint
    if isinstance(raw, dict | list):
        return complaint
    choices = f"; there are {', '.join(_CHOICES[key])}" if key in _CHOICES else ""
    return f"{complaint}, which is {raw!r}{choices}"


def only(profile: Profile, kinds: tuple[str, ...]) -> Profile:
    """The profile without the stores of other kinds; raises ``InvalidArgument`` if none is left."""
    stores = tuple(store for store in profile.stores if store.kind in kinds)
    if not stores:
        has = ", ".join(store.kind for store in profile.stores)
        raise InvalidArgument(f"profile {profile.name!r} has stores of {has} only")
    return msgspec.structs.replace(profile, stores=stores)


def _folder() -> "resources.abc.Traversable":
    return resources.files("holdfast.bench.load").joinpath("profiles")
