"""Files of the original system read as it reads them, but for the improvements named here."""

import json
from pathlib import Path
from typing import Any

import pytest

from holdfast.bench.faults import MemoryDisk
from holdfast.formats import fold_log
from holdfast.formats.errors import HoldfastError, InvalidFormat, StoreCorrupt
from holdfast.formats.fold_log import HEADER_BYTES
from holdfast.workers import fold_messages, messages
from tests.workers.fold_model import PATH, State, ask, opened, state_in, state_of

pytestmark = pytest.mark.usefixtures("quiet")

DATA = Path(__file__).parent.parent / "data" / "fold"
EXPECTED: dict[str, Any] = json.loads((DATA / "expected.json").read_text(encoding="utf-8"))
TABLES: dict[str, Any] = json.loads((DATA / "base3.tables.json").read_text(encoding="utf-8"))
FILES = sorted(path.name for path in DATA.glob("*.snap"))
BASE3 = (DATA / "base3.snap").read_bytes()
LAST_RECORD = TABLES["record_bounds"][-2]
REFUSALS = {"InvalidFormat": InvalidFormat, "Corrupted": StoreCorrupt}

# Where reading differs from the original: the file, what it holds to us, and why that is better.
IMPROVED: dict[str, tuple[str, str]] = {
    "zero-length.snap": (
        "fresh",
        "a crash between creation and the header's sync leaves no bytes: nothing is lost by a new "
        "log, while a refusal would last for ever",
    ),
    "torn-header.snap": ("fresh", "the same, with a part of the header on the disk"),
    "torn-then-zeros.snap": (
        "base",
        "the usual tail of a power loss: the record is torn and no intact one lies behind it",
    ),
    "garbage-tail.snap": (
        "base",
        "an unknown record type in a tail that nothing intact follows is a torn write as well",
    ),
    "vlen-under-cap.snap": (
        "corrupt",
        "a length grew and points behind the end of the file, but intact records follow: cutting "
        "there would drop them without a word",
    ),
}
# A flip in the last record stays what it is to the original, a torn write, as nothing in the format
# tells the two apart: lastflip.snap and lastcursorflip.snap are no improvements.


def _state(entry: dict[str, Any]) -> State:
    rows = {
        item["key"]: (bytes.fromhex(item["value_hex"]), bytes.fromhex(item["version_hex"]))
        for item in entry["entries"]
    }
    return State(rows, bytes.fromhex(entry["cursor"]["hex"]))


def _opened_and_compacted(content: bytes) -> tuple[State, bytes]:
    """What the actor serves of a log, and the log after a compaction."""
    disk = MemoryDisk("/data")
    disk.place(PATH, content)
    actor = opened(disk)
    state = state_of(actor)
    actor.check_invariants()
    ask(actor, fold_messages.FoldCompact(), messages.Compacted)
    assert state_of(actor) == state
    actor.check_invariants()
    actor.close()
    compacted = disk.content(PATH)
    assert compacted is not None
    return state, compacted


def _refusal(content: bytes) -> HoldfastError:
    """The error that opening a log raises, which leaves it and its surroundings as they were."""
    disk = MemoryDisk("/data")
    disk.place(PATH, content)
    inode, names = disk.inode_at(PATH), disk.list("/data")
    with pytest.raises(HoldfastError) as caught:
        opened(disk)
    assert disk.content(PATH) == content
    assert disk.inode_at(PATH) == inode
    assert disk.list("/data") == names
    return caught.value


def test_every_improvement_is_a_file() -> None:
    """The table names files that exist, each with a reason."""
    assert set(FILES) > IMPROVED.keys()
    assert all(len(reason) > 20 for _, reason in IMPROVED.values())


@pytest.mark.parametrize("name", [name for name in FILES if name not in IMPROVED])
def test_reads_as_the_original(name: str) -> None:
    """Same rows, versions and cursor, or the same refusal; compacted to the same length."""
    expected, content = EXPECTED[name], (DATA / name).read_bytes()
    if not expected["ok"]:
        error = _refusal(content)
        assert type(error) is REFUSALS[expected["error"]["kind"]]
        assert error.offset is not None
        return
    found, compacted = _opened_and_compacted(content)
    assert found == (_state(expected) if expected["load"] == "some" else State())
    if expected["rewritten"] or expected["load"] == "none":
        assert len(compacted) == expected["bytes_after"]


