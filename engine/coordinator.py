"""Routing: from a store's name to a pipe to its worker, and again when the worker died.

Blocking calls take a session from the store's pool, use it alone, and give it back. How often a
request may be sent again is ``CallPolicy``'s to say.
"""

import contextlib
import itertools
import threading
import time

from holdfast.call import Call, CallPolicy, T
from holdfast.control import Control
from holdfast.formats.errors import CallTimeout, HoldfastError, InvalidArgument
from holdfast.formats.frame import FrameKind
from holdfast.formats.limits import SESSIONS_PER_STORE_MAX
from holdfast.options import EngineOptions, check_seconds
from holdfast.session import DeadlinePassed, Session, SessionLost
from holdfast.workers.channel import encode_frame
from holdfast.workers.messages import Exit, Opened, OpenStore, StoreSpec, Suspect

# Many callers at once need a session each; those are not kept for long once there are fewer.
_UNUSED_S = 60.0


class Pool:
    """The sessions of one host to one store's worker."""

    def __init__(self, control: Control, spec: StoreSpec, hung_after_s: float) -> None:
        self._control = control
        self._hung_after_s = hung_after_s
        self.spec = spec
        self.reset()

    def reset(self) -> None:
        """Forget every session, as after a fork."""
        self._closed = False
        self._idle: list[Session] = []
        self._open: set[Session] = set()
        self._connecting = 0
        self._waiting = 0
        self._freed = threading.Condition()
        self.exits: list[Exit] = []

    def take(self, lost: int, deadline: float) -> Session:
        """An idle session or a new one; ``lost`` is the generation that is known to be broken."""
        while True:
            try:
                session = self._idle.pop()  # atomic: the common case takes no lock
            except IndexError:
                break
            if session.generation != lost:
                session.alone = len(self._open) - len(self._idle) == 1
                return session
            self.discard(session)
        with self._freed:
            self._waiting += 1
            try:
                while len(self._open) + self._connecting >= SESSIONS_PER_STORE_MAX:
                    with contextlib.suppress(IndexError):  # a taker without the lock was faster
                        return self._idle.pop()
                    self._wait_for_one(deadline)
                self._connecting += 1
            finally:
                self._waiting -= 1
        return self._add(lost, deadline)

    def _wait_for_one(self, deadline: float) -> None:
        try:
            if not self._freed.wait(max(0.0, deadline - time.monotonic())):
                raise DeadlinePassed
        except BaseException:
            self._freed.notify()  # it may have been told of a session just now: another can use it
            raise

    def _add(self, lost: int, deadline: float) -> Session:
        session: Session | None = None
        try:
            session = self._connect(lost, deadline)
            return session
        finally:
            with self._freed:
                self._connecting -= 1
                if session is not None:
                    self._open.add(session)
                else:
                    self._freed.notify()

    def _connect(self, lost: int, deadline: float) -> Session:
        answered = self._control.ask(OpenStore(self.spec, True, lost, self._hung_after_s), deadline)
        assert isinstance(answered.answer, Opened)
        assert answered.sock is not None
        self.exits = answered.answer.exits
        return Session(answered.sock, answered.answer.generation)

    def give_back(self, session: Session) -> None:
        """The session is free for the next call."""
        self._idle.append(session)
        self._let_go_of_unused(session)
        if self._closed:
            self.close()
        elif self._waiting:
            with self._freed:
                self._freed.notify()

    def _let_go_of_unused(self, used: Session) -> None:
        """Hang up on a session that has long been of no use: the one used last is taken first."""
        with contextlib.suppress(IndexError, ValueError):  # another thread was faster
            longest = self._idle[0]
            if longest is not used and longest.unwatched_s() > _UNUSED_S:
                self._idle.remove(longest)
                self.discard(longest)

    def discard(self, session: Session) -> None:
        """The session is broken, or an answer nobody waits for is still under way on it."""
        session.close()
        with self._freed:
            self._open.discard(session)
            self._freed.notify()

    def close(self) -> None:
        """Hang up on every idle session, and on each of the others when its call has ended."""
        self._closed = True
        self.let_go()

    def let_go(self) -> None:
        """Hang up on every idle session; the next call gets a new one."""
        with contextlib.suppress(IndexError):
            while True:
                self.discard(self._idle.pop())

    def leave_to_parent(self) -> None:
        """In a forked child: close our copies of the parent's descriptors."""
        for session in self._open:
            session.close()
        self.reset()


