"""A process of clients: ``python -m holdfast.bench.load.member``.

It reads its orders from standard input, one JSON object a line: first ``Orders``, then a ``Round``
for each time that its clients are to work. On standard output it says ``Told`` once it is ready,
once a second of a round, and at a round's end, when all that was asked has been answered. With the
end of its input it reads everything back that its clients wrote, tells what was wrong, and ends.
"""

import asyncio
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

import holdfast
import holdfast.aio
from holdfast.bench.load.clients import (
    Client,
    Meter,
    Prepared,
    Span,
    Store,
    run_task,
    run_thread,
)
from holdfast.bench.load.pace import Pace, pace_of
from holdfast.bench.load.profile import Profile
from holdfast.bench.load.timings import Counted, Tape
from holdfast.bench.load.work import Client as Identity
from holdfast.bench.load.work import Work, work_of

STOP = b"stop"
"""A line that ends the round under way."""
_INTERVAL_S = 1.0
_TEXTS_MAX = 20


class Orders(msgspec.Struct, frozen=True):
    """What a member is to be. ``clients`` are the numbers of its own, of ``of`` in all."""

    directory: str
    profile: Profile
    durability: str
    clients: list[int]
    of: int
    seed: int
    asynchronous: bool


class Round(msgspec.Struct, frozen=True):
    """Work from ``begins`` on, measured from ``measures_from`` to ``ends``: monotonic seconds.

    ``rate`` is in calls a second of all clients together; None: a closed loop.
    """

    begins: float
    measures_from: float
    ends: float
    rate: float | None


class Measured(msgspec.Struct, frozen=True):
    """Calls of one operation since the last report."""

    latency: Counted
    service: Counted
    errors: int
    wrong: int


class Told(msgspec.Struct, frozen=True):
    """What a member says."""

    what: str
    """``ready``, ``working``, ``done`` or ``audited``."""
    operations: dict[str, Measured] = {}
    texts: list[str] = []
    """Of errors and wrong reads, the first few."""
    outstanding: int = 0
    waiting: int = 0
    """Calls that are overdue; with ``done`` those that are not going to be made."""
    late_s: float = 0.0
    audited: int = 0
    """Keys read back."""
    audit_wrong: int = 0
    """Calls of these whose answer was wrong, or an error."""


