"""Wherever Python runs, ``holdfast.open`` works, and leaves nothing behind."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import holdfast
from tests.process import harness
from tests.process.harness import GONE_S, put, run, script, value_of, wait_until_none

USE = """
with holdfast.open(sys.argv[1]) as engine:
    fold = engine.fold("a")
    put(fold, "k")
    print(fold.get("k").value.decode())
"""
GUARDLESS = """
print("once")  # would be printed again by a child that imports this script
"""


def test_a_script_without_a_main_guard(tmp_path: Path) -> None:
    """No child imports the user's script."""
    path = tmp_path / "job.py"
    path.write_text(script(GUARDLESS + USE), encoding="utf-8")
    assert run([str(path), str(tmp_path / "data")]) == "once\nvalue\n"
    wait_until_none(tmp_path)


def test_a_command_line_script(tmp_path: Path) -> None:
    """``python -c`` has no file that a child could import."""
    assert run(["-c", script(GUARDLESS + USE), str(tmp_path / "data")]) == "once\nvalue\n"
    wait_until_none(tmp_path)


def test_a_script_on_stdin(tmp_path: Path) -> None:
    """Nor has a script that is piped in."""
    out = run(["-", str(tmp_path / "data")], stdin=script(GUARDLESS + USE))
    assert out == "once\nvalue\n"
    wait_until_none(tmp_path)


def test_under_pytest(tmp_path: Path) -> None:
    """This very process opens an engine, and is left without one."""
    with holdfast.open(tmp_path) as engine:
        fold = engine.fold("a")
        put(fold, "k")
        assert value_of(fold, "k") == b"value"
        assert harness.titles(tmp_path) == sorted(
            [
                f"holdfast: supervisor of {tmp_path}",
                f"holdfast: fold worker of a ({tmp_path / 'a.snap'})",
            ]
        )
    wait_until_none(tmp_path, GONE_S)


def test_importing_starts_nothing() -> None:
    """No thread, no child, no signal handler, no start method, no logging set up."""
    run(["-c", """
import logging, multiprocessing, signal, threading
before = [signal.getsignal(n) for n in signal.valid_signals()]
import holdfast, psutil
assert [signal.getsignal(n) for n in signal.valid_signals()] == before
assert threading.active_count() == 1
assert not psutil.Process().children()
assert multiprocessing.get_start_method(allow_none=True) is None
assert not logging.getLogger().handlers
assert not psutil.Process().net_connections("all")
"""])  # fmt: skip


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_named(tmp_path: Path) -> None:
    """Where there is no space for what the supervisor would say, that is the reason given."""
    with holdfast.open(tmp_path):
        pass
    wait_until_none(tmp_path, GONE_S)
    log = tmp_path / ".holdfast" / "supervisor.log"
    log.unlink()
    log.symlink_to("/dev/full")
    with pytest.raises(holdfast.StoreFull, match="start the supervisor"):
        holdfast.open(tmp_path)
    log.unlink()
    holdfast.open(tmp_path).close()


def test_after_a_fork_the_child_reconnects(tmp_path: Path) -> None:
    """Handles made before the fork work on both sides, at the same time and afterwards."""
    run(["-c", script("""
        engine = holdfast.open(sys.argv[1])
        fold = engine.fold("a")
        put(fold, "before")
        child = os.fork()
        for number in range(100):
            key = f"{'parent' if child else 'child'} {number}"
            put(fold, key, key.encode())
            assert fold.get(key).value == key.encode()
        if not child:
            engine.fold("b")
            engine.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert fold.get("child 99").value == b"child 99"
        put(fold, "after")
        assert len(fold.range()) == 202
        engine.close()
    """), str(tmp_path)])  # fmt: skip
    wait_until_none(tmp_path, GONE_S)


