"""Which model fits this table: the demonstration's third act, and an example of a registry.

Two real tables, the files that the demonstration follows and this machine's processes. What is
learned of each column is the chance that two of its rows agree by accident, which is what a record
linkage model calls u. The models are saved, the registry's worker is killed, and then it is asked
with a table of the same schema, with one that has a column more, and with one that has nothing in
common with either.
"""

import os
import signal
import time
from dataclasses import dataclass

import numpy as np
import psutil
import pyarrow as pa

from holdfast.engine import Engine
from holdfast.following import Listing
from holdfast.formats.model_artifact import ModelArtifact
from holdfast.handles.fingerprints import SchemaFingerprint
from holdfast.handles.registry import ColdStart, WarmLoad, WarmStart

Schema = list[tuple[str, str]]

FILES: Schema = [
    ("name", "Name"),
    ("folder", "Categorical"),
    ("suffix", "Categorical"),
    ("size", "Numeric"),
    ("modified", "Timestamp"),
]
PROCESSES: Schema = [
    ("pid", "Id"),
    ("program", "Name"),
    ("state", "Categorical"),
    ("threads", "Numeric"),
    ("started", "Timestamp"),
]
_UNRELATED: Schema = [("street", "Address"), ("phone", "Phone")]
_AGREE_IF_SAME = 0.95


@dataclass(frozen=True, slots=True)
class Findings:
    """What the third act found. Distances go from 0 to 1."""

    files: int
    processes: int
    fingerprint_s: float
    exact: str
    near: str
    near_distance: float | None
    far: str
    right: bool
    """The three look-ups ended as they must, and the registry holds what was saved."""


def compare_schemas(engine: Engine, listing: Listing) -> Findings:
    """Save a model for each table, kill the registry's worker, and look up three schemas."""
    registry = engine.registry("models")
    began = time.perf_counter()
    files, processes = _files(listing), _processes()
    of_files = SchemaFingerprint.from_sample(FILES, files)
    seconds = time.perf_counter() - began
    of_processes = SchemaFingerprint.from_sample(PROCESSES, processes)
    models = [
        _trained("files", of_files, files),
        _trained("processes", of_processes, pa.Table.from_pylist(processes)),
    ]
    registry.save_many(models)
    _kill_worker(engine, registry.name)
    exact = registry.lookup_startup_mode(SchemaFingerprint.from_schema(reversed(FILES)))
    more = files.append_column("lines", pa.nulls(files.num_rows))
    near = registry.lookup_startup_mode(
        SchemaFingerprint.from_sample([*FILES, ("lines", "Numeric")], more)
    )
    far = registry.lookup_startup_mode(SchemaFingerprint.from_schema(_UNRELATED))
    return Findings(
        files.num_rows,
        len(processes),
        seconds,
        type(exact).__name__,
        type(near).__name__,
        near.distance if isinstance(near, WarmStart) else None,
        type(far).__name__,
        exact == WarmLoad(models[0])
        and isinstance(near, WarmStart)
        and near.artifact == models[0]
        and far == ColdStart()
        and registry.list_all() == sorted(models, key=lambda model: model.schema_hash),
    )


def _files(listing: Listing) -> pa.Table:
    parts = [os.path.split(file.key) for file in listing.files]
    return pa.table(
        {
            "name": pa.array([name for _, name in parts], pa.string()),
            "folder": pa.array([folder for folder, _ in parts], pa.string()),
            "suffix": pa.array([os.path.splitext(name)[1] for _, name in parts], pa.string()),
            "size": pa.array([_size(file.path) for file in listing.files], pa.int64()),
            "modified": pa.array([file.mtime_ns // 10**9 for file in listing.files], pa.int64()),
        }
    )


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def _processes() -> list[dict[str, object]]:
    """One record for each process, by what it tells; some tell nothing to others."""
    wanted = ["pid", "name", "status", "num_threads", "create_time"]
    return [
        {
            "pid": process.info["pid"],
            "program": process.info["name"],
            "state": process.info["status"],
            "threads": process.info["num_threads"],
            "started": process.info["create_time"],
        }
        for process in psutil.process_iter(wanted)
    ]


def _trained(tag: str, fingerprint: SchemaFingerprint, table: pa.Table) -> ModelArtifact:
    """A model of two levels, same or not: how often rows agree by accident, and if they match."""
    u = [_agree_by_accident(table.column(name)) for name, _ in fingerprint.fields]
    return ModelArtifact(
        fingerprint,
        [[1 - _AGREE_IF_SAME, _AGREE_IF_SAME]] * len(u),
        [[1 - chance, chance] for chance in u],
        log_prior_odds=-float(np.log(max(2, table.num_rows))),
        upper_threshold=0.9,
        lower_threshold=0.1,
        tag=tag,
        trained_on=fingerprint.created_at,
    )


def _agree_by_accident(column: pa.ChunkedArray) -> float:
    counts = column.value_counts().field("counts").to_numpy(zero_copy_only=False)
    return float(np.sum((counts / max(1, counts.sum())) ** 2))


def _kill_worker(engine: Engine, name: str) -> None:
    for process in engine.processes():
        if process.store == name:
            os.kill(process.pid, signal.SIGKILL)
