"""Empty input to every operation that takes some: an answer that says nothing was there."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import holdfast
from holdfast import Cursor, IndexInserted, Ingested, WarmWritten

Ask = Callable[[Any], Any]
"""An operation asked of a handle, blocking or asyncio."""
Expected = Callable[[Any], bool]

IDS: tuple[object, ...] = ([], (), range(0), np.empty(0, np.uint64), pa.array([], pa.uint64()))
ROWS: tuple[object, ...] = (
    [],
    (),
    np.empty((0, 3), np.float32),
    np.empty((0, 3), np.float64),
    pa.array([], pa.list_(pa.float32(), 3)),
)
TIMES: tuple[object, ...] = ([], (), range(0), np.empty(0, np.int64), pa.array([], pa.int64()))
METADATA: tuple[object, ...] = (None, [], {}, {"page": []}, pa.table({"page": pa.array([], "i8")}))


SERIES: list[tuple[object, ...]] = [*zip(TIMES, ROWS, (None, [], None, [], None), strict=True)]


def is_empty(answer: Any) -> bool:
    """Nothing in it, however it is asked."""
    return len(answer) == 0


def equals(expected: object) -> Expected:
    """The answer is this one."""
    return lambda answer: bool(answer == expected)


VECTORS: list[tuple[Ask, Expected]] = [
    *(
        (lambda v, each=each: v.ingest(*each), equals(Ingested(0, 0, [], 0)))
        for each in zip(IDS, ROWS, METADATA, strict=True)
    ),
    (
        lambda v: v.ingest([], [], invalid="skip", non_finite="accept"),
        equals(Ingested(0, 0, [], 0)),
    ),
    *((lambda v, ids=ids: v.get(ids), is_empty) for ids in IDS),
    *((lambda v, ids=ids: v.delete(ids), equals(0)) for ids in IDS),
    *((lambda v, rows=rows: v.query(rows, k=3), is_empty) for rows in ROWS),
    (lambda v: v.get([], include=()), is_empty),
    (lambda v: v.query([], include=("metadata", "vectors"), columns=[]), is_empty),
    (lambda v: v.query([0.0, 0.0, 0.0]), is_empty),
    (lambda v: v.count(), equals(0)),
]
INDEX: list[tuple[Ask, Expected]] = [
    *(
        (lambda i, each=each: i.insert_batch(*each), equals(IndexInserted(0, 0)))
        for each in zip(IDS, ROWS, METADATA, strict=True)
    ),
    *((lambda i, ids=ids: i.upsert_batch(ids, []), equals(IndexInserted(0, 0))) for ids in IDS),
    *((lambda i, ids=ids: i.delete_batch(ids), equals(0)) for ids in IDS),
    *((lambda i, ids=ids: i.get(ids), is_empty) for ids in IDS),
    *((lambda i, rows=rows: i.search(rows), is_empty) for rows in ROWS),
    (lambda i: i.search([0.0, 0.0, 0.0], metadata=True), is_empty),
    (lambda i: i.optimize(), equals(0)),
]
WARM: list[tuple[Ask, Expected]] = [
    *((lambda w, each=each: w.write(1, 0, *each), equals(WarmWritten(0, 0))) for each in SERIES),
    (lambda w: w.write_batch(0, []), equals(WarmWritten(0, 0))),
    (
        lambda w: w.write_batch(0, {"entity": [], "timestamp": [], "vector": []}),
        equals(WarmWritten(0, 0)),
    ),
    (lambda w: w.delete(1, 0, []), equals(0)),
    (lambda w: w.delete_range(1, 0, 5, 4), equals(0)),
    (lambda w: w.range(1, 0), is_empty),
    *((lambda w, ids=ids: w.range_many(ids, 0), is_empty) for ids in IDS),
    (lambda w: w.nearest([0.0, 0.0, 0.0], entities=[]), is_empty),
    (lambda w: w.series(), is_empty),
    (lambda w: w.to_table(), is_empty),
]
FOLD: list[tuple[Ask, Expected]] = [
    (lambda f: f.apply([], Cursor.none()), equals(None)),
    (lambda f: f.apply(iter(()), Cursor.none(), stale="refuse"), equals(None)),
    (lambda f: f.get_many([]), is_empty),
    (lambda f: f.stale_keys([]), is_empty),
    (lambda f: f.range(limit=0), is_empty),
    (lambda f: f.range(""), is_empty),
    (lambda f: f.get(""), equals(None)),
]
REGISTRY: list[tuple[Ask, Expected]] = [
    (lambda r: r.save_many([]), equals(None)),
    (lambda r: r.save_many(()), equals(None)),
    (lambda r: r.list_all(), is_empty),
    (lambda r: r.get_exact(bytes(32)), equals(None)),
    (lambda r: r.delete(bytes(32)), equals(False)),
]
KINDS: dict[str, tuple[dict[str, int], Sequence[tuple[Ask, Expected]]]] = {
    "fold": ({}, FOLD),
    "vectors": ({"dimension": 3}, VECTORS),
    "warm": ({"dimension": 3}, WARM),
    "index": ({"dimension": 3}, INDEX),
    "registry": ({}, REGISTRY),
}


@pytest.mark.parametrize("kind", KINDS)
def test_empty_input_is_answered(tmp_path: Path, kind: str) -> None:
    """Whatever is empty, and whichever operation a worker meets first, none kills it."""
    options, asked = KINDS[kind]
    with holdfast.open(tmp_path) as engine:
        for number, (ask, expected) in enumerate(asked):
            store = getattr(engine, kind)("s", **options)
            assert expected(ask(store)), f"{kind}, operation {number}"
            engine.restart("s")
        assert [store.restarts for store in engine.health()] == [0]


@pytest.mark.parametrize("kind", KINDS)
def test_empty_input_is_answered_by_asyncio(tmp_path: Path, kind: str) -> None:
    """The same through the other face."""
    options, asked = KINDS[kind]

    async def ask_all() -> None:
        async with holdfast.aio.open(tmp_path) as engine:
            store = await getattr(engine, kind)("s", **options)
            for number, (ask, expected) in enumerate(asked):
                assert expected(await ask(store)), f"{kind}, operation {number}"
                await engine.restart("s")
            assert [store.restarts for store in await engine.health()] == [0]

    asyncio.run(ask_all())
