"""When load tests make their calls, and from when latency counts: on a clock that tests move."""

import asyncio
import threading
from types import SimpleNamespace

import numpy as np
import pytest

import holdfast
from holdfast.bench.load import clients
from holdfast.bench.load.clients import Client, Meter, Span, Store, run_task, run_thread
from holdfast.bench.load.fold_work import FoldWork
from holdfast.bench.load.pace import Pace, pace_of
from holdfast.bench.load.profile import FoldLoad
from holdfast.bench.load.timings import Tape
from holdfast.bench.load.truth import PRELOADED
from holdfast.bench.load.work import Client as Identity
from holdfast.bench.load.work import filled
from holdfast.formats.errors import CallTimeout

_LOAD = FoldLoad({"get": 1}, keys=10)
_RATE = 128.0  # so that its interval, and sums of it, are exact


class Clock:
    """Stands still except when a test, or whoever waits, moves it."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Patience(threading.Event):
    """Waits by moving a clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self._clock.now += timeout
        return self.is_set()


class SlowFold:
    """A fold whose calls take the times that a test says."""

    def __init__(self, clock: Clock, takes_s: dict[int, float], usually_s: float) -> None:
        self.calls = 0
        self.fails = False
        self._clock = clock
        self._takes_s = takes_s
        self._usually_s = usually_s

    def get(self, name: str) -> holdfast.KvEntry:
        self._clock.now += self._takes_s.get(self.calls, self._usually_s)
        self.calls += 1
        if self.fails:
            raise CallTimeout("no answer", store="load-fold", may_have_happened=False)
        value = filled(int(name[-8:]), PRELOADED, _LOAD.value_bytes)
        return holdfast.KvEntry(name, value, holdfast.Version.none())


class SlowAsyncFold(SlowFold):
    """The same, to be awaited."""

    async def get(self, name: str) -> holdfast.KvEntry:  # type: ignore[override]
        return super().get(name)


class Stage:
    """One client of a fold, on a clock."""

    def __init__(self, patch: pytest.MonkeyPatch, *, tasks: bool) -> None:
        self.clock = Clock()
        self.meter = Meter({"fold.get": Tape()})
        self.stopping = Patience(self.clock)
        self._tasks = tasks
        self.unmade = 0
        patch.setattr(clients, "time", self.clock)
        if tasks:
            patch.setattr(clients, "asyncio", SimpleNamespace(sleep=self._sleep))

    async def _sleep(self, seconds: float) -> None:
        self.clock.now += seconds

    def fold(self, usually_s: float, takes_s: dict[int, float] | None = None) -> SlowFold:
        return (SlowAsyncFold if self._tasks else SlowFold)(self.clock, takes_s or {}, usually_s)

    def run(self, fold: SlowFold, pace: Pace, span: Span) -> tuple[list[float], list[float]]:
        """Latencies and service times in seconds, ascending."""
        truth = FoldWork.knowledge(_LOAD, [0], 1)
        work = FoldWork(_LOAD, truth, Identity(0, 1), np.random.default_rng(1))
        client = Client([Store(work, fold)], np.random.default_rng(2), self.meter)
        if self._tasks:
            asyncio.run(run_task(client, pace, span, self.stopping, self.meter))
        else:
            run_thread(client, pace, span, self.stopping, self.meter)
        self.unmade = client.count_unmade(pace, span)
        assert self.meter.defect is None
        latency, service = self.meter.tapes["fold.get"].take()
        return tuple(
            np.repeat(np.array(part.values) / 1e6, part.counts).tolist()
            for part in (latency, service)
        )  # type: ignore[return-value]


