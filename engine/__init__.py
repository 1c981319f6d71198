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

import logging

from holdfast import aio
from holdfast.engine import AsyncEngine, Engine
from holdfast.engine import open_engine as open
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
