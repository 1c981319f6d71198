"""Looking at files without an engine: verdicts, rows, agreement with recovery, and no writes."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.formats import fold_log, ledger
from holdfast.formats.artifact import PAYLOAD_PATH
from holdfast.formats.errors import InvalidFormat, StoreCorrupt, StoreIOError
from holdfast.formats.fold_log import HEADER, HEADER_BYTES, Ending
from holdfast.formats.ledger import LedgerHeader, Slot
from holdfast.formats.values import KvEntry
from holdfast.workers.disk import OsDisk, OsFile
from holdfast.workers.fold_inspection import FOLD_LOG, ArtifactView, LogReport
from holdfast.workers.inspection import examine
from holdfast.workers.ledger import SUFFIX
from holdfast.workers.log_file import mark_unsynced
from holdfast.workers.standing import UNKNOWN, Standing
from tests.workers.fold_model import opened, state_of

DATA = Path(__file__).resolve().parent.parent / "data" / "fold"
EXPECTED: dict[str, Any] = json.loads((DATA / "expected.json").read_text())
LOGS = sorted(path.name for path in DATA.glob("*.snap"))
ARTIFACTS = sorted(EXPECTED["artifacts"])
BASE = (DATA / "base3.snap").read_bytes()

CORRUPT = {"midflip.snap", "vlen-over-cap.snap", "vlen-under-cap.snap"}
INVALID = {"cursor11.snap", "nonutf8-key.snap", "zero-hole.snap"}
FOREIGN = {"badmagic.snap", "version1.snap", "version3.snap"}
TORN = {
    "garbage-tail.snap",
    "junk4-tail.snap",
    "lastcursorflip.snap",
    "lastflip.snap",
    "torn-after-type.snap",
    "torn-first-record.snap",
    "torn-header.snap",
    "torn-last-byte.snap",
    "torn-mid-crc.snap",
    "torn-mid-cursor.snap",
    "torn-mid-key.snap",
    "torn-mid-value.snap",
    "torn-then-zeros.snap",
    "zero-length.snap",
    "zerotail-4096.snap",
}
# Of vlen-under-cap the original drops intact records, so that its rows are no measure.
COMPARABLE = [name for name in LOGS if EXPECTED[name]["ok"] and name != "vlen-under-cap.snap"]


class ReadOnlyDisk(OsDisk):
    """The real files, none of which may be changed."""

    def open(self, path: str, *, write: bool = False, create: bool = False) -> OsFile:
        assert not write
        assert not create
        return super().open(path)

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("an inspection wrote")

    make_directory = remove_directory = remove = _refuse
    rename = copy_mode = sync_directory = _refuse


def look(path: Path) -> LogReport | ArtifactView:
    """The report on a path, made without changing anything."""
    report = examine(ReadOnlyDisk(), str(path))
    assert isinstance(report, LogReport | ArtifactView)
    return report


def verdict_of(name: str) -> tuple[Ending, Standing]:
    """What a golden log is to be judged as."""
    if name in FOREIGN:
        return Ending.INVALID, Standing.NOT_OURS
    if name in CORRUPT:
        return Ending.CORRUPT, Standing.DAMAGED
    if name in INVALID:
        return Ending.INVALID, Standing.DAMAGED
    if name in TORN:
        return Ending.TORN, Standing.RECOVERABLE
    return Ending.CLEAN, Standing.CLEAN


def rows_in(expected: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Key, value and version as expected.json has them."""
    return [(row["key"], row["value_hex"], row["version_hex"]) for row in expected["entries"]]


def rows_of(entries: Iterator[KvEntry]) -> list[tuple[str, str, str]]:
    """Key, value and version of entries, in the form of ``rows_in``."""
    return [(entry.key, entry.value.hex(), entry.version.token.hex()) for entry in entries]


