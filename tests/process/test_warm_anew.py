"""A warm store that was dropped and made anew under the same name, and what changes unnoticed."""

from pathlib import Path

import numpy as np
import pytest

import holdfast
from holdfast.formats.errors import InvalidArgument, OptionsConflict, StoreCorrupt

ROWS = 50_000


def fill(store: holdfast.Warm, value: float, entity: int = 1) -> None:
    """A series that lies in one chunk, all vectors equal."""
    vectors = np.full((ROWS, store.dimension), value, np.float32)
    store.write(entity, 0, np.arange(ROWS), vectors)
    store.flush()


def first_value(table: object) -> float:
    """Of the first vector of a table."""
    return float(table["vector"][0].as_py()[0])  # type: ignore[index] # an Arrow table


def test_a_handle_shows_the_store_that_is_there_now(tmp_path: Path) -> None:
    """Chunks that were mapped of a dropped store are not taken for those of its successor."""
    with holdfast.open(tmp_path) as engine, holdfast.open(tmp_path) as other:
        old = engine.warm("w", dimension=4)
        fill(old, 1.0)
        assert first_value(old.range(1, 0)) == 1.0
        other.drop("w")
        fill(other.warm("w", dimension=4), 2.0)
        assert first_value(old.range(1, 0)) == 2.0
        assert first_value(old.to_table()) == 2.0


def test_a_handle_of_another_dimension_says_so(tmp_path: Path) -> None:
    """Every reading call of a handle whose store has another dimension now is a typed error."""
    with holdfast.open(tmp_path) as engine:
        old = engine.warm("w", dimension=4)
        fill(old, 1.0)
        engine.drop("w")
        fill(engine.warm("w", dimension=2), 2.0)
        for read in (lambda: old.range(1, 0), lambda: old.get(1, 0, 5), old.to_table):
            with pytest.raises(OptionsConflict, match="dropped and made anew"):
                read()
        with pytest.raises(InvalidArgument, match="dimension"):
            old.nearest([0.0] * 4)
        assert engine.health()[0].restarts == 0


def test_dropped_stores_leave_no_descriptors(tmp_path: Path) -> None:
    """Opening and dropping stores under ever other names does not use up descriptors."""
    import psutil

    with holdfast.open(tmp_path) as engine:
        used = []
        for number in range(6):
            store = engine.warm(f"w{number}", dimension=1)
            store.write(1, 0, [1], [[1.0]])
            engine.drop(store.name)
            used.append(psutil.Process().num_fds())
        assert used[-1] == used[1]


def test_damage_is_not_given_a_new_checksum(tmp_path: Path) -> None:
    """What is damaged after it was read is found by verify, by the next read, and by compaction."""
    with holdfast.open(tmp_path) as engine:
        store = engine.warm("w", dimension=4)
        fill(store, 1.0)
        store.range(1, 0)
        [chunk] = (tmp_path / "w.warm").glob("*.arrow")
        with chunk.open("r+b") as file:
            file.seek(chunk.stat().st_size // 2)
            file.write(b"\xff")
        store.write(1, 0, range(10), np.zeros((10, 4)))
        with pytest.raises(StoreCorrupt):
            store.compact()
        [flaw] = store.verify().flaws
        assert flaw.path == str(chunk)
        with pytest.raises(StoreCorrupt):
            store.range(1, 0)


@pytest.mark.parametrize("scale", [1e-4, 1e-7, 1e-30, 1e15])
def test_the_cosine_does_not_depend_on_lengths(tmp_path: Path, scale: float) -> None:
    """Short and long vectors are as near as their directions say."""
    vectors = np.array([[1, 0], [0, 1], [1, 1], [0, 0]], np.float32) * np.float32(scale)
    with holdfast.open(tmp_path) as engine:
        store = engine.warm("w", dimension=2)
        store.write(1, 0, range(4), vectors)
        found = store.nearest([scale, 0], 4, metric="cosine")
    assert found["timestamp"].to_pylist() == [0, 2, 1, 3]
    assert found["distance"].to_pylist() == pytest.approx([0, 1 - 0.5**0.5, 1, 1], abs=1e-6)


def test_points_with_large_metadata_are_mapped(tmp_path: Path) -> None:
    """A series whose bytes are in its metadata is mapped like any other, and read as a whole."""
    with holdfast.open(tmp_path) as engine:
        store = engine.warm("w", dimension=1)
        texts = [{"k": f"{number:09d}" * 20_000} for number in range(40)]
        store.write(1, 0, range(40), np.ones((40, 1)), texts)
        store.compact()
        table = store.range(1, 0)
        assert [dict(row) for row in table["metadata"].to_pylist()] == texts
        maps = Path("/proc/self/maps")
        if maps.exists():
            assert str(tmp_path / "w.warm") in maps.read_text()
