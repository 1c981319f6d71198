"""A workload that goes through every operation of a warm store, and what must be there after."""

import contextlib

from holdfast.bench.faults import Choice, Crash, FaultyDisk, MemoryDisk, Nothing
from holdfast.formats.errors import HoldfastError
from holdfast.formats.points import ENTITY_MAX, TIME_MAX, TIME_MIN
from holdfast.workers import messages
from holdfast.workers import warm_messages as wm
from holdfast.workers.actor import Caller
from holdfast.workers.disk import Disk
from holdfast.workers.log_file import Fatal
from holdfast.workers.message import Durability
from holdfast.workers.warm import WarmActor
from tests.workers.warm_model import (
    PATH,
    Delete,
    DeleteRange,
    History,
    Op,
    State,
    Step,
    Write,
    ask,
    check_nearest,
    do,
    let_go,
    opened,
    point,
    state_of,
    stray_files,
)

INTERLOPER = Caller(8, 1)
RIVAL = Write(0, ((1, 3, point(9, 9, by="rival")), (5, 5, point(8, 8)), (2, 0, point(7))))


def series(entity: int, times: range, x: float, **metadata: str) -> Write:
    """Points of one entity in space 0."""
    return Write(0, tuple((entity, time, point(x, time, **metadata)) for time in times))


def writing(*ops: Op) -> Step:
    """Send writes, then commit them together."""

    def step(disk: Disk, actor: WarmActor, history: History) -> WarmActor:
        for op in ops:
            history.send(actor, op)
        history.commit(actor)
        return actor

    return step


def reading(disk: Disk, actor: WarmActor, history: History) -> WarmActor:
    """Ask for everything in every way."""
    assert state_of(disk, actor) == history.state
    check_nearest(actor, history.state, (1, 3), 5)
    assert ask(actor, wm.WarmVerify(), wm.WarmVerified).flaws == []
    return actor


def working(request: wm.WarmFlush | wm.WarmCompact, *ops: Op) -> Step:
    """Flush or compact, with writes in the midst of it."""

    def step(disk: Disk, actor: WarmActor, history: History) -> WarmActor:
        steps = actor.handle(request, Caller(7, 1000))
        assert not isinstance(steps, messages.Reply)
        ended = object()
        try:
            place: object = next(steps, ended)
            for op in ops:
                history.send(actor, op)
                place = next(steps, ended)
            assert place is not ended or _is_broken(disk), "writes come in its midst"
            history.commit(actor)
            for _ in steps:
                pass
        finally:
            with contextlib.suppress(Crash, HoldfastError, Fatal):
                steps.close()
        assert not stray_files(disk, actor) or _is_broken(disk)
        return actor

    return step


def _is_broken(disk: Disk) -> bool:
    return isinstance(disk, FaultyDisk) and disk.struck > 0


def upkeep(disk: Disk, actor: WarmActor, history: History) -> WarmActor:
    """The actor's own work, until there is none; it may fail without a word."""
    for _ in range(200):
        if not actor.step(idle=True):
            break
    else:
        assert _is_broken(disk), "upkeep goes on for ever"
    return actor


def reopening(disk: Disk, actor: WarmActor, history: History) -> WarmActor:
    """Close and open again."""
    history.commit(actor)
    history.close(actor)
    return opened(disk, PATH, history.durability)