@pytest.mark.parametrize("name", IMPROVED)
def test_improved(name: str) -> None:
    """What the original refuses or loses is recovered or reported."""
    outcome, reason = IMPROVED[name]
    content = (DATA / name).read_bytes()
    if outcome == "corrupt":
        assert EXPECTED[name]["ok"], reason
        assert type(_refusal(content)) is StoreCorrupt
        return
    assert not EXPECTED[name]["ok"], reason
    found, _ = _opened_and_compacted(content)
    if outcome == "fresh":
        assert found == State(), reason
    else:
        prefix = _prefix_state(content)
        assert found == prefix, reason
        assert found.rows, reason


def _prefix_state(content: bytes) -> State:
    """The state of the longest run of records that this file shares with the base log."""
    bounds = [n for n in TABLES["record_bounds"] if content[:n] == BASE3[:n]]
    return state_in(BASE3[: max(bounds)])[0]


def test_compacted_bytes_are_the_original_s() -> None:
    """The same state gives the very bytes that the original writes."""
    golden = (DATA / "puts100.compacted.snap").read_bytes()
    assert _opened_and_compacted((DATA / "puts100.snap").read_bytes())[1] == golden
    assert _opened_and_compacted(golden)[1] == golden


class TestTables:
    """Every cut, flip and fill of the base log, against the original's own outcome."""

    def _check_like(self, content: bytes, row: dict[str, Any]) -> None:
        found, compacted = _opened_and_compacted(content)
        assert sorted(found.rows) == row["keys"]
        assert found.cursor.hex() == row["cursor_hex"]
        if "bytes_after" in row:
            assert len(compacted) == row["bytes_after"]
        assert found == _prefix_state(content)

    def test_truncations(self) -> None:
        """All of them are recovered, also those that cut the header."""
        for row in TABLES["truncate_at"]:
            content = BASE3[: row["cut"]]
            if row["cut"] < HEADER_BYTES:
                assert row["error"] == "InvalidFormat"
                assert _opened_and_compacted(content)[0] == State()
            else:
                self._check_like(content, row)

    def test_appended_zeros(self) -> None:
        """Zeros behind a complete log change nothing."""
        for row in TABLES["append_zeros"]:
            self._check_like(BASE3 + bytes(row["zeros_appended"]), row)

    def test_cut_and_filled_with_zeros(self) -> None:
        """The original refuses 85 of these 88; all are the torn tail of a power loss."""
        refused = 0
        for row in TABLES["truncate_then_zero_fill"]:
            content = BASE3[: row["cut"]].ljust(row["cut_then_zero_fill_to"], b"\0")
            refused += "error" in row
            found, _ = _opened_and_compacted(content)
            assert found == _prefix_state(content)
            if "keys" in row:
                self._check_like(content, row)
        assert refused == 85

    def test_bit_flips(self) -> None:
        """Every flip reads as the original reads it, is refused, or is a torn last record."""
        counts: dict[tuple[str, str], int] = {}
        for offset, bit, theirs in TABLES["bit_flip"]:
            content = bytearray(BASE3)
            content[offset] ^= 1 << bit
            kind = theirs if isinstance(theirs, str) else "recovered"
            if offset < LAST_RECORD:
                error = _refusal(bytes(content))
                ours = "InvalidFormat" if isinstance(error, InvalidFormat) else "Corrupted"
            else:
                found, _ = _opened_and_compacted(bytes(content))
                assert found == state_in(BASE3[:LAST_RECORD])[0]
                if kind == "recovered":
                    assert sorted(found.rows) == theirs["keys"]
                ours = "recovered"
            counts[kind, ours] = counts.get((kind, ours), 0) + 1
        assert counts == {
            ("Corrupted", "Corrupted"): 1531,
            ("InvalidFormat", "InvalidFormat"): 142,
            ("recovered", "recovered"): 354,
            # A length grew beyond the end: the original drops intact records, 25 times all of them.
            ("recovered", "Corrupted"): 87,
            # The same for a token's length, which the original looks at before the file's end.
            ("InvalidFormat", "Corrupted"): 16,
            # Damage in the last record alone is a torn tail, whatever bytes it consists of.
            ("InvalidFormat", "recovered"): 16,
            ("Corrupted", "recovered"): 14,
        }


def test_header_problems_are_named() -> None:
    """A refused header says what was found and what was expected."""
    assert "bad magic" in str(fold_log.header_problem(b"HFIX\x02\x00"))
    assert "version 3" in str(fold_log.header_problem(b"PGSS\x03\x00"))
    assert fold_log.header_problem(b"PGS") is None
    assert "bad magic" in str(fold_log.header_problem(b"PGX"))
