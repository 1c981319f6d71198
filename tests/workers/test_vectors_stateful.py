"""Vector stores and their branches against dictionaries, through all that can happen to them."""

from dataclasses import dataclass

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
from holdfast.formats.errors import (
    HasBranches,
    InvalidArgument,
    StoreExists,
    StoreFrozen,
    StoreReadOnly,
)
from holdfast.formats.rvf.terms import Metric
from holdfast.formats.tables import ID
from holdfast.workers import messages
from holdfast.workers import vector_messages as vm
from holdfast.workers.actor import Caller, Steps
from holdfast.workers.message import Durability
from holdfast.workers.vectors import VectorsActor
from tests.workers.columns_model import Joined, Leaf
from tests.workers.vector_model import (
    PATH,
    Branch,
    Delete,
    DeleteWhere,
    Embed,
    Filter,
    Freeze,
    History,
    Ingest,
    Limit,
    Op,
    State,
    ask,
    check_query,
    opened,
    opened_read_only,
    row,
    state_of,
    with_small_limits,
)

STORES_MAX = 5
NUMBERS = st.sampled_from([0, 1, 2, 3, 4, 5, 63, 64, 1000, (1 << 64) - 1])
IDS = st.lists(NUMBERS, max_size=4, unique=True).map(tuple)
SOME_IDS = st.lists(NUMBERS, min_size=2, max_size=8, unique=True).map(tuple)
# Whole numbers, so that distances are exact and often equal.
VECTORS = st.tuples(st.integers(-2, 2), st.integers(-2, 2)).map(lambda v: tuple(map(float, v)))
ROWS = st.builds(
    lambda vector, values: row(*vector, **{n: v for n, v in values.items() if v is not None}),
    VECTORS,
    st.fixed_dictionaries(
        {}, optional={"i": st.none() | st.integers(-1, 2), "s": st.sampled_from([None, "", "a"])}
    ),
)
BATCHES = st.builds(
    Ingest,
    st.dictionaries(NUMBERS, ROWS, min_size=1, max_size=6),
    st.sampled_from([(), (), ("i",), ("s", "b")]),
)
COMPARED = st.sampled_from(["eq", "ne", "lt", "ge"])
LEAVES = st.one_of(
    st.builds(Leaf, COMPARED, st.just("i"), st.tuples(st.integers(-1, 2))),
    st.builds(Leaf, COMPARED, st.just("s"), st.tuples(st.sampled_from(["", "a"]))),
    st.builds(Leaf, COMPARED, st.just(ID), st.tuples(NUMBERS)),
    st.builds(Leaf, st.just("in"), st.just(ID), st.tuples(NUMBERS, NUMBERS)),
)
FILTERS: st.SearchStrategy[Filter] = st.one_of(
    LEAVES,
    st.builds(Joined, st.just("not"), st.tuples(LEAVES)),
    st.builds(Joined, st.sampled_from(["and", "or"]), st.tuples(LEAVES, LEAVES)),
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
PICKS = st.integers(0, STORES_MAX - 1)


@dataclass
class Store:
    """A store of the machine: its actor, and what the model says of it."""

    path: str
    actor: VectorsActor
    history: History
    parent: str | None = None
    compaction: Steps | None = None


def columns_in(where: Filter) -> set[str]:
    """The columns that a filter names, ``id`` aside."""
    if isinstance(where, Joined):
        return set().union(*(columns_in(part) for part in where.parts))
    return {where.column} - {ID}


class VectorMachine(RuleBasedStateMachine):
    """What a family of vector stores may go through under one policy."""

    durability: Durability = "always"
    metric: Metric = "l2"

    def __init__(self) -> None:
        super().__init__()
        self.disk = MemoryDisk("/data")
        self.made = 0
        actor = opened(self.disk, PATH, self.durability, metric=self.metric)
        self.stores = {PATH: Store(PATH, actor, History(self.durability))}

    def _store(self, pick: int) -> Store:
        return list(self.stores.values())[pick % len(self.stores)]

    def _children(self, store: Store) -> list[Store]:
        return [other for other in self.stores.values() if other.parent == store.path]

    def _write(self, store: Store, op: Op, *, commit: bool = True) -> None:
        if store.history.state.frozen:
            with pytest.raises(StoreFrozen):
                store.history.send(store.actor, op)
            return
        store.history.send(store.actor, op)
        if commit:
            store.history.commit(store.actor)

    # --- writing ---------------------------------------------------------------------------

    @rule(pick=PICKS, batch=BATCHES, commit=st.booleans())
    def ingest(self, pick: int, batch: Ingest, commit: bool) -> None:
        """Insert or replace rows."""
        self._write(self._store(pick), batch, commit=commit)

    @rule(pick=PICKS, batch=BATCHES)
    def ingest_more(self, pick: int, batch: Ingest) -> None:
        """Row by row, which makes many segments."""
        for number, found in batch.rows.items():
            self._write(self._store(pick), Ingest({number: found}))

    @rule(pick=PICKS, ids=IDS, commit=st.booleans())
    def delete(self, pick: int, ids: tuple[int, ...], commit: bool) -> None:
        """Delete rows, if they are there."""
        self._write(self._store(pick), Delete(ids), commit=commit)

    @rule(pick=PICKS, where=FILTERS)
    def delete_where(self, pick: int, where: Filter) -> None:
        """Delete what passes a filter."""
        store = self._store(pick)
        state = store.history.state
        if state.frozen or columns_in(where) <= state.columns:
            self._write(store, DeleteWhere(where))
        else:
            with pytest.raises(InvalidArgument, match="column"):
                store.history.send(store.actor, DeleteWhere(where))

    @rule(pick=PICKS, payload=st.binary(max_size=8))
    def embed(self, pick: int, payload: bytes) -> None:
        """Store an image."""
        self._write(self._store(pick), Embed(payload))

    @rule(pick=PICKS)
    def commit(self, pick: int) -> None:
        """Answer what was sent."""
        store = self._store(pick)
        store.history.commit(store.actor)

    @precondition(lambda self: sum(not s.history.state.frozen for s in self.stores.values()) > 1)
    @rule(pick=PICKS)
    def freeze(self, pick: int) -> None:
        """Refuse writes from now on, also once more."""
        store = self._store(pick)
        store.history.send(store.actor, Freeze())
        store.history.commit(store.actor)

    # --- branches --------------------------------------------------------------------------

    @precondition(lambda self: len(self.stores) < STORES_MAX)
    @rule(pick=PICKS, include=st.none() | SOME_IDS, exclude=st.none() | IDS)
    def branch(
        self, pick: int, include: tuple[int, ...] | None, exclude: tuple[int, ...] | None
    ) -> None:
        """Make a branch; its parent goes on."""
        parent = self._store(pick)
        self.made += 1
        path = f"/data/b{self.made}.rvf"
        op = Branch(path, include, exclude)
        parent.history.send(parent.actor, op)
        parent.history.commit(parent.actor)
        first = parent.history.state.children[path]
        actor = opened(self.disk, path, self.durability)
        self.stores[path] = Store(path, actor, History(self.durability, first), parent.path)

    @rule(pick=PICKS, other=PICKS)
    def branch_onto_another(self, pick: int, other: int) -> None:
        """A name that is taken is refused."""
        store, path = self._store(pick), self._store(other).path
        with pytest.raises(StoreExists):
            store.history.send(store.actor, Branch(path))

    @rule(pick=PICKS, include=st.none() | SOME_IDS, exclude=st.none() | IDS)
    def limit(
        self, pick: int, include: tuple[int, ...] | None, exclude: tuple[int, ...] | None
    ) -> None:
        """Limit what a branch shows of its parent."""
        store = self._store(pick)
        if store.parent is not None or store.history.state.frozen:
            self._write(store, Limit(include, exclude))
        else:
            with pytest.raises(InvalidArgument, match="no branch"):
                store.history.send(store.actor, Limit(include, exclude))

    @precondition(lambda self: len(self.stores) > 1)
    @rule(pick=PICKS)
    def drop(self, pick: int) -> None:
        """Remove a store that no branch reads."""
        store = self._store(pick)
        if self._children(store):
            with pytest.raises(HasBranches):
                ask(store.actor, messages.StoreMayDrop(), messages.Done)
        elif store.parent is not None:
            ask(store.actor, messages.StoreMayDrop(), messages.Done)
            if store.compaction is not None:
                store.compaction.close()
            store.actor.remove()
            del self.stores[store.path]
            left = [name for name, _ in self.disk.list("/data")]
            assert not [name for name in left if f"/data/{name}".startswith(store.path)]

    # --- long work -------------------------------------------------------------------------

    @rule(pick=PICKS)
    def compact(self, pick: int) -> None:
        """Rewrite the file in one go, unless somebody reads it or is at it."""
        store = self._store(pick)
        if store.compaction is not None:
            return
        error = self._why_not(store)
        if error is not None:
            with pytest.raises(error):
                ask(store.actor, vm.VectorsCompact(), messages.Compacted)
            return
        reply = ask(store.actor, vm.VectorsCompact(), messages.Compacted)
        content = self.disk.content(store.path)
        assert content is not None
        assert reply.bytes_after == len(content)
        store.history.synced()

    def _why_not(self, store: Store) -> type[Exception] | None:
        if store.history.state.frozen:
            return StoreFrozen
        return HasBranches if self._children(store) else None

    @rule(pick=PICKS)
    def begin_compaction(self, pick: int) -> None:
        """Start to rewrite the file."""
        store = self._store(pick)
        if store.compaction is None and self._why_not(store) is None:
            outcome = store.actor.handle(vm.VectorsCompact(), Caller(9, 9))
            assert not isinstance(outcome, messages.Reply)
            store.compaction = outcome
            next(outcome)

    @precondition(lambda self: any(store.compaction for store in self.stores.values()))
    @rule(slices=st.integers(1, 12))
    def advance_compaction(self, slices: int) -> None:
        """Go on rewriting."""
        store = next(store for store in self.stores.values() if store.compaction)
        assert store.compaction is not None
        try:
            for _ in range(slices):
                next(store.compaction)
        except StopIteration:
            store.compaction = None
            store.history.synced()
        except HasBranches:
            store.compaction = None
            assert self._children(store)

    @rule(pick=PICKS, slices=st.integers(1, 30))
    def upkeep(self, pick: int, slices: int) -> None:
        """The actor's own work."""
        store = self._store(pick)
        for _ in range(slices):
            store.actor.step(idle=True)

    # --- endings ---------------------------------------------------------------------------

    def _reopen(self, store: Store) -> None:
        store.compaction = None
        store.actor = opened(self.disk, store.path, self.durability)

    def _take_over(self, store: Store) -> None:
        """Open again after a death; the host sends again what is unanswered."""
        self._reopen(store)
        assert state_of(self.disk, store.actor) == _without_children(store.history.state)
        for sent in store.history.to_resend():
            if isinstance(sent.op, Branch) and sent.op.path not in self.stores:
                continue  # its answer did arrive: the branch was used, and removed
            if sent.changes:
                reply = ask(store.actor, sent.op.request(), object, sent.caller)
                if not isinstance(sent.op, Limit | Branch):  # tells of what there is now
                    assert reply == sent.reply
        store.history.commit(store.actor)

    @rule(pick=PICKS)
    def crash(self, pick: int) -> None:
        """One worker dies; everything it handled is still there, and done once."""
        store = self._store(pick)
        store.actor.abandon()
        self._take_over(store)

    @rule()
    def crash_all(self) -> None:
        """All die at once."""
        self.disk = self.disk.crash()
        for store in self.stores.values():
            self._take_over(store)

    @rule(choice=CHOICES)
    def lose_power(self, choice: Choice) -> None:
        """The machine goes down; what was promised is there, the rest in order or not at all."""
        self.disk = self.disk.power_loss(choice)
        for store in self.stores.values():
            possible = [_without_children(state) for state in store.history.after_power_loss()]
            self._reopen(store)
            found = state_of(self.disk, store.actor)
            assert found in possible
            requests = store.history._requests
            store.history = History(self.durability, found, _requests=requests)

    @rule(pick=PICKS)
    def reopen(self, pick: int) -> None:
        """Close and open again."""
        store = self._store(pick)
        store.history.commit(store.actor)
        store.history.close(store.actor)
        assert self.disk.inode_at(f"{store.path}.lock") is None
        self._reopen(store)

    # --- reading ---------------------------------------------------------------------------

    @rule(
        pick=PICKS,
        queries=st.lists(VECTORS, min_size=1, max_size=3),
        k=st.integers(1, 12),
        where=st.none() | FILTERS,
    )
    def query(
        self, pick: int, queries: list[tuple[float, ...]], k: int, where: Filter | None
    ) -> None:
        """The nearest rows are those that sorting all of them gives."""
        store = self._store(pick)
        if where is None or columns_in(where) <= store.history.state.columns:
            check_query(store.actor, store.history.state, queries, k, self.metric, where)

    @rule(pick=PICKS, batch=BATCHES)
    def read_only(self, pick: int, batch: Ingest) -> None:
        """Another reader sees what is committed, and more once it refreshes; it cannot write."""
        store = self._store(pick)
        reader = opened_read_only(self.disk, store.path)
        held = _without_children(store.history.state)
        assert state_of(self.disk, reader) == held
        self._write(store, batch)
        assert state_of(self.disk, reader) == held
        now = _without_children(store.history.state)
        assert ask(reader, vm.VectorsRefresh(), vm.Counted).rows == len(now.rows)
        assert state_of(self.disk, reader) == now
        for request in (batch.request(), vm.VectorsFreeze(), vm.VectorsCompact()):
            with pytest.raises(StoreReadOnly):
                reader.handle(request, Caller(5, 5))
        reader.close()

    @rule(pick=PICKS)
    def verify(self, pick: int) -> None:
        """Nothing is wrong with the file, its witnesses and its parents."""
        verified = ask(self._store(pick).actor, vm.VectorsVerify(), vm.Verified)
        assert verified.problems == []
        assert (verified.witness_breaks, verified.witness_restarts) == (0, 0)
        assert all(segment.state == "intact" for segment in verified.segments)

    # --- what always holds -----------------------------------------------------------------

    @invariant()
    def holds_what_was_sent(self) -> None:
        """Reads show every handled request, in every store, and the actors are consistent."""
        for store in self.stores.values():
            store.actor.check_invariants()
            assert state_of(self.disk, store.actor) == _without_children(store.history.state)

    def teardown(self) -> None:
        """What a last look says is what the files say, too."""
        for store in self.stores.values():
            store.history.commit(store.actor)
            store.actor.close()
        for store in self.stores.values():
            actor = opened(self.disk, store.path)
            actor.check_invariants()
            assert state_of(self.disk, actor) == _without_children(store.history.state)
            check_query(actor, store.history.state, [(0.0, 1.0)], 20, self.metric)
            actor.close()


def _without_children(state: State) -> State:
    """A state as an actor alone tells it."""
    return State(state.rows, state.columns, state.frozen, state.inherited, state.kernel)


CASES: list[tuple[Durability, Metric, bool]] = [
    ("always", "l2", True),
    ("never", "ip", True),
    ("interval", "cosine", False),
]


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(("durability", "metric", "small"), CASES)
def test_vectors_agree_with_dictionaries(
    durability: Durability, metric: Metric, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever happens in whatever order, every store of a family holds what the model says.

    With small limits, merges, many blocks, and compactions of its own come into play.
    """
    if small:
        with_small_limits(monkeypatch)
    machine = type("Machine", (VectorMachine,), {"durability": durability, "metric": metric})
    run_state_machine_as_test(machine, settings=settings(max_examples=settings().max_examples))
