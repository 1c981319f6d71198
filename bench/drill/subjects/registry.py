"""The registry, as drills see it."""

import functools
from collections.abc import Mapping, Sequence

from holdfast.bench.drill.plan import StoreKind
from holdfast.bench.drill.subjects.base import (
    HOME,
    INTERVAL_S,
    Operation,
    State,
    Turn,
    Write,
    agree,
    ask,
    die,
    examined,
    reopen,
    tick,
)
from holdfast.formats import model_artifact
from holdfast.formats.fingerprint import FieldStats, Fingerprint, schema_hash
from holdfast.formats.limits import HASH_BYTES
from holdfast.formats.model_artifact import ModelArtifact
from holdfast.workers import registry_messages as rm
from holdfast.workers.actor import Actor
from holdfast.workers.disk import Disk
from holdfast.workers.message import Durability
from holdfast.workers.messages import StoreSpec
from holdfast.workers.registry import open_registry
from holdfast.workers.standing import Standing

_CREATED = 1_750_000_000


@functools.cache
def _artifact(name: str, version: int) -> bytes:
    """A model for the schema of this name, as bytes; each version is another training."""
    fields = (FieldStats(name, "Name"), FieldStats("common", "Name", 0.25, version))
    hashed = schema_hash([(stats.name, "Name") for stats in fields])
    fingerprint = Fingerprint(hashed, fields, version, _CREATED)
    row = [0.1, 0.2, 0.3, 0.4]
    tag = f"{name} {version}, " * (60 if name == "large" else 1)
    model = ModelArtifact(
        fingerprint, [row, row], [row[::-1], row], -2.5, 0.9, 0.1, tag,
        trained_on=_CREATED + version, em_iterations=version,
    )  # fmt: skip
    return model_artifact.encode(model)


def _name(artifact: bytes) -> str:
    return f"model {artifact[:HASH_BYTES].hex()[:16]}"


def _save(state: State, models: Sequence[tuple[str, int]]) -> Write:
    artifacts = [_artifact(*model) for model in models]
    after = {**state, **{_name(artifact): artifact for artifact in artifacts}}
    return Write(rm.RegistrySave(artifacts), after)


def _delete(state: State, name: str) -> Write:
    artifact = _artifact(name, 0)
    kept = {key: value for key, value in state.items() if key != _name(artifact)}
    return Write(rm.RegistryDelete(artifact[:HASH_BYTES]), kept)


def _save_one(number: int, state: State) -> Turn:
    return Turn((_save(state, [("a", number)]),))


def _save_two(number: int, state: State) -> Turn:
    return Turn((_save(state, [("a", 10 + number), ("b", number)]),))


def _save_large(number: int, state: State) -> Turn:
    return Turn((_save(state, [("large", number)]),))


def _delete_one(number: int, state: State) -> Turn:
    return Turn((_delete(state, "a"),))


def _delete_other(number: int, state: State) -> Turn:
    return Turn((_delete(state, "b"),))


def _pair(number: int, state: State) -> Turn:
    """Two requests that share a commit."""
    first = _save(state, [("b", 20 + number), ("c", number)])
    return Turn((first, _delete(first.after, "c")))


class RegistrySubject:
    """The registry. See ``base.Subject``."""

    kind: StoreKind = "registry"
    path = f"{HOME}/drill.zsm"
    alphabet: Mapping[str, Operation] = {
        "save": _save_one,
        "save-two": _save_two,
        "save-large": _save_large,
        "delete": _delete_one,
        "delete-other": _delete_other,
        "pair": _pair,
        "reopen": reopen,
        "die": die,
    }

    def open(self, disk: Disk, durability: Durability) -> Actor:
        spec = StoreSpec(
            "drill", "registry", self.path, durability=durability, interval_s=INTERVAL_S
        )
        return open_registry(disk, spec, tick)

    def read(self, disk: Disk, actor: Actor) -> State:
        artifacts = ask(actor, rm.RegistryList(), rm.RegistryArtifacts).artifacts
        for artifact in artifacts:
            got = ask(actor, rm.RegistryGet(artifact[:HASH_BYTES]), rm.RegistryFound)
            agree("get", got.artifact, artifact)
        state = {_name(artifact): bytes(artifact) for artifact in artifacts}
        agree("number of keys", len(state), len(artifacts))
        return state

    def rival(self, state: State) -> Write:
        return _save(state, [(name, 77) for name in ("a", "b", "c", "large")])

    def verify(self, disk: Disk) -> Standing:
        return examined(disk, self.path)

    def undetectable(self, word: str, found: State, states: Sequence[State]) -> bool:
        return False
