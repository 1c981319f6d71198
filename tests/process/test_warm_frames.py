"""Warm stores given what a notebook has: dates and times, and data frames of its own results."""

import datetime
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

import holdfast
from holdfast import TemporalPoint

MOMENTS = [datetime.datetime(2024, 2, 29, hour, tzinfo=datetime.UTC) for hour in range(4)]
TIMES = [1_709_164_800_000_000 + hour * 3_600_000_000 for hour in range(4)]
VECTORS = np.arange(8, dtype=np.float32).reshape(4, 2)
METADATA: list[dict[str, str]] = [{"b": "2", "a": "1"}, {}, {"a": "x"}, {}]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[holdfast.Engine]:
    """An engine for all tests."""
    with holdfast.open(tmp_path_factory.mktemp("frames")) as engine:
        yield engine


@pytest.fixture
def warm(engine: holdfast.Engine) -> Iterator[holdfast.Warm]:
    """A store of one series of four points, one an hour."""
    warm = engine.warm("points", dimension=2)
    warm.write(1, 0, MOMENTS, VECTORS, METADATA)
    yield warm
    engine.drop("points")


def points_in(warm: holdfast.Warm, space: int) -> list[tuple[int, list[float], dict[str, str]]]:
    """What a space has of the series."""
    rows = warm.range(1, space).to_pylist()
    return [(row["timestamp"], row["vector"], dict(row["metadata"])) for row in rows]


WRITTEN = list(zip(TIMES, VECTORS.tolist(), METADATA, strict=True))


def test_every_method_takes_dates_and_times(warm: holdfast.Warm) -> None:
    """What a ``datetime`` finds, bounds and deletes is what its microseconds would."""
    assert points_in(warm, 0) == WRITTEN
    assert warm.get(1, 0, MOMENTS[2]) == warm.get(1, 0, TIMES[2]) != None  # noqa: E711
    assert warm.contains(1, 0, np.datetime64("2024-02-29T01"))
    assert not warm.contains(1, 0, np.datetime64("2024-02-29T01:30"))
    newest = warm.latest(1, 0, at=MOMENTS[3] - datetime.timedelta(microseconds=1))
    assert newest == TemporalPoint(1, MOMENTS[2], [4, 5], {"a": "x"})
    assert warm.range(1, 0, MOMENTS[1], MOMENTS[2])["timestamp"].to_pylist() == TIMES[1:3]
    assert warm.range_many([1], 0, end=MOMENTS[0]).num_rows == 1
    hits = warm.nearest([0, 0], 1, start=MOMENTS[1], end=MOMENTS[2])
    assert hits["timestamp"].to_pylist() == [TIMES[1]]
    assert warm.delete(1, 0, MOMENTS[3]) == 1
    assert warm.delete(1, 0, MOMENTS[2:]) == 1
    assert warm.retain(MOMENTS[1]) == 1
    assert warm.delete_range(1, 0, MOMENTS[0], MOMENTS[3]) == 1


def test_a_moment_that_cannot_be_kept_changes_nothing(warm: holdfast.Warm) -> None:
    """One time of a batch with nanoseconds, or without a zone, has the whole batch refused."""
    wrong: list[object] = [
        np.array([1000, 1], "M8[ns]"), [MOMENTS[0], MOMENTS[0].replace(tzinfo=None)],
    ]  # fmt: skip
    for times in wrong:
        with pytest.raises(holdfast.InvalidArgument, match=r"timestamps\[1\]"):
            warm.write(7, 0, times, VECTORS[:2])
    assert len(warm) == 4


FORMS: dict[str, Callable[[pa.Table], object]] = {
    "arrow": lambda table: table,
    "dict of dicts": lambda table: {**columns_of(table), "metadata": METADATA},
    "dict of pairs": lambda table: {
        **columns_of(table), "metadata": [list(row.items()) for row in METADATA],
    },
    "pairs of arrays": lambda table: {
        **columns_of(table), "metadata": [np.array(list(row.items())) for row in METADATA],
    },
    "arrow with lists of pairs": lambda table: with_metadata(
        table, pa.array([[list(pair) for pair in row.items()] for row in METADATA])
    ),
    "arrow with structs": lambda table: with_metadata(table, pa.array(METADATA)),
    "arrow with timestamps": lambda table: table.set_column(
        table.schema.names.index("timestamp"), "timestamp",
        table["timestamp"].cast(pa.timestamp("us", "UTC")),
    ),
}  # fmt: skip


def columns_of(table: pa.Table) -> dict[str, object]:
    """Columns by name."""
    return dict(zip(table.schema.names, table.columns, strict=True))


def with_metadata(table: pa.Table, column: pa.Array) -> pa.Table:
    """The table with another column of metadata."""
    return table.set_column(table.schema.names.index("metadata"), "metadata", column)


