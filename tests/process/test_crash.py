"""What a worker's death costs: latency, and nothing else unless the request itself is to blame."""

import itertools
import logging
import operator
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import holdfast
from holdfast.formats import fold_log
from holdfast.formats.limits import FRUITLESS_DEATHS_MAX
from holdfast.workers.message import Durability
from tests.process.harness import (
    LONG,
    at,
    is_alive,
    kill,
    none,
    put,
    send,
    supervisor_pid,
    until,
    value_of,
    worker_pid,
)

MIB = 1 << 20
needs_prlimit = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux can limit the memory of another process"
)


class Threads:
    """Threads that run until told to stop, and whose errors count."""

    def __init__(self, *bodies: Callable[[Callable[[], bool]], None]) -> None:
        self.errors: list[BaseException] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(body,)) for body in bodies]

    def _run(self, body: Callable[[Callable[[], bool]], None]) -> None:
        try:
            body(lambda: not self._stop.is_set())
        except BaseException as error:
            self.errors.append(error)
            self._stop.set()

    def __enter__(self) -> "Threads":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert not self.errors, self.errors


def limit_memory(pid: int, extra_bytes: int | None, baseline: int = 0) -> None:
    """Let a process, and what it forks, have so much more address space; None: no limit."""
    limit = resource.RLIM_INFINITY if extra_bytes is None else baseline + extra_bytes
    resource.prlimit(pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def size_of(pid: int) -> int:
    """A process's address space in bytes."""
    return int(psutil.Process(pid).memory_info().vms)


class TestDeathsUnderLoad:
    def test_no_call_fails(self, tmp_path: Path) -> None:
        """Reads and writes go on through one ``SIGKILL`` after another."""
        with holdfast.open(tmp_path) as engine:
            fold = engine.fold("a")
            counts = itertools.count()
            made = [0] * 6

            def writer(number: int) -> Callable[[Callable[[], bool]], None]:
                def write(going: Callable[[], bool]) -> None:
                    while going():
                        key, value = f"{number}", str(next(counts)).encode()
                        put(fold, key, value)
                        assert value_of(fold, key) == value
                        made[number] += 1

                return write

            with Threads(*map(writer, range(6))) as threads:
                for _ in range(20):
                    kill(worker_pid(engine, "a"))
                    # Each of them: or the next death might meet a request that met this one.
                    goal = [count + 2 for count in made]
                    until(
                        lambda g=goal: threads.errors or all(map(operator.ge, made, g)),  # type: ignore[misc] # a lambda's default
                        "they go on",
                    )
                    assert not threads.errors
            (health,) = engine.health()
            assert health.restarts == 20
            assert health.last_exit == "killed by SIGKILL"

    @pytest.mark.parametrize("durability", ["always", "never"])
    def test_a_resent_write_never_brings_a_value_back(
        self, tmp_path: Path, durability: Durability
    ) -> None:
        """Writers overwrite each other's keys while workers die; what was replaced stays so.

        Each value is written once. A write that was durable when its worker died and was then
        applied a second time would put an old value over a newer one, which a reader sees.
        """
        seconds = 10.0 if LONG else 3.0
        keys = ["x", "y"]
        with holdfast.open(tmp_path) as engine:
            fold = engine.fold("a", durability=durability)
            written: list[bytes] = []

            def writer(number: int) -> Callable[[Callable[[], bool]], None]:
                def write(going: Callable[[], bool]) -> None:
                    for turn in itertools.count():
                        if not going():
                            return
                        value = f"{number} {turn}".encode()
                        fold.apply([holdfast.Put(key, value) for key in keys], none)
                        written.append(value)

                return write

            def read(going: Callable[[], bool]) -> None:
                last: dict[bytes, int] = {}
                current: bytes | None = None
                replaced: set[bytes] = set()
                while going():
                    x, y = fold.get_many(keys)
                    assert x == y if x is None else y is not None and x.value == y.value
                    if x is None or x.value == current:
                        continue
                    assert x.value not in replaced, f"{x.value!r} came back"
                    if current is not None:
                        replaced.add(current)
                    current = x.value
                    who, turn = current.split()
                    assert int(turn) >= last.get(who, 0), f"{current!r} after {last[who]}"
                    last[who] = int(turn)

            with Threads(*map(writer, range(6)), read, read) as threads:
                give_up = time.monotonic() + seconds
                while time.monotonic() < give_up and not threads.errors:
                    seen = len(written)
                    # So that each worker gets something done: else the store would be given up.
                    until(lambda n=seen: len(written) > n + 20 or threads.errors, "they write")  # type: ignore[misc] # a lambda's default
                    kill(worker_pid(engine, "a"))
            assert engine.health()[0].restarts > 5

    def test_a_cursor_never_goes_back(self, tmp_path: Path) -> None:
        """One writer counts its cursor up through many deaths; every reading agrees."""
        with holdfast.open(tmp_path) as engine:
            fold = engine.fold("a")
            for number in range(300):
                if number % 20 == 10:
                    send(worker_pid(engine, "a"), signal.SIGKILL)
                fold.apply([], at(number))
                assert fold.cursor().u64 == number

    def test_other_stores_do_not_notice(self, tmp_path: Path) -> None:
        """A death concerns one store: the worker of another goes on."""
        with holdfast.open(tmp_path) as engine:
            a, b = engine.fold("a"), engine.fold("b")
            put(b, "k")
            other = worker_pid(engine, "b")
            for _ in range(5):
                kill(worker_pid(engine, "a"))
                put(a, "k")
            assert worker_pid(engine, "b") == other
            assert {store.name: store.restarts for store in engine.health()} == {"a": 5, "b": 0}

    def test_compaction_and_export_survive_a_death(self, tmp_path: Path) -> None:
        """Long work under way when its worker dies is begun again by the successor."""
        with holdfast.open(tmp_path) as engine:
            fold = engine.fold("a", durability="never")
            for _ in range(4):
                fold.apply([holdfast.Put(f"{n}", bytes(1000)) for n in range(20_000)], at(1))
            ends: list[object] = []
            threads = [
                threading.Thread(target=lambda: ends.append(fold.compact())),
                threading.Thread(target=lambda: ends.append(fold.export(str(tmp_path / "x")))),
            ]
            for thread in threads:
                thread.start()
            kill(worker_pid(engine, "a"))
            for thread in threads:
                thread.join()
            assert {type(end) for end in ends} == {holdfast.Compacted, holdfast.Exported}
            assert len(fold.range()) == 20_000
            assert len(engine.import_fold("b", tmp_path / "x").range()) == 20_000


@needs_prlimit
class TestPoison:
    """A request that needs more memory than a worker may have kills one worker after another."""

    REQUESTS: "dict[str, Callable[[holdfast.Fold], object]]" = {  # noqa: RUF012 # never changed
        "handling": lambda fold: fold.get_many(["k"] * 300),
        "answering": lambda fold: fold.get_many(["k"] * 70),
        "receiving": lambda fold: fold.apply(
            [holdfast.Put(str(n), bytes(16 * MIB)) for n in range(16)], none
        ),
    }

    @pytest.mark.parametrize("when", REQUESTS)
    def test_its_caller_gets_worker_crashed_and_others_an_answer(
        self, tmp_path: Path, when: str
    ) -> None:
        """Whether it dies of receiving, handling or answering, only that caller is told no."""
        with holdfast.open(tmp_path) as engine:
            fold = engine.fold("a")
            put(fold, "k", bytes(MIB))
            worker = worker_pid(engine, "a")
            baseline = size_of(worker)
            for pid in (supervisor_pid(engine), worker):
                limit_memory(pid, 100 * MIB, baseline)

            def use(going: Callable[[], bool]) -> None:
                while going():
                    put(fold, "other")
                    assert value_of(fold, "other") == b"value"

            with Threads(use, use), pytest.raises(holdfast.WorkerCrashed) as caught:
                self.REQUESTS[when](fold)
            error = caught.value
            assert error.store == "a"
            assert error.request == ("FoldApply" if when == "receiving" else "FoldGetMany")
            # Encoders have been seen to end in a segmentation fault instead of an exception.
            assert "memory" in str(error.cause) or error.cause == "killed by SIGSEGV"
            assert error.may_have_happened is (when == "receiving")
            assert engine.health()[0].restarts == 2
            assert value_of(fold, "k") == bytes(MIB)
            assert len(fold.range()) == 2, "nothing of the poison is in the store"

    def test_it_may_be_called_again_when_the_cause_is_gone(self, tmp_path: Path) -> None:
        """Nothing is held against a request's successor."""
        with holdfast.open(tmp_path) as engine:
            fold = engine.fold("a")
            put(fold, "k", bytes(MIB))
            pids = (supervisor_pid(engine), worker_pid(engine, "a"))
            baseline = size_of(pids[1])
            for pid in pids:
                limit_memory(pid, 100 * MIB, baseline)
            with pytest.raises(holdfast.WorkerCrashed):
                fold.get_many(["k"] * 300)
            for pid in (supervisor_pid(engine), worker_pid(engine, "a")):
                limit_memory(pid, None)
            assert len(fold.get_many(["k"] * 300)) == 300


class TestGivingUp:
    @needs_prlimit
    def test_a_store_that_never_comes_up_fails_alone(self, tmp_path: Path) -> None:
        """After as many deaths in recovery as are allowed it is failed, until ``restart``."""
        path = tmp_path / "a.snap"
        records = [fold_log.encode_put(b"key %d" % n, b"", b"") for n in range(200_000)]
        path.write_bytes(fold_log.HEADER + b"".join(records) + fold_log.encode_cursor(b""))
        with holdfast.open(tmp_path) as engine:
            other = engine.fold("b")
            put(other, "k")
            supervisor = supervisor_pid(engine)
            baseline = size_of(worker_pid(engine, "b"))
            limit_memory(supervisor, 3 * path.stat().st_size, baseline)
            with pytest.raises(holdfast.StoreFailed) as caught:
                engine.fold("a")
            assert caught.value.store == "a"
            assert str(caught.value).count("emory") >= FRUITLESS_DEATHS_MAX
            fold = holdfast.Fold(engine._coordinator, engine._spec("fold", "a"))
            with pytest.raises(holdfast.StoreFailed):
                fold.get("key 7")
            health = {store.name: store for store in engine.health()}
            assert (health["a"].state, health["a"].pid) == ("failed", None)
            assert (health["b"].state, health["b"].restarts) == ("running", 0)
            put(other, "k2")
            with pytest.raises(holdfast.StoreFailed):
                engine.restart("a")
            limit_memory(supervisor, None)
            engine.restart("a")
            assert value_of(fold, "key 7") == b""
            assert len(other.range()) == 2
            assert path.stat().st_size == len(fold_log.HEADER) + sum(map(len, records)) + len(
                fold_log.encode_cursor(b"")
            ), "its file was not touched"


class TestHungWorkers:
    def test_a_stopped_worker_is_killed_and_the_call_succeeds(self, tmp_path: Path) -> None:
        """A worker that shows no progress while a call waits is replaced."""
        with holdfast.open(tmp_path, hung_after=0.5) as engine:
            fold = engine.fold("a")
            put(fold, "k")
            worker = worker_pid(engine, "a")
            send(worker, signal.SIGSTOP)
            assert value_of(fold, "k") == b"value"
            put(fold, "k2")
            assert not is_alive(worker)
            assert str(engine.health()[0].last_exit).startswith("hung")

    def test_a_stopped_worker_is_restarted_on_request(self, tmp_path: Path) -> None:
        """``restart`` does not wait for a worker that cannot stop."""
        with holdfast.open(tmp_path, hung_after=0.5) as engine:
            fold = engine.fold("a")
            put(fold, "k")
            worker = worker_pid(engine, "a")
            send(worker, signal.SIGSTOP)
            engine.restart("a")
            assert value_of(fold, "k") == b"value"
            assert not is_alive(worker)

    def test_a_stopped_worker_does_not_keep_the_last_host(self, tmp_path: Path) -> None:
        """``close`` returns and leaves nothing, even if a worker has to be killed for it."""
        with holdfast.open(tmp_path) as engine:
            put(engine.fold("a"), "k")
            worker = worker_pid(engine, "a")
            send(worker, signal.SIGSTOP)
        assert not is_alive(worker)
        with holdfast.open(tmp_path) as engine:
            assert value_of(engine.fold("a"), "k") == b"value"

    def test_a_worker_that_is_busy_is_not_hung(self, tmp_path: Path) -> None:
        """Work that takes longer than ``hung_after`` but goes on is left alone."""
        with holdfast.open(tmp_path, hung_after=0.3) as engine:
            fold = engine.fold("a", durability="never")
            fold.apply([holdfast.Put(f"{n:06}", bytes(200)) for n in range(100_000)], none)
            began = time.monotonic()
            while time.monotonic() - began < 1.5:
                assert len(fold.stale_keys([])) == 100_000
            assert engine.health()[0].restarts == 0

    def test_a_timeout_is_kept_while_a_worker_hangs(self, tmp_path: Path) -> None:
        """A call with a deadline ends with it, and says whether its write may take effect."""
        with holdfast.open(tmp_path) as engine:
            fold = engine.fold("a")
            put(fold, "k")
            worker = worker_pid(engine, "a")
            send(worker, signal.SIGSTOP)
            try:
                with pytest.raises(holdfast.CallTimeout) as read:
                    fold.get("k", timeout=0.2)
                with pytest.raises(holdfast.CallTimeout) as written:
                    fold.apply([holdfast.Put("k", b"late")], none, timeout=0.2)
            finally:
                send(worker, signal.SIGCONT)
            assert read.value.may_have_happened is False
            assert written.value.may_have_happened is True
            assert value_of(fold, "none") is None, "no stray answer"


class TestCauses:
    @pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
    def test_health_names_the_signal(self, tmp_path: Path, number: signal.Signals) -> None:
        """How a worker ended is told by the signal's name."""
        with holdfast.open(tmp_path) as engine:
            fold = engine.fold("a")
            put(fold, "k")
            send(worker_pid(engine, "a"), number)
            until(lambda: engine.health()[0].restarts == 1, "it was restarted")
            assert engine.health()[0].last_exit == f"killed by {number.name}"
            assert value_of(fold, "k") == b"value"

    def test_a_file_cut_under_a_worker_is_a_death_and_no_wrong_answer(self, tmp_path: Path) -> None:
        """Reading what is no longer there kills the worker; the successor serves what is."""
        with holdfast.open(tmp_path) as engine:
            fold = engine.fold("a")
            put(fold, "kept", b"kept")
            size = (tmp_path / "a.snap").stat().st_size
            put(fold, "cut", bytes(MIB))
            engine.restart("a")  # it maps the file as it is now
            os.truncate(tmp_path / "a.snap", size)
            assert value_of(fold, "cut") is None
            assert value_of(fold, "kept") == b"kept"
            assert engine.health()[0].last_exit == "killed by SIGBUS"

    def test_a_lock_file_removed_underneath_ends_the_worker_with_its_reason(
        self, tmp_path: Path
    ) -> None:
        """A worker that can no longer vouch for its file says why it went, in words."""
        with holdfast.open(tmp_path) as engine:
            fold = engine.fold("a")
            put(fold, "k")
            (tmp_path / "a.snap.lock").unlink()
            put(fold, "k2")
            assert "lock file" in str(engine.health()[0].last_exit)
            assert len(fold.range()) == 2


class TestLogging:
    def test_a_worker_s_records_reach_the_host_s_loggers(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Logger, level, text and process of a worker's record are those it was made with."""
        caplog.set_level(logging.INFO, "holdfast")
        with holdfast.open(tmp_path) as engine:
            put(engine.fold("a"), "k")
        with (tmp_path / "a.snap").open("ab") as log:
            log.write(b"torn")
        with holdfast.open(tmp_path) as engine:
            fold = engine.fold("a")
            assert value_of(fold, "k") == b"value"
            until(lambda: any("torn tail" in r.getMessage() for r in caplog.records), "it came")
            record = next(r for r in caplog.records if "torn tail" in r.getMessage())
            assert (record.name, record.levelname) == ("holdfast.recovery", "WARNING")
            assert record.process == worker_pid(engine, "a")

    def test_a_death_is_logged_in_every_host(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The supervisor tells all hosts about a worker that had to be restarted."""
        caplog.set_level(logging.INFO, "holdfast")
        with holdfast.open(tmp_path) as engine, holdfast.open(tmp_path) as other:
            put(engine.fold("a"), "k")
            other.processes()
            kill(worker_pid(engine, "a"))
            until(
                lambda: sum("killed by SIGKILL" in r.getMessage() for r in caplog.records) == 2,
                "both were told",
            )
