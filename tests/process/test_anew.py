"""Handles whose store was dropped and made anew under the same name, by another handle or host."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import holdfast
from holdfast.formats.errors import OptionsConflict, StoreNotFound, WrongKind
from tests.process.harness import at, kill, put, supervisor_pid, value_of

Use = Callable[[Any], Any]
VECTORS: list[Use] = [
    lambda v: v.get([1, 2]),
    lambda v: v.query([1.0, 2.0]),
    lambda v: v.ingest([9], [[1.0, 2.0]]),
    lambda v: v.delete([1]),
    lambda v: v.count(),
    lambda v: v.status(),
    lambda v: v.compact(),
]
INDEX: list[Use] = [
    lambda i: i.get([1]),
    lambda i: i.search([1.0, 2.0]),
    lambda i: i.upsert(9, [1.0, 2.0]),
    lambda i: i.delete(1, missing_ok=True),
    lambda i: i.count(),
    lambda i: i.checkpoint(),
]
WARM: list[Use] = [
    lambda w: w.get(1, 0, 1),
    lambda w: w.range(1, 0),
    lambda w: w.write(1, 0, [1], [[1.0, 2.0]]),
    lambda w: w.nearest([1.0, 2.0]),
    lambda w: w.count(),
    lambda w: w.series(),
]
CASES: dict[str, tuple[str, dict[str, Any], list[Use]]] = {
    "vectors of another dimension": ("vectors", {"dimension": 4}, VECTORS),
    "vectors of another metric": ("vectors", {"dimension": 2, "metric": "cosine"}, VECTORS),
    "an index of another dimension": ("index", {"dimension": 3}, INDEX),
    "an index of another metric": ("index", {"dimension": 2, "metric": "euclidean"}, INDEX),
    "an index of another kind": ("index", {"dimension": 2, "kind": "hnsw"}, INDEX),
    "a warm store of another dimension": ("warm", {"dimension": 4}, WARM),
    "a warm store, compressed": ("warm", {"dimension": 2, "compression": "zstd"}, WARM),
}


def fill(store: Any) -> None:
    """Some rows, the first of id or entity 1."""
    rows = np.ones((3, store.dimension), np.float32)
    match store:
        case holdfast.Vectors():
            store.ingest([1, 2, 3], rows)
        case holdfast.Index():
            store.insert_batch([1, 2, 3], rows)
        case _:
            store.write(1, 0, [1, 2, 3], rows)


@pytest.mark.parametrize("case", CASES)
def test_a_handle_of_another_store_says_so(tmp_path: Path, case: str) -> None:
    """Whatever is asked of it, it says what is another now, and neither reads nor writes that."""
    kind, options, uses = CASES[case]
    with holdfast.open(tmp_path) as engine, holdfast.open(tmp_path) as other:
        old = getattr(engine, kind)("s", dimension=2)
        fill(old)
        other.drop("s")
        new = getattr(other, kind)("s", **options)
        fill(new)
        for use in uses:
            with pytest.raises(OptionsConflict, match=r"dropped and made anew .* open it again"):
                use(old)
        assert (new.count(), engine.health()[0].restarts) == (3, 0)
        assert getattr(engine, kind)("s").count() == 3


@pytest.mark.parametrize("case", CASES)
def test_a_handle_of_asyncio_says_so(tmp_path: Path, case: str) -> None:
    """The same through the other face, where handles share a connection."""
    kind, options, uses = CASES[case]

    async def check() -> None:
        async with holdfast.aio.open(tmp_path) as engine:
            old = await getattr(engine, kind)("s", dimension=2)
            await old.count()
            await engine.drop("s")
            new = await getattr(engine, kind)("s", **options)
            assert await new.count() == 0
            for use in uses:
                with pytest.raises(OptionsConflict, match="dropped and made anew"):
                    await use(old)
            assert await new.count() == 0

    asyncio.run(check())


def test_a_handle_remembers_beyond_its_supervisor(tmp_path: Path) -> None:
    """Neither does a supervisor that never saw the first store give its handle the second."""
    with holdfast.open(tmp_path) as engine:
        old = engine.vectors("s", dimension=2)
        fill(old)
        engine.drop("s")
        fill(engine.vectors("s", dimension=4))
        kill(supervisor_pid(engine))
        with pytest.raises(OptionsConflict, match=r"dimension=4, not 2.* made anew"):
            old.get([1])
        assert engine.vectors("s").count() == 3


def test_a_handle_is_a_store_by_name(tmp_path: Path) -> None:
    """Of a store that was made anew like the one before, a handle shows what is there now."""
    with holdfast.open(tmp_path) as engine, holdfast.open(tmp_path) as other:
        fold, vectors = engine.fold("f"), engine.vectors("v", dimension=2)
        fold.apply([holdfast.Put("k", b"old")], at(7))
        fill(vectors)
        other.drop("f")
        other.drop("v")
        with pytest.raises(StoreNotFound):
            fold.get("k")
        with pytest.raises(StoreNotFound):
            vectors.count()
        put(other.fold("f"), "k", b"new")
        other.vectors("v", dimension=2)
        assert (value_of(fold, "k"), fold.cursor().u64, vectors.count()) == (b"new", None, 0)
        other.drop("f")
        other.registry("f")
        with pytest.raises(WrongKind):
            fold.get("k")


def test_a_reader_notices_that_its_file_was_made_anew(tmp_path: Path) -> None:
    """Refreshing a read-only store whose file has another dimension now says so."""
    with holdfast.open(tmp_path / "w") as writer, holdfast.open(tmp_path / "r") as reader:
        fill(writer.vectors("s", dimension=2))
        path = tmp_path / "w" / "s.rvf"
        seen = reader.vectors("s", path=path, read_only=True)
        assert seen.refresh() == 3
        writer.drop("s")
        fill(writer.vectors("s", dimension=4))
        with pytest.raises(OptionsConflict, match="dimension=4, not 2"):
            seen.refresh()
        again = reader.vectors("s", path=path, read_only=True)
        rows = again.get([1])
        assert rows.vectors is not None
        assert rows.vectors.shape == (1, 4)
