"""The supervisor's decisions, without a process: events in, effects out."""

from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec import structs

from holdfast.formats.errors import (
    HoldfastError,
    OptionsConflict,
    StoreCorrupt,
    StoreExists,
    StoreFailed,
    StoreLocked,
    StoreNotFound,
    WrongKind,
)
from holdfast.formats.limits import BACKOFF_FIRST_S, FRUITLESS_DEATHS_MAX
from holdfast.workers.index_messages import IndexOptions
from holdfast.workers.message import Durability
from holdfast.workers.messages import (
    Accepted,
    DropStore,
    Exit,
    OpenStore,
    RestartStore,
    StoreSpec,
)
from holdfast.workers.supervision import (
    DEATH_NOTICE_S,
    Asker,
    Effect,
    Fail,
    Grant,
    KillWorker,
    Poke,
    Reply,
    Spawn,
    State,
    StopWorker,
    Supervision,
)
from holdfast.workers.vector_messages import VectorOptions, VectorsAre

FIRST = 1000
TWO = VectorsAre(2, "l2", "generic", False)
FOUR = VectorsAre(4, "ip", "generic", False)


def spec(
    name: str = "a",
    *,
    path: str | None = None,
    durability: Durability | None = None,
    import_from: str | None = None,
) -> StoreSpec:
    """A store's description."""
    return StoreSpec(name, "fold", path or f"/d/{name}.snap", durability, None, import_from)


def test_one_file_has_one_name() -> None:
    """A file that a store has is refused under another name, naming that store, until it is not."""
    table = Table()
    spawn = table.started(table.ask(1, "a"))
    again = OpenStore(spec("b", path=spawn.spec.path))
    (refusal,) = table.table.open_asked(Asker(2, 1), again, table.now)
    assert isinstance(refusal, Fail)
    assert isinstance(refusal.error, StoreLocked)
    assert "is open in this engine as store 'a'" in str(refusal.error)
    assert (refusal.error.store, refusal.error.pid) == ("a", 1)
    table.table.worker_ready("a")
    table.table.stop_all()
    (spawned,) = table.table.open_asked(Asker(2, 2), again, table.now)
    assert isinstance(spawned, Spawn)


def test_a_reader_has_a_file_beside_its_store() -> None:
    """A vector store that is read only takes no lock, so its file may have two names."""
    for first in (True, False):
        table = Table()
        for name, read_only in (("a", first), ("b", not first)):
            options = VectorOptions(read_only=read_only)
            store = StoreSpec(name, "vectors", "/d/v.rvf", options=options)
            effects = table.table.open_asked(Asker(1, 1), OpenStore(store), table.now)
            assert table.started(effects).spec.name == name


class Table:
    """A table, a clock, and the progress of its workers."""

    def __init__(self) -> None:
        self.progress = 0
        self.table = Supervision(FIRST, lambda _: self.progress)
        self.now = 100.0
        self.pids = 0

    def ask(
        self, request: int = 1, name: str = "a", *, host: int = 1, lost: int = 0
    ) -> list[Effect]:
        """A host asks for a session."""
        ask = OpenStore(spec(name), session=True, lost=lost)
        return self.table.open_asked(Asker(host, request), ask, self.now)

    def started(self, effects: Iterable[Effect]) -> Spawn:
        """Perform the one spawn among the effects."""
        (spawn,) = [effect for effect in effects if isinstance(effect, Spawn)]
        self.pids += 1
        self.table.worker_started(spawn.spec.name, self.pids)
        return spawn

    def run(self, name: str = "a") -> Spawn:
        """Bring a store up; its asker is host 1, request 1."""
        spawn = self.started(self.ask(name=name))
        self.table.worker_ready(name)
        return spawn

    def die(self, *, fruitful: bool = False, name: str = "a", cause: str = "boom") -> list[Effect]:
        """A store's worker dies."""
        generation = self.table.stores[name].generation
        exit = Exit(generation, cause, fruitful=fruitful)
        return self.table.worker_exited(name, exit, self.now)

    def end(self, *, clean: bool = True, name: str = "a") -> list[Effect]:
        """A worker that was to stop has ended."""
        generation = self.table.stores[name].generation
        exit = Exit(generation, "exited with code 0", clean=clean)
        return self.table.worker_exited(name, exit, self.now)

    def use_up(self, name: str = "a") -> list[Effect]:
        """Let a starting store die as often as it takes to be given up."""
        effects: list[Effect] = []
        for number in range(FRUITLESS_DEATHS_MAX):
            effects = self.die(name=name, cause=f"cause {number}")
            if any(isinstance(effect, Spawn) for effect in effects):
                self.started(effects)
            elif self.table.stores[name].state is State.WAITING:
                self.now = self.table.stores[name].resume_at
                self.started(self.table.tick(self.now))
        return effects


