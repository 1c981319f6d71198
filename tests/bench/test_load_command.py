"""`holdfast load` from end to end: what it prints, writes, refuses and leaves."""

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

import holdfast
from holdfast.bench.drill.serving import PATIENCE_S, left_after
from holdfast.bench.load import outcome as outcomes
from holdfast.bench.load.killing import Killer
from holdfast.bench.load.live import Live
from holdfast.bench.load.profile import OPERATIONS
from tests.engine.cli_runner import PROGRAM, Cli, Result

pytestmark = pytest.mark.usefixtures("quiet")

_DOCS = Path(__file__).parents[2] / "docs" / "load.md"
_PROFILE = """
description = "a few keys"
rate = 100
[[stores]]
kind = "fold"
keys = 40
batch = 4
operations = { apply = 1, get = 2 }
[[stores]]
kind = "warm"
keys = 8
batch = 4
operations = { append = 1, latest = 1 }
"""


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """The command line, run in this process."""
    return Cli(monkeypatch, capsys)


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A profile of one's own, in the current directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.toml"
    path.write_text(_PROFILE)
    return path


def load(cli: Cli, profile: Path, *options: Any) -> Result:
    """A run with this profile."""
    return cli("load", "--profile", profile, *map(str, options))


def documented() -> set[str]:
    """The keys that the documentation names."""
    return set(re.findall(r"`(\w+)`", _DOCS.read_text()))


def structs() -> list[type[msgspec.Struct]]:
    """Everything that an outcome is made of."""
    found = [value for value in vars(outcomes).values() if isinstance(value, type)]
    return [value for value in found if issubclass(value, msgspec.Struct)]


def test_the_outcome_is_one_json_object_with_documented_keys(cli: Cli, profile: Path) -> None:
    """With --json standard output is one object, whose keys are those of the documentation; the
    exit code is 0, the page is there, and nothing else is."""
    ran = load(
        cli, profile, "--seconds", 1, "--warm-up", 0.1, "--clients", 3,
        "--processes", 2, "--kill-every", 0.7, "--seed", 7, "--report", "page.html", "--json",
    )  # fmt: skip
    assert ran.code == 0
    assert ran.json["ok"] is True
    assert (ran.json["errors"], ran.json["wrong_reads"], ran.json["read_back"]) == (0, 0, 48)
    assert ran.json["calls"] == sum(one["count"] for one in ran.json["operations"]) > 0
    settings = {"profile": "mine", "clients": 3, "processes": 2, "seed": 7, "rate": 100.0}
    assert ran.json["settings"].items() >= settings.items()
    msgspec.convert(
        {key: ran.json[key] for key in ran.json if key not in ("ok", "calls")}, outcomes.Outcome
    )
    assert "mine" in Path("page.html").read_text()
    assert sorted(os.listdir()) == ["mine.toml", "page.html"]
    assert set(ran.json) <= documented()


def test_every_key_is_documented() -> None:
    """Each field of what an outcome holds, and each operation, is named in the documentation."""
    fields = {name for struct in structs() for name in struct.__struct_fields__}
    assert len(structs()) == 11
    assert fields - documented() == set()
    assert {name for names in OPERATIONS.values() for name in names} - documented() == set()


def test_the_summary_is_text(cli: Cli, profile: Path) -> None:
    """Without --json the figures of every operation are printed, with the durability that was
    asked for, and of the stores that were chosen only."""
    ran = load(
        cli, profile, "--seconds", 0.5, "--warm-up", 0, "--clients", 2,
        "--stores", "warm", "--durability", "never", "--closed",
    )  # fmt: skip
    assert ran.code == 0
    assert "closed loop, durability never" in ran.out
    assert "ms from the call " in ran.out
    assert "0 errors, 0 wrong reads, 8 keys read back" in ran.out
    assert re.search(r"^warm append +\d", ran.out, re.MULTILINE)
    assert "fold" not in ran.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--clients", 0], "--clients 0 is not between 1 and 1024"),
        (["--processes", 9], "--processes 9 is not between 1 and 8"),
        (["--rate", 0], "--rate 0 is not between"),
        (["--rate", "nan"], "--rate nan is not between"),
        (["--seconds", -1], "--seconds -1 is not between"),
        (["--seconds", "inf"], "--seconds inf is not between"),
        (["--warm-up", -1], "--warm-up -1 is not between"),
        (["--kill-every", 0], "--kill-every 0 is not between"),
        (["--find-limit", "--objective-ms", 0], "--objective-ms 0 is not between"),
        (["--objective-ms", 5], "--objective-ms is for --find-limit only"),
        (["--kill-every", 9, "--seconds", 9], "--kill-every 9 kills nothing in the 9 seconds"),
        (["--kill-every", 10, "--find-limit"], "--kill-every 10 kills nothing in the 10 seconds"),
        (["--seed", -1], "--seed -1 is not between"),
        (["--closed", "--rate", 5], "--closed and --rate exclude each other"),
        (["--closed", "--find-limit"], "--closed and --find-limit exclude each other"),
        (["--durability", "maybe"], "--durability 'maybe' is none of always, interval, never"),
        (["--stores", "fold,tree"], "--stores 'tree' is none of fold, vectors"),
        (["--stores", "index"], "'mine' has stores of fold, warm only"),
        (["--profile", "warp"], "there is no profile 'warp'"),
        (["--clients", 9], "--clients 9: each writes keys of its own, and warm"),
        (["--report", "none/page.html"], "there is no directory for"),
        (["--report", "."], "is a directory"),
    ],
)
def test_bad_options_are_refused_before_anything_is_done(
    arguments: list[Any], said: str, cli: Cli, profile: Path
) -> None:
    """An option out of its range, unknown or at odds with another gets an error that names it and
    its value, and no file is made."""
    ran = load(cli, profile, *arguments, "--json")
    assert ran.code == 4
    assert said in ran.json["error"]["message"]
    assert os.listdir() == ["mine.toml"]


