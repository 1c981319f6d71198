"""The line to the supervisor, with a scripted one at the other end."""

import socket
from pathlib import Path

import pytest

from holdfast.control import Connection, Control
from holdfast.formats.frame import FrameKind
from holdfast.options import EngineOptions
from holdfast.workers import messages
from holdfast.workers.channel import Channel
from holdfast.workers.places import Places

LINES = 3


def test_leaving_waits_while_the_supervisor_has_something_to_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Patience begins anew with each word, and ends with the connection."""
    control = Control(Places(str(tmp_path)), EngineOptions())
    ours, theirs = socket.socketpair()
    connection = control._connection = Connection(ours, control._forget)
    connection.thread.start()
    supervisor = Channel(theirs)
    waits: list[float | None] = []
    join = connection.thread.join

    def patience(seconds: float | None = None) -> None:
        """What happens while it waits."""
        waits.append(seconds)
        if len(waits) > LINES:
            supervisor.close()
            join(60)
            return
        heard = connection.heard
        line = messages.LogLine("holdfast.test", 10, "still at it", 0.0, 1)
        supervisor.send(FrameKind.PROGRESS, line)
        while connection.heard == heard:
            pass

    monkeypatch.setattr(connection.thread, "join", patience)
    control.close()
    assert len(waits) == LINES + 1
    assert not connection.thread.is_alive()


def test_leaving_a_supervisor_that_says_nothing_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that hangs is not waited for a second time."""
    control = Control(Places(str(tmp_path)), EngineOptions())
    ours, theirs = socket.socketpair()
    connection = control._connection = Connection(ours, control._forget)
    connection.thread.start()
    waits: list[float | None] = []
    with monkeypatch.context() as patched:
        patched.setattr(connection.thread, "join", waits.append)
        with theirs:
            control.close()
    connection.thread.join(60)
    assert len(waits) == 1
