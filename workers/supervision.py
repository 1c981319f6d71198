"""The supervisor's decisions, pure: told what happened and when, it answers what to do.

A store's life::

    (asked for) -> STARTING -> RUNNING -> (worker died) -> STARTING, at once or after WAITING
                      |           |                    \\-> FAILED, when nothing gets done
                      v           v
                   REFUSED     STOPPING   -> gone, or STARTING again when somebody asks meanwhile

Whoever asks for a store waits in its queue until it runs, is refused, or fails; a queue is always
emptied by an answer. ``supervisor.py`` performs the effects and reports the events.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

from msgspec import structs

from holdfast.formats.errors import (
    HoldfastError,
    StoreExists,
    StoreFailed,
    StoreNotFound,
)
from holdfast.workers.index_messages import IndexOptions
from holdfast.workers.messages import (
    DEFAULT_HUNG_AFTER_S,
    Accepted,
    DropStore,
    Exit,
    Health,
    Opened,
    OpenStore,
    Processes,
    ProcessInfo,
    Properties,
    RestartStore,
    StoreHealth,
    StoreSpec,
)
from holdfast.workers.places import taken_by_another
from holdfast.workers.restart import RestartBudget
from holdfast.workers.terms import asked_for, conflict, made_anew, with_defaults

# A broken session is often seen before the death that broke it. So long its caller is kept waiting
# before the same worker is offered again.
DEATH_NOTICE_S = 0.1
_EXITS_KEPT = 16


class Asker(NamedTuple):
    """A request of a host that has to be answered."""

    host: int
    request: int


# --- effects -----------------------------------------------------------------------------------


class Spawn(NamedTuple):
    """Start a worker."""

    spec: StoreSpec
    generation: int


class Grant(NamedTuple):
    """Answer that the store runs, with a new session to it if asked for."""

    asker: Asker
    name: str
    answer: Opened


class Reply(NamedTuple):
    """Answer with a message."""

    asker: Asker
    answer: Accepted


class Fail(NamedTuple):
    """Answer with an error."""

    asker: Asker
    error: HoldfastError


class StopWorker(NamedTuple):
    """Have a worker sync, close and exit; with ``remove``, take the store's files with it."""

    name: str
    remove: bool = False


class KillWorker(NamedTuple):
    """Kill a worker, for this cause."""

    name: str
    cause: str


class Poke(NamedTuple):
    """Wake a worker up, so that its progress shows whether it lives."""

    name: str


Effect = Spawn | Grant | Reply | Fail | StopWorker | KillWorker | Poke


# --- state -------------------------------------------------------------------------------------


class State(Enum):
    """Where a store stands."""

    STARTING = auto()
    RUNNING = auto()
    WAITING = auto()
    FAILED = auto()
    REFUSED = auto()
    STOPPING = auto()


# A worker in these states that somebody waits for is watched without anybody's complaint.
_MUST_PROGRESS = (State.STARTING, State.STOPPING)
# A store in these states has its file, or will have it again.
_SERVED = (State.STARTING, State.RUNNING, State.WAITING)
# The worker in these states serves nobody any more.
_ENDING = (State.REFUSED, State.STOPPING)

_SHOWN = {
    State.STARTING: "starting",
    State.RUNNING: "running",
    State.WAITING: "waiting",
    State.FAILED: "failed",
    State.STOPPING: "waiting",
}


@dataclass(slots=True)
class Waiter:
    """Somebody who waits for a store to run."""

    asker: Asker
    session: bool
    spec: StoreSpec
    hung_after_s: float = DEFAULT_HUNG_AFTER_S
    not_before: float = 0.0


@dataclass(slots=True)
class Suspicion:
    """A worker that has to show progress until a moment."""

    until: float
    seconds: float
    progress: int


@dataclass(slots=True)
class Store:
    """One store in the table."""

    spec: StoreSpec
    generation: int
    state: State = State.STARTING
    pid: int | None = None
    budget: RestartBudget = field(default_factory=RestartBudget)
    waiters: list[Waiter] = field(default_factory=list)
    droppers: list[Waiter] = field(default_factory=list)
    exits: deque[Exit] = field(default_factory=lambda: deque(maxlen=_EXITS_KEPT))
    resume_at: float = 0.0
    restarts: int = 0
    suspicion: Suspicion | None = None


