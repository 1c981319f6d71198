"""What fuzzing begins with: the files that stores write while they do what drills have them do.

They are made by the code that is fuzzed, so with weakened checksums they have those.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.bench.drill.plan import STORES, StoreKind
from holdfast.bench.drill.recording import Recorder
from holdfast.bench.drill.subjects import subject_of
from holdfast.bench.fuzz.parsers import PARSERS, refusal
from holdfast.formats import (
    ann_cache,
    artifact,
    bincode,
    chronos_chunk,
    expression,
    fold_index,
    frame,
    iqdb_snapshot,
    iqdb_trial,
    iqdb_values,
    ledger,
    points,
    postcard,
    tables,
    values,
    zsm,
)
from holdfast.formats.rvf import cow, images, journal, lock_file, scan, segment

SEED_BYTES_MAX = 1 << 14
_DONE_BY: dict[StoreKind, tuple[str, ...]] = {
    "fold": ("put-small", "put-large", "batch", "delete", "move-cursor"),
    "vectors": ("insert", "batch", "delete", "pair", "embed", "branch"),
    "warm": ("append", "replace", "flush", "append", "delete", "delete-range", "flush", "append"),
    "index": ("insert", "batch", "checkpoint", "named", "delete", "pair"),
    "registry": ("save", "save-two", "delete"),
}
_BY_SUFFIX = {
    ".snap": "fold_log",
    ".iqdb": "iqdb_snapshot",
    "/LOG": "warm_log",
    "/MANIFEST": "warm_manifest",
    ".zone": "zone_map",
    ".dead": "dead_rows",
    ".zsm": "zsm",
    ".closed": "iqdb_closing",
}


def seeds() -> dict[str, list[bytes]]:
    """Inputs by parser, each of which it accepts; for some parsers none."""
    found: dict[str, list[bytes]] = {name: [] for name in PARSERS}
    for kind, operations in _DONE_BY.items():
        assert kind in STORES
        for path, content in _files(kind, operations):
            for suffix, name in _BY_SUFFIX.items():
                if path.endswith(suffix):
                    found[name].append(content)
            if path.endswith(".ledger"):  # most of the ring is empty
                found["ledger"].append(content[: ledger.HEADER_BYTES + 64 * ledger.SLOT_BYTES])
            if path.endswith(".wal"):
                found["iqdb_wal"] += [bytes([dimension]) + content for dimension in range(8)]
            if path.endswith(".iqdb"):
                found["iqdb_core"].append(_payload(content))
            if path.endswith(".arrow"):
                found["warm_chunk"] += [bytes([d, r, 0, 0, 0, 0, 0, 0]) + content
                                        for d in range(4) for r in range(1, 9)]  # fmt: skip
            if path.endswith(".zsm"):
                view = memoryview(content)
                entries = zsm.read(view, lambda: None).entries
                found["model_artifact"] += [bytes(entry.artifact(view)) for entry in entries]
            if path.endswith(".rvf"):
                _take_apart(content, found)
    for name, more in _made().items():
        found[name] += more
    return {
        name: [data for data in dict.fromkeys(inputs)
               if len(data) <= SEED_BYTES_MAX and refusal(PARSERS[name], data) is None]
        for name, inputs in found.items()
    }  # fmt: skip


def _files(kind: StoreKind, operations: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    recorder = Recorder(subject_of(kind))
    disk = recorder.record(operations)[-1].disk
    for path, (_, content) in disk.files().items():
        if content is not None:
            yield path, content
    for path, (_, content) in recorder.closed().files().items():
        if content is not None:
            yield path, content


def _payload(snapshot: bytes) -> bytes:
    view = memoryview(snapshot)
    return bytes(iqdb_snapshot.open_payload(view, iqdb_snapshot.decode_header(view)))


def _take_apart(content: bytes, found: dict[str, list[bytes]]) -> None:
    """A vector store's file, and the payloads of its segments for whoever takes them."""
    view = memoryview(content)
    found["rvf.scan"].append(content)
    for offset, header in scan.walk(view):
        start = offset + segment.HEADER_BYTES
        stop = start + header.payload_bytes
        payload = bytes(view[start:stop])
        found["rvf.segment"].append(bytes(view[offset:stop]))
        for name in ("vec", "manifest", "meta", "record", "journal", "witness"):
            found[f"rvf.{name}"].append(payload)
        found["rvf.cow"] += [b"m" + payload, b"c" + payload]
        found["rvf.images"] += [bytes([kind]) + payload for kind in range(4)]


