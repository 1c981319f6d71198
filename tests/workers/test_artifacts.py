"""Artifacts on disk: what is accepted, what is refused, and what a failure or crash leaves."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats import fold_log
from holdfast.formats.artifact import (
    MANIFEST_NAME,
    PAYLOAD_PATH,
    Manifest,
    decode_manifest,
    encode_manifest,
)
from holdfast.formats.errors import (
    ArtifactInvalid,
    InvalidFormat,
    StoreCorrupt,
    StoreFull,
    StoreIOError,
    StoreReadOnly,
)
from holdfast.formats.fold_log import HEADER, Ending
from holdfast.formats.values import Cursor, KvEntry
from holdfast.workers.artifacts import (
    STAGE_SUFFIX,
    already_exported_steps,
    already_imported,
    export_steps,
    import_artifact,
    inspect_artifact,
)
from holdfast.workers.disk import Buffer, OsDisk, OsFile
from holdfast.workers.fold_messages import ArtifactFile
from holdfast.workers.messages import Progress

DATA = Path(__file__).resolve().parent.parent / "data" / "fold"
GOLDEN = DATA / "artifacts"
EXPECTED: dict[str, dict[str, Any]] = json.loads((DATA / "expected.json").read_text())["artifacts"]
GOOD_LOG = (GOLDEN / "good" / PAYLOAD_PATH).read_bytes()
GOOD_CREATED = 1_765_400_000

Result = TypeVar("Result")
CURSOR = Cursor.from_u64(7)
STATE = {b"a": b"1", b"b": b"22"}


def log_of(state: dict[bytes, bytes], cursor: Cursor = CURSOR) -> bytes:
    """The compacted log of a state."""
    records = [fold_log.encode_put(key, value, b"v") for key, value in sorted(state.items())]
    if not cursor.is_none:
        records.append(fold_log.encode_cursor(cursor.token))
    return HEADER + b"".join(records)


LOG = log_of(STATE)


def entries_of(path: Path) -> tuple[list[KvEntry], Cursor]:
    """What a clean log holds, in key order."""
    log = path.read_bytes()
    spans: dict[bytes, int] = {}
    scan = fold_log.scan(log, fold_log.HEADER_BYTES, spans)
    assert scan.verdict.ending is Ending.CLEAN
    live = [spans[key] for key in sorted(spans) if spans[key]]
    return fold_log.decode_puts(memoryview(log), live), scan.cursor or Cursor.none()


def tree(directory: Path) -> dict[str, bytes | str | None]:
    """All that is in a directory: files' bytes, links' targets, None for directories."""
    found: dict[str, bytes | str | None] = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


def descriptor_of(file: OsFile) -> int:
    """The file's descriptor, for another object to own."""
    descriptor = os.dup(file.fileno())
    file.close()
    return descriptor


class QuickFile(OsFile):
    """A file whose syncs do nothing."""

    def sync(self) -> None:
        pass


class QuickDisk(OsDisk):
    """A disk whose syncs do nothing, for tests of many cases."""

    def open(self, path: str, *, write: bool = False, create: bool = False) -> OsFile:
        return QuickFile(path, descriptor_of(super().open(path, write=write, create=create)))

    def sync_directory(self, path: str) -> None:
        pass


DISK = QuickDisk()


def export(
    destination: Path,
    log: bytes = LOG,
    *,
    cursor: Cursor = CURSOR,
    entries: int = len(STATE),
    disk: OsDisk = DISK,
    piece: int = 1 << 20,
) -> list[ArtifactFile]:
    """Run an export to its end."""
    chunks = [log[at : at + piece] for at in range(0, len(log), piece)]
    return finish(export_of(destination, chunks, cursor, entries, disk))


def export_of(
    destination: Path,
    chunks: Iterable[bytes],
    cursor: Cursor = CURSOR,
    entries: int = len(STATE),
    disk: OsDisk = DISK,
) -> Generator[Progress, None, list[ArtifactFile]]:
    """An export that has not begun."""
    return export_steps(
        disk, str(destination), chunks, cursor, entries, len(LOG), created_at_unix=GOOD_CREATED
    )


