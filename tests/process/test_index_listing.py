"""Every row of an index, and whether its files are whole, with real processes and without."""

import asyncio
import inspect
import signal
from pathlib import Path

import numpy as np
import pytest

import holdfast
from holdfast import PersistedIndex
from tests.process.harness import send, worker_pid

COUNT = 20_000  # more than a page
ROWS = np.arange(4 * COUNT, dtype=np.float32).reshape(COUNT, 4)


def fill(index: holdfast.Index | PersistedIndex) -> None:
    """Rows whose ids are not in the order of their insertion."""
    assert not len(index)
    assert index, "an index without rows is an index"
    index.insert_batch(range(COUNT - 1, -1, -1), ROWS[::-1], [{"n": n} for n in range(COUNT)])
    index.insert_batch([b"b", b"a"], ROWS[:2])


def check(index: holdfast.Index | PersistedIndex) -> None:
    """Everything that lists, counts and checks says what ``fill`` wrote."""
    assert list(index.ids()) == [*range(COUNT), b"a", b"b"]
    rows = list(index.scan())
    assert [row.id for row in rows] == [*range(COUNT), b"a", b"b"]
    assert np.array_equal(np.array([row.vector for row in rows[:COUNT]]), ROWS)
    assert rows[5].metadata == {"n": COUNT - 6}
    assert rows[-1].metadata is None
    assert len(index) == index.count() == index.status().live_rows == COUNT + 2
    assert b"a" in index
    assert not index.contains(b"c")
    assert index.contains(np.uint64(7))
    with pytest.raises(holdfast.InvalidArgument):
        index.contains("a")  # type: ignore[arg-type]
    found = index.verify()
    assert (found.log_records, found.problems) == (COUNT + 2, [])


def test_an_engine_lists_every_row_across_a_death(tmp_path: Path) -> None:
    """In order of id, in pages; one that begins with one worker goes on with the next."""
    with holdfast.open(tmp_path) as engine:
        index = engine.index("i", dimension=4, checkpoint_bytes=1 << 30)
        fill(index)
        check(index)
        ids = index.ids()
        first = next(ids)
        send(worker_pid(engine, "i"), signal.SIGKILL)
        assert [first, *ids] == [*range(COUNT), b"a", b"b"]


def test_an_index_in_the_own_process_does_the_same(tmp_path: Path) -> None:
    """``PersistedIndex`` lists, counts and checks as an engine's does, on the same files."""
    with PersistedIndex.open(tmp_path / "i.iqdb", dimension=4) as index:
        fill(index)
        check(index)
    with holdfast.open(tmp_path) as engine:
        check(engine.index("i"))


def test_asyncio_lists_the_same(tmp_path: Path) -> None:
    """The iterators are async ones there."""

    async def work() -> None:
        async with holdfast.aio.open(tmp_path) as engine:
            index = await engine.index("i", dimension=4)
            assert [id_ async for id_ in index.ids()] == []
            await index.insert_batch(range(COUNT), ROWS)
            assert [id_ async for id_ in index.ids()] == [*range(COUNT)]
            rows = [row async for row in index.scan()]
            assert np.array_equal(np.array([row.vector for row in rows]), ROWS)
            assert await index.contains(7)
            assert (await index.verify()).problems == []

    asyncio.run(work())


def test_both_faces_have_the_same_operations(tmp_path: Path) -> None:
    """What an ``Index`` has a ``PersistedIndex`` has, with the same parameters and results."""
    public = {name for name in dir(holdfast.Index) if not name.startswith("_")}
    public |= {"__len__", "__contains__", "__bool__"}
    missing = {name for name in public if not hasattr(PersistedIndex, name)}
    assert missing == {"name"}  # it has no engine to have one in
    for name in public - missing:
        there, here = getattr(holdfast.Index, name), getattr(PersistedIndex, name)
        if not callable(there):
            continue
        ours = set(inspect.signature(here).parameters)
        assert ours == set(inspect.signature(there).parameters) - {"timeout", "progress"}, name
    with holdfast.open(tmp_path) as engine:
        index = engine.index("i", dimension=4)
        with PersistedIndex.open(tmp_path / "p.iqdb", dimension=4) as mine:
            for each in (index, mine):
                each.insert(1, ROWS[0])
                assert isinstance(each.checkpoint(), holdfast.Compacted)
                saved = each.save()
                assert saved.bytes_before == saved.bytes_after
            theirs, ours_ = index.header(), mine.header()
            assert theirs == ours_ == PersistedIndex.read_header(tmp_path / "p.iqdb")
            assert index.kind == mine.kind == "flat"
