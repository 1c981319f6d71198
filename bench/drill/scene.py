"""A store at work on which a fault is tried, and the reckoning afterwards."""

import contextlib
import os
import random
import shlex
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import holdfast
from holdfast.bench.drill.clients import SHARED_GROUPS, Client, Crowd, Pace, groups_of, outcome_of
from holdfast.bench.drill.history import Act, Recorder, check, read_histories
from holdfast.bench.drill.live_stores import LiveStore, keys_of, open_store
from holdfast.bench.drill.narrowing import narrowed, told
from holdfast.bench.drill.plan import FaultKind, Plan, StoreKind
from holdfast.bench.drill.serving import Stuck, is_alive, left_after, send, serving, until
from holdfast.bench.drill.sources import KEEPS, Neighbours
from holdfast.bench.drill.tally import REPLAY, Failure, Tally
from holdfast.formats.errors import HoldfastError
from holdfast.workers.messages import ProcessInfo

LOST = "an acknowledged write is never lost"
RIGHT = "never a wrong answer"
ANSWERED = "a death costs latency, not an error"
NOTHING_LEFT = "nothing is left behind two seconds after the last host"
TYPED = "every caller is answered: a result, a typed error, or a timeout"
PROMISES = {
    "lost": LOST,
    "twice": "a write takes effect once",
    "half": "a write is there as a whole or not at all",
    "back": RIGHT,
    "nowhere": RIGHT,
}
NAME = "holdfast-drill"
"""The store's name; not one that a user is likely to have."""
CLIENTS = 3
_RECOVERY_S = 30.0
_SHOWN_MAX = 3


@dataclass(frozen=True, slots=True)
class Setting:
    """What a scene is like."""

    fault: str
    """The fault's name."""
    sort: FaultKind = "processes"
    clients: int = CLIENTS
    contended: bool = False
    """Whether all clients use one group of keys and no other."""
    between_s: float | None = None
    """Between a client's calls, on average; None: each follows the one before."""
    hung_after: float = 30.0
    may_fail: tuple[type[HoldfastError], ...] = ()
    """Errors that clients may get; with any other a promise is broken."""
    directory: str | None = None
    """Where the engine is to be; None: in the run's own scratch directory."""

    @property
    def slug(self) -> str:
        """The fault's name in one word."""
        return self.fault.strip("/").replace(" ", "-").replace("/", "-")


Place = Callable[[Plan], contextlib.AbstractContextManager[str | None]]
"""Where an engine is to be, while a scene lasts. ``PermissionError`` if that cannot be had."""


def fresh(plan: Plan) -> contextlib.AbstractContextManager[str | None]:
    """Nowhere in particular."""
    return contextlib.nullcontext()


def play(
    plan: Plan, tally: Tally, kind: StoreKind, setting: Setting, act: Callable[["Scene"], None]
) -> None:
    """Have a fault befall a store at work, and count it."""
    scene = Scene(plan, tally, kind, setting)
    with scene:
        scene.begin()
        act(scene)
    tally.fault(setting.fault)
    tally.of(kind).process_faults += setting.sort == "processes"