def test_a_wrong_read_is_exit_code_1(
    cli: Cli, profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a store loses what it has acknowledged, here by a hand from outside, the exit code is 1
    and the texts say what was wrong."""

    def harm(killer: Killer, name: str) -> None:
        store = killer._engine.fold("load-fold", create=False)
        keys = [entry.key for entry in store.range()]
        store.apply([holdfast.Delete(key) for key in keys], store.cursor())

    monkeypatch.setattr(Killer, "_kill", harm)
    ran = load(
        cli, profile, "--stores", "fold", "--seconds", 1, "--warm-up", 0,
        "--clients", 2, "--kill-every", 0.3, "--json",
    )  # fmt: skip
    assert ran.code == 1
    assert ran.json["ok"] is False
    assert ran.json["wrong_reads"] > 0
    assert any("is not there" in text for text in ran.json["texts"])


def test_a_report_is_written_although_clients_were_lost(
    cli: Cli, profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a process of clients is killed the exit code is 1, and JSON and page are there and say
    which process, by which signal."""
    shown: list[float] = []

    def kill(live: Live, moment: outcomes.Moment, operations: object) -> None:
        shown.append(moment.second)
        if len(shown) == 1:
            (pid,) = [one.pid for one in moment.processes if one.name == "clients 2"]
            os.kill(pid, signal.SIGKILL)

    monkeypatch.setattr(Live, "show", kill)
    ran = load(
        cli, profile, "--seconds", 2.5, "--warm-up", 0, "--clients", 2, "--processes", 2,
        "--report", "page.html", "--json",
    )  # fmt: skip
    assert ran.code == 1
    assert (ran.json["ok"], ran.json["errors"], ran.json["wrong_reads"]) == (False, 0, 0)
    (lost,) = ran.json["lost"]
    assert (lost["process"], lost["clients"]) == ("clients 2", 1)
    page = Path("page.html").read_text()
    assert "1 of 2 processes of clients ended before their time" in page
    assert f"(process {lost['pid']}, with 1 of the clients) was killed by SIGKILL" in page


def test_what_a_killed_run_left_is_removed_by_the_next(cli: Cli, profile: Path) -> None:
    """A load test that is killed leaves its stores; the next one in the same place says that it
    removes them, and does."""
    arguments = ["load", "--profile", str(profile), "--seconds", "3600", "--warm-up", "0"]
    with subprocess.Popen([*PROGRAM, *arguments], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "3600 s" in line:
                break
        process.kill()
    (left,) = profile.parent.glob(".load-*")
    assert not left_after(left, PATIENCE_S)
    ran = load(cli, profile, "--seconds", 0.2, "--warm-up", 0, "--json")
    assert ran.code == 0
    assert f"removed {left.name}, which a load test that was killed had left here" in ran.err
    assert os.listdir() == ["mine.toml"]


def test_ctrl_c_ends_it_with_a_report(profile: Path) -> None:
    """Ctrl-C in the middle of an hour ends the run at once, with the figures so far, exit code 0,
    and nothing left behind."""
    arguments = ["load", "--profile", str(profile), "--seconds", "3600", "--warm-up", "0"]
    with subprocess.Popen(
        [*PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "3600 s" in line:
                break
        process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "0 errors, 0 wrong reads, 48 keys read back at the end" in out
    assert ", interrupted" in out
    assert not left_after(profile.parent)
    assert os.listdir() == ["mine.toml"]
