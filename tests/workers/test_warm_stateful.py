"""A warm store against a dictionary, through writes, merges, crashes and power losses in any order.

Every file call is made through a layer that can end the process at any of them.
"""

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from holdfast.bench.faults import (
    Choice,
    Crash,
    Everything,
    FaultyDisk,
    Kill,
    MemoryDisk,
    Nothing,
    Sampled,
    Zeros,
)
from holdfast.formats.points import ENTITY_MAX, SPACE_MAX, TIME_MAX, TIME_MIN
from holdfast.formats.rvf.terms import Metric
from holdfast.formats.warm_terms import Compression
from holdfast.workers import messages
from holdfast.workers import warm_messages as wm
from holdfast.workers.actor import Caller, Steps
from holdfast.workers.message import Durability
from tests.workers.warm_model import (
    PATH,
    Delete,
    DeleteRange,
    History,
    Op,
    Point,
    State,
    Write,
    ask,
    check_nearest,
    get,
    let_go,
    opened,
    pages,
    point_in,
    range_request,
    rows_in,
    series_in,
    series_rows,
    state_of,
    stray_files,
    with_small_limits,
)

TIMES = st.sampled_from([TIME_MIN, TIME_MIN + 1, -5, -1, *range(10), TIME_MAX - 1, TIME_MAX])
SPACES = st.sampled_from([0, 0, 0, 1, SPACE_MAX])
ENTITIES = st.sampled_from([0, 1, 1, 1, 2, ENTITY_MAX])
# Whole numbers, so that distances are exact and often equal.
VECTORS = st.tuples(st.integers(-2, 2), st.integers(-2, 2)).map(lambda v: tuple(map(float, v)))
METADATA = st.sampled_from([(), (), (("a", ""),), (("a", "x"), ("b", "ü"))])
POINTS = st.builds(Point, VECTORS, METADATA)
SERIES_BATCHES = st.builds(
    lambda space, entity, points: Write(space, tuple((entity, *point) for point in points)),
    SPACES,
    ENTITIES,
    st.lists(st.tuples(TIMES, POINTS), min_size=1, max_size=12),
)
MIXED_BATCHES = st.builds(
    Write, SPACES, st.lists(st.tuples(ENTITIES, TIMES, POINTS), max_size=12).map(tuple)
)
DELETES = st.builds(
    Delete, SPACES, st.lists(st.tuples(ENTITIES, TIMES), min_size=1, max_size=8).map(tuple)
)
RANGE_DELETES = st.builds(
    DeleteRange, st.none() | SPACES, st.none() | ENTITIES, TIMES, TIMES
)  # fmt: skip
WRITES: st.SearchStrategy[Op] = st.one_of(SERIES_BATCHES, MIXED_BATCHES, DELETES, RANGE_DELETES)
CHOICES: st.SearchStrategy[Choice] = st.one_of(
    st.builds(Nothing),
    st.builds(Everything),
    st.builds(Zeros),
    st.builds(
        Sampled,
        st.integers(0, 1 << 32),
        kept=st.sampled_from([0.2, 0.5, 0.9]),
        ordered=st.booleans(),
    ),
)
LONG_WORK = st.sampled_from([wm.WarmFlush(), wm.WarmCompact()])


