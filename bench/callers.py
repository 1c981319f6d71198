"""Many callers at once: threads, and processes of threads, each calling as fast as it is answered.

A load runs for a fixed time from an agreed moment and counts the calls that were answered in it, so
that a fast side and a slow side of a comparison are loaded for equally long.
"""

import contextlib
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

import holdfast
from holdfast.bench import data
from holdfast.bench.measure import Measurement, seconds, seconds_per_call
from holdfast.workers.message import Durability

OneCall = Callable[[int], object]
"""Makes the ``n``-th call of one caller."""

_HEAD_START_S = 0.2
spawning = multiprocessing.get_context("spawn")


def calls_per_second(callers: list[OneCall], duration_s: float) -> float:
    """The rate at which these callers, one thread each, are answered together."""
    starts_at = time.monotonic() + _HEAD_START_S
    return _count(callers, starts_at, duration_s) / duration_s


def seconds_for_all(callers: list[OneCall], calls: int) -> float:
    """How long these callers, one thread each, take together to make so many calls each."""

    def work(call: OneCall) -> None:
        for number in range(calls):
            call(number)

    with ThreadPoolExecutor(len(callers)) as pool:
        return seconds(lambda: list(pool.map(work, callers)))


def _count(callers: list[OneCall], starts_at: float, duration_s: float) -> int:
    """Calls answered between the two moments; a caller's exception is raised here."""
    counts = [0] * len(callers)
    errors: list[BaseException] = []

    def work(number: int) -> None:
        call, ends_at, count = callers[number], starts_at + duration_s, 0
        time.sleep(max(0.0, starts_at - time.monotonic()))
        try:
            while time.monotonic() < ends_at:
                call(count)
                count += 1
        except BaseException as error:
            errors.append(error)
        counts[number] = count

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(callers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return sum(counts)


def fold_callers(fold: holdfast.Fold, threads: int, first: int = 0) -> list[OneCall]:
    """Callers that each put an entry of their own again and again, one ``apply`` a time."""

    def caller(number: int) -> OneCall:
        batch = data.puts([number])
        return lambda count: fold.apply(batch, holdfast.Cursor.from_u64(count))

    return [caller(first + number) for number in range(threads)]


def processes_calls_per_second(
    directory: str, durability: Durability, processes: int, threads: int, duration_s: float
) -> float:
    """The rate of ``processes`` processes with ``threads`` callers each on one fold."""
    pipes, children = [], []
    for number in range(processes):
        ours, theirs = spawning.Pipe()
        child = spawning.Process(
            target=_call_from_process,
            args=(theirs, directory, durability, number * threads, threads, duration_s),
        )
        child.start()
        theirs.close()
        pipes.append(ours)
        children.append(child)
    try:
        for pipe in pipes:
            pipe.recv()
        starts_at = time.monotonic() + _HEAD_START_S
        for pipe in pipes:
            pipe.send(starts_at)
        return float(sum(pipe.recv() for pipe in pipes)) / duration_s
    finally:
        for pipe in pipes:
            pipe.close()
        for child in children:
            child.join()


def _call_from_process(
    pipe: Connection,
    directory: str,
    durability: Durability,
    first: int,
    threads: int,
    duration_s: float,
) -> None:
    """Body of one calling process: report ready, hear when to start, report the count."""
    with holdfast.open(directory) as engine:
        fold = engine.fold("config", durability=durability)
        callers = fold_callers(fold, threads, first)
        calls_per_second(callers, 0.05)
        pipe.send("ready")
        pipe.send(_count(callers, pipe.recv(), duration_s))


def hold_open(pipe: Connection, directory: str) -> None:
    """Body of a process that keeps an engine open until it is told to leave."""
    with holdfast.open(directory):
        pipe.send("ready")
        pipe.recv()


def start_holder(directory: str) -> tuple[Connection, Callable[[], None]]:
    """Start a process that holds ``directory`` open; returns its pipe and how to end it."""
    ours, theirs = spawning.Pipe()
    child = spawning.Process(target=hold_open, args=(theirs, directory))
    child.start()
    theirs.close()
    ours.recv()

    def end() -> None:
        ours.send("leave")
        child.join()
        ours.close()

    return ours, end


def echo(pipe: Connection) -> None:
    """Body of a process that sends back whatever it is sent."""
    try:
        while True:
            pipe.send_bytes(pipe.recv_bytes())
    except EOFError:
        return


def start_echo() -> tuple[Connection, Callable[[], None]]:
    """Start an echoing process behind a ``multiprocessing.Pipe``; returns the pipe and its end."""
    ours, theirs = spawning.Pipe()
    child = spawning.Process(target=echo, args=(theirs,))
    child.start()
    theirs.close()

    def end() -> None:
        ours.close()
        child.join()

    return ours, end


@contextlib.contextmanager
def echoing(body: bytes) -> Iterator[Measurement]:
    """The microseconds that an echo of ``body`` takes over ``multiprocessing.Pipe``."""
    pipe, end = start_echo()

    def once() -> None:
        pipe.send_bytes(body)
        pipe.recv_bytes()

    try:
        yield lambda: seconds_per_call(once, 500) * 1e6
    finally:
        end()
