"""Trouble around the supervisor: it cannot start, cannot start others, dies, or does not answer."""

from pathlib import Path

import pytest

from tests.process.harness import (
    GONE_S,
    run,
    script,
    wait_until_none,
)

INTERRUPTED = """
    import subprocess
    directory, where = sys.argv[1:]

    class Interrupted(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            if where == "before":
                raise KeyboardInterrupt
            super().__init__(*args, **kwargs)
            if where == "starting":
                raise KeyboardInterrupt

        def wait(self, timeout=None):
            if where == "waiting":
                os.killpg(0, signal.SIGINT)
            return super().wait(timeout)

    whole, subprocess.Popen = subprocess.Popen, Interrupted
    try:
        holdfast.open(directory)
    except KeyboardInterrupt:
        print("interrupted")
    subprocess.Popen = whole
    with holdfast.open(directory, timeout=20) as engine:
        put(engine.fold("a"), "k")
        print("opened")
"""


@pytest.mark.parametrize("where", ["before", "starting", "waiting"])
def test_an_interrupted_open_leaves_the_directory_free(tmp_path: Path, where: str) -> None:
    """Ctrl-C while the supervisor starts, as a terminal sends it to all, locks nobody out."""
    source = script(INTERRUPTED)
    code = f"import os; os.setsid(); exec({source!r})"  # a group of its own gets the signal
    assert run(["-W", "ignore::ResourceWarning", "-c", code, str(tmp_path), where]) == (
        "interrupted\nopened\n"
    )
    wait_until_none(tmp_path, GONE_S)
