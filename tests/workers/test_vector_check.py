"""Checking a file: all that is wrong is told, and nothing intact is hidden by it."""

from collections.abc import Callable

import numpy as np
import pytest

from holdfast.bench.faults import MemoryDisk
from holdfast.formats.errors import ParentChanged
from holdfast.formats.rvf.scan import walk
from holdfast.formats.rvf.segment import (
    HEADER_BYTES,
    NO_HASH,
    SegmentHeader,
    SegmentType,
    content_hash,
    encode_header,
)
from holdfast.formats.rvf.witness import Witness, decode_witness, encode_witness, entry_hash
from holdfast.workers import vector_check
from holdfast.workers import vector_messages as vm
from holdfast.workers.actor import Caller
from holdfast.workers.messages import Compacted
from holdfast.workers.vector_check import verify_steps
from tests.workers.vector_model import (
    PATH,
    Branch,
    Delete,
    Derive,
    Embed,
    History,
    Ingest,
    ask,
    opened,
    opened_read_only,
    row,
    without_waiting,
)
from tests.workers.vector_workload import CHILD, DERIVED, GRANDCHILD

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    without_waiting(monkeypatch)


def _made() -> MemoryDisk:
    """A store of a few commits, closed."""
    disk = MemoryDisk("/data")
    actor = opened(disk)
    history = History()
    for op in (
        Ingest({1: row(1, 2, s="one"), 2: row(3, 4)}),
        Embed(b"image" * 20),
        Ingest({3: row(5, 6)}),
        Delete((1,)),
        Ingest({4: row(7, 8)}),
    ):
        history.send(actor, op)
    actor.close()
    return disk


def _content(disk: MemoryDisk, path: str = PATH) -> bytes:
    content = disk.content(path)
    assert content is not None
    return content


def _segments(content: bytes, kind: SegmentType) -> list[tuple[int, SegmentHeader]]:
    return [(at, header) for at, header in walk(memoryview(content)) if header.type == kind]


def _verified(disk: MemoryDisk, path: str = PATH) -> vm.Verified:
    """The outcome for a file as it lies there, whether it can be opened or not."""
    steps = verify_steps(disk, path, memoryview(_content(disk, path)))
    while True:
        try:
            progress = next(steps)
        except StopIteration as finished:
            outcome: vm.Verified = finished.value
            return outcome
        assert progress is None or 0 <= progress.done < progress.total


def _patched(content: bytes, offset: int, data: bytes) -> bytes:
    return content[:offset] + data + content[offset + len(data) :]


def _flipped(content: bytes, offset: int) -> bytes:
    return _patched(content, offset, bytes([content[offset] ^ 4]))


def test_all_is_well() -> None:
    """Every segment is told of, and is intact."""
    disk = _made()
    content = _content(disk)
    found = _verified(disk)
    assert found.problems == []
    assert [(s.offset, s.length) for s in found.segments] == [
        (at, header.payload_bytes) for at, header in walk(memoryview(content))
    ]
    assert {s.state for s in found.segments} == {"intact"}
    ids = [s.id for s in found.segments]
    assert ids == list(range(1, len(ids) + 1))
    assert (found.witnesses, found.witness_breaks, found.witness_restarts) == (4, 0, 0)
    assert found.ancestors == []


def test_every_damaged_payload_is_told_of_alone() -> None:
    """A flip in one segment is that segment's problem; all others are intact still."""
    disk = _made()
    content = _content(disk)
    for at, header in walk(memoryview(content)):
        disk.place(PATH, _flipped(content, at + HEADER_BYTES + header.payload_bytes - 1))
        found = _verified(disk)
        assert [s.offset for s in found.segments if s.state == "damaged"] == [at]
        assert any(problem.startswith(f"offset {at}: ") for problem in found.problems)
        assert len(found.segments) == len(list(walk(memoryview(content))))
        if header.type == SegmentType.VEC:
            (report,) = [s for s in found.segments if s.offset == at]
            rows = (header.payload_bytes - 6) // 16
            assert report.reason == f"the vec segment does not match its hash; it has {rows} rows"


def test_a_damaged_header_hides_nothing_behind_it() -> None:
    """The next boundary that the newest manifest knows is where checking goes on."""
    disk = _made()
    content = _content(disk)
    second = _segments(content, SegmentType.VEC)[1][0]
    third = _segments(content, SegmentType.VEC)[2][0]
    disk.place(PATH, _flipped(content, second))
    found = _verified(disk)
    assert f"offset {second}: no segment begins here" in found.problems
    offsets = [s.offset for s in found.segments]
    assert third in offsets
    assert max(offsets) == _segments(content, SegmentType.MANIFEST)[-1][0]
    assert not [s for s in found.segments if s.state == "damaged"]


