"""The fewest acts of a history that cannot have happened: what a failure of live drills shows."""

import time
from collections.abc import Sequence

from holdfast.bench.drill.history import NEVER, Act, Wrong, check

_NARROWING_S = 10.0


def narrowed(acts: Sequence[Act], wrong: Wrong, *, prefixes: bool) -> list[Act]:
    """Acts without any of which that fault of that key would not be there, in order of time.

    Whatever is left out could only have explained more: a value whose write is gone is from
    nowhere, which is another fault. After ten seconds the rest is left as it is.
    """
    until = time.monotonic() + _NARROWING_S

    def still(some: Sequence[Act]) -> bool:
        return any((one.fault, one.key) == (wrong.fault, wrong.key)
                   for one in check(some, prefixes=prefixes))  # fmt: skip

    kept = [act for act in acts if wrong.key in act.keys]
    if not still(kept):  # a read of several keys may be half of a write to others
        kept = list(acts)
    size = len(kept) // 2
    while size:
        place = 0
        while place < len(kept) and time.monotonic() < until:
            fewer = kept[:place] + kept[place + size :]
            if still(fewer):
                kept = fewer
            else:
                place += size
        size //= 2
    return sorted(kept, key=lambda act: act.start)


def told(acts: Sequence[Act]) -> list[str]:
    """Acts as lines, in milliseconds since the first."""
    if not acts:
        return []
    first = min(act.start for act in acts)

    def at(moment: float) -> str:
        return "never" if moment == NEVER else f"{1000 * (moment - first):.3f}"

    return [
        f"{act.client} {'writes' if act.writes else 'reads'} "
        + ", ".join(f"{key}={value!r}" for key, value in zip(act.keys, act.values, strict=False))
        + f" from {at(act.start)} to {at(act.end)} ms: {act.outcome}"
        for act in acts
    ]
