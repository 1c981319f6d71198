"""Vector, warm and index stores as registers: a text is a row's metadata and gives its vector."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import holdfast
from holdfast.bench.drill.live_stores import PARTS, LiveStore, keys_of

DIMENSION = 8
_SPACE = 1
_HEAVY_GROUP = 1 << 20  # beyond those that clients use
_HEAVY_ROWS = 1 << 20


def _split(key: str) -> tuple[int, int]:
    group, part = key.split("/")
    return int(group), int(part)


def _row(key: str) -> int:
    group, part = _split(key)
    return group * PARTS + part + 1


def _rows(keys: Iterable[str]) -> list[int]:
    return [_row(key) for key in keys]


def _key(row: int) -> str:
    group, part = divmod(row - 1, PARTS)
    return f"{group}/{part}"


def vector_of(text: str) -> NDArray[np.float32]:
    """Numbers that follow from the text, and that float32 has exactly."""
    digest = hashlib.blake2b(text.encode(), digest_size=2 * DIMENSION).digest()
    return np.frombuffer(digest, np.uint16).astype(np.float32) + 1


def _vectors(texts: Iterable[str]) -> NDArray[np.float32]:
    return np.stack([vector_of(text) for text in texts])


def _agreed(rows: Iterable[int], texts: Sequence[object], vectors: Any) -> dict[str, str]:
    """The texts of rows; in place of one whose vector is another's, a text that nobody wrote."""
    found = {}
    for row, text, vector in zip(rows, texts, vectors, strict=True):
        right = isinstance(text, str) and np.array_equal(np.asarray(vector), vector_of(text))
        found[_key(row)] = str(text) if right else f"garbled: {text!r} with {vector!r}"
    return found


class LiveVectors(LiveStore):
    """Texts as metadata, with a vector that follows from the text."""

    kind = "vectors"

    def __init__(self, engine: holdfast.Engine, name: str) -> None:
        self._vectors = engine.vectors(name, dimension=DIMENSION)

    def write(self, group: int, text: str) -> None:
        texts = [text] * PARTS
        self._vectors.ingest(_rows(keys_of(group)), _vectors(texts), {"text": texts})

    def delete(self, keys: Sequence[str], text: str) -> None:
        self._vectors.delete(_rows(keys))

    def find(self, group: int) -> dict[str, str]:
        found = self._vectors.get(_rows(keys_of(group)))
        texts = [] if found.metadata is None else found.metadata.to_pydict().get("text", [])
        return _agreed(found.ids.tolist(), texts, found.vectors)

    def everything(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for table in self._vectors.scan(include=("metadata", "vectors")):
            light = table["id"].to_numpy() < _row(f"{_HEAVY_GROUP}/0")
            columns = table.filter(pa.array(light)).to_pydict()
            found |= _agreed(columns["id"], columns.get("text", []), columns["vector"])
        return found

    def tidy(self) -> None:
        self._vectors.compact()

    def heavy(self, text: str) -> None:
        ids = _row(f"{_HEAVY_GROUP}/0") + np.arange(_HEAVY_ROWS, dtype=np.uint64)
        self._vectors.ingest(ids, np.ones((_HEAVY_ROWS, DIMENSION), np.float32))


class LiveWarm(LiveStore):
    """A group is a series of points; texts as metadata, with a vector that follows from them."""

    kind = "warm"

    def __init__(self, engine: holdfast.Engine, name: str) -> None:
        self._warm = engine.warm(name, dimension=DIMENSION)

    def write(self, group: int, text: str) -> None:
        texts = [text] * PARTS
        entries = [{"text": text}] * PARTS
        self._warm.write(group, _SPACE, list(range(PARTS)), _vectors(texts), entries)

    def delete(self, keys: Sequence[str], text: str) -> None:
        group, _ = _split(keys[0])
        self._warm.delete(group, _SPACE, [_split(key)[1] for key in keys])

    def find(self, group: int) -> dict[str, str]:
        return _points(self._warm.range(group, _SPACE, 0, PARTS), [group] * PARTS)

    def everything(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for table in self._warm.scan():
            light = table.filter(pa.array(table["entity"].to_numpy() < _HEAVY_GROUP))
            found |= _points(light, light["entity"].to_pylist())
        return found

    def tidy(self) -> None:
        self._warm.flush()
        self._warm.compact()

    def heavy(self, text: str) -> None:
        vectors = np.ones((_HEAVY_ROWS, DIMENSION), np.float32)
        self._warm.write(_HEAVY_GROUP, _SPACE, np.arange(_HEAVY_ROWS), vectors)


def _points(table: Any, groups: Sequence[int]) -> dict[str, str]:
    times = table["timestamp"].to_pylist()
    texts = [dict(entry or {}).get("text") for entry in table["metadata"].to_pylist()]
    rows = [_row(f"{group}/{time}") for group, time in zip(groups, times, strict=False)]
    return _agreed(rows, texts, table["vector"].to_pylist())


class LiveIndex(LiveStore):
    """Texts as metadata, with a vector that follows from the text."""

    kind = "index"

    def __init__(self, engine: holdfast.Engine, name: str) -> None:
        self._index = engine.index(name, dimension=DIMENSION, metric="euclidean")

    def write(self, group: int, text: str) -> None:
        texts = [text] * PARTS
        entries = [{"text": text}] * PARTS
        self._index.upsert_batch(_rows(keys_of(group)), _vectors(texts), entries)

    def delete(self, keys: Sequence[str], text: str) -> None:
        self._index.delete_batch(_rows(keys), missing_ok=True)

    def find(self, group: int) -> dict[str, str]:
        return self._texts(_rows(keys_of(group)))

    def everything(self) -> dict[str, str]:
        most = self._index.count()
        if not most:
            return {}
        hits = self._index.search(np.ones(DIMENSION), most, exact=True)
        return self._texts(hits.ids[hits.ids < _row(f"{_HEAVY_GROUP}/0")].tolist())

    def _texts(self, rows: list[int]) -> dict[str, str]:
        found = self._index.get(rows)
        texts = [(row.metadata or {}).get("text") for row in found]
        ids = [row.id for row in found]
        assert all(isinstance(id_, int) for id_ in ids)
        return _agreed([int(id_) for id_ in ids], texts, [row.vector for row in found])

    def tidy(self) -> None:
        self._index.checkpoint()

    def heavy(self, text: str) -> None:
        ids = _row(f"{_HEAVY_GROUP}/0") + np.arange(_HEAVY_ROWS, dtype=np.uint64)
        self._index.upsert_batch(ids, np.ones((_HEAVY_ROWS, DIMENSION), np.float32))