class Supervision:
    """The table of stores and who waits for them."""

    def __init__(self, first_generation: int, progress_of: Callable[[str], int]) -> None:
        self.stores: dict[str, Store] = {}
        self._generation = first_generation
        self._progress_of = progress_of

    # --- hosts -----------------------------------------------------------------------------

    def open_asked(self, asker: Asker, ask: OpenStore, now: float) -> list[Effect]:
        """A host wants a store served."""
        spec = ask.spec
        store = self.stores.get(spec.name)
        if store is None:
            served = (other for other in self.stores.values() if other.state in _SERVED)
            taken = taken_by_another(spec, ((other.spec, other.pid) for other in served))
            if taken is not None:
                return [Fail(asker, taken)]
            return self._add(spec, Waiter(asker, ask.session, spec, ask.hung_after_s))
        if store.state in _ENDING and not store.waiters:
            store.spec = with_defaults(spec)  # nobody is bound to what the old worker was told
        elif spec.import_from is not None and store.state is not State.STARTING:
            return [Fail(asker, StoreExists(f"store {spec.name!r} exists", store=spec.name))]
        error = conflict(store.spec, spec)
        if error is not None:
            return [Fail(asker, error)]
        waiter = Waiter(asker, ask.session, spec, ask.hung_after_s)
        if store.state is State.FAILED:
            if not _salvages(spec) or _salvages(store.spec):
                return [Fail(asker, _failed(store))]
            store.spec = with_defaults(spec)
            store.budget.forgive()
            store.waiters.append(waiter)
            return [self._start(store)]
        if store.state is State.RUNNING:
            if ask.lost != store.generation:
                return [self._grant(store, waiter)]
            waiter.not_before = now + DEATH_NOTICE_S
        store.waiters.append(waiter)
        return []

    def host_left(self, host: int) -> None:
        """A host is gone: nobody there waits any more."""
        for store in self.stores.values():
            store.waiters = [w for w in store.waiters if w.asker.host != host]
            store.droppers = [w for w in store.droppers if w.asker.host != host]

    def restart_asked(self, asker: Asker, ask: RestartStore) -> list[Effect]:
        """A host wants a worker started anew."""
        name = ask.name
        store = self.stores.get(name)
        if store is None:
            return [Fail(asker, StoreNotFound(f"store {name!r} is not open", store=name))]
        store.budget.forgive()
        store.waiters.append(Waiter(asker, False, store.spec, ask.hung_after_s))
        if store.state is State.RUNNING:
            store.state = State.STOPPING
            return [StopWorker(name)]
        if store.state in (State.FAILED, State.WAITING):
            return [self._start(store)]
        return []

    def drop_asked(self, asker: Asker, ask: DropStore) -> list[Effect]:
        """A host wants an open store gone, files and all."""
        name = ask.name
        store = self.stores.get(name)
        if store is None or store.state is not State.RUNNING:
            error = StoreFailed(f"store {name!r} is not running, so it is not dropped", store=name)
            return [Fail(asker, error)]
        store.state = State.STOPPING
        store.droppers.append(Waiter(asker, False, store.spec, ask.hung_after_s))
        return [StopWorker(name, remove=True)]

    def suspected(self, name: str, generation: int, seconds: float, now: float) -> list[Effect]:
        """A host has waited long for this worker."""
        store = self.stores.get(name)
        if store is None or store.generation != generation or store.pid is None:
            return []  # what it was about is over
        if store.suspicion is not None:
            return []
        store.suspicion = Suspicion(now + seconds, seconds, self._progress_of(name))
        return [Poke(name)]

    def stop_all(self) -> list[Effect]:
        """Nobody is left: stop every worker."""
        effects: list[Effect] = []
        for name, store in list(self.stores.items()):
            if store.state in (State.FAILED, State.WAITING):
                del self.stores[name]
            elif store.state is not State.STOPPING:
                store.state = State.STOPPING
                effects.append(StopWorker(name))
        return effects

    # --- workers ---------------------------------------------------------------------------

    def worker_started(self, name: str, pid: int) -> None:
        """The process of a spawned worker exists."""
        self.stores[name].pid = pid

    def worker_ready(self, name: str, properties: Properties | None = None) -> list[Effect]:
        """A worker has recovered and serves a store with these properties."""
        store = self.stores[name]
        if store.state is not State.STARTING:
            return []
        store.state = State.RUNNING
        imported = store.spec.import_from
        # From now on the file exists: a successor must find it, neither make nor import it again.
        store.spec = structs.replace(
            store.spec, import_from=None, create=False, properties=properties
        )
        waiters, store.waiters = store.waiters, []
        effects: list[Effect] = []
        for waiter in waiters:
            if waiter.spec.import_from not in (None, imported):
                error = StoreExists(f"store {name!r} exists", store=name)
                effects.append(Fail(waiter.asker, error))
            else:
                effects.append(self._grant(store, waiter))
        return effects

    def worker_refused(self, name: str, error: HoldfastError) -> list[Effect]:
        """A worker cannot open its store, for a reason that stays.

        Whoever asked for it in another way, to make it, say, waits for another start.
        """
        store = self.stores[name]
        store.state = State.REFUSED
        told = asked_for(store.spec)
        refused = [waiter for waiter in store.waiters if asked_for(waiter.spec) == told]
        store.waiters = [waiter for waiter in store.waiters if asked_for(waiter.spec) != told]
        return [Fail(waiter.asker, error) for waiter in refused]

    def worker_exited(self, name: str, exit: Exit, now: float) -> list[Effect]:
        """A worker's process is gone, or could not be started at all."""
        effects: list[Effect]
        store = self.stores[name]
        store.pid = None
        store.suspicion = None
        if store.state in (State.STOPPING, State.REFUSED):
            effects = [_dropped(store, waiter.asker, exit) for waiter in store.droppers]
            store.droppers = []
            if store.waiters:
                if store.state is State.REFUSED:
                    store.spec = with_defaults(store.waiters[0].spec)
                effects.append(self._start(store))
            else:
                del self.stores[name]
            return effects
        store.exits.append(exit)
        store.restarts += 1
        delay = store.budget.after_death(fruitful=exit.fruitful)
        if delay is None:
            store.state = State.FAILED
            waiters, store.waiters = store.waiters, []
            return [Fail(waiter.asker, _failed(store)) for waiter in waiters]
        if delay == 0.0:
            return [self._start(store)]
        store.state = State.WAITING
        store.resume_at = now + delay
        return []

    # --- time ------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Effect]:
        """Time has passed."""
        effects: list[Effect] = []
        for name, store in self.stores.items():
            if store.state is State.WAITING and store.resume_at <= now:
                effects.append(self._start(store))
            if store.state is State.RUNNING:
                due = [w for w in store.waiters if w.not_before <= now]
                store.waiters = [w for w in store.waiters if w.not_before > now]
                effects.extend(self._grant(store, waiter) for waiter in due)
            suspicion = store.suspicion
            if suspicion is not None and suspicion.until <= now:
                store.suspicion = None
                if self._progress_of(name) == suspicion.progress:
                    cause = f"hung: no progress for {suspicion.seconds:g} s, so it was killed"
                    effects.append(KillWorker(name, cause))
            waiting = [*store.waiters, *store.droppers]
            if store.suspicion is None and waiting and store.state in _MUST_PROGRESS:
                seconds = min(waiter.hung_after_s for waiter in waiting)
                store.suspicion = Suspicion(now + seconds, seconds, self._progress_of(name))
        return effects

    def next_tick(self) -> float | None:
        """When ``tick`` has something to do next."""
        moments = []
        for store in self.stores.values():
            if store.state is State.WAITING:
                moments.append(store.resume_at)
            if store.state is State.RUNNING:
                moments.extend(waiter.not_before for waiter in store.waiters)
            if store.suspicion is not None:
                moments.append(store.suspicion.until)
        return min(moments, default=None)

    # --- reading ---------------------------------------------------------------------------

    def health(self) -> Health:
        """Every store, by name; one that was refused is none."""
        return Health(
            [
                StoreHealth(
                    store.spec.name,
                    store.spec.kind,
                    store.spec.path,
                    _SHOWN[store.state],  # type: ignore[arg-type]
                    store.pid,
                    store.restarts,
                    store.exits[-1].cause if store.exits else None,
                )
                for _, store in sorted(self.stores.items())
                if store.state is not State.REFUSED
            ]
        )

    def processes(self, supervisor: int) -> Processes:
        """Every process, supervisor first."""
        workers = [
            ProcessInfo("worker", name, store.pid)
            for name, store in sorted(self.stores.items())
            if store.pid is not None
        ]
        return Processes([ProcessInfo("supervisor", None, supervisor), *workers])

    # --- helpers ---------------------------------------------------------------------------

    def _add(self, spec: StoreSpec, waiter: Waiter) -> list[Effect]:
        store = Store(with_defaults(spec), generation=0)
        store.waiters.append(waiter)
        self.stores[spec.name] = store
        return [self._start(store)]

    def _start(self, store: Store) -> Spawn:
        self._generation += 1
        store.generation = self._generation
        store.state = State.STARTING
        store.suspicion = None
        return Spawn(store.spec, store.generation)

    def _grant(self, store: Store, waiter: Waiter) -> Grant | Fail:
        assert store.pid is not None
        known = waiter.spec.properties
        if known is not None and known != store.spec.properties:
            return Fail(waiter.asker, made_anew(store.spec, known))
        answer = Opened(store.generation, store.pid, list(store.exits), waiter.session, store.spec)
        return Grant(waiter.asker, store.spec.name, answer)


