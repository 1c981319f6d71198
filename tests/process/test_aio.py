"""The asyncio face: the same operations, many at once, and nothing left over by any of them."""

import asyncio
import inspect
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import psutil
import pytest

import holdfast
from holdfast import AsyncEngine, AsyncFold, Engine, Fold, Put
from holdfast.formats.limits import IN_FLIGHT_PER_SESSION_MAX
from tests.process.harness import GONE_S, PATIENCE_S, at, none, send, wait_until_none

MIB = 1 << 20


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run to the end; complaints about the loop itself are failures."""
    complaints: list[dict[str, Any]] = []

    async def watched() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        await main

    asyncio.run(watched())
    assert not complaints, complaints


async def pids(engine: AsyncEngine) -> tuple[int, int]:
    """The supervisor and the first worker, waiting for one that is just being restarted."""
    async with asyncio.timeout(PATIENCE_S):
        while len(processes := await engine.processes()) < 2:
            await asyncio.sleep(0.005)
    return processes[0].pid, processes[1].pid


class TestOperations:
    def test_every_operation(self, tmp_path: Path) -> None:
        """Each does what its blocking twin does."""

        async def main() -> None:
            async with holdfast.aio.open(tmp_path / "data") as engine:
                fold = await engine.fold("a")
                await fold.apply([Put("a1", b"1"), Put("a2", b"2"), Put("b", b"3")], at(5))
                entry = await fold.get("a1")
                assert entry is not None
                assert entry.value == b"1"
                assert await fold.get("none") is None
                assert [e and e.value for e in await fold.get_many(["b", "none"])] == [b"3", None]
                assert [e.key for e in await fold.range("a")] == ["a1", "a2"]
                assert [e.key for e in await fold.range(limit=1)] == ["a1"]
                assert [e.key async for e in fold.scan("a")] == ["a1", "a2"]
                assert (await fold.cursor()).u64 == 5
                assert await fold.stale_keys(["b"]) == ["a1", "a2"]
                assert (await fold.compact()).bytes_after > 0
                assert (await fold.export(str(tmp_path / "x"))).entries == 3
                assert (await fold.status()).entries == 3
                assert (await engine.status("a")).path == fold.path
                again = await engine.import_fold("c", tmp_path / "x")
                assert (await again.cursor()).u64 == 5
                assert await engine.stores() == {"a": "fold", "c": "fold"}
                assert [s.state for s in await engine.health()] == ["running", "running"]
                await engine.restart("c")
                assert len(await again.range()) == 3
                await engine.drop("c")
                assert await engine.stores() == {"a": "fold"}
                assert len(await engine.processes()) == 2
                assert "a" in repr(fold)
                assert (fold.name, fold.path) == ("a", str(tmp_path / "data" / "a.snap"))
            with pytest.raises(holdfast.EngineClosed):
                await fold.get("a1")
            with pytest.raises(holdfast.EngineClosed):
                await engine.processes()
            await engine.close()

        run(main())
        wait_until_none(tmp_path, GONE_S)

    def test_both_faces_at_once(self, tmp_path: Path) -> None:
        """They are two hosts of one directory."""

        async def main() -> None:
            async with holdfast.aio.open(tmp_path) as engine:
                await (await engine.fold("a")).apply([Put("k", b"v")], at(1))
                with holdfast.open(tmp_path) as other:
                    assert other.fold("a").cursor().u64 == 1

        run(main())

    def test_a_scan_left_early_leaves_nothing(self, tmp_path: Path) -> None:
        """Pages are asked for one by one."""

        async def main() -> None:
            async with holdfast.aio.open(tmp_path) as engine:
                fold = await engine.fold("a", durability="never")
                await fold.apply([Put(f"{n:05}", b"v") for n in range(20_000)], none)
                async for entry in fold.scan():
                    assert entry.key == "00000"
                    break
                assert len([entry async for entry in fold.scan("0")]) == 10_000

        run(main())

    def test_bad_input_is_refused_before_anything_is_sent(self, tmp_path: Path) -> None:
        """As with the blocking face."""

        async def main() -> None:
            async with holdfast.aio.open(tmp_path) as engine:
                fold = await engine.fold("a")
                wrong: Any = 7
                bad: list[Callable[[], Awaitable[object]]] = [
                    lambda: fold.get(wrong),
                    lambda: fold.apply([wrong], none),
                    lambda: fold.apply([Put("k", wrong)], none),
                    lambda: fold.get("k", timeout=-1),
                    lambda: engine.fold("a/b"),
                    lambda: engine.fold("a", durability="never"),
                    lambda: engine.fold("b", create=wrong),
                ]
                for call in bad:
                    with pytest.raises(holdfast.InvalidArgument):
                        await call()
                await fold.apply([Put("k", b"v")], none)

        run(main())


class TestManyAtOnce:
    def test_answers_find_their_callers(self, tmp_path: Path) -> None:
        """A thousand requests in flight, more than a pipe takes at once, and none mixed up."""

        async def main() -> None:
            async with holdfast.aio.open(tmp_path) as engine:
                fold = await engine.fold("a")

                async def use(number: int) -> None:
                    key = f"k{number}"
                    await fold.apply([Put(key, key.encode())], none)
                    entry = await fold.get(key)
                    assert entry is not None
                    assert entry.value == key.encode()

                assert IN_FLIGHT_PER_SESSION_MAX < 1000
                await asyncio.gather(*map(use, range(1000)))
                assert len(await fold.range()) == 1000

        run(main())

    def test_several_stores_at_once(self, tmp_path: Path) -> None:
        """Each has a pipe of its own."""

        async def main() -> None:
            async with holdfast.aio.open(tmp_path) as engine:
                folds = await asyncio.gather(*(engine.fold(f"s{n}") for n in range(5)))
                await asyncio.gather(
                    *(fold.apply([Put(str(n), b"v")], none) for fold in folds for n in range(20))
                )
                assert [len(await fold.range()) for fold in folds] == [20] * 5

        run(main())

    def test_the_loop_turns_while_large_results_arrive(self, tmp_path: Path) -> None:
        """One turn takes in what one read brings, so others get theirs: counted, not timed."""

        async def main() -> None:
            async with holdfast.aio.open(tmp_path) as engine:
                fold = await engine.fold("a")
                await fold.apply([Put("big", bytes(MIB))], none)
                turn = 0
                done: list[int] = []

                async def count() -> None:
                    nonlocal turn
                    while True:
                        turn += 1
                        await asyncio.sleep(0)

                async def get() -> None:
                    entry = await fold.get("big")
                    assert entry is not None
                    assert len(entry.value) == MIB
                    done.append(turn)

                counting = asyncio.create_task(count())
                await asyncio.gather(*(get() for _ in range(60)))
                counting.cancel()
                assert len(done) == 60
                assert max(map(done.count, done)) <= 2, "a turn that took in more than it had to"

        run(main())

    def test_the_loop_turns_while_large_requests_leave(self, tmp_path: Path) -> None:
        """What the worker does not take at once waits in the background."""

        async def main() -> None:
            async with holdfast.aio.open(tmp_path) as engine:
                fold = await engine.fold("a", durability="never")
                _, worker = await pids(engine)
                await fold.get("k")
                send(worker, signal.SIGSTOP)
                calls = [
                    asyncio.create_task(fold.apply([Put(f"{n}", bytes([n]) * MIB)], none))
                    for n in range(10)
                ]
                for _ in range(1000):
                    await asyncio.sleep(0)
                assert not any(call.done() for call in calls)
                send(worker, signal.SIGCONT)
                await asyncio.gather(*calls)
                for n in range(10):
                    entry = await fold.get(f"{n}")
                    assert entry is not None
                    assert entry.value == bytes([n]) * MIB

        run(main())


class TestGivingUp:
    def test_cancelled_calls_leave_no_stray_answer(self, tmp_path: Path) -> None:
        """Answers that nobody waits for are dropped; every later call gets its own."""

        async def main() -> None:
            async with holdfast.aio.open(tmp_path) as engine:
                fold = await engine.fold("a")
                await fold.apply([Put(f"k{n}", b"%d" % n) for n in range(100)], none)
                _, worker = await pids(engine)
                for _ in range(5):
                    send(worker, signal.SIGSTOP)
                    calls = [asyncio.create_task(fold.get(f"k{n}")) for n in range(100)]
                    await asyncio.sleep(0)
                    for call in calls[::2]:
                        call.cancel()
                    send(worker, signal.SIGCONT)
                    ends = await asyncio.gather(*calls, return_exceptions=True)
                    for number, end in enumerate(ends):
                        if number % 2:
                            assert isinstance(end, holdfast.KvEntry)
                            assert end.value == b"%d" % number
                        else:
                            assert isinstance(end, asyncio.CancelledError)
                assert (await pids(engine))[1] == worker

        run(main())

    def test_calls_that_time_out_leave_no_stray_answer(self, tmp_path: Path) -> None:
        """The worker's late answer finds nobody."""

        async def main() -> None:
            async with holdfast.aio.open(tmp_path) as engine:
                fold = await engine.fold("a")
                await fold.apply([Put("k", b"v")], none)
                _, worker = await pids(engine)
                send(worker, signal.SIGSTOP)
                reads = [fold.get("other", timeout=0.2) for _ in range(20)]
                writes = [fold.apply([Put("late", b"")], none, timeout=0.2) for _ in range(20)]
                ends = await asyncio.gather(*reads, *writes, return_exceptions=True)
                send(worker, signal.SIGCONT)
                for number, end in enumerate(ends):
                    assert isinstance(end, holdfast.CallTimeout)
                    assert end.may_have_happened is (number >= 20)
                for _ in range(20):
                    entry = await fold.get("k")
                    assert entry is not None
                    assert entry.value == b"v"

        run(main())

    def test_a_timeout_holds_behind_a_full_pipe(self, tmp_path: Path) -> None:
        """A call that cannot even be sent ends with its deadline, and changed nothing."""

        async def main() -> None:
            async with holdfast.aio.open(tmp_path) as engine:
                fold = await engine.fold("a")
                await fold.get("k")
                _, worker = await pids(engine)
                send(worker, signal.SIGSTOP)
                calls = [
                    asyncio.create_task(fold.get("k")) for _ in range(IN_FLIGHT_PER_SESSION_MAX)
                ]
                await asyncio.sleep(0)
                with pytest.raises(holdfast.CallTimeout) as caught:
                    await fold.apply([Put("late", b"")], none, timeout=0.2)
                assert caught.value.may_have_happened is False
                assert not any(call.done() for call in calls)
                send(worker, signal.SIGCONT)
                assert await asyncio.gather(*calls) == [None] * len(calls)
                assert await fold.get("late") is None

        run(main())

    def test_a_timeout_holds_behind_a_slow_connection(self, tmp_path: Path) -> None:
        """Nobody waits longer than asked because somebody else does."""

        async def main() -> None:
            async with holdfast.aio.open(tmp_path) as engine:
                fold = await engine.fold("a")
                supervisor, _ = await pids(engine)
                send(supervisor, signal.SIGSTOP)
                patient = asyncio.create_task(fold.get("k"))
                await asyncio.sleep(0)
                with pytest.raises(holdfast.CallTimeout):
                    await fold.get("k", timeout=0.2)
                with pytest.raises(holdfast.CallTimeout):
                    await engine.processes(timeout=0.2)
                assert not patient.done()
                send(supervisor, signal.SIGCONT)
                assert await patient is None

        run(main())

    def test_nothing_leaks_from_calls_given_up(self, tmp_path: Path) -> None:
        """Neither descriptors, nor threads, nor memory of who waited."""

        async def main() -> None:
            async with holdfast.aio.open(tmp_path) as engine:
                fold = await engine.fold("a")
                await fold.get("k")
                me = psutil.Process()
                before = (me.num_fds(), threading.active_count())
                for _ in range(50):
                    for name in ("a", "b"):
                        call = asyncio.create_task(engine.fold(name))
                        await asyncio.sleep(0)
                        call.cancel()
                        await asyncio.gather(call, return_exceptions=True)
                    calls = [asyncio.create_task(fold.get("k")) for _ in range(10)]
                    await asyncio.sleep(0)
                    for get in calls:
                        get.cancel()
                    await asyncio.gather(*calls, return_exceptions=True)
                await fold.get("k")
                await engine.processes()
                assert (me.num_fds(), threading.active_count()) == before

        run(main())