class WarmMachine(RuleBasedStateMachine):
    """What a warm store may go through under one policy."""

    durability: Durability = "always"
    compression: Compression = "none"
    metric: Metric = "l2"

    def __init__(self) -> None:
        super().__init__()
        self.memory = MemoryDisk("/data")
        self.history = History(self.durability)
        self._open()

    def _open(self) -> None:
        self.work: list[Steps] = []
        self.disk = FaultyDisk(self.memory)
        self.actor = opened(self.disk, PATH, self.durability, self.compression)
        assert not stray_files(self.disk, self.actor), "opening leaves nothing of a crash behind"

    @property
    def state(self) -> State:
        """Everything handled took effect."""
        return self.history.state

    # --- writing ---------------------------------------------------------------------------

    @rule(op=WRITES, commit=st.booleans())
    def write(self, op: Op, commit: bool) -> None:
        """Write or delete; the answer tells how many points were there."""
        self.history.send(self.actor, op)
        if commit:
            self.history.commit(self.actor)

    @rule(batches=st.lists(SERIES_BATCHES, min_size=2, max_size=5))
    def write_more(self, batches: list[Write]) -> None:
        """Several batches, so that a few flushes' worth comes together."""
        for batch in batches:
            self.history.send(self.actor, batch)
        self.history.commit(self.actor)

    @rule(space=SPACES, entity=ENTITIES, time=TIMES, point=POINTS)
    def put(self, space: int, entity: int, time: int, point: Point) -> None:
        """A single point, seen at once."""
        self.history.send(self.actor, Write(space, ((entity, time, point),)))
        self.history.commit(self.actor)
        assert get(self.actor, (space, entity, time)) == point

    @rule(before=TIMES)
    def retain(self, before: int) -> None:
        """Delete all that is older, as retention does."""
        if before > TIME_MIN:
            self.history.send(self.actor, DeleteRange(None, None, TIME_MIN, before - 1))
            self.history.commit(self.actor)

    # --- long work -------------------------------------------------------------------------

    @precondition(lambda self: len(self.work) < 2)
    @rule(request=LONG_WORK)
    def begin(self, request: wm.WarmFlush | wm.WarmCompact) -> None:
        """Ask for a flush or a compaction, which goes on between other requests."""
        outcome = self.actor.handle(request, Caller(9, 9))
        assert not isinstance(outcome, messages.Reply)
        self.work.append(outcome)

    @precondition(lambda self: self.work)
    @rule(slices=st.integers(1, 12))
    def advance(self, slices: int) -> None:
        """Go on with what was asked for, a slice of each in turn."""
        for _ in range(slices):
            for steps in list(self.work):
                try:
                    next(steps)
                except StopIteration:
                    self.work.remove(steps)

    @precondition(lambda self: not self.work)
    @rule(request=LONG_WORK)
    def finish_at_once(self, request: wm.WarmFlush | wm.WarmCompact) -> None:
        """Flush or compact in one go: then there is as little as can be."""
        ask(self.actor, request, messages.Done | messages.Compacted)  # type: ignore[arg-type]  # a union will do
        assert self.actor._table.memory_rows == 0
        assert not stray_files(self.disk, self.actor)
        if isinstance(request, wm.WarmCompact):
            chunks = self.actor._table.chunks
            assert sum(chunk.rows for chunk in chunks) == len(self.state)
            assert all(chunk.rows == 7 for chunk in chunks[:-1]), "full but for the last"

    @rule(slices=st.integers(1, 25), idle=st.booleans())
    def upkeep(self, slices: int, idle: bool) -> None:
        """The actor's own work."""
        for _ in range(slices):
            self.actor.step(idle=idle)

    @rule()
    def all_upkeep(self) -> None:
        """Upkeep comes to an end, and keeps the store within its bounds."""
        if self.work:
            return
        for steps in itertools.count():
            if not self.actor.step(idle=True):
                break
            assert steps < 2000, "upkeep goes on for ever"
        assert self.actor._table.memory_rows < 12
        assert not stray_files(self.disk, self.actor)
        assert not self.actor.pressed()

    # --- endings ---------------------------------------------------------------------------

    @rule()
    def crash(self) -> None:
        """The process dies; what it handled is still there, and done once when sent again."""
        held = self.state
        self.memory = self.memory.crash()
        self._open()
        assert state_of(self.disk, self.actor) == held
        self.history.resend(self.actor)
        self.history.commit(self.actor)

    @rule(calls=st.integers(0, 40), op=WRITES, request=st.none() | LONG_WORK)
    def crash_at_a_call(
        self, calls: int, op: Op, request: wm.WarmFlush | wm.WarmCompact | None
    ) -> None:
        """It dies at some file call of a write, or of a flush or compaction behind it."""
        self.disk.arm(Kill(len(self.disk.calls) + calls))
        try:
            self.history.send(self.actor, op)
            self.history.commit(self.actor)
            if request is not None and not self.work:
                ask(self.actor, request, object)
            self.disk.arm()
        except Crash:
            possible = self.history.after_death()
            let_go(self.actor)
            self.memory = self.memory.crash()
            self._open()
            assert state_of(self.disk, self.actor) in possible
            self.history.resend(self.actor)
            self.history.commit(self.actor)

    @rule(choice=CHOICES)
    def lose_power(self, choice: Choice) -> None:
        """The machine goes down; what was promised is there, the rest in order or not at all."""
        possible = self.history.after_power_loss()
        self.memory = self.memory.power_loss(choice)
        self._open()
        found = state_of(self.disk, self.actor)
        assert found in possible
        self.history = History(self.durability, found, requests=self.history.requests)

    @rule()
    def reopen(self) -> None:
        """Close, also in the midst of work, and open again."""
        self.history.commit(self.actor)
        self.history.close(self.actor)
        self._open()
        assert state_of(self.disk, self.actor) == self.state

    # --- reading ---------------------------------------------------------------------------

    @rule(space=SPACES, entity=ENTITIES, time=TIMES)
    def point(self, space: int, entity: int, time: int) -> None:
        """A point by its key, and the newest one as of its time."""
        assert get(self.actor, (space, entity, time)) == self.state.get((space, entity, time))
        times = [t for s, e, t in self.state if (s, e) == (space, entity) and t <= time]
        reply = ask(self.actor, wm.WarmLatest(space, entity, time), wm.WarmPoint)
        if times:
            assert reply.timestamp == max(times)
            assert point_in(reply) == self.state[space, entity, max(times)]
        else:
            assert point_in(reply) is None

    @rule(
        space=SPACES,
        entities=st.lists(ENTITIES, max_size=4),
        start=TIMES,
        end=TIMES,
        limit=st.none() | st.integers(0, 9),
        reverse=st.booleans(),
        mapped=st.booleans(),
    )
    def in_range(
        self,
        space: int,
        entities: list[int],
        start: int,
        end: int,
        limit: int | None,
        reverse: bool,
        mapped: bool,
    ) -> None:
        """Ranges of one or several entities, limited from the front or from the back."""
        request = range_request(
            entities, space, start, end, limit=limit, reverse=reverse, mapped=mapped
        )
        reply = ask(self.actor, request, wm.WarmRows)
        expected = []
        for entity in entities:
            times = [t for s, e, t in self.state if (s, e) == (space, entity) and start <= t <= end]
            times.sort(reverse=reverse)
            expected += [
                ((space, entity, t), self.state[space, entity, t]) for t in sorted(times[:limit])
            ]
        entity = entities[0] if len(entities) == 1 else 0
        assert rows_in(self.disk, reply, space, entity).items() == expected
        assert mapped or not any(isinstance(part, wm.RowsInChunk) for part in reply.segments)

    @rule(limit=st.integers(1, 9), ops=st.lists(WRITES, max_size=3), flush=st.booleans())
    def scan_while_writing(self, limit: int, ops: list[Op], flush: bool) -> None:
        """A scan shows each point that is there all the while once, and in order of key."""
        gone_through = [self.state]
        coming = iter(ops)
        found = []
        for page in pages(self.actor, limit):
            found += rows_in(self.disk, page).items()
            op = next(coming, None)
            if op is not None:
                self.history.send(self.actor, op)
                gone_through.append(self.state)
            if flush:
                self.actor.step(idle=True)
        keys = [key for key, _ in found]
        assert keys == sorted(set(keys))
        lasting = set(gone_through[0].items()).intersection(*(s.items() for s in gone_through))
        assert lasting <= set(found)
        assert set(found) <= set().union(*(s.items() for s in gone_through))
        self.history.commit(self.actor)

    @rule(space=st.none() | SPACES, after=st.none() | st.tuples(SPACES, ENTITIES))
    def series(self, space: int | None, after: tuple[int, int] | None) -> None:
        """A page of series begins behind where it is asked to."""
        page = ask(self.actor, wm.WarmSeries(space, after), wm.WarmSeriesAre)
        right = [
            row
            for row in series_in(self.state)
            if space in (None, row[0]) and (after is None or row[:2] > after)
        ]
        shown = series_rows(page)
        assert shown == right[: len(shown)]
        assert page.more == (len(right) > len(shown))

    @rule(
        query=VECTORS,
        k=st.integers(1, 12),
        start=TIMES,
        end=TIMES,
        space=st.none() | SPACES,
        entities=st.none() | st.lists(ENTITIES, max_size=3),
    )
    def nearest(
        self,
        query: tuple[float, ...],
        k: int,
        start: int,
        end: int,
        space: int | None,
        entities: list[int] | None,
    ) -> None:
        """The nearest points are those that measuring all of them gives."""
        check_nearest(
            self.actor, self.state, query, k, self.metric,
            start=start, end=end, space=space, entities=entities,
        )  # fmt: skip
        check_nearest(self.actor, self.state, query, k, self.metric)

    @rule()
    def verify(self) -> None:
        """Nothing is wrong with the files."""
        verified = ask(self.actor, wm.WarmVerify(), wm.WarmVerified)
        assert verified.flaws == []
        assert verified.points == len(self.state)

    # --- what always holds -----------------------------------------------------------------

    @invariant()
    def holds_what_was_sent(self) -> None:
        """Reads show every handled request, and the actor is consistent."""
        self.actor.check_invariants()
        assert state_of(self.disk, self.actor) == self.state
        self.actor.check_invariants()

    def teardown(self) -> None:
        """What a last look says is what the files say, too; then the store is removed."""
        self.history.commit(self.actor)
        self.actor.close()
        actor = opened(self.memory)
        assert state_of(self.memory, actor) == self.state
        actor.remove()
        assert self.memory.list("/data") == []


CASES: list[tuple[Durability, Compression, Metric, bool]] = [
    ("always", "none", "l2", False),
    ("never", "none", "ip", True),
    ("interval", "zstd", "cosine", False),
]


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(("durability", "compression", "metric", "by_time"), CASES)
def test_warm_agrees_with_a_dictionary(
    durability: Durability,
    compression: Compression,
    metric: Metric,
    by_time: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever happens in whatever order, the store holds what the model says."""
    with_small_limits(monkeypatch, by_time=by_time)
    attributes = {"durability": durability, "compression": compression, "metric": metric}
    machine = type("Machine", (WarmMachine,), attributes)
    run_state_machine_as_test(machine, settings=settings(max_examples=settings().max_examples))
