"""Snapshots of an index on disk: written beside, verified, then put in place; and read.

Nothing is held but the piece being written, except by LZ4, which needs the whole payload before its
first byte. A slice of work is a piece of some hundred KiB; the index may change in between.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from holdfast.formats.checksum import crc32, crc32_combine
from holdfast.formats.errors import HoldfastError, InvalidArgument, InvalidFormat, StoreCorrupt
from holdfast.formats.iqdb_snapshot import (
    HEADER_BYTES_MAX,
    LZ4_INPUT_BYTES_MAX,
    PREAMBLE_BYTES,
    Compression,
    Encoder,
    SnapshotHeader,
    Stamp,
    check_region,
    decode_header,
    encode_header,
    encode_preamble,
    encode_stamp,
    open_payload,
    split_stamp,
)
from holdfast.formats.iqdb_values import Buffer, Flaw, IndexFlaw
from holdfast.formats.limits import INDEX_RATIO_MAX
from holdfast.workers.core_index import CoreIndex
from holdfast.workers.disk import TEMPORARY_SUFFIX, Disk, File, remove_if_there
from holdfast.workers.foreign_index import ForeignIndex, load_foreign
from holdfast.workers.messages import Progress
from holdfast.workers.persistable import Persistable, type_of

StoredIndex: TypeAlias = CoreIndex | ForeignIndex

_WRITE_EVERY_BYTES = 4 << 20
_AROUND_ROWS_BYTES = 256  # a payload's header and stamp, at most
CORE_TYPES = (CoreIndex.INDEX_TYPE, "flat")
"""Types whose payload is that of the built-in index; the second one older tools have written."""
# What was written by somebody else, or for something else; the rest is damage.
FOREIGN = {Flaw.MAGIC, Flaw.VERSION, Flaw.METRIC, Flaw.TYPE, Flaw.PAYLOAD}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A snapshot in memory."""

    index: StoredIndex
    header: SnapshotHeader
    stamp: Stamp | None


class Written(NamedTuple):
    """A snapshot on disk: its length, the moment it shows, and how it is compressed."""

    file_bytes: int
    log_end: int
    compression: Compression


class Moment(NamedTuple):
    """What a snapshot shows: the stamp, and how far the log was."""

    stamp: Stamp | None
    log_end: int


def flawed(path: str, flaw: IndexFlaw) -> HoldfastError:
    """The typed form of a flaw met in the file at ``path``."""
    cls = InvalidFormat if flaw.flaw in FOREIGN else StoreCorrupt
    return cls(
        f"{path!r} is damaged at offset {flaw.offset}: {flaw.reason}"
        if cls is StoreCorrupt
        else f"{path!r} cannot be loaded here: offset {flaw.offset}: {flaw.reason}",
        path=path,
        offset=flaw.offset,
        reason=flaw.reason,
    )


# --- reading ------------------------------------------------------------------------------------


def load_snapshot(
    view: memoryview,
    cls: type[Persistable] | None,
    *,
    ratio_guard: bool,
    tick: Callable[[], None],
) -> Loaded:
    """The index in a snapshot's bytes; ``cls`` is the class of one that is not built in.

    Raises ``IndexFlaw``, whose offset is in the file, or in the payload once that is expanded.
    """
    header = decode_header(view[: HEADER_BYTES_MAX + PREAMBLE_BYTES])
    expected = CORE_TYPES if cls is None else (type_of(cls),)
    if header.index_type not in expected:
        hint = ""
        if cls is None:
            hint = ": name its class to open it, as kind='package.module:Class' or index_class"
        reason = f"it holds an index of type {header.index_type!r}, expected {expected[0]!r}{hint}"
        raise IndexFlaw(Flaw.TYPE, reason, 20)
    check_region(view, header, tick)
    payload = open_payload(view, header, ratio_max=INDEX_RATIO_MAX if ratio_guard else None)
    payload, stamp = split_stamp(payload)
    index: StoredIndex
    if cls is None:
        index = CoreIndex.load(payload, tick, consume=True)
    else:
        index = load_foreign(cls, payload)
    if isinstance(index, CoreIndex):
        index.index_type = header.index_type
    for what, found, said in (
        ("dimension", index.dimension, header.dimension),
        ("metric", index.metric, header.metric),
        ("number of vectors", len(index), header.rows),
    ):
        if found != said:
            reason = f"the header says {what} {said!r}, the payload {found!r}"
            raise IndexFlaw(Flaw.PAYLOAD, reason, header.header_bytes)
    return Loaded(index, header, stamp)


# --- writing ------------------------------------------------------------------------------------