class Member:
    """The clients of this process."""

    def __init__(self, orders: Orders, say: Callable[[Told], None]) -> None:
        self._orders = orders
        self._say = say
        loads = orders.profile.stores
        labels = [f"{load.kind}.{name}" for load in loads for name in load.operations]
        self._meter = Meter({label: Tape() for label in labels})
        self._stopping = threading.Event()
        self._works: list[list[Work[Any, Any]]] = [[] for _ in orders.clients]
        for place, load in enumerate(loads):
            work = work_of(load.kind)
            truth = work.knowledge(load, orders.clients, orders.of)
            for number, works in zip(orders.clients, self._works, strict=True):
                generator = np.random.default_rng([orders.seed, number, place])
                works.append(work(load, truth, Identity(number, orders.of), generator))

    def stop(self) -> None:
        """Have the round end early."""
        self._stopping.set()

    def serve(self, rounds: "queue.Queue[Round | None]") -> None:
        """Open the stores, work as told, and read everything back at the end."""
        run = self._run_tasks if self._orders.asynchronous else self._run_threads
        with holdfast.open(self._orders.directory) as engine:
            durability = self._orders.durability
            handles = [type(work).open(engine, work.load, durability) for work in self._works[0]]
            self._say(Told("ready"))
            while (round_ := rounds.get()) is not None:
                paces = [
                    pace_of(
                        round_.begins, round_.measures_from, number, self._orders.of, round_.rate
                    )
                    for number in self._orders.clients
                ]
                over = threading.Event()
                teller = threading.Thread(target=self._tell, args=(over, round_, paces))
                teller.start()
                try:
                    run(round_, paces, handles)
                finally:
                    over.set()
                    teller.join()
                if self._meter.defect is not None:
                    raise self._meter.defect
                span = Span(round_.measures_from, round_.ends)
                pairs = zip(self._clients(handles), paces, strict=True)
                unmade = sum(client.count_unmade(pace, span) for client, pace in pairs)
                told = self._told("done", paces, min(time.monotonic(), round_.ends))
                self._say(msgspec.structs.replace(told, waiting=unmade))
            self._audit(handles)

    def _clients(self, handles: list[Any]) -> list[Client]:
        clients = []
        for number, works in zip(self._orders.clients, self._works, strict=True):
            stores = [Store(*pair) for pair in zip(works, handles, strict=True)]
            generator = np.random.default_rng([self._orders.seed, number])
            clients.append(Client(stores, generator, self._meter))
        return clients

    def _run_threads(self, round_: Round, paces: list[Pace], handles: list[Any]) -> None:
        span = Span(round_.measures_from, round_.ends)
        threads = [
            threading.Thread(
                target=run_thread, args=(client, pace, span, self._stopping, self._meter)
            )
            for client, pace in zip(self._clients(handles), paces, strict=True)
        ]
        self._stopping.wait(max(0.0, round_.begins - time.monotonic()))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _run_tasks(self, round_: Round, paces: list[Pace], handles: list[Any]) -> None:
        async def run() -> None:
            span = Span(round_.measures_from, round_.ends)
            async with holdfast.aio.open(self._orders.directory) as engine:
                durability = self._orders.durability
                opened = [await type(work).open(engine, work.load, durability)
                          for work in self._works[0]]  # fmt: skip
                await asyncio.sleep(max(0.0, round_.begins - time.monotonic()))
                async with asyncio.TaskGroup() as group:
                    for client, pace in zip(self._clients(opened), paces, strict=True):
                        group.create_task(run_task(client, pace, span, self._stopping, self._meter))

        asyncio.run(run())

    def _tell(self, over: threading.Event, round_: Round, paces: list[Pace]) -> None:
        while not over.wait(_INTERVAL_S):
            self._say(self._told("working", paces, time.monotonic()))

    def _told(self, what: str, paces: list[Pace], now: float) -> Told:
        meter = self._meter
        with meter.lock:
            errors, wrong, texts = dict(meter.errors), dict(meter.wrong), list(meter.texts)
            meter.errors.clear()
            meter.wrong.clear()
            meter.texts.clear()
        measured = {
            label: Measured(*tape.take(), errors.get(label, 0), wrong.get(label, 0))
            for label, tape in meter.tapes.items()
        }
        waiting = sum(pace.waiting(now) for pace in paces)
        late_s = max((pace.late_s(now) for pace in paces), default=0.0)
        return Told(what, measured, texts, meter.outstanding, waiting, late_s)

    def _audit(self, handles: list[Any]) -> None:
        """Read back every key that was written here: each is what its last write says."""
        audited, wrong, texts = 0, 0, []
        for works in self._works:
            for work, handle in zip(works, handles, strict=True):
                for keys, steps in work.everything():
                    audited += keys
                    prepared = Prepared(f"{work.load.kind}, read back", handle, steps)
                    try:
                        prepared.judge(prepared.call())
                    except Exception as error:  # also an answer of another shape than any
                        wrong += 1
                        texts.append(f"{prepared.label}: {type(error).__name__}: {error}")
        self._say(Told("audited", texts=texts[:_TEXTS_MAX], audited=audited, audit_wrong=wrong))


def main() -> None:
    """Be a member, as standard input says."""
    # Not sys.stdin, whose lock the interpreter takes at its end, when a thread may be reading.
    lines = iter(os.fdopen(os.dup(sys.stdin.fileno()), "rb").readline, b"")
    lock, out = threading.Lock(), sys.stdout.buffer

    def say(told: Told) -> None:
        with lock:
            out.write(msgspec.json.encode(told) + b"\n")
            out.flush()

    member = Member(msgspec.json.decode(next(lines), type=Orders), say)
    rounds: queue.Queue[Round | None] = queue.Queue()

    def listen() -> None:
        for line in lines:
            if line.strip() == STOP:
                member.stop()
            else:
                rounds.put(msgspec.json.decode(line, type=Round))
        # Of a parent that was killed, in the middle of a round; else there is none to be ended.
        member.stop()
        rounds.put(None)

    threading.Thread(target=listen, daemon=True).start()
    member.serve(rounds)


if __name__ == "__main__":
    main()
