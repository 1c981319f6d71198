"""Commits that were never synced, of which a power loss takes some and spares later ones.

What is believed then is whole: also witnesses and former manifests, which no manifest lists.
"""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from holdfast.bench.drill.losses import Loss, after, pending
from holdfast.bench.faults import MemoryDisk
from holdfast.formats.errors import StoreCorrupt
from holdfast.formats.rvf import vec
from holdfast.formats.rvf.manifest import Entry, encode_manifest
from holdfast.formats.rvf.scan import find_manifest, walk
from holdfast.formats.rvf.segment import (
    HEADER_BYTES,
    SegmentType,
    content_hash,
    encode_header,
)
from holdfast.workers import inspection
from holdfast.workers.message import Durability
from holdfast.workers.standing import Standing
from tests.workers.vector_model import (
    PATH,
    Delete,
    Embed,
    History,
    Ingest,
    Op,
    opened,
    row,
    state_of,
    without_waiting,
)

pytestmark = pytest.mark.usefixtures("quiet")

FIRST: tuple[Op, ...] = (Ingest({1: row(1, 2, s="one"), 2: row(3, 4)}), Delete((2,)))
THEN: tuple[Op, ...] = (
    Ingest({2: row(7, 8, s="two"), 3: row(9, 9)}),
    Delete((3,)),
    Embed(b"image"),
    Delete((1, 2)),
)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    without_waiting(monkeypatch)


def _written(durability: Durability) -> tuple[MemoryDisk, History, int]:
    """A disk with synced commits and unsynced ones behind them; where the synced ones end."""
    disk, history = MemoryDisk("/data"), History(durability)
    actor = opened(disk, PATH, durability)
    for op in FIRST:
        history.send(actor, op)
    history.close(actor)
    synced = len(disk.content(PATH) or b"")
    actor = opened(disk, PATH, durability)
    for op in THEN:
        history.send(actor, op)
    if durability != "always":
        history.commit(actor)
    return disk, history, synced


def _commits(disk: MemoryDisk) -> list[int]:
    """Which of the pending writes are those to the store's file."""
    inode = disk.inode_at(PATH)
    return [n for n, (node, _) in enumerate(pending(disk)[1]) if node.number == inode]


def _losses(disk: MemoryDisk) -> Iterator[Loss]:
    """Every combination of commits that are lost, and each commit torn everywhere."""
    names, changes = pending(disk)
    commits = _commits(disk)
    assert len(commits) == len(THEN)
    for arrived in itertools.product("01", repeat=len(commits)):
        kept = ["1"] * len(changes)
        for number, digit in zip(commits, arrived, strict=True):
            kept[number] = digit
        yield Loss("1" * names, "".join(kept))
    everything = Loss("1" * names, "1" * len(changes))
    for number in commits:
        data = changes[number][1].data
        assert data is not None
        for cut in range(1, len(data), 41):
            yield replace(everything, torn=(number, 0, cut))
            yield replace(everything, torn=(number, cut, len(data)))


@pytest.mark.parametrize("durability", ["always", "interval", "never"])
def test_what_counts_after_a_power_loss_is_whole(durability: Durability) -> None:
    """Whatever a power loss takes, the files verify, and the commits in front of the gap count."""
    disk, history, _ = _written(durability)
    states = history.states()[len(FIRST) :]
    counted = set()
    for loss in _losses(disk):
        left = after(disk, loss)
        for moment in ("before it is opened", "after it was opened"):
            report = inspection.examine(left, PATH)
            assert report.standing in (Standing.CLEAN, Standing.RECOVERABLE), (str(loss), moment)
            actor = opened(left, PATH, durability)
            found = state_of(left, actor)
            actor.abandon()
            assert found in states, str(loss)
        if loss.torn is None:
            arrived = [loss.kept[number] for number in _commits(disk)]
            whole = [*arrived, "0"].index("0")
            assert found == states[whole], str(loss)
            counted.add(whole)
    assert counted == set(range(len(THEN) + 1))


def test_damage_to_what_was_synced_is_refused_all_the_same() -> None:
    """A segment that counts and was synced is corruption, though what follows it was lost, too."""
    disk, _, synced = _written("never")
    _, changes = pending(disk)
    left = after(disk, Loss("1" * pending(disk)[0], "1" * len(changes)))
    content = bytearray(left.content(PATH) or b"")
    first = next(at for at, h in walk(memoryview(content)) if h.type == SegmentType.VEC)
    assert first < synced
    content[first + HEADER_BYTES + 9] ^= 1
    content[synced + HEADER_BYTES + 9] ^= 1
    left.place(PATH, bytes(content))
    with pytest.raises(StoreCorrupt) as caught:
        opened(left, PATH, "never")
    assert caught.value.offset == first
    assert left.content(PATH) == bytes(content)


BY_THE_ORIGINAL = Ingest({50: row(5, 5)})


def _as_the_original_goes_on(content: bytes) -> bytes:
    """The file with a torn tail, and a commit behind it as the original makes one."""
    located = find_manifest(memoryview(content))
    assert located is not None
    torn = content + b"torn" * 30
    rows = vec.encode_vec(np.array([50], np.uint64), np.array([[5, 5]], np.float32))
    entry = Entry(998, len(torn), len(rows), SegmentType.VEC)
    manifest = located.manifest
    payload = encode_manifest(
        replace(
            manifest,
            epoch=manifest.epoch + 1,
            total_vectors=manifest.total_vectors + 1,
            entries=(*manifest.entries, entry),
            extension=None,
        )
    )
    segments: list[tuple[SegmentType, int, bytes]] = [
        (SegmentType.VEC, 998, bytes(rows)),
        (SegmentType.MANIFEST, 999, bytes(payload)),
    ]
    return torn + b"".join(
        encode_header(kind, number, len(data), content_hash(data)) + data
        for kind, number, data in segments
    )


def test_a_commit_that_the_original_built_on_a_torn_tail_stays() -> None:
    """It was not made here, and promised by another: no later power loss takes it."""
    disk, history, _ = _written("never")
    file = disk.open(PATH, write=True)
    mixed = _as_the_original_goes_on(disk.content(PATH) or b"")
    file.write_at(0, mixed)
    file.sync()
    before = BY_THE_ORIGINAL.after(history.state)
    history = History("never", before)
    left = disk.crash()  # the process died, and a program of the original came
    actor = opened(left, PATH, "never")
    assert state_of(left, actor) == before
    history.send(actor, Ingest({8: row(8, 8)}))
    history.commit(actor)
    for lost in (True, False):
        names, changes = pending(left)
        kept = "".join(
            "0" if lost and number in _commits(left) else "1" for number in range(len(changes))
        )
        again = after(left, Loss("1" * names, kept))
        found = opened(again, PATH, "never")
        assert state_of(again, found) == (before if lost else history.state)
        assert (again.content(PATH) or b"").startswith(mixed)
        found.abandon()


def test_a_commit_of_the_original_counts_without_being_opened_between() -> None:
    """After a power loss, too, a torn tail does not cost what the original built on it."""
    disk, history, _ = _written("never")
    file = disk.open(PATH, write=True)
    mixed = _as_the_original_goes_on(disk.content(PATH) or b"")
    file.write_at(0, mixed)
    file.sync()
    left = after(disk, Loss("1" * pending(disk)[0], "1" * len(pending(disk)[1])))
    actor = opened(left, PATH, "never")
    assert state_of(left, actor) == BY_THE_ORIGINAL.after(history.state)
    assert left.content(PATH) == mixed
