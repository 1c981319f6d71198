"""Drills on copies of a user's stores: whatever befalls one, it holds what it held before."""

import contextlib
import errno
import itertools
import os
import random
import shlex
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import holdfast
from holdfast.bench.drill import damage, losses, wall_clock
from holdfast.bench.drill.bounds import BOUNDED, Spending
from holdfast.bench.drill.checking import Broken, Harm
from holdfast.bench.drill.erring import CODES
from holdfast.bench.drill.findings import harmed, is_enough, keep
from holdfast.bench.drill.forks import Work, run_each
from holdfast.bench.drill.live import LiveDrill
from holdfast.bench.drill.plan import STORES, Clock, Drill, FaultKind, Plan, Progress, StoreKind
from holdfast.bench.drill.recording import CHANGING
from holdfast.bench.drill.run import Part
from holdfast.bench.drill.scene import NOTHING_LEFT
from holdfast.bench.drill.serving import left_after
from holdfast.bench.drill.soak import SoakDrill
from holdfast.bench.drill.sources import (
    KEEPS,
    Holdings,
    UserStore,
    check_source,
    copy_stores,
    files_below,
    handle,
    holdings,
    in_memory,
    stores_in,
)
from holdfast.bench.drill.subjects import subject_of
from holdfast.bench.drill.subjects.base import HOME, finished, tick
from holdfast.bench.drill.tally import Failure, Tally
from holdfast.bench.faults import Call, Crash, Fail, FaultyDisk, MemoryDisk
from holdfast.bench.memory_file import SECTOR_BYTES
from holdfast.formats.errors import HoldfastError, InvalidFormat
from holdfast.workers.actor import Caller
from holdfast.workers.disk import Disk, OsDisk
from holdfast.workers.messages import Request, StoreSpec
from holdfast.workers.standing import Standing
from holdfast.workers.worker import opener

MEMORY_BYTES_MAX = 64 << 20
"""A larger directory is drilled with real processes only: the other drills hold it in memory."""
_CALLER = Caller(1, 1)
_LOSSES_MAX = 6
_DAMAGES = 40
_STRETCH_MAX = 256
_KILLS = 3
_LEFT_OUT: dict[FaultKind, tuple[str, ...]] = {
    "errors": (
        "errors on copies: short writes, syncs whose data is dropped, and real limits; they are "
        "tried on fresh stores",
    ),
    "damage": (
        "damage on copies: what older files, or others of the store, may show instead of its own, "
        "since what it once held is not known",
    ),
}


@dataclass
class Rehearsal:
    """A store of the copy, in memory, as it is opened, compacted and closed; all moments of it."""

    store: UserStore
    disk: MemoryDisk
    calls: list[Call] = field(default_factory=list)
    moments: list[MemoryDisk] = field(default_factory=list)
    held: Holdings = field(init=False)
    """What the user's files hold as they lie there."""
    rewritten: MemoryDisk = field(init=False)
    """The files afterwards; where stores can be rewritten, nothing overwritten is in them."""

    def __post_init__(self) -> None:
        """Do it once undisturbed. Raises what the store raises when it cannot be opened."""
        self.held = holdings(self.disk.crash(), self.path)
        memory = self.disk.crash()

        def keep_moment(call: Call) -> None:
            if call.name in CHANGING:
                self.moments.append(memory.crash())

        recorded = FaultyDisk(memory, on_call=keep_moment)
        self.go_through(recorded)
        self.calls = recorded.calls
        self.rewritten = memory

    @property
    def path(self) -> str:
        """Where the store lies in memory."""
        return self.store.below(HOME)

    def go_through(self, disk: Disk) -> None:
        """Open the store, rewrite its files, close it."""
        kind = self.store.kind
        spec = StoreSpec(self.store.name, kind, self.path, durability="always", create=False)
        actor = opener(kind)(disk, spec, tick)
        rewriting = _rewriting(self.store.kind)
        if rewriting is not None:
            finished(actor.handle(rewriting, _CALLER))
        actor.commit()
        actor.close()

    def broken_after(self, left: MemoryDisk) -> Broken | None:
        """What is wrong about a store that was left so, if anything is. The disk is used up."""
        try:
            self.go_through(left)
        except HoldfastError as error:
            return Broken(KEEPS, Harm.REFUSED, f"{type(error).__name__}: {error}")
        return self.changed(left)

    def changed(self, left: MemoryDisk) -> Broken | None:
        """What is wrong about a store's files, closed in good order, if anything is."""
        try:
            found = holdings(left, self.path)
        except HoldfastError as error:
            return Broken(KEEPS, Harm.REFUSED, f"{type(error).__name__}: {error}")
        if found.digest != self.held.digest:
            less = found.rows < self.held.rows
            detail = "it holds less" if less else "it holds something else"
            return Broken(KEEPS, Harm.LOST if less else Harm.WRONG, detail)
        standing = found.standing
        if standing is Standing.CLEAN:
            return None
        return Broken(KEEPS, Harm.REFUSED, f"its files are {standing.name} after it")


