"""Frames over a socket: however they are cut, whatever is claimed, whoever does not read."""

import contextlib
import os
import resource
import socket
import tracemalloc
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.formats.errors import ProtocolError
from holdfast.formats.frame import (
    HEADER_BYTES,
    FrameHeader,
    FrameKind,
    decode_header,
    encode_header,
)
from holdfast.formats.limits import FRAME_BODY_BYTES_MAX
from holdfast.workers.channel import Buffer, Channel, Frame, FrameReader, encode_frame, send_some
from holdfast.workers.fold_messages import FoldGet
from holdfast.workers.messages import Ping

MIB = 1 << 20
BODIES = st.lists(st.text(max_size=200) | st.integers(0, 300_000).map("x".__mul__), max_size=6)


def frame(body: object, request: int = 1, kind: FrameKind = FrameKind.REQUEST) -> bytes:
    """One encoded frame."""
    return b"".join(encode_frame(kind, body, request))


def header(body: int) -> bytes:
    """A header that claims this length."""
    return encode_header(FrameKind.REQUEST, body, 1)


def drained(reader: FrameReader) -> Iterator[tuple[FrameHeader, bytes]]:
    """The complete frames, copied out."""
    while (found := reader.next()) is not None:
        yield found.header, bytes(found.body)


def expected(data: bytes) -> tuple[FrameHeader, bytes]:
    """What one frame's bytes are read as."""
    return decode_header(data), data[HEADER_BYTES:]


class TestReader:
    def test_a_whole_frame_is_read(self) -> None:
        """Kind, request, deadline and body arrive as they were sent."""
        reader = FrameReader()
        reader.feed(b"".join(encode_frame(FrameKind.REPLY, FoldGet("k"), 7, 12.5)))
        found = reader.next()
        assert found is not None
        assert found.header == FrameHeader(FrameKind.REPLY, len(found.body), 7, 12.5)
        assert reader.next() is None

    def test_a_frame_is_read_byte_by_byte(self) -> None:
        """It is complete with its last byte, and not before."""
        data = frame(FoldGet("key"))
        reader = FrameReader()
        for number, byte in enumerate(data):
            reader.feed(bytes([byte]))
            assert (reader.next() is None) == (number < len(data) - 1)

    def test_several_frames_at_once(self) -> None:
        """What arrives together is told apart."""
        frames = [frame(FoldGet(str(number)), number) for number in range(50)]
        reader = FrameReader()
        reader.feed(b"".join(frames))
        assert list(drained(reader)) == [expected(data) for data in frames]

    def test_an_empty_body_is_a_frame(self) -> None:
        """A header alone is complete when it claims nothing."""
        reader = FrameReader()
        reader.feed(header(0))
        assert len(list(drained(reader))) == 1

    def test_a_frame_that_is_not_complete_says_whose_it_is(self) -> None:
        """The header is known before the body, and forgotten with it."""
        data = frame(FoldGet("k"), 9)
        reader = FrameReader()
        reader.feed(data[:-1])
        assert reader.next() is None
        assert reader.pending is not None
        assert reader.pending.request == 9
        reader.feed(data[-1:])
        assert reader.next() is not None
        assert reader.pending is None

    @pytest.mark.parametrize("claim", [FRAME_BODY_BYTES_MAX, 1 << 30])
    def test_a_huge_claim_costs_no_memory(self, claim: int) -> None:
        """Memory grows with what arrived, not with what a header promises."""
        reader = FrameReader()
        tracemalloc.start()
        try:
            reader.feed(header(claim))
            assert reader.next() is None
            for _ in range(10):
                reader.feed(bytes(1000))
                assert reader.next() is None
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < MIB

    def test_memory_is_kept_for_large_frames_and_then_given_back(self) -> None:
        """Large frames go through the same memory, which goes once a small one has come."""
        reader = FrameReader()

        def buffer_of(data: bytes) -> object:
            reader.feed(data)
            found = reader.next()
            assert found is not None
            return found.body.obj

        large = header(8 * MIB) + bytes(8 * MIB)
        first = buffer_of(large)
        assert buffer_of(large) is first
        small = frame(FoldGet("k"))
        assert buffer_of(small) is first
        assert buffer_of(small) is not first

    @pytest.mark.parametrize(
        "data",
        [
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            bytes(HEADER_BYTES),
            b"\xff" * HEADER_BYTES,
            b"HF\x02" + header(0)[3:],
            b"HF\x01\x00" + header(0)[4:],
            b"HF\x01\x05" + header(0)[4:],
            header(FRAME_BODY_BYTES_MAX + 1),
        ],
        ids=["http", "zeros", "ones", "version", "kind 0", "kind 5", "length"],
    )
    def test_what_is_no_frame_is_refused(self, data: bytes) -> None:
        """Foreign bytes, another version, unknown kinds and impossible lengths all raise."""
        reader = FrameReader()
        reader.feed(data)
        with pytest.raises(ProtocolError):
            reader.next()

    def test_a_good_frame_before_a_bad_one_is_read(self) -> None:
        """Garbage condemns what follows it, not what came before."""
        reader = FrameReader()
        reader.feed(frame(FoldGet("k")) + bytes(HEADER_BYTES))
        assert reader.next() is not None
        with pytest.raises(ProtocolError):
            reader.next()

    @given(st.binary(min_size=HEADER_BYTES, max_size=200))
    def test_any_bytes_are_a_frame_or_refused(self, data: bytes) -> None:
        """No input raises anything but the protocol's own error."""
        reader = FrameReader()
        reader.feed(data)
        with contextlib.suppress(ProtocolError):
            list(drained(reader))

    @given(BODIES, st.data())
    @settings(deadline=None)
    def test_frames_survive_any_cut(self, bodies: list[str], data: st.DataObject) -> None:
        """Whatever pieces a stream arrives in, and whenever one looks, the frames are the same."""
        frames = [frame(body, number) for number, body in enumerate(bodies)]
        stream = b"".join(frames)
        cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8).map(sorted))
        reader = FrameReader()
        found: list[tuple[FrameHeader, bytes]] = []
        for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            reader.feed(stream[start:stop])
            if data.draw(st.booleans()):
                found += drained(reader)
        found += drained(reader)
        assert found == [expected(data) for data in frames]


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a pipe."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


