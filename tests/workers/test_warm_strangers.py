"""Warm stores among the files of others, and large chunks of which one block is damaged."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from holdfast.bench.faults import MemoryDisk
from holdfast.formats.errors import HoldfastError, InvalidFormat, StoreCorrupt, StoreIOError
from holdfast.formats.points import TIME_MAX, TIME_MIN
from holdfast.formats.zone_map import BLOCK_BYTES
from holdfast.workers import warm_messages as wm
from holdfast.workers.actor import Caller
from holdfast.workers.disk import OsDisk
from holdfast.workers.raw_arrays import raw
from holdfast.workers.warm import WarmActor
from tests.workers.warm_reads import (
    DIMENSION,
    FILES,
    PATH,
    STATES,
    ask,
    build,
    flush,
    opened,
    scanned,
)

pytestmark = pytest.mark.usefixtures("quiet")

ORIGINALS = Path(__file__).parents[1] / "data" / "warm"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store on a real disk, closed."""
    memory = MemoryDisk("/data")
    build(memory).close()
    directory = tmp_path / "w.warm"
    directory.mkdir()
    for name, _ in memory.list(PATH):
        content = memory.content(f"{PATH}/{name}")
        assert content is not None
        (directory / name).write_bytes(content)
    return directory


def _listing(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} - {"OWNER"}


def test_real_disk(store: Path) -> None:
    """The files as they are make the store anywhere."""
    actor = opened(OsDisk(), str(store))
    assert ask(actor, wm.WarmCount(), wm.WarmCounted).points == len(STATES[-1])
    actor.close()


def _symlink(path: Path, aside: Path) -> None:
    path.rename(aside)
    path.symlink_to(aside)


