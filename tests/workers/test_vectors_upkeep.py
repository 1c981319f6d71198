"""What a vector store does for its own good: short manifests, and a file of bounded size.

Readers of the original's source tree look for the newest manifest in the last 65,536 bytes.
"""

import errno
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from holdfast.bench.faults import Fail, FaultyDisk, MemoryDisk
from holdfast.formats.errors import HasBranches
from holdfast.formats.rvf import segment, vec
from holdfast.formats.rvf.manifest import Entry, decode_manifest, encode_manifest
from holdfast.formats.rvf.segment import (
    HEADER_BYTES,
    SegmentType,
    content_hash,
    encode_header,
)
from holdfast.formats.tables import table_to_ipc
from holdfast.workers import messages, vector_compaction, vector_store, vectors
from holdfast.workers import vector_messages as vm
from holdfast.workers.actor import Caller
from holdfast.workers.raw_arrays import raw
from holdfast.workers.vector_catalog import VecSegment
from holdfast.workers.vectors import VectorsActor
from tests.workers.columns_model import table
from tests.workers.vector_model import (
    PATH,
    ask,
    ids_in,
    opened,
    opened_read_only,
    rows_in,
    without_waiting,
)
from tests.workers.vector_workload import CHILD

pytestmark = pytest.mark.usefixtures("quiet")

TAIL_BYTES_MAX = 65_536
UPKEEP_EVERY = 8  # turns of the serve loop, while callers wait


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    without_waiting(monkeypatch)


class Served:
    """A store as the serve loop has it: requests, a commit after each, upkeep now and then."""

    def __init__(self, disk: MemoryDisk, dimension: int, path: str = PATH) -> None:
        self.disk = FaultyDisk(disk)
        self.path = path
        self.dimension = dimension
        self.actor: VectorsActor = opened(self.disk, path, "never", dimension=dimension)
        self.requests = 0
        self.longest = 0

    def _do(self, request: messages.Request) -> None:
        self.requests += 1
        ask(self.actor, request, object, Caller(1, self.requests))
        self.actor.commit()
        self.longest = max(self.longest, self.tail)
        if not self.requests % UPKEEP_EVERY:
            self.actor.step(idle=False)

    @property
    def tail(self) -> int:
        """Bytes from the newest manifest's header to the end of the file."""
        return self.actor._log.end - self.actor._store.catalog.manifest_at

    def ingest(
        self,
        ids: NDArray[np.uint64],
        value: float = 0.0,
        *,
        named: bool = False,
        texts: list[str] | None = None,
    ) -> None:
        """Rows of these ids, all alike; ``named`` ones have metadata, or these ``texts``."""
        vectors_ = np.full((len(ids), self.dimension), value, np.float32)
        metadata = None
        if named or texts is not None:
            texts = texts or [f"row {number}" for number in ids.tolist()]
            metadata = memoryview(table_to_ipc(table([{"s": text} for text in texts], ["s"])))
        self._do(vm.VectorsIngest(raw(ids), raw(vectors_), metadata))

    def delete(self, ids: NDArray[np.uint64]) -> None:
        """Delete rows."""
        self._do(vm.VectorsDelete(raw(ids)))

    def rest(self) -> None:
        """Nobody asks for a while."""
        while self.actor.step(idle=True):
            pass

    @property
    def status(self) -> vm.VectorStatus:
        """The figures."""
        return ask(self.actor, messages.StoreStatus(), vm.VectorStatus)

    def ids(self) -> list[int]:
        """All live ids."""
        found: list[int] = []
        more = True
        while more:
            after = found[-1] if found else None
            page = ask(self.actor, vm.VectorsScan(after, vectors=False), vm.VectorRows)
            found += ids_in(page.ids)
            more = page.more
        return found

    def check(self, expected: list[int]) -> None:
        """The ids are these, for the owner, for a reader, and for a successor."""
        assert self.ids() == expected
        assert self.tail <= TAIL_BYTES_MAX
        self.actor.check_invariants()
        reader = opened_read_only(self.disk, self.path)
        assert ask(reader, vm.VectorsCount(), vm.Counted).rows == len(expected)
        reader.close()
        self.actor.close()
        self.actor = opened(self.disk, self.path, dimension=None)
        assert self.ids() == expected


def _range(start: int, stop: int) -> NDArray[np.uint64]:
    return np.arange(start, stop, dtype=np.uint64)


