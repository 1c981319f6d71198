"""The measuring code for warm stores: data, peers, and a tiny run of every row."""

import dataclasses
import mmap
import os
from pathlib import Path

import numpy as np
import pytest

import holdfast
from holdfast.bench import groups, warm_data, warm_files
from holdfast.bench.run import QUICK, Run, WarmSizes
from holdfast.bench.warm_data import Columns

TINY = dataclasses.replace(
    QUICK,
    repetitions=1,
    warm=WarmSizes(
        rows=2000,
        entities=4,
        small_rows=200,
        lengths=(10, 500),
        reads=5,
        puts=5,
        repetitions=1,
        long_repetitions=1,
    ),
)
GROUPS = {name: measure for name, measure in groups.GROUPS.items() if name.startswith("warm-")}

# --- data --------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["noise", "walk"])
def test_samples_are_the_same_every_time_and_sorted(pattern: warm_data.Pattern) -> None:
    """What is measured today is what was measured yesterday; keys are in order, each once."""
    sample, again = warm_data.sample(300, 3, pattern), warm_data.sample(300, 3, pattern)
    assert sample.points.pieces == again.points.pieces
    keys = list(
        zip(sample.points.entities.tolist(), sample.points.timestamps.tolist(), strict=True)
    )
    assert keys == sorted(set(keys))
    assert sample.points.vectors.shape == (300, warm_data.DIMENSION)
    assert str(sample) == "300 points x 32 of 3 entities"
    assert sum(map(len, sample.points.pieces)) == 300 * warm_data.POINT_BYTES


def _keyed(batches: list[Columns]) -> list[tuple[int, int, bytes]]:
    return [
        (int(entity), int(time), bytes(vector))
        for batch in batches
        for entity, time, vector in zip(*batch, strict=True)
    ]


def test_every_order_has_the_same_points() -> None:
    """Batches by time hold many entities, batches by entity one, and none loses a point."""
    sample = warm_data.sample(400, 4)
    by = {order: list(sample.batches(100, order)) for order in ("time", "entity", "shuffled")}
    expected = _keyed([sample.points])
    assert _keyed(by["entity"]) == expected
    assert sorted(_keyed(by["time"])) == sorted(_keyed(by["shuffled"])) == expected
    assert [len(set(batch.entities.tolist())) for batch in by["entity"]] == [1, 1, 1, 1]
    assert [len(set(batch.entities.tolist())) for batch in by["time"]] == [4, 4, 4, 4]
    seconds = [batch.timestamps // warm_data.STEP_US for batch in by["time"]]
    assert (np.diff(np.concatenate(seconds)) >= 0).all()
    assert (np.diff(np.concatenate([batch.timestamps for batch in by["shuffled"]])) < 0).any()


def test_windows_hold_as_many_points_as_they_say() -> None:
    """So that a read that misses one is noticed."""
    sample = warm_data.sample(400, 4)
    for window in sample.windows(20, 7):
        times = sample.series(window.entity).timestamps
        assert np.count_nonzero((times >= window.start) & (times <= window.end)) == window.rows == 7


def test_a_directory_of_the_original_is_read_back(tmp_path: Path) -> None:
    """Import gives every point of it, bit for bit."""
    sample = warm_data.sample(300, 3)
    warm_data.write_original(str(tmp_path / "original"), sample, chunk_rows=40)
    with holdfast.open(tmp_path / "data") as engine:
        store = engine.warm("points", dimension=warm_data.DIMENSION, durability="never")
        report = store.import_chronos(tmp_path / "original")
        table = store.to_table()
    assert (report.points, report.duplicates) == (300, 0)
    assert np.array_equal(table["entity"].to_numpy(), sample.points.entities)
    assert np.array_equal(table["timestamp"].to_numpy(), sample.points.timestamps)
    vectors = table["vector"].combine_chunks().values.to_numpy()
    assert np.array_equal(vectors, sample.points.vectors.reshape(-1))


# --- rows --------------------------------------------------------------------------------------


def test_own_memory_leaves_out_pages_of_files(tmp_path: Path) -> None:
    """What is mapped from a file and only read does not count, what was written to does."""
    pid = os.getpid()
    path = tmp_path / "mapped"
    np.zeros(32 << 20, np.uint8).tofile(path)
    before = warm_files.own_memory(pid)
    mapped = np.memmap(path, np.uint8, "r")
    assert int(mapped.sum()) == 0
    seen = warm_files.own_memory(pid)
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    # An array may get memory that this process had before.
    with mmap.mmap(-1, 32 << 20, flags=private) as kept:
        kept.write(bytes([1]) * len(kept))
        assert warm_files.own_memory(pid) - seen > 16 << 20
    assert seen - before < 16 << 20 or not os.path.exists("/proc/self/smaps_rollup")


@pytest.mark.parametrize("name", GROUPS)
def test_every_row_comes_out_on_tiny_data(name: str, tmp_path: Path) -> None:
    """From end to end: figures that are numbers, ratios of the two, a limit beside each budget
    that is not a ratio, nothing left behind."""
    rows = GROUPS[name](Run(str(tmp_path), TINY))
    assert rows
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        assert row.name.startswith("warm-"), row.name
        assert np.isfinite(row.value), row
        assert row.ratio == (None if row.other is None else row.value / row.other)
        assert (row.met is None) == (row.budget is None)
        assert not row.budget or row.other or row.limit, row
    assert os.listdir(tmp_path) == []
