"""The drill of real limits: a file that may not grow, a small disk that fills, a device that is
always full. What an error layer imitates elsewhere is done here by the system itself."""

import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from holdfast.bench.drill.live_stores import OPENERS, keys_of, open_store
from holdfast.bench.drill.plan import STORES, Clock, FaultKind, Plan, Progress, StoreKind
from holdfast.bench.drill.scene import RIGHT, TYPED, Scene, Setting, play
from holdfast.bench.drill.serving import LIMITS_OTHERS, limit, until
from holdfast.bench.drill.tally import Tally
from holdfast.formats.errors import HoldfastError, StoreFull
from holdfast.workers.places import DIRECTORIES, SUFFIXES

_DISK_BYTES = 16 << 20
_REFUSALS = 5
_FULL = "/dev/full"
_USE_ERROR = 4


def file_size_limited(scene: Scene) -> None:
    """While a worker's files may not grow, writes are refused and reads answered; then all is well.

    The limit is the system's own, set on the running worker.
    """
    scene.crowd.got_on()
    worker = scene.worker()
    limit(worker, resource.RLIMIT_FSIZE, _largest(scene.directory) // 2)
    _refused(scene, _REFUSALS)
    limit(worker, resource.RLIMIT_FSIZE, None)
    scene.crowd.got_on()
    scene.expect(scene.worker() == worker, TYPED, "a file that may not grow cost a worker")


def disk_full(scene: Scene) -> None:
    """On a full disk writes are refused and reads answered; with room again, all is well."""
    scene.crowd.got_on()
    filler = Path(scene.directory, "filler")
    with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    _refused(scene, _REFUSALS)
    filler.unlink()
    scene.crowd.got_on()


def _refused(scene: Scene, times: int) -> None:
    """Wait until some calls were refused for want of space, and some reads answered meanwhile."""
    before = len(scene.crowd.errors)
    until(lambda: len(scene.crowd.errors) >= before + times, "writes are refused")
    calls, errors = scene.crowd.calls, len(scene.crowd.errors)
    until(
        lambda: scene.crowd.calls - calls > len(scene.crowd.errors) - errors + times,
        "reads are answered meanwhile",
    )
    wrong = [error for error in scene.crowd.errors if not isinstance(error, StoreFull)]
    scene.expect(not wrong, TYPED, f"for want of space clients got {wrong[:1]!r}")
    scene.tally.of(scene.kind).errors_injected += len(scene.crowd.errors) - before


def _largest(directory: str) -> int:
    paths = [path for path in Path(directory).rglob("*") if path.is_file()]
    return max(path.stat().st_size for path in paths)


def device_full(scene: Scene) -> None:
    """Files on a device that takes nothing: a typed error or none, and other stores go on."""
    suffix = SUFFIXES[scene.kind]
    base = Path(scene.directory)
    if scene.kind in DIRECTORIES:
        (base / f"full{suffix}").mkdir()
        (base / f"full{suffix}" / "LOG").symlink_to(_FULL)
    else:
        (base / f"full{suffix}").symlink_to(_FULL)
        (base / f"ledger{suffix}.ledger").symlink_to(_FULL)
    for name in ("full", "ledger"):
        try:
            store = open_store(scene.kind, scene.engine, name)
            store.write(0, "text")
            found = store.find(0)
        except HoldfastError:
            continue
        right = found == dict.fromkeys(keys_of(0), "text")
        scene.expect(right, RIGHT, f"of a store on a full device came {found}")
    scene.crowd.got_on()
    with open(_FULL, "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "holdfast", "stat", scene.directory, "--json"],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    said = done.stderr
    honest = done.returncode == _USE_ERROR and "Traceback" not in said
    scene.expect(honest, TYPED, f"`holdfast stat > {_FULL}` ended with {done.returncode}: {said}")
    scene.tally.of(scene.kind).errors_injected += 1


@contextlib.contextmanager
def small_disk(work: str) -> Iterator[str]:
    """A directory on a file system of its own. Raises ``OSError`` where that is not allowed."""
    directory = os.path.join(work, "small-disk")
    os.makedirs(directory, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", directory],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise OSError(done.stderr.strip())
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


class LimitDrill:
    """Each limit for each kind of store."""

    fault: FaultKind = "errors"

    def run(self, plan: Plan, tally: Tally, clock: Clock, progress: Progress) -> None:
        kinds = [kind for kind in STORES if kind in plan.stores and kind in OPENERS]
        limits: list[tuple[str, Callable[[Plan, Tally, StoreKind], str | None]]] = [
            ("RLIMIT_FSIZE", _limited),
            ("small tmpfs", _on_small_disk),
            (_FULL, _on_full_device),
        ]
        tries = [(name, act, kind) for name, act in limits for kind in kinds]
        for number, (name, act, kind) in enumerate(tries):
            progress(f"{name} for {kind}", number, len(tries))
            reason = "no time" if clock.is_over() else act(plan, tally, kind)
            if reason is not None:
                tally.not_covered.append(f"{name} for {kind}: {reason}")


def _limited(plan: Plan, tally: Tally, kind: StoreKind) -> str | None:
    if not LIMITS_OTHERS:
        return "this system cannot limit another process"
    setting = Setting("RLIMIT_FSIZE", sort="errors", may_fail=(StoreFull,))
    play(plan, tally, kind, setting, file_size_limited)
    return None


def _on_small_disk(plan: Plan, tally: Tally, kind: StoreKind) -> str | None:
    if os.geteuid() != 0:
        return "only root can mount one"
    try:
        with small_disk(plan.work) as directory:
            setting = Setting(
                "small tmpfs", sort="errors", may_fail=(StoreFull,), directory=directory
            )
            play(plan, tally, kind, setting, disk_full)
    except OSError as error:
        if isinstance(error, HoldfastError):
            raise
        return f"it cannot be mounted: {error}"
    return None


def _on_full_device(plan: Plan, tally: Tally, kind: StoreKind) -> str | None:
    if not os.path.exists(_FULL):
        return "this system has none"
    play(plan, tally, kind, Setting(_FULL, sort="errors"), device_full)
    return None