def write_beside(
    disk: Disk,
    path: str,
    index: StoredIndex,
    moment: Callable[[], Moment],
    compression: Compression,
    level: int,
) -> Generator[Progress | None, None, Written]:
    """Write a snapshot to the temporary file beside ``path``, synced and verified, in slices.

    ``moment`` is asked when the rows are fixed that go into it. A payload that would compress so
    well that readers took it for a bomb, or is too long for LZ4, is stored as it is. Raises plain
    ``OSError``, and ``InvalidArgument`` for a class of the user's that cannot be saved so that it
    loads again; nothing is left then.
    """
    temporary = path + TEMPORARY_SUFFIX
    remove_if_there(disk, temporary)
    file = disk.open(temporary, write=True, create=True)
    try:
        writing = _Writing(file, index, moment(), compression, level)
        yield from writing.steps()
        if not writing.readable():
            file.truncate(0)
            writing = _Writing(file, index, moment(), Compression.NONE, level)
            yield from writing.steps()
        file.sync()
        _verify(file, temporary, index)
    except BaseException:
        file.close()
        remove_if_there(disk, temporary)
        raise
    file.close()
    return Written(writing.end, writing.moment.log_end, writing.compression)


def _verify(file: File, path: str, index: StoredIndex) -> None:
    """Read back what was written: the old snapshot must not go before the new one is good.

    What a class of the user's has written is loaded, too: only it can tell whether that is all.
    """
    view = file.map()
    try:
        check_region(view, decode_header(view[: HEADER_BYTES_MAX + PREAMBLE_BYTES]))
    except IndexFlaw as flaw:
        raise flawed(path, flaw) from flaw
    if not isinstance(index, ForeignIndex):
        return
    cls = type(index.inner)
    try:
        load_snapshot(view, cls, ratio_guard=False, tick=lambda: None)
    except IndexFlaw as flaw:
        raise InvalidArgument(
            f"{cls.__name__}.save_to wrote what load_from does not give back: {flaw.reason}"
        ) from flaw


class _Writing:
    """One attempt to write a snapshot to an open file."""

    def __init__(
        self, file: File, index: StoredIndex, moment: Moment, compression: Compression, level: int
    ) -> None:
        self._file = file
        self._index = index
        self._count = len(index)
        self._estimate = self._count * (4 * index.dimension + 10) + _AROUND_ROWS_BYTES
        self._encoder = Encoder(compression, level, self._estimate)
        self.compression = compression
        self.moment = moment
        head = encode_header(index.index_type, index.dimension, index.metric, 0, 0)
        self._start = len(head)
        self.end = self._start + PREAMBLE_BYTES
        self._crc = 0
        self._payload_bytes = 0
        self._begun = self.end

    def steps(self) -> Generator[Progress | None, None, None]:
        for piece in self._index.payload():
            self._add(piece)
            yield Progress(
                "snapshot", self._payload_bytes, max(self._estimate, self._payload_bytes)
            )
        if self.moment.stamp is not None:
            self._add(encode_stamp(self.moment.stamp))
        if self.too_long():
            return
        self._store(self._encoder.finish())
        preamble = encode_preamble(self.compression, self._payload_bytes)
        stored = self.end - self._start - PREAMBLE_BYTES
        crc = crc32_combine(crc32(preamble), self._crc, stored)
        index = self._index
        head = encode_header(index.index_type, index.dimension, index.metric, self._count, crc)
        self._file.write_at(0, head + preamble)

    def _add(self, piece: Buffer) -> None:
        self._payload_bytes += len(piece)
        if not self.too_long():
            self._store(self._encoder.add(piece))

    def _store(self, data: Buffer) -> None:
        view = memoryview(data)
        for start in range(0, len(view), _WRITE_EVERY_BYTES):
            piece = view[start : start + _WRITE_EVERY_BYTES]
            self._file.write_at(self.end, piece)
            self.end += len(piece)
            if self.end - self._begun >= _WRITE_EVERY_BYTES:  # so that no sync keeps callers long
                self._file.write_behind(self._begun, self.end - self._begun)
                self._begun = self.end
            self._crc = crc32(piece, self._crc)

    def too_long(self) -> bool:
        """Whether there is more than the codec takes."""
        return self.compression is Compression.LZ4 and self._payload_bytes > LZ4_INPUT_BYTES_MAX

    def readable(self) -> bool:
        """Whether a reader will take what was written."""
        stored = self.end - self._start - PREAMBLE_BYTES
        fits = self._payload_bytes <= INDEX_RATIO_MAX * stored
        return self.compression is Compression.NONE or (fits and not self.too_long())
