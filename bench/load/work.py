"""What is done to a store, whatever its kind: operations as steps, values that say what they are.

An operation is a generator. It yields what is to be asked of the store's handle, is sent the
answer, and judges it; so the same operation serves blocking and asyncio clients, and what is timed
is the call alone. After a handle's error it is closed where it stands.
"""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

import holdfast
from holdfast.bench.load.keys import Keys, owned
from holdfast.bench.load.profile import StoreLoad
from holdfast.bench.load.truth import ABSENT, PRELOADED, Truth, WrongRead

L = TypeVar("L", bound=StoreLoad)
K = TypeVar("K")
"""What a process knows of the store."""
Steps = Generator[Callable[[Any], Any], Any, None]
"""Yields a call to be made on the handle; of an asyncio handle, one whose result is awaited."""
NAME = "load"
"""What each store is called; there is one of a kind."""
_MULTIPLIERS = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB], np.uint64)


@dataclass(frozen=True, slots=True)
class Client:
    """One of the clients of a run."""

    number: int
    of: int


class Work(ABC, Generic[L, K]):
    """One client's work on one store."""

    read_at_once = 256
    """How many keys are read together when everything is."""

    def __init__(self, load: L, truth: K, client: Client, generator: np.random.Generator) -> None:
        self.load = load
        self.truth = truth
        self.client = client
        self.generator = generator
        self._keys = Keys(load, generator)

    @staticmethod
    @abstractmethod
    def open(engine: Any, load: L, durability: str) -> Any:
        """Open the store, by an engine of either sort; an asyncio one's answer is awaited."""

    @classmethod
    @abstractmethod
    def preload(cls, handle: Any, load: L, keys: Sequence[int]) -> None:
        """Write all these keys, as the writes numbered ``PRELOADED``, by a blocking handle."""

    @staticmethod
    @abstractmethod
    def knowledge(load: L, written_here: Sequence[int], clients: int) -> K:
        """What is known when all is preloaded; shared by these clients, of so many in all."""

    @abstractmethod
    def operations(self) -> dict[str, Callable[[], Steps]]:
        """Each operation by name."""

    @abstractmethod
    def read(self, keys: Sequence[int]) -> Steps:
        """Read these keys."""

    def everything(self) -> Iterator[tuple[int, Steps]]:
        """Read all that this client writes, by parts: how many keys, and the steps."""
        own = range(self.client.number, self.load.keys, self.client.of)
        for begin in range(0, len(own), self.read_at_once):
            keys = own[begin : begin + self.read_at_once]
            yield len(keys), self.read(keys)

    # --- keys ------------------------------------------------------------------------------

    def any_key(self) -> int:
        """One key."""
        return self._keys.next()

    def any_keys(self, count: int | None = None) -> list[int]:
        """Different keys, as many as a batch has."""
        return self._keys.several(count or self.load.batch)

    def own_keys(self, count: int | None = None) -> list[int]:
        """Different keys that this client writes."""
        drawn = self.any_keys(count)
        return list(dict.fromkeys(self._owned(key) for key in drawn))

    def own_key(self) -> int:
        """One of these."""
        return self._owned(self._keys.next())

    def _owned(self, key: int) -> int:
        return owned(key, self.client.number, self.client.of, self.load.keys)


class KeyWork(Work[L, Truth]):
    """Work on a store of keys with numbered writes."""

    @staticmethod
    def knowledge(load: L, written_here: Sequence[int], clients: int) -> Truth:
        return Truth(load.keys, written_here, clients, deletes=deletes(load))

    def look(
        self, keys: Sequence[int], call: Callable[[Any], Any]
    ) -> Generator[Callable[[Any], Any], Any, tuple[list[int], Any]]:
        """Make a call that reads keys: what was known of them when it began, and its answer."""
        known: list[int] = []

        def begun(handle: Any) -> Any:
            known.extend(self.truth.known(keys))
            return call(handle)

        answer = yield begun
        return known, answer


class Hits(Protocol):
    """The answer of a search."""

    @property
    def ids(self) -> NDArray[np.uint64]: ...
    @property
    def distances(self) -> NDArray[np.float32]: ...


