"""The drill with damaged files finds what it is to find, and holds against the stores."""

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from holdfast.bench.drill import damage
from holdfast.bench.drill.checking import INVENTED, LOST, Harm
from holdfast.bench.drill.damage import DamageDrill, all_damage, check, damaged, exchanges, prepare
from holdfast.bench.drill.forks import share
from holdfast.bench.drill.plan import Clock, Plan, StoreKind
from holdfast.bench.drill.scenario import Damaged, Scenario
from holdfast.bench.drill.subjects import subject_of
from holdfast.bench.drill.subjects.base import HOME, Subject
from holdfast.bench.drill.tally import Tally
from holdfast.bench.memory_disk import MemoryDisk
from holdfast.formats.errors import HoldfastError
from holdfast.workers.actor import Actor
from holdfast.workers.message import Durability
from holdfast.workers.standing import Standing
from tests.bench.planted import TinySubject

pytestmark = pytest.mark.usefixtures("quiet")


def _tiny(monkeypatch: pytest.MonkeyPatch) -> damage.Prepared:
    monkeypatch.setattr(damage, "subject_of", lambda kind: TinySubject())
    return prepare(Scenario("fold", "always", ("add",), Damaged("", "")))


def test_damage_of_a_tiny_file_is_as_counted_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three bytes written at once: four exchanges, three cuts, two sectors and 24 bits."""
    prepared = _tiny(monkeypatch)
    assert prepared.files == {"tiny": b"abc"}
    ways = list(all_damage(prepared, "tiny"))
    assert ways[:4] == ["gone", "repeat=0+3", "drop=0+3", "stale=1"]
    assert ways[4:9] == ["cut=0", "cut=1", "cut=2", "zero=0+3", "noise=0+3"]
    assert ways[9:] == [f"flip={byte}.{bit}" for byte in range(3) for bit in range(8)]


def test_a_store_without_checksums_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a store believes every byte, each flipped bit is a wrong answer; cuts are not."""
    prepared = _tiny(monkeypatch)
    outcomes = {how: check(prepared, TinySubject(), "tiny", how) for how in _words(prepared)}
    assert all(
        broken is not None and broken.promise == INVENTED
        for how, broken in outcomes.items()
        if how.startswith(("flip", "zero", "noise", "repeat"))
    )
    assert all(broken is None for how, broken in outcomes.items() if how.startswith("cut"))


def _words(prepared: damage.Prepared) -> list[str]:
    return list(all_damage(prepared, "tiny"))


