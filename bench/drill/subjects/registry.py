"""The registry, as drills see it: the tag of each model by the name of its only field."""

from collections.abc import Hashable, Mapping, Sequence

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
    is_of_once_written,
    reopen,
    tick,
)
from holdfast.formats import model_artifact
from holdfast.formats.fingerprint import FieldStats, Fingerprint, schema_hash
from holdfast.formats.model_artifact import ModelArtifact, encode_fingerprint
from holdfast.workers import registry_messages as rm
from holdfast.workers.actor import Actor
from holdfast.workers.disk import Disk
from holdfast.workers.message import Durability
from holdfast.workers.messages import StoreSpec
from holdfast.workers.registry import open_registry
from holdfast.workers.standing import Standing

_NAMES = ("a", "b", "c", "d")
_ROWS = [[0.25, 0.75]]
_MORE = 8
"""How many neighbours more than there can be are asked for."""


def _fingerprint(name: str) -> Fingerprint:
    return Fingerprint(schema_hash([(name, "Name")]), (FieldStats(name, "Name", 0.5, 7),), 10)


def _model(name: str, tag: str) -> bytes:
    artifact = ModelArtifact(_fingerprint(name), _ROWS, _ROWS, 0.0, 0.9, 0.1, tag, trained_on=1)
    return model_artifact.encode(artifact)


def _save(state: State, tags: Mapping[str, str]) -> Write:
    """Some models at once: all or none of them, whatever happens."""
    request = rm.RegistrySave([_model(name, tag) for name, tag in tags.items()])
    return Write(request, {**state, **tags})


def _delete(state: State, name: str) -> Write:
    request = rm.RegistryDelete(_fingerprint(name).schema_hash)
    return Write(request, {key: tag for key, tag in state.items() if key != name})


def _save_small(number: int, state: State) -> Turn:
    return Turn((_save(state, {"a": f"small {number}"}),))


def _save_large(number: int, state: State) -> Turn:
    return Turn((_save(state, {"b": f"over several sectors {number}, " * 60}),))


def _save_many(number: int, state: State) -> Turn:
    return Turn((_save(state, {name: f"one of many {number}" for name in ("a", "b", "c")}),))


def _remove(number: int, state: State) -> Turn:
    return Turn((_delete(state, "a"),))


def _remove_absent(number: int, state: State) -> Turn:
    return Turn((_delete(state, "never there"),))


def _two_saves(number: int, state: State) -> Turn:
    """Two requests that share a file."""
    first = _save(state, {"a": f"first {number}", "d": f"first {number}"})
    return Turn((first, _save(first.after, {"a": f"second {number}"})))


def _save_and_remove(number: int, state: State) -> Turn:
    """A model that is there for no moment, in the same file as one that stays."""
    first = _save(state, {"c": f"goes {number}", "d": f"stays {number}"})
    return Turn((first, _delete(first.after, "c")))


class RegistrySubject:
    """The registry. See ``base.Subject``."""

    kind: StoreKind = "registry"
    path = f"{HOME}/drill.zsm"
    alphabet: Mapping[str, Operation] = {
        "save-small": _save_small,
        "save-large": _save_large,
        "save-many": _save_many,
        "remove": _remove,
        "remove-absent": _remove_absent,
        "two-saves": _two_saves,
        "save-and-remove": _save_and_remove,
        "reopen": reopen,
        "die": die,
    }

    def open(self, disk: Disk, durability: Durability) -> Actor:
        spec = StoreSpec(
            "drill", "registry", self.path, durability=durability, interval_s=INTERVAL_S
        )
        return open_registry(disk, spec, tick)

    def read(self, disk: Disk, actor: Actor) -> State:
        listed = ask(actor, rm.RegistryList(), rm.RegistryArtifacts).artifacts
        models = [model_artifact.decode(data) for data in listed]
        hashes = [model.schema_hash for model in models]
        agree("order", hashes, sorted(set(hashes)))
        for digest, data in zip(hashes, listed, strict=True):
            agree("get", ask(actor, rm.RegistryGet(digest), rm.RegistryFound).artifact, data)
        query = rm.RegistryNearest(encode_fingerprint(_fingerprint("a")), len(listed) + _MORE)
        found = ask(actor, query, rm.RegistryNeighbours).found
        agree("nearest", sorted(one.artifact for one in found), sorted(listed))
        agree("distances", [one.distance for one in found], sorted(n.distance for n in found))
        state: dict[str, Hashable] = {m.fingerprint.field_stats[0].name: m.tag for m in models}
        return state

    def rival(self, state: State) -> Write:
        return _save(state, dict.fromkeys(_NAMES, "rival"))

    def verify(self, disk: Disk) -> Standing:
        return examined(disk, self.path)

    def undetectable(self, word: str, found: State, states: Sequence[State]) -> bool:
        """Behind its entries the original writes no checksums, so a file without any is believed.

        What is cut off is then just them; of the models each is one that was written.
        """
        return word == "cut" and is_of_once_written(found, states)
