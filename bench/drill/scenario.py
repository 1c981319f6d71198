"""One thing that was tried, as one line of text: which store did what, and what broke then.

    fold always put-small,compact kill@17
    fold always put-small,compact kill@17+100        100 bytes of that write were written
    fold never put-small,batch power@17:names=1,kept=1101,torn=3:0-512
    warm always write,flush fail@9:ENOSPC
    warm always write,flush fail@9:EIO:lasting:written=3:lost=none
    index always insert,insert damage=drill.iqdb:flip=100.7
    index always insert,insert damage-dead=drill.iqdb.wal:cut=100

Calls are counted from the opening of the store on; for ``kill`` and ``power``, those that change
the disk.
"""

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from holdfast.bench.drill.losses import Loss
from holdfast.bench.drill.plan import STORES, StoreKind
from holdfast.workers.message import Durability


@dataclass(frozen=True, slots=True)
class KillAt:
    """The process dies before a call, or when ``written`` bytes of it are written."""

    number: int
    written: int | None = None

    def __str__(self) -> str:
        return f"kill@{self.number}" + ("" if self.written is None else f"+{self.written}")


@dataclass(frozen=True, slots=True)
class PowerAt:
    """The power goes before a call, and takes this."""

    number: int
    loss: Loss

    def __str__(self) -> str:
        return f"power@{self.number}:{self.loss}"


@dataclass(frozen=True, slots=True)
class FailAt:
    """A call fails with an errno; if ``lasting``, all later ones, too, until the cause is gone.

    ``lost`` says what became of the data that a failing sync was to save: ``none`` of it reached
    the disk, or all of it is forgotten by the cache, too (``evicted``).
    """

    number: int
    code: int
    lasting: bool = False
    written: int = 0
    lost: str = ""

    def __str__(self) -> str:
        parts = [f"fail@{self.number}", errno.errorcode[self.code]]
        parts += ["lasting"] if self.lasting else []
        parts += [f"written={self.written}"] if self.written else []
        return ":".join([*parts, *([f"lost={self.lost}"] if self.lost else [])])


@dataclass(frozen=True, slots=True)
class Damaged:
    """A file of the store was damaged; ``damage.py`` has the words for ``how``.

    The store was closed before, or, if ``dead``, its process died.
    """

    name: str
    how: str
    dead: bool = False

    def __str__(self) -> str:
        return f"damage{'-dead' if self.dead else ''}={self.name}:{self.how}"


Fault = KillAt | PowerAt | FailAt | Damaged


@dataclass(frozen=True, slots=True)
class Scenario:
    """A sequence of operations of one store, and a fault."""

    store: StoreKind
    durability: Durability
    operations: tuple[str, ...]
    fault: Fault

    def __str__(self) -> str:
        names = ",".join(self.operations) or "-"
        return f"{self.store} {self.durability} {names} {self.fault}"


def parse(text: str) -> Scenario:
    """The scenario that is written so; ``ValueError`` for anything else."""
    words = text.split()
    if len(words) != 4:
        raise ValueError(f"{text!r} is not of the form STORE DURABILITY OPERATIONS FAULT")
    store = next((kind for kind in STORES if kind == words[0]), None)
    durability = next((policy for policy in get_args(Durability) if policy == words[1]), None)
    if store is None:
        raise ValueError(f"{words[0]!r} is no kind of store")
    if durability is None:
        raise ValueError(f"{words[1]!r} is no durability")
    return Scenario(store, durability, operations_in(words[2]), fault_in(words[3]))


def operations_in(text: str) -> tuple[str, ...]:
    """Operations as they are written: names with commas, or a dash for none."""
    return () if text == "-" else tuple(text.split(","))


def fault_in(text: str) -> Fault:
    """The fault that is written so."""
    head, _, rest = text.partition(":")
    kind, at, place = head.partition("@")
    try:
        if kind == "kill" and at and not rest:
            number, _, written = place.partition("+")
            return KillAt(int(number), int(written) if written else None)
        if kind == "power" and at:
            return PowerAt(int(place), Loss.parse(rest))
        if kind == "fail" and at:
            return _failing(int(place), rest.split(":"))
        word, _, name = head.partition("=")
        if word in ("damage", "damage-dead") and name and rest:
            return Damaged(name, rest, word == "damage-dead")
    except ValueError as error:
        raise ValueError(f"{text!r} is no fault: {error}") from error
    raise ValueError(f"{text!r} is no fault")


def _failing(number: int, parts: Sequence[str]) -> FailAt:
    codes = {name: code for code, name in errno.errorcode.items()}
    if parts[0] not in codes:
        raise ValueError(f"{parts[0]!r} is no errno")
    lasting, written, lost = False, 0, ""
    for part in parts[1:]:
        name, _, value = part.partition("=")
        if part == "lasting":
            lasting = True
        elif name == "written":
            written = int(value)
        elif name == "lost" and value in ("none", "evicted"):
            lost = value
        else:
            raise ValueError(f"{part!r} says nothing about an error")
    return FailAt(number, codes[parts[0]], lasting, written, lost)
