"""What drills count, and what they find broken. Travels between processes as MessagePack."""

from typing import Literal

import msgspec

REPLAY = "holdfast drill --replay"
"""What does a failure again; behind it comes the scenario as text."""


class Counts(msgspec.Struct):
    """Faults tried on one kind of store."""

    crash_states: int = 0
    """States that a crash or power loss may leave, each opened and compared with the model."""
    kill_points: int = 0
    """File calls at which the process died."""
    bit_flips: int = 0
    torn: int = 0
    """Files cut short, and sectors that hold something else."""
    exchanged: int = 0
    """Records or files swapped, duplicated, replaced by stale or foreign ones."""
    errors_injected: int = 0
    process_faults: int = 0
    clock_jumps: int = 0
    operations: int = 0
    """Operations of stores done in all of this."""


class Failure(msgspec.Struct, frozen=True):
    """A promise that did not hold."""

    promise: str
    """What was promised, in a sentence."""
    store: str
    fault: str
    detail: str
    """What was expected and what was found."""
    seed: int
    operations: list[str]
    """The shrunk sequence of operations, as ``replay`` takes them."""
    state: str | None
    """Where the files are kept."""
    replay: str
    """The one command that does it again."""
    history: list[str] = []
    """The fewest calls of clients that cannot have come to this, had every promise held."""


class Moment(msgspec.Struct, frozen=True):
    """One interval of a soak."""

    second: float
    calls: int
    failed: int
    p50_ms: float
    p99_ms: float
    faults: int
    restarts: int
    descriptors: int
    memory_mib: float
    disk_mib: float


Verdict = Literal["held", "broken", "not covered"]


class Tally(msgspec.Struct):
    """The outcome of drills so far."""

    stores: dict[str, Counts] = msgspec.field(default_factory=dict)
    faults: dict[str, int] = msgspec.field(default_factory=dict)
    """How often each fault was tried, by a name such as ``worker SIGKILL`` or ``ENOSPC once``."""
    lost_acknowledged: int = 0
    wrong_answers: int = 0
    leaked_processes: int = 0
    recovery_ms: list[float] = msgspec.field(default_factory=list)
    """From a death to the first answer of the successor."""
    failures: list[Failure] = msgspec.field(default_factory=list)
    repeated: dict[str, int] = msgspec.field(default_factory=dict)
    """How often a promise was broken besides what ``failures`` tells."""
    timeline: list[Moment] = msgspec.field(default_factory=list)
    not_covered: list[str] = msgspec.field(default_factory=list)
    """What was not tried here, and why."""

    def of(self, store: str) -> Counts:
        """The counts of a kind of store."""
        return self.stores.setdefault(store, Counts())

    def fault(self, name: str, times: int = 1) -> None:
        """Count a fault by name."""
        self.faults[name] = self.faults.get(name, 0) + times

    def found(self, failure: Failure) -> None:
        """Take in a broken promise; the same scenario is told once, and counted every time."""
        in_memory = failure.replay.startswith(REPLAY) and bool(failure.operations)
        if in_memory and any(one.replay == failure.replay for one in self.failures):
            self.again(failure.promise)
        else:
            self.failures.append(failure)

    def again(self, promise: str, times: int = 1) -> None:
        """Count a broken promise of which enough is told."""
        self.repeated[promise] = self.repeated.get(promise, 0) + times

    def add(self, other: "Tally") -> None:
        """Add what another process counted and found."""
        for store, counts in other.stores.items():
            mine = self.of(store)
            for field in Counts.__struct_fields__:
                setattr(mine, field, getattr(mine, field) + getattr(counts, field))
        for name, times in other.faults.items():
            self.fault(name, times)
        self.lost_acknowledged += other.lost_acknowledged
        self.wrong_answers += other.wrong_answers
        self.leaked_processes += other.leaked_processes
        self.recovery_ms += other.recovery_ms
        for failure in other.failures:
            self.found(failure)
        for promise, times in other.repeated.items():
            self.again(promise, times)
        self.timeline += other.timeline
        self.not_covered += [text for text in other.not_covered if text not in self.not_covered]
