"""Artifacts on disk: what the golden ones say, and what is exported is imported."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats import fold_log
from holdfast.formats.artifact import (
    MANIFEST_NAME,
    PAYLOAD_PATH,
    decode_manifest,
)
from holdfast.formats.errors import (
    ArtifactInvalid,
    StoreCorrupt,
)
from holdfast.formats.fold_log import HEADER, Ending
from holdfast.formats.values import Cursor
from holdfast.workers.artifacts import (
    already_imported,
    export_steps,
    import_artifact,
    inspect_artifact,
)
from holdfast.workers.disk import OsDisk
from holdfast.workers.fold_messages import ArtifactFile
from holdfast.workers.messages import Progress
from tests.workers.artifact_files import (
    CURSOR,
    DISK,
    EXPECTED,
    GOLDEN,
    GOOD_CREATED,
    bring_in,
    entries_of,
    export,
    finish,
    golden_copy,
    log_of,
    tree,
)

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
