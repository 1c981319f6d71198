"""The drill of time: the wall clock jumps under a store at work.

The machine's clock is everybody's and is left alone. The processes of one engine are started with a
``sitecustomize`` module on their path instead, which adds to what Python's clocks say a number that
the drill changes while they run. What asks the kernel past Python's ``time`` module does not see
the jumps (``datetime``'s class is everybody's base, and cannot be exchanged); of the product's own
code nothing does.
"""

import json
import signal
import struct
from pathlib import Path

from holdfast.bench.drill.hosts import Host
from holdfast.bench.drill.kernel import on_path
from holdfast.bench.drill.live import LiveScenario
from holdfast.bench.drill.scene import Scene, Setting
from holdfast.bench.drill.serving import Stuck, send, serving, title_of, until

HOUR_S, YEAR_S = 3600, 365 * 86400
JUMPS_S = (HOUR_S, -HOUR_S, -10 * YEAR_S, 20 * YEAR_S, -1, 0)
"""Seconds by which the clock is off, one after the other."""
_HOOK = '''
"""Has the clocks of this process go wrong by as many seconds as a file says."""
import mmap, struct, time

with open({path!r}, "rb") as file:
    OFFSET = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)

def offset():
    return struct.unpack("<q", OFFSET)[0]

true_time, true_time_ns = time.time, time.time_ns
time.time = lambda: true_time() + offset()
time.time_ns = lambda: true_time_ns() + offset() * 1_000_000_000'''


def jumping(scene: Scene) -> None:
    """Whatever the time is said to be, and whoever dies meanwhile, nothing is lost or goes back."""
    scene.leave()
    hook, clock = Path(scene.home, "hook"), Path(scene.home, "clock")
    hook.mkdir()
    clock.write_bytes(struct.pack("<q", 0))
    (hook / "sitecustomize.py").write_text(_HOOK.format(path=str(clock)))
    with Host(scene, "close", environment=on_path(hook)) as host:
        host.hear()
        for number, seconds in enumerate(JUMPS_S):
            with open(clock, "r+b", buffering=0) as file:
                file.write(struct.pack("<q", seconds))
            _kill(scene, supervisor=number % 2 == 1)
            scene.tally.of(scene.kind).clock_jumps += 1
            if abs(seconds) >= 10 * YEAR_S:
                _check_it_took(scene, seconds)
        host.tell()
        host.hear("done")


def _kill(scene: Scene, *, supervisor: bool) -> None:
    """Kill the worker or the supervisor, and wait for its successor."""

    def found() -> set[int]:
        return {process.pid for process in serving(scene.directory)
                if (" worker of " not in title_of(process)) == supervisor}  # fmt: skip

    until(found, "there is one to kill")
    before = found()
    for pid in before:
        send(pid, signal.SIGKILL)
    until(lambda: found() - before, "there is a successor")


def _check_it_took(scene: Scene, seconds: int) -> None:
    """A drill whose jumps nobody sees would find nothing: the lock's note tells the time."""
    lock = Path(scene.directory, ".holdfast", "supervisor.lock")
    wanted = 0

    def seen() -> bool:
        nonlocal wanted
        try:
            wanted = int(json.loads(lock.read_bytes())["since"][:4])
        except (OSError, ValueError):  # it is just being written
            return False
        return wanted < 2020 if seconds < 0 else wanted > 2040

    try:
        until(seen, "a supervisor writes down the wrong time", 10.0)
    except Stuck:
        raise Stuck(f"the clock that was set wrong by {seconds} s shows {wanted}") from None


SCENARIO = LiveScenario(Setting("wall clock jumps", sort="time", clients=0), jumping)
