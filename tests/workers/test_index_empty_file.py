"""A snapshot of no bytes: a beginning where nothing tells of an index, and damage where it does."""

import pytest

from holdfast.bench.faults import Crash, FaultyDisk, MemoryDisk
from holdfast.formats.errors import InvalidArgument, StoreCorrupt, StoreNotFound
from holdfast.formats.iqdb_wal import HEADER
from holdfast.workers.index import open_index
from holdfast.workers.index_messages import IndexOptions
from holdfast.workers.inspection import examine
from holdfast.workers.messages import StoreSpec
from holdfast.workers.standing import Standing
from tests.workers.index_files import Writer, closed, content, ids, put
from tests.workers.index_model import PATH, WAL, opened, tick
from tests.workers.interruptions import every_kill

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.mark.parametrize("log", [None, b"", HEADER[:5]])
def test_an_empty_file_is_an_index_to_be(log: bytes | None) -> None:
    """Like an empty fold or vector store it counts as recoverable, and opening makes the index."""
    memory = MemoryDisk("/data")
    put(memory, PATH, b"")
    if log is not None:
        put(memory, WAL, log)
    assert examine(memory, PATH).standing is Standing.RECOVERABLE
    with pytest.raises(InvalidArgument, match="dimension"):
        opened(memory, options=IndexOptions())
    with pytest.raises(StoreNotFound):
        open_index(memory, StoreSpec("i", "index", PATH, create=False), tick)
    assert content(memory, PATH) == b""
    Writer(opened(memory)).write(1)
    assert ids(opened(memory.crash())) == [1]


@pytest.mark.parametrize(
    ("end", "log"),
    [
        ("closed", "there"), ("closed", "gone"), ("crash", "there"), ("crash", "gone"),
        ("closed without records", "there"),
    ],
)  # fmt: skip
def test_an_index_that_lost_its_bytes_is_not_made_anew(end: str, log: str) -> None:
    """Where a log, a ledger or a note tells of it, it is damaged, and nothing is touched."""
    memory = MemoryDisk("/data")
    if end == "crash":
        Writer(opened(memory)).write(1)
    else:
        closed(memory, *([1] if end == "closed" else []))
    left = memory.crash()
    left.open(PATH, write=True).truncate(0)
    if log == "gone":
        left.remove(WAL)
    before = {name for name, _ in left.list("/data")} - {"i.iqdb.lock"}
    assert examine(left, PATH).standing is Standing.DAMAGED
    with pytest.raises(StoreCorrupt, match="empty"):
        opened(left)
    assert content(left, PATH) == b""
    assert {name for name, _ in left.list("/data")} == before


def test_a_creation_over_an_empty_file_may_be_interrupted() -> None:
    """Wherever it is, the next opening makes the index after all."""
    memory = MemoryDisk("/data")
    put(memory, PATH, b"")
    probe = FaultyDisk(memory.crash())
    opened(probe)
    for kill in every_kill(probe.calls):
        left = memory.crash()
        with pytest.raises(Crash):
            opened(FaultyDisk(left, kill))
        left = left.crash()
        assert examine(left, PATH).standing in (Standing.RECOVERABLE, Standing.CLEAN)
        assert ids(opened(left)) == []