@pytest.fixture(params=["threads", "tasks"])
def stage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A client as a thread or as an asyncio task."""
    return Stage(monkeypatch, tasks=request.param == "tasks")


def test_a_stall_is_counted_for_every_call_that_was_due_in_it(stage: Stage) -> None:
    """While one call takes half a second, those that were due then are late by what was left of
    it, and are counted with that; their service times are what they were."""
    fold = stage.fold(1 / 1024, {0: 0.5})
    latencies, service = stage.run(fold, Pace(0.0, 0.0, 1 / _RATE), Span(0.0, 1.0))
    expected, ended = [], 0.0
    for number in range(128):
        due = number / _RATE
        ended = max(due, ended) + (0.5 if number == 0 else 1 / 1024)
        expected.append(ended - due)
    assert fold.calls == 128
    assert latencies == pytest.approx(sorted(expected), rel=0.006)
    assert sum(latency > 0.25 for latency in latencies) > 30
    assert sum(time_s > 0.25 for time_s in service) == 1


def test_a_closed_loop_counts_from_the_call(stage: Stage) -> None:
    """In a closed loop a call follows the one before at once, and latency is service time."""
    fold = stage.fold(1 / 64, {3: 0.25})
    latencies, service = stage.run(fold, pace_of(0.0, 0.0, 0, 1, None), Span(0.0, 1.0))
    assert latencies == service
    assert fold.calls == 1 + round((1.0 - 0.25) * 64)


def test_a_round_ends_although_calls_are_overdue(stage: Stage) -> None:
    """At twice the rate that is possible a round ends in time, with half of its calls made, and
    the others are known to be left."""
    pace = Pace(0.0, 0.0, 1 / _RATE)
    fold = stage.fold(2 / _RATE)
    latencies, service = stage.run(fold, pace, Span(0.0, 1.0))
    assert (fold.calls, len(service), stage.unmade) == (64, 64, 64)
    assert len(latencies) == 128
    assert stage.clock.now == 1.0


def test_a_backlog_of_the_warm_up_is_left_out(stage: Stage) -> None:
    """What was overdue when measuring began is not made; the first call that is measured is the
    first that is due then, and in time."""
    fold = stage.fold(1 / 1024, {0: 0.501})
    latencies, _ = stage.run(fold, Pace(0.0, 0.5, 1 / _RATE), Span(0.5, 1.0))
    assert len(latencies) == 64
    assert fold.calls == 65
    assert max(latencies) < 2.1 / 1024


def test_the_warm_up_is_not_measured_but_judged(stage: Stage) -> None:
    """Calls of the warm-up have no latency in the figures, and their errors count all the same."""
    fold = stage.fold(1 / 1024)
    fold.fails = True
    latencies, _ = stage.run(fold, Pace(0.0, 0.5, 1 / _RATE), Span(0.5, 1.0))
    assert len(latencies) == 64
    assert stage.meter.errors["fold.get"] == 128


def test_a_client_that_is_told_to_stop_makes_no_more_calls(stage: Stage) -> None:
    """After it was told to stop, a client ends without another call."""
    stage.stopping.set()
    fold = stage.fold(1 / 1024)
    assert stage.run(fold, Pace(0.0, 0.0, 1 / _RATE), Span(0.0, 1.0)) == ([], [])
    assert fold.calls == 0
    assert stage.meter.outstanding == 0


def test_clients_share_a_rate_evenly() -> None:
    """The calls of all clients together are as far apart as the rate says."""
    paces = [pace_of(10.0, 10.0, number, 4, 8.0) for number in range(4)]
    moments = []
    for pace in paces:
        for _ in range(3):
            moments.append(pace.due(0.0))
            pace.taken()
    assert sorted(moments) == [10.0 + number / 8 for number in range(12)]


def test_what_is_overdue_is_counted() -> None:
    """A pace says how many calls were due before a moment and how late the first of them is."""
    pace = Pace(1.0, 1.0, 0.25)
    assert [pace.waiting(now) for now in (0.5, 1.0, 1.1, 1.25, 1.3, 2.0)] == [0, 0, 1, 1, 2, 4]
    assert [pace.late_s(now) for now in (0.5, 1.0, 1.5)] == [0.0, 0.0, 0.5]


def test_what_stands_still_to_the_end_is_late(stage: Stage) -> None:
    """Calls that were due and never made count with as much as they were late at the end."""
    fold = stage.fold(1 / 1024, {64: 9.0})
    latencies, service = stage.run(fold, Pace(0.0, 0.0, 1 / _RATE), Span(0.0, 1.0))
    assert fold.calls == 65
    assert stage.unmade == 63
    assert len(service) == 65
    late = [1.0 - number / _RATE for number in range(65, 128)]
    assert latencies[64:-1] == pytest.approx(sorted(late), rel=0.006)