def _rewriting(kind: StoreKind) -> Request | None:
    """The request that has a store of a kind write its files anew, if there is one."""
    alphabet = subject_of(kind).alphabet
    turns = (alphabet[name](0, {}) for name in ("compact", "checkpoint") if name in alphabet)
    return next((turn.long for turn in turns if turn.long is not None), None)


@dataclass(frozen=True)
class CopyDrill:
    """Power lost, processes dead, calls failing and bits flipped under the copies, in memory."""

    fault: FaultKind

    def run(self, plan: Plan, tally: Tally, clock: Clock, progress: Progress) -> None:
        """See ``plan.Drill``."""
        assert plan.source is not None
        size = sum(os.path.getsize(path) for path in files_below(plan.source))
        if size > MEMORY_BYTES_MAX:
            tally.not_covered.append(f"{self.fault} on a copy: {size} bytes are more than the "
                                     f"{MEMORY_BYTES_MAX} that are held in memory")  # fmt: skip
            return
        run_each(self.fault, self._work, _of_kinds_there(plan), tally, clock, progress)

    def _work(self, kind: StoreKind, plan: Plan, bounded: bool) -> Work:
        assert plan.source is not None
        memory = in_memory(plan.source)
        rehearsals: list[Rehearsal] = []
        refused: list[str] = []
        for store in stores_in(plan.source):
            if store.kind != kind:
                continue
            try:
                rehearsals.append(Rehearsal(store, memory))
            except HoldfastError as error:
                refused.append(f"{self.fault} on {store.file}: it cannot be opened as it is: "
                               f"{type(error).__name__}")  # fmt: skip

        def work(number: int, tally: Tally, about: Callable[[str], None]) -> bool:
            if number == 0:
                tally.not_covered += [*refused, *_LEFT_OUT.get(self.fault, ())]
                for rehearsal in rehearsals:
                    broken = rehearsal.changed(rehearsal.rewritten)
                    if broken is not None:
                        said = "opened, rewritten and closed"
                        _note(rehearsal, rehearsal.disk, said, broken, self.fault, plan, tally)
            if not rehearsals:
                return False
            rehearsal = rehearsals[number % len(rehearsals)]
            turn = number // len(rehearsals)
            chance = random.Random(f"{plan.seed} {rehearsal.store.file} {number}")
            return self._attempt(rehearsal, turn, chance, plan, tally, about, bounded)

        return work

    def _attempt(
        self, rehearsal: Rehearsal, turn: int, chance: random.Random, plan: Plan, tally: Tally,
        about: Callable[[str], None], bounded: bool,
    ) -> bool:  # fmt: skip
        """Do one piece of work; False when there are no more."""
        tries = _TRIES[self.fault]
        counts = {"damage": _DAMAGES, "errors": len(rehearsal.calls)}
        most = counts.get(self.fault, len(rehearsal.moments))
        if turn >= most and (bounded or self.fault != "damage"):
            return False
        for left, said in tries(rehearsal, turn, chance, tally):
            about(f"{rehearsal.store.file}: {said}")
            kept = left.crash()
            spending = Spending()
            broken = _judged(self.fault, rehearsal, left, said)
            excess = spending.excess()
            if broken is None and self.fault == "damage" and excess is not None:
                broken = Broken(BOUNDED, Harm.REFUSED, excess)
            tally.fault(said.partition(":")[0])
            if broken is not None:
                _note(rehearsal, kept, said, broken, self.fault, plan, tally)
        return True


def _note(
    rehearsal: Rehearsal, left: MemoryDisk, said: str, broken: Broken, fault: FaultKind,
    plan: Plan, tally: Tally,
) -> None:  # fmt: skip
    """Count a broken promise, and keep its files if it is among the first."""
    kind, file = rehearsal.store.kind, rehearsal.store.file
    harmed(tally, broken)
    if is_enough(kind, broken.promise):
        tally.again(broken.promise)
        return
    state = keep(left, plan.work, f"{file} {said}")
    detail = f"{file}: {broken.detail}"
    replay = _replay(plan, kind, fault)
    tally.found(Failure(broken.promise, kind, said, detail, plan.seed, [], state, replay))


