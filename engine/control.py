"""The host's control connection to its supervisor: questions, answers, and workers' log records.

One daemon thread per engine reads it, since log records come when nobody asks. Requests to stores
never pass here; they have pipes of their own.
"""

import logging
import os
import socket
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout

import msgspec

from holdfast.formats.errors import (
    CallTimeout,
    EngineClosed,
    EngineUnavailable,
    InvalidArgument,
    ProtocolError,
    from_os_error,
)
from holdfast.formats.frame import WIRE_VERSION, FrameKind
from holdfast.formats.limits import SUPERVISORS_PER_QUESTION_MAX
from holdfast.joining import Launches, host_command, join_or_start
from holdfast.last_words import last_line
from holdfast.options import EngineOptions
from holdfast.workers import messages
from holdfast.workers.channel import Channel, Frame
from holdfast.workers.messages import Answer, Ask, Failure
from holdfast.workers.places import Places

_LEAVE_S = 3.0
_decode_answer = msgspec.msgpack.Decoder(messages.Answer).decode
_decode_failure = msgspec.msgpack.Decoder(Failure).decode


class ConnectionLost(Exception):
    """The supervisor went away before it answered; ask the next one."""


class Answered:
    """An answer, with the session that came along, if one did."""

    __slots__ = ("answer", "sock")

    def __init__(self, answer: Answer, sock: socket.socket | None = None) -> None:
        self.answer = answer
        self.sock = sock


class Connection:
    """One connection to one supervisor, until it breaks."""

    def __init__(self, sock: socket.socket, forget: Callable[["Connection"], None]) -> None:
        self.channel = Channel(sock)
        self._forget = forget
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[Answered]] = {}
        self._number = 0
        self.broken = False
        """Nothing is answered any more; once true, it stays so."""
        self.heard = 0
        """How often the supervisor has said something."""
        self.thread = threading.Thread(target=self._read, name="holdfast-control", daemon=True)

    def ask(self, ask: Ask) -> "Future[Answered]":
        """Send a question; the future holds the answer, an error, or ``ConnectionLost``."""
        future: Future[Answered] = Future()
        with self._lock:
            if self.broken:
                future.set_exception(ConnectionLost())
                return future
            self._number += 1
            self._waiting[self._number] = future
            try:
                self.channel.send(FrameKind.REQUEST, ask, self._number)
            except OSError:
                self.broken = True  # at once, so that nobody is sent here again
                _hang_up(self)
                del self._waiting[self._number]
                future.set_exception(ConnectionLost())
            except (TypeError, ValueError, OverflowError) as error:  # such as text that is none
                del self._waiting[self._number]
                future.set_exception(InvalidArgument(f"cannot send {ask!r}: {error}"))
        return future

    def _read(self) -> None:
        try:
            while self.channel.receive():
                self.heard += 1
                while (frame := self.channel.next()) is not None:
                    self._take(frame)
                with self._lock:
                    # What there was no room for: whoever filled the pipe is being answered now.
                    self.channel.flush()
        except (OSError, ProtocolError, msgspec.MsgspecError):
            pass  # a broken connection and a confused one end alike: with the next supervisor
        finally:
            self._end()

    def _end(self) -> None:
        with self._lock:
            self.broken = True
            waiting = list(self._waiting.values())
            self._waiting.clear()
        self._forget(self)
        self.channel.close()
        for future in waiting:
            _fail(future, ConnectionLost())

    def _take(self, frame: Frame) -> None:
        if frame.header.kind is FrameKind.PROGRESS:
            _log(_decode_answer(frame.body))
            return
        with self._lock:
            future = self._waiting.pop(frame.header.request, None)
        if frame.header.kind is FrameKind.ERROR:
            error = _decode_failure(frame.body).error()
            if future is not None:
                _fail(future, error)
            return
        answer = _decode_answer(frame.body)
        sock = None
        if isinstance(answer, messages.Opened) and answer.session:
            try:
                sock = self.channel.take_socket()
            except OSError as error:
                if future is not None:
                    _fail(future, from_os_error(error, "take a session to", answer.spec.path))
                return
        if future is None or not future.set_running_or_notify_cancel():
            if sock is not None:
                sock.close()
            return
        future.set_result(Answered(answer, sock))


class Losses:
    """The supervisors that ended before they answered a question."""

    def __init__(self, places: Places, deadline: float) -> None:
        self._places = places
        self._deadline = deadline
        self._since = time.time()
        self._count = 0

    def another(self, ask: Ask) -> None:
        """One more. Raises ``EngineUnavailable`` at the last that is allowed, or ``CallTimeout``.

        Most are killed for reasons of their own, but it may be the question that ends them, and
        each of them takes the workers of every store along.
        """
        self._count += 1
        if self._count == SUPERVISORS_PER_QUESTION_MAX:
            raise EngineUnavailable(
                f"the supervisor of {self._places.directory!r} ended {self._count} times before it "
                f"answered {type(ask).__name__}, so it is not asked again; "
                f"{last_line(self._places, self._since)}",
                path=self._places.directory,
            )
        if time.monotonic() >= self._deadline:
            raise self.timed_out()

    def timed_out(self) -> CallTimeout:
        """The error for a supervisor that does not answer in time."""
        ends = f"it ended {self._count} times; " if self._count > 1 else "it ended; "
        words = "; " + ends + last_line(self._places, self._since) if self._count else ""
        return CallTimeout(
            f"the supervisor of {self._places.directory!r} did not answer in time{words}",
            path=self._places.directory,
            may_have_happened=False,
        )


