"""The runtime: restarts, opening, and what an idle worker costs."""

import holdfast
from holdfast.bench.callers import start_holder
from holdfast.bench.large import kill_to_reply
from holdfast.bench.measure import Row, at_most, in_turn, median, medians, seconds, unique_memory
from holdfast.bench.run import Run


def kill(run: Run) -> list[Row]:
    """From the ``SIGKILL`` of a worker with an empty log to its successor's first reply."""
    with run.fresh() as directory, holdfast.open(directory) as engine:
        fold = engine.fold("config")
        times = [kill_to_reply(fold) * 1e3 for _ in range(run.sizes.kills)]
    return [
        Row("kill", "SIGKILL of a worker, empty log, to first reply", median(times), "ms",
            budget=at_most(15.0), note=f"worst {max(times):.1f} ms", samples={"times": times})
    ]  # fmt: skip


def opening(run: Run) -> list[Row]:
    """``holdfast.open`` that starts a supervisor, and one that joins another process's."""
    with run.fresh() as alone, run.fresh() as shared:
        _, end_holder = start_holder(shared)
        try:
            samples = in_turn(
                {"starts": lambda: _open_ms(alone), "joins": lambda: _open_ms(shared)},
                run.sizes.opens,
            )
        finally:
            end_holder()
    middle = medians(samples)
    return [
        Row("open-starts", "open that starts", middle["starts"], "ms", budget=at_most(500.0),
            samples=samples),
        Row("open-joins", "open that joins", middle["joins"], "ms", budget=at_most(20.0)),
    ]  # fmt: skip


def _open_ms(directory: str) -> float:
    engines: list[holdfast.Engine] = []
    took = seconds(lambda: engines.append(holdfast.open(directory)))
    engines[0].close()
    return took * 1e3


def idle(run: Run) -> list[Row]:
    """Memory that an idle worker, and the supervisor, have for themselves alone."""
    roles: dict[str, list[float]] = {"supervisor": [], "worker": []}
    for _ in range(run.sizes.long_repetitions):
        with run.fresh() as directory, holdfast.open(directory) as engine:
            engine.fold("config").get("")
            for process in engine.processes():
                roles[process.role].append(unique_memory(process.pid) / 2**20)
    middle = medians(roles)
    return [
        Row("idle", "unique memory of an idle worker", middle["worker"], "MiB",
            budget=at_most(12.0), samples=roles),
        Row("idle-supervisor", "unique memory of the supervisor beside it", middle["supervisor"],
            "MiB"),
    ]  # fmt: skip
