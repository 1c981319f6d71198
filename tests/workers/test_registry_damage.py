"""Damaged, lost and left-over files of a registry: never a wrong answer, never a silent loss."""

import random
from pathlib import Path

import pytest

from holdfast.bench.faults import Everything, FaultyDisk, MemoryDisk, Nothing, Zeros
from holdfast.formats.errors import (
    HoldfastError,
    InvalidFormat,
    StoreCorrupt,
    StoreLocked,
    StoreNotFound,
)
from holdfast.workers import registry_messages as rm
from holdfast.workers.actor import Caller
from holdfast.workers.disk import OsDisk
from holdfast.workers.messages import StoreStatus
from tests.formats.zsm_samples import content, read_file
from tests.workers.registry_model import (
    PATH,
    State,
    after,
    ask,
    content_of,
    opened,
    saving,
    state_of,
    write,
)

pytestmark = pytest.mark.usefixtures("quiet")

FIRST, SECOND = saving(("a", 1), ("b", 1)), saving(("b", 2), ("c", 2))


def _closed() -> MemoryDisk:
    """A registry of two generations, closed."""
    disk = MemoryDisk("/data")
    actor = opened(disk)
    write(actor, FIRST, Caller(1, 1))
    write(actor, SECOND, Caller(1, 2))
    actor.close()
    return disk


DISK = _closed()
FILE = content_of(DISK)
STATE = after(after({}, FIRST), SECOND)
BEFORE = after({}, FIRST)


def _open(disk: MemoryDisk) -> State | HoldfastError:
    """What the actor makes of a file; a refused one is left exactly as it was."""
    before, inode, names = content_of(disk), disk.inode_at(PATH), disk.list("/data")
    try:
        actor = opened(disk)
    except HoldfastError as error:
        assert (content_of(disk), disk.inode_at(PATH), disk.list("/data")) == (before, inode, names)
        return error
    found = state_of(actor)
    actor.close()
    return found


def test_every_truncation() -> None:
    """A file cut anywhere is refused, unless all of its checksums go and nothing else."""
    end = read_file(FILE)[1]
    for cut in range(len(FILE)):
        disk = DISK.crash()
        disk.place(PATH, FILE[:cut])
        found = _open(disk)
        if cut == end:
            assert found == STATE
        else:
            assert isinstance(found, StoreCorrupt), cut
            assert isinstance(found, InvalidFormat) == (cut < 4)
            assert found.offset is not None
            assert found.offset <= cut


