"""The manifest of a warm store: which chunks count, and how much of the log is in them.

Two lines of text::

    {"format": "holdfast-warm", "version": 1, ...}     JSON, without line breaks
    crc32 xxxxxxxx                                     of the first line with its line break

It is always replaced as a whole. What it does not list is a leftover and holds nothing.
"""

from typing import Annotated, Literal

import msgspec

from holdfast.formats.checksum import crc32
from holdfast.formats.errors import InvalidFormat
from holdfast.formats.limits import CHUNK_ROWS_MAX, DIMENSION_MAX
from holdfast.formats.warm_terms import Compression

FORMAT = "holdfast-warm"
VERSION = 1
_CHECK = b"crc32 "
_CHECK_LINE_BYTES = len(_CHECK) + 9

Number = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
I64 = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
U32 = Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 1)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=(1 << 48))]
RowCount = Annotated[int, msgspec.Meta(ge=1, le=CHUNK_ROWS_MAX)]


class DeadFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file that lists a chunk's dead rows: its number, how many they are, size, checksum."""

    number: Number
    rows: RowCount
    bytes: Positive
    checksum: U32


class ChunkEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A chunk that counts. ``checksum`` is the zone map's, which has those of the chunk."""

    number: Number
    run: Number
    """Chunks of the same run were made together, one behind the other in order of key."""
    rows: RowCount
    bytes: Positive
    zone_bytes: Positive
    checksum: U32
    min_time: I64
    max_time: I64
    dead: DeadFile | None = None


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The state of a store apart from its log."""

    store_id: str
    """32 hexadecimal digits"""
    dimension: Annotated[int, msgspec.Meta(ge=1, le=DIMENSION_MAX)]
    generation: Number
    """One more each time."""
    flushed: Number
    """Records of the log up to this sequence are in the chunks."""
    logged: Number
    """The log had records up to this sequence, and they were synced: so far it cannot be torn."""
    next_number: Number
    """Of the next file."""
    compression: Compression
    chunks: list[ChunkEntry]
    ingested_bytes: Number = 0
    """Bytes of points given to the store so far."""
    written_bytes: Number = 0
    """Bytes written to files for them."""
    dropped: bool = False
    """The store is being removed, and counts as absent."""
    format: Literal["holdfast-warm"] = "holdfast-warm"
    version: int = VERSION


_decode = msgspec.json.Decoder(Manifest).decode
# Neither text that is not UTF-8 nor deep nesting is a DecodeError.
_REFUSALS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def encode(manifest: Manifest) -> bytes:
    """A manifest as a file's bytes."""
    line = msgspec.json.encode(manifest) + b"\n"
    return line + _CHECK + b"%08x\n" % crc32(line)


def decode(data: bytes) -> Manifest:
    """A manifest. Raises ``InvalidFormat`` with the offset of what is wrong."""
    line, check = data[:-_CHECK_LINE_BYTES], data[-_CHECK_LINE_BYTES:]
    if not line.endswith(b"\n") or not check.startswith(_CHECK) or not check.endswith(b"\n"):
        raise _refusal("it does not end with its checksum", max(0, len(data) - _CHECK_LINE_BYTES))
    if check[len(_CHECK) : -1] != b"%08x" % crc32(line):
        raise _refusal("its checksum does not match", len(line))
    _check_version(line)
    try:
        manifest = _decode(line)
    except _REFUSALS as error:
        raise _refusal(str(error), 0) from error
    reason = _contradiction(manifest)
    if reason is not None:
        raise _refusal(reason, 0)
    return manifest


def is_of_another_version(data: bytes) -> bool:
    """Whether this is an intact manifest of a version that this release does not read."""
    line = data[:-_CHECK_LINE_BYTES]
    if data[len(line) :] != _CHECK + b"%08x\n" % crc32(line):
        return False
    try:
        found = msgspec.json.decode(line, type=_Version)
    except _REFUSALS:
        return False
    return found.format == FORMAT and found.version != VERSION


class _Version(msgspec.Struct):
    format: str = ""
    version: int = 0


def _check_version(line: bytes) -> None:
    try:
        found = msgspec.json.decode(line, type=_Version)
    except _REFUSALS as error:
        raise _refusal(str(error), 0) from error
    if found.format != FORMAT or found.version != VERSION:
        raise _refusal(
            f"format {found.format!r} version {found.version}, this release reads {FORMAT!r} "
            f"version {VERSION}",
            0,
        )


def _contradiction(manifest: Manifest) -> str | None:
    try:
        if len(bytes.fromhex(manifest.store_id)) != 16:
            return f"store_id {manifest.store_id!r} is not of 16 bytes"
    except ValueError:
        return f"store_id {manifest.store_id!r} is not hexadecimal"
    numbers = [chunk.number for chunk in manifest.chunks]
    numbers += [chunk.dead.number for chunk in manifest.chunks if chunk.dead is not None]
    if len(set(numbers)) != len(numbers):
        return "a file is listed twice"
    if numbers and max(numbers) >= manifest.next_number:
        return f"file {max(numbers)} is not below the next number {manifest.next_number}"
    last_of_run: dict[int, int] = {}
    for chunk in manifest.chunks:
        if last_of_run.get(chunk.run, -1) >= chunk.number:
            return f"chunk {chunk.number} of run {chunk.run} is not in order"
        last_of_run[chunk.run] = chunk.number
        if chunk.dead is not None and chunk.dead.rows > chunk.rows:
            return f"chunk {chunk.number} has {chunk.dead.rows} dead rows of {chunk.rows}"
        if chunk.min_time > chunk.max_time:
            return f"chunk {chunk.number} ends before it begins"
    return None


def _refusal(reason: str, offset: int) -> InvalidFormat:
    return InvalidFormat(f"not a manifest of a warm store: {reason}", offset=offset, reason=reason)
