"""What a load test says while it runs: a table, lines, or nothing."""

import io

import pytest
from rich.console import Console

from holdfast.bench.load import profile
from holdfast.bench.load.live import Live
from holdfast.bench.load.outcome import Disk, Moment, Process
from holdfast.bench.load.session import Wish
from holdfast.bench.load.timings import Recent

MIB = 1 << 20
MOMENT = Moment(
    12.0, {"fold": 1234, "warm": 5}, 2, 3, 1.25, 45.67, 891.2, 7, 11, 0.34, 4, ["fold"],
    [Process("fold", 1, 0.25, 17 * MIB, 60 * MIB, 21), Process("load test", 2, 0.5, MIB, MIB, 9)],
    [Disk("fold", 5 * MIB, MIB)],
)  # fmt: skip
OPERATIONS = [Recent("fold.get", 1200, 0.5, 3.25, 77.125)]


def wish() -> Wish:
    """A minute of the mixed profile."""
    return Wish(profile.load("mixed"), 4, 1, 100.0, 60.0, 1.0, "always", None, 1, False)


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


@pytest.mark.parametrize("said", [True], indirect=True)
def test_a_terminal_has_a_table(said: io.StringIO) -> None:
    """Elapsed and whole time, each process's figures, and those of all, with their units."""
    with Live(wish(), quiet=False) as live:
        live.say("2 s of warm-up, then [b]60 s")
        live.show(MOMENT, OPERATIONS)
    text = said.getvalue()
    for word in ("mixed, 12 of 60 s", "fold", "1,234", "25%", "17.0 MiB", "21", "5.0 MiB",
                 "load test", "1,239", "1.25 ms", "45.67 ms", "891.2 ms", "11, 0.34 s late",
                 "restarts", "wrong reads", "fold.get", "1,200", "0.50", "3.25", "77.12",
                 "then [b]60 s"):  # fmt: skip
        assert word in text, word


@pytest.mark.parametrize("said", [False], indirect=True)
def test_a_file_has_a_line_a_moment(said: io.StringIO) -> None:
    """Without a terminal each moment is one plain line, however long it is."""
    with Live(wish(), quiet=False) as live:
        live.say("writing [b]keys")
        live.show(MOMENT, OPERATIONS)
        live.show(MOMENT, OPERATIONS)
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
        live.show(MOMENT, OPERATIONS)
    assert said.getvalue() == ""
    assert capsys.readouterr() == ("", "")
