"""Listing an index's rows in pages while it changes."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.bench.faults import MemoryDisk
from holdfast.formats.errors import InvalidArgument
from holdfast.formats.iqdb_values import Id
from holdfast.workers import index_listing
from holdfast.workers import index_messages as im
from holdfast.workers.actor import Caller
from holdfast.workers.core_index import CoreIndex
from tests.workers.index_files import Writer
from tests.workers.index_model import PATH, WAL, ask, inserting, opened
from tests.workers.test_index_own_class import PICKY

pytestmark = pytest.mark.usefixtures("quiet")

IDS = st.integers(0, (1 << 64) - 1) | st.integers(0, 20) | st.binary(min_size=1, max_size=2)
ROWS_OF_A_PAGE = 3


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page has few rows."""
    monkeypatch.setattr(index_listing, "_PAGE_ROWS", ROWS_OF_A_PAGE)


def in_order(ids: set[Id]) -> list[Id]:
    """u64 ascending, then bytes."""
    return sorted(ids, key=lambda id_: (isinstance(id_, bytes), id_))


def insert(index: CoreIndex, ids: set[Id]) -> None:
    """Add rows, in some order."""
    for id_ in sorted(ids, key=hash):
        index.insert(id_, np.zeros(2, np.float32))


def pages(index: CoreIndex) -> Iterator[list[Id]]:
    """All pages of ids."""
    after: Id | None = None
    more = True
    while more:
        found, more = index.listing.page(after, rows=False)
        yield found
        after = found[-1] if found else None


@pytest.mark.usefixtures("small_pages")
@given(st.sets(IDS, max_size=20), st.lists(st.tuples(st.booleans(), st.sets(IDS, max_size=9))))
def test_a_row_that_stays_comes_once(first: set[Id], changes: list[tuple[bool, set[Id]]]) -> None:
    """Whatever comes and goes between pages, ids ascend, and none that stays is left out."""
    index = CoreIndex(2)
    insert(index, first)
    always, ever, listed = set(first), set(first), list[Id]()
    steps = iter(changes)
    for page in pages(index):
        assert len(page) <= ROWS_OF_A_PAGE
        listed += page
        deleting, ids = next(steps, (False, set()))
        if deleting:
            index.remove([id_ for id_ in ids if id_ in index])
            always -= ids
        else:
            insert(index, ids)
            ever |= ids
    assert listed == in_order(set(listed))
    assert always <= set(listed) <= ever


@pytest.mark.usefixtures("small_pages")
@given(st.sets(IDS, max_size=20))
def test_another_worker_goes_on_with_a_listing(ids: set[Id]) -> None:
    """Each page may be asked of a worker that knows of none before, and none is missed."""
    listed: list[Id] = []
    more = True
    while more:
        index = CoreIndex(2)
        insert(index, ids)
        found, more = index.listing.page(listed[-1] if listed else None, rows=True)
        listed += found
    assert listed == in_order(ids)


def test_a_page_is_bounded_by_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long metadata and ids make short pages, of one row at least."""
    monkeypatch.setattr(index_listing, "_PAGE_BYTES", 400)
    index = CoreIndex(2)
    for number in range(4):
        index.insert(number, np.zeros(2, np.float32), {"text": "x" * 100})
    index.insert(b"x" * 1000, np.zeros(2, np.float32))
    assert [len(index.listing.page(after, rows=True).ids) for after in (None, 1, 3)] == [2, 2, 1]
    assert [len(index.listing.page(after, rows=False).ids) for after in (None, 3)] == [4, 1]


def test_rows_are_what_was_written() -> None:
    """A page of rows has their vectors and metadata; one of ids has neither."""
    actor = opened(MemoryDisk("/data"))
    ask(actor, inserting({b"k": ([3], {"a": 1}), 7: ([1, 2], None)}), im.IndexInserted)
    page = ask(actor, im.IndexScan(), im.IndexRows)
    assert (page.ids, page.more) == ([7, b"k"], False)
    assert np.frombuffer(page.vectors, "<f4").reshape(2, 4)[:, 0].tolist() == [1, 3]
    assert page.metadata[0] is None
    assert page.metadata[1]
    page = ask(actor, im.IndexScan(7, rows=False), im.IndexRows)
    assert (page.ids, bytes(page.vectors), page.metadata) == ([b"k"], b"", [])
    for request in (im.IndexScan(1 << 64), im.IndexScan(b""), im.IndexHas(-1)):
        with pytest.raises(InvalidArgument):
            actor.handle(request, Caller(1, 1))


def test_a_class_of_ones_own_lists_nothing_and_knows_its_ids() -> None:
    """Rows cannot be asked back from it, which is a typed error; whether one is there can be."""
    actor = opened(MemoryDisk("/data"), options=PICKY)
    Writer(actor).write(1)
    for rows in (True, False):
        with pytest.raises(InvalidArgument, match="does not list its rows"):
            actor.handle(im.IndexScan(None, rows), Caller(1, 1))
    assert ask(actor, im.IndexHas(1), im.IndexHasIt).there
    assert not ask(actor, im.IndexHas(b"1"), im.IndexHasIt).there


@pytest.mark.parametrize("where", ["snapshot", "log"])
def test_verifying_finds_every_damaged_byte(where: str) -> None:
    """Whole files have no problems; one changed byte of either, anywhere, is one with its place."""
    memory = MemoryDisk("/data")
    actor = opened(memory)
    writer = Writer(actor)
    writer.write(1, 2)
    for _ in actor.store.checkpoint():
        pass
    writer.write(3, 4)
    whole = ask(actor, im.IndexVerify(), im.IndexVerified)
    path, length = (PATH, whole.file_bytes) if where == "snapshot" else (WAL, whole.log_bytes)
    assert (whole.log_records, whole.problems) == (2, [])
    file = memory.open(path, write=True)
    for offset in range(length):
        byte = file.read_at(offset, 1)
        file.write_at(offset, bytes([byte[0] ^ 0x40]))
        found = ask(actor, im.IndexVerify(), im.IndexVerified)
        file.write_at(offset, byte)
        (problem,) = found.problems
        assert problem.startswith(f"{path!r}: offset "), offset
    assert ask(actor, im.IndexVerify(), im.IndexVerified) == whole
