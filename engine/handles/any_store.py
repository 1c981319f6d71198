"""What can be asked of a store of any kind."""

from typing import TypeAlias, cast

from holdfast.call import Call, awaitable, operation
from holdfast.handles.base import AsyncHandle, Handle
from holdfast.workers import fold_messages, messages
from holdfast.workers.index_messages import IndexStatus
from holdfast.workers.registry_messages import RegistryStatus
from holdfast.workers.vector_messages import VectorStatus
from holdfast.workers.warm_messages import WarmStatus

AnyStatus: TypeAlias = (
    fold_messages.Status | VectorStatus | WarmStatus | IndexStatus | RegistryStatus
)


class AnyStore(Handle):
    """What can be asked of a store of any kind."""

    @operation
    def status(self, *, timeout: float | None = None) -> Call[AnyStatus]:
        """Figures of the store, which differ with its kind."""
        return Call(messages.StoreStatus(), lambda reply: cast("AnyStatus", reply), timeout)

    @operation
    def check_may_drop(self, *, timeout: float | None = None) -> Call[None]:
        """Raise the error that says why the store may not be dropped, if it may not."""
        return Call(messages.StoreMayDrop(), lambda _: None, timeout)


class AsyncAnyStore(AsyncHandle):
    """``AnyStore`` for asyncio."""

    status = awaitable(AnyStore.status)
    check_may_drop = awaitable(AnyStore.check_may_drop)
