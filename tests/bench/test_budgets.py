"""The check of every budget: which rows there are, what is said of them, going on after a break."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.bench import budgets
from holdfast.bench.groups import GROUPS
from holdfast.bench.measure import Row, at_most
from holdfast.bench.run import Run

Results = dict[str, list[Row]]


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
