"""The promises, and what a run says about each of them."""

from dataclasses import dataclass

from holdfast.bench.drill import bounds, checking, damage, erring, forks, kernel, scene, soak
from holdfast.bench.drill.plan import FAULTS, FaultKind
from holdfast.bench.drill.run import Done, Outcome
from holdfast.bench.drill.sources import KEEPS, ORIGINAL
from holdfast.bench.drill.tally import Failure, Verdict

_EVERY = tuple(kind for kind in FAULTS if kind != "damage")
_IN_MEMORY: tuple[FaultKind, ...] = ("crash", "kill", "errors")
_LIVE: tuple[FaultKind, ...] = ("processes", "time", "soak")


@dataclass(frozen=True, slots=True)
class Promise:
    """One promise to users: what drills call it, and the faults under which it is looked at."""

    text: str
    known_as: frozenset[str]
    faults: tuple[FaultKind, ...]


PROMISES = (
    Promise(
        "An acknowledged write is never lost",
        frozenset({checking.LOST, scene.LOST}),
        _EVERY,
    ),
    Promise(
        "An answer is never wrong, a write there as a whole or not at all, and never twice",
        frozenset({
            checking.INVENTED, checking.ONCE, erring.UNCHANGED, KEEPS, *scene.PROMISES.values()
        } - {scene.LOST}),
        FAULTS,
    ),
    Promise(
        "A store opens again after a fault, its files verify, and it serves on",
        frozenset({checking.OPENS, checking.VERIFIES, checking.SERVES}),
        _IN_MEMORY,
    ),
    Promise(
        "Every call is answered, by a result or one of holdfast's own errors",
        frozenset({checking.TYPED, erring.FULL, scene.TYPED}),
        FAULTS,
    ),
    Promise("A death costs latency, not an error", frozenset({scene.ANSWERED}), _LIVE),
    Promise("No process is left behind", frozenset({scene.NOTHING_LEFT}), _LIVE),
    Promise("Descriptors, memory and disk do not grow under a steady load",
            frozenset({soak.STEADY}), ("soak",)),
    Promise(
        "Damage costs bounded time and memory, and no process",
        frozenset({bounds.BOUNDED, forks.CRASHED}),
        ("damage",),
    ),
    Promise("Damage is told: verify calls clean only what is", frozenset({damage.TOLD}),
            ("damage",)),
    Promise(
        "No file is touched past the one file layer",
        frozenset({kernel.PROMISE}),
        ("kill",),
    ),
)  # fmt: skip
ON_COPIES = Promise("The user's own files are not written to", frozenset({ORIGINAL}), FAULTS)


@dataclass(frozen=True, slots=True)
class Judged:
    """A promise, the verdict on it, and how many faults were tried that may break it."""

    promise: str
    verdict: Verdict
    tried: int
    failures: list[Failure]
    broken: int
    """How often it was broken; ``failures`` has some of that."""


def judge(outcome: Outcome) -> list[Judged]:
    """Every promise with its verdict; what is broken besides has a line of its own."""
    promises = [*PROMISES, *([ON_COPIES] if outcome.plan.source is not None else [])]
    judged = [_judge(promise, outcome) for promise in promises]
    known = frozenset().union(*(promise.known_as for promise in promises))
    others: dict[str, list[Failure]] = {}
    for failure in outcome.tally.failures:
        if failure.promise not in known:
            others.setdefault(failure.promise, []).append(failure)
    for text, failures in others.items():
        broken = len(failures) + outcome.tally.repeated.get(text, 0)
        judged.append(Judged(text, "broken", broken, failures, broken))
    return judged


def _judge(promise: Promise, outcome: Outcome) -> Judged:
    failures = [one for one in outcome.tally.failures if one.promise in promise.known_as]
    tried = sum(
        part.tried for part in outcome.parts
        if part.fault in promise.faults and _looks(promise, part)
    )  # fmt: skip
    if failures:
        repeated = sum(outcome.tally.repeated.get(name, 0) for name in promise.known_as)
        return Judged(promise.text, "broken", tried, failures, len(failures) + repeated)
    return Judged(promise.text, "held" if tried else "not covered", tried, failures, 0)


def _looks(promise: Promise, part: Done) -> bool:
    """Whether a drill told about a promise.

    Only the comparison with the kernel tells whether the file layer is passed by, and only a long
    soak whether anything grows.
    """
    if promise.known_as == {soak.STEADY} and part.seconds < soak.LEAK_AFTER_S:
        return False
    return part.name.startswith("file calls under strace") == (promise.known_as == {kernel.PROMISE})