@pytest.fixture
def t() -> Table:
    """An empty table."""
    return Table()


def answered(effects: Iterable[Effect]) -> list[Asker]:
    """Who got an answer."""
    return [e.asker for e in effects if isinstance(e, Grant | Reply | Fail)]


class TestOpening:
    def test_the_first_asker_has_a_worker_started(self, t: Table) -> None:
        """A store nobody asked for before is started, with the defaults filled in."""
        (spawn,) = t.ask()
        assert isinstance(spawn, Spawn)
        assert (spawn.spec.durability, spawn.spec.interval_s) == ("always", 1.0)
        assert spawn.generation == FIRST + 1
        assert t.table.stores["a"].state is State.STARTING

    def test_askers_queue_until_it_is_ready_and_all_are_answered(self, t: Table) -> None:
        """Everybody who asked while the worker recovered is granted the store, in order."""
        t.started(t.ask(1))
        assert t.ask(2) == t.ask(3, host=2) == []
        effects = t.table.worker_ready("a")
        assert answered(effects) == [Asker(1, 1), Asker(1, 2), Asker(2, 3)]
        assert all(isinstance(effect, Grant) for effect in effects)
        assert t.table.stores["a"].state is State.RUNNING

    def test_a_running_store_is_granted_at_once(self, t: Table) -> None:
        """No second worker is started for a store that runs."""
        spawn = t.run()
        (grant,) = t.ask(2)
        assert isinstance(grant, Grant)
        assert (grant.answer.generation, grant.answer.pid) == (spawn.generation, 1)
        assert grant.answer.session

    def test_an_asker_without_session_is_told_without_session(self, t: Table) -> None:
        """Who only wants the store served gets no pipe."""
        t.run()
        (grant,) = t.table.open_asked(Asker(1, 2), OpenStore(spec()), t.now)
        assert isinstance(grant, Grant)
        assert not grant.answer.session

    def test_a_refusal_reaches_every_asker(self, t: Table) -> None:
        """A store that cannot be opened tells everybody in its queue why, and is forgotten."""
        t.started(t.ask(1))
        t.ask(2)
        error = StoreCorrupt("damaged")
        effects = t.table.worker_refused("a", error)
        assert effects == [Fail(Asker(1, 1), error), Fail(Asker(1, 2), error)]
        assert t.end() == []
        assert "a" not in t.table.stores

    def test_who_asks_between_refusal_and_exit_has_it_tried_again(self, t: Table) -> None:
        """The cause may be gone by then: the next worker finds out."""
        t.started(t.ask(1))
        t.table.worker_refused("a", StoreCorrupt("damaged"))
        assert t.ask(2) == []
        spawn = t.started(t.end())
        assert spawn.generation == FIRST + 2
        assert answered(t.table.worker_ready("a")) == [Asker(1, 2)]

    def test_a_successor_neither_creates_nor_imports(self, t: Table) -> None:
        """After a worker was ready the file exists, so its successor has to find it."""
        ask = OpenStore(spec(import_from="/artifact"), session=True)
        first = t.started(t.table.open_asked(Asker(1, 1), ask, t.now))
        assert (first.spec.import_from, first.spec.create) == ("/artifact", True)
        t.table.worker_ready("a")
        second = t.started(t.die(fruitful=True))
        assert (second.spec.import_from, second.spec.create) == (None, False)


