"""Having an index take of a log what it takes, for whoever asked for a salvage.

Only a class of somebody's own does not take everything. What it refuses is left out, and so is
what has ended the process twice when it was given: before each record a note says which is tried
(``holdfast.formats.iqdb_trial``), and the next salvage of that log reads it. Requests are left out
as wholes. An opening that is no salvage leaves none of them out, for they may be acknowledged.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from holdfast.formats import iqdb_trial, iqdb_wal
from holdfast.formats.errors import InvalidArgument
from holdfast.formats.iqdb_trial import NOTE_BYTES, Tried
from holdfast.formats.iqdb_wal import Frames
from holdfast.formats.limits import TRIES_PER_REQUEST_MAX
from holdfast.workers.core_index import CoreIndex
from holdfast.workers.disk import Disk, File, remove_if_there
from holdfast.workers.foreign_index import HalfDone
from holdfast.workers.index_log import apply_frames, apply_log
from holdfast.workers.index_snapshot import Loaded

SUFFIX = ".trial"

Part = tuple[int, int]


@dataclass(slots=True)
class Taken:
    """What a salvage has made of a log."""

    loaded: Loaded
    records: int = 0
    left_out: list[Part] = field(default_factory=list)
    """Where the requests lie that the class did not take."""
    reason: str = ""
    """Why it did not take the last of them."""


class _Again(Exception):
    """The class has a part of a request that it refused: it has to be loaded anew."""


class Trial:
    """The notes beside one log."""

    def __init__(self, disk: Disk, wal: str, inode: int) -> None:
        self._disk = disk
        self._path = wal + SUFFIX
        self._of = (disk.boot_id(), inode)
        self._file: File | None = None
        self._notes: dict[int, int] = {}
        if disk.inode_at(self._path) is not None:
            self._file = disk.open(self._path, write=True)
            for note in iqdb_trial.decode(self._file.read_at(0, self._file.size())):
                if (note.boot_id, note.log_inode) == self._of:
                    self._notes[note.offset] = note.times
        self._places = {offset: place for place, offset in enumerate(self._notes)}
        if self._file is not None:  # without those of another log
            notes = [Tried(*self._of, offset, times) for offset, times in self._notes.items()]
            self._file.write_at(0, iqdb_trial.encode(notes))
            self._file.truncate(len(notes) * NOTE_BYTES)

    def is_deadly(self, start: int, stop: int) -> bool:
        """Whether a record in these bytes has ended processes, as often as anybody tries."""
        return any(
            start <= offset < stop and times >= TRIES_PER_REQUEST_MAX
            for offset, times in self._notes.items()
        )

    def trying(self, offset: int) -> None:
        """Note that the record at ``offset`` is tried, in the place of one that was taken."""
        self._write(offset, self._notes.get(offset, 0) + 1)

    def survived(self, offset: int) -> None:
        """Note that the record at ``offset``, suspected before, has ended no process this time."""
        if offset in self._places:
            self._write(offset, 0)

    def _write(self, offset: int, times: int) -> None:
        if self._file is None:
            self._file = self._disk.open(self._path, write=True, create=True)
        place = self._places.get(offset, len(self._places))
        note = iqdb_trial.encode([Tried(*self._of, offset, times)])
        self._file.write_at(place * NOTE_BYTES, note)

    def over(self) -> None:
        """Note that no record is tried any more."""
        if self._file is not None:
            self._file.truncate(len(self._places) * NOTE_BYTES)

    def close(self) -> None:
        """Let go of the notes, for a successor to read."""
        if self._file is not None:
            self._file.close()


def forget_trial(disk: Disk, wal: str) -> None:
    """Remove the notes: the salvage is done."""
    remove_if_there(disk, wal + SUFFIX)


def take(
    disk: Disk,
    wal: str,
    inode: int,
    view: memoryview,
    parts: list[Part],
    load: Callable[[], Loaded],
    tick: Callable[[], None],
) -> Taken:
    """The index that ``load`` gives, with what it takes of the log's ``parts``.

    Raises plain ``OSError``, and what ``load`` does.
    """
    loaded = load()
    if isinstance(loaded.index, CoreIndex):
        done = [apply_log(view, start, stop, loaded.index, tick) for start, stop in parts]
        return Taken(loaded, sum(done))
    trial = Trial(disk, wal, inode)
    try:
        refused: dict[Part, str] = {}
        while True:
            taken = Taken(loaded)
            try:
                for start, stop in parts:
                    for request in _requests(view[:stop], start, loaded.index.dimension):
                        tick()
                        _give(request, taken, trial, refused)
                trial.over()
                return taken
            except _Again:
                loaded = load()
    finally:
        trial.close()


def _requests(view: memoryview, start: int, dimension: int) -> Iterator[list[Frames]]:
    """The records from ``start`` on, by request; a request may be cut short by damage."""
    frames: list[Frames] = []
    while start < len(view):
        item = iqdb_wal.read_frame(view, start, dimension, check=False)
        assert isinstance(item, Frames)
        frames.append(item)
        start = item.stop
        if item.whole_to == item.stop:
            yield frames
            frames = []
    if frames:
        yield frames


def _give(request: list[Frames], taken: Taken, trial: Trial, refused: dict[Part, str]) -> None:
    """Have the index take a request, unless it is known not to."""
    part = request[0].start, request[-1].stop
    if trial.is_deadly(*part):
        refused[part] = f"it has ended the process {TRIES_PER_REQUEST_MAX} times"
    if part not in refused:
        for number, item in enumerate(request):
            trial.trying(item.start)
            try:
                apply_frames(item, taken.loaded.index)
            except (InvalidArgument, HalfDone) as error:
                refused[part] = str(error)
                trial.survived(item.start)
                if number or isinstance(error, HalfDone):
                    raise _Again from error
                break
            trial.survived(item.start)
        else:
            taken.records += len(request)
            return
    taken.left_out.append(part)
    taken.reason = refused[part]
