"""Files of the original system load as it loads them, but for the improvements named here."""

import io
import json
import math
import struct
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pytest
from numpy.typing import NDArray

from holdfast.bench.faults import MemoryDisk
from holdfast.formats.errors import HoldfastError, InvalidFormat, StoreCorrupt
from holdfast.formats.iqdb_snapshot import decode_header
from holdfast.formats.iqdb_values import METRICS, Flaw, Id, IndexFlaw, Metric
from holdfast.formats.iqdb_wal import HEADER_BYTES, Damage, Frames, Insert, read_frame
from holdfast.workers.actor import Caller
from holdfast.workers.core_index import CoreIndex
from holdfast.workers.index_messages import IndexCheckpoint, IndexDelete, IndexInsert, IndexOptions
from holdfast.workers.index_store import open_store
from holdfast.workers.messages import Compacted
from holdfast.workers.persistable import Reader, Writer
from holdfast.workers.raw_arrays import raw
from tests.formats.iqdb_reader import Row
from tests.workers.index_model import PATH, WAL, ask, index_spec, opened_file, rows_of, tick

pytestmark = pytest.mark.usefixtures("quiet")

DATA = Path(__file__).parent.parent / "data" / "iqdb"
EXPECTED: dict[str, Any] = json.loads((DATA / "expected.json").read_text(encoding="utf-8"))
CASES: dict[str, Any] = EXPECTED["cases"]
SNAPSHOTS = sorted(name for name, case in CASES.items() if not case["has_wal"])
LOGS = sorted(name for name, case in CASES.items() if case["has_wal"])

# The original's errors, as they are told here.
FLAWS = {
    "BadMagic": Flaw.MAGIC,
    "UnsupportedVersion": Flaw.VERSION,
    "ChecksumMismatch": Flaw.CHECKSUM,
    "TruncatedHeader": Flaw.HEADER_CUT,
    "TruncatedPayload": Flaw.PAYLOAD_CUT,
    "InvalidMetric": Flaw.METRIC,
    "InvalidIndexType": Flaw.TYPE,
    "InvalidPayload": Flaw.PAYLOAD,
    "Compression": Flaw.COMPRESSION,
}
# Where opening differs from the original: rows or error, and why that is better.
IMPROVED: dict[str, tuple[str | type[HoldfastError], str]] = {
    "wal-flip-midlog.iqdb": (
        StoreCorrupt,
        "intact records follow the damage, so it is no torn tail: dropping them would be silent",
    ),
    "wal-hugelen-midlog.iqdb": (StoreCorrupt, "the same, with a damaged length"),
    "wal-zero-padded-64.iqdb": (
        "rowset-6",
        "zeros behind the last record are what a power cut leaves: they are trimmed",
    ),
}


def _row(item: dict[str, Any]) -> Row:
    id_: Id = item["id"] if isinstance(item["id"], int) else bytes.fromhex(item["id"]["bytes"])
    metadata = None
    if item["meta"] is not None:
        metadata = tuple(
            (key, bytes.fromhex(value["hex"]) if isinstance(value, dict) else value)
            for key, value in sorted(item["meta"].items(), key=lambda entry: entry[0].encode())
        )
    return id_, bytes.fromhex(item["hex"]), metadata


def _rowset(name: str) -> list[Row]:
    return [_row(item) for item in EXPECTED["rowsets"][name]]


def _disk(name: str) -> MemoryDisk:
    disk = MemoryDisk("/data")
    for path, source in ((PATH, DATA / name), (WAL, DATA / f"{name}.wal")):
        if source.exists():
            file = disk.create(path)
            file.append(source.read_bytes())
            file.sync()
            file.close()
    disk.sync_directory("/data")
    return disk