class TestConflicts:
    @pytest.mark.parametrize("ending", ["refused", "left", "dropped"])
    def test_a_worker_that_ends_binds_nobody(self, t: Table, ending: str) -> None:
        """Who asks while it does gets a store of their own wishes, also an import."""
        t.run()
        if ending == "refused":
            t.started(t.die(fruitful=True))
            t.table.worker_refused("a", StoreCorrupt("damaged"))
        elif ending == "left":
            t.table.host_left(1)
            t.table.stop_all()
        else:
            t.table.drop_asked(Asker(1, 9), DropStore("a"))
        asked = spec(path="/elsewhere/a.snap", durability="never", import_from="/artifact")
        assert t.table.open_asked(Asker(2, 1), OpenStore(asked), t.now) == []
        (late,) = t.table.open_asked(Asker(2, 2), OpenStore(spec()), t.now)
        assert isinstance(late, Fail), "the next one is bound to what that one asked for"
        spawn = t.started(t.end())
        assert spawn.spec == structs.replace(asked, interval_s=1.0)
        assert answered(t.table.worker_ready("a")) == [Asker(2, 1)]

    @pytest.mark.parametrize(
        "asked",
        [spec(durability="never"), spec(path="/elsewhere/a.snap"),
         structs.replace(spec(), interval_s=7.0)],
    )  # fmt: skip
    def test_other_options_are_refused(self, t: Table, asked: StoreSpec) -> None:
        """A store serves one file under one policy; who wants another is told what it has."""
        t.run()
        (fail,) = t.table.open_asked(Asker(2, 1), OpenStore(asked), t.now)
        assert isinstance(fail, Fail)
        assert isinstance(fail.error, OptionsConflict)
        assert fail.error.store == "a"

    def test_same_or_unnamed_options_are_no_conflict(self, t: Table) -> None:
        """None means: as it is."""
        t.run()
        for asked in (spec(), spec(durability="always"), structs.replace(spec(), interval_s=1.0)):
            (grant,) = t.table.open_asked(Asker(2, 1), OpenStore(asked), t.now)
            assert isinstance(grant, Grant)

    def test_another_kind_is_refused(self, t: Table) -> None:
        """A name belongs to one store of one kind."""
        t.run()
        other = structs.replace(spec(), kind="index")
        (fail,) = t.table.open_asked(Asker(2, 1), OpenStore(other), t.now)
        assert isinstance(fail, Fail)
        assert isinstance(fail.error, WrongKind)

    def test_importing_over_an_open_store_is_refused(self, t: Table) -> None:
        """An import makes a store; it never replaces one."""
        t.run()
        ask = OpenStore(spec(import_from="/artifact"))
        (fail,) = t.table.open_asked(Asker(2, 1), ask, t.now)
        assert isinstance(fail, Fail)
        assert isinstance(fail.error, StoreExists)

    def test_a_store_that_lies_elsewhere_is_joined_by_name(self, t: Table) -> None:
        """Who only has the name is content with the place of the open store; it is not moved."""
        t.started(t.table.open_asked(Asker(1, 1), OpenStore(spec(path="/x/a.snap")), t.now))
        t.table.worker_ready("a")
        by_name = structs.replace(spec(), by_name=True)
        (grant,) = t.table.open_asked(Asker(1, 2), OpenStore(by_name), t.now)
        assert isinstance(grant, Grant)
        assert (grant.answer.spec.path, grant.answer.spec.by_name) == ("/x/a.snap", False)
        (fail,) = t.table.open_asked(Asker(1, 3), OpenStore(spec()), t.now)
        assert isinstance(fail, Fail)
        assert isinstance(fail.error, OptionsConflict)

    def test_who_has_only_the_name_is_not_refused_for_what_lies_elsewhere(self, t: Table) -> None:
        """When that cannot be opened, the store of the name is looked for where it would lie."""
        t.started(t.table.open_asked(Asker(1, 1), OpenStore(spec(path="/x/a.snap")), t.now))
        by_name = structs.replace(spec(), by_name=True)
        assert t.table.open_asked(Asker(1, 2), OpenStore(by_name), t.now) == []
        refused = t.table.worker_refused("a", StoreCorrupt("bad", path="/x/a.snap"))
        assert answered(refused) == [Asker(1, 1)]
        assert t.started(t.end()).spec.path == spec().path

    def test_whoever_knows_another_store_is_refused(self, t: Table) -> None:
        """A session goes to those who know nothing of the store, or what is so; not to others."""
        spawn = t.started(t.ask(1))
        for request, known in ((2, TWO), (3, FOUR)):
            ask = OpenStore(structs.replace(spawn.spec, properties=known))
            assert t.table.open_asked(Asker(1, request), ask, t.now) == []
        effects = t.table.worker_ready("a", TWO)
        assert [type(effect) for effect in effects] == [Grant, Grant, Fail]
        granted = effects[0]
        assert isinstance(granted, Grant)
        assert granted.answer.spec.properties == TWO
        (fail,) = t.table.open_asked(Asker(1, 4), ask, t.now)
        assert isinstance(fail, Fail)
        assert isinstance(fail.error, OptionsConflict)
        assert "dimension=2, not 4, metric='l2', not 'ip'" in str(fail.error)

    def test_what_an_asker_knows_is_not_taken_for_what_is_so(self, t: Table) -> None:
        """The first to ask a new supervisor for a store may know another one of that name."""
        ask = OpenStore(structs.replace(spec(), properties=FOUR))
        spawn = t.started(t.table.open_asked(Asker(1, 1), ask, t.now))
        assert spawn.spec.properties is None
        (fail,) = t.table.worker_ready("a", TWO)
        assert isinstance(fail, Fail)


