"""Starting a worker's process where the system has none to give."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import psutil
import pytest

from holdfast.workers.launcher import WorkerProcess
from holdfast.workers.messages import StoreSpec

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")


def fails(code: int) -> Callable[..., NoReturn]:
    """A call that the system refuses."""

    def call(*_: object) -> NoReturn:
        raise OSError(code, os.strerror(code))

    return call


def nothing() -> None:
    """There is nothing that a child has to leave."""


@pytest.mark.parametrize("refused", ["fork", "pipe"])
def test_a_process_that_cannot_be_started_costs_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    """However often it is tried, as many are free afterwards as before."""
    spec = StoreSpec("a", "fold", str(tmp_path / "a.snap"))
    counts = []
    with monkeypatch.context() as patched:
        patched.setattr(os, refused, fails(11))
        for _ in range(3):
            with pytest.raises(OSError, match=os.strerror(11)):
                WorkerProcess(spec, 1, nothing)
            counts.append(psutil.Process().num_fds())
    assert counts[1:] == counts[:1] * 2, "the first one opens the page that workers share"