@pytest.mark.parametrize(
    ("how", "left"),
    [
        ("flip=1.0", b"0023456789"),
        ("cut=3", b"012"),
        ("zero=2+3", b"01" + bytes(3) + b"56789"),
        ("swap=1+2:5+3", b"0567341289"),
        ("repeat=8+2", b"012345678989"),
        ("drop=2+6", b"0189"),
    ],
)
def test_words_do_what_they_say(how: str, left: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sort of damage leaves the bytes that its word stands for."""
    prepared = _tiny(monkeypatch)
    prepared.files["tiny"] = b"0123456789"
    assert damaged(prepared, "tiny", how).content("/data/tiny") == left


@pytest.mark.parametrize("store", ["fold", "vectors", "warm", "index", "registry"])
def test_no_damage_gets_a_wrong_answer(store: StoreKind) -> None:
    """Every exchange, and each 97th cut and flip, of a store's files is met rightly."""
    subject = subject_of(store)
    names = tuple(name for name in subject.alphabet if name != "branch")[:5]
    for dead in (False, True):
        prepared = prepare(Scenario(store, "always", names, Damaged("", "", dead)))
        assert len(prepared.files) >= 1 + dead
        for name in prepared.files:
            ways = list(exchanges(prepared, name))[::3]
            ways += list(damage.tears(prepared.files[name]))[::97]
            ways += list(damage.flips(prepared.files[name]))[::397]
            for how in ways:
                broken = check(prepared, subject, name, how)
                assert broken is None, (name, how, dead, broken)


def test_the_drill_counts(tmp_path: Path) -> None:
    """Within its time the drill flips, tears and exchanges, and finds nothing."""
    tally = Tally()
    plan = Plan(seed=3, work=str(tmp_path), stores=("fold",))
    DamageDrill().run(plan, tally, Clock(time.monotonic() + 4.0), lambda *told: None)
    assert tally.failures == []
    counts = tally.of("fold")
    assert counts.exchanged > 0
    assert counts.exchanged + counts.torn + counts.bit_flips == sum(tally.faults.values())
    assert any("fold" in text for text in tally.not_covered)


class _Resetting:
    """A kind of store that begins anew with nothing when it finds damage."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    def __getattr__(self, name: str) -> object:
        return getattr(self._subject, name)

    def open(self, disk: MemoryDisk, durability: Durability) -> Actor:
        try:
            return self._subject.open(disk, durability)
        except HoldfastError:
            self._clear(disk)
            return self._subject.open(disk, durability)

    def _clear(self, disk: MemoryDisk) -> None:
        for path in list(disk.files()):
            if path.startswith(f"{HOME}/"):
                disk.remove(path)


@pytest.mark.parametrize("kind", ["fold", "index", "registry"])
def test_a_store_that_forgets_all_when_damaged_is_found(kind: StoreKind) -> None:
    """Beginning anew with nothing after a flipped bit breaks a promise; refusing it does not."""
    subject = subject_of(kind)
    scenario = Scenario(kind, "always", tuple(subject.alphabet), Damaged("", "", False))
    prepared = damage.prepare(scenario)
    largest = max(prepared.files, key=lambda name: len(prepared.files[name]))
    ways = [*damage.flips(prepared.files[largest])][::97]
    resetting = cast("Subject", _Resetting(subject))
    assert any(damage.check(prepared, resetting, largest, how) for how in ways)
    assert not any(damage.check(prepared, subject, largest, how) for how in ways)


class _Forgetful(_Resetting):
    """A kind of store that begins anew with nothing whenever it is opened."""

    def open(self, disk: MemoryDisk, durability: Durability) -> Actor:
        self._clear(disk)
        return self._subject.open(disk, durability)


def test_damage_may_not_cost_what_lies_in_front_of_it() -> None:
    """A file that is cut, or full of something else, from a record on still has those before."""
    subject = subject_of("fold")
    scenario = Scenario("fold", "always", ("put-small", "put-large", "batch"), Damaged("", ""))
    prepared = damage.prepare(scenario)
    (log,) = prepared.files
    spans, states = prepared.spans[log], prepared.states
    assert [span.offset for span in spans] == [0, 6, 48, 1515]
    for start, place in ((0, 0), (48, 2), (1515, 4), (len(prepared.files[log]), -1)):
        assert prepared.since(log, start) == states[place:]
    late = f"stale={prepared.moments[-1].number}"
    forgetful = cast("Subject", _Forgetful(subject))
    for how in ("noise=48+2053", "zero=48+2053", "cut=50", late):
        assert damage.check(prepared, subject, log, how) is None, how
        broken = damage.check(prepared, forgetful, log, how)
        assert broken is not None, how
        assert (broken.promise, broken.harm) == (LOST, Harm.LOST)


class _Content:
    """A kind of store whose files are always called clean."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    def __getattr__(self, name: str) -> object:
        return getattr(self._subject, name)

    def verify(self, disk: MemoryDisk) -> Standing:
        return Standing.CLEAN


@pytest.mark.parametrize("kind", ["fold", "vectors", "warm", "index", "registry"])
def test_a_verify_that_is_content_with_everything_is_found(kind: StoreKind) -> None:
    """Files that opening refuses, or that hold something else, may not be called clean."""
    subject = subject_of(kind)
    names = tuple(name for name in subject.alphabet if name not in ("branch", "die"))[:4]
    prepared = damage.prepare(Scenario(kind, "always", names, Damaged("", "")))
    content = cast("Subject", _Content(subject))
    for name in prepared.files:
        ways = [*damage.flips(prepared.files[name])][::31]
        broken = [found for how in ways if (found := damage.check(prepared, content, name, how))]
        if broken:
            assert {found.promise for found in broken} == {damage.TOLD}
            return
    pytest.fail("no flipped bit gave it away")


def _work(act: Callable[[int], None]) -> Callable[[int, Tally, Callable[[str], None]], bool]:
    def work(number: int, tally: Tally, about: Callable[[str], None]) -> bool:
        about(f"piece {number}")
        act(number)
        tally.fault("done")
        return number < 6

    return work


def test_work_is_shared_and_counted_once() -> None:
    """Each piece is done by one of the processes, and everything counted arrives."""
    tally = Tally()
    assert share(_work(lambda number: None), 2, tally, Clock()) == []
    # Whoever does 6 ends with it, and so does the other with 7.
    assert tally.faults == {"done": 8}


def test_a_process_that_dies_is_a_finding() -> None:
    """What kills a process is told, with what it was about to do; the others go on."""

    def act(number: int) -> None:
        if number == 3:
            os.kill(os.getpid(), signal.SIGSEGV)

    tally = Tally()
    assert share(_work(act), 2, tally, Clock()) == ["ended by SIGSEGV with piece 3"]
    assert tally.faults["done"] >= 3, "4, 5 and 6 are done by the one that is left"


def test_an_exception_of_the_drill_is_a_finding() -> None:
    """An exception in a process is not taken for the end of its work."""

    def act(number: int) -> None:
        raise RuntimeError("planted")

    found = share(_work(act), 1, Tally(), Clock())
    assert len(found) == 1
    assert "planted" in found[0]


def test_a_process_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that says nothing for long is killed, and what it was doing is told."""
    monkeypatch.setattr("holdfast.bench.drill.forks._HUNG_AFTER_S", 0.5)
    found = share(_work(lambda number: time.sleep(60)), 1, Tally(), Clock())
    assert len(found) == 1
    assert re.fullmatch(r"hung for \d+ s with piece 0", found[0])


def test_time_that_is_over_ends_the_work() -> None:
    """When the clock is over, the processes end and nothing is a finding."""
    tally, begun = Tally(), time.monotonic()

    def work(number: int, tally: Tally, about: Callable[[str], None]) -> bool:
        tally.fault("done")
        about("going on for ever")
        return True

    assert share(work, 2, tally, Clock(begun + 0.5)) == []
    assert tally.faults["done"] > 0
