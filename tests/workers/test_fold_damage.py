"""Every cut and every flipped bit: never a wrong answer, never a rewrite of what is damaged."""

import random
from collections.abc import Iterator

import pytest

from holdfast.bench.faults import MemoryDisk
from holdfast.formats.errors import HoldfastError, StoreCorrupt
from holdfast.formats.fold_log import HEADER, HEADER_BYTES, Ending
from holdfast.formats.values import Delete, Put, Version
from holdfast.workers import fold, fold_messages, messages
from holdfast.workers.actor import Caller
from holdfast.workers.fold_cache import INDEX_SUFFIX
from tests.workers.fold_model import PATH, State, ask, opened, state_in, state_of
from tests.workers.fold_workload import apply

pytestmark = pytest.mark.usefixtures("quiet")

BATCHES = (
    apply(Put("a", b"first", Version.from_u64(1)), Put("b/ü", b"second value"), cursor=1),
    apply(Delete("a"), Put("b/ü", b"third"), cursor=2),
    apply(Put("", b"\x01\x02\x03"), Put("c", bytes(9)), cursor=3),
)


def _log() -> tuple[bytes, list[State], list[int]]:
    """A small log, every state it went through, and where its records end."""
    disk = MemoryDisk("/data")
    actor = opened(disk)
    states, bounds = [State()], [HEADER_BYTES]
    for number, batch in enumerate(BATCHES):
        states += states[-1].prefixes(batch)
        ask(actor, batch, messages.Done, Caller(1, number))
    actor.close()
    content = disk.content(PATH)
    assert content is not None
    bounds += [
        end
        for end in range(HEADER_BYTES + 1, len(content) + 1)
        if state_in(content[:end])[1] is Ending.CLEAN
    ]
    assert len(bounds) == len(states)
    return content, states, bounds


CONTENT, STATES, BOUNDS = _log()


def _fills(seed: int) -> Iterator[bytes]:
    yield b""
    yield bytes(600)
    yield random.Random(seed).randbytes(90)


def _open_damaged(content: bytes) -> State | HoldfastError:
    """What the actor makes of a log; a refused one is left exactly as it was."""
    disk = MemoryDisk("/data")
    disk.place(PATH, content)
    inode, names = disk.inode_at(PATH), disk.list("/data")
    try:
        actor = opened(disk)
    except HoldfastError as error:
        assert disk.content(PATH) == content
        assert (disk.inode_at(PATH), disk.list("/data")) == (inode, names)
        return error
    actor.check_invariants()
    found = state_of(actor)
    left = disk.content(PATH)
    assert left is not None
    assert state_in(left) == (found, Ending.CLEAN)
    _check_cut_bytes(disk, content, left)
    actor.close()
    return found


def _check_cut_bytes(disk: MemoryDisk, content: bytes, left: bytes) -> None:
    """What was cut is kept beside the log, unless it was nothing but zeros."""
    cut = content[len(left) :] if len(content) >= HEADER_BYTES else b""
    assert left == (content[: len(left)] if len(content) >= HEADER_BYTES else HEADER)
    assert (disk.content(f"{PATH}.cut1") or b"") == (cut if cut.strip(b"\0") else b"")


def _shared(one: bytes, other: bytes) -> int:
    """How many bytes two files have in common at their beginning."""
    size = min(len(one), len(other))
    return next((n for n in range(size) if one[n] != other[n]), size)


def test_every_truncation() -> None:
    """A log cut anywhere, with anything behind the cut, holds what lies before the cut."""
    for cut in range(len(CONTENT) + 1):
        for fill in _fills(cut):
            content = CONTENT[:cut] + fill
            same = _shared(content, CONTENT)  # a fill may begin with what was cut
            expected = max((bound, n) for n, bound in enumerate([0, *BOUNDS]) if bound <= same)
            found = _open_damaged(content)
            if cut < HEADER_BYTES and not HEADER.startswith(content[:HEADER_BYTES]):
                assert isinstance(found, StoreCorrupt)
            else:
                assert found == [State(), *STATES][expected[1]], (cut, fill[:8])


