"""The ledger at work: noting requests before they are logged, and judging a crash by the notes.

See ``holdfast.formats.ledger`` for the file and for why it is never synced on the way.
"""

import contextlib
from collections.abc import Iterable

from holdfast.formats import ledger as format
from holdfast.formats.ledger import LedgerHeader, Slot
from holdfast.formats.limits import LEDGER_SLOTS
from holdfast.workers.disk import Disk, File, directory_of, remove_if_there
from holdfast.workers.log_file import Fatal

SUFFIX = ".ledger"


class Ledger:
    """The ledger of one log, open for writing. ``path`` is the log's."""

    def __init__(self, disk: Disk, path: str) -> None:
        self._disk = disk
        self._path = path + SUFFIX
        self._file: File | None = None
        self.found, self._slots = _read(disk, self._path)
        self._sequence = self._slots[-1].sequence + 1 if self._slots else 0
        self._ring: list[tuple[int, int] | None] = [None] * LEDGER_SLOTS
        self._answered: dict[tuple[int, int], tuple[int, int]] = {}
        self._held: set[tuple[int, int]] = set()
        self._header = LedgerHeader(disk.boot_id(), 0, 0)
        self._replacing: list[tuple[int, tuple[int, int], tuple[int, int]]] = []
        self._replaced: list[tuple[int, tuple[int, int], tuple[int, int]]] | None = None

    def unsynced_from(self, log: memoryview, inode: int, *, sync_failed: bool) -> int | None:
        """From where on damage is a torn tail, whatever lies behind it; None if nothing says so.

        Nothing was synced from there on and that was lost, by a power loss or a failing sync; or a
        request begins there that the end of the file cuts short, as a kill leaves it.
        """
        if self.found is None or self.found.inode != inode:
            return None
        if sync_failed or self.found.boot_id != self._header.boot_id:
            return self.found.synced
        for slot in self._slots:
            if self.found.synced <= slot.start < len(log) < slot.end and _begins_at(log, slot):
                return slot.start
        return None

    def cut(self, log: memoryview, inode: int, end: int) -> int:
        """Where the log's good part really ends: before a request it holds only partly.

        Not after a power loss: that may bring back a slot which was taken back, and such a one must
        not cut what others wrote at the same place.
        """
        if self.found is None or self.found.inode != inode:
            return end
        if self.found.boot_id != self._header.boot_id:
            return end
        for slot in self._slots:
            if self.found.synced <= slot.start < end < slot.end and _begins_at(log, slot):
                return slot.start
        return end

    def known_synced(self, inode: int, end: int) -> int:
        """How much of a log that was not synced on opening is synced all the same."""
        if self.found is None or self.found.inode != inode:
            return end  # closed, or put in place: neither is done before a sync
        lost = self.found.boot_id != self._header.boot_id
        return end if lost else min(end, self.found.synced)

    def synced_of(self, inode: int) -> int:
        """How much of the log with this inode was synced, for all that is known."""
        if self.found is None or self.found.inode != inode:
            return 0
        return self.found.synced

    def begin(self, log: memoryview, inode: int, end: int, synced: int) -> None:
        """Start a term of service: what is within ``end`` took effect, and ``synced`` is synced."""
        self._file = self._disk.open(self._path, write=True, create=True)
        if self._file.size() < format.LEDGER_BYTES:
            # All of it now: noting a request must not fail later for want of space.
            self._file.write_at(0, bytes(format.LEDGER_BYTES))
        same = self.found is not None and self.found.inode == inode
        if not same:  # this file is new, or the log is: a kill may have come before its name's sync
            self._disk.sync_directory(directory_of(self._path))
        for slot in self._slots:
            if not slot.end or (same and slot.end <= end and _begins_at(log, slot)):
                known = (slot.client, slot.request)
                self._remember(slot.sequence, known, (slot.counted, slot.counted_too))
            else:  # or records logged later at the same place would be taken for its own
                self._file.write_at(format.slot_offset(slot.sequence), bytes(format.SLOT_BYTES))
        # Some of these may be sent again much later; so many keep their slots for this whole term.
        inherited = [(slot.client, slot.request) for slot in self._slots]
        self._held.update(known for known in inherited[-LEDGER_SLOTS // 2 :])
        self._held &= self._answered.keys()
        self._slots = []
        # Also a header that says so already: its writer may have been killed before it was synced.
        self.bind(inode, synced)

    def bind(self, inode: int, synced: int) -> None:
        """Bind the offsets of slots written from now on to the log with this inode.

        This is synced: what a power loss leaves is judged by some header of this binding.
        """
        self._write_header(inode, synced)
        try:
            self._open_file.sync()
        except OSError:
            # What it was to save may be gone from the cache, too, and the successor judges by it.
            with contextlib.suppress(OSError):
                self.forget_offsets()
                self._write_header(inode, synced)
            raise

    def _write_header(self, inode: int, synced: int) -> None:
        self._header = LedgerHeader(self._header.boot_id, inode, synced)
        self._open_file.write_at(0, format.encode_header(self._header))

    def forget_offsets(self) -> None:
        """Rewrite every slot as "took effect", ahead of a log whose offsets are different."""
        empty = bytes(format.SLOT_BYTES)
        last = self._sequence - 1
        slots = b"".join(
            # Each keeps its place, so that a write cut short by a kill loses none.
            format.encode_slot(
                Slot(last - (last - place) % LEDGER_SLOTS, *known, 0, 0, 0, *self._answered[known])
            )
            if known
            else empty
            for place, known in enumerate(self._ring)
        )
        self._open_file.write_at(format.HEADER_BYTES, slots)

    @property
    def _open_file(self) -> File:
        assert self._file is not None, "begin() comes first"
        return self._file

    def took_effect(self, client: int, request: int) -> bool:
        """Whether this request is in the log already."""
        return (client, request) in self._answered

    def counted(self, client: int, request: int) -> tuple[int, int]:
        """The counts noted for the answer of a request that took effect."""
        return self._answered[client, request]

    def note(
        self,
        client: int,
        request: int,
        start: int = 0,
        end: int = 0,
        first_crc: int = 0,
        counted: tuple[int, int] = (0, 0),
    ) -> None:
        """Note, before it is logged, where a request's records are going to be.

        Without a place: that work which is not logged has begun. ``counted`` is what a repeated
        answer cannot be told without.
        """
        while self._ring[self._sequence % LEDGER_SLOTS] in self._held:
            self._sequence += 1  # its answer has not left yet: that slot stays
        slot = Slot(self._sequence, client, request, start, end, first_crc, *counted)
        self._open_file.write_at(format.slot_offset(self._sequence), format.encode_slot(slot))
        self._sequence += 1

    def hold(self, client: int, request: int) -> None:
        """Keep a request that was answered, but whose caller does not read, until ``release``."""
        if len(self._held) < LEDGER_SLOTS * 3 // 4:
            self._held.add((client, request))

    def release(self, client: int, request: int) -> None:
        """The caller has its answer, or is gone."""
        self._held.discard((client, request))

    def void(self) -> None:
        """Take back the last note: its records did not reach the log and were cut away."""
        self._sequence -= 1
        empty = bytes(format.SLOT_BYTES)
        try:
            self._open_file.write_at(format.slot_offset(self._sequence), empty)
        except OSError as error:
            raise Fatal(f"cannot take back a note in {self._path!r}: {error}") from error

    def logged(self, client: int, request: int, counted: tuple[int, int] = (0, 0)) -> None:
        """Remember that the request noted last is in the log."""
        self._remember(self._sequence - 1, (client, request), counted)

    def replacing(
        self,
        requests: Iterable[tuple[tuple[int, int], tuple[int, int]]],
        inode: int,
        end: int,
        crc: int,
        crc_at: int,
    ) -> None:
        """Note requests, each with its counts, that a whole new file is about to bring.

        Before the file gets its name. They took effect once the file in place is the one with this
        inode and length and with ``crc`` at ``crc_at``. What is not yet noted so when this fails is
        not remembered either.
        """
        if self._replaced is None:
            self.forget_offsets()
        else:  # the file in place has them, and so will the next
            for sequence, known, counted in self._replaced:
                if self._ring[sequence % LEDGER_SLOTS] == known:
                    self._write_slot(Slot(sequence, *known, 0, 0, 0, *counted))
        self._replaced = []
        self._replacing = []
        sequence = self._sequence
        for known, counted in requests:
            while self._ring[sequence % LEDGER_SLOTS] in self._held:
                sequence += 1
            self._write_slot(Slot(sequence, *known, crc_at, end, crc, *counted))
            self._replacing.append((sequence, known, counted))
            sequence += 1
        self._write_header(inode, end)

    def replaced(self) -> None:
        """The file is in place: remember the requests noted for it."""
        for sequence, known, counted in self._replacing:
            self._remember(sequence, known, counted)
            self._sequence = sequence + 1
        self._replaced, self._replacing = self._replacing, []

    def _write_slot(self, slot: Slot) -> None:
        self._open_file.write_at(format.slot_offset(slot.sequence), format.encode_slot(slot))

    def _remember(self, sequence: int, known: tuple[int, int], counted: tuple[int, int]) -> None:
        place = sequence % LEDGER_SLOTS
        old = self._ring[place]
        if old is not None:
            self._answered.pop(old, None)
        self._ring[place] = known
        self._answered[known] = counted

    def synced(self, end: int) -> None:
        """Note that the log is synced up to ``end``."""
        self._write_header(self._header.inode, end)

    def close(self) -> None:
        """Let go of the file and keep it, for a successor to judge by."""
        if self._file is not None:
            self._file.close()

    def discard(self) -> None:
        """Remove the file: everything was synced and every request answered."""
        self.close()
        remove_if_there(self._disk, self._path)


def _read(disk: Disk, path: str) -> tuple[LedgerHeader | None, list[Slot]]:
    """What a predecessor left, if anything legible; nothing is created."""
    if disk.inode_at(path) is None:
        return None, []
    file = disk.open(path)
    try:
        return format.decode(file.read_at(0, format.LEDGER_BYTES)) or (None, [])
    finally:
        file.close()


def _begins_at(log: memoryview, slot: Slot) -> bool:
    """Whether the log holds the slot's first record where the slot says."""
    return int.from_bytes(log[slot.start : slot.start + 4], "little") == slot.first_crc
