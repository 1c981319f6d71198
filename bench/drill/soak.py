"""The soak: clients at a steady load while faults arrive by chance, for as long as there is time.

The load is open: calls are due at their moments whether or not those before them were answered, and
latency counts from the moment a call was due. It runs in rounds; at the end of each the clients'
histories are checked, and everything is read by a new engine.
"""

import contextlib
import random
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

from holdfast.bench.drill.hosts import Host
from holdfast.bench.drill.live_stores import OPENERS
from holdfast.bench.drill.plan import STORES, Clock, FaultKind, Plan, Progress
from holdfast.bench.drill.scene import ANSWERED, Scene, Setting
from holdfast.bench.drill.serving import bytes_below, kill
from holdfast.bench.drill.tally import Moment, Tally
from holdfast.formats.errors import HoldfastError, WorkerCrashed

CLIENTS = 2
BETWEEN_S = 0.05
"""Between the calls of one client, on average."""
FAULT_EVERY_S = 2.0
"""On average, over all stores."""
_MOMENT_MIN_S, _MOMENT_MAX_S = 0.2, 1.0
_MOMENTS = 60
"""So many samples of a round, if they are not closer or farther apart than that."""
ROUND_S = 300.0
_HUNG_AFTER_S = 1.0
LEAK_AFTER_S = 30.0
"""A shorter round does not tell whether anything grows."""
STEADY = "descriptors, memory and disk do not grow while clients work at a steady load"
_GROWTH = {"descriptors": (1.0, 16.0), "memory_mib": (1.5, 16.0), "disk_mib": (2.0, 16.0)}
"""From the first third of a round to the last, by a factor, and for each store by so much: more
than hosts that come and go, caches that fill and files that are due for compaction account for."""
_MIB = 1 << 20


def _signal_worker(number: signal.Signals) -> Callable[[Scene], None]:
    return lambda scene: scene.recovered(scene.strike(scene.worker(), number))


def _kill_supervisor(scene: Scene) -> None:
    scene.recovered(scene.strike(scene.supervisor()))


def _kill_host(scene: Scene) -> None:
    """Another host comes, works, and is killed."""
    with Host(scene, "close") as host:
        host.hear()
        kill(host.pid)


FAULTS: dict[str, tuple[int, Callable[[Scene], None]]] = {
    "worker SIGKILL": (6, _signal_worker(signal.SIGKILL)),
    "supervisor SIGKILL": (2, _kill_supervisor),
    "worker SIGTERM": (1, _signal_worker(signal.SIGTERM)),
    "worker SIGSTOP": (1, _signal_worker(signal.SIGSTOP)),
    "host SIGKILL": (1, _kill_host),
}
"""What may arrive: how often, in proportion, and how."""


class SoakDrill:
    """All kinds of store at work at once. Without a time to end at, one round."""

    fault: FaultKind = "soak"

    def run(self, plan: Plan, tally: Tally, clock: Clock, progress: Progress) -> None:
        began = time.monotonic()
        for number in range(1 << 30):
            ends = time.monotonic() + ROUND_S
            if clock.until is not None:
                ends = min(ends, clock.until)
            if clock.is_over():
                return
            if not Round(plan, tally, clock, number, began).run(ends, progress):
                return
            if clock.until is None:
                return