@pytest.mark.parametrize("form", FORMS)
def test_a_result_can_be_written_again(warm: holdfast.Warm, form: str) -> None:
    """A result in any form that dicts of text take elsewhere is the same points again."""
    assert warm.write_batch(5, FORMS[form](warm.range_many([1], 0))).points == 4
    assert points_in(warm, 5) == WRITTEN


@pytest.mark.parametrize("unit", ["ms", "us"])
def test_a_parquet_file_may_have_timestamps(warm: holdfast.Warm, unit: str, tmp_path: Path) -> None:
    """What another program wrote with dates and times is imported as these moments."""
    table = FORMS["arrow with timestamps"](warm.range_many([1], 0))
    assert isinstance(table, pa.Table)
    path = tmp_path / "points.parquet"
    parquet.write_table(table, path, coerce_timestamps=unit)
    assert warm.import_file(path, space=5) == 4
    assert points_in(warm, 5) == WRITTEN


FRAMES: dict[str, Callable[[Any, pa.Table], object]] = {
    "of a result": lambda pd, table: table.to_pandas(),
    "of the front of a result": lambda pd, table: table.slice(0, 0).to_pandas(),
    "with dicts": lambda pd, table: table.to_pandas().assign(metadata=METADATA),
    "with datetimes": lambda pd, table: table.to_pandas().assign(timestamp=pd.to_datetime(MOMENTS)),
    "with datetimes of no zone": lambda pd, table: table.to_pandas().assign(
        timestamp=pd.to_datetime(table["timestamp"].to_pandas(), unit="us")
    ),
    "as columns": lambda pd, table: {
        name: table.to_pandas()[name] for name in table.schema.names
    } | {"timestamp": pd.DatetimeIndex(MOMENTS)},
}  # fmt: skip


@pytest.mark.parametrize("form", FRAMES)
def test_a_pandas_frame_can_be_written(warm: holdfast.Warm, form: str) -> None:
    """A frame of a result, or with the dicts and times a user has, is the same points again."""
    frame = FRAMES[form](pytest.importorskip("pandas"), warm.range_many([1], 0))
    expected = [] if "front" in form else WRITTEN
    assert warm.write_batch(5, frame).points == len(expected)
    assert points_in(warm, 5) == expected


def test_a_pandas_timestamp_is_a_moment(warm: holdfast.Warm) -> None:
    """One with a zone is that moment, one without is UTC as its column is, nanoseconds are none."""
    pd = pytest.importorskip("pandas")
    for moment in (pd.Timestamp(MOMENTS[2]), pd.Timestamp(MOMENTS[2]).tz_localize(None)):
        assert warm.contains(1, 0, moment)
    with pytest.raises(holdfast.InvalidArgument, match="no whole number of microseconds"):
        warm.contains(1, 0, pd.Timestamp("2024-02-29 00:00:00.000000001"))
    with pytest.raises(holdfast.InvalidArgument, match="NaT"):
        warm.contains(1, 0, pd.NaT)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ([[("a", "b", "c")]], r"row 0: \('a', 'b', 'c'\) is no pair"),
        ([[("a", 1)]], r"row 0: the value of 'a' is 1 \(int\)"),
        ([[([], "b")]], r"row 0: key \[\] is no text"),
        (pa.array([{"a": 1}]), r"row 0: the value of 'a' is 1 \(int\)"),
        (pa.array([[["a"]]]), r"row 0: \['a'\] is no pair"),
        (pa.array(["text"]), "a column of maps of text, not string"),
        (["ab"], "row 0: a str is no dict"),
    ],
)
def test_metadata_that_is_none(warm: holdfast.Warm, metadata: object, said: str) -> None:
    """What is neither a dict of text nor pairs is refused, with its row."""
    with pytest.raises(holdfast.InvalidArgument, match=said):
        warm.write(1, 9, [1], VECTORS[:1], metadata)


def test_points_are_compared_by_what_they_hold() -> None:
    """Two points of the same values are equal and have one hash; any other value tells them."""
    point = TemporalPoint(1, 2, [1, float("nan")], {"a": "b"})
    same = TemporalPoint(np.uint64(1), np.int64(2), np.array([1, np.nan]), {"a": "b"})  # type: ignore[arg-type]
    assert point == same
    assert hash(point) == hash(same)
    for other in (
        TemporalPoint(2, 2, [1, float("nan")], {"a": "b"}),
        TemporalPoint(1, 3, [1, float("nan")], {"a": "b"}),
        TemporalPoint(1, 2, [1, 2], {"a": "b"}),
        TemporalPoint(1, 2, [1], {"a": "b"}),
        TemporalPoint(1, 2, [1, float("nan")]),
        "point",
    ):
        assert point != other
