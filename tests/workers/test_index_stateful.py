"""An index against a list of rows, through writes, snapshots, crashes and power losses."""

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

from holdfast.bench.faults import Choice, Everything, MemoryDisk, Nothing, Sampled, Zeros
from holdfast.formats.errors import Duplicate, NotFound
from holdfast.formats.iqdb_values import Id, Value
from holdfast.workers import index_messages as im
from holdfast.workers.actor import Caller, Steps
from holdfast.workers.index_messages import IndexOptions
from holdfast.workers.message import Durability
from holdfast.workers.messages import Reply
from tests.workers.index_model import (
    DIMENSION,
    PATH,
    POLICIES,
    deleting,
    inserting,
    opened,
    rows_in,
    rows_of,
)
from tests.workers.index_workload import History, State

IDS: st.SearchStrategy[Id] = st.one_of(
    st.integers(0, 12), st.sampled_from([b"a", b"b", b"\xff\x00", 2**64 - 1])
)
METADATA: st.SearchStrategy[dict[str, Value] | None] = st.sampled_from(
    [None, {}, {"a": 1, "b": "text"}, {"f": 0.5, "n": None, "t": True}]
)
ROWS = st.dictionaries(
    IDS, st.tuples(st.lists(st.integers(-9, 9), max_size=DIMENSION), METADATA), max_size=6
)
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


class IndexMachine(RuleBasedStateMachine):
    """What an index may go through under one policy."""

    durability: Durability = "always"
    options = IndexOptions(dimension=DIMENSION, metric="euclidean")

    def __init__(self) -> None:
        super().__init__()
        self.disk = MemoryDisk("/data")
        self.history = History(self.durability, self.options)
        self.snapshot: Steps | None = None
        self._open()

    def _open(self) -> None:
        self.snapshot = None
        self.actor = opened(self.disk, PATH, self.durability, self.options)

    # --- writing ---------------------------------------------------------------------------

    @rule(rows=ROWS)
    def upsert(self, rows: dict[Id, tuple[list[float], dict[str, Value] | None]]) -> None:
        """Hand over a batch that is not committed yet."""
        self.history.send(self.actor, inserting(rows, replace=True))

    @rule(rows=ROWS)
    def insert(self, rows: dict[Id, tuple[list[float], dict[str, Value] | None]]) -> None:
        """A strict batch is refused as a whole if one id is there."""
        there = {row[0] for row in self._possible_now()}
        if there.isdisjoint(rows):
            self.history.send(self.actor, inserting(rows))
            return
        with pytest.raises(Duplicate):
            self.history.send(self.actor, inserting(rows))

    @rule(ids=st.lists(IDS, max_size=4))
    def delete(self, ids: list[Id]) -> None:
        """A strict delete is refused as a whole if one id is not there, or comes twice."""
        there = {row[0] for row in self._possible_now()}
        if len(set(ids)) == len(ids) and there.issuperset(ids):
            self.history.send(self.actor, deleting(*ids))
            return
        with pytest.raises(NotFound):
            self.history.send(self.actor, deleting(*ids))

    @rule(ids=st.lists(IDS, max_size=4))
    def discard(self, ids: list[Id]) -> None:
        """Delete whatever of these is there."""
        self.history.send(self.actor, deleting(*ids, missing_ok=True))

    @rule()
    def commit(self) -> None:
        """Answer what was sent."""
        self.history.commit(self.actor)

    @precondition(lambda self: self.history.last is not None)
    @rule()
    def resend(self) -> None:
        """The last answer got lost in a crash: asked again, it is the same and nothing changes."""
        assert self.history.last is not None
        caller, request, reply = self.history.last
        self.crash()
        assert self.actor.handle(request, caller) == reply
        self.commit()

    # --- snapshots -------------------------------------------------------------------------

    @precondition(lambda self: self.snapshot is None)
    @rule(reset=st.booleans())
    def begin_snapshot(self, reset: bool) -> None:
        """Start to write a snapshot."""
        outcome = self.actor.handle(im.IndexCheckpoint(reset), Caller(9, 9))
        assert not isinstance(outcome, Reply)
        self.snapshot = outcome
        self.advance_snapshot(1)

    @precondition(lambda self: self.snapshot is not None)
    @rule(slices=st.integers(1, 4))
    def advance_snapshot(self, slices: int) -> None:
        """Go on writing; the end syncs everything handled by then."""
        assert self.snapshot is not None
        for _ in range(slices):
            try:
                next(self.snapshot)
            except StopIteration:
                self.snapshot = None
                if not self.history.pending:
                    self.history.synced()
                return

    @rule(slices=st.integers(1, 8))
    def upkeep(self, slices: int) -> None:
        """The actor's own work."""
        for _ in range(slices):
            self.actor.step(idle=True)

    # --- endings ---------------------------------------------------------------------------

    @rule()
    def crash(self) -> None:
        """The process dies; every answered and every logged request is still there, in order."""
        held = self._possible_now()
        self.disk = self.disk.crash()
        self._open()
        assert tuple(rows_of(self.actor)) == held
        for caller, request, reply in self.history.pending:
            assert self.actor.handle(request, caller) == reply
        self.history.commit(self.actor)

    @rule(choice=CHOICES)
    def lose_power(self, choice: Choice) -> None:
        """The machine goes down; what was promised is there, the rest as whole requests."""
        possible = self.history.after_power_loss()
        self.disk = self.disk.power_loss(choice)
        self._open()
        found = tuple(rows_of(self.actor))
        assert found in possible
        self.history = History(
            self.durability, self.options, [found], _requests=self.history._requests
        )

    @rule()
    def reopen(self) -> None:
        """Close and open again."""
        self.history.commit(self.actor)
        self.history.last = None
        self.actor.close()
        self.history.synced()
        self._open()

    # --- what always holds -----------------------------------------------------------------

    def _possible_now(self) -> State:
        return self.history.after_death()[-1]

    @invariant()
    def holds_what_was_sent(self) -> None:
        """Memory and files have every handled request, by a reader of their own as well."""
        self.actor.check_invariants()
        assert tuple(rows_of(self.actor)) == self._possible_now()
        assert sorted(rows_in(self.disk), key=repr) == sorted(self._possible_now(), key=repr)


OPTIONS = {
    "by hand": IndexOptions(dimension=DIMENSION, metric="euclidean"),
    "by itself, zstd": IndexOptions(
        dimension=DIMENSION, metric="euclidean", compression="zstd", checkpoint_bytes=300
    ),
    "lz4": IndexOptions(dimension=DIMENSION, metric="euclidean", compression="lz4"),
}


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("durability", POLICIES)
def test_index_agrees_with_a_list(
    durability: Durability, options: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever happens in whatever order, the index holds what the model says, in its order.

    Snapshots are written row by row, so that writes come in the midst of them.
    """
    monkeypatch.setattr("holdfast.workers.core_index._CHUNK_BYTES", 1)
    machine = type(
        "Machine", (IndexMachine,), {"durability": durability, "options": OPTIONS[options]}
    )
    run_state_machine_as_test(machine, settings=settings())