Pair = tuple[socket.socket, socket.socket]


def numbered(channel: Channel) -> list[int]:
    """The request ids of the frames that have arrived."""
    found = []
    while (arrived := channel.next()) is not None:
        found.append(arrived.header.request)
    return found


class TestReceiving:
    def test_it_reads_from_a_socket(self, pair: Pair) -> None:
        """Large and small frames come through one buffer, in order."""
        ours, theirs = pair
        reader, sizes = FrameReader(), [10, 50_000, 10, 100_000, 10]
        for size in sizes:
            ours.sendall(frame("x" * size, size))
            arrived: Frame | None = None
            while arrived is None:
                assert reader.receive(theirs) > 0
                arrived = reader.next()
            assert arrived.header.request == size
        ours.close()
        assert reader.receive(theirs) == 0

    def test_a_frame_stays_valid_while_the_next_ones_are_taken(self, pair: Pair) -> None:
        """Frames of one read may be looked at together."""
        ours, theirs = pair
        ours.sendall(frame("a", 1) + frame("b", 2))
        reader = FrameReader()
        while (first := reader.next()) is None:
            reader.receive(theirs)
        second = reader.next()
        assert second is not None
        assert (bytes(first.body), bytes(second.body)) == (b"\xa1a", b"\xa1b")


