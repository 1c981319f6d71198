"""Load tests at work: on real engines, with kills, with planted wrong reads, with lost members."""

import itertools
import os
import queue
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import holdfast
from holdfast.bench.drill.serving import left_after, until
from holdfast.bench.load import profile as profiles
from holdfast.bench.load.crew import Crew, Ended, MemberFailed
from holdfast.bench.load.member import Member, Orders, Round, Told
from holdfast.bench.load.outcome import Moment
from holdfast.bench.load.profile import OPERATIONS, Profile
from holdfast.bench.load.session import Session, Totals, Wish, run
from holdfast.bench.load.timings import Recent
from holdfast.bench.load.work import preload, work_of
from holdfast.formats.errors import InvalidArgument
from tests.bench.load_profiles import small, tiny

pytestmark = pytest.mark.usefixtures("quiet")

READS = {"get", "get_many", "range", "latest", "query", "search", "get_exact", "get_nearest"}
FACES = pytest.mark.parametrize("asynchronous", [False, True], ids=["threads", "tasks"])


def silent(text: str) -> None:
    """Who is told of the progress."""


def unseen(moment: Moment, operations: Sequence[Recent]) -> None:
    """Who is shown the moments."""


def wish(profile: Profile, **changes: Any) -> Wish:
    """A short run, with deaths."""
    wanted: dict[str, Any] = dict(
        profile=profile, clients=6, processes=2, rate=profile.rate, seconds=2.0, warm_up_s=0.2,
        durability="always", kill_every_s=0.8, seed=11, asynchronous=False,
    )  # fmt: skip
    return Wish(**(wanted | changes))


@FACES
@pytest.mark.parametrize("name", profiles.shipped())
def test_no_call_fails_and_no_read_is_wrong_while_workers_are_killed(
    name: str, asynchronous: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each shipped profile, made small, runs with a worker killed now and then: every call is
    answered, every read is right, all is there at the end, and nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    moments: list[Moment] = []
    shown: list[int] = []
    profile = small(name)

    def show(moment: Moment, operations: Sequence[Recent]) -> None:
        moments.append(moment)
        shown.append(sum(operation.calls for operation in operations))

    outcome = run(wish(profile, asynchronous=asynchronous), silent, show)
    assert (outcome.errors, outcome.wrong_reads, outcome.texts) == (0, 0, [])
    assert outcome.ok
    assert outcome.calls > 0
    assert outcome.read_back == sum(store.keys for store in profile.stores)
    assert {kill.store for kill in outcome.kills} <= {store.kind for store in profile.stores}
    assert 1 <= len(outcome.kills) <= outcome.restarts
    assert all(kill.recovery_ms > 0 for kill in outcome.kills)
    assert moments == outcome.moments
    assert shown == [sum(moment.stores.values()) for moment in moments]
    assert sum(sum(moment.stores.values()) for moment in moments) == outcome.calls
    assert sum(len(moment.kills) for moment in moments) <= len(outcome.kills)
    names = {process.name for moment in moments for process in moment.processes}
    assert names > {"supervisor", "clients 1", "clients 2", *outcome.moments[-1].stores}
    assert not left_after(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_closed_loop_makes_as_many_calls_as_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a rate nothing is ever overdue, and no call is left."""
    monkeypatch.chdir(tmp_path)
    closed = wish(tiny("fold"), rate=None, clients=2, processes=1, seconds=1.0, kill_every_s=None)
    outcome = run(closed, silent, unseen)
    assert outcome.ok
    assert outcome.settings.rate is None
    assert outcome.unmade == 0
    assert all(moment.waiting == 0 and moment.late_s == 0.0 for moment in outcome.moments)
    assert min(one.count for one in outcome.operations) > 0


def test_calls_that_no_client_came_to_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a rate that nothing can keep the run ends in time and says how many calls were due and
    not made."""
    monkeypatch.chdir(tmp_path)
    hurried = wish(tiny("fold"), rate=1e6, clients=2, processes=1, seconds=0.5, kill_every_s=None)
    outcome = run(hurried, silent, unseen)
    assert outcome.ok
    assert outcome.calls > 0
    assert outcome.calls + outcome.unmade == pytest.approx(500_000, abs=10)
    assert min(one.latency_ms["p50"] for one in outcome.operations) > 100, "they count as late"
    assert max(one.service_ms["p50"] for one in outcome.operations) < 100


# --- wrong reads are noticed -------------------------------------------------------------------


class Stale:
    """A store's handle that gives the first answer to a question for ever."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._answers: dict[tuple[str, str], Any] = {}

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._handle, name)
        if name not in READS:
            return method

        def answer(*args: Any, **kwargs: Any) -> Any:
            question = name, repr((args, kwargs))
            if question not in self._answers:
                self._answers[question] = method(*args, **kwargs)
            return self._answers[question]

        return answer


class Forgetful:
    """A store's handle that says it has written, and has not."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._numbers = itertools.count(1)

    def __getattr__(self, name: str) -> Any:
        forgets = name not in READS and next(self._numbers) % 5 == 0
        return (lambda *args, **kwargs: None) if forgets else getattr(self._handle, name)


class Searching:
    """A store's handle whose searches find something else."""

    def __init__(self, handle: Any, found: Callable[[Any], Any]) -> None:
        self._handle = handle
        self._found = found

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._handle, name)
        if name not in ("query", "search"):
            return method
        return lambda *args, **kwargs: self._found(method(*args, **kwargs))


def hits(ids: Any, distances: Any) -> Any:
    """What a search finds."""
    return SimpleNamespace(ids=ids, distances=distances)


WRONG_SEARCHES: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda found: hits(found.ids[:0], found.distances[:0]),
    "nearer than it is": lambda found: hits(found.ids, found.distances / 2),
    "others as far": lambda found: hits(found.ids[::-1], found.distances),
    "not an answer": lambda found: None,
}