def snapshot(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything below a directory: mode, time and content."""
    found = {}
    for path in sorted(directory.rglob("*")):
        info = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (info.st_mode, info.st_mtime_ns, content)
    return found


@pytest.mark.parametrize("name", LOGS)
def test_a_golden_log_gets_its_verdict(name: str) -> None:
    """Every golden log is judged as this project judges it, with an offset where it is bad."""
    report = look(DATA / name)
    assert (report.verdict.ending, report.standing) == verdict_of(name)
    assert report.format == FOLD_LOG
    fields = report.fields()
    assert ("offset" in fields) == ("reason" in fields) == (report.standing != Standing.CLEAN)


@pytest.mark.parametrize("name", COMPARABLE)
def test_a_golden_log_gives_its_rows(name: str) -> None:
    """Rows and cursor are those the original reads, in key order."""
    report = look(DATA / name)
    assert rows_of(report.rows()) == rows_in(EXPECTED[name])
    assert report.fields()["entries"] == len(EXPECTED[name]["entries"])
    assert report.fields()["cursor"] == EXPECTED[name]["cursor"]["hex"]


def test_rows_before_the_damage_are_shown() -> None:
    """Of a log that opening refuses, the entries of the good part can be read."""
    report = look(DATA / "midflip.snap")
    assert [entry.key for entry in report.rows()] == ["alpha"]
    assert report.verdict.offset == 65


@pytest.mark.parametrize("length", range(HEADER_BYTES))
def test_a_cut_short_header_is_recoverable(tmp_path: Path, length: int) -> None:
    """Zero to five bytes of a valid header are what a crash at creation leaves."""
    path = tmp_path / "f.snap"
    path.write_bytes(HEADER[:length])
    report = look(path)
    assert (report.verdict.ending, report.standing) == (Ending.TORN, Standing.RECOVERABLE)
    assert report.fields()["entries"] == 0


@pytest.mark.parametrize("name", ARTIFACTS)
def test_a_golden_artifact_gets_its_standing(name: str) -> None:
    """An artifact is clean exactly where importing it succeeds, and its rows are the import's."""
    expected = EXPECTED["artifacts"][name]
    report = look(DATA / "artifacts" / name)
    assert (report.standing is Standing.CLEAN) == expected["ok"]
    assert report.standing is not Standing.RECOVERABLE
    if expected["ok"]:
        assert rows_of(report.rows()) == rows_in(expected)
        assert report.fields()["cursor"] == expected["cursor"]["hex"]
    else:
        assert report.fields()["reason"]


def test_an_artifact_shows_its_manifest() -> None:
    """The fields of a legible manifest are part of the report."""
    report = look(DATA / "artifacts" / "good")
    assert isinstance(report, ArtifactView)
    manifest = json.loads((DATA / "artifacts" / "good" / "MANIFEST.json").read_text())
    fields = report.fields()
    assert {name: fields[name] for name in manifest} == manifest
    assert (fields["format"], fields["verdict"]) == ("fold-artifact", "clean")


def test_a_damaged_payload_shows_what_is_legible(tmp_path: Path) -> None:
    """Damage inside a payload is placed by its offset, and the rows before it are shown."""
    source = DATA / "artifacts" / "corrupt-log-good-checksum"
    report = look(source)
    assert report.verdict.ending is Ending.CORRUPT
    assert report.verdict.offset == 38
    assert len(list(report.rows())) == 1


def test_what_is_not_ours_is_said_to_be_so(tmp_path: Path) -> None:
    """Foreign files, plain directories and pipes get a report with a reason, not an error."""
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0 some picture")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("photo.jpg", "folder", "pipe"):
        report = look(tmp_path / name)
        assert (report.standing, report.format) == (Standing.NOT_OURS, UNKNOWN)
        assert report.verdict.reason
        assert list(report.rows()) == []


def test_what_cannot_be_read_is_a_typed_error(tmp_path: Path) -> None:
    """An absent file and a failing disk raise ``StoreIOError`` with path and errno."""

    class Failing(OsDisk):
        def open(self, path: str, *, write: bool = False, create: bool = False) -> OsFile:
            raise OSError(errno.EIO, "bad sector", path)

    path = tmp_path / "f.snap"
    with pytest.raises(StoreIOError) as absent:
        look(path)
    assert (absent.value.path, absent.value.errno) == (str(path), errno.ENOENT)
    path.write_bytes(BASE)
    with pytest.raises(StoreIOError) as failing:
        examine(Failing(), str(path))
    assert failing.value.errno == errno.EIO


def test_nothing_is_changed(tmp_path: Path) -> None:
    """Inspecting every golden file, without write permission, leaves bytes and times alone."""
    copy = tmp_path / "fold"
    shutil.copytree(DATA, copy)
    for path in sorted(copy.rglob("*"), reverse=True):
        path.chmod(0o555 if path.is_dir() else 0o444)
    copy.chmod(0o555)
    before = snapshot(copy)
    try:
        for path in [*copy.glob("*.snap"), *(copy / "artifacts").iterdir()]:
            list(look(path).rows())
        assert snapshot(copy) == before
    finally:
        for path in [copy, *copy.rglob("*")]:
            path.chmod(0o755)


# --- agreement with recovery -------------------------------------------------------------------


def agree(path: Path) -> None:
    """Check that the report on a log says what opening it then does."""
    report = look(path)
    assert isinstance(report, LogReport)
    rows = {e.key: (e.value, e.version.token) for e in report.rows()}
    if report.standing in (Standing.DAMAGED, Standing.NOT_OURS):
        with pytest.raises(StoreCorrupt) as refused:
            opened(OsDisk(), str(path))
        assert isinstance(refused.value, InvalidFormat) == (report.verdict.ending is Ending.INVALID)
        if report.standing is Standing.DAMAGED:
            assert refused.value.offset == report.verdict.offset
        return
    actor = opened(OsDisk(), str(path))
    state = state_of(actor)
    actor.close()
    assert (state.rows, state.cursor) == (rows, report.cursor.token)
    after = look(path)
    assert after.standing is Standing.CLEAN
    assert rows_of(after.rows()) == rows_of(report.rows())


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("name", LOGS)
def test_opening_does_what_the_verdict_says(tmp_path: Path, name: str) -> None:
    """Clean and torn logs open with the rows shown; the others are refused at the same offset."""
    path = tmp_path / name
    shutil.copyfile(DATA / name, path)
    agree(path)


@pytest.mark.usefixtures("quiet")
def test_every_truncation_and_some_flips_agree(tmp_path: Path) -> None:
    """Whatever is cut off, or flipped in any byte, inspection and opening say the same."""
    for number in range(len(BASE)):
        cut, flipped = tmp_path / f"cut{number}.snap", tmp_path / f"flip{number}.snap"
        cut.write_bytes(BASE[:number])
        agree(cut)
        damaged = bytearray(BASE)
        damaged[number] ^= 1 << number % 8
        flipped.write_bytes(damaged)
        agree(flipped)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("synced", [65, 66])
def test_a_failed_sync_is_judged_by_the_ledger(tmp_path: Path, synced: int) -> None:
    """As after a power loss: what was not known to be synced may be torn in any order."""
    path = tmp_path / "f.snap"
    shutil.copyfile(DATA / "midflip.snap", path)
    write_ledger(path, OsDisk().boot_id(), synced)
    assert look(path).standing is Standing.DAMAGED
    mark_unsynced(OsDisk(), str(path))
    assert (look(path).standing is Standing.RECOVERABLE) == (synced == 65)
    agree(path)


def write_ledger(log: Path, boot_id: bytes, synced: int, *slots: Slot) -> None:
    """Leave a ledger beside a log, as a worker that died would."""
    content = bytearray(ledger.LEDGER_BYTES)
    header = ledger.encode_header(LedgerHeader(boot_id, log.stat().st_ino, synced))
    content[: len(header)] = header
    for slot in slots:
        place = ledger.slot_offset(slot.sequence)
        content[place : place + ledger.SLOT_BYTES] = ledger.encode_slot(slot)
    Path(f"{log}{SUFFIX}").write_bytes(content)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("synced", [0, 65, 66, len(BASE)])
def test_a_power_loss_is_judged_by_the_ledger(tmp_path: Path, synced: int) -> None:
    """Damage behind what had been synced is a torn tail after a power loss, else corruption."""
    path = tmp_path / "f.snap"
    shutil.copyfile(DATA / "midflip.snap", path)
    assert look(path).standing is Standing.DAMAGED
    write_ledger(path, b"another start...", synced)
    expected = Standing.RECOVERABLE if synced <= 65 else Standing.DAMAGED
    assert look(path).standing is expected
    agree(path)


@pytest.mark.usefixtures("quiet")
def test_a_request_logged_in_part_is_torn_as_a_whole(tmp_path: Path) -> None:
    """Records of a request that was cut short are not shown, since opening cuts them too."""
    path = tmp_path / "f.snap"
    path.write_bytes(BASE[:124] + fold_log.encode_put(b"new", b"value", b""))
    first_crc = int.from_bytes(path.read_bytes()[124:128], "little")
    slot = Slot(1, 7, 1, 124, 500, first_crc)
    write_ledger(path, OsDisk().boot_id(), HEADER_BYTES, slot)
    report = look(path)
    assert report.standing is Standing.RECOVERABLE
    assert report.verdict.offset == 124
    assert "new" not in [entry.key for entry in report.rows()]
    agree(path)


def test_the_payload_path_is_the_artifacts_own() -> None:
    """An artifact's payload, inspected by itself, is an ordinary log."""
    report = look(DATA / "artifacts" / "good" / PAYLOAD_PATH)
    assert (report.format, report.standing) == (FOLD_LOG, Standing.CLEAN)
