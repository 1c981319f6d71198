"""The serve loop around an actor that misbehaves, without a process of its own."""

import socket
import threading
from collections.abc import Iterator
from multiprocessing.context import SpawnContext
from typing import NoReturn, cast

import msgspec
import pytest

from holdfast.formats.frame import FrameKind
from holdfast.workers.actor import Actor
from holdfast.workers.channel import Channel, encode_frame
from holdfast.workers.fold_messages import FoldGet
from holdfast.workers.messages import Phase, Serve
from holdfast.workers.vitals import Vitals
from holdfast.workers.worker import Worker


class Misbehaving:
    """An actor out of which an error comes that is none of the tree."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def handle(self, *_: object) -> NoReturn:
        raise self.error

    def commit(self) -> None:
        """Nothing was written."""

    def settle(self) -> None:
        """Nothing was put off."""

    def pressed(self) -> bool:
        return False

    def step(self, *, idle: bool) -> bool:
        return False

    def sync_due_in(self) -> None:
        """Never."""


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A control channel."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize(
    "error",
    [OSError(5, "Input/output error"), BlockingIOError(11, "Try again"),
     msgspec.DecodeError("damaged"), msgspec.ValidationError("damaged")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_an_error_of_no_rule_ends_the_worker(
    pair: tuple[socket.socket, socket.socket], error: Exception
) -> None:
    """It is not taken for a broken session nor a bad request: the store is recovered anew."""
    ours, theirs = pair
    vitals = Vitals(SpawnContext())
    worker = Worker(Channel(theirs), vitals, cast(Actor, Misbehaving(error)))
    host, session = socket.socketpair()
    Channel(ours).send(FrameKind.REQUEST, Serve(77), descriptors=(session.detach(),))
    raised: list[Exception] = []

    def run() -> None:
        try:
            worker.run()
        except Exception as error:
            raised.append(error)

    running = threading.Thread(target=run, daemon=True)
    running.start()
    with host:
        host.sendall(b"".join(encode_frame(FrameKind.REQUEST, FoldGet("k"), 5)))
        running.join(30)
        assert raised == [error]
    working = vitals.read()
    for served in worker._sessions.values():
        served.sock.close()
    assert (working.phase, working.client, working.request) == (Phase.HANDLING, 77, 5)
