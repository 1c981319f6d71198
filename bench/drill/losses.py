"""What a power loss may take, as values: bounded enumeration, a text form, and doing it.

Of the data written since the last sync each write arrives or not, in any order; a write may be torn
at a sector, and one that makes a file longer at any byte; a file may have its new length and zeros
in place of the data. Of the changes of names since their directory was synced each arrives or not.

All combinations of the latest few are enumerated, and each older one lost alone and arriving alone.
A loss is written as ``names=10,kept=1101,torn=3:0-512,lengths``: digits in the order the changes
were made, ``torn`` with the number of a write and which of its bytes arrived.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from holdfast.bench.memory_disk import MemoryDisk
from holdfast.bench.memory_file import SECTOR_BYTES, Change, Node

_TOGETHER = 4
"""So many of the latest writes, and changes of names, are lost in all combinations."""
_TORN = 2
_SECTORS_MAX = 6


@dataclass(frozen=True, slots=True)
class Loss:
    """Which unsynced changes reached the disk: a digit 1 for each that did."""

    names: str = ""
    kept: str = ""
    torn: tuple[int, int, int] | None = None
    """The number of a write, and from where to where its bytes arrived."""
    lengths: bool = False
    """Files have the lengths that the lost changes gave them, and zeros behind what arrived."""

    def __str__(self) -> str:
        parts = [f"names={self.names}", f"kept={self.kept}"]
        if self.torn is not None:
            parts.append("torn={}:{}-{}".format(*self.torn))
        return ",".join([*parts, *(["lengths"] if self.lengths else [])])

    @classmethod
    def parse(cls, text: str) -> "Loss":
        """The loss that is written so; ``ValueError`` for anything else."""
        loss = cls()
        for part in text.split(","):
            name, _, value = part.partition("=")
            if name == "names" and not value.strip("01"):
                loss = replace(loss, names=value)
            elif name == "kept" and not value.strip("01"):
                loss = replace(loss, kept=value)
            elif name == "torn":
                number, _, span = value.partition(":")
                start, _, stop = span.partition("-")
                loss = replace(loss, torn=(int(number), int(start), int(stop)))
            elif part == "lengths":
                loss = replace(loss, lengths=True)
            else:
                raise ValueError(f"{part!r} says nothing about a loss")
        return loss


def pending(memory: MemoryDisk) -> tuple[int, list[tuple[Node, Change]]]:
    """How many changes of names are unsynced, and the unsynced writes in the order made."""
    names, nodes = memory.unsynced()
    changes = [(node, change) for node in nodes for change in node.changes]
    return names, sorted(changes, key=lambda item: item[1].serial)


def losses(memory: MemoryDisk) -> Iterator[Loss]:
    """Every loss within the bounds."""
    names, changes = pending(memory)
    everything = Loss("1" * names, "1" * len(changes))
    kept = list(dict.fromkeys(_kept(len(changes))))
    masks = [everything.names] if not names else [everything.names, "0" * names]
    for mask in masks:
        for mine in kept:
            yield Loss(mask, mine)
    yield from _torn(everything, [change for _, change in changes])
    if changes:
        yield replace(everything, kept="0" * len(changes), lengths=True)
        for number in range(max(0, len(changes) - _TORN), len(changes)):
            lost = "1" * number + "0" + "1" * (len(changes) - number - 1)
            yield replace(everything, kept=lost, lengths=True)
    for mask in dict.fromkeys(_kept(names)):
        if mask not in masks:
            yield Loss(mask, everything.kept)
            yield Loss(mask, "0" * len(changes))


def sampled(memory: MemoryDisk, chance: random.Random) -> Loss:
    """A loss by chance, without the bounds."""
    names, changes = pending(memory)
    share = chance.choice((0.2, 0.5, 0.8, 0.95))

    def digits(count: int) -> str:
        return "".join("1" if chance.random() < share else "0" for _ in range(count))

    loss = Loss(digits(names), digits(len(changes)), lengths=chance.random() < 0.2)
    torn = list(_torn(loss, [change for _, change in changes], anywhere=True))
    return chance.choice(torn) if torn and chance.random() < 0.5 else loss


def _kept(count: int) -> Iterator[str]:
    """Which of so many changes arrived: all combinations of the latest, others one by one."""
    older = max(0, count - _TOGETHER)
    for latest in itertools.product("10", repeat=count - older):
        yield "1" * older + "".join(latest)
        yield "0" * older + "".join(latest)
    for number in range(older):
        before, behind = number, count - number - 1
        yield "1" * before + "0" + "1" * behind
        yield "0" * before + "1" + "0" * behind


def _torn(loss: Loss, changes: Sequence[Change], *, anywhere: bool = False) -> Iterator[Loss]:
    """The latest writes torn: at sectors, and at bytes where the file becomes longer."""
    first = 0 if anywhere else max(0, len(changes) - _TORN)
    for number in range(first, len(changes)):
        change = changes[number]
        if change.data is None or loss.kept[number] == "0":
            continue
        size = len(change.data)
        to_sector = SECTOR_BYTES - change.offset % SECTOR_BYTES
        cuts = list(range(to_sector, size, SECTOR_BYTES))
        if len(cuts) > _SECTORS_MAX:
            cuts = [*cuts[:3], cuts[len(cuts) // 2], *cuts[-2:]]
        for cut in cuts:
            yield replace(loss, torn=(number, 0, cut))
            yield replace(loss, torn=(number, cut, size))
        if change.offset + size == change.size:
            for cut in sorted({1, size // 3, size // 2, size - 1} - {0, size, *cuts}):
                yield replace(loss, torn=(number, 0, cut))


def after(memory: MemoryDisk, loss: Loss) -> MemoryDisk:
    """The disk that a power loss leaves which takes just that.

    Raises ``ValueError`` when it does not fit what is unsynced.
    """
    names, changes = pending(memory)
    if (names, len(changes)) != (len(loss.names), len(loss.kept)):
        raise ValueError(
            f"{loss} is about {len(loss.names)} names and {len(loss.kept)} writes, "
            f"but {names} and {len(changes)} are unsynced"
        )
    numbers = {change.serial: number for number, (_, change) in enumerate(changes)}

    def content(node: Node) -> bytes:
        return _arrived(node, loss, numbers)

    return memory.lose([digit == "1" for digit in loss.names], content)


def _arrived(node: Node, loss: Loss, numbers: dict[int, int]) -> bytes:
    if not node.changes:
        return node.durable
    content = bytearray(node.durable)
    for change in node.changes:
        number = numbers[change.serial]
        if loss.kept[number] == "0":
            continue
        if change.data is None:
            del content[change.size :]
            continue
        start, stop = 0, len(change.data)
        if loss.torn is not None and loss.torn[0] == number:
            start, stop = loss.torn[1:]
        begin, end = change.offset + start, change.offset + stop
        if len(content) < begin:
            content.extend(bytes(begin - len(content)))
        content[begin:end] = change.data[start:stop]
    if loss.lengths:
        size = node.changes[-1].size
        del content[size:]
        content.extend(bytes(size - len(content)))
    return bytes(content)
