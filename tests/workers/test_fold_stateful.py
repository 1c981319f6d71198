"""A fold against a dictionary, through writes, rewrites, crashes and power losses in any order."""

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
from holdfast.formats.errors import StaleUpdate
from holdfast.formats.values import AnyUpdate, Cursor, Delete, Purge, Put, Version
from holdfast.workers import fold, fold_messages, messages
from holdfast.workers.actor import Caller, Steps
from holdfast.workers.fold_messages import FoldApply
from holdfast.workers.message import Durability
from tests.workers.fold_model import PATH, POLICIES, History, State, ask, opened, state_of

KEYS = st.sampled_from(["", "a", "a/b", "a/c", "b", "\x00", "ü", "z" * 300])
VALUES = st.one_of(
    st.binary(max_size=8),
    st.builds(lambda byte, size: bytes([byte]) * size, st.integers(0, 255), st.integers(0, 1500)),
)
VERSIONS = st.one_of(
    st.just(Version.none()),
    st.integers(0, 9).map(Version.from_u64),
    st.binary(max_size=10).map(Version),
)
UPDATES: st.SearchStrategy[list[AnyUpdate]] = st.lists(
    st.one_of(
        st.builds(Put, KEYS, VALUES, VERSIONS),
        st.builds(Delete, KEYS, VERSIONS),
        st.builds(Purge, KEYS),
    ),
    max_size=6,
)
CURSORS = st.one_of(
    st.integers(0, 9).map(Cursor.from_u64),
    st.just(Cursor.none()),
    st.just(Cursor(b"10 bytes..")),
    st.none(),
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


class FoldMachine(RuleBasedStateMachine):
    """What a fold may go through under one policy."""

    durability: Durability = "always"

    def __init__(self) -> None:
        super().__init__()
        self.disk = MemoryDisk("/data")
        self.history = History(self.durability)
        self.compaction: Steps | None = None
        self.exports = 0
        self._open()

    def _open(self) -> None:
        self.compaction = None
        self.actor = opened(self.disk, PATH, self.durability)

    # --- writing ---------------------------------------------------------------------------

    @rule(updates=UPDATES, cursor=CURSORS)
    def send(self, updates: list[AnyUpdate], cursor: Cursor | None) -> None:
        """Hand over a batch that is not committed yet."""
        self.history.send(self.actor, FoldApply(updates, cursor))

    @rule()
    def commit(self) -> None:
        """Answer what was sent."""
        self.history.commit(self.actor)

    @rule(key=KEYS, value=VALUES, cursor=CURSORS)
    def put(self, key: str, value: bytes, cursor: Cursor | None) -> None:
        """One put, answered."""
        self.history.send(self.actor, FoldApply([Put(key, value)], cursor))
        self.history.commit(self.actor)

    @rule(key=KEYS)
    def refuse_stale(self, key: str) -> None:
        """A cursor behind the stored one is refused on request, and changes nothing."""
        newest = Cursor.from_u64(1 << 40)
        self.history.send(self.actor, FoldApply([], newest))
        self.history.commit(self.actor)
        stale = FoldApply([Delete(key)], Cursor.from_u64(3), refuse_stale=True)
        with pytest.raises(StaleUpdate):
            self.history.send(self.actor, stale)

    @precondition(lambda self: self.history.last is not None)
    @rule()
    def resend(self) -> None:
        """The last answer got lost in a crash: asked again, nothing changes."""
        assert self.history.last is not None
        caller, request = self.history.last
        self.crash()
        ask(self.actor, request, messages.Done, caller)
        self.commit()

    # --- long work -------------------------------------------------------------------------

    @precondition(lambda self: self.compaction is None)
    @rule()
    def begin_compaction(self) -> None:
        """Start to rewrite the log."""
        outcome = self.actor.handle(fold_messages.FoldCompact(), Caller(9, 9))
        assert not isinstance(outcome, messages.Reply)
        self.compaction = outcome

    @precondition(lambda self: self.compaction is not None)
    @rule(slices=st.integers(1, 12))
    def advance_compaction(self, slices: int) -> None:
        """Go on rewriting."""
        assert self.compaction is not None
        for _ in range(slices):
            try:
                next(self.compaction)
            except StopIteration:
                self.compaction = None
                self._rewritten()
                return

    def _rewritten(self) -> None:
        """A compaction ends with a sync of everything, also of what is not answered yet."""
        if not self.history.pending:
            self.history.synced()

    @rule(slices=st.integers(1, 30))
    def upkeep(self, slices: int) -> None:
        """The actor's own work, which ends with a sync if it is a compaction."""
        for _ in range(slices):
            self.actor.step(idle=True)

    @rule()
    def export(self) -> None:
        """An artifact says what the fold says."""
        self.exports += 1
        target = f"/data/out{self.exports}"
        exported = ask(
            self.actor,
            fold_messages.FoldExport(target),
            fold_messages.Exported,
            Caller(10, self.exports),
        )
        assert exported.entries == len(self._possible_now().rows)

    # --- endings ---------------------------------------------------------------------------

    @rule()
    def crash(self) -> None:
        """The process dies; every answered and every logged request is still there."""
        held = self._possible_now()
        self.disk = self.disk.crash()
        self._open()
        assert state_of(self.actor) == held
        self._take_over_pending()

    def _take_over_pending(self) -> None:
        """The host sends again what is unanswered; it all was in the log."""
        for caller, request in self.history.pending:
            ask(self.actor, request, messages.Done, caller)
        self.history.commit(self.actor)

    @rule(choice=CHOICES)
    def lose_power(self, choice: Choice) -> None:
        """The machine goes down; what was promised is there, the rest in order or not at all."""
        possible = self.history.after_power_loss()
        self.disk = self.disk.power_loss(choice)
        self._open()
        found = state_of(self.actor)
        assert found in possible
        self.history = History(self.durability, [found], _requests=self.history._requests)

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
        """Reads show every handled request, and the actor is consistent."""
        self.actor.check_invariants()
        assert state_of(self.actor) == self._possible_now()


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("small", [False, True], ids=["usual thresholds", "small thresholds"])
@pytest.mark.parametrize("durability", POLICIES)
def test_fold_agrees_with_a_dictionary(
    durability: Durability, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever happens in whatever order, the fold holds what the model says.

    With small thresholds the index cache and compactions of its own come into play.
    """
    if small:
        monkeypatch.setattr(fold, "_INDEX_ENTRIES_MIN", 2)
        monkeypatch.setattr(fold, "_UNINDEXED_BYTES_MAX", 200)
        monkeypatch.setattr(fold, "_UNINDEXED_BYTES_AT_CLOSE_MAX", 50)
        monkeypatch.setattr(fold, "_OVERLAY_ENTRIES_MAX", 3)
        monkeypatch.setattr(fold, "COMPACT_GARBAGE_BYTES_MIN", 2000)
    machine = type("Machine", (FoldMachine,), {"durability": durability})
    examples = 3 * settings().max_examples
    run_state_machine_as_test(machine, settings=settings(max_examples=examples))