def finish(steps: Generator[object, None, Result]) -> Result:
    """Run steps to their end; returns their result."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: Result = stop.value
            return result


def bring_in(directory: Path, destination: Path, disk: OsDisk = DISK) -> None:
    """Import an artifact."""
    import_artifact(disk, str(directory), str(destination), lambda: None)


def golden_copy(name: str, into: Path) -> Path:
    """A golden artifact as it was made: git does not keep the empty directory of one of them."""
    shutil.copytree(GOLDEN / name, into / name)
    if name == "missing-payload":
        (into / name / "data").mkdir()
    return into / name


def artifact_with(directory: Path, log: bytes, cursor: Cursor = CURSOR) -> Path:
    """An artifact around any payload, its size and digest right."""
    (directory / "data").mkdir(parents=True)
    (directory / PAYLOAD_PATH).write_bytes(log)
    manifest = Manifest(cursor, GOOD_CREATED, len(log), blake3(log).hexdigest())
    (directory / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
    return directory


# --- golden artifacts --------------------------------------------------------------------------

# Where the refusal differs from the original's, and why.
IMPROVED: dict[str, tuple[str, type[Exception] | None, str, str]] = {
    "missing-data-dir": (
        "Io",
        FileNotFoundError,
        "data' is not a directory",
        "an artifact without its payload is a bad artifact, not a failing disk",
    ),
    "corrupt-log-good-checksum": (
        "Corrupted",
        StoreCorrupt,
        "is damaged at offset 38: checksum mismatch",
        "what to do is to get another artifact, not to repair a store",
    ),
    "schema2-with-new-field": (
        "ArtifactInvalid",
        None,
        "schema_version 2 is a newer schema",
        "an artifact of a later release is not malformed",
    ),
}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_golden_artifact_is_accepted_or_refused(name: str, tmp_path: Path) -> None:
    """Each golden artifact is accepted or refused as by the original, and leaves what it left."""
    expected = EXPECTED[name]
    source = golden_copy(name, tmp_path)
    destination = tmp_path / "parent" / "imp.snap"
    destination.parent.mkdir()
    if expected["ok"]:
        bring_in(source, destination, OsDisk())
        entries, cursor = entries_of(destination)
        assert cursor.token.hex() == expected["cursor"]["hex"]
        assert [
            {"key": e.key, "value_hex": e.value.hex(), "version_hex": e.version.token.hex()}
            for e in entries
        ] == [
            {part: entry[part] for part in ("key", "value_hex", "version_hex")}
            for entry in expected["entries"]
        ]
    else:
        assert name in IMPROVED or expected["error"]["kind"] == "ArtifactInvalid"
        with pytest.raises(ArtifactInvalid):
            bring_in(source, destination, OsDisk())
    assert list(tree(destination.parent)) == expected["left_in_parent"]


@pytest.mark.parametrize("name", IMPROVED)
def test_an_improved_refusal_says_more(name: str, tmp_path: Path) -> None:
    """Where the original raised another error, ours is the artifact's, with that one as cause."""
    theirs, cause, message, _reason = IMPROVED[name]
    assert EXPECTED[name]["error"]["kind"] == theirs
    with pytest.raises(ArtifactInvalid, match=message) as caught:
        bring_in(golden_copy(name, tmp_path), tmp_path / "imp.snap")
    assert isinstance(caught.value.__cause__, cause or type(None))


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_inspecting_a_golden_artifact_foretells_its_import(name: str, tmp_path: Path) -> None:
    """What inspection calls importable is what an import accepts, and nothing is written."""
    source = golden_copy(name, tmp_path)
    before = tree(tmp_path)
    report = inspect_artifact(DISK, str(source))
    assert tree(tmp_path) == before
    assert report.importable == EXPECTED[name]["ok"]
    assert report.importable == (report.verdict is Ending.CLEAN)
    assert bool(report.reason) != report.importable
    if report.importable:
        assert report.entries == len(EXPECTED[name]["entries"])
        assert report.manifest is not None
        assert report.manifest.cursor.token.hex() == EXPECTED[name]["cursor"]["hex"]


@pytest.mark.parametrize("name", ["good", "good-cursor10", "good-empty"])
def test_an_export_has_the_golden_bytes(name: str, tmp_path: Path) -> None:
    """Exporting a golden artifact's state gives that artifact, byte for byte."""
    manifest = decode_manifest((GOLDEN / name / MANIFEST_NAME).read_bytes())
    log = (GOLDEN / name / PAYLOAD_PATH).read_bytes()
    destination = tmp_path / "out"
    steps = export_steps(
        OsDisk(), str(destination), [log], manifest.cursor, len(EXPECTED[name]["entries"]),
        total=len(log), created_at_unix=manifest.created_at_unix,
    )  # fmt: skip
    files = finish(steps)
    assert files == [ArtifactFile(PAYLOAD_PATH, manifest.payload_bytes, manifest.payload_blake3)]
    assert tree(destination) == tree(GOLDEN / name)
    assert os.listdir(tmp_path) == ["out"]


# --- round trip --------------------------------------------------------------------------------


@given(
    st.dictionaries(st.text(max_size=8), st.binary(max_size=40), max_size=8),
    st.binary(max_size=10),
    st.integers(1, 64),
)
def test_what_is_exported_is_imported(
    tmp_path_factory: pytest.TempPathFactory, state: dict[str, bytes], token: bytes, piece: int
) -> None:
    """Any state comes back from export and import the same, however its log is cut in pieces."""
    directory = tmp_path_factory.mktemp("trip")
    log = log_of({key.encode(): value for key, value in state.items()}, Cursor(token))
    export(directory / "out", log, cursor=Cursor(token), entries=len(state), piece=piece)
    bring_in(directory / "out", directory / "in.snap")
    assert (directory / "in.snap").read_bytes() == log
    assert already_imported(DISK, str(directory / "out"), str(directory / "in.snap"))
    report = inspect_artifact(DISK, str(directory / "out"))
    assert (report.verdict, report.entries) == (Ending.CLEAN, len(state))
    shutil.rmtree(directory)


