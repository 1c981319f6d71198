"""Routing for asyncio: one pipe per store, many requests in flight on it, told apart by their id.

A cancelled or timed-out call leaves nothing behind: its answer finds nobody and is dropped.
"""

import asyncio
import os
import socket
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import msgspec

from holdfast.call import Call, CallPolicy, T
from holdfast.control import Answered, ConnectionLost
from holdfast.coordinator import Coordinator
from holdfast.formats.errors import (
    CallTimeout,
    EngineUnavailable,
    HoldfastError,
    InvalidArgument,
    ProtocolError,
)
from holdfast.formats.frame import FrameKind
from holdfast.formats.limits import IN_FLIGHT_PER_SESSION_MAX
from holdfast.session import (
    DeadlinePassed,
    SessionLost,
    decode_failure,
    decode_progress,
    decode_reply,
)
from holdfast.workers.channel import Buffer, Frame, FrameReader, encode_frame, send_some
from holdfast.workers.messages import Ask, Exit, Opened, OpenStore, StoreSpec, Suspect


class _Waiting:
    """A request under way."""

    __slots__ = ("call", "future")

    def __init__(self, call: Call[T], future: "asyncio.Future[object]") -> None:
        self.call = call
        self.future = future


class AsyncSession:
    """A pipe to the worker of one generation, shared by all calls of one loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, generation: int
    ) -> None:
        self.generation = generation
        self.lost = False
        self.slots = asyncio.Semaphore(IN_FLIGHT_PER_SESSION_MAX)
        self._loop = loop
        self._sock = sock
        self._reader = FrameReader()
        self._outbox: deque[memoryview] = deque()
        self._waiting: dict[int, _Waiting] = {}
        sock.setblocking(False)
        loop.add_reader(sock, self._readable)

    def send(self, call: Call[T], request: int, deadline: float) -> "asyncio.Future[object]":
        """Send a request; the future holds the reply, an error, or ``SessionLost``."""
        frame = encode_frame(FrameKind.REQUEST, call.message, request, deadline)
        future: asyncio.Future[object] = self._loop.create_future()
        self._waiting[request] = _Waiting(call, future)
        left: Sequence[Buffer] = frame
        if not self._outbox:
            try:
                left = send_some(self._sock, frame)
            except BlockingIOError:
                pass
            except OSError:
                self.break_off()
                return future
            if left:
                self._loop.add_writer(self._sock, self._writable)
        self._outbox.extend(memoryview(part) for part in left)
        return future

    def forget(self, request: int) -> None:
        """Nobody waits for this answer any more."""
        self._waiting.pop(request, None)

    def _writable(self) -> None:
        try:
            while self._outbox:
                sent = self._sock.send(self._outbox[0])
                if sent < len(self._outbox[0]):
                    self._outbox[0] = self._outbox[0][sent:]
                    return
                self._outbox.popleft()
        except BlockingIOError:
            return
        except OSError:
            self.break_off()
            return
        self._loop.remove_writer(self._sock)

    def _readable(self) -> None:
        try:
            if not self._reader.receive(self._sock):
                self.break_off()
                return
            while (frame := self._reader.next()) is not None:
                self._take(frame)
        except BlockingIOError:
            return
        except (OSError, ProtocolError, msgspec.MsgspecError):
            self.break_off()

    def _take(self, frame: Frame) -> None:
        waiting = self._waiting.get(frame.header.request)
        if waiting is None:
            return
        if frame.header.kind is FrameKind.PROGRESS:
            if waiting.call.progress is not None and not waiting.future.done():
                try:
                    waiting.call.progress(decode_progress(frame.body))
                except Exception as error:  # the caller's, so the caller gets it
                    waiting.future.set_exception(error)
            return
        del self._waiting[frame.header.request]
        if waiting.future.done():
            return
        if frame.header.kind is FrameKind.REPLY:
            waiting.future.set_result(decode_reply(bytes(frame.body)))
        else:
            waiting.future.set_exception(decode_failure(frame.body).error())

    def break_off(self) -> None:
        """Hang up; everything under way is lost and will be sent again elsewhere."""
        if self.lost:
            return
        self.lost = True
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        waiting, self._waiting = self._waiting, {}
        for entry in waiting.values():
            if not entry.future.done():
                entry.future.set_exception(SessionLost())


def _close_late(asked: "Future[Answered]") -> None:
    """Close the session that an answer nobody waits for any more may have brought."""
    if not asked.cancel() and asked.exception() is None and (sock := asked.result().sock):
        sock.close()


async def _acquire(lock: asyncio.Lock | asyncio.Semaphore, deadline: float) -> None:
    """Take a lock, which is the caller's to release, unless the deadline passes first."""
    if lock.locked():
        try:
            await asyncio.wait_for(lock.acquire(), max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            raise DeadlinePassed from None
    else:
        await lock.acquire()


@dataclass(slots=True)
class _Route:
    """The way to one store's worker."""

    session: AsyncSession | None = None
    connecting: asyncio.Lock = field(default_factory=asyncio.Lock)
    exits: list[Exit] = field(default_factory=list)

    def usable(self, lost: int) -> AsyncSession | None:
        """The session, unless it broke or leads to the generation that was ``lost``."""
        session = self.session
        return None if session is None or session.lost or session.generation == lost else session


class AsyncCoordinator:
    """All sessions of one engine in one event loop."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._control = coordinator.control
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        # Not by name, which another file may have by the time an old handle is used again.
        self._routes: defaultdict[StoreSpec, _Route] = defaultdict(_Route)

    async def ask(self, ask: Ask, deadline: float) -> Answered:
        """As ``Control.ask``, without blocking the loop."""
        losses = self._control.losses(deadline)
        while True:
            connection = self._control.connected()
            if connection is None:
                connection = await asyncio.to_thread(self._control.connection, deadline)
            asked = connection.ask(ask)
            try:
                future = asyncio.wrap_future(asked)
                return await asyncio.wait_for(future, max(0.0, deadline - time.monotonic()))
            except ConnectionLost:
                losses.another(ask)
            except TimeoutError as error:
                _close_late(asked)
                if isinstance(error, HoldfastError):
                    raise
                raise losses.timed_out() from None
            except asyncio.CancelledError:
                _close_late(asked)
                raise

    async def run(self, spec: StoreSpec, call: Call[T]) -> T:
        """Run one call to its answer."""
        self._check()
        deadline = self._coordinator.deadline(call.timeout)
        options = self._coordinator.options
        seconds = options.timeout_s if call.timeout is None else call.timeout
        request = self._coordinator.next_request()
        policy = CallPolicy(spec.name, self._control.client, request, call.message)
        route = self._routes[spec]
        try:
            while True:
                session = await self._session(route, spec, policy.lost, deadline)
                policy.learn(route.exits)
                try:
                    reply = await self._exchange(session, spec, policy, call, request, deadline)
                except SessionLost:
                    policy.session_lost(session.generation)
                else:
                    return call.unwrap(reply)
        except DeadlinePassed:
            raise policy.timed_out(seconds) from None
        except CallTimeout as error:
            raise policy.overtaken(error, seconds) from error.__cause__

    def _check(self) -> None:
        self._control.check_open()
        if os.getpid() != self._pid:
            raise EngineUnavailable(
                "this asyncio engine belongs to the parent process; open another in this one with "
                "holdfast.aio.open"
            )
        if asyncio.get_running_loop() is not self._loop:
            raise InvalidArgument("this engine belongs to another event loop")

    async def _session(
        self, route: _Route, spec: StoreSpec, lost: int, deadline: float
    ) -> AsyncSession:
        """The store's session, made anew if it broke; many callers wait for one connection."""
        if (session := route.usable(lost)) is not None:
            return session
        await _acquire(route.connecting, deadline)
        try:
            if (session := route.usable(lost)) is not None:
                return session
            if route.session is not None:
                route.session.break_off()
            answered = await self.ask(
                OpenStore(spec, True, lost, self._coordinator.options.hung_after_s), deadline
            )
            assert isinstance(answered.answer, Opened)
            assert answered.sock is not None
            route.exits = answered.answer.exits
            route.session = AsyncSession(self._loop, answered.sock, answered.answer.generation)
            return route.session
        finally:
            route.connecting.release()

    async def _exchange(
        self,
        session: AsyncSession,
        spec: StoreSpec,
        policy: CallPolicy,
        call: Call[T],
        request: int,
        deadline: float,
    ) -> object:
        await _acquire(session.slots, deadline)
        try:
            if session.lost:
                raise SessionLost
            try:
                future = session.send(call, request, deadline)
            except (TypeError, ValueError, OverflowError) as error:
                raise call.objection(error) from error
            policy.sending()
            try:
                await self._patiently(future, session, spec, deadline)
                return future.result()
            except InvalidArgument as error:
                raise call.objection(error) from error.__cause__
            finally:
                session.forget(request)
        finally:
            session.slots.release()

    async def _patiently(
        self,
        future: "asyncio.Future[object]",
        session: AsyncSession,
        spec: StoreSpec,
        deadline: float,
    ) -> None:
        """Wait until the future is done; on the way, have a silent worker looked at."""
        hung_after = self._coordinator.options.hung_after_s
        while (remaining := deadline - time.monotonic()) > 0:
            await asyncio.wait((future,), timeout=min(remaining, hung_after / 2))
            if future.done():
                return
            if (connection := self._control.connected()) is not None:
                connection.ask(Suspect(spec.name, session.generation, hung_after))
        raise DeadlinePassed

    def close(self) -> None:
        """Hang up everywhere."""
        for route in self._routes.values():
            if route.session is not None:
                route.session.break_off()

    async def leave(self) -> None:
        """Hang up everywhere and leave the supervisor."""
        self.close()
        await asyncio.to_thread(self._coordinator.close)
        self.close()  # calls under way may have connected anew meanwhile
