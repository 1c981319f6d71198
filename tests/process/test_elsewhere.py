"""Stores that lie elsewhere: while one is open, its name is enough."""

import asyncio
from pathlib import Path

import pytest

import holdfast
from holdfast.formats.errors import OptionsConflict, StoreNotFound, WrongKind
from tests.process.harness import put, value_of, worker_pid


def test_an_open_store_is_found_by_its_name(tmp_path: Path) -> None:
    """It is listed, joined, restarted, shown and dropped like those in the directory."""
    path = tmp_path / "other" / "n.snap"
    path.parent.mkdir()
    with holdfast.open(tmp_path / "d") as engine, holdfast.open(tmp_path / "d") as host:
        put(engine.fold("n", path=path, durability="never"), "k")
        assert host.stores() == {"n": "fold"}
        assert value_of(host.fold("n"), "k") == b"value"
        assert (host.status("n").path, host.fold("n").path) == (str(path), str(path))
        with pytest.raises(WrongKind):
            host.registry("n")
        before = worker_pid(engine, "n")
        host.restart("n")
        assert worker_pid(engine, "n") != before
        host.drop("n")
        assert (path.exists(), host.stores(), list(path.parent.iterdir())) == (False, {}, [])
        assert host.fold("n").path == str(tmp_path / "d" / "n.snap")


def test_asyncio_finds_it_too(tmp_path: Path) -> None:
    """The same through the other face."""
    path = tmp_path / "other.rvf"

    async def check() -> None:
        async with holdfast.aio.open(tmp_path / "d") as engine:
            opened = await engine.vectors("n", dimension=2, path=path)
            await opened.ingest([1], [[1.0, 2.0]])
            assert await engine.stores() == {"n": "vectors"}
            assert await (await engine.vectors("n")).count() == 1
            assert (await engine.status("n")).path == str(path)
            await engine.restart("n")
            await engine.drop("n")
            assert (path.exists(), await engine.stores()) == (False, {})

    asyncio.run(check())


def test_a_closed_one_is_not_found(tmp_path: Path) -> None:
    """Once nobody has it open, the name alone says nothing of where it lies, and makes another."""
    path = tmp_path / "n.snap"
    with holdfast.open(tmp_path / "d") as engine:
        put(engine.fold("n", path=path), "k")
    with holdfast.open(tmp_path / "d") as engine:
        assert engine.stores() == {}
        for call in (engine.status, engine.drop, engine.restart):
            with pytest.raises(StoreNotFound, match="'n'"):
                call("n")
        assert value_of(engine.fold("n"), "k") is None
    assert path.exists()


def test_a_name_that_two_stores_have(tmp_path: Path) -> None:
    """Neither is taken for the other: which one is open is said, and nothing is dropped."""
    path = tmp_path / "n.snap"
    with holdfast.open(tmp_path / "d") as engine:
        put(engine.fold("n"), "k", b"here")
    with holdfast.open(tmp_path / "d") as engine:
        put(engine.fold("n", path=path), "k", b"elsewhere")
        for call in (engine.fold, engine.status, engine.drop):
            with pytest.raises(OptionsConflict, match=str(path)):
                call("n")
        assert value_of(engine.fold("n", path=path), "k") == b"elsewhere"
    with holdfast.open(tmp_path / "d") as engine:
        assert value_of(engine.fold("n"), "k") == b"here"
