"""A worker process: recover one store; drain, handle, commit, reply, settle, as long as it lives.

Everything drained in one turn shares one sync, and no reply, not even to a read, leaves before it:
nothing is observed before it is durable. Long work and upkeep run in slices between the turns.
"""

import contextlib
import gc
import importlib
import logging
import os
import select
import signal
import socket
import time
import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import setproctitle

from holdfast.formats.errors import CallTimeout, HoldfastError, InvalidArgument, ProtocolError
from holdfast.formats.frame import FrameHeader, FrameKind
from holdfast.formats.limits import DRAIN_REQUESTS_MAX
from holdfast.workers import messages
from holdfast.workers.actor import Actor, Caller, Opener, Steps
from holdfast.workers.channel import (
    Buffer,
    Channel,
    Frame,
    FrameReader,
    encode_frame,
    send_some,
)
from holdfast.workers.disk import OsDisk, anonymous_memory
from holdfast.workers.messages import Failure, Kind, Phase, Reply, Request, StoreSpec
from holdfast.workers.platform import die_with_parent
from holdfast.workers.spin import Spinner
from holdfast.workers.vitals import Vitals
from holdfast.workers.waiting import at_a_time

OPENERS: dict[Kind, str] = {
    "fold": "holdfast.workers.fold:open_fold",
    "vectors": "holdfast.workers.vectors:open_vectors",
    "warm": "holdfast.workers.warm:open_warm",
    "index": "holdfast.workers.index:open_index",
    "registry": "holdfast.workers.registry:open_registry",
}
"""One entry per kind of store: this is where a new kind plugs in."""


def opener(kind: Kind) -> Opener:
    """What opens stores of a kind. Its modules are loaded at the first call.

    The supervisor calls this ahead of a fork, so that a worker starts with all it needs.
    """
    module, name = OPENERS[kind].split(":")
    found: Opener = getattr(importlib.import_module(module), name)
    return found


_decode_request = msgspec.msgpack.Decoder(messages.Request).decode
_decode_order = msgspec.msgpack.Decoder(messages.Order).decode
_READABLE = select.POLLIN | select.POLLHUP | select.POLLERR
# Upkeep runs when nobody has asked anything for a while; what cannot wait, every few turns.
_QUIET_MS = 20
_UPKEEP_EVERY_TURNS = 8
_PROGRESS_EVERY_S = 0.1
_LAST_WORDS_BYTES = 8 << 20  # set free to say of what a worker dies, should that be want of memory


