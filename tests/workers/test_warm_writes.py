"""What a warm store keeps of a write is its own: the request's memory is used for the next."""

import numpy as np
import pytest

from holdfast.bench.faults import MemoryDisk
from holdfast.formats.points import metadata_array, metadata_to_ipc
from holdfast.workers import warm_messages as wm
from holdfast.workers.actor import Caller
from holdfast.workers.raw_arrays import raw
from tests.workers.warm_model import DIMENSION, opened

ENTITIES = {
    "one for all": np.array([7], np.uint64),
    "in order": np.full(200, 7, np.uint64),
    "in no order": np.arange(200, dtype=np.uint64)[::-1].copy(),
}


@pytest.mark.parametrize("rows", [1, 64, 65, 200])
@pytest.mark.parametrize("kind", ENTITIES)
def test_points_stay_when_the_memory_of_their_request_is_used_again(kind: str, rows: int) -> None:
    """Whether a batch is kept as it came or was sorted, and whatever its size."""
    ids = ENTITIES[kind] if kind == "one for all" else ENTITIES[kind][:rows]
    times = np.arange(rows, dtype=np.int64)
    vectors = np.arange(rows * DIMENSION, dtype=np.float32).reshape(rows, DIMENSION)
    metadata = metadata_to_ipc(metadata_array([{"row": str(row)} for row in range(rows)]))
    frames = [bytearray(part) for part in (raw(ids), raw(times), raw(vectors), metadata)]
    actor = opened(MemoryDisk("/data"))
    given = [memoryview(frame) for frame in frames]
    request = wm.WarmWrite(3, given[0], given[1], given[2], given[3])
    actor.handle(request, Caller(1, 1))
    for frame in frames:
        frame[:] = bytes(len(frame))
    for row in range(rows):
        found = actor.handle(
            wm.WarmGet(3, int(ids[min(row, len(ids) - 1)]), row), Caller(1, 2 + row)
        )
        assert isinstance(found, wm.WarmPoint)
        assert found.vector == raw(vectors[row])
        assert found.metadata == {"row": str(row)}
    actor.check_invariants()