class VecIndex:
    """The payload of one of the original's examples: u64 ids and floats, nothing else."""

    INDEX_TYPE: ClassVar[str] = "vec"

    def __init__(self, dimension: int, metric: Metric) -> None:
        self.dimension = dimension
        self.metric: Metric = metric
        self.rows: dict[Id, NDArray[np.float32]] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, id_: object) -> bool:
        return id_ in self.rows

    def insert(self, id_: Id, vector: NDArray[np.float32], metadata: object) -> None:
        self.rows[id_] = vector

    def delete(self, id_: Id) -> None:
        del self.rows[id_]

    def search(self, vector: NDArray[np.float32], k: int) -> list[tuple[Id, float]]:
        hits = [(id_, float(np.linalg.norm(row - vector))) for id_, row in self.rows.items()]
        return sorted(hits, key=lambda hit: hit[1])[:k]

    def save_to(self, writer: Writer) -> None:
        writer.write(
            struct.pack("<QBQ", self.dimension, METRICS.index(self.metric), len(self.rows))
        )
        for id_, vector in self.rows.items():
            assert isinstance(id_, int)
            writer.write(struct.pack("<Q", id_) + vector.astype("<f4").tobytes())

    @classmethod
    def load_from(cls, reader: Reader) -> Self:
        dimension, metric, rows = struct.unpack("<QBQ", reader.read(17))
        index = cls(dimension, METRICS[metric])
        for _ in range(rows):
            (id_,) = struct.unpack("<Q", reader.read(8))
            index.rows[id_] = np.frombuffer(reader.read(4 * dimension), "<f4")
        return index


@pytest.mark.parametrize("name", sorted(CASES))
def test_headers_read_as_the_original_reads_them(name: str) -> None:
    """Every header gives the original's fields, or the original's error."""
    data = (DATA / name).read_bytes()
    expected = CASES[name]["header"]
    if "error" in expected:
        with pytest.raises(IndexFlaw) as raised:
            decode_header(data)
        assert raised.value.flaw is FLAWS[expected["error"]]
        return
    header = decode_header(data)
    assert (header.version, header.index_type) == (expected["version"], expected["index_type"])
    assert (header.dimension, header.rows) == (expected["dim"], expected["n_vectors"])
    assert METRICS.index(header.metric) == expected["metric"]
    assert f"{header.crc:08x}" == expected["crc32"]
    assert header.header_bytes == expected["header_len"]
    if header.version == 2:
        assert header.payload_bytes == expected["uncompressed_len"]


@pytest.mark.parametrize("name", [name for name in SNAPSHOTS if name != "snap-vec-example.iqdb"])
def test_snapshots_load_as_in_the_original(name: str) -> None:
    """Every snapshot gives the original's rows in its order, or its error and is not touched."""
    expected = CASES[name]["load_without_wal"]
    disk = _disk(name)
    if expected["ok"]:
        actor = opened_file(disk)
        assert rows_of(actor) == _rowset(expected["rows"])
        index = actor.store.index
        assert isinstance(index, CoreIndex)
        assert index.kind == expected["kind"].split("(")[0].lower()
        return
    with pytest.raises(StoreCorrupt) as raised:
        opened_file(disk)
    assert disk.content(PATH) == (DATA / name).read_bytes()
    assert raised.value.path == PATH
    flaw = raised.value.__cause__
    assert isinstance(flaw, IndexFlaw)
    assert flaw.flaw is FLAWS[expected["error"]]


@pytest.mark.parametrize("name", LOGS)
def test_logs_load_as_in_the_original(name: str) -> None:
    """Snapshot and log give the original's rows, by rules that allow a log to be read again."""
    expected = CASES[name]["load_with_wal_idempotent"]
    wanted = expected.get("rows", InvalidFormat)
    if name in IMPROVED:
        wanted = IMPROVED[name][0]
        assert wanted != expected.get("rows")
    disk = _disk(name)
    if isinstance(wanted, str):
        assert rows_of(opened_file(disk)) == _rowset(wanted)
        return
    with pytest.raises(wanted) as raised:
        opened_file(disk)
    assert raised.value.path == WAL
    for path, source in ((PATH, DATA / name), (WAL, DATA / f"{name}.wal")):
        assert disk.content(path) == source.read_bytes(), "it was touched"


