"""`holdfast drill` from end to end: what it prints, writes, leaves, refuses and notices."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from msgspec import structs

from holdfast.bench.drill import command, page, report, run, verdicts
from holdfast.bench.drill import replay as replaying
from holdfast.bench.drill.kept import settled
from holdfast.bench.drill.plan import FAULTS, STORES, Clock, Plan
from holdfast.bench.drill.run import Done, Outcome
from holdfast.bench.drill.scene import LOST
from holdfast.bench.drill.tally import Counts, Failure, Moment, Tally
from tests.bench.drilling import COUNTS, nobody, staged
from tests.bench.pages import counted, read
from tests.engine.cli_runner import PROGRAM, Cli

pytestmark = pytest.mark.usefixtures("quiet")

DOCUMENTED = {
    "seed", "seconds", "stores", "lost_acknowledged", "wrong_answers", "leaked_processes",
    "recovery_ms", "failures",
}  # fmt: skip


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """The command line, run in this process."""
    return Cli(monkeypatch, capsys)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where runs keep their files."""
    directory = tmp_path / "scratch"
    directory.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(directory))
    return directory


def plan_in(tmp_path: Path) -> Plan:
    """Settings of a run that finds nothing by itself."""
    return Plan(seed=5, work=str(tmp_path))


def broken(promise: str = LOST) -> Failure:
    """A promise that did not hold."""
    replay = "holdfast drill --replay 'fold always - kill@0'"
    return Failure(promise, "fold", "kill@0", "lost <b>&", 5, ["put-small"], "/kept", replay)


# --- the command ---------------------------------------------------------------------------------


def test_a_short_run_holds_and_leaves_nothing(cli: Cli, scratch: Path, tmp_path: Path) -> None:
    """Two drills on one store: exit code 0, the documented keys, counts, a page, an empty scratch
    directory."""
    where = tmp_path / "report.html"
    done = cli(
        "drill", "--stores", "fold", "--faults", "kill,crash,damage,errors", "--seconds", "12",
        "--seed", "3", "--report", where, "--json",
    )  # fmt: skip
    found = done.json
    assert (done.code, found["failures"], found["ok"]) == (0, [], True)
    assert found.keys() >= DOCUMENTED
    assert found["stores"]["fold"].keys() >= COUNTS
    assert all(found["stores"]["fold"][name] > 0 for name in COUNTS)
    assert found["recovery_ms"].keys() >= {"p50", "p99", "max"}
    assert found["seed"] == 3
    assert "warm: not asked for" in found["not_covered"]
    assert "seed 3" in where.read_text(encoding="utf-8")
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--stores", "folds"], "--stores 'folds' is none of fold, "),
        (["--faults", "crash,flood"], "--faults 'flood' is none of crash, "),
        (["--seconds", "0"], "--seconds 0.0 is not more than 0"),
        (["--seconds", "nan"], "--seconds nan is not more than 0"),
        (["--exhaustive", "--seconds", "5"], "exclude each other"),
        (["--report", "/nowhere/at/all.html"], "there is no directory for"),
        (["--replay", "fold always put-small melt@1"], "is no fault"),
        (["--replay", "fold always put-small kill@17", "--seed", "1"], "no other option"),
        (["--replay", "fold always put-small kill@99999"], "there is no call 99999"),
        (["--replay", "fold always put-small fail@99999:EIO"], "calls fails so"),
        (["--replay", "fold always put-small damage=drill.snap:flip=99999.1"], "not within"),
        (["--replay", "fold always put-small damage=drill.snap:cut=99999"], "not within"),
        (["--replay", "fold always put-small damage=drill.snap:stale=99999"], "no call 99999"),
        (["--replay", "fold always put-small damage=drill.snap:foreign=x"], "no file 'x'"),
        (["--replay", "fold always put-small damage=other:gone"], "no file 'other'"),
        (["/nowhere/at/all"], "is not a directory"),
    ],
)
def test_what_cannot_be_done_is_refused(
    cli: Cli, scratch: Path, arguments: list[str], said: str
) -> None:
    """Bad settings give exit code 4 and one line that names the value, before anything is done."""
    done = cli("drill", *arguments)
    assert (done.code, done.out) == (4, "")
    assert said in done.err
    assert len(done.err.splitlines()) == 1
    assert not [path for path in scratch.rglob("*") if path.is_file()]