@pytest.mark.parametrize("named", [False, True], ids=["plain", "metadata"])
def test_many_small_commits(named: bool) -> None:
    """2,000 commits of one row: the manifest stays short, and the file, once nobody asks, small."""
    served = Served(MemoryDisk("/data"), 128)
    commits = 600 if named else 2000
    for number in range(commits):
        served.ingest(_range(number, number + 1), named=named)
    assert served.longest <= TAIL_BYTES_MAX
    catalog = served.actor._store.catalog
    assert len(catalog.vecs) <= 513
    assert len(catalog.of_type(SegmentType.META)) <= 257
    served.rest()
    if not named:
        row_bytes = commits * (8 + 4 * 128)
        assert served.status.compactions >= 1
        assert served.status.file_bytes <= 5 * row_bytes
    served.check(list(range(commits)))


@pytest.mark.parametrize("at_once", [9000, 100, 7])
def test_many_deletes(at_once: int) -> None:
    """9,000 deleted ids, in one call or in many: the original's reader would be lost at 8,150."""
    served = Served(MemoryDisk("/data"), 1)
    for start in range(0, 10_000, 500):
        served.ingest(_range(start, start + 500))
    stop = 9000 if at_once > 7 else 4900  # one rewriting is enough
    for start in range(0, stop, at_once):
        served.delete(_range(start, min(start + at_once, stop)))
        assert served.tail <= TAIL_BYTES_MAX
    assert len(served.actor._store.catalog.deleted) <= 4096
    served.check(list(range(stop, 10_000)))


def test_many_deletes_in_a_branch() -> None:
    """Hidden ids are listed once for each delete; the lists are merged, too."""
    disk = MemoryDisk("/data")
    parent = Served(disk, 1)
    parent.ingest(_range(0, 1000))
    ask(parent.actor, vm.VectorsBranch(CHILD), messages.Done, Caller(2, 1))
    served = Served(disk, 1, CHILD)
    for number in range(600):
        served.delete(_range(number, number + 1))
    assert len(served.actor._store.catalog.of_type(SegmentType.HIDDEN)) <= 257
    served.check(list(range(600, 1000)))
    parent.check(list(range(1000)))


def test_deletes_during_a_compaction() -> None:
    """The list they leave is shortened once the compaction is over."""
    served = Served(MemoryDisk("/data"), 1)
    served.ingest(_range(0, 9500))
    steps = served.actor.handle(vm.VectorsCompact(), Caller(3, 1))
    assert not isinstance(steps, messages.Reply)
    next(steps)
    for start in range(0, 9000, 1000):
        served.delete(_range(start, start + 1000))
    served.ingest(_range(5, 10))
    for _ in steps:
        pass
    assert served.tail <= TAIL_BYTES_MAX
    served.check([*range(5, 10), *range(9000, 9500)])


def test_upserts_leave_a_file_of_bounded_size() -> None:
    """The same rows again and again: what is dead is dropped once it is more than what lives."""
    served = Served(MemoryDisk("/data"), 64)
    largest = 0
    for number in range(60):
        served.ingest(_range(0, 1000), float(number))
        if not number % 4:
            served.rest()
            largest = max(largest, served.status.file_bytes)
    served.rest()
    status = served.status
    assert status.compactions >= 3
    assert largest <= 2 * status.live_bytes + (4 << 20)
    assert status.file_bytes == status.live_bytes + status.dead_bytes
    assert status.dead_bytes <= max(2 << 20, status.live_bytes)
    served.check(list(range(1000)))


def test_live_and_dead_bytes_are_what_compaction_finds() -> None:
    """The figures that decide are right: afterwards nothing is dead, and as much lives."""
    served = Served(MemoryDisk("/data"), 16)
    for number in range(20):
        served.ingest(_range(number * 50, number * 50 + 80), float(number), named=True)
    served.delete(_range(0, 100))
    ask(served.actor, vm.VectorsEmbed("wasm", memoryview(bytes(5000))), messages.Done)
    before = served.status
    assert before.dead_bytes > 10_000
    done = ask(served.actor, vm.VectorsCompact(), messages.Compacted)
    after = served.status
    assert (done.bytes_before, done.bytes_after) == (before.file_bytes, after.file_bytes)
    assert after.dead_bytes < 100  # the head of one segment, and what aligns its vectors
    assert after.live_bytes <= before.live_bytes + 1000
    served.check(list(range(100, 1030)))