class TestDeaths:
    def test_a_fruitful_death_restarts_at_once(self, t: Table) -> None:
        """A crash costs a new worker of the next generation and no wait."""
        first = t.run()
        second = t.started(t.die(fruitful=True))
        assert second.generation == first.generation + 1
        assert t.table.stores["a"].restarts == 1

    def test_the_asker_learns_how_workers_ended(self, t: Table) -> None:
        """A grant lists the exits, by which a caller recognises a request that kills."""
        t.run()
        t.started(t.die(fruitful=True, cause="killed by SIGKILL"))
        t.ask(2)
        (grant,) = t.table.worker_ready("a")
        assert isinstance(grant, Grant)
        assert [exit.cause for exit in grant.answer.exits] == ["killed by SIGKILL"]

    def test_fruitless_deaths_back_off(self, t: Table) -> None:
        """The second restart in a row without an answer waits; the clock says how long."""
        t.started(t.ask(1))
        t.started(t.die())
        assert t.die() == []
        assert t.table.stores["a"].state is State.WAITING
        assert t.table.next_tick() == t.now + BACKOFF_FIRST_S
        assert t.table.tick(t.now + BACKOFF_FIRST_S / 2) == []
        t.started(t.table.tick(t.now + BACKOFF_FIRST_S))
        assert answered(t.table.worker_ready("a")) == [Asker(1, 1)]

    def test_it_is_given_up_and_everybody_learns_why(self, t: Table) -> None:
        """After the last allowed death the queue fails with all causes, and so does who comes."""
        t.started(t.ask(1))
        t.ask(2)
        effects = t.use_up()
        assert answered(effects) == [Asker(1, 1), Asker(1, 2)]
        (late,) = t.ask(3)
        for effect in [*effects, late]:
            assert isinstance(effect, Fail)
            assert isinstance(effect.error, StoreFailed)
            assert effect.error.store == "a"
            for number in range(FRUITLESS_DEATHS_MAX):
                assert f"cause {number}" in str(effect.error)
        assert t.table.next_tick() is None

    def test_a_salvage_of_a_store_that_was_given_up_is_started_once(self, t: Table) -> None:
        """Who asks for a salvage gets a start of that kind; given up again, it is over for all."""

        def asked(request: int, *, salvage: bool) -> list[Effect]:
            options = IndexOptions(kind="m:C", salvage=salvage)
            index = StoreSpec("a", "index", "/d/a.iqdb", options=options)
            return t.table.open_asked(Asker(1, request), OpenStore(index, session=True), t.now)

        t.started(asked(1, salvage=False))
        (given_up,) = t.use_up()
        assert isinstance(given_up, Fail)
        assert "salvage=True" in str(given_up.error)
        assert answered(asked(2, salvage=False)) == [Asker(1, 2)]
        spawn = t.started(asked(3, salvage=True))
        assert spawn.spec.options == IndexOptions(kind="m:C", salvage=True)
        assert answered(t.use_up()) == [Asker(1, 3)]
        assert answered(asked(4, salvage=True)) == [Asker(1, 4)]

    def test_other_stores_go_on(self, t: Table) -> None:
        """One failed store does not touch another."""
        t.run("b")
        t.started(t.ask(name="a"))
        t.use_up()
        (grant,) = t.ask(name="b")
        assert isinstance(grant, Grant)
        assert [(s.name, s.state) for s in t.table.health().stores] == [
            ("a", "failed"),
            ("b", "running"),
        ]

    def test_a_death_without_waiters_restarts_too(self, t: Table) -> None:
        """A store stays open while the engine is: its worker comes back unasked."""
        t.run()
        assert t.started(t.die(fruitful=True))

    def test_a_broken_session_seen_before_the_death_waits_for_it(self, t: Table) -> None:
        """A caller who lost this worker is not offered it again before its death can be known."""
        spawn = t.run()
        assert t.ask(2, lost=spawn.generation) == []
        assert t.table.next_tick() == t.now + DEATH_NOTICE_S
        t.started(t.die(fruitful=True))
        assert answered(t.table.worker_ready("a")) == [Asker(1, 2)]

    def test_a_broken_session_of_a_living_worker_is_replaced(self, t: Table) -> None:
        """If the worker lives after all, the caller gets a new session to it."""
        spawn = t.run()
        t.ask(2, lost=spawn.generation)
        assert t.table.tick(t.now + DEATH_NOTICE_S / 2) == []
        (grant,) = t.table.tick(t.now + DEATH_NOTICE_S)
        assert isinstance(grant, Grant)
        assert grant.asker == Asker(1, 2)

    def test_a_session_lost_with_an_older_worker_is_replaced_at_once(self, t: Table) -> None:
        """The death is long known then."""
        spawn = t.run()
        t.started(t.die(fruitful=True))
        t.table.worker_ready("a")
        assert answered(t.ask(2, lost=spawn.generation)) == [Asker(1, 2)]


