"""What load tests know of keys and series: right reads are never refused, wrong ones always."""

from typing import NamedTuple

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from holdfast.bench.load.profile import WarmLoad
from holdfast.bench.load.truth import ABSENT, PRELOADED, Truth, Write, WrongRead
from holdfast.bench.load.warm_work import Series

_KEYS = 4  # of two processes with a client each: the even ones are written here
OWN = st.sampled_from([0, 2])
KEY = st.integers(0, _KEYS - 1)


class Reading(NamedTuple):
    """A read under way: what was known when it began, and what it has found."""

    key: int
    known: list[int]
    found: list[int]


class Registers(RuleBasedStateMachine):
    """Keys of a real store: writes and reads overlap, and some writes are never answered."""

    @initialize(deletes=st.booleans())
    def begin(self, deletes: bool) -> None:
        self.deletes = deletes
        self.truth = Truth(_KEYS, [0], 2, deletes=deletes)
        self.held = dict.fromkeys(range(_KEYS), PRELOADED)
        self.under_way: dict[int, tuple[Write, bool]] = {}
        self.unsure: set[int] = set()
        self.elsewhere = dict.fromkeys([1, 3], PRELOADED)
        self.last_seen = dict.fromkeys(range(_KEYS), PRELOADED)
        self.readings: list[Reading] = []

    @rule(key=OWN, delete=st.booleans())
    def begin_write(self, key: int, delete: bool) -> None:
        if key not in self.under_way:
            delete = delete and self.deletes
            self.under_way[key] = self.truth.begin([key], delete=delete), delete

    def _take_effect(self, key: int) -> None:
        write, delete = self.under_way[key]
        self.held[key] = ABSENT if delete else write.numbers[0]

    @rule(key=OWN)
    def takes_effect(self, key: int) -> None:
        if key in self.under_way:
            self._take_effect(key)

    @rule(key=OWN)
    def is_acknowledged(self, key: int) -> None:
        if key in self.under_way:
            self._take_effect(key)
            self.truth.acknowledged(self.under_way.pop(key)[0])
            self.unsure.discard(key)

    @rule(key=OWN, happened=st.booleans())
    def is_never_answered(self, key: int, happened: bool) -> None:
        if key in self.under_way:
            if happened:
                self._take_effect(key)
            del self.under_way[key]
            self.unsure.add(key)

    @rule(key=st.sampled_from([1, 3]), delete=st.booleans())
    def is_written_elsewhere(self, key: int, delete: bool) -> None:
        delete = delete and self.deletes
        self.elsewhere[key] = self.elsewhere[key] // 2 * 2 + (3 if delete else 2)
        self.held[key] = ABSENT if delete else self.elsewhere[key]

    @rule(key=KEY)
    def begin_read(self, key: int) -> None:
        self.readings.append(Reading(key, self.truth.known([key]), []))

    @rule(data=st.data())
    def finds(self, data: st.DataObject) -> None:
        waiting = [reading for reading in self.readings if not reading.found]
        if waiting:
            reading = data.draw(st.sampled_from(waiting))
            reading.found.append(self.held[reading.key])

    @rule(data=st.data())
    def end_read(self, data: st.DataObject) -> None:
        ready = [reading for reading in self.readings if reading.found]
        if ready:
            reading = data.draw(st.sampled_from(ready))
            self.readings.remove(reading)
            self.truth.saw([reading.key], reading.known, reading.found)
            self.last_seen[reading.key] = max(self.last_seen[reading.key], *reading.found)

    def _refused(self, key: int, number: int) -> None:
        with pytest.raises(WrongRead):
            self.truth.saw([key], self.truth.known([key]), [number])

    @precondition(lambda self: hasattr(self, "held"))
    @rule(key=OWN, number=st.integers(ABSENT, 60))
    def wrong_when_nothing_is_under_way(self, key: int, number: int) -> None:
        if key not in self.under_way | dict.fromkeys(self.unsure) and number != self.held[key]:
            self._refused(key, number)

    @rule(key=KEY, back=st.integers(1, 20), ahead=st.integers(1, 20))
    def wrong_whatever_is_under_way(self, key: int, back: int, ahead: int) -> None:
        self._refused(key, max(0, self.last_seen[key] - back))
        self._refused(key, 2 * ahead + 1)  # the number of a delete
        if key % 2 == 0:
            begun = int(self.truth._begun[key])
            self._refused(key, begun // 2 * 2 + 2 * ahead)
        if not self.deletes:
            self._refused(key, ABSENT)

    @invariant()
    def knows_its_own_writes(self) -> None:
        """The writer is told what a key holds only if it holds it."""
        for key in (0, 2) if hasattr(self, "held") else ():
            current = self.truth.current(key)
            assert current in (None, self.held[key])
            if key not in self.under_way | dict.fromkeys(self.unsure):
                assert current == (None if self.held[key] == ABSENT else self.held[key])


class Watching(NamedTuple):
    """A read of a series under way, from a point on; and what it has found."""

    series: int
    wanted: int
    known: tuple[int, int]
    found: list[tuple[int, int] | None]


_BATCH = 3


class SeriesOfPoints(RuleBasedStateMachine):
    """Series of a real store that grow and expire while they are read; 0 is written here, 1 not."""

    def __init__(self) -> None:
        super().__init__()
        self.truth = Series(WarmLoad({"append": 1}, keys=2, batch=_BATCH), [0], 2)
        self.held = {0: (0, _BATCH), 1: (0, _BATCH)}
        self.end_seen = {0: _BATCH, 1: _BATCH}
        self.watching: list[Watching] = []

    @rule(answered=st.booleans(), happens=st.booleans())
    def append(self, answered: bool, happens: bool) -> None:
        first, end = self.truth.next(0, _BATCH)
        if answered or happens:
            low, high = self.held[0]
            assert first <= high  # or there would be a hole
            self.held[0] = low, max(high, end)
        if answered:
            self.truth.written(0, end)

    @rule(keep=st.integers(1, 8), answered=st.booleans(), happens=st.booleans())
    def expire(self, keep: int, answered: bool, happens: bool) -> None:
        series, first = self.truth.expire(slice(0, None, 2), keep)
        assert series == 0
        if answered or happens:
            low, high = self.held[0]
            self.held[0] = max(low, first), high
        if answered:
            self.truth.expired(0, first)

    @rule(grows=st.integers(0, 5), shrinks=st.integers(0, 5))
    def changes_elsewhere(self, grows: int, shrinks: int) -> None:
        low, high = self.held[1]
        self.held[1] = min(low + shrinks, high + grows - 1), high + grows

    @rule(series=st.integers(0, 1), wanted=st.integers(0, 12))
    def begin_read(self, series: int, wanted: int) -> None:
        self.watching.append(Watching(series, wanted, self.truth.known(series), []))

    def _look(self, series: int, wanted: int) -> tuple[int, int] | None:
        low, high = self.held[series]
        low = max(low, wanted)
        return (low, high) if low < high else None

    @rule(data=st.data())
    def finds(self, data: st.DataObject) -> None:
        waiting = [one for one in self.watching if not one.found]
        if waiting:
            one = data.draw(st.sampled_from(waiting))
            one.found.append(self._look(one.series, one.wanted))

    @rule(data=st.data())
    def end_read(self, data: st.DataObject) -> None:
        ready = [one for one in self.watching if one.found]
        if ready:
            one = data.draw(st.sampled_from(ready))
            self.watching.remove(one)
            self.truth.saw(one.series, one.known, one.wanted, one.found[0])
            if one.found[0] is not None:
                self.end_seen[one.series] = max(self.end_seen[one.series], one.found[0][1])

    @rule(series=st.integers(0, 1), cut=st.integers(1, 6))
    def wrong_without_the_last_points(self, series: int, cut: int) -> None:
        end = self.end_seen[series] - cut
        found = (0, end) if end > 0 else None
        if series == 0 or found is not None:
            with pytest.raises(WrongRead):
                self.truth.saw(series, self.truth.known(series), 0, found)

    @rule(more=st.integers(1, 6))
    def wrong_with_points_that_were_never_written(self, more: int) -> None:
        low, _ = self.held[0]
        begun = int(self.truth._writing[0])
        with pytest.raises(WrongRead):
            self.truth.saw(0, self.truth.known(0), 0, (low, begun + more))

    @rule(more=st.integers(1, 6))
    def wrong_without_the_first_points(self, more: int) -> None:
        low, high = int(self.truth._expiring[0]), self.held[0][1]
        if low + more < high:
            with pytest.raises(WrongRead):
                self.truth.saw(0, self.truth.known(0), 0, (low + more, high))

    @rule(more=st.integers(1, 6))
    def wrong_with_points_that_have_expired(self, more: int) -> None:
        gone, _ = self.truth.known(0)
        if gone - more >= 0:
            with pytest.raises(WrongRead):
                self.truth.saw(0, self.truth.known(0), 0, (gone - more, self.held[0][1]))


Registers.TestCase.__doc__ = "Of keys with numbered writes every right read is taken, no wrong one."
SeriesOfPoints.TestCase.__doc__ = "Of series every interval that may be there is taken, no other."
TestRegisters = Registers.TestCase
TestSeries = SeriesOfPoints.TestCase


def test_an_acknowledged_delete_and_an_unanswered_one_differ() -> None:
    """After an acknowledged delete the old value is wrong; after an unanswered one both are right,
    until one of them has been seen."""
    truth = Truth(1, [0], 1, deletes=True)
    truth.acknowledged(truth.begin([0], delete=True))
    with pytest.raises(WrongRead):
        truth.saw([0], truth.known([0]), [PRELOADED])
    put = truth.begin([0])
    truth.acknowledged(put)
    truth.begin([0], delete=True)
    truth.saw([0], truth.known([0]), [ABSENT])
    truth.saw([0], truth.known([0]), put.numbers)
    again = truth.begin([0])
    truth.saw([0], truth.known([0]), again.numbers)
    for stale in (ABSENT, put.numbers[0]):
        with pytest.raises(WrongRead):
            truth.saw([0], truth.known([0]), [stale])
