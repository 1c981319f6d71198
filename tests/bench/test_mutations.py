"""The drills find real bugs: each defect that a person might make is noticed by its drill.

A few of them in every run of the tests, all of them with ``make drill``.
"""

import os
from pathlib import Path

import pytest

from tests.bench.mutant import drilled, edit
from tests.bench.mutations import MUTATIONS, Mutation

DOCUMENT = Path(__file__).parents[2] / "docs" / "drills.md"
ALWAYS = ("a rename without a sync of its directory", "a torn tail not trimmed",
          "a checksum that is not verified")  # fmt: skip
CHOSEN = [one for one in MUTATIONS if one.name in ALWAYS or "HOLDFAST_DRILL" in os.environ]
CONTROLS = {(one.faults, one.store): one for one in CHOSEN}
"""One for each drill that the chosen ones are to be noticed by."""


@pytest.mark.parametrize("mutation", CHOSEN, ids=lambda one: one.name.replace(" ", "-"))
def test_a_mutation_is_caught(tmp_path: Path, mutation: Mutation) -> None:
    """A copy of the package with this defect does not get through its drill."""
    code, found = drilled(mutation, tmp_path / "once")
    if code == 0:  # on a slow machine it may not have come to it
        patient = mutation._replace(seconds=10 * mutation.seconds)
        code, found = drilled(patient, tmp_path / "again")
    assert (code, found["ok"]) == (1, False)
    broken = {one["promise"] for one in found["failures"]}
    assert broken - {"every drill runs to its end"}, "a drill that breaks down notices nothing"


@pytest.mark.parametrize("mutation", CONTROLS.values(), ids=lambda one: f"{one.faults}-{one.store}")
def test_without_it_all_is_well(tmp_path: Path, mutation: Mutation) -> None:
    """The same drill on the same copy without the defect finds nothing: what it found was that."""
    code, found = drilled(mutation, tmp_path, mutated=False)
    assert (code, found["failures"], found["ok"]) == (0, [], True)


def test_every_mutation_is_documented() -> None:
    """docs/drills.md has a row for each mutation, with the fault kind that catches it."""
    rows = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    for one in MUTATIONS:
        (row,) = [row for row in rows if f"| {one.name} |" in row]
        assert row.startswith(f"| `{one.faults}` |"), row


def test_every_fault_kind_catches_something() -> None:
    """A drill that catches nothing is a defect: each kind has a mutation, and there are many."""
    from holdfast.bench.drill.plan import FAULTS

    assert {one.faults for one in MUTATIONS} == set(FAULTS)
    assert len(MUTATIONS) >= 15
    assert set(ALWAYS) <= {one.name for one in MUTATIONS}


def test_an_edit_without_a_place_is_told(tmp_path: Path) -> None:
    """A mutation whose place is gone fails, so that none passes by changing nothing."""
    (tmp_path / "a.py").write_text("x = 1\n", encoding="utf-8")
    with pytest.raises(AssertionError, match="needs a new place"):
        edit(tmp_path, "a.py", "y", "z")
    edit(tmp_path, "a.py", "1", "2")
    assert (tmp_path / "a.py").read_text(encoding="utf-8") == "x = 2\n"