def _fifo(path: Path, aside: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _directory(path: Path, aside: Path) -> None:
    path.unlink()
    path.mkdir()


def _loop(path: Path, aside: Path) -> None:
    path.unlink()
    path.symlink_to(path)


NAMES = ["LOG", "0000000001.arrow", "0000000001.zone", "0000000003.dead"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("put", [_symlink, _fifo, _directory, _loop])
def test_no_plain_file(
    store: Path, tmp_path: Path, name: str, put: Callable[[Path, Path], None]
) -> None:
    """A link, a pipe or a directory is no file of the store; nothing is waited for or touched."""
    put(store / name, tmp_path / "aside")
    before = _listing(store)
    with pytest.raises(StoreCorrupt) as caught:
        opened(OsDisk(), str(store))
    assert caught.value.path == str(store / name)
    assert _listing(store) == before


@pytest.mark.parametrize("put", [_fifo, _directory, _loop])
def test_no_plain_manifest(store: Path, tmp_path: Path, put: Callable[[Path, Path], None]) -> None:
    """A manifest that is a pipe or a directory is refused, and not replaced."""
    put(store / "MANIFEST", tmp_path / "aside")
    before = _listing(store)
    with pytest.raises((StoreCorrupt, StoreIOError)):
        opened(OsDisk(), str(store))
    assert _listing(store) == before


def test_directory_of_a_leftovers_name(store: Path) -> None:
    """A directory that is called like a chunk keeps nobody from opening the store, and stays."""
    (store / "0000000077.arrow").mkdir()
    actor = opened(OsDisk(), str(store))
    assert ask(actor, wm.WarmCount(), wm.WarmCounted).points == len(STATES[-1])
    actor.close()
    assert (store / "0000000077.arrow").is_dir()


def test_not_a_directory(tmp_path: Path) -> None:
    """A file under the store's name is refused."""
    (tmp_path / "w.warm").write_bytes(b"mine")
    with pytest.raises(InvalidFormat, match="is not a directory"):
        opened(OsDisk(), str(tmp_path / "w.warm"))
    assert (tmp_path / "w.warm").read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["notes.txt", "README", "data.arrow", "12.zone"])
def test_foreign_directory(tmp_path: Path, name: str) -> None:
    """Into a directory of somebody else's no store is put."""
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(InvalidFormat, match="is not a warm store"):
        opened(OsDisk(), str(tmp_path))
    assert _listing(tmp_path) == {name}


@pytest.mark.parametrize(
    "original", sorted(path.name for path in ORIGINALS.iterdir() if path.is_dir())
)
def test_directory_of_the_original(original: str) -> None:
    """A directory of the original's is not opened as a store, and told how to read it."""
    directory = ORIGINALS / original
    before = _listing(directory)
    with pytest.raises(HoldfastError) as caught:
        opened(OsDisk(), str(directory))
    assert isinstance(caught.value, InvalidFormat)
    assert _listing(directory) == before
    assert not (directory / "OWNER").exists()


# --- large chunks -------------------------------------------------------------------------------

ENTITIES = 8
ROWS = 40_000
"""Of each entity."""


@pytest.fixture(scope="module")
def large() -> tuple[MemoryDisk, dict[str, tuple[int, int]]]:
    """A store of one chunk of several blocks, and where the columns lie in its file."""
    disk = MemoryDisk("/data")
    actor = opened(disk)
    for entity in range(ENTITIES):
        times = np.arange(ROWS, dtype=np.int64)
        request = wm.WarmWrite(
            entity // 4, raw(np.array([entity], np.uint64)), raw(times),
            raw(_vectors(entity, times)),
        )  # fmt: skip
        ask(actor, request, wm.WarmWritten, Caller(1, entity))
    flush(actor)
    (chunk,) = actor._table.chunks
    columns = {name: chunk._span(chunk.chunk.batch.column(name)) for name in _COLUMNS}
    actor.close()
    return disk, columns


_COLUMNS = ("space", "entity", "timestamp", "vector")


def _vectors(entity: int, times: NDArray[np.int64]) -> NDArray[np.float32]:
    return np.stack([times, np.full_like(times, entity)], axis=1).astype(np.float32)


def _range(disk: MemoryDisk, actor: WarmActor, entity: int) -> None:
    """Read a whole series, which is right."""
    request = wm.WarmRange(
        entity // 4, raw(np.array([entity], np.uint64)), TIME_MIN, TIME_MAX, mapped=False
    )
    (segment,) = ask(actor, request, wm.WarmRows).segments
    assert isinstance(segment, wm.RowsHere)
    times = np.frombuffer(segment.timestamps, "<i8")
    assert times.tolist() == list(range(ROWS))
    vectors = np.frombuffer(segment.vectors, "<f4").reshape(-1, DIMENSION)
    assert np.array_equal(vectors, _vectors(entity, times))


def _damaged(disk: MemoryDisk, offset: int) -> MemoryDisk:
    left = disk.crash()
    content = left.content(FILES.chunk(1))
    assert content is not None
    left.place(
        FILES.chunk(1), content[:offset] + bytes([content[offset] ^ 4]) + content[offset + 1 :]
    )
    return left


def test_one_block_of_vectors(large: tuple[MemoryDisk, dict[str, tuple[int, int]]]) -> None:
    """Damage in one block of vectors is met by the series that lie in it, and by no other."""
    disk, columns = large
    first, last = columns["vector"]
    assert last - first > 2 * BLOCK_BYTES
    block = -(-first // BLOCK_BYTES) * BLOCK_BYTES
    left = _damaged(disk, block)
    actor = opened(left)
    size = ROWS * 4 * DIMENSION
    starts = [first + entity * size for entity in range(ENTITIES)]
    in_block = [n for n, at in enumerate(starts) if at < block + BLOCK_BYTES and at + size > block]
    assert 0 < len(in_block) < ENTITIES - 1
    for entity in range(ENTITIES):
        if entity not in in_block:
            _range(left, actor, entity)
            continue
        with pytest.raises(StoreCorrupt) as caught:
            _range(left, actor, entity)
        assert (caught.value.path, caught.value.offset) == (FILES.chunk(1), block)
    flaws = ask(actor, wm.WarmVerify(), wm.WarmVerified).flaws
    assert [(flaw.path, flaw.offset) for flaw in flaws] == [(FILES.chunk(1), block)]


@pytest.mark.parametrize("column", ["space", "entity"])
def test_keys_that_a_scan_maps(
    large: tuple[MemoryDisk, dict[str, tuple[int, int]]], column: str
) -> None:
    """Spaces and entities are checked before a reader takes them from the file."""
    disk, columns = large
    first, last = columns[column]
    offset = (first + last) // 2
    block = offset // BLOCK_BYTES * BLOCK_BYTES
    left = _damaged(disk, offset)
    actor = opened(left)
    with pytest.raises(StoreCorrupt) as caught:
        scanned(left, actor)
    assert (caught.value.path, caught.value.offset) == (FILES.chunk(1), block)


def test_damaged_times(large: tuple[MemoryDisk, dict[str, tuple[int, int]]]) -> None:
    """Times are needed by every read of a chunk, and are checked as a whole."""
    disk, columns = large
    first, last = columns["timestamp"]
    left = _damaged(disk, (first + last) // 2)
    actor = opened(left)
    for entity in range(ENTITIES):
        with pytest.raises(StoreCorrupt):
            _range(left, actor, entity)
    assert ask(actor, wm.WarmCount(), wm.WarmCounted).points == ENTITIES * ROWS
