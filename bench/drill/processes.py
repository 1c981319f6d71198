"""The drill of processes: each of the engine's is killed, stopped, starved, raced, tricked."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from holdfast.bench.drill import host_faults, worker_faults
from holdfast.bench.drill.live_stores import OPENERS
from holdfast.bench.drill.plan import STORES, Clock, FaultKind, Plan, Progress, StoreKind
from holdfast.bench.drill.scene import Scene, Setting, play
from holdfast.bench.drill.serving import LIMITS_OTHERS
from holdfast.bench.drill.tally import Tally
from holdfast.bench.drill.worker_faults import HUNG_AFTER_S
from holdfast.formats.errors import EngineClosed, StoreFailed, WorkerCrashed


@dataclass(frozen=True, slots=True)
class Scenario:
    """One thing that befalls a store at work."""

    setting: Setting
    act: Callable[[Scene], None]
    limits_memory: bool = False
    kinds: tuple[StoreKind, ...] = STORES
    why_not: str = ""
    """Why it cannot be tried on other kinds."""


_NO_CODE = "no request has such a worker run code that is not the product's"
SCENARIOS = (
    Scenario(Setting("worker SIGKILL"), worker_faults.worker_killed),
    Scenario(
        Setting("worker SIGKILL under contention", clients=8, contended=True),
        worker_faults.killed_while_contended,
    ),
    Scenario(Setting("supervisor SIGKILL"), worker_faults.supervisor_killed),
    Scenario(Setting("host SIGKILL", clients=0), host_faults.host_killed),
    Scenario(Setting("worker SIGSTOP", hung_after=HUNG_AFTER_S), worker_faults.worker_stopped),
    Scenario(Setting("out of memory"), worker_faults.out_of_memory, limits_memory=True),
    Scenario(
        Setting("poison request", may_fail=(WorkerCrashed,)),
        worker_faults.poisoned,
        limits_memory=True,
    ),
    Scenario(
        Setting("restart storm", may_fail=(StoreFailed,)),
        worker_faults.restart_storm,
        limits_memory=True,
    ),
    Scenario(
        Setting("endless loop", hung_after=HUNG_AFTER_S),
        worker_faults.endless_loop,
        kinds=("index",),
        why_not=_NO_CODE,
    ),
    Scenario(
        Setting("exception in a handler"),
        worker_faults.raises_in_handler,
        kinds=("index",),
        why_not=_NO_CODE,
    ),
    Scenario(
        Setting("exit in a handler"),
        worker_faults.exits_in_handler,
        kinds=("index",),
        why_not=_NO_CODE,
    ),
    Scenario(Setting("two openers racing", clients=0), host_faults.race),
    Scenario(Setting("lock file deleted"), host_faults.lock_deleted),
    Scenario(Setting("lock file replaced"), host_faults.lock_replaced),
    Scenario(Setting("lock file truncated"), host_faults.lock_truncated),
    Scenario(Setting("directory lock deleted"), host_faults.directory_lock_deleted),
    Scenario(Setting("directory lock truncated"), host_faults.directory_lock_truncated),
    Scenario(Setting("stale socket", clients=0), host_faults.stale_socket),
    Scenario(Setting("fork"), host_faults.forked),
    Scenario(Setting("exec"), host_faults.became_another),
    Scenario(Setting("Ctrl-C", clients=0), host_faults.ctrl_c),
    Scenario(Setting("host SIGTERM", clients=0), host_faults.host_terminated),
    Scenario(
        Setting("interpreter exit", clients=0, may_fail=(EngineClosed,)),
        host_faults.interpreter_exit,
    ),
    Scenario(Setting("worker SIGTERM"), worker_faults.worker_terminated),
    Scenario(Setting("worker SIGSEGV"), worker_faults.worker_faulted),
    Scenario(Setting("worker paused", hung_after=2 * HUNG_AFTER_S), worker_faults.worker_paused),
    Scenario(Setting("supervisor SIGTERM"), worker_faults.supervisor_terminated),
    Scenario(Setting("supervisor SIGSTOP"), worker_faults.supervisor_stopped),
    Scenario(Setting("worker and supervisor SIGKILL"), worker_faults.everything_killed),
    Scenario(Setting("all processes SIGKILL", clients=0), host_faults.host_killed_with_everything),
)
"""From what has to be tried first to what can wait, should there be little time."""


def attempt(scenario: Scenario, plan: Plan, tally: Tally, kind: StoreKind) -> None:
    """Try one scenario on one kind of store."""
    if scenario.limits_memory and not LIMITS_OTHERS:
        name = scenario.setting.fault
        tally.not_covered.append(f"{name}: this system cannot limit another process")
        return
    play(plan, tally, kind, scenario.setting, scenario.act)
    tally.of(kind).process_faults += 1


class ProcessDrill:
    """Every scenario on every kind of store, in an order in which all come early."""

    fault: FaultKind = "processes"

    def run(self, plan: Plan, tally: Tally, clock: Clock, progress: Progress) -> None:
        kinds = [kind for kind in STORES if kind in plan.stores and kind in OPENERS]
        tries = _tries(kinds)
        done = 0
        for scenario, kind in itertools.cycle(tries) if clock.until is not None else tries:
            if clock.is_over():
                break
            progress(f"{scenario.setting.fault} on {kind}", done, len(tries))
            attempt(scenario, plan, tally, kind)
            done += 1
        missed = [(scenario, kind, "no time") for scenario, kind in tries[done:]]
        missed += [(scenario, kind, scenario.why_not) for scenario in SCENARIOS
                   for kind in kinds if kind not in scenario.kinds]  # fmt: skip
        tally.not_covered += [
            f"{scenario.setting.fault} on {kind}: {why}" for scenario, kind, why in missed
        ]


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