@dataclass(eq=False, slots=True)
class Session:
    """The worker's end of a pipe to one host."""

    sock: socket.socket
    client: int
    reader: FrameReader = field(default_factory=FrameReader)
    outbox: deque[memoryview] = field(default_factory=deque)
    held: list[Caller] = field(default_factory=list)
    """Requests whose answers are in the outbox."""

    def send(self, frame: list[bytes]) -> bool:
        """Send a frame; what the host does not take now is kept. True when all of it went."""
        left: Sequence[Buffer] = frame
        if not self.outbox:
            with contextlib.suppress(BlockingIOError):
                left = send_some(self.sock, frame, socket.MSG_DONTWAIT)
        self.outbox.extend(memoryview(part) for part in left)
        return not self.outbox

    def flush(self) -> bool:
        """Send what was kept; True when all of it went."""
        while self.outbox:
            try:
                sent = self.sock.send(self.outbox[0], socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            if sent < len(self.outbox[0]):
                self.outbox[0] = self.outbox[0][sent:]
            else:
                self.outbox.popleft()
        return True


@dataclass(eq=False, slots=True)
class Task:
    """Long work under way for a session."""

    session: Session
    request: int
    steps: Steps
    reported_at: float = 0.0


class Worker:
    """The serve loop around one actor."""

    def __init__(self, control: Channel, vitals: Vitals, actor: Actor) -> None:
        self._control = control
        self._vitals = vitals
        self._actor = actor
        self._poll = select.poll()
        self._sessions: dict[int, Session] = {}
        self._tasks: list[Task] = []
        self._replies: list[tuple[Session, FrameKind, object, int]] = []
        self._stopping = False
        self._removing = False
        self._turn = 0
        self._busy_at = 0.0
        self._spinner = Spinner()
        self._answered = False  # a single request, in the turn before
        self._upkeep = True
        control.sock.setblocking(False)
        self._poll.register(control.sock, _READABLE)

    def run(self) -> None:
        """Serve until told to stop or left alone."""
        while not self._stopping:
            self._turn += 1
            ready = self._spinner.look(self._poll.poll) if self._answered else []
            if not ready:
                ready = self._poll.poll(self._patience_ms())
            self._vitals.tick()
            if ready:
                self._busy_at = time.monotonic()
                self._drain(ready)
            self._vitals.saves(now=True)
            self._actor.commit()
            self._vitals.saves(now=self._stopping)
            self._send_replies()
            self._actor.settle()
            self._work_on()
        self._actor.commit()
        if self._removing:
            self._actor.remove()
        else:
            self._actor.close()

    def _patience_ms(self) -> int | None:
        if self._tasks:
            return 0
        if self._upkeep:
            return 0 if self._is_quiet() else _QUIET_MS
        due = self._actor.sync_due_in()
        return None if due is None else max(1, int(at_a_time(due) * 1000) + 1)

    def _is_quiet(self) -> bool:
        return time.monotonic() - self._busy_at >= _QUIET_MS / 1000

    # --- receiving -------------------------------------------------------------------------

    def _drain(self, ready: list[tuple[int, int]]) -> None:
        """Handle what has arrived, up to a bound that keeps replies within the ledger's memory."""
        control = self._control.sock.fileno()
        for descriptor, events in ready:
            if descriptor == control:
                self._take_orders()
                continue
            session = self._sessions.get(descriptor)
            if session is None:
                continue
            if events & select.POLLOUT:
                self._flush(session)
            if events & _READABLE and not session.outbox:
                self._receive(session)
            if len(self._replies) >= DRAIN_REQUESTS_MAX:
                break

    def _receive(self, session: Session) -> None:
        pending = session.reader.pending
        if pending is None:
            self._read_frames(session)
            return
        # A request so large that it comes in parts may cost more memory than there is.
        self._vitals.begin(session.client, pending.request)
        self._read_frames(session)
        self._vitals.enter(Phase.IDLE)

    def _read_frames(self, session: Session) -> None:
        try:
            alive = session.reader.receive(session.sock, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            alive = 0
        if not alive:
            self._close(session)
            return
        try:
            while (frame := session.reader.next()) is not None:
                self._take(session, frame)
        except ProtocolError as error:
            logging.getLogger("holdfast.worker").warning("closing a session: %s", error)
            self._close(session)

    def _take(self, session: Session, frame: Frame) -> None:
        header = frame.header
        if header.kind is not FrameKind.REQUEST:
            raise ProtocolError(f"a host sent a {header.kind.name} frame")
        self._vitals.begin(session.client, header.request)
        try:
            request = _decode_request(frame.body)
        except msgspec.ValidationError as error:
            malformed = InvalidArgument(f"malformed request: {error}")
            self._fail(session, header.request, malformed)
        except msgspec.DecodeError as error:
            self._vitals.enter(Phase.IDLE)
            raise ProtocolError(f"a host sent what is no message: {error}") from error
        else:
            self._handle(session, header, request)
        self._vitals.enter(Phase.IDLE)

    def _handle(self, session: Session, header: FrameHeader, request: Request) -> None:
        try:
            if header.deadline and header.deadline < time.monotonic():
                raise CallTimeout("the deadline passed before the request was handled")
            outcome = self._actor.handle(request, Caller(session.client, header.request))
        except HoldfastError as error:
            self._fail(session, header.request, error)
        else:
            if isinstance(outcome, msgspec.Struct):
                self._replies.append((session, FrameKind.REPLY, outcome, header.request))
            else:
                self._tasks.append(Task(session, header.request, outcome))

    def _fail(self, session: Session, request: int, error: HoldfastError) -> None:
        failure = Failure.of(error, traceback.format_exc())
        self._replies.append((session, FrameKind.ERROR, failure, request))

    # --- committing and replying -----------------------------------------------------------

    def _send_replies(self) -> None:
        self._answered = len(self._replies) == 1
        if not self._replies:
            return
        replies, self._replies = self._replies, []
        self._vitals.answered(len(replies))
        for session, kind, message, request in replies:
            self._vitals.begin(session.client, request)  # a large reply, too, costs memory
            self._send(session, kind, message, request)
        self._vitals.enter(Phase.IDLE)

    def _send(self, session: Session, kind: FrameKind, message: object, request: int) -> None:
        if session.sock.fileno() < 0:
            return  # it broke while its request was handled
        try:
            if not session.send(encode_frame(kind, message, request)):
                # Nothing more is read from a host that does not read.
                self._poll.modify(session.sock, select.POLLOUT)
                session.held.append(Caller(session.client, request))
                self._actor.hold(session.held[-1])
        except OSError:
            self._close(session)

    def _flush(self, session: Session) -> None:
        try:
            if session.flush():
                self._poll.modify(session.sock, _READABLE)
                self._release(session)
        except OSError:
            self._close(session)

    def _close(self, session: Session) -> None:
        descriptor = session.sock.fileno()
        if descriptor >= 0:
            self._poll.unregister(descriptor)
            del self._sessions[descriptor]
            session.sock.close()
            self._release(session)

    def _release(self, session: Session) -> None:
        for caller in session.held:
            self._actor.release(caller)
        session.held.clear()

    # --- work between turns ----------------------------------------------------------------

    def _work_on(self) -> None:
        """One slice of each task; and one of upkeep, now and then also while callers wait."""
        for task in list(self._tasks):
            self._advance(task)
        idle = self._upkeep and self._is_quiet()
        if idle or not self._turn % _UPKEEP_EVERY_TURNS or self._actor.pressed():
            self._upkeep = self._actor.step(idle=idle)
        else:
            self._upkeep = True  # look again when nobody asks

    def _advance(self, task: Task) -> None:
        self._vitals.begin(task.session.client, task.request)
        try:
            progress = next(task.steps)
        except StopIteration as finished:
            self._finish(task, FrameKind.REPLY, finished.value)
        except HoldfastError as error:
            self._finish(task, FrameKind.ERROR, Failure.of(error, traceback.format_exc()))
        else:
            now = time.monotonic()
            if progress is not None and now - task.reported_at >= _PROGRESS_EVERY_S:
                task.reported_at = now
                self._send(task.session, FrameKind.PROGRESS, progress, task.request)
        self._vitals.enter(Phase.IDLE)

    def _finish(self, task: Task, kind: FrameKind, message: Reply | Failure) -> None:
        self._tasks.remove(task)
        self._vitals.answered(1)
        self._send(task.session, kind, message, task.request)

    # --- orders ----------------------------------------------------------------------------

    def _take_orders(self) -> None:
        alive = self._control.receive()
        while (frame := self._control.next()) is not None:
            match _decode_order(frame.body):
                case messages.Serve(client=client):
                    self._begin(client)
                case messages.Stop(remove=remove):
                    self._stopping, self._removing = True, remove
                case messages.Ping():
                    pass  # the turn itself is the answer
        if not alive:
            os._exit(0)  # the supervisor is gone; the log is the truth

    def _begin(self, client: int) -> None:
        try:
            sock = self._control.take_socket()
        except OSError as error:  # the host sees its end, and asks again
            logging.getLogger("holdfast.worker").warning("cannot take a session: %s", error)
            return
        self._sessions[sock.fileno()] = Session(sock, client)
        self._poll.register(sock, _READABLE)


class _Forwarder(logging.Handler):
    """Sends log records to the supervisor, who passes them to the hosts' loggers."""

    def __init__(self, control: Channel) -> None:
        super().__init__(logging.INFO)
        self._control = control

    def emit(self, record: logging.LogRecord) -> None:
        if self._control.backlog > 100:
            return  # nobody reads; never let logging block a store
        line = messages.LogLine(
            record.name, record.levelno, record.getMessage(), record.created, os.getpid()
        )
        with contextlib.suppress(OSError):
            self._control.send(FrameKind.REQUEST, line)


def worker_main(spec: StoreSpec, sock: socket.socket, vitals: Vitals, parent: int) -> None:
    """Entry of a worker process, with its end of the control channel."""
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Batches make many short-lived tuples and no cycles; the default would look for some every 700.
    gc.set_threshold(100_000, 20, 20)
    setproctitle.setproctitle(f"holdfast: {spec.kind} worker of {spec.name} ({spec.path})")
    control = Channel(sock)
    logger = logging.getLogger("holdfast")
    logger.handlers[:] = [_Forwarder(control)]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    code = 0
    reserve = anonymous_memory(_LAST_WORDS_BYTES)  # addresses only: it is never touched
    try:
        _serve(spec, control, vitals)
    except BaseException as error:
        code = 1
        del reserve
        failure = Failure.of(error, traceback.format_exc())
        with contextlib.suppress(OSError):
            control.send(FrameKind.REQUEST, messages.Dying(failure))
    os._exit(code)


def _serve(spec: StoreSpec, control: Channel, vitals: Vitals) -> None:
    vitals.enter(Phase.RECOVERING)
    try:
        actor = opener(spec.kind)(OsDisk(), spec, vitals.tick)
    except HoldfastError as error:
        failure = Failure.of(error, traceback.format_exc())
        control.send(FrameKind.REQUEST, messages.Refused(failure))
        return
    vitals.enter(Phase.IDLE)
    control.send(FrameKind.REQUEST, messages.Ready(actor.properties()))
    Worker(control, vitals, actor).run()
