"""The table of rows against dictionaries and lists."""

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from holdfast.workers import row_table
from holdfast.workers.id_map import ABSENT
from holdfast.workers.row_table import RowTable
from holdfast.workers.search import Rows

DIMENSION = 3
U64_MAX = (1 << 64) - 1
IDS = st.integers(0, 12) | st.sampled_from([U64_MAX - 1, U64_MAX])


class Add(NamedTuple):
    """Rows of these ids; ``lasting`` ones are referred to."""

    ids: list[int]
    lasting: bool


class Kill(NamedTuple):
    """The live rows of these ids die, and these rows."""

    ids: list[int]
    rows: list[int]


CHANGES = st.lists(
    st.one_of(
        st.builds(Add, st.lists(IDS, max_size=14), st.booleans()),
        st.builds(Kill, st.lists(IDS, max_size=4), st.lists(st.integers(0, 40), max_size=3)),
    ),
    max_size=12,
)


class Model:
    """The same as lists: id, vector and life of every row."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.vectors: list[list[float]] = []
        self.live: list[bool] = []

    def row_of(self, number: int) -> int:
        """The live row of an id."""
        newest = [row for row, held in enumerate(self.ids) if held == number][-1:]
        return newest[0] if newest and self.live[newest[0]] else ABSENT

    def add(self, ids: list[int], vectors: list[list[float]]) -> int:
        replaced = 0
        for number in set(ids):
            row = self.row_of(number)
            if row != ABSENT:
                self.live[row] = False
                replaced += 1
        for place, number in enumerate(ids):
            self.ids.append(number)
            self.live.append(number not in ids[place + 1 :])
        self.vectors += vectors
        return replaced

    def in_id_order(self) -> list[int]:
        """The live rows."""
        return sorted((r for r, live in enumerate(self.live) if live), key=self.ids.__getitem__)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_table, "_POOL_BYTES", 60)
    monkeypatch.setattr(row_table, "_FIRST_CAPACITY", 4)
    monkeypatch.setattr(row_table, "_LOOK_AT_ROWS", 2)


def _vectors(first: int, count: int) -> NDArray[np.float32]:
    return np.arange(first * 3, (first + count) * 3, dtype=np.float32).reshape(count, 3)


def _array(ids: list[int]) -> NDArray[np.uint64]:
    return np.array(ids, np.uint64)


def _check_blocks(blocks: list[Rows], model: Model, rows: int) -> None:
    """Blocks say what the rows were when they were taken; rows never change."""
    position = 0
    for block in blocks:
        assert block.first_row == position
        position += len(block.ids)
        here = slice(block.first_row, position)
        assert block.ids.tolist() == model.ids[here]
        assert block.vectors.tolist() == model.vectors[here]
        assert block.squared_norms == pytest.approx(np.square(block.vectors).sum(axis=1))
    assert position == rows


@given(
    CHANGES,
    st.lists(IDS, max_size=8),
    st.none() | IDS,
    st.integers(1, 20),
    st.integers(0, 20),
)
def test_agrees_with_lists(
    changes: list[Add | Kill],
    asked: list[int],
    after: int | None,
    limit: int,
    boundary: int,
) -> None:
    """Rows added and killed in any order are found by id, by number and in order."""
    table, model = RowTable(DIMENSION), Model()
    taken: list[tuple[list[Rows], int]] = []
    for change in changes:
        counter = table.changes
        if isinstance(change, Add):
            vectors = _vectors(len(model.ids), len(change.ids))
            mine = vectors.copy()
            replaced = model.add(change.ids, vectors.tolist())
            assert table.add(_array(change.ids), mine, lasting=change.lasting) == replaced
            if not change.lasting:
                mine[:] = -1  # it was copied
            assert table.changes > counter or not change.ids
        else:
            rows = [model.row_of(number) for number in change.ids]
            rows += [row for row in change.rows if row < len(model.ids)]
            dying = {row for row in rows if row != ABSENT and model.live[row]}
            for row in dying:
                model.live[row] = False
            assert table.kill(np.array([*rows, ABSENT], np.int64)) == len(dying)
            assert table.changes > counter
        table.check_invariants()
        assert table.rows == len(model.ids)
        assert table.ids.tolist() == model.ids
        assert table.live.tolist() == model.live
        assert table.live_rows == sum(model.live)
        if boundary <= table.rows:
            assert table.live_below(boundary) == sum(model.live[:boundary])
        found = table.find_live(_array(asked))
        assert found.tolist() == [model.row_of(number) for number in asked]
        assert table.live_in_id_order().tolist() == model.in_id_order()
        taken.append((list(table.blocks()), table.rows))
        _check_blocks(table.blocks(), model, table.rows)
    for blocks, count in taken:
        _check_blocks(blocks, model, count)
    ordered = [r for r in model.in_id_order() if after is None or model.ids[r] > after]
    assert table.live_behind(after, limit).tolist() == ordered[:limit]
    passed = np.array([live and not row % 2 for row, live in enumerate(model.live)], np.bool_)
    even = [row for row in ordered if not row % 2]
    assert table.live_behind(after, limit, passed).tolist() == even[:limit]
    some = [row for row in range(table.rows) if row % 3] * 2
    got = table.vectors_at(np.array(some, np.int64))
    assert got.shape == (len(some), DIMENSION)
    assert got.tolist() == [model.vectors[row] for row in some]


def test_rows_of_one_id_in_one_batch() -> None:
    """Files of the original repeat ids within a segment: the last one is live."""
    table = RowTable(DIMENSION)
    assert table.add(_array([5, 5, 6, 5]), _vectors(0, 4)) == 0
    assert table.live.tolist() == [False, False, True, True]
    assert table.live_rows == 2
    assert table.add(_array([5, 5]), _vectors(4, 2)) == 1
    assert table.find_live(_array([5, 6, 7])).tolist() == [5, 2, ABSENT]
    table.check_invariants()


def test_lasting_vectors_are_not_copied() -> None:
    """Those of a mapped file stay there, pooled ones around them in memory of their own."""
    table = RowTable(DIMENSION)
    mapped = _vectors(0, 3)
    table.add(_array([1]), _vectors(7, 1))
    table.add(_array([2, 3, 4]), mapped, lasting=True)
    table.add(_array([5]), _vectors(9, 1))
    blocks = table.blocks()
    assert [len(block.ids) for block in blocks] == [1, 3, 1]
    assert [np.shares_memory(block.vectors, mapped) for block in blocks] == [False, True, False]


def test_unaligned_views_are_taken_as_they_are() -> None:
    """Rows of a segment lie further apart than they are long."""
    table = RowTable(DIMENSION)
    wide = _vectors(0, 8).reshape(4, 6)
    table.add(_array([1, 2, 3, 4]), wide[:, 2:5], lasting=True)
    assert table.vectors_at(np.array([3, 0])).tolist() == wide[[3, 0], 2:5].tolist()


def test_live_rows_before_a_row_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What dies or is added later is taken into account without looking at every row."""
    table = RowTable(DIMENSION)
    table.add(_array(list(range(1000))), _vectors(0, 1000))
    assert table.live_below(600) == 600
    looked_at: list[int] = []
    count_nonzero = np.count_nonzero

    def counting(values: NDArray[np.bool_]) -> int:
        looked_at.append(len(values))
        return int(count_nonzero(values))

    monkeypatch.setattr(np, "count_nonzero", counting)
    table.kill(np.array([0, 5, 599, 600, ABSENT]))
    table.add(_array([7, 700, 5000]), _vectors(1000, 3))
    assert table.live_below(600) == 596
    assert max(looked_at) <= 4