def honest(handle: Any) -> Any:
    """The handle as it is."""
    return handle


def heard(
    kind: str, plant: Callable[[Any], Any], directory: Path, patch: pytest.MonkeyPatch
) -> list[Told]:
    """What clients of a store say, whose handle is one like this."""
    work = work_of(kind)
    opens = work.open

    def planted(engine: holdfast.Engine, load: Any, durability: str) -> Any:
        return plant(opens(engine, load, durability))

    profile, said = tiny(kind), list[Told]()
    with holdfast.open(directory) as engine:
        preload(engine, profile.stores[0], "never")
        patch.setattr(work, "open", staticmethod(planted))
        member = Member(Orders(str(directory), profile, "never", [0, 1], 2, 3, False), said.append)
        rounds: queue.Queue[Round | None] = queue.Queue()
        now = time.monotonic()
        rounds.put(Round(now, now, now + 1.0, 200.0))
        rounds.put(None)
        member.serve(rounds)
    return said


def noticed(
    kind: str, plant: Callable[[Any], Any], directory: Path, patch: pytest.MonkeyPatch
) -> list[Told]:
    """What they say when they have noticed; on a slow machine few calls are made at a time."""
    for turn in range(10):
        with patch.context() as patched:
            said = heard(kind, plant, directory / str(turn), patched)
        if wrong_reads(said):
            return said
    pytest.fail("nobody noticed")


def wrong_reads(said: list[Told]) -> int:
    """How many clients noticed."""
    return sum(measured.wrong for told in said for measured in told.operations.values())


@pytest.mark.parametrize("kind", OPERATIONS)
def test_an_honest_store_is_not_accused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients that use a store of a few keys find nothing wrong, at work and reading it back."""
    said = heard(kind, honest, tmp_path, monkeypatch)
    assert [text for told in said for text in told.texts] == []
    assert wrong_reads(said) == 0
    assert said[0].what == "ready"
    assert (said[-1].what, said[-1].audited, said[-1].audit_wrong) == ("audited", 8, 0)


@pytest.mark.parametrize("kind", OPERATIONS)
@pytest.mark.parametrize("plant", [Stale, Forgetful])
def test_a_planted_wrong_read_is_noticed(
    plant: type[Any], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers of a moment ago, and writes that were acknowledged and not made, are noticed by the
    clients of every kind of store, and said in words."""
    said = noticed(kind, plant, tmp_path, monkeypatch)
    assert any("WrongRead" in text for told in said for text in told.texts)


