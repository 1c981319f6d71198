"""Work shared among processes that are forked from a warm one.

A child does the next piece of work that no other has begun. It tells what it is about to do in
memory that the parent sees, too, and what it counted in frames of MessagePack. One that dies or
hangs is a finding, not an accident: whatever a store is given, it must not take its process along.
"""

import gc
import mmap
import os
import select
import signal
import struct
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec
from msgspec import structs

from holdfast.bench.drill.plan import Clock, FaultKind, Plan, Progress, StoreKind
from holdfast.bench.drill.tally import Failure, Tally

Work = Callable[[int, Tally, Callable[[str], None]], bool]
"""Does a piece of work by number; False when there is none of that number, nor of higher ones.

It gets a tally to count into, and a function to say what it is about to do. That function is to be
called often: it ends the work, by an exception, when the time is over.
"""

_SIZE = struct.Struct("<I")
_NUMBER = struct.Struct("<q")
_HUNG_AFTER_S = 120.0
_GRACE_S = 30.0  # a failure that is being made smaller must not be lost
_TELL_EVERY_S = 0.5
_COLLECT_EVERY_S = 2.0
_ABOUT_BYTES = 16384


class _Over(BaseException):
    """It is time to end."""


@dataclass(slots=True)
class _Child:
    pid: int
    pipe: int
    told: mmap.mmap
    received: bytearray = field(default_factory=bytearray)
    heard: float = field(default_factory=time.monotonic)

    @property
    def about(self) -> str:
        """What it said last it was about to do."""
        return self.told[:].rstrip(b"\0").decode(errors="replace")


def share(
    work: Work,
    processes: int,
    tally: Tally,
    clock: Clock,
    told: Callable[[int], None] = lambda done: None,
    *,
    patience: float = 1.0,
) -> list[str]:
    """Have all pieces of work done; returns what killed or hung a process, in sentences.

    Ends early when the clock is over. Whoever goes on half a minute after that, or says nothing for
    two minutes, is killed; ``patience`` multiplies both. ``told`` gets the number of states and
    faults tried so far.
    """
    stop = mmap.mmap(-1, 1)  # children have a copy of the clock, which does not see Ctrl-C
    queue = os.pipe()  # holds one number, that of the next piece; whoever takes it puts in another
    os.write(queue[1], _NUMBER.pack(0))
    gc.collect()
    gc.freeze()  # or each child copies every page of the parent's objects at its first collection
    try:
        children = [_fork(work, queue, clock, stop) for _ in range(processes)]
    finally:
        gc.unfreeze()
    found: list[str] = []
    done = 0
    over_at: float | None = None
    try:
        while children:
            ready, _, _ = select.select([child.pipe for child in children], [], [], 0.2)
            for child in [child for child in children if child.pipe in ready]:
                counted = _receive(child, tally)
                if counted is None:
                    children.remove(child)
                    found += _buried(child)
                done += counted or 0
            told(done)
            now = time.monotonic()
            if clock.is_over() and over_at is None:
                over_at = now
                stop[0] = 1
            for child in list(children):
                silent_s = now - child.heard
                late = over_at is not None and now - over_at > patience * _GRACE_S
                if late or silent_s > patience * _HUNG_AFTER_S:
                    children.remove(child)
                    _end(child)
                    found.append(f"hung for {silent_s:.0f} s with {child.about}")
    finally:
        for child in children:
            _end(child)
        for descriptor in queue:
            os.close(descriptor)
    return found


def _fork(work: Work, queue: tuple[int, int], clock: Clock, stop: mmap.mmap) -> _Child:
    reading, writing = os.pipe()
    told = mmap.mmap(-1, _ABOUT_BYTES)
    pid = os.fork()
    if pid:
        os.close(writing)
        return _Child(pid, reading, told)
    status = 1
    try:
        os.close(reading)
        os.setpgid(0, 0)  # Ctrl-C on the terminal is for the parent, which decides what it means
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _serve(work, _numbers(queue), clock, stop, _Voice(writing, told))
        status = 0
    finally:
        os._exit(status)


def _numbers(queue: tuple[int, int]) -> Iterator[int]:
    """The numbers of pieces that no other process has taken."""
    reading, writing = queue
    while True:
        (number,) = _NUMBER.unpack(os.read(reading, _NUMBER.size))
        os.write(writing, _NUMBER.pack(number + 1))
        yield number


