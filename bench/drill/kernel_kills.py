"""Death at every call that changes a store's files, the kernel's doing: no layer of ours is asked.

A forked process works with a store on a real disk. Under ``strace`` it does so once undisturbed,
which gives its calls; then once for each of those calls, at which the kernel kills it, and what it
leaves is opened with the real store.
"""

import os
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from holdfast.bench.drill.checking import (
    OPENS,
    SERVES,
    Broken,
    check_equal,
    check_possible,
    check_standing,
    telling,
    write,
)
from holdfast.bench.drill.findings import harmed
from holdfast.bench.drill.kernel import TRACED, no_strace, of_store, whole
from holdfast.bench.drill.live import LiveScenario
from holdfast.bench.drill.recording import Doing, Promise
from holdfast.bench.drill.scene import Scene, Setting
from holdfast.bench.drill.serving import Stuck
from holdfast.bench.drill.subjects import subject_of
from holdfast.bench.drill.subjects.base import EMPTY, Subject
from holdfast.workers.actor import Caller
from holdfast.workers.disk import OsDisk

_LEFT_OUT = ("die", "branch")  # each attempt dies; a branch lies elsewhere
_RIVAL = Caller(8, 1)


class Point(NamedTuple):
    """A call that changes a file: its name, and that it is the nth of that name."""

    name: str
    nth: int


def killed_at_each_call(scene: Scene) -> None:
    """Whatever call it is that a store dies at, it opens again with all that was answered."""
    scene.leave()
    subject = subject_of(scene.kind)
    operations = [name for name in subject.alphabet if name not in _LEFT_OUT]
    _rehearse(subject, operations, Path(scene.home, "rehearsal"))
    for number, point in enumerate(_points(subject, operations, Path(scene.home, "undisturbed"))):
        home = Path(scene.home, f"killed-{number}")
        answered = _killed(subject, operations, home, point)
        scene.tally.of(scene.kind).kill_points += 1
        try:
            _check(subject, operations, answered)
        except Broken as broken:
            harmed(scene.tally, broken)
            where = f"killed at the {point.nth}. {point.name} after {answered} operations"
            scene.broke(broken.promise, f"{where}, in {home.name}: {broken.detail}", operations)
            return


SCENARIO = LiveScenario(
    Setting("process killed at each call", sort="kill", clients=0),
    killed_at_each_call,
    missing=no_strace,
)


def _rehearse(subject: Subject, operations: Sequence[str], home: Path) -> None:
    """Do all of it in this process: what is imported on the way is not opened by its forks then."""
    _settle(subject, home)
    work(subject, operations)
    _check(subject, operations, len(operations))


def _settle(subject: Subject, home: Path) -> None:
    """Have the store lie in a new directory."""
    home.mkdir()
    subject.path = str(home / os.path.basename(subject.path))


def _points(subject: Subject, operations: Sequence[str], home: Path) -> list[Point]:
    """The calls of the operations that change a file of the store's."""
    output = home.with_suffix(".strace")
    options = ("-y", "-s", "0", "-e", f"trace={TRACED}", "-o", str(output))
    status, answered = _run(subject, operations, home, options)
    if (status, answered) != (0, len(operations)):
        raise Stuck(f"undisturbed, it ended with {status} after {answered} operations")
    counts: Counter[str] = Counter()
    points = []
    for _, name, text in whole(output.read_text(errors="replace").splitlines()):
        counts[name] += 1
        if of_store(name, text, str(home)):
            points.append(Point(name, counts[name]))
    return points


def _killed(subject: Subject, operations: Sequence[str], home: Path, point: Point) -> int:
    """Have it killed at a call; returns how many operations were answered before."""
    inject = f"inject={point.name}:signal=SIGKILL:when={point.nth}"
    options = ("-e", f"trace={point.name}", "-e", inject, "-o", os.devnull)
    status, answered = _run(subject, operations, home, options)
    if not os.WIFSIGNALED(status):
        raise Stuck(f"{point} never came: it ended with {status}")
    return answered


def _run(
    subject: Subject, operations: Sequence[str], home: Path, options: Sequence[str]
) -> tuple[int, int]:
    """Work in a process under ``strace``; its wait status, and how many operations were answered.

    The store lies in ``home`` from then on.
    """
    _settle(subject, home)
    go, answers = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(go[1])
            os.close(answers[0])
            os.read(go[0], 1)
            work(subject, operations, lambda: os.write(answers[1], b"."))
            code = 0
        finally:
            os._exit(code)
    os.close(go[0])
    os.close(answers[1])
    tracer = subprocess.Popen(
        ["strace", "-f", "-p", str(pid), *options], stderr=subprocess.PIPE, text=True
    )
    assert tracer.stderr is not None
    attached = tracer.stderr.readline()
    os.close(go[1])
    with open(answers[0], "rb") as file:
        answered = len(file.read())
    _, status = os.waitpid(pid, 0)
    tracer.communicate()
    if "attached" not in attached:
        raise Stuck(f"strace said {attached!r}")
    return status, answered


def work(
    subject: Subject, operations: Sequence[str], answered: Callable[[], object] = lambda: None
) -> None:
    """Do the operations, and say so after each."""
    doing = Doing(subject, "always", OsDisk())
    doing.open()
    for number, name in enumerate(operations):
        turn = subject.alphabet[name](number + 1, doing.answered)
        doing.perform(turn)
        if turn.ending:
            doing.open()
        answered()
    doing.close()


def _check(subject: Subject, operations: Sequence[str], answered: int) -> None:
    """Raise ``Broken`` unless what lies there is what these answers promise."""
    states = [EMPTY]
    for number, name in enumerate(operations[:answered]):
        states += [one.after for one in subject.alphabet[name](number + 1, states[-1]).writes]
    *earlier, before = states
    possible = [before]
    for name in operations[answered : answered + 1]:
        possible += [one.after for one in subject.alphabet[name](answered + 1, before).writes]
    disk = OsDisk()
    with telling(OPENS):
        if disk.inode_at(subject.path) is not None:
            check_standing(subject, disk, "before it is opened")
        actor = subject.open(disk, "always")
        found = subject.read(disk, actor)
    check_possible(found, possible, Promise(before, (before,), (), None, tuple(earlier)))
    rival = subject.rival(found)
    write(actor, rival, _RIVAL)
    check_equal(subject, disk, actor, rival.after, SERVES)
    actor.close()
    check_standing(subject, disk, "after it was closed")
