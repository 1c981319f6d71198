"""Clients: each makes one call after the other, when it is due, and judges what came.

The next operation is prepared before its moment has come, and judged after its end was noted, so
that what is measured is the call.
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from holdfast.bench.load.pace import Pace
from holdfast.bench.load.timings import Tape
from holdfast.bench.load.truth import WrongRead
from holdfast.bench.load.work import Steps, Work

_KEPT = 20
"""Texts of errors and wrong reads in each interval; the others are counted."""
_NAP_S = 0.1
"""How long a task sleeps until it looks whether it is to stop."""


@dataclass(slots=True)
class Meter:
    """What the clients of a process measure. Labels are ``store.operation``."""

    tapes: Mapping[str, Tape]
    errors: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    texts: list[str] = field(default_factory=list)
    outstanding: int = 0
    defect: Exception | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def failed(self, label: str, error: Exception) -> None:
        """Note an error, or a wrong read."""
        with self.lock:
            where = self.wrong if isinstance(error, WrongRead) else self.errors
            where[label] += 1
            if len(self.texts) < _KEPT:
                self.texts.append(f"{label}: {type(error).__name__}: {error}")

    def under_way(self, change: int) -> None:
        """A call begins or has ended."""
        with self.lock:
            self.outstanding += change


@dataclass(frozen=True, slots=True)
class Store:
    """A store as a client uses it."""

    work: Work[Any, Any]
    handle: Any


class Prepared:
    """An operation that has come as far as its call."""

    def __init__(self, label: str, handle: Any, steps: Steps) -> None:
        self.label = label
        self._handle = handle
        self._steps = steps
        self._call: Callable[[Any], Any] = next(steps)

    def call(self) -> Any:
        """Make it; an asyncio handle's answer is still to be awaited."""
        return self._call(self._handle)

    def judge(self, answer: Any) -> None:
        """Have the answer judged; raises ``WrongRead``."""
        try:
            self._steps.send(answer)
        except StopIteration:
            return
        raise AssertionError(f"{self.label} makes more than one call")

    def give_up(self) -> None:
        """There was no answer."""
        self._steps.close()


class Client:
    """Chooses operations, and notes how they went."""

    def __init__(self, stores: list[Store], generator: np.random.Generator, meter: Meter) -> None:
        self._meter = meter
        self._generator = generator
        self._choices: list[tuple[str, Any, Callable[[], Steps]]] = []
        weights = []
        for store in stores:
            load = store.work.load
            operations = store.work.operations()
            total = sum(load.operations.values())
            for name, weight in load.operations.items():
                label = f"{load.kind}.{name}"
                self._choices.append((label, store.handle, operations[name]))
                weights.append(load.share * weight / total)
        self._shares = np.cumsum(weights) / sum(weights)

    def prepared(self) -> Prepared:
        """The next operation."""
        label, handle, operation = self._chosen()
        return Prepared(label, handle, operation())

    def _chosen(self) -> tuple[str, Any, Callable[[], Steps]]:
        place = int(np.searchsorted(self._shares, self._generator.random(), "right"))
        return self._choices[min(place, len(self._choices) - 1)]

    def count_unmade(self, pace: Pace, span: "Span") -> int:
        """Count the calls that were due and not made, each as late as it was at the end.

        Their latency would have been longer still; without them, whatever stood still at the end
        would look fast.
        """
        ended, count = min(time.monotonic(), span.ends), 0
        while pace.waiting(ended):
            due = pace.due(ended)
            if span.measures_from <= due < ended:
                self._meter.tapes[self._chosen()[0]].add(ended - due, None)
                count += 1
            pace.taken()
        return count

    def ended(
        self, prepared: Prepared, answer: Any, error: Exception | None, times: "Times | None"
    ) -> None:
        """Judge an answer; ``times`` are None while nothing is measured yet."""
        if times is not None:
            latency_s = times.ended - times.due
            self._meter.tapes[prepared.label].add(latency_s, times.ended - times.started)
        if error is not None:
            prepared.give_up()
            self._meter.failed(prepared.label, error)
            return
        try:
            prepared.judge(answer)
        except WrongRead as wrong:
            self._meter.failed(prepared.label, wrong)
        except Exception as shapeless:  # an answer with which nothing can be begun is wrong, too
            told = WrongRead(f"{type(shapeless).__name__}: {shapeless}")
            self._meter.failed(prepared.label, told)


@dataclass(frozen=True, slots=True)
class Times:
    """Of one call, in seconds on the monotonic clock."""

    due: float
    started: float
    ended: float


@dataclass(frozen=True, slots=True)
class Span:
    """When a round measures, and when it ends, in seconds on the monotonic clock."""

    measures_from: float
    ends: float

    def is_over(self, due: float) -> bool:
        """Whether it is too late for a call that is due then, also if it was to be made earlier."""
        return max(due, time.monotonic()) >= self.ends

    def times(self, due: float, started: float, ended: float) -> Times | None:
        """The times of a call that counts."""
        return Times(due, started, ended) if due >= self.measures_from else None


def run_thread(
    client: Client, pace: Pace, span: Span, stopping: threading.Event, meter: Meter
) -> None:
    """Make a client's calls, by blocking handles, until the round ends or it is told to stop."""
    try:
        while not stopping.is_set():
            prepared = client.prepared()
            due = pace.due(time.monotonic())
            if span.is_over(due) or stopping.wait(max(0.0, due - time.monotonic())):
                prepared.give_up()
                return
            pace.taken()
            answer: Any = None
            error: Exception | None = None
            meter.under_way(1)
            started = time.monotonic()
            try:
                answer = prepared.call()
            except Exception as raised:  # whatever it is, the call was not answered
                error = raised
            ended = time.monotonic()
            meter.under_way(-1)
            client.ended(prepared, answer, error, span.times(min(due, started), started, ended))
    except Exception as defect:
        meter.defect = defect


async def run_task(
    client: Client, pace: Pace, span: Span, stopping: threading.Event, meter: Meter
) -> None:
    """The same by asyncio handles."""
    while not stopping.is_set():
        prepared = client.prepared()
        due = pace.due(time.monotonic())
        if span.is_over(due) or await _stopped_before(due, stopping):
            prepared.give_up()
            return
        pace.taken()
        answer: Any = None
        error: Exception | None = None
        meter.under_way(1)
        started = time.monotonic()
        try:
            answer = await prepared.call()
        except Exception as raised:
            error = raised
        ended = time.monotonic()
        meter.under_way(-1)
        client.ended(prepared, answer, error, span.times(min(due, started), started, ended))


async def _stopped_before(due: float, stopping: threading.Event) -> bool:
    """Sleep until a moment; returns early, and True, when told to stop."""
    while (rest := due - time.monotonic()) > 0 and not stopping.is_set():
        await asyncio.sleep(min(rest, _NAP_S))
    return stopping.is_set()