def _judged(fault: FaultKind, rehearsal: Rehearsal, left: MemoryDisk, said: str) -> Broken | None:
    """Damage may be refused, and may cost what it hit; it may not pass for nothing.

    A bit that is flipped is always noticed. A file that is shorter may be as good as the right one,
    but has nothing that never was. What an older file, or another of the store's, may show instead,
    its user's history says, which nobody knows here.
    """
    if fault != "damage":
        return rehearsal.broken_after(left)
    standing: Standing | None = None
    try:
        standing = holdings(left, rehearsal.path).standing
        rehearsal.go_through(left)
        found = holdings(left, rehearsal.path)
    except HoldfastError as error:
        if standing is not Standing.CLEAN or isinstance(error, InvalidFormat):
            return None
        detail = f"verify calls it clean, and opening it raises {type(error).__name__}: {error}"
        return Broken(damage.TOLD, Harm.REFUSED, detail)
    if found.digest == rehearsal.held.digest:
        return None
    if said.startswith(_OLDER):
        return None
    if not found.rows <= rehearsal.held.rows:
        return Broken(KEEPS, Harm.WRONG, "it holds what it never held")
    if standing is Standing.CLEAN and said.startswith("bit flipped"):
        return Broken(damage.TOLD, Harm.LOST, "verify calls it clean, and it holds less")
    return None


_OLDER = ("stale copy", "foreign file", "file removed")
Try = tuple[MemoryDisk, str]


def _kills(rehearsal: Rehearsal, turn: int, chance: random.Random, tally: Tally) -> Iterator[Try]:
    tally.of(rehearsal.store.kind).kill_points += 1
    yield rehearsal.moments[turn].crash(), f"process dead: before call {turn}"


def _losses(rehearsal: Rehearsal, turn: int, chance: random.Random, tally: Tally) -> Iterator[Try]:
    moment = rehearsal.moments[turn]
    bounded = itertools.islice(losses.losses(moment), _LOSSES_MAX)
    for loss in [*bounded, losses.sampled(moment, chance)]:
        tally.of(rehearsal.store.kind).crash_states += 1
        yield losses.after(moment, loss), f"power lost: before call {turn}, {loss}"


def _errors(rehearsal: Rehearsal, turn: int, chance: random.Random, tally: Tally) -> Iterator[Try]:
    call = rehearsal.calls[turn]
    for code, reached in CODES.items():
        if call.name not in reached:
            continue
        memory = rehearsal.disk.crash()
        lasting = chance.random() < 0.5
        with contextlib.suppress(Crash, Exception):  # refused, or the worker ends
            rehearsal.go_through(FaultyDisk(memory, Fail(call.number, code, lasting)))
        tally.of(rehearsal.store.kind).errors_injected += 1
        yield memory.crash(), f"{errno.errorcode[code]} at a call: {call.number}"


def _written(rehearsal: Rehearsal) -> dict[str, bytes]:
    """The store's files that are not empty, by name."""
    return {
        os.path.relpath(path, HOME): content
        for path, (_, content) in rehearsal.rewritten.files().items()
        if content and path.startswith(rehearsal.path)
    }


def _damage(rehearsal: Rehearsal, turn: int, chance: random.Random, tally: Tally) -> Iterator[Try]:
    files = _written(rehearsal)
    for sort in _WAYS:
        name = chance.choice(sorted(files))
        path = os.path.join(HOME, name)
        how = _way(sort, name, files, len(rehearsal.moments), chance)
        left = rehearsal.rewritten.crash()
        if how == "gone":
            left.remove(path)
        else:
            former = lambda number, path=path: rehearsal.moments[number].content(path)  # noqa: E731
            left.place(path, damage.changed(files[name], how, files, former))
        yield left, f"{damage.count(tally, rehearsal.store.kind, how)}: {how} of {name}"


_WAYS = ("flip", "cut", "zero", "noise", "swap", "repeat", "drop", "stale", "foreign", "gone")