class TestRestart:
    def test_a_failed_store_is_tried_again(self, t: Table) -> None:
        """Restart forgives the deaths, and answers when the new worker is ready."""
        t.started(t.ask(1))
        t.use_up()
        t.started(t.table.restart_asked(Asker(1, 9), RestartStore("a")))
        assert answered(t.table.worker_ready("a")) == [Asker(1, 9)]
        assert t.started(t.die())  # the first death of a new row restarts at once

    def test_a_running_store_is_stopped_and_started(self, t: Table) -> None:
        """It stops cleanly first; who asks meanwhile waits for the new worker."""
        t.run()
        assert t.table.restart_asked(Asker(1, 9), RestartStore("a")) == [StopWorker("a")]
        assert t.ask(10) == []
        t.started(t.end())
        assert answered(t.table.worker_ready("a")) == [Asker(1, 9), Asker(1, 10)]

    def test_a_waiting_store_is_started_at_once(self, t: Table) -> None:
        """Nobody who asks for a restart sits out a back-off."""
        t.started(t.ask(1))
        t.started(t.die())
        t.die()
        t.started(t.table.restart_asked(Asker(1, 9), RestartStore("a")))
        assert answered(t.table.worker_ready("a")) == [Asker(1, 1), Asker(1, 9)]

    def test_a_starting_store_answers_when_ready(self, t: Table) -> None:
        """What is starting already is not started twice."""
        t.started(t.ask(1))
        assert t.table.restart_asked(Asker(1, 9), RestartStore("a")) == []
        assert answered(t.table.worker_ready("a")) == [Asker(1, 1), Asker(1, 9)]

    def test_a_store_that_is_not_open_is_not_restarted(self, t: Table) -> None:
        """Who asks learns it, and no worker is started."""
        (fail,) = t.table.restart_asked(Asker(1, 9), RestartStore("a"))
        assert isinstance(fail, Fail)
        assert isinstance(fail.error, StoreNotFound)

    def test_a_refused_store_is_not_shown(self, t: Table) -> None:
        """It is not open, though its worker has not ended yet."""
        t.started(t.ask(1))
        t.table.worker_refused("a", StoreCorrupt("bad", path="/d/a.snap"))
        assert t.table.health().stores == []

    def test_a_restarted_store_that_dies_while_stopping_starts_anyway(self, t: Table) -> None:
        """How a worker that was to stop ended makes no difference to who waits."""
        t.run()
        t.table.restart_asked(Asker(1, 9), RestartStore("a"))
        assert t.started(t.end(clean=False))


