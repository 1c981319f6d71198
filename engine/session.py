"""The host's end of a pipe to a worker, for one blocking call at a time."""

import select
import socket
import struct
import time
from collections.abc import Callable, Sequence

import msgspec

from holdfast.call import ProgressCallback
from holdfast.formats.errors import ProtocolError
from holdfast.formats.frame import FrameKind
from holdfast.workers import messages
from holdfast.workers.channel import Buffer, Frame, FrameReader, send_some
from holdfast.workers.messages import Failure, Progress
from holdfast.workers.spin import Spinner

# A blocking read gives up after this long, to look at the clock. Longer waits cost a read each;
# the shorter rest of a deadline costs a poll.
_TICK_S = 1.0

decode_reply = msgspec.msgpack.Decoder(messages.Reply).decode
decode_failure = msgspec.msgpack.Decoder(Failure).decode
decode_progress = msgspec.msgpack.Decoder(Progress).decode


class SessionLost(Exception):
    """The worker's end of the pipe is gone."""


class DeadlinePassed(Exception):
    """No answer in time; the answer may still come, so the pipe cannot be used again."""


class Session:
    """A pipe to the worker of one generation."""

    def __init__(self, sock: socket.socket, generation: int) -> None:
        self.generation = generation
        self.clean = True
        """No answer is under way, so the next call may use this pipe."""
        self._watched_at = 0.0
        self.alone = False
        """No other call of this host is under way on this store."""
        self._sock = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._writable = select.poll()
        self._writable.register(sock, select.POLLOUT)
        self._spinner = Spinner()
        self._reader = FrameReader()
        timeval = struct.pack("ll", int(_TICK_S), int(_TICK_S % 1 * 1e6))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)

    def exchange(
        self,
        frame: list[bytes],
        request: int,
        deadline: float,
        progress: ProgressCallback | None,
        still_waiting: Callable[[], None],
    ) -> object:
        """Send a request and wait for its reply; an error in reply is raised.

        ``still_waiting`` is called about once a second meanwhile.
        """
        self.clean = False
        self._watched_at = time.monotonic()
        self._send(frame, deadline, still_waiting)
        while True:
            header, body = self._receive(deadline, still_waiting)
            if header.request != request:
                raise ProtocolError(f"an answer to request {header.request} came on the pipe of "
                                    f"request {request}")  # fmt: skip
            if header.kind is FrameKind.REPLY:
                self.clean = True
                return decode_reply(bytes(body))  # it may refer to the frame, which goes
            if header.kind is FrameKind.ERROR:
                self.clean = True
                raise decode_failure(body).error()
            if progress is not None:
                progress(decode_progress(body))

    def unwatched_s(self) -> float:
        """Seconds since the current exchange began, or since ``watched``."""
        return time.monotonic() - self._watched_at

    def watched(self) -> None:
        """The supervisor was asked to look at the worker."""
        self._watched_at = time.monotonic()

    def _send(
        self, parts: Sequence[Buffer], deadline: float, still_waiting: Callable[[], None]
    ) -> None:
        left = parts
        while True:
            try:
                # Never a blocking send, which waits anew for each piece that the worker reads.
                left = send_some(self._sock, left, socket.MSG_DONTWAIT)
            except BlockingIOError:
                pass
            except OSError:
                raise SessionLost from None
            if not left:
                return
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise DeadlinePassed
            if not self._writable.poll(min(remaining, _TICK_S) * 1000):
                still_waiting()

    def _receive(self, deadline: float, still_waiting: Callable[[], None]) -> Frame:
        if self.alone:
            self._spinner.look(self._poll.poll)
        while (frame := self._reader.next()) is None:
            remaining = deadline - time.monotonic()
            if remaining < _TICK_S:
                self._wait(remaining)
            try:
                if not self._reader.receive(self._sock):
                    raise SessionLost
            except BlockingIOError:
                still_waiting()
            except OSError:
                raise SessionLost from None
        return frame

    def _wait(self, seconds: float) -> None:
        if seconds <= 0 or not self._poll.poll(seconds * 1000):
            raise DeadlinePassed

    def close(self) -> None:
        """Hang up."""
        self._sock.close()
