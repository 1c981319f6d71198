"""What befalls the processes of an engine: they are killed, stopped, starved, raced, tricked."""

from holdfast.bench.drill import host_faults, worker_faults
from holdfast.bench.drill.live import LiveScenario
from holdfast.bench.drill.scene import Setting
from holdfast.bench.drill.serving import LIMITS_OTHERS
from holdfast.bench.drill.worker_faults import HUNG_AFTER_S
from holdfast.formats.errors import EngineClosed, StoreFailed, WorkerCrashed


def no_limits() -> str | None:
    """Why a worker cannot be kept from having more of something, if so."""
    return None if LIMITS_OTHERS else "this system cannot limit another process"


_NO_CODE = "no request has such a worker run code that is not the product's"
SCENARIOS = (
    LiveScenario(Setting("worker SIGKILL"), worker_faults.worker_killed),
    LiveScenario(
        Setting("worker SIGKILL under contention", clients=8, contended=True),
        worker_faults.killed_while_contended,
    ),
    LiveScenario(Setting("supervisor SIGKILL"), worker_faults.supervisor_killed),
    LiveScenario(Setting("host SIGKILL", clients=0), host_faults.host_killed),
    LiveScenario(Setting("worker SIGSTOP", hung_after=HUNG_AFTER_S), worker_faults.worker_stopped),
    LiveScenario(Setting("out of memory"), worker_faults.out_of_memory, missing=no_limits),
    LiveScenario(
        Setting("poison request", may_fail=(WorkerCrashed,)),
        worker_faults.poisoned,
        missing=no_limits,
    ),
    LiveScenario(
        Setting("restart storm", may_fail=(StoreFailed,)),
        worker_faults.restart_storm,
        missing=no_limits,
    ),
    LiveScenario(
        Setting("endless loop", hung_after=HUNG_AFTER_S),
        worker_faults.endless_loop,
        kinds=("index",),
        why_not=_NO_CODE,
    ),
    LiveScenario(
        Setting("exception in a handler"),
        worker_faults.raises_in_handler,
        kinds=("index",),
        why_not=_NO_CODE,
    ),
    LiveScenario(
        Setting("exit in a handler"),
        worker_faults.exits_in_handler,
        kinds=("index",),
        why_not=_NO_CODE,
    ),
    LiveScenario(Setting("two openers racing", clients=0), host_faults.race),
    LiveScenario(Setting("lock file deleted"), host_faults.lock_deleted),
    LiveScenario(Setting("lock file replaced"), host_faults.lock_replaced),
    LiveScenario(Setting("lock file truncated"), host_faults.lock_truncated),
    LiveScenario(Setting("directory lock deleted"), host_faults.directory_lock_deleted),
    LiveScenario(Setting("directory lock truncated"), host_faults.directory_lock_truncated),
    LiveScenario(Setting("stale socket", clients=0), host_faults.stale_socket),
    LiveScenario(Setting("fork"), host_faults.forked),
    LiveScenario(Setting("exec"), host_faults.became_another),
    LiveScenario(Setting("Ctrl-C", clients=0), host_faults.ctrl_c),
    LiveScenario(Setting("host SIGTERM", clients=0), host_faults.host_terminated),
    LiveScenario(
        Setting("interpreter exit", clients=0, may_fail=(EngineClosed,)),
        host_faults.interpreter_exit,
    ),
    LiveScenario(Setting("worker SIGTERM"), worker_faults.worker_terminated),
    LiveScenario(Setting("worker SIGSEGV"), worker_faults.worker_faulted),
    LiveScenario(
        Setting("worker paused", hung_after=2 * HUNG_AFTER_S), worker_faults.worker_paused
    ),
    LiveScenario(Setting("supervisor SIGTERM"), worker_faults.supervisor_terminated),
    LiveScenario(Setting("supervisor SIGSTOP"), worker_faults.supervisor_stopped),
    LiveScenario(Setting("worker and supervisor SIGKILL"), worker_faults.everything_killed),
    LiveScenario(
        Setting("all processes SIGKILL", clients=0), host_faults.host_killed_with_everything
    ),
)
"""From what has to be tried first to what can wait, should there be little time."""
