"""Each drill on real engines once and briefly: it runs, breaks nothing, and counts what it did.

That drills find what is wrong is shown elsewhere: by the checker's tests and by mutations.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from msgspec import structs

import holdfast
from holdfast.bench.drill import kernel, kernel_kills, limits, wall_clock, worker_faults
from holdfast.bench.drill.kernel import differences, seen
from holdfast.bench.drill.live import LiveDrill, LiveScenario, attempt, in_turns
from holdfast.bench.drill.plan import STORES, Clock, Drill, Plan, StoreKind
from holdfast.bench.drill.processes import SCENARIOS, no_limits
from holdfast.bench.drill.scene import (
    ANSWERED,
    CLIENTS,
    NAME,
    NOTHING_LEFT,
    TYPED,
    Scene,
    Setting,
    play,
)
from holdfast.bench.drill.serving import Stuck
from holdfast.bench.drill.soak import SoakDrill, grown
from holdfast.bench.drill.subjects.base import Subject
from holdfast.bench.drill.tally import Moment, Tally

SHOWN_KINDS: tuple[StoreKind, ...] = ("fold", "vectors", "warm", "index", "registry")


def nobody(what: str, done: int, of: int | None) -> None:
    """Who is told of the progress."""


def plan(tmp_path: Path, *stores: StoreKind) -> Plan:
    """A run on these stores."""
    return Plan(seed=7, work=str(tmp_path), stores=stores)


def held(tally: Tally) -> bool:
    """Whether every promise held; what did not is shown."""
    assert tally.failures == []
    return not (tally.lost_acknowledged or tally.wrong_answers or tally.leaked_processes)


AT_WORK = [
    scenario for scenario in SCENARIOS
    if scenario.setting == Setting(scenario.setting.fault) and scenario.kinds == STORES
    and scenario.missing is not no_limits
]  # fmt: skip
"""Those that need nothing but a store at work, so that one can follow the other."""
WITH_HOSTS = [scenario for scenario in SCENARIOS if scenario.setting.clients == 0]
ALONE = [scenario for scenario in SCENARIOS if scenario not in AT_WORK + WITH_HOSTS]


@pytest.mark.parametrize("scenario", ALONE, ids=lambda s: s.setting.fault.replace(" ", "-"))
def test_each_scenario_breaks_nothing(tmp_path: Path, scenario: LiveScenario) -> None:
    """Whatever befalls a store at work, every promise holds, and it is counted."""
    kind = scenario.kinds[0]
    tally = Tally()
    attempt(scenario, plan(tmp_path, kind), tally, kind)
    assert held(tally)
    if not tally.not_covered:
        assert tally.faults == {scenario.setting.fault: 1}
        assert tally.stores[kind].process_faults == 1
        assert tally.stores[kind].operations > 10
    assert list(tmp_path.iterdir()) == [], "nothing is kept of what held"


@pytest.mark.parametrize(
    ("scenarios", "setting"),
    [
        (AT_WORK, Setting("one after the other")),
        (WITH_HOSTS, Setting("hosts", clients=0, may_fail=(holdfast.EngineClosed,))),
    ],
    ids=["at-work", "with-hosts"],
)
def test_scenarios_in_a_row_break_nothing(
    tmp_path: Path, scenarios: list[LiveScenario], setting: Setting
) -> None:
    """The same store lives through one fault after the other, and keeps every promise."""
    assert len(scenarios) > 5

    def act(scene: Scene) -> None:
        for scenario in scenarios:
            scenario.act(scene)
            assert held(scene.tally), scenario.setting.fault

    tally = Tally()
    play(plan(tmp_path, "fold"), tally, "fold", setting, act)
    assert held(tally)
    assert tally.stores["fold"].operations > 10 * len(scenarios)


@pytest.mark.parametrize("kind", SHOWN_KINDS[1:])
def test_the_worker_of_each_kind_dies_in_vain(tmp_path: Path, kind: StoreKind) -> None:
    """Each kind of store keeps its promises through the deaths of its workers."""
    tally = Tally()
    attempt(SCENARIOS[0], plan(tmp_path, kind), tally, kind)
    assert held(tally)
    assert len(tally.recovery_ms) == worker_faults.ROUNDS


@pytest.mark.parametrize(
    ("drill", "fault", "count"),
    [
        (
            LiveDrill("time", [wall_clock.SCENARIO]),
            "wall clock jumps",
            lambda t: t.stores["fold"].clock_jumps,
        ),
        (
            LiveDrill("errors", limits.SCENARIOS),
            "RLIMIT_FSIZE",
            lambda t: t.stores["fold"].errors_injected,
        ),
        (LiveDrill("kill", [kernel.SCENARIO]), "file calls compared with strace", lambda t: 1),
        (
            LiveDrill("kill", [kernel_kills.SCENARIO]),
            "process killed at each call",
            lambda t: t.stores["fold"].kill_points,
        ),
        (SoakDrill(), "", lambda t: len(t.timeline)),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "run") else "",
)
def test_each_other_drill_breaks_nothing(
    tmp_path: Path, drill: Drill, fault: str, count: Callable[[Tally], int]
) -> None:
    """Clock jumps, real limits, the comparison with the kernel's list, and a short soak."""
    tally = Tally()
    until = time.monotonic() + 6 if drill.fault == "soak" else None
    drill.run(plan(tmp_path, "fold"), tally, Clock(until), nobody)
    assert held(tally)
    assert fault in tally.faults or tally.not_covered or drill.fault == "soak"
    assert count(tally) > 0


