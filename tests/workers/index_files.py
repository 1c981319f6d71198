"""Files of an index written, read and damaged beside its actor, for tests."""

import itertools

from holdfast.bench.faults import MemoryDisk
from holdfast.workers import index_messages as im
from holdfast.workers.actor import Caller
from holdfast.workers.index import IndexActor
from holdfast.workers.index_messages import IndexOptions
from tests.workers.index_model import (
    ask,
    inserting,
    opened,
    rows_of,
)


class Writer:
    """Writes rows one by one, each answered. No two requests of a run are the same."""

    requests = itertools.count(1)

    def __init__(self, actor: IndexActor) -> None:
        self.actor = actor

    def write(self, *numbers: int) -> None:
        """Insert rows with these ids."""
        for number in numbers:
            caller = Caller(5, next(self.requests))
            ask(self.actor, inserting({number: ([number], None)}), im.IndexInserted, caller)
            self.actor.commit()


def closed(memory: MemoryDisk, *numbers: int, options: IndexOptions | None = None) -> None:
    """An index with these rows in its log, closed."""
    actor = opened(memory, options=options)
    Writer(actor).write(*numbers)
    actor.close()


def put(memory: MemoryDisk, path: str, content: bytes) -> None:
    """Give a file this content, durably."""
    if memory.inode_at(path) is not None:
        memory.remove(path)
    file = memory.create(path)
    file.append(content)
    file.sync()
    file.close()
    memory.sync_directory("/data")


def content(memory: MemoryDisk, path: str) -> bytes:
    """What a file has, which is there."""
    found = memory.content(path)
    assert found is not None
    return found


def ids(actor: IndexActor) -> list[int | bytes]:
    """The ids of all rows, in storage order."""
    return [item[0] for item in rows_of(actor)]


def overwrite(memory: MemoryDisk, path: str, content: bytes) -> None:
    """Give the same file other content, as damage does, and some programs."""
    file = memory.open(path, write=True)
    file.truncate(len(content))
    file.write_at(0, content)
    file.close()
