"""Work on a registry: models whose parameters say of which write they are."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import holdfast
from holdfast.bench.load.profile import RegistryLoad
from holdfast.bench.load.truth import ABSENT, PRELOADED, WrongRead
from holdfast.bench.load.work import NAME, KeyWork, Steps, vectors_of
from holdfast.formats.fingerprint import FieldStats, schema_hash

_LEVELS = 4
_CREATED = 1_750_000_000


class RegistryWork(KeyWork[RegistryLoad]):
    """A key is a schema; the number of a write is a model's count of EM iterations."""

    read_at_once = 1

    @staticmethod
    def open(engine: Any, load: RegistryLoad, durability: str) -> Any:
        return engine.registry(NAME + "-registry", durability=durability)

    @classmethod
    def preload(cls, handle: Any, load: RegistryLoad, keys: Sequence[int]) -> None:
        handle.save_many([model_of(key, PRELOADED, load.fields) for key in keys])

    def operations(self) -> dict[str, Callable[[], Steps]]:
        return {"save": self.save, "exact": self.exact, "nearest": self.nearest}

    def save(self) -> Steps:
        """Save one model in place of the one before."""
        write = self.truth.begin([self.own_key()])
        model = model_of(write.keys[0], write.numbers[0], self.load.fields)
        yield lambda registry: registry.save(model)
        self.truth.acknowledged(write)

    def exact(self) -> Steps:
        """The model of a schema."""
        yield from self.read([self.any_key()])

    def read(self, keys: Sequence[int]) -> Steps:
        (key,) = keys
        schema = _schema(key, self.load.fields)
        known, model = yield from self.look([key], lambda registry: registry.get_exact(schema))
        self._judge(key, known, model)

    def nearest(self) -> Steps:
        """The model whose schema is nearest to one that is there."""
        key = self.any_key()
        schema = _schema(key, self.load.fields)
        known, neighbour = yield from self.look(
            [key], lambda registry: registry.get_nearest(schema)
        )
        if neighbour is not None and neighbour.distance > 1e-6:
            raise WrongRead(f"schema {key} is there, and the nearest is at {neighbour.distance}")
        self._judge(key, known, None if neighbour is None else neighbour.artifact)

    def _judge(self, key: int, known: Sequence[int], model: holdfast.ModelArtifact | None) -> None:
        if model is not None and model != model_of(key, model.em_iterations, self.load.fields):
            raise WrongRead(f"the model of schema {key} is not what any write gave")
        self.truth.saw([key], known, [ABSENT if model is None else model.em_iterations])


@lru_cache(maxsize=4096)
def _schema(key: int, fields: int) -> holdfast.SchemaFingerprint:
    names = [f"field {n} of {key}" for n in range(fields)]
    stats = tuple(
        FieldStats(name, "Name", 0.25, 10 * (n + 1), (f"value of {name}",))
        for n, name in enumerate(names)
    )
    digest = schema_hash([(name, "Name") for name in names], [])
    return holdfast.SchemaFingerprint(digest, stats, 1000, _CREATED)


def model_of(key: int, number: int, fields: int) -> holdfast.ModelArtifact:
    """The model that write ``number`` gives a schema of so many fields."""
    rows = abs(vectors_of([key], [number], fields * _LEVELS).reshape(fields, _LEVELS))
    return holdfast.ModelArtifact(
        _schema(key, fields), rows, rows, -2.0, 0.9, 0.1,
        trained_on=_CREATED, em_iterations=number,
    )  # fmt: skip