def test_a_forked_child_may_stay_longer_than_its_parent(tmp_path: Path) -> None:
    """Who is the last host has nothing to do with who forked whom."""
    out = run(["-c", script("""
        engine = holdfast.open(sys.argv[1])
        fold = engine.fold("a")
        parent = os.getpid()
        read, write = os.pipe()
        if os.fork():
            os.read(read, 1)  # the child has joined
            engine.close()
            os._exit(0)
        put(fold, "k")
        first = engine.processes()[0].pid
        os.write(write, b"x")
        while os.getppid() == parent:
            time.sleep(0.01)
        assert fold.get("k").value == b"value"
        assert engine.processes()[0].pid == first
        engine.close()
        print("done")
    """), str(tmp_path)])  # fmt: skip
    assert out == "done\n"
    wait_until_none(tmp_path, GONE_S)


def test_a_child_that_does_not_use_the_engine_keeps_nothing_alive(tmp_path: Path) -> None:
    """A forked bystander holds no pipe: when the host leaves, everything stops."""
    run(["-c", script("""
        engine = holdfast.open(sys.argv[1])
        put(engine.fold("a"), "k")
        read, write = os.pipe()
        child = os.fork()
        if not child:
            os.close(write)
            os.read(read, 1)  # until the parent is done
            os._exit(0)
        engine.close()
        import psutil
        left = [
            p for p in psutil.process_iter(["cmdline", "status"])
            if sys.argv[1] in " ".join(p.info["cmdline"] or ())
            and (p.info["cmdline"] or [""])[0].startswith("holdfast: ")
            and p.info["status"] != psutil.STATUS_ZOMBIE
        ]
        assert not left, left
        os.close(write)
        os.waitpid(child, 0)
    """), str(tmp_path)])  # fmt: skip


def test_opened_before_forking_many_workers(tmp_path: Path) -> None:
    """As a preloading web server does: several children use the inherited engine at once."""
    run(["-c", script("""
        engine = holdfast.open(sys.argv[1])
        fold = engine.fold("a")
        children = []
        for worker in range(4):
            child = os.fork()
            if not child:
                def serve(thread):
                    for number in range(20):
                        put(fold, f"{worker}/{thread}/{number}")
                threads = [threading.Thread(target=serve, args=(n,)) for n in range(3)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                assert len(fold.range(f"{worker}/")) == 60
                engine.close()
                os._exit(0)
            children.append(child)
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
        assert len(fold.range()) == 240
        engine.close()
    """), str(tmp_path)])  # fmt: skip
    wait_until_none(tmp_path, GONE_S)


def test_two_handles_of_one_store_share_nothing_with_a_child(tmp_path: Path) -> None:
    """Also a store opened twice, with different wishes, is safe on both sides of a fork."""
    run(["-c", script("""
        engine = holdfast.open(sys.argv[1])
        folds = [engine.fold("a"), engine.fold("a", durability="always"), engine.fold("a")]
        for fold in folds:
            put(fold, "k")
        child = os.fork()
        for number in range(100):
            for fold in folds:
                put(fold, f"{child} {number}")
        engine.close()
        if not child:
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    """), str(tmp_path)])  # fmt: skip
    wait_until_none(tmp_path, GONE_S)


def test_inside_a_thread_pool(tmp_path: Path) -> None:
    """An engine opened in one thread serves many, and handles go from one to another."""
    run(["-c", script("""
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(8) as pool:
            engine = pool.submit(holdfast.open, sys.argv[1]).result()
            folds = list(pool.map(lambda n: engine.fold("a"), range(8)))
            list(pool.map(lambda n: put(folds[n % 8], str(n)), range(200)))
            assert len(folds[0].range()) == 200
            pool.submit(engine.close).result()
    """), str(tmp_path)])  # fmt: skip
    wait_until_none(tmp_path, GONE_S)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_inside_a_process_pool(tmp_path: Path, method: str) -> None:
    """However the pool starts its processes, each opens the directory and meets the others."""
    path = tmp_path / "job.py"
    body = """
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor
        def work(number):
            with holdfast.open(sys.argv[1]) as engine:
                put(engine.fold("a"), str(number))
                return os.getpid()
        if __name__ == "__main__":
            context = multiprocessing.get_context(sys.argv[2])
            with ProcessPoolExecutor(3, mp_context=context) as pool:
                pids = set(pool.map(work, range(12)))
            assert os.getpid() not in pids
            with holdfast.open(sys.argv[1]) as engine:
                assert len(engine.fold("a").range()) == 12
    """
    path.write_text(script(body), encoding="utf-8")
    run([str(path), str(tmp_path / "data"), method])
    wait_until_none(tmp_path)