class TestAutomaticCompaction:
    """When it happens, and when not."""

    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(vectors, "_DEAD_BYTES_MIN", 20_000)

    def _wasteful(self, disk: MemoryDisk) -> Served:
        served = Served(disk, 16)
        for number in range(8):
            served.ingest(_range(0, 100), float(number))
        return served

    def test_is_put_off_while_a_branch_reads_the_file(self) -> None:
        """It comes once the branch is gone."""
        disk = MemoryDisk("/data")
        served = self._wasteful(disk)
        ask(served.actor, vm.VectorsBranch(CHILD), messages.Done, Caller(2, 1))
        served.rest()
        assert served.status.compactions == 0
        with pytest.raises(HasBranches, match=r"child\.rvf"):
            ask(served.actor, vm.VectorsCompact(), messages.Compacted)
        child = opened(disk, CHILD, dimension=None)
        child.remove()
        served.actor._compact_after = 0.0  # the moment when it looks again
        served.rest()
        assert served.status.compactions == 1

    def test_ends_when_a_branch_is_made(self) -> None:
        """A branch pins a commit of the old file, so that file stays."""
        disk = MemoryDisk("/data")
        served = self._wasteful(disk)
        assert served.actor.step(idle=True)
        assert served.actor.step(idle=True)
        ask(served.actor, vm.VectorsBranch(CHILD), messages.Done, Caller(2, 1))
        served.rest()
        assert served.status.compactions == 0
        child = opened_read_only(disk, CHILD)
        assert ask(child, vm.VectorsCount(), vm.Counted).rows == 100
        assert disk.inode_at(f"{PATH}.tmp") is None
        served.check(list(range(100)))

    def test_gives_way_to_one_that_is_asked_for(self) -> None:
        """Which need not wait until nobody asks for anything."""
        disk = MemoryDisk("/data")
        served = self._wasteful(disk)
        assert served.actor.step(idle=True)
        ask(served.actor, vm.VectorsCompact(), messages.Compacted)
        assert served.status.compactions == 1
        served.check(list(range(100)))

    def test_waits_for_another(self) -> None:
        """Two who ask get one after the other."""
        served = self._wasteful(MemoryDisk("/data"))
        first = served.actor.handle(vm.VectorsCompact(), Caller(3, 1))
        second = served.actor.handle(vm.VectorsCompact(), Caller(4, 1))
        assert not isinstance(first, messages.Reply)
        assert not isinstance(second, messages.Reply)
        next(first)
        assert next(second) is None
        for _ in first:
            assert next(second) is None
        for _ in second:
            pass
        assert served.status.compactions == 2
        served.check(list(range(100)))

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
    def test_is_put_off_when_the_disk_refuses(self, code: int) -> None:
        """The store serves on with its file as it is; it tries again when there is more to gain."""
        disk = MemoryDisk("/data")
        served = self._wasteful(disk)
        size = served.status.file_bytes
        calls = frozenset({"append"})
        served.disk.arm(Fail(len(served.disk.calls), code, lasting=True, calls=calls))
        served.rest()
        assert served.disk.struck == 1
        assert served.status.compactions == 0
        assert served.status.file_bytes == size
        assert disk.inode_at(f"{PATH}.tmp") is None
        served.rest()
        assert served.disk.struck == 1, "not again at once"
        served.disk.arm()
        for number in range(12):
            served.ingest(_range(0, 100), float(number))
        served.rest()
        assert served.status.compactions >= 1
        served.check(list(range(100)))

    def test_leaves_a_little_alone(self) -> None:
        """Below a few pages nothing is gained."""
        served = Served(MemoryDisk("/data"), 16)
        served.ingest(_range(0, 100))
        served.ingest(_range(0, 100))
        served.rest()
        assert served.status.compactions == 0
        assert 0 < served.status.dead_bytes < 20_000

    def test_a_reader_never_compacts(self) -> None:
        """It has no business with the file."""
        disk = MemoryDisk("/data")
        served = self._wasteful(disk)
        reader = opened_read_only(disk)
        assert not reader.step(idle=True)
        reader.close()
        assert served.status.compactions == 0


def test_metadata_too_long_for_one_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compaction makes as many segments of it as that takes, also where rows differ in length."""
    monkeypatch.setattr(segment, "PAYLOAD_BYTES_MAX", 100_000)
    monkeypatch.setattr(vector_compaction, "_META_BYTES", 30_000)
    served = Served(MemoryDisk("/data"), 2)
    texts: dict[int, str] = {}
    for start in range(0, 300, 10):
        lengths = [80_000 if (start, n) == (150, 5) else 300 * (n % 7) for n in range(10)]
        names = {start + n: "x" * length for n, length in enumerate(lengths)}
        texts |= names
        served.ingest(_range(start, start + 10), texts=list(names.values()))
    steps = served.actor.handle(vm.VectorsCompact(), Caller(3, 1))
    assert not isinstance(steps, messages.Reply)
    next(steps)
    meanwhile = ["y" * 20_000] * 4
    served.ingest(_range(300, 304), texts=meanwhile)
    texts |= dict(zip(range(300, 304), meanwhile, strict=True))
    for _ in steps:
        pass
    metas = served.actor._store.catalog.of_type(SegmentType.META)
    assert len(metas) >= 5
    assert max(entry.payload_bytes for entry in metas) <= 100_000
    for _ in range(2):
        rows = rows_in(ask(served.actor, vm.VectorsGet(raw(_range(0, 304))), vm.VectorRows))
        assert {number: dict(found.metadata)["s"] for number, found in rows.items()} == texts
        served.check(list(range(304)))


def test_vectors_too_long_for_one_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is one commit all the same, of as many segments as it takes."""
    monkeypatch.setattr(vec, "PAYLOAD_BYTES_MAX", 100)
    served = Served(MemoryDisk("/data"), 2)
    served.ingest(_range(0, 50), 1.0)
    served.ingest(_range(25, 60), 2.0)
    vecs = served.actor._store.catalog.vecs
    assert [segment_.rows for segment_ in vecs] == [5] * 17
    assert served.status.epoch == 2
    served.check(list(range(60)))
    ask(served.actor, vm.VectorsCompact(), messages.Compacted)
    assert len(served.actor._store.catalog.vecs) == 12
    served.check(list(range(60)))