FLUSH, COMPACT = wm.WarmFlush(), wm.WarmCompact()
STEPS: tuple[Step, ...] = (
    writing(series(1, range(8), 1), Write(0, ((2, 0, point(2, a="x")),))),
    writing(series(1, range(4, 10), 2, v="two"), Delete(0, ((1, 0), (1, 99)))),
    working(FLUSH, series(1, range(2, 5), 3), Delete(0, ((1, 8),))),
    writing(Write(1, ((ENTITY_MAX, TIME_MIN, point(4)), (0, TIME_MAX, point(5, b="")))), RIVAL),
    reading,
    writing(series(2, range(14), 6), DeleteRange(0, 1, 5, 6)),
    upkeep,
    working(COMPACT, series(2, range(3, 6), 7), DeleteRange(0, 2, 8, 9)),
    writing(Delete(0, tuple((2, time) for time in range(7))), series(3, range(-5, 1), 8)),
    reopening,
    writing(DeleteRange(None, None, TIME_MIN, 1)),  # retention
    writing(series(1, range(20, 33), 9, w="nine"), series(1, range(16, 21), 10)),
    upkeep,
    writing(Write(0, ((4, 4, point(4)), (1, 22, point(0, new="")), (1, 30, point(1))))),
    working(FLUSH, Delete(0, ((4, 4), (1, 23)))),
    reading,
)


def run(disk: Disk, history: History) -> None:
    """Do all of it on a fresh disk; whatever breaks it passes on."""
    actor = opened(disk, PATH, history.durability)
    try:
        for step in STEPS:
            actor = step(disk, actor, history)
        history.close(actor)
    finally:
        let_go(actor)


# --- what must be there ------------------------------------------------------------------------


def checked_state(disk: Disk, actor: WarmActor) -> State:
    """The state the actor tells; nothing is wrong with it and its files."""
    actor.check_invariants()
    assert ask(actor, wm.WarmVerify(), wm.WarmVerified).flaws == []
    return state_of(disk, actor)


def check_state(disk: MemoryDisk, durability: Durability, possible: list[State]) -> State:
    """Open the store after a death; it holds one of these states, and no leftovers. It dies again.

    Before it has all of its files there is no store yet, and a new one is made.
    """
    disk = disk.crash()
    actor = opened(disk, PATH, durability)
    found = checked_state(disk, actor)
    assert found in possible, (found, possible)
    assert not stray_files(disk, actor)
    return found


def check_after_death(memory: MemoryDisk, history: History, choice: Choice) -> None:
    """A process died: nothing handled is lost, and what is sent again takes effect once.

    Then the power goes, too, leaving what ``choice`` says of the successor's work.
    """
    durability = history.durability
    left = memory.crash()
    actor = opened(left, PATH, durability)
    found = checked_state(left, actor)
    assert not stray_files(left, actor)
    possible = history.after_death()
    assert found in possible, (found, possible)
    applied = history.states()[: -len(possible)] if len(possible) > 1 else history.states()[:-1]
    handled = len(applied) + possible.index(found)
    do(actor, RIVAL, INTERLOPER, found)
    expected = RIVAL.after(found)
    for number in range(max(history.closed, history.answered - 1), len(history.sent)):
        sent = history.sent[number]
        if number < handled and sent.op.changes(sent.before):
            reply = ask(actor, sent.op.request(), object, sent.caller)
            assert reply == sent.op.reply(sent.before)
            assert checked_state(left, actor) == expected, "a request took effect twice"
        elif number >= handled:
            reply = do(actor, sent.op, sent.caller, expected)
            if sent.op.changes(expected):
                assert ask(actor, sent.op.request(), object, sent.caller) == reply
            expected = sent.op.after(expected)
    actor.commit()
    assert checked_state(left, actor) == expected
    if durability == "always":
        check_state(left.power_loss(choice), durability, [expected])
    ask(actor, FLUSH, messages.Done)
    check_state(left.power_loss(choice), durability, [expected])
    actor.close()
    check_state(left.power_loss(Nothing()), durability, [expected])


def check_after_power_loss(memory: MemoryDisk, history: History, choice: Choice) -> None:
    """The power went: what was promised is there, batch by batch, and the store serves on."""
    left = memory.power_loss(choice)
    found = check_state(left, history.durability, history.after_power_loss())
    left = left.crash()
    actor = opened(left, PATH, history.durability)
    do(actor, RIVAL, INTERLOPER, found)
    actor.commit()
    assert checked_state(left, actor) == RIVAL.after(found)