def test_what_there_is_no_time_for_is_not_claimed(tmp_path: Path) -> None:
    """With no time at all nothing is tried, and everything is listed as not covered."""
    tally = Tally()
    over = Clock(time.monotonic() - 1)
    every = (*SCENARIOS, *limits.SCENARIOS, wall_clock.SCENARIO, kernel.SCENARIO)
    for drill in (LiveDrill("processes", every), SoakDrill()):
        drill.run(plan(tmp_path, "fold"), tally, over, nobody)
    assert tally.faults == {}
    for scenario in every:
        assert any(text.startswith(scenario.setting.fault) for text in tally.not_covered)


def test_every_scenario_comes_once_before_any_comes_again() -> None:
    """With little time each scenario is tried on one kind of store, and each kind is tried."""
    tries = in_turns(SCENARIOS, STORES)
    first = tries[: len(SCENARIOS)]
    assert [scenario for scenario, _ in first] == list(SCENARIOS)
    assert {kind for _, kind in first} == set(STORES)
    assert len(set(tries)) == len(tries) == sum(len(scenario.kinds) for scenario in SCENARIOS)


# --- that a drill tells what is broken -----------------------------------------------------------


def staged(tmp_path: Path, act: Callable[[Scene], None], *, clients: int = CLIENTS) -> Tally:
    """A scene in which something is done that the product never does."""
    tally = Tally()
    play(plan(tmp_path, "fold"), tally, "fold", Setting("staged", clients=clients), act)
    return tally


def test_a_lost_write_is_told(tmp_path: Path) -> None:
    """A log that is set back to an earlier state under its store: acknowledged writes are lost."""

    def set_back(scene: Scene) -> None:
        scene.crowd.got_on()
        log = Path(scene.directory, f"{NAME}.snap")
        early = log.read_bytes()
        scene.crowd.got_on(20)
        scene.leave()
        log.write_bytes(early)
        for beside in log.parent.glob(f"{NAME}.snap.*"):
            beside.unlink()

    tally = staged(tmp_path, set_back)
    assert tally.lost_acknowledged > 0
    failure = tally.failures[0]
    assert failure.replay == "holdfast drill --replay 'live fold staged 7'"
    assert 2 <= len(failure.history) <= 6, "the write, who knew of it, who misses it, little else"
    assert failure.state is not None
    assert Path(failure.state, "data", f"{NAME}.snap").exists(), "its files are kept"


def test_an_invented_key_is_told(tmp_path: Path) -> None:
    """A value that no client wrote is a wrong answer."""

    def invent(scene: Scene) -> None:
        scene.leave()
        with holdfast.open(scene.directory) as engine:
            engine.fold(NAME).apply([holdfast.Put("0/0", b"mine ")], holdfast.Cursor.none())

    assert staged(tmp_path, invent).wrong_answers > 0


def test_a_process_that_is_left_is_told(tmp_path: Path) -> None:
    """An engine that is still open when nobody should be there counts as leaked processes."""
    kept: list[holdfast.Engine] = []

    def keep(scene: Scene) -> None:
        kept.append(holdfast.open(scene.directory))
        kept[0].fold(NAME)

    tally = staged(tmp_path, keep, clients=0)
    kept[0].close()
    assert tally.leaked_processes >= 2
    assert tally.failures[0].promise == NOTHING_LEFT


@pytest.mark.parametrize(
    ("error", "promise"),
    [(Stuck("no answer"), TYPED), (holdfast.StoreFailed("given up"), ANSWERED)],
)
def test_an_error_on_the_stage_is_told(tmp_path: Path, error: Exception, promise: str) -> None:
    """A call that fails or never ends in a drill is a broken promise, no defect of it."""

    def fail(scene: Scene) -> None:
        raise error

    (failure,) = staged(tmp_path, fail, clients=0).failures
    assert (failure.promise, str(error) in failure.detail) == (promise, True)


