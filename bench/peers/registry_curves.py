"""How the costs of a registry grow with its models, with its file, and with a model's size."""

import contextlib
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

import holdfast
from holdfast.bench.peers.curves import (
    FILE_SIZE,
    PATIENCE_S,
    Drawing,
    file_bytes,
    reopening,
    repeated,
)
from holdfast.bench.registry import model
from holdfast.formats import model_artifact

_NAME = "models"
_FEW = 3  # of calls that write the whole file, or read a large model
_ASKED_FOR = 100


class _Filled(NamedTuple):
    """A registry, one of its models, and hashes of some of them."""

    engine: holdfast.Engine
    registry: holdfast.Registry
    model: holdfast.ModelArtifact
    hashes: Sequence[bytes]


def draw(drawing: Drawing) -> None:
    """A model found by its hash and by likeness, one saved; a worker started anew; one's size."""
    sizes = drawing.sizes
    with contextlib.ExitStack() as stack:
        filled: dict[int, _Filled] = {}
        for count in sizes.models:
            drawing.run.say(f"  a registry of {count:,} models")
            filled[count] = _filled(drawing, stack, count)
        drawing.draw("registry-exact", "registry.get_exact of any model", "models",
                     {n: repeated(_getting(one.registry, one.hashes), sizes.calls)
                      for n, one in filled.items()}, flat=True)  # fmt: skip
        drawing.draw("registry-nearest", "registry.get_nearest", "models",
                     {n: repeated(_asking(one.registry, one.model), sizes.queries)
                      for n, one in filled.items()}, flat=False)  # fmt: skip
        drawing.draw("registry-save", "durable registry.save of one model", "models",
                     {n: repeated(_saving(one.registry, one.model), _FEW)
                      for n, one in filled.items()}, flat=False)  # fmt: skip
        drawing.draw("registry-reopen", "registry: a worker started anew, to its first answer",
                     FILE_SIZE,
                     {file_bytes(one.registry.path):
                      reopening(one.engine, _NAME, _getting(one.registry, one.hashes))
                      for one in filled.values()}, flat=False)  # fmt: skip
    with drawing.run.fresh() as directory, holdfast.open(directory) as engine:
        registry = engine.registry(_NAME)
        random = np.random.default_rng(2)
        models = [model(number, random, fields) for number, fields in enumerate(sizes.fields)]
        registry.save_many(models)
        drawing.draw("registry-load", "registry.get_exact of one model", "bytes of the model",
                     {len(model_artifact.encode(one)):
                      repeated(_getting(registry, [one.schema_hash]), _FEW)
                      for one in models}, flat=False)  # fmt: skip


def _filled(drawing: Drawing, stack: contextlib.ExitStack, count: int) -> _Filled:
    directory = stack.enter_context(drawing.run.fresh())
    engine = stack.enter_context(holdfast.open(directory, timeout=PATIENCE_S))
    registry = engine.registry(_NAME)
    random = np.random.default_rng(1)
    models = [model(number, random) for number in range(count)]
    registry.save_many(models)
    some = random.integers(0, count, _ASKED_FOR)
    return _Filled(engine, registry, models[0], [models[n].schema_hash for n in some])


def _getting(registry: holdfast.Registry, hashes: Sequence[bytes]) -> Callable[[], object]:
    turns = itertools.cycle(hashes)

    def get() -> None:
        assert registry.get_exact(next(turns)) is not None, "it is not there"

    return get


def _asking(registry: holdfast.Registry, one: holdfast.ModelArtifact) -> Callable[[], object]:
    return lambda: registry.get_nearest(one.fingerprint)


def _saving(registry: holdfast.Registry, one: holdfast.ModelArtifact) -> Callable[[], object]:
    return lambda: registry.save(one)
