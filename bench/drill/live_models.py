"""A registry as registers: a text is a model's tag, and gives its parameters."""

from collections.abc import Iterable, Sequence

import numpy as np

import holdfast
from holdfast.bench.drill.live_rows import vector_of
from holdfast.bench.drill.live_stores import LiveStore, keys_of
from holdfast.formats.model_artifact import ModelArtifact
from holdfast.handles.fingerprints import SchemaFingerprint

_HEAVY_KEY = "heavy"  # none of those that clients use
_HEAVY_LEVELS = 6 << 20


class LiveRegistry(LiveStore):
    """A key is the name of a schema's only field."""

    kind = "registry"
    deletes_together = False

    def __init__(self, engine: holdfast.Engine, name: str) -> None:
        self._registry = engine.registry(name)

    def write(self, group: int, text: str) -> None:
        self._registry.save_many([_model(key, text) for key in keys_of(group)])

    def delete(self, keys: Sequence[str], text: str) -> None:
        (key,) = keys
        self._registry.delete(_schema(key))

    def find(self, group: int) -> dict[str, str]:
        wanted = keys_of(group)
        return {key: text for key, text in self.everything().items() if key in wanted}

    def everything(self) -> dict[str, str]:
        return _texts(self._registry.list_all())

    def tidy(self) -> None:
        """Every write writes the whole file anew."""

    def heavy(self, text: str) -> None:
        levels = np.ones(_HEAVY_LEVELS, np.float32)
        self._registry.save(
            ModelArtifact(_schema(_HEAVY_KEY), [levels], [levels], 0, 0, 0, trained_on=0)
        )


def _schema(key: str) -> SchemaFingerprint:
    return SchemaFingerprint.from_schema([(key, "Numeric")], created_at=0)


def _model(key: str, text: str) -> ModelArtifact:
    levels = vector_of(text) / np.float32(1 << 16)  # probabilities, exactly as different
    return ModelArtifact(_schema(key), [levels], [levels], 0, 0, 0, text, trained_on=0)


def _texts(models: Iterable[ModelArtifact]) -> dict[str, str]:
    found = {}
    for model in models:
        key, text = model.fingerprint.field_stats[0].name, model.tag
        if key != _HEAVY_KEY:
            right = text is not None and _model(key, text) == model
            found[key] = str(text) if right else f"garbled: {model!r}"
    return found