class _Voice:
    """How a child tells its parent what it does and counts."""

    def __init__(self, pipe: int, told: mmap.mmap) -> None:
        self.tally = Tally()
        self._pipe = pipe
        self._told = told
        self._last = self._collected = time.monotonic()

    def say(self, text: str) -> None:
        """Say what is about to be done."""
        self._told[:] = text.encode()[:_ABOUT_BYTES].ljust(_ABOUT_BYTES, b"\0")

    def count(self, *, now: bool = False) -> None:
        """Hand over what was counted, if it is time to."""
        moment = time.monotonic()
        if moment - self._collected > _COLLECT_EVERY_S:
            self._collected = moment
            gc.collect()
        if not now and moment - self._last < _TELL_EVERY_S:
            return
        self._last = moment
        data = msgspec.msgpack.encode(self.tally)
        for name, value in zip(Tally.__struct_fields__, structs.astuple(Tally()), strict=True):
            setattr(self.tally, name, value)
        rest = memoryview(_SIZE.pack(len(data)) + data)
        while rest:
            rest = rest[os.write(self._pipe, rest) :]


def _serve(
    work: Work, numbers: Iterator[int], clock: Clock, stop: mmap.mmap, voice: _Voice
) -> None:
    gc.disable()  # a store is one large cycle; collecting as usual would take longer than opening

    def about(text: str) -> None:
        voice.say(text)
        voice.count()
        if stop[0] or clock.is_over():
            raise _Over

    try:
        for number in numbers:
            if not work(number, voice.tally, about):
                break
    except _Over:
        pass
    except BaseException as error:
        text = "".join(traceback.format_exception(error))
        voice.say(f"a defect of the drill: {text[-_ABOUT_BYTES // 2 :]}")
        raise
    voice.count(now=True)


def _receive(child: _Child, tally: Tally) -> int | None:
    """Take over what a child counted; how many faults it has tried more, None when it is gone."""
    data = os.read(child.pipe, 1 << 16)
    if not data:
        return None
    done = 0
    child.received += data
    child.heard = time.monotonic()
    while len(child.received) >= _SIZE.size:
        (size,) = _SIZE.unpack_from(child.received)
        if len(child.received) < _SIZE.size + size:
            break
        body = bytes(child.received[_SIZE.size : _SIZE.size + size])
        del child.received[: _SIZE.size + size]
        counted = msgspec.msgpack.decode(body, type=Tally)
        done += sum(counted.faults.values())
        tally.add(counted)
    return done


def _buried(child: _Child) -> list[str]:
    os.close(child.pipe)
    _, status = os.waitpid(child.pid, 0)
    if status == 0:
        return []
    if os.WIFSIGNALED(status):
        return [f"ended by {signal.Signals(os.WTERMSIG(status)).name} with {child.about}"]
    return [f"ended with {child.about}"]


def _end(child: _Child) -> None:
    os.close(child.pipe)
    os.kill(child.pid, signal.SIGKILL)
    os.waitpid(child.pid, 0)


WorkOf = Callable[[StoreKind, Plan, bool], Work]
"""Makes the work on one kind of store; ``bounded`` says that it must come to an end by itself."""

CRASHED = "whatever a store is given, its process neither dies of it nor hangs"


def run_each(
    fault: FaultKind, work_of: WorkOf, plan: Plan, tally: Tally, clock: Clock, progress: Progress
) -> None:
    """Do the work on each of the plan's stores, each with its share of the time that is left."""
    for number, store in enumerate(plan.stores):
        if clock.is_over():
            tally.not_covered.append(f"{fault} on {store}: no time")
            continue
        before = sum(tally.faults.values())
        until = clock.until
        if until is not None:
            now = time.monotonic()
            until = now + (until - now) / (len(plan.stores) - number)
        work = work_of(store, plan, clock.until is None)
        told = _throttled(progress, f"{fault}: {store}")
        casualties = share(work, plan.processes, tally, Both(until, clock), told)
        for text in casualties:
            tally.failures.append(Failure(CRASHED, store, fault, text, plan.seed, [], None, ""))
        if sum(tally.faults.values()) == before:
            tally.not_covered.append(f"{fault} on {store}: nothing was tried in its time")


class Both(Clock):
    """Over when its own time is, or another clock."""

    def __init__(self, until: float | None, other: Clock) -> None:
        super().__init__(until)
        self._other = other

    def is_over(self) -> bool:
        """Whether it is time to end."""
        return super().is_over() or self._other.is_over()


def _throttled(progress: Progress, what: str) -> Callable[[int], None]:
    last = 0.0

    def told(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= 0.5:
            last = now
            progress(what, done, None)

    return told
