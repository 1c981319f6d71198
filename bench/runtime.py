"""The runtime: restarts, opening, and what an idle worker costs."""

import holdfast
from holdfast.bench.bare_processes import connecting, forking, idle_bytes, started
from holdfast.bench.callers import start_holder
from holdfast.bench.large import kill_to_reply
from holdfast.bench.measure import Row, at_most, in_turn, medians, seconds, unique_memory
from holdfast.bench.run import Run

KILLED = "SIGKILL of a bare forked process to its successor's first byte"


def kill(run: Run) -> list[Row]:
    """From the ``SIGKILL`` of a worker with an empty log to its successor's first reply."""
    with run.fresh() as directory, holdfast.open(directory) as engine, forking() as bare:
        fold = engine.fold("config")
        samples = in_turn(
            {"worker": lambda: kill_to_reply(fold) * 1e3, "bare": lambda: bare("kill") * 1e3},
            run.sizes.kills,
        )
    middle = medians(samples)
    return [
        Row("kill", "SIGKILL of a worker, empty log, to first reply", middle["worker"], "ms",
            budget=at_most(15.0), note=f"worst {max(samples['worker']):.1f} ms", samples=samples,
            limit=(KILLED, middle["bare"]))
    ]  # fmt: skip


def opening(run: Run) -> list[Row]:
    """``holdfast.open`` that starts a supervisor, and one that joins another process's."""
    with run.fresh() as alone, run.fresh() as shared, connecting() as connect:
        _, end_holder = start_holder(shared)
        try:
            samples = in_turn(
                {
                    "starts": lambda: _open_ms(alone),
                    "bare start": lambda: started() * 1e3,
                    "joins": lambda: _open_ms(shared),
                    "bare connection": lambda: connect() * 1e3,
                },
                run.sizes.opens,
            )
        finally:
            end_holder()
    middle = medians(samples)
    return [
        Row("open-starts", "open that starts", middle["starts"], "ms", budget=at_most(500.0),
            samples=samples, limit=("a Python that does nothing", middle["bare start"])),
        Row("open-joins", "open that joins", middle["joins"], "ms", budget=at_most(20.0),
            limit=("connecting by a Unix socket, and one byte", middle["bare connection"])),
    ]  # fmt: skip


def _open_ms(directory: str) -> float:
    engines: list[holdfast.Engine] = []
    took = seconds(lambda: engines.append(holdfast.open(directory)))
    engines[0].close()
    return took * 1e3


def idle(run: Run) -> list[Row]:
    """Memory that an idle worker, and the supervisor, have for themselves alone."""
    roles: dict[str, list[float]] = {"supervisor": [], "worker": [], "bare": []}
    for _ in range(run.sizes.long_repetitions):
        with run.fresh() as directory, holdfast.open(directory) as engine:
            engine.fold("config").get("")
            for process in engine.processes():
                roles[process.role].append(unique_memory(process.pid) / 2**20)
            roles["bare"].append(idle_bytes() / 2**20)
    middle = medians(roles)
    return [
        Row("idle", "unique memory of an idle worker", middle["worker"], "MiB",
            budget=at_most(12.0), samples=roles,
            limit=("a bare Python that only waits", middle["bare"])),
        Row("idle-supervisor", "unique memory of the supervisor beside it", middle["supervisor"],
            "MiB"),
    ]  # fmt: skip
