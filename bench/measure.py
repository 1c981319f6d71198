"""How anything is measured here: in turn, several times, medians, and a verdict against a budget.

What is compared is run alternately (A B A B), so that a machine that slows down slows both. A row's
ratio is the quotient of two medians taken in the same run.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Literal

import psutil

Measurement = Callable[[], float]
Samples = dict[str, list[float]]

_PACKAGES = (
    "holdfast", "msgspec", "isal", "numpy", "pyarrow", "sortedcontainers", "lmdb", "rocksdict",
    "duckdb",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Budget:
    """A bound, on a row's ratio if it has something to be compared with, else on its value."""

    sense: Literal["at most", "at least"]
    bound: float

    def met_by(self, figure: float) -> bool:
        """Whether ``figure`` keeps the bound."""
        return figure <= self.bound if self.sense == "at most" else figure >= self.bound


def at_most(bound: float) -> Budget:
    """Smaller is better."""
    return Budget("at most", bound)


def at_least(bound: float) -> Budget:
    """Larger is better."""
    return Budget("at least", bound)


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. ``other`` is what ``against`` came to in the same run, in the same unit.

    ``limit`` names what a figure with an absolute budget cannot be better than, and what that came
    to in the same run and unit. ``absent`` names peers of the comparison that are not installed:
    such a row has a figure, but no verdict.
    """

    name: str
    what: str
    value: float
    unit: str
    against: str = ""
    other: float | None = None
    budget: Budget | None = None
    note: str = ""
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)
    limit: tuple[str, float] | None = None
    absent: str = ""

    @property
    def ratio(self) -> float | None:
        """``value`` in units of ``other``."""
        return self.value / self.other if self.other else None

    @property
    def met(self) -> bool | None:
        """Whether the budget is kept; None for a figure without one, or without all its peers."""
        if self.budget is None or self.absent:
            return None
        ratio = self.ratio
        return self.budget.met_by(self.value if ratio is None else ratio)

    def as_json(self) -> dict[str, object]:
        """The row as plain values, with what follows from them."""
        return asdict(self) | {"ratio": self.ratio, "met": self.met}


def median(samples: Sequence[float]) -> float:
    """The middle of ``samples``, of which there must be some."""
    return float(statistics.median(samples))


def in_turn(
    measurements: Mapping[str, Measurement],
    repetitions: int,
    after_each: Callable[[], object] = lambda: None,
) -> Samples:
    """Run every measurement once, then every one again, and so on: A B A B, never A A B B."""
    samples: Samples = {name: [] for name in measurements}
    for _ in range(repetitions):
        for name, measure in measurements.items():
            samples[name].append(measure())
            after_each()
    return samples


def medians(samples: Samples) -> dict[str, float]:
    """The median of every series."""
    return {name: median(series) for name, series in samples.items()}


def best(figures: Mapping[str, float], names: Sequence[str]) -> tuple[str, float]:
    """The name with the largest figure among ``names``, and that figure."""
    name = max(names, key=lambda candidate: figures[candidate])
    return name, figures[name]


def seconds(work: Callable[[], object]) -> float:
    """How long ``work`` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def seconds_per_call(work: Callable[[], object], calls: int) -> float:
    """The mean time of ``calls`` calls one after another."""
    began = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - began) / calls


def unique_memory(pid: int) -> int:
    """Bytes of memory that only process ``pid`` has mapped, and that its end would free."""
    return int(psutil.Process(pid).memory_full_info().uss)


def machine_facts(directory: str, packages: Sequence[str] = _PACKAGES) -> dict[str, object]:
    """What a figure has to be read with: machine, system, versions, file system, load."""
    return {
        "cpus": os.cpu_count(),
        "cpu": _cpu_model(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "file_system": _file_system(directory),
        "load_at_start": round(os.getloadavg()[0], 2),
        "versions": {name: found for name in packages if (found := version_of(name))},
    }


def version_of(package: str) -> str | None:
    """The installed version of a distribution."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def _file_system(directory: str) -> str:
    """Type of the file system that ``directory`` lies on."""
    path = os.path.realpath(directory)
    above = [
        part
        for part in psutil.disk_partitions(all=True)
        if os.path.commonpath([part.mountpoint, path]) == part.mountpoint
    ]
    return max(above, key=lambda part: len(part.mountpoint)).fstype if above else "unknown"
