"""The check of every budget: which rows there are, what is said of them, going on after a break."""

import dataclasses
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.bench import budgets
from holdfast.bench.groups import GROUPS
from holdfast.bench.measure import Row, at_most, version_of
from holdfast.bench.run import QUICK, Run

Results = dict[str, list[Row]]
TINY = dataclasses.replace(
    QUICK, entries=40_000, repetitions=1, long_repetitions=1, calls=5, kills=1, opens=1,
    vectors=dataclasses.replace(QUICK.vectors, rows=500, commits=5),
)  # fmt: skip


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Results, list[str]]:
    """Put rows in place of measuring; returns them, and the groups measured, in order."""
    results: Results = {
        "kill": [Row("kill", "kill", 10.0, "ms", budget=at_most(15.0))],
        "idle": [Row("idle", "idle", 10.0, "MiB", budget=at_most(12.0))],
    }
    calls: list[str] = []

    def group(name: str) -> Callable[[Run], list[Row]]:
        def measure(run: Run) -> list[Row]:
            calls.append(name)
            return results.get(name, [])

        return measure

    monkeypatch.setattr(budgets, "GROUPS", {name: group(name) for name in GROUPS})
    monkeypatch.chdir(tmp_path)
    return results, calls


def test_every_group_with_budgets_can_be_measured() -> None:
    """And no row is named twice."""
    groups = [group for store in budgets.BUDGETS.values() for group in store]
    assert set(groups) <= set(GROUPS)
    names = [
        name for store in budgets.BUDGETS.values() for group in store.values() for name in group
    ]
    assert len(set(names)) == len(names)


def test_a_kept_budget_passes_and_a_short_one_fails_the_run(
    measured: tuple[Results, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is the verdict."""
    results, _ = measured
    assert budgets.main(["--only", "kill,idle"]) == 0
    assert "SHORT" not in capsys.readouterr().out
    results["idle"] = [Row("idle", "idle", 12.5, "MiB", budget=at_most(12.0))]
    assert budgets.main(["--only", "kill,idle"]) == 1
    assert "SHORT" in capsys.readouterr().out


def test_without_its_peer_a_budget_counts_as_not_measured(
    measured: tuple[Results, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """It neither passes nor fails, and the reason is a line of its own."""
    results, _ = measured
    absent = "not installed, so not compared: LMDB"
    results["kill"] = [Row("kill", "kill", 99.0, "ms", budget=at_most(15.0), absent=absent)]
    assert budgets.main(["--only", "kill"]) == 0
    assert f"kill: not measured: {absent}" in capsys.readouterr().out


def test_a_run_goes_on_where_the_last_one_stopped(measured: tuple[Results, list[str]]) -> None:
    """What was kept is not measured again unless the sizes differ, and has the same verdict."""
    results, calls = measured
    results["kill"] = [Row("kill", "kill", 99.0, "ms", budget=at_most(15.0))]
    assert budgets.main(["--only", "kill"]) == 1
    assert budgets.main(["--only", "runtime", "--resume"]) == 1
    assert calls == ["kill", "open", "idle"]
    kept = json.loads(Path("build/budgets/runtime.json").read_text())
    assert list(kept["groups"]) == calls
    assert budgets.main(["--only", "kill", "--resume", "--quick"]) == 0
    assert calls == ["kill", "open", "idle", "kill"]


def test_an_unknown_store_is_refused_with_the_known_ones(
    measured: tuple[Results, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is measured."""
    assert budgets.main(["--only", "folds"]) == 2
    assert "there are: runtime, fold, vectors" in capsys.readouterr().err
    assert measured[1] == []


@pytest.mark.parametrize(
    "name",
    ["kill", "open", "idle", "reopen", "range", "index-insert", "index-replay", "registry-nearest"],
)
def test_a_budget_stands_beside_what_it_is_measured_against(name: str, tmp_path: Path) -> None:
    """A budget that is not a ratio has a limit beside it that was measured in the same run; nothing
    is left behind but what several rows share."""
    rows = GROUPS[name](Run(str(tmp_path), TINY))
    bounded = [row for row in rows if row.budget is not None]
    assert bounded
    for row in bounded:
        needs = "lmdb" if name == "range" else "holdfast"
        assert row.other or (row.limit and row.limit[1] > 0) or not version_of(needs), row
    assert set(os.listdir(tmp_path)) <= {"large"}


def test_a_budget_is_shown_with_its_limit_and_their_ratio(
    measured: tuple[Results, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """The verdict is by the figure, and beside it is what it is a multiple of."""
    results, _ = measured
    limit = ("a bare process", 2.0)
    results["kill"] = [Row("kill", "kill", 14.0, "ms", budget=at_most(15.0), limit=limit)]
    assert budgets.main(["--only", "kill"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"at most 15 ms .*14 ms .*limit: a bare process.* 2 ms .*7\.00 .*pass", said)