class Round:
    """One round of a soak."""

    def __init__(self, plan: Plan, tally: Tally, clock: Clock, number: int, began: float) -> None:
        self._plan, self._tally, self._clock = plan, tally, clock
        self._number = number
        self._random = random.Random(f"{plan.seed} soak {number}")
        self._struck = 0
        self._sampler = _Sampler(tally, began, lambda: self._struck)

    def run(self, ends: float, progress: Progress) -> bool:
        """Work until this moment; returns whether every promise held."""
        setting = Setting(
            f"soak round {self._number}", sort="soak", clients=CLIENTS, between_s=BETWEEN_S,
            hung_after=_HUNG_AFTER_S, may_fail=(WorkerCrashed,),
        )  # fmt: skip
        kinds = [kind for kind in STORES if kind in self._plan.stores and kind in OPENERS]
        scenes = [Scene(self._plan, self._tally, kind, setting) for kind in kinds]
        began = time.monotonic()
        with contextlib.ExitStack() as stack:
            for scene in scenes:
                stack.enter_context(scene)
                scene.begin()
            stack.enter_context(self._sampler.watching(scenes, ends - began))
            while time.monotonic() < ends and not self._clock.is_over():
                pause = self._random.expovariate(1 / FAULT_EVERY_S)
                time.sleep(max(0.0, min(pause, ends - time.monotonic())))
                progress("soak", int(time.monotonic() - began), int(ends - began))
                self._strike(self._random.choice(scenes))
        if time.monotonic() - began >= LEAK_AFTER_S:
            for what in grown(self._sampler.moments, len(scenes)):
                scenes[0].broke(STEADY, what)
        return not any(scene.broken for scene in scenes)

    def _strike(self, scene: Scene) -> None:
        names = list(FAULTS)
        (name,) = self._random.choices(names, [FAULTS[name][0] for name in names])
        self._struck += 1
        try:
            FAULTS[name][1](scene)
        except WorkerCrashed:
            pass  # a second fault met the same request: its caller is told
        except HoldfastError as error:
            scene.broke(ANSWERED, f"after {name}: {type(error).__name__}: {error}")
        self._tally.fault(name)
        self._tally.of(scene.kind).process_faults += 1


def grown(moments: Sequence[Moment], stores: int) -> Iterator[str]:
    """What grew from the first third of a round to the last, in sentences."""
    third = len(moments) // 3
    if not third:
        return
    for name, (factor, more) in _GROWTH.items():
        held: list[float] = [getattr(moment, name) for moment in moments]
        first, last = statistics.median(held[:third]), statistics.median(held[-third:])
        if last > factor * first + more * stores:
            yield f"{name} grew from {first:g} to {last:g}"


class _Sampler:
    """Looks at a round once in an interval, from a thread of its own."""

    def __init__(self, tally: Tally, began: float, struck: Callable[[], int]) -> None:
        self.moments: list[Moment] = []
        self._tally = tally
        self._began = began
        self._struck = struck
        self._over = threading.Event()
        self._restarts: dict[int, int] = {}

    @contextlib.contextmanager
    def watching(self, scenes: Sequence[Scene], seconds: float) -> Iterator[None]:
        """Sample meanwhile, for about so long."""
        pause_s = min(_MOMENT_MAX_S, max(_MOMENT_MIN_S, seconds / _MOMENTS))
        thread = threading.Thread(
            target=self._sample, args=(scenes, pause_s), name="sampler", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()
            self._tally.timeline += self.moments

    def _sample(self, scenes: Sequence[Scene], pause_s: float) -> None:
        struck, over = 0, False
        while not over:
            over = self._over.wait(pause_s)  # a last look at the end, however short it was
            now = self._struck()
            self.moments.append(self._moment(scenes, now - struck))
            struck = now

    def _moment(self, scenes: Sequence[Scene], faults: int) -> Moment:
        latencies, failed = [], 0
        for scene in scenes:
            for client in scene.crowd.clients:
                for latency_s, is_failed in client.pace.taken():
                    latencies.append(1000 * latency_s)
                    failed += is_failed
        latencies.sort()
        restarts = descriptors = memory = disk = 0
        for scene in scenes:
            with contextlib.suppress(HoldfastError, psutil.Error):
                restarts += self._restarted(scene)
                for process in map(psutil.Process, scene.pids()):
                    descriptors += process.num_fds()
                    memory += process.memory_info().rss
            disk += bytes_below(Path(scene.directory))
        return Moment(
            second=round(time.monotonic() - self._began, 3),
            calls=len(latencies),
            failed=failed,
            p50_ms=_at(latencies, 0.5),
            p99_ms=_at(latencies, 0.99),
            faults=faults,
            restarts=restarts,
            descriptors=descriptors,
            memory_mib=round(memory / _MIB, 2),
            disk_mib=round(disk / _MIB, 2),
        )

    def _restarted(self, scene: Scene) -> int:
        """Workers started anew since the last look. A new supervisor counts from nothing."""
        now, before = scene.restarts(), self._restarts.get(id(scene), 0)
        self._restarts[id(scene)] = now
        return now - before if now >= before else now + 1


def _at(ordered: Sequence[float], share: float) -> float:
    """The latency that this share of calls was within; 0 if there were none."""
    if not ordered:
        return 0.0
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3)
