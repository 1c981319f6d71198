"""What an index refuses, each with a typed error, before anything is changed."""

from collections.abc import Callable

import numpy as np
import pytest

from holdfast.bench.faults import MemoryDisk
from holdfast.formats.errors import (
    Duplicate,
    InvalidArgument,
    LimitExceeded,
    NotFound,
    OptionsConflict,
    ResultTooLarge,
    StoreNotFound,
)
from holdfast.workers import index_messages as im
from holdfast.workers.actor import Caller
from holdfast.workers.index import open_index
from holdfast.workers.index_messages import IndexOptions
from holdfast.workers.messages import StoreSpec
from holdfast.workers.raw_arrays import raw
from tests.workers.index_files import Writer, closed, ids
from tests.workers.index_model import (
    DIMENSION,
    PATH,
    WAL,
    ask,
    deleting,
    inserting,
    opened,
    row,
    rows_of,
    tick,
)

pytestmark = pytest.mark.usefixtures("quiet")


REFUSED: dict[str, tuple[Callable[[], object], type[Exception]]] = {
    "an id that is there": (lambda: inserting({1: ([1.0], None)}), Duplicate),
    "an id that comes twice": (
        lambda: im.IndexInsert([8, 8], raw(np.zeros((2, DIMENSION), np.float32))),
        Duplicate,
    ),
    "an empty id": (lambda: im.IndexInsert([b""], raw(np.zeros(4, np.float32))), InvalidArgument),
    "an id below 0": (lambda: im.IndexInsert([-1], raw(np.zeros(4, np.float32))), LimitExceeded),
    "an id over u64": (
        lambda: im.IndexInsert([1 << 64], raw(np.zeros(4, np.float32))),
        LimitExceeded,
    ),
    "another dimension": (
        lambda: im.IndexInsert([8], raw(np.zeros(5, np.float32))),
        InvalidArgument,
    ),
    "metadata of fewer rows": (
        lambda: im.IndexInsert([8], raw(np.zeros(4, np.float32)), []),
        InvalidArgument,
    ),
    "metadata that is none": (
        lambda: im.IndexInsert([8], raw(np.zeros(4, np.float32)), [b"\x01"]),
        InvalidArgument,
    ),
    "metadata with more behind it": (
        lambda: im.IndexInsert([8], raw(np.zeros(4, np.float32)), [bytes(5)]),
        InvalidArgument,
    ),
    "a record over the limit": (
        lambda: im.IndexInsert([b"x" * 3000], raw(np.zeros(4, np.float32))),
        LimitExceeded,
    ),
    "a delete of what is not there": (lambda: deleting(404), NotFound),
    "a delete of one id twice": (lambda: deleting(1, 1), NotFound),
    "a search of another dimension": (
        lambda: im.IndexSearch(raw(np.zeros(5, np.float32)), 1, 1),
        InvalidArgument,
    ),
    "a filter that is none": (
        lambda: im.IndexSearch(raw(np.zeros(4, np.float32)), 1, 1, b"where"),
        InvalidArgument,
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_requests_change_nothing(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each gets a typed error before a byte is written."""
    monkeypatch.setattr("holdfast.workers.index_requests.INDEX_RECORD_BYTES_MAX", 2000)
    memory = MemoryDisk("/data")
    actor = opened(memory)
    Writer(actor).write(1)
    before = memory.content(WAL), memory.content(f"{WAL}.ledger")
    request, error = REFUSED[what]
    with pytest.raises(error):
        actor.handle(request(), Caller(1, 1))  # type: ignore[arg-type]  # one of the requests
    assert (memory.content(WAL), memory.content(f"{WAL}.ledger")) == before
    assert rows_of(actor) == [row(1, 1.0)]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (IndexOptions(dimension=5), OptionsConflict),
        (IndexOptions(metric="dot"), OptionsConflict),
        (IndexOptions(kind="hnsw"), OptionsConflict),
        (IndexOptions(kind="nonsense"), InvalidArgument),
        (IndexOptions(kind="no.such.module:Class"), InvalidArgument),
        (IndexOptions(kind="holdfast.workers.index_store:IndexStore"), InvalidArgument),
        (IndexOptions(kind="json:dumps"), InvalidArgument),
    ],
)
def test_an_index_is_not_opened_as_something_else(
    options: IndexOptions, error: type[Exception]
) -> None:
    """Another dimension, metric or kind is refused, and the lock is let go of."""
    memory = MemoryDisk("/data")
    closed(memory, 1)
    with pytest.raises(error):
        opened(memory, options=options)
    assert ids(opened(memory)) == [1]


def test_an_absent_index_is_not_made_unless_asked() -> None:
    """Without ``create`` nothing comes into being, and a new one needs its dimension."""
    memory = MemoryDisk("/data")
    spec = StoreSpec("i", "index", PATH, create=False, options=IndexOptions(dimension=4))
    with pytest.raises(StoreNotFound):
        open_index(memory, spec, tick)
    with pytest.raises(InvalidArgument, match="dimension"):
        opened(memory, options=IndexOptions())
    assert memory.list("/data") == []


def test_answers_too_large_to_send_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metadata and ids count, too: ``ResultTooLarge``, and the index goes on serving."""
    for module in ("index", "index_answers"):
        monkeypatch.setattr(f"holdfast.workers.{module}.RESULT_BYTES_MAX", 4000)
    memory = MemoryDisk("/data")
    actor = opened(memory)
    ask(actor, inserting({1: ([1], {"a": "y" * 1000})}), im.IndexInserted, Caller(1, 1))
    ask(actor, inserting({b"k" * 1000: ([2], None)}), im.IndexInserted, Caller(1, 2))
    actor.commit()

    def search(queries: int, *, metadata: bool = False) -> im.IndexSearch:
        return im.IndexSearch(
            raw(np.ones((queries, DIMENSION), np.float32)), queries, 2, metadata=metadata
        )

    fitting = (search(3), search(1, metadata=True), im.IndexGet([1] * 3))
    for request in fitting:
        assert ask(actor, request, object) is not None
    for request in (search(4), search(2, metadata=True), im.IndexGet([1] * 4), search(500)):
        with pytest.raises(ResultTooLarge, match="4000"):
            actor.handle(request, Caller(1, 3))
    with pytest.raises(ResultTooLarge, match="4000"):
        actor.handle(im.IndexGet([1] * 500), Caller(1, 3))