class TestCrashes:
    def test_a_worker_killed_under_a_hundred_calls(self, tmp_path: Path) -> None:
        """Reads and writes in flight are sent again; none fails, none happens twice."""

        async def main() -> None:
            async with holdfast.aio.open(tmp_path) as engine:
                fold = await engine.fold("a")
                await fold.apply([Put("k", b"v")], none)
                for turn in range(5):
                    _, worker = await pids(engine)
                    send(worker, signal.SIGSTOP)
                    writes = [
                        asyncio.create_task(fold.apply([Put(f"{turn}/{n}", b"v")], none))
                        for n in range(50)
                    ]
                    reads = [asyncio.create_task(fold.get("k")) for _ in range(50)]
                    await asyncio.sleep(0)
                    send(worker, signal.SIGKILL)
                    await asyncio.gather(*writes)
                    assert None not in await asyncio.gather(*reads)
                    assert len(await fold.range(f"{turn}/")) == 50

        run(main())

    def test_workers_killed_at_any_moment(self, tmp_path: Path) -> None:
        """Numbers only grow, whenever the worker dies."""

        async def main() -> None:
            async with holdfast.aio.open(tmp_path) as engine:
                fold = await engine.fold("a")

                async def use(name: str) -> None:
                    for number in range(60):
                        await fold.apply([Put(name, b"%d" % number)], none)
                        entry = await fold.get(name)
                        assert entry is not None
                        assert int(entry.value) == number
                        if name == "0" and number % 15 == 7:
                            send((await pids(engine))[1], signal.SIGKILL)

                await asyncio.gather(*(use(str(n)) for n in range(10)))

        run(main())

    def test_a_supervisor_killed_under_a_hundred_calls(self, tmp_path: Path) -> None:
        """The next one is started, and every call goes on."""

        async def main() -> None:
            async with holdfast.aio.open(tmp_path) as engine:
                fold = await engine.fold("a")
                for turn in range(3):
                    supervisor, worker = await pids(engine)
                    send(worker, signal.SIGSTOP)  # so that none is answered before
                    calls = [fold.apply([Put(f"{turn}/{n}", b"v")], none) for n in range(100)]
                    tasks = [asyncio.ensure_future(call) for call in calls]
                    await asyncio.sleep(0)
                    send(supervisor, signal.SIGKILL)
                    await asyncio.gather(*tasks)
                    assert (await pids(engine))[0] != supervisor
                assert len(await fold.range()) == 300

        run(main())
        wait_until_none(tmp_path, GONE_S)

    def test_a_hung_worker_is_replaced(self, tmp_path: Path) -> None:
        """As with the blocking face."""

        async def main() -> None:
            async with holdfast.aio.open(tmp_path, hung_after=0.4) as engine:
                fold = await engine.fold("a")
                await fold.get("k")
                _, worker = await pids(engine)
                send(worker, signal.SIGSTOP)
                assert await fold.get("k") is None
                assert (await engine.health())[0].restarts == 1

        run(main())

    def test_closing_under_calls_gives_them_an_end(self, tmp_path: Path) -> None:
        """Each gets its answer or ``EngineClosed``; nothing is left."""

        async def main() -> None:
            with holdfast.open(tmp_path):  # keeps the supervisor
                me = psutil.Process()
                before = me.num_fds()
                engine = await holdfast.aio.open(tmp_path)
                fold = await engine.fold("a")
                await fold.get("k")
                calls = [asyncio.create_task(fold.get("k")) for _ in range(100)]
                await asyncio.sleep(0)
                await engine.close()
                for end in await asyncio.gather(*calls, return_exceptions=True):
                    assert end is None or isinstance(end, holdfast.EngineClosed)
                assert me.num_fds() == before

        run(main())


