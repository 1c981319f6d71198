"""What a load test says while it runs: a table, lines, or nothing."""

import io
import re

import msgspec
import pytest
from rich.console import Console

from holdfast.bench.load import profile
from holdfast.bench.load.live import Live
from holdfast.bench.load.outcome import Disk, Moment, Process
from holdfast.bench.load.profile import OPERATIONS
from holdfast.bench.load.session import Wish
from holdfast.bench.load.timings import Recent

MIB = 1 << 20
MOMENT = Moment(
    12.0, {"fold": 1234, "warm": 5}, 2, 3, 1.25, 45.67, 891.2, 7, 11, 0.34, 4, ["fold"],
    [Process("fold", 1, 0.25, 17 * MIB, 60 * MIB, 21), Process("load test", 2, 0.5, MIB, MIB, 9)],
    [Disk("fold", 5 * MIB, MIB)],
)  # fmt: skip
OPERATIONS_SHOWN = [Recent("fold.get", 1200, 0.5, 3.25, 77.125)]


def wish() -> Wish:
    """A minute of the mixed profile."""
    return Wish(profile.load("mixed"), 4, 1, 100.0, 60.0, 1.0, "always", None, 1, False)


def many() -> tuple[Moment, list[Recent]]:
    """A moment of all kinds of store, with figures as wide as they get, and all operations."""
    names = ["supervisor", *OPERATIONS, "load test", *(f"clients {n}" for n in range(1, 10))]
    processes = [Process(name, pid, 1.5, 1234 * MIB, 0, 1000) for pid, name in enumerate(names)]
    disks = [Disk(kind, 98765 * MIB, MIB) for kind in OPERATIONS]
    labels = [f"{kind}.{name}" for kind in OPERATIONS for name in sorted(OPERATIONS[kind])]
    recent = [Recent(label, 1200, 0.5, n + 0.25, 3277.125) for n, label in enumerate(labels)]
    calls = dict.fromkeys(OPERATIONS, 123456)
    moment = msgspec.structs.replace(MOMENT, stores=calls, processes=processes, disks=disks)
    return moment, recent


def on_terminal(patch: pytest.MonkeyPatch, width: int, height: int) -> tuple[Live, io.StringIO]:
    """What is shown on a terminal of this size."""
    found = io.StringIO()
    made = Console(
        file=found, force_terminal=True, width=width, height=height, color_system=None
    )  # fmt: skip
    patch.setattr("holdfast.bench.load.live.Console", lambda *, stderr: made)
    return Live(wish(), quiet=False), found


def last_screen(found: io.StringIO) -> list[str]:
    """The lines of what was shown last, without the codes that move the cursor."""
    whole = found.getvalue().replace("\N{NO-BREAK SPACE}", " ")
    return re.split(r"(?:\x1b\[[0-9?]*[A-Za-z]|\r)+", whole.rstrip("\n\r"))[-1].splitlines()


@pytest.mark.parametrize("size", [(80, 24), (100, 30), (200, 50)], ids=str)
def test_nothing_is_cut_off_on_a_terminal(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal of a usual size every figure of all, of each process and of the operations that
    are shown is there in full, lines and rows fit, and of operations that do not fit the slowest
    are kept and the others counted."""
    width, height = size
    live, found = on_terminal(monkeypatch, width, height)
    moment, recent = many()
    with live:
        live.say("2 s of warm-up, then 60 s")
        live.show(moment, recent)
        screen = last_screen(found)
    text = "\n".join(screen)
    assert max(map(len, screen)) <= width
    assert len(screen) < height
    assert "…" not in text
    for word in ("mixed, 12 of 60 s; Ctrl-C", "p99 45.67 ms", "wrong reads 3", "9 of clients",
                 "1350%", "11106.0 MiB", "9000", "98765.0 MiB", "descriptors", "slowest ms",
                 *(f"{kind} " for kind in OPERATIONS), "load test"):  # fmt: skip
        assert word in text, word
    shown = [one for one in recent if one.label in text]
    assert shown == recent[len(recent) - len(shown) :]
    assert shown == recent or f"{len(recent) - len(shown)} faster ones" in text
    assert len(shown) >= 8
    assert all(f"{one.p99_ms:.2f}  {one.max_ms:10,.2f}" in text for one in shown)


def test_errors_are_those_of_the_whole_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure of an earlier second is still seen in a later one."""
    live, found = on_terminal(monkeypatch, 80, 24)
    with live:
        live.show(MOMENT, OPERATIONS_SHOWN)
        live.show(msgspec.structs.replace(MOMENT, errors=0), OPERATIONS_SHOWN)
        text = "\n".join(last_screen(found))
    assert "errors 2  wrong reads 6" in text


def test_a_tiny_terminal_has_what_matters_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where not even the processes fit, the figures of all come first."""
    live, found = on_terminal(monkeypatch, 80, 9)
    with live:
        live.show(*many())
        text = "\n".join(last_screen(found))
    assert "wrong reads 3" in text


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> io.StringIO:
    """All that is said, to a terminal if the test asks for one."""
    found = io.StringIO()
    terminal: bool = request.param

    def console(*, stderr: bool) -> Console:
        assert stderr
        return Console(file=found, force_terminal=terminal, width=100, height=40)

    monkeypatch.setattr("holdfast.bench.load.live.Console", console)
    return found


@pytest.mark.parametrize("said", [False], indirect=True)
def test_a_file_has_a_line_a_moment(said: io.StringIO) -> None:
    """Without a terminal each moment is one plain line, however long it is."""
    with Live(wish(), quiet=False) as live:
        live.say("writing [b]keys")
        live.show(MOMENT, OPERATIONS_SHOWN)
        live.show(MOMENT, OPERATIONS_SHOWN)
    first, *rest = said.getvalue().splitlines()
    assert first == "writing [b]keys"
    assert "\x1b" not in said.getvalue()
    assert len(rest) == 2
    for word in ("12 s: calls 1,239", "p99 45.67 ms", "under way 7", "overdue 11, 0.34 s late",
                 "restarts 4", "errors 2", "wrong reads 3"):  # fmt: skip
        assert word in rest[0], word


@pytest.mark.parametrize("said", [True, False], indirect=True)
def test_quiet_is_quiet(said: io.StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    """With --json nothing is said at all, on a terminal or not."""
    with Live(wish(), quiet=True) as live:
        live.say("starting")
        live.show(MOMENT, OPERATIONS_SHOWN)
    assert said.getvalue() == ""
    assert capsys.readouterr() == ("", "")