def test_large_segments_are_rewritten_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write never rewrites the whole of a large store; what is left is for quiet moments."""
    monkeypatch.setattr(vector_store, "_MERGED_BYTES_MAX", 3 * 300 * 12)
    served = Served(MemoryDisk("/data"), 1)
    for start in range(0, 9000, 300):
        served.ingest(_range(start, start + 300))
    size = served.status.file_bytes
    gone = np.array([n for n in range(9000) if n % 300 < 200], np.uint64)
    served.delete(gone)
    left = len(served.actor._store.catalog.deleted)
    assert 4096 < left < 6000
    assert served.status.file_bytes < size + 2 * 300 * 30 * 12
    served.actor._dead_allowed = 1 << 40  # not by a compaction
    served.rest()
    assert len(served.actor._store.catalog.deleted) <= 4096
    served.check(sorted(set(range(9000)) - set(gone.tolist())))


def test_an_empty_segment_takes_no_rows_along() -> None:
    """Of two that begin with the same row of the table, only the empty one may go."""
    served = Served(MemoryDisk("/data"), 1)
    for number in range(600):
        served.ingest(_range(number, number + 1))
        if number == 480:  # as another program may write it; the row behind it is not merged
            commit = served.actor._store.begin()
            payload = (1).to_bytes(2, "little") + bytes(4)
            entry = commit._segment(SegmentType.VEC, payload)
            commit.catalog.vecs.append(VecSegment(entry, served.actor._store.table.rows, 0))
            served.actor._store.write(commit, served.actor._store.own_live_rows())
    served.check(list(range(600)))


def test_segments_of_others_survive() -> None:
    """Compaction keeps what it does not know byte for byte, also of the types that we use."""
    disk = MemoryDisk("/data")
    served = Served(disk, 2)
    served.ingest(_range(0, 10))
    served.actor.close()
    content = disk.content(PATH)
    assert content is not None
    foreign = [
        (0x40, b"an unknown type"),
        (SegmentType.STORE, b"somebody else's extension segment"),
        (SegmentType.HIDDEN, b"and another one of theirs, long enough"),
        (SegmentType.META, b"metadata of another program"),
        (0x40, b"in no directory"),
    ]
    parts = [content]
    end = len(content)
    entries = []
    for number, (kind, payload) in enumerate(foreign):
        header = encode_header(kind, 900 + number, len(payload), content_hash(payload))
        entries.append((900 + number, end, len(payload), int(kind)))
        parts += [header, payload]
        end += HEADER_BYTES + len(payload)
    at = served.actor._store.catalog.manifest_at
    manifest = decode_manifest(content[at + HEADER_BYTES :])
    listed = (*manifest.entries, *(Entry(*entry) for entry in entries[:-1]))
    payload = encode_manifest(replace(manifest, entries=listed, epoch=manifest.epoch + 1))
    parts += [
        encode_header(SegmentType.MANIFEST, 950, len(payload), content_hash(payload)),
        payload,
    ]
    disk.place(PATH, b"".join(parts))
    served = Served(disk, 2)
    served.delete(_range(0, 3))
    ask(served.actor, vm.VectorsCompact(), messages.Compacted)
    ask(served.actor, vm.VectorsFreeze(), messages.Done, Caller(5, 5))
    served.actor.close()
    content = disk.content(PATH)
    assert content is not None
    for kind, payload in foreign:
        assert payload in content, kind
    reader = opened_read_only(disk)
    found = ask(reader, vm.VectorsSegments(), vm.Segments).segments
    for number, (kind, payload) in enumerate(foreign[:-1]):
        (segment,) = [s for s in found if s.id == 900 + number]
        assert (segment.type, segment.length) == (kind, len(payload))
        start = segment.offset + HEADER_BYTES
        assert content[start : start + segment.length] == payload
    assert ask(reader, vm.VectorsVerify(), vm.Verified).problems == []
