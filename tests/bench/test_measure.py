"""The measuring code: medians, turns, ratios, verdicts, and the report's shape. No timing."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from holdfast.bench import bare, data, measure, report, transport
from holdfast.bench.callers import calls_per_second
from holdfast.bench.measure import Row, at_least, at_most
from holdfast.formats import fold_log

QUICK_GROUPS = "get,idle"


def test_the_median_is_the_middle_and_ignores_one_outlier() -> None:
    """One disturbed repetition does not move a figure."""
    assert measure.median([3.0, 1.0, 900.0, 2.0, 4.0]) == 3.0
    assert measure.median([1.0, 2.0]) == 1.5


def test_what_is_compared_runs_in_turn() -> None:
    """A B A B, not A A B B."""
    order: list[str] = []

    def noting(name: str) -> measure.Measurement:
        def run() -> float:
            order.append(name)
            return float(len(order))

        return run

    samples = measure.in_turn({"a": noting("a"), "b": noting("b")}, 3)
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert samples == {"a": [1.0, 3.0, 5.0], "b": [2.0, 4.0, 6.0]}
    assert measure.medians(samples) == {"a": 3.0, "b": 4.0}


def test_the_best_is_the_largest_of_those_named() -> None:
    """Figures of others do not count."""
    assert measure.best({"x": 9.0, "y": 1.0, "z": 2.0}, ["y", "z"]) == ("z", 2.0)


@pytest.mark.parametrize(
    ("budget", "value", "other", "met"),
    [
        (at_most(2.0), 4.0, 2.0, True),
        (at_most(2.0), 4.1, 2.0, False),
        (at_least(0.6), 6.0, 10.0, True),
        (at_least(0.6), 5.9, 10.0, False),
        (at_most(15.0), 15.0, None, True),
        (at_most(15.0), 15.1, None, False),
        (None, 15.1, 1.0, None),
    ],
)
def test_a_budget_bounds_the_ratio_or_else_the_value(
    budget: measure.Budget | None, value: float, other: float | None, met: bool | None
) -> None:
    """With something to compare with the ratio counts, without it the value."""
    row = Row("r", "what", value, "ms", "peer", other, budget)
    assert row.met is met
    assert row.ratio == (None if other is None else value / other)


def test_the_report_names_what_missed_its_budget() -> None:
    """The JSON holds every row with ratio and verdict, and the missed ones by name."""
    rows = [
        Row("good", "what", 1.0, "s", "limit", 1.0, at_most(1.3), samples={"good": [1.0]}),
        Row("bad", "what", 2.0, "s", budget=at_most(1.0)),
        Row("context", "what", 2.0, "s"),
    ]
    found = json.loads(report.as_json({"cpus": 2}, rows, sizes={"entries": 5}))
    assert found["missed"] == ["bad"]
    assert found["machine"] == {"cpus": 2}
    assert found["sizes"] == {"entries": 5}
    first = found["rows"][0]
    assert first["budget"] == {"sense": "at most", "bound": 1.3}
    assert (first["ratio"], first["met"], first["samples"]) == (1.0, True, {"good": [1.0]})
    assert found["rows"][2]["met"] is None


def test_a_budget_is_worded_in_the_unit_it_bounds() -> None:
    """A multiple for a ratio, the row's own unit for a value."""
    compared = Row("r", "what", 1.0, "s", "limit", 1.0, at_most(1.3))
    alone = Row("r", "what", 1.0, "s", budget=at_most(0.35))
    assert report.bound(compared.budget, compared) == "at most 1.3 x"
    assert report.bound(alone.budget, alone) == "at most 0.35 s"


def test_the_entries_have_the_sizes_that_the_rows_promise() -> None:
    """60-byte keys, 200-byte values, every entry once, 1,000 under each prefix."""
    numbers = list(data.scattered(5000))
    assert sorted(numbers) == list(range(5000))
    assert {len(data.key(number).encode()) for number in numbers} == {data.KEY_BYTES}
    assert {len(data.value(number)) for number in numbers} == {data.VALUE_BYTES}
    under = [number for number in numbers if data.key(number).startswith(data.prefix(3))]
    assert sorted(under) == list(range(3000, 4000))


def test_the_bare_loop_reads_what_the_fold_reads(tmp_path: Path) -> None:
    """The limit for reopening is a reading of the same file, to the same keys."""
    path = str(tmp_path / "log")
    size = data.write_log(path, 3000)
    table: dict[bytes, int] = {}
    scan = fold_log.scan(Path(path).read_bytes(), fold_log.HEADER_BYTES, table)
    assert scan.end == size
    assert bare.read_log(path).keys() == table.keys()
    assert len(table) == 3000


def test_the_bare_log_writes_records_that_the_fold_reads(tmp_path: Path) -> None:
    """The limit for writing does the whole encoding."""
    log = bare.BareLog(str(tmp_path / "log"))
    log.apply(data.puts(range(10)))
    log.close()
    table: dict[bytes, int] = {}
    scan = fold_log.scan((tmp_path / "log").read_bytes(), 0, table)
    assert scan.verdict.ending is fold_log.Ending.CLEAN
    assert len(table) == 10


def test_a_failing_caller_fails_the_load() -> None:
    """A rate is never the rate of callers that have stopped calling."""

    def fail(count: int) -> None:
        raise ValueError(f"call {count}")

    with pytest.raises(ValueError, match="call 0"):
        calls_per_second([fail], 0.01)


def test_every_way_delivers_bodies_of_every_size() -> None:
    """A body that fits one read, and one that takes many; and the table that comes of it."""
    figures = transport.measure([100, 300_000], 1, lambda text: None)
    assert set(figures) == {way.title for way in transport.ways()}
    assert all(set(by_size) == {100, 300_000} for by_size in figures.values())
    lines = transport.as_markdown(figures).splitlines()
    assert len(lines) == 2 + len(figures)
    assert "100 B" in lines[0]


def test_a_way_overtakes_another_from_the_size_where_it_stays_ahead() -> None:
    """A lead that is lost again at a larger size does not count."""
    figures = {"a": {1: 5.0, 2: 1.0, 3: 1.0}, "b": {1: 2.0, 2: 2.0, 3: 2.0}}
    assert transport.overtakes_from(figures, "a", "b") == 2
    assert transport.overtakes_from(figures, "b", "a") is None


def bench(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the benchmarks in a process of their own."""
    return subprocess.run(
        [sys.executable, "-m", "holdfast.bench", *arguments],
        cwd=cwd, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_a_quick_run_reports_its_rows_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Two cheap groups from end to end: table, JSON, exit code, and an empty directory after."""
    done = bench("--quick", "--only", QUICK_GROUPS, "--json", "report.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((tmp_path / "report.json").read_text())
    rows = {row["name"]: row for row in found["rows"]}
    assert set(rows) == {"get", "idle", "idle-supervisor"}
    assert rows["get"]["ratio"] == rows["get"]["value"] / rows["get"]["other"]
    assert found["machine"]["python"].endswith(".".join(map(str, sys.version_info[:3])))
    assert "fold.get of 200 B" in done.stdout
    assert os.listdir(tmp_path) == ["report.json"]


def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    """A misspelt name does not run everything, nor nothing."""
    done = bench("--only", "got", cwd=tmp_path)
    assert done.returncode == 2
    assert "compaction" in done.stderr