class TestDrop:
    def test_it_is_answered_when_the_files_are_gone(self, t: Table) -> None:
        """The worker removes its files; its clean exit is the confirmation."""
        t.run()
        assert t.table.drop_asked(Asker(1, 9), DropStore("a")) == [StopWorker("a", remove=True)]
        assert t.end() == [Reply(Asker(1, 9), Accepted())]
        assert not t.table.stores

    def test_a_worker_that_dies_over_it_confirms_nothing(self, t: Table) -> None:
        """Files may be left then, and whoever asked is told so."""
        t.run()
        t.table.drop_asked(Asker(1, 9), DropStore("a"))
        (fail,) = t.end(clean=False)
        assert isinstance(fail, Fail)
        assert isinstance(fail.error, StoreFailed)

    def test_a_store_that_does_not_run_is_not_dropped(self, t: Table) -> None:
        """Nothing is removed of a store in an unknown state."""
        t.started(t.ask(1))
        for name in ("a", "unknown"):
            (fail,) = t.table.drop_asked(Asker(1, 9), DropStore(name))
            assert isinstance(fail, Fail)

    def test_who_asks_during_the_drop_gets_a_new_store(self, t: Table) -> None:
        """It is started after the old one is gone."""
        t.run()
        t.table.drop_asked(Asker(1, 9), DropStore("a"))
        assert t.ask(2) == []
        effects = t.end()
        assert answered(effects) == [Asker(1, 9)]
        t.started(effects)
        assert answered(t.table.worker_ready("a")) == [Asker(1, 2)]


class TestHungWorkers:
    def test_a_worker_without_progress_is_killed(self, t: Table) -> None:
        """It is woken up first; if its progress stands still, it is killed for that cause."""
        spawn = t.run()
        assert t.table.suspected("a", spawn.generation, 5.0, t.now) == [Poke("a")]
        assert t.table.next_tick() == t.now + 5.0
        assert t.table.tick(t.now + 4.9) == []
        (killed,) = t.table.tick(t.now + 5.0)
        assert isinstance(killed, KillWorker)
        assert "hung" in killed.cause
        assert t.table.next_tick() is None

    def test_a_worker_with_progress_is_left_alone(self, t: Table) -> None:
        """Slow is not hung."""
        spawn = t.run()
        t.table.suspected("a", spawn.generation, 5.0, t.now)
        t.progress += 1
        assert t.table.tick(t.now + 5.0) == []
        assert t.table.suspected("a", spawn.generation, 5.0, t.now) == [Poke("a")]

    def test_a_suspicion_of_somebody_else_changes_nothing(self, t: Table) -> None:
        """An older generation, an unknown store, or a worker already watched is not poked."""
        spawn = t.run()
        assert t.table.suspected("a", spawn.generation - 1, 5.0, t.now) == []
        assert t.table.suspected("b", spawn.generation, 5.0, t.now) == []
        t.table.suspected("a", spawn.generation, 5.0, t.now)
        assert t.table.suspected("a", spawn.generation, 1.0, t.now) == []

    @pytest.mark.parametrize("what", ["recovering", "restarting", "dropping"])
    def test_nobody_waits_forever_for_a_worker_that_hangs(self, t: Table, what: str) -> None:
        """A worker that recovers or stops while somebody waits is watched unasked."""
        if what == "recovering":
            t.started(t.ask(1))
        else:
            spawn = t.run()
            t.table.suspected("a", spawn.generation, 1.0, t.now)  # and was found alive
            t.progress += 1
            if what == "restarting":
                t.table.restart_asked(Asker(1, 9), RestartStore("a", 3.0))
            else:
                t.table.drop_asked(Asker(1, 9), DropStore("a", 3.0))
        kills: list[Effect] = []
        for _ in range(10):
            kills += t.table.tick(t.now)
            moment = t.table.next_tick()
            if kills or moment is None:
                break
            t.now = moment
        assert [type(effect) for effect in kills] == [KillWorker]

    @pytest.mark.parametrize("what", ["given up", "waiting"])
    def test_a_suspicion_that_comes_late_finds_nobody(self, t: Table, what: str) -> None:
        """Where no process is left there is none to wake or to kill, and no successor suffers."""
        generation = t.started(t.ask(1)).generation
        if what == "given up":
            t.use_up()
            generation = t.table.stores["a"].generation
        else:
            generation = t.started(t.die()).generation
            t.die()
        assert t.table.suspected("a", generation, 5.0, t.now) == []
        assert t.table.next_tick() == (None if what == "given up" else t.now + BACKOFF_FIRST_S)
        spawn = t.started(t.table.restart_asked(Asker(1, 9), RestartStore("a")))
        t.table.worker_ready("a")
        assert t.table.suspected("a", spawn.generation, 5.0, t.now) == [Poke("a")]

    def test_a_suspicion_dies_with_its_worker(self, t: Table) -> None:
        """A successor is not killed for what its predecessor did."""
        spawn = t.run()
        t.table.suspected("a", spawn.generation, 5.0, t.now)
        t.started(t.die(fruitful=True))
        assert t.table.tick(t.now + 5.0) == []


