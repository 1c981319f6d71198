"""A load test: stores filled, clients at work while all is watched, everything read back.

::

    preload -> members ready -> round: warm-up | measured, a Moment a second -> read back -> Outcome
"""

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType

import holdfast
from holdfast.bench.load.crew import Crew
from holdfast.bench.load.killing import Killer
from holdfast.bench.load.member import Orders, Round, Told
from holdfast.bench.load.outcome import Kill, Lost, Moment, Operation, Outcome, Settings
from holdfast.bench.load.profile import Profile
from holdfast.bench.load.stability import P99_SHARE, checks
from holdfast.bench.load.timings import Counted, Histogram, Recent, quantile_ms
from holdfast.bench.load.watching import Watcher
from holdfast.bench.load.work import preload
from holdfast.bench.measure import machine_facts, version_of
from holdfast.bench.scratch import scratch
from holdfast.formats.errors import InvalidArgument
from holdfast.workers.message import Durability

_TEXTS_MAX = 20
_STARTING_S = 0.2
PREFIX = ".load-"
"""Of the directory with the stores."""
Show = Callable[[Moment, Sequence[Recent]], None]
"""Gets a moment, and each operation's part in it."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user wants. ``rate`` None: a closed loop."""

    profile: Profile
    clients: int
    processes: int
    rate: float | None
    seconds: float
    warm_up_s: float
    durability: Durability
    kill_every_s: float | None
    seed: int
    asynchronous: bool

    def check(self) -> None:
        """Raise ``InvalidArgument`` naming what cannot be done."""
        if not 1 <= self.processes <= self.clients:
            raise InvalidArgument(
                f"--processes {self.processes}: there has to be a client for each, and there are "
                f"{self.clients} clients"
            )
        for store in self.profile.stores:
            if store.keys < self.clients:
                raise InvalidArgument(
                    f"--clients {self.clients}: each writes keys of its own, and {store.kind} of "
                    f"profile {self.profile.name!r} has {store.keys}"
                )

    def settings(self) -> Settings:
        """For the report."""
        return Settings(
            self.profile.name, self.profile.description, self.clients, self.processes,
            "tasks" if self.asynchronous else "threads", self.rate, self.seconds, self.warm_up_s,
            self.durability, self.kill_every_s, self.seed,
        )  # fmt: skip

    def orders(self, directory: str) -> list[Orders]:
        """One for each member; clients are dealt out in turn."""
        return [
            Orders(
                directory, self.profile, self.durability,
                list(range(self.clients))[number :: self.processes], self.clients, self.seed,
                self.asynchronous,
            )
            for number in range(self.processes)
        ]  # fmt: skip


@dataclass(slots=True)
class Totals:
    """What a round came to."""

    latency: dict[str, Histogram] = field(default_factory=dict)
    service: dict[str, Histogram] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    texts: list[str] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)
    seconds: float = 0.0
    restarts: int = 0
    first: Histogram = field(default_factory=Histogram)
    last: Histogram = field(default_factory=Histogram)
    """Of all calls in the first and last part of the round."""
    audited: int = 0
    unmade: int = 0

    def add(self, told: Told) -> None:
        """Count what a member said."""
        for label, measured in told.operations.items():
            self.latency.setdefault(label, Histogram()).add(measured.latency)
            self.service.setdefault(label, Histogram()).add(measured.service)
            self.errors[label] += measured.errors
            self.wrong[label] += measured.wrong
        self.texts += told.texts[: _TEXTS_MAX - len(self.texts)]
        self.unmade += told.waiting if told.what == "done" else 0

    def add_part(self, second: float, told: dict[int, list[Told]], seconds: float) -> None:
        """Count the calls of a moment, if it is of the first or the last part of a round."""
        part = P99_SHARE * seconds
        for histogram, is_in in (
            (self.first, second <= part),
            (self.last, second > seconds - part),
        ):
            for one in (one for several in told.values() for one in several if is_in):
                for measured in one.operations.values():
                    histogram.add(measured.latency)

    def add_failures(self, other: "Totals") -> None:
        """Count what failed or was wrong in another round, too."""
        self.errors += other.errors
        self.wrong += other.wrong
        self.texts += other.texts[: _TEXTS_MAX - len(self.texts)]

    def operations(self) -> list[Operation]:
        """A line for each."""
        lines = []
        for label, histogram in self.latency.items():
            store, _, operation = label.partition(".")
            service = self.service[label]
            lines.append(
                Operation(
                    store, operation, service.count, self.errors[label], self.wrong[label],
                    round(service.count / max(self.seconds, 1e-9), 2), histogram.figures_ms(),
                    service.figures_ms(), histogram.curve(),
                )
            )  # fmt: skip
        return lines