def _dropped(store: Store, asker: Asker, exit: Exit) -> Effect:
    """Whether the worker that was to remove the store's files did so."""
    if exit.clean:
        return Reply(asker, Accepted())
    name = store.spec.name
    error = StoreFailed(
        f"the worker that was to remove store {name!r} died, so files may be left; drop it again: "
        f"{exit.cause}",
        store=name,
        path=store.spec.path,
    )
    return Fail(asker, error)


def _salvages(spec: StoreSpec) -> bool:
    """Whether a store is to be opened without what keeps it shut."""
    return isinstance(spec.options, IndexOptions) and spec.options.salvage


def _failed(store: Store) -> StoreFailed:
    name = store.spec.name
    hint = ""
    options = store.spec.options
    if isinstance(options, IndexOptions) and ":" in (options.kind or ""):  # a class of the user's
        hint = "; if its class ends the process, salvage=True opens it without what does that"
    exits = list(store.exits)[-store.budget.deaths_max :]
    causes = "; ".join(dict.fromkeys(exit.cause for exit in exits))  # each once, in order
    return StoreFailed(
        f"the worker of store {name!r} ended {store.budget.fruitless} times in a row without "
        f"getting anything done: {causes}. engine.restart({name!r}) tries again{hint}",
        store=name,
        path=store.spec.path,
    )
