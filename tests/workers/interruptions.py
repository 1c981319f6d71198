"""Where a run of file calls can be interrupted, and in which ways, for the tests of every store."""

import itertools
from collections.abc import Iterator

from hypothesis import settings

from holdfast.bench.faults import Call, Choice, Everything, Kill, Nothing, Sampled, Zeros

QUIET = {"size", "inode", "inode_at", "boot_id", "is_directory", "list", "map", "read_at", "lock"}


def is_exhaustive() -> bool:
    """Whether there is time for everything."""
    return settings().max_examples >= 1000


def kills_of(calls: list[Call]) -> Iterator[list[Kill]]:
    """For each call the ways to interrupt it that leave another disk behind."""
    for call in calls:
        if call.name not in QUIET:  # else the disk is as before the next call that is not
            written = [Kill(call.number, written=count) for count in cuts(call)]
            yield [Kill(call.number), *written]
    yield [Kill(calls[-1].number, after=True)]


def every_kill(calls: list[Call]) -> list[Kill]:
    """All of them, in order."""
    return list(itertools.chain.from_iterable(kills_of(calls)))


def choices_of(seed: int) -> list[Choice]:
    """Six ways in which a power loss may go."""
    return [
        Nothing(),
        Everything(),
        Zeros(),
        Sampled(seed, kept=0.5),
        Sampled(seed + 1, kept=0.8, ordered=True),
        Sampled(seed + 2, kept=0.2),
    ]


def cuts(call: Call) -> list[int]:
    """After how many bytes of a write the end may come.

    The ledger's slots lie within pages, and a write is cut by a kill between pages only.
    """
    if call.name not in ("append", "write_at") or call.size < 2:
        return []
    if call.path.endswith(".ledger"):
        page = 4096 - call.offset % 4096
        return [page, page + 8 * 4096] if page + 8 * 4096 < call.size else []
    return sorted({1, call.size // 3, call.size // 2, call.size - 1})
