"""Directories of runs: removed at the end, swept up after a kill, never under anybody's feet."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import holdfast
from holdfast.bench.drill.serving import left_after
from holdfast.bench.scratch import scratch, swept

_HOLDER = """
import sys
from holdfast.bench.scratch import scratch
with scratch(".load-", sys.argv[1]) as path:
    open(path + "/file", "w").write("data")
    print(path, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[tuple["subprocess.Popen[str]", Path]]:
    """A process in a directory of its own below ``tmp_path``, and that directory."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def test_a_directory_goes_with_its_run(tmp_path: Path) -> None:
    """It is there for as long as it is needed, and not afterwards, also after an error."""

    def work() -> None:
        with scratch(".load-", str(tmp_path)) as path:
            (Path(path) / "file").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_removed_and_what_is_in_use_is_not(
    holder: tuple["subprocess.Popen[str]", Path], tmp_path: Path
) -> None:
    """A directory stays while the process that made it lives, and is removed, and named, once it
    was killed."""
    process, path = holder
    assert swept(".load-", str(tmp_path)) == []
    assert (path / "file").read_text() == "data"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert swept(".bench-", str(tmp_path)) == []
    assert swept(".load-", str(tmp_path)) == [path.name]
    assert list(tmp_path.iterdir()) == []


def test_a_directory_whose_store_is_still_served_stays(
    holder: tuple["subprocess.Popen[str]", Path], tmp_path: Path
) -> None:
    """When another process still has an engine open below it, it is not removed until that has
    gone."""
    process, path = holder
    with holdfast.open(path / "row"):
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert swept(".load-", str(tmp_path)) == []
    assert not left_after(path / "row")
    assert swept(".load-", str(tmp_path)) == [path.name]


def test_what_is_not_of_a_run_stays(tmp_path: Path) -> None:
    """Directories of the same name without a mark, links to others, and files are not touched."""
    (tmp_path / ".load-balancer").mkdir()
    (tmp_path / ".load-file").touch()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / ".scratch").touch()
    os.symlink(elsewhere, tmp_path / ".load-link")
    assert swept(".load-", str(tmp_path)) == []
    assert sorted(os.listdir(tmp_path)) == [".load-balancer", ".load-file", ".load-link",
                                            "elsewhere"]  # fmt: skip
