"""The explorer finds what it is to find, counts what there is, and does it again."""

import os
import time
from pathlib import Path

import pytest

from holdfast.bench.drill import explorer
from holdfast.bench.drill.checking import (
    INVENTED,
    LOST,
    VERIFIES,
    Broken,
    check_death,
    check_power,
)
from holdfast.bench.drill.explorer import CutDrill, Explorer, sequences, shrinking
from holdfast.bench.drill.findings import keep, shrunk
from holdfast.bench.drill.losses import Loss
from holdfast.bench.drill.plan import STORES, Clock, FaultKind, Plan, StoreKind
from holdfast.bench.drill.recording import Promise, Recorder, Sent, Wrap
from holdfast.bench.drill.replay import replay
from holdfast.bench.drill.scenario import KillAt, PowerAt, Scenario, parse
from holdfast.bench.drill.subjects import subject_of
from holdfast.bench.drill.subjects.base import State
from holdfast.bench.drill.tally import Tally
from holdfast.bench.faults import MemoryDisk
from holdfast.workers.actor import Caller
from holdfast.workers.standing import Standing
from tests.bench.planted import (
    LateSync,
    TinySubject,
    WithoutDirectorySync,
    WithoutSync,
)

pytestmark = pytest.mark.usefixtures("quiet")

LONG = "put-large,delete,put-small,move-cursor,batch"


def _first(
    operations: str, wrap: Wrap, fault: KillAt | PowerAt, store: StoreKind = "fold"
) -> tuple[Scenario, Broken] | None:
    names = tuple(operations.split(",")) if operations else ()
    scenario = Scenario(store, "always", names, fault)
    return next(explorer.failing(scenario, wrap), None)


POWER = PowerAt(0, Loss())
"""Any loss: what is failing is searched for."""


@pytest.mark.parametrize("store", ["fold", "vectors", "warm", "index", "registry"])
@pytest.mark.parametrize("wrap", [WithoutSync, WithoutDirectorySync, LateSync])
def test_planted_defects_are_found(store: StoreKind, wrap: Wrap) -> None:
    """A file layer that skips or delays a sync breaks a promise, and only then one is broken."""
    operation = next(iter(subject_of(store).alphabet))
    found = _first(operation, wrap, POWER, store)
    assert found is not None
    assert _first(operation, lambda disk: disk, POWER, store) is None


def test_states_of_a_tiny_store_are_as_counted_by_hand() -> None:
    """Open, sync of the directory, append of three bytes, sync: seven kills and eleven losses."""
    subject = TinySubject()
    moments = Recorder(subject).record(["add"])
    names = [None if moment.call is None else moment.call.name for moment in moments]
    assert names == ["open", "sync_directory", "write_at", "sync", None]
    explored = Explorer(subject)
    kills = list(explored.kills(moments))
    # Before each of the four, after all, and with one or two bytes written.
    assert [(cut.number, cut.written) for cut, _, _ in kills] == [
        (0, None), (1, None), (2, None), (2, 1), (2, 2), (3, None), (4, None),
    ]  # fmt: skip
    assert all(explored.check(*kill, "always") is None for kill in kills)
    assert (explored.opened, explored.skipped) == (7, 0)
    losses = [str(cut) for cut, _, _ in explored.losses(moments)]
    assert losses == [
        "power@0:names=,kept=",
        "power@1:names=1,kept=",
        "power@1:names=0,kept=",
        "power@2:names=,kept=",
        "power@3:names=,kept=1",
        "power@3:names=,kept=0",
        "power@3:names=,kept=1,torn=0:0-1",
        "power@3:names=,kept=1,torn=0:0-2",
        "power@3:names=,kept=0,lengths",
        "power@3:names=,kept=0,lengths",  # of all files, and of this one
        "power@4:names=,kept=",
    ]


def test_equal_states_are_opened_once() -> None:
    """A state seen before under the same promise is skipped, and one under another is not."""
    subject = TinySubject()
    moments = Recorder(subject).record(["add"])
    explored = Explorer(subject)
    states = list(explored.kills(moments))
    again = list(explored.kills(moments))
    for kill in [*states, *again]:
        assert explored.check(*kill, "always") is None
    assert (explored.opened, explored.skipped) == (7, 7)