def test_what_a_kill_by_the_kernel_breaks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that answers before it has written has lost something when the kernel kills it."""
    if kernel.no_strace() is not None:
        pytest.skip("there is no strace")
    work = kernel_kills.work

    def hasty(
        subject: Subject, operations: Sequence[str], answered: Callable[[], object] = lambda: None
    ) -> None:
        answered()
        left = iter(operations[1:])
        work(subject, operations, lambda: next(left, None) and answered())

    monkeypatch.setattr(kernel_kills, "work", hasty)
    tally = Tally()
    attempt(kernel_kills.SCENARIO, plan(tmp_path, "fold"), tally, "fold")
    assert tally.lost_acknowledged + tally.wrong_answers == 1
    (failure,) = tally.failures
    assert "killed at the" in failure.detail
    assert failure.replay.endswith("'live fold process-killed-at-each-call 7'")


# --- the kernel's list ---------------------------------------------------------------------------

TRACE = """
11 openat(AT_FDCWD</>, "/d/s.snap", O_RDWR|O_CREAT|O_CLOEXEC, 0666) = 3</d/s.snap>
11 pwrite64(3</d/s.snap>, ""..., 10, 0) = 10
12 pwrite64(4</d/t.snap>, ""..., 10, 0 <unfinished ...>
11 fdatasync(3</d/s.snap>) = 0
12 <... pwrite64 resumed>) = 10
11 openat(AT_FDCWD</>, "/d/s.snap", O_RDONLY|O_CLOEXEC) = 5</d/s.snap>
11 mmap(NULL, 10, PROT_READ, MAP_SHARED, 5</d/s.snap>, 0) = 0x7f
11 rename("/d/s.snap.tmp", "/d/s.snap") = 0
11 unlink("/d/s.snap.index") = -1 ENOENT (No such file or directory)
11 pwrite64(9</d/.holdfast/supervisor.lock>, ""..., 10, 0) = 10
11 write(2</dev/null>, ""..., 10) = 10
11 ftruncate(3</d/s.snap (deleted)>, 5) = 0
13 mmap(NULL, 10, PROT_READ|PROT_WRITE, MAP_SHARED, 5</d/s.snap>, 0) = 0x7f
13 write(3</d/s.snap>, ""..., 10) = 10
"""


def test_the_kernel_s_list_is_read(tmp_path: Path) -> None:
    """What changes a store's file is taken from a trace, thread by thread, and nothing else."""
    assert seen(TRACE.splitlines(), "/d") == {
        "11": [
            "create /d/s.snap", "write /d/s.snap", "sync /d/s.snap", "rename /d/s.snap",
            "remove /d/s.snap.index", "truncate /d/s.snap",
        ],
        "12": ["write /d/t.snap"],
        "13": ["map for writing /d/s.snap", "write /d/s.snap"],
    }  # fmt: skip


def test_a_call_past_the_file_layer_is_told() -> None:
    """A call that one list has and the other has not is told, but a killed thread's last."""
    layer = {"1": ["write a", "sync a"]}
    assert differences(layer, {"1": ["write a", "sync a"]}) == []
    assert differences(layer, {"1": ["write a"]}) == [], "it was killed before it made the call"
    copied = {"1": ["write a", "copy mode a", "copy mode a"]}
    assert differences(copied, {"1": ["write a"]}) == [], "before both calls of a copied mode"
    assert differences(copied, {"1": []})
    assert differences(layer, {"1": ["write a", "write a", "sync a"]})
    assert differences(layer, {"1": ["write a", "sync a", "write b"]})
    assert differences(layer, {"1": []})
    assert differences(layer, {"1": ["write a", "sync a"], "2": ["write a"]})


def test_what_grows_in_a_soak_is_told() -> None:
    """More descriptors, memory or files in the last third than in the first are told, not fewer."""

    def moments(name: str = "", first: int = 0, last: int = 0) -> list[Moment]:
        """Thirty moments, in which one figure goes from a value to another."""
        usual = Moment(1.0, 1, 0, 1.0, 1.0, 0, 0, 100, 100.0, 1.0)
        values = [first + (last - first) * number // 29 for number in range(30)]
        return [structs.replace(usual, **({name: value} if name else {})) for value in values]

    assert list(grown(moments(), 1)) == []
    assert list(grown(moments("descriptors", 100, 50), 1)) == []
    for name in ("descriptors", "memory_mib", "disk_mib"):
        (told,) = grown(moments(name, 100, 400), 1)
        assert told.startswith(f"{name} grew from 1")