class Coordinator:
    """All pools of one engine."""

    def __init__(self, control: Control, options: EngineOptions) -> None:
        self.control = control
        self.options = options
        self._requests = itertools.count(1)
        self._pools: dict[StoreSpec, Pool] = {}

    def deadline(self, timeout: float | None) -> float:
        """The moment a call gives up, on the monotonic clock."""
        if timeout is None:
            return time.monotonic() + self.options.timeout_s
        return time.monotonic() + check_seconds("timeout", timeout)

    def pool(self, spec: StoreSpec) -> Pool:
        """The pool of a store."""
        pool = self._pools.get(spec)
        if pool is None:
            pool = self._pools.setdefault(spec, Pool(self.control, spec, self.options.hung_after_s))
        return pool

    def next_request(self) -> int:
        """A request id, never used before by this client."""
        return next(self._requests)

    def run(self, pool: Pool, call: Call[T]) -> T:
        """Run one blocking call to its answer."""
        self.control.check_open()
        deadline = self.deadline(call.timeout)
        seconds = self.options.timeout_s if call.timeout is None else call.timeout
        request = self.next_request()
        policy = CallPolicy(pool.spec.name, self.control.client, request, call.message)
        try:
            while True:
                session = pool.take(policy.lost, deadline)
                if policy.lost:
                    try:
                        policy.learn(pool.exits)
                    except HoldfastError:
                        pool.give_back(session)
                        raise
                reply = self._attempt(pool, session, policy, call, request, deadline)
                if reply is not None:
                    return call.unwrap(reply)
        except DeadlinePassed:
            raise policy.timed_out(seconds) from None
        except CallTimeout as error:
            raise policy.overtaken(error, seconds) from error.__cause__

    def _attempt(
        self,
        pool: Pool,
        session: Session,
        policy: CallPolicy,
        call: Call[T],
        request: int,
        deadline: float,
    ) -> object | None:
        """Send the request over one session; None when the session broke."""
        try:
            try:
                frame = encode_frame(FrameKind.REQUEST, call.message, request, deadline)
            except (TypeError, ValueError, OverflowError) as error:
                raise call.objection(error) from error
            policy.sending()
            return session.exchange(
                frame, request, deadline, call.progress, lambda: self._watch(pool, session)
            )
        except InvalidArgument as error:
            raise call.objection(error) from error.__cause__
        except SessionLost:
            policy.session_lost(session.generation)
            return None
        finally:
            if session.clean:
                pool.give_back(session)
            else:
                pool.discard(session)

    def _watch(self, pool: Pool, session: Session) -> None:
        """Have the supervisor look at a worker whose answer is long in coming."""
        hung_after = self.options.hung_after_s
        if session.unwatched_s() >= hung_after / 2:
            session.watched()
            connection = self.control.connected()
            if connection is not None:
                connection.ask(Suspect(pool.spec.name, session.generation, hung_after))

    def dropped(self, name: str) -> None:
        """The store of this name is gone, and with it the other end of its sessions."""
        for spec, pool in list(self._pools.items()):
            if spec.name == name:
                pool.let_go()

    def close(self) -> None:
        """Hang up everywhere and leave the supervisor."""
        for pool in self._pools.values():
            pool.close()
        self.control.close()

    def leave_to_parent(self) -> None:
        """In a forked child: share nothing with the parent, and reconnect at the next call."""
        for pool in self._pools.values():
            pool.leave_to_parent()
        self.control.leave_to_parent()
        self._requests = itertools.count(1)