def test_a_large_export_reports_often(tmp_path: Path) -> None:
    """No 4 MiB go by without a chance to serve others, in writing or in reading back."""
    log = log_of({b"%03d" % n: bytes(3 << 20) for n in range(5)})
    steps = export_steps(DISK, str(tmp_path / "out"), [log], CURSOR, 5, len(log), GOOD_CREATED)
    reports = list(steps)
    written = [report.done for report in reports if report.stage == "export"]
    assert written == sorted(written)
    gaps = [after - before for before, after in zip([0, *written], written, strict=False)]
    assert max(gaps) <= 4 << 20
    assert reports[-1] == Progress("verify", len(log), len(log))
    records = [fold_log.encode_put(b"%03d" % n, bytes(1 << 20), b"") for n in range(6)]
    steps = export_steps(
        DISK, str(tmp_path / "cut"), [HEADER, *records], Cursor.none(), 6, 0, GOOD_CREATED
    )
    verified = [report.done for report in steps if report.stage == "verify"]
    assert len(verified) == 6


def test_an_import_ticks_while_it_works(tmp_path: Path) -> None:
    """A long import shows that it is alive, at every MiB it copies."""
    log = log_of({b"%03d" % n: bytes(1 << 20) for n in range(4)})
    export(tmp_path / "out", log, entries=4)
    ticks: list[None] = []
    import_artifact(
        DISK, str(tmp_path / "out"), str(tmp_path / "in.snap"), lambda: ticks.append(None)
    )
    assert len(ticks) >= 5


# --- refused exports ---------------------------------------------------------------------------

PUT_A, PUT_B = (fold_log.encode_put(key, STATE[key], b"v") for key in (b"a", b"b"))
END = fold_log.encode_cursor(CURSOR.token)
BAD_LOGS: list[tuple[str, list[bytes], str]] = [
    ("nothing", [], "does not begin with a log's header"),
    ("no header", [PUT_A, PUT_B, END], "does not begin with a log's header"),
    ("too few entries", [HEADER, PUT_A, END], "has 1 entries and Cursor.from_u64.7., not 2"),
    ("no cursor", [HEADER, PUT_A, PUT_B], "not 2 and Cursor.from_u64.7."),
    ("wrong order", [HEADER, PUT_B, PUT_A, END], "not one for each key, in key order"),
    ("a key twice", [HEADER, PUT_A, PUT_A, END], "not one for each key, in key order"),
    (
        "a delete",
        [HEADER, PUT_A, fold_log.encode_delete(b"b", b""), END],
        "not one for each key, in key order",
    ),
    ("torn", [HEADER, PUT_A, PUT_B[:-1]], "at offset 21: "),
    ("damaged", [HEADER, PUT_A[:-1] + b"x", PUT_B, END], "at offset 6: "),
]


@pytest.mark.parametrize(
    ("chunks", "message"), [bad[1:] for bad in BAD_LOGS], ids=[b[0] for b in BAD_LOGS]
)
def test_a_log_that_is_not_what_was_said_is_not_exported(
    chunks: list[bytes], message: str, tmp_path: Path
) -> None:
    """What reads back unlike a compacted log with these entries and this cursor is not kept."""
    with pytest.raises(ArtifactInvalid, match=message):
        finish(export_of(tmp_path / "out", chunks))
    assert tree(tmp_path) == {}


class Planned(Exception):
    """Raised by a test's own chunks."""


def chunks_failing_with(error: BaseException) -> Iterator[bytes]:
    """Half a log, then an error."""
    yield HEADER + PUT_A
    raise error


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (Planned(), Planned),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(errno.ENOSPC, "no space"), StoreFull),
        (StoreCorrupt("bad", path="x"), StoreCorrupt),
    ],
    ids=["foreign", "interrupt", "os error", "typed"],
)
def test_an_error_of_the_source_passes_through(
    raised: BaseException, expected: type[BaseException], tmp_path: Path
) -> None:
    """An error that the log's source raises arrives, typed, and no stage is left."""
    with pytest.raises(expected) as caught:
        finish(export_of(tmp_path / "out", chunks_failing_with(raised)))
    assert caught.value is raised or isinstance(raised, OSError)
    assert tree(tmp_path) == {}


def test_an_export_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    """Closing the generator in the middle clears the stage."""
    steps = export_of(tmp_path / "out", [HEADER, PUT_A, PUT_B + END])
    next(steps)
    assert tree(tmp_path) != {}
    steps.close()
    assert tree(tmp_path) == {}


def taken_by_file(path: Path) -> None:
    path.write_bytes(b"mine")


