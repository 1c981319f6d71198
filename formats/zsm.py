"""The registry's file, ``.zsm``: every artifact under the hash of its schema.

All integers are little-endian. What the original program reads::

    offset  size  name
         0     4  magic, 5A 53 4D 01
         4     8  count of entries, u64
        12        the entries: 32 bytes of key, then one artifact (``formats.model_artifact``)

Behind the entries the original reads nothing, so this is where files written here carry what tells
damage: the place and the checksum of each entry. The original drops it when it writes the file::

    offset  size  checks, from E where the last entry ends
         E     8  magic "HFZCHK" 00 01
       E+8   12n  for each of the n entries: where it ends, u64; crc of its key and artifact, u32
  E+8+12n     8  count of entries n, u64
 E+16+12n     8  where the entries end, which is E, u64
 E+24+12n     4  crc of bytes 0 to 12 of the file and of the checks up to here
 E+28+12n     8  magic "HFZCHK" 00 01

Written here, entries are sorted by key, so that the same artifacts are the same bytes. Read are
entries in any order; of a repeated key the last one counts, and a key need not be the artifact's
own hash, as in the original. A file without checks was written by the original, and holds what it
says; it ends with its last entry. So other bytes behind the entries are damaged checks, as they are
in any file that ends with their magic and has none that are intact; and so is a key of zeros, which
is the hash of nothing and what a lost sector looks like. Fewer bytes than the checks would take
mean nothing, as for the original, and so do any behind a count of 0; not zeros.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from holdfast.formats.bincode import Malformed, Reader
from holdfast.formats.checksum import crc32
from holdfast.formats.limits import ARTIFACTS_MAX, HASH_BYTES, REGISTRY_BYTES_MAX
from holdfast.formats.model_artifact import Outline, read_outline

MAGIC = b"ZSM\x01"
HEADER_BYTES = 12
CHECKS_MAGIC = b"HFZCHK\x00\x01"
_COUNT = struct.Struct("<Q")
_CHECK = struct.Struct("<QI")
_FOOTER = struct.Struct("<QQI8s")
_NO_KEY = bytes(HASH_BYTES)
_CHECKS_BYTES_MIN = len(CHECKS_MAGIC) + _FOOTER.size
assert _CHECK.size == 12
assert _FOOTER.size == 28


class Entry(NamedTuple):
    """One entry as it lies in a file: ``start`` is where its key begins."""

    key: bytes
    start: int
    end: int
    outline: Outline

    def artifact(self, view: memoryview) -> memoryview:
        """The artifact's bytes."""
        return view[self.start + HASH_BYTES : self.end]


class Flaw(NamedTuple):
    """What is damaged, from ``offset`` to ``end`` or to the end of the file."""

    offset: int
    reason: str
    end: int | None = None


@dataclass(slots=True)
class Content:
    """What a file holds, whole or not.

    ``entries`` are the intact ones in file order, also those of repeated keys.
    """

    entries: list[Entry]
    count: int
    """How many entries the file says it has."""
    checked: bool
    """Whether checksums vouch for the entries; without them they are merely well-formed."""
    flaws: list[Flaw] = field(default_factory=list)
    trailing_bytes: int = 0
    """Bytes behind the entries that mean nothing."""

    def by_key(self) -> dict[bytes, Entry]:
        """The entry that counts for each key, sorted by key."""
        return dict(sorted((entry.key, entry) for entry in self.entries))


def header_problem(head: bytes | bytearray | memoryview) -> str | None:
    """Why a file that begins so is no registry, if it is none."""
    start = bytes(head[: len(MAGIC)])
    if start == MAGIC:
        return None
    if len(start) < len(MAGIC):
        return f"{len(start)} bytes are too few for a registry"
    if start[:3] == MAGIC[:3]:
        return f"version {start[3]} is not supported, only version {MAGIC[3]}"
    return f"it begins with {start.hex()}, and a registry with {MAGIC.hex()}"


def encode(entries: Sequence[tuple[bytes, bytes, int]]) -> Iterator[bytes]:
    """A file's bytes from key, artifact and checksum of each entry, sorted by key."""
    header = MAGIC + _COUNT.pack(len(entries))
    yield header
    checks = [CHECKS_MAGIC]
    end = HEADER_BYTES
    for key, artifact, checksum in entries:
        yield key
        yield artifact
        end += HASH_BYTES + len(artifact)
        checks.append(_CHECK.pack(end, checksum))
    checks.append(_FOOTER.pack(len(entries), end, 0, CHECKS_MAGIC)[:16])
    data = b"".join(checks)
    yield data
    yield crc32(data, crc32(header)).to_bytes(4, "little") + CHECKS_MAGIC


def checksum_of(key: bytes, artifact: bytes) -> int:
    """The checksum of an entry."""
    return crc32(artifact, crc32(key))


