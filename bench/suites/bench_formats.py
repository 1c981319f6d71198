"""Bytes to values and back."""

import numpy as np
import pytest

from holdfast.bench import data
from holdfast.bench.fuzz.parsers import PARSERS, refusal
from holdfast.bench.fuzz.seeds import seeds
from holdfast.bench.load.registry_work import model_of
from holdfast.bench.suites.rates import Benchmark, measure
from holdfast.formats import checksum, fold_log, iqdb_wal, model_artifact, warm_log

SEEDS = {name: max(found, key=len) for name, found in seeds().items() if found}
ROWS, DIMENSION = 1000, 64


@pytest.mark.parametrize("name", sorted(SEEDS))
def test_parse(benchmark: Benchmark, name: str) -> None:
    """What a store of a few operations wrote, parsed as far as a store goes."""
    content = SEEDS[name]
    assert measure(benchmark, lambda: refusal(PARSERS[name], content), len(content)) is None


def test_checksum(benchmark: Benchmark) -> None:
    """The checksum of a fold's records over 1 MiB."""
    content = bytes(range(256)) * 4096
    measure(benchmark, lambda: checksum.crc32(content), len(content))


def test_fold_records(benchmark: Benchmark) -> None:
    """1,024 puts of 200 bytes as records of a fold's log."""
    puts = data.puts(range(data.BATCH))
    size = sum(map(len, fold_log.encode_updates(puts, 0)[0]))
    measure(benchmark, lambda: fold_log.encode_updates(puts, 0), size)


def test_index_records(benchmark: Benchmark) -> None:
    """1,000 rows of 64 floats as frames of an index's log."""
    ids, vectors = np.arange(ROWS, dtype=np.uint64), np.ones((ROWS, DIMENSION), np.float32)
    size = len(iqdb_wal.encode_inserts(ids, vectors, None, None))
    measure(benchmark, lambda: iqdb_wal.encode_inserts(ids, vectors, None, None), size)


def test_warm_record(benchmark: Benchmark) -> None:
    """1,000 points as one record of a warm store's log."""
    entities = memoryview(np.arange(ROWS, dtype=np.uint64).tobytes())
    times = memoryview(np.arange(ROWS, dtype=np.int64).tobytes())
    vectors = memoryview(np.ones((ROWS, DIMENSION), np.float32).tobytes())
    size = len(entities) + len(times) + len(vectors)

    def encode() -> object:
        return warm_log.encode_write(1, 1, entities, times, vectors, memoryview(b""))

    measure(benchmark, encode, size)


def test_artifact(benchmark: Benchmark) -> None:
    """A model of 12 fields, written and read."""
    model = model_of(1, 2, 12)
    size = len(model_artifact.encode(model))
    measure(benchmark, lambda: model_artifact.decode(model_artifact.encode(model)), size)
