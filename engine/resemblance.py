"""Which files resemble this one: the demonstration's second act, and an example of vectors.

A file's vector counts its character trigrams, hashed into 256 dimensions with a sign (feature
hashing, Weinberger et al. 2009), damped and scaled to length one; no model is needed, and files
that share words and habits come out near each other.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from holdfast.engine import Engine
from holdfast.following import Listing
from holdfast.handles.results import QueryResult
from holdfast.handles.vectors import Vectors

DIMENSION = 256
_BATCH_FILES = 200
_NEIGHBOURS = 5
_SMALL_BYTES = 20_000
_EXAMPLE = "json/decoder.py"
_FIRST, _SECOND, _THIRD = (np.uint32(n) for n in (2654435761, 2246822519, 3266489917))


@dataclass(frozen=True, slots=True)
class Findings:
    """What the second act found."""

    files: int
    ingest_s: float
    asked: str
    resembling: list[str]
    resembling_small: list[str]
    """Of another folder, and below 20,000 bytes."""
    right: bool
    """The distances are those of a computation without the store."""
    apart: bool
    """A branch hid what was deleted there, and its parent did not."""
    compacted_right: bool
    bytes_before: int
    bytes_after: int


def vector_of(text: bytes) -> NDArray[np.float32]:
    """The vector of a file's content, (256,)."""
    letters = np.frombuffer(text, np.uint8).astype(np.uint32)
    if len(letters) < 3:
        return np.zeros(DIMENSION, np.float32)
    mixed = letters[:-2] * _FIRST ^ letters[1:-1] * _SECOND ^ letters[2:] * _THIRD
    mixed ^= mixed >> np.uint32(15)
    mixed *= _SECOND
    signs = np.where(mixed & np.uint32(1 << 8), 1.0, -1.0)
    sums = np.bincount(mixed >> np.uint32(24), signs, DIMENSION)
    damped = np.sign(sums) * np.sqrt(np.abs(sums))
    return (damped / max(float(np.linalg.norm(damped)), 1e-12)).astype(np.float32)


def compare_files(
    engine: Engine, listing: Listing, progress: Callable[[int], None]
) -> Findings | None:
    """Put the files' vectors into a store, ask it, branch it, compact it; None without files."""
    store = engine.vectors("resemblance", dimension=DIMENSION, metric="cosine")
    began = time.perf_counter()
    keys: list[str] = []
    parts: list[NDArray[np.float32]] = []
    for names, sizes, vectors in _batches(listing):
        ids = np.arange(len(keys), len(keys) + len(names), dtype=np.uint64)
        folders = [name.rpartition("/")[0] for name in names]
        store.ingest(ids, vectors, {"file": names, "folder": folders, "size": sizes})
        keys += names
        parts.append(vectors)
        progress(len(names))
    if not keys:
        return None
    seconds = time.perf_counter() - began
    return _ask(engine, store, keys, np.concatenate(parts), seconds)


def _batches(
    listing: Listing,
) -> Iterator[tuple[list[str], list[int], NDArray[np.float32]]]:
    names: list[str] = []
    sizes: list[int] = []
    vectors: list[NDArray[np.float32]] = []
    for file in listing.files:
        try:
            with open(file.path, "rb") as opened:
                text = opened.read()
        except OSError:
            continue
        names.append(file.key)
        sizes.append(len(text))
        vectors.append(vector_of(text))
        if len(names) == _BATCH_FILES:
            yield names, sizes, np.stack(vectors)
            names, sizes, vectors = [], [], []
    if names:
        yield names, sizes, np.stack(vectors)


def _ask(
    engine: Engine, store: Vectors, keys: list[str], vectors: NDArray[np.float32], seconds: float
) -> Findings:
    asked = keys.index(_EXAMPLE) if _EXAMPLE in keys else len(keys) // 2
    query = vectors[asked]
    others = pc.field("id") != asked
    found = store.query(query, _NEIGHBOURS, where=others, include=["metadata"])
    right = np.allclose(found.distances, _nearest(vectors, asked, len(found)), atol=1e-5)
    folder = keys[asked].rpartition("/")[0]
    elsewhere = others & (pc.field("folder") != folder) & (pc.field("size") < _SMALL_BYTES)
    small = store.query(query, _NEIGHBOURS, where=elsewhere, include=["metadata"])
    branch = store.branch("resemblance-without")
    branch.delete(found.ids)
    shown = branch.query(query, _NEIGHBOURS, where=others).ids
    apart = not set(found.ids.tolist()) & set(shown.tolist()) and store.count() == len(keys)
    engine.drop(branch.name)  # whose parent could not be compacted otherwise
    kept = store.count(where=pc.field("size") < _SMALL_BYTES)
    store.delete_where(pc.field("size") >= _SMALL_BYTES)
    compacted = store.compact()
    return Findings(
        len(keys),
        seconds,
        keys[asked],
        _files(found),
        _files(small),
        bool(right),
        apart,
        store.count() == kept and not store.verify().problems,
        compacted.bytes_before,
        compacted.bytes_after,
    )


def _nearest(vectors: NDArray[np.float32], asked: int, count: int) -> NDArray[np.float64]:
    """The least cosine distances to one row of all others, computed at length."""
    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1) * np.linalg.norm(wide[asked])
    distances = 1 - wide @ wide[asked] / np.where(lengths > 0, lengths, 1)
    return np.sort(np.delete(distances, asked))[:count]


def _files(result: QueryResult) -> list[str]:
    assert result.metadata is not None
    names: list[str] = result.metadata.column("file").to_pylist()
    return names