class TestLoops:
    def test_an_engine_belongs_to_its_loop(self, tmp_path: Path) -> None:
        """Used in another one it says so; a new one can be opened there."""
        engines: list[tuple[AsyncEngine, AsyncFold]] = []

        async def opening() -> None:
            engine = await holdfast.aio.open(tmp_path)
            engines.append((engine, await engine.fold("a")))

        async def using() -> None:
            with pytest.raises(holdfast.InvalidArgument, match="loop"):
                await engines[0][1].get("k")
            async with holdfast.aio.open(tmp_path) as engine:
                await (await engine.fold("a")).get("k")
            await engines[0][0].close()

        run(opening())
        run(using())
        wait_until_none(tmp_path, GONE_S)

    def test_a_failing_progress_callback_fails_its_call_alone(self, tmp_path: Path) -> None:
        """Its error is the caller's; others on the same pipe do not notice."""

        async def main() -> None:
            async with holdfast.aio.open(tmp_path) as engine:
                fold = await engine.fold("a", durability="never")
                for _ in range(3):
                    await fold.apply([Put(f"{n}", bytes(500)) for n in range(30_000)], none)

                def fail(_: holdfast.Progress) -> None:
                    raise ZeroDivisionError("mine")

                compacting = asyncio.ensure_future(fold.compact(progress=fail))
                gets = [fold.get(str(n)) for n in range(50)]
                assert None not in await asyncio.gather(*gets)
                with pytest.raises(ZeroDivisionError, match="mine"):
                    await compacting
                assert await fold.get("7")

        run(main())


