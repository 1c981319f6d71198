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
    Duplicate,
    EngineClosed,
    EngineUnavailable,
    HasBranches,
    HoldfastError,
    InternalError,
    InvalidArgument,
    InvalidFormat,
    InvalidName,
    LimitExceeded,
    NotFound,
    OptionsConflict,
    ParentChanged,
    ProtocolError,
    ResultTooLarge,
    StaleUpdate,
    StoreCorrupt,
    StoreExists,
    StoreFailed,
    StoreFrozen,
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
    from holdfast.async_engine import AsyncEngine
    from holdfast.engine import Engine, open_engine
    from holdfast.formats.fingerprint import FieldStats, Fingerprint
    from holdfast.formats.iqdb_values import HnswParameters
    from holdfast.formats.model_artifact import ModelArtifact
    from holdfast.formats.rvf.images import Dashboard, Ebpf, Kernel, KernelBinding, Wasm
    from holdfast.handles.async_vectors import AsyncVectors
    from holdfast.handles.async_warm import AsyncWarm
    from holdfast.handles.fingerprints import SchemaFingerprint
    from holdfast.handles.fold import AsyncFold, Fold
    from holdfast.handles.index import AsyncIndex, Index
    from holdfast.handles.index_parts import IndexHits, IndexRow
    from holdfast.handles.moments import Moment
    from holdfast.handles.registry import (
        AsyncRegistry,
        ColdStart,
        Neighbour,
        Registry,
        WarmLoad,
        WarmStart,
    )
    from holdfast.handles.results import QueryResult, Rows
    from holdfast.handles.vector_parts import Difference, Membership
    from holdfast.handles.vectors import Vectors
    from holdfast.handles.warm import Warm
    from holdfast.handles.warm_input import TemporalPoint
    from holdfast.handles.warm_transfer import WarmExported
    from holdfast.persisted_index import PersistedIndex
    from holdfast.workers.chronos_report import ChronosFile, ChronosFlaw, ChronosReport
    from holdfast.workers.fold_messages import ArtifactFile, Exported, Status
    from holdfast.workers.index_messages import (
        IndexInserted,
        IndexStatus,
        IndexVerified,
        SnapshotInfo,
    )
    from holdfast.workers.messages import Compacted, ProcessInfo, Progress, StoreHealth
    from holdfast.workers.persistable import Persistable, Reader, Writer
    from holdfast.workers.registry_messages import RegistryStatus
    from holdfast.workers.vector_messages import (
        Ancestor,
        CowStats,
        Identity,
        Ingested,
        Lineage,
        RejectedRow,
        Segment,
        SegmentReport,
        VectorStatus,
        Verified,
    )
    from holdfast.workers.warm_messages import (
        WarmFlaw,
        WarmImported,
        WarmStatus,
        WarmVerified,
        WarmWritten,
    )

    open = open_engine  # so that a checker takes the name for one of this module's

__version__ = "0.1.0"

logging.getLogger("holdfast").addHandler(logging.NullHandler())