class RowWork(KeyWork[L]):
    """Work on a store of rows with vectors, where a row is a key and its vector tells its write."""

    dimension: int

    def judge_rows(
        self,
        keys: Sequence[int],
        known: Sequence[int],
        ids: Iterable[object],
        numbers: Iterable[object],
        vectors: Sequence[NDArray[np.float32]] | NDArray[np.float32],
    ) -> None:
        """Judge rows that were read by their ids."""
        found: dict[int, int] = {}
        for id_, number, vector in zip(ids, numbers, vectors, strict=True):
            if not isinstance(id_, int) or id_ not in keys or id_ in found:
                raise WrongRead(f"asked for {list(keys)}, row {id_!r} came")
            if not isinstance(number, int):
                raise WrongRead(f"row {id_} has the number {number!r}")
            if not np.array_equal(vector, vectors_of([id_], [number], self.dimension)[0]):
                raise WrongRead(f"row {id_} has not the vector of its write {number}")
            found[id_] = number
        self.truth.saw(keys, known, [found.get(key, ABSENT) for key in keys])

    def search_for(
        self, call: Callable[[Any], Any]
    ) -> Generator[Callable[[Any], Any], Any, tuple[NDArray[np.int64], Any]]:
        """Make a call that searches: what was known of all keys when it began, and its answer."""
        known: list[NDArray[np.int64]] = []

        def begun(handle: Any) -> Any:
            known.append(self.truth.all_known())
            return call(handle)

        answer = yield begun
        return known[0], answer

    def near(self) -> tuple[NDArray[np.float32], int | None, int]:
        """A vector to search with, the id that has it now if that is certain, and a key."""
        key = self.own_key()
        number = self.truth.current(key)
        vector = vectors_of([key], [PRELOADED if number is None else number], self.dimension)[0]
        return vector, None if number is None else key, key

    @abstractmethod
    def distance(self, squared: float) -> float:
        """What the store calls the distance of vectors whose difference has this squared norm."""

    def judge_hits(
        self,
        vector: NDArray[np.float32],
        hits: Hits,
        k: int,
        known: NDArray[np.int64],
        nearest: int | None,
        among: slice,
    ) -> None:
        """Judge what a search for ``vector`` among some keys gave: ``nearest`` is first of them.

        ``known`` is what was known of all keys before.
        """
        found, distances = hits.ids.tolist(), hits.distances
        most = min(k, len(range(self.load.keys)[among]))
        least = min(k, self.truth.present(known, among))
        if not least <= len(found) <= most or len(set(found)) < len(found):
            raise WrongRead(f"asked for {k} of {among} rows, {found} came")
        if found and not 0 <= min(found) <= max(found) < self.load.keys:
            raise WrongRead(f"rows came that nobody wrote: {found}")
        if np.any(np.diff(distances) < 0):
            raise WrongRead(f"distances are not in order: {distances.tolist()}")
        for id_, distance in zip(found, distances.tolist(), strict=True):
            self._judge_hit(vector, id_, distance, int(known[id_]))
        if nearest is not None and (found[:1] != [nearest] or distances[0] != 0):
            raise WrongRead(f"row {nearest} has this vector, and {found} came at {distances[:1]}")

    def _judge_hit(
        self, vector: NDArray[np.float32], id_: int, distance: float, known: int
    ) -> None:
        """The distance is that of a vector which the row may have had meanwhile."""
        numbers = self.truth.candidates(id_, known)
        if numbers is None:
            return
        rows = vectors_of([id_] * len(numbers), numbers, self.dimension).astype(np.float64)
        right = [self.distance(squared) for squared in np.square(rows - vector).sum(axis=1)]
        if not any(math.isclose(distance, one, rel_tol=1e-5, abs_tol=1e-6) for one in right):
            raise WrongRead(
                f"row {id_} came at distance {distance}; its writes {list(numbers)} are at {right}"
            )


def deletes(load: StoreLoad) -> bool:
    """Whether keys of the store are deleted."""
    return load.operations.get("delete", 0) > 0


# --- values that follow from their key and the number of their write -----------------------------


def filled(key: int, number: int, size: int) -> bytes:
    """``size`` bytes: the number, and then what follows from key and number."""
    head = b"%d " % number
    digest = hashlib.blake2b(b"%d.%d" % (key, number), digest_size=64).digest()
    return (head + digest * (size // len(digest) + 1))[:size]


def number_in(key: int, content: bytes) -> int:
    """The number of the write that gave a key this value; ``WrongRead`` if none did."""
    head, _, _ = content[:20].partition(b" ")
    if not head.isdigit() or filled(key, int(head), len(content)) != content:
        raise WrongRead(f"key {key} holds what nobody wrote: {content[:60]!r}")
    return int(head)


def vectors_of(keys: Sequence[int], numbers: Sequence[int], dimension: int) -> NDArray[np.float32]:
    """(n, dimension) numbers in [-1, 1) that float32 has exactly: SplitMix64 of key and number."""
    first, second, third = _MULTIPLIERS
    seeds = np.asarray(keys, np.uint64) * second + np.asarray(numbers, np.uint64) * third
    with np.errstate(over="ignore"):
        bits = seeds[:, None] + np.arange(1, dimension + 1, dtype=np.uint64) * first
        bits = (bits ^ (bits >> np.uint64(30))) * second
        bits = (bits ^ (bits >> np.uint64(27))) * third
        bits ^= bits >> np.uint64(31)
    exact = (bits >> np.uint64(40)).astype(np.float32)
    vectors: NDArray[np.float32] = exact / np.float32(1 << 23) - np.float32(1)
    return vectors


def work_of(kind: str) -> type[Work[Any, Any]]:
    """The class for a kind of store."""
    from holdfast.bench.load.fold_work import FoldWork
    from holdfast.bench.load.index_work import IndexWork
    from holdfast.bench.load.registry_work import RegistryWork
    from holdfast.bench.load.vectors_work import VectorsWork
    from holdfast.bench.load.warm_work import WarmWork

    classes: dict[str, type[Work[Any, Any]]] = {
        "fold": FoldWork,
        "vectors": VectorsWork,
        "warm": WarmWork,
        "index": IndexWork,
        "registry": RegistryWork,
    }
    return classes[kind]


def preload(engine: holdfast.Engine, load: StoreLoad, durability: str, rows: int = 1000) -> None:
    """Write every key of a store."""
    work = work_of(load.kind)
    handle = work.open(engine, load, durability)
    for begin in range(0, load.keys, rows):
        work.preload(handle, load, range(begin, min(load.keys, begin + rows)))
