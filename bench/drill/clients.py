"""Clients of a store: they write, read and delete as their seed says, and keep a history."""

import contextlib
import itertools
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from holdfast.bench.drill.history import Outcome, Recorder, Value
from holdfast.bench.drill.live_stores import LiveStore, keys_of
from holdfast.bench.drill.serving import PATIENCE_S, Stuck
from holdfast.formats.errors import (
    CallTimeout,
    EngineClosed,
    EngineUnavailable,
    HoldfastError,
    InvalidArgument,
    StoreFull,
    StoreReadOnly,
    WorkerCrashed,
)

T = TypeVar("T")
_READS, _DELETES = 0.4, 0.1

SHARED_GROUPS = (0, 1)
"""Groups that all clients of a store use; each has one of its own besides."""


def groups_of(own: int) -> Sequence[int]:
    """What a client chooses from: as often its own group as one that is shared."""
    return (*SHARED_GROUPS, own, own)


def outcome_of(error: HoldfastError) -> Outcome:
    """Whether a call that ended with this error may have had an effect, by what errors promise."""
    if isinstance(error, CallTimeout | WorkerCrashed):
        return "unknown" if error.may_have_happened else "failed"
    if isinstance(error, InvalidArgument | StoreFull | StoreReadOnly | EngineUnavailable):
        return "failed"
    return "unknown"


@dataclass(slots=True)
class Pace:
    """When calls are to start. None between: each follows the one before, and none is measured."""

    between_s: float | None = None
    _measured: deque[tuple[float, bool]] = field(default_factory=deque)

    def measured(self, latency_s: float, *, failed: bool) -> None:
        """Note a call that took so long from its intended start."""
        self._measured.append((latency_s, failed))

    def taken(self) -> Iterator[tuple[float, bool]]:
        """What was noted since this was asked last."""
        with contextlib.suppress(IndexError):
            while True:
                yield self._measured.popleft()


class Client(threading.Thread):
    """A thread that uses one store and notes what it sees."""

    def __init__(
        self,
        store: LiveStore,
        recorder: Recorder,
        groups: Sequence[int],
        seed: int,
        pace: Pace | None = None,
    ) -> None:
        super().__init__(name=f"client {recorder.client}", daemon=True)
        self.calls = 0
        self.acknowledged = 0
        self.errors: list[HoldfastError] = []
        self.defect: Exception | None = None
        self._store = store
        self._recorder = recorder
        self._groups = groups
        self._random = random.Random(seed)
        self.pace = pace or Pace()
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Have it end after the call it is at."""
        self._stopping.set()

    def run(self) -> None:
        """Call until told to stop."""
        due = time.monotonic()
        try:
            for number in itertools.count(1):
                text = f"{self._recorder.client}.{number}"
                if self.pace.between_s is None:
                    if self._stopping.is_set():
                        return
                    self._one(text)
                    continue
                due += self.pace.between_s * self._random.uniform(0.5, 1.5)
                if self._stopping.wait(max(0.0, due - time.monotonic())):
                    return
                failed = len(self.errors)
                self._one(text)
                latency_s = time.monotonic() - due
                self.pace.measured(latency_s, failed=len(self.errors) > failed)
        except Exception as error:
            self.defect = error

    def _one(self, text: str) -> None:
        group = self._random.choice(self._groups)
        choice = self._random.random()
        if choice < _READS:
            self.read(group)
        elif choice < _READS + _DELETES:
            keys = keys_of(group)
            if not self._store.deletes_together:
                keys = keys[:1]
            self.change(keys, None, text, lambda: self._store.delete(keys, text))
        else:
            self.change(keys_of(group), text, text, lambda: self._store.write(group, text))

    def read(self, group: int) -> None:
        """Read a group, and the stream."""
        keys = keys_of(group)

        def read() -> list[Value]:
            found = self._store.find(group)
            return [found.get(key) for key in keys]

        self._look(keys, read)
        if self._store.stream is not None:
            self._look((self._store.stream,), lambda: [self._store.position()])

    def _look(self, keys: Sequence[str], read: Callable[[], list[Value]]) -> None:
        number = self._recorder.invoked(keys)
        values = self._call(number, read)
        if values is not None:
            self._recorder.ended(number, "acknowledged", values)

    def change(self, keys: Sequence[str], value: Value, text: str, act: Callable[[], None]) -> None:
        """Write ``value`` to keys and ``text`` to the stream."""
        values: list[Value] = [value] * len(keys)
        if self._store.stream is not None:
            keys, values = [*keys, self._store.stream], [*values, text]
        number = self._recorder.invoked(keys, values)

        def done() -> bool:
            act()
            return True

        if self._call(number, done):
            self.acknowledged += 1
            self._recorder.ended(number, "acknowledged")

    def _call(self, number: int, function: Callable[[], T]) -> T | None:
        self.calls += 1
        try:
            return function()
        except HoldfastError as error:
            self.errors.append(error)
            text = f"{type(error).__name__}: {error}"
            self._recorder.ended(number, outcome_of(error), error=text)
            if isinstance(error, EngineClosed):
                self.stop()  # the program is about to end, and so does a thread of it
            return None


class Crowd:
    """Several clients of one store."""

    def __init__(self, clients: Sequence[Client]) -> None:
        self.clients = clients

    def start(self) -> None:
        """Begin."""
        for client in self.clients:
            client.start()

    def stop(self) -> None:
        """Have all end, and wait for it. Raises ``Stuck`` when a call never returns."""
        for client in self.clients:
            client.stop()
        for client in self.clients:
            if client.ident is not None:
                client.join(PATIENCE_S)
            if client.is_alive():
                raise Stuck(f"{client.name} never got an answer")

    @property
    def calls(self) -> int:
        """How many were made."""
        return sum(client.calls for client in self.clients)

    @property
    def errors(self) -> list[HoldfastError]:
        """What calls ended with that did not end well."""
        return [error for client in self.clients for error in client.errors]

    def got_on(self, acts: int = 5) -> None:
        """Wait until each client has had some more acknowledged; ``Stuck`` when one does not."""
        goals = [client.acknowledged + acts for client in self.clients]
        give_up = time.monotonic() + PATIENCE_S
        for client, goal in zip(self.clients, goals, strict=True):
            while client.acknowledged < goal:
                if client.defect is not None:
                    raise client.defect
                if time.monotonic() > give_up:
                    raise Stuck(f"{client.name} gets nothing acknowledged: {client.errors[-1:]}")
                time.sleep(0.002)