def taken_by_directory(path: Path) -> None:
    path.mkdir()
    (path / "mine").write_bytes(b"mine")


TAKEN = pytest.mark.parametrize("take", [taken_by_file, taken_by_directory])


@TAKEN
def test_a_taken_destination_is_left_alone(take: Callable[[Path], None], tmp_path: Path) -> None:
    """Neither export nor import touches a file or a filled directory that is there before."""
    destination = tmp_path / "parent" / "out"
    destination.parent.mkdir()
    take(destination)
    before = tree(destination.parent)
    with pytest.raises(ArtifactInvalid, match=r"exists|is not empty") as caught:
        export(destination)
    assert caught.value.path == str(destination)
    with pytest.raises(ArtifactInvalid, match=r"exists|is not empty"):
        bring_in(GOLDEN / "good", destination)
    assert tree(destination.parent) == before


@TAKEN
def test_a_destination_that_appears_meanwhile_is_left_alone(
    take: Callable[[Path], None], tmp_path: Path
) -> None:
    """A destination taken while the work goes on is noticed at the end, and wins."""
    for name in ("out", "in.snap"):
        destination = tmp_path / name / name
        destination.parent.mkdir()

        def work(destination: Path = destination) -> None:
            if destination.name == "out":
                steps = export_of(destination, [LOG])
                next(steps)
                take(destination)
                finish(steps)
            else:
                import_artifact(
                    DISK, str(GOLDEN / "good"), str(destination),
                    lambda: None if destination.exists() else take(destination),
                )  # fmt: skip

        with pytest.raises(ArtifactInvalid, match=r"exists|is not empty"):
            work()
        left = tree(destination.parent)
        assert b"mine" in left.values()
        assert not any(STAGE_SUFFIX in path for path in left)


def test_an_empty_directory_may_be_the_destination(tmp_path: Path) -> None:
    """An empty directory is replaced by the artifact, and by an imported log."""
    (tmp_path / "out").mkdir()
    (tmp_path / "in.snap").mkdir()
    export(tmp_path / "out")
    bring_in(tmp_path / "out", tmp_path / "in.snap")
    assert (tmp_path / "in.snap").read_bytes() == LOG


@pytest.mark.parametrize("name", ["out", "", "/", ".", "..", "a/..", "a/."])
def test_a_destination_without_a_parent_is_refused(name: str) -> None:
    """A bare name, or one that is no entry of a directory, is refused before anything is done."""
    with pytest.raises(ArtifactInvalid):
        finish(export_steps(DISK, name, [LOG], CURSOR, 2, len(LOG), GOOD_CREATED))
    with pytest.raises(ArtifactInvalid):
        import_artifact(DISK, str(GOLDEN / "good"), name, lambda: None)


def test_a_missing_parent_is_an_io_error(tmp_path: Path) -> None:
    """A destination in no directory is the caller's to make, and the error says which."""
    with pytest.raises(StoreIOError, match="no/out") as caught:
        export(tmp_path / "no" / "out")
    assert caught.value.errno == errno.ENOENT
    with pytest.raises(StoreIOError, match=r"no/in.snap"):
        bring_in(GOLDEN / "good", tmp_path / "no" / "in.snap")


def test_names_at_the_file_system_s_limit_are_served(tmp_path: Path) -> None:
    """A destination's name may be as long as the file system allows, and end with a slash."""
    destination = tmp_path / ("x" * 255)
    finish(export_steps(DISK, f"{destination}/", [LOG], CURSOR, 2, len(LOG), GOOD_CREATED))
    bring_in(destination, tmp_path / ("y" * 255))
    assert (tmp_path / ("y" * 255)).read_bytes() == LOG
    assert len(os.listdir(tmp_path)) == 2


# --- refused imports ---------------------------------------------------------------------------


