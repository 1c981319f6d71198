"""Moments in every form a caller may have, as microseconds since 1970 UTC."""

import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats.errors import InvalidArgument, LimitExceeded
from holdfast.formats.points import TIME_MAX, TIME_MIN
from holdfast.handles.moments import as_some_times, as_time, as_times

UTC = datetime.UTC
NOON = 1_709_208_000_000_000
"""2024-02-29 12:00 UTC."""
AWARE = datetime.datetime(2024, 2, 29, 12, tzinfo=UTC)
UNITS = ("s", "ms", "us", "ns")

ALIKE: dict[str, object] = {
    "int": NOON,
    "numpy's int": np.int64(NOON),
    "datetime": AWARE,
    "datetime elsewhere": datetime.datetime(2024, 2, 29, 13, tzinfo=ZoneInfo("Europe/Berlin")),
    "datetime with an offset": AWARE.astimezone(datetime.timezone(datetime.timedelta(hours=-7))),
    "minutes": np.datetime64("2024-02-29T12:00", "m"),
    **{unit: np.array(NOON, "M8[us]").astype(f"M8[{unit}]")[()] for unit in UNITS},
}
COLUMNS: dict[str, object] = {
    **{f"numpy {unit}": np.array([NOON] * 2, "M8[us]").astype(f"M8[{unit}]") for unit in UNITS},
    "days": np.array(["2024-02-29"] * 2, "M8[D]") + np.timedelta64(12, "h"),
    "big-endian": np.array([NOON] * 2, ">M8[us]"),
    **{
        f"arrow {unit}{zone and ' with a zone'}": pa.array([AWARE] * 2, pa.timestamp(unit, zone))
        for unit in UNITS
        for zone in (None, "UTC", "Asia/Tokyo")
    },
    "chunks": pa.chunked_array([[AWARE], [], [AWARE]], pa.timestamp("ms")),
    "list": [AWARE, np.datetime64("2024-02-29T12:00")],
    "list with an int": [NOON, AWARE],
    "objects": np.array([AWARE, AWARE], object),
    "ints": np.array([NOON, NOON]),
}


@pytest.mark.parametrize("form", ALIKE)
def test_one_moment_in_every_form(form: str) -> None:
    """Whatever a moment comes in, it is the same number of microseconds."""
    assert as_time("at", ALIKE[form]) == NOON
    assert as_some_times(ALIKE[form]).tolist() == [NOON]


@pytest.mark.parametrize("form", COLUMNS)
def test_a_column_in_every_form(form: str) -> None:
    """Whatever a column of moments comes in, it becomes the same int64."""
    times = as_times(COLUMNS[form])
    assert times.dtype == np.int64
    assert times.tolist() == [NOON, NOON]


@given(
    st.datetimes(
        datetime.datetime(2, 1, 1),
        datetime.datetime(9998, 1, 1),
        timezones=st.sampled_from([UTC, ZoneInfo("America/New_York")]),
    )
)
def test_a_datetime_is_taken_to_the_microsecond(moment: datetime.datetime) -> None:
    """Every moment that ``datetime`` has comes back from its microseconds."""
    since = datetime.timedelta(microseconds=as_time("at", moment))
    assert datetime.datetime(1970, 1, 1, tzinfo=UTC) + since == moment.astimezone(UTC)


@given(st.integers(TIME_MIN + 1, TIME_MAX), st.sampled_from([*UNITS, "D", "m", "h", "ps"]))
def test_a_datetime64_is_exact_or_refused(number: int, unit: str) -> None:
    """No value of any unit is rounded or wraps around: it becomes what it means, or an error."""
    scale = {"D": 86_400 * 10**12, "h": 3_600 * 10**12, "m": 60 * 10**12, "s": 10**12,
             "ms": 10**9, "us": 10**6, "ns": 1000, "ps": 1}[unit]  # fmt: skip
    whole, rest = divmod(number * scale, 10**6)
    value = np.array(number, f"M8[{unit}]")[()]
    if rest:
        with pytest.raises(InvalidArgument, match="no whole number of microseconds"):
            as_time("at", value)
    elif not TIME_MIN < whole <= TIME_MAX:
        with pytest.raises(LimitExceeded, match="64 bits"):
            as_time("at", value)
    else:
        assert as_time("at", value) == whole


BAD: list[tuple[object, str]] = [
    (datetime.datetime(2024, 2, 29), r"timestamps\[0\] is 2024-02-29T00:00:00 without a time zone"),
    (datetime.date(2024, 2, 29), r"timestamps\[0\] is datetime\.date"),
    (np.datetime64("NaT"), r"timestamps\[0\] is NaT"),
    (np.datetime64("2024-02-29T12:00:00.000000001"), r"timestamps\[0\].*no whole number of micro"),
    (np.timedelta64(1, "us"), r"timestamps\[0\]"),
    ("2024-02-29", r"timestamps\[0\] is '2024-02-29'"),
    (None, r"timestamps\[0\] is None"),
]


@pytest.mark.parametrize(("value", "said"), BAD, ids=str)
def test_what_is_no_moment(value: object, said: str) -> None:
    """What is no moment, or not to the microsecond, is refused, and the error says which it was."""
    with pytest.raises(InvalidArgument, match=said):
        as_times([value])
    with pytest.raises(InvalidArgument, match=r"^at is "):
        as_time("at", value)


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (pa.array([1, 1001], pa.timestamp("ns")), r"timestamps\[0\].*round it first"),
        (pa.array([0, 1500], pa.timestamp("ns")), r"timestamps\[1\].*round it first"),
        (pa.array([AWARE, None], pa.timestamp("us")), r"timestamps\[1\] is null"),
        (pa.array([datetime.date(2024, 2, 29)]), "date32"),
        (pa.array([0, 1 << 60], pa.timestamp("s")), r"timestamps\[1\].*64 bits"),
        (np.array([AWARE.replace(tzinfo=None)], object), "time zone"),
        (np.array([["2024-02-29"]], "M8[D]"), "shape"),
        (np.array([1], "m8[us]"), "timedelta64"),
    ],
)
def test_a_column_with_a_value_that_is_none(column: object, said: str) -> None:
    """The first value that cannot be kept exactly is named by its row."""
    with pytest.raises(InvalidArgument, match=said):
        as_times(column)


def test_nothing_is_no_moments() -> None:
    """Empty columns of every kind are no moments."""
    empty: list[object] = [
        [], np.array([], "M8[ns]"), np.array([], "M8"), pa.array([], pa.timestamp("ns")),
        pa.chunked_array([], pa.timestamp("s", "UTC")),
    ]  # fmt: skip
    assert [as_times(one).tolist() for one in empty] == [[]] * len(empty)
