"""holdfast: an embedded, crash-proof storage engine.

    import holdfast
    with holdfast.open("data") as engine:
        config = engine.fold("config")

Map of the package, imports pointing downwards only:

    holdfast            the caller's process: engine, handles, routing, asyncio face, command line
    holdfast.workers    the other side of the pipe: supervisor, worker processes, actors, file layer
    holdfast.formats    bytes to values and back, limits, errors; no I/O
    holdfast.bench      load, faults and benchmarks; not needed to use the engine
"""

import importlib
import logging
from typing import TYPE_CHECKING

from holdfast.formats.errors import (
    ArtifactInvalid,
    CallTimeout,
    EngineClosed,
    EngineUnavailable,
    HoldfastError,
    InternalError,
    InvalidArgument,
    InvalidFormat,
    InvalidName,
    LimitExceeded,
    OptionsConflict,
    ProtocolError,
    ResultTooLarge,
    StaleUpdate,
    StoreCorrupt,
    StoreExists,
    StoreFailed,
    StoreFull,
    StoreIOError,
    StoreLocked,
    StoreNotFound,
    StoreReadOnly,
    UnsafeFileSystem,
    WorkerCrashed,
    WorkerTraceback,
    WrongKind,
)
from holdfast.formats.values import Cursor, Delete, KvEntry, Purge, Put, Update, Version

if TYPE_CHECKING:
    from holdfast import aio
    from holdfast.engine import AsyncEngine, Engine
    from holdfast.engine import open_engine as open
    from holdfast.handles.fold import AsyncFold, Fold
    from holdfast.workers.messages import (
        Compacted,
        Exported,
        ProcessInfo,
        Progress,
        Status,
        StoreHealth,
    )

__version__ = "0.1.0"

logging.getLogger("holdfast").addHandler(logging.NullHandler())

# Supervisor and workers import this package too and never need these: loading them on first use
# halves the time in which a supervisor starts.
_ON_FIRST_USE = {
    "AsyncEngine": ("holdfast.engine", "AsyncEngine"),
    "AsyncFold": ("holdfast.handles.fold", "AsyncFold"),
    "Compacted": ("holdfast.workers.messages", "Compacted"),
    "Engine": ("holdfast.engine", "Engine"),
    "Exported": ("holdfast.workers.messages", "Exported"),
    "Fold": ("holdfast.handles.fold", "Fold"),
    "ProcessInfo": ("holdfast.workers.messages", "ProcessInfo"),
    "Progress": ("holdfast.workers.messages", "Progress"),
    "Status": ("holdfast.workers.messages", "Status"),
    "StoreHealth": ("holdfast.workers.messages", "StoreHealth"),
    "aio": ("holdfast.aio", None),
    "open": ("holdfast.engine", "open_engine"),
}


def __getattr__(name: str) -> object:
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module_name, attribute = _ON_FIRST_USE[name]
    module = importlib.import_module(module_name)
    value = module if attribute is None else getattr(module, attribute)
    globals()[name] = value
    return value


__all__ = [
    "ArtifactInvalid",
    "AsyncEngine",
    "AsyncFold",
    "CallTimeout",
    "Compacted",
    "Cursor",
    "Delete",
    "Engine",
    "EngineClosed",
    "EngineUnavailable",
    "Exported",
    "Fold",
    "HoldfastError",
    "InternalError",
    "InvalidArgument",
    "InvalidFormat",
    "InvalidName",
    "KvEntry",
    "LimitExceeded",
    "OptionsConflict",
    "ProcessInfo",
    "Progress",
    "ProtocolError",
    "Purge",
    "Put",
    "ResultTooLarge",
    "StaleUpdate",
    "Status",
    "StoreCorrupt",
    "StoreExists",
    "StoreFailed",
    "StoreFull",
    "StoreHealth",
    "StoreIOError",
    "StoreLocked",
    "StoreNotFound",
    "StoreReadOnly",
    "UnsafeFileSystem",
    "Update",
    "Version",
    "WorkerCrashed",
    "WorkerTraceback",
    "WrongKind",
    "aio",
    "open",
]
