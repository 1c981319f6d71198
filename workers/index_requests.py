"""What is checked of a write before anything is changed."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from holdfast.formats import iqdb_wal
from holdfast.formats.errors import LimitExceeded, NotFound
from holdfast.formats.iqdb_values import Id
from holdfast.formats.limits import BATCH_BYTES_MAX, INDEX_RECORD_BYTES_MAX
from holdfast.workers.index_snapshot import StoredIndex


def check_sizes(
    ids: "NDArray[np.uint64] | list[Id]",
    metadata: list[bytes | None] | None,
    dimension: int,
    path: str,
) -> None:
    """Raise ``LimitExceeded`` for a batch over 1 GiB or with a record over 256 MiB."""
    longest = 0 if metadata is None else max(len(entries or b"") for entries in metadata)
    record = iqdb_wal.insert_bytes_max(ids, dimension, longest)
    if record > INDEX_RECORD_BYTES_MAX:
        raise LimitExceeded(
            f"a record of {record} bytes is over the limit of {INDEX_RECORD_BYTES_MAX}", path=path
        )
    total = len(ids) * (iqdb_wal.insert_bytes_max([], dimension, 0) + 8)
    if metadata is not None:
        total += sum(len(entries) for entries in metadata if entries is not None)
    if isinstance(ids, list):
        total += sum(len(id_) for id_ in ids if isinstance(id_, bytes))
    if total > BATCH_BYTES_MAX:
        raise LimitExceeded(
            f"a batch of {total} bytes is over the limit of {BATCH_BYTES_MAX}", path=path
        )


def not_found(ids: Sequence[Id], index: StoredIndex, path: str) -> NotFound:
    """The error that names the first id which comes twice or is not in the index."""
    seen: set[Id] = set()
    for id_ in ids:
        if id_ in seen:
            return NotFound(f"id {id_!r} comes twice in the batch", path=path)
        if id_ not in index:
            return NotFound(f"id {id_!r} is not in the index", path=path)
        seen.add(id_)
    raise AssertionError("all of them are there, once each")