def test_a_missing_source_is_refused(tmp_path: Path) -> None:
    """A directory that is not there, is empty or is a file is no artifact."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"")
    for name, expected in [
        ("absent", ArtifactInvalid), ("empty", ArtifactInvalid), ("file", StoreIOError),
    ]:  # fmt: skip
        with pytest.raises(expected):
            bring_in(tmp_path / name, tmp_path / "in.snap")
    assert sorted(os.listdir(tmp_path)) == ["empty", "file"]


def add_link(source: Path) -> None:
    (source / "data" / "link").symlink_to(source / PAYLOAD_PATH)


def make_payload_a_link(source: Path) -> None:
    (source / PAYLOAD_PATH).rename(source / "elsewhere")
    (source / PAYLOAD_PATH).symlink_to(source / "elsewhere")


def add_pipe(source: Path) -> None:
    os.mkfifo(source / "data" / "pipe")


def make_manifest_a_pipe(source: Path) -> None:
    (source / MANIFEST_NAME).unlink()
    os.mkfifo(source / MANIFEST_NAME)


def make_manifest_a_directory(source: Path) -> None:
    (source / MANIFEST_NAME).unlink()
    (source / MANIFEST_NAME).mkdir()


def make_payload_a_directory(source: Path) -> None:
    (source / PAYLOAD_PATH).unlink()
    (source / PAYLOAD_PATH).mkdir()


def make_data_a_file(source: Path) -> None:
    shutil.rmtree(source / "data")
    (source / "data").write_bytes(b"")


def add_nested_file(source: Path) -> None:
    (source / "data" / "a" / "b").mkdir(parents=True)
    (source / "data" / "a" / "b" / "fold.snap").write_bytes(b"")


def append_to_payload(source: Path) -> None:
    with (source / PAYLOAD_PATH).open("ab") as file:
        file.write(b"\0")


SPOILERS: list[tuple[Callable[[Path], None], str]] = [
    (add_link, "link' is neither a regular file nor a directory"),
    (make_payload_a_link, "neither a regular file nor a directory"),
    (add_pipe, "pipe' is neither a regular file nor a directory"),
    (make_manifest_a_pipe, "is not a regular file"),
    (make_manifest_a_directory, "is not a regular file"),
    (make_payload_a_directory, "the payload file .* is missing"),
    (make_data_a_file, "is not a directory"),
    (add_nested_file, "a/b/fold.snap' is not in the manifest"),
    (append_to_payload, "is 1263 bytes, the manifest says 1262"),
]


@pytest.mark.parametrize(("spoil", "message"), SPOILERS)
def test_a_spoilt_artifact_is_refused(
    spoil: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    """What is missing, added or not a plain file is named, and nothing is left behind."""
    source = golden_copy("good", tmp_path)
    spoil(source)
    before = os.listdir(tmp_path)
    with pytest.raises(ArtifactInvalid, match=message):
        bring_in(source, tmp_path / "in.snap")
    assert os.listdir(tmp_path) == before
    report = inspect_artifact(DISK, str(source))
    assert (report.verdict, report.importable, report.entries) == (Ending.INVALID, False, None)


def test_empty_directories_in_an_artifact_do_not_matter(tmp_path: Path) -> None:
    """Only files under data/ have to be declared, however deep the directories."""
    source = golden_copy("good", tmp_path)
    (source / "data" / "/".join("d" * 100)).mkdir(parents=True)
    bring_in(source, tmp_path / "in.snap")


def test_an_unreadable_artifact_is_an_io_error(tmp_path: Path) -> None:
    """When the operating system refuses, the error is its own and says what it was about."""

    class Denied(QuickDisk):
        def open(self, path: str, *, write: bool = False, create: bool = False) -> OsFile:
            if path.endswith(PAYLOAD_PATH):
                raise PermissionError(errno.EACCES, "denied")
            return super().open(path, write=write, create=create)

    with pytest.raises(StoreReadOnly, match=r"import .*good' to .*in.snap"):
        bring_in(GOLDEN / "good", tmp_path / "in.snap", Denied())
    with pytest.raises(StoreReadOnly, match="inspect"):
        inspect_artifact(Denied(), str(GOLDEN / "good"))


def test_no_truncation_or_flipped_bit_of_a_manifest_misleads(tmp_path: Path) -> None:
    """A damaged manifest is refused, or what it changed is only the time or a digit's case."""
    cursor = Cursor.from_bytes(b"\xab\xcd")
    log = log_of(STATE, cursor)
    source = artifact_with(tmp_path / "a", log, cursor)
    manifest = source / MANIFEST_NAME
    data = manifest.read_bytes()
    destination = tmp_path / "in.snap"
    wholesome = 0
    damaged = [data[:length] for length in range(len(data))]
    for at in range(len(data)):
        damaged += [data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :] for bit in range(8)]
    for variant in damaged:
        try:
            decode_manifest(variant)
            manifest.write_bytes(variant)
            bring_in(source, destination)
        except ArtifactInvalid:
            assert not destination.exists()
            continue
        assert destination.read_bytes() == log
        assert decode_manifest(variant).cursor == cursor
        destination.unlink()
        wholesome += 1
    assert 4 <= wholesome <= 4 + 8 * len(str(GOOD_CREATED))


def test_no_truncation_or_flipped_bit_of_a_payload_passes(tmp_path: Path) -> None:
    """Every cut and every flipped bit of a payload is refused."""
    source = artifact_with(tmp_path / "a", LOG)
    payload = source / PAYLOAD_PATH
    damaged = [LOG[:length] for length in range(len(LOG))]
    for at in range(len(LOG)):
        damaged += [LOG[:at] + bytes([LOG[at] ^ 1 << bit]) + LOG[at + 1 :] for bit in range(8)]
    for variant in damaged:
        payload.write_bytes(variant)
        with pytest.raises(ArtifactInvalid):
            bring_in(source, tmp_path / "in.snap")
        assert os.listdir(tmp_path) == ["a"]


# --- torn payloads -----------------------------------------------------------------------------

TAILS = [b"\0", bytes(512), PUT_A[:-1], b"\xff" * 3]


