"""How costs grow: the arithmetic of curves, what they are drawn over, what is left out of them."""

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from holdfast.bench import vector_data
from holdfast.bench.measure import version_of
from holdfast.bench.peers import curves, scaling, words
from holdfast.bench.peers.contest import Figure
from tests.bench.peer_runs import CURVE, TINY, Said


def test_a_slope_is_that_of_medians_on_logarithmic_axes() -> None:
    """Fifty times the cost for a hundred times the rows is nearly in proportion, and not flat."""
    assert CURVE.slope == pytest.approx(math.log(100) / math.log(100))
    assert CURVE.holds is False
    assert dataclasses.replace(CURVE, flat=False).holds is None
    level = dataclasses.replace(CURVE, points=dict.fromkeys((1, 10, 100), Figure([3.0])))
    assert level.slope == pytest.approx(0, abs=1e-9)
    assert level.holds is True


def test_the_curves_table_has_both_ends_and_the_verdict() -> None:
    """One line a curve."""
    lines = words.curves_table([CURVE], []).splitlines()
    assert lines[2:] == ["| get of any | rows | 2 us at 10 | 200 us at 1,000 | +1.00 | flat | no |"]


def test_the_curves_table_says_what_was_left_out() -> None:
    """Below the table, so that Markdown does not take it for a row."""
    lines = words.curves_table([CURVE], ["index: 10 rows, for want of memory"]).splitlines()
    assert lines[3:] == ["", "- Left out: index: 10 rows, for want of memory."]


def test_every_curve_has_a_point_for_each_step(tmp_path: Path) -> None:
    """On tiny data; without the approximate index where it is not installed, which is said."""
    drawing = scaling.draw(Said(tmp_path), TINY)
    indexed = version_of("faiss-cpu") is not None
    assert len({curve.name for curve in drawing.curves}) == len(drawing.curves) == 25 + indexed
    for curve in drawing.curves:
        assert len(curve.points) == 1 + (curve.name != "index-reopen-described"), curve.name
    assert len(drawing.left_out) == (not indexed)
    assert list(tmp_path.iterdir()) == []


def test_what_starts_anew_is_drawn_over_the_size_of_its_file(tmp_path: Path) -> None:
    """A file, or the files of a directory, and nothing that lies beside them."""
    store = tmp_path / "points.warm"
    store.mkdir()
    for name in ("LOG", "MANIFEST"):
        (store / name).write_bytes(bytes(100))
    (tmp_path / "config.snap").write_bytes(bytes(7))
    assert curves.file_bytes(str(store)) == 200
    assert curves.file_bytes(str(tmp_path / "config.snap")) == 7


def test_sizes_that_do_not_fit_into_memory_together_are_left_out_with_a_line_each(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also those that would fit alone: all are open at once."""
    room = SimpleNamespace(available=2 * 1500 * curves._ROW_BYTES["index"])  # half of it is used
    monkeypatch.setattr(psutil, "virtual_memory", lambda: room)
    run = Said(tmp_path)
    drawing = curves.Drawing(run, TINY)
    assert drawing.fitting("index", [100, 1000, 1200, 9999]) == [100, 1000]
    assert run.lines == [
        "  left out: index: 1,200 rows, for want of memory",
        "  left out: index: 9,999 rows, for want of memory",
    ]
    assert [f"  left out: {what}" for what in drawing.left_out] == run.lines


def test_rows_made_piece_by_piece_are_the_same_each_time_and_all_different() -> None:
    """Ids follow on each other, queries are no rows, and what is made depends on no order."""
    clusters = vector_data.Clusters(250, 16)
    pieces = list(clusters.pieces(100))
    assert [(first, rows.shape) for first, rows in pieces] == [
        (0, (100, 16)), (100, (100, 16)), (200, (50, 16)),
    ]  # fmt: skip
    every = np.concatenate([clusters.queries(10), *(rows for _, rows in pieces)])
    assert len(np.unique(every, axis=0)) == 260
    again = list(vector_data.Clusters(250, 16).pieces(100))
    assert all((one[1] == other[1]).all() for one, other in zip(pieces, again, strict=True))
