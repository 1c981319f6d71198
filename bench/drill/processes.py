"""The drill of processes: each of the engine's is killed, stopped, starved, raced, tricked."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from holdfast.bench.drill import host_faults, worker_faults
from holdfast.bench.drill.live_stores import OPENED
from holdfast.bench.drill.plan import STORES, Clock, FaultKind, Plan, Progress, StoreKind
from holdfast.bench.drill.scene import CLIENTS, Scene
from holdfast.bench.drill.serving import LIMITS_OTHERS
from holdfast.bench.drill.tally import Tally
from holdfast.bench.drill.worker_faults import HUNG_AFTER_S
from holdfast.formats.errors import EngineClosed, HoldfastError, StoreFailed, WorkerCrashed


@dataclass(frozen=True, slots=True)
class Scenario:
    """One thing that befalls a store at work."""

    name: str
    act: Callable[[Scene], None]
    clients: int = CLIENTS
    hung_after: float = 30.0
    may_fail: tuple[type[HoldfastError], ...] = ()
    limits_memory: bool = False
    kinds: tuple[StoreKind, ...] = STORES
    why_not: str = ""
    """Why it cannot be tried on other kinds."""


_NO_CODE = "no request has such a worker run code that is not the product's"
SCENARIOS = (
    Scenario("worker SIGKILL", worker_faults.worker_killed),
    Scenario("supervisor SIGKILL", worker_faults.supervisor_killed),
    Scenario("host SIGKILL", host_faults.host_killed, clients=0),
    Scenario("worker SIGSTOP", worker_faults.worker_stopped, hung_after=HUNG_AFTER_S),
    Scenario("out of memory", worker_faults.out_of_memory, limits_memory=True),
    Scenario("poison request", worker_faults.poisoned, may_fail=(WorkerCrashed,),
             limits_memory=True),
    Scenario("restart storm", worker_faults.restart_storm, may_fail=(StoreFailed,),
             limits_memory=True),
    Scenario("endless loop", worker_faults.endless_loop, hung_after=HUNG_AFTER_S,
             kinds=("index",), why_not=_NO_CODE),
    Scenario("exception in a handler", worker_faults.raises_in_handler, kinds=("index",),
             why_not=_NO_CODE),
    Scenario("exit in a handler", worker_faults.exits_in_handler, kinds=("index",),
             why_not=_NO_CODE),
    Scenario("two openers racing", host_faults.race, clients=0),
    Scenario("lock file deleted", host_faults.lock_deleted),
    Scenario("lock file replaced", host_faults.lock_replaced),
    Scenario("lock file truncated", host_faults.lock_truncated),
    Scenario("directory lock deleted", host_faults.directory_lock_deleted),
    Scenario("directory lock truncated", host_faults.directory_lock_truncated),
    Scenario("stale socket", host_faults.stale_socket, clients=0),
    Scenario("fork", host_faults.forked),
    Scenario("exec", host_faults.became_another),
    Scenario("Ctrl-C", host_faults.ctrl_c, clients=0),
    Scenario("host SIGTERM", host_faults.host_terminated, clients=0),
    Scenario("interpreter exit", host_faults.interpreter_exit, clients=0,
             may_fail=(EngineClosed,)),
    Scenario("worker SIGTERM", worker_faults.worker_terminated),
    Scenario("worker SIGSEGV", worker_faults.worker_faulted),
    Scenario("worker paused", worker_faults.worker_paused, hung_after=2 * HUNG_AFTER_S),
    Scenario("supervisor SIGTERM", worker_faults.supervisor_terminated),
    Scenario("supervisor SIGSTOP", worker_faults.supervisor_stopped),
    Scenario("worker and supervisor SIGKILL", worker_faults.everything_killed),
    Scenario("all processes SIGKILL", host_faults.host_killed_with_everything, clients=0),
)  # fmt: skip
"""From what has to be tried first to what can wait, should there be little time."""


def play(scenario: Scenario, plan: Plan, tally: Tally, kind: StoreKind) -> None:
    """Try one scenario on one kind of store."""
    if scenario.limits_memory and not LIMITS_OTHERS:
        tally.not_covered.append(f"{scenario.name}: this system cannot limit another process")
        return
    scene = Scene(
        plan, tally, kind, scenario.name, hung_after=scenario.hung_after,
        clients=scenario.clients, may_fail=scenario.may_fail,
    )  # fmt: skip
    with scene:
        scenario.act(scene)
    tally.fault(scenario.name)
    tally.of(kind).process_faults += 1


class ProcessDrill:
    """Every scenario on every kind of store, in an order in which all come early."""

    fault: FaultKind = "processes"

    def run(self, plan: Plan, tally: Tally, clock: Clock, progress: Progress) -> None:
        kinds = [kind for kind in STORES if kind in plan.stores and kind in OPENED]
        tries = _tries(kinds)
        done = 0
        for scenario, kind in itertools.cycle(tries) if clock.until is not None else tries:
            if clock.is_over():
                break
            progress(f"{scenario.name} on {kind}", done, len(tries))
            play(scenario, plan, tally, kind)
            done += 1
        missed = [(scenario, kind, "no time") for scenario, kind in tries[done:]]
        missed += [(scenario, kind, scenario.why_not) for scenario in SCENARIOS
                   for kind in kinds if kind not in scenario.kinds]  # fmt: skip
        tally.not_covered += [f"{scenario.name} on {kind}: {why}" for scenario, kind, why in missed]


def _tries(kinds: Sequence[StoreKind]) -> list[tuple[Scenario, StoreKind]]:
    """Each scenario on each of the kinds it fits; all scenarios once before any for a second time.

    Each round tries a scenario on the kind after that of the round before.
    """
    tries = []
    for turn in range(len(kinds)):
        for number, scenario in enumerate(SCENARIOS):
            fitting = [kind for kind in kinds if kind in scenario.kinds]
            if turn < len(fitting):
                tries.append((scenario, fitting[(number + turn) % len(fitting)]))
    return tries