@pytest.mark.parametrize("tail", TAILS)
def test_a_torn_tail_behind_the_cursor_is_cut(tail: bytes, tmp_path: Path) -> None:
    """A payload torn behind the promised cursor is imported without its tail."""
    source = artifact_with(tmp_path / "a", LOG + tail)
    report = inspect_artifact(DISK, str(source))
    assert (report.verdict, report.importable, report.entries) == (Ending.TORN, True, 2)
    assert report.reason
    bring_in(source, tmp_path / "in.snap")
    assert (tmp_path / "in.snap").read_bytes() == LOG
    assert already_imported(DISK, str(source), str(tmp_path / "in.snap"))


def test_a_payload_torn_before_the_cursor_is_refused(tmp_path: Path) -> None:
    """When the tail took the cursor with it, the payload is refused as torn."""
    source = artifact_with(tmp_path / "a", LOG[:-1])
    report = inspect_artifact(DISK, str(source))
    assert (report.verdict, report.importable) == (Ending.TORN, False)
    with pytest.raises(ArtifactInvalid, match=r"torn at offset .*the manifest says"):
        bring_in(source, tmp_path / "in.snap")


def test_a_payload_shorter_than_a_header_is_refused(tmp_path: Path) -> None:
    """An empty file is no log, not even of an empty fold."""
    source = artifact_with(tmp_path / "a", b"", Cursor.none())
    with pytest.raises(ArtifactInvalid, match="0 bytes are no log") as caught:
        bring_in(source, tmp_path / "in.snap")
    assert isinstance(caught.value.__cause__, InvalidFormat)


# --- leftovers and rivals ----------------------------------------------------------------------


def left_file(stage: Path) -> None:
    stage.write_bytes(b"old")


def left_directory(stage: Path) -> None:
    (stage / "data" / "deep").mkdir(parents=True)
    (stage / PAYLOAD_PATH).write_bytes(b"old" * 1000)
    (stage / (MANIFEST_NAME + ".tmp")).write_bytes(b"old")


def left_bare_directory(stage: Path) -> None:
    stage.mkdir()


@pytest.mark.parametrize("leave", [left_file, left_directory, left_bare_directory])
def test_what_a_crash_left_is_cleared(leave: Callable[[Path], None], tmp_path: Path) -> None:
    """A stage of an earlier attempt, whatever is in it, is replaced by the next attempt's."""
    for name in ("out", "in.snap"):
        leave(tmp_path / f".{name}{STAGE_SUFFIX}")
    export(tmp_path / "out")
    bring_in(tmp_path / "out", tmp_path / "in.snap")
    assert sorted(os.listdir(tmp_path)) == ["in.snap", "out"]
    assert tree(tmp_path / "out").keys() == {"data", PAYLOAD_PATH, MANIFEST_NAME}
    assert (tmp_path / "in.snap").read_bytes() == LOG


def test_a_link_in_the_stage_s_place_is_not_followed(tmp_path: Path) -> None:
    """Clearing a stage removes a link, and nothing that it points to."""
    (tmp_path / "mine" / "data").mkdir(parents=True)
    (tmp_path / "mine" / PAYLOAD_PATH).write_bytes(b"mine")
    before = tree(tmp_path / "mine")
    for name in ("out", "in.snap"):
        (tmp_path / f".{name}{STAGE_SUFFIX}").symlink_to(tmp_path / "mine")
    export(tmp_path / "out")
    bring_in(tmp_path / "out", tmp_path / "in.snap")
    assert tree(tmp_path / "mine") == before


def test_a_second_export_to_the_same_place_is_refused(tmp_path: Path) -> None:
    """While an export is under way another to the same place fails, and disturbs it in no way."""
    first = export_of(tmp_path / "out", [HEADER, PUT_A, PUT_B + END])
    next(first)
    with pytest.raises(ArtifactInvalid, match="in use by another"):
        export(tmp_path / "out")
    finish(first)
    assert inspect_artifact(DISK, str(tmp_path / "out")).importable


def test_a_second_import_to_the_same_place_is_refused(tmp_path: Path) -> None:
    """While an import is under way another to the same place fails, and disturbs it in no way."""
    destination = tmp_path / "in.snap"
    refused: list[str] = []

    def rival() -> None:
        if not refused:
            with pytest.raises(ArtifactInvalid, match="in use by another") as caught:
                bring_in(GOLDEN / "good", destination)
            refused.append(caught.value.message)

    import_artifact(DISK, str(GOLDEN / "good"), str(destination), rival)
    assert refused
    assert destination.read_bytes() == GOOD_LOG


def test_a_stage_that_is_no_longer_ours_is_not_used(tmp_path: Path) -> None:
    """When somebody replaced the stage by another, it is neither put in place nor removed."""
    stage = tmp_path / f".out{STAGE_SUFFIX}"
    steps = export_of(tmp_path / "out", [HEADER, PUT_A, PUT_B + END])
    next(steps)
    shutil.move(stage, tmp_path / "moved")
    left_directory(stage)
    with pytest.raises(ArtifactInvalid, match="in use by another"):
        finish(steps)
    assert (stage / PAYLOAD_PATH).read_bytes() == b"old" * 1000
    assert not (tmp_path / "out").exists()


