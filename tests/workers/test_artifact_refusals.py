"""Exports and imports that are refused, with nothing left behind."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast.formats import fold_log
from holdfast.formats.artifact import (
    MANIFEST_NAME,
    PAYLOAD_PATH,
    decode_manifest,
)
from holdfast.formats.errors import (
    ArtifactInvalid,
    InvalidFormat,
    StoreCorrupt,
    StoreExists,
    StoreFull,
    StoreIOError,
    StoreReadOnly,
)
from holdfast.formats.fold_log import HEADER, Ending
from holdfast.formats.values import Cursor
from holdfast.workers.artifacts import (
    already_imported,
    export_steps,
    import_artifact,
    inspect_artifact,
)
from holdfast.workers.disk import OsFile
from holdfast.workers.stages import STAGE_SUFFIX
from tests.workers.artifact_files import (
    CURSOR,
    DISK,
    END,
    GOLDEN,
    GOOD_CREATED,
    LOG,
    PUT_A,
    PUT_B,
    STATE,
    QuickDisk,
    artifact_with,
    bring_in,
    export,
    export_of,
    finish,
    golden_copy,
    log_of,
    tree,
)

# --- refused exports ---------------------------------------------------------------------------

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
    with pytest.raises(StoreExists, match=r"exists|is not empty") as caught:
        export(destination)
    assert caught.value.path == str(destination)
    with pytest.raises(StoreExists, match=r"exists|is not empty"):
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

        with pytest.raises(StoreExists, match=r"exists|is not empty"):
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