class Session:
    """Stores that are filled, and clients that are ready."""

    def __init__(self, wish: Wish, engine: holdfast.Engine, crew: Crew, say: Say) -> None:
        self._wish = wish
        self._say = say
        self._engine = engine
        self._crew = crew
        self._measures = 0.0
        self._said_lost = 0
        self.interrupted = False

    @property
    def lost(self) -> list[Lost]:
        """Processes of clients that have ended before their time."""
        return [
            Lost(one.name, one.pid, round(one.at - self._measures, 3), one.clients, one.how)
            for one in self._crew.ended
        ]

    def round(
        self, rate: float | None, warm_up_s: float, seconds: float, show: Show,
        kill_every_s: float | None = None,
    ) -> Totals:  # fmt: skip
        """Have the clients work for so long, at this rate or in a closed loop."""
        watcher = Watcher(self._engine, self._crew.pids)
        watcher.look()
        begins = time.monotonic() + _STARTING_S
        measures = self._measures = begins + warm_up_s
        totals = Totals()
        killer = Killer(self._engine, kill_every_s or 1.0, self._wish.seed)
        if kill_every_s is not None:
            killer.start(measures)
        try:
            told = self._crew.round(Round(begins, measures, measures + seconds, rate))
            self._listen(told, watcher, killer, totals, measures, show)
        finally:
            totals.kills = killer.stop()
            watcher.look()
            totals.restarts = watcher.restarts
        ended = min(time.monotonic(), measures + seconds)
        totals.seconds = round(max(0.0, ended - measures), 3)
        return totals

    def _listen(
        self, heard: Iterator[tuple[int, Told]], watcher: Watcher, killer: Killer, totals: Totals,
        measures: float, show: Show,
    ) -> None:  # fmt: skip
        """Make a moment of what the members say, as often as each has said something."""
        latest: dict[int, list[Told]] = {}

        def end_moment() -> None:
            second = time.monotonic() - measures
            if second > 0:
                totals.add_part(second, latest, self._wish.seconds)
                moment = _moment(second, latest, watcher, killer)
                totals.moments.append(moment)
                show(moment, _recent(latest))
            latest.clear()
            self._say_who_is_lost()

        for number, told in heard:
            totals.add(told)
            latest.setdefault(number, []).append(told)
            if self._crew.present <= latest.keys():
                end_moment()
        if latest:  # whoever was still to say something is lost
            end_moment()
        self._say_who_is_lost()

    def _say_who_is_lost(self) -> None:
        for one in self._crew.ended[self._said_lost :]:
            self._say(f"{one.name} {one.how}")
        self._said_lost = len(self._crew.ended)

    def audit(self, totals: Totals) -> None:
        """Have the members read everything back; they end with that."""
        for told in self._crew.audit():
            totals.audited += told.audited
            totals.wrong["read back"] += told.audit_wrong
            totals.texts += told.texts[: _TEXTS_MAX - len(totals.texts)]
        said = [f"{one.name}: {one.said}" for one in self._crew.ended if one.said]
        totals.texts += said[: _TEXTS_MAX - len(totals.texts)]

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Have the first Ctrl-C or SIGTERM end the round in good order; the second is as usual."""

        def stop(number: int, frame: FrameType | None) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True
            self._crew.stop()

        former = {one: signal.signal(one, stop) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for one, handler in former.items():
                signal.signal(one, handler)

    def outcome(self, totals: Totals, directory: str) -> Outcome:
        """The report's content."""
        moments = totals.moments
        return Outcome(
            settings=self._wish.settings(),
            machine=machine_facts(directory),
            version=version_of("holdfast") or "",
            seconds=totals.seconds,
            interrupted=self.interrupted,
            operations=totals.operations(),
            moments=moments,
            kills=totals.kills,
            restarts=totals.restarts,
            errors=sum(totals.errors.values()),
            wrong_reads=sum(totals.wrong.values()),
            read_back=totals.audited,
            texts=totals.texts,
            checks=checks(moments, totals.first, totals.last),
            unmade=totals.unmade,
            lost=self.lost,
        )