def _made() -> dict[str, list[bytes]]:
    """What no drill's store writes."""
    column = points.metadata_array([{"a": "b"}, None, {"c": "", "d": "e"}])
    point = postcard.encode_point(7, 1_700_000_000, np.ones(3, "<f4"), {"key": "value"})
    manifest = artifact.Manifest(values.Cursor.from_u64(7), 1_700_000_000, 100, "0" * 64)
    index = fold_index.FoldIndex(40, 20, 8, 1, b"c", 5, memoryview(b"\1" * 8).cast("Q"), [b"k"])
    where = (pc.field("age") > 31) & pc.field("name").isin(["a", "b"]) | ~pc.field("x").is_null()
    members = cow.Membership.of(np.array([1, 5, 70], np.uint64), 80)
    note = lock_file.LockNote(1234, "host", 1_700_000_000, bytes(16))
    return {
        "ann_cache": [ann_cache.encode(_small_ann())],
        "artifact": [artifact.encode_manifest(manifest)],
        "bincode": [b"\0" + bincode.text("text") + b"\3" + bincode.u64(7)],
        "chronos_chunk": [chronos_chunk.encode_frame(point) * 3],
        "chronos_names": [_CHRONOS_MANIFEST],
        "expression": [expression.encode_expression(where)],
        "fold_index": [fold_index.encode(index)],
        "frame": [frame.encode_header(frame.FrameKind.REQUEST, 7, 100)],
        "iqdb_trial": [iqdb_trial.encode([iqdb_trial.Tried(bytes(16), 7, 12, 1)] * 2)],
        "iqdb_values": [iqdb_values.encode_metadata({"a": 1, "b": "text", "c": None, "d": 0.5})],
        "points": [b"\3" + points.metadata_to_ipc(column)],
        "postcard": [point],
        "tables": [tables.table_to_ipc(pa.table({"a": [1, 2], "b": ["x", None]}))],
        "rvf.cow": [b"m" + cow.encode_membership(members)],
        "rvf.images": [
            b"\0" + images.encode_kernel(images.Kernel(b"image", 1, 1)),
            b"\1" + images.encode_ebpf(images.Ebpf(b"program", 1, 1, 8)),
            b"\2" + images.encode_wasm(images.Wasm(b"code", 1, 1, 0, 0)),
            b"\3" + images.encode_dashboard(images.Dashboard(b"a.html", 1, 6)),
        ],
        "rvf.journal": [journal.encode_journal(journal.Journal(1, np.array([1, 2, 3], np.uint64)))],
        "rvf.lock_file": [lock_file.encode_lock(note)],
    }


_CHRONOS_MANIFEST = (
    b'{"chunks":{"1:2":[{"filename":"chunk_2_0.bin","point_count":3,"min_timestamp":1,'
    b'"max_timestamp":5}]}}'
)


def _small_ann() -> ann_cache.AnnCache:
    def floats(*shape: int) -> ann_cache.Floats:
        return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)

    return ann_cache.AnnCache(
        file_id=bytes(range(16)), fingerprint=bytes(range(32)), trained_rows=5, dimension=5,
        metric="cosine", residual=True, block_rows=2, block_bytes=3, library=b"faiss 1.2.3",
        scale=0.5, query_length=1.5, limit=16.0, usual=2.5, slant=0.25, recall=0.96875,
        breadths=(1, 3), depths=(10, 120), center=floats(6), rotation=floats(2, 2),
        centroids=floats(3, 6), spreads=floats(3), codebook=floats(3, 16, 2),
        homes=np.array([2, 0, ann_cache.ABSENT, 2, ann_cache.OUTSIDE, 2, 0], np.uint32),
        codes=np.arange(9, dtype=np.uint8),
    )  # fmt: skip
