"""What the engine's own processes use while they work: the demonstration's time series.

An example of a warm store: each process is an entity, by its id, and every sample a point whose
vector holds its figures, read with psutil.
"""

import threading
import time
from dataclasses import dataclass

import numpy as np
import psutil
from numpy.typing import NDArray

from holdfast.engine import Engine
from holdfast.formats.errors import HoldfastError
from holdfast.handles.warm import Warm
from holdfast.handles.warm_input import TemporalPoint

FIGURES = ("cpu_s", "resident_mib", "read_mib", "written_mib", "descriptors", "threads")
SPACE = 0
_INTERVAL_S = 0.05
_MIB = 1 << 20
_NEAREST = 5


@dataclass(frozen=True, slots=True)
class Sampled:
    """What the time series shows, and whether the store gave it back as it was."""

    samples: int
    processes: int
    failed: int
    """Writes that raised."""
    seconds: float
    busiest: str
    """The process that used the most processor time, and how much."""
    largest_mib: float
    similar: list[str]
    """Moments most similar to the busiest process's last one, of other processes too."""
    range_right: bool
    as_of_right: bool
    nearest_right: bool


class Sampler:
    """Samples an engine's processes in a thread, from ``start`` to ``stop``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._store = engine.warm("processes", dimension=len(FIGURES))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._known: dict[int, psutil.Process] = {}
        self.points: list[TemporalPoint] = []
        self.failed = 0

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> Warm:
        """End; the store has all samples then."""
        self._ended.set()
        self._thread.join()
        return self._store

    def _run(self) -> None:
        while not self._ended.wait(_INTERVAL_S):
            try:
                points = self._sample()
                if points:
                    self._store.write_batch(SPACE, points)
            except HoldfastError:
                self.failed += 1
            else:
                self.points += points

    def _sample(self) -> list[TemporalPoint]:
        """One point for each process that is alive."""
        now = time.time_ns() // 1000
        points = []
        for process in self._engine.processes():
            try:
                if process.pid not in self._known:
                    self._known[process.pid] = psutil.Process(process.pid)
                vector = figures_of(self._known[process.pid])
            except psutil.Error:
                continue  # it died just now
            metadata = {"role": process.role, "store": process.store or ""}
            points.append(TemporalPoint(process.pid, now, vector, metadata))
        return points


def figures_of(process: psutil.Process) -> NDArray[np.float32]:
    """What a process uses now, (6,): see ``FIGURES``."""
    with process.oneshot():
        times = process.cpu_times()
        resident = process.memory_info().rss / _MIB
        descriptors, threads = process.num_fds(), process.num_threads()
        read = written = 0.0
        if hasattr(process, "io_counters"):  # not everywhere
            moved = process.io_counters()
            read, written = moved.read_bytes / _MIB, moved.write_bytes / _MIB
    cpu = times.user + times.system
    return np.array([cpu, resident, read, written, descriptors, threads], np.float32)


def examine(store: Warm, points: list[TemporalPoint], failed: int) -> Sampled | None:
    """Read the samples back in every way, and compare with those taken; None without any."""
    if not points:
        return None
    store.compact()
    cpu, largest = FIGURES.index("cpu_s"), FIGURES.index("resident_mib")
    last = max(points, key=lambda point: float(point.vector[cpu]))
    found = store.nearest(last.vector, _NEAREST, points[0].timestamp, last.timestamp, space=SPACE)
    names = [dict(row)["store"] or dict(row)["role"] for row in found["metadata"].to_pylist()]
    distances = zip(names, found["distance"].to_pylist(), strict=True)
    return Sampled(
        samples=len(points),
        processes=len({point.entity for point in points}),
        failed=failed,
        seconds=round((points[-1].timestamp - points[0].timestamp) / 1e6, 2),
        busiest=f"{_name_of(last)}, {last.vector[cpu]:.2f} s",
        largest_mib=round(float(max(point.vector[largest] for point in points)), 1),
        similar=[f"{name} at {distance:.1f}" for name, distance in distances],
        range_right=all(_same_range(store, points, entity) for entity in _entities(points)),
        as_of_right=all(_same_as_of(store, points, entity) for entity in _entities(points)),
        nearest_right=bool(
            np.allclose(found["distance"].to_numpy(), _nearest(points, last), rtol=1e-5)
        ),
    )


def _entities(points: list[TemporalPoint]) -> list[int]:
    return sorted({point.entity for point in points})


def _name_of(point: TemporalPoint) -> str:
    return point.metadata["store"] or point.metadata["role"]


def _same_range(store: Warm, points: list[TemporalPoint], entity: int) -> bool:
    """Whether a series' range is what was sampled."""
    mine = [point for point in points if point.entity == entity]
    table = store.range(entity, SPACE)
    vectors = table["vector"].combine_chunks().flatten().to_numpy().reshape(-1, len(FIGURES))
    return table["timestamp"].to_pylist() == [point.timestamp for point in mine] and np.array_equal(
        vectors, np.stack([point.vector for point in mine])
    )


def _same_as_of(store: Warm, points: list[TemporalPoint], entity: int) -> bool:
    """Whether the newest point as of the middle of a series is the one sampled then."""
    mine = [point for point in points if point.entity == entity]
    middle = mine[len(mine) // 2]
    found = store.latest(entity, SPACE, at=middle.timestamp + 1)
    return found is not None and found.timestamp == middle.timestamp


def _nearest(points: list[TemporalPoint], to: TemporalPoint) -> NDArray[np.float64]:
    """The least squared distances to a point of those up to it, computed without the store."""
    vectors = np.stack([p.vector for p in points if p.timestamp <= to.timestamp]).astype(np.float64)
    return np.sort(((vectors - to.vector.astype(np.float64)) ** 2).sum(axis=1))[:_NEAREST]
