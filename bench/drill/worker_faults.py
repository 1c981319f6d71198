"""What befalls workers and supervisors: signals, hangs, want of memory, requests that kill."""

import resource
import signal
import time
from collections.abc import Callable

import holdfast
from holdfast.bench.drill import wild_index
from holdfast.bench.drill.clients import SHARED_GROUPS
from holdfast.bench.drill.scene import ANSWERED, NAME, RIGHT, TYPED, Scene
from holdfast.bench.drill.serving import address_space, is_alive, limit, send, until

ROUNDS = 2
_CONTENDED_ROUNDS = 40
HUNG_AFTER_S = 0.5
_MIB = 1 << 20
_POISON_ROOM = 40 * _MIB
# A worker sets 8 MiB of addresses aside when it starts, and cannot.
_STARTING_ROOM = 6 * _MIB


def _signalled(number: signal.Signals) -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        """The worker dies again and again; every call is answered by its successors."""
        supervisor = scene.supervisor()
        for _ in range(ROUNDS):
            scene.crowd.got_on()
            scene.recovered(scene.strike(scene.worker(), number))
            same = scene.supervisor() == supervisor
            scene.expect(same, ANSWERED, "a worker's death cost the supervisor its life")
            scene.expect(
                scene.last_exit() == f"killed by {number.name}", TYPED,
                f"after {number.name} the cause given was {scene.last_exit()!r}",
            )  # fmt: skip

    return act


def killed_while_contended(scene: Scene) -> None:
    """Many clients overwrite each other's values while workers die: none comes a second time.

    A write that was in the log when its worker died is sent again; were it applied again, it would
    put an old value over a newer one, which somebody sees.
    """
    for _ in range(_CONTENDED_ROUNDS):
        scene.crowd.got_on(1)
        scene.strike(scene.worker())


worker_killed = _signalled(signal.SIGKILL)
worker_terminated = _signalled(signal.SIGTERM)
worker_faulted = _signalled(signal.SIGSEGV)


def worker_stopped(scene: Scene) -> None:
    """A worker that makes no progress is replaced, and the calls that waited are answered."""
    scene.crowd.got_on()
    worker = scene.worker()
    scene.recovered(scene.strike(worker, signal.SIGSTOP))
    scene.expect(not is_alive(worker), ANSWERED, "the stopped worker was not replaced")
    scene.expect(scene.last_exit().startswith("hung"), TYPED, f"told as {scene.last_exit()!r}")


def worker_paused(scene: Scene) -> None:
    """A worker that stands still for less than it may goes on as the same one."""
    worker = scene.worker()
    for _ in range(ROUNDS):
        scene.crowd.got_on()
        send(worker, signal.SIGSTOP)
        time.sleep(HUNG_AFTER_S / 5)
        send(worker, signal.SIGCONT)
    scene.crowd.got_on()
    scene.expect(scene.worker() == worker, ANSWERED, "a worker that was paused was replaced")


def supervisor_killed(scene: Scene) -> None:
    """Its workers die with it; the next call starts another supervisor, and is answered."""
    for _ in range(ROUNDS):
        scene.crowd.got_on()
        supervisor, worker = scene.supervisor(), scene.worker()
        scene.recovered(scene.strike(supervisor))
        until(lambda: not is_alive(worker), "the old worker is gone")  # noqa: B023 # at once
        scene.expect(scene.supervisor() != supervisor, ANSWERED, "the same supervisor is there")


def supervisor_terminated(scene: Scene) -> None:
    """``SIGTERM`` ends it in good order under load; no call fails."""
    for _ in range(ROUNDS):
        scene.crowd.got_on()
        supervisor = scene.supervisor()
        scene.strike(supervisor, signal.SIGTERM)
        until(lambda: not is_alive(supervisor), "the supervisor is gone")  # noqa: B023 # at once


def supervisor_stopped(scene: Scene) -> None:
    """While it stands still, calls to workers go on: they do not pass through it."""
    scene.crowd.got_on()  # each client has its session by now
    supervisor = scene.supervisor()
    send(supervisor, signal.SIGSTOP)
    try:
        scene.crowd.got_on(20)
    finally:
        send(supervisor, signal.SIGCONT)
    scene.crowd.got_on()


def everything_killed(scene: Scene) -> None:
    """Worker and supervisor at once: the next call starts both."""
    for _ in range(ROUNDS):
        scene.crowd.got_on()
        worker = scene.worker()
        send(scene.supervisor(), signal.SIGKILL)
        scene.recovered(scene.strike(worker))


