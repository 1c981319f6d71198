"""Framed messages over a stream socket, for every pair of holdfast processes.

``FrameReader`` and ``encode_frame`` are the data path of sessions: one system call each way for a
small message, no copy beyond the transport's own. ``Channel`` adds what control traffic needs:
passing descriptors, and an outbox, so that a peer who does not read never blocks the sender.
"""

import array
import contextlib
import errno
import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from holdfast.formats.errors import LimitExceeded, ProtocolError
from holdfast.formats.frame import (
    HEADER_BYTES,
    FrameHeader,
    FrameKind,
    decode_header,
    encode_header,
)
from holdfast.formats.limits import FRAME_BODY_BYTES_MAX
from holdfast.workers.disk import anonymous_memory, unwritten

_SMALL_BYTES = 64 * 1024
_KEPT_BYTES = 1024 * 1024
_DESCRIPTORS_MAX = 16

# A frame announced up to this size gets its buffer at once; a larger one as its bytes arrive.
_TRUSTED_BYTES = 64 * 1024 * 1024
_JOINED_BYTES_MAX = 16 * 1024

Buffer = bytes | bytearray | memoryview
_encode = msgspec.msgpack.Encoder().encode


class Frame(NamedTuple):
    """A received frame. ``body`` is valid until the reader reads on."""

    header: FrameHeader
    body: memoryview


class FrameReader:
    """Collects bytes until they make frames; memory grows with what arrived, not with claims."""

    def __init__(self) -> None:
        self._view = memoryview(bytearray(_SMALL_BYTES))
        self._start = 0
        self._end = 0
        self._header: FrameHeader | None = None
        self._taken = 0
        """Bytes of the frame that was handed out last."""

    def receive(self, sock: socket.socket, flags: int = 0) -> int:
        """Read once; returns the number of bytes, 0 at the peer's end."""
        self._make_room()
        count = sock.recv_into(self._view[self._end :], 0, flags)
        self._end += count
        return count

    @property
    def pending(self) -> FrameHeader | None:
        """The header of a frame of which only a part is here."""
        return self._header

    def feed(self, data: bytes) -> None:
        """Take bytes that were read elsewhere."""
        self._make_room(len(data))
        self._view[self._end : self._end + len(data)] = data
        self._end += len(data)

    def next(self) -> Frame | None:
        """The next complete frame, or None. Raises ``ProtocolError`` on anything else."""
        header = self._header
        if header is None:
            if self._end - self._start < HEADER_BYTES:
                return None
            header = self._header = decode_header(self._view, self._start)
        body_at = self._start + HEADER_BYTES
        stop = body_at + header.body_bytes
        if stop > self._end:
            return None
        self._header = None
        self._taken = stop - self._start
        self._start = stop
        return Frame(header, self._view[body_at:stop])

    def _make_room(self, wanted: int = 1) -> None:
        """Make sure that ``wanted`` bytes, or the rest of a frame, fit behind what is held."""
        have = self._end - self._start
        size = len(self._view)
        if not have:
            self._start = self._end = 0
            # Who sends large frames mostly goes on to, and fresh memory costs more than the copy.
            if size > _KEPT_BYTES >= self._taken:
                self._move_to(memoryview(bytearray(_SMALL_BYTES)))
                size = _SMALL_BYTES
        if self._header is not None:
            frame = HEADER_BYTES + self._header.body_bytes
            wanted = max(wanted, min(frame, _TRUSTED_BYTES) - have)
        if size - self._end >= wanted:
            return
        if have + wanted > size:
            size = 1 << (max(2 * have, have + wanted) - 1).bit_length()
            self._move_to(anonymous_memory(size))
        else:
            self._view[:have] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, have

    def _move_to(self, fresh: memoryview) -> None:
        """Go on with a new buffer: the old one may still be viewed by a frame handed out."""
        have = self._end - self._start
        fresh[:have] = self._view[self._start : self._end]
        self._view = fresh
        self._start, self._end = 0, have


def encode_frame(
    kind: FrameKind, message: object, request: int, deadline: float = 0.0
) -> list[bytes]:
    """A frame in one piece, or a large one in two, which are not worth joining."""
    body = _encode(message)
    if len(body) > FRAME_BODY_BYTES_MAX:
        raise LimitExceeded(
            f"a {type(message).__name__} of {len(body)} bytes is over the limit of "
            f"{FRAME_BODY_BYTES_MAX}"
        )
    header = encode_header(kind, len(body), request, deadline=deadline)
    return [header + body] if len(body) <= _JOINED_BYTES_MAX else [header, body]


def send_some(sock: socket.socket, parts: Sequence[Buffer], flags: int = 0) -> Sequence[Buffer]:
    """Send as much of ``parts`` as the peer takes in one call; returns what is left."""
    if len(parts) == 1:
        sent = sock.send(parts[0], flags)
        if sent == len(parts[0]):
            return ()
    else:
        sent = sock.sendmsg(parts, (), flags)
    return unwritten(parts, sent)


class Channel:
    """A control channel: frames with descriptors, in order, without ever blocking to send."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._reader = FrameReader()
        self._descriptors: deque[int | None] = deque()
        """Received and not yet taken; None for one that this process had no room for."""
        self._outbox: deque[tuple[bytes, list[int]]] = deque()

    def send(
        self,
        kind: FrameKind,
        message: object,
        request: int = 0,
        *,
        descriptors: tuple[int, ...] = (),
    ) -> None:
        """Queue a frame and send what the peer takes; ``descriptors`` are ours to close."""
        data = b"".join(encode_frame(kind, message, request))
        self._outbox.append((data, list(descriptors)))
        self.flush()

    def flush(self) -> bool:
        """Send what is queued, as far as the peer takes it; True when nothing is left."""
        while self._outbox:
            data, descriptors = self._outbox[0]
            try:
                if descriptors:
                    # Not socket.send_fds, which takes flags but does not pass them on.
                    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
                    sent = self.sock.sendmsg([data], [rights], socket.MSG_DONTWAIT)
                else:
                    sent = self.sock.send(data, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            for descriptor in descriptors:
                os.close(descriptor)
            self._outbox.popleft()
            if sent < len(data):
                self._outbox.appendleft((data[sent:], []))
        return True

    @property
    def backlog(self) -> int:
        """Frames not sent yet."""
        return len(self._outbox)

    def receive(self) -> bool:
        """Read once, as the socket blocks or not; False at the peer's end."""
        data, descriptors, flags, _ = socket.recv_fds(self.sock, _SMALL_BYTES, _DESCRIPTORS_MAX)
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)  # unlike all others they come inheritable
        self._descriptors.extend(descriptors)
        if flags & socket.MSG_CTRUNC:  # one read never brings those of two messages
            self._descriptors.append(None)
        self._reader.feed(data)
        return bool(data)

    def next(self) -> Frame | None:
        """The next complete frame, or None."""
        return self._reader.next()

    def take_socket(self) -> socket.socket:
        """The oldest descriptor received and not yet taken, as a socket.

        Raises ``OSError`` when it came and this process had no room for it.
        """
        if not self._descriptors:
            raise ProtocolError("a message announced a descriptor that did not come")
        descriptor = self._descriptors.popleft()
        if descriptor is None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return socket.socket(fileno=descriptor)

    def close(self) -> None:
        """Close the socket and every descriptor under way."""
        self.sock.close()
        for _, descriptors in self._outbox:
            for descriptor in descriptors:
                os.close(descriptor)
        self._outbox.clear()
        for received in self._descriptors:
            if received is not None:
                with contextlib.suppress(OSError):
                    os.close(received)
        self._descriptors.clear()
