"""Stores that were written before: this release reads, continues and compacts them."""

import json
from pathlib import Path

import pytest

from holdfast.bench.faults import MemoryDisk
from holdfast.formats.warm_terms import COMPRESSIONS, Compression
from holdfast.workers import warm_messages as wm
from holdfast.workers.actor import Caller
from holdfast.workers.messages import Compacted
from tests.workers.warm_reads import PATH, State, Write, ask, look_at, opened, row, with_small_maps

pytestmark = pytest.mark.usefixtures("quiet")

STORES = Path(__file__).parents[1] / "data" / "warm_store"


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rows are mapped by readers already."""
    with_small_maps(monkeypatch)


def _placed(name: str) -> MemoryDisk:
    disk = MemoryDisk("/data")
    disk.make_directory(PATH)
    disk.sync_directory("/data")
    for path in sorted((STORES / name).iterdir()):
        disk.place(f"{PATH}/{path.name}", path.read_bytes())
    return disk


def _expected() -> State:
    rows = json.loads((STORES / "expected.json").read_text("utf-8"))["rows"]
    return {
        (found["space"], found["entity"], found["timestamp"]): (
            bytes.fromhex(found["vector"]),
            found["metadata"],
        )
        for found in rows
    }


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_content(compression: Compression) -> None:
    """A store of version 1 holds what was written to it, every file of it sound and untouched."""
    disk = _placed(compression)
    actor = opened(disk)
    assert actor.properties() == wm.WarmIs(2, compression)
    assert look_at(disk, actor, _expected()) == {}
    assert ask(actor, wm.WarmVerify(), wm.WarmVerified).flaws == []
    actor.check_invariants()
    actor.close()
    for path in (STORES / compression).iterdir():
        assert disk.content(f"{PATH}/{path.name}") == path.read_bytes()


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_going_on(compression: Compression) -> None:
    """Such a store is written to, compacted and opened again, and holds all of it."""
    disk = _placed(compression)
    change = Write(0, {(1, 3): row(30), (2, 99): row(99, z="y")})
    expected = change.after(_expected())
    actor = opened(disk)
    change.send(actor, Caller(3, 1))
    assert look_at(disk, actor, expected) == {}
    ask(actor, wm.WarmCompact(), Compacted)
    assert look_at(disk, actor, expected) == {}
    actor.close()
    again = opened(disk)
    assert look_at(disk, again, expected) == {}


def test_every_kind_of_file() -> None:
    """The stores have all that a store can have: chunks, zone maps, dead rows, records."""
    for compression in COMPRESSIONS:
        names = {path.name for path in (STORES / compression).iterdir()}
        assert names == {
            "MANIFEST", "LOG", "0000000001.arrow", "0000000001.zone", "0000000002.arrow",
            "0000000002.zone", "0000000003.dead",
        }  # fmt: skip
        assert (STORES / compression / "LOG").stat().st_size > 48