class TestChannel:
    def test_descriptors_arrive_in_order(self, pair: Pair) -> None:
        """Each message finds its own descriptor, the one it was sent with."""
        sender, receiver = (Channel(end) for end in pair)
        inner = [socket.socketpair() for _ in range(10)]
        for number, (kept, sent) in enumerate(inner):
            kept.send(bytes([number]))
            sender.send(FrameKind.REQUEST, Ping(), number, descriptors=(sent.detach(),))
            sender.send(FrameKind.REQUEST, Ping(), 100 + number)
        got: list[int] = []
        while len(got) < 20:
            receiver.receive()
            got += numbered(receiver)
        assert got == [base + number for number in range(10) for base in (0, 100)]
        for number, (kept, _) in enumerate(inner):
            with receiver.take_socket() as taken, kept:
                assert taken.recv(1) == bytes([number])

    def test_a_passed_descriptor_is_closed_here_and_not_inherited_there(self, pair: Pair) -> None:
        """It belongs to the receiver alone, and to none of the programs that one starts."""
        sender, receiver = (Channel(end) for end in pair)
        kept, sent = socket.socketpair()
        sender.send(FrameKind.REQUEST, Ping(), descriptors=(sent.detach(),))
        receiver.receive()
        with receiver.take_socket() as taken, kept:
            assert not os.get_inheritable(taken.fileno())
            taken.close()
            assert kept.recv(1) == b""

    def test_a_descriptor_that_did_not_come_is_a_protocol_error(self, pair: Pair) -> None:
        """A message that announces one in vain condemns its channel."""
        with pytest.raises(ProtocolError):
            Channel(pair[0]).take_socket()

    def test_a_descriptor_that_there_was_no_room_for_is_missed_alone(self, pair: Pair) -> None:
        """Its message finds none, and the next message does not find another's."""
        sender, receiver = (Channel(end) for end in pair)
        inner = [socket.socketpair() for _ in range(2)]
        for number, (kept, sent) in enumerate(inner):
            kept.send(bytes([number]))
            sender.send(FrameKind.REQUEST, Ping(), number, descriptors=(sent.detach(),))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            receiver.receive()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        receiver.receive()
        assert numbered(receiver) == [0, 1]
        with pytest.raises(OSError, match="Too many open files"):
            receiver.take_socket()
        with receiver.take_socket() as taken:
            assert taken.recv(1) == bytes([1])
        for kept, _ in inner:
            kept.close()

    @pytest.mark.parametrize("with_descriptor", [False, True])
    @pytest.mark.parametrize("blocking", [False, True])
    def test_a_peer_who_does_not_read_never_blocks(
        self, pair: Pair, with_descriptor: bool, blocking: bool
    ) -> None:
        """Frames wait in the outbox, and leave in order once they are read."""
        ours, theirs = pair
        ours.setblocking(blocking)
        sender, receiver = Channel(ours), Channel(theirs)
        count, body = 200, "x" * 20_000
        for number in range(count):
            descriptors = (os.dup(theirs.fileno()),) if with_descriptor else ()
            sender.send(FrameKind.REQUEST, body, number, descriptors=descriptors)
        assert sender.backlog > 0
        assert not sender.flush()
        got: list[int] = []
        while len(got) < count:
            receiver.receive()
            got += numbered(receiver)
            if with_descriptor:
                with contextlib.suppress(ProtocolError):
                    while True:
                        receiver.take_socket().close()
            sender.flush()
        assert got == list(range(count))
        assert sender.backlog == 0

    def test_closing_closes_what_is_under_way(self, pair: Pair) -> None:
        """Descriptors that were not sent, and ones that were not taken, do not leak."""
        ours, theirs = pair
        sender, receiver = Channel(ours), Channel(theirs)
        first, second = socket.socketpair()
        sender.send(FrameKind.REQUEST, Ping(), descriptors=(second.detach(),))
        receiver.receive()
        ours.setblocking(False)
        while not sender.backlog:
            sender.send(FrameKind.REQUEST, "x" * 60_000)
        other, unsent = socket.socketpair()
        sender.send(FrameKind.REQUEST, Ping(), descriptors=(unsent.detach(),))
        with first, other:
            sender.close()
            receiver.close()
            assert (first.recv(1), other.recv(1)) == (b"", b"")

    def test_the_end_of_the_peer_is_told(self, pair: Pair) -> None:
        """What it sent before is still read."""
        sender, receiver = (Channel(end) for end in pair)
        sender.send(FrameKind.REQUEST, Ping(), 3)
        sender.close()
        assert receiver.receive()
        assert numbered(receiver) == [3]
        assert not receiver.receive()

    def test_sending_to_nobody_raises(self, pair: Pair) -> None:
        """A peer that is gone is an ``OSError``, for the caller to deal with."""
        ours, theirs = pair
        theirs.close()
        with pytest.raises(OSError, match="Broken pipe"):
            Channel(ours).send(FrameKind.REQUEST, Ping())


class TestWriting:
    @given(st.integers(0, 300_000))
    @settings(deadline=None, max_examples=30)
    def test_a_frame_in_parts_is_the_same_frame(self, size: int) -> None:
        """Whether it is worth joining header and body makes no difference to the bytes."""
        reader = FrameReader()
        reader.feed(b"".join(encode_frame(FrameKind.REQUEST, "x" * size, 3)))
        ((found, body),) = drained(reader)
        assert found.request == 3
        assert body.endswith(b"x" * size)

    @given(st.lists(st.binary(min_size=1, max_size=200_000), min_size=1, max_size=3))
    @settings(deadline=None, max_examples=30)
    def test_what_the_peer_does_not_take_is_returned(self, parts: list[bytes]) -> None:
        """Piece by piece everything arrives once, and in order."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            got = bytearray()
            left: Sequence[Buffer] = parts
            while left:
                with contextlib.suppress(BlockingIOError):
                    left = send_some(ours, left)
                with contextlib.suppress(BlockingIOError):
                    got += theirs.recv(70_000, socket.MSG_DONTWAIT)
            ours.close()
            while more := theirs.recv(70_000):
                got += more
            assert bytes(got) == b"".join(parts)
