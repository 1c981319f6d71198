"""Persistent indexes: snapshots, inserts, replay, against what the same bytes cost at least."""

import asyncio
import itertools
import os
import time
from collections.abc import Callable

import lz4.block
import numpy as np
import zstandard
from numpy.typing import NDArray

import holdfast
from holdfast import PersistedIndex
from holdfast.bench import vector_data
from holdfast.bench.bare import read_files, write_and_sync
from holdfast.bench.measure import Row, at_least, in_turn, medians, seconds
from holdfast.bench.run import Run
from holdfast.formats.checksum import crc32
from holdfast.formats.iqdb_snapshot import decode_header, open_payload
from holdfast.formats.iqdb_wal import FrameStamp, encode_inserts
from holdfast.workers.index_messages import CompressionName

DIMENSION = 128
_BATCH = 1000
_CALLERS = 64
_MB = 1e6
_COMPRESSIONS: tuple[CompressionName, ...] = ("none", "lz4", "zstd")

Floats = NDArray[np.float32]


def _rows(run: Run) -> Floats:
    return vector_data.clustered(run.sizes.vectors.rows, DIMENSION, 1).rows


# --- snapshots ----------------------------------------------------------------------------------


def save(run: Run) -> list[Row]:
    """Writing a snapshot, against the slowest of writing, checksum and codec alone."""
    return [_save(run, name) for name in _COMPRESSIONS]


def load(run: Run) -> list[Row]:
    """Loading a snapshot, against the slowest of reading, checksum and codec alone."""
    return [_load(run, name) for name in _COMPRESSIONS]


def _save(run: Run, compression: CompressionName) -> Row:
    rows = _rows(run)
    with run.fresh() as directory:
        path = os.path.join(directory, "i.iqdb")
        with PersistedIndex.open(
            path, dimension=DIMENSION, compression=compression, durability="never",
            checkpoint_bytes=1 << 40,
        ) as index:  # fmt: skip
            index.insert_batch(range(len(rows)), rows)
            index.save()
            stored = _content(path)
            payload = _payload(path, stored)
            bare = itertools.count()
            limits: dict[str, Callable[[], object]] = {
                "write and sync": lambda: write_and_sync(f"{path}.{next(bare)}", len(stored)),
                "CRC-32": lambda: crc32(stored),
                **_codec(compression, payload),
            }
            samples = in_turn(
                {
                    "save": lambda: seconds(index.save),
                    **{name: _timed(work) for name, work in limits.items()},
                },
                run.sizes.repetitions,
            )
    return _against(f"index-save-{compression}", f"save a snapshot of {len(rows)} x {DIMENSION}, "
                    f"{compression}", "save", len(payload), samples, list(limits))  # fmt: skip


def _load(run: Run, compression: CompressionName) -> Row:
    rows = _rows(run)
    with run.fresh() as directory:
        path = os.path.join(directory, "i.iqdb")
        with PersistedIndex.open(path, dimension=DIMENSION, compression=compression) as index:
            index.insert_batch(range(len(rows)), rows)
            index.checkpoint()
        stored = _content(path)
        payload = _payload(path, stored)
        limits: dict[str, Callable[[], object]] = {
            "reading": lambda: _content(path),
            "CRC-32": lambda: crc32(stored),
            **_decoder(compression, payload),
        }
        samples = in_turn(
            {
                "load": lambda: _opening(path),
                **{name: _timed(work) for name, work in limits.items()},
            },
            run.sizes.repetitions,
        )
    return _against(f"index-load-{compression}", f"load a snapshot of {len(rows)} x {DIMENSION}, "
                    f"{compression}", "load", len(payload), samples, list(limits))  # fmt: skip


def _against(
    name: str, what: str, ours: str, size: int, samples: dict[str, list[float]], limits: list[str]
) -> Row:
    """Our speed in MB of vectors a second, against that of the slowest limit."""
    speeds = {key: [size / _MB / taken for taken in series] for key, series in samples.items()}
    middle = medians(speeds)
    slowest = min(limits, key=lambda limit: middle[limit])
    note = "; ".join(f"{limit} {middle[limit]:,.0f} MB/s" for limit in limits)
    return Row(
        name, what, middle[ours], "MB/s", f"{slowest} alone", middle[slowest], at_least(0.6),
        note, speeds,
    )  # fmt: skip


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _payload(path: str, stored: bytes) -> bytes:
    """What is in a snapshot once it is expanded."""
    return bytes(open_payload(memoryview(stored), decode_header(stored)))


def _opening(path: str) -> float:
    begun = time.perf_counter()
    index = PersistedIndex.load(path)
    taken = time.perf_counter() - begun
    index.close()
    return taken


