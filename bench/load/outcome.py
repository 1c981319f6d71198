"""What a load test came to. ``docs/load.md`` describes the keys; times in ms are latencies."""

import msgspec

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99_9": 99.9, "p99_99": 99.99}
"""Those of the calls of an operation, by their keys."""


class Settings(msgspec.Struct, frozen=True):
    """What was asked for."""

    profile: str
    description: str
    clients: int
    processes: int
    clients_are: str
    """``threads`` or ``tasks``."""
    rate: float | None
    """Calls a second of all clients; None in a closed loop."""
    seconds: float
    warm_up_s: float
    durability: str
    kill_every_s: float | None
    seed: int


class Process(msgspec.Struct, frozen=True):
    """One process at one moment."""

    name: str
    """``supervisor``, ``clients N``, or a store's kind for its worker."""
    pid: int
    cpu: float
    """Share of one core since the moment before."""
    own_bytes: int
    """Memory that is its own: resident, less what is shared with files and other processes."""
    resident_bytes: int
    descriptors: int


class Disk(msgspec.Struct, frozen=True):
    """A store's files, and how many bytes of them count, as the store says; None: not asked yet."""

    store: str
    file_bytes: int
    live_bytes: int | None


class Moment(msgspec.Struct, frozen=True):
    """About a second of a run."""

    second: float
    """Since measuring began, at the end of this one."""
    stores: dict[str, int]
    """Calls by kind of store."""
    errors: int
    wrong_reads: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    outstanding: int
    """Calls under way."""
    waiting: int
    """Calls that are due and not made yet."""
    late_s: float
    restarts: int
    """Of workers, so far."""
    kills: list[str]
    """Stores whose worker was killed in it."""
    processes: list[Process]
    disks: list[Disk]


class Operation(msgspec.Struct, frozen=True):
    """All calls of one operation. Latency counts from the intended start, service from the call."""

    store: str
    operation: str
    count: int
    errors: int
    wrong_reads: int
    per_second: float
    latency_ms: dict[str, float]
    """``min``, ``p50``, ``p90``, ``p99``, ``p99_9``, ``p99_99``, ``max``."""
    service_ms: dict[str, float]
    curve: list[tuple[float, float]]
    """(percentile, milliseconds) of latency."""

    def tells(self, name: str) -> bool:
        """Whether there were calls enough for a figure: a call beyond a percentile, at least."""
        if name not in PERCENTILES:
            return bool(self.curve)
        # The curve goes as far as there is one, and then to the slowest.
        return PERCENTILES[name] <= max((one for one, _ in self.curve[:-1]), default=0.0)


class Kill(msgspec.Struct, frozen=True):
    """A worker that was killed; ``recovery_ms`` until its successor answered a call."""

    second: float
    store: str
    recovery_ms: float


class Lost(msgspec.Struct, frozen=True):
    """A process of clients that ended before the run did."""

    process: str
    """``clients N``."""
    pid: int
    second: float
    """Since measuring began; below 0 in the warm-up."""
    clients: int
    """That worked in it; each may have had a call under way."""
    how: str
    """By which signal, or with which exit code."""

    def text(self) -> str:
        """All of it in words."""
        return (
            f"{self.process} (process {self.pid}, with {self.clients} of the clients) {self.how} "
            f"at {self.second:.1f} s; calls it had not told of are not counted, and what it wrote "
            "was not read back"
        )


class Check(msgspec.Struct, frozen=True):
    """A question about a run as a whole; ``held`` None: it cannot be told, and ``unclear`` why."""

    name: str
    figure: str
    limit: str
    held: bool | None
    unclear: str = ""


class Step(msgspec.Struct, frozen=True):
    """A rate that was tried in the search for the highest one."""

    rate: float
    reached: float
    p99_ms: float
    errors: int
    held: bool
    why_not: str


class Limit(msgspec.Struct, frozen=True):
    """The highest rate whose p99 stays within the objective; None: not even the lowest did."""

    objective_ms: float
    highest_rate: float | None
    steps: list[Step]


class Outcome(msgspec.Struct, frozen=True):
    """A whole run."""

    settings: Settings
    machine: dict[str, object]
    version: str
    seconds: float
    """How long was measured."""
    interrupted: bool
    operations: list[Operation]
    moments: list[Moment]
    kills: list[Kill]
    restarts: int
    errors: int
    wrong_reads: int
    read_back: int
    """Keys that were read back at the end."""
    texts: list[str]
    """Of the first errors and wrong reads."""
    checks: list[Check]
    limit: Limit | None = None
    unmade: int = 0
    """Calls that were due before the end, and not made because the clients were late."""
    lost: list[Lost] = []
    """Processes of clients; the figures are without what these had not told yet."""

    @property
    def ok(self) -> bool:
        """No error and no wrong read, and nobody is missing."""
        return not (self.errors or self.wrong_reads or self.lost)

    @property
    def calls(self) -> int:
        """All that were measured."""
        return sum(operation.count for operation in self.operations)
