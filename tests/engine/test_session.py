"""One blocking call's pipe: what it waits for, and how long."""

import socket
import threading
import time

import pytest

from holdfast.formats.frame import FrameKind
from holdfast.session import DeadlinePassed, Session
from holdfast.workers import messages
from holdfast.workers.channel import FrameReader, encode_frame
from holdfast.workers.fold_messages import FoldGet

LARGE = encode_frame(FrameKind.REQUEST, FoldGet("k" * (8 << 20)), 1)


def test_a_request_that_nobody_reads_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline holds for the sending, too, however seldom the clock is looked at."""
    monkeypatch.setattr("holdfast.session._TICK_S", 3600.0)
    ours, theirs = socket.socketpair()
    ended: list[BaseException] = []

    def call() -> None:
        try:
            Session(ours, 1).exchange(LARGE, 1, time.monotonic() + 0.05, None, lambda: None)
        except BaseException as error:
            ended.append(error)

    with ours, theirs:
        calling = threading.Thread(target=call, daemon=True)
        calling.start()
        calling.join(60)
        assert [type(error) for error in ended] == [DeadlinePassed]


def test_a_large_request_goes_out_as_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is slow to read is looked at meanwhile, and gets all of it."""
    monkeypatch.setattr("holdfast.session._TICK_S", 0.01)
    ours, theirs = socket.socketpair()
    looked = threading.Event()
    read: list[int] = []

    def serve() -> None:
        looked.wait(60)
        reader = FrameReader()
        while (frame := reader.next()) is None:
            assert reader.receive(theirs)
        read.append(len(frame.body))
        theirs.sendall(b"".join(encode_frame(FrameKind.REPLY, messages.Done(), 1)))

    with ours, theirs:
        serving = threading.Thread(target=serve)
        serving.start()
        session = Session(ours, 1)
        reply = session.exchange(LARGE, 1, time.monotonic() + 60, None, looked.set)
        serving.join()
    assert isinstance(reply, messages.Done)
    assert read[0] > 8 << 20