class TestLeaving:
    def test_a_host_that_left_is_not_answered(self, t: Table) -> None:
        """Its requests leave every queue; those of others stay."""
        t.started(t.ask(1, host=1))
        t.ask(2, host=2)
        t.table.host_left(1)
        assert answered(t.table.worker_ready("a")) == [Asker(2, 2)]

    def test_a_dropper_that_left_is_not_answered(self, t: Table) -> None:
        """The drop itself goes on."""
        t.run()
        t.table.drop_asked(Asker(1, 9), DropStore("a"))
        t.table.host_left(1)
        assert t.end() == []

    def test_stopping_all_stops_what_runs_and_forgets_the_rest(self, t: Table) -> None:
        """Running and starting workers are told to stop; failed and waiting stores just go."""
        t.run("running")
        t.started(t.ask(name="starting"))
        t.started(t.ask(name="failed"))
        t.use_up("failed")
        t.started(t.ask(name="waiting"))
        t.started(t.die(name="waiting"))
        t.die(name="waiting")
        t.table.host_left(1)
        assert set(t.table.stop_all()) == {StopWorker("running"), StopWorker("starting")}
        assert set(t.table.stores) == {"running", "starting"}
        assert t.table.stop_all() == []

    def test_a_worker_that_becomes_ready_while_stopping_stays_stopped(self, t: Table) -> None:
        """Its order to stop is on its way already."""
        t.started(t.ask(1))
        t.table.host_left(1)
        t.table.stop_all()
        assert t.table.worker_ready("a") == []
        assert t.end() == []

    def test_who_joins_while_all_stops_is_served_afterwards(self, t: Table) -> None:
        """A store asked for while its worker stops starts again when that one has ended."""
        t.run()
        t.table.host_left(1)
        t.table.stop_all()
        assert t.ask(1, host=2) == []
        t.started(t.end())
        assert answered(t.table.worker_ready("a")) == [Asker(2, 1)]


def test_processes_and_health_show_the_table(t: Table) -> None:
    """The supervisor comes first, then the workers by name; a store shows its last cause."""
    t.run("b")
    t.run("a")
    t.started(t.die(fruitful=True, name="b", cause="killed by SIGSEGV"))
    shown = [(p.role, p.store, p.pid) for p in t.table.processes(42).processes]
    assert shown == [("supervisor", None, 42), ("worker", "a", 2), ("worker", "b", 3)]
    a, b = t.table.health().stores
    assert (a.state, a.restarts, a.last_exit) == ("running", 0, None)
    assert (b.state, b.restarts, b.last_exit) == ("starting", 1, "killed by SIGSEGV")


NAMES = st.sampled_from(["a", "b"])
HOSTS = st.integers(1, 3)