def test_sequences_are_all_of_them() -> None:
    """Of an alphabet of n there are 1 + n + n^2 + n^3 sequences of up to three operations."""
    for store in STORES:
        subject = subject_of(store)
        letters = len(subject.alphabet)
        found = list(sequences(subject, 3))
        assert len(found) == len(set(found)) == 1 + letters + letters**2 + letters**3
        assert letters >= 8


def test_shrinking_leaves_what_is_needed() -> None:
    """A failure after five operations is brought down to one or none, and to a loss of less."""
    found = _first(LONG, LateSync, POWER)
    assert found is not None
    smallest, broken = shrunk(*found, shrinking(LateSync))
    assert len(smallest.operations) <= 1
    assert broken.promise == found[1].promise
    assert isinstance(smallest.fault, PowerAt)
    loss = smallest.fault.loss
    for simpler in explorer.simpler(smallest.fault):
        broken_too, _ = explorer.attempt(
            Scenario("fold", "always", smallest.operations, simpler), LateSync
        )
        assert broken_too is None or broken_too.promise != broken.promise, (loss, simpler)


def test_what_was_found_is_found_again_from_its_text() -> None:
    """The text of a scenario stands for it, and attempting it breaks the same promise."""
    found = _first("put-small", WithoutDirectorySync, POWER)
    assert found is not None
    scenario = parse(str(found[0]))
    assert scenario == found[0]
    broken, _ = explorer.attempt(scenario, WithoutDirectorySync)
    assert broken is not None
    assert broken.promise == found[1].promise


@pytest.mark.parametrize(
    "text",
    [
        "fold always put-small",
        "none always put-small kill@1",
        "fold sometimes put-small kill@1",
        "fold always put-small explode@1",
        "fold always put-small kill@x",
        "fold always put-small power@3:kept=2",
        "fold always put-small fail@3:ENOTHING",
        "fold always put-small kill@999",
        "fold always put-smaller kill@1",
        "fold always put-small kill@0+7",
        "fold always put-small power@3:names=1111,kept=",
        "fold always put-small damage=drill.snap:melt=1",
        "fold always put-small damage=other:cut=1",
        "live fold worker-SIGKILL",
        "live fold earthquake 7",
        "live fold endless-loop 7",
        "live folds worker-SIGKILL 7",
    ],
)
def test_what_is_no_scenario_is_refused(text: str, tmp_path: Path) -> None:
    """Text that is no scenario, or does not fit the sequence, raises ``ValueError``."""
    with pytest.raises(ValueError, match=r"."):
        replay(text, str(tmp_path))


@pytest.mark.parametrize(
    "text",
    [
        # A witness behind a commit that a power loss took stayed, and verify called that damage.
        "vectors always pair power@25:names=,kept=111011",
        # A power loss took a witness, a former manifest or a part of a commit, and spared a later
        # one, which counted: verify called what was missing in front of it damage.
        "vectors always batch,delete-where,insert,compact "
        "power@27:names=,kept=111111,torn=5:84-448",
        "vectors interval pair,delete power@27:names=,kept=11111011",
        "vectors interval pair,die,pair,delete,reopen power@34:names=,kept=11111111,torn=3:0-1077",
        "vectors never batch,reopen,batch,batch,delete-where,pair,delete-where,delete,reopen "
        "power@55:names=,kept=111111111111,torn=5:0-1090,lengths",
        "vectors never delete,pair,delete,pair,pair,die,reopen,delete-where,branch "
        "power@41:names=1,kept=100100000110001100,torn=9:0-1385",
        # The sector that was lost held a part of a model and the checksums, too.
        "registry always save-large damage=drill.zsm:zero=512+400",
        # The first snapshot had no stamp, so that it went with records that follow a later one.
        "index always named,checkpoint,insert damage=drill.iqdb:stale=12",
        # A branch's file was taken away, or its parent's put there, which was called wrong.
        "vectors never branch,batch damage=child.rvf:gone",
        "vectors never branch,batch damage=child.rvf:foreign=drill.rvf",
        # A dimension beyond every array, and looking at the log raised an error of numpy.
        "index always insert damage=drill.iqdb:flip=12.1",
    ],
)
def test_what_was_broken_once_holds(text: str, tmp_path: Path) -> None:
    """Scenarios in which a promise did not hold, before it was mended."""
    assert replay(text, str(tmp_path)) is None


