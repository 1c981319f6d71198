"""How a body gets from one process to another: the ways there are, and what each costs.

One process sends a body, the other takes it, touches each of its pages once, and answers with
eight bytes; the figure is the time from the start of the send to the arrival of the answer. The
ways differ in how the body goes, not in how the answer comes.
"""

import contextlib
import mmap
import os
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, ClassVar

import msgspec

import holdfast
from holdfast.bench import data
from holdfast.bench.callers import spawning
from holdfast.bench.measure import in_turn, medians, seconds_per_call
from holdfast.formats.frame import FrameKind
from holdfast.workers.channel import Buffer, FrameReader, encode_frame, send_some
from holdfast.workers.fold_messages import FoldApply
from holdfast.workers.messages import Request

Figures = dict[str, dict[int, float]]
"""Way, then size of the body in bytes, to the median of a round trip in seconds."""

_PAGE = 4096
_LENGTH = struct.Struct("<Q")
_TIME_PER_SAMPLE_S = 0.1
_CALLS_MAX = 2000


class Way(ABC):
    """One way to pass bodies, on either side of a socket."""

    title: ClassVar[str]

    def __init__(self, sock: socket.socket, largest: int, *, sends: bool) -> None:
        self.sock = sock

    def body(self, size: int) -> Any:
        """What ``send`` takes: bytes, unless the way is about something else."""
        return os.urandom(size)

    @abstractmethod
    def send(self, body: Any) -> None:
        """Pass ``body``."""

    @abstractmethod
    def take(self) -> int:
        """Wait for a body, touch it, return its length; 0 when there will be no more."""

    def answer(self, length: int) -> None:
        """Say that a body has come."""
        self.sock.send(_LENGTH.pack(length))

    def await_answer(self) -> int:
        """Wait until the other side has the body; returns how long it was."""
        return int(_LENGTH.unpack(self.sock.recv(_LENGTH.size))[0])


def touch(body: Buffer) -> int:
    """Read one byte of every page, as whoever uses the body would; returns its length."""
    bytes(memoryview(body)[::_PAGE])
    return len(body)


class ByConnection(Way):
    """``send_bytes`` and ``recv_bytes`` of ``multiprocessing.Connection``."""

    title = "Connection"

    def __init__(self, sock: socket.socket, largest: int, *, sends: bool) -> None:
        self._connection = Connection(sock.detach())

    def send(self, body: bytes) -> None:
        self._connection.send_bytes(body)

    def take(self) -> int:
        try:
            return touch(self._connection.recv_bytes())
        except EOFError:
            return 0

    def answer(self, length: int) -> None:
        self._connection.send_bytes(_LENGTH.pack(length))

    def await_answer(self) -> int:
        return int(_LENGTH.unpack(self._connection.recv_bytes())[0])


class BySocket(Way):
    """``sendmsg`` of a length and the body, ``recv_into`` a buffer that is kept."""

    title = "sendmsg / recv_into"

    def __init__(self, sock: socket.socket, largest: int, *, sends: bool) -> None:
        super().__init__(sock, largest, sends=sends)
        self._view = memoryview(bytearray(0 if sends else largest + _LENGTH.size))

    def send(self, body: bytes) -> None:
        sent = self.sock.sendmsg([_LENGTH.pack(len(body)), body]) - _LENGTH.size
        while sent < len(body):
            sent += self.sock.send(memoryview(body)[sent:])

    def take(self) -> int:
        have, need = 0, _LENGTH.size
        while have < need:
            count = self.sock.recv_into(self._view[have:])
            if not count:
                return 0
            if have < _LENGTH.size <= have + count:
                need += _LENGTH.unpack_from(self._view)[0]
            have += count
        return touch(self._view[_LENGTH.size : need])


class ByFrame(Way):
    """The product's own frames: ``encode_frame`` and ``FrameReader``, the body as one message."""

    title = "holdfast frame"

    def __init__(self, sock: socket.socket, largest: int, *, sends: bool) -> None:
        super().__init__(sock, largest, sends=sends)
        self._reader = FrameReader()

    def send(self, body: object) -> None:
        parts: Sequence[Buffer] = encode_frame(FrameKind.REQUEST, body, 1)
        while parts:
            parts = send_some(self.sock, parts)

    def take(self) -> int:
        while (frame := self._reader.next()) is None:
            if not self._reader.receive(self.sock):
                return 0
        return self.use(frame.body)

    def use(self, control: memoryview) -> int:
        """Do with the message what its receiver would."""
        return touch(control)