def test_with_asyncio(tmp_path: Path) -> None:
    """Both ways of opening, in a script of its own."""
    out = run(["-c", script("""
        import asyncio
        async def main():
            async with holdfast.aio.open(sys.argv[1]) as engine:
                fold = await engine.fold("a")
                await fold.apply([Put("k", b"value")], none)
            engine = await holdfast.aio.open(sys.argv[1])
            print((await (await engine.fold("a")).get("k")).value.decode())
            await engine.close()
        asyncio.run(main())
    """), str(tmp_path)])  # fmt: skip
    assert out == "value\n"
    wait_until_none(tmp_path, GONE_S)


@pytest.mark.parametrize("name", ["random", "socket", "logging", "numpy", "msgspec", "holdfast"])
def test_a_module_of_the_user_s_is_not_taken_for_another(tmp_path: Path, name: str) -> None:
    """A file of that name in the current directory is of no interest to a child."""
    (tmp_path / f"{name}.py").write_text("raise SystemExit('taken for another')", encoding="utf-8")
    out = run(["-P", "-c", script(USE), str(tmp_path / "data")], cwd=tmp_path)
    assert out == "value\n"
    wait_until_none(tmp_path)


def test_a_current_directory_that_is_gone(tmp_path: Path) -> None:
    """An absolute path does not need it; a relative one raises a typed error."""
    gone = tmp_path / "gone"
    gone.mkdir()
    out = run(["-c", script("""
        os.chdir(sys.argv[2])
        os.rmdir(sys.argv[2])
        try:
            holdfast.open("relative")
        except holdfast.StoreIOError as error:
            print(type(error).__name__)
    """ + USE.replace("\n", "\n        ")), str(tmp_path / "data"), str(gone)])  # fmt: skip
    assert out == "StoreIOError\nvalue\n"
    wait_until_none(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["x" * 240 + "/" + "y" * 100, "with space", "ünïcødé 数据", "quo'te\"$HOME;*", "-rf", "a\nb"],
    ids=["long", "space", "unicode", "quotes", "dash", "newline"],
)
def test_any_directory_name(tmp_path: Path, name: str) -> None:
    """Long paths, spaces, non-ASCII and what a shell would trip over are all just names."""
    directory = tmp_path / name
    directory.parent.mkdir(exist_ok=True)
    with holdfast.open(directory) as engine, holdfast.open(directory) as other:
        put(engine.fold("a"), "k")
        assert value_of(other.fold("a"), "k") == b"value"
        assert engine.directory == str(directory)
        assert len(engine.processes()) == 2
    assert (directory / "a.snap").exists()
    wait_until_none(directory, GONE_S)


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """A path whose bytes are not UTF-8 gives a typed error, and starts nothing that stays."""
    foreign = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe")
    with pytest.raises(holdfast.InvalidArgument, match="not UTF-8"):
        holdfast.open(foreign)
    with holdfast.open(tmp_path) as engine:
        with pytest.raises(holdfast.InvalidArgument, match="not UTF-8"):
            engine.fold("a", path=foreign)
        put(engine.fold("a"), "k")
    wait_until_none(tmp_path)


def test_a_relative_path_is_meant_as_of_now(tmp_path: Path) -> None:
    """Changing the directory afterwards does not move the engine."""
    out = run(["-c", script("""
        engine = holdfast.open("data")
        fold = engine.fold("a", path="elsewhere.snap")
        os.chdir("/")
        put(fold, "k")
        os.kill(engine.processes()[0].pid, signal.SIGKILL)
        print(fold.get("k").value.decode(), engine.directory)
        engine.close()
    """)], cwd=tmp_path)  # fmt: skip
    assert out == f"value {tmp_path / 'data'}\n"
    assert (tmp_path / "elsewhere.snap").exists()
    wait_until_none(tmp_path, GONE_S)


