"""The cores of workers, without processes: one durable unit, and a store opened again."""

import pytest

from holdfast.bench.drill.plan import STORES, StoreKind
from holdfast.bench.drill.subjects import subject_of
from holdfast.bench.drill.subjects.base import EMPTY, HOME, State, Subject, finished
from holdfast.bench.memory_disk import MemoryDisk
from holdfast.bench.suites.rates import Benchmark
from holdfast.workers.actor import Actor, Caller

WRITES, ROUNDS = 200, 30


class Worker:
    """An actor on a disk in memory, and what it holds."""

    def __init__(self, kind: StoreKind) -> None:
        self.subject: Subject = subject_of(kind)
        self.disk = MemoryDisk(HOME)
        self.actor: Actor = self.subject.open(self.disk, "always")
        self._state: State = EMPTY
        self._requests = 0

    def write(self) -> None:
        """Handle the first operation of the alphabet, and commit it."""
        self._requests += 1
        operation = next(iter(self.subject.alphabet.values()))
        for write in operation(self._requests, self._state).writes:
            finished(self.actor.handle(write.request, Caller(7, self._requests)))
            self._state = write.after
        self.actor.commit()


@pytest.mark.parametrize("kind", STORES)
def test_write(benchmark: Benchmark, kind: StoreKind) -> None:
    """One write, noted in the ledger, appended and synced."""
    worker = Worker(kind)
    benchmark(worker.write)
    worker.actor.close()


@pytest.mark.parametrize("kind", STORES)
def test_recover(benchmark: Benchmark, kind: StoreKind) -> None:
    """A store of 200 writes, left as a crash leaves it, opened again."""
    worker = Worker(kind)
    for _ in range(WRITES):
        worker.write()

    def crashed() -> tuple[tuple[MemoryDisk], dict[str, object]]:
        return (worker.disk.crash(),), {}

    def recover(disk: MemoryDisk) -> Actor:
        return worker.subject.open(disk, "always")

    benchmark.pedantic(recover, setup=crashed, rounds=ROUNDS)