class EverybodyIsAnswered(RuleBasedStateMachine):
    """Random hosts, workers and clocks; whoever asked is answered once, or has left."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Supervision(0, lambda name: self.progress.get(name, 0))
        self.progress: dict[str, int] = {}
        self.now = 0.0
        self.requests = 0
        self.open: set[Asker] = set()
        self.alive: dict[str, int] = {}
        self.dead: dict[str, int] = {}
        """The generation of each store's worker that died last."""
        self.told_to_stop: set[str] = set()

    def perform(self, effects: list[Effect]) -> None:
        """Do as the supervisor does."""
        for effect in effects:
            match effect:
                case Spawn(spec=started):
                    assert started.name not in self.alive, "one worker a store"
                    self.alive[started.name] = effect.generation
                    self.told_to_stop.discard(started.name)
                    self.table.worker_started(started.name, effect.generation)
                case Grant(asker=asker, name=name):
                    assert self.alive.get(name) == effect.answer.generation
                    self.open.remove(asker)  # fails when somebody is answered twice
                case Reply(asker=asker) | Fail(asker=asker):
                    self.open.remove(asker)
                case StopWorker(name=name):
                    assert name in self.alive
                    self.told_to_stop.add(name)
                case KillWorker(name=name) | Poke(name=name):
                    assert name in self.alive

    def asker(self, host: int) -> Asker:
        self.requests += 1
        asker = Asker(host, self.requests)
        self.open.add(asker)
        return asker

    @rule(host=HOSTS, name=NAMES, session=st.booleans(), lost=st.booleans())
    def ask(self, host: int, name: str, session: bool, lost: bool) -> None:
        generation = self.alive.get(name, 0) if lost else 0
        message = OpenStore(spec(name), session, generation)
        self.perform(self.table.open_asked(self.asker(host), message, self.now))

    @rule(host=HOSTS, name=NAMES, durability=st.sampled_from(["always", "never"]))
    def ask_with_options(self, host: int, name: str, durability: Durability) -> None:
        message = OpenStore(spec(name, durability=durability))
        self.perform(self.table.open_asked(self.asker(host), message, self.now))

    @rule(host=HOSTS, name=NAMES)
    def restart(self, host: int, name: str) -> None:
        self.perform(self.table.restart_asked(self.asker(host), RestartStore(name)))

    @rule(host=HOSTS, name=NAMES)
    def drop(self, host: int, name: str) -> None:
        self.perform(self.table.drop_asked(self.asker(host), DropStore(name)))

    @rule(host=HOSTS)
    def leave(self, host: int) -> None:
        self.table.host_left(host)
        self.open = {asker for asker in self.open if asker.host != host}
        if not self.open:
            self.perform(self.table.stop_all())

    @rule(name=NAMES, late=st.booleans())
    def suspect(self, name: str, late: bool) -> None:
        last = self.dead.get(name, 0)
        generation = last if late else self.alive.get(name, last)
        self.perform(self.table.suspected(name, generation, 1.0, self.now))

    @rule(name=NAMES)
    def ready(self, name: str) -> None:
        if name in self.alive and self.table.stores[name].state in (
            State.STARTING,
            State.STOPPING,
        ):
            self.perform(self.table.worker_ready(name))

    @rule(name=NAMES)
    def refuse(self, name: str) -> None:
        if name in self.alive and self.table.stores[name].state is State.STARTING:
            self.perform(self.table.worker_refused(name, HoldfastError("no")))

    @rule(name=NAMES, fruitful=st.booleans(), clean=st.booleans())
    def exit(self, name: str, fruitful: bool, clean: bool) -> None:
        if name in self.alive:
            self.dead[name] = self.alive.pop(name)
            exit = Exit(self.dead[name], "died", fruitful=fruitful, clean=clean)
            self.perform(self.table.worker_exited(name, exit, self.now))

    @rule(name=NAMES, times=st.integers(2, FRUITLESS_DEATHS_MAX), patient=st.booleans())
    def exit_again_and_again(self, name: str, times: int, patient: bool) -> None:
        for _ in range(times):
            self.exit(name, fruitful=False, clean=False)
            if patient:
                self.wait(3.0, progress=False)

    @rule(seconds=st.sampled_from([0.01, DEATH_NOTICE_S, 3.0]), progress=st.booleans())
    def wait(self, seconds: float, progress: bool) -> None:
        self.now += seconds
        if progress:
            self.progress = {name: self.progress.get(name, 0) + 1 for name in self.alive}
        self.perform(self.table.tick(self.now))

    @invariant()
    def the_table_knows_every_worker(self) -> None:
        known = {name for name, store in self.table.stores.items() if store.pid is not None}
        assert known == set(self.alive)

    def teardown(self) -> None:
        """From any state, patience alone brings every answer."""
        for _ in range(20):
            for name in list(self.alive):
                if self.table.stores[name].state is State.REFUSED or name in self.told_to_stop:
                    self.exit(name, fruitful=False, clean=True)
                elif self.table.stores[name].state is State.STARTING:
                    self.ready(name)
            self.wait(3.0, progress=True)
        assert not self.open, f"never answered: {self.open}"


TestEverybodyIsAnswered = EverybodyIsAnswered.TestCase
TestEverybodyIsAnswered.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