@pytest.mark.parametrize("kind", ["vectors", "index"])
@pytest.mark.parametrize("what", WRONG_SEARCHES)
def test_a_search_that_is_wrong_is_noticed(
    what: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are missing, other rows, other distances, and what is no answer at all."""
    said = heard(
        kind, lambda handle: Searching(handle, WRONG_SEARCHES[what]), tmp_path, monkeypatch
    )
    assert wrong_reads(said) > 0
    assert any("WrongRead" in text for told in said for text in told.texts)
    assert said[-1].what == "audited", "the clients go on"


# --- members -----------------------------------------------------------------------------------


def orders(directory: Path) -> Orders:
    """One client of a fold."""
    return Orders(str(directory), tiny("fold"), "never", [0], 1, 0, False)


def test_a_member_that_cannot_begin_is_told_with_its_words(tmp_path: Path) -> None:
    """When a process of clients cannot begin there is no run, but an error with its exit code and
    what it wrote to standard error."""
    file = tmp_path / "no directory"
    file.touch()
    said = r"of clients 1 ended with exit code 1: (?s:.*)no directory"
    with pytest.raises(MemberFailed, match=said), Crew([orders(file)]) as crew:
        crew.wait_ready()


def test_who_ends_while_others_read_back_is_missed(tmp_path: Path) -> None:
    """A process of clients that is killed before it has read everything back is told, and the one
    that ends because it has done so is not."""
    with holdfast.open(tmp_path) as engine:
        preload(engine, tiny("fold").stores[0], "never")
        with Crew([orders(tmp_path), orders(tmp_path)]) as crew:
            crew.wait_ready()
            os.kill(crew.pids[1], signal.SIGKILL)
            assert [told.audited for told in crew.audit()] == [8]
            assert [(one.name, one.clients) for one in crew.ended] == [("clients 2", 1)]


@pytest.mark.parametrize(("processes", "read_back"), [(1, 0), (2, 4)])
def test_a_run_outlives_its_clients(
    processes: int, read_back: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a process of clients is killed, the others go on to the end, or there are none and the
    run ends; what was measured is kept, who was lost is told with signal and second, and the run
    is not clean."""
    monkeypatch.chdir(tmp_path)
    killed: list[int] = []

    def kill(moment: Moment, operations: Sequence[Recent]) -> None:
        pids = {process.name: process.pid for process in moment.processes}
        if not killed:
            killed.append(pids[f"clients {processes}"])
            os.kill(killed[0], signal.SIGKILL)

    seconds = 3.0 if processes > 1 else 3600.0
    wanted = wish(tiny("fold"), processes=processes, seconds=seconds, kill_every_s=None)
    said: list[str] = []
    outcome = run(wanted, said.append, kill)
    (lost,) = outcome.lost
    assert (lost.process, lost.pid) == (f"clients {processes}", killed[0])
    assert lost.how == "was killed by SIGKILL (as the system does when memory runs out)"
    assert outcome.moments[0].second <= lost.second
    assert f"{lost.process} {lost.how}" in said
    assert (outcome.errors, outcome.wrong_reads) == (0, 0)
    assert not outcome.ok
    assert outcome.calls == sum(sum(one.stores.values()) for one in outcome.moments) > 0
    assert outcome.read_back == read_back, "the keys of those that are left"
    assert (outcome.seconds == 3.0) is (processes > 1)
    assert not left_after(tmp_path)
    assert list(tmp_path.iterdir()) == []


_HALF = """
import os, signal, sys
sys.stdout.buffer.write(b'{"what":"ready"}\\n{"what":"wor')
sys.stdout.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_member_may_be_killed_in_the_middle_of_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a process of clients was about to say when it was killed is left out, and it is lost
    like any other."""
    start = subprocess.Popen

    def half(arguments: list[str], **options: Any) -> Any:
        return start([arguments[0], "-c", _HALF], **options)

    monkeypatch.setattr("holdfast.bench.load.crew.subprocess.Popen", half)
    with Crew([orders(tmp_path)]) as crew:
        crew.wait_ready()
        assert list(crew.round(Round(0.0, 0.0, 0.0, None))) == []
        assert list(crew.audit()) == []
    (ended,) = crew.ended
    assert ended.how.startswith("was killed by SIGKILL")


def test_the_last_words_of_who_was_lost_are_told(tmp_path: Path) -> None:
    """What a lost process of clients wrote to standard error is among the texts of the run."""
    ended = Ended("clients 2", 7, 3, 5.0, "ended with exit code 1", "MemoryError: no more")
    crew: Any = SimpleNamespace(audit=lambda: iter([Told("audited", audited=4)]), ended=[ended])
    engine: Any = None
    session, totals = Session(wish(tiny("fold")), engine, crew, silent), Totals()
    session.audit(totals)
    assert (totals.audited, totals.texts) == (4, ["clients 2: MemoryError: no more"])
    (lost,) = session.outcome(totals, str(tmp_path)).lost
    assert (lost.process, lost.pid, lost.clients, lost.how) == (
        "clients 2", 7, 3, "ended with exit code 1"
    )  # fmt: skip


def test_members_do_not_outlive_who_started_them(tmp_path: Path) -> None:
    """When the orders end in the middle of a round, as they do when the parent is killed, a
    member ends its round and itself."""
    with holdfast.open(tmp_path) as engine:
        preload(engine, tiny("fold").stores[0], "never")
        with Crew([orders(tmp_path)]) as crew:
            crew.wait_ready()
            now = time.monotonic()
            told = crew.round(Round(now, now, now + 3600.0, 50.0))
            next(told)
            (member,) = crew._members
            member.end_of_orders()
            until(lambda: member.process.poll() is not None, "the member ends")
            assert member.process.returncode == 0


@FACES
def test_a_round_is_ended_early(asynchronous: bool, tmp_path: Path) -> None:
    """A member that is told to stop ends an hour's round at once, also with calls due once in ten
    minutes, and reads everything back."""
    with holdfast.open(tmp_path) as engine:
        preload(engine, tiny("fold").stores[0], "never")
        order = Orders(str(tmp_path), tiny("fold"), "never", [0, 1], 2, 0, asynchronous)
        with Crew([order]) as crew:
            crew.wait_ready()
            now = time.monotonic()
            told = crew.round(Round(now, now, now + 3600.0, 1 / 600))
            next(told)
            crew.stop()
            assert [one.what for _, one in told][-1] == "done"
            assert [one.audited for one in crew.audit()] == [8]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"processes": 7}, "--processes 7.*6 clients"),
        ({"clients": 9, "processes": 1}, "--clients 9.*fold.*'tiny'.*8"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_done(
    changes: dict[str, int], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More processes than clients, or more clients than keys, are refused by name and number."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidArgument, match=said):
        run(wish(tiny("fold"), **changes), silent, unseen)
    assert list(tmp_path.iterdir()) == []