# --- sent again after a crash ------------------------------------------------------------------


def exported_before(
    destination: Path, log: bytes = LOG, cursor: Cursor = CURSOR
) -> list[ArtifactFile] | None:
    """Ask whether ``log`` was exported to ``destination``."""
    return finish(already_exported_steps(DISK, str(destination), [log], cursor, len(log)))


def test_an_export_that_was_done_is_recognised(tmp_path: Path) -> None:
    """An export sent again finds its own artifact, at whatever time that was made."""
    files = export(tmp_path / "out")
    before = tree(tmp_path)
    assert exported_before(tmp_path / "out") == files
    assert tree(tmp_path) == before


def test_another_export_is_not_taken_for_one_s_own(tmp_path: Path) -> None:
    """Absent, empty, other in state, or damaged since: none of these is the same export."""
    assert exported_before(tmp_path / "out") is None
    (tmp_path / "out").mkdir()
    assert exported_before(tmp_path / "out") is None
    export(tmp_path / "out")
    other = log_of({b"a": b"1", b"b": b"2 "})
    assert len(other) == len(LOG)
    assert exported_before(tmp_path / "out", other) is None
    assert exported_before(tmp_path / "out", log_of(STATE, Cursor.none()), Cursor.none()) is None
    payload = tmp_path / "out" / PAYLOAD_PATH
    payload.write_bytes(LOG[:-1] + b"\xff")
    assert exported_before(tmp_path / "out") is None
    payload.unlink()
    assert exported_before(tmp_path / "out") is None


def test_an_import_that_was_done_is_recognised(tmp_path: Path) -> None:
    """Only the very bytes that an import makes count as imported."""
    source, destination = golden_copy("good", tmp_path), tmp_path / "in.snap"

    def done() -> bool:
        return already_imported(DISK, str(source), str(destination))

    assert not done()
    destination.mkdir()
    assert not done()
    bring_in(source, destination)
    assert done()
    for other in (b"", HEADER, GOOD_LOG[:-1], GOOD_LOG[:-14], GOOD_LOG + b"\0", LOG):
        destination.write_bytes(other)
        assert not done()
    destination.write_bytes(GOOD_LOG)
    (source / MANIFEST_NAME).unlink()
    assert not done()


# --- failures and crashes at every step --------------------------------------------------------


class Crash(BaseException):
    """The process is gone: nothing after it is done."""


class FaultyDisk(OsDisk):
    """Fails at operation ``at``: once with ``error``, or from then on as if the process died."""

    def __init__(self, at: int, *, crash: bool) -> None:
        self.left = at
        self._crash = crash
        self.failed_at = ""

    def step(self, name: str) -> None:
        """Count an operation, and fail if it is its turn."""
        self.left -= 1
        if self.left == 0 or (self.left < 0 and self._crash):
            self.failed_at = self.failed_at or name
            raise Crash if self._crash else OSError(errno.EIO, "planned")

    def open(self, path: str, *, write: bool = False, create: bool = False) -> OsFile:
        self.step("open")
        return FaultyFile(super().open(path, write=write, create=create), self)

    def list(self, path: str) -> list[tuple[str, str]]:
        self.step("list")
        return super().list(path)

    def make_directory(self, path: str) -> None:
        self.step("make_directory")
        super().make_directory(path)

    def remove_directory(self, path: str) -> None:
        self.step("remove_directory")
        super().remove_directory(path)

    def remove(self, path: str) -> None:
        if not os.path.lexists(path):
            raise FileNotFoundError(path)
        self.step("remove")
        super().remove(path)

    def rename(self, source: str, destination: str) -> None:
        self.step("rename")
        super().rename(source, destination)

    def sync_directory(self, path: str) -> None:
        self.step("sync_directory")