def read(view: memoryview, tick: Callable[[], None]) -> Content:
    """All that can be read of a file whose header has no problem.

    Never raises: what is wrong is in ``flaws``. With intact checks every entry outside the damage
    is found; without, those before it.
    """
    checks = _find_checks(view)
    if checks is not None:
        return _read_checked(view, checks, tick)
    content = _read_plainly(view, tick)
    if not content.flaws:
        left = view[len(view) - content.trailing_bytes :]
        # Where bytes are missing, the last entry may have taken the rest of the checks for its own.
        ends_so = view[-len(CHECKS_MAGIC) :] == CHECKS_MAGIC
        if ends_so or _looks_like_checks(left, content.count):
            content.flaws.append(Flaw(len(view) - len(left), "the checksums are damaged"))
    return content


def _looks_like_checks(left: memoryview, count: int) -> bool:
    """Whether bytes behind so many entries are checks that something is wrong with."""
    head = bytes(left[: len(CHECKS_MAGIC)])
    if 0 < len(head) < len(CHECKS_MAGIC) and CHECKS_MAGIC.startswith(head):  # cut in the magic
        return True
    overwritten = count > 0 and len(left) >= _CHECKS_BYTES_MIN + _CHECK.size * count
    zeros = len(left) > 0 and not any(left[:_CHECKS_BYTES_MIN])
    return overwritten or zeros or head == CHECKS_MAGIC


def _read_plainly(view: memoryview, tick: Callable[[], None]) -> Content:
    """Entry after entry, as the original reads."""
    reader = Reader(view, len(MAGIC))
    content = Content([], 0, checked=False)
    try:
        content.count = reader.u64("the count of entries")
        for _ in range(content.count):
            entry = _read_entry(reader)
            if entry.key == _NO_KEY:
                raise Malformed(entry.start, "the key is all zeros")
            content.entries.append(entry)
            tick()
            _check_limits(len(content.entries), reader.offset)
    except Malformed as damage:
        content.flaws.append(Flaw(damage.offset, damage.reason))
    else:
        content.trailing_bytes = reader.left
    return content


def _check_limits(entries: int, offset: int) -> None:
    """Raise ``Malformed`` for what is more than anybody wants to have in memory."""
    if entries > ARTIFACTS_MAX:
        raise Malformed(offset, f"there are more entries than the limit of {ARTIFACTS_MAX}")
    if offset - HEADER_BYTES > REGISTRY_BYTES_MAX:
        raise Malformed(offset, f"the entries are over the limit of {REGISTRY_BYTES_MAX} bytes")


def _read_entry(reader: Reader) -> Entry:
    start = reader.offset
    key = reader.raw(HASH_BYTES, "a key")
    outline = read_outline(reader)
    return Entry(key, start, outline.end, outline)


class _Checks(NamedTuple):
    offset: int
    ends: list[int]
    checksums: list[int]
    header_intact: bool


def _find_checks(view: memoryview) -> _Checks | None:
    """The checks at the end of a file, if they are there and intact.

    Their checksum covers the header, too; when that alone is damaged, the checks still count.
    """
    if len(view) < HEADER_BYTES + _CHECKS_BYTES_MIN:
        return None
    count, offset, checksum, magic = _FOOTER.unpack_from(view, len(view) - _FOOTER.size)
    if magic != CHECKS_MAGIC or offset + _CHECKS_BYTES_MIN + _CHECK.size * count != len(view):
        return None
    if offset < HEADER_BYTES or view[offset : offset + len(CHECKS_MAGIC)] != CHECKS_MAGIC:
        return None
    header = MAGIC + _COUNT.pack(count)
    if crc32(view[offset : len(view) - 12], crc32(header)) != checksum:
        return None
    first = offset + len(CHECKS_MAGIC)
    table = list(_CHECK.iter_unpack(view[first : first + _CHECK.size * count]))
    ends, checksums = [row[0] for row in table], [row[1] for row in table]
    bounds = [HEADER_BYTES, *ends]
    if bounds[-1] != offset or any(a >= b for a, b in zip(bounds, ends, strict=False)):
        return None
    return _Checks(offset, ends, checksums, bytes(view[:HEADER_BYTES]) == header)


def _read_checked(view: memoryview, checks: _Checks, tick: Callable[[], None]) -> Content:
    """Entry after entry, each where the checks say it is."""
    content = Content([], len(checks.ends), checked=True)
    try:
        _check_limits(content.count, checks.offset)
    except Malformed as excess:
        content.flaws.append(Flaw(excess.offset, excess.reason))
        return content
    if not checks.header_intact:
        content.flaws.append(Flaw(len(MAGIC), "the count of entries is damaged", HEADER_BYTES))
    start = HEADER_BYTES
    for end, checksum in zip(checks.ends, checks.checksums, strict=True):
        tick()
        if crc32(view[start:end]) != checksum:
            reason = "the entry does not match its checksum"
            content.flaws.append(Flaw(start, reason, end))
        else:
            try:
                entry = _read_entry(reader := Reader(view, start, end))
                if reader.left:
                    raise Malformed(reader.offset, f"{reader.left} bytes are left in the entry")
                content.entries.append(entry)
            except Malformed as damage:
                content.flaws.append(Flaw(damage.offset, damage.reason, end))
        start = end
    return content
