"""Small vector files for tests that look at files: made by a store, and damaged by hand."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from holdfast.formats.rvf.images import Kernel, encode_kernel
from holdfast.formats.rvf.scan import walk
from holdfast.formats.rvf.segment import HEADER_BYTES, SegmentHeader, SegmentType
from holdfast.formats.tables import table_to_ipc
from holdfast.workers import vector_messages as vm
from holdfast.workers.actor import Caller
from holdfast.workers.disk import Disk, OsDisk
from holdfast.workers.messages import StoreSpec
from holdfast.workers.raw_arrays import raw
from holdfast.workers.vectors import VectorsActor, open_vectors

DIMENSION = 3
_CALLER = Caller(7, 0)


def tick() -> None:
    """Nobody watches whether a test makes progress."""


def opened(path: Path, disk: Disk | None = None, dimension: int | None = None) -> VectorsActor:
    """The store at ``path``, recovered; made if a dimension is given."""
    options = vm.VectorOptions(dimension=dimension)
    create = dimension is not None
    spec = StoreSpec("v", "vectors", str(path), "never", create=create, options=options)
    return open_vectors(OsDisk() if disk is None else disk, spec, tick)


def vector_of(number: int, version: int = 0) -> list[float]:
    """The vector of an id, different in every version."""
    return [float(number), float(version), 0.5]


def ingest(
    actor: VectorsActor, ids: Sequence[int], version: int = 0, notes: Sequence[str] | None = None
) -> None:
    """Write rows; ``notes`` are the values of a metadata column."""
    vectors = np.array([vector_of(number, version) for number in ids], np.float32)
    metadata = None
    if notes is not None:
        metadata = memoryview(table_to_ipc(pa.table({"note": pa.array(notes, pa.string())})))
    request = vm.VectorsIngest(raw(np.array(ids, np.uint64)), raw(vectors), metadata)
    actor.handle(request, _next())


def delete(actor: VectorsActor, ids: Sequence[int]) -> None:
    """Delete rows."""
    actor.handle(vm.VectorsDelete(raw(np.array(ids, np.uint64))), _next())


def embed_kernel(actor: VectorsActor, image: bytes) -> None:
    """Store an image."""
    actor.handle(vm.VectorsEmbed("kernel", memoryview(encode_kernel(Kernel(image, 0, 0)))), _next())


def branch(actor: VectorsActor, path: Path, exclude: Sequence[int] = ()) -> None:
    """Make a branch that does not show some ids."""
    hidden = raw(np.array(exclude, np.uint64)) if exclude else None
    actor.handle(vm.VectorsBranch(str(path), exclude=hidden), _next())


def make(path: Path) -> None:
    """A store of ids 1 to 9 but 3: in three segments, with metadata, an image and a witness each.

    The second segment has newer vectors of ids 2 and 4.
    """
    actor = opened(path, dimension=DIMENSION)
    ingest(actor, [1, 2, 3, 4], notes=["a", "b", "c", "d"])
    embed_kernel(actor, b"kernel" * 20)
    ingest(actor, [2, 4, 5, 6], 1)
    delete(actor, [3])
    ingest(actor, [7, 8, 9], notes=["g", "h", "i"])
    actor.close()


ROWS = {n: vector_of(n, n in (2, 4, 5, 6)) for n in (1, 2, 4, 5, 6, 7, 8, 9)}
"""What ``make`` leaves."""


def segments(content: bytes, kind: int | None = None) -> list[tuple[int, SegmentHeader]]:
    """Offset and header of the segments, all or of one type."""
    return [
        (offset, header)
        for offset, header in walk(memoryview(content))
        if kind is None or header.type == kind
    ]


def payload_start(content: bytes, kind: int, number: int) -> int:
    """Where the payload of a segment begins: the ``number``-th of its type."""
    return segments(content, kind)[number][0] + HEADER_BYTES


def flip(path: Path, offset: int) -> None:
    """Change a bit."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def damage_vec(path: Path, number: int) -> int:
    """Flip a bit in the rows of a VEC segment; its offset."""
    start = payload_start(path.read_bytes(), SegmentType.VEC, number)
    flip(path, start + 20)
    return start - HEADER_BYTES


_requests = iter(range(1, 1 << 30))


def _next() -> Caller:
    return _CALLER._replace(request=next(_requests))
