"""Dropping what does not open: damaged stores go, what is none of ours stays."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import holdfast
from holdfast import ModelArtifact, SchemaFingerprint
from holdfast.formats.errors import HasBranches, InvalidFormat, StoreCorrupt, StoreLocked
from tests.process.harness import at

SUFFIXES = {
    "fold": ".snap",
    "vectors": ".rvf",
    "warm": ".warm",
    "index": ".iqdb",
    "registry": ".zsm",
}
ROWS = np.ones((200, 2), np.float32)


def fill(engine: holdfast.Engine, kind: str) -> None:
    """A store ``s`` of this kind, in several durable units."""
    match kind:
        case "fold":
            for number in range(3):
                engine.fold("s").apply([holdfast.Put("k", bytes(100))], at(number))
        case "vectors":
            for start in (0, 1000):
                engine.vectors("s", dimension=2).ingest(range(start, start + 200), ROWS)
        case "warm":
            engine.warm("s", dimension=2).write(1, 0, range(200), ROWS)
            engine.warm("s").flush()
            for entity in (2, 3):
                engine.warm("s").write(entity, 0, [1], ROWS[:1])
        case "index":
            engine.index("s", dimension=2).insert_batch(range(200), ROWS)
            engine.index("s").checkpoint()
            engine.index("s").insert_batch(range(1000, 1200), ROWS)
        case _:
            seen = SchemaFingerprint.from_schema([("name", "Name")])
            model = ModelArtifact(
                seen, [[0.05, 0.95]], [[0.9, 0.1]], -2.0, 0.9, 0.1, "first", trained_on=1
            )
            engine.registry("s").save(model)


def flip(path: Path, share: float = 0.5) -> None:
    """Damage a file there."""
    data = bytearray(path.read_bytes())
    place = int(len(data) * share)
    data[place : place + 8] = bytes(byte ^ 0xFF for byte in data[place : place + 8])
    path.write_bytes(data)


def blank(path: Path) -> None:
    """Leave nothing legible of a file but its beginning."""
    path.write_bytes(path.read_bytes()[:100] + bytes(path.stat().st_size - 100))


DAMAGE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a fold's log": ("fold", lambda d: flip(d / "s.snap", 0.2)),
    "a vector file": ("vectors", lambda d: flip(d / "s.rvf", 0.3)),
    "a vector file, all but its beginning": (
        "vectors",
        lambda d: (
            (d / "s.rvf").write_bytes((d / "s.rvf").read_bytes()[:200] + bytes(5000)) and None
        ),
    ),
    "a manifest": ("warm", lambda d: flip(d / "s.warm" / "MANIFEST")),
    "a missing manifest": ("warm", lambda d: (d / "s.warm" / "MANIFEST").unlink()),
    "a missing chunk": ("warm", lambda d: next((d / "s.warm").glob("*.arrow")).unlink()),
    "a warm store's log": ("warm", lambda d: flip(d / "s.warm" / "LOG", 0.3)),
    "a snapshot": ("index", lambda d: flip(d / "s.iqdb")),
    "an index's log": ("index", lambda d: flip(d / "s.iqdb.wal", 0.1)),
    "an index's missing log": ("index", lambda d: (d / "s.iqdb.wal").unlink()),
    "a registry": ("registry", lambda d: flip(d / "s.zsm")),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_store_is_dropped(tmp_path: Path, case: str) -> None:
    """A store that does not open goes with every file of its, and its name is free."""
    kind, damage = DAMAGE[case]
    with holdfast.open(tmp_path) as engine:
        fill(engine, kind)
    damage(tmp_path)
    with holdfast.open(tmp_path) as engine:
        with pytest.raises(StoreCorrupt):
            getattr(engine, kind)("s")
        engine.drop("s")
        left = [path.name for path in tmp_path.iterdir() if path.name != ".holdfast"]
        assert (left, engine.stores()) == ([], {})
        fill(engine, kind)
        assert engine.status("s").kind == kind


def test_asyncio_drops_it_too(tmp_path: Path) -> None:
    """The same through the other face."""
    with holdfast.open(tmp_path) as engine:
        fill(engine, "vectors")
    flip(tmp_path / "s.rvf", 0.3)
    asyncio.run(_drop(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [".holdfast"]


async def _drop(directory: Path) -> None:
    async with holdfast.aio.open(directory) as engine:
        await engine.drop("s")


@pytest.mark.parametrize("kind", SUFFIXES)
@pytest.mark.parametrize("others", [b"GIF89a" + bytes(1000), b"PGSS\xff\xff newer", b"x"])
def test_what_is_not_ours_is_not_dropped(tmp_path: Path, kind: str, others: bytes) -> None:
    """A file of somebody else's, or of another release's, under a name of ours stays as it is."""
    path = tmp_path / ("s" + SUFFIXES[kind])
    if kind == "warm":
        path.mkdir()
        path /= "holiday.gif"
    path.write_bytes(others)
    with holdfast.open(tmp_path) as engine:
        with pytest.raises(InvalidFormat):
            engine.drop("s")
        with pytest.raises(InvalidFormat):
            asyncio.run(_drop(tmp_path))
        assert engine.stores() == {"s": kind}
    assert path.read_bytes() == others


def test_a_file_of_another_kind_is_not_dropped(tmp_path: Path) -> None:
    """A fold under the name of an index, say, is not taken for a damaged index."""
    with holdfast.open(tmp_path) as engine:
        fill(engine, "fold")
        engine.drop("s")
        fill(engine, "fold")
    (tmp_path / "s.snap").rename(tmp_path / "s.iqdb")
    with holdfast.open(tmp_path) as engine, pytest.raises(InvalidFormat):
        engine.drop("s")
    assert (tmp_path / "s.iqdb").exists()


@pytest.mark.parametrize("damage", [lambda path: flip(path, 0.3), blank])
def test_branches_keep_a_damaged_parent(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """It goes after they have gone, however little of it is legible."""
    with holdfast.open(tmp_path) as engine:
        fill(engine, "vectors")
        engine.vectors("s").branch("child")
    damage(tmp_path / "s.rvf")
    with holdfast.open(tmp_path) as engine:
        with pytest.raises(HasBranches, match="child"):
            engine.drop("s")
        assert (tmp_path / "s.rvf").exists()
        engine.drop("child")
        engine.drop("s")
        assert engine.stores() == {}


def test_a_damaged_store_in_use_elsewhere_is_not_dropped(tmp_path: Path) -> None:
    """Whoever repairs it, say, holds its lock."""
    from holdfast.workers.disk import OsDisk
    from holdfast.workers.store_locks import all_locks

    with holdfast.open(tmp_path) as engine:
        fill(engine, "fold")
    flip(tmp_path / "s.snap", 0.2)
    path = str(tmp_path / "s.snap")
    with holdfast.open(tmp_path) as engine:
        with all_locks(OsDisk(), path, "fold"), pytest.raises(StoreLocked):
            engine.drop("s")
        assert Path(path).exists()
        engine.drop("s")
