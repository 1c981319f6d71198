"""The search for the highest rate that holds."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.bench.load import limit
from holdfast.bench.load import profile as profiles
from holdfast.bench.load.limit import GROWTH, KEPT, NARROW, STEPS_MAX, find_limit, judged, search
from holdfast.bench.load.outcome import Lost, Outcome, Settings, Step
from holdfast.bench.load.session import Totals, Wish
from holdfast.bench.load.timings import Counted, Histogram


def totals(rate: float, ms: float, *, seconds: float = 10.0, **failed: int) -> Totals:
    """A round in which so many calls a second took so long."""
    histogram = Histogram()
    histogram.add(Counted([round(1000 * ms)], [round(rate * seconds)]))
    found = Totals(latency={"fold.get": histogram}, service={"fold.get": histogram})
    found.seconds = seconds
    found.errors = Counter({"fold.get": failed.get("errors", 0)})
    found.wrong = Counter({"fold.get": failed.get("wrong", 0)})
    return found


@given(st.floats(2.0, 1e6), st.floats(0.05, 20.0))
def test_the_search_ends_near_the_highest_rate(capacity: float, start: float) -> None:
    """Whatever a system can do and from wherever the search begins, it ends with a rate that
    holds, at most 8 % below the highest one, after a bounded number of rounds."""
    tried = []

    def try_(rate: float) -> Step:
        tried.append(rate)
        return Step(rate, rate, 1.0, 0, rate <= capacity, "")

    found = search(try_, capacity * start)
    assert found is not None
    assert capacity / NARROW <= found <= capacity
    assert len(tried) <= STEPS_MAX


def test_the_search_gives_up_below_one_call_a_second() -> None:
    """A system that holds no rate is asked for less and less, and not for ever."""
    tried: list[float] = []

    def try_(rate: float) -> Step:
        tried.append(rate)
        return Step(rate, 0.0, 99.0, 0, False, "slow")

    assert search(try_, 100.0) is None
    assert tried == pytest.approx([100 / GROWTH**step for step in range(len(tried))])
    assert tried[-1] >= 1.0 > tried[-1] / GROWTH


def test_a_rate_holds_only_if_all_is_well() -> None:
    """A step holds if the rate was kept, the objective too, and nothing failed or was wrong; else
    it says which of these was not so."""
    assert judged(100.0, totals(100.0, 10.0), 50.0).held
    assert judged(100.0, totals(100.0 * KEPT, 10.0), 50.0).held
    slow = judged(100.0, totals(100.0, 51.0), 50.0)
    assert (slow.held, slow.why_not) == (False, "p99 51.0 ms is over 50 ms")
    late = judged(100.0, totals(90.0, 10.0), 50.0)
    assert (late.held, late.why_not, late.reached) == (False, "the rate is not kept: 90/s", 90.0)
    for failed in ({"errors": 2}, {"wrong": 2}):
        step = judged(100.0, totals(100.0, 10.0, **failed), 50.0)
        assert (step.held, step.errors, step.why_not) == (False, 2, "2 errors and wrong reads")


class Fake:
    """A session with a system that keeps up to a rate; beyond it, reads are wrong."""

    def __init__(
        self, capacity: float, interrupted_after: int | None, lost_after: int | None = None
    ) -> None:
        self.interrupted = False
        self.lost: list[Lost] = []
        self.rounds: list[tuple[float, float]] = []
        self.audited: list[Totals] = []
        self._capacity = capacity
        self._interrupted_after = interrupted_after
        self._lost_after = lost_after

    def round(self, rate: float, warm_up_s: float, seconds: float, *rest: Any) -> Totals:
        self.rounds.append((warm_up_s, seconds))
        self.interrupted = len(self.rounds) == self._interrupted_after
        if len(self.rounds) == self._lost_after:
            self.lost.append(Lost("clients 2", 7, 1.5, 4, "was killed by SIGKILL"))
        return totals(rate, 5.0, wrong=0 if rate <= self._capacity else 1)

    def audit(self, totals: Totals) -> None:
        self.audited.append(totals)

    def outcome(self, totals: Totals, directory: str) -> Outcome:
        settings = Settings("fake", "", 1, 1, "threads", 1.0, 1.0, 0.0, "always", None, 0)
        return Outcome(
            settings, {}, "", totals.seconds, self.interrupted, totals.operations(), [], [], 0,
            sum(totals.errors.values()), sum(totals.wrong.values()), 0, totals.texts, [],
            lost=self.lost,
        )  # fmt: skip


def found(patch: pytest.MonkeyPatch, fake: Fake) -> Outcome:
    """What the search makes of such a session."""

    @contextlib.contextmanager
    def session(wish: Wish, say: Callable[[str], None]) -> Iterator[tuple[Fake, str]]:
        yield fake, ""

    patch.setattr(limit, "session", session)
    wish = Wish(
        profiles.load("telemetry"), 1, 1, 100.0, 3.0, 0.5, "always", None, 0, False
    )  # fmt: skip
    return find_limit(wish, 50.0, lambda text: None, lambda moment, operations: None)


def test_the_outcome_is_the_best_steps_with_the_failures_of_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The figures are those of the highest rate that held, every step is listed, and a wrong read
    of any step makes the whole not well."""
    fake = Fake(1000.0, None)
    outcome = found(monkeypatch, fake)
    assert outcome.limit is not None
    highest = outcome.limit.highest_rate
    assert highest is not None
    assert 1000 / NARROW <= highest <= 1000
    assert outcome.settings.rate == highest
    assert outcome.calls == pytest.approx(10 * highest, abs=1)
    assert set(fake.rounds) == {(0.5, 3.0)}
    broke = [step for step in outcome.limit.steps if not step.held]
    assert len(outcome.limit.steps) == len(fake.rounds)
    assert outcome.wrong_reads == len(broke) > 0
    assert not outcome.ok


def test_an_interrupted_search_tells_what_it_has_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends the search with the best of the rounds that were complete; the last one counts
    for what failed in it alone."""
    outcome = found(monkeypatch, Fake(1e9, 4))
    assert outcome.limit is not None
    assert [step.rate for step in outcome.limit.steps] == [100.0, 160.0, 256.0, 409.6]
    assert outcome.limit.steps[-1].why_not == "interrupted"
    assert outcome.limit.highest_rate == 256.0
    assert outcome.ok
    at_once = found(monkeypatch, Fake(1.0, 1))
    assert at_once.limit is not None
    assert at_once.limit.highest_rate is None
    assert at_once.wrong_reads == 1


def test_a_search_ends_when_clients_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without some of its clients no rate can be judged: the step in which they were lost does not
    hold, says why, and is the last, and the whole is not well."""
    outcome = found(monkeypatch, Fake(1e9, None, 3))
    assert outcome.limit is not None
    assert [step.held for step in outcome.limit.steps] == [True, True, False]
    assert outcome.limit.steps[-1].why_not == "clients 2 was killed by SIGKILL"
    assert outcome.limit.highest_rate == 160.0
    assert not outcome.ok