def test_every_bit_flip() -> None:
    """A flip before the last record is corruption; in the last record it is a torn write."""
    for bit in range(8 * len(CONTENT)):
        damaged = bytearray(CONTENT)
        damaged[bit // 8] ^= 1 << bit % 8
        for fill in _fills(bit):
            found = _open_damaged(bytes(damaged) + fill)
            if bit // 8 >= BOUNDS[-2]:
                assert found == STATES[-2], (bit, fill[:8])
            else:
                assert isinstance(found, StoreCorrupt), (bit, fill[:8])
                assert found.path == PATH
                assert found.offset is not None
                assert found.offset <= bit // 8
                assert found.reason


def _indexed() -> tuple[MemoryDisk, State]:
    """A closed fold that has an index cache, and records behind what the cache covers."""
    disk = MemoryDisk("/data")
    actor = opened(disk)
    puts = [Put(f"key {n:03d}", b"value %d" % n) for n in range(70)]
    ask(actor, apply(*puts, cursor=1), messages.Done, Caller(1, 1))
    ask(actor, fold_messages.FoldCompact(), messages.Compacted)
    while actor.step(idle=True):
        pass
    actor.close()
    actor = opened(disk)
    assert ask(actor, messages.StoreStatus(), fold_messages.Status).indexed_bytes > 0
    more = apply(Delete("key 007"), Put("key 069", b"newer"), Put("new", b"key"), cursor=2)
    ask(actor, more, messages.Done, Caller(1, 2))
    actor.commit()
    return disk, state_of(actor)


class TestWithIndexCache:
    """The cache saves the replay; it must not save the checks."""

    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fold, "_INDEX_ENTRIES_MIN", 2)
        monkeypatch.setattr(fold, "_UNINDEXED_BYTES_MAX", 1000)
        monkeypatch.setattr(fold, "_UNINDEXED_BYTES_AT_CLOSE_MAX", 1000)

    def test_flipped_bits_of_the_log_are_never_an_answer(self) -> None:
        """Each read of a damaged log is right or an error; a key does not just disappear."""
        disk, expected = _indexed()
        content = disk.content(PATH)
        assert content is not None
        keys = [*expected.rows, "key 007", "absent", "key 0345", ""]
        for bit in range(0, 8 * len(content), 7):
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << bit % 8
            left = disk.crash()
            left.place(PATH, bytes(damaged))
            try:
                actor = opened(left)
            except HoldfastError:
                continue
            status = ask(actor, messages.StoreStatus(), fold_messages.Status)
            if not status.indexed_bytes:
                assert state_of(actor).rows.keys() <= expected.rows.keys()
                continue
            for key in keys:
                try:
                    entry = ask(actor, fold_messages.FoldGet(key), fold_messages.Entry).entry
                except StoreCorrupt:
                    continue
                row = expected.rows.get(key)
                if row != (entry and (entry.value, entry.version.token)):
                    assert bit // 8 > status.indexed_bytes
            self._check_ranges(actor, expected, bit)

    def _check_ranges(self, actor: fold.FoldActor, expected: State, bit: int) -> None:
        for prefix in ("", "key 01", "key 0345", "n"):
            try:
                entries = ask(actor, fold_messages.FoldRange(prefix), fold_messages.Entries).entries
            except StoreCorrupt:
                continue
            rows = {entry.key: (entry.value, entry.version.token) for entry in entries}
            right = {key: row for key, row in expected.rows.items() if key.startswith(prefix)}
            assert rows == right, (bit, prefix)

    def test_write_that_meets_damage_changes_nothing(self) -> None:
        """Damage shows before anything is written."""
        disk, _ = _indexed()
        content = disk.content(PATH)
        assert content is not None
        at = content.index(b"key 031")
        left = disk.crash()
        damaged = content[:at] + b"kex" + content[at + 3 :]
        left.place(PATH, damaged)
        actor = opened(left)
        with pytest.raises(StoreCorrupt):
            ask(actor, apply(Put("key 0311", b""), cursor=3), messages.Done, Caller(1, 3))
        assert left.content(PATH) == damaged

    def test_damaged_caches_are_ignored(self) -> None:
        """Whatever is wrong with the cache, the log is the truth."""
        disk, expected = _indexed()
        cache = disk.content(PATH + INDEX_SUFFIX)
        assert cache is not None
        flips = [(bit // 8, 1 << bit % 8) for bit in range(0, 8 * len(cache), 13)]
        damaged = [cache[:at] + bytes([cache[at] ^ flip]) + cache[at + 1 :] for at, flip in flips]
        cuts = [cache[:size] for size in range(0, len(cache), 17)]
        for content in (*damaged, *cuts, b"", cache + b"\0", b"HFIX" * 100):
            left = disk.crash()
            left.place(PATH + INDEX_SUFFIX, content)
            actor = opened(left)
            assert not ask(actor, messages.StoreStatus(), fold_messages.Status).indexed_bytes
            assert state_of(actor) == expected

    def test_cache_of_another_log_is_ignored(self) -> None:
        """A cache does not fit a log that was replaced, shortened or compacted since."""
        disk, _ = _indexed()
        other = MemoryDisk("/data")
        actor = opened(other)
        puts = [Put(f"key {n:03d}", b"VALUE %d" % n) for n in range(70)]
        ask(actor, apply(*puts, cursor=1), messages.Done, Caller(1, 1))
        ask(actor, fold_messages.FoldCompact(), messages.Compacted)
        expected = state_of(actor)
        actor.commit()
        content = other.content(PATH)
        assert content is not None
        for size in (len(content), len(content) // 2, HEADER_BYTES):
            left = disk.crash()
            left.place(PATH, content[:size])
            rows = state_of(opened(left)).rows
            assert rows.items() <= expected.rows.items()
            if size == len(content):
                assert rows == expected.rows
