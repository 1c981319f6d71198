"""The shipped profiles made small, for tests of load tests."""

import msgspec

from holdfast.bench.load import profile as profiles
from holdfast.bench.load.profile import OPERATIONS, Profile, StoreLoad, parse

SIZES = {
    "keys": 120,
    "dimension": 8,
    "batch": 8,
    "kept": 40,
    "value_bytes": 60,
    "fields": 3,
    "k": 5,
}


def small(name: str) -> Profile:
    """A shipped profile with few and small keys."""
    profile = profiles.load(name)
    return msgspec.structs.replace(profile, stores=tuple(map(_small, profile.stores)), rate=150.0)


def _small(load: StoreLoad) -> StoreLoad:
    sizes = {name: min(size, getattr(load, name)) for name, size in SIZES.items()
             if hasattr(load, name)}  # fmt: skip
    return msgspec.structs.replace(load, **sizes)


def tiny(kind: str) -> Profile:
    """One store with so few keys that each is read and written again and again."""
    weights = ", ".join(f"{name} = 1" for name in sorted(OPERATIONS[kind]))
    return parse(
        f'rate = 200\n[[stores]]\nkind = "{kind}"\nkeys = 8\nbatch = 2\n'
        f"operations = {{ {weights} }}\n".encode(),
        "tiny.toml",
    )