def out_of_memory(scene: Scene) -> None:
    """A worker that may not have more memory dies of a large request; its successor does it."""
    scene.crowd.got_on()
    worker = scene.worker()
    limit(worker, resource.RLIMIT_AS, address_space(worker) + _POISON_ROOM)
    scene.heavy()
    scene.expect(not is_alive(worker), TYPED, "it was not killed by want of memory")
    scene.expect(
        scene.restarts() == 1, ANSWERED, f"it was restarted {scene.restarts()} times"
    )  # fmt: skip


def poisoned(scene: Scene) -> None:
    """A request that kills each worker is given up after two, and the others are served."""
    scene.crowd.got_on()
    supervisor, worker = scene.supervisor(), scene.worker()
    most = address_space(worker) + _POISON_ROOM
    for pid in (supervisor, worker):
        limit(pid, resource.RLIMIT_AS, most)
    try:
        scene.heavy()
    except holdfast.WorkerCrashed as error:
        cause = str(error.cause)
        scene.expect(error.may_have_happened, TYPED, "it says that its write cannot have happened")
        # Some libraries end in a segmentation fault instead of an exception.
        scene.expect("memory" in cause or "SIG" in cause, TYPED, f"its cause is told as {cause!r}")
    else:
        scene.broke(TYPED, "a request that kills its worker was answered as if it did not")
    scene.expect(scene.restarts() == 2, ANSWERED, f"{scene.restarts()} restarts and not 2")
    scene.crowd.got_on()
    for pid in (supervisor, scene.worker()):
        limit(pid, resource.RLIMIT_AS, None)


def restart_storm(scene: Scene) -> None:
    """A store whose workers die while they start is given up, alone, until it is restarted."""
    with_neighbour = scene.engine.fold("neighbour")
    with_neighbour.apply([holdfast.Put("k", b"v")], holdfast.Cursor.none())
    scene.crowd.got_on()
    scene.crowd.stop()
    supervisor = scene.supervisor()
    limit(supervisor, resource.RLIMIT_AS, address_space(supervisor) + _STARTING_ROOM)
    send(scene.worker(), signal.SIGKILL)
    try:
        scene.store.find(SHARED_GROUPS[0])
    except holdfast.StoreFailed:
        pass
    else:
        scene.broke(TYPED, "a store that cannot start answered")
    entry = with_neighbour.get("k")
    scene.expect(entry is not None and entry.value == b"v", RIGHT, "another store suffered")
    limit(supervisor, resource.RLIMIT_AS, None)
    scene.engine.restart(NAME)
    scene.store.find(SHARED_GROUPS[0])


def endless_loop(scene: Scene) -> None:
    """A request whose code never comes back is given up; its store and the others go on."""
    _wild(scene, wild_index.LOOPS, "hung")


def exits_in_handler(scene: Scene) -> None:
    """A request whose code ends the interpreter is given up; its store and the others go on."""
    _wild(scene, wild_index.EXITS, f"code {wild_index.EXIT_CODE}")


def _wild(scene: Scene, vector: object, cause: str) -> None:
    wild = scene.engine.index("wild", kind=wild_index.NAME, dimension=2, metric="euclidean")
    wild.insert(1, wild_index.WELL)
    try:
        wild.search(vector, 1)
    except holdfast.WorkerCrashed as error:
        told = str(error.cause)
        scene.expect(cause in told, TYPED, f"its cause is told as {told!r}")
    else:
        scene.broke(TYPED, "a request that kills its worker was answered as if it did not")
    scene.expect(wild.search(wild_index.WELL, 1).ids.tolist() == [1], RIGHT, "its row is gone")
    scene.crowd.got_on()


def raises_in_handler(scene: Scene) -> None:
    """An exception in a request's own code is its caller's; the same worker serves on."""
    wild = scene.engine.index("wild", kind=wild_index.NAME, dimension=2, metric="euclidean")
    wild.insert(1, wild_index.WELL)
    before = scene.engine.processes()
    try:
        wild.search(wild_index.RAISES, 1)
    except holdfast.HoldfastError as error:
        scene.expect("ArithmeticError" in str(error), TYPED, f"it is told as {error}")
    else:
        scene.broke(TYPED, "a request whose code raised was answered as if it did not")
    scene.expect(wild.search(wild_index.WELL, 1).ids.tolist() == [1], RIGHT, "its row is gone")
    scene.expect(scene.engine.processes() == before, ANSWERED, "it cost a worker")