# Supervisor and workers import this package too and never need these: loading them on first use
# halves the time in which a supervisor starts.
_ON_FIRST_USE = {
    "Ancestor": ("holdfast.workers.vector_messages", "Ancestor"),
    "ArtifactFile": ("holdfast.workers.fold_messages", "ArtifactFile"),
    "AsyncEngine": ("holdfast.async_engine", "AsyncEngine"),
    "AsyncFold": ("holdfast.handles.fold", "AsyncFold"),
    "AsyncIndex": ("holdfast.handles.index", "AsyncIndex"),
    "AsyncRegistry": ("holdfast.handles.registry", "AsyncRegistry"),
    "AsyncVectors": ("holdfast.handles.async_vectors", "AsyncVectors"),
    "AsyncWarm": ("holdfast.handles.async_warm", "AsyncWarm"),
    "ChronosFile": ("holdfast.workers.chronos_report", "ChronosFile"),
    "ChronosFlaw": ("holdfast.workers.chronos_report", "ChronosFlaw"),
    "ChronosReport": ("holdfast.workers.chronos_report", "ChronosReport"),
    "ColdStart": ("holdfast.handles.registry", "ColdStart"),
    "Compacted": ("holdfast.workers.messages", "Compacted"),
    "CowStats": ("holdfast.workers.vector_messages", "CowStats"),
    "Dashboard": ("holdfast.formats.rvf.images", "Dashboard"),
    "Difference": ("holdfast.handles.vector_parts", "Difference"),
    "Ebpf": ("holdfast.formats.rvf.images", "Ebpf"),
    "Engine": ("holdfast.engine", "Engine"),
    "Exported": ("holdfast.workers.fold_messages", "Exported"),
    "FieldStats": ("holdfast.formats.fingerprint", "FieldStats"),
    "Fingerprint": ("holdfast.formats.fingerprint", "Fingerprint"),
    "Fold": ("holdfast.handles.fold", "Fold"),
    "HnswParameters": ("holdfast.formats.iqdb_values", "HnswParameters"),
    "Identity": ("holdfast.workers.vector_messages", "Identity"),
    "Index": ("holdfast.handles.index", "Index"),
    "IndexHits": ("holdfast.handles.index_parts", "IndexHits"),
    "IndexInserted": ("holdfast.workers.index_messages", "IndexInserted"),
    "IndexRow": ("holdfast.handles.index_parts", "IndexRow"),
    "IndexStatus": ("holdfast.workers.index_messages", "IndexStatus"),
    "IndexVerified": ("holdfast.workers.index_messages", "IndexVerified"),
    "Ingested": ("holdfast.workers.vector_messages", "Ingested"),
    "Kernel": ("holdfast.formats.rvf.images", "Kernel"),
    "KernelBinding": ("holdfast.formats.rvf.images", "KernelBinding"),
    "Lineage": ("holdfast.workers.vector_messages", "Lineage"),
    "Membership": ("holdfast.handles.vector_parts", "Membership"),
    "ModelArtifact": ("holdfast.formats.model_artifact", "ModelArtifact"),
    "Moment": ("holdfast.handles.moments", "Moment"),
    "Neighbour": ("holdfast.handles.registry", "Neighbour"),
    "Persistable": ("holdfast.workers.persistable", "Persistable"),
    "PersistedIndex": ("holdfast.persisted_index", "PersistedIndex"),
    "ProcessInfo": ("holdfast.workers.messages", "ProcessInfo"),
    "Progress": ("holdfast.workers.messages", "Progress"),
    "QueryResult": ("holdfast.handles.results", "QueryResult"),
    "Reader": ("holdfast.workers.persistable", "Reader"),
    "Registry": ("holdfast.handles.registry", "Registry"),
    "RegistryStatus": ("holdfast.workers.registry_messages", "RegistryStatus"),
    "RejectedRow": ("holdfast.workers.vector_messages", "RejectedRow"),
    "Rows": ("holdfast.handles.results", "Rows"),
    "SchemaFingerprint": ("holdfast.handles.fingerprints", "SchemaFingerprint"),
    "Segment": ("holdfast.workers.vector_messages", "Segment"),
    "SegmentReport": ("holdfast.workers.vector_messages", "SegmentReport"),
    "SnapshotInfo": ("holdfast.workers.index_messages", "SnapshotInfo"),
    "Status": ("holdfast.workers.fold_messages", "Status"),
    "StoreHealth": ("holdfast.workers.messages", "StoreHealth"),
    "TemporalPoint": ("holdfast.handles.warm_input", "TemporalPoint"),
    "VectorStatus": ("holdfast.workers.vector_messages", "VectorStatus"),
    "Vectors": ("holdfast.handles.vectors", "Vectors"),
    "Verified": ("holdfast.workers.vector_messages", "Verified"),
    "Warm": ("holdfast.handles.warm", "Warm"),
    "WarmExported": ("holdfast.handles.warm_transfer", "WarmExported"),
    "WarmFlaw": ("holdfast.workers.warm_messages", "WarmFlaw"),
    "WarmImported": ("holdfast.workers.warm_messages", "WarmImported"),
    "WarmLoad": ("holdfast.handles.registry", "WarmLoad"),
    "WarmStart": ("holdfast.handles.registry", "WarmStart"),
    "WarmStatus": ("holdfast.workers.warm_messages", "WarmStatus"),
    "WarmVerified": ("holdfast.workers.warm_messages", "WarmVerified"),
    "WarmWritten": ("holdfast.workers.warm_messages", "WarmWritten"),
    "Wasm": ("holdfast.formats.rvf.images", "Wasm"),
    "Writer": ("holdfast.workers.persistable", "Writer"),
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


# Not ``open``: with ``from holdfast import *`` it would hide Python's.
__all__ = [
    "Ancestor",
    "ArtifactFile",
    "ArtifactInvalid",
    "AsyncEngine",
    "AsyncFold",
    "AsyncIndex",
    "AsyncRegistry",
    "AsyncVectors",
    "AsyncWarm",
    "CallTimeout",
    "ChronosFile",
    "ChronosFlaw",
    "ChronosReport",
    "ColdStart",
    "Compacted",
    "CowStats",
    "Cursor",
    "Dashboard",
    "Delete",
    "Difference",
    "Duplicate",
    "Ebpf",
    "Engine",
    "EngineClosed",
    "EngineUnavailable",
    "Exported",
    "FieldStats",
    "Fingerprint",
    "Fold",
    "HasBranches",
    "HnswParameters",
    "HoldfastError",
    "Identity",
    "Index",
    "IndexHits",
    "IndexInserted",
    "IndexRow",
    "IndexStatus",
    "IndexVerified",
    "Ingested",
    "InternalError",
    "InvalidArgument",
    "InvalidFormat",
    "InvalidName",
    "Kernel",
    "KernelBinding",
    "KvEntry",
    "LimitExceeded",
    "Lineage",
    "Membership",
    "ModelArtifact",
    "Moment",
    "Neighbour",
    "NotFound",
    "OptionsConflict",
    "ParentChanged",
    "Persistable",
    "PersistedIndex",
    "ProcessInfo",
    "Progress",
    "ProtocolError",
    "Purge",
    "Put",
    "QueryResult",
    "Reader",
    "Registry",
    "RegistryStatus",
    "RejectedRow",
    "ResultTooLarge",
    "Rows",
    "SchemaFingerprint",
    "Segment",
    "SegmentReport",
    "SnapshotInfo",
    "StaleUpdate",
    "Status",
    "StoreCorrupt",
    "StoreExists",
    "StoreFailed",
    "StoreFrozen",
    "StoreFull",
    "StoreHealth",
    "StoreIOError",
    "StoreLocked",
    "StoreNotFound",
    "StoreReadOnly",
    "TemporalPoint",
    "UnsafeFileSystem",
    "Update",
    "VectorStatus",
    "Vectors",
    "Verified",
    "Version",
    "Warm",
    "WarmExported",
    "WarmFlaw",
    "WarmImported",
    "WarmLoad",
    "WarmStart",
    "WarmStatus",
    "WarmVerified",
    "WarmWritten",
    "Wasm",
    "WorkerCrashed",
    "WorkerTraceback",
    "Writer",
    "WrongKind",
    "aio",
]