class ByFoldApply(ByFrame):
    """As ``ByFrame``, with what a fold is really told: an ``apply`` of 200-byte values, decoded."""

    title = "holdfast fold.apply"

    def __init__(self, sock: socket.socket, largest: int, *, sends: bool) -> None:
        super().__init__(sock, largest, sends=sends)
        self._decode = msgspec.msgpack.Decoder(Request).decode

    def body(self, size: int) -> FoldApply:
        count = max(1, size // (data.KEY_BYTES + data.VALUE_BYTES))
        return FoldApply(data.puts(range(count)), holdfast.Cursor.none())

    def use(self, control: memoryview) -> int:
        self._decode(control)
        return len(control)


class ByArena(Way):
    """A memfd that both sides keep mapped; the socket carries the length alone."""

    title = "memfd, reused"

    def __init__(self, sock: socket.socket, largest: int, *, sends: bool) -> None:
        super().__init__(sock, largest, sends=sends)
        if sends:
            descriptor = os.memfd_create("arena")
            os.ftruncate(descriptor, largest)
            socket.send_fds(sock, [b"!"], [descriptor])
        else:
            descriptor = socket.recv_fds(sock, 1, 1)[1][0]
        self._arena = mmap.mmap(descriptor, largest)
        self._view = memoryview(self._arena)
        os.close(descriptor)

    def send(self, body: bytes) -> None:
        self._view[: len(body)] = body
        self.sock.send(_LENGTH.pack(len(body)))

    def take(self) -> int:
        length = self.sock.recv(_LENGTH.size)
        return touch(self._view[: _LENGTH.unpack(length)[0]]) if length else 0


class ByFreshMemfd(Way):
    """A new memfd for each body, written, passed along, mapped by the receiver, and dropped."""

    title = "memfd, fresh"

    def send(self, body: bytes) -> None:
        descriptor = os.memfd_create("body")
        try:
            sent = 0
            while sent < len(body):
                sent += os.write(descriptor, memoryview(body)[sent:])
            socket.send_fds(self.sock, [_LENGTH.pack(len(body))], [descriptor])
        finally:
            os.close(descriptor)

    def take(self) -> int:
        length, descriptors, _, _ = socket.recv_fds(self.sock, _LENGTH.size, 1)
        if not length:
            return 0
        flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
        size = _LENGTH.unpack(length)[0]
        body = mmap.mmap(descriptors[0], size, flags=flags, prot=mmap.PROT_READ)
        os.close(descriptors[0])
        with body, memoryview(body) as view, view[::_PAGE] as pages:
            bytes(pages)
        return int(size)


def ways() -> list[type[Way]]:
    """The ways that this system has."""
    everywhere: list[type[Way]] = [ByConnection, BySocket, ByFrame, ByFoldApply]
    return [*everywhere, ByArena, ByFreshMemfd] if hasattr(os, "memfd_create") else everywhere


def _serve(number: int, sock: socket.socket, largest: int) -> None:
    """Body of a receiving process."""
    way = ways()[number](sock, largest, sends=False)
    while length := way.take():
        way.answer(length)


@contextlib.contextmanager
def _connected(number: int, largest: int) -> Iterator[Way]:
    """A way whose other side is served by a process of its own."""
    ours, theirs = socket.socketpair()
    child = spawning.Process(target=_serve, args=(number, theirs, largest))
    child.start()
    theirs.close()
    end = os.dup(ours.fileno())  # a Connection takes ``ours`` over
    try:
        yield ways()[number](ours, largest, sends=True)
    finally:
        with socket.socket(fileno=end) as sock:
            sock.shutdown(socket.SHUT_RDWR)
        child.join()
        ours.close()


def measure(sizes: Sequence[int], repetitions: int, say: Callable[[str], None]) -> Figures:
    """Round trips of bodies of these sizes by every way, in turn."""
    figures: Figures = {way.title: {} for way in ways()}
    with contextlib.ExitStack() as stack:
        connected = [
            stack.enter_context(_connected(number, max(sizes))) for number in range(len(ways()))
        ]
        for size in sizes:
            say(f"  bodies of {size_name(size)}")
            measurements = {way.title: _round_trip(way, size) for way in connected}
            for title, seconds in medians(in_turn(measurements, repetitions)).items():
                figures[title][size] = seconds
    return figures


def _round_trip(way: Way, size: int) -> Callable[[], float]:
    body = way.body(size)

    def call() -> None:
        way.send(body)
        length = way.await_answer()
        assert length == size or not isinstance(body, bytes) or isinstance(way, ByFrame)

    first = min(seconds_per_call(call, 1) for _ in range(5))  # also the warming up
    calls = max(2, min(_CALLS_MAX, int(_TIME_PER_SAMPLE_S / first)))
    return lambda: seconds_per_call(call, calls)


# --- what is made of the figures ---------------------------------------------------------------


def size_name(size: int) -> str:
    """A size in the largest unit that divides it."""
    for unit, name in ((1 << 20, "MB"), (1 << 10, "KB")):
        if size >= unit and not size % unit:
            return f"{size // unit} {name}"
    return f"{size} B"


def overtakes_from(figures: Figures, way: str, other: str) -> int | None:
    """The smallest size from which on ``way`` is always faster than ``other``; None if at none."""
    found = None
    for size in sorted(figures[way], reverse=True):
        if figures[way][size] >= figures[other][size]:
            return found
        found = size
    return found


def as_json(figures: Figures) -> dict[str, object]:
    """The figures with their units, and from which size a kept memfd beats the frames."""
    arena = ByArena.title
    return {
        "ways": {
            way: {
                str(size): {
                    "round_trip_us": round(seconds * 1e6, 1),
                    "gb_per_s": round(size / seconds / 1e9, 3),
                }
                for size, seconds in by_size.items()
            }
            for way, by_size in figures.items()
        },
        "reused_memfd_beats_frames_from_bytes": (
            overtakes_from(figures, arena, ByFrame.title) if arena in figures else None
        ),
    }


def as_markdown(figures: Figures) -> str:
    """The figures as a table: a round trip, and what it comes to in GB/s."""
    sizes = list(next(iter(figures.values())))
    lines = [
        "| way | " + " | ".join(map(size_name, sizes)) + " |",
        "|---|" + "---|" * len(sizes),
    ]
    for way, by_size in figures.items():
        cells = (f"{s * 1e6:,.0f} us, {size / s / 1e9:.2g} GB/s" for size, s in by_size.items())
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
