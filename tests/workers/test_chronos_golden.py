"""Directories that the original wrote: what it reads from them, and what of it is damage to us."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from holdfast.formats.errors import StoreCorrupt
from holdfast.workers.chronos import refuse_damage, survey
from holdfast.workers.chronos_points import Duplicates
from holdfast.workers.chronos_report import ChronosReport
from holdfast.workers.disk import OsDisk
from tests.workers.chronos_files import Row, Series, read, tick

DATA = Path(__file__).parent.parent / "data" / "warm"
EXPECTED: dict[str, Any] = json.loads((DATA / "expected.json").read_text(encoding="utf-8"))
NAMES = sorted(path.name for path in DATA.iterdir() if path.is_dir())
DISK = OsDisk()
CHUNK = "entity_0000000000000001/space_0000_chunk_000000.warm"

# Directory: offset and reason of the first damage, and the timestamps that a salvage leaves.
DAMAGED: dict[str, tuple[int, str, list[int]]] = {
    "bad-frame-middle": (12, "no point: a vector of 127 floats in the 5 bytes left", [5, 10]),
    "empty-chunk": (0, "it is empty", []),
    "flipped-length": (0, "1 bytes behind the point within its frame", [10]),
    "huge-length": (0, "60 bytes that are no whole frame", []),
    "short-length": (0, "no point: the number of metadata pairs is cut off", []),
    "torn-chunk": (48, "9 bytes that are no whole frame", [5, 10, 20]),
}
# Directories that differ from their manifest and yet have every point: what is noted.
NOTED = {
    "bad-manifest": "manifest.json cannot be compared",
    "no-manifest": "there is no manifest.json",
    "stale-manifest": "spans 5 to 20, manifest.json says 5 to 5, which is too narrow",
}
SOUND = sorted(set(NAMES) - set(DAMAGED))


def expected_rows(name: str, dimension: int, duplicates: str) -> dict[Series, list[Row]]:
    """What ``expected.json`` says the original reads, under a rule for duplicates."""
    if name == "bad-manifest":  # which the original does not open; the files are these
        name = "duplicates"
    found: dict[Series, list[Row]] = {}
    for series in EXPECTED[name]["series"]:
        rows: dict[int, Row] = {}
        for point in series["points"]:
            vector = np.array([int(bits, 16) for bits in point["v"]], "<u4")
            row = Row(point["t"], vector.tobytes(), dict(point["m"]))
            if len(vector) != dimension or (duplicates == "first" and row.timestamp in rows):
                continue
            rows[row.timestamp] = row
        if rows:
            found[series["space"], series["entity"]] = list(rows.values())
    return dict(sorted(found.items()))


def survey_of(name: str) -> ChronosReport:
    """A golden directory, looked through."""
    return survey(DISK, str(DATA / name), tick)


@pytest.mark.parametrize("duplicates", ["first", "last"])
@pytest.mark.parametrize("name", sorted(set(SOUND) - {"multichunk"}))
def test_content(name: str, duplicates: Duplicates) -> None:
    """Every point comes out as the original has it, for every dimension there is."""
    report = survey_of(name)
    refuse_damage(report, str(DATA / name))
    assert sum(report.dimensions.values()) == sum(file.frames for file in report.files)
    assert report.dimensions.keys() - {0}
    for dimension in report.dimensions.keys() - {0}:
        found, _ = read(DISK, report, dimension, duplicates=duplicates, directory=str(DATA / name))
        assert found == expected_rows(name, dimension, duplicates)


def test_content_of_two_chunks() -> None:
    """A series is put together from its chunks, though the second has earlier points, too."""
    report = survey_of("multichunk")
    assert [(file.chunk, file.frames) for file in report.files] == [(0, 10_020), (1, 500)]
    found, dropped = read(DISK, report, directory=str(DATA / "multichunk"))
    rows = found[0, 3]
    said = EXPECTED["multichunk"]["series"][0]
    assert len(rows) + dropped == said["n_from_range"] == 10_520
    assert dropped == 0
    assert (rows[0].timestamp, rows[-1].timestamp) == (said["points"]["first"], 104_990)
    assert all(row.vector == np.float32(row.timestamp / 10).tobytes() for row in rows)


def test_duplicates() -> None:
    """The rule decides which of three values of a time counts, and both others are counted."""
    report = survey_of("duplicates")
    kept = {"first": 1.0, "last": 3.0}
    for rule in ("first", "last"):
        found, dropped = read(DISK, report, duplicates=rule, directory=str(DATA / "duplicates"))
        values = [np.frombuffer(row.vector, "<f4").item() for row in found[0, 1]]
        assert values == [1.0, kept[rule], 1.0]
        assert dropped == 2


@pytest.mark.parametrize("name", SOUND)
def test_notes(name: str) -> None:
    """A manifest that differs is noted and hinders nothing; one that does not is passed over."""
    report = survey_of(name)
    if name in NOTED:
        assert NOTED[name] in report.notes[-1]
    else:
        assert not report.notes
    assert not report.ignored


@pytest.mark.parametrize("name", sorted(DAMAGED))
def test_damage_is_refused(name: str) -> None:
    """Every damage that can be seen is refused with the file, the offset and the reason."""
    offset, reason, _ = DAMAGED[name]
    directory = str(DATA / name)
    report = survey_of(name)
    refusals = (
        lambda: refuse_damage(report, directory),
        lambda: read(DISK, report, directory=directory),
    )
    for refusal in refusals:
        with pytest.raises(StoreCorrupt) as refused:
            refusal()
        assert refused.value.path == f"{directory}/{CHUNK}"
        assert refused.value.offset == offset
        assert reason in str(refused.value.reason)
        assert str(refused.value.reason) in str(refused.value)


@pytest.mark.parametrize("name", sorted(DAMAGED))
def test_damage_is_salvaged(name: str) -> None:
    """On request the points of intact frames come, as the original reads them where it does."""
    report = survey_of(name)
    found, _ = read(DISK, report, salvage=True, directory=str(DATA / name))
    assert [row.timestamp for row in found.get((0, 1), [])] == DAMAGED[name][2]
    if name not in ("bad-frame-middle", "short-length"):  # which the original does not read
        assert found == expected_rows(name, 1, "last")


def test_no_checksum() -> None:
    """A changed bit of a vector is no damage to be seen; this one made a number infinite."""
    report = survey_of("flipped-vector")
    assert [file.non_finite for file in report.files] == [1]
    assert not report.files[0].flaws


def test_report_of_odd_points() -> None:
    """Ids at the ends of their range, mixed dimensions and numbers that are none are counted."""
    report = survey_of("odd")
    assert [(file.space, file.entity, file.frames) for file in report.files] == [
        (0, 0, 3),
        (0, 128, 4),
        (0, (1 << 64) - 1, 1),
        (9999, 0, 1),
    ]
    dimensions = {
        dimension: sum(
            len(point["v"]) == dimension
            for series in EXPECTED["odd"]["series"]
            for point in series["points"]
        )
        for dimension in report.dimensions
    }
    assert report.dimensions == dimensions
    assert report.points_of_other_dimensions(0) == 9 - dimensions[0]
    assert sum(file.non_finite for file in report.files) == 1