def test_every_bit_flip() -> None:
    """A flipped bit anywhere is refused with a place at or before it, or the damaged entry's."""
    for bit in range(8 * len(FILE)):
        damaged = bytearray(FILE)
        damaged[bit // 8] ^= 1 << bit % 8
        disk = DISK.crash()
        disk.place(PATH, bytes(damaged))
        found = _open(disk)
        assert isinstance(found, StoreCorrupt), bit
        assert found.path == PATH
        assert found.reason


@pytest.mark.parametrize("size", [64, 512, 4096])
def test_every_lost_sector(size: int) -> None:
    """Zeros or anything else in place of a sector are refused, also where all checksums were."""
    disk = MemoryDisk("/data")
    actor = opened(disk)
    write(actor, saving(*((f"model {number}", number) for number in range(20))), Caller(1, 1))
    actor.close()
    whole = content_of(disk)
    for start in range(0, len(whole), 64):
        stop = min(start + size, len(whole))
        for filling in (bytes(stop - start), random.Random(start).randbytes(stop - start)):
            left = disk.crash()
            left.place(PATH, whole[:start] + filling + whole[stop:])
            found = _open(left)
            assert isinstance(found, StoreCorrupt), (start, stop)
            assert found.offset is not None
            assert found.offset <= stop


def _unsynced() -> MemoryDisk:
    """A registry whose second generation was never synced, its worker killed."""
    disk = MemoryDisk("/data")
    actor = opened(disk)
    write(actor, FIRST, Caller(1, 1))
    actor.close()
    actor = opened(disk, PATH, "never")
    write(actor, SECOND, Caller(1, 2))
    assert ask(actor, StoreStatus(), rm.RegistryStatus).unsynced_bytes
    disk.remove(PATH + ".lock")  # which does no harm, but goes when the file is refused
    return disk.crash()


@pytest.mark.parametrize("cut", [0, 3, 11, 200, len(FILE) - 1])
def test_lost_before_it_was_synced(cut: int) -> None:
    """Damage in a file marked as not synced goes back to the last synced, and is kept."""
    disk = _unsynced()
    file = disk.open(PATH, write=True)
    file.truncate(cut)
    damaged = content_of(disk)
    actor = opened(disk)
    assert state_of(actor) == BEFORE
    assert ask(actor, StoreStatus(), rm.RegistryStatus).fell_back
    assert (disk.content(PATH + ".cut1") or b"") == damaged
    assert disk.content(PATH + ".unsynced") is None
    write(actor, SECOND, Caller(1, 3))
    assert state_of(opened(disk.power_loss(Nothing()))) == STATE


def test_without_its_checksums_an_unsynced_file_is_not_believed() -> None:
    """A file of ours that lost its checksums may have lost more; the original's is believed."""
    end = read_file(FILE)[1]
    disk = _unsynced()
    disk.open(PATH, write=True).truncate(end)
    assert state_of(opened(disk)) == BEFORE
    theirs = content("reg-tie.zsm")
    disk = _unsynced()
    disk.place("/data/m.zsm.tmp", theirs)
    disk.rename("/data/m.zsm.tmp", PATH)
    listed = ask(opened(disk.crash()), rm.RegistryList(), rm.RegistryArtifacts).artifacts
    assert len(listed) == 2
    assert state_of(opened(disk.power_loss(Everything()))) == BEFORE


def test_a_mark_without_a_previous_generation_is_no_excuse() -> None:
    """When there is nothing to go back to, a damaged file is refused and left."""
    disk = _unsynced()
    disk.remove(PATH + ".previous")
    disk.open(PATH, write=True).truncate(100)
    assert isinstance(_open(disk), StoreCorrupt)
    disk = _unsynced()
    disk.open(PATH + ".previous", write=True).truncate(100)
    disk.open(PATH, write=True).truncate(100)
    found = _open(disk)
    assert isinstance(found, StoreCorrupt)
    assert found.path == PATH + ".previous"


@pytest.mark.parametrize("choice", [Nothing(), Everything(), Zeros()], ids=["no", "all", "zeros"])
def test_power_loss_without_syncs(choice: Nothing) -> None:
    """A registry that is never synced is whole after a power loss, if perhaps an older one."""
    disk = _unsynced().power_loss(choice)
    assert state_of(opened(disk)) in (BEFORE, STATE)


class TestMissing:
    """No file where one is looked for."""

    def test_is_made_or_not(self) -> None:
        """An absent registry is made empty on request only."""
        disk = MemoryDisk("/data")
        with pytest.raises(StoreNotFound):
            opened(disk, create=False)
        assert state_of(opened(disk)) == {}
        assert content_of(disk)[:12] == content("reg-0.zsm")

    def test_with_a_previous_generation_is_no_new_registry(self) -> None:
        """A file that somebody took away is not answered for by an empty one."""
        disk = DISK.crash()
        disk.remove(PATH)
        with pytest.raises(StoreCorrupt, match="previous"):
            opened(disk)
        assert disk.inode_at(PATH) is None
        disk.rename(PATH + ".previous", PATH)
        assert state_of(opened(disk)) == BEFORE


def test_leftovers_are_removed() -> None:
    """Files of an interrupted write are no obstacle, and what the original left stays."""
    disk = DISK.crash()
    for name in (".new", ".previous.new", ".tmp"):
        disk.place(PATH + name, b"left over")
    actor = opened(disk)
    assert state_of(actor) == STATE
    write(actor, saving(("d", 1)), Caller(1, 9))
    actor.close()
    assert {name for name, _ in disk.list("/data")} == {"m.zsm", "m.zsm.previous", "m.zsm.tmp"}


def test_a_bare_file_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path without a directory is one in the current directory, also for its syncs."""
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        actor = opened(OsDisk(), "m.zsm")
        write(actor, saving(("a", number)), Caller(1, number))
        actor.close()
    assert state_of(opened(OsDisk(), str(tmp_path / "m.zsm"))) == after({}, saving(("a", 2)))


def test_names_that_differ_in_their_ending() -> None:
    """Registries beside each other never write to the same temporary file."""
    disk = FaultyDisk(MemoryDisk("/data"))
    actors = [opened(disk, f"/data/m{ending}") for ending in (".zsm", ".bin", "")]
    for number, actor in enumerate(actors):
        write(actor, saving(("a", number)), Caller(1, 1))
    for number, actor in enumerate(actors):
        assert state_of(actor) == after({}, saving(("a", number)))
    made = [call.path for call in disk.calls if call.name == "create"]
    assert len({path for path in made if path.endswith(".new")}) == 3
    assert "/data/m.zsm.tmp" not in made, "which is where the original writes"


def test_removal_takes_everything_along() -> None:
    """A dropped registry leaves nothing of its own, also not after a power loss."""
    disk = _unsynced()
    actor = opened(disk)
    write(actor, saving(("d", 1)), Caller(1, 9))
    actor.remove()
    assert disk.list("/data") == []
    assert state_of(opened(disk.power_loss(Nothing()))) == {}


def test_one_owner() -> None:
    """A second opener is refused by name, and through another name of the file as well."""
    disk = DISK.crash()
    actor = opened(disk)
    with pytest.raises(StoreLocked):
        opened(disk)
    disk.link(PATH, "/data/other.zsm")
    with pytest.raises(StoreLocked):
        opened(disk, "/data/other.zsm")
    actor.close()
    assert state_of(opened(disk, "/data/other.zsm")) == STATE


def test_a_stolen_lock_stops_the_owner() -> None:
    """An owner whose lock file is gone writes nothing more."""
    disk = DISK.crash()
    actor = opened(disk)
    disk.remove(PATH + ".lock")
    with pytest.raises(RuntimeError, match="lock file"):
        write(actor, saving(("d", 1)), Caller(1, 9))
    assert content_of(disk) == FILE