def test_a_damaged_newest_manifest() -> None:
    """The state before is what counts; the damage is told of."""
    disk = _made()
    content = _content(disk)
    at = _segments(content, SegmentType.MANIFEST)[-1][0]
    disk.place(PATH, _flipped(content, at + HEADER_BYTES))
    found = _verified(disk)
    assert found.problems == [f"offset {at}: the manifest segment does not match its hash"]


@pytest.mark.parametrize("content", [b"", b"no RVF at all", bytes(5000)])
def test_no_manifest(content: bytes) -> None:
    """What is no RVF file is told to be none."""
    disk = MemoryDisk("/data")
    disk.place(PATH, content)
    found = _verified(disk)
    assert "there is no intact manifest" in found.problems
    assert found.segments == []


def test_a_missing_hash() -> None:
    """Nobody can say whether such a segment is right."""
    disk = _made()
    content = _content(disk)
    at = _segments(content, SegmentType.KERNEL)[0][0]
    disk.place(PATH, _patched(content, at + 0x28, NO_HASH))
    found = _verified(disk)
    assert found.problems == []
    assert {s.offset: s.state for s in found.segments if s.state != "intact"} == {
        at: "unverifiable"
    }


class TestWitnesses:
    """The chain: each names the hash of the one before."""

    def _rewritten(
        self, number: int, change: Callable[[Witness], Witness]
    ) -> tuple[vm.Verified, int]:
        """What is found once a witness says something else, with a hash that matches."""
        disk = _made()
        content = _content(disk)
        at, header = _segments(content, SegmentType.WITNESS)[number]
        start = at + HEADER_BYTES
        was = decode_witness(content[start : start + header.payload_bytes])
        payload = encode_witness(change(was))
        assert len(payload) == header.payload_bytes
        head = encode_header(
            SegmentType.WITNESS, header.segment_id, len(payload), content_hash(payload)
        )
        disk.place(PATH, _patched(content, at, head + payload))
        return _verified(disk), at

    def test_a_changed_action(self) -> None:
        """The next link does not follow from what it says now."""
        found, _ = self._rewritten(1, lambda was: was._replace(timestamp_ns=1))
        assert (found.witnesses, found.witness_breaks, found.witness_restarts) == (4, 1, 0)
        assert len(found.problems) == 1
        assert found.problems[0].endswith("the witness does not follow the one before")

    def test_a_broken_link(self) -> None:
        """It follows something else, and so does the next."""
        found, at = self._rewritten(2, lambda was: was._replace(previous_hash=b"\1" * 32))
        assert (found.witnesses, found.witness_breaks) == (4, 2)
        assert found.problems[0] == f"offset {at}: the witness does not follow the one before"

    def test_a_link_to_nothing(self) -> None:
        """The original begins anew when it opens a file: that is no break, but what follows is."""
        found, _ = self._rewritten(3, lambda was: was._replace(previous_hash=bytes(32)))
        assert (found.witness_breaks, found.witness_restarts) == (0, 1)
        assert found.problems == []

    def test_a_witness_taken_out(self) -> None:
        """Nobody misses the bytes, but the next link tells."""
        disk = _made()
        content = _content(disk)
        at, header = _segments(content, SegmentType.WITNESS)[1]
        disk.place(PATH, _patched(content, at, bytes(HEADER_BYTES + header.payload_bytes)))
        found = _verified(disk)
        assert (found.witnesses, found.witness_breaks) == (3, 1)

    def test_one_that_does_not_decode(self) -> None:
        """Is a problem of its own."""
        disk = _made()
        junk = b"x" * 60
        header = encode_header(SegmentType.WITNESS, 99, len(junk), content_hash(junk))
        disk.place(PATH, _content(disk) + header + junk)
        found = _verified(disk)
        assert len(found.problems) == 1
        assert "bytes of action" in found.problems[0]

    def test_the_chain_goes_on(self) -> None:
        """Over reopening and compaction, also behind witnesses that the original has added."""
        disk = _made()
        content = _content(disk)
        at, header = _segments(content, SegmentType.WITNESS)[-1]
        start = at + HEADER_BYTES
        last = entry_hash(content[start : start + header.payload_bytes])
        audit = encode_witness(Witness(1, 5, "query:k=1,results=1,epoch=5", last))
        head = encode_header(SegmentType.WITNESS, 77, len(audit), content_hash(audit))
        disk.place(PATH, content + head + audit)
        for _ in range(2):
            actor = opened(disk)
            ask(actor, vm.VectorsDelete(memoryview(np.uint64(2).tobytes())), vm.Deleted)
            ask(actor, vm.VectorsCompact(), Compacted, Caller(1, 1))
            actor.close()
        found = _verified(disk)
        assert found.problems == []
        assert (found.witnesses, found.witness_breaks, found.witness_restarts) == (8, 0, 0)