def _moment(
    second: float, latest: dict[int, list[Told]], watcher: Watcher, killer: Killer
) -> Moment:
    told = [one for several in latest.values() for one in several]
    last = [several[-1] for several in latest.values()]
    parts: list[Counted] = []
    stores: Counter[str] = Counter()
    for one in told:
        for label, measured in one.operations.items():
            parts.append(measured.latency)
            stores[label.partition(".")[0]] += measured.service.total
    processes, disks, restarts = watcher.look()
    measured_all = [m for one in told for m in one.operations.values()]
    return Moment(
        second=round(second, 3),
        stores=dict(stores),
        errors=sum(m.errors for m in measured_all),
        wrong_reads=sum(m.wrong for m in measured_all),
        p50_ms=quantile_ms(parts, 0.5),
        p99_ms=quantile_ms(parts, 0.99),
        max_ms=quantile_ms(parts, 1.0),
        outstanding=sum(one.outstanding for one in last),
        waiting=sum(one.waiting for one in last),
        late_s=round(max(one.late_s for one in last), 4),
        restarts=restarts,
        kills=killer.taken(),
        processes=processes,
        disks=disks,
    )


def _recent(latest: dict[int, list[Told]]) -> list[Recent]:
    parts: dict[str, list[Counted]] = {}
    calls: Counter[str] = Counter()
    for several in latest.values():
        for one in several:
            for label, measured in one.operations.items():
                parts.setdefault(label, []).append(measured.latency)
                calls[label] += measured.service.total
    return [
        Recent(label, calls[label], *(quantile_ms(counted, one) for one in (0.5, 0.99, 1.0)))
        for label, counted in sorted(parts.items())
    ]


@contextlib.contextmanager
def session(wish: Wish, say: Say, directory: str | None = None) -> Iterator[tuple[Session, str]]:
    """A session on fresh stores below ``directory`` (default: the current one), and where they are.

    They are removed at the end. Raises ``InvalidArgument`` before anything is done.
    """
    wish.check()
    Histogram()  # says now if it cannot be made
    with (
        scratch(PREFIX, directory or os.getcwd()) as data,
        holdfast.open(data) as engine,
    ):
        for store in wish.profile.stores:
            say(f"writing {store.keys:,} keys of {store.kind}")
            preload(engine, store, wish.durability)
        say(f"starting {wish.clients} clients in {wish.processes} processes")
        with Crew(wish.orders(data)) as crew:
            crew.wait_ready()
            running = Session(wish, engine, crew, say)
            with running.interruptible():
                yield running, data


def run(wish: Wish, say: Say, show: Show) -> Outcome:
    """One round, and everything read back."""
    with session(wish, say) as (running, data):
        say(f"{wish.warm_up_s:g} s of warm-up, then {wish.seconds:g} s")
        totals = running.round(wish.rate, wish.warm_up_s, wish.seconds, show, wish.kill_every_s)
        say("reading everything back")
        running.audit(totals)
        return running.outcome(totals, data)
