"""Writers on one fold while its worker and its supervisor are killed under them."""

import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from holdfast.engine import Engine
from holdfast.formats.errors import HoldfastError
from holdfast.formats.values import Cursor, Put
from holdfast.handles.fold import Fold

T = TypeVar("T")
Role = Literal["worker", "supervisor"]

WRITERS = 4
ROUNDS: tuple[Role, ...] = ("worker", "worker", "supervisor") * 4
_WRITES_BETWEEN_KILLS = 25
_STALLED_S = 30.0


@dataclass(slots=True)
class _Tally:
    """What one caller did; only its own thread writes to it."""

    calls: int = 0
    failed: int = 0
    unseen: int = 0
    """Acknowledged writes that a read after them did not see."""
    acknowledged: list[int] = field(default_factory=list)
    error: str = ""

    def call(self, function: Callable[[], T]) -> T | None:
        """Call and count."""
        self.calls += 1
        try:
            return function()
        except HoldfastError as error:
            self.failed += 1
            self.error = self.error or f"{type(error).__name__}: {error}"
            return None


def _value(writer: int, number: int) -> bytes:
    return b"writer %d, write %d, " % (writer, number) * 8


class Storm:
    """Writers on one fold, whose worker and supervisor are killed under them."""

    def __init__(self, engine: Engine, name: str, rounds: Sequence[Role] = ROUNDS) -> None:
        self._engine = engine
        self._name = name
        self._rounds = rounds
        self._fold = engine.fold(name, durability="always")
        self._stop = threading.Event()
        self._progress = threading.Condition()
        self._tallies = [_Tally() for _ in range(WRITERS)]
        self._probe = _Tally()
        self.replies_s: dict[str, list[float]] = {"worker": [], "supervisor": []}
        self.seconds = 0.0

    def rage(self, tick: Callable[[int], None]) -> None:
        """Run the writers and kill; returns when all is over."""
        threads = [
            threading.Thread(target=self._write, args=(number,)) for number in range(WRITERS)
        ]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        try:
            for role in self._rounds:
                if not self._writers_got_on():
                    break
                self._kill(role)
                tick(1)
            self._writers_got_on()
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()
            self.seconds = time.perf_counter() - began

    def _write(self, writer: int) -> None:
        tally = self._tallies[writer]
        number = 0
        while not self._stop.is_set() and not tally.failed:
            number += 1
            value, latest = _value(writer, number), f"latest/{writer}"
            updates = [Put(f"all/{writer}/{number}", value), Put(latest, value)]
            cursor = Cursor.from_u64(number)
            tally.call(lambda: self._fold.apply(updates, cursor))  # noqa: B023 - called at once
            if not tally.failed:
                with self._progress:
                    tally.acknowledged.append(number)
                    self._progress.notify()
                entry = tally.call(lambda: self._fold.get(latest))  # noqa: B023 - called at once
                if not tally.failed:
                    tally.unseen += entry is None or entry.value != value
        with self._progress:
            self._progress.notify()

    def _writers_got_on(self) -> bool:
        """Wait until every writer has written some more; False when one has failed.

        So each kill meets calls that the one before it did not: a call that is being worked on
        at two deaths is given up, as it may be what killed the workers.
        """
        goals = [len(tally.acknowledged) + _WRITES_BETWEEN_KILLS for tally in self._tallies]

        def ready() -> bool:
            reached = zip(self._tallies, goals, strict=True)
            return self._failed() or all(len(t.acknowledged) >= goal for t, goal in reached)

        with self._progress:
            if not self._progress.wait_for(ready, _STALLED_S):
                self._probe.failed += 1
                self._probe.error = f"a writer got no answer within {_STALLED_S:g} s"
        return not self._failed()

    def _failed(self) -> bool:
        return any(tally.failed for tally in (*self._tallies, self._probe))

    def _kill(self, role: Role) -> None:
        """Kill one process and measure until the first reply of the new worker."""
        processes = self._probe.call(self._engine.processes) or []
        status = self._probe.call(self._fold.status)
        store = self._name if role == "worker" else None
        victims = [p.pid for p in processes if p.role == role and p.store == store]
        if status is None or not victims:
            self._probe.failed += 1
            self._probe.error = self._probe.error or f"no {role} to kill among {processes}"
            return
        began = time.perf_counter()
        os.kill(victims[0], signal.SIGKILL)
        while (reply := self._probe.call(self._fold.status)) is not None:
            if reply.pid != status.pid:
                self.replies_s[role].append(time.perf_counter() - began)
                return

    @property
    def survived(self) -> bool:
        """Whether a reply came after each kill that was planned."""
        return sum(map(len, self.replies_s.values())) == len(self._rounds)

    def lost(self, fold: Fold) -> int:
        """How many acknowledged writes a fold, opened anew, does not hold."""
        held = {entry.key: entry.value for entry in fold.scan()}
        lost = 0
        for writer, tally in enumerate(self._tallies):
            for number in tally.acknowledged:
                lost += held.get(f"all/{writer}/{number}") != _value(writer, number)
            if tally.acknowledged:
                last = tally.acknowledged[-1]
                # A write that failed may have happened: then it is the one behind the last.
                may_be = (_value(writer, last), *[_value(writer, last + 1)] * tally.failed)
                lost += held.get(f"latest/{writer}") not in may_be
        return lost

    def fields(self) -> dict[str, object]:
        """The figures, as JSON has them."""
        tallies = [*self._tallies, self._probe]
        return {
            "writers": WRITERS,
            "seconds": round(self.seconds, 3),
            "calls_made": sum(tally.calls for tally in tallies),
            "calls_failed": sum(tally.failed for tally in tallies),
            "acknowledged_writes": sum(len(tally.acknowledged) for tally in tallies),
            "acknowledged_writes_unseen": sum(tally.unseen for tally in tallies),
            "first_error": next((tally.error for tally in tallies if tally.error), None),
            **{
                f"{role}_kills": {
                    "count": len(times),
                    "first_reply_ms_median": milliseconds(statistics.median(times))
                    if times
                    else None,
                    "first_reply_ms_max": milliseconds(max(times)) if times else None,
                }
                for role, times in self.replies_s.items()
            },
        }


def milliseconds(seconds: float) -> float:
    """Seconds as milliseconds, rounded for people."""
    return round(1000 * seconds, 2)
