"""Other ways to keep bytes in a process of their own and to ask for them.

Each has one body of every size in it, and gives one back by its size. All stay on this machine;
Ray runs without its dashboard and tells nobody of its use.
"""

import asyncio
import contextlib
import importlib
import multiprocessing.managers
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Protocol

import holdfast
from holdfast.bench.callers import spawning
from holdfast.bench.measure import seconds_per_call
from holdfast.bench.peers.contest import OURS
from holdfast.bench.peers.kinds import Kind

NOTHING = 0
"""The size that stands for a call without a body."""

_LOOPBACK = "127.0.0.1"
_RAY_STORE_BYTES = 256 << 20


class Keeper(Protocol):
    """Bodies in another process."""

    def get(self, size: int) -> bytes:
        """The body of this size."""
        ...

    def seconds_per_call(self, size: int, calls: int) -> float:
        """The mean time of getting it, one call after another."""
        ...

    def close(self) -> None:
        """End the process."""
        ...


class _Calling(ABC):
    """Calls that block."""

    @abstractmethod
    def get(self, size: int) -> bytes:
        """The body of this size."""

    def seconds_per_call(self, size: int, calls: int) -> float:
        return seconds_per_call(lambda: self.get(size), calls)


class Fold(_Calling):
    """The engine's fold. Its cheapest call asks for the cursor."""

    def __init__(self, directory: str, sizes: Sequence[int]) -> None:
        self._engine = holdfast.open(directory)
        self._fold = self._engine.fold("bodies")
        puts = [holdfast.Put(str(size), bytes(size)) for size in sizes if size]
        self._fold.apply(puts, holdfast.Cursor.from_u64(1))

    def get(self, size: int) -> bytes:
        if size == NOTHING:
            self._fold.cursor()
            return b""
        found = self._fold.get(str(size))
        assert found is not None, "it is not there"
        return found.value

    def close(self) -> None:
        self._engine.close()


class Manager(_Calling):
    """A dictionary of a ``multiprocessing.Manager``."""

    def __init__(self, directory: str, sizes: Sequence[int]) -> None:
        self._manager = multiprocessing.managers.SyncManager(ctx=spawning)
        self._manager.start()
        self._bodies = self._manager.dict({size: bytes(size) for size in sizes})

    def get(self, size: int) -> bytes:
        return self._bodies[size]

    def close(self) -> None:
        self._manager.shutdown()


_kept: dict[int, bytes] = {}


def _keep(sizes: Sequence[int]) -> None:
    _kept.update({size: bytes(size) for size in sizes})


def _give(size: int) -> bytes:
    return _kept[size]


class Executor(_Calling):
    """A ``ProcessPoolExecutor`` of one process, asked for one result at a time."""

    def __init__(self, directory: str, sizes: Sequence[int]) -> None:
        self._pool = ProcessPoolExecutor(1, spawning, initializer=_keep, initargs=(tuple(sizes),))
        self.get(NOTHING)

    def get(self, size: int) -> bytes:
        return self._pool.submit(_give, size).result()

    def close(self) -> None:
        self._pool.shutdown()


class _Bodies:
    """What the Ray actor is."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._bodies = {size: bytes(size) for size in sizes}

    def get(self, size: int) -> bytes:
        return self._bodies[size]


class Ray(_Calling):
    """A Ray actor, asked by ``ray.get``."""

    def __init__(self, directory: str, sizes: Sequence[int]) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        self._ray: Any = importlib.import_module("ray")
        self._ray.init(
            num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False,
            object_store_memory=_RAY_STORE_BYTES, _node_ip_address=_LOOPBACK,
        )  # fmt: skip
        self._actor = self._ray.remote(num_cpus=0)(_Bodies).remote(tuple(sizes))
        self.get(NOTHING)

    def get(self, size: int) -> bytes:
        found: bytes = self._ray.get(self._actor.get.remote(size))
        return found

    def close(self) -> None:
        self._ray.shutdown()


class Xoscar:
    """A xoscar actor in a process of its own; calls are awaited one after another."""

    def __init__(self, directory: str, sizes: Sequence[int]) -> None:
        self._xoscar: Any = importlib.import_module("xoscar")
        self._runner = asyncio.Runner()
        self._pool, self._actor = self._runner.run(self._start(tuple(sizes)))

    async def _start(self, sizes: Sequence[int]) -> tuple[Any, Any]:
        allocation: Any = importlib.import_module("xoscar.backends.allocate_strategy")
        pool = await self._xoscar.create_actor_pool(
            _LOOPBACK, n_process=1, subprocess_start_method="spawn"
        )
        actors: Any = importlib.import_module("holdfast.bench.peers.xoscar_actor")
        actor = await self._xoscar.create_actor(
            actors.Bodies, sizes, uid="bodies", address=pool.external_address,
            allocate_strategy=allocation.ProcessIndex(1),
        )  # fmt: skip
        return pool, actor

    def get(self, size: int) -> bytes:
        async def get() -> bytes:
            found: bytes = await self._actor.get(size)
            return found

        return self._runner.run(get())

    def seconds_per_call(self, size: int, calls: int) -> float:
        async def every() -> None:
            for _ in range(calls):
                await self._actor.get(size)

        return seconds_per_call(lambda: self._runner.run(every()), 1) / calls

    def close(self) -> None:
        with contextlib.closing(self._runner):
            self._runner.run(self._pool.stop())


KINDS: dict[str, Kind[Keeper]] = {
    f"{OURS} fold": Kind((), Fold),
    "Manager": Kind((), Manager),
    "ProcessPoolExecutor": Kind((), Executor),
    "Ray actor": Kind(("ray",), Ray),
    "xoscar actor": Kind(("xoscar",), Xoscar),
}
"""Each is made with a directory and the sizes of the bodies that it has."""