class Scene:
    """A fresh directory with an engine, a store and clients at work on it.

    On leaving it the clients are stopped, the engine is closed, what is left of it is looked for,
    all is read by a new engine, and the whole history is checked. What is broken goes into the
    tally, and the directory is kept then.
    """

    engine: holdfast.Engine
    store: LiveStore

    def __init__(self, plan: Plan, tally: Tally, kind: StoreKind, setting: Setting) -> None:
        self.plan, self.tally, self.kind, self.setting = plan, tally, kind, setting
        self.random = random.Random(f"{plan.seed} {kind} {setting.fault}")
        self.home = tempfile.mkdtemp(prefix=f"{kind}-{setting.slug}-", dir=plan.work)
        self.directory = setting.directory or os.path.join(self.home, "data")
        self.crowd = Crowd([])
        self.broken = False
        self._neighbours: Neighbours | None = None
        self._recorders: list[Recorder] = []
        self._own_groups = 0
        self._stack = contextlib.ExitStack()

    def begin(self) -> None:
        """Open the engine and the store, and have the clients begin.

        On copies of a user's stores, those are there as well, and have to stay as they are.
        """
        if self.plan.source is not None:
            self._neighbours = Neighbours(self.plan.source, self.directory, self.kind)
        self.engine = self._stack.enter_context(
            holdfast.open(self.directory, hung_after=self.setting.hung_after)
        )
        self.store = open_store(self.kind, self.engine, NAME)
        if self._neighbours is not None:
            self._neighbours.open(self.engine)
        self.crowd = Crowd(
            [
                Client(
                    self.store, self.recorder(f"c{number}"), self._groups(),
                    self.random.getrandbits(32), Pace(self.setting.between_s),
                )
                for number in range(self.setting.clients)
            ]
        )  # fmt: skip
        self.crowd.start()

    # --- clients ---------------------------------------------------------------------------

    def recorder(self, client: str) -> Recorder:
        """A history in this scene."""
        self._recorders.append(Recorder(self.history_of(client), client))
        return self._recorders[-1]

    def history_of(self, client: str) -> str:
        """Where a client's history lies."""
        return os.path.join(self.home, f"{client}.history")

    def __enter__(self) -> Self:
        return self

    def _groups(self) -> Sequence[int]:
        return SHARED_GROUPS[:1] if self.setting.contended else groups_of(self.own_group())

    def new_client(self) -> str:
        """A name for a client beside those that are there."""
        return f"n{self._own_groups}"

    def own_group(self) -> int:
        """A group that no other client writes to."""
        self._own_groups += 1
        return len(SHARED_GROUPS) + self._own_groups - 1

    # --- processes -------------------------------------------------------------------------

    def worker(self) -> int:
        """Process id of the store's worker, waiting for one that is just being started."""
        return self._process(lambda process: process.store == NAME, "the store has a worker")

    def supervisor(self) -> int:
        """Process id of the supervisor."""
        return self._process(lambda process: process.store is None, "there is a supervisor")

    def _process(self, wanted: Callable[[ProcessInfo], bool], what: str) -> int:
        found: list[int] = []

        def look() -> bool:
            found[:] = [process.pid for process in self.engine.processes() if wanted(process)]
            return bool(found)

        until(look, what)
        return found[0]

    def pids(self) -> list[int]:
        """Process ids of the supervisor and the workers."""
        return [process.pid for process in self.engine.processes()]

    def restarts(self) -> int:
        """How often the store's worker was started again by the supervisor there is now."""
        return sum(store.restarts for store in self.engine.health())

    def last_exit(self) -> str:
        """How its worker ended last."""
        return "".join(str(store.last_exit) for store in self.engine.health())

    def strike(self, pid: int, number: signal.Signals = signal.SIGKILL) -> float:
        """Send a process a signal that ends it, and measure until the next answer, in milliseconds.

        A process that was sent a signal may answer once more before it gets it; that answer would
        not be its successor's.
        """
        began = time.monotonic()
        send(pid, number)
        if number is not signal.SIGSTOP:  # of which it dies only when somebody misses it
            until(lambda: not is_alive(pid), f"{pid} is gone", pause_s=0.0005)
        self.store.find(SHARED_GROUPS[0])
        return 1000 * (time.monotonic() - began)

    def heavy(self) -> None:
        """A legal request that needs much memory. Raises what it ends with."""
        client = self.new_client()
        self.own_group()
        recorder, text = self.recorder(client), f"{client}.1"
        keys = [] if self.store.stream is None else [self.store.stream]
        number = recorder.invoked(keys, [text] * len(keys))
        try:
            self.store.heavy(text)
        except HoldfastError as error:
            recorder.ended(number, outcome_of(error), error=f"{type(error).__name__}: {error}")
            raise
        recorder.ended(number, "acknowledged")

    def recovered(self, milliseconds: float) -> None:
        """Note how long it took from a death to the first answer of the successor."""
        self.tally.recovery_ms.append(round(milliseconds, 3))
        if milliseconds > 1000 * _RECOVERY_S:
            self.broke(ANSWERED, f"the first answer came after {milliseconds:.0f} ms")

    def expect(self, holds: object, promise: str, detail: str) -> None:
        """Note a broken promise unless ``holds``."""
        if not holds:
            self.broke(promise, detail)

    # --- reckoning -------------------------------------------------------------------------

    def broke(self, promise: str, detail: str, history: Sequence[str] = ()) -> None:
        """Note a broken promise."""
        self.broken = True
        self.tally.failures.append(
            Failure(
                promise, self.kind, self.setting.fault, detail, self.plan.seed, [], self.home,
                self._replay(), list(history),
            )
        )  # fmt: skip

    def _replay(self) -> str:
        seed, setting = self.plan.seed, self.setting
        if self.plan.source is None and setting.sort != "soak":
            return f"{REPLAY} 'live {self.kind} {setting.slug} {seed}'"
        where = "" if self.plan.source is None else f" {shlex.quote(self.plan.source)}"
        return f"holdfast drill{where} --stores {self.kind} --faults {setting.sort} --seed {seed}"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if isinstance(error, HoldfastError):
            self.broke(ANSWERED, f"{type(error).__name__}: {error}")
        elif isinstance(error, Stuck):
            self.broke(TYPED, str(error))
        try:
            self.leave()
            if error is None or isinstance(error, HoldfastError | Stuck):
                self._reckon()
                return True
        except (HoldfastError, Stuck) as another:
            self.broke(TYPED, f"{type(another).__name__}: {another}")
            return True
        return False

    def leave(self) -> None:
        """End the clients and close the engine."""
        self.crowd.stop()
        for client in self.crowd.clients:
            if client.defect is not None:
                self.broke(TYPED, f"{client.name} met {client.defect!r}")
        self.engine.close()

    def check_left(self) -> None:
        """Nothing may serve the directory from two seconds after its last host's end on."""
        left = left_after(self.directory)
        if left:
            self.tally.leaked_processes += len(left)
            self.broke(NOTHING_LEFT, "; ".join(left))
            for process in serving(self.directory):
                process.kill()

    def _reckon(self) -> None:
        """Read all with a new engine, and check everything that was seen."""
        self.check_left()
        for file in [] if self._neighbours is None else self._neighbours.changed():
            self.tally.wrong_answers += 1
            self.broke(KEEPS, f"{file} holds something else")
        with holdfast.open(self.directory) as engine:
            store = open_store(self.kind, engine, NAME)
            self._read_all(store)
        self.check_left()
        for recorder in self._recorders:
            recorder.close()
        acts = read_histories(sorted(Path(self.home).glob("*.history")))
        allowed = tuple(error.__name__ + ":" for error in self.setting.may_fail)
        for act in [act for act in acts if act.error and not act.error.startswith(allowed)][:1]:
            self.broke(ANSWERED, f"{act} got {act.error}")
        self._judge(acts, prefixes=store.prefixes)
        counts = self.tally.of(self.kind)
        counts.operations += len(acts)
        if not self.broken:
            shutil.rmtree(self.home, ignore_errors=True)

    def _read_all(self, store: LiveStore) -> None:
        recorder = self.recorder("last")
        groups = range(len(SHARED_GROUPS) + self._own_groups)
        keys = [key for group in groups for key in keys_of(group)]
        number = recorder.invoked(keys)
        found = store.everything()
        recorder.ended(number, "acknowledged", [found.pop(key, None) for key in keys])
        if found:
            self.broke(RIGHT, f"keys that nobody wrote: {sorted(found.items())[:_SHOWN_MAX]}")
        if store.stream is not None:
            number = recorder.invoked([store.stream])
            recorder.ended(number, "acknowledged", [store.position()])

    def _judge(self, acts: Sequence[Act], *, prefixes: bool) -> None:
        wrongs = check(acts, prefixes=prefixes)
        for wrong in wrongs:
            if wrong.fault == "lost":
                self.tally.lost_acknowledged += 1
            else:
                self.tally.wrong_answers += 1
        for wrong in wrongs[_SHOWN_MAX:]:
            self.tally.again(PROMISES[wrong.fault])
        for wrong in wrongs[:_SHOWN_MAX]:
            fewest = told(narrowed(acts, wrong, prefixes=prefixes))
            detail = f"{wrong.fault}: {wrong.key}: {wrong.detail}"
            self.broke(PROMISES[wrong.fault], detail, fewest)