def test_a_scenario_is_replayed(cli: Cli, scratch: Path) -> None:
    """A scenario that holds says so and exits with 0."""
    done = cli("drill", "--replay", "fold always put-small kill@17", "--json")
    assert (done.code, done.json["failure"]) == (0, None)
    assert cli("drill", "--replay", "fold always put-small kill@17").out.startswith("held: fold")
    assert list(scratch.iterdir()) == []


def test_a_scenario_that_fails_again_says_so(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scenario that is still broken exits with 1 and prints everything about it."""
    monkeypatch.setattr(replaying, "replay", lambda text, work: broken())
    done = cli("drill", "--replay", "fold always put-small kill@17")
    assert done.code == 1
    for text in (LOST, "put-small", "lost <b>&", "/kept", "seed 5", "--replay 'fold always -"):
        assert text in done.out
    assert cli("drill", "--replay", "fold always - kill@1", "--json").json["failure"]["seed"] == 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_with_a_report(tmp_path: Path, number: signal.Signals) -> None:
    """In the middle of a run: the report of what was covered, exit code 0, as nothing broke."""
    process = subprocess.Popen(
        [*PROGRAM, "drill", "--stores", "fold", "--seconds", "600", "--faults", "kill,processes"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert process.stderr is not None
    assert "kill: fold" in process.stderr.readline()
    process.send_signal(number)
    out, _ = process.communicate(timeout=25)
    assert process.returncode == 0
    assert "interrupted" in out
    assert list(tmp_path.iterdir()) == []


def test_a_scenario_on_a_real_engine_is_replayed(cli: Cli, scratch: Path) -> None:
    """What befell a real engine can be done again, too, and leaves nothing when it holds."""
    text = "live fold worker-SIGTERM 7"
    assert cli("drill", "--replay", text).out == f"held: {text}\n"
    assert list(scratch.iterdir()) == []


def test_what_failures_keep_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of failures are moved to where the run was started, and the report says where."""
    work, here = tmp_path / "work", tmp_path / "here"
    state = work / "fold-1" / "data"
    state.mkdir(parents=True)
    here.mkdir()
    (state / "s.snap").write_bytes(b"kept")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    monkeypatch.chdir(state)
    listener.bind("control.sock")
    listener.close()
    monkeypatch.chdir(here)
    failing = structs.replace(broken(), state=str(work / "fold-1"))
    first, second, other = settled([failing, failing, broken()], str(work))
    assert first.state is not None
    assert Path(first.state, "data", "s.snap").read_bytes() == b"kept"
    assert Path(first.state).parent.parent == here
    assert (second.state, other.state) == (first.state, "/kept")
    assert not work.exists()
    assert settled([], str(tmp_path / "nothing")) == []
    assert len(list(here.iterdir())) == 1


def test_what_failures_keep_stays_where_it_is_if_it_must(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is removed when there is no place to move it to."""
    state = tmp_path / "work" / "fold-1"
    state.mkdir(parents=True)
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.setattr("os.getcwd", lambda: str(gone / "nowhere"))
    (found,) = settled([structs.replace(broken(), state=str(state))], str(tmp_path / "work"))
    assert found.state == str(state)
    assert state.is_dir()


# --- a run ---------------------------------------------------------------------------------------


def test_time_that_is_left_goes_to_those_behind(tmp_path: Path) -> None:
    """A drill that ends early leaves its time to the others; without a time they have no end."""
    seen: list[float | None] = []

    def look(tally: Tally, clock: Clock) -> None:
        seen.append(None if clock.until is None else clock.until - time.monotonic())

    staged(plan_in(tmp_path), look, look, seconds=10.0)
    assert seen[0] == pytest.approx(5.0, abs=1.0)
    assert seen[1] == pytest.approx(10.0, abs=1.0)
    staged(plan_in(tmp_path), look, seconds=None)
    assert seen[2] is None


def test_a_broken_drill_is_told(tmp_path: Path) -> None:
    """An exception in a drill is a failure of the run; the next drill is run all the same."""

    def fail(tally: Tally, clock: Clock) -> None:
        raise ZeroDivisionError("of the drill")

    outcome = staged(plan_in(tmp_path), fail, lambda tally, clock: tally.fault("x"))
    assert not outcome.ok
    assert outcome.tally.faults == {"x": 1}
    (failure,) = outcome.tally.failures
    assert (failure.promise, failure.store) == (run.FINISHES, "")
    assert "of the drill" in failure.detail


def test_what_breaks_after_an_interruption_does_not_count(tmp_path: Path) -> None:
    """What was found before Ctrl-C counts; what the dying drill of an engine finds after it does
    not, since that was interrupted, too; and the drills behind it are not covered."""

    def interrupted(tally: Tally, clock: Clock) -> None:
        tally.failures.append(broken())
        tally.lost_acknowledged += 1
        os.kill(os.getpid(), signal.SIGINT)
        assert clock.is_over()
        tally.failures.append(broken())
        tally.lost_acknowledged += 1
        tally.fault("x")

    former = signal.getsignal(signal.SIGINT)
    outcome = staged(plan_in(tmp_path), interrupted, interrupted, fault="soak")
    assert outcome.interrupted
    assert (len(outcome.tally.failures), outcome.tally.lost_acknowledged) == (1, 1)
    in_memory = staged(plan_in(tmp_path), interrupted, fault="damage")
    assert in_memory.tally.lost_acknowledged == 2
    assert "part 1: interrupted before it began" in outcome.tally.not_covered
    assert signal.getsignal(signal.SIGINT) is former


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    """Whoever presses twice does not want the report."""

    def twice(tally: Tally, clock: Clock) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        staged(plan_in(tmp_path), twice)


def test_a_drill_that_never_ends_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A drill that waits for what never comes is ended, and that is a failure."""
    monkeypatch.setattr(run, "OVERDUE_S", 0.2)
    never = threading.Event()
    outcome = staged(plan_in(tmp_path), lambda tally, clock: never.wait(), seconds=0.1)
    (failure,) = outcome.tally.failures
    assert "had not returned" in failure.detail


@pytest.mark.parametrize("field", ["lost_acknowledged", "wrong_answers", "leaked_processes"])
def test_a_count_alone_breaks_a_run(tmp_path: Path, field: str) -> None:
    """A run is not well because its failures were not kept."""
    outcome = Outcome(plan_in(tmp_path), parts=[Done("part", "kill", 1.0, 1)])
    assert outcome.ok
    setattr(outcome.tally, field, 1)
    assert not outcome.ok


def test_a_run_that_tried_nothing_is_not_held(tmp_path: Path) -> None:
    """Where there was no time for anything, nobody knows whether promises hold."""
    outcome = staged(plan_in(tmp_path), lambda tally, clock: None)
    assert not outcome.ok
    assert report.lines(report.fields(outcome))[-1].endswith("nothing was tried")
    plan = Plan(1, str(tmp_path), ("fold",), frozenset({"damage"}))
    outcome = run.run(plan, 1e-6, nobody)
    assert not outcome.ok
    assert "damage on fold: no time" in outcome.tally.not_covered


def test_every_fault_kind_has_a_drill() -> None:
    """A run without a choice has drills of every kind of fault, and a choice takes only those."""
    plan = Plan(seed=1, work="")
    assert {part.drill.fault for part in run.parts_of(plan)} == set(FAULTS)
    chosen = run.parts_of(Plan(seed=1, work="", faults=frozenset({"soak", "time"})))
    assert [part.drill.fault for part in chosen] == ["time", "soak", "time"]


# --- the report ----------------------------------------------------------------------------------


def rich_outcome(tmp_path: Path) -> Outcome:
    """An outcome in which there is something of everything."""
    outcome = Outcome(plan_in(tmp_path), seconds=12.5)
    tally = outcome.tally
    tally.stores["fold"] = Counts(crash_states=1234, kill_points=5)
    tally.fault("process dead before a call", 5)
    tally.lost_acknowledged = 1
    tally.failures.append(broken())
    tally.failures.append(broken("a promise that nobody has heard of"))
    tally.recovery_ms = [10.0, 20.0, 900.0]
    tally.timeline = [Moment(n, 50, n % 2, 1.0, 9.0 + n, n % 2, n % 2, 40, 90.5, 1.5)
                      for n in range(4)]  # fmt: skip
    tally.not_covered = ["<worker> on the moon: no rocket"]
    outcome.parts.append(Done("kill points", "kill", 2.0, 5))
    return outcome


def test_promises_are_judged(tmp_path: Path) -> None:
    """A promise is broken by its failures, held if faults were tried, else not covered; what is
    broken besides has a line of its own."""
    judged = {one.promise: one for one in verdicts.judge(rich_outcome(tmp_path))}
    assert judged["An acknowledged write is never lost"].verdict == "broken"
    assert judged[
        "Every call is answered, by a result or one of holdfast's own errors"
    ].verdict == ("held")
    assert judged["A death costs latency, not an error"].verdict == "not covered"
    assert judged["No file is touched past the one file layer"].verdict == "not covered"
    assert judged["a promise that nobody has heard of"].verdict == "broken"


def test_the_page_is_whole_and_needs_nothing_else(tmp_path: Path) -> None:
    """Well-formed HTML with charts in it, everything escaped, and no address of anything."""
    reader = read(page.page(rich_outcome(tmp_path)))
    assert counted(reader, "svg") == 7
    for said in ("lost <b>&", "<worker> on the moon", "kept", "1,234", "20.0 ms in the median"):
        assert said in reader.text
    assert reader.text.index("An acknowledged write") < reader.text.index("What was tried")


def test_the_page_of_nothing(tmp_path: Path) -> None:
    """A run that tried nothing has a page that says so."""
    text = page.page(Outcome(plan_in(tmp_path)))
    for said in ("Nothing was tried", "There was no soak", "not-covered", "No process was killed"):
        assert said in text


def test_the_text_says_what_broke(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The report as text has the verdicts, the counts and everything about a failure."""
    command.show(rich_outcome(tmp_path))
    out = capsys.readouterr().out
    for said in ("broken       An acknowledged", "fold: 1,234 crash states, 5 kill points",
                 "recovery: 20.0 ms median", "BROKEN: ", "put-small", "/kept", "--replay",
                 "lost 1, wrong 0, leaked 0; seed 5, 12.5 s", "not covered: 1 things"):  # fmt: skip
        assert said in out


def test_json_is_json(tmp_path: Path) -> None:
    """The report survives JSON, and its percentiles are those of the times."""
    found = report.fields(rich_outcome(tmp_path))
    assert json.loads(json.dumps(found)) == found
    assert found["recovery_ms"] == {"p50": 20.0, "p99": 900.0, "max": 900.0, "count": 3}
    assert report.recovery([]) == {"p50": None, "p99": None, "max": None, "count": 0}
    assert set(STORES) >= found["stores"].keys()  # type: ignore[attr-defined]


def test_the_command_of_a_failure_is_one(tmp_path: Path) -> None:
    """What a failure says to type is a command line that the program takes."""
    words = shlex.split(broken().replay)
    done = subprocess.run(
        [sys.executable, "-m", *words, "--json"], capture_output=True, text=True, check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, json.loads(done.stdout)["failure"]) == (0, None)