class TestParity:
    FACES = ((Engine, AsyncEngine), (Fold, AsyncFold))
    EXTRA = frozenset({"connect"})  # what ``aio.open`` calls
    NOT_AWAITED = frozenset({"name", "path", "directory", "scan"})  # scan is an async iterator

    @staticmethod
    def public(face: type) -> dict[str, Any]:
        """The public attributes of a class, also inherited ones."""
        return {
            name: inspect.getattr_static(face, name)
            for name in dir(face)
            if not name.startswith("_")
        }

    @pytest.mark.parametrize(("blocking", "asyncio_face"), FACES)
    def test_the_same_names(self, blocking: type, asyncio_face: type) -> None:
        """Neither face has an operation that the other lacks."""
        names = set(self.public(asyncio_face)) - self.EXTRA
        assert names == set(self.public(blocking))

    @pytest.mark.parametrize(("blocking", "asyncio_face"), FACES)
    def test_the_same_parameters(self, blocking: type, asyncio_face: type) -> None:
        """By name, kind, default and annotation."""
        for name, method in self.public(blocking).items():
            if not callable(method):
                continue
            other = self.public(asyncio_face)[name]
            signatures = [inspect.signature(m).parameters for m in (method, other)]
            assert list(signatures[0].values()) == list(signatures[1].values()), name

    @pytest.mark.parametrize(("blocking", "asyncio_face"), FACES)
    def test_awaitable_results(self, blocking: type, asyncio_face: type) -> None:
        """Every operation of the asyncio face is awaited, and none of the blocking one."""
        for name, method in self.public(blocking).items():
            if name in self.NOT_AWAITED:
                continue
            assert not inspect.iscoroutinefunction(method), name
            assert inspect.iscoroutinefunction(self.public(asyncio_face)[name]), name

    @pytest.mark.parametrize(("blocking", "asyncio_face"), FACES)
    def test_every_operation_is_documented(self, blocking: type, asyncio_face: type) -> None:
        """On both faces."""
        for face in (blocking, asyncio_face):
            for name, member in self.public(face).items():
                assert inspect.getdoc(member), f"{face.__name__}.{name}"

    def test_opening_takes_the_same_parameters(self) -> None:
        """Also with the same defaults."""
        both = [inspect.signature(f).parameters for f in (holdfast.open, holdfast.aio.open)]
        assert list(both[0].values()) == list(both[1].values())
