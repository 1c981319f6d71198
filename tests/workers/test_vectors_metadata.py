"""Metadata columns keep types, numbers and values over reopening, compaction and branches."""

import math

import numpy as np
import pyarrow as pa
import pytest

from holdfast.bench.faults import MemoryDisk
from holdfast.formats.errors import InvalidArgument
from holdfast.formats.tables import ipc_to_table, table_to_ipc
from holdfast.workers import vector_messages as vm
from holdfast.workers.actor import Caller
from holdfast.workers.messages import Compacted, Done
from holdfast.workers.raw_arrays import raw
from holdfast.workers.vectors import VectorsActor
from tests.workers.vector_model import PATH, ask, opened, without_waiting
from tests.workers.vector_workload import CHILD

pytestmark = pytest.mark.usefixtures("quiet")

U64_MAX = (1 << 64) - 1


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    without_waiting(monkeypatch)


class Store:
    """A store whose metadata is looked at."""

    def __init__(self, disk: MemoryDisk, path: str = PATH) -> None:
        self.disk = disk
        self.path = path
        self.requests = 0
        self.actor: VectorsActor = opened(disk, path)

    def ingest(self, ids: list[int], **columns: pa.Array) -> None:
        """Rows with these columns."""
        self.requests += 1
        vectors = np.zeros((len(ids), 2), np.float32)
        metadata = memoryview(table_to_ipc(pa.table(columns))) if columns else None
        request = vm.VectorsIngest(raw(np.array(ids, np.uint64)), raw(vectors), metadata)
        ask(self.actor, request, vm.Ingested, Caller(1, self.requests))

    @property
    def table(self) -> pa.Table:
        """The metadata of all rows, by id."""
        reply = ask(self.actor, vm.VectorsScan(), vm.VectorRows)
        assert reply.metadata is not None
        return ipc_to_table(reply.metadata)

    def kept(self) -> list[pa.Table]:
        """The metadata now, after reopening, after a compaction, and after reopening that."""
        found = [self.table]
        for again in (False, True):
            if again:
                ask(self.actor, vm.VectorsCompact(), Compacted)
                found.append(self.table)
            self.actor.close()
            self.actor = opened(self.disk, self.path)
            found.append(self.table)
        return found

    def check(self) -> pa.Table:
        """The metadata, which is the same each time, field numbers included."""
        first, *others = self.kept()
        for other in others:
            assert other.schema.equals(first.schema, check_metadata=True)
            assert repr(other.to_pylist()) == repr(first.to_pylist())  # for NaN
        return first


def test_types_and_values() -> None:
    """Every type, with its extreme values and nulls."""
    store = Store(MemoryDisk("/data"))
    store.ingest(
        [1, 2, 3],
        u=pa.array([0, U64_MAX, None], pa.uint64()),
        i=pa.array([-(1 << 63), None, (1 << 63) - 1]),
        f=pa.array([math.nan, -0.0, None]),
        s=pa.array(["", "ü\U0001f600", None]),
        b=pa.array([True, None, False]),
        y=pa.array([b"", b"\0\xff", None]),
        n=pa.nulls(3),
    )
    table = store.check()
    types = ["uint64", "int64", "double", "string", "bool", "binary", "null"]
    assert [str(type_) for type_ in table.schema.types] == types
    second = table.to_pylist()[1]
    assert list(second.values()) == [U64_MAX, None, -0.0, "ü\U0001f600", None, b"\0\xff", None]


def test_columns_come_one_by_one() -> None:
    """A row lacks the columns of other batches, and a replaced row has only its new ones."""
    store = Store(MemoryDisk("/data"))
    store.ingest([1, 2])
    store.ingest([2, 3], a=pa.array([2, 3]))
    store.ingest([3, 4], b=pa.array(["three", "four"]))
    store.ingest([4])
    assert store.check().to_pylist() == [
        {"a": None, "b": None},
        {"a": 2, "b": None},
        {"a": None, "b": "three"},
        {"a": None, "b": None},
    ]


def test_a_column_without_values_has_any_type_yet() -> None:
    """The first value decides; from then on it is kept, also when no row has one."""
    store = Store(MemoryDisk("/data"))
    store.ingest([1], n=pa.nulls(1))
    assert [str(type_) for type_ in store.check().schema.types] == ["null"]
    store.ingest([1], n=pa.array([7], pa.uint8()))
    assert store.check().to_pylist() == [{"n": 7}]
    with pytest.raises(InvalidArgument, match="'n'"):
        store.ingest([2], n=pa.array(["seven"]))
    ask(store.actor, vm.VectorsDelete(raw(np.array([1], np.uint64))), vm.Deleted, Caller(2, 1))
    assert [str(type_) for type_ in store.check().schema.types] == ["uint64"]
    with pytest.raises(InvalidArgument, match="'n'"):
        store.ingest([2], n=pa.array(["seven"]))


def test_a_branch_has_its_parent_s_columns() -> None:
    """And new ones of its own, which may have another type than the parent's."""
    disk = MemoryDisk("/data")
    parent = Store(disk)
    parent.ingest([1], a=pa.array([1]), n=pa.nulls(1))
    ask(parent.actor, vm.VectorsBranch(CHILD), Done, Caller(9, 9))
    child = Store(disk, CHILD)
    assert child.check().to_pylist() == [{"a": 1, "n": None}]
    child.ingest([2], n=pa.array(["text"]), b=pa.array([True]))
    parent.ingest([2], n=pa.array([2.5]))
    assert child.check().to_pylist() == [
        {"a": 1, "n": None, "b": None},
        {"a": None, "n": "text", "b": True},
    ]
    with pytest.raises(InvalidArgument, match="'a'"):
        child.ingest([3], a=pa.array(["text"]))
    assert parent.table.to_pylist() == [{"a": 1, "n": None}, {"a": None, "n": 2.5}]