@pytest.mark.parametrize("name", LOGS)
def test_intact_records_lie_where_the_original_finds_them(name: str) -> None:
    """Frame by frame, offsets and lengths are the original's, up to the first of no bytes."""
    view = memoryview((DATA / f"{name}.wal").read_bytes())
    for offset, length in CASES[name]["intact_frames"]["from_offset_12"]:
        found = read_frame(view, offset, 8)
        if isinstance(found, Damage):
            refused = "error" in CASES[name]["load_with_wal_idempotent"]
            assert refused or "checksum" in found.reason  # which that list does not look at
            break
        assert isinstance(found, Frames)
        assert found.stop - offset == length


def test_an_index_of_ones_own_reads_the_example_of_the_original() -> None:
    """A class with the few methods of the seam opens a payload that is nobody else's."""
    disk = _disk("snap-vec-example.iqdb")
    store = open_store(disk, index_spec(options=IndexOptions()), tick, cls=VecIndex)
    inner = store.index.inner  # type: ignore[union-attr]  # no built-in index
    assert isinstance(inner, VecIndex)
    expected = EXPECTED["rowsets"][CASES["snap-vec-example.iqdb"]["load_without_wal"]["rows"]]
    assert [(id_, row.tobytes().hex()) for id_, row in inner.rows.items()] == [
        (item["id"], item["hex"]) for item in expected
    ]
    again = io.BytesIO()
    inner.save_to(again)
    assert (DATA / "snap-vec-example.iqdb").read_bytes().endswith(again.getvalue())


def test_log_and_checkpoint_equal_the_originals_bytes() -> None:
    """The same writes give the same log; a checkpoint, the same snapshot and the same new log."""
    disk = _disk("wal-header-only.iqdb")
    live = (DATA / "wal-live.iqdb.wal").read_bytes()
    actor = opened_file(disk, stamps=False)
    at, request = HEADER_BYTES, 0
    while at < len(live):
        frame = read_frame(memoryview(live), at, 8)
        assert isinstance(frame, Frames)
        at, request = frame.stop, request + 1
        caller = Caller(1, request)
        change = frame.change
        if isinstance(change, Insert):
            write = IndexInsert(change.ids, raw(change.vectors.copy()), change.metadata, True)
            actor.handle(write, caller)
        else:
            actor.handle(IndexDelete([change.id]), caller)
    actor.commit()
    assert disk.content(WAL) == live
    ask(actor, IndexCheckpoint(), Compacted)
    assert disk.content(PATH) == (DATA / "wal-checkpointed.iqdb").read_bytes()
    assert disk.content(WAL) == (DATA / "wal-checkpointed.iqdb.wal").read_bytes()


@pytest.mark.parametrize(
    "name",
    ["snap-none.iqdb", "snap-kind-hnsw.iqdb", "snap-kind-ivf.iqdb", "snap-flat-tag.iqdb"]
    + [f"snap-metric{code}.iqdb" for code in range(5)]
    + ["snap-empty.iqdb", "snap-special-floats.iqdb"],
)
def test_a_snapshot_written_again_equals_the_originals_bytes(name: str) -> None:
    """Loaded and saved, an uncompressed snapshot is the same file."""
    disk = _disk(name)
    actor = opened_file(disk, stamps=False)
    ask(actor, IndexCheckpoint(), Compacted)
    assert disk.content(PATH) == (DATA / name).read_bytes()


def test_special_floats_keep_their_bits() -> None:
    """NaN, infinities and minus zero come back as they were written."""
    disk = _disk("snap-special-floats.iqdb")
    numbers = np.frombuffer(rows_of(opened_file(disk))[0][1], "<f4").tolist()
    assert math.isnan(numbers[0])
    assert numbers[1:3] == [math.inf, -math.inf]
    assert math.copysign(1, numbers[3]) == -1
