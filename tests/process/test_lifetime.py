"""Who lives how long: supervisor and workers, with and without their hosts."""

import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import holdfast
from tests.process.harness import (
    GONE_S,
    hear,
    is_alive,
    kill,
    put,
    run,
    running,
    script,
    send,
    serving,
    supervisor_pid,
    tell,
    until,
    value_of,
    wait_until_none,
    worker_pid,
)

HOST = """
    engine = holdfast.open(sys.argv[1])
    fold = engine.fold("a")
    put(fold, "k")
    print("ready", flush=True)
    sys.stdin.readline()
    put(fold, "later")
    print("done", flush=True)
"""


def test_a_killed_host_leaves_nothing(tmp_path: Path) -> None:
    """Within two seconds of its ``SIGKILL`` every process is gone, and its writes are there."""
    with running(HOST, str(tmp_path)) as host:
        assert hear(host) == "ready"
        assert len(serving(tmp_path)) == 2
        host.kill()
        wait_until_none(tmp_path, GONE_S)
    with holdfast.open(tmp_path) as engine:
        assert value_of(engine.fold("a"), "k") == b"value"


def test_the_next_open_after_a_kill_works_at_once(tmp_path: Path) -> None:
    """Nobody waits for the old processes' end, nor for a stale lock."""
    with running(HOST, str(tmp_path)) as host:
        assert hear(host) == "ready"
        host.kill()
        with holdfast.open(tmp_path) as engine:
            fold = engine.fold("a")
            assert value_of(fold, "k") == b"value"
            put(fold, "k2")
    wait_until_none(tmp_path, GONE_S)


def test_a_host_killed_together_with_everything_leaves_a_usable_directory(tmp_path: Path) -> None:
    """``SIGKILL`` of host, supervisor and worker at once is just another restart."""
    with running(HOST, str(tmp_path)) as host:
        assert hear(host) == "ready"
        for pid in [host.pid, *(process.pid for process in serving(tmp_path))]:
            send(pid, signal.SIGKILL)
    with holdfast.open(tmp_path) as engine:
        assert value_of(engine.fold("a"), "k") == b"value"


def test_the_last_host_stops_everything(tmp_path: Path) -> None:
    """As long as one host stays, the same processes serve on; ``close`` of the last ends them."""
    first, second = holdfast.open(tmp_path), holdfast.open(tmp_path)
    fold = second.fold("a")
    put(fold, "k")
    before = second.processes()
    first.close()
    assert value_of(fold, "k") == b"value"
    assert second.processes() == before
    second.close()
    wait_until_none(tmp_path, GONE_S)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".holdfast", "a.snap"]
    assert not (tmp_path / ".holdfast" / "supervisor.lock").exists()


def test_another_host_s_death_does_not_disturb(tmp_path: Path) -> None:
    """A host that is killed takes nothing with it that others use."""
    with holdfast.open(tmp_path) as engine:
        fold = engine.fold("a")
        put(fold, "mine")
        before = engine.processes()
        for _ in range(3):
            with running(HOST, str(tmp_path)) as host:
                assert hear(host) == "ready"
                host.kill()
            put(fold, "mine")
        assert engine.processes() == before
        assert [store.restarts for store in engine.health()] == [0]


def test_an_exit_without_close_is_a_close(tmp_path: Path) -> None:
    """A script that just ends leaves no process, loses no write, and prints nothing."""
    body = HOST.replace("sys.stdin.readline()", "")
    assert run(["-c", script(body), str(tmp_path)]) == "ready\ndone\n"
    wait_until_none(tmp_path, GONE_S)
    with holdfast.open(tmp_path) as engine:
        assert value_of(engine.fold("a"), "later") == b"value"