class TestParents:
    """The chain of parents, each looked for and its hash checked."""

    @pytest.fixture
    def family(self) -> MemoryDisk:
        """A store, a branch, a branch of that, and a derived file of that, which go on."""
        disk = _made()
        for number, path, op in (
            (10, PATH, Branch(CHILD)),
            (20, CHILD, Branch(GRANDCHILD)),
            (30, GRANDCHILD, Derive(DERIVED)),
        ):
            actor = opened(disk, path)
            history = History()
            history.send(actor, Ingest({number: row(1, 1)}))
            history.send(actor, op)
            history.send(actor, Ingest({number + 1: row(1, 1)}))
            actor.close()
        return disk

    def test_a_whole_chain(self, family: MemoryDisk) -> None:
        """From the nearest on."""
        found = _verified(family, DERIVED)
        assert found.problems == []
        assert [a.path for a in found.ancestors] == [GRANDCHILD, CHILD, PATH]
        assert [a.lineage_depth for a in found.ancestors] == [2, 1, 0]
        assert [a.problem for a in found.ancestors] == [None] * 3
        actor = opened_read_only(family, DERIVED)
        lineage = ask(actor, vm.VectorsLineage(), vm.Lineage)
        assert (lineage.identity.origin, lineage.identity.derivation) == ("derived", "averages")
        assert lineage.ancestors == found.ancestors

    @pytest.mark.parametrize("gone", [GRANDCHILD, CHILD, PATH])
    def test_a_missing_parent(self, family: MemoryDisk, gone: str) -> None:
        """Is told of; what is in front of it is still verified."""
        family.remove(gone)
        found = _verified(family, DERIVED)
        assert found.ancestors[-1].path == gone
        assert "missing" in (found.ancestors[-1].problem or "")
        assert all(a.problem is None for a in found.ancestors[:-1])
        assert found.problems == [f"parent {gone}: {found.ancestors[-1].problem}"]

    @pytest.mark.parametrize("changed", [GRANDCHILD, CHILD, PATH])
    def test_a_changed_parent(self, family: MemoryDisk, changed: str) -> None:
        """A bit of what the child was made from is enough."""
        content = _content(family, changed)
        family.place(changed, _flipped(content, _segments(content, SegmentType.STORE)[0][0] + 70))
        problem = next(a.problem for a in _verified(family, DERIVED).ancestors if a.problem)
        assert problem == f"{changed!r} no longer holds the commit that its child was made from"
        child = {GRANDCHILD: DERIVED, CHILD: GRANDCHILD, PATH: CHILD}[changed]
        if child != DERIVED:  # which reads no rows of it
            with pytest.raises(ParentChanged):
                opened(family, child)

    def test_a_parent_replaced_by_another_file(self, family: MemoryDisk) -> None:
        """One of the same name and another id is not taken for it."""
        family.place(PATH, _content(_made()))
        found = _verified(family, CHILD)
        assert "no longer holds" in (found.ancestors[0].problem or "")

    def test_a_parent_that_was_cut(self, family: MemoryDisk) -> None:
        """Restored from an older copy, it lacks the commit."""
        content = _content(family)
        for size in (0, 300, len(content) // 2):
            family.place(PATH, content[:size])
            assert _verified(family, CHILD).ancestors[0].problem is not None
            with pytest.raises(ParentChanged):
                opened(family, CHILD)

    def test_a_chain_that_is_too_long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """There is an end to looking."""
        monkeypatch.setattr(vector_check, "_ANCESTORS_MAX", 5)
        disk = _made()
        path = PATH
        for number in range(7):
            actor = opened(disk, path)
            path = f"/data/d{number}.rvf"
            ask(actor, Derive(path).request(), object, Caller(1, number))
            actor.close()
        found = _verified(disk, path)
        assert len(found.ancestors) == 6
        assert found.ancestors[-1].problem == "there are more than 5 ancestors"