def _timed(work: Callable[[], object]) -> Callable[[], float]:
    return lambda: seconds(work)


def _codec(compression: CompressionName, payload: bytes) -> dict[str, Callable[[], object]]:
    if compression == "zstd":
        return {"zstd 3": lambda: zstandard.ZstdCompressor(level=3).compress(payload)}
    if compression == "lz4":
        return {"LZ4": lambda: lz4.block.compress(payload, store_size=False)}
    return {}


def _decoder(compression: CompressionName, payload: bytes) -> dict[str, Callable[[], object]]:
    if compression == "zstd":
        packed = zstandard.ZstdCompressor(level=3).compress(payload)
        return {"zstd": lambda: zstandard.ZstdDecompressor().decompress(packed)}
    if compression == "lz4":
        block = lz4.block.compress(payload, store_size=False)
        return {"LZ4": lambda: lz4.block.decompress(block, uncompressed_size=len(payload))}
    return {}


# --- writing ------------------------------------------------------------------------------------


def insert(run: Run) -> list[Row]:
    """Inserts through an engine: batches without a sync, and single rows with one."""
    return [_batches(run), _callers(run)]


def _batches(run: Run) -> Row:
    rows = _rows(run)
    starts = range(0, len(rows), _BATCH)

    def work() -> float:
        with run.fresh() as directory, holdfast.open(directory) as engine:
            index = engine.index("i", dimension=DIMENSION, durability="never")
            begun = time.perf_counter()
            for start in starts:
                part = rows[start : start + _BATCH]
                index.insert_batch(range(start, start + len(part)), part)
            return len(rows) / (time.perf_counter() - begun)

    pieces = [rows[start : start + _BATCH].tobytes() for start in starts]

    def bare() -> float:
        with run.fresh() as directory, open(f"{directory}/log", "xb", buffering=0) as log:
            return len(rows) / seconds(lambda: log.writelines(pieces))

    samples = in_turn({"engine": work, "bare": bare}, run.sizes.repetitions)
    middle = medians(samples)
    return Row("index-insert-never", f"insert {len(rows)} x {DIMENSION} in batches of {_BATCH}, "
               "never", middle["engine"], "rows/s", budget=at_least(200_000), samples=samples,
               limit=("writing their vectors to a file", middle["bare"]))  # fmt: skip


def _callers(run: Run) -> Row:
    count = run.sizes.vectors.commits
    rows = _rows(run)[:count]
    record = encode_inserts([1], rows[:1], None, FrameStamp(1, 1, 0))

    def engine() -> float:
        with run.fresh() as directory:
            return count / asyncio.run(_inserting(directory, rows))

    def bare() -> float:
        with run.fresh() as directory:
            return count / seconds(lambda: _append_and_sync(f"{directory}/log", record, count))

    samples = in_turn({"engine": engine, "bare": bare}, run.sizes.repetitions)
    middle = medians(samples)
    return Row("index-insert-always", f"{_CALLERS} callers insert rows one by one, always",
               middle["engine"], "rows/s", "append and fsync of one record at a time",
               middle["bare"], at_least(3.0), samples=samples)  # fmt: skip


async def _inserting(directory: str, rows: Floats) -> float:
    async with holdfast.aio.open(directory) as engine:
        index = await engine.index("i", dimension=DIMENSION)
        numbers = iter(range(len(rows)))

        async def caller() -> None:
            for number in numbers:
                await index.insert(number, rows[number])

        begun = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(_CALLERS)))
        return time.perf_counter() - begun


def _append_and_sync(path: str, record: bytes, count: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for _ in range(count):
            os.write(descriptor, record)
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- opening ------------------------------------------------------------------------------------


def replay(run: Run) -> list[Row]:
    """Opening an index whose rows are all in the log."""
    rows = _rows(run)
    with run.fresh() as directory:
        path = os.path.join(directory, "i.iqdb")
        with PersistedIndex.open(
            path, dimension=DIMENSION, durability="never", checkpoint_bytes=1 << 40
        ) as index:
            index.insert_batch(range(len(rows)), rows)
        samples = in_turn(
            {
                "replay": lambda: len(rows) / _opening(path),
                "bare": lambda: len(rows) / seconds(lambda: read_files([path + ".wal"])),
            },
            run.sizes.repetitions,
        )
    middle = medians(samples)
    return [
        Row("index-replay", f"open with {len(rows)} records of {DIMENSION} dimensions in the log",
            middle["replay"], "records/s", budget=at_least(500_000), samples=samples,
            limit=("reading the log", middle["bare"]))
    ]  # fmt: skip