class FaultyFile(OsFile):
    """A file of a ``FaultyDisk``; a write that fails leaves half of itself."""

    def __init__(self, file: OsFile, disk: FaultyDisk) -> None:
        super().__init__(file.path, descriptor_of(file))
        self._disk = disk

    def read_at(self, offset: int, length: int) -> bytes:
        self._disk.step("read_at")
        return super().read_at(offset, length)

    def write_at(self, offset: int, *pieces: Buffer) -> None:
        try:
            self._disk.step("write_at")
        except BaseException:
            data = b"".join(pieces)
            super().write_at(offset, data[: len(data) // 2])
            raise
        super().write_at(offset, *pieces)

    def sync(self) -> None:
        self._disk.step("sync")


def at_every_step(work: Callable[[FaultyDisk], object], *, crash: bool) -> Iterator[FaultyDisk]:
    """Run ``work`` failing at its first operation, then its second, until none is left to fail."""
    for at in range(1, 200):
        disk = FaultyDisk(at, crash=crash)
        try:
            work(disk)
        except (StoreIOError, Crash):
            yield disk
        else:
            assert disk.left >= 0
            assert at > 10, "the work has more operations than that"
            return


def test_an_export_fails_without_a_trace(tmp_path: Path) -> None:
    """Whichever operation of an export fails, nothing is left and the next export succeeds."""
    destination = tmp_path / "out"
    steps = []
    for disk in at_every_step(lambda disk: export(destination, disk=disk), crash=False):
        steps.append(disk.failed_at)
        assert tree(tmp_path) == {}, disk.failed_at
        export(destination)
        shutil.rmtree(destination)
    assert {"open", "make_directory", "write_at", "sync", "rename", "sync_directory"} <= {*steps}


def test_an_import_fails_without_a_trace(tmp_path: Path) -> None:
    """Whichever operation of an import fails, nothing is left and the next import succeeds."""
    destination = tmp_path / "in.snap"
    steps = []
    work = at_every_step(lambda disk: bring_in(GOLDEN / "good", destination, disk), crash=False)
    for disk in work:
        steps.append(disk.failed_at)
        assert tree(tmp_path) == {}, disk.failed_at
        bring_in(GOLDEN / "good", destination)
        destination.unlink()
    assert {"open", "read_at", "write_at", "sync", "rename", "sync_directory"} <= {*steps}


def test_an_export_survives_a_crash_anywhere(tmp_path: Path) -> None:
    """After a crash the destination is absent or complete, and sending it again makes it right."""
    destination = tmp_path / "out"
    outcomes = set()
    for _ in at_every_step(lambda disk: export(destination, disk=disk), crash=True):
        done = exported_before(destination) is not None
        assert destination.exists() == done
        outcomes.add(done)
        if not done:
            export(destination)
        assert list(tmp_path.iterdir()) == [destination]
        assert inspect_artifact(DISK, str(destination)).importable
        shutil.rmtree(destination)
    assert outcomes == {False, True}


def test_an_import_survives_a_crash_anywhere(tmp_path: Path) -> None:
    """After a crash the destination is absent or complete, and trying again makes it right."""
    source, destination = GOLDEN / "good", tmp_path / "in.snap"
    outcomes = set()
    for _ in at_every_step(lambda disk: bring_in(source, destination, disk), crash=True):
        done = already_imported(DISK, str(source), str(destination))
        assert destination.exists() == done
        outcomes.add(done)
        if not done:
            bring_in(source, destination)
        assert list(tmp_path.iterdir()) == [destination]
        assert destination.read_bytes() == GOOD_LOG
        destination.unlink()
    assert outcomes == {False, True}


class DurabilityDisk(OsDisk):
    """Knows what is not on stable storage yet: written files, and directories with new names."""

    def __init__(self) -> None:
        self.unsynced: set[str] = set()
        self.renames: list[tuple[str, set[str]]] = []

    def open(self, path: str, *, write: bool = False, create: bool = False) -> OsFile:
        if create and self.inode_at(path) is None:
            self.unsynced |= {path, os.path.dirname(path)}
        return DurabilityFile(super().open(path, write=write, create=create), self)

    def make_directory(self, path: str) -> None:
        super().make_directory(path)
        self.unsynced |= {path, os.path.dirname(path)}

    def rename(self, source: str, destination: str) -> None:
        within = {path for path in self.unsynced if path == source or path.startswith(f"{source}/")}
        self.renames.append((os.path.basename(destination), within))
        super().rename(source, destination)
        self.unsynced |= {os.path.dirname(source), os.path.dirname(destination)}

    def sync_directory(self, path: str) -> None:
        self.unsynced.discard(path)


class DurabilityFile(OsFile):
    """A file of a ``DurabilityDisk``."""

    def __init__(self, file: OsFile, disk: DurabilityDisk) -> None:
        super().__init__(file.path, descriptor_of(file))
        self._disk = disk

    def write_at(self, offset: int, *pieces: Buffer) -> None:
        self._disk.unsynced.add(self.path)
        super().write_at(offset, *pieces)

    def truncate(self, size: int) -> None:
        self._disk.unsynced.add(self.path)
        super().truncate(size)

    def sync(self) -> None:
        self._disk.unsynced.discard(self.path)


@pytest.mark.parametrize("log", [LOG, LOG + b"\0\0"], ids=["clean", "torn"])
def test_nothing_is_renamed_before_it_is_synced(log: bytes, tmp_path: Path) -> None:
    """Every file and directory is on stable storage before its rename, and the rename after it."""
    disk = DurabilityDisk()
    export(tmp_path / "out", disk=disk)
    bring_in(artifact_with(tmp_path / "a", log), tmp_path / "in.snap", disk)
    assert disk.renames == [(MANIFEST_NAME, set()), ("out", set()), ("in.snap", set())]
    assert disk.unsynced == set()