class Control:
    """The engine's line to whichever supervisor serves the directory."""

    def __init__(self, places: Places, options: EngineOptions) -> None:
        self._places = places
        self._options = options
        self._closed = False
        self.reset()

    def reset(self) -> None:
        """Start over as another client, as after a fork: nothing is shared with the parent."""
        self.client = int.from_bytes(os.urandom(8), "little") | 1
        self._joining = threading.Lock()
        self._connection: Connection | None = None

    def leave_to_parent(self) -> None:
        """In a forked child: close our copies of the parent's descriptors."""
        if self._connection is not None:
            self._connection.channel.close()
        self.reset()

    def ask(self, ask: Ask, deadline: float) -> Answered:
        """Ask and wait; joins or starts a supervisor first if there is none."""
        losses = self.losses(deadline)
        while True:
            future = self.connection(deadline).ask(ask)
            try:
                return self._result(future, deadline, losses)
            except ConnectionLost:
                losses.another(ask)

    def losses(self, deadline: float) -> Losses:
        """To count those of one question."""
        return Losses(self._places, deadline)

    def _result(self, future: "Future[Answered]", deadline: float, losses: Losses) -> Answered:
        try:
            return future.result(max(0.0, deadline - time.monotonic()))
        except FutureTimeout:
            if future.cancel():
                raise losses.timed_out() from None
            return future.result()  # it came at the last moment, or is an error of this type

    def connected(self) -> Connection | None:
        """The connection, if there is one."""
        connection = self._connection
        return None if connection is None or connection.broken else connection

    def connection(self, deadline: float) -> Connection:
        """The connection, made anew if it broke."""
        connection = self._connection
        if connection is not None and not connection.broken:
            return connection
        with self._joining:
            if self._closed:
                raise closed_error(self._places.directory)
            launches = Launches()
            while self._connection is None or self._connection.broken:
                self._connection = self._join(deadline, launches)
            return self._connection

    def _join(self, deadline: float, launches: Launches) -> Connection | None:
        sock = join_or_start(self._places, deadline, launches)
        connection = Connection(sock, self._forget)
        hello = messages.Hello(WIRE_VERSION, os.getpid(), self.client, host_command())
        try:
            connection.thread.start()
            future = connection.ask(hello)
            future.result(max(0.0, deadline - time.monotonic()))
        except ConnectionLost:
            return None  # it was just ending
        except FutureTimeout:
            _hang_up(connection)
            raise EngineUnavailable(
                f"the supervisor of {self._places.directory!r} did not answer in time",
                path=self._places.directory,
            ) from None
        except BaseException:
            _hang_up(connection)
            raise
        return connection

    def _forget(self, connection: Connection) -> None:
        if self._connection is connection:
            self._connection = None

    def check_open(self) -> None:
        """Raise ``EngineClosed`` if it was."""
        if self._closed:
            raise closed_error(self._places.directory)

    def close(self) -> None:
        """Leave; when this was the last host, return after everything has stopped.

        Or when the supervisor says nothing for long; while stores are being synced it says so.
        """
        with self._joining:
            self._closed = True
            connection = self._connection
        if connection is None:
            return
        connection.ask(messages.Leave())
        if connection.thread is not threading.current_thread():
            heard = -1
            while connection.thread.is_alive() and connection.heard != heard:
                heard = connection.heard
                connection.thread.join(_LEAVE_S)
        _hang_up(connection)


def _fail(future: "Future[Answered]", error: Exception) -> None:
    """Fail a future that its waiter may have cancelled meanwhile."""
    if future.set_running_or_notify_cancel():
        future.set_exception(error)


def _hang_up(connection: Connection) -> None:
    try:
        connection.channel.sock.shutdown(socket.SHUT_RDWR)  # which wakes the reading thread
    except OSError:
        return


def closed_error(directory: str) -> EngineClosed:
    """The error for a call on a closed engine."""
    return EngineClosed(
        f"the engine on {directory!r} is closed; open another with holdfast.open", path=directory
    )


def _log(line: Answer) -> None:
    """Hand a worker's log record to this process's loggers."""
    if not isinstance(line, messages.LogLine):
        raise ProtocolError(f"the supervisor sent {type(line).__name__} unasked")
    logger = logging.getLogger(line.logger)
    if logger.isEnabledFor(line.level):
        record = logger.makeRecord(line.logger, line.level, "", 0, line.text, (), None)
        record.created = line.created
        record.process = line.pid
        try:
            logger.handle(record)
        except Exception:  # the host's handler or filter: not a reason to stop answering its calls
            if logging.raiseExceptions:
                traceback.print_exc()
