"""Many processes open one new directory at the same moment."""

import multiprocessing
import os
import threading
import traceback
from multiprocessing.synchronize import Barrier
from pathlib import Path

import holdfast
from tests.process.harness import GONE_S, LONG, put, wait_until_none

HOSTS = 8
ROUNDS = 50 if LONG else 10


def host(parent: str, number: int, barrier: Barrier) -> None:
    """One of the processes."""
    try:
        for attempt in range(ROUNDS):
            take_part(parent, attempt, number, barrier)
    except BaseException:
        Path(parent, f"{number}.error").write_text(traceback.format_exc(), encoding="utf-8")
        barrier.abort()  # nobody has to wait for this one
        raise


def take_part(parent: str, attempt: int, number: int, barrier: Barrier) -> None:
    """One round: open at the same moment as all others, write, read what all wrote."""
    directory = os.path.join(parent, str(attempt))
    barrier.wait()
    with holdfast.open(directory) as engine:
        fold = engine.fold("a")
        put(fold, f"{number}", str(os.getpid()).encode())
        supervisor, worker = engine.processes()
        note = Path(parent, f"{attempt}-{number}.pid")
        note.write_text(f"{supervisor.pid} {worker.pid}", encoding="ascii")
        barrier.wait()  # everybody has written
        keys = [entry.key for entry in fold.range()]
        assert keys == [str(n) for n in range(HOSTS)], keys
        barrier.wait()  # nobody leaves before all have looked


def test_one_supervisor_each_time(tmp_path: Path) -> None:
    """Whoever wins starts it, everybody else joins it, and everybody sees everybody's writes."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(HOSTS, timeout=60)
    hosts = [
        context.Process(target=host, args=(str(tmp_path), number, barrier))
        for number in range(HOSTS)
    ]
    for process in hosts:
        process.start()
    for process in hosts:
        process.join()
    errors = [path.read_text(encoding="utf-8") for path in tmp_path.glob("*.error")]
    assert [error for error in errors if "BrokenBarrier" not in error] == []
    assert [process.exitcode for process in hosts] == [0] * HOSTS
    for attempt in range(ROUNDS):
        pids = {path.read_text(encoding="ascii") for path in tmp_path.glob(f"{attempt}-*.pid")}
        assert len(pids) == 1, f"round {attempt} had processes {pids}"
    wait_until_none(tmp_path, GONE_S)


def test_joining_while_the_last_host_leaves(tmp_path: Path) -> None:
    """A host that comes just as a supervisor goes waits for the next one, and fails no call."""
    context = multiprocessing.get_context("spawn")
    hosts = [context.Process(target=come_and_go, args=(str(tmp_path), n)) for n in range(3)]
    for process in hosts:
        process.start()
    for process in hosts:
        process.join()
    assert [process.exitcode for process in hosts] == [0] * 3
    with holdfast.open(tmp_path) as engine:
        assert len(engine.fold("a").range()) == 3 * VISITS


VISITS = 10


def come_and_go(directory: str, number: int) -> None:
    """Open, write one key, leave; again and again."""
    for visit in range(VISITS):
        with holdfast.open(directory) as engine:
            put(engine.fold("a"), f"{number}/{visit}")


def test_looking_while_files_come_and_go(tmp_path: Path) -> None:
    """A file that vanishes while the directory is read disturbs no call."""
    done = threading.Event()

    def churn() -> None:
        while not done.is_set():
            (tmp_path / "b.snap.tmp").touch()
            (tmp_path / "b.snap.tmp").rename(tmp_path / "b.other")
            (tmp_path / "b.other").unlink()

    thread = threading.Thread(target=churn)
    with holdfast.open(tmp_path) as engine:
        put(engine.fold("a"), "k")
        thread.start()
        try:
            for _ in range(5000):
                assert engine.stores() == {"a": "fold"}
        finally:
            done.set()
            thread.join()
