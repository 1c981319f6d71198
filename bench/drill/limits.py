"""The drill of real limits: a file that may not grow, a small disk that fills, a device that is
always full. What an error layer imitates elsewhere is done here by the system itself."""

import contextlib
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from holdfast.bench.drill.live import LiveScenario
from holdfast.bench.drill.live_stores import keys_of, open_store
from holdfast.bench.drill.plan import Plan
from holdfast.bench.drill.processes import no_limits
from holdfast.bench.drill.scene import RIGHT, TYPED, Scene, Setting
from holdfast.bench.drill.serving import limit, until
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
def small_disk(plan: Plan) -> Iterator[str]:
    """A directory on a file system of its own. ``PermissionError`` where that is not allowed."""
    directory = tempfile.mkdtemp(prefix="small-disk-", dir=plan.work)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", directory],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise PermissionError(f"it cannot be mounted: {done.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


def _not_root() -> str | None:
    return None if os.geteuid() == 0 else "only root can mount one"


def _no_device() -> str | None:
    return None if os.path.exists(_FULL) else "this system has none"


SCENARIOS = (
    LiveScenario(
        Setting("RLIMIT_FSIZE", sort="errors", may_fail=(StoreFull,)),
        file_size_limited,
        missing=no_limits,
    ),
    LiveScenario(
        Setting("small tmpfs", sort="errors", may_fail=(StoreFull,)),
        disk_full,
        missing=_not_root,
        place=small_disk,
    ),
    LiveScenario(Setting(_FULL, sort="errors"), device_full, missing=_no_device),
)