def test_paths_of_any_kind(tmp_path: Path) -> None:
    """A str, a ``Path`` and a symbolic link all lead to one supervisor."""
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    with (
        holdfast.open(tmp_path / "data") as first,
        holdfast.open(str(tmp_path / "data")) as second,
        holdfast.open(tmp_path / "link") as third,
    ):
        put(first.fold("a"), "k")
        assert value_of(second.fold("a"), "k") == b"value"
        assert value_of(third.fold("a"), "k") == b"value"
        assert first.processes() == second.processes() == third.processes()
    wait_until_none(tmp_path, GONE_S)


def test_an_interpreter_without_warnings_in_the_way(tmp_path: Path) -> None:
    """With every warning an error and development mode on, a whole life raises none."""
    out = run(["-X", "dev", "-W", "error", "-c", script(USE), str(tmp_path)])
    assert out == "value\n"
    wait_until_none(tmp_path, GONE_S)


def test_a_copy_of_the_directory_is_another_engine(tmp_path: Path) -> None:
    """What is copied while it is served opens elsewhere, with its own supervisor."""
    first = tmp_path / "first"
    with holdfast.open(first) as engine:
        put(engine.fold("a"), "k")
        ignore = shutil.ignore_patterns("*.sock")
        shutil.copytree(first, tmp_path / "second", ignore=ignore)
        with holdfast.open(tmp_path / "second") as other:
            assert value_of(other.fold("a"), "k") == b"value"
            assert harness.supervisor_pid(other) != harness.supervisor_pid(engine)
    wait_until_none(tmp_path, GONE_S)


def test_python_is_found_by_what_runs_it(tmp_path: Path) -> None:
    """The supervisor runs under the host's own interpreter."""
    with holdfast.open(tmp_path) as engine:
        pid = harness.supervisor_pid(engine)
        assert os.path.realpath(f"/proc/{pid}/exe") == os.path.realpath(sys.executable)


FIRST_ANSWER = """
import holdfast.bench.drill.subjects.base as base
from holdfast.workers import vector_messages as vm, warm_messages as wm
from holdfast.workers.actor import Caller
from holdfast.workers.disk import OsDisk
from holdfast.workers.messages import StoreSpec
from holdfast.workers.worker import opener

class Sought:
    def find_spec(self, name, path, target=None):
        if name == "pandas":
            print("pandas was looked for")

sys.meta_path.insert(0, Sought())
directory, kind = sys.argv[1:]
opens = opener(kind)
before = set(sys.modules)
if kind == "warm":
    spec = StoreSpec("a", kind, directory + "/a.warm", create=False)
    question = wm.WarmGet(0, 1, 5)
else:
    options = vm.VectorOptions()
    spec = StoreSpec("b", kind, directory + "/b.rvf", create=False, options=options)
    question = vm.VectorsQuery(memoryview(bytes(8)), 1, 3, metadata=True)
answer = base.finished(opens(OsDisk(), spec, base.tick).handle(question, Caller(1, 1)))
late = [name for name in set(sys.modules) - before if not name.startswith("encodings.")]
print(type(answer).__name__, late)
"""


@pytest.mark.parametrize(("kind", "answer"), [("warm", "WarmPoint"), ("vectors", "Hits")])
def test_a_worker_s_first_answer_loads_nothing(tmp_path: Path, kind: str, answer: str) -> None:
    """What answers from a file was loaded by the supervisor, and pandas is not even looked for:
    later, either would cost every restart more than opening the store does."""
    with holdfast.open(tmp_path) as engine:
        store = engine.warm("a", dimension=2)
        store.write(1, 0, range(10), np.zeros((10, 2), np.float32))
        store.flush()
        rows = engine.vectors("b", dimension=2)
        rows.ingest(range(10), np.zeros((10, 2), np.float32), {"n": list(range(10))})
    assert run(["-c", script(FIRST_ANSWER), str(tmp_path), kind]) == f"{answer} []\n"
