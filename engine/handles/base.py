"""What the handles of all kinds share."""

from collections.abc import Callable
from typing import Protocol, TypeVar

from holdfast.async_coordinator import AsyncCoordinator
from holdfast.call import AnswerOutdated, Call
from holdfast.coordinator import Coordinator
from holdfast.workers.messages import StoreSpec

T = TypeVar("T")
M = TypeVar("M")


class _StoreHandle:
    """Name and place of a store."""

    def __init__(self, spec: StoreSpec) -> None:
        self._spec = spec

    @property
    def name(self) -> str:
        """Name of the store."""
        return self._spec.name

    @property
    def path(self) -> str:
        """Path of the store's file."""
        return self._spec.path

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} at {self.path!r}>"


class Handle(_StoreHandle):
    """A store by name. It outlives its worker, and may be used from any thread.

    It outlives a store that is dropped, too, and shows the one that is made under the name again;
    unless something is another that never changes of a store, such as its dimension or metric: then
    every call raises ``OptionsConflict``, and the store has to be opened again.
    """

    def __init__(self, coordinator: Coordinator, spec: StoreSpec) -> None:
        super().__init__(spec)
        self._coordinator = coordinator
        self._pool = coordinator.pool(spec)

    def _run(self, call: Call[T]) -> T:
        while True:
            try:
                return self._coordinator.run(self._pool, call)
            except AnswerOutdated:
                if call.instead is None:
                    raise
                call = call.instead()


class AsyncHandle(_StoreHandle):
    """As ``Handle``, for the event loop it was made in."""

    def __init__(self, coordinator: AsyncCoordinator, spec: StoreSpec) -> None:
        super().__init__(spec)
        self._coordinator = coordinator

    async def _run(self, call: Call[T]) -> T:
        while True:
            try:
                return await self._coordinator.run(self._spec, call)
            except AnswerOutdated:
                if call.instead is None:
                    raise
                call = call.instead()


class _Counting(Protocol):
    def count(self) -> int: ...


class Sized:
    """``len`` of a blocking handle is its ``count``."""

    def __len__(self: _Counting) -> int:
        return self.count()

    def __bool__(self) -> bool:
        return True  # a store without anything in it is a store


def expecting(kind: type[M], take: Callable[[M], T]) -> Callable[[object], T]:
    """Make ``take`` of a reply of this type; any other is a defect."""

    def unwrap(reply: object) -> T:
        assert isinstance(reply, kind), f"expected {kind.__name__}, got {reply!r}"
        return take(reply)

    return unwrap