def _way(
    sort: str, name: str, files: Mapping[str, bytes], moments: int, chance: random.Random
) -> str:
    """Damage of a sort, by chance; where a user's records lie is not known, so stretches are."""
    size = len(files[name])

    def stretch() -> str:
        start = chance.randrange(size)
        return f"{start}+{min(chance.randint(1, _STRETCH_MAX), size - start)}"

    if sort == "flip":
        return f"flip={chance.randrange(size)}.{chance.randrange(8)}"
    if sort == "cut":
        return f"cut={chance.randrange(size)}"
    if sort in ("zero", "noise"):
        start = chance.randrange(0, size, SECTOR_BYTES)
        return f"{sort}={start}+{min(SECTOR_BYTES, size - start)}"
    if sort == "swap":
        middle = size // 2
        length = min(_STRETCH_MAX, max(1, middle // 2))
        first = chance.randrange(max(1, middle - length))
        second = chance.randrange(middle, max(middle + 1, size - length))
        return f"swap={first}+{length}:{second}+{min(length, size - second)}"
    if sort in ("repeat", "drop"):
        return f"{sort}={stretch()}"
    if sort == "stale":
        return f"stale={chance.randrange(moments)}"
    return f"foreign={chance.choice(sorted(files))}" if sort == "foreign" else "gone"


_TRIES: dict[FaultKind, Callable[[Rehearsal, int, random.Random, Tally], Iterator[Try]]] = {
    "kill": _kills,
    "crash": _losses,
    "errors": _errors,
    "damage": _damage,
}


def _replay(plan: Plan, kind: str, fault: str) -> str:
    source = shlex.quote(plan.source or "")
    return f"holdfast drill {source} --stores {kind} --faults {fault} --seed {plan.seed}"


class LiveCopyDrill:
    """A real engine on a copy, its workers and its supervisor killed. See ``plan.Drill``."""

    fault: FaultKind = "processes"

    def run(self, plan: Plan, tally: Tally, clock: Clock, progress: Progress) -> None:
        """Kill the processes of each store."""
        assert plan.source is not None
        stores = [store for store in stores_in(plan.source) if store.kind in plan.stores]
        directory = os.path.join(plan.work, "copy")
        copy_stores(plan.source, directory, stores)
        for number, store in enumerate(stores):
            progress(f"processes of {store.file} killed", number, len(stores))
            if clock.is_over():
                tally.not_covered.append(f"processes of {store.file} killed: no time")
                continue
            self._kill_around(directory, store, plan, tally)
        if not tally.failures:
            shutil.rmtree(directory)

    def _kill_around(self, directory: str, store: UserStore, plan: Plan, tally: Tally) -> None:
        path = store.below(directory)
        try:
            held = holdings(OsDisk(), path).digest
            with holdfast.open(directory) as engine:
                handle(engine, store).status()
        except HoldfastError as error:
            tally.not_covered.append(f"processes of {store.file} killed: it cannot be opened as "
                                     f"it is: {type(error).__name__}")  # fmt: skip
            return
        wrong: str | None = None
        try:
            with holdfast.open(directory) as engine:
                for role in ["worker"] * _KILLS + ["supervisor"]:
                    handle(engine, store).status()
                    _strike(engine, store, role, tally)
        except HoldfastError as error:
            wrong = f"{type(error).__name__}: {error}"
        self._look_for_processes(directory, store, plan, tally)
        if holdings(OsDisk(), path).digest != held:
            wrong = "it holds something else"
            tally.wrong_answers += 1
        if wrong is not None:
            tally.found(
                Failure(KEEPS, store.kind, "worker and supervisor SIGKILL",
                        f"{store.file}: {wrong}", plan.seed, [], directory,
                        _replay(plan, store.kind, self.fault))
            )  # fmt: skip

    def _look_for_processes(
        self, directory: str, store: UserStore, plan: Plan, tally: Tally
    ) -> None:
        left = left_after(directory)
        if left:
            tally.leaked_processes += len(left)
            tally.found(
                Failure(NOTHING_LEFT, store.kind, "worker and supervisor SIGKILL", "; ".join(left),
                        plan.seed, [], directory, _replay(plan, store.kind, self.fault))
            )  # fmt: skip


def _strike(engine: holdfast.Engine, store: UserStore, role: str, tally: Tally) -> None:
    """Kill a process and wait for the first answer of its successor."""
    wanted = store.name if role == "worker" else None
    began = time.monotonic()
    for process in engine.processes():
        if process.store == wanted:
            os.kill(process.pid, signal.SIGKILL)
    handle(engine, store).status()
    tally.recovery_ms.append(round(1000 * (time.monotonic() - began), 3))
    tally.fault(f"{role} SIGKILL")
    tally.of(store.kind).process_faults += 1


@dataclass(frozen=True, slots=True)
class Beside:
    """A drill of real engines, whose clients work beside copies of the user's stores."""

    drill: Drill

    @property
    def fault(self) -> FaultKind:
        """That of the drill."""
        return self.drill.fault

    def run(self, plan: Plan, tally: Tally, clock: Clock, progress: Progress) -> None:
        """See ``plan.Drill``."""
        self.drill.run(_of_kinds_there(plan), tally, clock, progress)


def _of_kinds_there(plan: Plan) -> Plan:
    """The plan, for the kinds of store that the user has."""
    assert plan.source is not None
    kinds = {store.kind for store in stores_in(plan.source)}
    there = tuple(kind for kind in STORES if kind in kinds and kind in plan.stores)
    return replace(plan, stores=there)


def parts_on_copies(source: str) -> Sequence[Part]:
    """The drills on copies of a directory."""
    check_source(source)
    in_memory_drills: list[FaultKind] = ["crash", "kill", "damage", "errors"]
    return [
        *(Part(f"{fault} on copies", CopyDrill(fault), 3) for fault in in_memory_drills),
        Part("processes on copies", LiveCopyDrill(), 3),
        Part("soak beside copies", Beside(SoakDrill()), 5),
        Part("clock jumps beside copies", Beside(LiveDrill("time", [wall_clock.SCENARIO])), 3),
    ]
