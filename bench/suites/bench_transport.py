"""Frames between processes, as handles and workers send them."""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator, Sequence

import pytest

from holdfast.bench.suites.rates import Benchmark, measure
from holdfast.formats.frame import FrameKind
from holdfast.workers.channel import Buffer, FrameReader, encode_frame, send_some

SIZES = (100, 10_000, 1_000_000)


@pytest.mark.parametrize("size", SIZES)
def test_encode(benchmark: Benchmark, size: int) -> None:
    """A message as the parts of a frame."""
    body = os.urandom(size)
    measure(benchmark, lambda: encode_frame(FrameKind.REQUEST, body, 1), size)


@pytest.mark.parametrize("size", SIZES)
def test_round_trip(benchmark: Benchmark, size: int) -> None:
    """A frame to another thread over a socket pair, and one of the same size back."""
    body = os.urandom(size)
    with _echo() as sock:
        reader = FrameReader()

        def go() -> int:
            _send(sock, body)
            return _take(sock, reader)

        assert measure(benchmark, go, 2 * size) >= size  # type: ignore[operator]


@contextlib.contextmanager
def _echo() -> Iterator[socket.socket]:
    """The near end of a pair whose far end sends back frames of what came."""
    near, far = socket.socketpair()

    def serve() -> None:
        reader = FrameReader()
        while size := _take(far, reader):
            _send(far, bytes(size))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield near
    finally:
        near.close()
        thread.join()
        far.close()


def _send(sock: socket.socket, body: bytes) -> None:
    parts: Sequence[Buffer] = encode_frame(FrameKind.REQUEST, body, 1)
    while parts:
        parts = send_some(sock, parts)


def _take(sock: socket.socket, reader: FrameReader) -> int:
    """Bytes of the next frame's body; 0 at the end."""
    while (frame := reader.next()) is None:
        if not reader.receive(sock):
            return 0
    return len(frame.body)