@pytest.mark.parametrize("way", ["sys.exit(3)", "raise SystemExit(3)", "os._exit(3)"])
def test_an_abrupt_exit_leaves_nothing(tmp_path: Path, way: str) -> None:
    """However the interpreter ends, the engine ends with it."""
    source = script(HOST.replace("sys.stdin.readline()", way))
    done = subprocess.run(
        [sys.executable, "-c", source, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "ready\n", "")
    wait_until_none(tmp_path, GONE_S)


def test_a_killed_supervisor_is_replaced_by_the_next_call(tmp_path: Path) -> None:
    """Its workers die with it, and no call fails."""
    with holdfast.open(tmp_path) as engine:
        fold = engine.fold("a")
        for number in range(3):
            put(fold, str(number))
            supervisor, worker = supervisor_pid(engine), worker_pid(engine, "a")
            send(supervisor, signal.SIGKILL)
            put(fold, f"{number} again")
            assert supervisor_pid(engine) != supervisor
            until(lambda pid=worker: not is_alive(pid), "the old worker is gone")  # type: ignore[misc] # a lambda's default
        assert len(fold.range()) == 6
    wait_until_none(tmp_path, GONE_S)


def test_several_hosts_agree_on_the_next_supervisor(tmp_path: Path) -> None:
    """After a kill everybody meets again at one supervisor."""
    engines = [holdfast.open(tmp_path) for _ in range(4)]
    folds = [engine.fold("a") for engine in engines]
    kill(supervisor_pid(engines[0]))
    threads = [
        threading.Thread(target=put, args=(fold, str(number))) for number, fold in enumerate(folds)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({supervisor_pid(engine) for engine in engines}) == 1
    assert len(folds[0].range()) == 4
    for engine in engines:
        engine.close()
    wait_until_none(tmp_path, GONE_S)


def test_a_worker_told_to_terminate_is_replaced(tmp_path: Path) -> None:
    """``SIGTERM`` to a worker is a death like any other, and is told as such."""
    with holdfast.open(tmp_path) as engine:
        fold = engine.fold("a")
        put(fold, "k")
        send(worker_pid(engine, "a"), signal.SIGTERM)
        until(lambda: engine.health()[0].restarts == 1, "it was restarted")
        assert value_of(fold, "k") == b"value"
        assert engine.health()[0].last_exit == "killed by SIGTERM"


def test_a_supervisor_told_to_terminate_is_replaced(tmp_path: Path) -> None:
    """``SIGTERM`` ends it in good order, and the next call starts another."""
    with holdfast.open(tmp_path) as engine:
        fold = engine.fold("a")
        put(fold, "k")
        supervisor = supervisor_pid(engine)
        send(supervisor, signal.SIGTERM)
        until(lambda: not is_alive(supervisor), "the supervisor is gone")
        assert value_of(fold, "k") == b"value"
        put(fold, "k2")
        assert supervisor_pid(engine) != supervisor
    wait_until_none(tmp_path, GONE_S)


def test_calls_go_on_while_the_supervisor_terminates(tmp_path: Path) -> None:
    """No call in flight notices but by its latency."""
    with holdfast.open(tmp_path) as engine:
        fold = engine.fold("a")
        for number in range(200):
            if number % 50 == 25:
                send(supervisor_pid(engine), signal.SIGTERM)
            put(fold, str(number))
        assert len(fold.range()) == 200
    wait_until_none(tmp_path, GONE_S)


def test_interrupt_is_ignored_by_the_children(tmp_path: Path) -> None:
    """``SIGINT`` sent to every child changes nothing."""
    with holdfast.open(tmp_path) as engine:
        fold = engine.fold("a")
        put(fold, "k")
        before = engine.processes()
        for process in before:
            send(process.pid, signal.SIGINT)
        assert value_of(fold, "k") == b"value"
        assert engine.processes() == before


def test_ctrl_c_shows_the_host_s_traceback_alone(tmp_path: Path) -> None:
    """On a real terminal, Ctrl-C is the host's affair: no child says anything about it."""
    body = """
        engine = holdfast.open(sys.argv[1])
        fold = engine.fold("a")
        print("ready", flush=True)
        number = 0
        while True:
            number += 1
            put(fold, str(number))
    """
    ours, theirs = pty.openpty()
    host = subprocess.Popen(
        [sys.executable, "-c", script(body), str(tmp_path)],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        preexec_fn=_take_terminal,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    give_up = time.monotonic() + 60
    interrupted = False
    while time.monotonic() < give_up:
        readable, _, _ = select.select([ours], [], [], 0.1)
        try:
            shown += os.read(ours, 4096) if readable else b""
        except OSError:  # the terminal's last user has gone
            break
        if b"ready" in shown and not interrupted:
            interrupted = True
            os.write(ours, b"\x03")
    os.close(ours)
    assert host.wait(60) == -signal.SIGINT
    text = shown.decode()
    assert text.count("Traceback") == 1, text
    assert text.rstrip().endswith("KeyboardInterrupt"), text
    wait_until_none(tmp_path, GONE_S)


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_an_interrupted_call_leaves_the_engine_usable(tmp_path: Path) -> None:
    """A call that Ctrl-C broke off leaves no stray answer for the next one."""
    out = run(["-c", script("""
        engine = holdfast.open(sys.argv[1])
        fold = engine.fold("a")
        fold.apply([Put(f"k{n}", bytes(100_000)) for n in range(200)], none)
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        broken = 0
        for number in range(20):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.001 * (number + 1))
                while True:
                    assert len(fold.range()) == 200
            except KeyboardInterrupt:
                broken += 1
            assert fold.get("k7").value == bytes(100_000)
            assert fold.get("none") is None
        print(broken)
        engine.close()
    """), str(tmp_path)])  # fmt: skip
    assert out == "20\n"
    wait_until_none(tmp_path, GONE_S)


def test_closing_twice_is_closing_once(tmp_path: Path) -> None:
    """Also from several threads, and with ``with``."""
    with holdfast.open(tmp_path) as engine:
        engine.fold("a")
        threads = [threading.Thread(target=engine.close) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        engine.close()
    wait_until_none(tmp_path, GONE_S)


def test_a_closed_engine_says_so(tmp_path: Path) -> None:
    """Every call on it and on its handles raises ``EngineClosed``, and starts nothing."""
    engine = holdfast.open(tmp_path)
    fold = engine.fold("a")
    put(fold, "k")
    engine.close()
    calls: list[Callable[[], object]] = [
        lambda: engine.fold("a"),
        lambda: engine.import_fold("b", tmp_path / "x"),
        engine.stores,
        engine.processes,
        engine.health,
        lambda: engine.status("a"),
        lambda: engine.restart("a"),
        lambda: engine.drop("a"),
        lambda: put(fold, "k"),
        lambda: fold.get("k"),
        lambda: fold.get_many(["k"]),
        fold.range,
        lambda: list(fold.scan()),
        fold.cursor,
        lambda: fold.stale_keys([]),
        fold.compact,
        lambda: fold.export(str(tmp_path / "x")),
        fold.status,
    ]
    for call in calls:
        with pytest.raises(holdfast.EngineClosed, match="closed"):
            call()
    wait_until_none(tmp_path, GONE_S)
    assert fold.name == "a"


def test_closing_under_calls_gives_them_an_end(tmp_path: Path) -> None:
    """Threads in the middle of calls get their answer or ``EngineClosed``; none hangs."""
    engine = holdfast.open(tmp_path)
    fold = engine.fold("a")
    ends: list[BaseException] = []

    def use() -> None:
        try:
            while True:
                put(fold, "k")
        except BaseException as error:
            ends.append(error)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: fold.get("k"), "they are at it")
    engine.close()
    for thread in threads:
        thread.join(60)
    assert [type(error) for error in ends] == [holdfast.EngineClosed] * 4
    wait_until_none(tmp_path, GONE_S)


def test_opening_and_closing_leaks_nothing(tmp_path: Path) -> None:
    """Two hundred times over there are as many descriptors and threads as before."""
    me = psutil.Process()
    with holdfast.open(tmp_path) as first:  # keeps the supervisor, so that each turn is short
        for number in range(205):
            if number == 5:
                descriptors, threads = me.num_fds(), threading.active_count()
            with holdfast.open(tmp_path) as engine:
                put(engine.fold("a"), "k")
        assert (me.num_fds(), threading.active_count()) == (descriptors, threads)
        supervisor = psutil.Process(supervisor_pid(first))
        until(lambda: supervisor.num_fds() < 40, "the supervisor has let go of them as well")


def test_starting_and_stopping_leaks_nothing(tmp_path: Path) -> None:
    """Whole lives of supervisor and worker leave no descriptor, thread or child behind."""
    me = psutil.Process()
    for number in range(12):
        if number == 2:
            before = (me.num_fds(), threading.active_count(), len(me.children()))
        with holdfast.open(tmp_path) as engine:
            put(engine.fold("a"), "k")
    assert (me.num_fds(), threading.active_count(), len(me.children())) == before
    wait_until_none(tmp_path, GONE_S)


def test_crashes_leak_nothing(tmp_path: Path) -> None:
    """Neither host nor supervisor keeps a descriptor of a worker that died."""
    me = psutil.Process()
    with holdfast.open(tmp_path) as engine:
        fold = engine.fold("a")
        supervisor = psutil.Process(supervisor_pid(engine))
        for number in range(30):
            if number == 5:
                before = (me.num_fds(), supervisor.num_fds())
            kill(worker_pid(engine, "a"))
            put(fold, "k")
        until(lambda: (me.num_fds(), supervisor.num_fds()) == before, "there are no more than then")


def test_a_burst_of_callers_does_not_keep_its_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections that are no longer of use are hung up, here and in the worker."""
    with holdfast.open(tmp_path) as engine:
        fold = engine.fold("a")
        put(fold, "k")
        pool = engine._coordinator.pool(fold._spec)
        worker = psutil.Process(worker_pid(engine, "a"))
        before = worker.num_fds()
        burst = [pool.take(0, time.monotonic() + 60.0) for _ in range(5)]
        for session in burst:
            pool.give_back(session)
        until(lambda: worker.num_fds() == before + 4, "they are kept for the next burst")
        monkeypatch.setattr("holdfast.coordinator._UNUSED_S", 0.0)
        for _ in burst:
            assert value_of(fold, "k") == b"value"
        until(lambda: worker.num_fds() == before, "the worker hangs up, too")


def test_waiting_for_a_host_to_go(tmp_path: Path) -> None:
    """A host that keeps the engine open in another process is served to its end."""
    with running(HOST, str(tmp_path)) as host:
        assert hear(host) == "ready"
        with holdfast.open(tmp_path) as engine:
            put(engine.fold("a"), "here")
        tell(host)
        assert hear(host) == "done"
        assert host.wait(60) == 0
    wait_until_none(tmp_path, GONE_S)
