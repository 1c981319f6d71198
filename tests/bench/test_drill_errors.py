"""The drill with failing calls finds what it is to find, and holds against the stores."""

import errno
import time
from pathlib import Path

import pytest

from holdfast.bench.drill import erring
from holdfast.bench.drill.erring import ErrorDrill, Host, calls_of, faults
from holdfast.bench.drill.plan import Clock, Plan, StoreKind
from holdfast.bench.drill.recording import Wrap, unwrapped
from holdfast.bench.drill.replay import replay
from holdfast.bench.drill.scenario import FailAt, Scenario, parse
from holdfast.bench.drill.subjects import subject_of
from holdfast.bench.drill.tally import Tally
from holdfast.bench.faults import Fail
from tests.bench.planted import RetriedSync, SwallowedErrors

pytestmark = pytest.mark.usefixtures("quiet")


def _scenario(store: StoreKind, operation: str) -> Scenario:
    return Scenario(store, "always", (operation,), FailAt(0, errno.EIO))


def _broken(scenario: Scenario, wrap: Wrap, *, lost: bool) -> int:
    """How many ways of failing break a promise, of those that drop data or of the others."""
    ways = [way for way in faults(calls_of(scenario, wrap)) if bool(way.lost) == lost]
    assert ways
    tried = [
        erring.attempt(Scenario(scenario.store, "always", scenario.operations, way), wrap)[0]
        for way in ways
    ]
    return sum(broken is not None for broken in tried)


@pytest.mark.parametrize("store", ["fold", "index"])
def test_a_sync_tried_again_is_found(store: StoreKind) -> None:
    """A layer that tries a failed sync again and believes it loses data, and that is noticed."""
    scenario = _scenario(store, next(iter(subject_of(store).alphabet)))
    assert _broken(scenario, RetriedSync, lost=True) > 0
    assert _broken(scenario, unwrapped, lost=True) == 0


def test_errors_that_are_swallowed_are_found() -> None:
    """A layer that takes failed writes for done is noticed."""
    assert _broken(_scenario("fold", "put-small"), SwallowedErrors, lost=False) > 0


@pytest.mark.parametrize("store", ["fold", "vectors", "warm", "index", "registry"])
def test_no_failing_call_breaks_a_promise(store: StoreKind) -> None:
    """Each third call of one operation fails in one way, and what was promised holds."""
    scenario = _scenario(store, list(subject_of(store).alphabet)[1])
    ways = list(faults(calls_of(scenario)))[::11]
    assert len(ways) > 10
    for way in ways:
        candidate = Scenario(store, "always", scenario.operations, way)
        broken, _ = erring.attempt(candidate)
        assert broken is None, (str(candidate), broken)


@pytest.mark.parametrize("way", ["fail@{}:EIO:lasting", "fail@{}:ENOSPC:lasting"])
def test_a_branch_is_made_or_not(way: str) -> None:
    """Making a branch while the disk fails for good: refused with nothing left, or done later."""
    scenario = _scenario("vectors", "branch")
    ways = {str(fault) for fault in faults(calls_of(scenario))}
    candidates = [parse(f"vectors always branch {one}") for one in sorted(ways)
                  if one == way.format(one.partition("@")[2].partition(":")[0])]  # fmt: skip
    assert candidates
    for candidate in candidates:
        broken, _ = erring.attempt(candidate)
        assert broken is None, (str(candidate), broken)


def test_a_host_is_refused_or_loses_its_worker() -> None:
    """Over all calls of an operation there are both: errors to the caller, and dead workers."""
    scenario = _scenario("fold", "put-small")
    refusals = deaths = 0
    for way in faults(calls_of(scenario)):
        host = Host(subject_of("fold"), "always", erring.fail_of(way))
        host.go(scenario.operations)
        assert host.disk.struck, "the fault did not strike"
        refusals += host.refusals
        deaths += host.deaths
    assert refusals > 10
    assert deaths > 3


def test_looking_is_not_struck() -> None:
    """Calls made to look at what a store holds are not among those that may fail."""
    scenario = _scenario("warm", "append")
    host = Host(subject_of("warm"), "always", Fail(-1, 0))
    host.go(scenario.operations)
    assert host.looking
    assert not host.looking & {call.number for call in calls_of(scenario)}


@pytest.mark.parametrize(
    "text",
    ["fail@3:ENOSPC", "fail@3:EIO:lasting", "fail@3:EIO:written=7", "fail@3:EIO:lost=evicted"],
)
def test_faults_keep_their_text(text: str) -> None:
    """What a failing call is written as is read as the same."""
    assert str(parse(f"fold always put-small {text}").fault) == text


def test_the_drill_counts(tmp_path: Path) -> None:
    """Within its time the drill injects errors of every errno and finds nothing."""
    tally = Tally()
    plan = Plan(seed=3, work=str(tmp_path), stores=("fold",))
    ErrorDrill().run(plan, tally, Clock(time.monotonic() + 5.0), lambda *told: None)
    assert tally.failures == []
    assert tally.of("fold").errors_injected == sum(tally.faults.values()) > 0
    assert {name.split()[0] for name in tally.faults} == {"ENOSPC", "EDQUOT", "EIO", "EINTR"}


@pytest.mark.parametrize(
    "text",
    [
        # A branch that was refused stayed, since what had kept its directory from being synced kept
        # its file from being removed as well.
        "vectors always branch fail@55:EIO:lasting",
        # The drill asked for a branch a second time, as if it had not been made on the way.
        "vectors always branch fail@44:ENOSPC:lasting",
    ],
)
def test_what_was_broken_once_holds(text: str, tmp_path: Path) -> None:
    """Scenarios in which a promise did not hold, before it was mended."""
    assert replay(text, str(tmp_path)) is None