@pytest.mark.parametrize("fault", ["crash", "kill"])
@pytest.mark.parametrize("store", ["fold", "vectors", "warm", "index", "registry"])
def test_no_state_breaks_a_promise(store: StoreKind, fault: FaultKind, tmp_path: Path) -> None:
    """What one operation leaves when it is cut short anywhere is what was promised."""
    subject = subject_of(store)
    operation = list(subject.alphabet)[1]
    explored = Explorer(subject)
    moments = Recorder(subject, since=0).record([operation])
    states = explored.losses(moments) if fault == "crash" else explored.kills(moments)
    for cut, moment, left in states:
        assert explored.check(cut, moment, left, "always") is None, str(cut)
    assert explored.opened > 5


def test_a_drill_counts_and_ends(tmp_path: Path) -> None:
    """A drill over two stores gives each its share of the time and counts what it tried."""
    plan = Plan(seed=5, work=str(tmp_path), stores=("fold", "index"))
    tally, told = Tally(), []
    clock = Clock(time.monotonic() + 4.0)
    CutDrill("kill").run(plan, tally, clock, lambda what, done, of: told.append(what))
    assert tally.failures == []
    for store in plan.stores:
        assert tally.of(store).kill_points > 0
    assert sum(tally.faults.values()) == sum(c.kill_points for c in tally.stores.values())


def test_a_drill_reports_what_it_finds(tmp_path: Path) -> None:
    """A failure comes with a shrunk sequence, kept files, and a command that does it again."""
    plan = Plan(seed=5, work=str(tmp_path), stores=("fold",), processes=1)
    tally = Tally()
    clock = Clock(time.monotonic() + 20.0)
    CutDrill("crash", WithoutDirectorySync).run(plan, tally, clock, lambda *told: None)
    assert tally.lost_acknowledged + tally.wrong_answers > 0
    failure = tally.failures[0]
    assert failure.store == "fold"
    assert len(failure.operations) <= 1
    assert failure.state is not None
    assert (Path(failure.state) / "scenario.txt").read_text(encoding="utf-8").strip() in (
        failure.replay
    )
    assert failure.detail


def _promise(answered: State, *pending: State) -> Promise:
    """What was answered is durable; each pending write gives one state more."""
    write = TinySubject().rival({})
    sent = [Sent(Caller(7, n), write._replace(after=s), answered) for n, s in enumerate(pending)]
    return Promise(answered, (answered,), tuple(sent), None, ({"bytes": "abc"},))


@pytest.mark.parametrize(
    ("content", "promise"),
    [(b"", LOST), (b"abc", LOST), (b"abcabcabc", INVENTED), (b"xyzxyz", INVENTED)],
)
def test_checker_refuses_wrong_outcomes(content: bytes, promise: str) -> None:
    """Less than was answered, more than was asked for, or something else is not let pass."""
    disk = MemoryDisk("/data")
    disk.place("/data/tiny", content)
    given = _promise({"bytes": "abcabc"})
    with pytest.raises(Broken) as death:
        check_death(TinySubject(), disk.crash(), "always", given, deep=False)
    possible = given.after_power_loss()
    with pytest.raises(Broken) as power:
        check_power(TinySubject(), disk.crash(), "always", possible, given)
    assert death.value.promise == power.value.promise
    assert death.value.promise == promise


def test_checker_lets_pending_writes_be_there_or_not() -> None:
    """What was asked for and not answered may be there as a whole, and need not."""
    for content in (b"abc", b"abcabc", b"abcabca"):
        disk = MemoryDisk("/data")
        disk.place("/data/tiny", content)
        given = _promise({"bytes": "abc"}, {"bytes": "abcabc"})
        check_death(TinySubject(), disk, "always", given, deep=False)


def test_checker_refuses_files_that_do_not_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that opens although verify calls its files damaged is a finding."""
    disk = MemoryDisk("/data")
    disk.place("/data/tiny", b"abc")
    subject = TinySubject()
    monkeypatch.setattr(subject, "verify", lambda disk: Standing.DAMAGED)
    with pytest.raises(Broken) as caught:
        check_death(subject, disk, "always", _promise({"bytes": "abc"}), deep=False)
    assert caught.value.promise == VERIFIES


def test_files_are_kept(tmp_path: Path) -> None:
    """The files of a failing state are written out under their names."""
    disk = MemoryDisk("/data")
    disk.place("/data/f", b"content")
    directory = keep(disk, str(tmp_path), "fold always - kill@1")
    assert (Path(directory) / "data" / "f").read_bytes() == b"content"
    assert os.path.dirname(directory) == str(tmp_path / "failures")
